"""The generated engine as a compiled model: Verilog, Verilator, ctypes.

The model is built once for each configuration and kept in a cache that is keyed by the Verilog, the
harness and the tools. Memory, streams and register bus are models in C++
(``harness/engine.cpp``); Python gives whole sequences and reads results.
"""

from __future__ import annotations

import ctypes
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from stillnet.hw.verilog.text import engine_verilog
from stillnet.sim.compile.model import HARNESSES, build_library
from stillnet.sw.contract.config import EngineConfig
from stillnet.sw.contract.errors import StillnetError
from stillnet.sw.contract.registers import COUNTERS, Control, Error, Register, Status

from .errors import EngineFailed, EngineHang

__all__ = ["Behaviour", "EngineModel", "build_model"]

HARNESS = HARNESSES / "engine.cpp"


def build_model(config: EngineConfig, *, trace: bool = False, verilog: str | None = None) -> Path:
    """Builds the shared library of an engine, or finds it in the cache.

    Parameters
    ----------
    config : EngineConfig
    trace : bool
        With waveforms: slower, and a model of its own.
    verilog : str, optional
        Another text than the one generated for ``config``, with the same ports.

    Returns
    -------
    Path
        The shared library.
    """
    text = engine_verilog(config) if verilog is None else verilog
    prologue = "#define STILLNET_TRACE 1\n" if trace else ""
    return build_library(text, "engine", HARNESS, prologue=prologue, trace=trace)


@dataclass(frozen=True)
class Behaviour:
    """How the world around the engine behaves in a simulation.

    Attributes
    ----------
    latency : int
        Cycles from a read request to its first word.
    jitter : int
        Most cycles that are added to ``latency``, at random.
    word_cycles : float
        Cycles of the memory from a word to the next one.
    outstanding : int
        Requests that the memory accepts ahead.
    memory_stall, request_stall, input_stall, output_stall : int
        Chance of a pause in each cycle, in 1/1024: word not valid, request not accepted, input
        not offered, output not taken.
    seed : int
    """

    latency: int = 8
    jitter: int = 0
    outstanding: int = 16
    memory_stall: int = 0
    request_stall: int = 0
    input_stall: int = 0
    output_stall: int = 0
    seed: int = 1
    word_cycles: float = 1.0


class EngineModel:
    """An engine in simulation, seen as a host sees it: registers and streams.

    Parameters
    ----------
    config : EngineConfig
    trace : Path, optional
        Waveform file (VCD).
    verilog : str, optional
        Instead of the Verilog generated for ``config``.
    """

    def __init__(
        self,
        config: EngineConfig,
        *,
        trace: str | Path | None = None,
        verilog: str | None = None,
    ) -> None:
        self.config = config
        library = build_model(config, trace=trace is not None, verilog=verilog)
        self._library = lib = ctypes.CDLL(str(library))
        lib.stillnet_new.restype = ctypes.c_void_p
        lib.stillnet_read.restype = ctypes.c_uint32
        lib.stillnet_cycle.restype = ctypes.c_uint64
        lib.stillnet_run.restype = ctypes.c_int64
        lib.stillnet_memory_copy.restype = ctypes.c_uint64
        self._handle = ctypes.c_void_p(lib.stillnet_new(config.address_bits, config.word_bytes))
        if trace is not None and lib.stillnet_trace(self._handle, str(trace).encode()):
            raise RuntimeError("the model was built without waveforms")
        self.behave(Behaviour())

    def close(self) -> None:
        """Ends the simulation and its waveform file."""
        if self._handle:
            self._library.stillnet_delete(self._handle)
            self._handle = ctypes.c_void_p()

    def __enter__(self) -> EngineModel:
        return self

    def __exit__(self, *_: Any) -> None:
        self.close()

    def behave(self, behaviour: Behaviour) -> None:
        """Sets how memory and streams behave from now on."""
        b = behaviour
        self._library.stillnet_behaviour(
            self._handle,
            *map(
                ctypes.c_uint32,
                (
                    b.latency,
                    b.jitter,
                    b.outstanding,
                    b.memory_stall,
                    b.request_stall,
                    b.input_stall,
                    b.output_stall,
                    round(256 * b.word_cycles),
                ),
            ),
            ctypes.c_uint64(b.seed),
        )

    @property
    def cycle(self) -> int:
        """Clock cycles since the beginning."""
        return int(self._library.stillnet_cycle(self._handle))

    def ticks(self, count: int) -> None:
        """Lets the clock run."""
        self._library.stillnet_ticks(self._handle, ctypes.c_uint64(count))

    # -- registers --------------------------------------------------------------------------------

    def write(self, register: int, value: int) -> None:
        """Writes a register."""
        self._library.stillnet_write(
            self._handle, ctypes.c_uint32(register), ctypes.c_uint32(value & 0xFFFF_FFFF)
        )

    def read(self, register: int) -> int:
        """Reads a register, unsigned."""
        return int(self._library.stillnet_read(self._handle, ctypes.c_uint32(register)))

    def read_state(self, region: int, index: int, count: int) -> np.ndarray:
        """Elements of a state region, as int64."""
        self.write(Register.STATE_SELECT, (region << 28) | index)
        data = np.zeros(count, np.int32)
        self._library.stillnet_read_many(
            self._handle,
            ctypes.c_uint32(Register.STATE_DATA),
            data.ctypes.data_as(ctypes.c_void_p),
            ctypes.c_uint64(count),
        )
        return data.astype(np.int64)

    def write_state(self, region: int, index: int, values: np.ndarray) -> None:
        """Writes elements of a state region."""
        self.write(Register.STATE_SELECT, (region << 28) | index)
        data = np.ascontiguousarray(values, np.int32)
        self._library.stillnet_write_many(
            self._handle,
            ctypes.c_uint32(Register.STATE_DATA),
            data.ctypes.data_as(ctypes.c_void_p),
            ctypes.c_uint64(len(data)),
        )

    # -- image and streams ------------------------------------------------------------------------

    def place_image(self, data: bytes, address: int = 0) -> None:
        """Puts an image into the simulated memory, without the engine's help."""
        memory = bytes(address * self.config.word_bytes) + data
        memory += bytes(-len(memory) % self.config.word_bytes)
        self._library.stillnet_memory(self._handle, memory, ctypes.c_uint64(len(memory)))

    def load(
        self, data: bytes, address: int = 0, *, verify: bool = False, limit: int = 1_000_000
    ) -> None:
        """Writes an image to the memory and lets the engine load it.

        With ``verify`` the engine checks the CRC of the whole image, one cycle per byte.

        Raises
        ------
        StillnetError
            Where the engine refuses it, with the reason.
        """
        self.place_image(data, address)
        self.write(Register.IMAGE_BASE, address)
        self.write(Register.CONTROL, Control.LOAD | (Control.VERIFY if verify else 0))
        start = self.cycle
        while True:
            status = self.read(Register.STATUS)
            error = Error((status >> 8) & 0xFF)
            if error != Error.NONE and not status & Status.LOADED:
                raise StillnetError(
                    f"the engine refused the image: {error.name.lower()} does not match; pack the "
                    "network for this engine configuration"
                )
            if status & Status.LOADED and status & Status.IDLE:
                return
            if self.cycle - start > limit:
                raise EngineHang("the engine did not load the image in time")

    def wait_idle(self, limit: int = 300_000) -> None:
        """Lets the clock run until nothing is in progress."""
        start = self.cycle
        while not self.read(Register.STATUS) & Status.IDLE:
            if self.cycle - start > limit:
                raise EngineHang(f"the engine is still busy after {limit} cycles")

    def clear(self) -> None:
        """``Control.CLEAR``, and waits for its end."""
        self.write(Register.CONTROL, Control.CLEAR)
        self.wait_idle()

    def run(
        self, inputs: np.ndarray, steps: int, outputs: int, *, limit: int | None = None
    ) -> tuple[np.ndarray, np.ndarray]:
        """Streams vectors through the engine, back to back.

        Parameters
        ----------
        inputs : int array, any shape
            Elements in the order of the stream.
        steps : int
        outputs : int
            Elements of an output vector.
        limit : int
            Cycles after which the engine counts as hung; generous where not given.

        Returns
        -------
        int64 array, shape (steps, outputs), and the cycle of the last element of each step
        """
        limit = 1_000_000 * (1 + steps) if limit is None else limit
        data = np.ascontiguousarray(np.asarray(inputs).reshape(-1), np.int16)
        result = np.zeros((steps, outputs), np.int16)
        cycles = np.zeros(steps, np.uint64)
        missing = self._library.stillnet_run(
            self._handle,
            data.ctypes.data_as(ctypes.c_void_p),
            ctypes.c_uint64(len(data)),
            result.ctypes.data_as(ctypes.c_void_p),
            ctypes.c_uint64(result.size),
            ctypes.c_uint64(outputs),
            cycles.ctypes.data_as(ctypes.c_void_p),
            ctypes.c_uint64(limit),
        )
        if missing < 0:
            raise EngineFailed("the engine marked the wrong output element as the last one")
        if missing:
            raise EngineHang(f"the engine hangs: {missing} elements missing after {limit} cycles")
        if self._library.stillnet_out_of_range(self._handle):
            raise EngineFailed("the engine read beyond the end of the image")
        return result.astype(np.int64), cycles.astype(np.int64)

    def counters(self) -> dict[str, int]:
        """All plain counters by name, in lower case."""
        return {r.name.lower(): self.read(r) for r in COUNTERS}

    def events(self, source: int) -> int:
        """Events of a source: 0 input, 1 + l layer l, plus 32 for the second encoder."""
        self.write(Register.EVENTS_SELECT, source)
        return self.read(Register.EVENTS)

    def late(self, source: int) -> int:
        """Events of a source that its budget refused, in engines with budgets."""
        self.write(Register.EVENTS_SELECT, source)
        return self.read(Register.LATE)

    def set_budget(self, source: int, budget: int) -> None:
        """Sets the budget of a vector, 0 for none; ``source`` as for :meth:`events`."""
        self.write(Register.THRESHOLD_SELECT, source)
        self.write(Register.BUDGET, budget)

    def clear_counters(self) -> None:
        """Sets all counters to zero."""
        self.write(Register.CONTROL, Control.CLEAR_COUNTERS)

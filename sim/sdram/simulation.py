"""The SDRAM controller in a compiled simulation, against a model of the part: Verilator, ctypes.

``harness/sdram_model.h`` is the part, ``harness/sdram.cpp`` the engine and the clock. Python gives
whole runs of reads and writes and gets words, cycles and violations back.
"""

from __future__ import annotations

import ctypes
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from stillnet.hw.memory.sdram.controller import SdramController
from stillnet.hw.memory.sdram.counts import SETTLED_CYCLES
from stillnet.hw.verilog.text import to_verilog
from stillnet.sim.compile.model import HARNESSES, build_library
from stillnet.sw.contract.registers import SDRAM_COUNTERS, SdramCounter

__all__ = ["Run", "SdramSimulation", "Traffic", "build_simulation"]

_HARNESS = HARNESSES / "sdram.cpp"
_MODEL = HARNESSES / "sdram_model.h"
_TRAS_MAX_US = 100
_VALUES = {
    "violations": 0,
    "cycle": 1,
    "initialised": 2,
    "longest_refresh_gap": 3,
    "most_late": 4,
    "error": 5,
    "started": 6,
    "cycles": 7,
    "transfers": 8,
    "refreshes": 9,
    "row_stalls": 10,
    "port_stalls": 11,
    "cas_latency": 12,
    "open_cycles": 13,
    "closed_cycles": 14,
    "asleep_cycles": 15,
    "read_cycles": 24,
    "sleeps": 25,
    "cke": 26,
    "writes_seen": 16 + 3,
    "reads_seen": 16 + 2,
    "activates_seen": 16 + 4,
    "precharges_seen": 16 + 5,
    "refreshes_seen": 16 + 6,
}


def build_simulation(controller: SdramController, *, optimise: str = "-O1") -> Path:
    """The shared library of a controller with the harness."""
    text = to_verilog(controller, "sdram")
    prologue = "#define STILLNET_COUNTS 1\n" if controller.counted else ""
    return build_library(
        text, "sdram", _HARNESS, headers=(_MODEL,), optimise=optimise, prologue=prologue
    )


@dataclass(frozen=True)
class Traffic:
    """How the engine behaves at the memory port.

    Attributes
    ----------
    request_stall, data_stall : int
        Chance in each cycle, in 1/1024, that no request is offered, that no word is taken.
    longest_pause : int
        Longest pause in cycles in which no word is taken; pauses come at random.
    seed : int
    tail : int
        Cycles that a run goes on when all is done.
    """

    request_stall: int = 0
    data_stall: int = 0
    longest_pause: int = 0
    seed: int = 1
    tail: int = 40


@dataclass(frozen=True)
class Run:
    """What came of a run.

    Attributes
    ----------
    words : uint8 array, shape (words, bytes of a word)
    accepted : int64 array, shape (reads,)
        Cycle in which each read was accepted.
    first : int64 array, shape (reads,)
        Cycle in which its first word was taken; 0 for reads of no words.
    """

    words: np.ndarray
    accepted: np.ndarray
    first: np.ndarray


class SdramSimulation:
    """A controller and its part.

    Parameters
    ----------
    controller : SdramController
    timings : SdramTimings, optional
        What the part requires; the datasheet's at the controller's clock where not given, but with
        the controller's pause after power-up, which simulations shorten.
    optimise : str
        Option for the C++ compiler: "-O1" builds faster and runs slower.
    """

    def __init__(
        self, controller: SdramController, *, timings: Any = None, optimise: str = "-O2"
    ) -> None:
        self.controller = controller
        part, clock = controller.part, controller.clock_hz
        t = timings or part.timings(clock, cas_latency=controller.timings.cas_latency)
        self._library = lib = ctypes.CDLL(str(build_simulation(controller, optimise=optimise)))
        lib.sdram_new.restype = ctypes.c_void_p
        lib.sdram_run.restype = ctypes.c_uint64
        lib.sdram_value.restype = ctypes.c_int64
        lib.sdram_failure.restype = ctypes.c_char_p
        lib.sdram_violation.restype = ctypes.c_char_p
        latencies = [latency for latency, highest in part.cas if clock <= highest]
        values = [
            *(part.row_bits, part.column_bits, part.bank_bits, part.data_bits),
            *(t.trcd, t.trp, t.tras, _TRAS_MAX_US * clock // 10**6, t.trc, t.trfc, t.trrd),
            *(t.twr, t.tmrd, 8, part.window(clock), part.refreshes),
            *((timings or controller.timings).startup, 8, max(latencies), min(latencies)),
            *(t.txp, t.tcke),
            *(controller.address_bits, controller.length_bits, controller.word_bits),
            controller.input_delay,
        ]
        self._handle = ctypes.c_void_p(lib.sdram_new((ctypes.c_int64 * len(values))(*values)))

    def close(self) -> None:
        """Ends the simulation."""
        if self._handle:
            self._library.sdram_delete(self._handle)
            self._handle = ctypes.c_void_p()

    def __enter__(self) -> SdramSimulation:
        return self

    def __exit__(self, *_: Any) -> None:
        self.close()

    def observe(self, function: Any, instance: Any) -> None:
        """Calls a C function at each edge: ``void (*)(void *, const uint32_t pins[6])``."""
        self._library.sdram_observe(self._handle, function, instance)

    def ticks(self, count: int) -> None:
        """Lets the clock run, with nothing asked for."""
        self._library.sdram_ticks(self._handle, ctypes.c_uint64(count))

    def reset(self, cycles: int) -> None:
        """Resets the controller, and not the part; requests on offer are withdrawn."""
        self._library.sdram_reset(self._handle, ctypes.c_uint64(cycles))

    def start(self) -> None:
        """Lets the clock run until power-up is over."""
        self.ticks(self.controller.timings.startup)
        while not self.started:
            self.ticks(10)

    def __getattr__(self, name: str) -> int:
        if name not in _VALUES:
            raise AttributeError(name)
        return int(self._library.sdram_value(self._handle, _VALUES[name]))

    def hold_counts(self, hold: bool, *, clear: bool = False) -> None:
        """Lets the counters of commands and states stand still or go on; sets them to zero."""
        self._library.sdram_counts(self._handle, int(hold), int(clear))

    def counts(self) -> dict[SdramCounter, int]:
        """Those counters, while they stand still."""
        self._library.sdram_count.restype = ctypes.c_int64
        return {
            counter: int(self._library.sdram_count(self._handle, int(counter), SETTLED_CYCLES))
            for counter in SDRAM_COUNTERS
        }

    @property
    def first_violation(self) -> str:
        """What the part was first told wrongly; empty if nothing was."""
        return self._library.sdram_violation(self._handle).decode()

    def clear_counters(self) -> None:
        """Sets the hardware's counters to zero."""
        self._library.sdram_clear_counters(self._handle)

    def counters(self) -> dict[str, int]:
        """The hardware's counters by name."""
        names = ("cycles", "transfers", "refreshes", "row_stalls", "port_stalls")
        return {name: getattr(self, name) for name in names}

    def load(self, address: int, items: np.ndarray) -> None:
        """Puts items of the data bus into the part, behind the controller's back."""
        data = np.ascontiguousarray(items, np.uint32)
        self._library.sdram_load(
            self._handle, ctypes.c_uint64(address), _pointer(data), ctypes.c_uint64(len(data))
        )

    def peek(self, address: int, count: int) -> np.ndarray:
        """Items of the data bus as they are in the part, uint32."""
        data = np.zeros(count, np.uint32)
        self._library.sdram_peek(
            self._handle, ctypes.c_uint64(address), _pointer(data), ctypes.c_uint64(count)
        )
        return data

    def run(
        self,
        reads: Any = (),
        writes: Any = (),
        data: np.ndarray | None = None,
        *,
        traffic: Traffic | None = None,
        limit: int | None = None,
    ) -> Run:
        """Reads and writes at the same time; comes back when all is done and ``write_idle`` high.

        Parameters
        ----------
        reads : sequence of (address, length)
        writes : sequence of int
            Addresses.
        data : uint8 array, shape (writes, bytes of a word)
        traffic : Traffic
        limit : int
            Cycles after which the controller counts as hung; generous where not given.

        Raises
        ------
        AssertionError
            If words are missing, or the port breaks its rules.
        """
        traffic = traffic or Traffic()
        wanted = np.asarray(reads, np.int64).reshape(-1, 2)
        read_address = np.ascontiguousarray(wanted[:, 0], np.uint64)
        read_length = np.ascontiguousarray(wanted[:, 1], np.uint32)
        write_address = np.ascontiguousarray(np.asarray(writes, np.int64), np.uint64)
        word_bytes = self.controller.word_bits // 8
        total = int(read_length.sum())
        out = np.zeros((total, word_bytes), np.uint8)
        first = np.zeros(len(wanted), np.uint64)
        accepted = np.zeros(len(wanted), np.uint64)
        given = np.zeros((0, word_bytes), np.uint8) if data is None else data
        given = np.ascontiguousarray(given, np.uint8).reshape(-1, word_bytes)
        if len(given) != len(write_address):
            raise ValueError("one word of data is needed for each write")
        columns = self.controller.word_bits // self.controller.part.data_bits
        if limit is None:
            limit = 400_000 + (total + len(given)) * columns * 100 + 200 * len(wanted)
            limit += traffic.longest_pause * (total + 100)
        missing = self._library.sdram_run(
            self._handle,
            *(_pointer(read_address), _pointer(read_length), ctypes.c_uint64(len(wanted))),
            *(_pointer(out), ctypes.c_uint64(total), _pointer(first), _pointer(accepted)),
            *(_pointer(write_address), _pointer(given), ctypes.c_uint64(len(given))),
            ctypes.c_uint32(traffic.request_stall),
            ctypes.c_uint32(traffic.data_stall),
            ctypes.c_uint32(traffic.longest_pause),
            *(ctypes.c_uint64(v) for v in (traffic.seed, traffic.tail, limit)),
        )
        failure = self._library.sdram_failure(self._handle).decode()
        if failure:
            raise AssertionError(f"the port breaks its rules: {failure}")
        if missing:
            raise AssertionError(f"{missing} words, reads or writes missing after {limit} cycles")
        return Run(out, accepted.astype(np.int64), first.astype(np.int64))


def _pointer(array: np.ndarray) -> ctypes.c_void_p:
    return array.ctypes.data_as(ctypes.c_void_p)

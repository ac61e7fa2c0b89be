"""An engine, its memory and its host link as a compiled model that a host driver talks to.

The model gives two byte streams, directly or through the UARTs of both ends. :class:`LinkModel` is
a transport of ``stillnet.sw.host.driver``, so that the real driver works with the generated
hardware in one process; its clock is that of the simulation.
"""

from __future__ import annotations

import ctypes
import functools
from pathlib import Path
from typing import Any

from amaranth.hdl import Module, ResetInserter
from amaranth.lib import stream, wiring
from amaranth.lib.wiring import In, Out, connect

from stillnet.hw.engine import Engine
from stillnet.hw.host.link.link import HostLink
from stillnet.hw.host.link.uart import Uart
from stillnet.hw.host.slots import Slots
from stillnet.hw.memory.ram import RamPort
from stillnet.hw.verilog.text import to_verilog
from stillnet.sim.compile.model import HARNESSES, build_library
from stillnet.sw.contract.config import EngineConfig

__all__ = ["LinkBench", "LinkModel", "build_link_model"]

HARNESS = HARNESSES / "link.cpp"


class LinkBench(wiring.Component):
    """Engine, block RAM and host link.

    Parameters
    ----------
    config : EngineConfig
    ram_words : int
    clock_hz, baud : int
    slots : bool
        With :class:`Slots` between link and engine, as boards have it.
    options
        For :class:`HostLink`.

    Members
    -------
    serial : In(1)
        Bytes go through a UART at each end; else straight into the link.
    rx, tx : streams of bytes, as the host has them
    """

    def __init__(
        self,
        config: EngineConfig,
        *,
        ram_words: int,
        clock_hz: int,
        baud: int,
        slots: bool = False,
        **options: Any,
    ) -> None:
        self.config = config
        self.ram_words = ram_words
        self.clock_hz, self.baud = clock_hz, baud
        self.slots, self.options = slots, options
        super().__init__(
            {
                "serial": In(1),
                "rx": In(stream.Signature(8)),
                "tx": Out(stream.Signature(8)),
            }
        )

    def elaborate(self, platform: Any) -> Module:
        m = Module()
        config = self.config
        clock, options = self.clock_hz, self.options
        link = HostLink(config, clock_hz=clock, board="bench", slots=self.slots, **options)
        m.submodules.link = link
        engine = Engine(config, beside=self.slots)
        ram = RamPort(config.address_bits, config.word_bits, self.ram_words)
        restart: Any = link.engine_reset
        if self.slots:
            m.submodules.slots = slots = Slots(config)
            restart = link.engine_reset | slots.reset
            slots.between(m, link, engine, restart)
            connect(m, slots.registers, engine.registers)
        else:
            connect(m, link.registers, engine.registers)
        m.submodules.engine = ResetInserter(restart)(engine)
        m.submodules.ram = ResetInserter(restart)(ram)
        connect(m, engine.memory, ram.port)
        connect(m, link.inputs, engine.inputs)
        connect(m, engine.outputs, link.outputs)

        m.submodules.board = board = Uart(self.clock_hz, self.baud)
        m.submodules.host = host = Uart(self.clock_hz, self.baud)
        m.d.comb += [board.rx.eq(host.tx), host.rx.eq(board.tx)]
        with m.If(self.serial):
            m.d.comb += [
                host.sent.payload.eq(self.rx.payload),
                host.sent.valid.eq(self.rx.valid),
                self.rx.ready.eq(host.sent.ready),
                link.rx.payload.eq(board.received.payload),
                link.rx.valid.eq(board.received.valid),
                board.received.ready.eq(link.rx.ready),
                link.rx_error.eq(board.error),
                board.sent.payload.eq(link.tx.payload),
                board.sent.valid.eq(link.tx.valid),
                link.tx.ready.eq(board.sent.ready),
                self.tx.payload.eq(host.received.payload),
                self.tx.valid.eq(host.received.valid),
                host.received.ready.eq(self.tx.ready),
            ]
        with m.Else():
            m.d.comb += [
                link.rx.payload.eq(self.rx.payload),
                link.rx.valid.eq(self.rx.valid),
                self.rx.ready.eq(link.rx.ready),
                self.tx.payload.eq(link.tx.payload),
                self.tx.valid.eq(link.tx.valid),
                link.tx.ready.eq(self.tx.ready),
            ]
        return m


@functools.cache
def build_link_model(bench: LinkBench) -> Path:
    """Builds the shared library of a bench, or finds it in the cache."""
    text = to_verilog(bench, "link_bench")
    for name in ("rx", "tx"):  # Verilator has a spelling of its own for double underscores
        for member in ("payload", "valid", "ready"):
            text = text.replace(f"\\{name}__{member} ", f"{name}_{member} ")
            text = text.replace(f"{name}__{member}", f"{name}_{member}")
    return build_library(text, "link_bench", HARNESS)


class LinkModel:
    """A board in simulation, as a transport: bytes in, bytes out, and its own time.

    Parameters
    ----------
    bench : LinkBench
    serial : bool
        Through UARTs.
    """

    name = "the simulated board"

    def __init__(self, bench: LinkBench, *, serial: bool = False) -> None:
        self.bench = bench
        self._library = lib = ctypes.CDLL(str(build_link_model(bench)))
        lib.link_new.restype = ctypes.c_void_p
        for function in (lib.link_cycle, lib.link_pull, lib.link_waiting):
            function.restype = ctypes.c_uint64
        self._handle = ctypes.c_void_p(lib.link_new(int(serial)))
        self._buffer = ctypes.create_string_buffer(1 << 16)

    @property
    def cycle(self) -> int:
        """Clock cycles since the beginning."""
        return int(self._library.link_cycle(self._handle))

    def pace(self, to_board: int, from_board: int) -> None:
        """Cycles that pass between two bytes, at least."""
        self._library.link_pace(
            self._handle, ctypes.c_uint32(to_board), ctypes.c_uint32(from_board)
        )

    def run(self, cycles: int, *, until_frame: bool = False) -> None:
        """Lets the clock run."""
        self._library.link_run(self._handle, ctypes.c_uint64(cycles), int(until_frame))

    @property
    def waiting(self) -> int:
        """Bytes that the board has not taken yet."""
        return int(self._library.link_waiting(self._handle))

    # -- as a transport ---------------------------------------------------------------------------

    def now(self) -> float:
        """Simulated seconds."""
        return self.cycle / self.bench.clock_hz

    def write(self, data: bytes) -> None:
        """Bytes to the board."""
        self._library.link_push(self._handle, data, ctypes.c_uint64(len(data)))

    def read(self, timeout: float) -> bytes:
        """Bytes from the board, as soon as a frame is complete or the time is over."""
        self.run(int(timeout * self.bench.clock_hz) + 1, until_frame=True)
        count = self._library.link_pull(
            self._handle, self._buffer, ctypes.c_uint64(len(self._buffer))
        )
        return self._buffer.raw[:count]

    def close(self) -> None:
        """Nothing: a board outlives its connections. See :meth:`end`."""

    def end(self) -> None:
        """Ends the simulation."""
        if self._handle:
            self._library.link_delete(self._handle)
            self._handle = ctypes.c_void_p()

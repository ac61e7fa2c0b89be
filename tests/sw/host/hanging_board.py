"""A board whose memory falls silent when it is told to: its engine hangs in a step."""

from __future__ import annotations

import functools
from typing import Any
from unittest import mock

from amaranth.hdl import Module, Signal
from amaranth.lib import wiring
from amaranth.lib.wiring import In

from stillnet.hw.memory.port import MemoryPortSignature
from stillnet.hw.memory.ram import RamPort
from stillnet.sim.board.link import LinkBench, LinkModel
from stillnet.sw.contract import link
from stillnet.sw.contract.link import Command
from stillnet.sw.host.driver import Engine
from tests.support.link_bench import BAUD, CLOCK, CONFIGS

__all__ = ["TRAP", "hanging_board", "silence"]

TRAP = 8
"""The last words of the memory: a write there silences it."""


class SilentRam(wiring.Component):
    """A RAM that takes no more reads after a write to its last words, until it is reset."""

    def __init__(self, address_bits: int, word_bits: int, depth: int) -> None:
        self._inner = RamPort(address_bits, word_bits, depth)
        self._trap = depth - TRAP
        super().__init__({"port": In(MemoryPortSignature(address_bits, word_bits))})

    def elaborate(self, platform: Any) -> Module:
        m = Module()
        m.submodules.inner = inner = self._inner
        silent = Signal()
        outer, port = self.port, inner.port
        m.d.comb += [
            port.read.payload.eq(outer.read.payload),
            port.read.valid.eq(outer.read.valid & ~silent),
            outer.read.ready.eq(port.read.ready & ~silent),
            outer.data.payload.eq(port.data.payload),
            outer.data.valid.eq(port.data.valid),
            port.data.ready.eq(outer.data.ready),
            port.write.payload.eq(outer.write.payload),
            port.write.valid.eq(outer.write.valid),
            outer.write.ready.eq(port.write.ready),
            outer.write_idle.eq(port.write_idle),
            outer.error.eq(port.error),
        ]
        with m.If(outer.write.valid & outer.write.ready & (outer.write.p.address >= self._trap)):
            m.d.sync += silent.eq(1)
        return m


@functools.cache
def _bench() -> LinkBench:
    config = CONFIGS["slots"]
    words = 1 << config.address_bits
    return LinkBench(config, ram_words=words, clock_hz=CLOCK, baud=BAUD, slots=True)


def hanging_board() -> LinkModel:
    """A board with slots whose memory can be silenced."""
    with mock.patch("stillnet.sim.board.link.RamPort", SilentRam):
        return LinkModel(_bench())


def silence(engine: Engine) -> None:
    """The memory answers no more, from the next step on; also between two steps of a stream."""
    config = engine.config
    at = (1 << config.address_bits) - TRAP
    payload = link.load_block(at, bytes(TRAP * config.word_bytes), config.word_bytes)
    if engine._streaming:
        engine.session.send(Command.ACCESS, payload)
        engine._order.append(engine._order[-1]._replace(step=None, kind=Command.ACCESS))
    else:
        engine.session.call(Command.ACCESS, payload)

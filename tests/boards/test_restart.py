"""A restart reaches all parts of a design, in one cycle, and each from a register of its own."""

from __future__ import annotations

from typing import Any

import pytest
from amaranth.hdl import Module, Signal
from amaranth.lib import wiring
from amaranth.lib.memory import Memory
from amaranth.lib.wiring import In
from amaranth.sim import Simulator

from stillnet.boards.top import restart as place
from stillnet.boards.top.restart import restarted


class _Part(wiring.Component):
    """A counter, a memory, and parts of the same kind."""

    def __init__(self, depth: int) -> None:
        self.count = Signal(8, init=depth)
        self.parts = [_Part(depth - 1) for _ in range(2)] if depth else []
        super().__init__({"unused": In(1)})

    def elaborate(self, platform: Any) -> Module:
        m = Module()
        m.submodules.memory = memory = Memory(shape=8, depth=4, init=[])
        port = memory.write_port()
        m.d.comb += [port.en.eq(1), port.data.eq(self.count)]
        m.d.sync += self.count.eq(self.count + 1)
        for k, part in enumerate(self.parts):
            m.submodules[f"part{k}"] = part
        return m

    def all(self) -> list[_Part]:
        """Itself and all below."""
        return [self, *(p for part in self.parts for p in part.all())]


def design(restart: Signal) -> tuple[Module, _Part]:
    m, whole = Module(), _Part(5)
    m.submodules.whole = restarted(m, whole, restart, None)
    return m, whole


@pytest.mark.parametrize("cycles", [1, 3])
def test_all_parts_begin_anew_in_one_cycle(cycles: int) -> None:
    restart = Signal()
    m, whole = design(restart)
    simulator = Simulator(m)
    simulator.add_clock(1e-8)
    seen: list[list[int]] = []

    async def bench(ctx: Any) -> None:
        for k in range(20):
            ctx.set(restart, 5 <= k < 5 + cycles)
            await ctx.tick()
            seen.append([ctx.get(part.count) - part.count.init for part in whole.all()])

    simulator.add_testbench(bench)
    simulator.run()
    assert all(len(set(counts)) == 1 for counts in seen)
    counts = [c[0] for c in seen]
    first = counts.index(0)  # registers on the way
    assert first == 5 + 3
    assert counts == [*range(1, first + 1), *[0] * cycles, *range(1, 20 - first - cycles + 1)]


def test_every_part_has_a_register(monkeypatch: pytest.MonkeyPatch) -> None:
    used: list[Any] = []
    inserter = place.ResetInserter
    monkeypatch.setattr(place, "ResetInserter", lambda r: (used.append(r), inserter(r))[1])
    design(Signal())
    # Down to the third level there are 1 + 2 + 4 parts with a memory each, below that eight wholes.
    assert len(used) == 7 + 7 + 8
    assert len({id(r) for r in used}) == len(used)

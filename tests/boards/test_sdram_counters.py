"""The counters of a board's SDRAM through the link, against the model of the part; power-down."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from stillnet.boards.catalogue import BOARDS, board
from stillnet.hw.memory.sdram.controller import POWER_DOWN_CYCLES
from stillnet.sim.board.virtual import VirtualBoard
from stillnet.sw.contract.errors import StillnetError
from stillnet.sw.contract.registers import SDRAM_COUNTERS, SdramCounter
from stillnet.sw.host.driver import Engine
from stillnet.sw.host.sdram_counters import sdram_use
from tests.support.boards import equals_reference

IDLE = 3000
"""Cycles without a request: there were refreshes, and the part sleeps again."""


@pytest.mark.parametrize("name", BOARDS)
def test_power_down_where_clock_enable_is_a_pin(name: str) -> None:
    """The board's table says what its file of pins says, and a tied pin turns power-down off."""
    target = board(name)
    if target.sdram is None:
        assert target.power_down is None
        return
    pins = {sub.name for sub in target.make_platform().lookup("sdram").ios}
    assert target.clock_enable == ("clk_en" in pins)
    assert target.power_down == (POWER_DOWN_CYCLES if target.clock_enable else None)
    assert target.system_options()["power_down"] == target.power_down


def test_another_sdram() -> None:
    """All of a larger part is there to use; one that has no pins, or is too slow, is refused."""
    usual = board("ulx3s-85f")
    large = usual.with_sdram("AS4C32M16")
    assert large.config().address_bits == usual.config().address_bits + 1
    assert usual.with_sdram("W9825G6KH").config() == usual.config()
    for name, message in {
        "EM638325": "has 32 bits and 4 banks, board 'ulx3s-85f' has pins for 16",
        "DDR3": "SDRAM part 'DDR3' is unknown",
    }.items():
        with pytest.raises(StillnetError, match=message):
            usual.with_sdram(name)
    with pytest.raises(StillnetError, match="has no SDRAM; leave --sdram out"):
        board("icebreaker").with_sdram("W9825G6KH")
    with pytest.raises(StillnetError, match="pins for 32 and 2"):
        board("colorlight-5a-75b").with_sdram("EM638325")


@pytest.fixture(
    scope="module",
    params=["ulx3s-25f", pytest.param("ulx3s-85f tiers", marks=pytest.mark.slow)],
)
def model(request: pytest.FixtureRequest) -> Iterator[VirtualBoard]:
    name, *tiers = request.param.split()
    target = board(name).tiered() if tiers else board(name)
    made = VirtualBoard(target)
    yield made
    made.close()


def test_the_counters_are_those_of_the_part(model: VirtualBoard) -> None:
    engine = Engine(model)
    equals_reference(engine, 7)
    model.run(IDLE)
    engine.reset_counters()
    model.run(IDLE)
    first, before = sdram_use(engine.session), model.sdram_counts
    equals_reference(engine, 7)
    model.run(IDLE)
    last, after = sdram_use(engine.session), model.sdram_counts
    assert first is not None and last is not None
    assert last.part == model.target.part
    assert last.clock_hz == (model.target.memory_hz or model.target.clock_hz) // 1000 * 1000
    assert list(last.counts) == [c.name.lower() for c in SDRAM_COUNTERS]
    counted = {c: last.counts[c.name.lower()] - first.counts[c.name.lower()] for c in after}
    for counter in after:
        missed = after[counter] - before[counter] - counted[counter]
        # The cycles in which the host reads, with the counters held, are sleep and refreshes.
        if counter in (SdramCounter.POWER_DOWN, SdramCounter.CLOSED):
            assert -IDLE < missed < IDLE, counter
        elif counter in (SdramCounter.REFRESHES, SdramCounter.WAKES):
            assert -4 <= missed <= 4, counter
        else:
            assert missed == 0, counter
    assert counted[SdramCounter.READS] and counted[SdramCounter.WRITES]
    assert last.counts["wakes"] > 5


def test_clearing_the_counters_clears_these(model: VirtualBoard) -> None:
    engine = Engine(model)
    equals_reference(engine, 7)
    use = sdram_use(engine.session)
    assert use is not None and use.counts["reads"]
    engine.reset_counters()
    model.run(IDLE)
    use = sdram_use(engine.session)
    assert use is not None
    assert use.counts["reads"] == use.counts["activates"] == use.counts["open"] == 0
    assert use.counts["power_down"] > 0.8 * IDLE


def test_a_board_without_counters_says_so() -> None:
    model = VirtualBoard(board("icebreaker"))
    assert sdram_use(Engine(model).session) is None
    model.close()

"""The test of a board: on boards that are wrong in one way each, and on a right virtual one."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from stillnet.boards.catalogue import board
from stillnet.sim.board.virtual import VirtualBoard
from stillnet.sw.cli.main import main
from stillnet.sw.cli.service import selftest as module
from stillnet.sw.cli.service.selftest import selftest, verdict
from stillnet.sw.contract.errors import StillnetError
from stillnet.sw.host.driver import Engine
from stillnet.sw.network.reference import Reference
from stillnet.sw.util.results.runs import SdramUse

CONFIG = board("ulx3s-12f").config()


class Puppet:
    """A board with a memory of ours, an exact engine, and faults.

    ``place`` maps an address to where it really is; ``bad`` bytes read as something else.
    """

    def __init__(self, *, size: int | None = None, bad: Any = (), wrong: int = 0) -> None:
        self.config = CONFIG
        self.identity = SimpleNamespace(board="puppet", clock_hz=100_000_000)
        self.errors = {"repeated": 0, "resumed": 0, "damaged": 0}
        self.session = SimpleNamespace(errors=self.errors)
        self.seconds, self.rate = 0.0, 290_000.0
        self.transport = SimpleNamespace(now=lambda: self.seconds, baud=3_000_000)
        self.size = size or (1 << CONFIG.address_bits) * CONFIG.word_bytes
        self.memory = bytearray(self.size)
        self.bad, self.wrong = set(bad), wrong

    def load(self, image: Any, *, base: int = 0, progress: Any = None) -> None:
        at = base * CONFIG.word_bytes % self.size
        data = image.hardware
        self.memory[at : at + len(data)] = data
        for place in self.bad & set(range(at, at + len(data))):
            self.memory[place] ^= 0x10
        self.seconds += len(data) / self.rate
        self.start(image, base=base)

    def start(self, image: Any, *, base: int = 0) -> None:
        at = base * CONFIG.word_bytes % self.size
        # As a board, which only checks that what it finds there is whole.
        held = bytes(self.memory[at:])
        known = [image, *module._images(CONFIG).values()]
        if not any(held.startswith(each.hardware) for each in known):
            raise StillnetError("the board refused the image: its CRC is wrong")
        self.reference: Reference | None = None

    def step_integers(self, row: np.ndarray) -> np.ndarray:
        if self.reference is None:
            network, _ = module._network(CONFIG, module.LARGE_UNITS, module.LARGE_INPUTS, 99)
            self.reference = Reference(network, config=CONFIG)
        y = self.reference.step_integers(row)
        if self.wrong:
            self.wrong -= 1
            return y + 1
        return y


@pytest.fixture(autouse=True)
def counters(monkeypatch: pytest.MonkeyPatch) -> None:
    use = SdramUse(part="16M16-any", clock_hz=100_000_000, counts={})
    monkeypatch.setattr(module, "sdram_use", lambda session: use)


def test_a_good_board() -> None:
    found = selftest(Puppet())  # type: ignore[arg-type]
    assert verdict(found) == (True, "all is well")
    assert found.pattern_bytes > 200_000 and (found.steps, found.wrong) == (20, 0)


@pytest.mark.parametrize("share", [2, 4, 64])
def test_a_smaller_memory_is_found(share: int) -> None:
    """As with a smaller part, or an address line that does not reach it."""
    size = (1 << CONFIG.address_bits) * CONFIG.word_bytes // share
    good, sentence = verdict(selftest(Puppet(size=size)))  # type: ignore[arg-type]
    assert not good and f"byte {size:,} is byte 0 again" in sentence and "--sdram" in sentence
    assert "the SDRAM (16M16-any)" in sentence


def test_a_bad_place_far_away_is_found() -> None:
    good, sentence = verdict(selftest(Puppet(bad=[(1 << 20) + 1000])))  # type: ignore[arg-type]
    assert not good and "does not keep what is written at byte 1,048,576" in sentence


def test_a_bad_place_at_the_beginning_is_found() -> None:
    good, sentence = verdict(selftest(Puppet(bad=[100_000])))  # type: ignore[arg-type]
    assert not good and "does not hold what is written" in sentence and "--clock" in sentence


def test_a_wrong_answer_is_found() -> None:
    good, sentence = verdict(selftest(Puppet(wrong=3)))  # type: ignore[arg-type]
    assert not good and "3 of 20 steps were wrong" in sentence and "--clock" in sentence


def test_a_bad_line_is_found() -> None:
    puppet = Puppet()
    puppet.errors["repeated"] = 4
    good, sentence = verdict(selftest(puppet))  # type: ignore[arg-type]
    assert not good and "4 repeated" in sentence and "cable" in sentence


def test_a_slow_line_is_said() -> None:
    puppet = Puppet()
    puppet.rate = 60_000.0
    good, sentence = verdict(selftest(puppet))  # type: ignore[arg-type]
    assert good and "60,000 bytes per second of 300,000" in sentence and "latency" in sentence


def test_other_errors_are_not_swallowed() -> None:
    puppet = Puppet()

    def lost(*_: Any, **__: Any) -> None:
        raise StillnetError("the board does not answer")

    puppet.start = lost  # type: ignore[method-assign]
    found = selftest(puppet)  # type: ignore[arg-type]
    assert "does not answer" in verdict(found)[1]


@pytest.mark.slow
def test_the_virtual_board(capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo()
    assert main(["selftest", "sim:ulx3s-25f"]) == 0
    said = capsys.readouterr().out.splitlines()
    assert said[-1] == "all is well"
    assert "memory: 32 MB addressed, 32 MB found, made for 16M16-any" in said[-3]
    assert "answers: 20 of 20 as the reference" in said[-2]


@pytest.mark.slow
def test_a_smaller_part_is_found() -> None:
    """A virtual board with a part that has half of the rows that its bitstream is made for."""
    target = board("ulx3s-12f")
    with Engine(VirtualBoard(target, missing_row_bits=1)) as engine:
        found = selftest(engine)
    assert found.memory_bytes == 32 << 20
    assert found.size_bytes == found.alias == 16 << 20
    good, sentence = verdict(found)
    assert not good and "ends after 16 MB" in sentence


def test_engines_of_other_cells() -> None:
    """A dense layer where there is no GRU; where there is neither, it says what to build."""
    network, rows = module._network(replace(CONFIG, cells=("linear", "relu")), 16, 8, 1)
    assert [layer.cell for layer in network.layers] == ["linear"] and len(rows) == 20
    with pytest.raises(StillnetError, match="neither gru nor linear"):
        module._network(replace(CONFIG, cells=("lstm",)), 16, 8, 1)

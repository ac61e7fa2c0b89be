"""Files of ``torch.save``, read without PyTorch and without running anything that they hold.

Two forms are in use. Since PyTorch 1.6 it is a zip archive: ``NAME/data.pkl`` has the objects, and
``NAME/data/KEY`` the numbers of one storage. Before, it was a sequence: a magic number, a version
and the properties of the machine, the objects, the keys of the storages, each a pickle; then the
storages, each with its number of elements in front.
"""

from __future__ import annotations

import io
import re
import zipfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import numpy as np

from stillnet.sw.contract.errors import StillnetError

from .safe_pickle import Name, Thing, read_pickle

__all__ = ["FUNCTIONS", "LEGACY_MAGIC", "Storage", "Tensor", "read_objects"]

LEGACY_MAGIC = b"\x80\x02\x8a\nl\xfc\x9cF\xf9"
"""First bytes of the older form."""

_VERSION = 1001
_LARGEST = 1 << 24
"""Elements of the largest tensor that repeats elements of its storage."""

_TYPES = {
    "Double": "f8",
    "Float": "f4",
    "Half": "f2",
    "BFloat16": "u2",  # widened below
    "Long": "i8",
    "Int": "i4",
    "Short": "i2",
    "Char": "i1",
    "Byte": "u1",
    "Bool": "?",
    "ComplexFloat": "c8",
    "ComplexDouble": "c16",
}


@dataclass(eq=False)
class Storage:
    """The numbers that tensors share."""

    kind: str
    key: str
    size: int
    first: int = 0  # of a part of another storage
    data: Callable[[], np.ndarray] | None = None


@dataclass(frozen=True, eq=False)
class Tensor:
    """A tensor of the file; its numbers are read when they are asked for."""

    storage: Storage
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]

    @property
    def is_float(self) -> bool:
        return self.storage.kind in ("Double", "Float", "Half", "BFloat16")

    def array(self) -> np.ndarray:
        """The numbers; ValueError where the file has too few of them."""
        storage = self.storage
        flat = storage.data() if storage.data is not None else np.zeros(0)
        count = int(np.prod(self.shape, dtype=object))
        ends = [(n - 1) * s for n, s in zip(self.shape, self.strides)]
        first = storage.first + self.offset
        numbers = (first, *self.strides, *self.shape)
        last = first + sum(ends)
        if min(numbers) < 0 or (count and last >= len(flat)) or count > max(len(flat), _LARGEST):
            raise ValueError(f"a tensor of shape {self.shape} lies outside of its data")
        if not count:
            return np.zeros(self.shape, flat.dtype)
        size = flat.itemsize
        strides = [s * size for s in self.strides]
        array = np.lib.stride_tricks.as_strided(flat[first:], self.shape, strides).copy()
        if storage.kind == "BFloat16":
            return (array.astype("<u4") << 16).view("<f4")
        return array


def read_objects(path: Path, data: bytes) -> Any:
    """What was saved: dictionaries, lists, numbers, text, tensors, and things of other classes.

    Raises
    ------
    StillnetError
        The file is no file of ``torch.save``, is damaged, or is TorchScript.
    """
    try:
        if data.startswith(b"PK"):
            return _read_archive(path, data)
        return _read_legacy(data)
    except StillnetError:
        raise
    except Exception as e:  # zipfile and pickletools raise errors of many kinds
        text = (str(e).strip().splitlines() or [type(e).__name__])[0][:200]
        text = "".join(c if c.isprintable() else "?" for c in text)
        raise StillnetError(
            f"file '{path}' is not a file of torch.save, or is cut short ({text}): save it with "
            "torch.save(module.state_dict(), path)"
        ) from None


# -- zip archives ---------------------------------------------------------------------------------


def _read_archive(path: Path, data: bytes) -> Any:
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        names = archive.namelist()
        root = next(n for n in names if n.endswith("data.pkl")).removesuffix("data.pkl")
        if f"{root}constants.pkl" in names or any(n.startswith(f"{root}code/") for n in names):
            raise StillnetError(
                f"file '{path}' is a TorchScript archive, which holds code: with PyTorch, "
                f"m = torch.jit.load('{path.name}'), then torch.save(m.state_dict(), "
                f"'{path.stem}_weights.pt'), and give that file"
            )
        big = f"{root}byteorder" in names and archive.read(f"{root}byteorder") == b"big"

        def loader(key: str, kind: str) -> Callable[[], np.ndarray]:
            def load() -> np.ndarray:
                with zipfile.ZipFile(io.BytesIO(data)) as again:
                    info = again.getinfo(f"{root}data/{key}")
                    if info.file_size > len(data):
                        raise ValueError(f"its record data/{key} is larger than the file")
                    return np.frombuffer(again.read(info), _dtype(kind, big))

            return load

        def persistent(value: Any) -> Any:
            storage = _storage(value)
            if isinstance(storage, Storage):
                storage.data = loader(storage.key, storage.kind)
            return storage

        stream = io.BytesIO(archive.read(f"{root}data.pkl"))
        return read_pickle(stream, FUNCTIONS, persistent)


# -- the older form -------------------------------------------------------------------------------


def _read_legacy(data: bytes) -> Any:
    stream = io.BytesIO(data)
    storages: dict[str, list[Storage]] = {}

    def persistent(value: Any) -> Any:
        storage = _storage(value)
        if isinstance(storage, Storage):
            storages.setdefault(storage.key, []).append(storage)
        return storage

    def next_pickle() -> Any:
        return read_pickle(stream, FUNCTIONS, persistent)

    magic, version, machine = next_pickle(), next_pickle(), next_pickle()
    if magic != 0x1950A86A20F9469CFC6C or version != _VERSION:
        raise ValueError(f"its version {version!r:.20} is unknown")
    big = isinstance(machine, dict) and machine.get("little_endian") is False
    found = next_pickle()
    keys = next_pickle()
    if not isinstance(keys, list):
        raise ValueError("its list of storages is damaged")
    for key in keys:
        _legacy_storage(data, stream, storages.get(str(key), []), big)
    return found


def _legacy_storage(data: bytes, stream: IO[bytes], users: list[Storage], big: bool) -> None:
    """Gives the numbers at the stream's place to the storages that they belong to."""
    if not users:
        raise ValueError("a storage belongs to no tensor")
    count = int.from_bytes(stream.read(8), "big" if big else "little")
    first = stream.tell()
    dtype = _dtype(users[0].kind, big)
    end = first + count * dtype.itemsize
    if end > len(data):
        raise ValueError(f"{end - len(data)} bytes are missing at its end")
    stream.seek(end)
    for storage in users:
        storage.data = lambda: np.frombuffer(data, dtype, count, first)


# -- objects --------------------------------------------------------------------------------------


def _dtype(kind: str, big: bool) -> np.dtype:
    return np.dtype(_TYPES[kind]).newbyteorder(">" if big else "<")


def _storage(value: Any) -> Any:
    """A storage by what the file says of it; the class that another kind of record names."""
    if not isinstance(value, tuple) or not value:
        raise ValueError("a reference to a storage is damaged")
    if value[0] == "module":  # a class together with its source, which nobody needs
        return value[1]
    if value[0] != "storage" or len(value) < 5 or not isinstance(value[1], Name):
        raise ValueError("a reference to a storage is damaged")
    m = re.fullmatch(r"torch(?:\.cuda|\.storage)?\.(\w+)Storage", value[1].path)
    if m is None or m[1] not in _TYPES:
        return Thing(value[1].path)
    if not isinstance(value[4], int):
        raise ValueError("a reference to a storage is damaged")
    part = value[5] if len(value) > 5 else None
    first = part[1] if isinstance(part, tuple) and len(part) > 1 else 0
    if not isinstance(first, int):
        raise ValueError("a reference to a storage is damaged")
    return Storage(m[1], str(value[2]), value[4], first)


def _numbers(value: Any) -> tuple[int, ...]:
    if not isinstance(value, tuple) or not all(isinstance(n, int) for n in value):
        raise ValueError("the shape of a tensor is damaged")
    return value


def _tensor(storage: Any, offset: Any, shape: Any, strides: Any, *rest: Any) -> Any:
    if not isinstance(storage, Storage):
        kind = storage.kind if isinstance(storage, Thing) else type(storage).__name__
        return Thing(f"a tensor on {kind}")
    shape, strides = _numbers(shape), _numbers(strides)
    if not isinstance(offset, int) or len(shape) != len(strides) or len(shape) > 16:
        raise ValueError("the shape of a tensor is damaged")
    return Tensor(storage, offset, shape, strides)


def _of_type(function: Any, kind: Any, arguments: Any, *rest: Any) -> Any:
    """A tensor of a class of its own is its plain tensor."""
    known = FUNCTIONS.get(function.path) if isinstance(function, Name) else None
    if known is None or not isinstance(arguments, tuple) or known is _of_type:
        return Thing(getattr(kind, "path", "a tensor of its own"))
    return known(*arguments)


def _dictionary(items: Any = (), *rest: Any) -> dict[Any, Any]:
    pairs = items if isinstance(items, list) else []
    return {p[0]: p[1] for p in pairs if len(p) == 2 and isinstance(p[0], str | int)}


def _size(items: Any = ()) -> Any:
    return tuple(items) if isinstance(items, tuple | list) else ()


def _first(value: Any, *rest: Any) -> Any:
    return value


FUNCTIONS: Mapping[str, Callable[..., Any]] = {
    "collections.OrderedDict": _dictionary,
    "torch.Size": _size,
    "torch._utils._rebuild_tensor": _tensor,
    "torch._utils._rebuild_tensor_v2": _tensor,
    "torch._utils._rebuild_parameter": _first,
    "torch._utils._rebuild_parameter_with_state": _first,
    "torch._tensor._rebuild_from_type": _of_type,
    "torch._tensor._rebuild_from_type_v2": _of_type,
}
"""What a file may call, by its name."""

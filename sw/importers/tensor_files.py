"""Named tensors from ``.safetensors``, ``.npz`` and ``.pt`` files.

The importers of state dicts, of S5 and of EGRU take a mapping of names to arrays; this module is
where it comes from, and what makes an array of float64 out of whatever a tensor is.
"""

from __future__ import annotations

import io
import json
import re
from pathlib import Path
from typing import Any, NoReturn

import numpy as np

from stillnet.sw.contract.errors import StillnetError
from stillnet.sw.util.files import read_whole

__all__ = [
    "float_array",
    "natural",
    "read_npz",
    "read_pt",
    "read_safetensors",
    "refuse_tensor",
    "shape_of",
]

_SAFETENSORS: dict[str, np.dtype] = {
    "F64": np.dtype("<f8"),
    "F32": np.dtype("<f4"),
    "F16": np.dtype("<f2"),
    "BF16": np.dtype("<u2"),  # widened to float32 below
    "C64": np.dtype("<c8"),
    "BOOL": np.dtype("?"),  # these are no weights, but counters and masks beside them
    **{f"{k.upper()}{8 * n}": np.dtype(f"<{k}{n}") for k in "iu" for n in (1, 2, 4, 8)},
}


def read_safetensors(path: Path) -> tuple[dict[str, np.ndarray], dict[str, str]]:
    """Tensors of a ``.safetensors`` file and its metadata.

    The format does not keep the order of tensors: they come in the natural order of their names.
    """
    import safetensors

    data = read_whole(path, "save or copy the model again")
    try:
        tensors: Any = safetensors.deserialize(data)
        size = int.from_bytes(data[:8], "little")
        metadata = json.loads(data[8 : 8 + size]).get("__metadata__") or {}
    except (safetensors.SafetensorError, ValueError, AttributeError) as e:
        raise StillnetError(
            f"file '{path}' is not a safetensors file, or is cut short ({_first_line(e)}): save or "
            "copy it again"
        ) from None
    if "stillnet" in metadata:
        raise StillnetError(
            f"file '{path}' is a network that stillnet has quantized already: use it with "
            "'stillnet run' or 'stillnet pack', or import the model it was made from"
        )
    state: dict[str, np.ndarray] = {}
    for key, tensor in tensors:
        dtype = _SAFETENSORS.get(tensor["dtype"])
        if dtype is None:
            raise StillnetError(
                f"tensor '{key}' has elements of type {tensor['dtype']}; weights are needed as "
                "F64, F32, F16 or BF16"
            )
        array = np.frombuffer(tensor["data"], dtype)
        if tensor["dtype"] == "BF16":
            array = (array.astype("<u4") << 16).view("<f4")
        state[key] = array.reshape(tensor["shape"])
    return {key: state[key] for key in sorted(state, key=natural)}, metadata


def read_npz(path: Path) -> dict[str, np.ndarray]:
    """Arrays of a ``.npz`` file, in the order of the file."""
    data = io.BytesIO(read_whole(path, "save or copy the model again"))
    try:
        loaded = np.load(data, allow_pickle=False)
        if not isinstance(loaded, np.lib.npyio.NpzFile):
            raise ValueError("it is one array")
        with loaded as file:
            state = {key: file[key] for key in file.files}
    except Exception as e:  # zipfile and zlib raise errors of their own
        raise StillnetError(
            f"file '{path}' is not an .npz file of plain arrays, or is cut short "
            f"({_first_line(e)}): save it with numpy.savez(path, **arrays)"
        ) from None
    return state


def read_pt(path: Path) -> dict[str, Any]:
    """Weights of a ``.pt`` or ``.pth`` file, without PyTorch and without running what it holds."""
    from .checkpoints import find_state
    from .pt_file import read_objects

    data = read_whole(path, "save or copy the model again")
    return find_state(path, read_objects(path, data))


def _first_line(e: BaseException) -> str:
    line = (str(e).strip().splitlines() or [type(e).__name__])[0]
    return re.split(r"\. |\x1b", line)[0]


def natural(key: str) -> list[tuple[int, int, str]]:
    """Sorts 'fc10' behind 'fc2'."""
    parts = re.split(r"(\d+)", key)
    return [(0, int(p), "") if p.isdigit() else (1, 0, p) for p in parts]


def refuse_tensor(key: str, text: str) -> NoReturn:
    """Raises with the name of the tensor in front."""
    raise StillnetError(f"tensor '{key}': {text}")


def shape_of(value: Any) -> tuple[int, ...]:
    """The shape of anything that is like an array."""
    return tuple(int(n) for n in getattr(value, "shape", ()) or np.shape(value))


def float_array(key: str, value: Any) -> np.ndarray:
    """A tensor as float64; bfloat16 and tensors that require gradients or lie on a GPU too."""
    if hasattr(value, "is_floating_point") and not value.is_floating_point():
        refuse_tensor(key, f"its elements are {value.dtype}; float weights are needed")
    for step in ("detach", "cpu", "double"):
        value = getattr(value, step, lambda v=value: v)()
    try:
        array = np.asarray(value.numpy() if hasattr(value, "numpy") else value)
        if array.dtype.kind not in "fV":
            refuse_tensor(key, f"its elements are {array.dtype}; float weights are needed")
        array = array.astype(np.float64)
    except (TypeError, ValueError, RuntimeError) as e:
        refuse_tensor(
            key, f"it is no array of numbers ({_first_line(e)}); pass module.state_dict()"
        )
    if not np.all(np.isfinite(array)):
        refuse_tensor(key, "it holds NaN or infinity; train or export the model again")
    return array

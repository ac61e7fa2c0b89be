"""What a network file holds: every key of its JSON and every tensor, none of them left to guess."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from stillnet.sw.contract.cells import CELLS
from stillnet.sw.contract.errors import StillnetError
from stillnet.sw.util.keys import check_keys

__all__ = ["FORMAT_VERSION", "check_container"]

FORMAT_VERSION = 3

HEADER = (
    *("version", "name", "inputs", "input_fraction", "input_mode", "input_threshold"),
    *("input_thresholds", "input_exponents", "layers", "host", "notes"),
)
OPTIONAL = ("budgets",)
"""Keys of the JSON that only a network has that makes use of them."""

LAYER = (
    *("name", "cell", "units", "matrices", "shift", "write_shift", "fraction", "mode"),
    *("threshold", "threshold_recurrent", "thresholds", "initial", "parameters", "peers"),
    *("exponents", "scale", "unit_exponents"),
)
MATRIX = ("source", "gates", "fraction", "bits", "format")


def check_container(header: Any, tensors: Iterable[str], path: Path) -> None:
    """Refuses a file of another version, and one in which anything is missing or unknown.

    Parameters
    ----------
    header : dict
        The JSON.
    tensors : iterable of str
        Names of the tensors.
    path : Path

    Raises
    ------
    StillnetError
        Naming the key, the tensor or the cell.
    """
    version = header.get("version") if isinstance(header, dict) else None
    if version != FORMAT_VERSION:
        raise StillnetError(
            f"'{path}' has network format {version}, this stillnet reads {FORMAT_VERSION}; "
            "quantize the model again"
        )
    there = [key for key in OPTIONAL if key in header]
    check_keys(header, (*HEADER, *there), f"'{path}'")
    for i, layer in enumerate(header["layers"]):
        check_keys(layer, LAYER, f"layer {i} of '{path}'")
        for j, matrix in enumerate(layer["matrices"]):
            check_keys(matrix, MATRIX, f"matrix {j} of layer {i} of '{path}'")
        if layer["cell"] not in CELLS:
            raise StillnetError(
                f"'{path}' needs cell '{layer['cell']}' for layer '{layer['name']}', which is "
                "unknown; load the file that registers it: stillnet --cells FILE.py COMMAND ..."
            )
    check_keys(tensors, _tensors(header), f"'{path}'", kind="tensor")


def _tensors(header: dict[str, Any]) -> list[str]:
    """Names of all tensors that a file with this header has."""
    names = ["input/thresholds"] if header["input_thresholds"] else []
    names += ["input/exponents"] if header["input_exponents"] else []
    names += ["host/before", "host/after"] if header["host"] else []
    for i, layer in enumerate(header["layers"]):
        names += [f"{i}/weight/{j}" for j in range(len(layer["matrices"]))]
        names += [f"{i}/bias/{g}" for g in CELLS[layer["cell"]].accumulators]
        names += [f"{i}/initial/{s}" for s in layer["initial"]]
        names += [f"{i}/parameter/{p}" for p in layer["parameters"]]
        names += [f"{i}/scale/{g}" for g in layer["scale"] or ()]
        names += [f"{i}/thresholds"] if layer["thresholds"] else []
        names += [f"{i}/exponents"] if layer["unit_exponents"] else []
    return names

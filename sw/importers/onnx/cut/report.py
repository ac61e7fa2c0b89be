"""What runs where, for people."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from ..dense import FIRST_NODE
from ..graph import read_names
from ..tensors import label
from ..walk import QUANTIZED
from .island import Island
from .whole import Whole

if TYPE_CHECKING:
    import onnx

__all__ = ["cut_report", "multiplications"]

_MULTIPLYING = (
    *("Conv", "ConvInteger", "ConvTranspose", "Einsum", "Gemm", "MatMul"),
    *("MatMulInteger", "QLinearConv", "QLinearMatMul"),
)


def cut_report(whole: Whole, island: Island, steps: int) -> dict[str, Any]:
    """A table of the nodes, and the shares of the chip.

    Parameters
    ----------
    whole : Whole
    island : Island
    steps : int
        Of the probing call.

    Returns
    -------
    dict
        ``nodes``: name, operator, where (``"chip"``, ``"host"`` or ``"both"``), why, weights and
        multiplications of a step. ``chip``: its shares of weights and multiplications.
    """
    rows: list[dict[str, Any]] = []
    for node in whole.nodes:
        chip, host = id(node) in island.chip, id(node) in island.host
        if not (chip or host):
            continue
        rows.append(
            {
                "name": label(node),
                "operator": node.op_type,
                "where": "both" if chip and host else "chip" if chip else "host",
                "why": "" if chip else _reason(whole, island, node),
                "weights": _weights(whole, node),
                "multiplications": round(multiplications(whole, node) / steps),
            }
        )
    shares = {}
    for key in ("weights", "multiplications"):
        whole_sum = sum(r[key] for r in rows)
        shares[key] = sum(r[key] for r in rows if r["where"] != "host") / max(whole_sum, 1)
    crossing = [leave.name for leave in island.leave]
    return {"enter": island.enter, "leave": crossing, "chip": shares, "nodes": rows}


def _reason(whole: Whole, island: Island, node: onnx.NodeProto) -> str:
    """Why a node is on the host; nothing where it only follows another one and has no weights."""
    reason = island.reasons.get(id(node), "")
    if FIRST_NODE in reason and not _weights(whole, node):
        return ""  # only what began the walk, where the host does the nodes before it
    if not reason.startswith("it reads '"):
        return reason
    if not _weights(whole, node):
        return ""
    return f"{reason}; one part goes to the chip, which is the one with the most weights"


def _weights(whole: Whole, node: onnx.NodeProto) -> int:
    arrays = [whole.constants[i] for i in read_names(node) if i in whole.constants]
    kinds = "fiu" if node.op_type in QUANTIZED else "f"
    return sum(a.size for a in arrays if a.dtype.kind in kinds and a.ndim > 1)


def multiplications(whole: Whole, node: onnx.NodeProto) -> int:
    """What a node multiplies in a call on the probe."""
    if node.op_type in ("GRU", "LSTM", "RNN"):
        x = whole.shape(node.input[0])
        return _weights(whole, node) * x[0]
    if node.op_type not in _MULTIPLYING:
        return 0
    out = next((whole.values[o] for o in node.output if o in whole.values), None)
    arrays = (whole.constants[i] for i in node.input if i in whole.constants)
    weight = next((a for a in arrays if a.ndim > 1 or node.op_type not in QUANTIZED), None)
    if out is None or weight is None or weight.ndim < 2:
        return 0
    if node.op_type.startswith("Conv"):
        return out.size * math.prod(weight.shape[1:])
    columns = out.shape[-1] if out.ndim else 1
    return out.size * weight.size // max(columns, 1) if columns else 0

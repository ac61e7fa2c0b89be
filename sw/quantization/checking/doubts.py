"""What a user should know before the numbers are trusted: sentences, each with a remedy.

``notes["report"]["doubts"]`` of a network holds them, and every command that makes or runs the
network repeats them.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from stillnet.sw.model.model import Model
from stillnet.sw.network.network import Network

__all__ = ["POOR_DB", "doubts_of_calibration", "doubts_of_network", "doubts_of_outputs"]

POOR_DB = 12.0
"""An output with less SNR against the float model is called poor: a sixteenth of its power lost."""

_STEPS = 50
"""Steps of calibration below which it is called short."""


def _some(numbers: Sequence[int], most: int = 4) -> str:
    """``3, 7, 9, 11 and 12 more``."""
    shown = ", ".join(str(n) for n in numbers[:most])
    return shown if len(numbers) <= most else f"{shown} and {len(numbers) - most} more"


def doubts_of_calibration(x: np.ndarray, one_hot: bool) -> list[str]:
    """Recordings too short, silent, or without a change of some inputs.

    Parameters
    ----------
    x : array, shape (rows, inputs), or (rows,) of tokens
    one_hot : bool
    """
    found = []
    if len(x) < _STEPS:
        found.append(
            f"calibration has {len(x)} steps only, on which ranges and biases rest; give some "
            "hundred steps of what the device will meet"
        )
    if one_hot:
        return found
    still = np.flatnonzero(np.all(x == x[:1], axis=0))
    if len(still) == x.shape[1]:
        what = "is silent" if not np.any(x) else "never changes"
        found.append(f"calibration {what}; give recordings of what the device will meet")
    elif len(still):
        found.append(
            f"input {_some(still.tolist())} never changes in calibration, so that its range is "
            "not known; give recordings in which it does"
        )
    return found


def doubts_of_network(model: Model, network: Network) -> list[str]:
    """Rows whose weights have all become zero."""
    found = []
    for layer, quantized in zip(model.layers, network.layers):
        for g in quantized.bias:
            before = np.zeros(layer.units)
            after = np.zeros(layer.units)
            for m, q in zip(layer.matrices, quantized.matrices):
                if g in m.gates:
                    k = m.gates.index(g)
                    before += np.abs(m.weight[k]).sum(axis=1)
                    after += np.abs(q.weight[k].astype(np.int64)).sum(axis=1)
            lost = np.flatnonzero((before > 0) & (after == 0))
            if len(lost):
                found.append(
                    f"layer '{layer.name}', gate '{g}': row {_some(lost.tolist())} of "
                    f"{layer.units} lost all of its weights; ask for less sparsity or more bits"
                )
    return found


def doubts_of_outputs(
    network: Network, ratios: Sequence[float | None], wanted: np.ndarray, got: np.ndarray
) -> list[str]:
    """Outputs that do not move any more, and outputs far from the float model's."""
    found = []
    moved = np.ptp(wanted, axis=0) > 0
    frozen = np.flatnonzero(moved & (np.ptp(got, axis=0) == 0))
    remedy = _remedy(network)
    if len(frozen):
        found.append(
            f"output {_some(frozen.tolist())} of {len(ratios)} never changes, which it does in "
            f"the float model; {remedy}"
        )
    gone = set(frozen.tolist())
    poor = [k for k, r in enumerate(ratios) if r is not None and r < POOR_DB and k not in gone]
    if poor:
        worst = min(poor, key=lambda k: ratios[k])  # type: ignore[arg-type, return-value]
        lost = 100 * 10 ** (-ratios[worst] / 10)  # type: ignore[operator]
        others = [k for k in poor if k != worst]
        more = f" (output {_some(others)} too below {POOR_DB:g} dB)" if others else ""
        found.append(
            f"output {worst} of {len(ratios)} is poor: {ratios[worst]:.1f} dB, {lost:.0f} % of its "
            f"power is error{more}; {remedy}"
        )
    return found


def _remedy(network: Network) -> str:
    """What is most likely to help."""
    thresholds = [network.input_limit, *(layer.limit for layer in network.layers)]
    asked = network.notes.get("options", {})
    if any(np.any(np.asarray(t) > 0) for t in thresholds):
        return "choose smaller thresholds, or a smaller --max-error"
    if asked.get("sparsity", 0) > 0:
        return "ask for less sparsity"
    if any(m.bits == 4 for layer in network.layers for m in layer.matrices):
        return "ask for 8bit weights"
    if asked.get("method") == "nearest":
        return "leave --method nearest out"
    return "give more and more diverse recordings; 'stillnet info' shows which layer loses most"

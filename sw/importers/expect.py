"""Whether a model computes what the training framework computed on the same recording.

A file may lack what decides its values: the order of layers, an activation, a skip connection,
where a reset gate stands. Outputs of the training framework show it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from stillnet.sw.contract.errors import StillnetError
from stillnet.sw.model.model import Model
from stillnet.sw.util.recordings import load_recordings

__all__ = ["TOLERANCE", "Agreement", "check_expected", "check_expected_files"]

TOLERANCE = 1e-4
"""Largest difference that float32 may make, as a part of the outputs' spread."""

_OF_HALF = 1e-2
_OF_FLOAT = 1e-6
"""What rounding the expected values to float32 may make, as a part of their magnitude."""


@dataclass(frozen=True)
class Agreement:
    """How well a model agrees with expected outputs.

    Attributes
    ----------
    steps : int
        Steps that were compared.
    largest : float
        Largest difference of a value.
    relative : float
        The same as a part of the output's spread: largest less smallest expected value.
    """

    steps: int
    largest: float
    relative: float


def check_expected(model: Model, x: np.ndarray, y: np.ndarray, what: str = "y") -> Agreement:
    """Compares a float model with the outputs of the training framework.

    ::

        import numpy as np

        model = load_model("model.npz", layers=[("gru", "rnn"), ("linear", "out")])
        check_expected(model, np.load("x.npy"), np.load("y.npy"))

    Parameters
    ----------
    model : Model
    x : array, shape (steps, inputs), or (steps,) of tokens
    y : array, shape (steps, outputs)
        An axis of size 1 for the batch may be there. One step alone is compared with the last one.
    what : str
        What to call ``y`` in messages.

    Raises
    ------
    StillnetError
        Where they differ by more than float rounding: the first step and output, both values, and
        the difference as a part of the spread.
    """
    whole = model.run_whole(x)
    expected = _steps(whole.shape, np.asarray(y), what)
    found = whole[-len(expected) :]
    first = len(whole) - len(expected)
    spread = _spread(expected)
    part = _OF_HALF if np.asarray(y).dtype.itemsize < 4 else TOLERANCE
    limit = np.maximum(part * spread, _OF_FLOAT * np.abs(expected).max(axis=0))
    difference = np.abs(found - expected)
    if np.all(difference <= limit):
        return Agreement(len(expected), float(difference.max()), float((difference / spread).max()))
    step, output = (int(i) for i in np.argwhere(difference > limit)[0])
    wrong = int(np.count_nonzero((difference > limit).any(axis=1)))
    raise StillnetError(
        f"the model differs from {what}: first at step {first + step}, output {output}: "
        f"{found[step, output]:.6g} instead of {expected[step, output]:.6g}, "
        f"{difference[step, output] / spread[output]:.2g} of that output's spread "
        f"({spread[output]:.3g}); in all {wrong} of {len(expected)} steps, by at most "
        f"{difference.max():.3g}. Float rounding makes less than {part:g} of the spread: check "
        "order, activations and skip connections of the layers, --gru-reset, and that both belong "
        "to the same recording in eval mode"
    )


def _spread(expected: np.ndarray) -> np.ndarray:
    """Largest less smallest value of each output; of all of them where one hardly moves."""
    whole = float(np.ptp(expected)) or float(np.abs(expected).max()) or 1.0
    return np.maximum(np.ptp(expected, axis=0), whole / 100)


def _steps(shape: tuple[int, ...], y: np.ndarray, what: str) -> np.ndarray:
    """Expected outputs as (steps, outputs), or (1, outputs)."""
    if y.dtype.kind not in "fiub" or y.size == 0:
        raise StillnetError(f"{what} holds {y.dtype} of shape {y.shape}; real numbers are needed")
    steps, outputs = shape
    squeezed = y.reshape([n for n in y.shape if n != 1])
    for rows in (steps, 1):
        wanted = [n for n in (rows, outputs) if n != 1]
        if list(squeezed.shape) == wanted:
            result = squeezed.reshape(rows, outputs).astype(float)
            break
    else:
        raise StillnetError(
            f"{what} has the shape {y.shape}; the model gives {(steps, outputs)} for this "
            f"recording, so save that, or the last step {(outputs,)}"
        )
    if not np.all(np.isfinite(result)):
        raise StillnetError(f"{what} holds NaN or infinity: run the training framework again")
    return result


def check_expected_files(
    model: Model, recordings: Sequence[np.ndarray], places: Sequence[Path]
) -> list[Agreement]:
    """Compares the model with a file for each of the first recordings, in their order."""
    expected = load_recordings(places)
    if len(expected) > len(recordings):
        raise StillnetError(
            f"--expect has {len(expected)} files for {len(recordings)} recordings of --data: give "
            "the outputs for each recording, in the same order"
        )
    what = [f"the expected outputs '{p}'" for p in places] if len(places) == len(expected) else []
    return [
        check_expected(model, x, y, what[i] if what else f"expected outputs {i + 1}")
        for i, (x, y) in enumerate(zip(recordings, expected))
    ]

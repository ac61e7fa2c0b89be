"""tanh and sigmoid as one integer table with linear interpolation.

The table holds tanh on [0, 8) in 512 segments of 1/64. Both functions are odd around their centre,
and sigmoid(x) = 1/2 + tanh(x/2)/2, so the same table serves both: the input of sigmoid (13 fraction
bits) read with 14 fraction bits *is* x/2.

Interpolation error of a segment is at most h**2/8 * max|f''| = 2.4e-5; with the rounding of the
table and of the product the measured error over every one of the 2**18 inputs is below 6e-5
(``docs/numbers.md``), a quarter of the 1/4096 that the design allows.
"""

from __future__ import annotations

import numpy as np

from .fixed import PRE, Format

__all__ = [
    "FRACTION_BITS",
    "INPUT",
    "SEGMENT_BITS",
    "SIGMOID",
    "SLOPE_BITS",
    "TANH",
    "TANH_SLOPES",
    "TANH_VALUES",
    "VALUE_BITS",
    "sigmoid",
    "tanh",
]

INPUT = PRE
"""Input format of both functions."""

TANH = Format(17, 15)
"""Output format of tanh: -1.0 to 1.0, both ends exact."""

SIGMOID = Format(18, 16)
"""Output format of sigmoid: 0.0 to 1.0, both ends exact."""

SEGMENT_BITS = 9
FRACTION_BITS = 8
_LIMIT = (1 << (SEGMENT_BITS + FRACTION_BITS)) - 1

VALUE_BITS = 16
SLOPE_BITS = 10

_knots = np.rint(np.tanh(np.arange((1 << SEGMENT_BITS) + 1) / 64.0) * (1 << TANH.fraction))
TANH_VALUES: tuple[int, ...] = tuple(int(v) for v in _knots[:-1])
"""tanh at the start of each segment, 15 fraction bits."""

TANH_SLOPES: tuple[int, ...] = tuple(int(v) for v in np.diff(_knots))
"""Rise of tanh over each segment, 15 fraction bits."""

_values = np.array(TANH_VALUES, dtype=np.int64)
_slopes = np.array(TANH_SLOPES, dtype=np.int64)


def _odd(z: np.ndarray) -> np.ndarray:
    """tanh of z, 14 fraction bits in, 15 out; |z| saturates just below 8."""
    magnitude = np.minimum(np.abs(z), _LIMIT)
    segment, fraction = magnitude >> FRACTION_BITS, magnitude & ((1 << FRACTION_BITS) - 1)
    rise = (_slopes[segment] * fraction + (1 << (FRACTION_BITS - 1))) >> FRACTION_BITS
    y = _values[segment] + rise
    return np.where(z < 0, -y, y)


def tanh(x: np.ndarray) -> np.ndarray:
    """tanh of integers in format ``PRE``; result in format ``TANH``."""
    return _odd(np.asarray(x, dtype=np.int64) << 1)


def sigmoid(x: np.ndarray) -> np.ndarray:
    """Logistic function of integers in format ``PRE``; result in format ``SIGMOID``."""
    return (1 << 15) + _odd(np.asarray(x, dtype=np.int64))

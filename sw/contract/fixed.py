"""Fixed-point formats and the only roundings that exist in the engine.

Values are two's complement integers; a format says how many bits they have and how many of them
are fraction. The reference holds them in NumPy int64 arrays and applies exactly these functions;
the hardware generator emits the same operations.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from .errors import StillnetError

__all__ = [
    "ACCUMULATOR_BITS",
    "ACTIVATION",
    "ACTIVATION_BITS",
    "EVENT_BITS",
    "RESCALE_GUARD_BITS",
    "PRE",
    "SCALE_BITS",
    "SCALE_FRACTION",
    "Format",
    "narrow",
    "rescale",
    "round_shift",
    "saturate",
    "scale_row",
    "wrap32",
]


@dataclass(frozen=True)
class Format:
    """A signed fixed-point format: value = integer / 2**fraction.

    Parameters
    ----------
    bits : int
        Width, sign included.
    fraction : int
        Bits after the binary point; may be negative or larger than ``bits``.
    """

    bits: int
    fraction: int

    def __post_init__(self) -> None:
        if not isinstance(self.bits, int) or self.bits < 1:
            raise StillnetError(f"format width must be a positive integer, not {self.bits!r}")
        if not isinstance(self.fraction, int):
            raise StillnetError(f"format fraction must be an integer, not {self.fraction!r}")

    @property
    def minimum(self) -> int:
        """Smallest integer."""
        return -(1 << (self.bits - 1))

    @property
    def maximum(self) -> int:
        """Largest integer."""
        return (1 << (self.bits - 1)) - 1

    def __str__(self) -> str:
        return f"s{self.bits}.{self.fraction}"


ACTIVATION_BITS = 16
"""Width of every element of every vector. The fraction is chosen for each tensor."""

EVENT_BITS = 17
"""Width of an event's value: a difference of two activations, never clipped."""

ACCUMULATOR_BITS = 32
"""Width of an accumulator. Additions wrap around, so that the order of events never matters."""

ACTIVATION = Format(16, 14)
"""Vector elements as a cell writes them, before the write-back shift of the layer."""

PRE = Format(18, 13)
"""Pre-activations: what a cell reads from an accumulator after the rescale shift of the layer."""

RESCALE_GUARD_BITS = 8
"""The rescale unit shifts accumulators left by this many bits before it shifts right."""

SCALE_BITS = 15
"""Width of a row's multiplier, which has no sign."""

SCALE_FRACTION = 14
"""Bits after the binary point of a row's multiplier: 2**14 is one."""


def round_shift(value: np.ndarray, shift: int) -> np.ndarray:
    """value / 2**shift, rounded half up (towards +infinity); a negative shift multiplies."""
    if shift <= 0:
        return value << -shift
    return (value + (1 << (shift - 1))) >> shift


def saturate(value: np.ndarray, bits: int) -> np.ndarray:
    """Clips to ``bits`` bits, two's complement."""
    # Not np.clip, which takes twice as long on the few numbers of one step.
    return np.minimum(np.maximum(value, -(1 << (bits - 1))), (1 << (bits - 1)) - 1)


def narrow(value: np.ndarray, fraction: int, to: Format) -> np.ndarray:
    """Rounds half up from ``fraction`` fraction bits to the format ``to`` and saturates."""
    return saturate(round_shift(value, fraction - to.fraction), to.bits)


def wrap32(value: np.ndarray) -> np.ndarray:
    """Keeps the low 32 bits, as two's complement."""
    return ((value + (1 << 31)) & 0xFFFF_FFFF) - (1 << 31)


def rescale(accumulator: np.ndarray, shift: int) -> np.ndarray:
    """The value a cell sees for an accumulator: 18 bits, from 32.

    Parameters
    ----------
    accumulator : int array
    shift : int
        0 to 31. The accumulator is multiplied by 2**(RESCALE_GUARD_BITS - shift), rounded half up
        and saturated to the 18 bits of ``PRE``.
    """
    return saturate(round_shift(accumulator << RESCALE_GUARD_BITS, shift), PRE.bits)


def scale_row(pre: np.ndarray, multiplier: np.ndarray) -> np.ndarray:
    """The multiplier of a row, after :func:`rescale`: fine-grained scales for coarse weights.

    Parameters
    ----------
    pre : int array
        18-bit values from ``rescale``.
    multiplier : int array
        0 to 2**SCALE_BITS - 1, in units of 2**-SCALE_FRACTION.

    Returns
    -------
    int array
        pre * multiplier / 2**SCALE_FRACTION, rounded half up and saturated to 18 bits.
    """
    return saturate(round_shift(pre * multiplier, SCALE_FRACTION), PRE.bits)

"""Functions of one variable as integer tables with linear interpolation.

A table is made from the function itself. The inputs are divided into pieces, and each piece into
segments of one length, a power of two of input units: short segments where the function bends,
long ones where it is nearly straight. An entry holds the function at the start of its segment and
the rise over the segment. The error is then measured over every input integer, and a table whose
largest error exceeds 1/4096 of full scale, the largest magnitude of the function, is refused.

tanh and sigmoid have a table of their own in ``tables``, which they share; the rule is the same.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cache, cached_property

import numpy as np

from .errors import StillnetError
from .fixed import PRE, Format

__all__ = [
    "ALLOWED",
    "MOST_SEGMENTS",
    "TABLES",
    "Piece",
    "Table",
    "erf",
    "named_table",
    "piece",
]

Function = Callable[[np.ndarray], np.ndarray]

ALLOWED = 2.0**-12
"""Largest error of a table, as a part of full scale."""

MOST_SEGMENTS = 512
"""Entries of one block of RAM, 36 bits wide."""

WIDEST = 18
"""Bits of an input, of a result and of a rise."""


@dataclass(frozen=True)
class Piece:
    """Inputs from ``first`` up to ``end``, in segments of ``2**shift``, all in input units."""

    first: int
    end: int
    shift: int

    @property
    def segments(self) -> int:
        """Entries of the table."""
        return (self.end - self.first) >> self.shift


def piece(low: float, high: float, step: float, to: Format = PRE) -> Piece:
    """A piece in real units."""
    unit = 2.0**-to.fraction
    return Piece(round(low / unit), round(high / unit), round(math.log2(step / unit)))


@dataclass(frozen=True, eq=False)
class Table:
    """A function of one variable in integers.

    Attributes
    ----------
    name : str
        Errors and reports use it.
    function : callable
        Array of float to array of float. Also the meaning of the table in floating point.
    pieces : tuple of Piece
        Each begins where the one before ends. Outside of them the input is held at the nearest
        end. With ``mirror`` they are of the magnitude of the input and begin at 0.
    input, output : Format
    mirror : str
        ``"odd"``: f(-x) = 2 centre - f(x); ``"even"``: f(-x) = f(x); or ``""``.
    centre : float
        Of an odd function.
    within : (float, float)
        Inputs over which the error is measured, where the caller keeps the input inside.
    """

    name: str
    function: Function = field(repr=False)
    pieces: tuple[Piece, ...]
    output: Format
    input: Format = PRE
    mirror: str = ""
    centre: float = 0.0
    within: tuple[float, float] = (-math.inf, math.inf)

    def __post_init__(self) -> None:
        self._check_pieces()
        values = np.concatenate([self._knots, self._ends])
        fits = np.abs(values) < 1 << (self.output.bits - 1)
        if not np.all(np.isfinite(values)) or not np.all(fits):
            raise self._error(
                f"takes values that {self.output} does not hold; give it a format of more range"
            )
        bits = max(int(v).bit_length() for v in (self.rises.min(), self.rises.max())) + 1
        if bits > WIDEST:
            raise self._error(
                f"rises by {bits} bits within a segment, at most {WIDEST} are possible; give it "
                "shorter segments or a coarser output format"
            )
        if self.error > ALLOWED * self.full_scale:
            raise self._error(
                f"is off by {self.error:.3g} at {self.worst:g}, 1/4096 of its full scale allows "
                f"{ALLOWED * self.full_scale:.3g}; give it a smaller range or shorter segments "
                "where it bends"
            )

    def _error(self, text: str) -> StillnetError:
        return StillnetError(f"table of '{self.name}' {text}")

    def _check_pieces(self) -> None:
        pieces, limit = self.pieces, 1 << (self.input.bits - 1)
        count = sum(p.segments for p in pieces)
        joined = all(a.end == b.first for a, b in zip(pieces, pieces[1:]))
        whole = all(p.shift >= 0 and not (p.first | p.end) & ((1 << p.shift) - 1) for p in pieces)
        if not pieces or not joined or not whole or any(p.first >= p.end for p in pieces):
            raise self._error(
                "has pieces that do not follow each other, or no whole segments; begin each where "
                "the one before ends, at a multiple of its segment"
            )
        if max(self.input.bits, self.output.bits) > WIDEST or count > MOST_SEGMENTS:
            raise self._error(
                f"has {count} segments, {self.input} for its input and {self.output} for its "
                f"result; at most {MOST_SEGMENTS} segments and {WIDEST} bits are possible"
            )
        if self.mirror not in ("", "odd", "even") or (self.mirror and pieces[0].first):
            raise self._error(
                f"has the mirror '{self.mirror}' and begins at {pieces[0].first}; the mirror is "
                "'odd', 'even' or '', and a mirrored table begins at 0"
            )
        if pieces[0].first < -limit or pieces[-1].end > limit:
            raise self._error(f"reaches beyond its input format {self.input}; shorten its pieces")

    # -- contents

    def exact(self, x: np.ndarray) -> np.ndarray:
        """The function in floating point."""
        with np.errstate(all="ignore"):
            return np.asarray(self.function(np.asarray(x, float)), float)

    def real(self, x: np.ndarray) -> np.ndarray:
        """The function of input integers."""
        return self.exact(np.asarray(x) * 2.0**-self.input.fraction)

    @cached_property
    def middle(self) -> int:
        """``centre`` as an integer of the output."""
        return round(self.centre * 2.0**self.output.fraction)

    def _rounded(self, x: np.ndarray) -> np.ndarray:
        return np.rint(self.real(x) * 2.0**self.output.fraction) - self.middle

    @cached_property
    def _knots(self) -> np.ndarray:
        return self._rounded(
            np.concatenate([np.arange(p.first, p.end, 1 << p.shift) for p in self.pieces])
        )

    @cached_property
    def _ends(self) -> np.ndarray:
        """The function at the end of each segment."""
        ends = [np.arange(p.first, p.end, 1 << p.shift) + (1 << p.shift) for p in self.pieces]
        return self._rounded(np.concatenate(ends))

    @cached_property
    def values(self) -> np.ndarray:
        """The function at the start of each segment, less ``middle``; int64."""
        return self._knots.astype(np.int64)

    @cached_property
    def rises(self) -> np.ndarray:
        """Rise over each segment; int64."""
        return (self._ends - self._knots).astype(np.int64)

    @property
    def shift(self) -> int:
        """Bits of the place within the longest segment."""
        return max(p.shift for p in self.pieces)

    @cached_property
    def signature(self) -> str:
        """What hardware depends on, as text."""
        text = repr((self.pieces, self.mirror, self.middle, self.input, self.output))
        text += repr((self.values.tolist(), self.rises.tolist()))
        return f"{self.name}:{hashlib.sha256(text.encode()).hexdigest()[:16]}"

    def integers(self, x: np.ndarray) -> np.ndarray:
        """The table of integers of the input format; what the hardware computes."""
        x = np.asarray(x, np.int64)
        z = np.abs(x) if self.mirror else x
        z = np.clip(z, self.pieces[0].first, self.pieces[-1].end - 1)
        index, place, base = np.zeros_like(z), np.zeros_like(z), 0
        for p in self.pieces:
            inside = z >= p.first
            index = np.where(inside, base + ((z - p.first) >> p.shift), index)
            within = (z & ((1 << p.shift) - 1)) << (self.shift - p.shift)
            place = np.where(inside, within, place)
            base += p.segments
        half = (1 << self.shift) >> 1
        y = self.values[index] + ((self.rises[index] * place + half) >> self.shift)
        return self.middle + (np.where(x < 0, -y, y) if self.mirror == "odd" else y)

    # -- errors

    @cached_property
    def _inputs(self) -> np.ndarray:
        """Every integer over which the error is measured."""
        unit = 2.0**-self.input.fraction
        x = np.arange(self.input.minimum, self.input.maximum + 1)
        return x[(x * unit >= self.within[0]) & (x * unit <= self.within[1])]

    @cached_property
    def _errors(self) -> np.ndarray:
        x = self._inputs
        return self.integers(x) * 2.0**-self.output.fraction - self.real(x)

    @property
    def error(self) -> float:
        """Largest error over every input integer."""
        return float(np.max(np.abs(self._errors)))

    @property
    def rms(self) -> float:
        """Root mean square of the error over every input integer."""
        return float(np.sqrt(np.mean(self._errors**2)))

    @property
    def worst(self) -> float:
        """The input of the largest error."""
        return float(self._inputs[np.argmax(np.abs(self._errors))] * 2.0**-self.input.fraction)

    @cached_property
    def full_scale(self) -> float:
        """Largest magnitude of the function."""
        return float(np.max(np.abs(self.real(self._inputs))))

    @cached_property
    def _path(self) -> tuple[np.ndarray, np.ndarray]:
        """Inputs in real units, and how far the function has gone up and down until there."""
        low, high = -self.pieces[-1].end if self.mirror else self.pieces[0].first, 0
        high = self.pieces[-1].end - 1
        x = np.arange(max(low, self.input.minimum), high + 1)
        gone = np.concatenate([[0.0], np.cumsum(np.abs(np.diff(self.real(x))))])
        return x * 2.0**-self.input.fraction, gone

    def bound(self, x: np.ndarray, error: np.ndarray) -> np.ndarray:
        """Largest error of the result where the input is ``x`` to within ``error``.

        An input beyond the table is held at its end; so is the exact one here, and what that
        changes is added.
        """
        at, gone = self._path
        held = np.clip(x, at[0], at[-1])

        def path(v: np.ndarray) -> np.ndarray:
            return np.interp(v, at, gone)

        here = path(held)
        moved = np.maximum(path(held + error) - here, here - path(held - error))
        lost = np.abs(self.exact(x) - self.exact(held))
        return moved + lost + self.error


# -- the functions that stillnet knows -------------------------------------------------------------

_erf = np.frompyfunc(math.erf, 1, 1)


def erf(x: np.ndarray) -> np.ndarray:
    """The error function."""
    return np.asarray(_erf(x), float)


def _gelu_fold(x: np.ndarray) -> np.ndarray:
    """gelu(x) - max(x, 0), which is even."""
    return -0.5 * np.abs(x) * (1 - erf(np.abs(x) / math.sqrt(2)))


def _gelu_tanh_fold(x: np.ndarray) -> np.ndarray:
    z = np.abs(x)
    return -0.5 * z * (1 - np.tanh(math.sqrt(2 / math.pi) * (z + 0.044715 * z**3)))


def _silu_fold(x: np.ndarray) -> np.ndarray:
    return -0.5 * np.abs(x) * (1 - np.tanh(0.5 * np.abs(x)))


def _softplus_fold(x: np.ndarray) -> np.ndarray:
    return np.log1p(np.exp(-np.abs(x)))


def _hard_swish_fold(x: np.ndarray) -> np.ndarray:
    z = np.minimum(np.abs(x), 3.0)
    return z * (z - 3) / 6


def _elu(x: np.ndarray) -> np.ndarray:
    return np.expm1(np.minimum(x, 0.0))


def _softsign(x: np.ndarray) -> np.ndarray:
    return x / (1 + np.abs(x))


def _sqrt(x: np.ndarray) -> np.ndarray:
    return np.sqrt(np.maximum(x, 0.0))


_FINE = Format(18, 16)
_SQRT = ((0, 2**-6, 2**-13), (2**-6, 2**-3, 2**-9), (2**-3, 1, 2**-6), (1, 16, 2**-4))

_Spans = Sequence[tuple[float, float, float]]

_KNOWN: dict[str, tuple[Function, _Spans, Format, str, tuple[float, float]]] = {
    "erf": (erf, ((0, 4, 2**-7),), Format(17, 15), "odd", (-math.inf, math.inf)),
    "softsign": (
        _softsign,
        ((0, 2, 2**-7), (2, 16, 2**-4)),
        Format(17, 15),
        "odd",
        (-math.inf, math.inf),
    ),
    "gelu": (_gelu_fold, ((0, 8, 2**-6),), _FINE, "even", (-math.inf, math.inf)),
    "gelu_tanh": (_gelu_tanh_fold, ((0, 8, 2**-6),), _FINE, "even", (-math.inf, math.inf)),
    "silu": (
        _silu_fold,
        ((0, 4, 2**-6), (4, 16, 2**-4)),
        _FINE,
        "even",
        (-math.inf, math.inf),
    ),
    "softplus": (
        _softplus_fold,
        ((0, 4, 2**-6), (4, 16, 2**-4)),
        _FINE,
        "even",
        (-math.inf, math.inf),
    ),
    "hard_swish": (_hard_swish_fold, ((0, 4, 2**-7),), _FINE, "even", (-math.inf, math.inf)),
    "elu": (_elu, ((-16, -4, 2**-4), (-4, 2**-6, 2**-6)), _FINE, "", (-math.inf, math.inf)),
    "exp": (np.exp, ((-15, -3, 2**-4), (-3, 1, 2**-6)), Format(18, 15), "", (-math.inf, 1.0)),
    "sqrt": (_sqrt, _SQRT, Format(18, 14), "", (-math.inf, math.inf)),
}
"""By name: function, (low, high, segment) of each piece, format of the result, mirror, inputs."""

TABLES: tuple[str, ...] = tuple(_KNOWN)
"""Names of the tables that the cells use."""


@cache
def named_table(name: str) -> Table:
    """A table that stillnet knows, by its name.

    Of functions that run along max(x, 0) (gelu, silu, softplus, hard_swish) the table is what is
    left: f(x) - max(x, 0), which is even. Of elu it is exp(min(x, 0)) - 1.
    """
    if name not in _KNOWN:
        raise StillnetError(f"no table of '{name}' is known; known are {', '.join(TABLES)}")
    function, spans, output, mirror, within = _KNOWN[name]
    pieces = tuple(piece(*span) for span in spans)
    return Table(name, function, pieces, output, mirror=mirror, within=within)

"""What is asked of a search."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field

from stillnet.sw.compression import CompressOptions, engine_for
from stillnet.sw.contract.config import PRESETS, EngineConfig
from stillnet.sw.contract.errors import StillnetError
from stillnet.sw.quantization.solvers.masks import PATTERNS

__all__ = ["SAMPLERS", "Offer", "SearchOptions"]

SAMPLERS = ("moves", "tpe", "nsga2", "random")


@dataclass(frozen=True)
class Offer:
    """An engine to choose, and its clock.

    Attributes
    ----------
    config : EngineConfig
    clock_mhz : float
    """

    config: EngineConfig
    clock_mhz: float = 100.0


def _sdram16() -> dict[str, Offer]:
    return {"sdram16": Offer(PRESETS["sdram16"])}


@dataclass(frozen=True)
class SearchOptions:
    """What is asked of a search.

    Attributes
    ----------
    bits : tuple of int
        That a layer's weights may have.
    pattern : str
        ``masks.PATTERNS``.
    errors : (float, float)
        Range of the error on calibration, mean over all outputs, in which thresholds are chosen.
    kept : tuple of float
        Parts of a layer's weights that may stay, descending.
    engines : dict of name to Offer
    sampler : str
        One of ``SAMPLERS``.
    seed : int
    """

    bits: tuple[int, ...] = (4,)
    pattern: str = "unstructured"
    errors: tuple[float, float] = (0.005, 0.03)
    kept: tuple[float, ...] = (1.0, 0.8, 0.65, 0.5, 0.4, 0.3, 0.2)
    engines: Mapping[str, Offer] = field(default_factory=_sdram16)
    sampler: str = "moves"
    seed: int = 0

    def __post_init__(self) -> None:
        if not self.bits or any(b not in (4, 8) for b in self.bits):
            raise StillnetError(f"weights must have 4 or 8 bits, not {self.bits!r}")
        if self.pattern not in PATTERNS:
            raise StillnetError(
                f"pattern must be one of {', '.join(PATTERNS)}, not '{self.pattern}'"
            )
        low, high = self.errors
        if not (math.isfinite(high) and 0 < low < high):
            raise StillnetError(
                f"errors to search must be two positive numbers, the smaller first, not "
                f"{low:g} and {high:g}"
            )
        if not self.kept or any(not 0 < k <= 1 for k in self.kept):
            raise StillnetError(f"parts that stay must be above 0 and at most 1, not {self.kept}")
        if not self.engines:
            raise StillnetError("a search needs an engine to count words on")
        if self.sampler not in SAMPLERS:
            raise StillnetError(
                f"sampler must be one of {', '.join(SAMPLERS)}, not '{self.sampler}'"
            )

    def compression(self, bits: int, kept: float = 1.0) -> CompressOptions:
        """What ``compress`` would be asked for the same."""
        sparsity = 0.0 if kept == 1.0 else 1.0 - kept
        return CompressOptions(
            bits=bits, sparsity=sparsity, pattern=self.pattern, mean_error=self.errors[1]
        )

    def engine(self, name: str) -> EngineConfig:
        """An offered engine with all that a network of this search may ask of it."""
        config = self.engines[name].config
        for bits in self.bits:
            config = engine_for(self.compression(bits, min(self.kept)), config)
        return config

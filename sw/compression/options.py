"""What is asked of a compression, and the engine that its result will need."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

from stillnet.sw.contract.config import PRESETS, EngineConfig
from stillnet.sw.contract.errors import StillnetError
from stillnet.sw.quantization.limits import Budget
from stillnet.sw.quantization.solvers.masks import Pattern

__all__ = ["CompressOptions", "engine_for"]


@dataclass(frozen=True)
class CompressOptions:
    """What is asked of a compression.

    Attributes
    ----------
    bits : int
        Bits of a weight: 4 or 8.
    sparsity : float
        Part of the weights that are removed.
    pattern : str
        ``masks.PATTERNS``.
    max_error : float, Budget or None
        Thresholds for the fewest words within this mean absolute error of each output on the
        calibration recordings.
    mean_error : float or None
        The same of the mean over all outputs.
    frame_ms : float or None
        Thresholds for the least error within this time per step, by the cost model.
    clock_mhz : float
        Clock of engine and memory.
    by_element : bool
        A threshold for each element.
    row_steps : bool or None
        A step for each row of weights; None: where it is worth it, and always with four bits.
    refits : int
        How often the weights are solved again under the chosen thresholds.
    method : str
        ``"second-order"`` or ``"nearest"``.
    follow, damping, passes
        See ``layerwise.Settings``.
    seed : int
    """

    bits: int = 4
    sparsity: float = 0.0
    pattern: str = "unstructured"
    max_error: float | Budget | None = None
    mean_error: float | None = None
    frame_ms: float | None = None
    clock_mhz: float = 100.0
    by_element: bool = True
    row_steps: bool | None = None
    refits: int = 1
    method: str = "second-order"
    follow: float = 0.25
    damping: float = 0.01
    passes: int = 2
    seed: int = 0

    def __post_init__(self) -> None:
        if self.bits not in (4, 8) or isinstance(self.bits, bool):
            raise StillnetError(f"weights must have 4 or 8 bits, not {self.bits!r}")
        Pattern(self.pattern, self.sparsity)
        given = []
        for name in ("max_error", "mean_error", "frame_ms"):
            value = getattr(self, name)
            number = value.error if isinstance(value, Budget) else value
            if number is not None and not (math.isfinite(number) and number > 0):
                raise StillnetError(f"{name} must be a positive number, not {number!r}")
            given += [] if value is None else [name]
        if len(given) > 1:
            raise StillnetError(
                f"give {given[0]} or {given[1]}, not both: each decides the thresholds"
            )
        if self.method not in ("second-order", "nearest"):
            raise StillnetError(f"method must be 'second-order' or 'nearest', not '{self.method}'")

    @property
    def searched(self) -> bool:
        """Whether thresholds are to be found."""
        return any(v is not None for v in (self.max_error, self.mean_error, self.frame_ms))

    @property
    def budget(self) -> Budget:
        """How errors are measured, and how large they may be."""
        if isinstance(self.max_error, Budget):
            return self.max_error
        if self.mean_error is not None:
            return Budget(self.mean_error, each=False)
        return Budget(math.inf if self.max_error is None else self.max_error)


def engine_for(options: CompressOptions, base: EngineConfig | None = None) -> EngineConfig:
    """An engine like ``base`` (``sdram16``) with what the compressed network will ask of it."""
    base = base or PRESETS["sdram16"]
    formats = {"unstructured": ("step", "bitmap"), "lane": ("bitmap",), "block8": ("block",)}
    kinds = ("dense", *formats[options.pattern]) if options.sparsity > 0 else ("dense",)
    unequal = "step" in kinds or "block" in kinds
    return replace(
        base,
        name=f"{base.name}-{options.bits}bit",
        int4=base.int4 or options.bits == 4,
        formats=tuple(dict.fromkeys((*base.formats, *kinds))),
        columns=max(base.columns, 8192) if unequal else base.columns,
        row_scale=base.row_scale or options.row_steps is not False,
        element_thresholds=base.element_thresholds or (options.searched and options.by_element),
    )

"""Compression without training: few bits, pruned weights and thresholds from recordings only.

``docs/compression.md`` explains the method and has what it reaches.
"""

from stillnet.sw.quantization.layerwise import Settings
from stillnet.sw.quantization.limits import Budget
from stillnet.sw.quantization.solvers.masks import Pattern

from .options import CompressOptions, engine_for
from .pipeline import compress
from .pruned import Given

__all__ = ["Budget", "CompressOptions", "Given", "Pattern", "Settings", "compress", "engine_for"]

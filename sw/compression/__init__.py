"""Compression without training: few bits, pruned weights and thresholds from recordings only.

``docs/compression.md`` explains the method and has what it reaches.
"""

from .layerwise import Settings
from .masks import Pattern
from .options import CompressOptions, engine_for
from .pipeline import compress
from .pruned import Given

__all__ = ["CompressOptions", "Given", "Pattern", "Settings", "compress", "engine_for"]

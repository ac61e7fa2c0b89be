"""Networks for tests of what comes after quantization: rounded to nearest, one step a layer.

They are made in a fraction of a second, and fit the presets as they are.
"""

from __future__ import annotations

from functools import partial

from stillnet.sw.quantization import quantizer

__all__ = ["quantize"]

quantize = partial(quantizer.quantize, method="nearest", row_steps=False)

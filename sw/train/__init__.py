"""Training of quantized networks: weights, thresholds and masks against words per step.

PyTorch is needed by :func:`train` and the modules below it, not by importing this package.
``docs/how-to/train.md`` explains the method.
"""

from .options import TrainOptions
from .run import require_torch, train

__all__ = ["TrainOptions", "require_torch", "train"]

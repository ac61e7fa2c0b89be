"""onnxruntime, which runs what the host does: the one place that calls it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Any

import numpy as np

from stillnet.sw.contract.errors import StillnetError

__all__ = ["Session", "session"]


class Session:
    """A graph in onnxruntime.

    Attributes
    ----------
    inputs : set of str
    """

    def __init__(self, model: bytes) -> None:
        try:
            import onnxruntime
        except ImportError:
            raise StillnetError(
                "the parts of a model that run on the host need the package onnxruntime: "
                'pip install "stillnet[onnx]"'
            ) from None
        options = onnxruntime.SessionOptions()
        options.log_severity_level = 4  # errors are raised; warnings are for developers
        options.intra_op_num_threads = 1  # steps are small, and calls must be quick
        self._session = onnxruntime.InferenceSession(
            model, options, providers=["CPUExecutionProvider"]
        )
        self.inputs = {i.name for i in self._session.get_inputs()}

    def run(self, outputs: Sequence[str], feed: Mapping[str, np.ndarray]) -> list[Any]:
        """Values of outputs."""
        return list(self._session.run(list(outputs), dict(feed)))


@lru_cache(maxsize=32)
def session(model: bytes) -> Session:
    """A graph, ready to run.

    Raises
    ------
    StillnetError
        Where onnxruntime is not installed.
    """
    return Session(model)

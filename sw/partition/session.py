"""onnxruntime, which runs what the host does: the one place that calls it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Any

import numpy as np

from stillnet.sw.contract.errors import StillnetError

__all__ = ["HostFailed", "Session", "session"]


class HostFailed(StillnetError):
    """onnxruntime does not run a graph."""

    def __init__(self, reason: str) -> None:
        super().__init__(
            f"onnxruntime cannot run the host's part of the model ({reason}); the file is damaged, "
            "or was made for another version: quantize the model again"
        )
        self.reason = reason


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
        try:
            self._session = onnxruntime.InferenceSession(
                model, options, providers=["CPUExecutionProvider"]
            )
        except Exception as error:  # of classes of its own
            raise HostFailed(_first_line(error)) from error
        self.inputs = {i.name for i in self._session.get_inputs()}

    def run(self, outputs: Sequence[str], feed: Mapping[str, np.ndarray]) -> list[Any]:
        """Values of outputs."""
        try:
            return list(self._session.run(list(outputs), dict(feed)))
        except Exception as error:
            raise HostFailed(_first_line(error)) from error


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]


@lru_cache(maxsize=32)
def session(model: bytes) -> Session:
    """A graph, ready to run.

    Raises
    ------
    StillnetError
        Where onnxruntime is not installed.
    """
    return Session(model)

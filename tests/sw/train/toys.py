"""Small models and recordings that train in seconds."""

from __future__ import annotations

import numpy as np

from stillnet.sw.compression import CompressOptions, compress
from stillnet.sw.model.model import Model
from stillnet.sw.network.network import Network

__all__ = ["parameters", "recordings", "toy_model", "toy_network"]

UNITS = 16


def parameters(kind: str = "gru") -> dict[str, np.ndarray]:
    """Weights of the recurrent layer, by PyTorch's names."""
    rng = np.random.default_rng(0)
    rows = (3 if kind == "gru" else 4) * UNITS
    return {
        "weight_ih": rng.normal(0, 0.6, (rows, 5)),
        "weight_hh": rng.normal(0, 1.2 / np.sqrt(UNITS), (rows, UNITS)),
        "bias_ih": rng.normal(0, 0.1, rows),
        "bias_hh": rng.normal(0, 0.1, rows),
    }


def toy_model(kind: str = "gru") -> Model:
    """Five inputs, a recurrent layer of 16, three outputs."""
    rng = np.random.default_rng(1)
    model = getattr(Model(5), kind)(*parameters(kind).values(), name="cell")
    return model.dense(rng.normal(0, 0.3, (3, UNITS)), np.zeros(3), name="out")


def recordings(count: int = 3, steps: int = 160, seed: int = 1) -> list[np.ndarray]:
    """Slow waves with a little noise."""
    rng = np.random.default_rng(seed)
    t = np.arange(steps)[:, None]
    return [
        np.sin(2 * np.pi * rng.uniform(0.005, 0.05, (1, 5)) * t)
        + 0.01 * rng.normal(size=(steps, 5))
        for _ in range(count)
    ]


def toy_network(sparsity: float = 0.0, error: float | None = 0.03) -> Network:
    """The toy of GRUs, compressed to four bits."""
    options = CompressOptions(bits=4, sparsity=sparsity, mean_error=error)
    return compress(toy_model(), recordings(), options)

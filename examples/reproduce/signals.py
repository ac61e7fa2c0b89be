"""Signals with a public definition, and how far an estimate of them is away."""

from __future__ import annotations

import numpy as np

__all__ = ["SITES", "SKIPPED", "decibels", "lorenz", "recordings"]


def lorenz(
    streams: int, steps: int, seed: int, *, sites: int = 16, noise: float = 2.0
) -> tuple[np.ndarray, np.ndarray]:
    """Lorenz's model of 1996, and what is seen of it.

    dx_i/dt = (x_{i+1} - x_{i-2}) x_{i-1} - x_i + 8, with the sites in a ring.

    Parameters
    ----------
    streams, steps : int
        A step is 0.05 units of time, one step of the classical method of Runge and Kutta.
    seed : int
    sites : int
    noise : float
        Standard deviation of the white noise that is added.

    Returns
    -------
    seen, true : arrays, shape (steps, streams, sites)
        Divided by 4, so that they are of the order of one.
    """
    rng = np.random.default_rng(seed)
    x = 8 + rng.normal(size=(streams, sites))

    def rate(x: np.ndarray) -> np.ndarray:
        return (np.roll(x, -1, 1) - np.roll(x, 2, 1)) * np.roll(x, 1, 1) - x + 8

    found = []
    for t in range(steps + 200):
        a = rate(x)
        b = rate(x + 0.025 * a)
        c = rate(x + 0.025 * b)
        x = x + 0.05 / 6 * (a + 2 * b + 2 * c + rate(x + 0.05 * c))
        if t >= 200:
            found.append(x)
    true = np.stack(found)
    return (true + noise * rng.normal(size=true.shape)) / 4, true / 4


SITES = 16
"""Of the model that the filters of these pages learn."""

SKIPPED = 50
"""First steps of a recording, which are not judged."""


def recordings(streams: int, steps: int, seed: int) -> tuple[list[np.ndarray], list[np.ndarray]]:
    """What is seen and what is true, one array (steps, sites) for each stream."""
    seen, true = lorenz(streams, steps, seed, sites=SITES)
    return list(seen.transpose(1, 0, 2)), list(true.transpose(1, 0, 2))


def decibels(y: list[np.ndarray], wanted: list[np.ndarray]) -> float:
    """Squared error beside the variance of what is true, in dB."""
    d = np.concatenate([(a - b)[SKIPPED:] for a, b in zip(y, wanted)])
    return float(10 * np.log10(np.mean(d**2) / np.var(np.concatenate(wanted))))

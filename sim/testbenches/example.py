"""A network and an engine for benches: small, with every kind of matrix, and thresholds above 0."""

from __future__ import annotations

from typing import Any

import numpy as np

from stillnet.sw.contract.config import EngineConfig
from stillnet.sw.network.network import INPUT, Network, QuantizedLayer, QuantizedMatrix

__all__ = ["gru_dense", "small_config"]


def small_config(**changes: Any) -> EngineConfig:
    """An engine that the network of :func:`gru_dense` just fits."""
    values: dict[str, Any] = {
        "cells": ("gru", "linear"),
        "units": 32,
        "inputs": 16,
        "accumulators": 64,
        "layers": 4,
        "matrices": 12,
        "address_bits": 12,
        "fetch_columns": 8,
        "fetch_words": 16,
        "prefetch_blocks": 2,
    }
    return EngineConfig(name="small", **{**values, **changes})


def gru_dense(
    seed: int, inputs: int = 5, units: int = 9, outputs: int = 3, grus: int = 1
) -> Network:
    """GRUs one after the other and a dense layer, with random numbers; 0 outputs: no dense one."""
    rng = np.random.default_rng(seed)

    def matrix(source: int, gates: tuple[str, ...], rows: int, columns: int) -> QuantizedMatrix:
        weight = rng.integers(-60, 61, (len(gates), rows, columns)).astype(np.int8)
        return QuantizedMatrix(source, gates, weight, 7)

    def bias(gates: tuple[str, ...], rows: int) -> dict[str, np.ndarray]:
        return {g: rng.integers(-20000, 20000, rows) for g in gates}

    layers = []
    for k in range(grus):
        below = inputs if k == 0 else units
        layers.append(
            QuantizedLayer(
                name=f"gru{k}",
                cell="gru",
                units=units,
                matrices=[
                    matrix(INPUT if k == 0 else k - 1, ("r", "u", "cx"), units, below),
                    matrix(k, ("r", "u", "ch"), units, units),
                ],
                bias=bias(("r", "u", "cx", "ch"), units),
                shift=13,
                write_shift=3,
                fraction=11,
                threshold=20,
            )
        )
    if outputs == 0:
        return Network(inputs, 11, layers, input_threshold=30)
    dense = QuantizedLayer(
        name="dense",
        cell="linear",
        units=outputs,
        matrices=[matrix(grus - 1, ("y",), outputs, units)],
        bias=bias(("y",), outputs),
        shift=16,
        write_shift=0,
        fraction=10,
    )
    network = Network(inputs, 11, [*layers, dense], input_threshold=30)
    network.validate()
    return network

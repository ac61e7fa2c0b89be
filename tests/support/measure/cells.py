"""Prints the table of docs/cells.md: bound and error of one network of each kind of cell."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from stillnet.sw.contract.cells import CELLS
from stillnet.sw.model.model import Model
from stillnet.sw.network.checks import label_exponent
from stillnet.sw.network.network import Network
from tests.support.networks.quick import quantize
from tests.support.oracles.bounds import check
from tests.sw.contract.test_cells_gated import slow, weights
from tests.sw.contract.test_cells_s5 import signal, stack


def models() -> dict[str, tuple[Model, np.ndarray]]:
    """Thirty-two units on sixteen inputs, two hundred steps."""
    rng = np.random.default_rng(0)
    n, h = 16, 32
    x = slow(rng, 200, n) / 3
    w = {g: weights(rng, g, n, h, 1.0) for g in (2, 3, 4)}
    lam = rng.uniform(0.8, 0.99, h) * np.exp(1j * rng.uniform(-1, 1, h))
    b = rng.normal(0, 0.2, (h, n)) + 1j * rng.normal(0, 0.2, (h, n))
    c = rng.normal(0, 0.2, (h, h)) + 1j * rng.normal(0, 0.2, (h, h))
    peepholes = {g: rng.uniform(-1, 1, h) for g in "ifo"}
    s5 = stack(rng, n, 32, 32, 2, 8)[0]
    return {
        "GRU, reset after": (Model(n).gru(**w[3]), x),
        "GRU, reset before": (Model(n).gru(**w[3], reset="before"), x),
        "GRU, reset before, ReLU": (Model(n).gru(**w[3], reset="before", activation="relu"), x),
        "LSTM": (Model(n).lstm(**w[4]), x),
        "LSTM, peepholes": (Model(n).lstm(**w[4], peepholes=peepholes), x),
        "EGRU, theta 0.1": (Model(n).egru(**w[3], theta=np.full(h, 0.1)), x),
        "minGRU": (Model(n).mingru(w[2]["w_ih"], w[2]["b_ih"]), x),
        "LiGRU": (Model(n).ligru(w[2]["w_ih"], w[2]["w_hh"] / 2, w[2]["b_ih"]), x),
        "leaky, rate 0.05": (Model(n).leaky(w[2]["w_ih"][:h], rate=0.05), x),
        "convolution, 4 taps": (Model(n).conv(rng.normal(0, 0.2, (h, n, 4))), x),
        "LRU": (Model(n).lru(lam, b, c), x),
        "S5, two blocks": (s5, signal(rng, 200, n)),
    }


def with_quantized_weights(model: Model, network: Network) -> Model:
    """The float model with the weights, biases and parameters that the network has."""
    layers = []
    for i, (layer, q) in enumerate(zip(model.layers, network.layers)):
        cell, unit = CELLS[layer.cell], 2.0 ** -network.exponent(i)
        half = 1 << q.shift - 9 if cell.floors and q.shift > 8 else 0
        matrices = tuple(
            replace(m, weight=n.weight * 2.0**-n.fraction)
            for m, n in zip(layer.matrices, q.matrices)
        )
        parameters = {
            p: v * 2.0 ** -(cell.parameters[p].fraction + label_exponent(cell, q.exponents, p))
            for p, v in q.parameters.items()
        }
        bias = {g: (b + half) * unit for g, b in q.bias.items()}
        layers.append(replace(layer, matrices=matrices, bias=bias, parameters=parameters))
    return Model(model.inputs, layers)


def main() -> None:
    print(
        "| cell | rms of the output | rms error | largest error | rms error, same 8-bit weights "
        "in floating point | mean bound of one step |"
    )
    print("|---|---|---|---|---|---|")
    for name, (model, x) in models().items():
        network = quantize(model, x)
        y, bounds = check(model, network, x)
        error = y - model.run(x)
        formats = y - with_quantized_weights(model, network).run(x)
        rms = np.sqrt(np.mean(model.run(x) ** 2))
        print(
            f"| {name} | {rms:.3f} | {np.sqrt(np.mean(error**2)):.5f} | {np.abs(error).max():.4f} "
            f"| {np.sqrt(np.mean(formats**2)):.6f} | {bounds[-1]:.4f} |"
        )


if __name__ == "__main__":
    main()

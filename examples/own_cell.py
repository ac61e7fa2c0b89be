"""A cell of one's own, from its paper's equation: FastGRNN (arXiv 1901.02358).

    z = sigmoid(W x + U h + b_z)    c = tanh(W x + U h + b_h)    h' = (zeta (1 - z) + nu) c + z h

Both gates share one product, so it has a third of a GRU's weights. Run this file to see it
quantized, or load it into any command:

    python examples/own_cell.py --output build/own
    stillnet --cells examples/own_cell.py generate --preset build/own/own.toml -o build/own/own.v

docs/start/your-own-cell.md goes through it line by line, down to the bitstream.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np

from stillnet import EngineConfig, Model, pack, quantize, run
from stillnet.sw.contract.cells import Cell, register
from stillnet.sw.contract.cells.expr import sigmoid, tanh
from stillnet.sw.contract.fixed import PRE, Format


@register
class FastGRNN(Cell):
    name = "fastgrnn"
    accumulators = ("a",)
    parameters = {"bz": PRE, "bh": PRE, "zeta": Format(18, 16), "nu": Format(18, 16)}
    state = {"h": Format(16, 12)}  # h may exceed 1: +-8 here

    def update(self, m, state):
        z, c = sigmoid(m.a + m.bz), tanh(m.a + m.bh)
        return state.h.next((m.zeta * (1 - z) + m.nu) * c + z * state.h)


# -- a network of it ------------------------------------------------------------------------------


def textbook(x, w, u, bz, bh, zeta, nu):
    """The equation in NumPy, to hold the cell against."""
    h, states = np.zeros(len(u)), []
    for row in x:
        a = w @ row + u @ h
        z, c = 1 / (1 + np.exp(-a - bz)), np.tanh(a + bh)
        h = (zeta * (1 - z) + nu) * c + z * h
        states.append(h)
    return np.array(states)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--output", type=Path, default=Path("build/own"))
    parser.add_argument("--rtl", action="store_true", help="run the generated hardware too")
    args = parser.parse_args()
    args.output.mkdir(parents=True, exist_ok=True)

    # Stands for a trained network: 8 inputs, 32 units, 4 outputs.
    rng = np.random.default_rng(1)
    w, u = rng.normal(0, 0.3, (32, 8)), rng.normal(0, 0.1, (32, 32))
    bz, bh = rng.normal(0, 0.5, 32), rng.normal(0, 0.5, 32)
    readout = rng.normal(0, 0.3, (4, 32))
    x = np.cumsum(rng.normal(0, 0.1, (300, 8)), axis=0)

    zeta, nu = np.full(32, 0.98), np.full(32, 0.02)
    model = Model(8).layer(
        "fastgrnn",
        {"a": w},
        {"a": u},
        parameters={"bz": bz, "bh": bh, "zeta": zeta, "nu": nu},
        name="cell",
    )
    model.dense(readout, name="readout")
    wanted = textbook(x, w, u, bz, bh, zeta, nu) @ readout.T
    assert np.allclose(model.run(x), wanted)  # the cell means what the paper says

    network = quantize(model, x, thresholds={"cell": 1 / 256}, name="own")
    network.save(args.output / "own.safetensors")
    got = run(network, x).outputs
    print(
        f"outputs up to {np.abs(wanted).max():.2f}, largest error {np.abs(got - wanted).max():.4f}"
    )

    config = EngineConfig(
        name="own", lanes=4, cells=("fastgrnn", "linear"), units=64, inputs=16, row_scale=True
    )
    (args.output / "own.toml").write_text(config.to_toml())
    (args.output / "own.img").write_bytes(pack(network, config).data)
    np.save(args.output / "x.npy", x)
    print(f"network, engine configuration, image and input are in {args.output}")
    if args.rtl:
        result = run(network, x, engine="rtl", preset=str(args.output / "own.toml"), steps=20)
        print(f"hardware: {result.mismatches} mismatches in {result.steps} steps")


if __name__ == "__main__":
    main()

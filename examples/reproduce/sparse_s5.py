"""A sparse linear recurrent network: small S5, dense and with 90 % of the weights gone.

    python examples/reproduce/sparse_s5.py            measures the networks that are here, draws the
                                                      picture
    python examples/reproduce/sparse_s5.py --train    makes them anew first

docs/reproduce/sparse-s5.md explains what is done. Training needs PyTorch; the data are generated.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
from shared import COLOURS, FOLDER, NETWORKS, command_line, figures, judge, picture, write_results
from signals import SITES, decibels, lorenz, recordings

import stillnet as sn

SEED = 0
SIZES = {
    "dense": (24, 32, 48, 64),
    "sparse": (64, 128),
}
"""Units, as many as complex states."""
KEPT = {"dense": 1.0, "sparse": 0.1}
UPDATES = 1500


def imported(net: Any) -> sn.Model:
    """A trained module as a float model."""

    def array(value: Any) -> np.ndarray:
        return np.asarray(value.detach().numpy())

    def parts(value: Any) -> np.ndarray:
        re, im = array(value).astype(float)
        return re + 1j * im

    model = sn.Model(SITES, name="s5").s5_encoder(
        array(net.encoder.weight).astype(float), array(net.encoder.bias).astype(float)
    )
    for block in net.blocks:
        model.s5(
            array(block.lam()).astype(complex),
            parts(block.b),
            parts(block.c),
            array(block.d).astype(float),
            glu=(array(block.glu.weight).astype(float), array(block.glu.bias).astype(float)),
            factor=array(block.factor()).astype(complex),
        )
    return model.dense(
        array(net.decoder.weight).astype(float),
        array(net.decoder.bias).astype(float),
        name="decoder",
    )


def make() -> None:
    """Trains all networks and writes them as integers: weights of 8 bits, activations of 16."""
    import torch
    from s5_training import S5Net, train

    torch.set_num_threads(1)
    seen, true = (torch.tensor(v, dtype=torch.float32) for v in lorenz(64, 1500, 1, sites=SITES))
    for kind, sizes in SIZES.items():
        for units in sizes:
            torch.manual_seed(SEED)
            net = S5Net(SITES, units, units, 1, SITES)
            print(f"training {kind} {units}", file=sys.stderr, flush=True)
            write(f"s5-{kind}-{units}", train(net, seen, true, UPDATES, kept=KEPT[kind]))


def write(name: str, net: Any) -> None:
    """A trained module as a network of integers."""
    calibration = recordings(8, 200, 3)[0]
    network = sn.quantize(imported(net), calibration, method="nearest", name=name)
    network.notes["made by"] = f"python examples/reproduce/sparse_s5.py --train, seed {SEED}"
    network.save(NETWORKS / f"{name}.safetensors")


def measure() -> dict[str, dict[str, float]]:
    """Error and cost of every network on unseen recordings, by integers."""
    seen, true = recordings(8, 600, 2)
    found = {}
    for kind, sizes in SIZES.items():
        for units in sizes:
            name = f"s5-{kind}-{units}"
            network = sn.Network.load(NETWORKS / f"{name}.safetensors")
            y, trace = judge(network, seen)
            cost = figures(network, seen, trace)
            weights = [m.weight for layer in network.layers for m in layer.matrices]
            found[name] = {
                "db": decibels(y, true),
                "words": cost.words,
                "cycles": cost.cycles,
                "multiplications": cost.multiplications,
                "weights": sum(np.count_nonzero(w) for w in weights),
                "kept": sum(np.count_nonzero(w) for w in weights) / sum(w.size for w in weights),
            }
    return found


def draw(found: dict[str, dict[str, float]], path: Path) -> None:
    """Error against words and against weights."""
    fig, axes = picture()
    for axis, key in zip(axes, ("cycles", "weights")):
        for k, (kind, label) in enumerate((("dense", "dense"), ("sparse", "90 % gone"))):
            rows = [r for n, r in found.items() if f"-{kind}-" in n]
            axis.plot(
                [r[key] for r in rows], [r["db"] for r in rows], "o-", color=COLOURS[k], label=label
            )
            for units, r in zip(SIZES[kind], rows):
                axis.annotate(f" {units}", (r[key], r["db"]), fontsize=8, color=COLOURS[k])
        axis.set_xscale("log")
        axis.xaxis.set_minor_formatter("")
        axis.set_ylabel("squared error (dB)")
    axes[0].set_xlabel("cycles per step, 8 lanes")
    axes[1].set_xlabel("weights that are not zero")
    axes[0].set_title("S5, weights 8 bits, activations 16")
    axes[0].legend()
    fig.savefig(path, dpi=110)


def show(keep: bool) -> Path:
    """Measures, prints, draws; gives the picture."""
    found = measure()
    print("network         error dB  weights  kept  words  cycles  multiplications")
    for name, r in found.items():
        print(
            f"{name:14}  {r['db']:8.2f}  {r['weights']:7,.0f}  {r['kept']:4.2f}  "
            f"{r['words']:5.0f}  {r['cycles']:6.0f}  {r['multiplications']:15,.0f}"
        )
    if keep:
        write_results("s5", found)
    path = FOLDER / "sparse-s5.png"
    draw(found, path)
    return path


if __name__ == "__main__":
    sys.exit(command_line("sparse_s5.py", __doc__, make, show))

"""Patterns of weights that are gone, at equal words: blocks of 8 by 8, as many in each lane, any.

    python examples/reproduce/block_sparsity.py            measures the networks that are here and
                                                           draws the picture
    python examples/reproduce/block_sparsity.py --train    makes them anew first

docs/reproduce/block-sparsity.md explains what is done. Training needs PyTorch; the data are
generated.
"""

from __future__ import annotations

import copy
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from shared import (
    COLOURS,
    FOLDER,
    NETWORKS,
    command_line,
    figures,
    judge,
    picture,
    read_results,
    write_results,
)
from signals import SITES, decibels, lorenz, recordings

import stillnet as sn
from stillnet.sw.compression import CompressOptions, compress
from stillnet.sw.compression.allocation import figures as worths
from stillnet.sw.compression.pruned import Given
from stillnet.sw.compression.stages import prepare_setup
from stillnet.sw.contract.config import EngineConfig
from stillnet.sw.quantization.solvers.hessian import bundles
from stillnet.sw.quantization.solvers.masks import BLOCK, GROUP, Pattern, keep_largest
from stillnet.sw.util.progress import silent

UNITS, SEED = 128, 0
FLOAT_UPDATES, UPDATES, BATCH = 1200, 200, 16
PLACE = FOLDER / "block-sparsity"

PATTERNS = {
    "block8": "blocks of 8 by 8",
    "lane": "as many in each lane",
    "unstructured": "any weight",
}
KEPT_OF_GROUP = (8, 4, 2)
"""Weights of 16 rows of a lane that stay, of the pattern by lanes. Its words are those that the
other patterns get."""

ENGINE = replace(
    EngineConfig.load("axi64"),
    name="patterns",
    formats=("dense", "block", "bitmap", "place", "step"),
    columns=1024,
    row_scale=True,
)
"""8 lanes, 64-bit words, weights of 8 bits, and every format of columns."""

Masks = list[np.ndarray]
"""Of the two matrices of the GRU, by inputs and by states: bool (gates, units, columns)."""


def imported(net: Any) -> sn.Model:
    """A trained module as a float model."""

    def array(value: Any) -> np.ndarray:
        return np.asarray(value.detach().numpy(), float)

    gru, out = net.gru, net.out
    model = sn.Model(SITES, name="filter").gru(
        array(gru.weight_ih_l0),
        array(gru.weight_hh_l0),
        array(gru.bias_ih_l0),
        array(gru.bias_hh_l0),
        name="gru",
    )
    return model.dense(array(out.weight), array(out.bias), name="out")


# -- masks ----------------------------------------------------------------------------------------


def worth(model: sn.Model, calibration: list[np.ndarray]) -> list[np.ndarray]:
    """What the output would lose without each weight of the GRU: as ``compress`` ranks weights.

    Returns
    -------
    list of arrays, shape (gates, units, columns)
    """
    options = CompressOptions(bits=8, row_steps=True)
    setup = prepare_setup(model, calibration, options, ENGINE, None, None, silent)
    found = worths(setup.job, setup.settings)
    layer = model.layers[0]
    values = [np.zeros(m.weight.shape) for m in layer.matrices]
    for place, bundle in enumerate(bundles(model, 0)):
        for (j, places), part in zip(bundle.parts, bundle.columns(model)):
            rows = found[0, place][:, part]
            values[j][list(places)] = rows.reshape(len(places), layer.units, -1)
    return values


def largest(values: list[np.ndarray], part: float) -> Masks:
    """A part of the entries of all arrays together, those of the largest values."""
    flat = np.concatenate([v.ravel() for v in values])
    kept = keep_largest(flat, round(part * flat.size))
    ends = np.cumsum([v.size for v in values])[:-1]
    return [k.reshape(v.shape) for k, v in zip(np.split(kept, ends), values)]


def in_blocks(values: list[np.ndarray]) -> list[np.ndarray]:
    """Sums over blocks: (gates, units / 8, columns / 8)."""
    return [
        v.reshape(v.shape[0], v.shape[1] // BLOCK, BLOCK, v.shape[2] // BLOCK, BLOCK).sum((2, 4))
        for v in values
    ]


def by_lane(values: np.ndarray, count: int) -> np.ndarray:
    """Of every 16 rows of a lane the ``count`` that are worth most, column by column."""
    gates, units, columns = values.shape
    pattern = Pattern("lane", 1 - count / GROUP, ENGINE.multipliers)
    groups = pattern.groups(range(gates), units)
    rows = values.reshape(gates * units, columns)
    return np.stack([groups.keep(c) for c in rows.T], 1).reshape(values.shape)


def masks(pattern: str, values: list[np.ndarray], part: float) -> Masks:
    """What stays of the GRU's matrices."""
    match pattern:
        case "block8":
            kept = largest(in_blocks(values), part)
            return [k.repeat(BLOCK, 1).repeat(BLOCK, 2) for k in kept]
        case "lane":
            return [by_lane(v, round(GROUP * part)) for v in values]
        case _:
            return largest(values, part)


def masked(network: sn.Network, kept: Masks) -> sn.Network:
    """A copy with weights of the GRU left out."""
    found = copy.deepcopy(network)
    for m, keep in zip(found.layers[0].matrices, kept):
        m.weight = np.where(keep, m.weight, 0).astype(m.weight.dtype)
    return found


def words_of(network: sn.Network) -> int:
    """Words of all columns of the GRU."""
    layer = network.layers[0]
    return sum(int(m.layout(layer.cell, ENGINE).lengths.sum()) for m in layer.matrices)


def within(pattern: str, values: list[np.ndarray], dense: sn.Network, words: int) -> Masks:
    """The most weights in a pattern whose words are at most so many."""
    low, high = 0.0, 1.0
    for _ in range(12):
        middle = (low + high) / 2
        if words_of(masked(dense, masks(pattern, values, middle))) <= words:
            low = middle
        else:
            high = middle
    return masks(pattern, values, low)


# -- the work -------------------------------------------------------------------------------------


def trained_float() -> sn.Model:
    """The GRU that all networks come from."""
    import torch
    from gru_training import Filter, train

    path = PLACE / "model.safetensors"
    if not path.is_file():
        torch.set_num_threads(1)
        torch.manual_seed(SEED)
        seen, true = (
            torch.tensor(v, dtype=torch.float32) for v in lorenz(64, 1500, 1, sites=SITES)
        )
        print("training the float network", file=sys.stderr, flush=True)
        imported(train(Filter(SITES, UNITS), seen, true, FLOAT_UPDATES)).save(path)
    return sn.load_model(path)


def solved(model: sn.Model, kept: Masks | None, calibration: list[np.ndarray]) -> sn.Network:
    """Integers of eight bits whose other weights make good for those that are gone."""
    if kept is not None:
        gru = model.layers[0]
        matrices = tuple(
            replace(m, weight=np.where(k, m.weight, 0.0)) for m, k in zip(gru.matrices, kept)
        )
        model = replace(model, layers=[replace(gru, matrices=matrices), *model.layers[1:]])
    options = CompressOptions(bits=8, row_steps=True)
    given = None if kept is None else Given(zeros=True)
    return compress(model, calibration, options, config=ENGINE, given=given)


def trained(model: sn.Model, kept: Masks | None, path: Path) -> sn.Model:
    """The float network after training with what is left of it; all of it where there are no
    masks."""
    if path.is_file():
        return sn.load_model(path)
    import torch
    from gru_training import Filter, train

    torch.set_num_threads(1)
    net = Filter(SITES, UNITS)
    gru, out = model.layers
    (wx, wh), zero = (m.weight.reshape(3 * UNITS, -1) for m in gru.matrices), np.zeros(UNITS)
    values = {
        "gru.weight_ih_l0": wx,
        "gru.weight_hh_l0": wh,
        "gru.bias_ih_l0": np.concatenate([gru.bias[g] for g in ("r", "u", "cx")]),
        "gru.bias_hh_l0": np.concatenate([zero, zero, gru.bias["ch"]]),
        "out.weight": out.matrices[0].weight[0],
        "out.bias": out.bias["y"],
    }
    net.load_state_dict({k: torch.tensor(v, dtype=torch.float32) for k, v in values.items()})
    ones = [np.ones(m.weight.shape) for m in gru.matrices] if kept is None else kept
    few = [torch.tensor(m.reshape(3 * UNITS, -1), dtype=torch.float32) for m in ones]
    with torch.no_grad():
        for weight, mask in zip(net.weights(), few):
            weight *= mask
    seen, true = (torch.tensor(v, dtype=torch.float32) for v in lorenz(64, 1500, 1, sites=SITES))
    train(net, seen, true, UPDATES, batch=BATCH, top=2e-3, seed=SEED + 1, masks=few)
    imported(net).save(path)
    return imported(net)


def all_masks(model: sn.Model, calibration: list[np.ndarray]) -> dict[str, Masks | None]:
    """What stays of the GRU in every network, by name."""
    dense = solved(model, None, calibration)
    values = worth(model, calibration)
    found: dict[str, Masks | None] = {"dense": None}
    for count in KEPT_OF_GROUP:
        part = count / GROUP
        lanes = masks("lane", values, part)
        words = words_of(masked(dense, lanes))
        for pattern in PATTERNS:
            few = lanes if pattern == "lane" else within(pattern, values, dense, words)
            found[f"{pattern}-{count}"] = few
    return found


def make() -> None:
    """Trains the float network, prunes it in every way, trains what is left."""
    PLACE.mkdir(parents=True, exist_ok=True)
    model = trained_float()
    calibration = recordings(8, 400, 3)[0]
    seen, true = recordings(8, 600, 2)
    before = {}
    for name, kept in all_masks(model, calibration).items():
        before[name] = row(solved(model, kept, calibration))
        print(f"{name}: {before[name]['db']:.2f} dB before training", file=sys.stderr, flush=True)
        learnt = trained(model, kept, PLACE / f"{name}.safetensors")
        network = solved(learnt, kept, calibration)
        made = f"python examples/reproduce/block_sparsity.py --train, seed {SEED}"
        network.name, network.notes = f"pattern-{name}", {"made by": made}
        network.save(NETWORKS / f"pattern-{name}.safetensors")
    values = {"untrained": before, "float": decibels([model.run(x) for x in seen], true)}
    write_results("block-sparsity", values)


def row(network: sn.Network) -> dict[str, Any]:
    """Error and cost on unseen recordings, by integers."""
    seen, true = recordings(8, 600, 2)
    y, trace = judge(network, seen)
    cost = figures(network, seen, trace, ENGINE)
    layer = network.layers[0]
    weights = [m.weight for m in layer.matrices]
    kept = sum(int(np.count_nonzero(w)) for w in weights)
    return {
        "db": decibels(y, true),
        "words": cost.words,
        "cycles": cost.cycles,
        "weights": kept,
        "kept": kept / sum(w.size for w in weights),
        "column words": words_of(network),
        "bits per weight": words_of(network) * 64 / kept,
        "formats": [m.layout(layer.cell, ENGINE).name for m in layer.matrices],
    }


def measure() -> dict[str, dict[str, Any]]:
    """The trained networks, by name."""
    names = ["dense", *(f"{p}-{k}" for k in KEPT_OF_GROUP for p in PATTERNS)]
    return {n: row(sn.Network.load(NETWORKS / f"pattern-{n}.safetensors")) for n in names}


def draw(untrained: dict[str, Any], found: dict[str, Any], path: Path) -> None:
    """Error against words and against weights, before and after training."""
    fig, axes = picture()
    for axis, key in zip(axes, ("words", "kept")):
        for k, (pattern, label) in enumerate(PATTERNS.items()):
            for rows, style in ((untrained, "o--"), (found, "o-")):
                some = [rows["dense"], *(rows[f"{pattern}-{n}"] for n in KEPT_OF_GROUP)]
                axis.plot(
                    [r[key] for r in some],
                    [r["db"] for r in some],
                    style,
                    color=COLOURS[k],
                    mfc="white" if style.endswith("--") else COLOURS[k],
                    label=None if style.endswith("--") else label,
                )
        axis.set_ylabel("squared error (dB)")
    axes[0].plot([], [], "--", color=COLOURS[6], label="before training")
    axes[0].set_xlabel("words per step, 8 lanes")
    axes[1].set_xlabel("part of the weights that stays")
    axes[0].set_title("A GRU of 128 units, weights of 8 bits")
    axes[0].legend()
    fig.savefig(path, dpi=110)


def show(keep: bool) -> Path:
    """Measures, prints, draws; gives the picture."""
    results = read_results()["block-sparsity"]
    results["trained"] = measure()
    print(f"floating point: {results['float']:.2f} dB")
    print("network         before  trained   kept  words  cycles  bits per weight  formats")
    for name, r in results["trained"].items():
        print(
            f"{name:15} {results['untrained'][name]['db']:6.2f}  {r['db']:7.2f}  "
            f"{r['kept']:5.3f}  {r['words']:5.0f}  {r['cycles']:6.0f}  "
            f"{r['bits per weight']:15.2f}  {', '.join(r['formats'])}"
        )
    if keep:
        write_results("block-sparsity", results)
    path = FOLDER / "block-sparsity.png"
    draw(results["untrained"], results["trained"], path)
    return path


if __name__ == "__main__":
    sys.exit(command_line("block_sparsity.py", __doc__, make, show))

"""A delta-GRU of 985 parameters for a power amplifier, after EdgeDRNN.

    python examples/reproduce/edgedrnn.py            measures the networks that are here, draws the
                                                     picture
    python examples/reproduce/edgedrnn.py --train    makes them anew first

docs/reproduce/edgedrnn.md explains what is done. The measured data are in the package opendpd:
``pip install --no-deps opendpd==2.4.2``. Training needs PyTorch; the package's own training also
needs pandas, tqdm, pydantic, scipy, threadpoolctl, rich and psutil.
"""

from __future__ import annotations

import importlib.metadata
import json
import subprocess
import sys
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
from shared import (
    COLOURS,
    FOLDER,
    NETWORKS,
    command_line,
    engine_of,
    figures,
    judge,
    picture,
    write_results,
)

import stillnet as sn
from stillnet.sw.cli.main import main as stillnet
from stillnet.sw.contract.errors import StillnetError
from stillnet.sw.contract.sources import INPUT
from stillnet.sw.model.layers import Matrix

SEED, EPOCHS = 0, 80
UNITS = 15
"""The package's GRU has 16; one makes room for two inputs more."""

PLACE = FOLDER / "edgedrnn"

WORDS = {"edgedrnn-66": (66, 0.055, 900)}
"""Networks: words per step that are allowed, threshold at the start, updates."""

UNTRAINED = (0.0, 0.02, 0.055, 0.1)
"""Thresholds for the curve without training."""

Split = tuple[np.ndarray, np.ndarray]


def measured(name: str) -> Split:
    """Samples in and out of the amplifier, (steps, 2) each: ``train``, ``val`` or ``test``."""
    try:
        files = importlib.metadata.files("opendpd") or []
    except importlib.metadata.PackageNotFoundError:
        raise StillnetError(
            "the data are in a package: pip install --no-deps opendpd==2.4.2"
        ) from None
    places = {str(f): str(f.locate()) for f in files}
    x, y = (
        np.loadtxt(places[f"datasets/APA_200MHz/{name}_{way}.csv"], delimiter=",", skiprows=1)
        for way in ("input", "output")
    )
    return x, y


def features(x: np.ndarray) -> np.ndarray:
    """x and \\|x\\|^2 x, which the host computes: (steps, 4)."""
    return np.hstack([x, x * (x**2).sum(1, keepdims=True)])


def nmse(y: np.ndarray, wanted: np.ndarray) -> float:
    """Normalised mean squared error in dB, as the package defines it."""
    return float(10 * np.log10(np.sum((y - wanted) ** 2) / np.sum(wanted**2)))


def pieces(x: np.ndarray, count: int = 64) -> list[np.ndarray]:
    """A recording as several, so that they can be run side by side."""
    return np.array_split(x, count)


# -- where training begins ------------------------------------------------------------------------


def baseline() -> dict[str, Any]:
    """The package's own GRU, by its own training."""
    PLACE.mkdir(parents=True, exist_ok=True)
    path = PLACE / "baseline.json"
    if not path.is_file():
        script = Path(__file__).with_name("opendpd_baseline.py")
        subprocess.run(
            [sys.executable, str(script), str(PLACE), "16", str(EPOCHS)],
            check=True,
            stdout=sys.stderr,
        )
    return dict(json.loads(path.read_text()))


class Floats:
    """The GRU in floating point, with thresholds on h."""

    def __init__(self, weights: str) -> None:
        layer, out = sn.load_model(
            weights, layers=[("gru", "backbone.rnn"), ("linear", "backbone.fc_out")]
        ).layers
        (wx, wh), (fc,) = layer.matrices, out.matrices
        self.wx, self.wh, self.fc = wx.weight, wh.weight, fc.weight[0]
        self.bias = {g: np.array(b, float) for g, b in layer.bias.items()}

    def run(self, x: np.ndarray, threshold: float) -> np.ndarray:
        """What the output layer reads, (sequences, steps, units), for x (sequences, steps, 2)."""
        h = np.zeros((len(x), self.wh.shape[1]))
        ref, found, b = h.copy(), [], self.bias
        for t in range(x.shape[1]):
            mx = [x[:, t] @ w.T for w in self.wx]
            mh = [ref @ w.T for w in self.wh]
            r, u = (1 / (1 + np.exp(-(mx[k] + mh[k] + b["ru"[k]]))) for k in (0, 1))
            c = np.tanh(mx[2] + b["cx"] + r * (mh[2] + b["ch"]))
            h = c + u * (h - c)
            ref = np.where(np.abs(h - ref) >= threshold, h, ref)
            found.append(ref)
        return np.stack(found, 1)

    def without(self, unit: int) -> None:
        """Leaves a unit out."""
        keep = [k for k in range(self.wh.shape[1]) if k != unit]
        self.wx, self.wh = self.wx[:, keep], self.wh[:, keep][:, :, keep]
        self.fc = self.fc[:, keep]
        self.bias = {g: b[keep] for g, b in self.bias.items()}


def model_of(weights: str, x: np.ndarray, y: np.ndarray, threshold: float) -> sn.Model:
    """The package's GRU less the unit that its output needs least; the output layer reads the
    features too, and is fitted anew to what a GRU with this threshold sends.

    Parameters
    ----------
    weights : str
        The package's file.
    x, y : arrays, shape (steps, 2)
    """
    floats = Floats(weights)
    spread = floats.run(x[:6400].reshape(64, -1, 2), 0.0).std((0, 1))
    floats.without(int(np.argmin(np.linalg.norm(floats.fc, axis=0) * spread)))
    steps = len(x) // 64
    x, y = (v[: steps * 64].reshape(64, steps, -1)[:, :] for v in (x, y))
    sent = floats.run(x, threshold)
    given = np.concatenate([sent, features(x.reshape(-1, 2)).reshape(64, steps, 4)], 2)
    a = np.concatenate([given, np.ones((64, steps, 1))], 2)[:, 20:].reshape(-1, UNITS + 5)
    fitted = np.linalg.lstsq(a, y[:, 20:].reshape(-1, 2), rcond=None)[0]
    small = np.random.default_rng(SEED).normal(0, 0.05, (3 * UNITS, 2))
    b, zero = floats.bias, np.zeros(UNITS)
    model = sn.Model(4, name="amplifier").gru(
        np.hstack([np.concatenate(list(floats.wx)), small]),
        np.concatenate(list(floats.wh)),
        np.concatenate([b["r"], b["u"], b["cx"]]),
        np.concatenate([zero, zero, b["ch"]]),
        name="gru",
    )
    model.dense(fitted[:UNITS].T, fitted[UNITS + 4], name="out")
    skip = Matrix(INPUT, ("y",), fitted[UNITS : UNITS + 4].T[None])
    model.layers[-1] = replace(model.layers[-1], matrices=(*model.layers[-1].matrices, skip))
    return model


def quantized(model: sn.Model, x: np.ndarray, threshold: float) -> sn.Network:
    """Integers of eight bits, with a threshold on h."""
    calibration = pieces(features(x[:16000]), 16)
    return sn.quantize(
        model, calibration, thresholds={"gru": threshold}, method="nearest", row_steps=True
    )


# -- the work -------------------------------------------------------------------------------------


def make() -> None:
    """Trains the package's GRU, then the delta-GRUs; measures thresholds alone on the way."""
    own = baseline()
    x, y = measured("train")
    for folder, values in (("x", features(x)), ("y", y)):
        (PLACE / folder).mkdir(exist_ok=True)
        for k, part in enumerate(pieces(values)):
            np.save(PLACE / folder / f"{k:02}.npy", part)
    curve = []
    for threshold in UNTRAINED:
        network = quantized(model_of(own["weights"], x, y, threshold), x, threshold)
        curve.append(row(network))
    kept = {k: v for k, v in own.items() if k != "weights"}
    write_results("edgedrnn", {"opendpd": kept, "untrained": curve})
    for name, (words, threshold, updates) in WORDS.items():
        model = model_of(own["weights"], x, y, threshold)
        model.save(PLACE / f"{name}-model.safetensors")
        quantized(model, x, threshold).save(PLACE / f"{name}-start.safetensors")
        line = f"train {PLACE}/{name}-model.safetensors --start {PLACE}/{name}-start.safetensors"
        line += f" --data {PLACE}/x --labels {PLACE}/y --words {words} --updates {updates}"
        line += f" --loss {Path(__file__).with_name('losses.py')}:squared --thresholds common"
        line += f" --batch 64 --stretch 32 --rate 0.02 --preset axi64 --seed {SEED} --check"
        line += f" --resume {PLACE}/{name}-stages --name {name} -o {NETWORKS}/{name}.safetensors"
        if stillnet(line.split()) != 0:
            raise StillnetError(f"the training of {name} failed; its messages say why")
        network = sn.Network.load(NETWORKS / f"{name}.safetensors")
        network.notes["made by"] = f"python examples/reproduce/edgedrnn.py --train, seed {SEED}"
        network.save(NETWORKS / f"{name}.safetensors")


def row(network: sn.Network) -> dict[str, float]:
    """Error and cost on the test recordings, by integers."""
    x, y = measured("test")
    given = pieces(features(x), 16)
    found, trace = judge(network, given)
    cost = figures(network, given, trace)
    hidden = float(trace.fired[0].sum()) / trace.layout.rows
    return {
        "nmse": nmse(np.concatenate(found), y),
        "share": cost.share,
        "hidden": hidden,
        **asdict(cost),
    }


def draw(results: dict[str, Any], path: Path) -> None:
    """NMSE against the share of columns, and against cycles."""
    fig, axes = picture()
    for axis, key in zip(axes, ("share", "cycles")):
        for k, (rows, label) in enumerate(
            ((results["untrained"], "thresholds alone"), (results["trained"], "trained"))
        ):
            rows = sorted(rows, key=lambda r: r[key])
            axis.plot(
                [r[key] for r in rows],
                [r["nmse"] for r in rows],
                "o-",
                color=COLOURS[k],
                label=label,
            )
        axis.axhline(results["opendpd"]["nmse"], color=COLOURS[6], ls="--", label="opendpd's GRU")
        axis.set_ylabel("NMSE on the test recording (dB)")
    axes[0].axvline(0.5, color=COLOURS[6], lw=0.8)
    axes[0].set_xlabel("share of columns fetched")
    axes[1].set_xlabel("cycles per sample, 8 lanes")
    axes[0].set_title("A delta-GRU of 985 parameters")
    axes[0].legend()
    fig.savefig(path, dpi=110)


def show(keep: bool) -> Path:
    """Measures, prints, draws; gives the picture."""
    from shared import read_results

    results = read_results()["edgedrnn"]
    networks = {n: sn.Network.load(NETWORKS / f"{n}.safetensors") for n in WORDS}
    results["trained"] = [row(n) for n in networks.values()]
    lanes = engine_of(next(iter(networks.values()))).lanes
    print(f"opendpd's own GRU: {results['opendpd']['nmse']:.2f} dB; engine of {lanes} lanes")
    print("                 NMSE dB  share of columns  hidden events  words  cycles")
    for kind, rows in (("thresholds", results["untrained"]), ("trained", results["trained"])):
        for r in rows:
            print(
                f"{kind:15}  {r['nmse']:7.2f}  {r['share']:16.3f}  {r['hidden']:13.2f}  "
                f"{r['words']:5.1f}  {r['cycles']:6.1f}"
            )
    if keep:
        write_results("edgedrnn", results)
    path = FOLDER / "edgedrnn.png"
    draw(results, path)
    return path


if __name__ == "__main__":
    sys.exit(command_line("edgedrnn.py", __doc__, make, show))

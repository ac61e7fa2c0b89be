"""What a network of the space errs, and what a step of it takes."""

from __future__ import annotations

import copy
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from stillnet.sw.cost.cost import column_words, memory_words, predict
from stillnet.sw.network.network import Network
from stillnet.sw.network.sequence import Layout
from stillnet.sw.quantization.integers import set_limits
from stillnet.sw.quantization.limits import SPAN, Budget, Limits, LimitSearch
from stillnet.sw.quantization.preparation import Judged
from stillnet.sw.quantization.simulate import Encoders, simulate

from .library import Assembled, Library
from .space import Choice

__all__ = ["Found", "Judge"]

_TIMED = 24
"""Steps whose cycles are predicted one by one."""

_QUICK = 400
"""Steps on which a network is looked at first."""


_CLIMBS = 4
"""How often thresholds may grow beyond what one search of them reaches."""


def _climbed(before: dict[int, float], after: dict[int, float]) -> float:
    return max((after[s] - before[s] for s in after), default=0.0)


@dataclass(frozen=True)
class Found:
    """Figures of one network on calibration.

    Attributes
    ----------
    error : float
        Mean absolute error over all outputs.
    words, frame_ms : float
        A step.
    image_bytes : int
        Of its weights.
    """

    error: float
    words: float
    frame_ms: float
    image_bytes: int


class Judge:
    """Measures networks of a library.

    Parameters
    ----------
    library : Library
    """

    def __init__(self, library: Library) -> None:
        self.library = library
        self.budget = Budget(library.options.errors[1], each=False)

    @cached_property
    def search(self) -> LimitSearch:
        """Of thresholds: what the float model's vectors say holds for all networks."""
        return self._search_on(self.library.base.judged)

    @cached_property
    def quick(self) -> LimitSearch:
        """The same on a few seconds."""
        judged = self.library.base.judged
        layout = judged.layout
        count = max(1, layout.recordings * _QUICK // layout.rows)
        first = range(0, layout.recordings, -(-layout.recordings // count))
        x, scaled, wanted = (
            [layout.unpack(a)[k] for k in first] for a in (judged.x, judged.scaled, judged.wanted)
        )
        few = Layout([len(r) for r in x])
        return self._search_on(Judged(few, few.pack(x), few.pack(scaled), few.pack(wanted)))

    def _search_on(self, judged: Judged) -> LimitSearch:
        library = self.library
        base, job = library.base, library.plan.job
        exponents = base.elements.get(len(base.model.layers) - 1, np.zeros(base.model.outputs))
        ones = {s: np.ones(base.model.source_size(s)) for s in base.delta_sources}
        return LimitSearch(
            base.model,
            judged.layout,
            judged.scaled,
            judged.wanted,
            unit=2.0**-exponents,
            budget=self.budget,
            fraction=job.fraction,
            sensitivity=base.felt,
            words=ones,
            sources=base.delta_sources,
            plain=frozenset(base.plain),
        )

    def balance(self, made: Assembled, engine: str) -> dict[int, float]:
        """Rates of exchange at which the vectors of a network are balanced."""
        return self._for(made, engine, self.quick).run(error=self.budget.error, rounds=2).rates

    def _for(self, made: Assembled, engine: str, search: LimitSearch) -> LimitSearch:
        """A search of thresholds for one network on one engine."""
        own = copy.copy(search)
        own.model = made.model
        own.words = memory_words(made.network, self.library.options.engine(engine))
        return own

    def note_activity(self, network: Network, thresholds: dict[int, float | np.ndarray]) -> None:
        """How often each element fires: what is hot follows from it."""
        rates = {}
        for s in self.library.base.delta_sources:
            curves = self.search.curves[s]
            size = curves.rate.shape[1]
            at = np.argmin(np.abs(curves.thresholds - np.broadcast_to(thresholds[s], size)), axis=0)
            rates[network.event_names()[s]] = curves.rate[at, np.arange(size)].tolist()
        network.notes["activity"] = rates

    def glance(self, made: Assembled, choice: Choice, rates: dict[int, float]) -> Limits:
        """Error and words on a few seconds."""
        return self._limits(made, choice, rates, self.quick)

    def limits(self, made: Assembled, choice: Choice, rates: dict[int, float]) -> Limits:
        """Thresholds for the choice's error, and what they cost."""
        return self._limits(made, choice, rates, self.search)

    def _limits(
        self, made: Assembled, choice: Choice, rates: dict[int, float], search: LimitSearch
    ) -> Limits:
        shared = {s: r + choice.shares[s] for s, r in rates.items()}
        if self.library.options.engine(choice.engine).hot_words:
            self.note_activity(made.network, search.thresholds(shared))
        own = self._for(made, choice.engine, search)
        found = own.run(error=choice.error, rounds=0, rates=shared)
        for _ in range(_CLIMBS):  # rates were balanced for another network, maybe far below
            if found.error > choice.error or _climbed(shared, found.rates) < SPAN - 0.1:
                break
            shared = found.rates
            higher = own.run(error=choice.error, rounds=0, rates=shared)
            if higher.error > choice.error or higher.words >= found.words:
                break
            found = higher
        return found

    def measure(self, made: Assembled, choice: Choice, limits: Limits) -> Found:
        """Figures of a network with thresholds."""
        library, network = self.library, made.network
        options, judged = library.options, library.base.judged
        encoders = Encoders(
            limits.thresholds, library.plan.job.fraction, frozenset(library.base.plain)
        )
        set_limits(network, encoders)
        config = options.engine(choice.engine)
        fired = simulate(made.model, judged.layout, judged.scaled, encoders, keep=False).fired
        lengths = column_words(network, config)
        words = sum(float(lengths[s] @ f) for s, f in fired.items() if s in lengths)
        words /= judged.layout.rows
        first = judged.layout.unpack(judged.x)[judged.layout.recordings // 2][: 2 * _TIMED]
        clock = options.engines[choice.engine].clock_mhz
        rows = network.quantize_input(first)
        cost = predict(network, rows, config, clock_mhz=clock, warm=len(rows) // 2)
        return Found(
            error=limits.error,
            words=words,
            frame_ms=cost.milliseconds * words / max(cost.words, 1e-9),
            image_bytes=config.word_bytes * sum(int(v.sum()) for v in lengths.values()),
        )

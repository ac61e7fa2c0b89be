"""``quantize``: from a trained float model and recordings to a network of integers.

Formats are chosen in ``formats``, weights rounded in ``layerwise``; ``docs/numbers.md`` explains
both. ``compress`` is the same with weights removed.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from stillnet.sw.contract.errors import StillnetError
from stillnet.sw.model.model import Model
from stillnet.sw.model.planes import two_planes
from stillnet.sw.network.network import Network
from stillnet.sw.util.progress import Progress, silent

from .checking.advice import FREE_DB, free_planes, free_words, lost_presets, words_of_planes
from .checking.checks import check_model, check_recordings, listed_recordings
from .layerwise import Settings
from .limits import Budget, LimitSearch, settle
from .preparation import Plan, Wish, better_plan, prepare
from .report import quantization_report, run_quantized
from .thresholds import Thresholds, set_thresholds
from .ways import DAMPINGS, Rounded, best_rounding

__all__ = ["AUTO", "METHODS", "quantize"]

METHODS = ("second-order", "nearest")

AUTO = "auto"
"""In place of names: layers get second planes where these are free."""

_GAIN_DB = 3.0
"""Second planes must halve the noise of the worst output to be given: half a bit."""


def quantize(
    model: Model,
    calibration: np.ndarray | Sequence[np.ndarray],
    *,
    thresholds: Thresholds | None = None,
    threshold_recurrent: float | Mapping[str, float] | None = None,
    max_error: float | Budget | None = None,
    method: str = "second-order",
    row_steps: bool | None = None,
    name: str | None = None,
    nonzero: Iterable[str] = (),
    planes: str | Iterable[str] = (),
    margin: float = 1.25,
    correct_bias: bool = True,
    keep_silence: bool = True,
    progress: Progress | None = None,
) -> Network:
    """Quantizes a float model: integers only from here on.

    Parameters
    ----------
    model : Model
    calibration : array of float, shape (steps, inputs), or a list of them
        Recordings of what the network will see; state starts anew with each. Tokens, shape
        (steps,), for one-hot models.
    thresholds : float, dict or list, optional
        Delta thresholds, see ``thresholds.Thresholds``; zero where absent. A number applies to
        every source of delta events. Each is rounded to the format of its vector.
    threshold_recurrent : float or dict of layer name to float, optional
        A threshold of their own for recurrences; costs a second encoder where it differs.
    max_error : float or Budget, optional
        Instead of ``thresholds``: takes the largest that keep the mean absolute error of each
        output, against the float model on the calibration recordings, within this.
    method : str
        ``"second-order"``: weights are rounded so that what the layers compute on the recordings
        changes least. ``"nearest"``: each to the nearest integer, which is quick.
    row_steps : bool, optional
        A step for each row of weights, which asks for an engine with multipliers of rows; absent:
        where it is worth it.
    name : str, optional
        Name of the network; the model's where absent.
    nonzero : iterable of str
        ReLU layers (or ``"input"``) that send their nonzero elements each step, not differences;
        what they feed starts each step from its bias.
    planes : iterable of str, or "auto"
        Layers whose weights have two planes of eight bits, for networks that eight bits harm.
        ``"auto"``: those for which they are free, where an output needs them; see
        ``docs/numbers.md``. None with thresholds, which lose more than eight bits do.
    margin : float
        Headroom of vectors without a proven bound, as a factor on the largest value seen.
    correct_bias : bool
        Adds to each bias what rounding the weights takes from the mean of the accumulator.
    keep_silence : bool
        But not in units of layers of plain events (S5, EGRU, ``nonzero``) that are exactly zero
        without input: a corrected bias would make an event of them in every step.
    progress : Progress, optional

    Returns
    -------
    Network
        ``notes["report"]`` holds the errors against the float model output by output and layer by
        layer, the activity over the calibration recordings, the doubts, and advice.

    Raises
    ------
    StillnetError
        Where calibration is empty, of the wrong shape or not finite (naming step and element), the
        model does not fit the number formats (naming the layer), or ``max_error`` is exceeded
        without any threshold.
    """
    progress = progress or silent
    budget = Budget(max_error) if isinstance(max_error, (int, float)) else max_error
    _check_options(method, margin, budget, thresholds, threshold_recurrent)
    names = [nonzero] if isinstance(nonzero, str) else list(nonzero)
    exact = thresholds is None and threshold_recurrent is None and budget is None and not names
    doubled = [] if planes == AUTO else [planes] if isinstance(planes, str) else list(planes)
    check_model(model)
    task = _Task(
        model,
        check_recordings(model, calibration),
        Wish(8, margin, correct_bias, keep_silence),
        Settings(8, method=method, early_sweeps=1, dampings=DAMPINGS, correct_bias=correct_bias),
        names,
        progress,
    )
    solved = _solve(task, doubled, row_steps)
    if planes == AUTO and method != "nearest" and exact:
        solved = _with_free_planes(task, solved)
    plan, rounded, base = solved.plan, solved.rounded, solved.plan.base
    network = plan.network(rounded.work, name)
    network.validate()
    set_thresholds(network, thresholds, threshold_recurrent)
    if budget is not None:
        _search(plan, rounded.model, network, budget, progress)
    network.notes["options"] = _options(task, solved, network, budget)
    progress("quantized network", 0, 1)
    network.notes["report"] = quantization_report(
        base.original,
        network,
        base.whole,
        listed_recordings(model, calibration),
        rounded.worst if exact and not solved.planes else None,
    )
    network.notes["report"]["advice"] += solved.said
    progress("quantized network", 1, 1)
    return network


@dataclass(frozen=True)
class _Task:
    """What stays the same, whichever layers have second planes."""

    model: Model
    recordings: list[np.ndarray]
    wish: Wish
    settings: Settings
    nonzero: list[str]
    progress: Progress


@dataclass(frozen=True)
class _Solved:
    """A network with second planes in some layers.

    Attributes
    ----------
    said : list of str
        What was done without being asked for, in words.
    """

    planes: list[str]
    plan: Plan
    rounded: Rounded
    said: list[str] = field(default_factory=list)

    @property
    def worst_db(self) -> float:
        """SNR of the worst output."""
        return math.inf if self.rounded.worst is None else self.rounded.worst[1]


def _solve(task: _Task, planes: list[str], row_steps: bool | None) -> _Solved:
    model, copies = two_planes(task.model, planes)
    base = prepare(
        model,
        task.recordings,
        nonzero=task.nonzero,
        rows=row_steps is not False,
        planes=copies,
        progress=task.progress,
    )
    plan = better_plan(base, task.wish, task.settings, row_steps)
    return _Solved(planes, plan, best_rounding(plan, task.settings, task.progress))


def _options(
    task: _Task, solved: _Solved, network: Network, budget: Budget | None
) -> dict[str, Any]:
    """What was asked for and what was chosen, for the network's notes."""
    return {
        "method": task.settings.method,
        "held_out_db": solved.rounded.scores,
        "row_steps": network.row_scale,
        "margin": task.wish.margin,
        "correct_bias": task.wish.correct_bias,
        "keep_silence": task.wish.keep_silence,
        "max_error": None if budget is None else str(budget),
        "nonzero": task.nonzero,
        "planes": solved.planes,
    }


def _with_free_planes(task: _Task, first: _Solved) -> _Solved:
    """The same with second planes where they are free and an output needs them."""
    if first.worst_db >= FREE_DB:
        return first
    plan, layers = first.plan, range(len(task.model.layers))
    network = plan.network(first.rounded.work)
    judged = plan.base.judged
    result = run_quantized(network, judged.layout, judged.x)
    noise = [plan.choice.best(i)[0] for i in layers]
    best, tried = first, [list[str]()]
    for enough in (10 ** ((first.worst_db - FREE_DB) / 10), 0.0):
        names = free_planes(task.model, network, result, noise, enough)
        if names in tried:
            continue
        tried.append(names)
        # No engine that the network as it was would do without must have multipliers of rows.
        found = _solve(task, names, bool(plan.choice.scaled))
        if found.worst_db >= best.worst_db + _GAIN_DB:
            best = found
        if best.worst_db >= FREE_DB:
            break
    if best is first:
        return first
    now, then = words_of_planes(network, result, best.planes)
    said = (
        f"weights of {', '.join(best.planes)} have 16 bits, as two planes of eight: the worst "
        f"output has {best.worst_db:.1f} dB on the end of calibration, and {first.worst_db:.1f} "
        f"with eight bits; a step fetches about {then:,.0f} instead of {now:,.0f} words of "
        "weights, and a serial link carries its vectors in the time of "
        f"{free_words(network):,.0f}; --planes never leaves them out"
    )
    lost = lost_presets(task.model, best.planes)
    if lost:
        said += f", and then preset {' or '.join(lost)} is large enough"
    return replace(best, said=[said])


def _search(
    plan: Plan, rounded: Model, network: Network, budget: Budget, progress: Progress
) -> None:
    """The thresholds of fewest words within a budget."""
    base, sources = plan.base, plan.base.delta_sources
    if not sources:
        return
    words = {
        s: np.full(base.model.source_size(s), float(_column_words(network, s))) for s in sources
    }
    search = LimitSearch.of(plan, rounded, budget, words, by_element=False, progress=progress)
    settle(plan, network, search.run(error=budget.error), budget)


def _column_words(network: Network, source: int) -> int:
    """Words of a column of all matrices that a source feeds, with eight lanes."""
    return sum(
        m.column_words(8) for layer in network.layers for m in layer.matrices if m.source == source
    )


def _check_options(
    method: object,
    margin: object,
    budget: Budget | None,
    thresholds: object,
    threshold_recurrent: object,
) -> None:
    if method not in METHODS:
        raise StillnetError(f"method must be one of {', '.join(METHODS)}, not {method!r}")
    if not (isinstance(margin, (int, float)) and 1.0 <= margin <= 1024.0):
        raise StillnetError(f"margin must be between 1 and 1024, not {margin!r}")
    if budget is not None and (thresholds is not None or threshold_recurrent is not None):
        raise StillnetError("give thresholds or max_error, not both: max_error chooses thresholds")
    if budget is not None and not (math.isfinite(budget.error) and budget.error > 0):
        raise StillnetError(f"max_error must be a positive number, not {budget.error!r}")

"""``quantize``: from a trained float model and recordings to a network of integers.

Formats are chosen in ``formats``, weights rounded in ``layerwise``; ``docs/numbers.md`` explains
both. ``compress`` is the same with weights removed.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence

import numpy as np

from stillnet.sw.contract.errors import StillnetError
from stillnet.sw.model.model import Model
from stillnet.sw.network.network import Network
from stillnet.sw.util.progress import Progress, silent

from .checking.checks import check_model, check_recordings, listed_recordings
from .layerwise import Settings
from .limits import Budget, LimitSearch, settle
from .planes import two_planes
from .preparation import Plan, Wish, better_plan, prepare
from .report import quantization_report
from .thresholds import Thresholds, set_thresholds
from .ways import DAMPINGS, best_rounding

__all__ = ["METHODS", "quantize"]

METHODS = ("second-order", "nearest")


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
    planes: Iterable[str] = (),
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
    planes : iterable of str
        Layers whose weights have two planes of eight bits, for networks that eight bits harm.
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
    doubled = [planes] if isinstance(planes, str) else list(planes)
    check_model(model)
    model, copies = two_planes(model, doubled)
    recordings = check_recordings(model, calibration)
    rows = row_steps is not False
    base = prepare(model, recordings, nonzero=names, rows=rows, planes=copies, progress=progress)
    wish = Wish(8, margin, correct_bias, keep_silence)
    settings = Settings(
        8, method=method, early_sweeps=1, dampings=DAMPINGS, correct_bias=correct_bias
    )
    plan = better_plan(base, wish, settings, row_steps)
    rounded = best_rounding(plan, settings, progress)
    network = plan.network(rounded.work, name)
    network.validate()
    set_thresholds(network, thresholds, threshold_recurrent)
    if budget is not None:
        _search(plan, rounded.model, network, budget, progress)
    network.notes["options"] = {
        "method": method,
        "held_out_db": rounded.scores,
        "row_steps": network.row_scale,
        "margin": margin,
        "correct_bias": correct_bias,
        "keep_silence": keep_silence,
        "max_error": None if budget is None else str(budget),
        "nonzero": names,
        "planes": doubled,
    }
    progress("quantized network", 0, 1)
    network.notes["report"] = quantization_report(
        model,
        network,
        base.whole,
        listed_recordings(model, calibration),
        None if doubled else rounded.worst,
    )
    progress("quantized network", 1, 1)
    return network


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

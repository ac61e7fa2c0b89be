"""From a trained float model and recordings to a network of integers.

Formats are chosen in ``formats``, thresholds in ``thresholds``; ``docs/numbers.md`` explains both.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence

import numpy as np

from stillnet.sw.contract.errors import StillnetError
from stillnet.sw.model.model import Model
from stillnet.sw.network.network import Network
from stillnet.sw.network.sequence import Layout, Trace, run_float, run_integers
from stillnet.sw.util.progress import Progress, silent

from .checks import check_model, check_recordings
from .formats import FormatChoice
from .report import quantization_report
from .thresholds import (
    Thresholds,
    ThresholdSearch,
    plain_sources,
    set_modes,
    set_thresholds,
)

__all__ = ["quantize"]

_WEIGHT_BITS = 8


def quantize(
    model: Model,
    calibration: np.ndarray | Sequence[np.ndarray],
    *,
    thresholds: Thresholds | None = None,
    threshold_recurrent: float | Mapping[str, float] | None = None,
    max_error: float | None = None,
    weight_bits: int = _WEIGHT_BITS,
    name: str | None = None,
    nonzero: Iterable[str] = (),
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
    max_error : float, optional
        Instead of ``thresholds``: takes the largest that keep the mean absolute error of the
        output, against the float model on the calibration recordings, within this.
    weight_bits : int
        8.
    name : str, optional
        Name of the network; the model's where absent.
    nonzero : iterable of str
        ReLU layers (or ``"input"``) that send their nonzero elements each step, not differences;
        what they feed starts each step from its bias.
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
        ``notes["report"]`` holds the errors against the float model layer by layer, and the
        activity, over the calibration recordings.

    Raises
    ------
    StillnetError
        Where calibration is empty, of the wrong shape or not finite (naming step and element), the
        model does not fit the number formats (naming the layer), or ``max_error`` is exceeded
        without any threshold.
    """
    progress = progress or silent
    _check_options(weight_bits, margin, max_error, thresholds, threshold_recurrent)
    names = [nonzero] if isinstance(nonzero, str) else list(nonzero)
    check_model(model)
    recordings = check_recordings(model, calibration)
    layout = Layout([len(r) for r in recordings])
    trace = _run_model(model, layout, recordings, progress)

    choice = FormatChoice(model, trace, margin, correct_bias)
    choice.search(progress)
    by_nature = [i for i, layer in enumerate(model.layers) if layer.plain]
    plain = plain_sources(model.layers, by_nature)
    plain |= {i for i, layer in enumerate(model.layers) if layer.name in names}
    network = choice.build(name or model.name, plain if keep_silence else ())
    set_modes(network, names, by_nature)
    network.validate()
    set_thresholds(network, thresholds, threshold_recurrent)

    if max_error is None:
        result = _run_quantized(network, layout, recordings, progress)
    else:
        result = ThresholdSearch(network, layout, recordings, trace, progress).run(max_error)
    network.notes["report"] = quantization_report(model, network, trace, result)
    network.notes["options"] = {
        "weight_bits": weight_bits,
        "margin": margin,
        "correct_bias": correct_bias,
        "keep_silence": keep_silence,
        "max_error": max_error,
        "nonzero": names,
    }
    return network


def _run_quantized(
    network: Network, layout: Layout, recordings: list[np.ndarray], progress: Progress
) -> Trace:
    progress("quantized network", 0, 1)
    x = layout.pack([network.quantize_input(r) for r in recordings])
    result = run_integers(network, layout, x)
    progress("quantized network", 1, 1)
    return result


def _run_model(
    model: Model, layout: Layout, recordings: list[np.ndarray], progress: Progress
) -> Trace:
    progress("float model", 0, 1)
    trace = run_float(model, layout, layout.pack(recordings))
    for i, layer in enumerate(model.layers):
        if not np.all(np.isfinite(trace.vectors[i])):
            raise StillnetError(
                f"layer '{layer.name}' becomes infinite on the calibration recordings; check the "
                "model and the scale of its input"
            )
    progress("float model", 1, 1)
    return trace


def _check_options(
    weight_bits: object,
    margin: object,
    max_error: float | None,
    thresholds: object,
    threshold_recurrent: object,
) -> None:
    if isinstance(weight_bits, bool) or weight_bits != _WEIGHT_BITS:
        raise StillnetError(f"weight_bits = {weight_bits!r} is not supported yet, only 8")
    if not (isinstance(margin, (int, float)) and 1.0 <= margin <= 1024.0):
        raise StillnetError(f"margin must be between 1 and 1024, not {margin!r}")
    if max_error is not None and (thresholds is not None or threshold_recurrent is not None):
        raise StillnetError("give thresholds or max_error, not both: max_error chooses thresholds")
    if max_error is not None and not (math.isfinite(max_error) and max_error > 0):
        raise StillnetError(f"max_error must be a positive number, not {max_error!r}")

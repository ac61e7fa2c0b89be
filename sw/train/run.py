"""``train``: from a network of integers, its float model and recordings to a better network."""

from __future__ import annotations

import copy
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from stillnet.sw.compression.checkpoint import Checkpoint, digest
from stillnet.sw.contract.config import EngineConfig
from stillnet.sw.contract.errors import StillnetError
from stillnet.sw.contract.events import Mode
from stillnet.sw.contract.fixed import EVENT_BITS
from stillnet.sw.cost.cost import step_words
from stillnet.sw.model.model import Model
from stillnet.sw.network.network import Network
from stillnet.sw.network.sequence import Layout, run_float, run_integers
from stillnet.sw.quantization.checking.checks import check_recordings, listed_recordings
from stillnet.sw.quantization.report import quantization_report
from stillnet.sw.util.progress import Progress, silent

from .options import TrainOptions

if TYPE_CHECKING:
    from .trainer import Trainer

__all__ = ["KEEP_EVERY", "train"]

KEEP_EVERY = 60.0
"""Seconds between two checkpoints at least."""

_SETTLED = 4000
"""Steps of the recordings on which the budget is made sure of."""


def train(
    model: Model,
    network: Network,
    recordings: np.ndarray | Sequence[np.ndarray],
    options: TrainOptions | None = None,
    *,
    config: EngineConfig | None = None,
    loss: Callable[[Any, Any], Any] | None = None,
    labels: Sequence[np.ndarray] | None = None,
    folder: str | Path | None = None,
    progress: Progress | None = None,
) -> Network:
    """Trains a quantized network against words per step.

    Parameters
    ----------
    model : Model
        The float model, whose outputs are learnt.
    network : Network
        Where training begins, from ``quantize`` or ``compress`` of that model. Its formats and its
        storage stay; weights, biases, multipliers of rows, constants of cells, thresholds and, if
        asked, masks are trained.
    recordings : array (steps, inputs), or a list of them
    options : TrainOptions, optional
    config : EngineConfig, optional
        Whose words are counted; where absent, the engine that ``compress`` noted.
    loss : callable, optional
        ``loss(outputs, stretch)`` instead of the distance to the float model; see ``Stretch``.
    labels : list of arrays (steps, ...), optional
        For that function, one for each recording.
    folder : path, optional
        Where the training is kept; one that was stopped goes on from there.
    progress : Progress, optional

    Returns
    -------
    Network
        ``notes["training"]`` has options, the course and figures before and after.

    Raises
    ------
    StillnetError
        Without PyTorch, where recordings or labels do not fit, the folder belongs to another run,
        or the budget is not reached.
    """
    trainer_type = _trainer()
    options = options or TrainOptions()
    config = config or _noted_engine(network)
    progress = progress or silent
    given = check_recordings(model, recordings)
    if labels is not None and [len(x) for x in labels] != [len(x) for x in given]:
        raise StillnetError("labels must be one array for each recording, of as many steps")
    layout = Layout([len(r) for r in given])
    _check_pair(model, network)
    wanted = run_float(model, layout, layout.pack(given)).vectors[len(model.layers) - 1]
    inputs = [network.quantize_input(r) for r in given]
    judge = _Judge(network, given, layout.unpack(wanted), config)
    facts = {"network": _facts(network), "options": asdict(options), "config": config.to_dict()}
    facts["labels"] = None if labels is None else [np.asarray(x).tolist() for x in labels]
    keep = Checkpoint(
        None if folder is None else Path(folder), digest(model, layout.pack(given), facts)
    )
    trainer = trainer_type(
        network, inputs, layout.unpack(wanted), labels, options, config, loss
    )
    found = keep.load("training")
    if found is not None:
        trainer.set_state(*found)
    _updates(trainer, keep, progress)
    result = trainer.module.to_network()
    before = judge.figures(network)
    plain = options.loss == "mae" and loss is None
    settled = _settle(judge, result, options, plain)
    figures = {"before": before, "after": judge.figures(result), "threshold_factor": settled}
    trace = run_float(model, layout, layout.pack(given))
    heard = listed_recordings(model, recordings)
    result.notes["report"] = quantization_report(model, result, trace, heard)
    _note(result, options, trainer, figures)
    return result


def _trainer() -> type[Trainer]:
    try:
        from .trainer import Trainer
    except ModuleNotFoundError as error:
        if error.name != "torch":
            raise
        raise StillnetError(
            "training needs PyTorch: pip install 'stillnet[train]'"
        ) from None
    return Trainer


def _noted_engine(network: Network) -> EngineConfig:
    for kind in ("training", "compression"):
        if kind in network.notes:
            return EngineConfig.from_dict(network.notes[kind]["engine"])
    return EngineConfig()


def _check_pair(model: Model, network: Network) -> None:
    """The network must be one of this model."""
    one_hot = network.input_mode.one_hot
    if (model.inputs, model.outputs, model.one_hot) != (network.inputs, network.outputs, one_hot):
        raise StillnetError(
            f"network '{network.name}' has {network.inputs} inputs and {network.outputs} outputs, "
            f"model '{model.name}' {model.inputs} and {model.outputs}; give the model that it was "
            "made from"
        )


def _facts(network: Network) -> str:
    """What a network is, for the digest of a run."""
    import hashlib

    hash_ = hashlib.sha256(network.name.encode())
    for layer in network.layers:
        hash_.update(f"{layer.cell} {layer.units} {layer.shift} {layer.threshold}".encode())
        arrays = [m.weight for m in layer.matrices] + list(layer.bias.values())
        arrays += [*(layer.scale or {}).values(), *layer.parameters.values()]
        arrays += [] if layer.thresholds is None else [layer.thresholds]
        for a in arrays:
            hash_.update(np.ascontiguousarray(a).tobytes())
    return hash_.hexdigest()


def _updates(trainer: Trainer, keep: Checkpoint, progress: Progress) -> None:
    kept = time.monotonic()
    total = trainer.options.updates
    while trainer.done < total:
        trainer.update()
        if time.monotonic() - kept >= KEEP_EVERY or trainer.done == total:
            keep.save("training", *trainer.state())
            kept = time.monotonic()
        progress("training", trainer.done, total)


# -- in integers -----------------------------------------------------------------------------------


class _Judge:
    """Error and words of networks, by integers, on the recordings or the first part of them."""

    def __init__(
        self,
        network: Network,
        recordings: Sequence[np.ndarray],
        wanted: Sequence[np.ndarray],
        config: EngineConfig,
    ) -> None:
        count = max(1, _SETTLED // len(recordings))
        self.config = config
        self.layout = Layout([min(len(r), count) for r in recordings])
        self.x = self.layout.pack([network.quantize_input(r[:count]) for r in recordings])
        self.wanted = self.layout.pack([w[:count] for w in wanted])

    def figures(self, network: Network) -> dict[str, float]:
        """``error``, the mean absolute error of the outputs, and ``words`` per step."""
        trace = run_integers(network, self.layout, self.x)
        y = network.dequantize_output(trace.vectors[len(network.layers) - 1])
        return {
            "error": float(np.mean(np.abs(y - self.wanted))),
            "words": _all_words(network, self.config, trace),
        }


def _all_words(network: Network, config: EngineConfig, trace: Any) -> float:
    """Mean words per step, those of tokens included."""
    words = step_words(network, config, trace)
    if network.input_mode.one_hot:
        from stillnet.sw.contract.sources import INPUT
        from stillnet.sw.cost.cost import column_words

        # Columns of tokens hardly differ; their mean is what an event of the input fetches.
        words += trace.events[INPUT] / trace.layout.rows * column_words(network, config)[INPUT].mean()
    return float(words)


def _settle(judge: _Judge, network: Network, options: TrainOptions, plain: bool) -> float:
    """Scales all thresholds so that the budget holds in integers; the factor."""
    if options.words is not None:
        upward = True

        def excess(figures: dict[str, float]) -> float:
            return figures["words"] / float(options.words or 1) - 1

    elif options.mean_error is not None and plain:
        upward = False

        def excess(figures: dict[str, float]) -> float:
            return figures["error"] / float(options.mean_error or 1) - 1

    else:
        return 1.0
    if excess(judge.figures(network)) <= 0:
        return 1.0
    first = copy.deepcopy(network)

    def over(power: float) -> float:
        _scale(network, first, 2.0**power if upward else 2.0**-power)
        return excess(judge.figures(network))

    low, high = 0.0, 0.125
    while over(high) > 0:
        low, high = high, 2 * high
        if high > 4:
            what = "words" if upward else "mean_error"
            raise StillnetError(
                f"{what} {getattr(options, what):g} is not reached; train for more updates, or ask "
                "for less"
            )
    for _ in range(4):
        middle = (low + high) / 2
        low, high = (middle, high) if over(middle) > 0 else (low, middle)
    over(high)
    return float(2.0**high if upward else 2.0**-high)


def _scale(network: Network, first: Network, factor: float) -> None:
    """Thresholds of differences, times a factor."""
    most = (1 << EVENT_BITS) - 1

    def scaled(value: Any) -> Any:
        found = np.minimum(np.rint(np.maximum(np.asarray(value, float), 1.0) * factor), most)
        return int(found) if np.ndim(value) == 0 else found.astype(np.int64)

    if first.input_mode is Mode.DELTA:
        network.input_threshold = scaled(first.input_threshold)
        if first.input_thresholds is not None:
            network.input_thresholds = scaled(first.input_thresholds)
    for new, old in zip(network.layers, first.layers):
        if old.mode is not Mode.DELTA:
            continue
        new.threshold = scaled(old.threshold)
        if old.threshold_recurrent is not None:
            new.threshold_recurrent = scaled(old.threshold_recurrent)
        if old.thresholds is not None:
            new.thresholds = scaled(old.thresholds)


def _note(
    network: Network, options: TrainOptions, trainer: Trainer, figures: dict[str, Any]
) -> None:
    """Notes of the result: how it came about."""
    network.notes.pop("compression", None)  # its figures are no longer those of this network
    history = trainer.history
    every = max(1, len(history) // 50)
    network.notes["training"] = {
        "options": asdict(options),
        "engine": trainer.config.to_dict(),
        **figures,
        "kept": history[-1]["kept"],
        "history": history[::every],
    }

"""``train``: from a network of integers, its float model and recordings to a better network."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from stillnet.sw.compression.checkpoint import Checkpoint, digest
from stillnet.sw.contract.config import EngineConfig
from stillnet.sw.contract.errors import StillnetError
from stillnet.sw.model.model import Model
from stillnet.sw.network.network import Network
from stillnet.sw.network.sequence import Layout, run_float
from stillnet.sw.quantization.checking.checks import check_recordings, listed_recordings
from stillnet.sw.quantization.report import quantization_report
from stillnet.sw.util.progress import Progress, silent

from .options import TrainOptions
from .settle import Judge, first_thresholds, settle
from .streams import pieces

if TYPE_CHECKING:
    from .trainer import Trainer

__all__ = ["KEEP_EVERY", "require_torch", "train"]

KEEP_EVERY = 60.0
"""Seconds between two checkpoints at least."""


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
        Without PyTorch, where recordings or labels do not fit, or the folder belongs to another
        run. A budget that is not reached is a doubt in the report.
    """
    trainer_type = require_torch()
    options = options or TrainOptions()
    config = config or _noted_engine(network)
    progress = progress or silent
    given = check_recordings(model, recordings)
    if labels is not None and [len(x) for x in labels] != [len(x) for x in given]:
        raise StillnetError("labels must be one array for each recording, of as many steps")
    layout = Layout([len(r) for r in given])
    _check_pair(model, network)
    floats = run_float(model, layout, layout.pack(given))
    wanted = layout.unpack(floats.vectors[len(model.layers) - 1])
    judge = Judge(network, given, wanted, config)
    before = begin = judge.figures(network)
    if options.words is not None or options.mean_error is not None:
        network = first_thresholds(network, judge)
        begin = judge.figures(network)
    facts: dict[str, Any] = {
        "network": _facts(network),
        "options": asdict(options),
        "config": config.to_dict(),
    }
    facts["labels"] = None if labels is None else [np.asarray(x).tolist() for x in labels]
    facts["loss"] = None if loss is None else getattr(loss, "__qualname__", "")
    keep = Checkpoint(
        None if folder is None else Path(folder), digest(model, layout.pack(given), facts)
    )
    parts = pieces(given, options.steps)
    cut = None if labels is None else pieces(labels, options.steps)
    trainer = trainer_type(
        network,
        [network.quantize_input(p) for p in parts],
        _outputs(model, parts),
        cut,
        options,
        config,
        loss,
        begin["words"],
    )
    found = keep.load("training")
    if found is not None:
        trainer.set_state(*found)
    _updates(trainer, keep, progress)
    result = trainer.module.to_network()
    plain = options.loss == "mae" and loss is None
    factor, doubt = settle(judge, result, options, plain)
    figures = {"before": before, "after": judge.figures(result), "threshold_factor": factor}
    heard = listed_recordings(model, recordings)
    result.notes["report"] = quantization_report(model, result, floats, heard)
    result.notes["report"]["doubts"] += [] if doubt is None else [doubt]
    _note(result, options, trainer, figures)
    return result


def _outputs(model: Model, parts: list[np.ndarray]) -> list[np.ndarray]:
    """What the float model says to each part by itself."""
    layout = Layout([len(p) for p in parts])
    return layout.unpack(
        run_float(model, layout, layout.pack(parts)).vectors[len(model.layers) - 1]
    )


def require_torch() -> type[Trainer]:
    """The loop of a training; one sentence where PyTorch is missing."""
    try:
        from .trainer import Trainer
    except ModuleNotFoundError as error:
        if error.name != "torch":
            raise
        raise StillnetError("training needs PyTorch: pip install 'stillnet[train]'") from None
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
    hash_ = hashlib.sha256(f"{network.name} {network.input_limit}".encode())
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

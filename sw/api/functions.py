"""The functions of the front door that take paths as well as objects.

Each loads what is given as a path, and calls the function of the same name in ``stillnet.sw``.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from stillnet.sw.contract.config import EngineConfig
from stillnet.sw.importers.load import load_model
from stillnet.sw.model.model import Model
from stillnet.sw.network.network import Network
from stillnet.sw.packing import packer
from stillnet.sw.partition.options import CutOptions
from stillnet.sw.util.progress import Progress
from stillnet.sw.util.recordings import as_recordings, elements_of

if TYPE_CHECKING:
    from stillnet.sw.quantization.limits import Budget
    from stillnet.sw.quantization.thresholds import Thresholds

__all__ = ["compress", "pack", "quantize", "train"]


def _model(
    model: Model | str | Path,
    recordings: Any,
    gru_reset: str | None,
    ignore_mask: bool,
    expect: Any,
) -> Model:
    """The model, or that of a file; recordings tell the sizes that a file leaves open."""
    many = list(recordings) if isinstance(recordings, (list, tuple)) else [recordings]
    many = [np.asarray(r) for r in many]
    if not isinstance(model, Model):
        cut = CutOptions(elements=elements_of(many) if many else None)
        model = load_model(model, cut=cut, gru_reset=gru_reset, ignore_mask=ignore_mask)
    elif gru_reset is not None or ignore_mask:
        raise TypeError("gru_reset and ignore_mask say how a file is read; the model is in memory")
    if expect is not None:
        from stillnet.sw.importers.expect import check_expected

        outputs: Any = as_recordings(expect)
        outputs = outputs if isinstance(outputs, (list, tuple)) else [outputs]
        if len(outputs) > len(many):
            raise ValueError(f"expect has {len(outputs)} arrays for {len(many)} recordings")
        for i, (x, y) in enumerate(zip(many, outputs)):
            check_expected(model, x, np.asarray(y), f"expect[{i}]")
    return model


def quantize(
    model: Model | str | Path,
    x: np.ndarray | str | Path | Sequence[np.ndarray] | Sequence[str] | Sequence[Path],
    *,
    thresholds: Thresholds | None = None,
    threshold_recurrent: float | Mapping[str, float] | None = None,
    max_error: float | Budget | None = None,
    method: str = "second-order",
    row_steps: bool | None = None,
    name: str | None = None,
    nonzero: Iterable[str] = (),
    planes: str | Iterable[str] = "auto",
    margin: float = 1.25,
    correct_bias: bool = True,
    keep_silence: bool = True,
    gru_reset: str | None = None,
    ignore_mask: bool = False,
    expect: Any = None,
    progress: Progress | None = None,
) -> Network:
    """Turns a trained float model into a network of integers, calibrated on your recordings.

    ::

        import stillnet as sn

        network = sn.quantize("model.npz", "x.npy", thresholds=16 / 256)
        network.save("net.safetensors")
        print(sn.info(network).report.output_error)

    Parameters
    ----------
    model : Model, or path for :func:`stillnet.load_model`
    x : array of float, shape (steps, inputs), path of a .npy file or a folder, or a list of them
        Recordings of what the network will see. State starts anew with each. Tokens, shape
        (steps,), for one-hot models.
    thresholds : float, or dict of layer name to float, optional
        Delta thresholds in units of the values; zero where absent.
    threshold_recurrent : float, or dict of layer name to float, optional
        Another threshold for recurrences; needs an engine with two encoders where it differs.
    max_error : float or Budget, optional
        Instead of ``thresholds``: the largest thresholds that keep the mean absolute error of each
        output, against the float model, within this.
    method : str
        ``"second-order"``: weights are rounded so that what the layers compute on your recordings
        changes least. ``"nearest"``: each to the nearest integer, which is quick.
    row_steps : bool, optional
        A step for each row of weights, which asks for an engine with multipliers of rows; absent:
        where it is worth it.
    name : str, optional
        Name of the network; the model's where absent.
    nonzero : iterable of str
        ReLU layers (or ``"input"``) that send their nonzero elements in each step, not differences.
    planes : iterable of str, or "auto"
        Layers whose weights have 16 bits, as two planes of eight. They fetch up to twice the words,
        and a copy of what they read. ``"auto"``: those where eight bits are not enough and a step
        takes no longer for it, see ``docs/numbers.md``.
    margin : float
        Headroom of vectors without a proven bound, as a factor on the largest value seen.
    correct_bias : bool
        Add to each bias what rounding the weights takes from the mean of the accumulator.
    keep_silence : bool
        But not where it would make an event of silence in every step.
    gru_reset, ignore_mask : optional
        As for :func:`stillnet.load_model`, where ``model`` is a path.
    expect : array of shape (steps, outputs), path, or a list of them, optional
        Outputs of the training framework for the recordings, in their order: a model that differs
        is refused.
    progress : function, optional
        Called as ``progress(what, done, total)``.

    Raises
    ------
    StillnetError
        Where the recordings are empty, of the wrong shape or not finite, the model does not fit the
        number formats, or ``max_error`` is exceeded without any threshold.
    """
    from stillnet.sw.quantization import quantizer

    calibration: Any = as_recordings(x)
    return quantizer.quantize(
        _model(model, calibration, gru_reset, ignore_mask, expect),
        calibration,
        thresholds=thresholds,
        threshold_recurrent=threshold_recurrent,
        max_error=max_error,
        method=method,
        row_steps=row_steps,
        name=name,
        nonzero=nonzero,
        planes=planes,
        margin=margin,
        correct_bias=correct_bias,
        keep_silence=keep_silence,
        progress=progress,
    )


def compress(
    model: Model | str | Path,
    x: np.ndarray | str | Path | Sequence[np.ndarray] | Sequence[str] | Sequence[Path],
    *,
    bits: int = 4,
    sparsity: float = 0.0,
    pattern: str = "unstructured",
    max_error: float | Budget | None = None,
    mean_error: float | None = None,
    frame_ms: float | None = None,
    clock_mhz: float = 100.0,
    by_element: bool = True,
    row_steps: bool | None = None,
    refits: int = 1,
    method: str = "second-order",
    seed: int = 0,
    preset: str | Path | EngineConfig = "sdram16",
    name: str | None = None,
    folder: str | Path | None = None,
    gru_reset: str | None = None,
    ignore_mask: bool = False,
    expect: Any = None,
    progress: Progress | None = None,
) -> Network:
    """Shrinks a float model without training: few bits, pruned weights, chosen thresholds.

    ::

        import stillnet as sn

        network = sn.compress("model.npz", "x.npy", bits=4, sparsity=0.5, max_error=0.1)
        network.save("small.safetensors")
        report = sn.info(network).compression
        print(report.bytes_a_step, report.frame_ms, [layer.density for layer in report.layers])

    Parameters
    ----------
    model : Model, or path for :func:`stillnet.load_model`
    x : array of float, shape (steps, inputs), path of a .npy file or a folder, or a list of them
        Recordings as diverse as what the device will meet.
    bits : int
        Bits of a weight: 4 or 8.
    sparsity : float
        Part of the weights that are removed.
    pattern : str
        Which weights may go: ``"unstructured"``, ``"lane"`` or ``"block8"``.
    max_error : float or Budget, optional
        Thresholds of the fewest words within this mean absolute error of each output.
    mean_error : float, optional
        The same of the mean over all outputs.
    frame_ms : float, optional
        Or thresholds of the least error within this time per step, by the cost model.
    clock_mhz : float
        Clock of engine and memory.
    by_element : bool
        A threshold for each element, or one for each vector.
    row_steps : bool, optional
        As for :func:`stillnet.quantize`; four bits always have them.
    refits : int
        How often the weights are solved again under the chosen thresholds.
    method : str
        ``"second-order"``, or ``"nearest"`` for magnitude pruning and rounding.
    seed : int
    preset : str, Path or EngineConfig
        The engine whose words are counted, before it is given what the network needs.
    name : str, optional
    folder : path, optional
        Where finished stages are kept; a run that was stopped goes on from there.
    gru_reset, ignore_mask : optional
        As for :func:`stillnet.load_model`, where ``model`` is a path.
    expect : array of shape (steps, outputs), path, or a list of them, optional
        Outputs of the training framework for the recordings, in their order: a model that differs
        is refused.
    progress : function, optional
        Called as ``progress(what, done, total)``.

    Raises
    ------
    StillnetError
        Where the recordings do not fit the model, or the budget cannot be met.
    """
    from stillnet.sw import compression

    options = compression.CompressOptions(
        bits=bits,
        sparsity=sparsity,
        pattern=pattern,
        max_error=max_error,
        mean_error=mean_error,
        frame_ms=frame_ms,
        clock_mhz=clock_mhz,
        by_element=by_element,
        row_steps=row_steps,
        refits=refits,
        method=method,
        seed=seed,
    )
    calibration: Any = as_recordings(x)
    return compression.compress(
        _model(model, calibration, gru_reset, ignore_mask, expect),
        calibration,
        options,
        config=compression.engine_for(options, EngineConfig.load(preset)),
        name=name,
        folder=folder,
        progress=progress,
    )


def train(
    model: Model | str | Path,
    x: np.ndarray | str | Path | Sequence[np.ndarray] | Sequence[str] | Sequence[Path],
    *,
    start: Network | str | Path,
    words: float | None = None,
    mean_error: float | None = None,
    updates: int = 1000,
    batch: int = 16,
    steps: int = 64,
    loss: str | Callable[[Any, Any], Any] = "mae",
    labels: Sequence[np.ndarray] | None = None,
    thresholds: str = "free",
    sparsity: float | None = None,
    regrow: float = 0.0,
    rate: float = 0.01,
    seed: int = 0,
    preset: str | Path | EngineConfig = "sdram16",
    folder: str | Path | None = None,
    gru_reset: str | None = None,
    ignore_mask: bool = False,
    progress: Progress | None = None,
) -> Network:
    """Goes on with a network of :func:`stillnet.compress` by training: fewer words, or less error.

    ::

        import stillnet as sn

        network = sn.train("model.npz", "x.npy", start="net.safetensors", words=40, updates=10)
        network.save("trained.safetensors")
        print(network.notes["training"]["after"])

    Needs PyTorch: ``pip install 'stillnet[train]'``. ``docs/how-to/train.md`` explains the method.

    Parameters
    ----------
    model : Model, or path for :func:`stillnet.load_model`
        The float model, whose outputs are learnt.
    x : array of float, shape (steps, inputs), path of a .npy file or a folder, or a list of them
        Recordings.
    start : Network, or path of one
        Where training begins, from ``compress`` or ``quantize`` of that model.
    words : float, optional
        Least error within so many memory words per step.
    mean_error : float, optional
        Or fewest words within this mean absolute error over all outputs.
    updates : int
        Steps of the optimizer.
    batch, steps : int
        Sequences side by side, and steps of each that an update looks back.
    loss : str or function
        ``"mae"``, ``"mse"`` or ``"kl"`` to the float model, or ``loss(outputs, stretch)``.
    labels : list of arrays, shape (steps, ...), optional
        For that function, one for each recording.
    thresholds : {"free", "common", "fixed"}
        Learn each, one factor for all, or none.
    sparsity : float, optional
        Part of the weights that are gone at the end; masks stay where absent.
    regrow : float
        Part of the kept weights that is exchanged now and then.
    rate : float
        Of learning.
    seed : int
    preset : str, Path or EngineConfig
        The engine whose words are counted, before it is given what the network needs.
    folder : path, optional
        Where the training is kept; one that was stopped goes on from there.
    gru_reset, ignore_mask : optional
        As for :func:`stillnet.load_model`, where ``model`` is a path.
    progress : function, optional
        Called as ``progress(what, done, total)``.

    Raises
    ------
    StillnetError
        Without PyTorch, or where recordings, labels and network do not fit.
    """
    from stillnet.sw import train as training
    from stillnet.sw.packing import engine_fit

    training.require_torch()
    recordings: Any = as_recordings(x)
    network = start if isinstance(start, Network) else Network.load(start)
    own = callable(loss)
    options = training.TrainOptions(
        updates=updates,
        batch=batch,
        steps=steps,
        words=words,
        mean_error=mean_error,
        loss="mae" if own else str(loss),
        rate=rate,
        thresholds=thresholds,
        sparsity=sparsity,
        regrow=regrow,
        seed=seed,
    )
    return training.train(
        _model(model, recordings, gru_reset, ignore_mask, None),
        network,
        recordings,
        options,
        config=engine_fit.fit(network, EngineConfig.load(preset)),
        loss=loss if callable(loss) else None,
        labels=labels,
        folder=folder,
        progress=progress,
    )


def pack(
    network: Network | str | Path,
    config: EngineConfig | str | Path = "axi64",
    *,
    fit: bool = False,
) -> packer.Image:
    """Packs a network into the memory image of one engine configuration.

    ::

        from pathlib import Path

        import stillnet as sn

        image = sn.pack("net.safetensors", "axi64")
        Path("net.img").write_bytes(image.data)

    Parameters
    ----------
    network : Network, or path of one
    config : EngineConfig, name of a preset, or path of its TOML form
    fit : bool
        Pack for the engine that ``stillnet generate NET --fit`` makes; it is ``image.config``.

    Returns
    -------
    Image
        ``image.data`` goes to the engine's memory at any address that is a multiple of 64 bytes.

    Raises
    ------
    StillnetError
        Where the network does not fit.
    """
    from stillnet.sw.packing import engine_fit

    network = network if isinstance(network, Network) else Network.load(network)
    config = EngineConfig.load(config)
    return packer.pack(network, engine_fit.fit(network, config) if fit else config)

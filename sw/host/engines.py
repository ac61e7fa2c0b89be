"""``run``: a network on an engine, over a recording.

Engines are found through the entry-point group ``stillnet.engines``. An engine is a function::

    def engine(network, x, *, preset, steps, progress, **options) -> RunResult

``preset`` is an :class:`EngineConfig`. An engine with an address (``board:PORT``) gets it as
``address``, and ``fit`` as :func:`run` has it, because its configuration is known only there.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import fields, replace
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np

from stillnet.sw.contract.config import EngineConfig
from stillnet.sw.contract.errors import StillnetError
from stillnet.sw.network.network import Network
from stillnet.sw.network.reference import Reference
from stillnet.sw.packing.engine_fit import changed, lacking, missing
from stillnet.sw.packing.engine_fit import fit as fit_engine
from stillnet.sw.partition.parts import Kept
from stillnet.sw.util.progress import Progress, silent
from stillnet.sw.util.recordings import load_array
from stillnet.sw.util.results.runs import RunResult

__all__ = ["engine_loaders", "run", "run_all"]

_GROUP = "stillnet.engines"


def run(
    network: Network | str | Path,
    x: np.ndarray | str | Path,
    *,
    engine: str = "reference",
    preset: str | Path | EngineConfig = "axi64",
    fit: bool | None = None,
    steps: int | None = None,
    progress: Progress | None = None,
    **options: Any,
) -> RunResult:
    """Runs a network over a recording.

    ::

        import stillnet as sn

        result = sn.run("net.safetensors", "x.npy")
        print(result.words / result.steps, "words per step", result.events)

        result = sn.run("net.safetensors", "x.npy", engine="rtl", preset="axi64", steps=5)
        assert result.mismatches == 0, result.difference

    Parameters
    ----------
    network : Network, or path of one
    x : array of float, shape (steps, inputs), or of tokens, shape (steps,), or path of a .npy file
        Of a whole model: what the model takes. The host's parts run here, in onnxruntime.
    engine : str
        ``"reference"``, or an engine of the entry-point group ``stillnet.engines``: ``"rtl"``,
        ``"board:PORT"``, ``"sim:BOARD"``.
    preset : str, Path or EngineConfig
        Name of an engine configuration, or path of its TOML form. A board has its own.
    fit : bool, optional
        None: where the preset, or the engine of a virtual board, lacks something that the network
        needs, it is added (:func:`~stillnet.sw.packing.engine_fit.fit`), and ``added`` of the
        result says what. True: also formats of columns that save words, as ``stillnet generate
        --fit`` adds them. False: a network that does not fit is refused. Only the reference runs it
        all the same, and ``lacking`` of the result says what an engine would lack.
    steps : int, optional
        Run only the first N steps.
    progress : Progress, optional
        Called as ``progress(what, done, total)``.
    options
        For the engine. ``clear_every=N`` of the reference sets h of EGRUs to zero every N steps.

    Returns
    -------
    RunResult
        Or a class derived from it: ``RtlResult``, ``BoardResult``.

    Raises
    ------
    StillnetError
        For an engine, a network or a recording that cannot be. A mismatch is no error: it is in
        the result.
    """
    if not isinstance(network, Network):
        network = Network.load(network)
    if isinstance(x, (str, Path)):
        x = load_array(x)
    name, colon, address = engine.partition(":")
    function = _engine(name)
    if steps is not None and steps < 1:
        raise StillnetError(f"steps must be at least 1, not {steps}")
    base = config = EngineConfig.load(preset)
    if colon:
        options |= {"address": address, "fit": fit}
    elif fit or (fit is None and missing(network, base)):
        config = fit_engine(network, base)
    vectors, kept = x, list[Kept]()
    if network.host is not None:
        vectors, kept = network.host.enter_vectors(x[:steps])
        steps = None
    result = function(network, vectors, preset=config, steps=steps, progress=progress, **options)
    if network.host is not None:
        result = replace(result, outputs=network.host.leave_outputs(result.outputs, kept))
    clipped = network.clipped_inputs(vectors[: result.steps])
    doubts = network.doubts
    if clipped:
        doubts.append(
            f"{clipped} values of the input leave the range that calibration showed, and were "
            "clipped; quantize with recordings that have such values"
        )
    result = replace(result, engine=engine, doubts=doubts, saturations=result.saturations + clipped)
    if colon:
        return result
    return replace(result, preset=config.name, added=changed(base, config), config=config)


def run_all(
    network: Network, recordings: Sequence[np.ndarray], **options: Any
) -> tuple[RunResult, list[np.ndarray]]:
    """:func:`run` over several recordings, each of which starts anew.

    Parameters
    ----------
    network : Network
    recordings : sequence of arrays
    options
        Of :func:`run`.

    Returns
    -------
    RunResult
        Of all of them: counts are added; times and rates are means over the steps.
    list of arrays
        The outputs of each.
    """
    results: list[RunResult] = []
    for x in recordings:
        results.append(run(network, x, **options))
        if results[-1].mismatches:
            break
    outputs = [r.outputs for r in results]
    return (results[0] if len(results) == 1 else _joined(results)), outputs


def _joined(results: Sequence[RunResult]) -> RunResult:
    first, steps = results[0], sum(r.steps for r in results)
    changes: dict[str, Any] = {"recordings": len(results)}
    for f in fields(first):
        values = [getattr(r, f.name) for r in results]
        if f.name in _KEPT or not all(isinstance(v, (int, float)) for v in values):
            continue
        if isinstance(values[0], int):
            changes[f.name] = sum(values)
        else:
            changes[f.name] = sum(v * r.steps for v, r in zip(values, results)) / max(steps, 1)
    if first.utilisation is not None:
        changes["utilisation"] = changes["words"] / max(changes["cycles"], 1)
    wrong = next((r for r in results if r.mismatches), first)
    changes["difference"], changes["first_difference"] = wrong.difference, wrong.first_difference
    changes["events"] = {k: sum(r.events[k] for r in results) for k in first.events}
    changes["doubts"] = list(dict.fromkeys(d for r in results for d in r.doubts))
    uses = [use for r in results if (use := getattr(r, "sdram", None)) is not None]
    if len(uses) == len(results):
        counts = {k: sum(use.counts[k] for use in uses) for k in uses[0].counts}
        changes["sdram"] = replace(uses[0], counts=counts)
    changes["outputs"] = np.concatenate([r.outputs for r in results])
    return replace(first, **changes)


_KEPT = ("recordings", "history", "rtl_cycles_per_second", "clock_hz")
"""Fields that several recordings have in common."""


def engine_loaders() -> dict[str, Callable[[], Callable[..., RunResult]]]:
    """A loader for each engine by name."""
    found: dict[str, Callable[[], Any]] = {"reference": lambda: _reference}
    for point in metadata.entry_points(group=_GROUP):
        found.setdefault(point.name, point.load)
    return found


def _engine(name: str) -> Callable[..., RunResult]:
    engines = engine_loaders()
    if name not in engines:
        raise StillnetError(f"there is no engine '{name}'; engines are {', '.join(engines)}")
    try:
        return engines[name]()
    except ImportError as error:
        raise StillnetError(
            f"engine '{name}' cannot be loaded ({error}); pip install \"stillnet[sim]\""
        ) from error


def _reference(
    network: Network,
    x: np.ndarray,
    *,
    preset: EngineConfig,
    steps: int | None = None,
    progress: Progress | None = None,
    clear_every: int = 0,
    **options: Any,
) -> RunResult:
    """The bit-exact reference. It runs what an engine of this configuration would refuse."""
    if options:
        raise StillnetError(
            f"engine 'reference' has no option '{next(iter(options))}'; it has clear_every"
        )
    progress = progress or silent
    reference = Reference(network, config=preset, clear_every=clear_every)
    rows = network.quantize_input(x)[:steps]
    names = reference.event_names()
    events = dict.fromkeys(names.values(), 0)
    words = saturations = 0
    outputs = []
    for t, row in enumerate(rows):
        if t % 50 == 0:
            progress("reference", t, len(rows))
        outputs.append(reference.step_integers(row))
        words += reference.last.words
        saturations += reference.last.saturations
        for key, count in reference.last.events.items():
            events[names[key]] += count
    progress("reference", len(rows), len(rows))
    return RunResult(
        steps=len(rows),
        events=events,
        words=words,
        cycles=words,
        saturations=saturations,
        lacking=lacking(network, preset),
        outputs=network.dequantize_output(np.stack(outputs)),
    )

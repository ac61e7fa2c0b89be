"""What an engine counts for a recording, behind some steps that warm it up."""

from __future__ import annotations

import numpy as np

from stillnet.sw.network.network import Network
from stillnet.sw.network.reference import Reference

from .equivalence import NetworkOnEngine
from .errors import EngineMismatch
from .model import Behaviour, EngineModel

__all__ = ["counted_run"]


def counted_run(
    network: Network,
    x: np.ndarray,
    model: EngineModel,
    *,
    warm: int,
    latency: int,
    word_cycles: float = 1.0,
    streaming: bool = True,
) -> dict[str, float]:
    """Runs integer vectors and holds every output against the reference.

    Parameters
    ----------
    network : Network
    x : int array, shape (steps, inputs)
    model : EngineModel
    warm : int
        Steps at the beginning that are not counted.
    latency : int
        Of the memory, in cycles.
    word_cycles : float
        Of the memory, from a word to the next one.
    streaming : bool
        Vectors wait at the input; else each is offered to an idle engine.

    Returns
    -------
    dict of str to float
        The counters, a step.

    Raises
    ------
    EngineMismatch
        Where an output differs from the reference.
    """
    reference = Reference(network, config=model.config)
    expected = np.stack([reference.step_integers(row) for row in x])
    together = len(x) - warm if streaming else 1
    with NetworkOnEngine(network, model.config, model=model) as engine:
        model.behave(Behaviour(latency=latency, word_cycles=word_cycles))
        engine.reset()
        got = [model.run(x[:warm], warm, network.outputs)[0]]
        model.wait_idle()
        model.clear_counters()
        for t in range(warm, len(x), together):
            got.append(model.run(x[t : t + together], together, network.outputs)[0])
            model.wait_idle()
        counters = model.counters()
    if not np.array_equal(np.concatenate(got), expected):
        raise EngineMismatch(f"network '{network.name}': the engine differs from the reference")
    return {name: value / (len(x) - warm) for name, value in counters.items()}

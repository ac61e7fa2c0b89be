"""What the scripts of this folder share: places, figures of a network, pictures."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from stillnet.sw.contract.config import EngineConfig
from stillnet.sw.contract.errors import StillnetError
from stillnet.sw.contract.sources import INPUT
from stillnet.sw.cost.cost import predict, step_words
from stillnet.sw.cost.memory import MemoryModel
from stillnet.sw.network.network import Network
from stillnet.sw.network.sequence import Layout, Trace, run_integers
from stillnet.sw.packing.engine_fit import fit
from stillnet.sw.util.files import write_atomically
from stillnet.sw.util.pictures import PALETTE, STYLE

__all__ = [
    "COLOURS",
    "FOLDER",
    "NETWORKS",
    "Figures",
    "engine_of",
    "figures",
    "judge",
    "picture",
    "read_results",
    "write_results",
]

FOLDER = Path("build/reproduce")
"""Where everything but the trained networks goes."""

NETWORKS = Path(__file__).parent / "networks"
"""Trained networks, and ``results.json``: what was measured when they were made."""

COLOURS = PALETTE


@dataclass(frozen=True)
class Figures:
    """What a network costs per step, on recordings.

    Attributes
    ----------
    words, cycles : float
        Words of 64 bits that are fetched, and cycles by the cost model, with a memory that gives a
        word in every cycle, the first 8 cycles after a request.
    columns, of_columns : float
        Columns fetched, and columns that there are: an element that two layers read is two columns.
    multiplications, of_multiplications : float
        Weights that are not zero in these columns, and all weights, zero or not; of the matrix of a
        token one column.
    """

    words: float
    cycles: float
    columns: float
    of_columns: float
    multiplications: float
    of_multiplications: float

    @property
    def share(self) -> float:
        """Share of the columns that is fetched."""
        return self.columns / self.of_columns


def engine_of(network: Network) -> EngineConfig:
    """The engine of 8 lanes and 64-bit words, with what the network needs."""
    return fit(network, EngineConfig.load("axi64"))


def judge(network: Network, recordings: Sequence[np.ndarray]) -> tuple[list[np.ndarray], Trace]:
    """Outputs of the integers, in the units of the float model, and what fired."""
    layout = Layout([len(r) for r in recordings])
    trace = run_integers(
        network, layout, layout.pack([network.quantize_input(r) for r in recordings])
    )
    y = network.dequantize_output(trace.vectors[len(network.layers) - 1])
    return layout.unpack(y), trace


def figures(
    network: Network,
    recordings: Sequence[np.ndarray],
    trace: Trace,
    config: EngineConfig | None = None,
) -> Figures:
    """Cost of a run of :func:`judge`, on :func:`engine_of` the network or another engine."""
    config, rows = config or engine_of(network), trace.layout.rows
    columns = of_columns = used = total = 0.0
    for i, layer in enumerate(network.layers):
        for m in layer.matrices:
            fired = _fired(network, trace, recordings, network.event_source(i, m.source)) / rows
            columns += float(fired.sum())
            used += float(np.count_nonzero(m.weight, axis=(0, 1)) @ fired)
            tokens = m.source == INPUT and network.input_mode.one_hot
            of_columns += 1 if tokens else len(fired)
            total += m.weight.size / (len(fired) if tokens else 1)
    words = step_words(network, config, trace)
    sample = network.quantize_input(recordings[0])[:120]
    cost = predict(network, sample, config, memory=MemoryModel(), warm=40)
    return Figures(words, cost.cycles * words / cost.words, columns, of_columns, used, total)


def _fired(
    network: Network, trace: Trace, recordings: Sequence[np.ndarray], source: int
) -> np.ndarray:
    """Events of each element of a source over all recordings."""
    if source in trace.fired:
        return np.asarray(trace.fired[source], float)
    tokens = np.concatenate([np.asarray(r).ravel() for r in recordings]).astype(int)
    return np.bincount(tokens, minlength=network.inputs).astype(float)


def read_results() -> dict[str, Any]:
    """What was measured when the networks were made."""
    path = NETWORKS / "results.json"
    return json.loads(path.read_text()) if path.is_file() else {}


def write_results(name: str, values: Mapping[str, Any]) -> None:
    """Keeps what was measured under a name."""
    found = {**read_results(), name: dict(values)}
    text = json.dumps(found, indent=1, sort_keys=True, default=float) + "\n"
    write_atomically(NETWORKS / "results.json", text.encode())


def picture(width: float = 10.0, panels: int = 2) -> Any:
    """A figure and its axes in the style of the project's pictures."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    plt.rcParams.update(
        {**STYLE, "axes.grid": True, "axes.axisbelow": True, "grid.color": "#e6e6e6"}
    )
    return plt.subplots(1, panels, figsize=(width, 4.2), layout="constrained")


def command_line(
    name: str, about: str | None, make: Callable[[], None], show: Callable[[bool], Path]
) -> int:
    """What the scripts of all pages do: make networks anew if asked, then measure and draw.

    Parameters
    ----------
    name : str
        Of the script.
    about : str
        Its docstring.
    make : callable
        Trains the networks.
    show : callable
        Measures, prints and draws; gives the picture. It gets whether figures are to be kept.
    """
    parser = argparse.ArgumentParser(
        description=about, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--train", action="store_true", help="make the networks anew")
    args = parser.parse_args()
    try:
        FOLDER.mkdir(parents=True, exist_ok=True)
        if args.train:
            make()
        print(f"{show(args.train)} written.")
    except StillnetError as error:
        print(f"{name}: error: {error}", file=sys.stderr)
        return 2
    return 0

"""What a network did on its calibration recordings: what a monitor compares a running board with.

These figures stand in ``notes["calibration"]`` of a network file. They are small: a few numbers for
each vector, and a few for each element of the input and the output.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from stillnet.sw.contract.sources import INPUT
from stillnet.sw.util.keys import check_keys

from .network import Network
from .sequence import Trace

__all__ = ["WINDOW", "Calibration"]

WINDOW = 50
"""Steps over which rates of events are taken: 0.5 s of a network that runs 100 times per second."""


@dataclass(frozen=True)
class Calibration:
    """Rates and ranges over the calibration recordings.

    Attributes
    ----------
    steps : int
        Steps of all recordings.
    window : int
        Consecutive steps over which a rate is taken; fewer than :data:`WINDOW` where no recording
        is as long.
    events : dict of str to (float, float, float)
        Events per step of each vector: the quietest window, the mean, the busiest window. One-hot
        inputs have none.
    saturations : float
        Elements clipped to 16 bits, per step.
    input_low, input_high : list of int
        Range of each element of the input, in integers. Empty for one-hot inputs.
    input_still : list of int
        The most steps in a row in which an element of the input kept its integer.
    output_low, output_high : list of int
        Range of each output, in integers.
    """

    steps: int
    window: int
    events: dict[str, tuple[float, float, float]]
    saturations: float
    input_low: list[int]
    input_high: list[int]
    input_still: list[int]
    output_low: list[int]
    output_high: list[int]

    @classmethod
    def of(cls, network: Network, trace: Trace) -> Calibration:
        """Of a run over the recordings, in integers.

        Parameters
        ----------
        network : Network
        trace : Trace
            As :func:`~stillnet.sw.network.sequence.run_integers` gives it.
        """
        layout = trace.layout
        window = min(WINDOW, max(layout.lengths))
        names = network.event_names()
        events = {
            names[key]: _rates(layout.unpack(counts), window)
            for key, counts in trace.counts.items()
        }
        inputs = [] if network.input_mode.one_hot else layout.unpack(trace.vectors[INPUT])
        output = trace.vectors[len(network.layers) - 1]
        return cls(
            steps=layout.rows,
            window=window,
            events=events,
            saturations=trace.saturations / layout.rows,
            input_low=np.min([x.min(axis=0) for x in inputs], axis=0).tolist() if inputs else [],
            input_high=np.max([x.max(axis=0) for x in inputs], axis=0).tolist() if inputs else [],
            input_still=np.max([_still(x) for x in inputs], axis=0).tolist() if inputs else [],
            output_low=output.min(axis=0).tolist(),
            output_high=output.max(axis=0).tolist(),
        )

    @classmethod
    def of_notes(cls, network: Network) -> Calibration | None:
        """What the network file holds; None where it was made by hand, or by an older version."""
        found = network.notes.get("calibration")
        return None if found is None else cls.from_dict(found)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Calibration:
        """Reads what :meth:`to_dict` wrote.

        Raises
        ------
        StillnetError
            Where a key is missing or unknown.
        """
        check_keys(values, list(cls.__dataclass_fields__), "the network's calibration")
        return cls(**values)

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return asdict(self)


def _rates(counts: list[np.ndarray], window: int) -> tuple[float, float, float]:
    """Least, mean and most events per step, the first and the last over windows."""
    sums = [np.convolve(c, np.ones(window, np.int64), "valid") for c in counts if len(c) >= window]
    rates = np.concatenate(sums) / window
    mean = float(np.mean(np.concatenate(counts)))
    return round(float(rates.min()), 4), round(mean, 4), round(float(rates.max()), 4)


def _still(x: np.ndarray) -> np.ndarray:
    """The longest run of steps in which each column keeps its value; shape (columns,)."""
    longest = run = np.zeros(x.shape[1], np.int64)
    for same in x[1:] == x[:-1]:
        run = (run + 1) * same
        longest = np.maximum(longest, run)
    return longest

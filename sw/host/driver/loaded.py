"""What is known of the network on a board, from the notes of its image."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np

from stillnet.sw.contract.cells import CELLS
from stillnet.sw.contract.events import Mode
from stillnet.sw.contract.fixed import ACTIVATION
from stillnet.sw.contract.sources import encoder_select
from stillnet.sw.network.network import Network, QuantizedLayer
from stillnet.sw.packing.packer import Image
from stillnet.sw.partition.parts import HostParts
from stillnet.sw.partition.stream import HostStream

__all__ = ["Loaded", "outline_of"]


@dataclass
class Loaded:
    """The network on the board as far as an image's notes tell: names, sizes, formats; and where
    its image is, in words."""

    outline: Network
    unit_base: tuple[int, ...]
    host: HostStream | None
    base: int = 0
    words: int = 0
    exact: bool = True  # they tell all thresholds of the input

    @cached_property
    def selects(self) -> dict[str, int]:
        """What EVENTS_SELECT is for each vector."""
        return {name: encoder_select(k) for k, name in self.outline.event_names().items()}


def outline_of(image: Image, base: int, word_bytes: int) -> Loaded:
    """What is known of the network in an image whose first word is at ``base``."""
    notes = image.notes
    layers = []
    for d in notes["layers"]:
        homogeneous = CELLS[d["cell"]].homogeneous
        layers.append(
            QuantizedLayer(
                name=d["name"],
                cell=d["cell"],
                units=d["units"],
                matrices=[],
                bias={},
                shift=0,
                write_shift=0 if homogeneous else ACTIVATION.fraction - d["fraction"],
                fraction=d["fraction"],
                mode=Mode[d["mode"].upper()],
                threshold=d["threshold"],
                threshold_recurrent=d["threshold_recurrent"],
                unit_exponents=_array(d["unit_exponents"]),
            )
        )
    outline = Network(
        inputs=notes["inputs"],
        input_fraction=notes["input_fraction"],
        layers=layers,
        input_mode=Mode[notes["input_mode"].upper()],
        input_threshold=notes["input_threshold"],
        name=notes["name"],
        input_exponents=_array(notes["input_exponents"]),
        host=None if notes["host"] is None else HostParts.from_dict(notes["host"]),
        input_thresholds=_array(notes.get("input_thresholds")),
        budgets={int(source): b for source, b in notes.get("budgets", {}).items()},
    )
    exact = not image.config.element_thresholds or "input_thresholds" in notes
    return Loaded(
        outline,
        tuple(d["unit_base"] for d in notes["layers"]),
        HostStream.of(outline.host),
        base,
        -(-len(image.hardware) // word_bytes),
        exact,
    )


def _array(numbers: list[int] | None) -> np.ndarray | None:
    return None if numbers is None else np.array(numbers, np.int64)

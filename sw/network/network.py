"""A quantized network: integers only, with formats and thresholds inside.

The container is one ``.safetensors`` file: tensors ``LAYER/weight/MATRIX``, ``LAYER/bias/GATE`` and
so on by number, and everything else as JSON in the metadata key ``stillnet``. ``container`` lists
all keys and tensors; none is left out for having a usual value.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from stillnet.sw.contract.budgets import BUDGET_BITS
from stillnet.sw.contract.cells import CELLS
from stillnet.sw.contract.columns import Layout, choose, readable
from stillnet.sw.contract.config import EngineConfig
from stillnet.sw.contract.errors import StillnetError
from stillnet.sw.contract.events import Mode
from stillnet.sw.contract.fixed import (
    ACCUMULATOR_BITS,
    EVENT_BITS,
    PRE,
    RESCALE_GUARD_BITS,
    SCALE_BITS,
)
from stillnet.sw.contract.image import FORMATS
from stillnet.sw.contract.sources import INPUT, SECOND, feeds_next_step, matrix_order
from stillnet.sw.partition.parts import HostParts
from stillnet.sw.util.files import write_atomically

from .checks import check_cell, label_exponent, state_format
from .container import FORMAT_VERSION, check_container

__all__ = ["Network", "QuantizedLayer", "QuantizedMatrix"]


@dataclass
class QuantizedMatrix:
    """Integer weights from one source into some accumulators of a layer.

    Attributes
    ----------
    source : int
        ``INPUT`` or the index of a layer.
    gates : tuple of str
    weight : int8 array, shape (len(gates), units, size of the source)
    fraction : int
        Weight value = integer / 2**fraction.
    bits : int
        8 or 4: what a weight takes in memory. With 4, weights are -8 to 7.
    format : str or None
        How the packer is to store it (``contract.image.FORMATS``); None lets it choose the fewest
        words.
    """

    source: int
    gates: tuple[str, ...]
    weight: np.ndarray
    fraction: int
    bits: int = 8
    format: str | None = None

    def column_words(self, lanes: int) -> int:
        """Memory words of one dense column for an engine with ``lanes`` lanes."""
        return -(-self.weight.shape[1] // lanes) * len(self.gates)

    def ordered(self, cell: str) -> np.ndarray:
        """The weights with the gates in the order of the cell's accumulators."""
        order = CELLS[cell].accumulators
        rank = sorted(range(len(self.gates)), key=lambda g: order.index(self.gates[g]))
        return self.weight[rank]

    def mask(self, cell: str) -> int:
        """Which of the cell's accumulators the matrix feeds, the first one in the lowest bit."""
        return sum(1 << CELLS[cell].accumulators.index(g) for g in self.gates)

    def layout(self, cell: str, config: EngineConfig) -> Layout:
        """How the matrix lies in the memory of an engine, with the words of each column."""
        mask = self.mask(cell)
        return choose(self.ordered(cell), self.bits, readable(mask, config), self.format)


@dataclass
class QuantizedLayer:
    """One cell with integer matrices.

    Attributes
    ----------
    name, cell, units : as in the float model
    matrices : list of QuantizedMatrix
    bias : dict of str to int64 array, shape (units,)
        In units of the accumulator: value = integer / 2**exponent.
    shift : int
        Rescale shift (``fixed.rescale``).
    write_shift : int
        The cell's 16-bit result, shifted right by this and rounded, is the layer's vector.
    fraction : int
        Fraction bits of the layer's vector.
    mode : Mode
        How the vector is turned into events.
    threshold : int
        In units of the vector's least significant bit; for the layers above.
    threshold_recurrent : int or None
        For the layer's own recurrence; None where one encoder serves both.
    initial : dict of str to int64 array
        Initial state, in the format of the state variable.
    parameters : dict of str to int64 array, shape (units,)
        Constants of the cell, in their formats.
    peers : dict of str to int
        The layers whose state variables of these names the cell reads.
    exponents : dict of str to int
        Powers of two of the cell's scale labels (``Cell.scale``): an integer of a name with label a
        and format sN.F stands for integer / 2**(F + exponents[a]). Zero where absent.
    scale : dict of str to int64 array, shape (units,), or None
        A multiplier for each row of each accumulator, applied after the rescale shift
        (``fixed.scale_row``). All matrices that add into a row share it.
    thresholds : int64 array, shape (units,), or None
        A threshold for each element, in place of ``threshold``.
    unit_exponents : int64 array, shape (units,), or None
        Powers of two by which elements of the vector were made larger (``equalize``): element j
        stands for integer / 2**(fraction + unit_exponents[j]). No integer depends on them.
    """

    name: str
    cell: str
    units: int
    matrices: list[QuantizedMatrix]
    bias: dict[str, np.ndarray]
    shift: int
    write_shift: int
    fraction: int
    mode: Mode = Mode.DELTA
    threshold: int = 0
    threshold_recurrent: int | None = None
    initial: dict[str, np.ndarray] = field(default_factory=dict)
    parameters: dict[str, np.ndarray] = field(default_factory=dict)
    peers: dict[str, int] = field(default_factory=dict)
    exponents: dict[str, int] = field(default_factory=dict)
    scale: dict[str, np.ndarray] | None = None
    thresholds: np.ndarray | None = None
    unit_exponents: np.ndarray | None = None

    @property
    def limit(self) -> int | np.ndarray:
        """The threshold of every element, or one for all of them."""
        return self.threshold if self.thresholds is None else self.thresholds

    def blocks(self, lanes: int) -> int:
        """Blocks of rows for an engine with ``lanes`` lanes."""
        return -(-self.units // lanes)


@dataclass
class Network:
    """A quantized network.

    Attributes
    ----------
    inputs : int
        Elements of the input vector, or tokens for one-hot modes.
    input_fraction : int
        Input value = integer / 2**input_fraction. For one-hot modes 2**input_fraction is the
        value of a token's event.
    input_mode : Mode
    input_threshold : int
    layers : list of QuantizedLayer
        The last one is the output.
    notes : dict
        Free metadata: where it came from, error reports.
    input_thresholds : int64 array, shape (inputs,), or None
        A threshold for each element, in place of ``input_threshold``.
    input_exponents : int64 array, shape (inputs,), or None
        Powers of two that the host multiplies the inputs by, so that all have one scale.
    host : HostParts or None
        What the host computes in front of the chip and behind it, where a whole model was cut.
    budgets : dict of int to int
        Most events per step of the vectors that have a budget (``contract.budgets``), by source.
    """

    inputs: int
    input_fraction: int
    layers: list[QuantizedLayer]
    input_mode: Mode = Mode.DELTA
    input_threshold: int = 0
    name: str = "network"
    notes: dict[str, Any] = field(default_factory=dict)
    input_thresholds: np.ndarray | None = None
    input_exponents: np.ndarray | None = None
    host: HostParts | None = None
    budgets: dict[int, int] = field(default_factory=dict)

    @property
    def input_limit(self) -> int | np.ndarray:
        """The threshold of every input, or one for all of them."""
        return self.input_threshold if self.input_thresholds is None else self.input_thresholds

    @property
    def element_thresholds(self) -> bool:
        """Whether any vector has a threshold for each element."""
        return self.input_thresholds is not None or any(
            layer.thresholds is not None for layer in self.layers
        )

    @property
    def row_scale(self) -> bool:
        """Whether any row has a multiplier."""
        return any(layer.scale is not None for layer in self.layers)

    @property
    def doubts(self) -> list[str]:
        """What one should know before the network is trusted, as quantization found it."""
        return list(self.notes.get("report", {}).get("doubts", []))

    @property
    def outputs(self) -> int:
        """Elements of the output vector."""
        return self.layers[-1].units

    @property
    def second_threshold(self) -> bool:
        """Whether any hidden vector needs a second encoder."""
        return any(layer.threshold_recurrent is not None for layer in self.layers)

    def source_size(self, source: int) -> int:
        """Elements of a source."""
        return self.inputs if source == INPUT else self.layers[source].units

    def source_mode(self, source: int) -> Mode:
        """Event mode of a source."""
        return self.input_mode if source == INPUT else self.layers[source].mode

    def source_name(self, source: int) -> str:
        """Name of a source for reports."""
        return "input" if source == INPUT else self.layers[source].name

    def limit_of(self, source: int) -> int | np.ndarray:
        """The threshold of every element of a source, or one for all of them."""
        return self.input_limit if source == INPUT else self.layers[source].limit

    def reload(self, index: int) -> bool:
        """Whether the accumulators of a layer start each step from the bias."""
        return any(self.source_mode(m.source).reload for m in self.layers[index].matrices)

    def event_names(self) -> dict[int, str]:
        """Names of all encoders by source; that of a second encoder is ``SECOND`` further."""
        names = {INPUT: self.source_name(INPUT)}
        for i, layer in enumerate(self.layers):
            names[i] = layer.name
            if layer.threshold_recurrent is not None:
                names[i + SECOND] = f"{layer.name} (recurrent)"
        return names

    def event_source(self, target: int, source: int) -> int:
        """The key under which the events of a matrix stand, which a second encoder may send.

        Parameters
        ----------
        target, source : int
            The matrix's layer, and where it takes its vector from.
        """
        if feeds_next_step(source, target):
            second = self.layers[source].threshold_recurrent is not None
            return source + SECOND if second else source
        return source

    @property
    def activity(self) -> dict[int, np.ndarray] | None:
        """How often each element fired in calibration, in events a step, by source (``SECOND``
        added for second encoders); None where nothing was recorded."""
        found = self.notes.get("activity")
        if found is None:
            return None
        sizes = {s: self.source_size(s % SECOND if s >= 0 else s) for s in self.event_names()}
        result = {}
        for source, name in self.event_names().items():
            rates = np.asarray(found.get(name, ()), float)
            if rates.shape == (sizes[source],):
                result[source] = rates
        return result

    def matrix_order(self) -> list[tuple[int, int]]:
        """Layer and place in it of every matrix, in the order of the image."""
        return matrix_order([[m.source for m in layer.matrices] for layer in self.layers])

    def source_bound(self, source: int) -> int:
        """Largest possible magnitude of an element of a source, as an integer."""
        if source == INPUT:
            return 1 << self.input_fraction if self.input_mode.one_hot else 1 << 15
        layer = self.layers[source]
        bound = CELLS[layer.cell].bound
        full = 1 << 15
        return full if bound is None else min(full, int(np.ceil(bound * 2.0**layer.fraction)))

    def quantize_input(self, x: np.ndarray) -> np.ndarray:
        """Float vectors (or tokens) to integers as the engine takes them.

        Parameters
        ----------
        x : array, shape (steps, inputs), or (steps,) or (steps, 1) of tokens for one-hot networks

        Returns
        -------
        int64 array, shape (steps, inputs) or (steps, 1)
        """
        x = np.asarray(x)
        if self.input_mode.one_hot:
            tokens = x[:, None] if x.ndim == 1 else x
            if tokens.ndim != 2 or tokens.shape[1] != 1 or len(tokens) == 0:
                raise StillnetError(
                    f"input has shape {x.shape}; network '{self.name}' takes one token per step, "
                    "shape (steps,)"
                )
            if not np.all(tokens == np.floor(tokens)):
                raise StillnetError(f"network '{self.name}' takes whole token numbers")
            bad = tokens[(tokens < -1) | (tokens >= self.inputs)]
            if len(bad):
                raise StillnetError(
                    f"token {int(bad[0])} is outside 0 to {self.inputs - 1}, the tokens of network "
                    f"'{self.name}'"
                )
            return tokens.astype(np.int64)
        if x.ndim != 2 or x.shape[1] != self.inputs or len(x) == 0:
            raise StillnetError(
                f"input has shape {x.shape}; network '{self.name}' takes (steps, {self.inputs}) "
                "with at least one step"
            )
        x = x.astype(float)
        if not np.all(np.isfinite(x)):
            step, element = (int(i) for i in np.argwhere(~np.isfinite(x))[0])
            raise StillnetError(
                f"input holds {x[step, element]} at step {step}, element {element}; remove NaN and "
                "infinity from the recording"
            )
        return np.clip(self._scaled(x), -(1 << 15), (1 << 15) - 1).astype(np.int64)

    def _scaled(self, x: np.ndarray) -> np.ndarray:
        return np.floor(x * self.units_of(INPUT) + 0.5)

    def clipped_inputs(self, x: np.ndarray) -> int:
        """Elements of float vectors that :meth:`quantize_input` clips to 16 bits."""
        if self.input_mode.one_hot:
            return 0
        scaled = self._scaled(np.asarray(x, float))
        return int(np.count_nonzero((scaled < -(1 << 15)) | (scaled >= 1 << 15)))

    def units_of(self, source: int) -> np.ndarray | float:
        """Integers per unit of the values of a vector: one for all of its elements, or each."""
        if source == INPUT:
            fraction, exponents = self.input_fraction, self.input_exponents
        else:
            fraction, exponents = self.layers[source].fraction, self.layers[source].unit_exponents
        return 2.0**fraction if exponents is None else 2.0 ** (fraction + exponents)

    def dequantize_output(self, y: np.ndarray) -> np.ndarray:
        """Integer outputs to float."""
        return y / self.units_of(len(self.layers) - 1)

    # -- checks -----------------------------------------------------------------------------------

    def exponent(self, index: int) -> int:
        """Fraction bits of a layer's accumulators: the same for all of its matrices."""
        layer = self.layers[index]
        found = {}
        for m in layer.matrices:
            source = self.input_fraction if m.source == INPUT else self.layers[m.source].fraction
            found[m.source] = source + m.fraction
        if not found:  # whatever its rescale shift stands for
            cell = CELLS[layer.cell]
            pre = PRE.fraction + label_exponent(cell, layer.exponents, "m")
            return pre + layer.shift - RESCALE_GUARD_BITS
        if len(set(found.values())) != 1:
            raise StillnetError(
                f"layer '{layer.name}': its matrices have different exponents "
                f"{sorted(found.values())}; quantize the network again"
            )
        return next(iter(found.values()))

    def validate(self) -> None:
        """Checks shapes, formats and that no accumulator can overflow.

        Raises
        ------
        StillnetError
            Naming the layer, and the row for an accumulator that does not fit 32 bits: for every
            row \\|bias\\| + sum \\|w\\| * max \\|x\\| must be below 2**31.
        """
        if not self.layers:
            raise StillnetError(f"network '{self.name}' has no layers")
        self._check_input()
        for i, layer in enumerate(self.layers):
            where = f"layer '{layer.name}'"
            if layer.cell not in CELLS:
                raise StillnetError(f"{where}: cell '{layer.cell}' is unknown")
            cell = CELLS[layer.cell]
            if set(layer.bias) != set(cell.accumulators):
                raise StillnetError(
                    f"{where}: biases are given for {sorted(layer.bias)}, the cell has "
                    f"{sorted(cell.accumulators)}"
                )
            if not 0 <= layer.shift <= 31 or not 0 <= layer.write_shift <= 15:
                raise StillnetError(f"{where}: shift {layer.shift} or {layer.write_shift} is wrong")
            if not layer.matrices and not cell.peers:
                raise StillnetError(f"{where}: no matrix feeds it")
            self._check_shapes(i)
            exponent = self.exponent(i)
            check_cell(self, i, exponent)
            modes = {self.source_mode(m.source).reload for m in layer.matrices}
            if len(modes) > 1:
                raise StillnetError(
                    f"{where}: fed by delta and by plain events at once; give all of its sources "
                    "one kind of mode"
                )
            for g, rows in self.accumulator_bound(i).items():
                worst = int(np.argmax(rows))
                if rows[worst] >= 1 << (ACCUMULATOR_BITS - 1):
                    raise StillnetError(
                        f"{where}: row {worst} of gate '{g}' can reach {int(rows[worst])}, more "
                        "than 32 bits hold; quantize with fewer weight or activation bits"
                    )

    def accumulator_bound(self, index: int) -> dict[str, np.ndarray]:
        """Largest possible magnitude of each accumulator of a layer, int64, shape (units,)."""
        layer = self.layers[index]
        bound = {g: np.abs(b.astype(np.int64)) for g, b in layer.bias.items()}
        for m in layer.matrices:
            w = np.abs(m.weight.astype(np.int64))
            total = w.max(axis=2) if self.source_mode(m.source).one_hot else w.sum(axis=2)
            for g, part in zip(m.gates, total):
                bound[g] = bound[g] + part * self.source_bound(m.source)
        return bound

    def _check_input(self) -> None:
        if self.inputs < 1:
            raise StillnetError(
                f"network '{self.name}' has {self.inputs} inputs, at least 1 needed"
            )
        if self.input_mode.one_hot and not 0 <= self.input_fraction <= 15:
            raise StillnetError(
                f"network '{self.name}': a token's fraction must be 0 to 15, not "
                f"{self.input_fraction}"
            )
        thresholds = {"input": self.input_threshold}
        for layer in self.layers:
            thresholds[f"layer '{layer.name}'"] = layer.threshold
            if layer.threshold_recurrent is not None:
                thresholds[f"layer '{layer.name}' (recurrent)"] = layer.threshold_recurrent
        for where, value in thresholds.items():
            if not 0 <= value < 1 << EVENT_BITS:
                raise StillnetError(
                    f"{where}: threshold must be 0 to {(1 << EVENT_BITS) - 1}, not {value}"
                )
        self._check_elements("input", self.input_thresholds, self.inputs)
        if self.input_thresholds is not None and self.input_mode.one_hot:
            raise StillnetError(
                f"network '{self.name}' takes tokens, which have no thresholds; leave "
                "input_thresholds away"
            )
        self._check_exponents("input", self.input_exponents, self.inputs)
        self._check_budgets()
        for layer in self.layers:
            self._check_elements(f"layer '{layer.name}'", layer.thresholds, layer.units)
            self._check_exponents(f"layer '{layer.name}'", layer.unit_exponents, layer.units)

    def _check_budgets(self) -> None:
        for source, budget in self.budgets.items():
            if not INPUT <= source < len(self.layers):
                raise StillnetError(f"network '{self.name}' has no vector {source} to budget")
            where, mode = f"vector '{self.source_name(source)}'", self.source_mode(source)
            if mode is not Mode.DELTA:
                raise StillnetError(
                    f"{where}: only a vector of differences can have a budget; an event of mode "
                    f"'{mode.name.lower()}' cannot come later"
                )
            if not 1 <= budget < 1 << BUDGET_BITS:
                raise StillnetError(
                    f"{where}: a budget must be 1 to {(1 << BUDGET_BITS) - 1} events per step, "
                    f"not {budget}"
                )
        if self.budgets and self.second_threshold:
            raise StillnetError(
                f"network '{self.name}' has a separate recurrent threshold; budgets need one "
                "encoder per vector"
            )

    def _check_exponents(self, where: str, exponents: np.ndarray | None, size: int) -> None:
        if exponents is None:
            return
        whole = np.issubdtype(exponents.dtype, np.integer)
        if exponents.shape != (size,) or not whole or np.any(np.abs(exponents) > 64):
            raise StillnetError(
                f"{where}: powers of two of the elements have shape {exponents.shape} and type "
                f"{exponents.dtype}, expected integers from -64 to 64 of shape {(size,)}"
            )

    def _check_elements(self, where: str, thresholds: np.ndarray | None, size: int) -> None:
        if thresholds is None:
            return
        if thresholds.shape != (size,) or not np.issubdtype(thresholds.dtype, np.integer):
            raise StillnetError(
                f"{where}: thresholds have shape {thresholds.shape} and type {thresholds.dtype}, "
                f"expected integers of shape {(size,)}"
            )
        wrong = np.flatnonzero((thresholds < 0) | (thresholds >= 1 << EVENT_BITS))
        if len(wrong):
            raise StillnetError(
                f"{where}: threshold of element {wrong[0]} must be 0 to {(1 << EVENT_BITS) - 1}, "
                f"not {thresholds[wrong[0]]}"
            )

    def _check_shapes(self, index: int) -> None:
        layer = self.layers[index]
        where, cell = f"layer '{layer.name}'", CELLS[layer.cell]
        for g, b in layer.bias.items():
            if b.shape != (layer.units,):
                raise StillnetError(
                    f"{where}: bias '{g}' has shape {b.shape}, expected {(layer.units,)}"
                )
        for m in layer.matrices:
            if not INPUT <= m.source < len(self.layers):
                raise StillnetError(f"{where}: source {m.source} does not exist")
            expected = (len(m.gates), layer.units, self.source_size(m.source))
            if m.weight.shape != expected or m.weight.dtype != np.int8:
                raise StillnetError(
                    f"{where}: weights from {self.source_name(m.source)} have shape "
                    f"{m.weight.shape} and type {m.weight.dtype}, expected {expected}, int8"
                )
            if m.bits not in (4, 8) or (m.bits == 4 and ((m.weight < -8) | (m.weight > 7)).any()):
                raise StillnetError(
                    f"{where}: weights from {self.source_name(m.source)} reach {m.weight.min()} to "
                    f"{m.weight.max()}, which are not {m.bits} bits; bits must be 8, or 4 for "
                    "weights of -8 to 7"
                )
            if m.format is not None and m.format not in FORMATS:
                raise StillnetError(
                    f"{where}: storage format '{m.format}' is unknown; known are "
                    f"{', '.join(FORMATS)}"
                )
            for g in m.gates:
                if g not in layer.bias or m.gates.count(g) != 1:
                    raise StillnetError(
                        f"{where}: cell '{layer.cell}' has no gate '{g}', or it is named twice"
                    )
        for g, value in (layer.scale or {}).items():
            if (
                g not in layer.bias
                or value.shape != (layer.units,)
                or not np.issubdtype(value.dtype, np.integer)
                or np.any((value < 0) | (value >= 1 << SCALE_BITS))
            ):
                raise StillnetError(
                    f"{where}: multipliers of '{g}' must be integers of shape {(layer.units,)} "
                    f"between 0 and {(1 << SCALE_BITS) - 1}"
                )
        for s, value in layer.initial.items():
            if s not in cell.state or value.shape != (layer.units,):
                raise StillnetError(
                    f"{where}: initial state '{s}' of shape {value.shape} does not exist"
                )
            limit = cell.state[s].maximum
            if s == cell.output_state and cell.bound is not None:
                fraction = state_format(layer, s).fraction
                limit = min(limit, int(np.ceil(cell.bound * 2.0**fraction)))
            if np.any(np.abs(value.astype(np.int64)) > limit):
                raise StillnetError(
                    f"{where}: initial state '{s}' exceeds {limit}, the bound that the proof "
                    "against overflow rests on"
                )

    # -- container --------------------------------------------------------------------------------

    def save(self, path: str | Path) -> None:
        """Writes the network as ``.safetensors``; the file is complete or absent."""
        from safetensors.numpy import save

        self.validate()
        tensors: dict[str, np.ndarray] = {}
        layers = []
        for i, layer in enumerate(self.layers):
            matrices = []
            for j, m in enumerate(layer.matrices):
                tensors[f"{i}/weight/{j}"] = np.ascontiguousarray(m.weight)
                matrices.append(
                    {
                        "source": m.source,
                        "gates": list(m.gates),
                        "fraction": m.fraction,
                        "bits": m.bits,
                        "format": m.format,
                    }
                )
            for g, value in (layer.scale or {}).items():
                tensors[f"{i}/scale/{g}"] = value.astype(np.int32)
            if layer.thresholds is not None:
                tensors[f"{i}/thresholds"] = layer.thresholds.astype(np.int32)
            if layer.unit_exponents is not None:
                tensors[f"{i}/exponents"] = layer.unit_exponents.astype(np.int32)
            for g, b in layer.bias.items():
                tensors[f"{i}/bias/{g}"] = b.astype(np.int32)
            for s, value in layer.initial.items():
                tensors[f"{i}/initial/{s}"] = value.astype(np.int32)
            for p, value in layer.parameters.items():
                tensors[f"{i}/parameter/{p}"] = value.astype(np.int32)
            layers.append(
                {
                    "name": layer.name,
                    "cell": layer.cell,
                    "units": layer.units,
                    "matrices": matrices,
                    "shift": layer.shift,
                    "write_shift": layer.write_shift,
                    "fraction": layer.fraction,
                    "mode": layer.mode.name.lower(),
                    "threshold": layer.threshold,
                    "threshold_recurrent": layer.threshold_recurrent,
                    "thresholds": layer.thresholds is not None,
                    "unit_exponents": layer.unit_exponents is not None,
                    "initial": sorted(layer.initial),
                    "parameters": sorted(layer.parameters),
                    "peers": layer.peers,
                    "exponents": layer.exponents,
                    "scale": None if layer.scale is None else sorted(layer.scale),
                }
            )
        if self.input_thresholds is not None:
            tensors["input/thresholds"] = self.input_thresholds.astype(np.int32)
        if self.input_exponents is not None:
            tensors["input/exponents"] = self.input_exponents.astype(np.int32)
        header = {
            "version": FORMAT_VERSION,
            "name": self.name,
            "inputs": self.inputs,
            "input_fraction": self.input_fraction,
            "input_mode": self.input_mode.name.lower(),
            "input_threshold": self.input_threshold,
            "input_thresholds": self.input_thresholds is not None,
            "input_exponents": self.input_exponents is not None,
            "layers": layers,
            "host": None if self.host is None else self.host.header(),
            "notes": self.notes,
        }
        if self.budgets:
            header["budgets"] = {str(key): budget for key, budget in self.budgets.items()}
        if self.host is not None:
            tensors["host/before"] = np.frombuffer(self.host.before, np.uint8)
            tensors["host/after"] = np.frombuffer(self.host.after, np.uint8)
        write_atomically(path, save(tensors, {"stillnet": json.dumps(header)}))

    @classmethod
    def load(cls, path: str | Path) -> Network:
        """Reads a network written by :meth:`save`.

        Raises
        ------
        StillnetError
            Where the file is missing, cut, of another version, or anything else than a stillnet
            network.
        """
        from safetensors import SafetensorError, safe_open

        path = Path(path)
        if not path.is_file():
            raise StillnetError(f"network file '{path}' does not exist")
        try:
            with safe_open(str(path), framework="numpy") as file:
                metadata = file.metadata() or {}
                if "stillnet" not in metadata:
                    raise StillnetError(
                        f"'{path}' is a safetensors file but not a stillnet network; make one with "
                        "'stillnet quantize'"
                    )
                header = json.loads(metadata["stillnet"])
                tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
        except (SafetensorError, json.JSONDecodeError, OSError) as error:
            raise StillnetError(
                f"'{path}' is not a readable stillnet network ({error}); make it again with "
                "'stillnet quantize'"
            ) from error
        try:
            check_container(header, tensors, path)
            network = cls._from_header(header, tensors)
            network.validate()
        except (KeyError, TypeError, ValueError, AttributeError, IndexError) as error:
            raise StillnetError(f"'{path}' is damaged ({error}); quantize again") from error
        return network

    @classmethod
    def _from_header(cls, header: dict[str, Any], tensors: dict[str, np.ndarray]) -> Network:
        layers = []
        for i, d in enumerate(header["layers"]):
            matrices = [
                QuantizedMatrix(
                    m["source"],
                    tuple(m["gates"]),
                    tensors[f"{i}/weight/{j}"],
                    m["fraction"],
                    m["bits"],
                    m["format"],
                )
                for j, m in enumerate(d["matrices"])
            ]
            accumulators = CELLS[d["cell"]].accumulators
            scale = d["scale"]
            layers.append(
                QuantizedLayer(
                    name=d["name"],
                    cell=d["cell"],
                    units=d["units"],
                    matrices=matrices,
                    bias={g: tensors[f"{i}/bias/{g}"].astype(np.int64) for g in accumulators},
                    shift=d["shift"],
                    write_shift=d["write_shift"],
                    fraction=d["fraction"],
                    mode=Mode[d["mode"].upper()],
                    threshold=d["threshold"],
                    threshold_recurrent=d["threshold_recurrent"],
                    initial={s: tensors[f"{i}/initial/{s}"].astype(np.int64) for s in d["initial"]},
                    parameters={
                        p: tensors[f"{i}/parameter/{p}"].astype(np.int64) for p in d["parameters"]
                    },
                    peers=d["peers"],
                    exponents=d["exponents"],
                    scale=None
                    if scale is None
                    else {g: tensors[f"{i}/scale/{g}"].astype(np.int64) for g in scale},
                    thresholds=_integers(tensors.get(f"{i}/thresholds")),
                    unit_exponents=_integers(tensors.get(f"{i}/exponents")),
                )
            )
        return cls(
            inputs=header["inputs"],
            input_fraction=header["input_fraction"],
            layers=layers,
            input_mode=Mode[header["input_mode"].upper()],
            input_threshold=header["input_threshold"],
            name=header["name"],
            notes=header["notes"],
            input_thresholds=_integers(tensors.get("input/thresholds")),
            input_exponents=_integers(tensors.get("input/exponents")),
            host=None
            if header["host"] is None
            else HostParts.read(
                header["host"], tensors["host/before"].tobytes(), tensors["host/after"].tobytes()
            ),
            budgets={int(key): int(b) for key, b in header.get("budgets", {}).items()},
        )


def _integers(tensor: np.ndarray | None) -> np.ndarray | None:
    return None if tensor is None else tensor.astype(np.int64)

"""A quantized network as a PyTorch module: the same integers as the reference, and trainable.

Nothing here knows a cell: the equations come from the cell language (:mod:`.rules`), the wiring
from the network. Weights are kept as real numbers in units of their steps, and rounded to int8 or
int4 whenever they are used; biases, multipliers of rows, thresholds and constants of cells too. In
float64 every number of a run equals that of ``Reference``; in float32 sums are rounded to 24 bits
before they are rounded to 18, which moves a few of the results by one unit.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from stillnet.sw.contract.cells import CELLS
from stillnet.sw.contract.events import Mode
from stillnet.sw.contract.fixed import (
    EVENT_BITS,
    PRE,
    RESCALE_GUARD_BITS,
    SCALE_BITS,
    SCALE_FRACTION,
    Format,
)
from stillnet.sw.contract.sources import INPUT, SECOND
from stillnet.sw.network.network import Network
from stillnet.sw.network.reference import Reference
from stillnet.sw.network.sequence import layer_groups

from . import encoder
from .rules import WIDTH, CellRule, drop_bits

__all__ = ["Carry", "NetworkModule", "Run"]


_VECTOR = Format(16, 0)
_LEAST = 0.25
"""Least threshold and multiplier, in units: it is rounded to zero, and can still be trained."""

_SCALE = float(np.log2((1 << SCALE_BITS) - 1))
"""Largest multiplier of a row."""


@dataclass
class Carry:
    """What a step leaves to the next one, one row for each sequence.

    Attributes
    ----------
    state : dict of (layer, state name) to Tensor, shape (batch, units)
        In the units of the state's format.
    references : dict of encoder to Tensor, shape (batch, size)
        Integers; of a one-hot input the token, shape (batch,).
    """

    state: dict[tuple[int, str], Tensor]
    references: dict[int, Tensor]

    def detached(self) -> Carry:
        """Without the past: where backpropagation through time is cut off."""
        return Carry(
            {k: v.detach() for k, v in self.state.items()},
            {k: v.detach() for k, v in self.references.items()},
        )


@dataclass
class Run:
    """Results of :meth:`NetworkModule.forward`.

    Attributes
    ----------
    outputs : Tensor, shape (steps, batch, outputs)
        In the units of the float model.
    fired : dict of encoder to Tensor, shape (steps, batch, size)
        Events, 0 or 1; not of a one-hot input.
    vectors : dict of source to Tensor, shape (steps, batch, size)
        Integers.
    carry : Carry
    """

    outputs: Tensor
    fired: dict[int, Tensor]
    vectors: dict[int, Tensor]
    carry: Carry


class _Masked(torch.autograd.Function):
    """Zero where the mask is; the gradient of what is gone is kept, to know what should return."""

    @staticmethod
    def forward(ctx: Any, w: Tensor, mask: Tensor) -> Tensor:
        return w * mask

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> Any:
        return grads[0], None


class NetworkModule(torch.nn.Module):
    """A network that can be trained.

    Parameters
    ----------
    network : Network
        Its formats, shifts and thresholds' places stay; numbers are trained.
    dtype : torch.dtype
        ``float64`` is exact, ``float32`` about three times as fast.
    width : float
        Half the base of the triangle that stands for the derivative of a comparison in a cell.
    event_width : float
        The same for events, in thresholds.
    """

    def __init__(
        self,
        network: Network,
        dtype: torch.dtype = torch.float32,
        width: float = WIDTH,
        event_width: float = encoder.WIDTH,
    ) -> None:
        super().__init__()
        self.network = network
        self.dtype = dtype
        self.event_width = event_width
        self.rules = [CellRule(layer.cell, width) for layer in network.layers]
        self.groups = layer_groups(network.layers)
        self.values = torch.nn.ParameterDict()
        self.masks: dict[tuple[int, int], Tensor] = {}
        self._add_values()

    # -- what is trained --------------------------------------------------------------------------

    def _add(self, name: str, value: Any) -> None:
        self.values[name] = torch.nn.Parameter(torch.as_tensor(np.asarray(value)).to(self.dtype))

    def _add_threshold(self, key: int, limit: int | np.ndarray) -> None:
        """Of each element, and what all of one vector have in common, which is learnt sooner."""
        self._add(f"threshold/{key}", _log(limit))
        self._add(f"gain/{key}", 0.0)

    def _add_values(self) -> None:
        network = self.network
        if network.input_mode is Mode.DELTA:
            self._add_threshold(INPUT, network.input_limit)
        for i, layer in enumerate(network.layers):
            cell = CELLS[layer.cell]
            for j, m in enumerate(layer.matrices):
                self._add(f"weight/{i}/{j}", m.weight)
            for g in cell.accumulators:
                self._add(f"bias/{i}/{g}", layer.bias[g] * self._unit(i))
            for g, value in (layer.scale or {}).items():
                self._add(f"scale/{i}/{g}", np.log2(np.maximum(value, _LEAST)))
            for p, value in layer.parameters.items():
                self._add(f"parameter/{i}/{p}", value * 2.0 ** -cell.parameters[p].fraction)
            if layer.mode is Mode.DELTA:
                self._add_threshold(i, layer.limit)
                if layer.threshold_recurrent is not None:
                    self._add_threshold(i + SECOND, layer.threshold_recurrent)

    def _unit(self, index: int) -> float:
        """What one unit of an accumulator is in pre-activations."""
        return 2.0 ** (RESCALE_GUARD_BITS - self.network.layers[index].shift - PRE.fraction)

    def weight(self, i: int, j: int) -> Tensor:
        """Weights of a matrix as integers, shape (gates, units, columns)."""
        bits = self.network.layers[i].matrices[j].bits
        w = drop_bits(self.values[f"weight/{i}/{j}"], "narrow", Format(bits, 0))
        mask = self.masks.get((i, j))
        return w if mask is None else _Masked.apply(w, mask)

    def bias(self, i: int) -> Tensor:
        """Biases as integers of the accumulators, shape (accumulators, units)."""
        order = CELLS[self.network.layers[i].cell].accumulators
        rows = torch.stack([self.values[f"bias/{i}/{g}"] for g in order]) / self._unit(i)
        return drop_bits(rows, "narrow", Format(32, 0))

    def scale(self, i: int, g: str) -> Tensor:
        """Multipliers of rows as integers, shape (units,)."""
        return drop_bits(torch.exp2(self.values[f"scale/{i}/{g}"]), "narrow", Format(16, 0))

    def threshold(self, key: int) -> Tensor:
        """Thresholds of an encoder as integers, shape (size,) or ()."""
        name = f"threshold/{key}"
        if name in self.values:
            limit = torch.exp2(self.values[name] + self.values[f"gain/{key}"])
            return drop_bits(limit, "narrow", Format(EVENT_BITS + 1, 0))
        fixed = self.network.input_limit
        if key != INPUT:
            layer = self.network.layers[key % SECOND]
            fixed = layer.limit if key < SECOND else layer.threshold_recurrent or 0
        return torch.as_tensor(np.asarray(fixed)).to(self.dtype)

    def _parameter(self, i: int, name: str) -> Tensor:
        to = CELLS[self.network.layers[i].cell].parameters[name]
        return drop_bits(self.values[f"parameter/{i}/{name}"], "narrow", to)

    # -- a run ------------------------------------------------------------------------------------

    def start(self, batch: int) -> Carry:
        """The beginning of a sequence, for each of a batch."""
        network = self.network
        reference = Reference(network)
        state, references = {}, {}

        def rows(value: np.ndarray, fraction: int) -> Tensor:
            each = torch.as_tensor(value * 2.0**-fraction).to(self.dtype)
            return each.repeat(batch, 1)

        for i, layer in enumerate(network.layers):
            for s, fmt in CELLS[layer.cell].state.items():
                state[i, s] = rows(reference.state[i][s], fmt.fraction)
        for key, value in reference.reference.items():
            references[key] = rows(value, 0)
        for key, value in reference.reference_second.items():
            references[key + SECOND] = rows(value, 0)
        if network.input_mode.one_hot:
            references[INPUT] = torch.full((batch,), -1.0, dtype=self.dtype)
        return Carry(state, references)

    def forward(self, x: Tensor, carry: Carry | None = None) -> Run:
        """Some steps of a batch of sequences.

        Parameters
        ----------
        x : Tensor, shape (steps, batch, inputs)
            Integers as ``Network.quantize_input`` gives them; of a one-hot network tokens,
            shape (steps, batch).
        carry : Carry, optional
            From the steps before.
        """
        step = _Steps(self, x, self.start(x.shape[1]) if carry is None else carry)
        for group in self.groups:
            step.group(group)
        last = len(self.network.layers) - 1
        units = torch.as_tensor(np.asarray(self.network.units_of(last))).to(self.dtype)
        return Run(step.vectors[last] / units, step.fired, step.vectors, step.carry)

    def pre(self, i: int, m: Tensor) -> dict[str, Tensor]:
        """Pre-activations from accumulators, shape (..., accumulators, units)."""
        layer = self.network.layers[i]
        order = CELLS[layer.cell].accumulators
        rows = dict(zip(order, drop_bits(m * self._unit(i), "narrow", PRE).unbind(-2)))
        for g in layer.scale or {}:
            factor = self.scale(i, g) * 2.0**-SCALE_FRACTION
            rows[g] = drop_bits(rows[g] * factor, "narrow", PRE)
        return rows

    def vector(self, i: int, y: Tensor) -> Tensor:
        """A layer's vector, in integers, from what its cell returns."""
        fraction = self.rules[i].graph.result.format.fraction - self.network.layers[i].write_shift
        return drop_bits(y * 2.0**fraction, "narrow", _VECTOR)

    def parameters_of(self, i: int) -> dict[str, Tensor]:
        """Constants of a layer's cell."""
        return {p: self._parameter(i, p) for p in self.network.layers[i].parameters}

    # -- results ----------------------------------------------------------------------------------

    @torch.no_grad()
    def clamp(self) -> None:
        """Brings back what left its range; weights that are masked out become zero."""
        for i, layer in enumerate(self.network.layers):
            cell = CELLS[layer.cell]
            for j, m in enumerate(layer.matrices):
                value, half = self.values[f"weight/{i}/{j}"], 1 << (m.bits - 1)
                value.clamp_(-half, half - 1)
                if (i, j) in self.masks:
                    value.mul_(self.masks[i, j])
            for p, fmt in cell.parameters.items():
                unit = 2.0**-fmt.fraction
                low, high = cell.limits.get(p, (-np.inf, np.inf))
                low, high = max(low, fmt.minimum * unit), min(high, fmt.maximum * unit)
                self.values[f"parameter/{i}/{p}"].clamp_(low, high)
            for g in layer.scale or {}:
                self.values[f"scale/{i}/{g}"].clamp_(float(np.log2(_LEAST)), _SCALE)
        for name, value in self.values.items():
            if name.startswith("threshold"):
                value.clamp_(float(np.log2(_LEAST)), 15.0)

    @torch.no_grad()
    def to_network(self) -> Network:
        """The network as it is now: integers, as :meth:`forward` used them."""

        def whole(t: Tensor) -> np.ndarray:
            return np.asarray(t.detach().double().numpy()).astype(np.int64)

        network = copy.deepcopy(self.network)
        if "threshold/-1" in self.values:
            limit = whole(self.threshold(INPUT))
            if network.input_thresholds is None:
                network.input_threshold = int(limit)
            else:
                network.input_thresholds = limit
        for i, layer in enumerate(network.layers):
            cell = CELLS[layer.cell]
            for j, m in enumerate(layer.matrices):
                m.weight = whole(self.weight(i, j)).astype(np.int8)
            layer.bias = dict(zip(cell.accumulators, whole(self.bias(i))))
            for g, value in (layer.scale or {}).items():
                value[...] = whole(self.scale(i, g))
            for p, value in layer.parameters.items():
                value[...] = whole(self._parameter(i, p) * 2.0 ** cell.parameters[p].fraction)
            if f"threshold/{i}" in self.values:
                limit = whole(self.threshold(i))
                if layer.thresholds is None:
                    layer.threshold = int(limit)
                else:
                    layer.thresholds = limit
            if f"threshold/{i + SECOND}" in self.values:
                layer.threshold_recurrent = int(whole(self.threshold(i + SECOND)))
        network.validate()
        return network


def _log(limit: int | np.ndarray) -> np.ndarray:
    return np.log2(np.maximum(np.asarray(limit, float), _LEAST))


class _Steps:
    """One call of a module, group of layers by group: outside of recurrences all steps at once."""

    def __init__(self, module: NetworkModule, x: Tensor, carry: Carry) -> None:
        self.module, self.network = module, module.network
        self.x = x
        self.carry = Carry(dict(carry.state), dict(carry.references))
        self.vectors: dict[int, Tensor] = {INPUT: x}
        self.references: dict[int, Tensor] = {}
        self.fired: dict[int, Tensor] = {}
        if self.network.input_mode.one_hot:
            self.carry.references[INPUT] = x[-1]
        else:
            self.references[INPUT] = self._encode(INPUT, x)

    def _encode(self, key: int, v: Tensor) -> Tensor:
        """All steps of one encoder; what is left to the next call goes into the carry."""
        mode = self.network.source_mode(key if key < SECOND else key - SECOND)
        limit = self.module.threshold(key)
        before = self.carry.references[key]
        refs, fired = encoder.encode_vectors(mode, v, before, limit, self.module.event_width)
        self.fired[key] = fired
        self.carry.references[key] = refs[-1]
        return refs

    def _keys(self, i: int) -> list[int]:
        """Encoders of a layer's vector."""
        second = self.network.layers[i].threshold_recurrent is not None
        return [i, i + SECOND] if second else [i]

    def group(self, group: range) -> None:
        """Runs a group of layers over all steps."""
        layers = self.network.layers
        inside = any(m.source in group for i in group for m in layers[i].matrices)
        if inside or any(CELLS[layers[i].cell].state for i in group) or len(group) > 1:
            self._step_by_step(group)
            return
        (i,) = group
        m = {**self.module.pre(i, self._outside(i, group)), **self.module.parameters_of(i)}
        y, _ = self.module.rules[i](m, {})
        self.vectors[i] = self.module.vector(i, y)
        for key in self._keys(i):
            refs = self._encode(key, self.vectors[i])
            self.references.setdefault(i, refs)

    def _outside(self, i: int, group: range) -> Tensor:
        """Biases and what other groups feed: (steps, batch, accumulators, units)."""
        layer = self.network.layers[i]
        order = CELLS[layer.cell].accumulators
        steps, batch = self.x.shape[:2]
        rows = list(self.module.bias(i).expand(steps, batch, len(order), layer.units).unbind(2))
        for j, m in enumerate(layer.matrices):
            if m.source in group:
                continue
            weight = self.module.weight(i, j)
            if m.source == INPUT and self.network.input_mode.one_hot:
                product = self._tokens(weight)
            else:
                flat = weight.reshape(-1, weight.shape[2])
                product = self.references[m.source] @ flat.T
            for g, part in zip(m.gates, product.split(layer.units, -1)):
                k = order.index(g)
                rows[k] = rows[k] + part
        return torch.stack(rows, 2)

    def _tokens(self, weight: Tensor) -> Tensor:
        """Columns of tokens, times the value of a token's event."""
        tokens = self.x.long()
        flat = weight.reshape(-1, weight.shape[2]).T
        product = flat[tokens.clamp(min=0)] * (tokens >= 0).unsqueeze(-1)
        return product * 2.0**self.network.input_fraction

    def _step_by_step(self, group: range) -> None:
        layers, module = self.network.layers, self.module
        outside = {i: self._outside(i, group).unbind(0) for i in group}
        parameters = {i: module.parameters_of(i) for i in group}
        limits = {key: module.threshold(key) for i in group for key in self._keys(i)}
        feedback: dict[int, list[tuple[int, list[int], Tensor]]] = {i: [] for i in group}
        for i in group:
            order = CELLS[layers[i].cell].accumulators
            for j, m in enumerate(layers[i].matrices):
                if m.source in group:
                    weight = module.weight(i, j)
                    key = self.network.event_source(i, m.source)
                    flat = weight.reshape(-1, weight.shape[2]).T
                    feedback[i].append((key, [order.index(g) for g in m.gates], flat))
        kept: dict[str, dict[int, list[Tensor]]] = {"v": {}, "ref": {}, "fired": {}}
        for t in range(len(self.x)):
            for i in group:
                total = outside[i][t]
                for key, gates, flat in feedback[i]:
                    total = _added(total, gates, self.carry.references[key] @ flat)
                v = self._cell(i, {**module.pre(i, total), **parameters[i]})
                kept["v"].setdefault(i, []).append(v)
                for key in self._keys(i):
                    ref, fired = encoder.encode_vectors(
                        layers[i].mode,
                        v[None],
                        self.carry.references[key],
                        limits[key],
                        module.event_width,
                    )
                    self.carry.references[key] = ref[0]
                    kept["ref"].setdefault(key, []).append(ref[0])
                    kept["fired"].setdefault(key, []).append(fired[0])
        for i in group:
            self.vectors[i] = torch.stack(kept["v"][i])
            self.references[i] = torch.stack(kept["ref"][i])
            for key in self._keys(i):
                self.fired[key] = torch.stack(kept["fired"][key])

    def _cell(self, i: int, m: dict[str, Tensor]) -> Tensor:
        """One step of one layer; its vector."""
        layer = self.network.layers[i]
        readers = {**dict.fromkeys(CELLS[layer.cell].state, i), **layer.peers}
        old = {s: self.carry.state[j, s] for s, j in readers.items()}
        y, new = self.module.rules[i](m, old)
        for s, value in new.items():
            self.carry.state[i, s] = value
        return self.module.vector(i, y)


def _added(m: Tensor, gates: list[int], product: Tensor) -> Tensor:
    """Accumulators (batch, accumulators, units) plus a product of some of them."""
    units = m.shape[2]
    if gates == list(range(m.shape[1])):
        return m + product.view(len(m), -1, units)
    rows = list(m.unbind(1))
    for g, part in zip(gates, product.split(units, -1)):
        rows[g] = rows[g] + part
    return torch.stack(rows, 1)

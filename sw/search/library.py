"""Solved layers: each by itself, for every number of bits and part that stays, once.

A layer is solved on what the float model gives it, so that its result serves every network in which
it may stand. That errs a little (``compress`` solves a layer on what the compressed ones below it
give); the networks of the front are solved again in order.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np

from stillnet.sw.compression.allocation import densities, figures
from stillnet.sw.compression.checkpoint import Checkpoint
from stillnet.sw.contract.sources import INPUT
from stillnet.sw.model.model import Model
from stillnet.sw.network.network import Network
from stillnet.sw.quantization.layerwise import (
    LayerWork,
    Settings,
    replace_layer,
    solve_layer,
)
from stillnet.sw.quantization.preparation import Base, Plan, Wish, make_plan
from stillnet.sw.quantization.sensitivity import accumulators_of
from stillnet.sw.quantization.solvers.hessian import bundles
from stillnet.sw.quantization.solvers.masks import Pattern

from .options import SearchOptions
from .space import Choice

__all__ = ["Assembled", "Library"]

_QUICK = 2
"""Sweeps of the descent."""


@dataclass
class Assembled:
    """A network of the space.

    Attributes
    ----------
    plan : Plan
        Its formats and exponents.
    model : Model
        Of real numbers, with the weights of the network.
    network : Network
    """

    plan: Plan
    model: Model
    network: Network


class Library:
    """The solved layers of one model.

    Parameters
    ----------
    base : Base
    options : SearchOptions
    keep : Checkpoint
        Where they are kept, for all processes of a search.
    """

    def __init__(self, base: Base, options: SearchOptions, keep: Checkpoint) -> None:
        self.base, self.options, self.keep = base, options, keep
        self._solved: dict[tuple[int, int, int], LayerWork] = {}

    @cached_property
    def plans(self) -> dict[int, Plan]:
        """By bits. Vectors have the same formats in all of them."""
        found: dict[int, Plan] = {}
        choice = None
        for bits in sorted(self.options.bits):
            found[bits] = make_plan(self.base, Wish(bits), rows=True, choice=choice)
            choice = found[bits].choice
        return found

    @property
    def plan(self) -> Plan:
        """That of the fewest bits."""
        return self.plans[min(self.plans)]

    @cached_property
    def layers(self) -> dict[int, str]:
        """Layers with weights, and their names."""
        model = self.base.model
        copies = set(self.base.planes.copies)
        return {
            i: layer.name
            for i, layer in enumerate(model.layers)
            if bundles(model, i) and i not in copies
        }

    @cached_property
    def worth(self) -> dict[tuple[int, int], np.ndarray]:
        """What each weight is worth (``allocation.figures``)."""
        return figures(self.plan.job, Settings(min(self.options.bits)))

    def settings(self, bits: int, kept: float) -> Settings:
        """How a layer is solved that keeps a part of its weights."""
        pattern = Pattern(self.options.pattern, 1 - kept if kept < 1 else 0.0, self.lanes)
        return Settings(bits, pattern, passes=1, sweeps=_QUICK, damping=0.01)

    @cached_property
    def lanes(self) -> int:
        """Multipliers of the engine whose lanes a pattern is for."""
        return self.options.engine(next(iter(self.options.engines))).multipliers

    def layer(self, index: int, bits: int, place: int) -> LayerWork:
        """The layer with so many bits, and with part ``options.kept[place]`` of its weights."""
        key = (index, bits, place)
        if key not in self._solved:
            stage = f"solved-{bits}bit-{self.options.kept[place]:g}"
            work = self.keep.load_layer(stage, index)
            if work is None:
                work = self._solve(index, bits, self.options.kept[place])
                self.keep.save_layer(stage, index, work)
            self._solved[key] = work
        return self._solved[key]

    def _solve(self, index: int, bits: int, kept: float) -> LayerWork:
        job = self.plans[bits].job
        of_layer = {key: f for key, f in self.worth.items() if key[0] == index}
        if of_layer and kept < 1:
            job = replace(job, density=densities(of_layer, kept))
        trace = job.trace
        vectors = {**trace.vectors, INPUT: job.x}
        return solve_layer(job, self.settings(bits, kept), index, vectors, trace.start.vectors, {})

    def assemble(self, choice: Choice) -> Assembled:
        """The network of a choice; thresholds are zero."""
        work: LayerWork = {}
        model = self.base.model
        exponents = list(self.plan.exponents)
        for i in self.layers:
            work.update(self.layer(i, choice.bits[i], choice.kept[i]))
            exponents[i] = self.plans[choice.bits[i]].exponents[i]
        for i in range(len(model.layers)):
            if i not in self.layers and bundles(model, i):  # a copy for second planes
                work.update(self.layer(i, max(self.options.bits), 0))
            parts = {k: c for k, c in work.items() if k[0] == i}
            if parts:
                model = replace_layer(model, i, parts)
        plan = replace(self.plan, exponents=exponents)
        return self.assembled(plan, model, work, choice)

    def assembled(
        self, plan: Plan, model: Model, work: LayerWork, choice: Choice, name: str | None = None
    ) -> Assembled:
        """The integers of solved layers; thresholds are zero."""
        network = plan.network(work, name)
        for i, layer in enumerate(network.layers):
            for m in layer.matrices:
                m.bits = choice.bits.get(i, m.bits)
        return Assembled(plan, model, network)

    def lost(self, index: int, bits: int, place: int) -> float:
        """Power that the layer's own error adds to the outputs', to first order."""
        return sum(
            c.error * self._power[index, k] for (_, k), c in self.layer(index, bits, place).items()
        )

    @cached_property
    def _power(self) -> dict[tuple[int, int], float]:
        """Of each bundle: what the outputs would lose with all that its accumulators do."""
        base, found = self.base, {}
        for i in self.layers:
            wanted = accumulators_of(base.model, base.trace, i)
            for k, bundle in enumerate(bundles(base.model, i)):
                found[i, k] = sum(
                    float(np.var(wanted[g], axis=0) @ base.felt.accumulators[i, g].mean(axis=0))
                    for g in bundle.gates
                )
        return found

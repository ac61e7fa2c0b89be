"""Finds a layer that wants its biases, and where in the matrix table they stand.

Only engines with cells that read each other have it (S5): their networks are chains of many small
layers, and passing over the biases of all of them takes as long as passing over the matrices.
"""

from __future__ import annotations

from typing import Any

from amaranth.hdl import Module, Signal, unsigned
from amaranth.lib import wiring
from amaranth.lib.memory import Memory
from amaranth.lib.wiring import In, Out

from stillnet.hw.parts.shapes import Shapes
from stillnet.sw.contract.config import EngineConfig

__all__ = ["BiasFinder"]


class BiasFinder(wiring.Component):
    """The lowest layer without biases.

    Parameters
    ----------
    config : EngineConfig

    Members
    -------
    reset : In(1)
        Forgets all layers.
    write, layer, place : In
        The biases of a layer are a matrix of the table.
    loaded : In
        Layers whose accumulators hold their biases.
    wanted, index : Out
        Whether a layer's do not, and its place; of a cycle ago.
    """

    def __init__(self, config: EngineConfig) -> None:
        self._config = config
        s = Shapes(config)
        super().__init__(
            {
                "reset": In(1),
                "write": In(1),
                "layer": In(s.layer),
                "place": In(s.matrix),
                "loaded": In(config.layers),
                "wanted": Out(1),
                "index": Out(s.matrix),
            }
        )

    @property
    def config(self) -> EngineConfig:
        """The engine's configuration."""
        return self._config

    def elaborate(self, platform: Any) -> Module:
        m = Module()
        layers, s = self._config.layers, Shapes(self._config)
        used, open_ = Signal(layers), Signal(layers)
        m.submodules.places = places = Memory(shape=unsigned(s.matrix), depth=layers, init=[])
        reader, writer = places.read_port(), places.write_port()
        m.d.comb += [
            writer.en.eq(self.write),
            writer.addr.eq(self.layer),
            writer.data.eq(self.place),
            open_.eq(used & ~self.loaded),
            self.index.eq(reader.data),
        ]
        with m.If(self.write):
            m.d.sync += used.bit_select(self.layer, 1).eq(1)
        with m.If(self.reset):
            m.d.sync += used.eq(0)
        for i in reversed(range(layers)):
            with m.If(open_[i]):
                m.d.comb += reader.addr.eq(i)
        m.d.sync += self.wanted.eq(open_.any())
        return m

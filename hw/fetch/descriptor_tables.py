"""The scheduler's tables: descriptors of layers and of matrices, as the image has them."""

from __future__ import annotations

from typing import Any

from amaranth.hdl import Cat, Module, Signal, unsigned
from amaranth.lib import data, wiring
from amaranth.lib.memory import Memory
from amaranth.lib.wiring import In, Out

from stillnet.hw.parts.data_register import Data
from stillnet.hw.parts.host_interfaces import DescriptorWriteSignature, ThresholdWriteSignature
from stillnet.hw.parts.shapes import Shapes
from stillnet.sw.contract import image
from stillnet.sw.contract.config import EngineConfig

__all__ = ["DescriptorTables"]


def _layout(records: tuple[image.Record, ...]) -> data.StructLayout:
    """All records of a descriptor as one structure of its fields."""
    fields: dict[str, Any] = {}
    for k, record in enumerate(records):
        used = 0
        for name, width in record.fields:
            fields[name] = unsigned(width)
            used += width
        if used < 32:
            fields[f"unused{k}"] = unsigned(32 - used)
    return data.StructLayout(fields)


class DescriptorTables(wiring.Component):
    """Two tables of 32-bit records. All records of a descriptor are read at once.

    Parameters
    ----------
    config : EngineConfig

    Members
    -------
    descriptors : In(DescriptorWriteSignature)
        The loader writes records.
    threshold : In(ThresholdWriteSignature)
        The host sets the threshold of a layer; not while the loader writes.
    layer_at, matrix_at : In
        Numbers of a layer and of a matrix.
    layer, matrix : Out(structures of the fields of ``image.LAYER``, ``image.matrix_records``)
        Their descriptors, one cycle later.
    """

    def __init__(self, config: EngineConfig) -> None:
        self._config = config
        shapes = Shapes(config)
        # Later records are of no use to the scheduler.
        layer = image.LAYER[: 7 if config.max_peers else 6]
        matrix = image.matrix_records(config.long_records)[: 6 if config.sparse else 5]
        self._layer_records, self._matrix_records = len(layer), len(matrix)
        super().__init__(
            {
                "descriptors": In(DescriptorWriteSignature()),
                "threshold": In(ThresholdWriteSignature(config)),
                "layer_at": In(shapes.layer),
                "layer": Out(_layout(layer)),
                "matrix_at": In(shapes.matrix),
                "matrix": Out(_layout(matrix)),
            }
        )

    @property
    def config(self) -> EngineConfig:
        """The engine's configuration."""
        return self._config

    def elaborate(self, platform: Any) -> Module:
        m = Module()
        config, descriptors, threshold = self._config, self.descriptors, self.threshold
        layer_words, layer_writers = self._table(
            m, "layer", self._layer_records, config.layers, self.layer_at
        )
        matrix_words, matrix_writers = self._table(
            m, "matrix", self._matrix_records, config.matrices, self.matrix_at
        )
        # A cycle late: what is written comes from far, and has the time.
        index, value = Data(len(descriptors.index)), Data(32)
        m.d.sync += [index.eq(descriptors.index), value.eq(descriptors.value)]
        for writers, write in (
            (layer_writers, descriptors.layer_write),
            (matrix_writers, descriptors.matrix_write),
        ):
            for k, writer in enumerate(writers):
                m.d.comb += [writer.addr.eq(index), writer.data.eq(value)]
                m.d.sync += writer.en.eq(write & (descriptors.record == k))
        with m.If(threshold.write):
            m.d.sync += [index.eq(threshold.layer), value.eq(threshold.value)]
            for second, name in enumerate(("threshold", "threshold_recurrent")):
                k, _ = image.find_field(image.LAYER, name)
                m.d.sync += layer_writers[k].en.eq(threshold.second == second)
        m.d.comb += [self.layer.eq(Cat(*layer_words)), self.matrix.eq(Cat(*matrix_words))]
        return m

    @staticmethod
    def _table(
        m: Module, name: str, records: int, depth: int, place: Signal
    ) -> tuple[list[Any], list[Any]]:
        """One memory for each record, all read at one place; their data and write ports."""
        outputs, writers = [], []
        for k in range(records):
            memory = Memory(shape=unsigned(32), depth=depth, init=[])
            m.submodules[f"{name}{k}"] = memory
            reader, writer = memory.read_port(), memory.write_port()
            m.d.comb += reader.addr.eq(place)
            outputs.append(reader.data)
            writers.append(writer)
        return outputs, writers

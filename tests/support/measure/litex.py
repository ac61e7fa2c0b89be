"""Measures the LiteX system of examples/litex against the core alone, for docs/how-to/systems.md.

``python -m tests.support.measure.litex --steps 202``; ``--still`` repeats one input vector.
"""

from __future__ import annotations

import argparse
import dataclasses

import numpy as np

from stillnet.sim.bench.edgedrnn import SHAPES, config, inputs, network
from stillnet.sim.engine.model import EngineModel
from stillnet.sw.network.reference import Reference
from stillnet.sw.packing.packer import pack
from tests.support.litex import example

SHAPE = next(shape for shape in SHAPES if str(shape) == "40-128-2")
RAM_WORDS = 24576


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--steps", type=int, default=42)
    parser.add_argument("--still", action="store_true", help="one input vector again and again")
    arguments = parser.parse_args()
    module = example()
    bare = dataclasses.replace(config(), units=256, inputs=64, accumulators=128)
    engine = dataclasses.replace(bare, memory="ram", ram_words=RAM_WORDS)
    net, rows = network(SHAPE), inputs(SHAPE, arguments.steps)
    if arguments.still:
        rows = np.repeat(rows[1:2], len(rows), axis=0)
    found = module.run(net, rows, engine, limit=100_000_000)
    reference = Reference(net, engine.lanes)
    expected = np.array([reference.step_integers(row) for row in rows])
    waited = module.BY_INTERRUPT
    steps = len(rows) - waited
    print(f"{expected.size} outputs, {int((found.outputs != expected).sum())} differ")
    print(f"system: {found.cycles / steps:.1f} cycles per step, {found.busy / steps:.1f} busy")
    with EngineModel(bare) as model:
        model.load(pack(net, bare).data)
        model.run(rows[:waited], waited, net.outputs)
        begin = model.cycle
        model.run(rows[waited:], steps, net.outputs)
        print(f"core alone: {(model.cycle - begin) / steps:.1f} cycles per step")


if __name__ == "__main__":
    main()

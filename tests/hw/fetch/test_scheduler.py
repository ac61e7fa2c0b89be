"""The scheduler: every matrix gives all its columns before its cell runs, in the order of steps."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest

from stillnet.hw.fetch.scheduler import Scheduler
from stillnet.sw.contract import image
from stillnet.sw.contract.cells import CELLS
from stillnet.sw.contract.config import EngineConfig
from stillnet.sw.contract.events import Mode
from stillnet.sw.contract.image import Kind, block_rows
from tests.hw.simulation import simulate

CONFIG = EngineConfig(
    lanes=4,
    cell_width=2,
    units=64,
    inputs=16,
    layers=4,
    matrices=10,
    address_bits=16,
    cells=("gru", "relu"),
)
BASE = 1000
STEPS = 5


@dataclass
class Layer:
    """A layer's descriptor, and where it is in its steps."""

    cell: int
    units: int
    unit_base: int
    accumulator_base: int
    reload: bool
    output: bool
    threshold: int
    loaded: bool = False
    steps: int = 0  # cells dispatched
    issued: int = 0  # number after its last column
    pending: bool = False

    def fields(self, matrices: int) -> dict[str, int]:
        return {
            "cell": self.cell,
            "mode": Mode.NONZERO if self.reload else Mode.DELTA,
            "reload": self.reload,
            "output": self.output,
            "units": self.units,
            "blocks": -(-self.units // CONFIG.lanes),
            "accumulator_base": self.accumulator_base,
            "unit_base": self.unit_base,
            "shift": 7 + self.unit_base,
            "write_shift": 2,
            "matrices": matrices,
            "threshold": self.threshold,
            "threshold_recurrent": self.threshold + 1,
            "peer0": 0,
            "peer1": 0,
            "spare1": 0,
        }


@dataclass
class Matrix:
    """A matrix's descriptor, and the rows that it took of its vector."""

    source: int  # 0 the input, else a layer plus one
    target: int
    recurrent: bool = False
    bias: bool = False
    taken: int = 0

    def fields(self, place: int) -> dict[str, int]:
        return {
            "source": self.source,
            "target": self.target,
            "kind": Kind.BIAS if self.bias else Kind.DENSE,
            "recurrent": self.recurrent,
            "gates": 3,
            "int4": 0,
            "hot": 0,
            "mixed": 0,
            "kept": 0,
            "width": 0,
            "base": 100 * place,  # so that a run tells its matrix
            "column_words": place + 1,
            "list_base": 8 * self.source,
            "accumulator_base": place,
            "stride": 3,
            "blocks": 1,
        }


@dataclass
class Vector:
    """The vector of a source: which one it is, and how much of it is in its list."""

    number: int = -1
    rows: int = 0
    size: int = 0
    complete: bool = True


@dataclass
class World:
    """Everything around the scheduler; each part pauses at random."""

    rng: np.random.Generator
    layers: list[Layer]
    matrices: list[Matrix]
    inputs: list[Vector] = field(default_factory=lambda: [Vector(), Vector()])
    present: list[bool] = field(default_factory=lambda: [False, False])
    users: list[int] = field(default_factory=lambda: [0, 0])
    hidden: list[Vector] = field(default_factory=list)
    given: list[Vector] = field(default_factory=list)  # input vectors
    to_encode: deque[int] = field(default_factory=deque)  # layers
    to_read: deque[int] = field(default_factory=deque)
    waiting: int | None = None  # layer whose cell waits for the reader
    columns_left: int | None = None  # of the run in progress
    sequence: int = 0
    dispatched: list[tuple[int, int]] = field(default_factory=list)  # step, layer

    def vector_of(self, matrix: Matrix) -> Vector:
        if matrix.source == 0:
            return self.given[self.layers[matrix.target].steps]
        return self.hidden[matrix.source - 1]

    def expected_vector(self, matrix: Matrix) -> int:
        """Number of the vector that the next cell of the matrix's layer needs."""
        return self.layers[matrix.target].steps - int(matrix.recurrent)


class Bench:
    """Two GRU layers and a plain one; the input feeds the first and the last."""

    def __init__(self, seed: int) -> None:
        rng = np.random.default_rng(seed)
        layers = [
            Layer(0, 5, 0, 3, False, False, 11),
            Layer(1, 2, 8, 20, True, False, 12),
            Layer(0, 9, 9, 30, False, True, 13),
        ]
        matrices = [Matrix(0, k, bias=True) for k in range(3)]
        matrices += [Matrix(0, 0), Matrix(1, 1), Matrix(0, 2), Matrix(2, 2)]
        matrices += [Matrix(1, 0, recurrent=True), Matrix(3, 2, recurrent=True)]
        self.world = World(rng, layers, matrices, hidden=[Vector() for _ in layers])
        self.dut = Scheduler(CONFIG)

    # -- descriptors ------------------------------------------------------------------------------

    async def load(self, ctx: Any) -> None:
        """Writes the tables, as the loader does, then resets."""
        dut, world = self.dut, self.world
        ctx.set(dut.image.base, BASE)
        ctx.set(dut.image.layers, len(world.layers))
        ctx.set(dut.image.matrices, len(world.matrices))
        for k, layer in enumerate(world.layers):
            count = sum(m.target == k and not m.bias for m in world.matrices)
            await self.write(ctx, "layer_write", k, image.LAYER, layer.fields(count))
        for k, matrix in enumerate(world.matrices):
            await self.write(ctx, "matrix_write", k, image.MATRIX, matrix.fields(k))
        ctx.set(dut.control.enable, 1)
        ctx.set(dut.control.reset, 1)
        await ctx.tick()
        ctx.set(dut.control.reset, 0)

    async def write(
        self, ctx: Any, what: str, place: int, records: Any, fields: dict[str, int]
    ) -> None:
        port = self.dut.descriptors
        ctx.set(getattr(port, what), 1)
        ctx.set(port.index, place)
        for k, record in enumerate(records):
            ctx.set(port.record, k)
            ctx.set(port.value, record.pack(fields))
            await ctx.tick()
        ctx.set(getattr(port, what), 0)

    # -- a cycle of the world ---------------------------------------------------------------------

    async def run(self, ctx: Any) -> None:
        world, dut = self.world, self.dut
        await self.load(ctx)
        idle = 0
        for _ in range(6000):
            self.give_input(ctx)
            self.encode(ctx)
            self.read(ctx)
            self.show(ctx)
            over = self.fetch(ctx)
            self.check_run(ctx, over)
            self.check_dispatch(ctx)
            await ctx.tick()
            idle = idle + 1 if ctx.get(dut.control.idle) else 0
            assert not idle or self.all_done(), "idle although something is left"
            if idle > 3 and len(world.given) == STEPS:
                break
        assert world.dispatched == [(t, k) for t in range(STEPS) for k in range(3)]

    def all_done(self) -> bool:
        return self.quiet() and len(self.world.dispatched) == 3 * len(self.world.given)

    def quiet(self) -> bool:
        """Nothing is on its way outside of the scheduler."""
        world = self.world
        busy = world.to_encode or world.to_read or world.waiting is not None
        return not busy and world.columns_left is None and all(v.complete for v in world.inputs)

    def grow(self, vector: Vector) -> None:
        """More rows of a vector are listed, or it is complete."""
        if vector.rows < vector.size:
            vector.rows += int(self.world.rng.random() < 0.2)
        else:
            vector.complete = bool(self.world.rng.random() < 0.05)

    def give_input(self, ctx: Any) -> None:
        """The next vector goes to the other half, once that is free."""
        world = self.world
        half, number = len(world.given) % 2, len(world.given)
        free = not world.present[half] and world.inputs[1 - half].complete
        rate = 0.01 if number % 2 else 0.2  # long enough, now and then, to become idle
        if number < STEPS and free and world.rng.random() < rate:
            world.inputs[half] = Vector(number, 0, int(world.rng.integers(0, 7)), False)
            world.given.append(world.inputs[half])
            world.present[half] = True
            world.users[half] = sum(m.source == 0 and not m.bias for m in world.matrices)
        for vector in world.inputs:
            if not vector.complete:
                self.grow(vector)
        if ctx.get(self.dut.input.finished):
            half = ctx.get(self.dut.input.half)
            world.users[half] -= 1
            world.present[half] = world.users[half] > 0

    def encode(self, ctx: Any) -> None:
        """Cells that were dispatched are written back, one after the other."""
        world = self.world
        if not world.to_encode:
            return
        vector = world.hidden[world.to_encode[0]]
        if vector.complete:
            if world.rng.random() < 0.2:
                size = int(world.rng.integers(0, 6))
                number = vector.number + 1
                world.hidden[world.to_encode[0]] = Vector(number, 0, size, False)
            return
        self.grow(vector)
        if vector.complete:
            world.to_encode.popleft()

    def read(self, ctx: Any) -> None:
        """One cell is read, one waits."""
        world = self.world
        if world.to_read and world.rng.random() < 0.1:
            world.to_read.popleft()
        if world.waiting is not None and not world.to_read:
            world.to_read.append(world.waiting)
            world.waiting = None

    def show(self, ctx: Any) -> None:
        """What the scheduler sees of the world."""
        world, dut = self.world, self.dut
        ctx.set(dut.control.quiet, self.quiet())
        for half, vector in enumerate(world.inputs):
            status = dut.input.status[half]
            ctx.set(status.present, world.present[half])
            ctx.set(status.complete, vector.complete)
            ctx.set(status.rows, vector.rows)
        for k, vector in enumerate(world.hidden):
            status = dut.vectors.first[k]
            ctx.set(status.generation, (vector.number + 1) % 2)
            ctx.set(status.complete, vector.complete)
            ctx.set(status.rows, vector.rows)
        ctx.set(dut.hold.active, bool(world.to_read))
        ctx.set(dut.hold.layer, world.to_read[0] if world.to_read else 0)
        ctx.set(dut.waiting.active, world.waiting is not None)
        ctx.set(dut.waiting.layer, world.waiting or 0)
        ctx.set(dut.dispatch.read.ready, world.waiting is None)
        ctx.set(dut.dispatch.cell.ready, bool(world.rng.random() < 0.7))
        ctx.set(dut.dispatch.write.ready, True)

    def fetch(self, ctx: Any) -> bool:
        """Takes the rows of a run, or gives way before; whether the run is over."""
        world, dut = self.world, self.dut
        ctx.set(dut.issue.valid, 0)
        ctx.set(dut.runs.ready, 0)
        if not ctx.get(dut.runs.valid):
            return False
        run = ctx.get(dut.runs.payload)
        if world.columns_left is None:
            few = 1 if run.bias else int(world.rng.integers(1, run.rows + 1))
            world.columns_left = few
            ctx.set(dut.rows_done, few)
        if world.rng.random() < 0.5:
            return False
        if world.columns_left:
            world.columns_left -= 1
            layer = world.layers[run.layer]
            ctx.set(dut.issue.valid, 1)
            ctx.set(dut.issue.layer, run.layer)
            ctx.set(dut.issue.sequence, world.sequence)
            world.sequence += 1
            layer.issued, layer.pending = world.sequence, True
            return False
        ctx.set(dut.runs.ready, 1)
        world.columns_left = None
        return True

    # -- checks -----------------------------------------------------------------------------------

    def check_run(self, ctx: Any, over: bool) -> None:
        """A run belongs to the step that its layer is in, and to rows that are listed."""
        if not over:
            return
        world, run = self.world, ctx.get(self.dut.runs.payload)
        place = (run.address - BASE) // 100
        matrix = world.matrices[place]
        layer = world.layers[matrix.target]
        fields = matrix.fields(place)
        assert run.address == BASE + 100 * place
        assert (run.layer, run.step) == (matrix.target, layer.steps % 4)
        assert (run.words, run.base) == (fields["column_words"], fields["accumulator_base"])
        assert (run.gates, run.stride) == (fields["gates"], fields["stride"])
        assert run.bias == matrix.bias
        if matrix.bias:
            assert not layer.loaded and run.rows == 1
            layer.loaded = True
            return
        assert layer.loaded, "columns before the bias"
        vector = world.vector_of(matrix)
        assert vector.number == world.expected_vector(matrix)
        assert run.from_input == (matrix.source == 0)
        assert not run.from_input or run.half == layer.steps % 2
        assert run.row == fields["list_base"] + matrix.taken
        assert matrix.taken + run.rows <= vector.rows
        matrix.taken += ctx.get(self.dut.rows_done)

    def check_dispatch(self, ctx: Any) -> None:
        """A cell runs once all of its matrices have given all columns of their vectors."""
        world, ports = self.world, self.dut.dispatch
        if not ctx.get(ports.read.valid):
            return
        assert ctx.get(ports.cell.valid) and ctx.get(ports.write.valid)
        number = len(world.dispatched) % len(world.layers)
        layer = world.layers[number]
        assert layer.loaded
        for matrix in world.matrices:
            if matrix.target == number and not matrix.bias:
                vector = world.vector_of(matrix)
                assert vector.number == world.expected_vector(matrix)
                assert vector.complete and matrix.taken == vector.rows
                matrix.taken = 0
        self.check_commands(ctx, number, layer)
        assert ctx.get(self.dut.control.step_dispatched) == (number == len(world.layers) - 1)
        world.dispatched.append((layer.steps, number))
        layer.steps, layer.pending = layer.steps + 1, False
        layer.loaded = not layer.reload
        world.to_encode.append(number)
        world.waiting = number

    def check_commands(self, ctx: Any, number: int, layer: Layer) -> None:
        read, cell, write = (
            ctx.get(getattr(self.dut.dispatch, name).payload) for name in ("read", "cell", "write")
        )
        rows = -(-layer.units // CONFIG.cell_width)
        stride = block_rows(CELLS[CONFIG.cells[layer.cell]])
        assert read.layer == cell.layer == write.layer == number
        assert read.step == layer.steps % 4
        assert (read.units, read.base) == (layer.units, layer.accumulator_base)
        assert (read.blocks, read.stride) == (-(-layer.units // CONFIG.lanes), stride)
        assert read.pending == layer.pending
        assert not layer.pending or read.sequence == layer.issued
        assert (cell.cell, cell.rows, cell.base) == (layer.cell, rows, layer.unit_base)
        assert (cell.shift, cell.output) == (7 + layer.unit_base, layer.output)
        assert (write.units, write.rows, write.base) == (layer.units, rows, layer.unit_base)
        assert write.single == (rows == 1)
        assert (write.threshold, write.threshold_recurrent) == (
            layer.threshold,
            layer.threshold + 1,
        )


@pytest.mark.parametrize("seed", range(2))
def test_cells_run_in_order_each_after_all_its_columns(seed: int) -> None:
    bench = Bench(seed)
    simulate(bench.dut, bench.run)


@pytest.mark.parametrize("held", [None, 0, 2])
def test_of_two_matrices_the_one_whose_layer_is_not_read_comes_first(held: int | None) -> None:
    """Matrices 3 and 5 both have the whole input vector; 3 stands first in the image."""
    bench = Bench(0)
    dut, world = bench.dut, bench.world

    async def testbench(ctx: Any) -> None:
        await bench.load(ctx)
        world.inputs[0] = Vector(0, 4, 4, True)
        world.present[0] = True
        if held is not None:
            world.to_read.append(held)
        bench.show(ctx)
        for _ in range(200):
            if ctx.get(dut.runs.valid) and not ctx.get(dut.runs.payload).bias:
                place = (ctx.get(dut.runs.payload).address - BASE) // 100
                assert place == (5 if held == 0 else 3)
                return
            ctx.set(dut.rows_done, 1)
            ctx.set(dut.runs.ready, ctx.get(dut.runs.valid))
            await ctx.tick()
        pytest.fail("no run")

    simulate(dut, testbench)

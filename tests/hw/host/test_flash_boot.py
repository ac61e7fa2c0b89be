"""Power-up from flash: the block against a model of the part, and boards that load themselves."""

from __future__ import annotations

import ctypes
import functools
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from amaranth.hdl import ClockDomain, Elaboratable, Module

from stillnet.boards.catalogue import BOARDS, board
from stillnet.boards.top.ecp5 import connect_flash
from stillnet.hw.host.flash_boot import FlashBoot
from stillnet.hw.host.spi_flash import SpiFlashReader
from stillnet.hw.verilog.text import to_verilog
from stillnet.sim.board.virtual import VirtualBoard
from stillnet.sim.compile.model import HARNESSES, build_library
from stillnet.sw.contract import image
from stillnet.sw.contract.config import EngineConfig
from stillnet.sw.contract.flash import MARK_BYTES, FlashLayout, boot_order, mark
from stillnet.sw.contract.link import Command, Frame, FrameDecoder, Outcome, encode
from stillnet.sw.contract.registers import Control, Error, Register, Status
from stillnet.sw.host.driver import Engine, RefusedCommand
from stillnet.sw.network.reference import Reference
from stillnet.sw.packing.packer import Image, pack
from tests.support.networks.random import Case, random_case
from tests.support.sampling import some

CLOCK = 100_000_000
OFFSET = 0x12340
FLASH_BYTES = 1 << 17
WAKE_CYCLES = 30 * CLOCK // 10**6
LOAD = int(Control.LOAD | Control.VERIFY)
REFUSED = int(Error.CRC) << 8 | int(Status.IDLE)

# -- the block ------------------------------------------------------------------------------------


def config(lanes: int, **changes: Any) -> EngineConfig:
    return EngineConfig(name="boot", lanes=lanes, address_bits=14, **changes)


def block(lanes: int, sck_hz: int, layout: FlashLayout | None = None) -> FlashBoot:
    return FlashBoot(
        config(lanes),
        clock_hz=CLOCK,
        offset=OFFSET,
        flash_bytes=FLASH_BYTES,
        sck_hz=sck_hz,
        layout=layout,
    )


@functools.cache
def library(lanes: int, sck_hz: int, layout: FlashLayout | None) -> ctypes.CDLL:
    return ctypes.CDLL(
        str(
            build_library(
                to_verilog(block(lanes, sck_hz, layout), "flash_boot"),
                "flash_boot",
                Path(__file__).with_name("flash_boot_harness.cpp"),
                headers=(HARNESSES / "flash_model.h",),
            )
        )
    )


class Bench:
    """FlashBoot between a flash and a register file that writes down what it is asked for."""

    VALUES = (
        "cycle",
        "busy",
        "found",
        "failures",
        "violations",
        "bytes_read",
        "idle_clocks",
        "broken",
        "host_acks",
        "host_read",
        "count",
        "selected",
        "last_host_ack",
    )

    def __init__(self, dut: FlashBoot, *, delay: int = 1) -> None:
        self.dut = dut
        self._library = lib = library(dut.config.lanes, dut.sck_hz, dut.layout)
        lib.bench_new.restype = ctypes.c_void_p
        lib.bench_value.restype = ctypes.c_uint64
        lib.bench_violation.restype = ctypes.c_char_p
        half = dut.clock_hz // dut.sck_hz // 2
        self._handle = ctypes.c_void_p(
            lib.bench_new(ctypes.c_uint64(FLASH_BYTES), delay, ctypes.c_uint64(WAKE_CYCLES), half)
        )
        self.set()

    def __getattr__(self, name: str) -> int:
        if name not in self.VALUES:
            raise AttributeError(name)
        return int(self._library.bench_value(self._handle, self.VALUES.index(name)))

    def set(
        self, *, ready: int = 1, ack_delay: int = 0, status: int = 3, status_after: int = 2
    ) -> None:
        self._library.bench_set(self._handle, ready, ack_delay, status, status_after)

    def flash(self, data: bytes, at: int = OFFSET) -> None:
        self._library.bench_flash(
            self._handle, ctypes.c_uint64(at), data, ctypes.c_uint64(len(data))
        )

    def host(self, *, write: bool, address: int, data: int = 0) -> None:
        self._library.bench_host(self._handle, int(write), address, ctypes.c_uint32(data))

    def stop(self) -> None:
        self._library.bench_stop(self._handle)

    def run(self, cycles: int = 2_000_000, *, until: bool = True) -> None:
        self._library.bench_run(self._handle, ctypes.c_uint64(cycles), int(until))
        assert self.violations == 0, self._library.bench_violation(self._handle).decode()
        assert self.broken == 0, "the register bus was used against its rules"

    @property
    def accesses(self) -> list[tuple[bool, int, int]]:
        """What the engine was asked for: write or read, register, value."""
        out = np.zeros((self.count, 4), np.uint64)
        self._library.bench_accesses(self._handle, out.ctypes.data_as(ctypes.c_void_p))
        return [(bool(w), int(a), int(d) if w else 0) for _, w, a, d in out]


HEADER_BYTES = len(image.HEADER) * image.SLOT_BYTES


def header(engine: EngineConfig, words: int, **changes: int) -> bytes:
    """An image's bytes as far as the block looks: the header, then random ones."""
    values = {
        0: changes.get("magic", image.MAGIC),
        1: changes.get("version", image.VERSION) | 0x0305 << 16,
        2: changes.get("fingerprint", engine.fingerprint),
        3: words,
    }
    data = bytearray(np.random.default_rng(words % 2**32).bytes(min(words, 4096) * engine.lanes))
    for slot, value in values.items():
        data[slot * 64 : slot * 64 + 4] = value.to_bytes(4, "little")
    return bytes(data)


def writes(data: bytes, engine: EngineConfig) -> list[tuple[bool, int, int]]:
    """The accesses that copy data to word 0."""
    unit = min(4, engine.word_bytes)
    return [
        (True, Register.MEMORY_ADDRESS, 0),
        (True, Register.IMAGE_BASE, 0),
        *(
            (True, Register.MEMORY_DATA, int.from_bytes(data[k : k + unit], "little"))
            for k in range(0, len(data), unit)
        ),
    ]


def low(accesses: list[tuple[bool, int, int]], engine: EngineConfig) -> list:
    """Values as far as the engine looks at them: 16 bits where a word has no more."""
    mask = (1 << min(32, engine.word_bits)) - 1
    return [(w, a, d & mask if a == Register.MEMORY_DATA else d) for w, a, d in accesses]


START = [(True, Register.CONTROL, LOAD)]
ASK = (False, Register.STATUS, 0)


def bench(
    lanes: int = 4,
    *,
    sck_hz: int = 25_000_000,
    layout: FlashLayout | None = None,
    **options: Any,
) -> Bench:
    return Bench(block(lanes, sck_hz, layout), **options)


@pytest.mark.parametrize(
    ("lanes", "sck_hz", "delay", "ack_delay"),
    [(4, 25_000_000, 2, 0), (2, 25_000_000, 2, 9), (8, 50_000_000, 0, 40), (4, 9_000_000, 10, 300)],
)
def test_an_image_is_copied_and_started(
    lanes: int, sck_hz: int, delay: int, ack_delay: int
) -> None:
    """All word sizes; READ and FAST_READ; an engine slower than the flash; late data."""
    b = bench(lanes, sck_hz=sck_hz, delay=delay)
    engine = b.dut.config
    words = 520 // lanes + 37
    data = header(engine, words)
    b.flash(data)
    b.set(ack_delay=ack_delay)
    b.run()
    assert b.busy == 0 and b.found == 1 and b.failures == 0
    assert low(b.accesses, engine) == [*writes(data, engine), *START, ASK, ASK, ASK]
    assert b.idle_clocks == 16
    # One byte may be read ahead, and one more is on its way.
    assert len(data) <= b.bytes_read <= len(data) + 3
    b.run(20, until=False)
    assert b.selected == 0
    # As fast as the flash gives bits, where the engine is.
    bits = 8 * len(data) * b.dut.clock_hz // b.dut.sck_hz
    if ack_delay < 10:
        assert b.cycle <= 1.01 * bits + 3500 + 700


def test_fast_read_only_where_the_clock_needs_it() -> None:
    assert not SpiFlashReader(CLOCK).fast and SpiFlashReader(CLOCK).divider == 4
    assert SpiFlashReader(CLOCK, 50_000_000).fast
    assert not SpiFlashReader(CLOCK, 33_000_000).fast  # 25 MHz: no divider of 3.03
    assert SpiFlashReader(CLOCK, 33_400_000).fast
    assert SpiFlashReader(60_000_000, 60_000_000).divider == 2


def test_an_empty_flash_ends_it_at_once() -> None:
    b = bench()
    b.run()
    assert b.busy == 0 and b.found == 0 and b.failures == 0
    assert b.accesses == writes(b"", b.dut.config)
    assert b.cycle < 4_500
    assert b.bytes_read <= 6


def test_one_wrong_bit_of_the_magic_is_no_image() -> None:
    b = bench(2)
    b.flash(header(b.dut.config, 400, magic=image.MAGIC ^ 1 << 31))
    b.run()
    assert b.busy == 0 and b.found == 0
    assert START[0] not in b.accesses


@pytest.mark.parametrize("what", ["version", "fingerprint", "fingerprint_top"])
def test_a_foreign_image_is_left_to_the_engine_to_refuse(what: str) -> None:
    b = bench()
    engine = b.dut.config
    changes = {
        "version": {"version": image.VERSION ^ 0x8000},
        "fingerprint": {"fingerprint": engine.fingerprint ^ 1},
        "fingerprint_top": {"fingerprint": engine.fingerprint ^ 1 << 31},
    }[what]
    # Its size may be anything: it is not looked at.
    data = header(engine, 0xFFFF_FFFF, **changes)
    b.flash(data)
    b.set(status=int(Error.FINGERPRINT) << 8, status_after=0)
    b.run()
    assert b.busy == 0 and b.found == 1 and b.failures == 0
    assert b.accesses == [*writes(data[:HEADER_BYTES], engine), *START, ASK]


@pytest.mark.parametrize("lanes", [2, 4, 8])
def test_impossible_sizes_are_not_started(lanes: int) -> None:
    engine = config(lanes)
    limit = bench(lanes).dut.limit_words
    assert limit == min(1 << 14, (FLASH_BYTES - OFFSET - 2) // lanes)
    for words in (0, HEADER_BYTES // lanes, limit + 1, limit + (1 << 20), 0xFFFF_FFFF):
        b = bench(lanes)
        data = header(engine, 600)
        b.flash(data[:192] + words.to_bytes(4, "little") + data[196:])
        b.run()
        assert b.busy == 0 and b.found == 1 and b.failures == 1, words
        assert START[0] not in b.accesses and b.count == 2 + HEADER_BYTES // min(4, lanes)


def test_the_largest_image_is_copied_whole() -> None:
    b = bench(8)
    words = b.dut.limit_words
    data = header(b.dut.config, words) * 4
    b.flash(data[: words * 8])
    b.run(10_000_000)
    assert b.accesses[-4:-3] == START and b.failures == 0
    assert b.count == 2 + 2 * words + 1 + 3


def test_a_refusal_ends_it_too() -> None:
    b = bench()
    b.flash(header(b.dut.config, 200))
    b.set(status=REFUSED, status_after=5)
    b.run()
    assert b.busy == 0 and b.found == 1
    assert b.accesses[-6:] == [ASK] * 6


def test_nothing_is_read_before_the_memory_has_started() -> None:
    b = bench()
    data = header(b.dut.config, 200)
    b.flash(data)
    b.set(ready=0)
    b.run(20_000, until=False)
    assert b.busy == 1 and b.count == 0 and b.bytes_read == 0
    b.set(ready=1)
    b.run()
    assert b.found == 1 and START[0] in b.accesses


@pytest.mark.parametrize("write", [False, True])
@pytest.mark.parametrize("at", [0, 3_600, 12_000])
def test_a_request_of_the_host_waits_until_the_end(write: bool, at: int) -> None:
    b = bench()
    data = header(b.dut.config, 200)
    b.flash(data)
    b.run(at, until=False)
    assert b.busy == 1
    b.host(write=write, address=Register.THRESHOLD, data=0xABCD1234)
    b.run()
    assert b.busy == 0 and b.host_acks == 1
    request = (write, int(Register.THRESHOLD), 0xABCD1234 if write else 0)
    assert b.accesses == [*writes(data, b.dut.config), *START, ASK, ASK, ASK, request]
    if not write:
        assert b.host_read == 0x12340000 + Register.THRESHOLD
    # From now on two cycles are enough: there and back.
    for k in range(50):
        before = b.cycle
        b.host(write=bool(k % 2), address=k % 16, data=k)
        b.run(100)
        assert b.host_acks == 2 + k and b.cycle - before <= 4
        assert b.accesses[-1] == (bool(k % 2), k % 16, k if k % 2 else 0)
    b.set(ack_delay=30)
    for k in range(50):
        b.host(write=True, address=k % 16, data=k)
        b.run(100)
    assert b.host_acks == 101 and b.count == len(writes(data, b.dut.config)) + 4 + 101


def test_a_request_at_the_very_end_is_neither_lost_nor_doubled() -> None:
    b = bench()
    b.run()
    end = b.cycle
    for at in range(end - 6, end + 3):
        b = bench()
        b.run(at, until=False)
        b.host(write=True, address=Register.THRESHOLD, data=7)
        b.run(300)
        assert b.busy == 0 and b.host_acks == 1
        assert b.accesses[2:] == [(True, Register.THRESHOLD, 7)]


def test_a_stop_ends_it_wherever_it_is() -> None:
    """The engine is reset in the same cycle: nothing that was on its way may come after it."""
    whole = bench()
    whole.flash(header(whole.dut.config, 200))
    whole.run()
    rng = np.random.default_rng(1)
    places = {int(p) for p in rng.integers(1, whole.cycle - 1, 40)}
    places |= set(range(whole.cycle - 40, whole.cycle - 1)) | set(range(7_000, 7_140))
    for at in sorted(places):
        b = bench()
        b.flash(header(b.dut.config, 200))
        b.run(at, until=False)
        assert b.busy == 1
        if at % 3 == 0:
            b.host(write=bool(at % 2), address=Register.STATUS)
            b.run(3, until=False)
        b.stop()
        b.run(1, until=False)
        before = b.count
        b.run(300, until=False)
        assert b.busy == 0 and b.count == before and b.host_acks == 0 and b.selected == 0, at
        b.host(write=True, address=Register.THRESHOLD, data=7)
        b.run(100)
        assert b.host_acks == 1 and b.accesses[-1] == (True, Register.THRESHOLD, 7)


def test_the_model_hears_what_a_board_does_wrong() -> None:
    """A flash that is slower than its clock, or than the wait for it."""
    b = bench(delay=3)  # at the very edge: the bit before is taken
    b.flash(header(b.dut.config, 200))
    b.run()
    assert b.found == 0


def test_parameters_that_cannot_be_are_refused() -> None:
    engine = config(8)
    with pytest.raises(
        ValueError, match=r"^Offset of the image in the flash must be 0 to 16776639"
    ):
        FlashBoot(engine, clock_hz=CLOCK, offset=1 << 24, flash_bytes=1 << 25)
    with pytest.raises(ValueError, match=r"^Offset .* must be 0 to 447, not -1$"):
        FlashBoot(engine, clock_hz=CLOCK, offset=-1, flash_bytes=1024)
    with pytest.raises(TypeError, match=r"^SPI flash clock must be a positive integer, not 0$"):
        SpiFlashReader(CLOCK, 0)
    ram = EngineConfig(name="ram", lanes=8, memory="ram", ram_words=2048)
    assert FlashBoot(ram, clock_hz=CLOCK, offset=0).limit_words == 2048


# -- two slots ------------------------------------------------------------------------------------

SLOTS = FlashLayout.of(OFFSET, FLASH_BYTES, 4096)
ERASED = b"\xff" * MARK_BYTES


def slots(images: tuple[bytes, bytes], marks: tuple[bytes, bytes], **options: int) -> Bench:
    """A board after power-up, with these in its flash; it has booted, or ended."""
    b = bench(layout=SLOTS)
    for at, data in zip((*SLOTS.slots, *SLOTS.marks), (*images, *marks)):
        b.flash(data, at)
    b.set(**options)
    b.run(4_000_000)
    assert b.busy == 0
    b.run(20, until=False)
    assert b.selected == 0
    return b


def two() -> tuple[bytes, bytes]:
    return header(config(4), 170), header(config(4), 190)


@pytest.mark.parametrize(
    "marks",
    [
        (ERASED, ERASED),
        (mark(3), mark(4)),
        (mark(4), mark(3)),
        (ERASED, mark(0)),
        (mark(0), ERASED),
        (mark(5), mark(1 << 31)),
        # Half written, or half erased: each is none.
        (mark(3), (mark(4)[:8] + ERASED)[:MARK_BYTES]),
        (mark(3), bytes(a | b for a, b in zip(mark(4), b"\0" * 8 + b"\1\0\0\0"))),
        (mark(3), b"SLOX" + mark(4)[4:]),
        (mark(3), bytes(MARK_BYTES)),
    ],
)
def test_the_later_mark_boots(marks: tuple[bytes, bytes]) -> None:
    """As the tools think that it does (``boot_order``)."""
    images = two()
    b = slots(images, marks)
    chosen = images[boot_order(marks)[0]]
    assert low(b.accesses, b.dut.config) == [*writes(chosen, b.dut.config), *START, ASK, ASK, ASK]
    assert b.found == 1 and b.failures == 0


@pytest.mark.parametrize("first", [0, 1])
def test_an_image_that_is_refused_is_followed_by_the_other_one(first: int) -> None:
    """Once: where that is refused too the boot ends, and the reason stands in STATUS."""
    images, marks = two(), (mark(2), mark(1 + 2 * first))
    b = slots(images, marks, status=REFUSED, status_after=0)
    engine = b.dut.config
    assert low(b.accesses, engine) == [
        *(*writes(images[first], engine), *START, ASK),
        *(*writes(images[1 - first], engine), *START, ASK),
    ]


@pytest.mark.parametrize("what", ["erased", "size"])
def test_a_slot_without_a_usable_image_is_followed_by_the_other_one(what: str) -> None:
    engine = config(4)
    good = header(engine, 190)
    bad = {
        "erased": b"\xff" * 700,
        "size": header(engine, 1 << 20),
    }[what]
    for images, marks in (((bad, good), (mark(2), mark(1))), ((good, bad), (mark(1), mark(2)))):
        b = slots(images, marks)
        end = [*writes(good, engine), *START, ASK, ASK, ASK]
        assert low(b.accesses, engine)[-len(end) :] == end
        assert b.found == 1 and b.failures == (what == "size")
    b = slots((b"", b""), (mark(2), mark(1)))
    assert b.found == 0 and not any(a == Register.CONTROL for _, a, _ in b.accesses)


def test_a_slot_ends_where_the_marks_begin() -> None:
    """The largest image of each slot, and one word more."""
    engine = config(4)
    for slot in (0, 1):
        most = (SLOTS.slot_bytes(slot) - 2) // 4
        for words in (most, most + 1):
            images = (header(engine, words), b"") if slot == 0 else (b"", header(engine, words))
            marks = (mark(2 - slot), mark(1 + slot))
            b = slots(images, marks)
            assert b.failures == (words > most)


# -- pins -----------------------------------------------------------------------------------------


class Pinned(Elaboratable):
    """Only the flash of a board."""

    def elaborate(self, platform: Any) -> Module:
        m = Module()
        m.domains.sync = ClockDomain()
        m.submodules.reader = reader = SpiFlashReader(CLOCK)
        connect_flash(m, platform, reader.pins)
        return m


@pytest.mark.parametrize("name", [n for n, b in BOARDS.items() if b.family == "ecp5"])
def test_the_flash_of_each_board_is_where_it_is_configured_from(name: str, monkeypatch) -> None:
    monkeypatch.setenv("AMARANTH_USE_YOSYS", "builtin")
    for variable in ("YOSYS", "NEXTPNR_ECP5", "ECPPACK", "OPENFPGALOADER"):
        monkeypatch.setenv(variable, "true")
    platform = BOARDS[name].make_platform()
    files = platform.prepare(Pinned(), "top").files
    located = dict(re.findall(r'COMP "boot_flash_0__(\w+)__io" SITE "(\w+)"', files["top.lpf"]))
    theirs = next(
        {sub.name: sub.ios[0] for sub in resource.ios}
        for (resource_name, _), resource in platform.resources.items()
        if resource_name in ("spi_flash", "spi_flash_1x")
    )
    assert set(theirs) - {"clk"} == set(located)
    for member, pins in theirs.items():
        if member == "clk":
            assert pins.names == ["N9"]  # MCLK: only through the primitive
        elif (name, member) in (("colorlight-5a-75b", "copi"), ("colorlight-5a-75b", "cipo")):
            assert pins.names != [located[member]], "the board file is right now"
        else:
            assert pins.names == [located[member]]
        assert pins.invert == (member in ("cs", "hold", "wp"))
    rtlil = files["top.il"]
    assert rtlil.count("cell \\USRMCLK") == 1
    for member in located:
        block = rtlil[rtlil.index(f"module \\top.flash_{member}\n") :].split("\nend\n")[0]
        assert ("connect \\B 1'1" in block) == (member in ("cs", "hold", "wp")), member
        assert ("connect \\A 1'0" in block) == (member in ("hold", "wp")), member


# -- boards that load themselves ------------------------------------------------------------------

TARGET = board("ulx3s-25f")
LOADED, TROUBLE = 2, 8  # lamps
SECOND_NETWORK = 4


def prepared(seed: int = 5, config: EngineConfig | None = None) -> tuple[Case, Image]:
    """A network without initial states: nobody is there to set them."""
    case = random_case(seed, config or TARGET.config())
    for layer in case.network.layers:
        layer.initial = {}
    return case, pack(case.network, config or TARGET.config())


@pytest.fixture
def switch_on() -> Iterator[Callable[[bytes | None], VirtualBoard]]:
    """Boards that were just switched on, with that in their flash."""
    models = []

    def on(flash: bytes | None = None) -> VirtualBoard:
        models.append(VirtualBoard(TARGET, flash=flash))
        return models[-1]

    yield on
    for model in models:
        assert model.violations == 0, model.first_violation
        model.close()


def boot_cycles(data: Image) -> int:
    """Cycles after which the boot must be over: 32 a byte, and a byte a cycle for the sum."""
    return 6_000 + 33 * len(data.hardware) + 3 * len(data.hardware) + 20_000


def step(engine: Engine, case: Case, reference: Reference) -> None:
    """Vectors as a host sends them that knows nothing but their size."""
    outputs = case.network.layers[-1].units
    for row in case.inputs:
        vector = (row & 0xFFFF).astype("<u2").tobytes()
        y = engine.session.call(Command.STEP, vector, 2 * outputs)
        np.testing.assert_array_equal(np.frombuffer(y, "<i2"), reference.step_integers(row))


def loads_and_equals(engine: Engine, seed: int) -> None:
    """The board is as usable as one without anything in its flash."""
    case, data = prepared(seed)
    engine.load(data)
    reference = Reference(case.network, engine.config.lanes)
    for row, y in zip(case.inputs, engine.stream_integers(case.inputs), strict=True):
        np.testing.assert_array_equal(y, reference.step_integers(row))


def test_a_board_loads_itself_and_computes(switch_on) -> None:
    case, data = prepared()
    model = switch_on(data.data)
    model.run(32 * len(data.hardware))
    assert model.lamps & LOADED == 0, "it cannot have read all of it yet"
    model.run(boot_cycles(data) - model.cycle)
    assert model.lamps & (LOADED | TROUBLE) == LOADED
    assert model.pull() == b"", "it speaks without being asked"
    engine = Engine(model)
    assert engine.identity.board == TARGET.name
    assert engine.status() & 0xFF01 == Status.LOADED
    assert len(case.inputs) > 3
    step(engine, case, Reference(case.network, engine.config.lanes))
    # A host that has the image, but not the time to send it, begins a sequence with it.
    engine.start(data)
    reference = Reference(case.network, engine.config.lanes)
    for row, y in zip(case.inputs, engine.stream_integers(case.inputs), strict=True):
        np.testing.assert_array_equal(y, reference.step_integers(row))
    loads_and_equals(engine, SECOND_NETWORK)


def test_an_empty_flash_costs_nothing(switch_on) -> None:
    model = switch_on()
    engine = Engine(model)
    assert engine.status() & 0xFF01 == 0
    assert model.cycle < 10_000
    assert model.lamps & (LOADED | TROUBLE) == 0
    loads_and_equals(engine, SECOND_NETWORK)
    assert model.lamps & (LOADED | TROUBLE) == LOADED


@pytest.mark.parametrize("what", some(["bit", "engine", "size"], "bit", "size"))
def test_a_wrong_image_is_refused_and_the_host_may_load(what: str, switch_on) -> None:
    _, data = prepared()
    flash = bytearray(data.data)
    if what == "bit":
        flash[len(data.hardware) - 5] ^= 0x10
        error = Error.CRC
    elif what == "engine":
        other = board("colorlight-i5").config()
        _, data = prepared(5, other)
        flash = bytearray(data.data)
        error = Error.FINGERPRINT
    else:
        flash[3 * 64 : 3 * 64 + 4] = (1 << 30).to_bytes(4, "little")
        error = Error.NONE
    model = switch_on(bytes(flash))
    model.run(boot_cycles(data))
    assert model.lamps & (LOADED | TROUBLE) == TROUBLE
    engine = Engine(model)
    status = engine.status()
    assert not status & Status.LOADED and status >> 8 & 0xFF == error
    with pytest.raises(RefusedCommand) as refused:
        engine.session.call(Command.STEP, bytes(2), 0)
    assert refused.value.outcome == Outcome.NOT_LOADED
    loads_and_equals(engine, SECOND_NETWORK)
    assert model.lamps & LOADED


def test_commands_that_come_too_early_wait(switch_on) -> None:
    """HELLO is answered at once, a vector when there is a network for it."""
    case, data = prepared()
    model = switch_on(data.data)
    engine = Engine(model)
    assert model.cycle < 100_000 and model.lamps & LOADED == 0
    assert engine.identity.config == TARGET.config()
    step(engine, case, Reference(case.network, engine.config.lanes))
    assert model.lamps & (LOADED | TROUBLE) == LOADED
    assert engine.session.repeated == 0


def test_a_load_that_comes_too_early_waits_and_wins(switch_on) -> None:
    _, data = prepared()
    engine = Engine(switch_on(data.data))
    loads_and_equals(engine, SECOND_NETWORK)


@pytest.mark.parametrize("cycle", [1_000, 100_000])
def test_a_reset_ends_the_boot(cycle: int, switch_on) -> None:
    """Also one that comes while commands wait."""
    _, data = prepared()
    model = switch_on(data.data)
    model.run(cycle)
    model.write(encode(Frame(Command.HELLO, 0)))
    model.write(encode(Frame(Command.ACCESS, 1, bytes([Register.STATUS, 1]))))
    model.run(20_000)
    frames = FrameDecoder().feed(model.pull())
    assert [f.kind & 7 for f in frames] == [Command.HELLO], "STATUS was read during the boot"
    # Through the driver, HELLO would wait behind STATUS until the boot is over.
    model.write(encode(Frame(Command.RESET, 0)))
    engine = Engine(model)
    assert engine.status() & 0xFF01 == 0
    assert model.cycle < cycle + 50_000
    model.run(boot_cycles(data))
    assert model.lamps & LOADED == 0, "the boot has begun again"
    loads_and_equals(engine, SECOND_NETWORK)

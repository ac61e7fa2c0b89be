"""The host driver in C on generated hardware: the same integers as the reference.

It is compiled with warnings as errors and runs under the sanitizers for addresses and undefined
behaviour; its callbacks are answered from here, in simulated time.
"""

from __future__ import annotations

import contextlib
import re
import socket
import subprocess
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from stillnet.boards.catalogue import board as board_named
from stillnet.sim.board.link import LinkBench, LinkModel
from stillnet.sim.board.virtual import VirtualBoard
from stillnet.sim.engine.model import EngineModel
from stillnet.sim.testbenches import TESTBENCHES
from stillnet.sim.testbenches.core import design as core_design
from stillnet.sim.testbenches.runner import run_bench
from stillnet.sw.cli.main import main
from stillnet.sw.contract import image as layout
from stillnet.sw.contract import link
from stillnet.sw.contract.config import PRESETS, EngineConfig
from stillnet.sw.contract.link import Command
from stillnet.sw.contract.registers import Control, Error, Register
from stillnet.sw.contract.sources import INPUT
from stillnet.sw.host.c_driver import engine_header
from stillnet.sw.model.model import Model
from stillnet.sw.network.network import Network
from stillnet.sw.network.reference import Reference
from stillnet.sw.packing.packer import pack
from tests import ROOT
from tests.support.c_driver import (
    ERRORS,
    FLAGS,
    BusHost,
    CError,
    LinkHost,
    Puppet,
    c_state,
    compile_c,
    driver_folder,
)
from tests.support.link_bench import (
    CONFIGS,
    FaultyWire,
    board,
    connect,
    inputs,
    network,
    pumped,
)
from tests.support.networks.cells import random_cell_case
from tests.support.networks.images import patched
from tests.support.networks.quick import quantize
from tests.support.networks.random import Seeded, engine_config, random_inputs, random_network
from tests.support.sampling import some

WIDE = CONFIGS["wide"]
EXAMPLES = ROOT / "examples/c"


@pytest.fixture
def model() -> Iterator[LinkModel]:
    """A board that was just switched on."""
    model = board()
    yield model
    model.end()


@pytest.fixture
def wire(model: LinkModel) -> FaultyWire:
    """A wire to it, good until a test makes it bad."""
    return FaultyWire(model, 0, 0)


@pytest.fixture
def driver(wire: FaultyWire) -> Iterator[Puppet]:
    """The driver at the other end."""
    puppet = Puppet(WIDE, LinkHost(wire))
    yield puppet
    puppet.end()


def lively(config: EngineConfig = WIDE) -> Network:
    """A GRU and a layer behind it; every output changes in every step."""
    rng = np.random.default_rng(4)
    model = Model(9, name="lively").gru(rng.normal(0, 0.6, (36, 9)), rng.normal(0, 0.6, (36, 12)))
    model = model.dense(rng.normal(0, 0.6, (7, 12)), rng.normal(0, 0.1, 7), "linear")
    net = quantize(model, rng.normal(0, 1, (60, 9)).cumsum(0) / 4)
    pack(net, config)
    return net


def fresh(net: Network, config: EngineConfig) -> Reference:
    reference = Reference(net, config.lanes)
    reference.clear()
    return reference


def equal(found: np.ndarray, rows: np.ndarray, reference: Reference) -> None:
    np.testing.assert_array_equal(found, np.stack([reference.step_integers(r) for r in rows]))


def refused(puppet: Puppet, name: str, sentence: str, what: str, *values: int | bytes) -> None:
    """A call fails with an error, and with a sentence for it."""
    with pytest.raises(CError, match=sentence or ".") as failed:
        puppet.call(what, *values)
    assert failed.value.name == name


# -- on hardware ----------------------------------------------------------------------------------


def exercise(puppet: Puppet, net: Network, config: EngineConfig, rows: np.ndarray) -> None:
    """Steps, state out and in, clear: all as the reference."""
    reference = Reference(net, config.lanes)
    puppet.load(pack(net, config).data)
    state = c_state(reference.get_state(), net, config)
    assert puppet.info()["state_size"] == len(state) // 2
    if any(layer.initial for layer in net.layers):
        puppet.set_state(state)
    puppet.call("z")
    words = 0
    for row in rows[:3]:
        equal(puppet.run(row[None], together=False), row[None], reference)
        words += reference.last.words
    found = puppet.run(rows[3:])
    for row, y in zip(rows[3:], found):
        np.testing.assert_array_equal(y, reference.step_integers(row))
        words += reference.last.words
    saved = reference.get_state()
    assert puppet.get_state() == c_state(saved, net, config)
    counters = puppet.counters()
    assert (counters["steps"], counters["words"]) == (len(rows), words)

    puppet.clear()
    reference.clear()
    assert puppet.get_state() == c_state(reference.get_state(), net, config)
    equal(puppet.run(rows[:2]), rows[:2], reference)
    puppet.set_state(c_state(saved, net, config))
    reference.set_state(saved)
    equal(puppet.run(rows[:3]), rows[:3], reference)
    assert puppet.get_state() == c_state(reference.get_state(), net, config)


@pytest.mark.parametrize("name", some(CONFIGS, "wide", "events"))
def test_link_equals_the_reference(name: str) -> None:
    """Words of 16, 32 and 64 bits, two encoders, tokens, state of 32 bits, initial state."""
    model = board(name)
    puppet = Puppet(CONFIGS[name], LinkHost(model))
    puppet.open()
    assert puppet.info()["clock_hz"] == 100_000_000
    for seed in range(6):
        net = (
            random_cell_case(seed, model.bench.config).network
            if name == "events"
            else network(seed, name)
        )
        exercise(puppet, net, CONFIGS[name], inputs(seed, net, 12))
    puppet.end()
    model.end()


ENGINES = {
    "8x2": engine_config(lanes=8, cell_width=2, second_threshold=True),
    "2x1": engine_config(lanes=2),
}
"""Of tests/hw/test_engine.py, so that each is compiled once."""


@pytest.mark.parametrize("name", some(ENGINES, "2x1"))
def test_bus_equals_the_reference(name: str) -> None:
    """Registers and streams of an engine; the streams take a random part of what is offered."""
    config = ENGINES[name]
    for seed in range(4):
        net = random_network(Seeded(seed), config, max_units=24)
        with EngineModel(config) as model:
            model.place_image(bytes(1 << 16))
            puppet = Puppet(config, BusHost(model, net, seed))
            puppet.open_bus()
            exercise(puppet, net, config, random_inputs(Seeded(seed), net, 8))
            puppet.end()


def test_generated_core() -> None:
    """A core as ``stillnet generate`` writes it, at other people's models of its buses."""
    bench = TESTBENCHES["core"]
    verilog = core_design(MEMORY="axi4")
    result = run_bench(
        verilog,
        "tests.sw.host.c_core_bench",
        top=bench.top,
        optimise=bench.optimise,
        env={"MEMORY": "axi4"},
        seed=1,
    )
    assert result.compared == (
        "11 vectors, state and counters of the C driver are those of the reference",
    )


def test_virtual_board() -> None:
    """A whole board with its SDRAM controller and the model of its SDRAM."""
    model = VirtualBoard(board_named("ulx3s-25f"))
    puppet = Puppet(model.config, LinkHost(model))
    puppet.open()
    net = lively(model.config)
    rows = np.cumsum(np.random.default_rng(2).integers(-900, 901, (20, net.inputs)), axis=0)
    exercise(puppet, net, model.config, rows)
    assert model.violations == 0, model.first_violation
    puppet.end()
    model.close()


def test_both_drivers_on_one_board(driver: Puppet, model: LinkModel) -> None:
    """The C driver joins what the Python driver has begun, and the other way round."""
    net, rows = lively(), inputs(1, lively(), 12)
    image, reference = pack(net, WIDE).data, fresh(net, WIDE)
    first = connect(model)
    first.load(net)
    np.testing.assert_array_equal(first.step_integers(rows[0]), reference.step_integers(rows[0]))
    driver.open()
    refused(driver, "NOT_LOADED", "has no verified image; load one$", "u", bytes(0))
    driver.load(image, how="a")
    equal(driver.run(rows[1:9]), rows[1:9], reference)
    second = connect(model)
    second.attach(net)
    np.testing.assert_array_equal(second.step_integers(rows[9]), reference.step_integers(rows[9]))


def test_vectors_on_their_way(driver: Puppet) -> None:
    net, rows = lively(), inputs(3, lively(), 40)
    reference = fresh(net, WIDE)
    driver.open()
    driver.load(pack(net, WIDE).data)
    refused(driver, "NOTHING", "^no vector is on its way; call stillnet_submit", "f")
    sent = 0
    for row in rows:
        try:
            driver.submit(row)
            sent += 1
        except CError as full:
            assert full.name == "FULL"
            break
    assert sent == 8  # STILLNET_WINDOW; the board has room for more
    for row in rows[:5]:
        np.testing.assert_array_equal(driver.finish(), reference.step_integers(row))
    for row in rows[8:13]:
        driver.submit(row)
    for row in rows[5:13]:
        np.testing.assert_array_equal(driver.finish(), reference.step_integers(row))
    # What is on its way is waited for before anything else is done.
    driver.submit(rows[13])
    reference.step_integers(rows[13])
    assert driver.get_state() == c_state(reference.get_state(), net, WIDE)


def test_thresholds_events_registers_reset(driver: Puppet) -> None:
    net, rows = lively(), inputs(5, lively(), 9)
    reference = fresh(net, WIDE)
    driver.open()
    driver.load(pack(net, WIDE).data)
    driver.call("z")
    driver.set_threshold(0, (1 << 17) - 1)
    zeros = np.zeros((3, net.inputs), np.int64)
    found = driver.run(rows[:3])
    assert driver.event_count(0) == 0
    driver.clear()
    np.testing.assert_array_equal(found, driver.run(zeros))
    driver.set_threshold(0, net.input_threshold)
    driver.clear()
    driver.call("z")
    events = 0
    for row in rows:
        equal(driver.run(row[None]), row[None], reference)
        events += reference.last.events[INPUT]
    assert driver.event_count(0) == events > 0
    for source, value in ((3, 1), (32, 1), (35, 1), (64, 1), (0, 1 << 17)):
        wrong = value if source == 0 else source
        refused(driver, "ARGUMENT", f"^argument {wrong} is not one of", "h", source, value)
    refused(driver, "ARGUMENT", "^argument 3 is not one of 0 to 2 ", "E", 3)
    refused(driver, "ARGUMENT", "^argument 64 is not one of 0 to 63 ", "r", 64)
    driver.write(Register.IMAGE_BASE, 0x40)
    assert driver.read(Register.IMAGE_BASE) == 0x40
    assert driver.read(Register.FINGERPRINT) == WIDE.fingerprint
    driver.call("R")
    refused(driver, "NOT_LOADED", "", "c")
    driver.load(pack(net, WIDE).data, 64)
    assert driver.progress[-1][0] == driver.progress[-1][1] > 1024
    assert [p[0] for p in driver.progress[-5:]] == sorted(p[0] for p in driver.progress[-5:])
    equal(driver.run(rows), rows, fresh(net, WIDE))


# -- vectors as their changes ---------------------------------------------------------------------


class Recorded:
    """A transport that keeps the steps that are sent through it."""

    def __init__(self, transport: LinkModel) -> None:
        self._transport, self._frames = transport, link.FrameDecoder()
        self.steps: list[tuple[int, bytes]] = []

    def write(self, data: bytes) -> None:
        """To the board."""
        for frame in self._frames.feed(data):
            if frame.kind in (Command.STEP, Command.CHANGE):
                self.steps.append((frame.kind, frame.payload))
        self._transport.write(data)

    def __getattr__(self, name: str) -> object:
        return getattr(self._transport, name)


def calm(net: Network, steps: int) -> np.ndarray:
    """Inputs of which most move by less than the threshold."""
    rng = np.random.default_rng(steps)
    size = max(4, net.input_threshold)
    return np.cumsum(rng.integers(-size, size + 1, (steps, net.inputs)), axis=0)


@pytest.mark.parametrize("together", [False, True])
def test_changes_are_those_of_the_python_driver(together: bool) -> None:
    """Byte for byte, step by step, with another threshold in between; and shorter."""
    net = lively()
    net.input_threshold = 40
    rows, sent = calm(net, 30), []
    for driver in ("c", "python"):
        model = board()
        recorded = Recorded(model)
        if driver == "c":
            puppet = Puppet(WIDE, LinkHost(recorded))
            puppet.open()
            puppet.load(pack(net, WIDE).data)
            outputs = [puppet.run(rows[:15], together=together)]
            puppet.set_threshold(0, 90)
            outputs.append(puppet.run(rows[15:], together=together))
            puppet.end()
        else:
            engine = connect(recorded)
            engine.load(net)
            window = None if together else 1
            outputs = [np.stack(list(engine.stream_integers(rows[:15], window=window)))]
            engine.set_threshold("input", 90, integer=True)
            outputs.append(np.stack(list(engine.stream_integers(rows[15:], window=window))))
        model.end()
        sent.append((recorded.steps, np.concatenate(outputs)))
    (steps, outputs_c), (wanted, outputs_python) = sent
    np.testing.assert_array_equal(outputs_c, outputs_python)
    kinds = [kind for kind, _ in steps]
    assert kinds[0] == Command.STEP and kinds.count(Command.CHANGE) > 20
    if together:  # which output came last when a vector went depends on the moment
        assert len(steps) == len(wanted) == len(rows)
    else:
        assert steps == wanted
    size = sum(len(payload) for _, payload in steps)
    assert size < 0.8 * len(rows) * 2 * net.inputs


def test_thresholds_by_element_and_budgets() -> None:
    """Thresholds stand in a table of the image. Where the input has a budget the board decides by a
    rule of its own, so all that differs is sent."""
    config = replace(CONFIGS["budgets"], name="elements", element_thresholds=True)
    net = lively(config)
    net.input_thresholds = np.arange(net.inputs) * 30
    rows = calm(net, 24) * 5
    sizes = []
    for budget in (0, 4):
        net.budgets = {INPUT: budget} if budget else {}
        bench = LinkBench(config, ram_words=1 << 13, clock_hz=100_000_000, baud=3_000_000)
        recorded = Recorded(LinkModel(bench))
        puppet = Puppet(config, LinkHost(recorded))
        puppet.open()
        puppet.load(pack(net, config).data)
        equal(puppet.run(rows, together=False), rows, fresh(net, config))
        assert [kind for kind, _ in recorded.steps].count(Command.CHANGE) > 15
        sizes.append(sum(len(payload) for _, payload in recorded.steps))
        puppet.end()
    assert sizes[0] < sizes[1]


def test_without_memory_vectors_go_whole(model: LinkModel) -> None:
    """None, or an element too few."""
    net, rows = lively(), inputs(2, lively(), 6)
    for latest, kind in ((0, 2), (net.inputs + net.outputs - 1, 2), (net.inputs + net.outputs, 6)):
        recorded = Recorded(model)
        puppet = Puppet(WIDE, LinkHost(recorded))
        puppet.open(latest=latest)
        puppet.load(pack(net, WIDE).data)
        equal(puppet.run(rows, together=False), rows, fresh(net, WIDE))
        assert recorded.steps[-1][0] == kind, latest
        puppet.end()


def test_changes_after_state_clear_and_registers(driver: Puppet) -> None:
    """What the encoder has passed on is another one then, or not known."""
    net, rows = lively(), calm(lively(), 20)
    net.input_threshold = 60
    reference = fresh(net, WIDE)
    driver.open()
    driver.load(pack(net, WIDE).data)
    equal(driver.run(rows[:6]), rows[:6], reference)
    saved = reference.get_state()
    driver.clear()
    reference.clear()
    equal(driver.run(rows[6:10]), rows[6:10], reference)
    driver.set_state(c_state(saved, net, WIDE))
    reference.set_state(saved)
    equal(driver.run(rows[10:14]), rows[10:14], reference)
    driver.write(Register.THRESHOLD_SELECT, 0)
    driver.write(Register.THRESHOLD, 7)
    reference.network.input_threshold = 7
    equal(driver.run(rows[14:]), rows[14:], reference)


# -- the wire -------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(6))
def test_faulty_wire(seed: int, model: LinkModel) -> None:
    """Bytes flip, vanish, appear and come twice, in both directions: all results are right."""
    wire = FaultyWire(model, seed, 0)
    puppet = Puppet(WIDE, LinkHost(wire))
    puppet.open(timeout=50_000)
    net, rate = lively(), (6e-4, 2e-3, 5e-3)[seed % 3]
    rows, reference = inputs(seed, net, 60), fresh(net, WIDE)
    wire.rate = rate / 3
    puppet.load(pack(net, WIDE).data)
    wire.rate = rate
    equal(puppet.run(rows), rows, reference)
    assert puppet.get_state() == c_state(reference.get_state(), net, WIDE)
    assert puppet.counters()["steps"] == 60
    info = puppet.info()
    assert wire.faults and info["repeated"] + info["resumed"]
    wire.rate = 0
    puppet.clear()
    equal(puppet.run(rows[:2]), rows[:2], fresh(net, WIDE))
    puppet.end()


@pytest.mark.parametrize("direction", ["write", "read"])
def test_one_lost_frame_costs_no_timeout(
    driver: Puppet, wire: FaultyWire, model: LinkModel, direction: str
) -> None:
    """The board's notice, or a reply with a wrong checksum, is enough to repeat at once."""
    driver.open(retry=5_000, timeout=100_000, latest=0)
    net, rows = lively(), inputs(1, lively(), 8)
    driver.load(pack(net, WIDE).data)
    right = getattr(wire.inner, direction)
    count = 0

    def wrong(argument):
        nonlocal count
        result = argument if direction == "write" else right(argument)
        if len(result) > 12:
            count += 1
            if count == 3:
                result = result[:6] + bytes([result[6] ^ 1]) + result[7:]
        return right(result) if direction == "write" else result

    setattr(wire, direction, wrong)
    begin = model.now()
    equal(driver.run(rows), rows, fresh(net, WIDE))
    info = driver.info()
    assert count > 3 and info["repeated"] + info["resumed"] > 0
    assert model.now() - begin < 4e-3


def test_slow_wire_is_not_taken_for_a_lossy_one(driver: Puppet, model: LinkModel) -> None:
    driver.open()
    model.pace(200, 0)
    driver.load(pack(lively(), WIDE).data)
    info = driver.info()
    assert info["resumed"] > 3 and info["repeated"] == 0


@pytest.mark.parametrize("seed", range(4))
def test_wire_too_bad_to_use(seed: int, model: LinkModel) -> None:
    """Nothing gets through: an error that says so, and a driver that goes on when it can."""
    wire = FaultyWire(model, seed, 0)
    puppet = Puppet(WIDE, LinkHost(wire))
    puppet.open(timeout=4_000)
    net, rows = lively(), inputs(seed, lively(), 10)
    puppet.load(pack(net, WIDE).data)
    wire.rate = 0.3
    with pytest.raises(CError, match="^the (board stopped|engine has not fin)") as failed:
        equal(puppet.run(rows), rows, fresh(net, WIDE))
    assert failed.value.name in ("LOST", "STUCK")
    wire.rate = 0
    refused(puppet, "UNKNOWN", "^steps were lost, so the place", "u", bytes(2 * net.inputs))
    puppet.clear()
    equal(puppet.run(rows), rows, fresh(net, WIDE))
    puppet.end()


def test_gone(driver: Puppet, model: LinkModel) -> None:
    """A callback reports an error: at once, at any place, and not for ever."""
    driver.open()
    net, rows = lively(), inputs(1, lively(), 3)
    driver.load(pack(net, WIDE).data)
    driver.host.gone = True
    refused(driver, "GONE", "^the link's read or write callback reported an error; check", "c")
    with pytest.raises(CError, match="^the link's read or write"):
        driver.load(pack(net, WIDE).data)
    driver.host.gone = False
    driver.load(pack(net, WIDE).data)
    equal(driver.run(rows), rows, fresh(net, WIDE))


class Script:
    """A transport that answers as a test says.

    Parameters
    ----------
    answer : function of the bytes written
        Gives the bytes that come back.
    always : bytes
        Comes in each read without an answer.
    """

    def __init__(self, answer=lambda data: b"", always: bytes = b"") -> None:
        self.time, self.reads = 0.0, 0
        self._answer, self._always, self._rest = answer, always, b""

    def write(self, data: bytes) -> None:
        self._rest += self._answer(data)

    def read(self, timeout: float) -> bytes:
        self.reads += 1
        data, self._rest = self._rest or self._always, b""
        self.time += 1e-6 if data else timeout + 1e-6
        return data

    def now(self) -> float:
        return self.time


def greeting(**changes: int) -> bytes:
    """The identity of a board that the driver is made for."""
    values = {"image": layout.VERSION, "bytes": WIDE.word_bytes, "window": 4}
    values |= {"fingerprint": WIDE.fingerprint, "receive": 4096, "reply": 4096, **changes}
    v = list(values.values())
    body = v[0].to_bytes(2, "little") + bytes(v[1:3])
    for number in (v[3], 50_000_000, *v[4:]):
        body += number.to_bytes(4, "little")
    return body + b'{"board":"script","config":{}}'


def board_of(identity: bytes, others=lambda frame: b"", version: int = link.VERSION):
    """The answers of a board with this identity; ``others`` answers what comes after HELLO."""
    decoder = link.FrameDecoder()

    def answer(data: bytes) -> bytes:
        result = b""
        for frame in decoder.feed(data):
            if frame.kind == Command.HELLO:
                reply = link.Frame(link.REPLY, frame.sequence, identity)
                result += link.encode(reply, version=version)
            else:
                result += others(frame)
        return result

    return answer


@pytest.mark.parametrize(
    ("script", "name", "sentence"),
    [
        (Script(), "NO_ANSWER", "^nothing that speaks stillnet's protocol answered in 20000 ms;"),
        (Script(always=b"\x7e"), "NO_ANSWER", "check cable, power, bitstream and baud rate$"),
        (Script(always=b"U"), "NO_ANSWER", "^nothing that speaks"),
        (Script(always=b"\x7d\x7e"), "NO_ANSWER", "^nothing that speaks"),
        (
            Script(always=link.encode(link.Frame(link.NOTICE, 0, b"\1\0"))),
            "NO_ANSWER",
            "^nothing that speaks",
        ),
        (
            Script(board_of(greeting() + b"\0", version=3)),
            "LINK_VERSION",
            "^the board speaks version 3 of the link's protocol, this driver version 1; build and",
        ),
        (
            Script(board_of(greeting(image=2) + b"\0")),
            "BOARD_VERSION",
            "^the engine takes images of version 2, this driver version 3; generate both with one",
        ),
        (
            Script(board_of(greeting(fingerprint=0xABC) + b"\0")),
            "BOARD_ENGINE",
            f"^the engine has fingerprint abc, stillnet_engine.h has {WIDE.fingerprint:x}; write",
        ),
        (Script(board_of(b"hello\0")), "ANSWER", "^the board answered with 5 bytes where 20 were"),
        (Script(board_of(greeting() + b"\2")), "COMMAND", "^the board refused command 0 with out"),
        (Script(board_of(b"")), "NO_ANSWER", "^nothing that speaks"),
    ],
)
def test_boards_that_are_none(script: Script, name: str, sentence: str) -> None:
    """Each wrong greeting has its error; nothing and noise end in time."""
    puppet = Puppet(WIDE, LinkHost(script))
    refused(puppet, name, sentence, "O", 200, 20_000, 64)
    assert script.time < 30_000e-6
    puppet.end()


def access_reply(frame: link.Frame, payload: bytes) -> bytes:
    return link.encode(link.Frame(frame.kind | link.REPLY, frame.sequence, payload))


@pytest.mark.parametrize(
    ("others", "name", "sentence"),
    [
        (lambda f: access_reply(f, bytes(3) + b"\0"), "ANSWER", "^the board answered with 3 bytes"),
        (lambda f: access_reply(f, bytes(6) + b"\0"), "ANSWER", "6 bytes where 4 were expected; b"),
        (lambda f: access_reply(f, b"\2"), "COMMAND", "^the board refused command 1 with outcome"),
        (lambda f: access_reply(f, b"\1"), "NOT_LOADED", "^the engine has no verified image; l"),
        (lambda f: b"", "LOST", "^the board stopped answering command 1 for 20000 ms; check cab"),
        (
            lambda f: link.encode(link.Frame(link.NOTICE, 99, b"\4\0")),
            "STUCK",
            "^the engine has not finished command 1 in 20000 ms; reset it and load",
        ),
    ],
)
def test_answers_that_are_none(others, name: str, sentence: str) -> None:
    script = Script(board_of(greeting() + b"\0", others))
    puppet = Puppet(WIDE, LinkHost(script))
    puppet.open()
    refused(puppet, name, sentence, "r", Register.STATUS)
    puppet.end()


def test_small_buffers() -> None:
    """An image whose vectors the board has no room for is refused before anything is sent."""
    script = Script(board_of(greeting(reply=15) + b"\0"))
    puppet = Puppet(WIDE, LinkHost(script))
    puppet.open()
    with pytest.raises(CError, match="^18 bytes to the board and 14 back do not fit its buffers"):
        puppet.load(pack(lively(), WIDE).data)
    puppet.end()
    for identity in (greeting(receive=5), greeting(window=0)):
        puppet = Puppet(WIDE, LinkHost(Script(board_of(identity + b"\0"))))
        puppet.open()
        refused(puppet, "VECTOR_SIZE", "^8 bytes to the board and 0 back do not", "w", 5, 1)
        puppet.end()


def test_board_that_was_restarted(driver: Puppet, wire: FaultyWire, model: LinkModel) -> None:
    driver.open(timeout=4_000)
    net, rows = lively(), inputs(1, lively(), 2)
    driver.load(pack(net, WIDE).data)
    driver.run(rows[:1])
    wire.inner = board()
    wire.inner.run(model.cycle)  # time goes on
    with pytest.raises(CError, match="^the board was restarted; load the image again$"):
        driver.run(rows[1:])
    refused(driver, "UNKNOWN", "", "u", bytes(2 * net.inputs))
    refused(driver, "NOT_LOADED", "", "c")
    driver.load(pack(net, WIDE).data)
    equal(driver.run(rows), rows, fresh(net, WIDE))
    wire.inner.end()


def test_engine_that_hangs_is_reset(driver: Puppet, model: LinkModel) -> None:
    driver.open(timeout=4_000)
    net, rows = lively(), inputs(1, lively(), 3)
    data = pack(net, WIDE).data
    driver.load(data)
    # The same network, but it says that it takes fewer elements: the engine waits for the others.
    short = patched(data, layout.find_field(layout.HEADER, "inputs")[0], "inputs", 3)
    driver.load(short, how="a")
    with pytest.raises(CError, match="^the engine has not finished command 2 in 4000 ms; reset"):
        driver.run(rows[:1, :3])
    driver.load(data)
    equal(driver.run(rows), rows, fresh(net, WIDE))


# -- images ---------------------------------------------------------------------------------------


def test_images_that_are_refused(driver: Puppet, model: LinkModel) -> None:
    """Before anything is sent: the board keeps what it has."""
    net, rows = lively(), inputs(1, lively(), 4)
    image = pack(net, WIDE)
    data, reference = image.data, fresh(net, WIDE)
    other = pack(net, replace(WIDE, units=96)).data
    words = len(image.hardware) // WIDE.word_bytes
    room = 1 << WIDE.address_bits
    driver.open()
    driver.load(data)
    equal(driver.run(rows[:2]), rows[:2], reference)
    for wrong, base, name, sentence in (
        (b"", 0, "NOT_AN_IMAGE", "^0 bytes that are no stillnet image; give a file that 'stilln"),
        (data[:200], 0, "NOT_AN_IMAGE", "^200 bytes that are no"),
        (bytes(4096), 0, "NOT_AN_IMAGE", "^4096 bytes that are no"),
        (data[:700], 0, "IMAGE_CUT", "^the image is cut off: 700 bytes, "),
        (image.hardware[:-1], 0, "IMAGE_CUT", f"bytes, {len(image.hardware)} are needed; copy it"),
        (patched(data, 1, "version", 2), 0, "IMAGE_VERSION", "^the image has version 2, this dri"),
        (patched(data, 1, "layers", 0), 0, "NOT_AN_IMAGE", "no stillnet image"),
        (patched(data, 1, "layers", 255), 0, "IMAGE_CUT", "is cut off"),
        (other, 0, "IMAGE_ENGINE", f"has {WIDE.fingerprint:x}; pack the network for this engine$"),
        (data, 7, "IMAGE_BASE", r"^base 7 is not a multiple of 8 words \(64 bytes\); choose ano"),
        (data, room - 8, "IMAGE_SIZE", f"^the image of {words} words does not fit the memory of "),
        (data, 0xFFFF_FFF8, "IMAGE_SIZE", f"memory of {room} words; use a smaller network or base"),
    ):
        for how in ("l", "s"):
            with pytest.raises(CError, match=sentence) as failed:
                driver.load(wrong, base, how=how)
            assert failed.value.name == name
    equal(driver.run(rows[2:]), rows[2:], reference)


def test_verify(driver: Puppet) -> None:
    data = pack(lively(), WIDE).data
    driver.load(data, how="v")
    rng = np.random.default_rng(1)
    for at in rng.choice(len(pack(lively(), WIDE).hardware), 40, replace=False).tolist():
        wrong = bytearray(data)
        wrong[at] ^= 1 << int(rng.integers(8))
        with pytest.raises(CError):
            driver.load(bytes(wrong), how="v")
    with pytest.raises(CError, match="^the checksum of the image is wrong; copy it again$"):
        driver.load(data[:1000] + b"\0" * (len(data) - 1000), how="v")


def test_engine_refuses_an_image(driver: Puppet) -> None:
    """The hardware's own checks, each with the sentence of the Python driver."""
    data = pack(lively(), WIDE).data
    driver.open()
    at = len(pack(lively(), WIDE).hardware) - 1
    wrong = data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :]
    with pytest.raises(CError, match="^the engine refused the image: its checksum is wrong, so t"):
        driver.load(wrong)
    refused(driver, "NOT_LOADED", "", "u", bytes(18))
    driver.load(data)
    with pytest.raises(CError, match="^the engine refused the image: it is not a stilln"):
        driver.load(data, 4000, how="s")
    driver.load(data, how="s")


# -- registers ------------------------------------------------------------------------------------


class Registers:
    """Registers that a test sets, and streams that take and give nothing."""

    def __init__(self, **values: int) -> None:
        self.values = {Register.ID: layout.MAGIC, Register.VERSION: layout.VERSION}
        self.values[Register.FINGERPRINT] = WIDE.fingerprint
        self.values[Register.STATUS] = 3
        self.values |= {Register[name]: value for name, value in values.items()}
        self.time = 0

    def now(self) -> int:
        return self.time

    def answer(self, kind: str, ask: Puppet) -> bytes:
        self.time += 7
        if kind == "w":
            ask.take(8)
            return b""
        if kind == "r":
            return self.values[Register(ask.number() // 4)].to_bytes(4, "little")
        if kind == "p":
            ask.take(2 * ask.number())
        if kind == "g":
            ask.number()
        return bytes(4)


@pytest.mark.parametrize(
    ("values", "name", "sentence"),
    [
        ({"ID": 1}, "NOT_AN_ENGINE", f"^what answers says 1, a stillnet engine {layout.MAGIC:x};"),
        ({"VERSION": 9}, "BOARD_VERSION", "^the engine takes images of version 9, this driver ve"),
        ({"FINGERPRINT": 1}, "BOARD_ENGINE", "^the engine has fingerprint 1, stillnet_engine.h h"),
    ],
)  # fmt: skip
def test_cores_that_are_none(values: dict[str, int], name: str, sentence: str) -> None:
    puppet = Puppet(WIDE, Registers(**values))
    refused(puppet, name, sentence, "o", 0, 1000, 0)
    puppet.end()


def test_core_that_hangs() -> None:
    """Neither streams nor status move: the driver gives up in time, and says so from then on."""
    host = Registers()
    puppet = Puppet(WIDE, host)
    puppet.open_bus(timeout=1000)
    data = pack(lively(), WIDE).data
    refused(puppet, "NO_RESET", "^registers cannot reset the engine; pulse the core's rst$", "R")
    host.values[Register.STATUS] = 0
    with pytest.raises(CError, match="^the engine has not finished command 1 in 1000 ms; reset i"):
        puppet.load(data)
    host.values[Register.STATUS] = Error.MEMORY << 8
    with pytest.raises(CError, match="^the engine refused the image: the memory answered with an"):
        puppet.load(data)
    host.values[Register.STATUS] = 200 << 8
    with pytest.raises(CError, match="^the engine refused the image .reason 200.; load it again$"):
        puppet.load(data)
    host.values[Register.STATUS] = 3
    puppet.load(data)
    host.values[Register.STATUS] = 7
    refused(puppet, "MEMORY", "^the engine's memory answered with an error; reset the engine", "G")
    with pytest.raises(CError, match="^the engine has not finished command 2 in 1000 ms"):
        puppet.run(np.zeros((2, 9), int))
    refused(puppet, "STUCK", "", "c")
    puppet.end()


class Taking(Registers):
    """The same, with an input stream that takes three elements at a time, until it is full."""

    def __init__(self, room: int) -> None:
        super().__init__()
        self.room, self.taken = room, []

    def answer(self, kind: str, ask: Puppet) -> bytes:
        assert kind != "g", "nobody asked for an output"
        if kind != "p":
            return super().answer(kind, ask)
        self.time += 7
        offered = np.frombuffer(ask.take(2 * ask.number()), "<i2").tolist()
        some = offered[: min(3, self.room - len(self.taken))]
        self.taken += some
        return len(some).to_bytes(4, "little")


def test_a_bus_is_given_vectors_at_once() -> None:
    """As far as there is room for them, before anybody waits for an output."""
    rows = inputs(5, lively(), 3)
    host = Taking(room=2 * rows.shape[1] + 1)
    puppet = Puppet(WIDE, host)
    puppet.open_bus()
    puppet.load(pack(lively(), WIDE).data)
    for k, row in enumerate(rows):
        puppet.submit(row)
        assert host.taken == rows[: k + 1].ravel().tolist()[: host.room]
    puppet.end()


# -- what is written ------------------------------------------------------------------------------


def test_every_error_has_a_sentence(driver: Puppet) -> None:
    sentences = [driver.describe(code) for code in range(len(ERRORS))]
    assert len(set(sentences)) == len(ERRORS) > 20
    for text in sentences[1:]:
        assert re.match(r"^[a-z0-9].*[;:] [a-z]", text) and "%" not in text and len(text) < 160
    for code in (-1, len(ERRORS), 10**9):
        assert driver.describe(code).startswith(f"error {code & 0xFFFF_FFFF} with ")
    whole = driver.describe(1)
    for size in range(len(whole) + 3):
        assert driver.describe(1, size) == whole[: max(0, size - 1)]


def test_the_page_lists_every_error() -> None:
    """docs/how-to/c-driver.md has a row for each error, and for no other."""
    page = (ROOT / "docs/how-to/c-driver.md").read_text()
    listed = re.findall(r"^\| `STILLNET_(\w+)` \|", page, re.MULTILINE)
    assert listed == ERRORS[1:]


VARIANTS = {
    "whole": [],
    "link": ["-DSTILLNET_BUS=0"],
    "bus": ["-DSTILLNET_LINK=0"],
    "no sentences": ["-DSTILLNET_SENTENCES=0"],
    "no changes": ["-DSTILLNET_CHANGES=0"],
}
MOST_BYTES = {
    "whole": 16_500,
    "link": 15_500,
    "bus": 8_700,
    "no sentences": 13_500,
    "no changes": 13_500,
}
"""Program and constants on x86 with 32 bits; a RISC-V takes about the same (docs)."""


@pytest.mark.parametrize("variant", VARIANTS)
def test_variants_are_small_and_need_nothing(variant: str, tmp_path: Path) -> None:
    """Freestanding, for 32 bits, without a C library: nothing but memcpy and memset is missing."""
    target = tmp_path / "stillnet.o"
    command = ["gcc", *FLAGS, "-m32", "-march=i686", "-Os", "-ffreestanding", "-fno-pic"]
    command += ["-fno-asynchronous-unwind-tables", "-fno-stack-protector", *VARIANTS[variant]]
    source = driver_folder(WIDE) / "stillnet.c"
    subprocess.run([*command, "-c", str(source), "-o", str(target)], check=True)
    symbols = subprocess.run(["nm", target], capture_output=True, text=True, check=True).stdout
    kinds = {line.split()[-1]: line.split()[-2] for line in symbols.splitlines()}
    assert {name for name, kind in kinds.items() if kind == "U"} <= {"memcpy", "memset"}
    assert not [name for name, kind in kinds.items() if kind in "bBdDC" and "." not in name]
    assert all(name.startswith("stillnet_") for name, kind in kinds.items() if kind == "T")
    text, data, bss = subprocess.run(
        ["size", target], capture_output=True, text=True, check=True
    ).stdout.splitlines()[1].split()[:3]  # fmt: skip
    assert int(bss) == 0
    assert int(text) + int(data) <= MOST_BYTES[variant]


def test_header_in_cpp(tmp_path: Path) -> None:
    source = tmp_path / "main.cpp"
    source.write_text(
        '#include "stillnet.h"\nint main() { return STILLNET_OK + sizeof(stillnet) == 0; }\n'
    )
    command = ["g++", "-std=c++11", "-Wall", "-Wextra", "-Wpedantic", "-Werror", "-fsyntax-only"]
    subprocess.run([*command, f"-I{driver_folder(WIDE)}", str(source)], check=True)


@pytest.mark.parametrize("name", [*PRESETS, "ulx3s-85f"])
def test_every_engine_has_a_header(name: str, tmp_path: Path) -> None:
    config = EngineConfig.load(name)
    assert main(["c-driver", "--preset", name, "-o", str(tmp_path)]) == 0
    text = (tmp_path / "stillnet_engine.h").read_text()
    assert f".fingerprint = 0x{config.fingerprint:08x}u" in text
    source = tmp_path / "main.c"
    source.write_text(
        '#include "stillnet.h"\n#include "stillnet_engine.h"\n'
        "const stillnet_engine engine = STILLNET_ENGINE;\n"
    )
    subprocess.run(["gcc", *FLAGS, "-c", source, "-o", tmp_path / "main.o"], check=True)
    subprocess.run(["gcc", *FLAGS, "-c", tmp_path / "stillnet.c", "-o", "/dev/null"], check=True)


def test_command_with_an_image(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    net = lively()
    path = tmp_path / "net.img"
    path.write_bytes(pack(net, WIDE).data)
    folder = tmp_path / "driver"
    assert main(["c-driver", str(path), "-o", str(folder)]) == 0
    names = {"stillnet.h", "stillnet.c", *(f"stillnet_{n}.h" for n in ("constants", "engine"))}
    assert {p.name for p in folder.iterdir()} == names | {"stillnet_network.h"}
    text = (folder / "stillnet_network.h").read_text()
    assert "#define STILLNET_NETWORK_INPUTS 9\n" in text
    assert "#define STILLNET_NETWORK_OUTPUTS 7\n" in text
    assert f"#define STILLNET_NETWORK_INPUT_FRACTION {net.input_fraction}\n" in text
    assert f"#define STILLNET_NETWORK_OUTPUT_FRACTION {net.layers[-1].fraction}\n" in text
    assert (folder / "stillnet_engine.h").read_text() == engine_header(WIDE)
    capsys.readouterr()
    for arguments, message in (
        ([str(path), "--preset", "axi64"], "has an engine already; leave --preset axi64 out"),
        ([str(tmp_path / "no.img")], "does not exist"),
        (["--preset", "no"], "'no' is neither a preset"),
    ):
        assert main(["c-driver", *arguments, "-o", str(folder)]) == 2
        assert message in capsys.readouterr().err
    assert main(["c-driver", "-o", str(path)]) == 2
    assert "cannot make folder" in capsys.readouterr().err


def test_constants_are_those_of_the_contract() -> None:
    """What the header says, read by the compiler."""
    folder = driver_folder(WIDE)
    command = ["gcc", "-dM", "-E", str(folder / "stillnet_constants.h")]
    text = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    found = dict(re.findall(r"^#define STILLNET_(\w+) (.+)$", text, re.MULTILINE))
    for register in Register:
        assert int(found[f"REGISTER_{register.name}"]) == register
    for bit in Control:
        assert int(found[f"CONTROL_{bit.name}"]) == bit
    for command_kind in Command:
        assert int(found[f"COMMAND_{command_kind.name}"]) == command_kind
    assert int(found["IMAGE_MAGIC"].rstrip("u"), 16) == layout.MAGIC
    slot, bits = layout.find_field(layout.LAYER, "unit_base")
    assert found["LAYER_UNIT_BASE"] == f"{slot}, {bits.start}, {bits.stop - bits.start}"


# -- the examples ---------------------------------------------------------------------------------


def test_example_for_a_serial_line(model: LinkModel, tmp_path: Path) -> None:
    """examples/c/serial.c over a socket, in real time."""
    net, rows = lively(), inputs(2, lively(), 20)
    image = tmp_path / "net.img"
    image.write_bytes(pack(net, WIDE).data)
    assert main(["c-driver", str(image), "-o", str(tmp_path)]) == 0
    rows.astype("<i2").tofile(tmp_path / "x.bin")
    program = tmp_path / "step"
    sources = [EXAMPLES / "serial.c", tmp_path / "stillnet.c"]
    command = ["gcc", *FLAGS, f"-I{tmp_path}", *map(str, sources), "-o", str(program)]
    subprocess.run(command, check=True)
    with socket.create_server(("127.0.0.1", 0)) as listener:
        address = f"127.0.0.1:{listener.getsockname()[1]}"
        files = [str(image), str(tmp_path / "x.bin"), str(tmp_path / "y.bin")]
        process = subprocess.Popen([program, address, *files], stdout=subprocess.PIPE, text=True)
        line, _ = listener.accept()
        with line:
            line.setblocking(False)

            def pull() -> bytes:
                with contextlib.suppress(BlockingIOError):
                    return line.recv(1 << 16)
                return b""

            stop = pumped(model, line.sendall, pull)
            said, _ = process.communicate(timeout=60)
            stop()
    assert process.returncode == 0
    assert re.match(r"20 steps, \d+ cycles\n", said)
    found = np.fromfile(tmp_path / "y.bin", "<i2").reshape(20, -1)
    equal(found, rows, fresh(net, WIDE))
    done = subprocess.run([program, "localhost:1", *files], capture_output=True, text=True)
    assert done.returncode == 2 and "cannot be opened; check the port" in done.stderr


def test_example_for_a_core(tmp_path: Path) -> None:
    """examples/c/core.c compiles without a C library."""
    image = tmp_path / "net.img"
    image.write_bytes(pack(lively(), WIDE).data)
    assert main(["c-driver", str(image), "-o", str(tmp_path)]) == 0
    command = ["gcc", *FLAGS, "-ffreestanding", "-DSTILLNET_LINK=0", f"-I{tmp_path}", "-c"]
    target = str(tmp_path / "core.o")
    subprocess.run([*command, str(EXAMPLES / "core.c"), "-o", target], check=True)


# -- bytes from nowhere ---------------------------------------------------------------------------

FUZZ_CASES = 100_000
TINY = EngineConfig(name="fuzz", lanes=4, units=64, inputs=8, second_threshold=True)


def test_fuzz(thorough: bool) -> None:
    """Random answers, and an honest board behind a wire that loses and changes bytes.

    Nothing hangs, no byte is written beyond its place, and what the driver calls right is right.
    """
    program = compile_c("fuzz.c", TINY)
    cases = FUZZ_CASES if thorough else FUZZ_CASES // 10
    done = subprocess.run(
        [str(program), str(cases), "1"], capture_output=True, text=True, timeout=500
    )
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-4000:]
    figures = dict(re.findall(r"(\w+): (\d+)", done.stdout))
    assert int(figures["cases"]) == cases
    # The cases reach what they are for.
    assert int(figures["opened"]) > cases // 10
    assert int(figures["steps"]) > cases // 10
    assert int(figures["repeated"]) > cases // 100
    assert int(figures["errors"]) == len(set(re.findall(r"error (\d+)", done.stdout))) >= 10

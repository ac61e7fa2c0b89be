"""The host driver on generated hardware: the same integers as the reference, whatever the wire.

The hardware is a compiled model in this process; its time is that of the simulation.
"""

from __future__ import annotations

import os
import re
import socket
import sys
import tty
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from stillnet.sim.board.link import LinkModel
from stillnet.sw.cli.main import main
from stillnet.sw.contract import link
from stillnet.sw.contract.config import PRESETS
from stillnet.sw.contract.errors import StillnetError
from stillnet.sw.contract.events import Mode
from stillnet.sw.contract.link import Command
from stillnet.sw.contract.registers import Register
from stillnet.sw.host import board_engine as board_engine_module
from stillnet.sw.host import engines
from stillnet.sw.host.board_engine import board_engine, run_on_board, sim_engine
from stillnet.sw.host.driver import ConnectionLost, Engine, RefusedCommand
from stillnet.sw.host.driver import transport as transport_module
from stillnet.sw.host.driver.transport import open_transport
from stillnet.sw.model.model import Model
from stillnet.sw.network.network import Network
from stillnet.sw.network.reference import Reference
from stillnet.sw.packing.packer import pack
from tests.support.link_bench import CONFIGS, FaultyWire, board, connect, inputs, network, pumped
from tests.support.networks.quick import quantize
from tests.support.sampling import some


@pytest.fixture
def model() -> Iterator[LinkModel]:
    """A board that was just switched on."""
    model = board()
    yield model
    model.end()


@pytest.fixture
def engine(model: LinkModel) -> Engine:
    """The driver on it."""
    return connect(model)


def fresh(net: Network, name: str = "wide") -> Reference:
    reference = Reference(net, CONFIGS[name].lanes)
    reference.clear()
    return reference


def same_state(engine: Engine, reference: Reference) -> None:
    found, expected = engine.get_state(), reference.get_state()
    assert found.keys() == expected.keys()
    for key in expected:
        np.testing.assert_array_equal(found[key], expected[key], err_msg=key)


def delta_network(name: str = "wide") -> Network:
    """Of several inputs and a recurrence; its outputs change with every step."""
    for seed in range(100):
        net = network(seed, name)
        if net.input_mode.one_hot or net.inputs < 5 or net.outputs < 2:
            continue
        reference = fresh(net, name)
        ys = [reference.step_integers(x) for x in inputs(seed, net, 6)]
        if all(np.any(a != b) for a, b in zip(ys, ys[1:])):
            return net
    raise AssertionError("no such network")


def test_egru_is_cleared_every_so_many_steps() -> None:
    """Only h: what was sent stays sent. On hardware, in the reference, and in floating point."""
    rng = np.random.default_rng(0)
    w = [rng.normal(0, 0.5, (30, n)) for n in (6, 10)]
    model = Model(6).egru(*w, theta=np.full(10, 0.05), name="egru")
    model.lstm(rng.normal(0, 0.5, (20, 10)), rng.normal(0, 0.5, (20, 5)), name="lstm")
    x = np.cumsum(rng.normal(0, 0.3, (25, 6)), axis=0)
    net = quantize(model, x)
    bench = board("events")
    engine = connect(bench)
    result = run_on_board(net, x, engine, clear_every=7)
    assert result.mismatches == 0 and result.steps == 25
    reference = fresh(net, "events")
    for step, row in enumerate(net.quantize_input(x)):
        if step and step % 7 == 0:
            reference.clear_cells()
        reference.step_integers(row)
    same_state(engine, reference)
    assert not np.array_equal(result.outputs, run_on_board(net, x, engine).outputs)
    assert np.abs(result.outputs - model.run(x, clear_every=7)).max() < 0.1
    bench.end()


# -- what it is for -------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["wide", "narrow"])
def test_outputs_and_state_equal_the_reference(name: str) -> None:
    """Any networks, one after the other: steps, streams, state out and in, counters."""
    model = board(name)
    engine = connect(model)
    assert engine.config == CONFIGS[name]
    assert engine.identity.board == "bench" and engine.identity.clock_hz == 100_000_000
    for seed in range(8):
        net = network(seed, name)
        reference = fresh(net, name)
        engine.load(net)
        engine.reset_counters()
        rows = inputs(seed, net, 12)
        words = 0
        for row in rows[:3]:
            np.testing.assert_array_equal(engine.step_integers(row), reference.step_integers(row))
            words += reference.last.words
        for row, y in zip(rows[3:], engine.stream_integers(rows[3:])):
            np.testing.assert_array_equal(y, reference.step_integers(row))
            words += reference.last.words
        same_state(engine, reference)
        counters = engine.counters()
        assert (counters["steps"], counters["words"]) == (12, words)
        assert set(counters["events"]) == set(reference.event_names().values())

        # State goes to another sequence and comes back.
        saved = engine.get_state()
        engine.clear()
        reference.clear()
        same_state(engine, reference)
        np.testing.assert_array_equal(
            engine.step_integers(rows[0]), reference.step_integers(rows[0])
        )
        engine.set_state(saved)
        reference.set_state(saved)
        same_state(engine, reference)
        for row in rows[:3]:
            np.testing.assert_array_equal(engine.step_integers(row), reference.step_integers(row))
    model.end()


def test_initial_state(engine: Engine) -> None:
    net = next(
        n
        for n in map(network, range(100))
        if any(layer.initial for layer in n.layers) and n.layers[0].write_shift
    )
    engine.load(net)
    engine.set_hidden(
        {(i, s): v for i, layer in enumerate(net.layers) for s, v in layer.initial.items()}
    )
    reference = Reference(net, 8)
    same_state(engine, reference)
    for row in inputs(1, net, 3):
        np.testing.assert_array_equal(engine.step_integers(row), reference.step_integers(row))


def test_real_numbers(engine: Engine) -> None:
    net = delta_network()
    engine.load(net)
    reference = fresh(net)
    x = inputs(1, net, 5) / 2.0**net.input_fraction
    np.testing.assert_array_equal(engine.step(x[0]), reference.step(x[0]))
    for row, y in zip(x[1:], engine.stream(x[1:])):
        np.testing.assert_array_equal(y, reference.step(row))


def test_threshold(engine: Engine) -> None:
    net = delta_network()
    engine.load(net)
    reference = fresh(net)
    value = 700
    engine.set_threshold("input", value / 2**net.input_fraction)
    reference.network.input_threshold = value
    layer = net.layers[0]
    engine.set_threshold(0, 50, integer=True)
    layer.threshold = 50
    if layer.threshold_recurrent is not None:
        engine.set_threshold(layer.name, 9, integer=True, recurrent=True)
        layer.threshold_recurrent = 9
    for row in inputs(2, net, 10):
        np.testing.assert_array_equal(engine.step_integers(row), reference.step_integers(row))
    same_state(engine, reference)


def test_a_threshold_whose_answer_is_lost(model: LinkModel) -> None:
    """Whichever one the board has: it gets all that it would pass on."""
    nets = (network(seed) for seed in range(100))
    net = next(n for n in nets if n.input_mode is Mode.DELTA and n.inputs >= 5 and n.outputs >= 2)
    loaded = net.input_threshold
    for arrives in (True, False):
        wire = FaultyWire(model, 0, 0)
        engine = connect(wire)
        engine.load(net)
        reference = fresh(net)
        rng = np.random.default_rng(2)
        rows = 900 + np.cumsum(rng.integers(-90, 91, (12, net.inputs)), axis=0)
        engine.set_threshold("input", 700, integer=True)
        reference.network.input_threshold = 700
        for row in rows[:4]:
            np.testing.assert_array_equal(engine.step_integers(row), reference.step_integers(row))

        def write(data: bytes, arrives: bool = arrives) -> None:
            if arrives:
                model.write(data)
                model.read(1e-4)  # the reply is lost
            raise ConnectionLost("the cable was pulled")

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(wire, "write", write)
            with pytest.raises(ConnectionLost, match="^the cable was pulled$"):
                engine.set_threshold("input", 1, integer=True)
        if arrives:
            reference.network.input_threshold = 1
        engine.identify()
        for row in rows[4:8]:
            np.testing.assert_array_equal(engine.step_integers(row), reference.step_integers(row))
        same_state(engine, reference)
        engine.set_threshold("input", 50, integer=True)
        reference.network.input_threshold = 50
        for row in rows[8:]:
            np.testing.assert_array_equal(engine.step_integers(row), reference.step_integers(row))
        same_state(engine, reference)
        net.input_threshold = loaded


def test_stream_takes_no_more_than_the_window(engine: Engine) -> None:
    net = delta_network()
    engine.load(net)
    taken = 0

    def rows() -> Iterator[np.ndarray]:
        nonlocal taken
        for row in inputs(1, net, 10):
            taken += 1
            yield row

    for window in (1, 3):
        taken, ahead = 0, []
        for k, _ in enumerate(engine.stream_integers(rows(), window=window)):
            ahead.append(taken - k)
        assert max(ahead) == window
    with pytest.raises(StillnetError, match="^window must be at least 1, not 0$"):
        next(engine.stream_integers(rows(), window=0))


def test_stream_that_is_left_early(engine: Engine) -> None:
    """Steps that were on their way are done; the next ones follow them."""
    net = delta_network()
    engine.load(net)
    reference = fresh(net)
    rows = inputs(1, net, 12)
    stream = engine.stream_integers(iter(rows), window=4)
    next(stream)
    stream.close()
    done = engine.counters()["steps"]
    assert 1 < done <= 5
    for row in rows[:done]:
        reference.step_integers(row)
    same_state(engine, reference)
    np.testing.assert_array_equal(engine.step_integers(rows[-1]), reference.step_integers(rows[-1]))


def test_driver_that_comes_later(model: LinkModel, engine: Engine) -> None:
    """The board keeps image and state between connections; `start` needs no new load."""
    net = delta_network()
    engine.load(net)
    image = pack(net, CONFIGS["wide"])
    rows = inputs(1, net, 4)
    engine.step_integers(rows[0])
    engine.close()
    again = connect(model)
    with pytest.raises(StillnetError, match="^no network is loaded; call load"):
        again.step_integers(rows[0])
    again.start(image)
    reference = fresh(net)
    for row in rows:
        np.testing.assert_array_equal(again.step_integers(row), reference.step_integers(row))


def test_load_elsewhere_and_progress(engine: Engine, tmp_path: Path) -> None:
    net = delta_network()
    path = tmp_path / "net.img"
    image = pack(net, CONFIGS["wide"])
    path.write_bytes(image.data)
    seen: list[tuple[str, int, int]] = []
    engine.load(path, base=2048, progress=lambda *a: seen.append(a))
    size = len(image.hardware)
    assert seen[-1] == ("load", size, size) and len(seen) == -(-size // 1024)
    reference = fresh(net)
    row = inputs(1, net, 1)[0]
    np.testing.assert_array_equal(engine.step_integers(row), reference.step_integers(row))
    for base, message in (
        (1, r"^base 1 is not a multiple of 64 bytes \(8 words\); choose another$"),
        (1 << 16, r"^the image of \d+ words at 65536 does not fit the board's memory of 65536"),
    ):
        with pytest.raises(StillnetError, match=message):
            engine.load(path, base=base)


# -- what is refused ------------------------------------------------------------------------------


def test_image_of_another_engine_is_not_sent(model: LinkModel, engine: Engine) -> None:
    net = next(n for n in map(network, range(50)) if all(c.cell != "gru" for c in n.layers))
    for layer in net.layers:
        layer.threshold_recurrent = None
    image = pack(net, PRESETS["axi64"])
    before = model.cycle
    with pytest.raises(
        StillnetError,
        match=r"^image '.*' was packed for engine 'axi64' \(fingerprint \w{8}\), the board has "
        r"'wide' \(\w{8}\); pack the network for the board's engine$",
    ):
        engine.load(image)
    assert model.cycle == before


def test_board_of_another_version(model: LinkModel, monkeypatch) -> None:
    monkeypatch.setattr("stillnet.sw.host.driver.engine.IMAGE_VERSION", 4)
    with pytest.raises(
        StillnetError,
        match="^the board takes images of version 3, this stillnet makes version 4; build and "
        "flash its bitstream again with this version$",
    ):
        connect(model)


def test_vectors_that_do_not_fit(engine: Engine) -> None:
    net = delta_network()
    engine.load(net)
    row = inputs(1, net, 1)[0]
    for x, message in (
        (row[:-1], r"^the vector has shape \(\d+,\) and type int64; network .* of shape"),
        (row / 2, r"^the vector has shape .* and type float64; network"),
        (row * 0 + 40_000, r"^the vector holds 40000 to 40000; elements must be -32768 to 32767$"),
    ):
        with pytest.raises(StillnetError, match=message):
            engine.step_integers(x)
    np.testing.assert_array_equal(engine.step_integers(row), fresh(net).step_integers(row))
    tokens = next(n for n in map(network, range(50)) if n.input_mode.one_hot)
    engine.load(tokens)
    message = rf"^the vector holds \d+ to \d+; elements must be -1 to {tokens.inputs - 1}$"
    with pytest.raises(StillnetError, match=message):
        engine.step_integers(np.array([tokens.inputs]))
    engine.load(net)
    with pytest.raises(StillnetError, match=r"^network '.*' has no vector 'h'; it has input, lay"):
        engine.set_threshold("h", 1)
    with pytest.raises(StillnetError, match=r"^threshold -1 of 'input' is .*must be 0 to 131071$"):
        engine.set_threshold("input", -1, integer=True)
    with pytest.raises(StillnetError, match=r"^vector 'input' has no recurrent threshold"):
        engine.set_threshold("input", 1, recurrent=True)
    with pytest.raises(StillnetError, match=r"^layer 9 of network '.*' has no state 'h' of shape"):
        engine.set_hidden({(9, "h"): row})
    with pytest.raises(StillnetError, match=r"^state does not belong to network '.*': "):
        engine.set_state({"0/h": row})


def test_memory_that_does_not_hold_what_was_sent(engine: Engine, monkeypatch) -> None:
    """The hardware's own sum finds it."""
    net = delta_network()
    whole = link.load_block

    def damaged(address: int, data: bytes, word_bytes: int) -> bytes:
        return whole(address, bytes([*data[:-1], data[-1] ^ 1]), word_bytes)

    with monkeypatch.context() as patch:
        patch.setattr(link, "load_block", damaged)
        with pytest.raises(StillnetError, match="^the board refused the image: its checksum is "):
            engine.load(net)
    with pytest.raises(StillnetError, match="^no network is loaded"):
        engine.step_integers(inputs(1, net, 1)[0])
    engine.load(net)
    row = inputs(1, net, 1)[0]
    np.testing.assert_array_equal(engine.step_integers(row), fresh(net).step_integers(row))


def test_image_with_other_words(engine: Engine, monkeypatch) -> None:
    """The driver's own check aside, the hardware refuses too."""
    net = delta_network()
    other = pack(net, CONFIGS["wide"])
    monkeypatch.setattr(type(engine.config), "fingerprint", engine.identity.fingerprint ^ 1)
    image = pack(net, CONFIGS["wide"])
    assert image.data != other.data
    monkeypatch.setattr(type(engine.config), "fingerprint", engine.identity.fingerprint)
    with pytest.raises(StillnetError, match="^the board refused the image: it was packed for ano"):
        engine.load(image)


# -- the wire -------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", some(range(8), 0, 2, 5))
def test_faulty_wire(model: LinkModel, seed: int) -> None:
    """Bytes flip, vanish, appear and come twice, in both directions: all results are right."""
    rate = (6e-4, 2e-3, 5e-3)[seed % 3]
    wire = FaultyWire(model, seed, 0)
    engine = connect(wire, timeout=0.05)
    net = delta_network()
    wire.rate = rate / 3
    engine.load(net)
    wire.rate = rate
    reference = fresh(net)
    rows = inputs(seed, net, 60)
    for row, y in zip(rows, engine.stream_integers(rows)):
        np.testing.assert_array_equal(y, reference.step_integers(row))
    same_state(engine, reference)
    assert engine.counters()["steps"] == 60
    assert wire.faults and engine.session.repeated + engine.session.resumed
    wire.rate = 0
    engine.clear()
    reference.clear()
    np.testing.assert_array_equal(engine.step_integers(rows[0]), reference.step_integers(rows[0]))


@pytest.mark.parametrize("direction", ["write", "read"])
def test_one_lost_frame_costs_no_timeout(model: LinkModel, direction: str) -> None:
    """The board's notice, or a reply with a wrong checksum, is enough to repeat at once."""
    wire = FaultyWire(model, 0, 0)
    engine = connect(wire, retry=5e-3, timeout=0.1)
    net = delta_network()
    engine.load(net)
    rows = inputs(1, net, 8)
    reference = fresh(net)
    right = getattr(wire.inner, direction)
    count = 0

    def wrong(argument):
        nonlocal count
        result = argument if direction == "write" else right(argument)
        if len(result) > 10:  # a step, no question and no notice
            count += 1
            if count == 3:
                result = result[:6] + bytes([result[6] ^ 1]) + result[7:]
        return right(result) if direction == "write" else result

    setattr(wire, direction, wrong)
    begin = model.now()
    for row, y in zip(rows, engine.stream_integers(rows, window=2)):
        np.testing.assert_array_equal(y, reference.step_integers(row))
    assert count > 3 and engine.session.repeated + engine.session.resumed > 0
    assert model.now() - begin < 4e-3


def test_slow_wire_is_not_taken_for_a_lossy_one(model: LinkModel) -> None:
    """Silence while a long command is on its way: the board is asked, but nothing is repeated."""
    engine = connect(model, retry=2e-4)
    model.pace(200, 0)
    net = delta_network()
    engine.load(net)
    assert engine.session.resumed > 3 and engine.session.repeated == 0


def test_no_more_is_sent_than_the_board_has_room_for(engine: Engine, monkeypatch) -> None:
    session, room = engine.session, engine.identity

    def full() -> None:
        raise StillnetError("full")

    for payload, reply, most in (
        (link.read(Register.CYCLES, 256), 1024, room.reply_bytes // 1027),
        (link.write(Register.IMAGE_BASE, [0] * 250), 0, room.receive_bytes // 1004),
        (b"", 0, room.window),
    ):
        with monkeypatch.context() as patch:
            patch.setattr(session, "_pump", full)
            with pytest.raises(StillnetError, match="^full$"):
                for _ in range(100):
                    session.send(Command.ACCESS, payload, reply)
        assert session.unanswered == most
        for _ in range(most):
            assert len(session.receive()) == reply


@pytest.mark.parametrize("seed", some(range(4), 1))
def test_wire_too_bad_to_use(model: LinkModel, seed: int) -> None:
    """Nothing gets through: an error that says so, and a board that works when the wire does."""
    wire = FaultyWire(model, seed, 0)
    engine = connect(wire, timeout=0.004)
    net = delta_network()
    engine.load(net)
    rows = inputs(seed, net, 10)
    reference = fresh(net)
    wire.rate = 0.3
    with pytest.raises(ConnectionLost, match="check cable and power|is there but has not fini"):
        for row, y in zip(rows, engine.stream_integers(rows)):
            np.testing.assert_array_equal(y, reference.step_integers(row))
    wire.rate = 0
    with pytest.raises(StillnetError, match="^the connection was lost during a step, and nobody"):
        engine.step_integers(rows[0])
    engine.clear()
    reference.clear()
    for row, y in zip(rows, engine.stream_integers(rows)):
        np.testing.assert_array_equal(y, reference.step_integers(row))
    same_state(engine, reference)


@pytest.mark.parametrize("cut", [1, 700, 2500, 5000])
def test_disconnect_in_a_load(model: LinkModel, cut: int) -> None:
    """The board never computes on half an image, and takes the whole one afterwards."""
    net = delta_network()
    first = connect(model)
    first.load(net)

    class Cut(FaultyWire):
        left = cut

        def write(self, data: bytes) -> None:
            self.inner.write(data[: self.left])
            if len(data) > self.left:
                raise StillnetError("the cable was pulled")
            self.left -= len(data)

    wire = Cut(model, 0, 0)
    wire.left = 1 << 30
    second = connect(wire)
    wire.left = cut
    with pytest.raises(StillnetError, match="^the cable was pulled$"):
        second.load(net)
    third = connect(model)
    row = inputs(1, net, 1)[0]
    if cut > 700:  # a whole block arrived
        session = third.session
        with pytest.raises(RefusedCommand, match="^the board has no verified image loaded; load"):
            session.call(Command.STEP, row.astype("<i2").tobytes(), 2 * net.outputs)
    third.load(net)
    np.testing.assert_array_equal(third.step_integers(row), fresh(net).step_integers(row))


def test_nothing_answers() -> None:
    class Silence:
        name = "/dev/nothing"
        time = 0.0

        def write(self, data: bytes) -> None: ...

        def close(self) -> None: ...

        def now(self) -> float:
            return self.time

        def read(self, timeout: float) -> bytes:
            self.time += timeout
            return b""

    with pytest.raises(
        ConnectionLost,
        match="^nothing that speaks stillnet's protocol answers on /dev/nothing; check the cable, ",
    ):
        Engine(Silence())  # type: ignore[arg-type]

    class Other(Silence):
        def read(self, timeout: float) -> bytes:
            super().read(timeout)
            return link.encode(link.Frame(link.NOTICE, 0, b"\0\0"), version=3)

    with pytest.raises(ConnectionLost, match="^the board speaks version 3 of the protocol, this"):
        Engine(Other())  # type: ignore[arg-type]


def test_board_that_was_restarted(model: LinkModel) -> None:
    """Another board answers in the middle of a session: no wrong result, and a way on."""
    wire = FaultyWire(model, 0, 0)
    engine = connect(wire, timeout=0.004)
    net = delta_network()
    engine.load(net)
    rows = inputs(1, net, 2)
    engine.step_integers(rows[0])
    wire.inner = board()
    wire.inner.run(model.cycle)  # time goes on
    with pytest.raises(ConnectionLost, match="was restarted; connect again and load the image$"):
        engine.step_integers(rows[1])
    with pytest.raises(StillnetError, match="^the connection was lost during a step"):
        engine.step_integers(rows[1])
    with pytest.raises(StillnetError, match="^the engine has no network any more"):
        engine.clear()
    engine.load(net)
    np.testing.assert_array_equal(engine.step_integers(rows[0]), fresh(net).step_integers(rows[0]))


def test_engine_that_hangs_is_reset(model: LinkModel) -> None:
    engine = connect(model, timeout=0.004)
    net = delta_network()
    engine.load(net)
    engine.session.send(Command.STEP, b"\1\0", 2 * net.outputs)  # too short: hangs
    with pytest.raises(ConnectionLost, match=r"^the board is there but has not finished .*STEP"):
        engine.session.receive()
    engine.load(net)
    row = inputs(1, net, 1)[0]
    np.testing.assert_array_equal(engine.step_integers(row), fresh(net).step_integers(row))
    engine.reset()
    with pytest.raises(StillnetError, match="^no network is loaded"):
        engine.step_integers(row)
    engine.load(net)
    np.testing.assert_array_equal(engine.step_integers(row), fresh(net).step_integers(row))


def test_a_reset_at_any_moment_leaves_nothing(model: LinkModel, thorough: bool) -> None:
    """Registers without a reset keep what a cut step left in them: it must not be seen again."""
    engine = connect(model, timeout=0.004)
    rng = np.random.default_rng(5)
    nets = [delta_network(), *(network(seed) for seed in range(1, 8))]
    for k in range(48 if thorough else 24):
        net = nets[k % len(nets)]
        engine.load(net)
        size = 1 if net.input_mode.one_hot else net.inputs
        for row in inputs(k, net, 3):
            payload = row.astype("<i2").tobytes()
            assert len(payload) == 2 * size
            engine.session.send(Command.STEP, payload, 2 * net.outputs)
        model.run(int(rng.integers(1, 1200)))
        engine.reset()
        following = nets[(k + int(rng.integers(0, 2))) % len(nets)]
        engine.load(following)
        reference = fresh(following)
        for row in inputs(k + 1, following, 2):
            np.testing.assert_array_equal(engine.step_integers(row), reference.step_integers(row))


def test_through_uarts() -> None:
    """3 Mbaud at 100 MHz: streaming fills at least 90 % of the line."""
    model = board(serial=True)
    engine = connect(model, retry=5e-3, timeout=0.1)
    net = min(
        (n for n in map(network, range(60)) if n.inputs > 20 and n.outputs < n.inputs),
        key=lambda n: len(pack(n, CONFIGS["wide"]).hardware) + 1e6 * n.input_mode.one_hot,
    )
    engine.load(net)
    rows = inputs(1, net, 50)
    reference = fresh(net)
    expected = [reference.step_integers(row) for row in rows]
    begin = model.now()
    for y, e in zip(engine.stream_integers(rows), expected):
        np.testing.assert_array_equal(y, e)
    seconds = model.now() - begin
    share = 50 * 2 * net.inputs * 10 / 3e6 / seconds
    # 8 bytes a frame besides the payload, and some escapes.
    assert share > 0.97 * 2 * net.inputs / (2 * net.inputs + link.OVERHEAD_BYTES + 1)
    assert not engine.session.repeated and not engine.session.resumed


# -- transports -----------------------------------------------------------------------------------


def test_tcp(model: LinkModel) -> None:
    server = socket.create_server(("127.0.0.1", 0))
    address = f"tcp:127.0.0.1:{server.getsockname()[1]}"
    transport = open_transport(address)
    peer, _ = server.accept()
    peer.setblocking(False)

    def pull() -> bytes:
        try:
            return peer.recv(4096)
        except BlockingIOError:
            return b""

    stop = pumped(model, peer.sendall, pull)
    net = delta_network()
    with Engine(transport, retry=2.0) as engine:
        engine.load(net)
        row = inputs(1, net, 1)[0]
        np.testing.assert_array_equal(engine.step_integers(row), fresh(net).step_integers(row))
        stop()
        peer.close()
        server.close()
        with pytest.raises(StillnetError, match=r"^the connection to 127.0.0.1:\d+ is gone \(.*\)"):
            engine.step_integers(row)
    with pytest.raises(StillnetError, match=r"^cannot connect to 127.0.0.1:\d+: .*; check that"):
        open_transport(address)
    for wrong in ("tcp:here", "tcp::5", "tcp:here:port"):
        with pytest.raises(StillnetError, match=rf"^'{wrong}' is not tcp:HOST:PORT"):
            open_transport(wrong)


def test_serial_port(model: LinkModel) -> None:
    """A pseudo-terminal in place of a cable; pyserial and the driver are the real ones."""
    pytest.importorskip("serial")
    ours, theirs = os.openpty()
    tty.setraw(ours)
    tty.setraw(theirs)
    os.set_blocking(ours, False)

    def pull() -> bytes:
        try:
            return os.read(ours, 4096)
        except BlockingIOError:
            return b""

    stop = pumped(model, lambda data: os.write(ours, data), pull)
    net = delta_network()
    with Engine.open(os.ttyname(theirs), baud=115200, retry=2.0) as engine:
        engine.load(net)
        reference = fresh(net)
        rows = inputs(1, net, 5)
        for row, y in zip(rows, engine.stream_integers(rows)):
            np.testing.assert_array_equal(y, reference.step_integers(row))
        with pytest.raises(StillnetError, match="^the serial port '.*' is in use; close the other"):
            open_transport(os.ttyname(theirs))
    stop()
    os.close(ours)
    os.close(theirs)
    with pytest.raises(StillnetError, match=r"^there is no serial port '/dev/ttyNONE' \(found: "):
        open_transport("/dev/ttyNONE")


def test_without_pyserial(monkeypatch) -> None:
    monkeypatch.setitem(sys.modules, "serial", None)
    with pytest.raises(
        StillnetError,
        match=r"^the serial port '/dev/ttyUSB0' needs pyserial, which is not installed: "
        r'pip install "stillnet\[serial\]"$',
    ):
        open_transport("/dev/ttyUSB0")


class _Point:
    """An entry point of a plug-in."""

    def __init__(self, factory) -> None:
        self.load = lambda: factory


def test_transport_of_a_plug_in(model: LinkModel, monkeypatch) -> None:
    def points(group: str, name: str) -> list[_Point]:
        return [_Point(lambda board: model)] if name == "sim" else []

    monkeypatch.setattr(transport_module.metadata, "entry_points", points)
    assert open_transport("sim:ulx3s-85f") is model
    with pytest.raises(StillnetError, match="^'sim:ulx3s-85f' has no option 'baud'$"):
        open_transport("sim:ulx3s-85f", baud=5)
    with pytest.raises(StillnetError, match="^the address of the board is empty"):
        open_transport("")


# -- `stillnet run` -------------------------------------------------------------------------------


def test_run_on_board(engine: Engine) -> None:
    net = next(n for n in map(network, range(100)) if any(i.initial for i in n.layers))
    x = inputs(1, net, 8)
    x = x if net.input_mode.one_hot else x / 2.0**net.input_fraction
    result = run_on_board(net, x, engine, steps=6)
    np.testing.assert_array_equal(result.outputs, Reference(net, 8).run(x[:6]))
    reference = Reference(net, 8)
    words = 0
    for row in net.quantize_input(x[:6]):
        reference.step_integers(row)
        words += reference.last.words
    assert (result.steps, result.mismatches, result.words) == (6, 0, words)
    assert (result.board, result.preset) == ("bench", "wide")
    assert result.steps_per_second > 0 and 0 <= result.utilisation <= 1
    assert result.engine_steps_per_second > 0 and (
        result.limited_by in ("lanes", "memory", "cells", "events", "link")
    )


def test_run_stops_at_the_first_difference(engine: Engine, monkeypatch) -> None:
    net = delta_network()
    x = inputs(1, net, 8) / 2.0**net.input_fraction
    honest = Reference.step_integers
    count = 0

    def wrong(self, row: np.ndarray) -> np.ndarray:
        nonlocal count
        count += 1
        y = honest(self, row)
        y[1] += count == 4
        return y

    monkeypatch.setattr(Reference, "step_integers", wrong)
    result = run_on_board(net, x, engine, window=2)
    assert (result.steps, result.mismatches) == (4, 1)
    name = re.escape(net.layers[-1].name)
    assert re.match(
        rf"^step 3, layer '{name}', output of unit 1: engine -?\d+, reference -?\d+$",
        result.difference,
    )


def test_command_line(model: LinkModel, monkeypatch, tmp_path: Path, capsys) -> None:
    """`stillnet run … --engine board:…`, and what it says when something is wrong."""
    net = delta_network()
    net.save(tmp_path / "net.safetensors")
    x = inputs(1, net, 4) / 2.0**net.input_fraction
    np.save(tmp_path / "x.npy", x)
    loaders = {"board": lambda: board_engine, "sim": lambda: sim_engine}
    monkeypatch.setattr(engines, "engine_loaders", lambda: loaders)
    opened: list[str] = []

    def opening(address: str, **options: object) -> LinkModel:
        opened.append(address)
        if address == "/dev/none":
            raise StillnetError("there is no serial port '/dev/none'; check the cable")
        return model

    monkeypatch.setattr(board_engine_module, "open_transport", opening)
    arguments = ["run", str(tmp_path / "net.safetensors"), str(tmp_path / "x.npy"), "--engine"]
    output = ["-o", str(tmp_path / "y.npy")]
    assert main([*arguments, "board:/dev/ttyUSB0", *output, "--option", "timeout=0.05"]) == 0
    np.testing.assert_array_equal(np.load(tmp_path / "y.npy"), fresh(net).run(x))
    assert main([*arguments, "sim:ulx3s-85f"]) == 0
    assert opened == ["/dev/ttyUSB0", "sim:ulx3s-85f"]
    capsys.readouterr()
    for engine, options, message in (
        ("board:/dev/none", [], "there is no serial port '/dev/none'; check the cable"),
        ("board", [], "engine 'board' needs a port: board:/dev/ttyUSB0"),
        ("sim", [], "engine 'sim' needs a board: sim:ulx3s-85f"),
        ("board:x", ["--option", "colour=1"], "a board has no option 'colour'; options are baud"),
        ("board:x", ["--option", "window=0"], "option 'window' must be a whole number from 1"),
        ("fpga:x", [], "there is no engine 'fpga'; engines are board, sim"),
    ):
        assert main([*arguments, engine, *options]) == 2
        assert message in capsys.readouterr().err


def test_a_reply_without_an_outcome_is_no_reply(model: LinkModel) -> None:
    """A frame that is whole but says nothing, in front of the answer."""

    class Early(FaultyWire):
        asked: list[link.Frame] = []

        def write(self, data: bytes) -> None:
            self.asked += [f for f in sent.feed(data) if f.kind != Command.HELLO]
            super().write(data)

        def read(self, timeout: float) -> bytes:
            empty = [
                link.encode(link.Frame(a.kind | link.REPLY, a.sequence, b"")) for a in self.asked
            ]
            return b"".join(empty[-4:]) + super().read(timeout)

    sent = link.FrameDecoder()
    engine = connect(Early(model, 0, 0))
    net = delta_network()
    engine.load(net)
    row = inputs(1, net, 1)[0]
    np.testing.assert_array_equal(engine.step_integers(row), fresh(net).step_integers(row))


def test_unanswered_register(engine: Engine) -> None:
    """The lowest layer of the driver: replies of another length than expected end the session."""
    with pytest.raises(ConnectionLost, match="^the board answered with 4 bytes where 8 were expe"):
        engine.session.call(Command.ACCESS, link.read(Register.ID), 8)
    with pytest.raises(StillnetError, match=r"^a command of 4100 bytes does not fit the boar"):
        connect(engine.transport).session.send(Command.ACCESS, bytes(4098))

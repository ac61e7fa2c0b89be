"""Another image beside a running stream, and the way back, on generated hardware.

The judge of every output is the reference of the network that the test says is running.
"""

from __future__ import annotations

import copy
import functools
import threading
import time
import zlib
from collections.abc import Iterable, Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from stillnet.sim.board.link import LinkModel
from stillnet.sw.cli.main import main
from stillnet.sw.contract import link
from stillnet.sw.contract.errors import StillnetError
from stillnet.sw.contract.link import Command
from stillnet.sw.contract.registers import CHECK_ERROR_AT, Error, Register, Status
from stillnet.sw.host.driver import Engine, RefusedCommand
from stillnet.sw.host.driver.deployment import layout_difference
from stillnet.sw.host.driver.session import ConnectionLost
from stillnet.sw.model.model import Model
from stillnet.sw.monitor.canary import Canary
from stillnet.sw.monitor.client import Client
from stillnet.sw.monitor.monitor import Monitor
from stillnet.sw.network.network import Network
from stillnet.sw.network.reference import Reference
from stillnet.sw.packing.packer import pack
from tests.support.c_driver import CError, LinkHost, Puppet
from tests.support.link_bench import CONFIGS, FaultyWire, board, connect, inputs, network
from tests.support.networks.quick import quantize
from tests.support.sampling import some
from tests.sw.api.test_front_door import example
from tests.sw.host.hanging_board import TRAP, hanging_board, silence

LANES = CONFIGS["slots"].lanes
UNIT = (1 << 16) / 100e6
"""Seconds of a unit of the watchdog."""


@pytest.fixture
def model() -> Iterator[LinkModel]:
    """A board with slots that was just switched on."""
    model = board("slots")
    yield model
    model.end()


@pytest.fixture
def engine(model: LinkModel) -> Engine:
    """The driver on it."""
    return connect(model)


@functools.cache
def _seed() -> int:
    """Of a network of several inputs whose outputs tell which weights it has, at each step."""
    for seed in range(200):
        net = network(seed, "slots")
        if net.input_mode.one_hot or net.inputs < 5 or not net.layers[1:]:
            continue
        three = [fresh(n) for n in (net, other(net), other(other(net)))]
        for row in inputs(seed, net, 12):
            a, b, c = (reference.step_integers(row) for reference in three)
            if any(np.array_equal(x, y) for x, y in ((a, b), (b, c), (a, c))):
                break
        else:
            return seed
    raise AssertionError("no such network")


def first() -> Network:
    """The network that runs."""
    return network(_seed(), "slots")


def other(net: Network, name: str = "second") -> Network:
    """The same with other weights."""
    found = copy.deepcopy(net)
    found.name = name
    for layer in found.layers:
        for matrix in layer.matrices:
            matrix.weight[...] = np.clip(matrix.weight.astype(int) // 2 + 1, -127, 127)
    return found


def scaled(size: float) -> Network:
    """For inputs of a size, so that its formats depend on it."""
    rng = np.random.default_rng(1)

    def weights(*shape: int) -> np.ndarray:
        return rng.normal(0, 0.3, shape)

    made = Model(inputs=5).gru(weights(24, 5), weights(24, 8)).dense(weights(3, 8), weights(3))
    found = quantize(made, size * np.cumsum(rng.normal(0, 0.1, (200, 5)), axis=0))
    found.name = f"of {size:g}"
    return found


def fresh(net: Network) -> Reference:
    reference = Reference(net, LANES)
    reference.clear()
    return reference


def status(engine: Engine) -> int:
    return engine.status()


def paced(model: LinkModel, rows: Iterable[np.ndarray], cycles: int = 3000) -> Iterator[np.ndarray]:
    for row in rows:
        model.run(cycles)
        yield row


# -- the board keeps steps and half images apart ---------------------------------------------------


def crc_is_right(memory: bytearray, base: int) -> bool:
    """Whether a whole image lies at a word of the memory."""
    at = base * LANES
    size = int.from_bytes(memory[at + 192 : at + 196], "little") * LANES
    if memory[at : at + 4] != b"STIL" or not 576 < size <= len(memory) - at:
        return False
    data = bytes(memory[at : at + 256]) + bytes(4) + bytes(memory[at + 260 : at + size])
    return zlib.crc32(data) == int.from_bytes(memory[at + 256 : at + 260], "little")


def test_no_step_on_a_half_loaded_image(model: LinkModel, engine: Engine, thorough: bool) -> None:
    """Any order of writes, loads with and without a sum, checks and steps: a vector is accepted
    only where the image that was loaded last is whole, and then its outputs are right."""
    rng = np.random.default_rng(4)
    nets = [first(), other(first())]
    images = [pack(n, engine.config) for n in nets]
    bases = [0, 4096]
    memory = bytearray(2 * 4096 * LANES)
    count = 400 if thorough else 200
    rows, session = inputs(0, nets[0], count), engine.session
    loaded: int | None = None  # place
    reference: Reference | None = None
    accepted = refused = 0

    def put(place: int, data: bytes, at: int = 0) -> None:
        data += bytes(-len(data) % LANES)
        for begin in range(0, len(data), 512):
            part = data[begin : begin + 512]
            where = bases[place] + (at + begin) // LANES
            session.call(Command.ACCESS, link.load_block(where, part, LANES))
            memory[where * LANES : where * LANES + len(part)] = part

    which = [0, 1]
    put(0, images[0].hardware)
    for row in rows:
        place, kind = int(rng.integers(2)), int(rng.integers(9))
        if kind == 0:  # whole
            which[place] = int(rng.integers(2))
            put(place, images[which[place]].hardware)
        elif kind == 1:  # a part
            at = int(rng.integers(80)) * LANES
            put(place, rng.bytes(int(rng.integers(1, 4)) * LANES), at)
        elif kind in (2, 3):
            command = link.start(bases[place]) if kind == 2 else link.switch(bases[place])
            session.call(Command.ACCESS, command)
            found = engine._wait(Status.LOADED | Status.IDLE)
            loaded = place if found & Status.LOADED else None
            assert (loaded is not None) == crc_is_right(memory, bases[place])
            if loaded is not None:
                engine._loaded = engine._outline(images[which[place]])
                engine._vectors_begin()
                reference = fresh(nets[which[place]])
        elif kind == 4:
            session.call(Command.ACCESS, link.check(bases[place]))
            while (found := engine._status()) & Status.CHECKING:
                pass
            right = crc_is_right(memory, bases[place])
            assert (found >> CHECK_ERROR_AT & 0xFF == Error.NONE) == right
        elif kind == 5:  # what runs would come from elsewhere
            session.call(Command.ACCESS, link.write(Register.IMAGE_BASE, [bases[place]]))
            loaded = None
        try:
            y = engine.step_integers(row) if engine._loaded else None
        except RefusedCommand:
            refused += 1
            continue
        if y is None:
            continue
        accepted += 1
        assert loaded is not None and crc_is_right(memory, bases[loaded])
        assert reference is not None
        np.testing.assert_array_equal(y, reference.step_integers(row))
    assert accepted > count // 10 and refused > count // 10


def test_a_check_does_not_change_what_runs(engine: Engine) -> None:
    """In parts, between steps; a word that is written meanwhile spoils it; so does a wrong bit."""
    net = first()
    engine.load(net)
    reference, rows = fresh(net), inputs(1, net, 40)
    data = bytearray(pack(other(net), engine.config).hardware)
    call = engine.session.call
    for wrong, meanwhile in ((0, 0), (0, 1), (700, 0)):
        copy_ = bytearray(data)
        copy_[wrong] ^= 1 if wrong else 0
        for at in range(0, len(copy_), 512):
            block = link.load_block(4096 + at // LANES, bytes(copy_[at : at + 512]), LANES)
            call(Command.ACCESS, block)
        call(Command.ACCESS, link.check(4096))
        if meanwhile:
            call(Command.ACCESS, link.load_block(8000, bytes(8), LANES))
        while (found := engine._status()) & Status.CHECKING:
            pass
        assert bool(found & Status.BESIDE) == (not wrong and not meanwhile)
        assert found >> CHECK_ERROR_AT & 0xFF == (Error.CRC if wrong else Error.NONE)
        assert found & Status.LOADED
        for row in rows[:10]:
            np.testing.assert_array_equal(engine.step_integers(row), reference.step_integers(row))


# -- deploy ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("window", [1, None])
def test_a_stream_goes_on_while_a_network_comes_and_goes(
    model: LinkModel, engine: Engine, window: int | None
) -> None:
    net, new = first(), other(first())
    engine.load(net)
    rows = inputs(2, net, 150)
    deployments = []

    def vectors() -> Iterator[np.ndarray]:
        for k, row in enumerate(paced(model, rows)):
            if k == 10:
                deployments.append(engine.deploy(new))
            if k == 100:
                engine.rollback()
            yield row

    names, outputs = [], []
    for y in engine.stream_integers(vectors(), window=window):
        outputs.append(y)
        names.append(engine.network.name)
    assert len(outputs) == len(rows)
    (deployment,) = deployments
    assert deployment.done.is_set() and deployment.stage == "rolled back"
    begin, end = names.index("second"), len(names) - names[::-1].index("second")
    assert 10 < begin < 95 and 95 <= end <= 105 and set(names[begin:end]) == {"second"}
    for low, high, network_ in ((0, begin, net), (begin, end, new), (end, len(rows), net)):
        reference = fresh(network_)
        for k in range(low, high):
            np.testing.assert_array_equal(outputs[k], reference.step_integers(rows[k]), str(k))


def test_a_wire_that_loses_bytes(model: LinkModel) -> None:
    """Loaded once and in order, whatever is lost."""
    wire = FaultyWire(model, 5, 2e-4)
    engine = connect(wire, timeout=0.2)
    net, new = first(), other(first())
    engine.load(net)
    rows = inputs(3, net, 120)
    deployment = engine.deploy(new)
    assert deployment.stage == "running"
    reference = fresh(new)
    for row, y in zip(rows, engine.stream_integers(rows)):
        np.testing.assert_array_equal(y, reference.step_integers(row))
    engine.rollback()
    reference = fresh(net)
    for row, y in zip(rows, engine.stream_integers(rows)):
        np.testing.assert_array_equal(y, reference.step_integers(row))
    assert wire.faults > 5


def test_state_is_carried(model: LinkModel, engine: Engine) -> None:
    """The new network goes on from the old one's state: cells and what was sent."""
    net, new = first(), other(first())
    assert layout_difference(net, new) is None
    engine.load(net)
    old, rows = fresh(net), inputs(4, net, 60)
    for row in rows[:20]:
        np.testing.assert_array_equal(engine.step_integers(row), old.step_integers(row))
    engine.deploy(new, state="carry")
    reference = fresh(new)
    reference.set_state(old.get_state())
    for row in rows[20:]:
        np.testing.assert_array_equal(engine.step_integers(row), reference.step_integers(row))


def test_what_cannot_be_carried_is_said(engine: Engine) -> None:
    net, wide = scaled(1.0), scaled(6.0)
    engine.load(net)
    assert "bits of fraction" in str(layout_difference(net, wide))
    with pytest.raises(StillnetError, match="the state cannot be carried to network 'of 6'"):
        engine.deploy(wide, state="carry")
    changed = copy.deepcopy(net)
    changed.layers[0] = replace(changed.layers[0], fraction=changed.layers[0].fraction - 1)
    assert layout_difference(net, changed) == f"layer '{net.layers[0].name}' has other formats"
    for seed in range(100):
        if (third := network(seed, "slots")).inputs != net.inputs:
            break
    with pytest.raises(StillnetError, match="the stream cannot go on with it"):
        engine.deploy(third)
    with pytest.raises(StillnetError, match="state must be clear or carry"):
        engine.deploy(other(net), state="keep")
    with pytest.raises(StillnetError, match="there is no image to go back to"):
        engine.rollback()
    with pytest.raises(StillnetError, match="the watchdog must be 0"):
        engine.deploy(other(net), watchdog=1e6)
    with pytest.raises(StillnetError, match="share must be"):
        engine.deploy(other(net), share=0)


def test_a_board_without_slots_says_so() -> None:
    model = board()
    engine = connect(model)
    assert not engine.identity.slots
    engine.load(first())
    with pytest.raises(StillnetError, match="has no place for a second image"):
        engine.deploy(other(first()))
    model.end()


def test_a_stream_of_integers_keeps_its_formats(model: LinkModel, engine: Engine) -> None:
    """Real numbers go to any network; integers of another format would mean something else."""
    net, new = scaled(1.0), scaled(6.0)
    assert net.input_fraction != new.input_fraction
    engine.load(net)
    real = np.cumsum(np.random.default_rng(5).normal(0, 0.1, (60, net.inputs)), axis=0)
    deployments = []

    def vectors(rows: np.ndarray) -> Iterator[np.ndarray]:
        for k, row in enumerate(paced(model, rows)):
            if k == 5:
                deployments.append(engine.deploy(new))
            yield row

    list(engine.stream_integers(vectors(net.quantize_input(real)), window=1))
    assert deployments[0].stage == "failed" and "integers" in deployments[0].reason
    engine.load(net)
    outputs = list(engine.stream(vectors(real), window=1))
    assert deployments[1].stage == "running"
    old = fresh(net)
    expected = [old.step(x) for x in real]
    begin = next(k for k, (y, e) in enumerate(zip(outputs, expected)) if not np.array_equal(y, e))
    reference = fresh(new)
    for k in range(begin, len(real)):
        np.testing.assert_array_equal(outputs[k], reference.step(real[k]))


# -- the way back ----------------------------------------------------------------------------------


def test_the_watchdog_goes_back_and_the_stream_goes_on(model: LinkModel, engine: Engine) -> None:
    """A pause longer than asked for: the vectors that were refused are done by the old network."""
    net, new = first(), other(first())
    engine.load(net)
    rows = inputs(6, net, 90)
    deployment = engine.deploy(new, watchdog=2 * UNIT)

    def vectors() -> Iterator[np.ndarray]:
        for k, row in enumerate(rows):
            model.run(200_000 if k == 50 else 20_000)
            yield row

    outputs = list(engine.stream_integers(vectors(), window=1))
    assert deployment.stage == "fell back" and engine.network.name == net.name
    for low, high, network_ in ((0, 50, new), (50, 90, net)):
        reference = fresh(network_)
        for k in range(low, high):
            np.testing.assert_array_equal(outputs[k], reference.step_integers(rows[k]), str(k))


@pytest.mark.parametrize("window", some([1, None], None))
def test_a_hung_engine_with_steps_in_flight(window: int | None) -> None:
    """The memory falls silent under the new network. The board goes back, and refuses the steps
    that hung; the old network does them, from a cleared state, so the stream loses none."""
    model = hanging_board()
    engine = connect(model, timeout=10 * UNIT)
    net, new = first(), other(first())
    engine.load(net)
    rows = inputs(6, net, 60)
    deployment = engine.deploy(new, watchdog=2 * UNIT)
    assert deployment.stage == "running"
    outputs = list(engine.stream_integers(rows[:30], window=window))
    silence(engine)
    outputs += engine.stream_integers(rows[30:], window=window)
    assert deployment.stage == "fell back" and engine.network.name == net.name
    for low, high, network_ in ((0, 30, new), (30, 60, net)):
        reference = fresh(network_)
        for k in range(low, high):
            np.testing.assert_array_equal(outputs[k], reference.step_integers(rows[k]), str(k))
    assert len(outputs) == len(rows)
    assert not engine.status() & Status.FELL_BACK
    model.end()


def test_a_hung_engine_that_is_confirmed_too_late() -> None:
    """The confirmation comes behind steps that hang: it ends the board's refusals, and the steps
    behind it would be done before those in front of it."""
    model = hanging_board()
    engine = connect(model, timeout=10 * UNIT)
    net, new = first(), other(first())
    engine.load(net)
    rows = inputs(6, net, 60)
    deployment = engine.deploy(new, watchdog=2 * UNIT)

    def vectors() -> Iterator[np.ndarray]:
        for k, row in enumerate(rows):
            if k == 30:
                silence(engine)
            if k == 32:  # sent with the next output; then 30 and 31 are on their way
                engine.confirm()
            yield row

    outputs = list(engine.stream_integers(vectors(), window=6))
    assert deployment.stage == "fell back" and len(outputs) == len(rows)
    begin, reference = 0, fresh(new)
    while np.array_equal(outputs[begin], reference.step_integers(rows[begin])):
        begin += 1
    assert begin == 30
    reference = fresh(net)
    for k in range(begin, len(rows)):
        np.testing.assert_array_equal(outputs[k], reference.step_integers(rows[k]), str(k))
    model.end()


def test_a_hung_engine_under_a_program_in_c() -> None:
    """It is told that nothing runs; it acknowledges, joins the network before and goes on."""
    model, rows = hanging_board(), inputs(6, first(), 30)
    deployer = connect(model)
    net, new = first(), other(first())
    deployer.load(net)
    deployer.deploy(new, watchdog=2 * UNIT)
    config = deployer.config
    driver = Puppet(config, LinkHost(model))
    driver.open()
    driver.load(pack(new, config).data, how="a")
    reference = fresh(new)
    for row, y in zip(rows[:10], driver.run(rows[:10])):
        np.testing.assert_array_equal(y, reference.step_integers(row))
    driver.write(Register.MEMORY_ADDRESS, (1 << config.address_bits) - TRAP)
    driver.write(Register.MEMORY_DATA, 0)
    for row in rows[10:13]:
        driver.submit(row)
    for _ in range(3):
        with pytest.raises(CError, match="^the engine has no verified image; load one$"):
            driver.finish()
    with pytest.raises(CError, match="^the engine has no verified image; load one$"):
        driver.run(rows[13:15])
    assert driver.read(Register.STATUS) & Status.FELL_BACK
    driver.write(Register.WATCHDOG, 0)
    while not driver.read(Register.STATUS) & Status.LOADED:
        pass
    driver.load(pack(net, config).data, how="a")
    reference = fresh(net)
    for row, y in zip(rows[10:], driver.run(rows[10:])):
        np.testing.assert_array_equal(y, reference.step_integers(row))
    driver.end()
    model.end()


def test_a_program_that_gives_up_before_the_watchdog() -> None:
    """Its patience is shorter. The stream ends in a sentence, and the next session is told."""
    model = hanging_board()
    engine = connect(model, timeout=UNIT / 2)
    net, new = first(), other(first())
    engine.load(net)
    rows = inputs(6, net, 20)
    engine.deploy(new, watchdog=2 * UNIT)
    silence(engine)
    with pytest.raises(ConnectionLost, match="has not finished a command .STEP."):
        list(engine.stream_integers(rows, window=1))
    model.run(400_000)
    later = connect(model)
    assert later.status() & Status.FELL_BACK
    with pytest.raises(StillnetError, match="has gone back to the image before"):
        later.attach(new)
    later.confirm()
    later.attach(net)
    reference = fresh(net)
    for row in rows[:10]:
        np.testing.assert_array_equal(later.step_integers(row), reference.step_integers(row))
    model.end()


def test_a_host_that_is_gone(model: LinkModel, engine: Engine) -> None:
    """The next program learns that the board went back, and cannot take it for the new network."""
    net, new = first(), other(first())
    engine.load(net)
    engine.deploy(new, watchdog=UNIT)
    model.run(400_000)
    later = connect(model)
    assert later.status() & Status.FELL_BACK
    with pytest.raises(StillnetError, match="has gone back to the image before"):
        later.attach(new)
    later.confirm()
    later.attach(net)
    reference = fresh(net)
    for row in inputs(7, net, 10):
        np.testing.assert_array_equal(later.step_integers(row), reference.step_integers(row))


def test_a_confirmed_network_stays(model: LinkModel, engine: Engine) -> None:
    net, new = first(), other(first())
    engine.load(net)
    engine.deploy(new, watchdog=UNIT)
    engine.confirm()
    model.run(400_000)
    reference = fresh(new)
    for row in inputs(8, net, 10):
        np.testing.assert_array_equal(engine.step_integers(row), reference.step_integers(row))


# -- through the program that streams --------------------------------------------------------------


class Streaming:
    """A program that streams and serves, in a thread."""

    def __init__(self, model: LinkModel, engine: Engine, net: Network) -> None:
        self.engine, self.network = engine, net
        engine.load(net)
        self.address = engine.serve(0, interval=0.05)
        self._stop = threading.Event()
        self._rows, self._model = inputs(9, net, 50), model
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def _run(self) -> None:
        def vectors() -> Iterator[np.ndarray]:
            k = 0
            while not self._stop.is_set():
                self._model.run(3000)
                yield self._rows[k % len(self._rows)]
                k += 1

        for _ in self.engine.stream_integers(vectors(), window=1):
            pass

    def end(self) -> None:
        self._stop.set()
        self._thread.join()
        self.engine.close()


@pytest.fixture
def streaming(model: LinkModel, engine: Engine) -> Iterator[Streaming]:
    streaming = Streaming(model, engine, first())
    yield streaming
    streaming.end()


def test_the_command_deploys_through_the_program_that_streams(
    streaming: Streaming, tmp_path: Path, capsys
) -> None:
    path = tmp_path / "new.img"
    path.write_bytes(pack(other(first()), CONFIGS["slots"]).data)
    attach = ["--attach", streaming.address]
    assert main(["deploy", str(path), *attach]) == 0
    assert "network 'second' runs" in capsys.readouterr().out
    assert streaming.engine.network.name == "second"
    assert main(["deploy", "--confirm", *attach]) == 0
    assert main(["deploy", "--rollback", *attach]) == 0
    assert streaming.engine.network.name == streaming.network.name
    report = Client(streaming.address).deployment()
    assert report is not None and report["stage"] == "rolled back"
    path.write_bytes(pack(network(0, "narrow"), CONFIGS["narrow"]).data)
    assert main(["deploy", str(path), *attach]) == 2
    assert "was packed for engine" in capsys.readouterr().err
    for arguments in ([], [str(path), "--rollback"]):
        assert main(["deploy", *arguments, *attach]) == 2
        assert "one of the three" in capsys.readouterr().err


def test_examples_of_the_front_door(
    streaming: Streaming, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("stillnet.service.DEFAULT_PORT", int(streaming.address.split(":")[1]))
    Path("new.img").write_bytes(pack(other(first()), CONFIGS["slots"]).data)
    other(first()).save("net.safetensors")
    exec(example("deploy"), {})
    assert capsys.readouterr().out.startswith("running ")
    assert streaming.engine.network.name == "second"
    exec(example("monitor"), {})
    steps = int(capsys.readouterr().out.split()[0])
    assert steps > 0


def test_pages_in_a_browser_cannot_deploy(streaming: Streaming) -> None:
    """A request without the header is refused."""
    from http.client import HTTPConnection

    host, port = streaming.address.split(":")
    connection = HTTPConnection(host, int(port))
    connection.request("POST", "/rollback", b"", {})
    assert connection.getresponse().status == 403
    connection.close()


def test_the_canary_brings_the_old_network_back(streaming: Streaming) -> None:
    """The monitor is told of one network, and the board runs another one of that name."""
    good = other(first())
    bad = other(good)
    client = Client(streaming.address)
    image = pack(bad, CONFIGS["slots"]).data
    client.ask("deploy", image, state="clear", watchdog=0.0, share=0.5)
    end = time.monotonic() + 300
    while (client.deployment() or {})["stage"] != "running":
        assert time.monotonic() < end
        time.sleep(0.05)
    monitor = Monitor(client, good, canary=Canary(good), every=1, burst=20, rollback=True)
    while streaming.engine.network.name == "second":
        assert monitor.poll() and time.monotonic() < end
        monitor.check()
    assert any(a.kind == "rollback" and "went back" in a.text for a in monitor.alarms)
    report = client.deployment()
    assert report is not None and report["stage"] == "rolled back"
    assert "the canary failed" in report["reason"]


def test_registers_of_slots_are_refused_nowhere(engine: Engine) -> None:
    """BESIDE reads zero before there is one."""
    data = engine.session.call(Command.ACCESS, link.read(Register.BESIDE), 4)
    assert data == bytes(4)

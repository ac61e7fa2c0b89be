"""The driver of boards on a core in the same system: the other end of the link, and Linux' UIO."""

from __future__ import annotations

import mmap
import os
from collections import deque
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from stillnet.sim.testbenches import run_testbench
from stillnet.sim.testbenches.example import small_config
from stillnet.sw.contract import image, link
from stillnet.sw.contract.errors import StillnetError
from stillnet.sw.contract.link import Cause, Command, Frame, FrameDecoder, Identity, Outcome
from stillnet.sw.contract.registers import Control, Register, Status
from stillnet.sw.contract.window import QUEUE_ELEMENTS, Interrupt, StreamRegister
from stillnet.sw.host import local_core, uio
from stillnet.sw.host.driver import Engine
from stillnet.sw.host.local_core import CoreTransport
from tests.support.sampling import some

CONFIG = small_config(lanes=4, memory="axi4")


@pytest.mark.parametrize("memory", some(["axi4", "ram"], "axi4"))
def test_on_generated_hardware(memory: str) -> None:
    """The whole driver over cocotbext-axi's AXI4-Lite on the generated core; by interrupt."""
    result = run_testbench("system", seed=1, MEMORY=memory)
    assert list(result.tests) == ["host"]


class Core:
    """Registers of a core that gives each vector of ``size`` back, in a queue that is short."""

    def __init__(self, size: int = 3, room: int = 4) -> None:
        self.size, self.limit = size, room
        self.values: dict[int, int] = {
            Register.ID: image.MAGIC,
            Register.VERSION: image.VERSION,
            Register.FINGERPRINT: CONFIG.fingerprint,
            Register.STATUS: Status.LOADED | Status.IDLE,
        }
        self.writes: list[tuple[int, int]] = []
        self.queue: deque[int] = deque()
        self.inside: list[int] = []
        self.ready: deque[int] = deque()
        self.slow = 0  # looks at the queues until elements move

    def read32(self, index: int) -> int:
        if index == StreamRegister.QUEUES:
            self._move()
            return (self.limit - len(self.queue)) | len(self.ready) << 16
        if index == StreamRegister.ELEMENT:
            return self.ready.popleft() if self.ready else 0
        if index == StreamRegister.PAIR:
            return (self.read32(StreamRegister.ELEMENT) & 0xFFFF) | (
                self.read32(StreamRegister.ELEMENT) & 0xFFFF
            ) << 16
        if index == StreamRegister.INTERRUPTS:
            return 0 if self.queue else Interrupt.INPUT
        return self.values.get(index, 0)

    def write32(self, index: int, value: int) -> None:
        assert 0 <= value < 1 << 32
        if index in (StreamRegister.ELEMENT, StreamRegister.PAIR):
            self.queue += [value & 0xFFFF]
            if index == StreamRegister.PAIR:
                self.queue += [value >> 16]
            assert len(self.queue) <= self.limit, "an element was lost"
        else:
            self.writes.append((index, value))

    def _move(self) -> None:
        self.slow = max(0, self.slow - 1)
        while self.queue and not self.slow:
            self.inside.append(self.queue.popleft())
            if len(self.inside) == self.size:
                self.ready += self.inside
                self.ready[-1] |= 1 << 16
                self.inside = []


class Line:
    """Frames to a transport and back."""

    def __init__(self, core: Core, **options: object) -> None:
        self.core = core
        self.transport = CoreTransport(core, CONFIG, **options)  # type: ignore[arg-type]
        self.decoder = FrameDecoder()
        self.sequence = 7
        assert self.call(Command.HELLO).kind == Command.HELLO | link.REPLY

    def send(self, kind: int, payload: bytes = b"") -> None:
        self.transport.write(link.encode(Frame(kind, self.sequence, payload)))
        if kind not in (Command.RESUME, Command.RESET):
            self.sequence = (self.sequence + 1) % 256

    def receive(self, timeout: float = 0.2) -> list[Frame]:
        return self.decoder.feed(self.transport.read(timeout))

    def call(self, kind: int, payload: bytes = b"") -> Frame:
        self.send(kind, payload)
        (frame,) = self.receive()
        assert frame.sequence == (self.sequence - 1) % 256
        return frame


def vector(*values: int) -> bytes:
    return np.array(values, "<i2").tobytes()


def test_identity() -> None:
    line = Line(Core(), name="here", clock_hz=5)
    identity = Identity.unpack(line.call(Command.HELLO).payload[:-1])
    assert identity.config == CONFIG and identity.board == "here" and identity.clock_hz == 5
    assert identity.fingerprint == CONFIG.fingerprint and identity.image_version == image.VERSION


@pytest.mark.parametrize("slow", [0, 5])
def test_steps_and_accesses_keep_their_order(slow: int) -> None:
    """Steps go ahead of their outputs; an access waits for the steps in front of it."""
    core = Core()
    line = Line(core)
    core.slow = slow
    line.send(Command.STEP, vector(1, -2, 3))
    line.send(Command.STEP, vector(4, 5, -32768))
    line.send(Command.ACCESS, link.read(Register.STATUS))
    line.send(Command.STEP, vector(7, 8, 9))
    frames: list[Frame] = []
    while len(frames) < 4:
        found = line.receive()
        assert found, "no answer"
        frames += found
    assert [f.payload[:-1] for f in frames] == [
        vector(1, -2, 3),
        vector(4, 5, -32768),
        (3).to_bytes(4, "little"),
        vector(7, 8, 9),
    ]
    assert [f.payload[-1] for f in frames] == [Outcome.OK] * 4
    assert [f.sequence for f in frames] == [8, 9, 10, 11]


def test_operations() -> None:
    core = Core()
    line = Line(core)
    core.values[Register.CYCLES] = 0x1234_5678
    payload = link.write(Register.THRESHOLD, [1, 2]) + link.write(
        Register.STATE_DATA, [-1], half=True
    )
    payload += link.read(Register.CYCLES, 2) + link.read(Register.CYCLES, half=True)
    answer = line.call(Command.ACCESS, payload)
    value = (0x1234_5678).to_bytes(4, "little")
    assert answer.payload == value + value + value[:2] + b"\0"
    wrote = [(Register.THRESHOLD, 1), (Register.THRESHOLD, 2), (Register.STATE_DATA, 0xFFFF)]
    assert core.writes == wrote
    long = link.write(Register.MEMORY_DATA, list(range(300)))
    assert line.call(Command.ACCESS, long).payload == b"\0"
    assert [value for _, value in core.writes[3:]] == list(range(300))


def test_what_is_refused() -> None:
    core = Core()
    line = Line(core)
    assert line.call(6).payload == bytes([Outcome.UNKNOWN])
    cut = link.read(Register.STATUS) + link.write(Register.THRESHOLD, [1])[:-1]
    assert line.call(Command.ACCESS, cut).payload == (3).to_bytes(4, "little") + bytes(
        [Outcome.CUT]
    )
    assert line.call(Command.ACCESS, b"\x03").payload == bytes([Outcome.CUT])
    assert not core.writes
    core.values[Register.STATUS] = Status.IDLE
    for kind in (Command.STEP, Command.FEED):
        assert line.call(kind, vector(1, 2, 3)).payload == bytes([Outcome.NOT_LOADED])
    assert not core.queue and not core.ready


def test_never_half_an_image() -> None:
    """From the first word that is written to memory until an image is verified, nothing steps."""
    core = Core()
    line = Line(core)
    assert line.call(Command.STEP, vector(1, 2, 3)).payload[-1] == Outcome.OK
    line.call(Command.ACCESS, link.load_block(0, bytes(8), 4))
    assert line.call(Command.STEP, vector(1, 2, 3)).payload == bytes([Outcome.NOT_LOADED])
    line.call(Command.ACCESS, link.write(Register.CONTROL, [Control.LOAD]))
    assert line.call(Command.STEP, vector(1, 2, 3)).payload == bytes([Outcome.NOT_LOADED])
    line.call(Command.ACCESS, link.start(0))
    assert line.call(Command.STEP, vector(1, 2, 3)).payload[-1] == Outcome.OK


def test_feed_and_questions() -> None:
    core = Core(size=100)
    line = Line(core)
    assert line.call(Command.FEED, vector(*range(9))).payload == bytes([Outcome.OK])
    assert core.inside + list(core.queue) == list(range(9))
    line.send(Command.RESUME, bytes([42]))
    (notice,) = line.receive()
    assert (notice.kind, notice.sequence) == (link.NOTICE, line.sequence)
    assert notice.payload == bytes([Cause.RESUME, 42])
    line.send(Command.STEP, vector(1))  # its vector never ends
    assert line.receive(0.01) == []
    line.transport.write(link.encode(Frame(Command.ACCESS, 200)))  # out of order: of no session
    with pytest.raises(StillnetError, match="does not finish, and nothing here can reset it; load"):
        line.send(Command.RESET)


def test_a_feed_waits_for_the_steps_in_front() -> None:
    core = Core()
    line = Line(core)
    core.slow = 1 << 30
    line.send(Command.STEP, vector(1, 2, 3))
    line.send(Command.FEED, vector(4))
    assert line.receive(0.001) == [] and list(core.queue) == [1, 2, 3]
    core.slow = 0
    assert [frame.kind for frame in line.receive() + line.receive()] == [
        Command.STEP | link.REPLY,
        Command.FEED | link.REPLY,
    ]


def test_reset() -> None:
    core = Core()
    done: list[bool] = []
    line = Line(core, reset=lambda: done.append(True))
    core.slow = 1 << 30
    line.send(Command.STEP, vector(1, 2, 3))
    assert line.receive(0.001) == []
    line.send(Command.RESET)
    (notice,) = line.receive()
    assert done == [True] and notice.payload[0] == Cause.RESET
    core.slow = 0
    core.queue.clear()
    assert line.call(Command.HELLO).kind == Command.HELLO | link.REPLY


def test_what_another_program_left() -> None:
    core = Core()
    core.ready += range(5)
    core.queue += range(6, 9)  # a vector that is still to be computed
    core.slow = 4
    line = Line(core)
    assert not core.ready and not core.queue
    assert line.call(Command.STEP, vector(1, 2, 3)).payload == vector(1, 2, 3) + b"\0"


def test_a_session_begins_when_the_core_has_settled(monkeypatch: pytest.MonkeyPatch) -> None:
    """It waits for a core that computes, not for one that has no network, and not for ever."""
    times: list[float] = []

    def clock() -> float:
        times.append(len(times) * local_core.SETTLE / 100)
        return times[-1]

    core = Core()
    core.values[Register.STATUS] = Status(0)
    Line(core, now=clock)
    assert len(times) < 10
    core.values[Register.STATUS] = Status.LOADED  # with half a vector in it
    Line(core, now=clock)
    assert 100 <= len(times) < 120


def test_waits_by_interrupt() -> None:
    """Which causes are asked for, and that they are switched off after."""
    core = Core()
    asked: list[int] = []

    def wait(seconds: float) -> None:
        asked.append(core.writes[-1][1])
        core.slow = 0

    line = Line(core, wait=wait)
    core.writes.clear()
    for elements in ((1, 2, 3), (1, 2, 3)):
        core.slow = 1 << 30
        line.send(Command.STEP, vector(*elements))
    # Four elements fill the queue, so two wait.
    assert line.receive() and line.receive()
    assert asked[0] == Interrupt.OUTPUT | Interrupt.INPUT
    assert core.writes[-1] == (StreamRegister.INTERRUPTS, 0)
    core.slow = 1 << 30
    line.send(Command.STEP, vector(1, 2, 3))
    asked.clear()
    assert line.receive()
    assert asked == [Interrupt.OUTPUT]


def test_another_core() -> None:
    core = Core()
    core.values[Register.FINGERPRINT] = 1
    with pytest.raises(StillnetError, match="core at here has fingerprint 00000001, configuration"):
        CoreTransport(core, CONFIG, name="here")
    core.values[Register.ID] = 0xFFFF_FFFF
    with pytest.raises(
        StillnetError, match="here says 0xffffffff in register 0, a stillnet core s"
    ):
        CoreTransport(core, CONFIG, name="here")


# -- UIO ------------------------------------------------------------------------------------------


@pytest.fixture
def system(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Path]:
    """Makes a device ``uio3`` of a file that has what the registers of an idle core say."""
    monkeypatch.setattr(uio, "SYSTEM", tmp_path / "class")
    monkeypatch.setattr(uio, "DEVICES", tmp_path / "dev")

    def make(name: str = "stillnet", number: int = 3, size: int = mmap.PAGESIZE) -> Path:
        values = np.zeros(mmap.PAGESIZE // 4, "<u4")
        for index, value in Core().values.items():
            values[index] = value
        values[StreamRegister.QUEUES] = QUEUE_ELEMENTS
        values[StreamRegister.INTERRUPTS] = Interrupt.INPUT
        folder = tmp_path / f"class/uio{number}"
        (folder / "maps/map0").mkdir(parents=True)
        (folder / "name").write_text(f"{name}\n")
        (folder / "maps/map0/size").write_text(f"{size:#x}\n")
        device = tmp_path / f"dev/uio{number}"
        device.parent.mkdir(exist_ok=True)
        device.write_bytes(values.tobytes())
        return device

    return make


def test_uio_opens(system: Callable[..., Path], tmp_path: Path) -> None:
    """By name, number or path; registers are those of the device, each in its place."""
    device = system()
    (tmp_path / "core_config.toml").write_text(CONFIG.to_toml())
    options = {"config": tmp_path / "core_config.toml", "interrupt": False}
    for address in ("uio:stillnet", "uio:uio3", "uio:/dev/uio3"):
        with Engine.open(address, **options) as engine:
            assert engine.config.fingerprint == CONFIG.fingerprint
            assert engine.identity.board == str(device)
            engine.reset_counters()
        words = np.frombuffer(device.read_bytes(), "<u4")
        assert words[Register.CONTROL] == Control.CLEAR_COUNTERS
        engine.close()


def test_uio_waits(system: Callable[..., Path], monkeypatch: pytest.MonkeyPatch) -> None:
    """The interrupt is switched on by a write of 1, and told by a read."""
    system()
    transport = uio.UioTransport("stillnet", config=CONFIG)
    mine, kernel = os.pipe()
    calls: list[tuple[str, bytes]] = []
    monkeypatch.setattr(uio.os, "write", lambda file, data: calls.append(("write", data)))
    monkeypatch.setattr(uio.select, "select", lambda r, w, x, t: (r, [], []))
    monkeypatch.setattr(uio.os, "read", lambda file, size: calls.append(("read", bytes(size))))
    transport.write(link.encode(Frame(Command.HELLO, 0)))
    transport.write(link.encode(Frame(Command.STEP, 1, vector(1))))
    assert transport.read(0.001)  # the answer to the greeting
    transport.read(0.001)
    assert calls[:2] == [("write", b"\1\0\0\0"), ("read", bytes(4))]
    os.close(mine)
    os.close(kernel)
    transport.close()


def test_uio_says_what_is_wrong(
    system: Callable[..., Path], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    with pytest.raises(StillnetError, match="needs the core's configuration; give config='core_c"):
        Engine.open("uio:stillnet")
    with pytest.raises(StillnetError, match=r"no UIO device 'stillnet' \(found: none\); check the"):
        Engine.open("uio:stillnet", config=CONFIG)
    with pytest.raises(StillnetError, match="'uio:stillnet' has no option 'baud'"):
        Engine.open("uio:stillnet", config=CONFIG, baud=1)
    device = system()
    with pytest.raises(StillnetError, match=r"'net' \(found: uio3 \(stillnet\)\)"):
        Engine.open("uio:net", config=CONFIG)
    with pytest.raises(StillnetError, match="has fingerprint .*; give the configuration that"):
        Engine.open("uio:stillnet", config="axi64")
    with monkeypatch.context() as patch:
        patch.setattr(uio.os, "write", lambda *_: (_ for _ in ()).throw(OSError(5, "Input/output")))
        transport = uio.UioTransport("stillnet", config=CONFIG)
        transport.write(link.encode(Frame(Command.HELLO, 0)) + link.encode(Frame(2, 1, vector(1))))
        assert transport.read(0.001)
        with pytest.raises(
            StillnetError, match=r"has no interrupt \(Input/output\); give interrupt"
        ):
            transport.read(0.001)
    with monkeypatch.context() as patch:
        patch.setattr(uio.os, "open", lambda *_: (_ for _ in ()).throw(PermissionError(13, "no")))
        with pytest.raises(StillnetError, match="no permission for .*; run as root, or"):
            Engine.open("uio:stillnet", config=CONFIG)
    system("other", 4, size=256)
    with pytest.raises(StillnetError, match="region of uio4 has 256 bytes, a core has 512; check"):
        Engine.open("uio:other", config=CONFIG)
    device.write_bytes(b"")
    with pytest.raises(StillnetError, match="cannot be mapped"):
        Engine.open("uio:stillnet", config=CONFIG)
    device.unlink()
    with pytest.raises(StillnetError, match="cannot open .*check that the device is there"):
        Engine.open("uio:stillnet", config=CONFIG)
    system("stillnet", 5)
    with pytest.raises(StillnetError, match="2 UIO devices have the name 'stillnet'"):
        Engine.open("uio:stillnet", config=CONFIG)


def test_pause_without_interrupt(monkeypatch: pytest.MonkeyPatch) -> None:
    """It looks again after a short time, and does not burn the processor."""
    core = Core()
    slept: list[float] = []
    monkeypatch.setattr(local_core.time, "sleep", slept.append)
    line = Line(core)
    core.slow = 6
    line.send(Command.STEP, vector(1, 2, 3))
    assert line.receive()
    assert slept and all(0 < t <= local_core.PAUSE for t in slept)

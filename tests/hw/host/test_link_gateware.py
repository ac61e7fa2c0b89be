"""The host link in hardware: what it does with right, wrong and damaged frames.

The parts run in Amaranth's simulator, the whole with an engine behind it in a compiled model.
"""

from __future__ import annotations

import random
import re
from collections.abc import Iterator

import numpy as np
import pytest
from amaranth.sim import Simulator

from stillnet.hw.host.link.command_processor import CommandProcessor
from stillnet.hw.host.link.link import HostLink
from stillnet.hw.host.link.receiver import FrameReceiver
from stillnet.hw.host.link.reply_store import ReplyStore
from stillnet.hw.host.link.transmitter import FrameTransmitter
from stillnet.sim.board.link import LinkModel
from stillnet.sw.contract import link
from stillnet.sw.contract.image import MAGIC
from stillnet.sw.contract.link import Cause, Command, Frame, FrameDecoder, Outcome, encode
from stillnet.sw.contract.registers import Control, Register, Status
from stillnet.sw.contract.vectors.changes import WANTED_SHIFT, Form, changes
from stillnet.sw.network.reference import Reference
from stillnet.sw.packing.packer import pack
from tests.support.link_bench import CONFIGS, Raw, board, inputs, network

RING = 256


def simulate(dut, *processes) -> None:
    """Runs a component until all of the processes have ended."""
    simulator = Simulator(dut)
    simulator.add_clock(1e-8)
    for process in processes:
        simulator.add_testbench(process)
    simulator.run()


# -- the receiver alone ---------------------------------------------------------------------------


def receive(
    data: bytes,
    *,
    seed: int = 0,
    errors: set[int] = frozenset(),
    ready: float = 1.0,
    start: int = 0,
):
    """Sends bytes to a receiver; returns commands, causes, and numbers of RESUMEs.

    Bytes are lost on the line at ``errors``. Commands are taken with a chance of ``ready`` in each
    cycle, from the byte ``start`` on.
    """
    dut = FrameReceiver(RING)
    rng = random.Random(seed)
    commands: list[bytes] = []
    causes: list[Cause] = []
    resumed: list[int] = []
    done = False
    place = 0

    async def feed(ctx) -> None:
        nonlocal done, place
        for k, byte in enumerate(data):
            place = k
            ctx.set(dut.line_error, k in errors)
            ctx.set(dut.bytes.payload, byte)
            ctx.set(dut.bytes.valid, 1)
            await ctx.tick().until(dut.bytes.ready)
            ctx.set(dut.line_error, 0)
            ctx.set(dut.bytes.valid, 0)
            if rng.random() < 0.3:
                await ctx.tick().repeat(rng.randrange(1, 5))
        await ctx.tick().repeat(3 * RING if ready else 20)
        done = True

    async def take(ctx) -> None:
        command = bytearray()
        while not done:
            ctx.set(dut.frames.ready, place >= start and rng.random() < ready)
            _, _, valid, taken, payload, cause, resume, sequence = await ctx.tick().sample(
                dut.frames.valid,
                dut.frames.ready,
                dut.frames.payload,
                dut.causes,
                dut.resume,
                dut.resume_sequence,
            )
            if valid and taken:
                command.append(payload.data)
                if payload.last:
                    commands.append(bytes(command))
                    command.clear()
            if cause:
                causes.append(Cause(cause))
            if resume:
                resumed.append(sequence)

    simulate(dut, feed, take)
    return commands, causes, resumed


def notice(expected: int, causes: Cause, question: int = 0) -> Frame:
    return Frame(link.NOTICE, expected, bytes([causes, question]))


def command(sequence: int, payload: bytes = b"", kind: int = Command.ACCESS) -> bytes:
    return encode(Frame(kind, sequence, payload))


def body(sequence: int, payload: bytes = b"", kind: int = Command.ACCESS) -> bytes:
    return bytes([link.VERSION << 4 | kind, sequence]) + payload


def test_commands_in_order() -> None:
    rng = random.Random(1)
    payloads = [rng.randbytes(rng.randrange(30)) for _ in range(12)]
    payloads[3] = bytes([link.FLAG, link.ESCAPE, 0x5E, 0x5D]) * 4
    data = b"".join(command(k, p) for k, p in enumerate(payloads))
    expected = [body(k, p) for k, p in enumerate(payloads)]
    assert receive(data) == (expected, [], [])
    assert receive(data, ready=0.4, seed=2)[0] == expected


def test_damage_is_dropped_and_reported() -> None:
    flipped = bytearray(command(1, b"hello"))
    flipped[4] ^= 2
    data = command(0) + bytes(flipped) + command(1, b"again")
    assert receive(data) == ([body(0), body(1, b"again")], [Cause.CHECK], [])


@pytest.mark.parametrize(
    ("wrong", "cause"),
    [
        (command(1, b"abcdefgh")[:7] + b"\x7e", Cause.CHECK),
        (b"\x7e\x11\x01\x7e", Cause.CHECK),
        (b"\x7e\x7d\x7e", Cause.CHECK),
        (command(1)[:-1] + b"\x7d\x7d\x7e", Cause.CHECK),
        (encode(Frame(1, 1), version=2), Cause.VERSION),
        (command(2), Cause.GAP),
        (command(100), Cause.GAP),
        (command(1, bytes(RING)), Cause.FULL),
        (b"\x7e\x7e\x7e", None),
        (command(0), None),
        (command(250), None),
    ],
)
def test_frame_that_is_not_the_next_command(wrong: bytes, cause: Cause | None) -> None:
    """Nothing of it comes out, the reason is told, and the next command is taken."""
    commands, causes, _ = receive(command(0) + wrong + command(1, b"next"))
    assert commands == [body(0), body(1, b"next")]
    assert causes == ([] if cause is None else [cause])


def test_lost_byte_on_the_line() -> None:
    data = command(0, b"abcdef") + command(0, b"good")
    assert receive(data, errors={4}) == ([body(0, b"good")], [Cause.LINE], [])
    # Between frames it harms none.
    quiet = b"\x00" + command(0)
    assert receive(quiet, errors={0}) == ([body(0)], [Cause.LINE], [])


def test_hello_begins_anywhere() -> None:
    data = command(77, kind=Command.HELLO) + command(78) + command(77, kind=Command.HELLO)
    expected = [body(77, kind=Command.HELLO), body(78), body(77, kind=Command.HELLO)]
    assert receive(data + command(78, b"x")) == ([*expected, body(78, b"x")], [], [])


def test_resume_passes_by() -> None:
    data = command(0) + command(9, kind=Command.RESUME) + command(1)
    assert receive(data) == ([body(0), body(1)], [Cause.RESUME], [9])


def test_reset_empties_the_ring() -> None:
    data = command(0, bytes(50)) + command(40, kind=Command.RESET)
    commands, causes, _ = receive(data + command(41, b"new"), ready=0.0)
    assert (commands, causes) == ([], [Cause.RESET])
    late = receive(data + command(41, b"new"), ready=0.02, seed=5)
    assert body(41, b"new") in late[0] or late[0] == []


def test_full_ring_loses_only_what_does_not_fit() -> None:
    """Nothing is taken: the ring fills, the frame that does not fit is reported, then a gap."""
    data = b"".join(command(k, bytes([k]) * 60) for k in range(6))
    commands, causes, _ = receive(data, ready=0.0)
    assert (commands, causes) == ([], [Cause.FULL, Cause.GAP])


def test_frame_that_overflows_in_its_middle() -> None:
    """Room comes while the frame is still coming: it is dropped as a whole all the same."""
    first = command(0, bytes(200))
    data = first + command(1, bytes(120)) + command(1, b"again")
    commands, causes, _ = receive(data, start=len(first) + 80)
    assert (commands, causes) == ([body(0, bytes(200)), body(1, b"again")], [Cause.FULL])


@pytest.mark.parametrize("seed", range(4))
def test_receiver_agrees_with_the_decoder(seed: int) -> None:
    """Frames between noise and damage: the same come through as in the software's decoder."""
    rng = random.Random(seed)
    data = bytearray()
    for k in range(25):
        data += command(rng.choice([k % 8, 0, 1, 2]), rng.randbytes(rng.randrange(12)))
        if rng.random() < 0.5:
            data += rng.randbytes(rng.randrange(20))
        if rng.random() < 0.2:
            data += bytes(rng.choices([link.FLAG, link.ESCAPE, 0x5E], k=6))
        if rng.random() < 0.3:
            data[-rng.randrange(1, 15)] ^= 1 << rng.randrange(8)
    sequence, expected = 0, []
    for frame in FrameDecoder().feed(bytes(data) + b"\x7e"):
        if frame.kind == Command.ACCESS and frame.sequence == sequence:
            expected.append(body(sequence, frame.payload))
            sequence += 1
    assert receive(bytes(data) + b"\x7e", ready=0.9, seed=seed)[0] == expected
    assert len(expected) > 2


# -- the transmitter and the store alone ----------------------------------------------------------


def transmit(frames: list[bytes], *, notices: list[tuple[int, Cause]] = (), abort: int = -1):
    """Sends frames; returns what a host decodes, and the decoder."""
    dut = FrameTransmitter()
    sent = bytearray()
    rng = random.Random(3)
    done = False

    async def feed(ctx) -> None:
        nonlocal done
        ctx.set(dut.expected, 55)
        ctx.set(dut.question, 33)
        cycle = 0
        for frame in frames:
            for k, byte in enumerate(frame):
                ctx.set(dut.frames.p.data, byte)
                ctx.set(dut.frames.p.last, k == len(frame) - 1)
                ctx.set(dut.frames.valid, 1)
                await ctx.tick().until(dut.frames.ready)
                ctx.set(dut.frames.valid, 0)
                cycle += 1
                for at, cause in notices:
                    if at == cycle:
                        ctx.set(dut.causes, cause)
                        await ctx.tick()
                        ctx.set(dut.causes, 0)
                if cycle == abort:
                    ctx.set(dut.abort, 1)
                    await ctx.tick()
                    ctx.set(dut.abort, 0)
                    break
                if rng.random() < 0.2:
                    await ctx.tick().repeat(rng.randrange(1, 7))
        await ctx.tick().repeat(400)
        done = True

    async def take(ctx) -> None:
        while not done:
            ctx.set(dut.bytes.ready, rng.random() < 0.6)
            _, _, valid, ready, byte = await ctx.tick().sample(
                dut.bytes.valid, dut.bytes.ready, dut.bytes.payload
            )
            if valid and ready:
                sent.append(byte)

    simulate(dut, feed, take)
    decoder = FrameDecoder()
    return decoder.feed(bytes(sent)), decoder


def test_transmitter() -> None:
    rng = random.Random(4)
    payloads = [b"", bytes([link.FLAG, link.ESCAPE] * 3), rng.randbytes(20)]
    frames, decoder = transmit([bytes([0x19, k]) + p for k, p in enumerate(payloads)])
    assert frames == [Frame(9, k, p) for k, p in enumerate(payloads)]
    assert decoder.damaged == 0


def test_notices_between_frames() -> None:
    frames, decoder = transmit(
        [b"\x19\x00abcdef", b"\x19\x01ghi"], notices=[(2, Cause.CHECK), (4, Cause.GAP)]
    )
    told = notice(55, Cause.CHECK | Cause.GAP, 33)
    assert frames == [Frame(9, 0, b"abcdef"), told, Frame(9, 1, b"ghi")]
    assert decoder.damaged == 0


def test_no_cause_is_lost() -> None:
    """Whenever a second one comes, both are told, in one notice or two."""
    dut = FrameTransmitter()
    told: list[Cause] = []

    async def test(ctx) -> None:
        ctx.set(dut.bytes.ready, 1)
        for distance in range(1, 60):
            decoder = FrameDecoder()
            causes = Cause(0)
            for cycle in range(200):
                cause = {0: Cause.CHECK, distance: Cause.GAP}.get(cycle, 0)
                ctx.set(dut.causes, cause)
                _, _, valid, byte = await ctx.tick().sample(dut.bytes.valid, dut.bytes.payload)
                for frame in decoder.feed(bytes([byte]) if valid else b""):
                    causes |= Cause(frame.payload[0])
            told.append(causes)

    simulate(dut, test)
    assert told == [Cause.CHECK | Cause.GAP] * 59


def test_frame_cut_by_a_reset_is_not_taken_for_good() -> None:
    frames, decoder = transmit([b"\x19\x00abcdefgh", b"\x19\x01ghi"], abort=5)
    assert frames == [Frame(9, 1, b"ghi")]
    assert decoder.damaged == 1


def test_store_repeats_from_a_reply() -> None:
    dut = ReplyStore(64, 4)
    replies = [bytes([0x10 + k]) * (3 + k) for k in range(6)]
    taken: list[bytes] = []

    async def test(ctx) -> None:
        ready, pause = True, 0
        current = bytearray()

        async def tick(count: int = 1) -> None:
            nonlocal pause
            for _ in range(count):
                ctx.set(dut.frames.ready, ready and not pause)
                _, _, valid, payload = await ctx.tick().sample(dut.frames.valid, dut.frames.payload)
                if valid and ready and not pause:
                    current.append(payload.data)
                    if payload.last:
                        taken.append(bytes(current))
                        current.clear()
                        pause = 4  # flags and checksum of the transmitter
                pause -= bool(pause)

        async def put(sequence: int) -> None:
            data = replies[sequence - 254]
            for k, byte in enumerate(data):
                ctx.set(dut.sequence, sequence % 256)
                ctx.set(dut.begin, k == 0)
                ctx.set(dut.replies.p.data, byte)
                ctx.set(dut.replies.p.last, k == len(data) - 1)
                ctx.set(dut.replies.valid, 1)
                while not ctx.get(dut.replies.ready):
                    await tick()
                await tick()
                ctx.set(dut.replies.valid, 0)
            ctx.set(dut.sequence, (sequence + 1) % 256)
            ctx.set(dut.begin, 0)

        async def resume(sequence: int) -> None:
            ctx.set(dut.resume_sequence, sequence % 256)
            ctx.set(dut.resume, 1)
            await tick()
            ctx.set(dut.resume, 0)
            await tick(40)

        for sequence in (254, 255, 256):
            await put(sequence)
        await tick(40)
        assert taken == replies[:3]
        await resume(255)
        assert taken[3:] == replies[1:3]
        await resume(257)  # the next one: nothing to repeat
        await resume(200)  # of the past
        assert len(taken) == 5
        for sequence in (257, 258):
            await put(sequence)
        await tick(40)
        assert taken[5:] == replies[3:5]
        await resume(254)  # five back, one more than the window
        assert len(taken) == 7
        # In the middle of a reply: it is finished first.
        ready = False
        await resume(257)
        ready = True
        await tick(2)
        ready = False
        await resume(258)
        ready = True
        await tick(40)
        assert taken[7:] == [replies[3], replies[4]]

    simulate(dut, test)


def test_store_waits_for_room() -> None:
    """A ring that is full of unsent bytes takes no more, and loses none."""
    dut = ReplyStore(64, 4)
    sent, taken = bytes(range(200)), bytearray()

    async def put(ctx) -> None:
        for k, byte in enumerate(sent):
            ctx.set(dut.begin, k == 0)
            ctx.set(dut.replies.p.data, byte)
            ctx.set(dut.replies.p.last, k == len(sent) - 1)
            ctx.set(dut.replies.valid, 1)
            await ctx.tick().until(dut.replies.ready)
        ctx.set(dut.replies.valid, 0)
        await ctx.tick()

    async def take(ctx) -> None:
        await ctx.tick().repeat(200)
        ctx.set(dut.frames.ready, 1)
        for _ in range(2000):
            _, _, valid, payload = await ctx.tick().sample(dut.frames.valid, dut.frames.payload)
            if valid:
                taken.append(payload.data)

    simulate(dut, put, take)
    assert bytes(taken) == sent


def test_half_values_have_zeros_above() -> None:
    dut = CommandProcessor(b"", 4)
    written: list[tuple[int, int]] = []
    payload = link.write(5, [0xAABBCCDD]) + link.write(6, [0x1234], half=True)

    async def test(ctx) -> None:
        frame = body(0, payload)
        place = 0
        for _ in range(100):
            ctx.set(dut.frames.valid, place < len(frame))
            ctx.set(dut.frames.p.data, frame[min(place, len(frame) - 1)])
            ctx.set(dut.frames.p.last, place == len(frame) - 1)
            ctx.set(dut.replies.ready, 1)
            _, _, taken, strobe, address, value = await ctx.tick().sample(
                dut.frames.ready,
                dut.registers.write_strobe,
                dut.registers.address,
                dut.registers.write_data,
            )
            place += taken and place < len(frame)
            ctx.set(dut.registers.ack, strobe)
            if strobe:
                written.append((address, value))

    simulate(dut, test)
    assert written == [(5, 0xAABBCCDD), (6, 0x1234)]


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: FrameReceiver(100), "Receive buffer must be a power of two from 64, not 100"),
        (lambda: ReplyStore("x", 4), "Reply buffer must be a power of two from 64, not 'x'"),
        (lambda: ReplyStore(64, 3), "Window must be a power of two from 2 to 64, not 3"),
        (
            lambda: HostLink(CONFIGS["wide"], clock_hz=1, receive_bytes=64),
            "Receive buffer must be more than 82 bytes for vectors of 40 elements, not 64",
        ),
    ],
)
def test_parameters(make, message: str) -> None:
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        make()


# -- the whole link -------------------------------------------------------------------------------


@pytest.fixture
def model() -> Iterator[LinkModel]:
    """A board that was just switched on."""
    model = board()
    yield model
    model.end()


@pytest.fixture
def raw(model: LinkModel) -> Raw:
    """The same with a session that begins at command 0."""
    raw = Raw(model)
    assert raw.ask(Command.HELLO, 255).kind == Command.HELLO | link.REPLY
    return raw


ACCESS, STEP = Command.ACCESS | link.REPLY, Command.STEP | link.REPLY


def load(raw: Raw, sequence: int, data: bytes, *, verify: bool = True) -> int:
    """Loads an image; returns the next sequence number."""
    word_bytes = CONFIGS["wide"].word_bytes
    for at in range(0, len(data), 1024):
        part = data[at : at + 1024]
        part += bytes(-len(part) % word_bytes)
        payload = link.load_block(at // word_bytes, part, word_bytes)
        assert raw.ask(Command.ACCESS, sequence, payload) == Frame(ACCESS, sequence, b"\0")
        sequence = (sequence + 1) % 256
    payload = link.start(0)
    if not verify:
        payload = link.write(Register.CONTROL, [Control.LOAD])
    raw.ask(Command.ACCESS, sequence, payload)
    while True:
        sequence = (sequence + 1) % 256
        answer = raw.ask(Command.ACCESS, sequence, link.read(Register.STATUS)).payload
        if answer[1] or answer[0] & Status.LOADED:
            return (sequence + 1) % 256


def test_register_operations(raw: Raw) -> None:
    payload = link.read(Register.ID) + link.read(Register.FINGERPRINT, half=True)
    payload += link.write(Register.IMAGE_BASE, [0x1230, 0x4560]) + link.read(Register.IMAGE_BASE, 2)
    answer = raw.ask(Command.ACCESS, 0, payload)
    base = (0x4560).to_bytes(4, "little")
    fingerprint = (CONFIGS["wide"].fingerprint & 0xFFFF).to_bytes(2, "little")
    expected = MAGIC.to_bytes(4, "little") + fingerprint + 2 * base + b"\0"
    assert answer == Frame(ACCESS, 0, expected)


def test_cut_list_of_operations(raw: Raw) -> None:
    whole = link.write(Register.IMAGE_BASE, [0x60])
    for k, tail in enumerate((b"\x05", b"\x85\x01", b"\x85\x01\x11", b"\x85\x02\x11\0\0\0")):
        answer = raw.ask(Command.ACCESS, k, whole + tail)
        assert answer == Frame(ACCESS, k, bytes([Outcome.CUT]))
    answer = raw.ask(Command.ACCESS, 4, link.read(Register.IMAGE_BASE))
    assert answer.payload[0] == 0x11  # what was whole has been done
    assert raw.ask(Command.ACCESS, 5) == Frame(ACCESS, 5, b"\0")


def test_unknown_command(raw: Raw) -> None:
    assert raw.ask(7, 0, b"whatever") == Frame(15, 0, bytes([Outcome.UNKNOWN]))
    assert raw.ask(Command.ACCESS, 1) == Frame(ACCESS, 1, b"\0")


def test_other_version_is_answered(raw: Raw) -> None:
    raw.send(Command.ACCESS, 0, version=2)
    assert raw.frames() == [notice(0, Cause.VERSION)]


def test_no_vector_without_an_image(raw: Raw) -> None:
    refused = bytes([Outcome.NOT_LOADED])
    assert raw.ask(Command.STEP, 0, b"\1\0\2\0") == Frame(STEP, 0, refused)
    assert raw.ask(Command.FEED, 1, b"\1\0") == Frame(Command.FEED | link.REPLY, 1, refused)
    assert raw.ask(Command.STEP, 2) == Frame(STEP, 2, refused)


def test_half_an_image_never_computes(raw: Raw) -> None:
    """From the first word written on, vectors are refused, until a load that verifies."""
    net = network(1)
    image = pack(net, CONFIGS["wide"]).hardware
    x = inputs(1, net, 1)[0]
    vector = x.astype("<i2").tobytes()
    reference = Reference(net, 8)
    reference.clear()
    y = reference.step_integers(x).astype("<i2").tobytes()

    sequence = load(raw, 0, image)
    assert raw.ask(Command.STEP, sequence, vector) == Frame(STEP, sequence, y + b"\0")
    sequence += 1
    # One word, even one with the value that is there already: the engine still says "loaded".
    raw.ask(Command.ACCESS, sequence, link.load_block(0, image[:8], 8))
    refused = bytes([Outcome.NOT_LOADED])
    assert raw.ask(Command.STEP, sequence + 1, vector) == Frame(STEP, sequence + 1, refused)
    # Neither a load without verification nor a reset of the link helps.
    sequence = load(raw, sequence + 2, image, verify=False)
    assert raw.ask(Command.STEP, sequence, vector).payload == refused
    raw.send(Command.RESET, sequence)
    assert raw.frames()[0].payload == bytes([Cause.RESET, 0])
    raw.ask(Command.HELLO, sequence)
    sequence = load(raw, sequence + 1, b"", verify=False)
    assert raw.ask(Command.STEP, sequence, vector).payload == refused
    # An image with a wrong bit is refused by the engine.
    wrong = bytearray(image)
    wrong[-1] ^= 4
    sequence = load(raw, sequence + 1, bytes(wrong))
    assert raw.ask(Command.STEP, sequence, vector).payload == refused
    sequence = load(raw, sequence + 1, image)
    assert raw.ask(Command.STEP, sequence, vector).payload == y + b"\0"


def test_lost_reply_is_repeated_and_nothing_done_twice(raw: Raw) -> None:
    net = network(1)
    sequence = load(raw, 0, pack(net, CONFIGS["wide"]).hardware)
    rows = inputs(1, net, 4)
    reference = Reference(net, 8)
    reference.clear()
    expected = []
    for k, row in enumerate(rows):
        raw.send(Command.STEP, sequence + k, row.astype("<i2").tobytes())
        y = reference.step_integers(row).astype("<i2").tobytes()
        expected.append(Frame(STEP, sequence + k, y + b"\0"))
    assert raw.frames() == expected
    raw.send(Command.STEP, sequence + 3, rows[3].astype("<i2").tobytes())  # again: not done
    assert raw.frames() == []
    raw.send(Command.RESUME, sequence + 1, b"\x63")
    told = notice(sequence + 4, Cause.RESUME, 0x63)
    assert sorted(raw.frames(), key=str) == sorted([told, *expected[1:]], key=str)
    answer = raw.ask(Command.ACCESS, sequence + 4, link.read(Register.STEPS))
    assert answer.payload == b"\4\0\0\0\0"


CHANGE = Command.CHANGE | link.REPLY


def test_changes_of_vectors(raw: Raw) -> None:
    """A step as changes is the step as a whole; each reply has the form that was asked for, also
    when several are on their way, in both forms."""
    net = next(n for n in map(network, range(50)) if n.inputs > 9 and not n.input_mode.one_hot)
    sequence = load(raw, 0, pack(net, CONFIGS["wide"]).hardware)
    rows = inputs(1, net, 12)
    reference = Reference(net, 8)
    reference.clear()
    outputs = [reference.step_integers(row) for row in rows]
    expected = []
    for k, (x, y) in enumerate(zip(rows, outputs)):
        number = (sequence + k) % 256
        if k % 5 == 0:
            raw.send(Command.STEP, number, x.astype("<i2").tobytes())
            expected.append(Frame(STEP, number, y.astype("<i2").tobytes() + b"\0"))
            continue
        form, wanted = Form(k % 4), Form(k // 4 % 4)
        data = bytes([form | wanted << WANTED_SHIFT]) + changes(x, rows[k - 1], form)
        raw.send(Command.CHANGE, number, data)
        answer = bytes([wanted]) + changes(y, outputs[k - 1], wanted)
        expected.append(Frame(CHANGE, number, answer + b"\0"))
    assert raw.frames() == expected
    raw.send(Command.RESUME, expected[8].sequence, b"\1")
    again = [frame for frame in raw.frames() if frame.kind != link.NOTICE]
    assert again == expected[8:]


def test_changes_of_nothing_are_refused(raw: Raw) -> None:
    """Before a whole vector, after a HELLO, and after a vector that was refused."""
    net = next(n for n in map(network, range(50)) if not n.input_mode.one_hot)
    image = pack(net, CONFIGS["wide"]).hardware
    x = inputs(1, net, 1)[0]
    refused, whole = bytes([Outcome.NO_BASE]), x.astype("<i2").tobytes()
    assert raw.ask(Command.CHANGE, 0, b"\0").payload == bytes([Outcome.NOT_LOADED])
    sequence = load(raw, 1, image)
    assert raw.ask(Command.CHANGE, sequence, b"\0") == Frame(CHANGE, sequence, refused)
    raw.ask(Command.STEP, sequence + 1, whole)
    assert raw.ask(Command.CHANGE, sequence + 2, b"\0").payload[-1] == Outcome.OK
    raw.ask(Command.HELLO, 77)
    assert raw.ask(Command.CHANGE, 78, b"\0").payload == refused
    raw.ask(Command.STEP, 79, whole)
    raw.ask(Command.ACCESS, 80, link.load_block(0, image[:8], 8))
    assert raw.ask(Command.STEP, 81, whole).payload == bytes([Outcome.NOT_LOADED])
    sequence = load(raw, 82, image)
    assert raw.ask(Command.CHANGE, sequence, b"\0").payload == refused
    assert raw.ask(Command.CHANGE, sequence + 1).payload == bytes([Outcome.NOT_LOADED])


def test_reset_frees_a_hanging_engine(raw: Raw) -> None:
    """A vector that is too short hangs the engine; commands behind it wait, a reset does not."""
    net = next(n for n in map(network, range(20)) if n.inputs > 4)
    image = pack(net, CONFIGS["wide"]).hardware
    sequence = load(raw, 0, image)
    raw.send(Command.STEP, sequence, b"\1\0")
    raw.send(Command.ACCESS, sequence + 1, link.read(Register.ID))
    raw.send(Command.HELLO, 9)
    assert raw.frames() == []
    raw.send(Command.RESET, 30)
    assert raw.frames() == [notice(31, Cause.RESET)]
    raw.ask(Command.HELLO, 30)
    sequence = load(raw, 31, image)
    row = inputs(3, net, 1)[0]
    reference = Reference(net, 8)
    reference.clear()
    y = reference.step_integers(row).astype("<i2").tobytes()
    answer = raw.ask(Command.STEP, sequence, row.astype("<i2").tobytes())
    assert answer == Frame(STEP, sequence, y + b"\0")


def test_a_million_bytes_of_noise(raw: Raw) -> None:
    """Nothing hangs, nothing is done: registers, image and state are as before."""
    net = network(1)
    sequence = load(raw, 0, pack(net, CONFIGS["wide"]).hardware)
    rng = np.random.default_rng(7)
    for share in (0.0, 0.05, 0.3):  # of flags and escapes
        noise = rng.integers(0, 256, 333_334).astype(np.uint8)
        special = rng.random(len(noise)) < share
        noise[special] = rng.choice([link.FLAG, link.ESCAPE, 0x11, 0x12], special.sum())
        raw.model.write(noise.tobytes())
        while raw.model.waiting:
            assert all(f.kind == link.NOTICE for f in raw.frames())
    raw.model.write(b"\x7e")
    raw.frames()
    row = inputs(1, net, 1)[0]
    reference = Reference(net, 8)
    reference.clear()
    y = reference.step_integers(row).astype("<i2").tobytes()
    answer = raw.ask(Command.STEP, sequence, row.astype("<i2").tobytes())
    assert answer == Frame(STEP, sequence, y + b"\0")
    steps = raw.ask(Command.ACCESS, sequence + 1, link.read(Register.STEPS))
    assert steps.payload == b"\1\0\0\0\0"


def test_loads_take_a_byte_in_less_than_four_cycles() -> None:
    for name, limit in (("wide", 2.5), ("narrow", 3.5)):
        model = board(name)
        raw = Raw(model)
        raw.ask(Command.HELLO, 255)
        word_bytes = CONFIGS[name].word_bytes
        blocks = [link.load_block(k * 512 // word_bytes, bytes(512), word_bytes) for k in range(7)]
        begin = model.cycle
        for k, payload in enumerate(blocks):
            raw.send(Command.ACCESS, k, payload)
        replies: list[Frame] = []
        while len(replies) < len(blocks):
            replies += raw.decoder.feed(model.read(1e-5))
        assert (model.cycle - begin) / (7 * 512) < limit
        model.end()

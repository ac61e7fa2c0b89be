"""Frames of the host link: what is written is read, and what is damaged is never taken for good."""

from __future__ import annotations

import random
import re
import zlib
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stillnet.sw.contract import link
from stillnet.sw.contract.config import PRESETS
from stillnet.sw.contract.errors import StillnetError
from stillnet.sw.contract.link import Frame, FrameDecoder, Identity, encode
from stillnet.sw.contract.registers import Register, limit
from tests import ROOT

FRAMES = st.builds(Frame, st.integers(0, 15), st.integers(0, 255), st.binary(max_size=60))
NOISE = st.one_of(
    st.binary(max_size=40),
    st.lists(st.sampled_from([link.FLAG, link.ESCAPE, 0x5E, 0x5D, 0]), max_size=20).map(bytes),
)


def decode(data: bytes, pieces: list[int] | None = None) -> list[Frame]:
    """All frames of a stream that comes in pieces."""
    decoder = FrameDecoder()
    found = []
    for size in pieces or []:
        found += decoder.feed(data[:size])
        data = data[size:]
    return found + decoder.feed(data)


@given(st.lists(FRAMES, max_size=5), st.lists(st.integers(0, 30), max_size=20))
def test_frames_come_back(frames: list[Frame], pieces: list[int]) -> None:
    assert decode(b"".join(map(encode, frames)), pieces) == frames


@given(FRAMES)
def test_flag_only_at_the_ends(frame: Frame) -> None:
    data = encode(frame)
    assert data[0] == data[-1] == link.FLAG
    assert link.FLAG not in data[1:-1]


@given(NOISE, FRAMES, NOISE, FRAMES)
def test_frames_between_noise(before: bytes, a: Frame, between: bytes, b: Frame) -> None:
    found = decode(before + encode(a) + between + encode(b))
    assert found == [a, b]


@given(FRAMES, st.integers(0, 1000), st.integers(0, 7), FRAMES)
def test_flipped_bit(frame: Frame, place: int, bit: int, after: Frame) -> None:
    data = bytearray(encode(frame))
    data[place % len(data)] ^= 1 << bit
    found = decode(bytes(data) + encode(after))
    # A flag that was lost takes one frame with it, as the flags of neighbours stand side by side;
    # the frame behind comes through, and the damaged one never in another form.
    assert found[-1] == after
    assert all(f in (frame, after) for f in found)
    if 0 < place % len(data) < len(data) - 1:
        assert found == [after]


@given(FRAMES, st.integers(0, 1000), st.integers(0, 1000), FRAMES)
def test_cut_frame(frame: Frame, start: int, length: int, after: Frame) -> None:
    data = encode(frame)
    start %= len(data)
    length = 1 + length % (len(data) - start)
    found = decode(data[:start] + data[start + length :] + encode(after))
    assert found[-1] == after
    assert all(f in (frame, after) for f in found)


@settings(max_examples=30)
@given(st.binary(min_size=2000, max_size=4000))
def test_noise_alone(noise: bytes) -> None:
    assert decode(noise + bytes([link.FLAG])) == []


@given(FRAMES, st.integers(1, 15).filter(lambda v: v != link.VERSION))
def test_other_version(frame: Frame, version: int) -> None:
    decoder = FrameDecoder()
    assert decoder.feed(encode(frame, version=version)) == []
    assert (decoder.other_version, decoder.damaged) == (version, 0)


def test_damaged_frames_are_counted() -> None:
    decoder = FrameDecoder(limit=100)
    good = encode(Frame(1, 2, b"abc"))
    wrong = bytearray(good)
    wrong[3] ^= 1
    assert decoder.feed(bytes(wrong) + good) == [Frame(1, 2, b"abc")]
    assert decoder.damaged == 1
    decoder.feed(b"\x7e\x01\x02\x03\x7e")  # too short
    assert decoder.damaged == 2
    decoder.feed(b"\x7e\x7d\x7d\x5e\x00\x00\x00\x00\x7e")  # an escape is no escaped byte
    assert decoder.damaged == 3
    body = b"\x11\x00\x7d\x41"  # right but for an escape that is none
    checksum = zlib.crc32(body).to_bytes(4, "little")
    assert not {link.FLAG, link.ESCAPE} & set(checksum)
    assert decoder.feed(b"\x7e" + body + checksum + b"\x7e") == []
    assert decoder.damaged == 4
    decoder.feed(bytes(101))  # no end in sight
    assert decoder.damaged == 5
    assert decoder.feed(good) == [Frame(1, 2, b"abc")]


def test_checksum_is_zlibs() -> None:
    data = encode(Frame(link.Command.ACCESS, 7, b"\x03\x01"))
    body = b"\x11\x07\x03\x01"
    assert data == b"\x7e" + body + zlib.crc32(body).to_bytes(4, "little") + b"\x7e"


def test_worked_example_of_the_documentation() -> None:
    """The bytes in docs/link.md are those that the code makes."""
    text = (ROOT / "docs/link.md").read_text()
    command = encode(Frame(link.Command.ACCESS, 5, link.read(Register.STATUS)))
    reply = encode(Frame(link.Command.ACCESS | link.REPLY, 5, b"\x03\0\0\0" + b"\0"))
    step = encode(Frame(link.Command.STEP, 6, b"\x7e\x00\xff\xff"))
    for data in (command, reply, step):
        assert data.hex(" ") in text, data.hex(" ")


# -- operations -----------------------------------------------------------------------------------


def test_operations() -> None:
    assert link.write(Register.CONTROL, [2]) == b"\x84\x01\x02\0\0\0"
    assert link.read(Register.CYCLES, 2) == b"\x10\x02"
    assert link.write(Register.STATE_DATA, [-1, 5], half=True) == b"\xc9\x02\xff\xff\x05\x00"
    assert link.read(Register.STATE_DATA, 256, half=True) == b"\x49\x00"


def test_long_runs_are_split() -> None:
    data = link.write(Register.MEMORY_DATA, bytes(4 * 300))
    assert data[:2] == b"\x8b\x00" and data[2 + 1024 : 2 + 1024 + 2] == b"\x8b\x2c"
    assert len(data) == 1200 + 4
    assert link.read(Register.STATE_DATA, 513) == b"\x09\x00\x09\x00\x09\x01"


def test_load_block_of_narrow_words() -> None:
    assert link.load_block(0x1234, b"abcd", 2) == b"\x8a\x01\x34\x12\0\0\xcb\x02abcd"
    assert link.load_block(0x1234, b"abcdefgh", 8) == b"\x8a\x01\x34\x12\0\0\x8b\x02abcdefgh"


# -- identity -------------------------------------------------------------------------------------

IDENTITY = Identity(
    config=PRESETS["sdram16"],
    board="ulx3s-85f",
    clock_hz=100_000_000,
    window=16,
    receive_bytes=4095,
    reply_bytes=4095,
    fingerprint=PRESETS["sdram16"].fingerprint,
    image_version=2,
)


def test_identity_comes_back() -> None:
    assert Identity.unpack(IDENTITY.pack()) == IDENTITY
    more = replace(IDENTITY, slots=True, changes=512)
    assert Identity.unpack(more.pack()) == more


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "unpack_from requires"),
        (IDENTITY.pack()[:-3], ""),
        (IDENTITY.pack().replace(b'"lanes":2', b'"lanes":3'), "power of two"),
        (IDENTITY.pack().replace(b'"units"', b'"unitz"'), "unknown field 'unitz'"),
        (IDENTITY.pack().replace(b'"int4":false,', b""), "field 'int4' is missing"),
    ],
)
def test_identity_of_another_world(data: bytes, reason: str) -> None:
    expected = (
        "^the board describes itself in a way that this stillnet does not know "
        rf"\(.*{re.escape(reason)}.*\); build and flash its bitstream again with this version$"
    )
    with pytest.raises(StillnetError, match=expected):
        Identity.unpack(data)


def test_identity_that_contradicts_itself() -> None:
    data = bytearray(IDENTITY.pack())
    data[2] = 8
    with pytest.raises(StillnetError, match="^the board says 8 bytes per word and its .* 2; build"):
        Identity.unpack(bytes(data))


@pytest.mark.parametrize(("inputs", "outputs"), [(161, 161), (4, 300), (500, 1)])
def test_throughput_is_that_of_real_frames(inputs: int, outputs: int) -> None:
    """Frames of random vectors, counted as they go over the wire, ten bits for a byte."""
    rng = random.Random(inputs)

    def wire(kind: int, payload: int) -> float:
        frames = [encode(Frame(kind, n % 256, rng.randbytes(payload))) for n in range(400)]
        return sum(map(len, frames)) / len(frames)

    step, reply = link.Command.STEP, link.Command.STEP + link.REPLY
    longest = max(wire(step, 2 * inputs), wire(reply, 2 * outputs + 1))
    found = link.steps_per_second(inputs, outputs, 3_000_000)
    assert found == pytest.approx(3_000_000 / (10 * longest), rel=0.002)


def test_what_limits_an_engine() -> None:
    """Each cycle is of one of four counters; the largest says what limits."""
    counters = {"words": 7, "stall_cell": 1, "stall_memory": 2, "stall_events": 3}
    assert limit(counters) == "lanes"
    for name, what in (("cell", "cells"), ("memory", "memory"), ("events", "events")):
        assert limit(counters | {f"stall_{name}": 8}) == what
    assert limit(dict.fromkeys(counters, 0)) is None

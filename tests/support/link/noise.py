"""Noise on the host link, as much as there is time for: ``python -m tests.support.link.noise``.

Between noise come steps, whole and as changes, whose outputs must be those of the reference. The
noise is of random bytes, of flags and escapes, of frames with a right checksum that are not the
next command, and of frames of the next step that are damaged. Nothing of it may hang the board or
be computed. Shards differ by their seed: run one per core.
"""

from __future__ import annotations

import argparse
import sys
import time

import numpy as np

from stillnet.sim.board.link import LinkModel
from stillnet.sw.contract import link
from stillnet.sw.contract.link import Command, Frame, Outcome, encode
from stillnet.sw.contract.registers import Register, Status
from stillnet.sw.contract.vectors.changes import WANTED_SHIFT, Form, apply_changes, changes
from stillnet.sw.network.reference import Reference
from stillnet.sw.packing.packer import pack
from tests.support.link_bench import CONFIGS, Raw, board, inputs, network

PIECE = 100_000
"""Bytes of noise between two steps."""
RUN = 30_000
"""Cycles at a time while noise goes in: the board takes a byte in two."""


def noise(rng: np.random.Generator, size: int, sequence: int, following: bytes) -> bytes:
    """About ``size`` bytes none of which is a command that the board would carry out.

    Parameters
    ----------
    rng : Generator
    size : int
    sequence : int
        Of the next command.
    following : bytes
        The next command as it goes over the line; it comes with damage.
    """
    kind = rng.integers(4)
    if kind < 2:
        data = rng.integers(0, 256, size).astype(np.uint8)
        special = rng.random(size) < (0.0, 0.2)[kind]
        data[special] = rng.choice([link.FLAG, link.ESCAPE, 0x10, 0x12, 0x16], special.sum())
        return data.tobytes()
    parts: list[bytes] = []
    left = size
    while left > 0:
        if kind == 2:
            ahead = int(rng.integers(1, 128))
            command = int(rng.choice([Command.ACCESS, Command.STEP, Command.FEED, Command.CHANGE]))
            content = rng.bytes(int(rng.integers(0, 300)))
            part = encode(Frame(command, (sequence + ahead) % 256, content))
        else:
            damaged = bytearray(following)
            for _ in range(int(rng.integers(1, 4))):
                at = int(rng.integers(1, len(damaged) - 1))
                # Never a flag: it could be that of the frame, which would be whole again.
                damaged[at] = int(rng.choice([v for v in (0, 255, damaged[at] ^ 1) if v != 0x7E]))
            part = bytes(damaged) if bytes(damaged) != following else b"\x7e\x00\x7e"
        parts.append(part)
        left -= len(part)
    return b"".join(parts)


class Board:
    """A board with a network that is stepped between noise."""

    def __init__(self, seed: int) -> None:
        self.model: LinkModel = board()
        self.raw = Raw(self.model)
        nets = (network(seed + k) for k in range(50))
        self.net = next(n for n in nets if n.inputs > 5 and not n.input_mode.one_hot)
        self.sequence = 0
        self.raw.ask(Command.HELLO, 255)
        image = pack(self.net, CONFIGS["wide"]).hardware
        for at in range(0, len(image), 1024):
            self.access(link.load_block(at // 8, image[at : at + 1024], 8))
        self.access(link.start(0))
        while not self.access(link.read(Register.STATUS))[0] & Status.LOADED:
            pass
        self.reference = Reference(self.net, 8)
        self.reference.clear()
        self.x = np.zeros(self.net.inputs, np.int64)
        self.y = np.zeros(self.net.outputs, np.int64)

    def access(self, payload: bytes) -> bytes:
        answer = self.raw.ask(Command.ACCESS, self.sequence, payload).payload
        self.sequence = (self.sequence + 1) % 256
        return answer

    def step(self, rng: np.random.Generator, x: np.ndarray, first: bool, size: int) -> int:
        """Noise, then a step; returns the bytes of the noise."""
        form, wanted = Form(int(rng.integers(4))), Form(int(rng.integers(4)))
        kind = Command.STEP if first else Command.CHANGE
        data = x.astype("<i2").tobytes()
        if not first:
            data = bytes([form | wanted << WANTED_SHIFT]) + changes(x, self.x, form)
        frame = encode(Frame(kind, self.sequence, data))
        sent = noise(rng, size, self.sequence, frame)
        self.model.write(sent + b"\x7e")
        answers = [Frame(link.NOTICE, 0)]
        while self.model.waiting or answers:
            self.model.run(RUN)
            answers = self.raw.decoder.feed(self.model.read(0))
            assert all(f.kind == link.NOTICE for f in answers), "noise was carried out"
        self.model.write(frame)
        answers = [f for f in self.raw.frames() if f.kind != link.NOTICE]
        assert len(answers) == 1, f"{len(answers)} answers to a step"
        (answer,) = answers
        assert (answer.kind, answer.sequence) == (kind | link.REPLY, self.sequence)
        assert answer.payload[-1] == Outcome.OK
        y = self.reference.step_integers(x)
        found = answer.payload[:-1]
        if first:
            assert found == y.astype("<i2").tobytes()
        else:
            assert found[0] == wanted
            np.testing.assert_array_equal(apply_changes(found[1:], self.y, wanted), y)
        self.x, self.y, self.sequence = x, y, (self.sequence + 1) % 256
        return len(sent)


def run(seed: int, total: int, seconds: float) -> int:
    """Noise until there was enough, or the time is over; returns how many bytes."""
    rng = np.random.default_rng(seed)
    end, done = time.monotonic() + seconds, 0
    target = Board(seed)
    try:
        while done < total and time.monotonic() < end:
            for k, x in enumerate(inputs(int(rng.integers(1 << 30)), target.net, 20)):
                done += target.step(rng, x, k == 0, min(PIECE, total))
    finally:
        target.model.end()
    return done


def main() -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("--bytes", type=int, default=10**8)
    parser.add_argument("--seconds", type=float, default=1e9)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    begin, done, seed = time.monotonic(), 0, args.seed
    while done < args.bytes and time.monotonic() - begin < args.seconds:
        done += run(seed, 4 * 10**6, args.seconds - (time.monotonic() - begin))
        seed += 1000
        print(f"{done:,} bytes in {time.monotonic() - begin:.0f} s", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())

"""The watchdog resets an engine with vectors in it: each is refused, none goes in by half.

The judge is a model of an engine that adds up whatever enters it: a vector that is lost, done twice
or cut changes all outputs after it.
"""

from __future__ import annotations

import random
from collections import deque
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest
from amaranth.sim import Simulator

from stillnet.hw.host.link.command_processor import CommandProcessor
from stillnet.sw.contract import link
from stillnet.sw.contract.link import Command, Outcome
from stillnet.sw.contract.registers import Register, Status
from stillnet.sw.contract.vectors.changes import WANTED_SHIFT, Form, apply_changes, changes
from tests.support.sampling import some

WINDOW, INPUTS, OUTPUTS = 4, 5, 11
FED = 0x4000
"""Elements of FEED are as large or larger; they bring no output."""
LOST = 20
"""Cycles for which the engine is being reset."""
PATIENCE = 20_000


def wrap(values: Any) -> np.ndarray:
    """Of 16 bits."""
    return ((np.asarray(values, np.int64) + 0x8000) & 0xFFFF) - 0x8000


@dataclass
class Rule:
    """What the engine computes: all outputs depend on all vectors since it was loaded."""

    total: int = 0

    def step(self, x: np.ndarray) -> np.ndarray:
        self.total = int(wrap(3 * self.total + int(np.sum(x))))
        return wrap(self.total * np.arange(1, OUTPUTS + 1) + x[0])


@dataclass
class ModelEngine:
    """Takes vectors, and gives their outputs some cycles later; from ``hangs`` on nothing."""

    rng: random.Random
    hangs: int = 1 << 30
    rule: Rule = field(default_factory=Rule)
    part: list[int] = field(default_factory=list)
    inside: deque[tuple[int, np.ndarray]] = field(default_factory=deque)
    sent: int = 0

    def reset(self) -> None:
        """Nothing is left, and it runs again."""
        self.rule, self.part, self.sent, self.hangs = Rule(), [], 0, 1 << 30
        self.inside.clear()

    def take(self, now: int, value: int) -> None:
        if value >= FED:
            assert not self.part
            return
        self.part.append(value)
        if len(self.part) == INPUTS:
            y = self.rule.step(np.array(self.part))
            self.inside.append((now + self.rng.randrange(60), y))
            self.part = []

    def offered(self, now: int) -> tuple[bool, int, bool]:
        """Valid, element, last."""
        if now >= self.hangs or not self.inside or self.inside[0][0] > now:
            return False, 0, False
        return True, int(self.inside[0][1][self.sent]), self.sent == OUTPUTS - 1

    def given(self) -> None:
        self.sent += 1
        if self.sent == OUTPUTS:
            self.sent = 0
            self.inside.popleft()


class Host:
    """Sends commands, ``WINDOW`` of them ahead, and looks at every reply."""

    def __init__(self, rng: random.Random, *, changes: bool) -> None:
        self.rng, self.changes, self.window = rng, changes, WINDOW
        self.wanted: deque[tuple[Command, Any]] = deque()
        self.order: deque[tuple[Command, Any]] = deque()
        self.out: deque[tuple[int, bool]] = deque()
        self.frame: list[int] = []
        self.sequence = self.answered = 0
        self.base: np.ndarray | None = None  # what changes of an input are of
        self.last: np.ndarray | None = None  # the latest output
        self.rule = Rule()
        self.refused: list[np.ndarray] = []
        self.done = self.cut = 0
        self.fed_refused = self.without_base = 0

    def plan(self, count: int) -> None:
        for _ in range(count):
            kind = self.rng.choice([Command.STEP] * 6 + [Command.ACCESS, Command.FEED])
            x = np.array([self.rng.randrange(-999, 999) for _ in range(INPUTS)])
            self.wanted.append((kind, x))

    def send(self) -> None:
        """The next command, where there is room for it."""
        if not self.wanted or len(self.order) == self.window or self.out:
            return
        kind, x = self.wanted.popleft()
        payload, form = b"", Form(0)
        if kind == Command.CHANGE:  # the same vector again
            payload = b"\0"
        elif kind == Command.ACCESS:
            payload = link.read(Register.STATUS) if x is not None else link.watchdog(0)
        elif kind == Command.FEED:
            payload = (FED + np.arange(self.rng.randrange(1, 9))).astype("<i2").tobytes()
        elif self.changes and self.base is not None and self.rng.random() < 0.7:
            kind, old = Command.CHANGE, self.base
            form, made = Form(self.rng.randrange(4)), Form(self.rng.randrange(4))
            payload = bytes([made | form << WANTED_SHIFT]) + changes(x, old, made)
        else:
            payload = x.astype("<i2").tobytes()
        if kind in (Command.STEP, Command.CHANGE):
            self.base = x
        self.order.append((kind, x))
        data = bytes([link.VERSION << 4 | kind, self.sequence]) + payload
        self.sequence = (self.sequence + 1) % 256
        self.length = len(data)
        self.out.extend((byte, k == len(data) - 1) for k, byte in enumerate(data))

    def take(self, byte: int, last: bool) -> None:
        self.frame.append(byte)
        if last:
            self._reply(bytes(self.frame))
            self.frame = []

    def _reply(self, data: bytes) -> None:
        kind, x = self.order.popleft()
        assert data[:2] == bytes([link.VERSION << 4 | link.REPLY | kind, self.answered])
        self.answered = (self.answered + 1) % 256
        data, outcome = data[2:-1], data[-1]
        if kind == Command.ACCESS:
            assert outcome == Outcome.OK and len(data) == (4 if x is not None else 0)
        elif outcome == Outcome.NO_BASE:
            self.without_base += 1
        elif outcome == Outcome.NOT_LOADED:
            self.fed_refused += kind == Command.FEED
            self.base = None  # whoever asks now brings a whole vector
            if kind != Command.FEED:
                self.refused.append(x)
                self.cut += kind == Command.STEP and len(data) > 2
        elif kind == Command.FEED:
            assert outcome == Outcome.OK and data == b"" and not self.refused
        else:
            assert outcome == Outcome.OK and not self.refused, "a step behind one that was refused"
            y = np.frombuffer(data, "<i2") if kind == Command.STEP else None
            if y is None:
                y = apply_changes(data[1:], self.last, Form(data[0]))
            self.last = np.asarray(y)
            np.testing.assert_array_equal(y, self.rule.step(x))
            self.done += 1


class Bench:
    """A processor between a host and an engine, which is lost at some cycle."""

    def __init__(self, seed: int, *, changes: bool, after: int | None = None) -> None:
        self.rng = random.Random(seed)
        self.after, self.held = after, 0
        self.host = Host(self.rng, changes=changes)
        self.engine = ModelEngine(self.rng)
        self.lost_at = self.rng.randrange(50, 900)
        self.engine.hangs = self.lost_at - self.rng.choice([1, 1, 30, 200])
        # At a command that is just being accepted; at the second one, so many cycles after it came.
        self.aims = seed % 2 == 1 or after is not None
        if self.aims:
            self.lost_at = self.engine.hangs = 1 << 30
        self.pace = self.rng.choice([0.9, 0.3])
        self.lag = self.rng.randrange(4)  # until the reset is everywhere
        self.blocked = False
        self.ack = 0
        self.ready = self.rng.choice([1.0, 0.3])
        self.aimed_at = Command.CHANGE if changes else Command.STEP
        self.dut = CommandProcessor(b"", WINDOW, slots=True, changes=16 if changes else 0)

    def run(self) -> None:
        """Until all commands are answered, those that were refused too."""
        simulator = Simulator(self.dut)
        simulator.add_clock(1e-8)
        simulator.add_testbench(self._test)
        simulator.run()

    async def _test(self, ctx: Any) -> None:
        host = self.host
        self.now = 0
        if self.after is None:
            host.plan(14)
        else:
            x = np.arange(INPUTS)
            host.wanted.extend([(Command.STEP, x), (self.aimed_at, x)])
            host.window = 1
        await self._until_answered(ctx, 0)
        if self.lost_at > self.now:
            self.lost_at = self.now
        await self._until_answered(ctx, self.lost_at + LOST + 5)
        assert self.blocked
        # The watchdog is acknowledged; then what was refused comes again, to an engine that begins.
        again, host.refused = host.refused, []
        host.wanted.append((Command.ACCESS, None))
        if host.changes:
            host.wanted.append((Command.CHANGE, None))
        await self._until_answered(ctx, self.lost_at + LOST + 120)
        assert not self.blocked and host.without_base == host.changes
        host.rule = Rule()
        host.wanted.extend((Command.STEP, x) for x in again)
        host.plan(6)
        self.repeated, before = len(again), host.done
        await self._until_answered(ctx, 0)
        assert not host.refused and host.done >= before + len(again)

    async def _until_answered(self, ctx: Any, least: int) -> None:
        host, end = self.host, self.now + PATIENCE
        while host.wanted or host.order or self.now < least:
            assert self.now < end, "a command has no reply"
            await self._cycle(ctx)

    async def _cycle(self, ctx: Any) -> None:
        dut, host, engine, now, rng = self.dut, self.host, self.engine, self.now, self.rng
        lost = self.lost_at < now <= self.lost_at + LOST
        self.blocked |= lost
        in_reset = self.lost_at + self.lag <= now <= self.lost_at + LOST - 3
        if in_reset:
            engine.reset()
        host.send()
        accepted = host.out and len(host.out) == host.length - 2  # header and sequence are taken
        waited = now > 150 if self.after is None else host.sequence == 2
        if self.aims and waited and accepted and host.order[-1][0] == self.aimed_at:
            self.aims, self.lost_at = False, now + (self.after or rng.randrange(1, 7))
            engine.hangs = now
            self.held = 0 if self.after is None else 15
        byte, last = host.out[0] if host.out and rng.random() < self.pace else (None, False)
        if self.held:
            byte, self.held = None, self.held - 1
        valid, element, end = engine.offered(now)
        takes = now < engine.hangs and not in_reset and len(engine.inside) < 2
        ctx.set(dut.lost, lost)
        ctx.set(dut.blocked, self.blocked)
        ctx.set(dut.frames.valid, byte is not None)
        ctx.set(dut.frames.p.data, byte or 0)
        ctx.set(dut.frames.p.last, last)
        ctx.set(dut.inputs.ready, takes and rng.random() < 0.7)
        ctx.set(dut.outputs.valid, valid)
        ctx.set(dut.outputs.p.data, element & 0xFFFF)
        ctx.set(dut.outputs.p.last, end)
        ctx.set(dut.replies.ready, rng.random() < self.ready)
        ctx.set(dut.registers.ack, self.ack == 1)
        loading = lost or (self.blocked and now < self.lost_at + LOST + 100)
        ctx.set(dut.registers.read_data, 0 if loading else Status.LOADED)
        self.ack = max(0, self.ack - 1)
        (
            _,
            _,
            taken,
            into,
            value,
            out,
            reply_valid,
            reply_ready,
            reply,
            bus,
        ) = await ctx.tick().sample(
            dut.frames.ready,
            dut.inputs.valid & dut.inputs.ready,
            dut.inputs.payload,
            dut.outputs.valid & dut.outputs.ready,
            dut.replies.valid,
            dut.replies.ready,
            dut.replies.payload,
            dut.registers.write_strobe | dut.registers.read_strobe,
        )
        if byte is not None and taken:
            host.out.popleft()
        if into:
            assert not self.blocked
            if not in_reset:
                engine.take(now, value)
        if out and not in_reset:
            engine.given()
        if reply_valid and reply_ready:
            host.take(reply.data, bool(reply.last))
        if bus:
            self.ack = rng.randrange(1, 4)
            if ctx.get(dut.registers.address) == Register.WATCHDOG:
                self.blocked = False
        self.now += 1


@pytest.mark.parametrize("changes", some([False, True], True))
def test_vectors_that_are_lost_are_refused(changes: bool, thorough: bool) -> None:
    """At any moment: before, between and within vectors on their way in and out."""
    repeated = cut = fed = 0
    for seed in range(48 if thorough else 8):
        bench = Bench(seed, changes=changes)
        bench.run()
        repeated += bench.repeated
        cut += bench.host.cut
        fed += bench.host.fed_refused
    assert repeated > 15 and cut and fed


@pytest.mark.parametrize("changes", some([False, True], True))
def test_a_vector_is_lost_before_its_first_byte(changes: bool, thorough: bool) -> None:
    """Its bytes come late here, and the engine is lost while the command is looked at, accepted, or
    waits for them. The reply must have the kind of its command, which stands in a store with the
    form, so not before that is known; and what comes late must not go into an engine that is out of
    its reset."""
    for after in range(1, 14, 1 if thorough else 3):
        bench = Bench(0, changes=changes, after=after)
        bench.run()
        assert bench.repeated == 1, after

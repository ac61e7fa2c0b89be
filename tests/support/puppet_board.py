"""A board without hardware: the protocol of the link, and the reference in place of the engine.

For what is told of a stream, not for the integers of the hardware: quick, in real time, and with
faults where a test wants them.
"""

from __future__ import annotations

import time
from collections import deque

import numpy as np

from stillnet.sw.contract import link
from stillnet.sw.contract.cells import CELLS
from stillnet.sw.contract.config import EngineConfig
from stillnet.sw.contract.errors import StillnetError
from stillnet.sw.contract.image import VERSION
from stillnet.sw.contract.link import Cause, Command, Frame, FrameDecoder, Identity, Outcome
from stillnet.sw.contract.registers import COUNTERS, Control, Region, Register, Status
from stillnet.sw.contract.sources import INPUT, SECOND, encoder_select
from stillnet.sw.network.network import Network
from stillnet.sw.network.reference import Reference
from stillnet.sw.packing.packer import pack

__all__ = ["PuppetBoard"]

CLOCK = 100_000_000


class PuppetBoard:
    """A transport with a board behind it.

    Parameters
    ----------
    network : Network
        What any image that is loaded counts as.
    config : EngineConfig
    seconds : float
        What a step takes.

    Attributes
    ----------
    cut : bool
        The cable is out: nothing comes, and nothing arrives.
    lose : int
        Bytes that are lost of each of the next writes of the host, one from each.
    wrong : int
        Added to the first output of each step: a broken board.
    seconds : float
    """

    name = "the puppet"

    def __init__(self, network: Network, config: EngineConfig, *, seconds: float = 0.0) -> None:
        self.network, self.config, self.seconds = network, config, seconds
        self.cut, self.lose, self.wrong = False, 0, 0
        self.reference = Reference(network, config=config)
        self._notes = pack(network, config).notes
        self._decoder = FrameDecoder()
        self._out: deque[tuple[float, bytes]] = deque()
        self._replies: dict[int, bytes] = {}
        self._expected = 0
        self._loaded = False
        self._registers = dict.fromkeys(Register, 0)
        self._ready = 0.0
        self._zero()

    def _zero(self) -> None:
        self.counters = dict.fromkeys(COUNTERS, 0)
        self.events = {self._select(k): 0 for k in self.network.event_names()}

    @staticmethod
    def _select(key: int) -> int:
        return encoder_select(key - SECOND, True) if key >= SECOND else encoder_select(key)

    # -- as a transport ---------------------------------------------------------------------------

    def now(self) -> float:
        return time.monotonic()

    def close(self) -> None: ...

    def write(self, data: bytes) -> None:
        if self.cut:
            return
        if self.lose:
            self.lose -= 1
            data = data[: len(data) // 2] + data[len(data) // 2 + 1 :]
        damaged = self._decoder.damaged
        for frame in self._decoder.feed(data):
            self._take(frame)
        if self._decoder.damaged != damaged:
            self._notice(Cause.CHECK, 0)

    def read(self, timeout: float) -> bytes:
        end = self.now() + timeout
        while True:
            now = self.now()
            if self._out and self._out[0][0] <= now and not self.cut:
                return self._out.popleft()[1]
            if now >= end:
                return b""
            there = self._out[0][0] if self._out and not self.cut else end
            time.sleep(max(0.0, min(there, end) - now))

    # -- the board --------------------------------------------------------------------------------

    def _send(self, frame: Frame) -> None:
        self._out.append((max(self._ready, self.now()), link.encode(frame)))

    def _notice(self, cause: Cause, question: int) -> None:
        self._send(Frame(link.NOTICE, self._expected, bytes([cause, question])))

    def _take(self, frame: Frame) -> None:
        if frame.kind == Command.HELLO:
            self._replies.clear()
            identity = Identity(
                self.config, "puppet", CLOCK, 16, 4096, 4096, self.config.fingerprint, VERSION
            )
            self._expected = (frame.sequence + 1) % 256
            self._answer(frame, identity.pack(), Outcome.OK)
        elif frame.kind == Command.RESUME:
            self._notice(Cause.RESUME, frame.payload[0])
            at = frame.sequence
            while at != self._expected and at in self._replies:
                self._out.append((self.now(), self._replies[at]))
                at = (at + 1) % 256
        elif frame.kind == Command.RESET:
            self._loaded = False
            self._zero()
            self._notice(Cause.RESET, 0)
        elif frame.sequence == self._expected:
            self._expected = (self._expected + 1) % 256
            outcome, data = Outcome.OK, b""
            if frame.kind == Command.ACCESS:
                data = self._access(frame.payload)
            elif not self._loaded:
                outcome = Outcome.NOT_LOADED
            elif frame.kind == Command.STEP:
                data = self._step(np.frombuffer(frame.payload, "<i2").astype(np.int64))
            self._answer(frame, data, outcome)
        elif (frame.sequence - self._expected) % 256 < 128:
            self._notice(Cause.GAP, 0)

    def _answer(self, frame: Frame, data: bytes, outcome: int) -> None:
        reply = Frame(frame.kind | link.REPLY, frame.sequence, data + bytes([outcome]))
        self._replies[frame.sequence] = link.encode(reply)
        self._replies.pop((frame.sequence - 32) % 256, None)
        self._send(reply)

    def _step(self, x: np.ndarray) -> bytes:
        self._ready = max(self._ready, self.now()) + self.seconds
        y = self.reference.step_integers(x) + 0
        y[0] += self.wrong
        last, c = self.reference.last, self.counters
        for key, count in last.events.items():
            self.events[self._select(key)] += count
        c[Register.LATENCY] = last.words + 100
        c[Register.CYCLES] += last.words + 100
        c[Register.WORDS] += last.words
        c[Register.SATURATIONS] += last.saturations
        c[Register.STEPS] += 1
        return y.astype("<i2").tobytes()

    def _access(self, payload: bytes) -> bytes:
        at, answer = 0, b""
        while at < len(payload):
            head, count = payload[at], payload[at + 1] or 256
            at += 2
            size = 2 if head & 0x40 else 4
            register = Register(head & 0x3F)
            if head & 0x80:
                for _ in range(count):
                    self._write(register, int.from_bytes(payload[at : at + size], "little"))
                    at += size
            else:
                for _ in range(count):
                    value = self._read(register) & ((1 << 8 * size) - 1)
                    answer += value.to_bytes(size, "little")
        return answer

    def _write(self, register: Register, value: int) -> None:
        self._registers[register] = value
        if register is Register.CONTROL:
            if value & (Control.LOAD | Control.CLEAR):
                self._loaded |= bool(value & Control.LOAD)
                self.reference.clear()
            if value & Control.CLEAR_COUNTERS:
                self._zero()

    def _read(self, register: Register) -> int:
        if register is Register.STATUS:
            return Status.IDLE | (Status.LOADED if self._loaded else 0)
        if register is Register.EVENTS:
            return self.events.get(self._registers[Register.EVENTS_SELECT], 0)
        if register is Register.STATE_DATA:
            select = self._registers[Register.STATE_SELECT]
            self._registers[Register.STATE_SELECT] += 1
            return self._state(select >> 28, select & 0xFFFFFFF)
        if register in self.counters:
            return self.counters[register]
        if register is Register.SDRAM_COUNT:
            return 0  # it has no counters of an SDRAM
        raise StillnetError(f"the puppet has no register {register.name}")

    def _state(self, region: int, index: int) -> int:
        r = self.reference
        if region == Region.INPUT:
            return int(r.reference[INPUT][index])
        for i, (layer, d) in enumerate(zip(self.network.layers, self._notes["layers"])):
            unit = index - d["unit_base"] * self.config.cell_width
            if not 0 <= unit < layer.units:
                continue
            if region == Region.REFERENCE:
                return int(r.reference[i][unit])
            if region == Region.REFERENCE_SECOND:
                return int(r.reference_second[i][unit])
            name = self.config.state_names[region]
            return int(r.state[i][name][unit]) if name in CELLS[layer.cell].state else 0
        return 0

"""What the driver sends in place of a vector brings the same events, references and outputs."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from stillnet.hw.host.link.link import HostLink
from stillnet.sw.contract.config import PRESETS
from stillnet.sw.contract.events import Mode, encode
from stillnet.sw.contract.link import Command, Identity
from stillnet.sw.contract.sources import INPUT
from stillnet.sw.contract.vectors.changes import WANTED_SHIFT, Form, apply_changes, changes
from stillnet.sw.host.driver.changes import LinkVectors
from stillnet.sw.network.network import Network, QuantizedLayer

IDENTITY = HostLink(PRESETS["axi64"], clock_hz=1).identity
SIZE, OUTPUTS = 21, 13


def network(mode: Mode, threshold: int, elements: np.ndarray | None, **options) -> Network:
    """As the notes of an image tell it."""
    layer = QuantizedLayer(
        name="y",
        cell="linear",
        units=OUTPUTS,
        matrices=[],
        bias={},
        shift=0,
        write_shift=0,
        fraction=8,
    )
    return Network(
        inputs=SIZE,
        input_fraction=8,
        layers=[layer],
        input_mode=mode,
        input_threshold=threshold,
        input_thresholds=elements,
        name="net",
        **options,
    )


class Chip:
    """The board's side: the vectors that both ends keep, and the input's encoder."""

    def __init__(self, mode: Mode, thresholds: int | np.ndarray) -> None:
        self.mode, self.thresholds = mode, thresholds
        self.reference = np.zeros(SIZE, np.int64)
        self.x = self.y = np.zeros(0, np.int64)
        self.kinds: list[Command] = []

    def step(self, kind: Command, payload: bytes, y: np.ndarray) -> tuple[list, bytes]:
        self.kinds.append(kind)
        if kind == Command.STEP:
            self.x = np.frombuffer(payload, "<i2").astype(np.int64)
            answer = y.astype("<i2").tobytes()
        else:
            form, wanted = Form(payload[0] & 3), Form(payload[0] >> WANTED_SHIFT)
            self.x = apply_changes(payload[1:], self.x, form)
            answer = bytes([wanted]) + changes(y, self.y, wanted)
        self.y = y
        index, value = encode(self.mode, self.x, self.reference, self.thresholds)
        return [index.tolist(), value.tolist()], answer


def rows(rng: np.random.Generator, steps: int, size: int) -> np.ndarray:
    x = np.cumsum(rng.integers(-20, 21, (steps, size)), axis=0)
    x[steps // 2] = rng.choice([-32768, 32767, 0], size)
    return np.clip(x, -32768, 32767)


@pytest.mark.parametrize("seed", range(12))
def test_same_events(seed: int) -> None:
    """Thresholds of all elements, of each, and both; 0, small and large; changed on the way."""
    rng = np.random.default_rng(seed)
    mode = Mode.NONZERO if seed % 4 == 3 else Mode.DELTA
    common = int(rng.choice([0, 1, 30, 200]))
    elements = rng.integers(0, 120, SIZE) if seed % 2 else None
    loaded = common if elements is None else elements
    truth, chip = np.zeros(SIZE, np.int64), Chip(mode, loaded)
    vectors = LinkVectors()
    vectors.begin(network(mode, common, elements), exact=True)
    still = 0
    for step, (x, y) in enumerate(zip(rows(rng, 60, SIZE), rows(rng, 60, OUTPUTS))):
        if step == 30:
            vectors.threshold = 77
            chip.thresholds = np.maximum(0 if elements is None else elements, 77)
        if step in (17, 40):
            vectors.renew()
        if step == 45:  # as the driver reads it
            vectors.forget()
            assert vectors.unknown == (mode is Mode.DELTA)
            vectors.reference = truth.copy()
        expected = encode(mode, x, truth, chip.thresholds)
        events, answer = chip.step(*vectors.command(x, IDENTITY), y)
        assert events == [part.tolist() for part in expected]
        np.testing.assert_array_equal(chip.reference, truth)
        found = vectors.output(chip.kinds[-1], answer)
        assert found is not None
        np.testing.assert_array_equal(found, y)
        still += int((chip.x != x).sum())
    assert chip.kinds.count(Command.CHANGE) > 40
    assert still or mode is Mode.NONZERO


@pytest.mark.parametrize("reason", ["a budget", "notes without thresholds", "another mode"])
def test_all_that_differs_is_sent_where_the_rule_is_not_known(reason: str) -> None:
    mode = Mode.NONZERO if reason == "another mode" else Mode.DELTA
    net = network(mode, 100, None, budgets={INPUT: 3} if reason == "a budget" else {})
    vectors, chip = LinkVectors(), Chip(mode, 100)
    vectors.begin(net, exact=reason != "notes without thresholds")
    vectors.forget()
    assert not vectors.unknown
    rng = np.random.default_rng(1)
    for x, y in zip(rows(rng, 20, SIZE), rows(rng, 20, OUTPUTS)):
        _, answer = chip.step(*vectors.command(x, IDENTITY), y)
        np.testing.assert_array_equal(chip.x, x)
        vectors.output(chip.kinds[-1], answer)
    assert Command.CHANGE in chip.kinds


def test_whole_vectors_where_the_board_asks_for_them() -> None:
    """Without changes, with shorter memories, with a small buffer."""
    rng = np.random.default_rng(2)
    x = rng.integers(-9, 9, SIZE)

    def kinds(identity: Identity, second: np.ndarray) -> list[Command]:
        vectors = LinkVectors()
        vectors.begin(network(Mode.DELTA, 0, None), exact=True)
        return [vectors.command(row, identity)[0] for row in (x, second)]

    step, change = Command.STEP, Command.CHANGE
    assert kinds(IDENTITY, x + 1) == [step, change]
    assert kinds(replace(IDENTITY, changes=0), x + 1) == [step, step]
    assert kinds(replace(IDENTITY, changes=16), x + 1) == [step, step]
    assert kinds(replace(IDENTITY, reply_bytes=2 * OUTPUTS + 3), x + 1) == [step, step]


def test_replies_that_are_none() -> None:
    vectors = LinkVectors()
    vectors.begin(network(Mode.DELTA, 0, None), exact=True)
    assert vectors.output(Command.CHANGE, b"\0\0") is None, "changes of nothing"
    assert vectors.output(Command.STEP, bytes(2 * OUTPUTS - 1)) is None
    assert vectors.output(Command.STEP, bytes(2 * OUTPUTS)) is not None
    assert vectors.output(Command.CHANGE, b"") is None
    assert vectors.output(Command.CHANGE, b"\4") is None
    found = vectors.output(Command.CHANGE, b"\0")
    assert found is not None and not found.any()

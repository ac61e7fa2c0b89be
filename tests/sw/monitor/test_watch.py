"""What a driver says of its stream equals what hardware and reference did."""

from __future__ import annotations

import functools
import threading
from collections import Counter
from collections.abc import Iterator

import numpy as np
import pytest

from stillnet.sim.board.link import LinkModel
from stillnet.sw.contract.errors import StillnetError
from stillnet.sw.contract.registers import Register
from stillnet.sw.host.driver import Engine
from stillnet.sw.monitor.canary import Canary
from stillnet.sw.monitor.client import Client
from stillnet.sw.monitor.monitor import Monitor
from stillnet.sw.network.network import Network
from stillnet.sw.network.reference import Reference
from tests.support.link_bench import CONFIGS, board, connect, inputs, network
from tests.support.streams import Stream, recording


@pytest.fixture
def hardware() -> Iterator[LinkModel]:
    """The generated engine with its link."""
    model = board()
    yield model
    model.end()


@functools.cache
def busy() -> Network:
    """A random network all of whose vectors send events."""
    for net in map(network, range(300)):
        if net.input_mode.one_hot or len(net.layers) < 2 or min(net.inputs, net.outputs) < 5:
            continue
        if min(summed(net, inputs(3, net, 30))[1].values()):
            return net
    raise AssertionError("no such network")


def summed(net: Network, rows: np.ndarray) -> tuple[Counter, Counter]:
    """Counters and events by the reference."""
    reference = Reference(net, config=CONFIGS["wide"])
    reference.clear()
    names, counters, events = reference.event_names(), Counter(), Counter()
    for row in rows:
        reference.step_integers(row)
        last = reference.last
        counters.update(words=last.words, saturations=last.saturations, steps=1)
        events.update({names[k]: n for k, n in last.events.items()})
    return counters, events


@pytest.mark.parametrize(("window", "every"), [(None, 0), (None, 1), (1, 1), (3, 7)])
def test_the_numbers_are_those_of_the_hardware(hardware: LinkModel, window, every) -> None:
    """Read between the steps, added over blocks, asked over HTTP: always the same sums."""
    net = busy()
    with connect(hardware) as engine:
        engine.load(net)
        engine.reset_counters()
        client = Client(engine.serve(0, interval=0.05, every=every))
        rows = inputs(3, net, 120)
        reference = Reference(net, config=engine.config)
        reference.clear()
        for k, y in enumerate(engine.stream_integers(rows, window=window)):
            np.testing.assert_array_equal(y, reference.step_integers(rows[k]))
        document, last = client.state(), engine.counters()
        counters, events = summed(net, rows)
        shown = document["counters"]
        # Two sides of the same: the registers themselves, and the reference.
        served = client.state()["counters"]
        assert {k: last[k] for k in last.keys() - {"latency", "limited_by"}} == {
            k: served[k] for k in served.keys() - {"latency"}
        }
        assert {k: shown[k] for k in counters} == dict(counters)
        assert shown["events"] == {k: events[k] for k in shown["events"]}
        assert document["steps"] == document["counted_steps"] == len(rows)
        blocks = document["blocks"]
        for key in ("words", "cycles", "saturations", "steps"):
            assert sum(b["counters"][key] for b in blocks) == shown[key]
        assert [b["number"] for b in blocks] == list(range(1, len(blocks) + 1))
        assert sum(b["steps"] for b in blocks) == sum(document["times"]["counts"]) == len(rows)
        seen = [b["input"] for b in blocks if b["input"]]  # vectors go ahead of their steps
        assert (np.min([i["low"] for i in seen], axis=0) == rows.min(axis=0)).all()
        assert (np.max([i["high"] for i in seen], axis=0) == rows.max(axis=0)).all()


def test_the_canary_computes_steps_of_the_hardware_again(hardware: LinkModel) -> None:
    net = busy()
    with connect(hardware) as engine:
        engine.load(net)
        client, canary = Client(engine.serve(0, interval=0.05)), Canary(net)
        rows = inputs(5, net, 200)
        found: list = []

        def ask() -> None:
            for count in (1, 7, 3):
                steps = client.steps(count)
                found.append((steps, canary.check(steps)))

        thread = threading.Thread(target=ask)
        thread.start()
        k, reference = 0, Reference(net, config=engine.config)
        reference.clear()
        while thread.is_alive() and k < 20_000:
            part = rows[k % 200 : k % 200 + 20]
            for row, y in zip(part, engine.stream_integers(part)):
                np.testing.assert_array_equal(y, reference.step_integers(row))
            k += len(part)
        thread.join(20)
        assert [len(s.x) for s, _ in found] == [1, 7, 3]
        for steps, verdict in found:
            assert verdict.difference is None and verdict.first == steps.first
        steps, _ = found[1]
        steps.y[4, 2] += 1
        expected = f"step {steps.first + 4}: output 2 is {steps.y[4, 2]} on the board"
        assert canary.check(steps).difference.startswith(expected)


def test_counters_of_32_bits_wrap_around() -> None:
    with Stream() as stream:
        stream.run(recording(9, 20))
        before = stream.monitor.document["counters"]["words"]
        stream.board.counters[Register.WORDS] += (1 << 32) - 5
        stream.engine.counters()
        stream.board.counters[Register.WORDS] %= 1 << 32
        stream.run(recording(9, 20))
        after = stream.monitor.document["counters"]["words"]
        assert (1 << 32) - 5 < after - before < (1 << 32) + 5000


def test_a_reset_of_the_counters_takes_nothing_away() -> None:
    with Stream() as stream:
        stream.run(recording(9, 20))
        first = stream.monitor.document["counters"]["events"]
        stream.engine.reset_counters()
        stream.run(recording(9, 20))
        again = stream.engine.counters()["events"]
        total = stream.monitor.document["counters"]["events"]
        assert total == {k: first[k] + again[k] for k in first}


def test_steps_one_by_one_and_a_stream_that_is_left() -> None:
    """Replies that nobody waits for are taken all the same."""
    with Stream(every=1) as stream:
        engine, x = stream.engine, recording(3, 30)
        expected = Reference(stream.network).run(x)
        got = [engine.step(row) for row in x[:10]]
        for row in engine.stream(x[10:25], window=4):
            got.append(row)
            if len(got) == 12:
                break
        assert np.array_equal(got, expected[:12])
        assert engine.watch.steps >= 12
        engine.clear()
        assert np.array_equal([engine.step(row) for row in x[:10]], expected[:10])
        assert engine.counters()["steps"] == stream.board.counters[Register.STEPS]


@pytest.mark.parametrize("every", [0, 1])
def test_a_program_that_does_other_things_between_steps(every: int) -> None:
    """A threshold that is changed, counters, a state: while a reading is on its way."""
    with Stream(every=every, interval=0.001) as stream:
        engine, reference = stream.engine, Reference(stream.network)
        for k, (row, y) in enumerate(
            zip(recording(3, 60), engine.stream(recording(3, 60), window=1))
        ):
            np.testing.assert_array_equal(y, reference.step(row))
            if k % 3 == 0:
                engine.set_threshold("input", stream.network.input_threshold, integer=True)
            elif k % 3 == 1:
                assert engine.counters()["steps"] == k + 1
            else:
                state, expected = engine.get_state(), reference.get_state()
                assert all(np.array_equal(state[key], expected[key]) for key in expected)
        assert stream.monitor.client.state()["counters"]["events"] == engine.counters()["events"]


def test_times_and_deadlines() -> None:
    """A board that is slow now and then: counted, and kept with what the engine did meanwhile."""
    with Stream(deadline=0.2, interval=0.01) as stream:
        stream.run(recording(0, 60))
        stream.board.seconds = 0.3
        stream.run(recording(0, 3))
        stream.board.seconds = 0.0
        stream.run(recording(0, 30))
        document = stream.monitor.document
        assert document["misses"] >= 3
        times = document["times"]
        assert sum(times["counts"]) == 93 and times["worst"] >= 0.3
        over = sum(n for b, n in zip([0, *times["bounds"]], times["counts"]) if b >= 0.2)
        assert over == document["misses"]
        worst = document["worst"]
        assert [e["seconds"] for e in worst] == sorted((e["seconds"] for e in worst), reverse=True)
        assert {60, 61, 62} <= {e["step"] for e in worst}
        assert all(e["latency"] > 100 for e in worst if e["step"] in (60, 61, 62))


def test_what_cannot_be_served() -> None:
    with Stream() as stream:
        port = int(stream.address.rpartition(":")[2])
        for options, message in (
            ({"port": port}, rf"^cannot serve on 127.0.0.1:{port}: .*; choose another port$"),
            ({"port": 0, "deadline": 0}, "^deadline must be a positive number of seconds, not 0$"),
            ({"port": 0, "every": -1}, "^every must be a number of steps from 0, not -1$"),
        ):
            other = Engine(stream.board, timeout=0.6, retry=0.05)
            with pytest.raises(StillnetError, match=message):
                other.serve(**options)


def test_a_driver_that_was_started_again() -> None:
    """The monitor begins anew with it."""
    with Stream() as stream:
        stream.run(recording(1, 50))
        monitor = stream.monitor
        port = int(stream.address.rpartition(":")[2])
        stream.engine.close()
        assert not monitor.poll() and monitor.alarms.active[0].kind == "driver"
        again = Engine(stream.board, timeout=0.6, retry=0.05)
        again.load(stream.network)
        again.serve(port, interval=0.02)
        list(again.stream(recording(1, 30)))
        assert monitor.poll() and monitor.poll()
        assert monitor.document["steps"] == 30 and not monitor.alarms.active
        assert sum(b["steps"] for b in monitor.blocks) == 30
        again.close()


def test_a_monitor_of_another_network() -> None:
    with Stream() as stream:
        monitor = Monitor(Client(stream.address), busy_with_calibration())
        stream.run(recording(1, 50))
        monitor.poll()
        assert "not 'another', so drift is not watched" in monitor.alarms.active[0].text


def busy_with_calibration() -> Network:
    """A network that is not the one on the board."""
    import copy

    from tests.support.streams import network as small

    found = copy.copy(small())
    found.name = "another"
    return found

"""Faults that are put in: each is seen, named, and survived."""

from __future__ import annotations

import copy
import threading
import time

import numpy as np
import pytest

from stillnet.sw.contract.registers import Register
from stillnet.sw.host.driver import ConnectionLost
from stillnet.sw.host.driver.watch import Watch
from stillnet.sw.monitor import alarms
from stillnet.sw.monitor.canary import Canary
from stillnet.sw.network.reference import Reference
from tests.support.streams import Stream, model, network, recording


def test_a_quiet_stream_is_quiet() -> None:
    """Recordings like those of calibration, whole and in another order: nothing is wrong."""
    with Stream() as stream:
        for seed in (3, 1, 2, 0):
            stream.engine.clear()
            stream.run(recording(seed))
        assert not list(stream.monitor.alarms)
        for seed in (11, 12):
            stream.run(recording(seed))
        assert not list(stream.monitor.alarms)


def test_drifted_input() -> None:
    """A gain that is wrong: more events, and values that calibration never saw. Since when?"""
    with Stream() as stream:
        stream.run(recording(1))
        begin, step = time.time(), stream.engine.watch.steps
        x = recording(2)
        expected = Reference(stream.network)
        y = stream.run(3 * x)
        assert stream.kinds() == {"rate", "range"}
        ranged = [a for a in stream.monitor.alarms.active if a.kind == "range"]
        assert {a.where for a in ranged} >= {"input"}
        for alarm in stream.monitor.alarms.active:  # a rate is that of a window
            window = stream.monitor.calibration.window if alarm.kind == "rate" else 1
            assert step - window <= alarm.step < step + 100
            assert begin - 1 <= alarm.since <= time.time()
        said = next(a.text for a in ranged if a.where == "input")
        assert "of the input reaches" in said and "calibration saw" in said
        busy = next(a for a in stream.monitor.alarms.active if a.kind == "rate")
        assert "more than in calibration" in busy.text
        # Survived: the integers are those of the network, drift or not.
        for row in np.concatenate([recording(1), 3 * x]):
            last = expected.step(row)
        np.testing.assert_array_equal(y[-1], last)


def test_drift_ends(monkeypatch) -> None:
    monkeypatch.setattr(alarms, "HOLD", 0.2)
    with Stream() as stream:
        stream.run(4 * recording(2, 200))
        assert "range" in stream.kinds()
        for _ in range(2):
            stream.run(recording(2))
        time.sleep(0.25)
        stream.monitor.poll()
        assert not stream.kinds()
        assert {a.kind for a in stream.monitor.alarms} >= {"range", "rate"}


def test_silence_is_named() -> None:
    """A microphone that is off: less events than in the quietest window of calibration."""
    with Stream() as stream:
        stream.run(recording(1))
        stream.run(np.zeros((300, stream.network.inputs)))
        assert "rate" in stream.kinds() and "stuck" in stream.kinds()
        assert any("less than in" in a.text for a in stream.monitor.alarms.active)


def test_stuck_sensor() -> None:
    """One element keeps its value: named by its number, since the step at which it stopped."""
    with Stream() as stream:
        stream.run(recording(1))
        x = recording(3)
        x[100:, 4] = x[100, 4]
        stream.run(x)
        alarm = stream.alarm("stuck")
        assert alarm.where == "input 4" and "element 4 of the input has not changed" in alarm.text
        assert 500 <= alarm.step <= 501


@pytest.mark.parametrize("window", [1, None])
def test_cut_cable(window) -> None:
    """The driver says so, the monitor shows it, and a program that goes on is followed."""
    with Stream() as stream:
        x = recording(1, 60)
        got = []
        with pytest.raises(ConnectionLost, match="check cable and power"):
            for k, y in enumerate(stream.engine.stream(x, window=window)):
                got.append(y)
                stream.board.cut |= k == 20
        assert stream.monitor.poll()
        alarm = stream.alarm("fault")
        assert "stopped answering" in alarm.text and alarm.step >= 20
        assert stream.monitor.document["faults"] == 1
        stream.board.cut = False
        stream.engine.clear()
        y = stream.run(x, window)
        np.testing.assert_array_equal(y, Reference(stream.network).run(x))
        np.testing.assert_array_equal(got, y[: len(got)])
        assert "fault" not in stream.kinds()
        assert [a.kind for a in stream.monitor.alarms if not a.active] == ["fault"]


def test_bytes_that_are_lost() -> None:
    """Repaired by the link, and counted."""
    with Stream() as stream:
        x = recording(1, 80)
        got = []
        for k, y in enumerate(stream.engine.stream(x, window=1)):
            got.append(y)
            stream.board.lose = int(k % 20 == 7)
        stream.monitor.poll()
        np.testing.assert_array_equal(got, Reference(stream.network).run(x))
        assert "sent again" in stream.alarm("link").text
        assert stream.monitor.document["link"]["repeated"] >= 4


def test_slow_host() -> None:
    """The program is late, not the board: the board is not blamed."""
    with Stream(deadline=0.02) as stream:

        def frames():
            for k, row in enumerate(recording(1, 60)):
                time.sleep(0.05 if 20 <= k < 30 else 0.001)
                yield row

        stream.run(frames())
        assert stream.monitor.document["host_late"] >= 10
        assert "began too late: the program, or its computer" in stream.alarm("host").text


def test_who_is_late_by_the_clocks() -> None:
    """Exactly: the host's time between steps, the board's within one, and a pause of neither."""
    now, board = [100.0], [5.0]
    watch = Watch(deadline=0.010, clock=lambda: board[0], host_clock=lambda: now[0])
    for between, within, late, missed in (
        (0.000, 0.004, 0, 0),
        (0.006, 0.004, 0, 0),
        (0.010, 0.004, 0, 0),
        (0.012, 0.004, 1, 0),  # 12 + 4 ms since the step before began
        (0.002, 0.011, 0, 1),
        (0.003, 0.004, 0, 0),
        (0.005, 0.004, 0, 0),
        (0.250, 0.004, 0, 0),  # a pause
    ):
        before = watch.document()
        now[0] += between
        watch.sent(np.zeros(0, np.int64), {})
        board[0] += within
        watch.answered(np.zeros(0, np.int64), {})
        document = watch.document()
        assert document["host_late"] - before["host_late"] == late, between
        assert document["misses"] - before["misses"] == missed, between


def test_slow_board() -> None:
    with Stream(deadline=0.02) as stream:
        stream.run(recording(1, 30))
        stream.board.seconds = 0.025
        stream.run(recording(1, 10))
        assert "took longer than 20 ms" in stream.alarm("deadline").text
        assert stream.monitor.document["misses"] >= 10


def test_clipped_values() -> None:
    with Stream() as stream:
        stream.run(recording(1))
        stream.board.counters[Register.SATURATIONS] += 400
        stream.run(recording(2))
        assert "clipped to 16 bits" in stream.alarm("saturation").text


def streaming(stream: Stream, x: np.ndarray) -> threading.Thread:
    """Streams in a thread."""
    thread = threading.Thread(target=lambda: list(stream.engine.stream(x, window=1)))
    thread.start()
    return thread


def checks(stream: Stream, count: int) -> list:
    """Verdicts of a canary on a stream that goes on."""
    found: list = []
    while len(found) < count:
        thread = streaming(stream, recording(len(found), 200))
        while thread.is_alive():
            stream.monitor.poll()
            verdict = stream.monitor.check()
            found += [] if verdict is None else [verdict]
        thread.join()
    stream.monitor.poll()
    return found


def test_canary_of_a_board_that_computes_wrong() -> None:
    options = {"canary": Canary(network(), model()), "every": 20, "burst": 3}
    with Stream(seconds=0.002, monitor=options) as stream:
        good = checks(stream, 2)
        assert all(v.difference is None for v in good)
        assert all(0 < v.error < 0.1 for v in good)
        assert not stream.kinds() & {"canary"} and stream.monitor.checked >= 6
        stream.board.wrong = 1
        bad = checks(stream, 1)
        assert "output 0 is" in bad[-1].difference and stream.monitor.different >= 1
        assert "something else than the reference: step" in stream.alarm("canary").text
        stream.board.wrong = 0
        checks(stream, 2)
        assert "canary" not in stream.kinds()


def test_canary_knows_of_changed_thresholds() -> None:
    """The network file has other ones than the board since the program changed them."""
    options = {"canary": Canary(network()), "every": 10, "burst": 5}
    with Stream(seconds=0.002, monitor=options) as stream:
        stream.engine.set_threshold("input", 9000, integer=True)
        changed = copy.copy(stream.network)
        changed.input_threshold = 9000
        stream.board.reference.network = changed
        assert all(v.difference is None for v in checks(stream, 3))
        assert stream.network.input_threshold != 9000

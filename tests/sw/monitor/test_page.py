"""What is shown: Prometheus' own parser and a browser read the numbers of the driver."""

from __future__ import annotations

import json
import re
import socket
import struct
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import closing, contextmanager

import numpy as np
import pytest
from prometheus_client.parser import text_string_to_metric_families

from stillnet.sw.cli.main import main
from stillnet.sw.contract.errors import StillnetError
from stillnet.sw.contract.registers import LIMITS
from stillnet.sw.host.board_engine import board_engine, run_on_board
from stillnet.sw.monitor.canary import Canary
from stillnet.sw.monitor.client import Client, NoDriver
from stillnet.sw.monitor.figures import CAUSES, limited_by, recent
from stillnet.sw.monitor.metrics import prometheus_text
from stillnet.sw.monitor.monitor import Monitor
from stillnet.sw.monitor.server import serve_page
from tests.support.streams import Stream, model, network, recording


@contextmanager
def page(monitor: Monitor) -> Iterator[str]:
    """The page's address, while it is served in a thread."""
    stop, there = threading.Event(), threading.Event()
    addresses: list[str] = []

    def say(address: str) -> None:
        addresses.append(address)
        there.set()

    work = threading.Thread(target=serve_page, args=(monitor, 0), kwargs={"say": say, "stop": stop})
    work.start()
    assert there.wait(30)
    try:
        yield addresses[0]
    finally:
        stop.set()
        work.join(20)


def get(url: str) -> str:
    with urllib.request.urlopen(url, timeout=20) as answer:
        return answer.read().decode()


def samples(text: str) -> dict[tuple, float]:
    """Every number, by name and labels."""
    return {
        (s.name, *sorted(s.labels.values())): s.value
        for family in text_string_to_metric_families(text)
        for s in family.samples
    }


def test_prometheus_reads_the_numbers() -> None:
    with Stream(deadline=0.5, monitor={"canary": Canary(network(), model())}) as stream:
        stream.run(recording(1))
        stream.board.lose = 1
        stream.run(recording(2, 50))
        counters = stream.engine.counters()
        stream.monitor.poll()
        with page(stream.monitor) as address:
            found = samples(get(f"{address}/metrics"))
            assert "stillnet monitor" in get(f"{address}/")
        document = stream.monitor.document
        assert found["stillnet_up",] == 1
        assert found["stillnet_steps_total",] == 450
        for key in ("words", "cycles", "saturations"):
            assert found[f"stillnet_{key}_total",] == counters[key]
        for name, count in counters["events"].items():
            assert found["stillnet_events_total", name] == count > 0
        assert found["stillnet_step_seconds_count",] == 450
        assert found["stillnet_step_seconds_sum",] == document["times"]["sum"]
        bounds = [(float(k[1]), v) for k, v in found.items() if k[0].endswith("seconds_bucket")]
        times = np.array([v for _, v in sorted(bounds)])
        assert (np.diff(times, prepend=0) == document["times"]["counts"]).all()
        limits = {k[1]: v for k, v in found.items() if k[0] == "stillnet_limited_by"}
        assert limits == {cause: cause == counters["limited_by"] for cause in CAUSES}
        session = stream.engine.session
        assert found["stillnet_link_bytes_total", "sent"] == session.sent_bytes > 0
        assert found["stillnet_link_bytes_total", "received"] == session.received_bytes > 0
        assert found["stillnet_deadline_seconds",] == 0.5
        assert found["stillnet_deadline_misses_total", "board"] == document["misses"]
        repeated = found["stillnet_link_errors_total", "repeated"]
        assert repeated == document["link"]["repeated"] > 0
        assert found["stillnet_alarm", "line", "link"] == 1
        assert found["stillnet_canary_mismatches_total",] == 0


def test_late_events_and_budgets_where_the_counters_have_them() -> None:
    """Both come with boards that have budgets; without, nothing is said of them."""
    with Stream() as stream:
        stream.run(recording(1))
        monitor = stream.monitor
        text = prometheus_text(monitor)[0].decode()
        assert "stillnet_late" not in text and "budget" not in text
        counters = monitor.document["counters"]
        counters["late"] = {"gru0": 7, "input": 0}
        counters["budgets"] = {"gru0": 5}
        found = samples(prometheus_text(monitor)[0].decode())
        assert found["stillnet_late_total", "gru0"] == 7
        assert found["stillnet_budget_events", "gru0"] == 5
        block = {**monitor.blocks[-1]}
        block["counters"] = {**block["counters"], "late": {"gru0": 3}}
        monitor._faults(block)
        assert "3 events in" in stream.alarm("late").text


def test_what_limits_the_steps() -> None:
    """The engine's own cycles, or a line that carries fewer steps than the engine does."""
    with Stream() as stream:
        stream.board.baud = 3_000_000
        stream.engine.load(stream.network)
        stream.run(recording(1))
        stream.engine.counters()
        stream.monitor.poll()
        now, facts = recent(stream.monitor.blocks), stream.monitor.document["facts"]
        found, size = limited_by(now, facts), 2 * stream.network.inputs
        assert now["moved"]["sent"] > size and found["link"] < facts["baud"] / 10 / size
        assert found["engine"] == facts["clock_hz"] / now["cycles"]
        for baud, engine in ((None, True), (1 << 40, True), (9600, False)):
            by = limited_by(now, {**facts, "baud": baud})["by"]
            assert by == (stream.engine.counters()["limited_by"] if engine else "link")
        for cause, counter in LIMITS.items():
            busy = {**now, **{r.name.lower(): 0.1 for r in LIMITS.values()}}
            busy[counter.name.lower()] = 0.2
            assert limited_by(busy, {**facts, "baud": None})["by"] == cause
        assert limited_by({}, facts)["by"] is None


def test_metrics_without_a_driver() -> None:
    monitor = Monitor(Client("127.0.0.1:1"))
    assert not monitor.poll()
    found = samples(prometheus_text(monitor)[0].decode())
    assert found == {
        ("stillnet_up",): 0,
        ("stillnet_alarm", "127.0.0.1:1", "driver"): 1,
    }


# -- the driver's side ----------------------------------------------------------------------------


def test_what_the_driver_answers() -> None:
    with Stream() as stream:
        base = f"http://{stream.address}"
        assert json.loads(get(f"{base}/state"))["version"] == 1
        for path, status in (("/", 404), ("/state?after=x", 400)):
            with pytest.raises(urllib.error.HTTPError) as error:
                get(base + path)
            assert error.value.code == status


def test_one_who_leaves_is_no_fault(capfd) -> None:
    """The program's terminal stays as it is."""
    with Stream() as stream:
        host, port = stream.address.split(":")
        for _ in range(3):
            with socket.create_connection((host, int(port))) as line:
                line.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                line.sendall(b"GET /steps?count=3 HTTP/1.1\r\nHost: x\r\n")
        time.sleep(0.3)
        stream.run(recording(1, 40))
    assert capfd.readouterr().err == ""


def test_addresses() -> None:
    assert Client("4001").name == "127.0.0.1:4001"
    assert Client("pi.local").name == "pi.local:4001"
    assert Client("pi.local:5").name == "pi.local:5"
    for wrong in ("", "http://pi", "a:99999"):
        with pytest.raises(StillnetError, match="is not HOST:PORT, as in 127.0.0.1:4001$"):
            Client(wrong)
    with pytest.raises(NoDriver, match=r"^no driver answers at 127.0.0.1:1 \(.*\); start the pro"):
        Client("127.0.0.1:1").state()


# -- the command ----------------------------------------------------------------------------------


def test_command_line(tmp_path, capsys) -> None:
    net = str(tmp_path / "net.safetensors")
    network().save(net)
    model().save(tmp_path / "model.safetensors")
    with Stream(seconds=0.002, deadline=0.5) as stream:
        stream.run(recording(1))
        assert main(["monitor", net, "--attach", stream.address, "--once", "--json"]) == 0
        shown = json.loads(capsys.readouterr().out)
        assert shown["steps"] == 400 and shown["alarms"] == []
        assert shown["counters"]["events"] == stream.engine.counters()["events"]
        work = threading.Thread(
            target=lambda: list(stream.engine.stream(recording(2, 1000), window=1))
        )
        work.start()
        options = ["--canary", "5", "--float", str(tmp_path / "model.safetensors")]
        assert main(["monitor", net, "--attach", stream.address, "--once", *options]) == 0
        work.join()
        text = capsys.readouterr().out
        assert "network 'network' on puppet: running" in text
        assert "canary: 1 steps computed again, all equal" in text
        assert "error against the float model: 0.0" in text
    for arguments, message in (
        (["--attach", "127.0.0.1:1", "--once"], "no driver answers at 127.0.0.1:1"),
        (["--canary", "5"], "--canary needs the network: stillnet monitor NET --canary N"),
        ([net, "--float", "model.safetensors"], "--float needs --canary N, which says how often"),
        (["--port", "99999"], "--port must be 0 to 65535, not 99999"),
        (["--attach", "x:y"], "'x:y' is not HOST:PORT, as in 127.0.0.1:4001"),
    ):
        assert main(["monitor", *arguments]) == 2
        error = capsys.readouterr().err
        assert message in error and error.count("\n") == 1


def test_run_lets_others_look_on() -> None:
    """``stillnet run --option serve=PORT``: a recording at its pace, with a deadline."""
    with Stream() as stream:
        stream.engine.close()
        x, seen = recording(1, 60), []

        def look(what: str, done: int, total: int) -> None:
            if what == "board" and done == 40:
                seen.append(stream.engine.watch.document())

        begin = time.monotonic()
        options = {"serve": 0, "rate": 100, "deadline": 0.5, "progress": look}
        result = run_on_board(network(), x, stream.engine, **options)
        assert result.mismatches == 0 and time.monotonic() - begin > 0.58
        assert seen[0]["steps"] == 41 and seen[0]["deadline"] == 0.5 and seen[0]["period"] == 0.01
        assert stream.engine.watch.document()["counters"]["events"] == result.events


def test_options_of_run_that_cannot_be() -> None:
    for option, value, message in (
        ("serve", 70000, "option 'serve' must be a port, 0 to 65535, not 70000"),
        ("rate", 0, "option 'rate' must be a positive number, not 0"),
        ("deadline", "fast", "option 'deadline' must be a positive number, not 'fast'"),
    ):
        with pytest.raises(StillnetError, match=f"^{message}$"):
            board_engine(network(), recording(1, 5), address="/dev/none", **{option: value})


def test_a_float_model_of_another_network() -> None:
    other = model()
    other.layers = other.layers[:1]
    try:
        with pytest.raises(StillnetError, match="has other layers than network"):
            Canary(network(), other)
    finally:
        model.cache_clear()


# -- a browser ------------------------------------------------------------------------------------


@contextmanager
def command(*arguments: str) -> Iterator[str]:
    """``stillnet monitor`` in a process of its own, as it is used; the address of its page."""
    program = [sys.executable, "-m", "stillnet.sw.cli.main", "monitor", *arguments]
    process = subprocess.Popen(program, stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        said = process.stdout.readline()
        yield re.findall(r"http://[\d.:]+", said)[0]
    finally:
        process.terminate()
        process.wait(20)


def streams_until(stream: Stream, stop: threading.Event) -> None:
    """One recording after the other."""
    k = 0
    while not stop.is_set():
        list(stream.engine.stream(recording(k % 4, 100), window=1))
        k += 1


def number(text: str) -> int:
    return int(text.replace(",", ""))


@pytest.mark.slow
def test_a_browser_sees_live_numbers(tmp_path) -> None:
    """They change while the stream runs, and are those of the counters when it has stopped."""
    from tests.support.browser import Browser

    network().save(tmp_path / "net.safetensors")
    stop = threading.Event()
    with Stream(seconds=0.005, deadline=0.5, interval=0.2) as stream, closing(Browser()) as browser:
        arguments = [str(tmp_path / "net.safetensors"), "--attach", stream.address, "--port", "0"]
        thread = threading.Thread(target=streams_until, args=(stream, stop))
        thread.start()
        try:
            with command(*arguments, "--canary", "50") as address:
                browser.open(address)
                seen, end = [browser.wait_for("steps")], time.monotonic() + 60
                while time.monotonic() < end:
                    time.sleep(0.5)
                    seen.append(browser.texts())
                    if len({s["steps"] for s in seen}) >= 4 and "0 steps" not in seen[-1]["canary"]:
                        break
                steps = [number(s["steps"]) for s in seen]
                assert steps == sorted(steps) and len(set(steps)) >= 4
                assert seen[-1]["status"] == "running"
                stop.set()
                thread.join(60)
                counters = stream.engine.counters()
                expected = {
                    "steps": counters["steps"],
                    "words": counters["words"],
                    "events": sum(counters["events"].values()),
                    "saturations": counters["saturations"],
                    "link errors": 0,
                    "misses": stream.engine.watch.document()["misses"],
                }
                shown, end = {}, time.monotonic() + 60
                while shown != expected:
                    assert time.monotonic() < end, (shown, expected)
                    time.sleep(0.5)
                    texts = browser.texts()
                    shown = {name: number(texts[name]) for name in expected}
                assert number(texts["canary"].split()[0]) >= 1
                assert texts["limited by"] == counters["limited_by"]
                # No other computer is asked for anything.
                assert not [r for r in browser.requests if not r.startswith((address, "data:"))]
                for width in (1280, 390):
                    browser.open(address, width)
                    browser.wait_for("steps")
                    assert browser.evaluate("document.documentElement.scrollWidth") == width
        finally:
            stop.set()
            thread.join(60)

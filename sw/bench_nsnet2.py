"""``stillnet bench nsnet2``: a real network, compressed in several ways, on speech never heard.

NSNet2 (161-400 ReLU, two GRUs of 400, 600, 600, 161) on calibration and test speech of the
repository's examples, which share no sample. A network is made from calibration alone; the test
has two noises, of which ``machine`` is of a kind that calibration does not have. It is no blind
test: its figures were seen while the methods and their constants were developed. Errors are of
integers, by the bit-exact arithmetic of the reference; times come from the cost model.
"""

from __future__ import annotations

import importlib
import os
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from .bench_command import Bench, table
from .compression import CompressOptions, compress, engine_for
from .errors import StillnetError
from .importer import load_model
from .sweep import measure

__all__ = ["BENCH", "CASES", "Case", "nsnet2"]

Progress = Callable[[str, int, int], None]


@dataclass(frozen=True)
class Case:
    """One row.

    Attributes
    ----------
    name : str
        Of the folder of its stages.
    label : str
    options : CompressOptions
    """

    name: str
    label: str
    options: CompressOptions


CASES = (
    Case("int8", "int8, dense, thresholds 0", CompressOptions(bits=8)),
    Case("int4", "int4, dense, thresholds 0", CompressOptions()),
    Case("int4-nearest", "int4, rounded", CompressOptions(method="nearest")),
    Case("lane", "int4, 8 of 16 a lane", CompressOptions(sparsity=0.5, pattern="lane")),
    Case("half", "int4, half gone", CompressOptions(sparsity=0.5)),
    Case("int8-thresholds", "int8, thresholds", CompressOptions(bits=8, max_error=0.02, refits=0)),
    Case(
        "half-unrefitted",
        "int4, half gone, thresholds, no refit",
        CompressOptions(sparsity=0.5, max_error=0.02, refits=0),
    ),
    Case(
        "half-thresholds",
        "int4, half gone, thresholds",
        CompressOptions(sparsity=0.5, max_error=0.02),
    ),
)
"""What is measured. Budgets are of the error on calibration: .02, what the test is to keep, and not
adjusted to what it then shows."""

CLIPS = 3
SECONDS = 30.0


def _data() -> tuple[Any, Any]:
    """The modules ``data`` and ``audio`` of the examples."""
    folder = Path(__file__).resolve().parents[1] / "examples"
    if not (folder / "data.py").is_file():
        raise StillnetError(
            "bench nsnet2 takes its recordings from the folder 'examples' of the repository, which "
            "is not beside this installation; run it from a clone"
        )
    sys.path.insert(0, str(folder))
    try:
        return importlib.import_module("data"), importlib.import_module("audio")
    finally:
        sys.path.remove(str(folder))


def nsnet2(
    *, cases: tuple[Case, ...] = CASES, progress: Progress | None = None
) -> list[dict[str, Any]]:
    """All rows. Stages are kept where ``STILLNET_STAGES`` says, so that a stopped run goes on."""
    data, audio = _data()
    kept = os.environ.get("STILLNET_STAGES")
    model = load_model(data.nsnet2_path())
    calibration = data.calibration_recordings(CLIPS, SECONDS)
    tests = {
        noise: audio.features(audio.stft(data.test_mix(noise=noise)[0]))
        for noise in ("pink", "machine")
    }
    rows = []
    for k, case in enumerate(cases):
        label = case.label

        def tell(what: str, done: int, total: int, label: str = label) -> None:
            if progress:
                progress(f"{label}: {what}", done, total)

        config = engine_for(case.options)
        network = compress(
            model,
            calibration,
            case.options,
            config=config,
            folder=Path(kept) / case.name if kept else None,
            progress=tell,
        )
        if kept:
            network.save(Path(kept) / f"{case.name}.safetensors")
        found = {n: measure(model, network, [x], config) for n, x in tests.items()}
        rows.append(
            {
                "case": label,
                "bits": case.options.bits,
                "pattern": case.options.pattern if case.options.sparsity else "dense",
                "sparsity": case.options.sparsity,
                "method": case.options.method,
                "max_error": case.options.max_error,
                "calibration_error": network.notes["compression"]["output_error"],
                "gain_error": float(np.mean([f["error"] for f in found.values()])),
                **{f"gain_error_{n}": f["error"] for n, f in found.items()},
                "kilobytes": float(np.mean([f["kilobytes"] for f in found.values()])),
                "cycles": float(np.mean([f["cycles"] for f in found.values()])),
                "frame_ms": float(np.mean([f["frame_ms"] for f in found.values()])),
                "frame_ms_from": "cost model",
            }
        )
        if progress:
            progress("cases", k + 1, len(cases))
    return rows


def _markdown(rows: list[dict[str, Any]]) -> str:
    return table(
        rows,
        {
            "case": ("weights", ""),
            "calibration_error": ("error on calibration", ".4f"),
            "gain_error": ("gain error", ".4f"),
            "gain_error_pink": ("pink", ".4f"),
            "gain_error_machine": ("machine, never heard", ".4f"),
            "kilobytes": ("kB a frame", ",.0f"),
            "frame_ms": ("ms a frame", ".2f"),
            "frame_ms_from": ("from", ""),
        },
    )


BENCH = Bench(
    name="nsnet2",
    title="NSNet2, compressed",
    about=(
        "Mean absolute error of the gains against the float network, on test speech with pink "
        "noise and with a kind of noise that calibration has never heard, 5 dB each; networks are "
        "made from calibration speech alone, their methods were developed with the test in sight. "
        "Kilobytes that a frame of 10 ms reads, and its time on a 16-bit SDRAM at 100 MHz."
    ),
    measure=lambda progress: nsnet2(progress=progress),
    markdown=_markdown,
)
"""Registered in the entry-point group ``stillnet.benches``."""

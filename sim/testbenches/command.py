"""A cocotb project for a generated core: ``stillnet testbench``, and the engine ``cocotb``.

The project holds everything that its test needs, so that it runs in other people's simulators and
beside their designs, without stillnet. The engine of ``stillnet run`` is that very project.
"""

from __future__ import annotations

import argparse
import json
import shutil
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

from stillnet.hw.core import core_ports
from stillnet.hw.verilog.generate import core_verilog
from stillnet.sw.cli import options
from stillnet.sw.cli.main import Command
from stillnet.sw.contract.cells import CELLS
from stillnet.sw.contract.config import EngineConfig
from stillnet.sw.contract.errors import StillnetError
from stillnet.sw.contract.fixed import Format, narrow
from stillnet.sw.contract.registers import Control, Region, Register, Status
from stillnet.sw.network.network import Network
from stillnet.sw.network.reference import SECOND, Reference
from stillnet.sw.packing.engine_fit import changed, fit, missing
from stillnet.sw.packing.packer import pack, place
from stillnet.sw.util.files import check_place, write_atomically
from stillnet.sw.util.progress import Progress, silent
from stillnet.sw.util.recordings import load_array
from stillnet.sw.util.results.products import TestbenchResult
from stillnet.sw.util.results.runs import RtlResult

__all__ = ["TESTBENCH", "cocotb_engine", "core_description", "write_project"]

TEMPLATE = Path(__file__).with_name("template")
COUNTERS = ("CYCLES", "WORDS", "STALL_CELL", "STALL_MEMORY", "STALL_EVENTS", "SATURATIONS")
STEPS = 20
"""Steps of a project by default."""


# -- the project ----------------------------------------------------------------------------------


def write_project(
    network: Network,
    x: np.ndarray,
    folder: str | Path,
    *,
    preset: str | Path | EngineConfig = "axi64",
    fitting: bool | None = None,
    steps: int | None = STEPS,
) -> TestbenchResult:
    """Writes a cocotb project for a network on a generated core.

    Parameters
    ----------
    network : Network
    x : array of float, shape (steps, inputs), or of tokens, shape (steps,)
    folder : str or Path
        Made if it is not there.
    preset : str, Path or EngineConfig
        What core to generate.
    fitting : bool, optional
        None: where the preset lacks something that the network needs, it is added. True: also
        formats of columns that save words. False: a network that does not fit is refused.
    steps : int, optional
        Only the first N steps.

    Returns
    -------
    TestbenchResult

    Raises
    ------
    StillnetError
        For a network that the engine has no room for, or an input of the wrong shape.
    """
    base = EngineConfig.load(preset)
    config = _engine(network, base, fitting)
    rows = network.quantize_input(x)[:steps]
    image = pack(network, config).data
    reference = Reference(network, config=config)
    golden = np.stack([reference.step_integers(row) for row in rows])
    folder = Path(folder)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise StillnetError(
            f"cannot make the folder '{folder}': {error.strerror}; choose another place"
        ) from error
    readme = (TEMPLATE / "README.md").read_text()
    texts = {
        "core.v": core_verilog(config, "core"),
        "project.json": json.dumps(core_description(network, config), indent=1) + "\n",
        "README.md": readme.format(network=f"'{network.name}'", steps=len(rows)),
    }
    for name, text in texts.items():
        write_atomically(folder / name, text)
    write_atomically(folder / "image.bin", image)
    for name, values in (("vectors.npy", rows), ("golden.npy", golden)):
        np.save(folder / name, np.asarray(values).astype(np.int16), allow_pickle=False)
    for name in ("test_core.py", "buses.py", "runner.py", "Makefile"):
        shutil.copyfile(TEMPLATE / name, folder / name)
    return TestbenchResult(
        folder=str(folder),
        preset=base.name,
        engine=config.name,
        added=changed(base, config),
        memory=config.memory,
        steps=len(rows),
        words=len(image) // config.word_bytes,
        files=sorted(p.name for p in folder.iterdir() if p.is_file()),
    )


def _engine(network: Network, base: EngineConfig, fitting: bool | None) -> EngineConfig:
    """The preset, or an engine that fits."""
    if fitting:
        return fit(network, base)
    lacks = missing(network, base)
    if lacks and fitting is False:
        raise StillnetError(
            f"preset '{base.name}' lacks {', '.join(lacks)} for network '{network.name}'; leave "
            "--no-fit out, or choose another preset"
        )
    return fit(network, base) if lacks else base


def core_description(network: Network, config: EngineConfig) -> dict[str, Any]:
    """What the test has to know of the core and its network: ``project.json``."""
    sources = {"input": 0}
    for i, layer in enumerate(network.layers):
        sources[layer.name] = i + 1
        if layer.threshold_recurrent is not None:
            sources[f"{layer.name} (recurrent)"] = i + 1 + SECOND
    return {
        "network": network.name,
        "engine": config.name,
        "fingerprint": f"{config.fingerprint:08x}",
        "memory": config.memory,
        "word_bytes": config.word_bytes,
        "inputs": [p.name for p in core_ports(config) if p.direction == "input"],
        "registers": {register.name: int(register) for register in Register},
        "control": {control.name: int(control) for control in Control},
        "status": {status.name: int(status) for status in Status},
        "counters": [*COUNTERS, "STEPS", "LATENCY"],
        "sources": sources,
        "restore": _restore(network, config),
    }


def _restore(network: Network, config: EngineConfig) -> dict[str, Any] | None:
    """How the core takes a state that is not zero, as ``docs/core.md`` says; None for zero."""
    initial = {(i, s): v for i, la in enumerate(network.layers) for s, v in la.initial.items()}
    if not initial:
        return None
    vector = [-1] if network.input_mode.one_hot else [0] * network.inputs
    for i, layer in enumerate(network.layers):
        output = CELLS[layer.cell].output_state
        zero = np.zeros(layer.units, np.int64)
        given = zero if output is None else np.asarray(initial.get((i, output), zero))
        vector += narrow(given, layer.write_shift, Format(16, 0)).tolist()
    bases = place(network, config).unit_base
    state = []
    for (i, name), values in initial.items():
        region = Region.STATE + config.state_names.index(name)
        state.append([region << 28 | bases[i] * config.cell_width, np.asarray(values).tolist()])
    return {"control": int(Control.RESTORE), "vectors": [vector], "state": state}


# -- the engine of ``stillnet run`` ---------------------------------------------------------------


def cocotb_engine(
    network: Network,
    x: np.ndarray,
    *,
    preset: str | Path | EngineConfig = "axi64",
    steps: int | None = None,
    progress: Progress | None = None,
    sim: str = "icarus",
    stall: float = 0.0,
    trace: str | Path | None = None,
    **others: Any,
) -> RtlResult:
    """The project of ``stillnet testbench`` as an engine of ``stillnet run``.

    Parameters
    ----------
    network, x, preset, steps, progress
        As for every engine.
    sim : str
        ``"icarus"`` or ``"verilator"``.
    stall : float
        Chance in each cycle that a stream or the memory pauses.
    trace : str or Path, optional
        Waveforms: FST of Icarus, VCD of Verilator.

    Returns
    -------
    RtlResult
        ``latency`` is None, because vectors go in back to back.

    Raises
    ------
    StillnetError
        For an option that the engine does not have, or a network that it has no room for.
    """
    from .runner import BenchFailed, run_bench

    if others:
        raise StillnetError(
            f"engine 'cocotb' has no option '{next(iter(others))}'; options are sim, stall, trace"
        )
    if not isinstance(stall, (int, float)) or not 0 <= stall < 1:
        raise StillnetError(f"option 'stall' must be a chance below 1, not {stall!r}")
    if trace is not None:
        check_place(trace)
    config = EngineConfig.load(preset)
    progress = progress or silent
    with tempfile.TemporaryDirectory(prefix="stillnet-") as name:
        folder = Path(name)
        write_project(network, x, folder, preset=config, fitting=False, steps=steps)
        progress(f"core with {sim}", 0, 1)
        result = folder / "result.json"
        try:
            run = run_bench(
                (folder / "core.v").read_text(),
                folder / "test_core.py",
                top="core",
                simulator=sim,
                env={"RESULT": result, "STALL": stall},
                seed=1,
                waves=trace is not None,
                run_root=folder / "runs",
            )
            waves = run.waves
        except BenchFailed as error:
            if not result.is_file():
                raise RuntimeError(f"the core did not come to an end: {error}") from error
            waves = next(error.run_dir.glob("dump.*"), None)
        progress(f"core with {sim}", 1, 1)
        found = json.loads(result.read_text())
        golden = np.load(folder / "golden.npy")
        if trace is not None and waves is not None:
            shutil.move(waves, trace)
    return _result(network, config, found, golden, trace)


def _result(
    network: Network,
    config: EngineConfig,
    found: dict[str, Any],
    golden: np.ndarray,
    trace: str | Path | None,
) -> RtlResult:
    """The test's ``result.json`` as the result of a run."""
    counters = found["counters"]
    difference = sentence = None
    if found["wrong"]:
        step, unit = found["wrong"][0]
        layer = network.layers[-1].name
        got, expected = found["outputs"][step][unit], int(golden[step, unit])
        difference = {"what": "output", "layer": layer, "unit": unit, "step": step}
        difference |= {"engine": got, "reference": expected}
        sentence = (
            f"step {step}, layer '{layer}', output of unit {unit}: engine {got}, "
            f"reference {expected}"
        )
    return RtlResult(
        preset=config.name,
        steps=found["steps"],
        mismatches=int(difference is not None),
        difference=sentence,
        first_difference=difference,
        events=counters["events"],
        words=counters["words"],
        cycles=counters["cycles"],
        utilisation=counters["words"] / counters["cycles"] if counters["cycles"] else None,
        saturations=counters["saturations"],
        latency=None,  # vectors go in back to back, so steps overlap
        stall_cell=counters["stall_cell"],
        stall_memory=counters["stall_memory"],
        stall_events=counters["stall_events"],
        rtl_cycles_per_second=round(found["cycles_simulated"] / max(found["seconds"], 1e-9)),
        trace=None if trace is None else str(trace),
        outputs=network.dequantize_output(np.array(found["outputs"])),
    )


# -- the command ----------------------------------------------------------------------------------


def _configure(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    options.add_network(parser)
    add("input", metavar="X.npy", type=Path, help="input vectors, (steps, inputs)")
    options.add_preset(parser)
    options.add_fit(
        parser,
        None,
        "--fit: add to the preset all that the network can use, as 'generate --fit' does; "
        "--no-fit: refuse a network that does not fit; default: add what is missing",
    )
    add(
        "--steps",
        type=options.positive,
        default=STEPS,
        metavar="N",
        help=f"only the first N steps ({STEPS})",
    )
    options.add_output(parser, "FOLDER", "the project", required=True)


def _run(args: argparse.Namespace) -> TestbenchResult:
    return write_project(
        Network.load(args.network),
        load_array(args.input),
        args.output,
        preset=args.preset,
        fitting=args.fit,
        steps=args.steps,
    )


def _show(result: TestbenchResult) -> None:
    if result.added:
        print(
            f"Preset '{result.preset}' lacks {', '.join(result.added)}: the core is "
            f"'{result.engine}', which has them."
        )
    print(
        f"Wrote {result.folder}: core with memory '{result.memory}', image of "
        f"{result.words:,} words, {result.steps} vectors with their golden outputs."
    )
    print(f"Run it: cd {result.folder} && make   (needs cocotb, cocotbext-axi, numpy)")


TESTBENCH = Command(
    name="testbench",
    help="Write a cocotb project for a network on a generated core; it runs without stillnet.",
    configure=_configure,
    run=_run,
    show=_show,
    epilog="""\
examples:
  stillnet testbench net.safetensors x.npy --preset axi64 -o tb/
      core, image, 20 vectors, golden outputs and a test of cocotb; then: cd tb && make
  stillnet testbench net.safetensors x.npy --preset tiny --steps 5 -o tb/
      the same for a core with its memory inside
  stillnet run net.safetensors x.npy --steps 5 --engine cocotb --option sim=verilator
      runs such a project at once and reports like --engine rtl""",
)

"""A cocotb project for a generated core: ``stillnet testbench``, and the engine ``cocotb``.

The project holds everything that its test needs, so that it runs in other people's simulators and
beside their designs, without stillnet. The engine of ``stillnet run`` is that very project.
"""

from __future__ import annotations

import argparse
import json
import shutil
import tempfile
from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np

from stillnet.hw.core import core_ports
from stillnet.hw.verilog.generate import core_verilog
from stillnet.sim.compile.model import started
from stillnet.sw.cli.commands import load_array
from stillnet.sw.cli.main import Command
from stillnet.sw.contract.cells import CELLS
from stillnet.sw.contract.config import PRESETS, EngineConfig
from stillnet.sw.contract.errors import StillnetError
from stillnet.sw.contract.fixed import Format, narrow
from stillnet.sw.contract.registers import Control, Region, Register, Status
from stillnet.sw.network.network import Network
from stillnet.sw.network.reference import SECOND, Reference
from stillnet.sw.packing.engine_fit import fit, lacking
from stillnet.sw.packing.packer import capacities, pack, place
from stillnet.sw.util.files import write_atomically
from stillnet.sw.util.progress import Progress, silent

__all__ = ["TESTBENCH", "cocotb_engine", "write_project"]

TEMPLATE = Path(__file__).with_name("template")
COUNTERS = ("CYCLES", "WORDS", "STALL_CELL", "STALL_MEMORY", "STALL_EVENTS", "SATURATIONS")
STEPS = 20
"""Steps of a project, where nobody says how many."""


# -- the project ----------------------------------------------------------------------------------


def write_project(
    network: Network,
    x: np.ndarray,
    folder: str | Path,
    *,
    preset: str | Path | EngineConfig = "axi64",
    fitting: bool = True,
    steps: int | None = STEPS,
) -> dict[str, Any]:
    """Writes a cocotb project for a network on a generated core.

    Parameters
    ----------
    network : Network
    x : array of float, shape (steps, inputs), or of tokens, shape (steps,)
    folder : str or Path
        Made if it is not there.
    preset : str, Path or EngineConfig
        What core to generate.
    fitting : bool
        Take an engine that fits where the preset lacks what the network asks for.
    steps : int, optional
        Only so many steps.

    Returns
    -------
    dict
        ``folder``, ``engine`` (its name), ``added`` (fields of the configuration that the preset
        lacks), ``steps``, ``words`` of the image, ``files``.

    Raises
    ------
    StillnetError
        For a network that the engine has no room for, or an input of the wrong shape.
    """
    base = EngineConfig.load(preset)
    config, added = _engine(network, base)
    if added and not fitting:
        raise StillnetError(
            f"preset '{base.name}' lacks {', '.join(added)} for network '{network.name}'; leave "
            "--no-fit out, or choose another preset"
        )
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
        "core.v": started(core_verilog(config, "core")),
        "project.json": json.dumps(_description(network, config), indent=1) + "\n",
        "README.md": readme.format(network=f"'{network.name}'", steps=len(rows)),
    }
    for name, text in texts.items():
        write_atomically(folder / name, text)
    write_atomically(folder / "image.bin", image)
    for name, values in (("vectors.npy", rows), ("golden.npy", golden)):
        np.save(folder / name, np.asarray(values).astype(np.int16), allow_pickle=False)
    for name in ("test_core.py", "runner.py", "Makefile"):
        shutil.copyfile(TEMPLATE / name, folder / name)
    return {
        "folder": str(folder),
        "preset": base.name,
        "engine": config.name,
        "added": added,
        "memory": config.memory,
        "steps": len(rows),
        "words": len(image) // config.word_bytes,
        "files": sorted(p.name for p in folder.iterdir() if p.is_file()),
    }


def _engine(network: Network, base: EngineConfig) -> tuple[EngineConfig, list[str]]:
    """The preset, or an engine that fits where it lacks something; and what was added to it."""
    short = [f for f, n in capacities(network, base).items() if n > getattr(base, f)]
    formats = {m.format for layer in network.layers for m in layer.matrices} - {None}
    if not (lacking(network, base) or short or formats - set(base.formats)):
        return base, []
    config = fit(network, base)
    names = (field.name for field in fields(EngineConfig) if field.name != "name")
    return config, [name for name in names if getattr(base, name) != getattr(config, name)]


def _description(network: Network, config: EngineConfig) -> dict[str, Any]:
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
    return {"control": int(Control.RESTORE), "vector": vector, "state": state}


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
    **options: Any,
) -> dict[str, Any]:
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
    dict
        As of the engine ``rtl``.

    Raises
    ------
    StillnetError
        For an option that the engine does not have, or a network that it has no room for.
    """
    from .runner import BenchFailed, run_bench

    if options:
        raise StillnetError(
            f"engine 'cocotb' has no option '{next(iter(options))}'; options are sim, stall, trace"
        )
    if not isinstance(stall, (int, float)) or not 0 <= stall < 1:
        raise StillnetError(f"option 'stall' must be a chance below 1, not {stall!r}")
    progress = progress or silent
    with tempfile.TemporaryDirectory(prefix="stillnet-") as name:
        folder = Path(name)
        write_project(network, x, folder, preset=preset, steps=steps)
        progress(f"core with {sim}", 0, 1)
        result = folder / "result.json"
        difference, waves = None, None
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
        if found["wrong"]:
            (step, unit), golden = found["wrong"][0], np.load(folder / "golden.npy")
            difference = {
                **{"what": "output", "layer": network.layers[-1].name, "unit": unit, "step": step},
                **{"engine": found["outputs"][step][unit], "reference": int(golden[step, unit])},
            }
        if trace is not None and waves is not None:
            shutil.move(waves, trace)
    return _result(network, found, difference, trace)


def _result(
    network: Network, found: dict[str, Any], difference: dict[str, Any] | None, trace: Any
) -> dict[str, Any]:
    counters = found["counters"]
    result: dict[str, Any] = {"steps": found["steps"], "mismatches": int(difference is not None)}
    if difference is not None:
        d = difference
        result["difference"] = (
            f"step {d['step']}, layer '{d['layer']}', output of unit {d['unit']}: engine "
            f"{d['engine']}, reference {d['reference']}"
        )
        result["first_difference"] = difference
    result |= {
        "events": counters["events"],
        "words": counters["words"],
        "cycles": counters["cycles"],
        "utilisation": counters["words"] / counters["cycles"] if counters["cycles"] else None,
        **{name: counters[name] for name in ("stall_cell", "stall_memory", "stall_events")},
        "saturations": counters["saturations"],
        "outputs": network.dequantize_output(np.array(found["outputs"])),
    }
    return result if trace is None else {**result, "trace": str(trace)}


# -- the command ----------------------------------------------------------------------------------


def _configure(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("network", metavar="NET", help="network from 'stillnet quantize'")
    add("input", metavar="X.npy", help="input vectors, (steps, inputs)")
    add("--preset", default="axi64", help=f"{', '.join(PRESETS)}, or a TOML file (axi64)")
    add("--no-fit", action="store_true", help="refuse a network that asks for more than the preset")
    add("--steps", type=int, default=STEPS, metavar="N", help=f"only so many steps ({STEPS})")
    add("-o", "--output", required=True, metavar="FOLDER", help="the project")


def _run(args: argparse.Namespace) -> dict[str, Any]:
    if args.steps < 1:
        raise StillnetError(f"--steps must be at least 1, not {args.steps}")
    return write_project(
        Network.load(args.network),
        load_array(args.input),
        args.output,
        preset=args.preset,
        fitting=not args.no_fit,
        steps=args.steps,
    )


def _show(result: dict[str, Any]) -> None:
    if result["added"]:
        print(
            f"Preset '{result['preset']}' lacks {', '.join(result['added'])}: the core is "
            f"'{result['engine']}', which has them."
        )
    print(
        f"Wrote {result['folder']}: core with memory '{result['memory']}', image of "
        f"{result['words']:,} words, {result['steps']} vectors with their golden outputs."
    )
    print(f"Run it: cd {result['folder']} && make   (needs cocotb, cocotbext-axi, numpy)")


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

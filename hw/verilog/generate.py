"""A core as Verilog, with a description for programs and an example for people."""

from __future__ import annotations

import ast
import inspect
import json
import re
from enum import IntEnum, IntFlag
from importlib import metadata
from pathlib import Path
from typing import Any

from stillnet.hw.core import Core, Port, axi_address_bits, core_ports
from stillnet.sw.contract import image, registers
from stillnet.sw.contract.cells import CELLS
from stillnet.sw.contract.cells.report import cell_report
from stillnet.sw.contract.config import EngineConfig
from stillnet.sw.contract.errors import StillnetError
from stillnet.sw.contract.registers import Control, Error, Region, Register, Status
from stillnet.sw.util.files import write_atomically
from stillnet.sw.util.results import GenerateResult

from .text import readable_verilog, to_verilog

__all__ = ["core_verilog", "describe_core", "example_verilog", "generate", "register_document"]

CAPACITIES = (
    "units",
    "inputs",
    "accumulators",
    "layers",
    "matrices",
    "address_bits",
    "fetch_columns",
    "fetch_words",
    "ram_words",
)

_KEYWORDS = frozenset(
    [
        "always",
        "and",
        "assign",
        "begin",
        "buf",
        "case",
        "casex",
        "casez",
        "cell",
        "config",
        "deassign",
        "default",
        "defparam",
        "design",
        "disable",
        "edge",
        "else",
        "end",
        "endcase",
        "endmodule",
        "event",
        "for",
        "force",
        "forever",
        "fork",
        "function",
        "generate",
        "genvar",
        "if",
        "initial",
        "inout",
        "input",
        "instance",
        "integer",
        "join",
        "large",
        "library",
        "logic",
        "macromodule",
        "medium",
        "module",
        "nand",
        "negedge",
        "nor",
        "not",
        "or",
        "output",
        "parameter",
        "posedge",
        "primitive",
        "pulldown",
        "pullup",
        "real",
        "realtime",
        "reg",
        "release",
        "repeat",
        "scalared",
        "signed",
        "small",
        "specify",
        "supply0",
        "supply1",
        "table",
        "task",
        "time",
        "tri",
        "trireg",
        "unsigned",
        "use",
        "vectored",
        "wait",
        "wand",
        "while",
        "wire",
        "wor",
        "xnor",
        "xor",
    ]
)


# -- descriptions ---------------------------------------------------------------------------------


def _documents(enum: type) -> dict[str, str]:
    """Docstrings of the members of an enum, which Python itself does not keep."""
    tree = ast.parse(inspect.getsource(registers))
    body = next(c for c in tree.body if isinstance(c, ast.ClassDef) and c.name == enum.__name__)
    found = {}
    for before, after in zip(body.body, body.body[1:]):
        text = isinstance(after, ast.Expr) and isinstance(after.value, ast.Constant)
        if isinstance(before, ast.Assign) and text:
            name = before.targets[0].id  # type: ignore[attr-defined]
            found[name] = " ".join(after.value.value.split())  # type: ignore[attr-defined]
    return found


def _entries(enum: type[IntEnum] | type[IntFlag], key: str) -> list[dict[str, Any]]:
    documents = _documents(enum)
    return [
        {key: int(m), "name": m.name, "doc": _plain(documents.get(m.name or "", ""))} for m in enum
    ]


def _plain(text: str) -> str:
    """Docstring markup as Markdown: ``code`` and references become `code`."""
    return re.sub(r"``([^`]*)``|:\w+:`([^`]*)`", lambda m: f"`{m[1] or m[2]}`", text)


def describe_core(config: EngineConfig, name: str = "core") -> dict[str, Any]:
    """What the JSON beside the Verilog says; plain values.

    Parameters
    ----------
    config : EngineConfig
    name : str
        The top module.
    """
    entries = _entries(Register, "index")
    if config.memory == "axi4":
        entries = [{**e, "byte_address": 4 * e["index"]} for e in entries]
    return {
        "module": name,
        "stillnet": metadata.version("stillnet"),
        "preset": config.name,
        "fingerprint": f"{config.fingerprint:08x}",
        "image_version": image.VERSION,
        "config": config.to_dict(),
        "capacities": {field: getattr(config, field) for field in CAPACITIES},
        "word_bits": config.word_bits,
        "memory": config.memory,
        "state_names": list(config.state_names),
        "cells": _cells(config),
        "ports": [
            {
                "name": p.name,
                "direction": p.direction,
                "width": p.width,
                "group": p.group,
                "meaning": p.meaning,
            }
            for p in core_ports(config)
        ],
        "registers": entries,
        "control_bits": _entries(Control, "mask"),
        "status_bits": _entries(Status, "mask"),
        "errors": _entries(Error, "code"),
        "state_regions": _entries(Region, "region"),
    }


def register_document() -> str:
    """The page ``docs/registers.md``, from the enums of ``contract.registers``."""

    def table(enum: type[IntEnum] | type[IntFlag], key: str, title: str, head: str) -> list[str]:
        lines = [f"## {title}", "", head, "", f"| {key} | name | meaning |", "|---|---|---|"]
        for entry in _entries(enum, key):
            value = f"0x{entry[key]:02x}" if enum is Register else str(entry[key])
            if enum is Register:
                value = f"{entry[key]} | 0x{4 * entry[key]:02x}"
            lines.append(f"| {value} | `{entry['name']}` | {entry['doc']} |")
        return [*lines, ""]

    lines = [
        "# Registers",
        "",
        "Written by `stillnet.hw.verilog.generate.register_document()` from "
        "`sw/contract/registers.py`; "
        "change it there.",
        "",
        "All registers have 32 bits. The index counts registers: it is the address on the plain "
        "register bus. On AXI4-Lite the byte address is four times that; a write must strobe all "
        "four bytes. Counters are cleared together by `CLEAR_COUNTERS` and wrap around at 2**32. "
        "How they are used in turn: [core.md](core.md).",
        "",
        *table(Register, "index", "Registers", "A read of another index gives no defined value."),
        *table(Control, "mask", "CONTROL", "Bits of `CONTROL`; each starts one action."),
        *table(Status, "mask", "STATUS", "Bits of `STATUS`; an error code stands in bits 15:8."),
        *table(Error, "code", "Error codes", "Why an image was refused."),
        *table(
            Region,
            "region",
            "State regions",
            "Bits 31:28 of `STATE_SELECT`; the element's index stands in bits 27:0.",
        ),
    ]
    text = "\n".join(lines)
    text = text.replace(
        "| index | name | meaning |\n|---|---|---|",
        "| index | byte address | name | meaning |\n|---|---|---|---|",
    )
    return text


def _cells(config: EngineConfig) -> list[dict[str, Any]]:
    """What the pipeline of each cell takes. They share nothing: each has its own multipliers."""
    fields = ("cell", "latency", "multipliers", "table_blocks", "state_bits", "registers", "comb")
    found = []
    for name in config.cells:
        report = cell_report(CELLS[name], config.cell_sharing)
        values = {field: report[field] for field in fields}
        for field in ("multipliers", "table_blocks", "registers", "comb"):
            values[field] *= config.cell_width
        values["cycles_per_unit"] = config.cell_sharing / config.cell_width
        found.append(values)
    return found


# -- Verilog --------------------------------------------------------------------------------------


def _check_name(name: str) -> str:
    if not re.fullmatch(r"[A-Za-z][A-Za-z0-9_]*", name) or name in _KEYWORDS:
        raise StillnetError(
            f"'{name}' cannot be the name of a Verilog module; choose a file name of letters, "
            "digits and underscores that is no word of Verilog, such as core.v"
        )
    return name


def _header(config: EngineConfig, name: str, about: str) -> str:
    fields = config.to_toml().splitlines()
    lines = [
        f"{name}: {about}",
        "",
        f"Generated by stillnet {metadata.version('stillnet')}. Configuration '{config.name}', "
        f"fingerprint {config.fingerprint:08x}, image version {image.VERSION}.",
        "Images are packed for exactly this configuration:",
        "",
        *(f"  {field}" for field in fields),
    ]
    return "".join(f"// {line}".rstrip() + "\n" for line in lines)


_WAIVERS = """\
// Expressions of different widths are meant here: values are extended as Verilog does it. Cases
// that are not listed keep the value assigned before the case.
/* verilator lint_off WIDTHEXPAND */
/* verilator lint_off WIDTHTRUNC */
/* verilator lint_off CASEINCOMPLETE */
"""

_HOW_TO_READ = """
// Modules follow the block diagram: engine_input_encoder, engine_scheduler, engine_fetcher,
// engine_lanes, engine_reader, engine_cells, engine_write_back. In each, registers are followed by
// the logic of their next value. Signals n1, n2, ... have no name in the source;
// `if (run_once) begin end` makes simulators evaluate a block at time zero.
"""


def core_verilog(config: EngineConfig, name: str = "core") -> str:
    """The Verilog of a core: one file that needs no other, for any tool.

    Parameters
    ----------
    config : EngineConfig
    name : str
        The top module; the names of all others begin with it.
    """
    comments = {p.name: f"{p.group}\n{p.meaning}" for p in core_ports(config)}
    text = readable_verilog(to_verilog(Core(config), _check_name(name)), name, comments)
    about = "an accelerator for streaming recurrent networks"
    text = (
        _header(config, name, about)
        + _HOW_TO_READ.replace("engine_", f"{name}_engine_", 1)
        + ("\n" + _WAIVERS + "\n`default_nettype none\n\n" + text + "\n`default_nettype wire\n")
    )
    return text + "".join(
        f"/* verilator lint_on {w} */\n" for w in re.findall(r"lint_off (\w+)", _WAIVERS)
    )


def example_verilog(config: EngineConfig, name: str = "core") -> str:
    """A module that instantiates the core, to be copied from."""
    ports = core_ports(config)
    outer = [p for p in ports if p.name not in ("clk", "rst", "memory_base")]
    base = f"  parameter [{axi_address_bits(config) - 1}:0] MEMORY_BASE = 'h1000_0000\n"
    parameters = f"#(\n{base}) " if config.memory == "axi4" else ""

    def width(port: Port) -> str:
        return f"[{port.width - 1}:0] " if port.width > 1 else ""

    lines = [
        f"module {name}_example {parameters}(",
        "  input wire aclk,",
        "  input wire aresetn,  // active low, as AXI has it",
    ]
    group = None
    for k, p in enumerate(outer):
        if p.group != group:
            group = p.group
            lines += ["", f"  // {p.group}"]
        lines.append(f"  {p.direction} wire {width(p)}{p.name}{',' if k < len(outer) - 1 else ''}")
    lines += [
        ");",
        "  // The core's reset is active high and synchronous.",
        "  reg [1:0] reset = 2'b11;",
        "  always @(posedge aclk) reset <= {reset[0], ~aresetn};",
        "",
        f"  {name} {name}_0 (",
        "    .clk(aclk),",
        "    .rst(reset[1]),",
    ]
    if config.memory == "axi4":
        lines.append("    .memory_base(MEMORY_BASE),")
    lines += [f"    .{p.name}({p.name})," for p in outer]
    lines[-1] = lines[-1].rstrip(",")
    lines += ["  );", "endmodule"]
    steps = {
        "axi4": "the image lies in memory at MEMORY_BASE + IMAGE_BASE * word",
        "ram": "write the image through MEMORY_ADDRESS and MEMORY_DATA",
        "port": "the image lies in the memory behind mem_*",
    }[config.memory]
    notes = (
        f"\n// To start: {steps}; write IMAGE_BASE,\n"
        "// then LOAD to CONTROL; read STATUS until it is LOADED and IDLE. Then vectors may come.\n"
        f"// Registers are listed in {name}.json and in docs/registers.md.\n\n"
    )
    return (
        _header(config, f"{name}_example", "how the core is instantiated")
        + notes
        + ("\n".join(lines) + "\n")
    )


def generate(config: EngineConfig | str | Path, output: str | Path) -> GenerateResult:
    """Writes a core: Verilog, its description in JSON, an example of its use, its configuration.

    ``core.v``, ``core.json``, ``core_example.v``, ``core_config.toml`` for the output ``core.v``.
    Each file is complete or absent, and none is written before all have been made.

    ::

        import stillnet as sn

        result = sn.generate("axi64", "core.v")
        print(result.files["verilog"], result.fingerprint, len(result.ports))

    Parameters
    ----------
    config : EngineConfig, or name of a preset, or path of a TOML file
    output : str or Path
        The Verilog file. Its stem is the name of the top module.

    Returns
    -------
    GenerateResult
        The content of the JSON, and ``files``, their paths by kind.

    Raises
    ------
    StillnetError
        For a configuration or an output that cannot be.
    """
    if not isinstance(config, EngineConfig):
        config = EngineConfig.load(config)
    output = Path(output)
    if output.suffix != ".v":
        raise StillnetError(f"output '{output}' must end in .v, as core.v does")
    name = _check_name(output.stem)
    if output.is_dir() or not output.parent.is_dir():
        problem = "is a folder" if output.is_dir() else f"needs the folder '{output.parent}'"
        raise StillnetError(f"cannot write '{output}': it {problem}; choose another place")
    description = describe_core(config, name)
    texts = {
        "verilog": (output, core_verilog(config, name)),
        "example": (output.with_name(f"{name}_example.v"), example_verilog(config, name)),
        "json": (output.with_suffix(".json"), json.dumps(description, indent=2) + "\n"),
        "config": (output.with_name(f"{name}_config.toml"), config.to_toml()),
    }
    for path, text in texts.values():
        write_atomically(path, text)
    files = {kind: str(path) for kind, (path, _) in texts.items()}
    return GenerateResult(**description, files=files)

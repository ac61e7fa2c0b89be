"""What a core is, for programs and for documents."""

from __future__ import annotations

import ast
import inspect
import re
import sys
from enum import IntEnum, IntFlag
from importlib import metadata
from typing import Any

from stillnet.hw.core import core_ports
from stillnet.sw.contract import image
from stillnet.sw.contract.cells import CELLS
from stillnet.sw.contract.cells.report import cell_report
from stillnet.sw.contract.config import EngineConfig
from stillnet.sw.contract.registers import (
    SDRAM_COUNT_BITS,
    Control,
    Error,
    Region,
    Register,
    SdramCounter,
    Status,
)
from stillnet.sw.contract.window import Interrupt, StreamRegister

__all__ = ["describe_core", "header", "register_document"]

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


def _documents(enum: type) -> dict[str, str]:
    """Docstrings of the members of an enum, which Python itself does not keep."""
    tree = ast.parse(inspect.getsource(sys.modules[enum.__module__]))
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


def describe_core(
    config: EngineConfig, name: str = "core", streams: str = "axis"
) -> dict[str, Any]:
    """What the JSON beside the Verilog says; plain values.

    Parameters
    ----------
    config : EngineConfig
    name : str
        The top module.
    streams : str
        One of ``hw.core.STREAMS``.
    """
    entries = _entries(Register, "index")
    by_registers = streams == "registers"
    if by_registers:
        entries += _entries(StreamRegister, "index")
    if config.memory == "axi4" or by_registers:
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
        "streams": streams,
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
            for p in core_ports(config, streams)
        ],
        "registers": entries,
        "control_bits": _entries(Control, "mask"),
        "status_bits": _entries(Status, "mask"),
        "errors": _entries(Error, "code"),
        "interrupts": _entries(Interrupt, "mask") if by_registers else [],
        "state_regions": _entries(Region, "region"),
    }


def register_document() -> str:
    """The page ``docs/registers.md``, from the enums of ``contract.registers``."""

    def table(enum: type[IntEnum] | type[IntFlag], key: str, title: str, head: str) -> list[str]:
        lines = [f"## {title}", "", head, "", f"| {key} | name | meaning |", "|---|---|---|"]
        for entry in _entries(enum, key):
            value = str(entry[key])
            if enum in (Register, StreamRegister):
                value = f"{entry[key]} | 0x{4 * entry[key]:02x}"
            lines.append(f"| {value} | `{entry['name']}` | {entry['doc']} |")
        return [*lines, ""]

    lines = [
        "# Registers",
        "",
        "Written by `stillnet.hw.verilog.describe.register_document()` from "
        "`sw/contract/registers.py`; "
        "change it there.",
        "",
        "All registers have 32 bits. The index counts registers: it is the address on the plain "
        "register bus. On AXI4-Lite the byte address is four times that; a write must strobe all "
        "four bytes. Counters are cleared together by `CLEAR_COUNTERS` and wrap around at 2**32. "
        "How they are used in turn: [core.md](core.md).",
        "",
        *table(Register, "index", "Registers", "A read of another index gives no defined value."),
        *table(
            StreamRegister,
            "index",
            "Streams by registers",
            "Only in a core that was generated with `--streams registers`.",
        ),
        *table(Interrupt, "mask", "INTERRUPTS", "Bits of `INTERRUPTS`, only there."),
        *table(Control, "mask", "CONTROL", "Bits of `CONTROL`; each starts one action."),
        *table(Status, "mask", "STATUS", "Bits of `STATUS`; an error code stands in bits 15:8."),
        *table(Error, "code", "Error codes", "Why an image was refused."),
        *table(
            Region,
            "region",
            "State regions",
            "Bits 31:28 of `STATE_SELECT`; the element's index stands in bits 27:0.",
        ),
        *table(
            SdramCounter,
            "number",
            "What SDRAM_SELECT selects",
            "Bits 3:0 of `SDRAM_SELECT`, on boards that count what their SDRAM does. Counters have "
            f"{SDRAM_COUNT_BITS} bits.",
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


def header(config: EngineConfig, name: str, about: str) -> str:
    """The comment that a generated file begins with: what it is, and for which engine."""
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

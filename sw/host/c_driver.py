"""The host driver in C: its two files, and two headers that are made for an engine.

``stillnet.h`` and ``stillnet.c`` are in the folder ``c``. What they take from the contract is
written here into ``stillnet_constants.h``, and what depends on the engine into
``stillnet_engine.h``, so that no number stands twice.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from enum import IntEnum, IntFlag
from importlib import metadata
from pathlib import Path

from stillnet.sw.contract import image, link, registers, sources
from stillnet.sw.contract.cells import CELLS
from stillnet.sw.contract.config import MAX_STATE_NAMES, EngineConfig
from stillnet.sw.contract.errors import StillnetError
from stillnet.sw.contract.events import Mode
from stillnet.sw.contract.fixed import ACTIVATION_BITS, EVENT_BITS
from stillnet.sw.contract.image import CRC_RECORD, Record, Table, matrix_records
from stillnet.sw.contract.registers import COUNTERS, Control, Error, Region, Register, Status
from stillnet.sw.contract.vectors.changes import BLOCK, FULL_WIDTH, WANTED_SHIFT, WIDTH_BITS, Form
from stillnet.sw.contract.window import Interrupt, StreamRegister
from stillnet.sw.packing.packer import Image
from stillnet.sw.util.files import check_place, make_folder, write_atomically
from stillnet.sw.util.results.products import CDriverResult

from .driver import REFUSALS

__all__ = ["constants_header", "engine_header", "network_header", "write_c_driver"]

SOURCES = Path(__file__).with_name("c")
FILES = ("stillnet.h", "stillnet.c")


@dataclass(frozen=True)
class _Group:
    """Constants that belong together, each ``STILLNET_PREFIX_NAME``."""

    title: str
    prefix: str
    values: dict[str, int]


def _members(enum: type[IntEnum] | type[IntFlag]) -> dict[str, int]:
    return {str(member.name): int(member) for member in enum}


def _groups() -> list[_Group]:
    limits = {
        "IMAGE_MAGIC": image.MAGIC,
        "IMAGE_VERSION_NUMBER": image.VERSION,
        "SLOT_BYTES": image.SLOT_BYTES,
        "HEADER_SLOTS": len(image.HEADER),
        "LAYER_SLOTS": len(image.LAYER),
        "CRC_SLOT": CRC_RECORD,
        "ADDRESS_BITS": registers.ADDRESS_BITS,
        "EVENT_BITS": EVENT_BITS,
        "SECOND": sources.SECOND,
        "ONE_HOT_MODES": sum(1 << mode for mode in Mode if mode.one_hot),
        "DELTA_MODE": Mode.DELTA,
        "COUNTERS": len(COUNTERS),
    }
    framing = {
        "VERSION_NUMBER": link.VERSION,
        "FLAG": link.FLAG,
        "ESCAPE": link.ESCAPE,
        "FLIP": link.FLIP,
        "HEADER_BYTES": link.HEADER_BYTES,
        "TRAILER_BYTES": link.TRAILER_BYTES,
        "REPLY": link.REPLY,
        "NOTICE": link.NOTICE,
    }
    changes = {
        "BLOCK": BLOCK,
        "WIDTH_BITS": WIDTH_BITS,
        "FULL_WIDTH": FULL_WIDTH,
        "ELEMENT_BITS": ACTIVATION_BITS,
        "WANTED_SHIFT": WANTED_SHIFT,
    }
    return [
        _Group("Registers, by index; the byte address is four times that", "REGISTER",
               _members(Register)),
        _Group("Streams by registers, of cores that have them; also by index", "STREAM",
               _members(StreamRegister)),
        _Group("Causes of the interrupt of such a core", "INTERRUPT", _members(Interrupt)),
        _Group("Bits of CONTROL", "CONTROL", _members(Control)),
        _Group("Bits of STATUS; the reason of a refusal stands in bits 15:8", "STATUS",
               _members(Status)),
        _Group("Reasons why an image was refused", "REFUSAL", _members(Error)),
        _Group("Regions of STATE_SELECT", "REGION", _members(Region)),
        _Group("Places in the array of counters", "COUNTER",
               {register.name: k for k, register in enumerate(COUNTERS)}),
        _Group("The host link: frames", "LINK", framing),
        _Group("The host link: commands", "COMMAND", _members(link.Command)),
        _Group("The host link: outcomes", "OUTCOME", _members(link.Outcome)),
        _Group("The host link: causes of a notice", "CAUSE", _members(link.Cause)),
        _Group("The host link: vectors as their changes", "CHANGES", changes | _members(Form)),
        _Group("Tables of the image", "TABLE", _members(Table)),
        _Group("The image and its vectors", "", limits),
    ]  # fmt: skip


def _begin(name: str, about: str) -> list[str]:
    guard = name.upper().replace(".", "_")
    return [
        f"/* {about}",
        f"   Written by stillnet {metadata.version('stillnet')}; do not edit. */",
        "",
        f"#ifndef {guard}",
        f"#define {guard}",
    ]


def _number(value: int) -> str:
    return f"0x{value:08x}u" if value > 0xFFFF else str(value)


def _define(name: str, value: object) -> str:
    return f"#define STILLNET_{name} {value}"


def _fields(prefix: str, records: Iterable[Record]) -> list[str]:
    """Each field of a group of records as ``slot, shift, width``."""
    return [
        _define(f"{prefix}_{name.upper()}", f"{slot}, {record.slice(name).start}, {width}")
        for slot, record in enumerate(records)
        for name, width in record.fields
    ]


def constants_header() -> str:
    """``stillnet_constants.h``: registers, image and link, the same for every engine."""
    lines = _begin("stillnet_constants.h", "Registers, image and link of stillnet's engines.")
    for group in _groups():
        lines += ["", f"/* {group.title}. */"]
        prefix = f"{group.prefix}_" if group.prefix else ""
        lines += [_define(prefix + name, _number(value)) for name, value in group.values.items()]
    numbers = ", ".join(str(int(register)) for register in COUNTERS)
    lines += ["", "/* The registers of the counters, in their order. */"]
    lines += [_define("COUNTER_REGISTERS", f"{{{numbers}}}")]
    lines += ["", "/* Fields of the image: slot in its group, lowest bit, width. */"]
    lines += _fields("HEADER", image.HEADER) + _fields("LAYER", image.LAYER)
    lines += _fields("ENTRY", [image.ENTRY])
    lines += ["", "/* Why an image was refused, by reason. */", "#define STILLNET_REFUSALS { \\"]
    lines += [f'    "{_refusal(error)}", \\' for error in Error]
    lines += ["}", "", "#endif"]
    return "\n".join(lines) + "\n"


def _refusal(error: Error) -> str:
    if error == Error.NONE:
        return "the engine refused the image without a reason; load it again"
    return f"the engine refused the image: {REFUSALS[error]}"


def engine_header(config: EngineConfig) -> str:
    """``stillnet_engine.h``: what the driver has to know of one engine."""
    names = config.state_names
    wide = sum(1 << k for k, n in enumerate(names) if config.state_bits(n) > ACTIVATION_BITS)
    cells = [sum(1 << names.index(s) for s in CELLS[cell].state) for cell in config.cells]
    words = config.ram_words if config.memory == "ram" else 1 << config.address_bits
    assert len(names) <= MAX_STATE_NAMES and len(cells) <= 15
    lines = _begin(
        "stillnet_engine.h",
        f"Engine '{config.name}': images must be packed for this one.",
    )
    lines += ["", f"/* Cells: {', '.join(config.cells)}. State: {', '.join(names) or 'none'}. */"]
    lines += ["#define STILLNET_ENGINE { \\"]
    lines += [
        f"    .{name} = {value}, \\"
        for name, value in {
            "fingerprint": f"0x{config.fingerprint:08x}u",
            "memory_words": f"{min(words, 0xFFFF_FFFF)}u",
            "word_bytes": config.word_bytes,
            "cell_width": config.cell_width,
            "second_threshold": int(config.second_threshold),
            "budgets": int(config.budgets),
            "matrix_slots": len(matrix_records(config.long_records)),
            "wide_states": wide,
            "cell_states": f"{{{', '.join(map(str, cells))}}}",
        }.items()
    ]
    return "\n".join([*lines, "}", "", "#endif"]) + "\n"


def network_header(loaded: Image) -> str:
    """``stillnet_network.h``: sizes and formats of the vectors of one network."""
    notes = loaded.notes
    layers = notes["layers"]
    tokens = Mode[notes["input_mode"].upper()].one_hot
    lines = _begin("stillnet_network.h", f"Network '{_plain(notes['name'])}': its vectors.")
    lines += ["", "/* An element is its value times two to the power of FRACTION. */"]
    if tokens:
        lines[-1] = f"/* A step takes one token, -1 to {notes['inputs'] - 1}. */"
    values = {
        "NETWORK_INPUTS": 1 if tokens else notes["inputs"],
        "NETWORK_INPUT_FRACTION": 0 if tokens else notes["input_fraction"],
        "NETWORK_OUTPUTS": layers[-1]["units"],
        "NETWORK_OUTPUT_FRACTION": layers[-1]["fraction"],
    }
    lines += [_define(name, value) for name, value in values.items()]
    lines += ["", "/* Sources of thresholds and events. */", _define("SOURCE_INPUT", 0)]
    lines += [
        _define(f"SOURCE_{k}", f"{k} /* {_plain(d['name'])}: {d['cell']}, {d['units']} units */")
        for k, d in enumerate(layers, 1)
    ]
    return "\n".join([*lines, "", "#endif"]) + "\n"


def _plain(name: str) -> str:
    """A name that cannot end a comment."""
    return "".join(c if c.isascii() and (c.isalnum() or c in " _-.") else "_" for c in name)


def write_c_driver(
    folder: str | Path, *, config: EngineConfig | None = None, loaded: Image | None = None
) -> CDriverResult:
    """Writes the driver into a folder.

    Parameters
    ----------
    folder : str or Path
        Made if it is not there.
    config : EngineConfig, optional
        The engine.
    loaded : Image, optional
        An image of the network instead: the engine is the one that it was packed for.

    Returns
    -------
    CDriverResult

    Raises
    ------
    StillnetError
        Where the folder cannot be written.
    """
    if loaded is not None:
        config = loaded.config
    if config is None:
        raise StillnetError("the C driver needs an engine; give a preset or an image")
    folder = Path(folder)
    make_folder(folder)
    texts = {name: (SOURCES / name).read_text() for name in FILES}
    texts["stillnet_constants.h"] = constants_header()
    texts["stillnet_engine.h"] = engine_header(config)
    if loaded is not None:
        texts["stillnet_network.h"] = network_header(loaded)
    for name, text in texts.items():
        check_place(folder / name)
        write_atomically(folder / name, text)
    return CDriverResult(
        folder=str(folder),
        engine=config.name,
        fingerprint=f"{config.fingerprint:08x}",
        files=list(texts),
    )

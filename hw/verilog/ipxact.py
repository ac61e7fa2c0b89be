"""A core as a component of IP-XACT (IEEE 1685-2014), for tools that assemble systems."""

from __future__ import annotations

from importlib import metadata
from typing import Any
from xml.etree import ElementTree as xml

from stillnet.hw.core import axi_address_bits
from stillnet.sw.contract.config import EngineConfig
from stillnet.sw.contract.registers import COUNTERS, Register
from stillnet.sw.contract.window import StreamRegister

__all__ = ["NAMESPACE", "ipxact_component"]

NAMESPACE = "http://www.accellera.org/XMLSchema/IPXACT/1685-2014"
_XSI = "http://www.w3.org/2001/XMLSchema-instance"

BUSES = {
    "s_axi": ("AXI4-Lite", "slave"),
    "m_axi": ("AXI4", "master"),
    "s_axis": ("AXI4Stream", "slave"),
    "m_axis": ("AXI4Stream", "master"),
}
"""Name of each bus interface: what ARM calls the bus, and the side that the core has."""

READ_ONLY = {
    *(register.name for register in COUNTERS),
    *(r.name for r in (Register.ID, Register.VERSION, Register.FINGERPRINT, Register.STATUS)),
    *(r.name for r in (Register.EVENTS, Register.LATE, StreamRegister.QUEUES)),
}
"""Registers that a host only reads."""

_FIELDS = {"CONTROL": "control_bits", "STATUS": "status_bits", "INTERRUPTS": "interrupts"}
"""Where the description has the bits of a register."""


def ipxact_component(config: EngineConfig, description: dict[str, Any]) -> str:
    """The component's XML.

    Parameters
    ----------
    config : EngineConfig
    description : dict
        What :func:`~stillnet.hw.verilog.describe.describe_core` says of the core.
    """
    xml.register_namespace("ipxact", NAMESPACE)
    name = description["module"]
    root = xml.Element(f"{{{NAMESPACE}}}component")
    root.set(f"{{{_XSI}}}schemaLocation", f"{NAMESPACE} {NAMESPACE}/index.xsd")
    version = metadata.version("stillnet")
    for key, value in zip(
        ("vendor", "library", "name", "version"), ("stillnet", "engines", name, version)
    ):
        _add(root, key, value)
    ports = {port["name"]: port for port in description["ports"]}
    buses = [bus for bus in BUSES if any(port.startswith(f"{bus}_") for port in ports)]
    interfaces = _add(root, "busInterfaces")
    for bus in buses:
        _bus(interfaces, bus, [port for port in ports if port.startswith(f"{bus}_")])
    if "m_axi" in buses:
        space = _add(_add(root, "addressSpaces"), "addressSpace")
        _add(space, "name", "weights")
        _add(space, "range", f"'h{1 << axi_address_bits(config):x}")
        _add(space, "width", str(config.word_bits))
    if "s_axi" in buses:
        _registers(_add(root, "memoryMaps"), description, ports["s_axi_awaddr"]["width"])
    _model(_add(root, "model"), name, description["ports"])
    files = _add(_add(root, "fileSets"), "fileSet")
    _add(files, "name", "verilog")
    file = _add(files, "file")
    _add(file, "name", f"{name}.v")
    _add(file, "fileType", "verilogSource")
    _add(
        root,
        "description",
        f"A stillnet engine: configuration '{config.name}', fingerprint "
        f"{description['fingerprint']}. Images are packed for exactly this one.",
    )
    xml.indent(root)
    return '<?xml version="1.0" encoding="UTF-8"?>\n' + xml.tostring(root, "unicode") + "\n"


def _add(parent: xml.Element, tag: str, text: str | None = None, **attributes: str) -> xml.Element:
    child = xml.SubElement(parent, f"{{{NAMESPACE}}}{tag}", attributes)
    child.text = text
    return child


def _bus(interfaces: xml.Element, bus: str, ports: list[str]) -> None:
    """One bus interface with its ports."""
    kind, side = BUSES[bus]
    element = _add(interfaces, "busInterface")
    _add(element, "name", bus)
    arm = {"vendor": "amba.com", "library": "AMBA4", "version": "r0p0"}
    _add(element, "busType", name=kind, **arm)
    abstraction = _add(_add(element, "abstractionTypes"), "abstractionType")
    _add(abstraction, "abstractionRef", name=f"{kind}_rtl", **arm)
    maps = _add(abstraction, "portMaps")
    for port in ports:
        pair = _add(maps, "portMap")
        _add(_add(pair, "logicalPort"), "name", port.removeprefix(f"{bus}_").upper())
        _add(_add(pair, "physicalPort"), "name", port)
    role = _add(element, side)
    if bus == "m_axi":
        _add(role, "addressSpaceRef", addressSpaceRef="weights")
    if bus == "s_axi":
        _add(role, "memoryMapRef", memoryMapRef="registers")


def _registers(maps: xml.Element, description: dict[str, Any], address_bits: int) -> None:
    """The memory map of the registers."""
    memory_map = _add(maps, "memoryMap")
    _add(memory_map, "name", "registers")
    block = _add(memory_map, "addressBlock")
    _add(block, "name", "registers")
    _add(block, "baseAddress", "'h0")
    _add(block, "range", f"'h{1 << address_bits:x}")
    _add(block, "width", "32")
    for entry in description["registers"]:
        register = _add(block, "register")
        _add(register, "name", entry["name"])
        _add(register, "description", entry["doc"])
        _add(register, "addressOffset", f"'h{entry['byte_address']:x}")
        _add(register, "size", "32")
        _add(register, "volatile", "true")
        if entry["name"] in READ_ONLY:
            _add(register, "access", "read-only")
        bits = description.get(_FIELDS.get(entry["name"], ""), [])
        for bit in bits or [{"name": "VALUE", "mask": (1 << 32) - 1, "doc": ""}]:
            field = _add(register, "field")
            _add(field, "name", bit["name"])
            if bit["doc"]:
                _add(field, "description", bit["doc"])
            mask = bit["mask"]
            _add(field, "bitOffset", str((mask & -mask).bit_length() - 1))
            _add(field, "bitWidth", str(mask.bit_count()))
        if entry["name"] == "STATUS":
            field = _add(register, "field")
            _add(field, "name", "ERROR")
            _add(field, "description", "Why an image was refused.")
            _add(field, "bitOffset", "8")
            _add(field, "bitWidth", "8")


def _model(model: xml.Element, name: str, ports: list[dict[str, Any]]) -> None:
    """The Verilog module and its ports."""
    view = _add(_add(model, "views"), "view")
    _add(view, "name", "rtl")
    _add(view, "envIdentifier", ":*Synthesis:")
    _add(view, "envIdentifier", ":*Simulation:")
    _add(view, "componentInstantiationRef", "verilog")
    instantiation = _add(_add(model, "instantiations"), "componentInstantiation")
    _add(instantiation, "name", "verilog")
    _add(instantiation, "language", "verilog")
    _add(instantiation, "moduleName", name)
    _add(_add(instantiation, "fileSetRef"), "localName", "verilog")
    parent = _add(model, "ports")
    for port in ports:
        element = _add(parent, "port")
        _add(element, "name", port["name"])
        _add(element, "description", port["meaning"])
        wire = _add(element, "wire")
        _add(wire, "direction", {"input": "in", "output": "out"}[port["direction"]])
        if port["width"] > 1:
            vector = _add(_add(wire, "vectors"), "vector")
            _add(vector, "left", str(port["width"] - 1))
            _add(vector, "right", "0")

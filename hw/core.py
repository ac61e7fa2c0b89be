"""The core: an engine with the buses that a hardware engineer connects."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from amaranth.hdl import Module
from amaranth.lib import wiring
from amaranth.lib.wiring import Flow, In, Member, Out, connect

from stillnet.hw.host.axi_lite import AxiLiteRegisters, axi_lite_slave_members
from stillnet.hw.host.stream_window import StreamWindow
from stillnet.hw.memory.axi4 import Axi4ReadMaster, axi4_master_members
from stillnet.hw.memory.port import LENGTH_BITS
from stillnet.hw.memory.ram import RamPort
from stillnet.sw.contract.config import EngineConfig
from stillnet.sw.contract.fixed import ACTIVATION_BITS
from stillnet.sw.contract.registers import ADDRESS_BITS
from stillnet.sw.contract.window import WINDOW_ADDRESS_BITS

from .engine import Engine

__all__ = ["STREAMS", "Core", "Port", "axi_address_bits", "core_ports"]

STREAMS = ("axis", "registers")
"""How vectors come and go: two AXI4-Streams, or registers on the bus of the others."""

OUTSTANDING = 32
"""Read bursts that an AXI core may have outstanding. Short columns are short bursts, so it takes
many of them to hide the latency of the memory. The limit costs a counter and no storage."""


@dataclass(frozen=True)
class Port:
    """One port of a core.

    Attributes
    ----------
    name : str
    direction : str
        ``"input"`` or ``"output"``, as the core sees it.
    width : int
    group : str
        What the port is part of.
    meaning : str
    """

    name: str
    direction: str
    width: int
    group: str
    meaning: str


_STREAM_IN = "Input vectors, element after element (AXI4-Stream)"
_STREAM_OUT = "Output vectors, element after element (AXI4-Stream)"
_REGISTERS_AXI = "Registers (AXI4-Lite slave); byte address = 4 * index"
_REGISTERS = "Registers: a strobe of one cycle, answered by one cycle of reg_ack"
_REGISTERS_STREAMS = "Registers and streams (AXI4-Lite slave); byte address = 4 * index"
_MEMORY_AXI = "Weights (AXI4 master); writes only through MEMORY_DATA"
_MEMORY = "Weight memory: burst reads in order, writes of one word"
_CLOCK = "Clock and reset"

_HANDSHAKE = {"valid": "{} is valid", "ready": "{} is taken in a cycle with valid and ready"}

_AXI_FIELDS = {
    "id": "always 0",
    "addr": "byte address",
    "len": "words of the burst, less one",
    "size": "log2 of the bytes of a word",
    "burst": "INCR",
    "cache": "normal memory, not cacheable, bufferable",
    "prot": "unprivileged, secure, data",
    "data": "data",
    "strb": "bytes that are written",
    "last": "last word of the burst",
    "resp": "SLVERR and DECERR are errors",
}
_AXI_CHANNELS = {
    "aw": "write address",
    "w": "write data",
    "b": "write response",
    "ar": "read address",
    "r": "read data",
}


def axi_address_bits(config: EngineConfig) -> int:
    """Width of a byte address on the AXI4 bus: 32, or more where the engine reaches further."""
    return max(32, config.address_bits + config.word_bytes.bit_length() - 1)


def _axi_ports(members: dict[str, Member], group: str) -> list[Port]:
    ports = []
    for name, member in members.items():
        prefix = name.rsplit("_", 1)[0]
        rest = name[len(prefix) + 1 :]
        channel = max((c for c in _AXI_CHANNELS if rest.startswith(c)), key=len)
        what, field = _AXI_CHANNELS[channel], rest[len(channel) :]
        if field in _HANDSHAKE:
            meaning = _HANDSHAKE[field].format(what)
        else:
            meaning = f"{what}: {_AXI_FIELDS[field]}"
        ports.append(_port(name, member.flow, member.shape, group, meaning))
    return ports


def _port(name: str, flow: Flow, width: Any, group: str, meaning: str) -> Port:
    direction = "input" if flow == Flow.In else "output"
    return Port(name, direction, int(width), group, meaning)


def _stream_ports() -> list[Port]:
    bits = ACTIVATION_BITS
    return [
        Port("s_axis_tdata", "input", bits, _STREAM_IN, "signed element, or token number"),
        Port("s_axis_tvalid", "input", 1, _STREAM_IN, "s_axis_tdata is valid"),
        Port("s_axis_tready", "output", 1, _STREAM_IN, "taken in a cycle with valid and ready"),
        Port("m_axis_tdata", "output", bits, _STREAM_OUT, "signed element"),
        Port("m_axis_tvalid", "output", 1, _STREAM_OUT, "m_axis_tdata and m_axis_tlast are valid"),
        Port("m_axis_tready", "input", 1, _STREAM_OUT, "taken in a cycle with valid and ready"),
        Port("m_axis_tlast", "output", 1, _STREAM_OUT, "last element of its vector"),
    ]


def _system_ports() -> list[Port]:
    """What takes the place of streams and registers where a CPU reaches the streams."""
    members = axi_lite_slave_members(WINDOW_ADDRESS_BITS + 2)
    irq = Port("irq", "output", 1, "Interrupt", "a cause in INTERRUPTS that is enabled; a level")
    return [*_axi_ports(members, _REGISTERS_STREAMS), irq]


def _register_ports(config: EngineConfig) -> list[Port]:
    if config.memory == "axi4":
        return _axi_ports(axi_lite_slave_members(ADDRESS_BITS + 2), _REGISTERS_AXI)
    g = _REGISTERS
    return [
        Port("reg_address", "input", ADDRESS_BITS, g, "index; held from the strobe to the answer"),
        Port("reg_write_strobe", "input", 1, g, "writes reg_write_data"),
        Port("reg_write_data", "input", 32, g, "value to be written; held like the address"),
        Port("reg_read_strobe", "input", 1, g, "reads; never together with a write"),
        Port("reg_ack", "output", 1, g, "the request is done; the next strobe comes after it"),
        Port("reg_read_data", "output", 32, g, "value read, valid with reg_ack"),
    ]


def _memory_ports(config: EngineConfig) -> list[Port]:
    word, address = config.word_bits, config.address_bits
    if config.memory == "axi4":
        byte_bits = axi_address_bits(config)
        base = Port(
            "memory_base",
            "input",
            byte_bits,
            _MEMORY_AXI,
            "byte address of word 0, a multiple of the word; constant from reset on",
        )
        return [base, *_axi_ports(axi4_master_members(word, byte_bits, 1), _MEMORY_AXI)]
    if config.memory == "ram":
        return []
    g = _MEMORY
    return [
        Port("mem_read_address", "output", address, g, "first word of a read"),
        Port("mem_read_length", "output", LENGTH_BITS, g, "words of a read; 0 asks for none"),
        Port("mem_read_valid", "output", 1, g, "a read is offered"),
        Port("mem_read_ready", "input", 1, g, "taken in a cycle with valid and ready"),
        Port("mem_data", "input", word, g, "words read, in the order of the reads"),
        Port("mem_data_valid", "input", 1, g, "mem_data is valid"),
        Port("mem_data_ready", "output", 1, g, "taken in a cycle with valid and ready"),
        Port("mem_write_address", "output", address, g, "word to be written"),
        Port("mem_write_data", "output", word, g, "its value"),
        Port("mem_write_valid", "output", 1, g, "a write is offered"),
        Port("mem_write_ready", "input", 1, g, "taken in a cycle with valid and ready"),
        Port("mem_write_idle", "input", 1, g, "every write taken in an earlier cycle is done"),
        Port("mem_error", "input", 1, g, "the memory has failed; high until reset"),
    ]


def core_ports(config: EngineConfig, streams: str = "axis") -> tuple[Port, ...]:
    """All ports of the core of a configuration, clock and reset included.

    Parameters
    ----------
    config : EngineConfig
    streams : str
        One of :data:`STREAMS`.
    """
    outside = [*_stream_ports(), *_register_ports(config)]
    return (
        Port("clk", "input", 1, _CLOCK, "everything happens at its rising edge"),
        Port("rst", "input", 1, _CLOCK, "synchronous, active high"),
        *(_system_ports() if streams == "registers" else outside),
        *_memory_ports(config),
    )


class Core(wiring.Component):
    """An engine with its memory adapter and plain ports, ready to be instantiated.

    ``config.memory`` decides what there is besides the two AXI4-Stream ports: ``"axi4"`` an AXI4
    master for the weights and an AXI4-Lite slave for the registers; ``"ram"`` on-chip RAM and the
    plain register bus; ``"port"`` the memory port itself and the plain register bus.

    With ``streams="registers"`` a CPU reaches the vectors too: one AXI4-Lite slave with the
    registers and, behind them, those of ``contract.window``, and an interrupt, take the place of
    the streams, whatever the memory.

    Parameters
    ----------
    config : EngineConfig
    streams : str
        One of :data:`STREAMS`.

    Members
    -------
    … : as :func:`core_ports` says, without clock and reset
    """

    def __init__(self, config: EngineConfig, *, streams: str = "axis") -> None:
        if streams not in STREAMS:
            raise ValueError(f"streams must be one of {', '.join(STREAMS)}, not {streams!r}")
        self._config, self._streams = config, streams
        super().__init__(
            {
                port.name: (In if port.direction == "input" else Out)(port.width)
                for port in core_ports(config, streams)
                if port.group != _CLOCK
            }
        )

    @property
    def config(self) -> EngineConfig:
        """The engine's configuration."""
        return self._config

    def elaborate(self, platform: Any) -> Module:
        m = Module()
        config = self._config
        m.submodules.engine = engine = Engine(config)
        if self._streams == "registers":
            m.submodules.window = window = StreamWindow()
            connect(m, window.registers, engine.registers)
            connect(m, window.inputs, engine.inputs)
            connect(m, engine.outputs, window.outputs)
            m.d.comb += self.irq.eq(window.irq)
            self._connect_axi_lite(m, window.bus, WINDOW_ADDRESS_BITS)
        else:
            self._connect_streams(m, engine)
        if config.memory == "axi4":
            self._connect_axi(m, engine)
        if config.memory == "ram":
            m.submodules.ram = ram = RamPort(
                config.address_bits, config.word_bits, config.ram_words, length_bits=LENGTH_BITS
            )
            connect(m, engine.memory, ram.port)
        elif config.memory == "port":
            self._connect_memory(m, engine)
        return m

    def _connect_streams(self, m: Module, engine: Engine) -> None:
        m.d.comb += [
            engine.inputs.payload.eq(self.s_axis_tdata),
            engine.inputs.valid.eq(self.s_axis_tvalid),
            self.s_axis_tready.eq(engine.inputs.ready),
            self.m_axis_tdata.eq(engine.outputs.p.data),
            self.m_axis_tlast.eq(engine.outputs.p.last),
            self.m_axis_tvalid.eq(engine.outputs.valid),
            engine.outputs.ready.eq(self.m_axis_tready),
        ]
        if self._config.memory != "axi4":
            self._connect_registers(m, engine)

    def _connect_axi(self, m: Module, engine: Engine) -> None:
        config = self._config
        m.submodules.memory = memory = Axi4ReadMaster(
            config.address_bits,
            config.word_bits,
            axi_address_bits=axi_address_bits(config),
            outstanding=OUTSTANDING,
            length_bits=LENGTH_BITS,
        )
        connect(m, engine.memory, memory.port)
        if self._streams == "axis":
            self._connect_axi_lite(m, engine.registers, ADDRESS_BITS)
        m.d.comb += memory.base_address.eq(self.memory_base)
        self._connect_bus(m, memory, "m_axi_")

    def _connect_axi_lite(self, m: Module, bus: wiring.PureInterface, address_bits: int) -> None:
        m.submodules.registers = registers = AxiLiteRegisters(address_bits)
        connect(m, registers.bus, bus)
        self._connect_bus(m, registers, "s_axi_")

    def _connect_bus(self, m: Module, part: wiring.Component, prefix: str) -> None:
        for name, member in part.signature.members.items():
            if not name.startswith(prefix):
                continue
            if member.flow == Flow.In:
                m.d.comb += getattr(part, name).eq(getattr(self, name))
            else:
                m.d.comb += getattr(self, name).eq(getattr(part, name))

    def _connect_registers(self, m: Module, engine: Engine) -> None:
        bus = engine.registers
        m.d.comb += [
            bus.address.eq(self.reg_address),
            bus.write_strobe.eq(self.reg_write_strobe),
            bus.write_data.eq(self.reg_write_data),
            bus.read_strobe.eq(self.reg_read_strobe),
            self.reg_ack.eq(bus.ack),
            self.reg_read_data.eq(bus.read_data),
        ]

    def _connect_memory(self, m: Module, engine: Engine) -> None:
        port = engine.memory
        m.d.comb += [
            self.mem_read_address.eq(port.read.p.address),
            self.mem_read_length.eq(port.read.p.length),
            self.mem_read_valid.eq(port.read.valid),
            port.read.ready.eq(self.mem_read_ready),
            port.data.payload.eq(self.mem_data),
            port.data.valid.eq(self.mem_data_valid),
            self.mem_data_ready.eq(port.data.ready),
            self.mem_write_address.eq(port.write.p.address),
            self.mem_write_data.eq(port.write.p.data),
            self.mem_write_valid.eq(port.write.valid),
            port.write.ready.eq(self.mem_write_ready),
            port.write_idle.eq(self.mem_write_idle),
            port.error.eq(self.mem_error),
        ]

"""The engine's registers on an AXI4-Lite bus."""

from amaranth.hdl import Module, Signal
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Member, Out

from stillnet.hw.memory.port import check_width

from .register_bus import RegisterBusSignature

__all__ = ["AxiLiteRegisters", "axi_lite_slave_members"]

_OKAY = 0b00
_SLVERR = 0b10


def axi_lite_slave_members(address_bits: int) -> dict[str, Member]:
    """The members ``s_axi_*`` of a component that is a 32-bit AXI4-Lite slave.

    Parameters
    ----------
    address_bits : :class:`int`
        Width of the addresses, in bytes.
    """
    return {
        "s_axi_awaddr": In(address_bits),
        "s_axi_awprot": In(3),
        "s_axi_awvalid": In(1),
        "s_axi_awready": Out(1),
        "s_axi_wdata": In(32),
        "s_axi_wstrb": In(4),
        "s_axi_wvalid": In(1),
        "s_axi_wready": Out(1),
        "s_axi_bresp": Out(2),
        "s_axi_bvalid": Out(1),
        "s_axi_bready": In(1),
        "s_axi_araddr": In(address_bits),
        "s_axi_arprot": In(3),
        "s_axi_arvalid": In(1),
        "s_axi_arready": Out(1),
        "s_axi_rdata": Out(32),
        "s_axi_rresp": Out(2),
        "s_axi_rvalid": Out(1),
        "s_axi_rready": In(1),
    }


class AxiLiteRegisters(wiring.Component):
    """AXI4-Lite slave that makes the requests of a register bus.

    One request at a time; reads and writes that wait take turns. The low two bits of an address
    are ignored.

    Registers are written whole or not at all: a write that strobes some bytes of the four is
    answered with SLVERR and changes nothing, because half a register may mean something else. A
    write that strobes none changes nothing either and is answered with OKAY, as AXI wants it.

    Parameters
    ----------
    address_bits : :class:`int`
        Width of the register bus's address, which counts registers. The bus has two bits more.

    Members
    -------
    bus : :py:`Out(RegisterBusSignature(address_bits))`
        Requests to the registers.
    s_axi_… : as :func:`axi_lite_slave_members` says
        The AXI4-Lite bus, with the usual names. All its outputs come from registers.
    """

    def __init__(self, address_bits: int):
        self._address_bits = check_width("Register bus address width", address_bits)
        super().__init__(
            {
                "bus": Out(RegisterBusSignature(address_bits)),
                **axi_lite_slave_members(address_bits + 2),
            }
        )

    @property
    def address_bits(self) -> int:
        return self._address_bits

    def elaborate(self, platform) -> Module:
        m = Module()
        bus = self.bus

        # Each channel has one place; it is taken while its `ready` is low.
        write_address = Signal(self.address_bits)
        write_address_valid = Signal()
        write_data = Signal(32)
        write_strobes = Signal(4)
        write_data_valid = Signal()
        read_address = Signal(self.address_bits)
        read_address_valid = Signal()
        m.d.comb += [
            self.s_axi_awready.eq(~write_address_valid),
            self.s_axi_wready.eq(~write_data_valid),
            self.s_axi_arready.eq(~read_address_valid),
            self.s_axi_rresp.eq(_OKAY),
        ]
        with m.If(self.s_axi_awready & self.s_axi_awvalid):
            m.d.sync += [write_address.eq(self.s_axi_awaddr[2:]), write_address_valid.eq(1)]
        with m.If(self.s_axi_wready & self.s_axi_wvalid):
            m.d.sync += [
                write_data.eq(self.s_axi_wdata),
                write_strobes.eq(self.s_axi_wstrb),
                write_data_valid.eq(1),
            ]
        with m.If(self.s_axi_arready & self.s_axi_arvalid):
            m.d.sync += [read_address.eq(self.s_axi_araddr[2:]), read_address_valid.eq(1)]

        with m.If(self.s_axi_bready):
            m.d.sync += self.s_axi_bvalid.eq(0)
        with m.If(self.s_axi_rready):
            m.d.sync += self.s_axi_rvalid.eq(0)

        # A request starts only when its answer has a place to go. Writes come first; as the next
        # one takes a cycle to arrive, a read that waits always finds its turn in between.
        write_waits = Signal()
        read_waits = Signal()
        m.d.comb += [
            write_waits.eq(write_address_valid & write_data_valid & ~self.s_axi_bvalid),
            read_waits.eq(read_address_valid & ~self.s_axi_rvalid),
        ]
        m.d.sync += [bus.write_strobe.eq(0), bus.read_strobe.eq(0)]
        with m.FSM(name="request"):
            with m.State("IDLE"):
                with m.If(write_waits):
                    m.d.sync += [
                        bus.address.eq(write_address),
                        bus.write_data.eq(write_data),
                    ]
                    with m.If(write_strobes.all()):
                        m.d.sync += bus.write_strobe.eq(1)
                        m.next = "WRITE"
                    with m.Else():
                        m.d.sync += [
                            write_address_valid.eq(0),
                            write_data_valid.eq(0),
                            self.s_axi_bvalid.eq(1),
                            self.s_axi_bresp.eq(_OKAY),
                        ]
                        with m.If(write_strobes.any()):
                            m.d.sync += self.s_axi_bresp.eq(_SLVERR)
                with m.Elif(read_waits):
                    m.d.sync += [
                        bus.address.eq(read_address),
                        bus.read_strobe.eq(1),
                    ]
                    m.next = "READ"
            with m.State("WRITE"), m.If(bus.ack):
                m.d.sync += [
                    write_address_valid.eq(0),
                    write_data_valid.eq(0),
                    self.s_axi_bvalid.eq(1),
                    self.s_axi_bresp.eq(_OKAY),
                ]
                m.next = "IDLE"
            with m.State("READ"), m.If(bus.ack):
                m.d.sync += [
                    read_address_valid.eq(0),
                    self.s_axi_rvalid.eq(1),
                    self.s_axi_rdata.eq(bus.read_data),
                ]
                m.next = "IDLE"

        return m

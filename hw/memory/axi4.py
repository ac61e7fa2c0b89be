"""Weights in a memory on an AXI4 bus, behind the engine's memory port."""

from types import SimpleNamespace
from typing import Any

from amaranth.hdl import Cat, Module, Signal
from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In, Member, Out
from amaranth.utils import exact_log2

from stillnet.hw.parts.register_slice import RegisterSlice

from .port import LENGTH_BITS, MemoryPortSignature, check_width, read_request_layout

__all__ = ["Axi4ReadMaster", "BurstSplitter", "axi4_master_members"]

# AXI4 ends every burst at a 4 KB border and after 256 beats.
_BORDER_BYTES = 4096
_MAX_BEATS = 256

_BURST_INCR = 0b01
# Normal, non-cacheable, bufferable: what memory controllers and interconnects do best with.
_CACHE = 0b0011


def _check_word_bits(word_bits: Any) -> None:
    if word_bits not in (32, 64, 128, 256, 512, 1024):
        raise ValueError(
            f"AXI4 data width must be one of 32, 64, 128, 256, 512, 1024, not {word_bits!r}"
        )


def axi4_master_members(word_bits: int, axi_address_bits: int, id_bits: int) -> dict[str, Member]:
    """The members ``m_axi_*`` of a component that is an AXI4 master.

    A top level that has these members shows an AXI4 bus that other tools recognise by its names,
    whatever is inside.

    Parameters
    ----------
    word_bits : :class:`int`
        Width of the data.
    axi_address_bits : :class:`int`
        Width of the addresses, in bytes.
    id_bits : :class:`int`
        Width of the identifiers.
    """
    members: dict[str, Member] = {}
    for channel in ("aw", "ar"):
        members |= {
            f"m_axi_{channel}id": Out(id_bits),
            f"m_axi_{channel}addr": Out(axi_address_bits),
            f"m_axi_{channel}len": Out(8),
            f"m_axi_{channel}size": Out(3),
            f"m_axi_{channel}burst": Out(2),
            f"m_axi_{channel}cache": Out(4),
            f"m_axi_{channel}prot": Out(3),
            f"m_axi_{channel}valid": Out(1),
            f"m_axi_{channel}ready": In(1),
        }
    return members | {
        "m_axi_wdata": Out(word_bits),
        "m_axi_wstrb": Out(word_bits // 8),
        "m_axi_wlast": Out(1),
        "m_axi_wvalid": Out(1),
        "m_axi_wready": In(1),
        "m_axi_bid": In(id_bits),
        "m_axi_bresp": In(2),
        "m_axi_bvalid": In(1),
        "m_axi_bready": Out(1),
        "m_axi_rid": In(id_bits),
        "m_axi_rdata": In(word_bits),
        "m_axi_rresp": In(2),
        "m_axi_rlast": In(1),
        "m_axi_rvalid": In(1),
        "m_axi_rready": Out(1),
    }


class _InFlight(wiring.Component):
    """Counts what is on its way; ``full`` and ``empty`` come from registers.

    Attributes
    ----------
    probes : SimpleNamespace
        Registers and submodules that proofs speak of, once elaborated.

    Members
    -------
    start : :py:`In(1)`
        One more; not while ``full``.
    finish : :py:`In(1)`
        One less; not while ``empty``.
    full : :py:`Out(1)`
        The limit is reached.
    empty : :py:`Out(1)`
        Nothing is on its way.
    """

    def __init__(self, limit: int):
        self._limit = limit
        self.probes = SimpleNamespace()
        super().__init__({"start": In(1), "finish": In(1), "full": Out(1), "empty": Out(1, init=1)})

    def elaborate(self, platform) -> Module:
        m = Module()
        count = Signal(range(self._limit + 1))
        with m.If(self.start & ~self.finish):
            m.d.sync += [
                count.eq(count + 1),
                self.full.eq(count == self._limit - 1),
                self.empty.eq(0),
            ]
        with m.Elif(self.finish & ~self.start):
            m.d.sync += [
                count.eq(count - 1),
                self.full.eq(0),
                self.empty.eq(count == 1),
            ]
        self.probes = SimpleNamespace(count=count)
        return m


def burst_layout(address_bits: int, max_burst: int) -> data.StructLayout:
    """The payload of :attr:`BurstSplitter.o_stream`: first word, and the words after it."""
    return data.StructLayout({"address": address_bits, "more": exact_log2(max_burst)})


class BurstSplitter(wiring.Component):
    """Cuts requests into bursts that end at the multiples of ``max_burst``.

    After the first burst of a request all are aligned, so all but the first and the last are
    whole blocks, and the only arithmetic is: where does the request end? That is added up once,
    in a stage of its own. One burst leaves each cycle, and requests follow without a gap.

    Parameters
    ----------
    address_bits : :class:`int`
        Width of the word addresses of requests.
    base_bits : :class:`int`
        Width of the word addresses of bursts.
    length_bits : :class:`int`
        Width of the length of a request, in words. A request for no words gives no burst.
    max_burst : :class:`int`
        Words of the longest burst, a power of two.

    Attributes
    ----------
    probes : SimpleNamespace
        Registers and submodules that proofs speak of, once elaborated.

    Members
    -------
    base : :py:`In(base_bits)`
        Added to every address.
    i_stream : :py:`In(stream.Signature(read_request_layout(address_bits, length_bits)))`
        Requests.
    o_stream : :py:`Out(stream.Signature(burst_layout(base_bits, max_burst)))`
        Bursts: ``address`` of the first word, and how many ``more`` words follow it.
    """

    def __init__(self, address_bits: int, base_bits: int, length_bits: int, max_burst: int):
        if not isinstance(max_burst, int) or max_burst < 2 or max_burst & (max_burst - 1):
            raise ValueError(
                f"Longest burst must be a power of two of at least 2 words, not {max_burst!r}"
            )
        check_width("Request address width", address_bits)
        check_width("Request length width", length_bits)
        if check_width("Burst address width", base_bits) <= exact_log2(max_burst):
            raise ValueError(
                f"Burst address width must be more than {exact_log2(max_burst)}, the bits within "
                f"a burst of {max_burst} words, not {base_bits}"
            )
        self._address_bits = address_bits
        self._base_bits = base_bits
        self._length_bits = length_bits
        self._max_burst = max_burst
        self.probes = SimpleNamespace()
        super().__init__(
            {
                "base": In(base_bits),
                "i_stream": In(stream.Signature(read_request_layout(address_bits, length_bits))),
                "o_stream": Out(stream.Signature(burst_layout(base_bits, max_burst))),
            }
        )

    @property
    def address_bits(self) -> int:
        return self._address_bits

    @property
    def base_bits(self) -> int:
        return self._base_bits

    @property
    def length_bits(self) -> int:
        return self._length_bits

    @property
    def max_burst(self) -> int:
        return self._max_burst

    def elaborate(self, platform) -> Module:
        m = Module()
        i_stream, o_stream = self.i_stream, self.o_stream
        bits = exact_log2(self.max_burst)

        # Stage 1: the address on the bus, and the words after the first.
        address = Signal(self.base_bits)
        more = Signal(self.length_bits)
        request_valid = Signal()
        request_ready = Signal()
        m.d.comb += i_stream.ready.eq(~request_valid | request_ready)
        with m.If(i_stream.ready):
            m.d.sync += [
                address.eq(self.base + i_stream.p.address),
                more.eq(i_stream.p.length - 1),
                request_valid.eq(i_stream.valid & (i_stream.p.length != 0)),
            ]

        # Stage 2: the burst being offered, what follows it, and where the request ends. It ends in
        # the block where it begins exactly if no carry leaves the offset, which is known earlier
        # than the sum.
        block = Signal(self.base_bits - bits)
        offset = Signal(bits)
        blocks_left = Signal(max(self.length_bits, bits) + 1 - bits)
        first_more = Signal(bits)  # of a request within one block
        last_more = Signal(bits)  # of the last burst of any other request
        first = Signal()
        last = Signal()

        end = Signal(max(self.length_bits, bits) + 1)
        in_block_end = Signal(bits + 1)
        m.d.comb += [
            end.eq(address[:bits] + more),
            in_block_end.eq(address[:bits] + more[:bits]),
        ]

        with m.If(o_stream.valid & o_stream.ready):
            m.d.sync += [
                block.eq(block + 1),
                offset.eq(0),
                blocks_left.eq(blocks_left - 1),
                first.eq(0),
                last.eq(blocks_left == 1),
            ]
        m.d.comb += request_ready.eq(~o_stream.valid | (o_stream.ready & last))
        with m.If(request_ready):
            m.d.sync += [
                block.eq(address[bits:]),
                offset.eq(address[:bits]),
                blocks_left.eq(end[bits:]),
                first_more.eq(more[:bits]),
                last_more.eq(end[:bits]),
                first.eq(1),
                last.eq((more[bits:] == 0) & ~in_block_end[bits]),
                o_stream.valid.eq(request_valid),
            ]

        m.d.comb += o_stream.p.address.eq(Cat(offset, block))
        with m.Switch(Cat(first, last)):
            with m.Case("11"):
                m.d.comb += o_stream.p.more.eq(first_more)
            with m.Case("01"):  # first of several: to the end of its block
                m.d.comb += o_stream.p.more.eq(~offset)
            with m.Case("10"):  # last of several
                m.d.comb += o_stream.p.more.eq(last_more)
            with m.Default():
                m.d.comb += o_stream.p.more.eq(self.max_burst - 1)

        self.probes = SimpleNamespace(
            address=address,
            more=more,
            request_valid=request_valid,
            offset=offset,
            blocks_left=blocks_left,
            first_more=first_more,
            last_more=last_more,
            first=first,
            last=last,
        )
        return m


class Axi4ReadMaster(wiring.Component):
    """AXI4 master that answers the engine's memory port.

    *Reads.* A request becomes INCR bursts of full words, which end at the borders of aligned
    blocks of 256 words or 4 KB, whichever is less; so no burst crosses a 4 KB border. One burst a
    cycle can leave, also from different requests. At most ``outstanding`` bursts are on their way,
    all with identifier 0, so that their words return in order. To keep the bus busy,
    :py:`outstanding × words a burst` must reach the memory's latency plus 4 cycles; requests for
    one word are bursts of one word.

    *Writes.* Each word is a burst of its own, at most one every two cycles and ``outstanding`` on
    their way. This is meant for loading.

    *Timing.* Every output of the AXI bus and every ``ready`` of the memory port comes from a
    register or one gate behind registers. The bus shows the address three cycles after the request
    is accepted, and the port shows the word one cycle after the bus.

    *Reset* must not come while anything is on its way, unless it resets the slave too.

    Parameters
    ----------
    address_bits : :class:`int`
        Width of a word address at the memory port.
    word_bits : :class:`int`
        Width of a word and of the bus: 32, 64, 128, 256, 512 or 1024.
    axi_address_bits : :class:`int`
        Width of a byte address on the bus, 32 to 64.
    id_bits : :class:`int`
        Width of the bus's identifiers.
    outstanding : :class:`int`
        Bursts on their way at a time, of reads and of writes each.
    length_bits : :class:`int`
        Width of the length of a read at the memory port.

    Attributes
    ----------
    probes : SimpleNamespace
        Registers and submodules that proofs speak of, once elaborated.

    Members
    -------
    port : :py:`In(MemoryPortSignature(address_bits, word_bits, length_bits))`
        The engine's memory port. ``error`` follows every SLVERR and DECERR.
    base_address : :py:`In(axi_address_bits)`
        Byte address of the port's word 0. Its bits below a whole word are ignored. It must not
        change while anything is on its way. Addresses wrap at the end of the bus's address space.
    m_axi_… : as :func:`axi4_master_members` says
        The bus, with the usual names.
    """

    def __init__(
        self,
        address_bits: int,
        word_bits: int,
        *,
        axi_address_bits: int = 32,
        id_bits: int = 1,
        outstanding: int = 8,
        length_bits: int = LENGTH_BITS,
    ):
        _check_word_bits(word_bits)
        if not isinstance(axi_address_bits, int) or axi_address_bits not in range(32, 65):
            raise ValueError(
                f"AXI4 address width must be an integer from 32 to 64, not {axi_address_bits!r}"
            )
        check_width("AXI4 identifier width", id_bits)
        check_width("Number of outstanding bursts", outstanding)
        signature = MemoryPortSignature(address_bits, word_bits, length_bits)
        word_address_bits = axi_address_bits - exact_log2(word_bits // 8)
        if address_bits > word_address_bits:
            raise ValueError(
                f"Memory port address width must be at most {word_address_bits}, the words of "
                f"{word_bits} bits that {axi_address_bits} AXI4 address bits reach, "
                f"not {address_bits}"
            )
        self._address_bits = address_bits
        self._word_bits = word_bits
        self._axi_address_bits = axi_address_bits
        self._id_bits = id_bits
        self._outstanding = outstanding
        self._length_bits = length_bits
        self.probes = SimpleNamespace()
        super().__init__(
            {
                "port": In(signature),
                "base_address": In(axi_address_bits),
                **axi4_master_members(word_bits, axi_address_bits, id_bits),
            }
        )

    @property
    def address_bits(self) -> int:
        return self._address_bits

    @property
    def word_bits(self) -> int:
        return self._word_bits

    @property
    def axi_address_bits(self) -> int:
        return self._axi_address_bits

    @property
    def id_bits(self) -> int:
        return self._id_bits

    @property
    def outstanding(self) -> int:
        return self._outstanding

    @property
    def length_bits(self) -> int:
        return self._length_bits

    @property
    def max_burst(self) -> int:
        """Words of the longest burst; a power of two. Bursts end at its multiples."""
        return min(_MAX_BEATS, _BORDER_BYTES // (self.word_bits // 8))

    def elaborate(self, platform) -> Module:
        m = Module()
        read_transfer = self._reads(m)
        self._writes(m)
        # The upper bit of a response tells SLVERR and DECERR from the good ones.
        with m.If(
            (read_transfer & self.m_axi_rresp[1]) | (self.m_axi_bvalid & self.m_axi_bresp[1])
        ):
            m.d.sync += self.port.error.eq(1)
        return m

    def _reads(self, m: Module) -> Signal:
        """Requests become bursts, not too many at once, for the address channel.

        Returns
        -------
        Signal
            A word comes from the bus.
        """
        port = self.port
        size = exact_log2(self.word_bits // 8)
        base = self.base_address[size:]
        m.submodules.splitter = splitter = BurstSplitter(
            self.address_bits, len(base), self.length_bits, self.max_burst
        )
        m.submodules.read_count = read_count = _InFlight(self.outstanding)
        m.submodules.address_slice = address_slice = RegisterSlice(
            burst_layout(len(base), self.max_burst)
        )
        burst_go = Signal()
        m.d.comb += [
            splitter.base.eq(base),
            splitter.i_stream.payload.eq(port.read.payload),
            splitter.i_stream.valid.eq(port.read.valid),
            port.read.ready.eq(splitter.i_stream.ready),
            address_slice.i_stream.payload.eq(splitter.o_stream.payload),
            address_slice.i_stream.valid.eq(splitter.o_stream.valid & ~read_count.full),
            splitter.o_stream.ready.eq(address_slice.i_stream.ready & ~read_count.full),
            burst_go.eq(splitter.o_stream.valid & splitter.o_stream.ready),
            read_count.start.eq(burst_go),
            self.m_axi_arid.eq(0),
            self.m_axi_araddr.eq(address_slice.o_stream.p.address << size),
            self.m_axi_arlen.eq(address_slice.o_stream.p.more),
            self.m_axi_arsize.eq(size),
            self.m_axi_arburst.eq(_BURST_INCR),
            self.m_axi_arcache.eq(_CACHE),
            self.m_axi_arprot.eq(0),
            self.m_axi_arvalid.eq(address_slice.o_stream.valid),
            address_slice.o_stream.ready.eq(self.m_axi_arready),
        ]

        # Words read. The end of a burst is counted a cycle late, which only errs on the safe side.
        m.submodules.data_slice = data_slice = RegisterSlice(self.word_bits)
        read_transfer = Signal()
        m.d.comb += [
            data_slice.i_stream.payload.eq(self.m_axi_rdata),
            data_slice.i_stream.valid.eq(self.m_axi_rvalid),
            self.m_axi_rready.eq(data_slice.i_stream.ready),
            port.data.payload.eq(data_slice.o_stream.payload),
            port.data.valid.eq(data_slice.o_stream.valid),
            data_slice.o_stream.ready.eq(port.data.ready),
            read_transfer.eq(self.m_axi_rvalid & self.m_axi_rready),
        ]
        m.d.sync += read_count.finish.eq(read_transfer & self.m_axi_rlast)
        self.probes = SimpleNamespace(
            splitter=splitter, read_count=read_count, address_slice=address_slice
        )
        return read_transfer

    def _writes(self, m: Module) -> None:
        """Address and data leave together, and each waits for its own channel."""
        port = self.port
        size = exact_log2(self.word_bits // 8)
        base = self.base_address[size:]
        m.submodules.write_count = write_count = _InFlight(self.outstanding)
        write_go = Signal()
        write_address = Signal(len(base))
        m.d.comb += [
            port.write.ready.eq(~self.m_axi_awvalid & ~self.m_axi_wvalid & ~write_count.full),
            write_go.eq(port.write.valid & port.write.ready),
            write_count.start.eq(write_go),
            port.write_idle.eq(write_count.empty),
            self.m_axi_awid.eq(0),
            self.m_axi_awaddr.eq(write_address << size),
            self.m_axi_awlen.eq(0),
            self.m_axi_awsize.eq(size),
            self.m_axi_awburst.eq(_BURST_INCR),
            self.m_axi_awcache.eq(_CACHE),
            self.m_axi_awprot.eq(0),
            self.m_axi_wstrb.eq(~0),
            self.m_axi_wlast.eq(1),
            self.m_axi_bready.eq(1),
        ]
        with m.If(self.m_axi_awready):
            m.d.sync += self.m_axi_awvalid.eq(0)
        with m.If(self.m_axi_wready):
            m.d.sync += self.m_axi_wvalid.eq(0)
        with m.If(write_go):
            m.d.sync += [
                write_address.eq(base + port.write.p.address),
                self.m_axi_wdata.eq(port.write.p.data),
                self.m_axi_awvalid.eq(1),
                self.m_axi_wvalid.eq(1),
            ]
        m.d.sync += write_count.finish.eq(self.m_axi_bvalid)

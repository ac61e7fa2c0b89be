"""What is proven of the register slice and of the AXI4 master's bursts."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

from amaranth.hdl import Cat, Mux, Signal, Value
from amaranth.utils import exact_log2

from stillnet.hw.memory.axi4 import Axi4ReadMaster, BurstSplitter
from stillnet.hw.parts.register_slice import RegisterSlice

from .proof import Proof

__all__ = ["axi4_proof", "slice_proof", "splitter_proof"]

_BORDER = 4096


def slice_proof(
    *, depth: int = 4, early: bool = False, register_slice: type = RegisterSlice
) -> Proof:
    """A register slice is a queue of two places with a transfer a cycle, for all time.

    Parameters
    ----------
    depth : int
    early : bool
        Its taker says a cycle before whether it takes, at any time.
    register_slice : class, optional
        Another one than :class:`RegisterSlice`.
    """
    proof = Proof(depth)
    m, claim = proof.m, proof.claim
    dut = register_slice(8, **({"early": True} if early else {}))
    proof.add("slice", dut)
    c = dut.probes
    into, out = dut.i_stream, dut.o_stream
    proof.free(into.payload, into.valid)
    if early:
        proof.free(dut.o_ready_next)
        m.d.sync += out.ready.eq(dut.o_ready_next)
    else:
        proof.free(out.ready)
    put, get = into.valid & into.ready, out.valid & out.ready

    # A queue of two, written as plainly as it can be.
    level = Signal(2)
    places = [Signal(8, name=f"place{k}") for k in range(2)]
    left = Signal(2)
    m.d.comb += left.eq(level - get)
    m.d.sync += level.eq(left + put)
    with m.If(get):
        m.d.sync += places[0].eq(places[1])
    for k, place in enumerate(places):
        with m.If(put & (left == k)):
            m.d.sync += place.eq(into.payload)
    claim("what is in it is offered", out.valid == (level != 0))
    claim("in order", ~out.valid | (out.payload == places[0]))
    claim("there is room for two", into.ready == (level < 2))
    next_ready = Signal(init=1)
    m.d.sync += next_ready.eq(dut.ready_next)
    claim("it says before whether it takes", into.ready == next_ready)
    proof.held("stream", out)
    # Invariants.
    claim("two places", level <= 2)
    claim("spare", (level != 2) | (c.spare == places[1]))
    proof.reach("full and emptied", (level == 2) & get)
    return proof


def splitter_proof(*, depth: int = 5, splitter: type = BurstSplitter) -> Proof:
    """Bursts are the words of the requests, each once and in order, for all time.

    Bursts of at most four words, requests of at most 31, 64 words of memory: the sizes are
    parameters of the component.

    Parameters
    ----------
    depth : int
    splitter : class, optional
        Another one than :class:`BurstSplitter`.
    """
    bits, most, length_bits = 6, 4, 5
    proof = Proof(depth)
    m, claim = proof.m, proof.claim
    dut = splitter(bits, bits, length_bits, most)
    proof.add("splitter", dut)
    c = dut.probes
    into, out = dut.i_stream, dut.o_stream
    base = proof.constant(bits, "any_base")
    m.d.comb += dut.base.eq(base)
    proof.free(into.payload, into.valid, out.ready)
    put, get = Signal(), Signal()
    m.d.comb += [
        put.eq(into.valid & into.ready & (into.p.length != 0)),
        get.eq(out.valid & out.ready),
    ]

    # Requests that have been accepted: next address, words left.
    address = [Signal(bits, name=f"address{k}") for k in range(2)]
    words = [Signal(length_bits, name=f"words{k}") for k in range(2)]
    level, left = Signal(2), Signal(2)
    done = Signal()
    count = Signal(range(most + 1))
    m.d.comb += [
        count.eq(out.p.more + 1),
        done.eq(get & (words[0] == count)),
        left.eq(level - done),
    ]
    m.d.sync += level.eq(left + put)
    with m.If(get):
        m.d.sync += [address[0].eq(address[0] + count), words[0].eq(words[0] - count)]
    with m.If(done):
        m.d.sync += [address[0].eq(address[1]), words[0].eq(words[1])]
    for k in range(2):
        with m.If(put & (left == k)):
            m.d.sync += [address[k].eq(base + into.p.address), words[k].eq(into.p.length)]

    end = Signal(bits)
    m.d.comb += end.eq(out.p.address + count)
    low = exact_log2(most)
    claim("only what was asked for", ~out.valid | ((level != 0) & (count <= words[0])))
    claim("next word", ~out.valid | (out.p.address == address[0]))
    claim("border", ~out.valid | (out.p.address[:low] + out.p.more < most))
    claim("no burst is too short", ~out.valid | (count == words[0]) | (end[:low] == 0))
    waited = Signal(2)
    m.d.sync += waited.eq(Mux(out.valid | (level == 0), 0, waited + (waited != 3)))
    claim("at once", waited <= 1)
    proof.held("stream", out)

    # Invariants.
    _splitter_invariants(proof, dut)
    claim("requests", level == out.valid + c.request_valid)
    rest = words[0] - 1
    claim("rest", ~out.valid | (rest + c.offset == c.blocks_left * most + c.last_more))
    claim("first", ~out.valid | ~c.first | (c.first_more == rest[:low]))
    claim("some", ((level == 0) | (words[0] != 0)) & ((level < 2) | (words[1] != 0)))
    for k in range(2):
        behind = c.request_valid & (out.valid == k)
        claim("request", ~behind | ((c.address == address[k]) & (c.more + 1 == words[k])))
    proof.reach("a request of several bursts", get & ~done & (words[0] > most))
    return proof


def _splitter_invariants(proof: Proof, splitter: Any) -> None:
    claim = proof.claim
    c, out = splitter.probes, splitter.o_stream
    claim("later bursts are aligned", ~out.valid | c.first | (c.offset == 0))
    claim("last", ~out.valid | (c.last == (c.blocks_left == 0)))
    within = ~(c.first & c.last) | (c.offset + c.first_more < splitter.max_burst)
    claim("within a block", ~out.valid | within)


def axi4_proof(*, depth: int = 4, master: type = Axi4ReadMaster) -> Proof:
    """Rules of AXI4 on the channels that the master drives, for all time.

    With words of 128 bits the longest burst, 256 words, is 4 KB. The slave answers as it likes, but
    not more than it was asked.

    Parameters
    ----------
    depth : int
    master : class, optional
        Another one than :class:`Axi4ReadMaster`.
    """
    word_bits, outstanding = 128, 3
    proof = Proof(depth)
    m, claim = proof.m, proof.claim
    dut = master(20, word_bits, outstanding=outstanding, length_bits=12)
    proof.add("master", dut)
    read_count, address_slice = dut.probes.read_count, dut.probes.address_slice.probes
    base = proof.constant(32, "any_base")
    m.d.comb += dut.base_address.eq(base)
    port = dut.port
    proof.free(port.read.payload, port.read.valid, port.data.ready)
    proof.free(port.write.payload, port.write.valid)
    proof.free(dut.m_axi_arready, dut.m_axi_awready, dut.m_axi_wready)
    proof.free(dut.m_axi_rdata, dut.m_axi_rvalid, dut.m_axi_rlast, dut.m_axi_rresp)
    proof.free(dut.m_axi_bvalid, dut.m_axi_bresp)

    size = exact_log2(word_bits // 8)
    for channel, names in {
        "ar": ("addr", "len", "size", "burst", "id"),
        "aw": ("addr", "len", "size", "burst", "id"),
        "w": ("data", "strb", "last"),
    }.items():
        parts = [getattr(dut, f"m_axi_{channel}{name}") for name in names]
        offer = SimpleNamespace(
            payload=Cat(*parts),
            valid=getattr(dut, f"m_axi_{channel}valid"),
            ready=getattr(dut, f"m_axi_{channel}ready"),
        )
        proof.held(f"{channel} stays", offer)
    for channel in ("ar", "aw"):
        valid, start = getattr(dut, f"m_axi_{channel}valid"), getattr(dut, f"m_axi_{channel}addr")
        length = (getattr(dut, f"m_axi_{channel}len") + 1) << size
        claim("no burst crosses 4 KB", ~valid | (start[:12] + length <= _BORDER))
        claim("whole words", ~valid | (start[:size] == 0))
    claim("one word", ~dut.m_axi_wvalid | (dut.m_axi_wlast & dut.m_axi_wstrb.all()))

    # Bursts on their way.
    asked, answered = Signal(), Signal()
    m.d.comb += [
        asked.eq(dut.m_axi_arvalid & dut.m_axi_arready),
        answered.eq(dut.m_axi_rvalid & dut.m_axi_rready & dut.m_axi_rlast),
    ]
    reads = Signal(4)
    m.d.sync += reads.eq(reads + asked - answered)
    proof.assume(~dut.m_axi_rvalid | (reads != 0))
    claim("reads on their way", reads + dut.m_axi_arvalid <= outstanding)

    # Invariants.
    _splitter_invariants(proof, dut.probes.splitter)
    low = exact_log2(dut.max_burst)
    spare = address_slice.spare
    full = address_slice.spare_valid

    def whole(burst: Any) -> Any:
        value = Value.cast(burst.address)
        return value[:low] + burst.more < dut.max_burst

    claim("spare", ~full | whole(spare))
    claim("spare behind", ~full | dut.m_axi_arvalid)
    count = read_count.probes.count
    claim("counted", count == reads + dut.m_axi_arvalid + full + read_count.finish)
    claim("full", read_count.full == (count == outstanding))
    claim("limit", count <= outstanding)
    return proof

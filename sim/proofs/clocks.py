"""What is proven of streams between two clocks.

A step of the solver is not a cycle of a clock: in each step either clock has an edge, or both, or
none, as the solver likes. These are all relations of two clocks, drifting ones too. A synchroniser
takes a change at the next edge of its clock or at any later one, each bit as it likes: so it is
with bits that change just when they are sampled, and whose wires are not equally long.
"""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

from amaranth.hdl import DomainRenamer, EnableInserter, Module, Signal
from amaranth.utils import exact_log2

from stillnet.hw.memory.crossing import Places

from .proof import Proof

__all__ = ["places_proof"]


class _Wires:
    """A platform whose synchronisers are late as the solver likes.

    Attributes
    ----------
    chains : list of list of Signal
        Of each synchroniser what goes in, and both stages.
    """

    def __init__(self, proof: Proof) -> None:
        self._proof = proof
        self.chains: list[list[Signal]] = []

    def get_ff_sync(self, sync: Any) -> Module:
        """What Amaranth puts in the place of an ``FFSynchronizer``."""
        m = Module()
        number = len(self.chains)
        stages = [Signal.like(sync.i, name=f"wire{number}_stage{k}") for k in range(sync._stages)]
        late = self._proof.anything(len(sync.i), f"wire{number}_late")
        m.d[sync._o_domain] += stages[0].eq((late & stages[0]) | (~late & sync.i))
        for before, after in zip(stages, stages[1:]):
            m.d[sync._o_domain] += after.eq(before)
        m.d.comb += sync.o.eq(stages[-1])
        self.chains.append([sync.i, *stages])
        return m


def places_proof(*, depth: int = 3, size: int = 8, places: type = Places) -> Proof:
    """What goes in at one clock comes out at the other, each once and in order, for all time.

    One number of a payload, any, is watched. The clocks have any relation.

    Parameters
    ----------
    depth : int
    size : int
        Places.
    places : class, optional
        Another one than :class:`Places`.
    """
    proof = Proof(depth)
    m, claim = proof.m, proof.claim
    bits, width = exact_log2(size), 4
    dut = places(width, size, "source", "target")
    edges = {name: proof.anything(1, f"edge_of_{name}") for name in ("source", "target")}
    inside = dut.elaborate(None)
    c = dut.probes
    watch = c.storage.read_port(domain="comb")
    wires = _Wires(proof)
    clocked = DomainRenamer(dict.fromkeys(edges, "sync"))(EnableInserter(edges)(inside))
    proof.add("places", clocked, wires)
    into, out = dut.i_stream, dut.o_stream
    proof.free(into.payload, into.valid, out.ready)
    put, get = Signal(), Signal()
    m.d.comb += [
        put.eq(into.valid & into.ready & edges["source"]),
        get.eq(out.valid & out.ready & edges["target"]),
    ]

    # Payloads are numbered modulo twice the places; more are never under way.
    number = bits + 1
    watched = proof.constant(number, "watched")
    first, end = Signal(number), Signal(number)
    m.d.sync += [first.eq(first + get), end.eq(end + put)]
    value = Signal(width)
    with m.If(put & (end == watched)):
        m.d.sync += value.eq(into.payload)
    level, unread, ahead = (Signal(number, name=n) for n in ("level", "unread", "ahead"))
    m.d.comb += [
        level.eq(end - first),
        unread.eq(level - out.valid),
        ahead.eq(watched - first),
        watch.addr.eq(watched[:bits]),
    ]
    claim("what is offered went in", ~out.valid | (level != 0))
    claim("in order", ~out.valid | (ahead != 0) | (out.payload == value))
    proof.held(
        "stream",
        SimpleNamespace(payload=out.payload, valid=out.valid, ready=out.ready & edges["target"]),
    )
    # It goes on: what the other side has been told is seen at once.
    filled, emptied = wires.chains
    told = (filled[-1] ^ filled[0]) | (emptied[-1] ^ emptied[0])
    claim("an empty queue takes", told.any() | (unread != 0) | into.ready)
    claim("what has come is offered", told.any() | (unread == 0) | c.there)

    # Invariants.
    claim("no more than places", unread <= size)
    claim("places", c.writer.addr == end[:bits])
    claim("places there", c.reader.addr == (first + out.valid)[:bits])
    claim("place", (c.at == 1 << c.writer.addr) & (c.here == 1 << c.reader.addr))
    under_way = (ahead < level) & ~(out.valid & (ahead == 0))
    claim("memory", ~under_way | (watch.data == value))
    for k in range(size):
        # A change goes round: filled, synchronised, emptied, synchronised; then the next one.
        flags = [flag[k] for flag in (*filled, *emptied)]
        changes = sum((a ^ b for a, b in zip(flags, flags[1:])), start=Signal(1, name=f"none{k}"))
        claim("one change at a time", changes <= 1)
        full = (filled[0] ^ emptied[0])[k]
        behind = Signal(bits, name=f"behind{k}")
        m.d.comb += behind.eq(k - c.reader.addr)
        claim("full places", full == (behind < unread))
    proof.reach("all places full", unread == size)
    return proof

"""What is proven of streams between two clocks.

A step of the solver is not a cycle of a clock: in each step either clock has an edge, or both, or
none, as the solver likes. These are all relations of two clocks, drifting ones too. A synchroniser
takes a change at the next edge of its clock or at any later one, each bit as it likes: so it is
with bits that change just when they are sampled, and whose wires are not equally long.
"""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

from amaranth.hdl import Const, DomainRenamer, EnableInserter, Module, Signal, Value
from amaranth.utils import exact_log2

from stillnet.hw.memory.crossing import Places, PortCrossing

from .proof import Proof

__all__ = ["places_proof", "writes_proof"]


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


def _watched(component: type) -> type:
    """A component with one more port of its memory, ``watch``."""

    class Watched(component):  # type: ignore[misc, valid-type]
        def elaborate(self, platform: Any) -> Module:
            inside = super().elaborate(platform)
            self.watch = self.probes.storage.read_port(domain="comb")
            return inside

    return Watched


def _clocked(component: Any, edges: dict[str, Signal]) -> Any:
    """A component that works in the steps in which its clocks have an edge."""
    return DomainRenamer(dict.fromkeys(edges, "sync"))(EnableInserter(edges)(component))


def _changes(flags: list[Any]) -> Value:
    """How many of some bits differ from the one before."""
    return sum((a ^ b for a, b in zip(flags, flags[1:])), start=Value.cast(Const(0)))


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
    dut = _watched(places)(width, size, "source", "target")
    edges = {name: proof.anything(1, f"edge_of_{name}") for name in ("source", "target")}
    wires = _Wires(proof)
    proof.add("places", _clocked(dut, edges), wires)
    c, watch = dut.probes, dut.watch
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
    claim("what is read is not being written", ~(put & c.there) | (c.writer.addr != c.reader.addr))
    # It goes on: what a side has been told is seen at its next edge.
    filled, emptied = wires.chains
    told, empty = Signal(), Signal()
    m.d.comb += told.eq((filled[0] == filled[-1]) & (emptied[0] == emptied[-1]))
    with m.If(edges["source"]):
        m.d.sync += empty.eq(told & (unread == 0))
    claim("an empty queue takes", ~empty | into.ready)
    claim("what has come is offered", ~told | (unread == 0) | c.there)

    # Invariants.
    claim("no more than places", unread <= size)
    claim("places", c.writer.addr == end[:bits])
    claim("places there", c.reader.addr == (first + out.valid)[:bits])
    claim("place", (c.at == 1 << c.writer.addr) & (c.here == 1 << c.reader.addr))
    under_way = (ahead < level) & ~(out.valid & (ahead == 0))
    claim("room", ~into.ready | (((filled[0] ^ emptied[-1]) & c.at) == 0))
    claim("memory", ~under_way | (watch.data == value))
    for k in range(size):
        # A change goes round: filled, synchronised, emptied, synchronised; then the next one.
        flags = [flag[k] for flag in (*filled, *emptied)]
        claim("one change at a time", _changes(flags) <= 1)
        full = (filled[0] ^ emptied[0])[k]
        behind = Signal(bits, name=f"behind{k}")
        m.d.comb += behind.eq(k - c.reader.addr)
        claim("full places", full == (behind < unread))
    proof.reach("all places full", unread == size)
    return proof


def writes_proof(*, depth: int = 3, crossing: type = PortCrossing) -> Proof:
    """A write crosses once, as it was given, and counts as done only when it is, for all time.

    The memory accepts it at any time and is at work for as long as it likes; what it does not
    accept any more is assumed to be seen at once. Reads, words and restarts come at any time.

    Parameters
    ----------
    depth : int
    crossing : class, optional
        Another one than :class:`PortCrossing`.
    """
    proof = Proof(depth)
    m, claim = proof.m, proof.claim
    dut = _watched(crossing)(3, 8, length_bits=2, domain="target")
    edges = {name: proof.anything(1, f"edge_of_{name}") for name in ("sync", "target")}
    wires = _Wires(proof)
    proof.add("crossing", _clocked(dut, edges), wires)
    c, watch = dut.probes, dut.watch
    port, memory = dut.port, dut.memory
    proof.free(port.read.payload, port.read.valid, port.data.ready, dut.restart)
    proof.free(port.write.payload, port.write.valid)
    proof.free(memory.read.ready, memory.data.payload, memory.data.valid, memory.error)
    proof.free(memory.write.ready, memory.write_idle)
    given, taken = port.write, memory.write
    put, get = Signal(), Signal()
    m.d.comb += [
        put.eq(given.valid & given.ready & edges["sync"]),
        get.eq(taken.valid & taken.ready & edges["target"]),
    ]

    # The write that is under way, and whether the memory is at work on it.
    under_way, at_work, done = Signal(), Signal(), proof.anything(1, "done")
    value = Signal(len(Value.cast(given.payload)))
    with m.If(put):
        m.d.sync += [under_way.eq(1), value.eq(given.payload)]
    with m.Elif(get):
        m.d.sync += under_way.eq(0)
    with m.If(get):
        m.d.sync += at_work.eq(1)
    with m.Elif(done & edges["target"]):
        m.d.sync += at_work.eq(0)
    proof.assume(~(at_work & memory.write_idle))
    claim("one at a time", ~(put & (under_way | at_work)))
    claim("each once", ~taken.valid | under_way)
    claim("as it was given", ~taken.valid | (Value.cast(taken.payload) == value))
    claim("done means done", ~port.write_idle | ~(under_way | at_work))
    proof.held(
        "stream",
        SimpleNamespace(
            payload=taken.payload, valid=taken.valid, ready=taken.ready & edges["target"]
        ),
    )

    # Invariants. A change goes round: asked, taken, done; then the next one.
    asked, finished = wires.chains[-4:-2]
    claim("one change at a time", _changes([*asked, c.taken, *finished]) <= 1)
    claim("what is read is not being written", ~put | (asked[-1] == c.taken))
    claim("offered", ~taken.valid | (c.taken != finished[0]))
    claim("under way", under_way == ((asked[0] != c.taken) | taken.valid))
    claim("at work", ~at_work | ((c.taken != finished[0]) & ~taken.valid))
    m.d.comb += watch.addr.eq(0)
    claim("memory", ~under_way | (watch.data == value))
    proof.reach("a write after another one", put & c.taken)
    return proof

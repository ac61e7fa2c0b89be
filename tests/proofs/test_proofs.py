"""Formal proofs of the SDRAM controller, the host link's framing, streams, crossings of clocks and
budgets.

Each proof is a search by a solver over all inputs; ``docs/proofs.md`` says what is claimed. Each is
also given hardware that is wrong on purpose, and must name the rule that this breaks.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import pytest
from amaranth.hdl import Signal

from stillnet.hw.memory.sdram.parts import PARTS
from stillnet.sim.proofs.budgets import budget_proof, order_proof
from stillnet.sim.proofs.clocks import places_proof, writes_proof
from stillnet.sim.proofs.link import receiver_proof, ring_proof, transmitter_proof
from stillnet.sim.proofs.proof import Proof
from stillnet.sim.proofs.sdram import TIGHT, refresh_proof, sdram_proof
from stillnet.sim.proofs.streams import axi4_proof, queue_proof, slice_proof, splitter_proof
from tests.support.mutations import changed
from tests.support.sampling import some

SLEEP = 32
"""Cycles without a request before an SDRAM is put to sleep, the least that a controller takes."""

PROOFS: dict[str, Callable[[], Proof]] = {
    "sdram": sdram_proof,
    "refresh": refresh_proof,
    "sleepy sdram": partial(sdram_proof, power_down=SLEEP),
    "sleepy refresh": partial(refresh_proof, power_down=SLEEP),
    "receiver": receiver_proof,
    "ring": ring_proof,
    "transmitter": transmitter_proof,
    "slice": slice_proof,
    "early slice": partial(slice_proof, early=True),
    "queue": queue_proof,
    "places": places_proof,
    "writes": writes_proof,
    "splitter": splitter_proof,
    "axi4": axi4_proof,
    "budget": budget_proof,
}


# The sleepy controller is the other one, and more.
@pytest.mark.parametrize(
    "name", some(PROOFS, *[p for p in PROOFS if p not in ("sdram", "refresh")])
)
def test_proof(name):
    outcome = PROOFS[name]().check()
    assert outcome.proven, outcome.failed or outcome.log


@pytest.mark.parametrize(
    ("name", "depth"),
    [
        ("slice", 8),
        ("early slice", 8),
        ("queue", 12),
        ("splitter", 8),
        ("ring", 8),
        ("places", 12),
        ("writes", 16),
        ("budget", 30),
        ("sleepy refresh", 160),
    ],
)
def test_what_is_spoken_of_happens(name, depth):
    proof = PROOFS[name]()
    proof.depth = depth
    assert proof.cover()


@pytest.mark.slow
def test_the_counts_of_a_budget_suffice():
    """Every vector of up to four groups."""
    outcome = order_proof().check(induction=False)
    assert outcome.proven, outcome.failed or outcome.log


def at_100_mhz(name: str) -> dict[str, Any]:
    part = PARTS[name]
    return {"part": part, "demanded": part.timings(100_000_000, startup_us=1)}


@pytest.mark.slow
@pytest.mark.parametrize("name", PARTS)
def test_sdram_proof_of_a_part(name):
    """All rows and columns of the part, its timings at 100 MHz; only the first pause is shorter."""
    options = at_100_mhz(name)
    outcome = sdram_proof(**options).check()
    assert outcome.proven, outcome.failed or outcome.log
    outcome = refresh_proof(demanded=options["demanded"]).check()
    assert outcome.proven, outcome.failed or outcome.log


@pytest.mark.slow
@pytest.mark.parametrize("name", PARTS)
def test_sleepy_proof_of_a_part(name):
    """The same with power-down."""
    options = at_100_mhz(name)
    outcome = sdram_proof(**options, power_down=SLEEP).check()
    assert outcome.proven, outcome.failed or outcome.log
    outcome = refresh_proof(demanded=options["demanded"], power_down=SLEEP).check()
    assert outcome.proven, outcome.failed or outcome.log


@pytest.mark.slow
@pytest.mark.parametrize("power_down", [None, SLEEP])
@pytest.mark.parametrize("postponed", [1, 2, 4])
def test_refresh_proof_of_fewer_that_wait(postponed, power_down):
    outcome = refresh_proof(postponed=postponed, power_down=power_down).check()
    assert outcome.proven, outcome.failed or outcome.log


@pytest.mark.slow
@pytest.mark.parametrize("size", [2, 4, 16])
def test_places_of_other_sizes(size):
    outcome = places_proof(size=size).check()
    assert outcome.proven, outcome.failed or outcome.log


# -- broken on purpose ----------------------------------------------------------------------------


TIMINGS = {
    "trcd": "tRCD",
    "trp": "tRP",
    "tras": "tRAS",
    "trc": "tRC",
    "trfc": "tRFC",
    "trrd": "tRRD",
    "twr": "tWR",
}


@pytest.mark.parametrize(
    "name", [pytest.param(n, marks=[pytest.mark.slow] * (n != "trcd")) for n in TIMINGS]
)
def test_a_timing_one_short(name):
    used = replace(TIGHT, **{name: getattr(TIGHT, name) - 1})
    outcome = sdram_proof(used=used).check()
    assert not outcome.proven
    assert TIMINGS[name] in outcome.failed


@pytest.mark.slow
@pytest.mark.parametrize("name", ["txp", "tcke"])
def test_a_timing_of_power_down_one_short(name):
    used = replace(TIGHT, **{name: getattr(TIGHT, name) - 1})
    outcome = sdram_proof(used=used, power_down=SLEEP).check()
    assert not outcome.proven
    assert {"txp": "tXP", "tcke": "tCKE"}[name] in outcome.failed


@pytest.mark.slow
def test_a_mode_register_one_short():
    """The controller leaves more than it must behind LOAD MODE."""
    demanded = replace(TIGHT, tmrd=12)
    assert sdram_proof(demanded=demanded).check().proven
    outcome = sdram_proof(demanded=demanded, used=replace(demanded, tmrd=7)).check()
    assert outcome.failed.endswith("tMRD")


@pytest.mark.slow
@pytest.mark.parametrize("name", ["trcd"])
def test_a_timing_one_short_from_power_up(name):
    """Not only a step that does not follow, but a run from the first cycle on."""
    right = replace(TIGHT, startup=2)
    used = replace(right, **{name: getattr(right, name) - 1})
    outcome = sdram_proof(demanded=right, used=used, depth=100).check(induction=False)
    assert TIMINGS[name] in outcome.failed and "induction" not in outcome.failed


def test_a_pause_too_short():
    outcome = sdram_proof(used=replace(TIGHT, startup=TIGHT.startup - 1)).check()
    assert not outcome.proven


@dataclass(frozen=True)
class Mutation:
    """A change of one module.

    Attributes
    ----------
    proof : str
        The proof that must fail.
    module : str
    old, new : str
    failed : str
        What it must say is broken; anything where it is empty.
    run : int
        Where it is not 0, ``failed`` is broken in a run of so many cycles from the first one on,
        without the help of invariants.
    slow : bool
    """

    proof: str
    module: str
    old: str
    new: str
    failed: str
    run: int = 0
    slow: bool = True

    def build(self, monkeypatch: pytest.MonkeyPatch) -> Proof:
        module = changed(self.module, (self.old, self.new))
        match self.proof:
            case "sdram" | "sleepy sdram":
                sleep = SLEEP if self.proof == "sleepy sdram" else None
                if self.module == "memory.sdram.controller":
                    return sdram_proof(controller=module.SdramController, power_down=sleep)
                name = {
                    "memory.sdram.bank": "SdramBank",
                    "memory.sdram.refresh": "RefreshControl",
                }[self.module]
                monkeypatch.setattr(
                    f"stillnet.hw.memory.sdram.controller.{name}", getattr(module, name)
                )
                return sdram_proof(power_down=sleep)
            case "refresh":
                return refresh_proof(control=module.RefreshControl)
            case "sleepy refresh":
                return refresh_proof(control=module.RefreshControl, power_down=SLEEP)
            case "receiver":
                return receiver_proof(receiver=module.FrameReceiver)
            case "ring":
                return ring_proof(read=module.read_ring)
            case "transmitter":
                return transmitter_proof(transmitter=module.FrameTransmitter)
            case "slice":
                return slice_proof(register_slice=module.RegisterSlice)
            case "early slice":
                return slice_proof(early=True, register_slice=module.RegisterSlice)
            case "queue":
                return queue_proof(queue=module.ShortQueue)
            case "places":
                return places_proof(places=module.Places)
            case "writes":
                return writes_proof(crossing=module.PortCrossing)
            case "splitter":
                return splitter_proof(splitter=module.BurstSplitter)
            case _:
                return axi4_proof(master=module.Axi4ReadMaster)


MUTATIONS = {
    "a segment does not wait for room": Mutation(
        "sdram",
        "memory.sdram.controller",
        "segment.valid & ~x.dispatch & runs.i_stream.ready",
        "segment.valid & ~x.dispatch",
        "nothing goes in where there is no room",
    ),
    "room is withdrawn": Mutation(
        "queue", "parts.short_queue", "full.eq(0)", "full.eq(level == self.depth)", ""
    ),
    "another bank": Mutation("sdram", "memory.sdram.controller", "if b >> i & 1", "if b >> i", ""),
    "a row that is in use is given up": Mutation(
        "sdram",
        "memory.sdram.controller",
        "x.chosen[b] & (x.same[b] | x.unused[b])",
        "x.chosen[b]",
        "one row a bank",
    ),
    "the bus is not turned around": Mutation(
        "sdram",
        "memory.sdram.controller",
        "Mux(x.read, ones(BURST + t.cas_latency), 0)",
        "Mux(x.read, ones(BURST), 0)",
        "one side drives the bus",
    ),
    "another CAS latency": Mutation(
        "sdram",
        "memory.sdram.controller",
        "mode_register(self._timings.cas_latency)",
        "mode_register(3)",
        "mode register",
    ),
    "data goes on in a refresh": Mutation(
        "sdram",
        "memory.sdram.controller",
        "~refresh.hold & read_words.room & ~after_write_next[0]",
        "read_words.room & ~after_write_next[0]",
        "",
    ),
    "the old row stays open": Mutation(
        "sdram",
        "memory.sdram.bank",
        "(other_row & opened) | (~other_row & stale)",
        "stale",
        "",
    ),
    "a bank counts as open after a refresh": Mutation(
        "sdram",
        "memory.sdram.bank",
        "choose.precharge | issued.close",
        "choose.precharge",
        "",
    ),
    "refresh with open rows": Mutation(
        "sdram", "memory.sdram.refresh", "m.d.comb += self.precharge.eq(1)", "pass", ""
    ),
    "seven refreshes at the start": Mutation(
        "sdram", "memory.sdram.refresh", "_FIRST_REFRESHES = 8", "_FIRST_REFRESHES = 7", ""
    ),
    "refresh is left out": Mutation(
        "refresh", "memory.sdram.refresh", "many | (some & calm_long)", "0", "debt", slow=False
    ),
    "one refresh more waits": Mutation(
        "refresh", "memory.sdram.refresh", "due >= self._postponed", "due > self._postponed", "debt"
    ),
    "a tick is lost": Mutation(
        "refresh",
        "memory.sdram.refresh",
        "with m.If(tick & self.started & ~self.refresh)",
        "with m.If(tick & self.started & ~self.hold)",
        "",
    ),
    "asleep with open rows": Mutation(
        "sleepy sdram",
        "memory.sdram.refresh",
        'm.next = "CLOSED"',
        'm.next = "SLEEP"',
        "dozing",
    ),
    "asleep while it refreshes": Mutation(
        "sleepy sdram",
        "memory.sdram.refresh",
        """with m.If(over):
                            m.d.sync += wait(t.tcke - 1)""",
        """with m.If(1):
                            m.d.sync += wait(t.tcke - 1)""",
        "power-down of a part with nothing to do",
    ),
    "what is in the queue does not count as a request": Mutation(
        "sleepy sdram",
        "memory.sdram.controller",
        "read.ready & write.ready & x.unused.all()",
        "read.ready & write.ready",
        "power-down of a part with nothing to do",
    ),
    "commands while it wakes up": Mutation(
        "sleepy sdram",
        "memory.sdram.refresh",
        """m.d.sync += [forced.eq(0), *wait(t.txp)]
                m.next = "WAKE\"""",
        """m.d.sync += [forced.eq(0), self.hold.eq(0)]
                m.next = "RUN\"""",
        "tXP",
    ),
    "refreshes do not end sleep": Mutation(
        "sleepy refresh",
        "memory.sdram.refresh",
        "over & (some | self.request)",
        "over & self.request",
        "few are due in sleep",
        slow=False,
    ),
    "the CRC is not checked": Mutation(
        "receiver",
        "host.link.receiver",
        "x.crc.match_detected & x.whole",
        "x.whole",
        "only a frame that is right is delivered",
        run=20,
        slow=False,
    ),
    "the length is not checked": Mutation(
        "receiver",
        "host.link.receiver",
        "x.crc.match_detected & x.whole",
        "x.crc.match_detected",
        "only a frame that is right is delivered",
        run=20,
    ),
    "an escaped escape is let through": Mutation(
        "receiver",
        "host.link.receiver",
        "x.damaged.eq(x.damaged | x.escaped)",
        "x.damaged.eq(x.damaged)",
        "",
    ),
    "errors of the line do not count": Mutation(
        "receiver",
        "host.link.receiver",
        "m.d.sync += x.broken.eq(1)",
        "pass",
        "",
    ),
    "any number is the next": Mutation(
        "receiver",
        "host.link.receiver",
        "(kind != Command.HELLO) & (ahead != 0)",
        "0",
        "what is decided with",
    ),
    "it stops at a flag": Mutation(
        "receiver",
        "host.link.receiver",
        '            m.next = "DECIDE"',
        "            pass",
        "",
    ),
    "a damaged frame spoils the next one": Mutation(
        "receiver",
        "host.link.receiver",
        "x.damaged.eq(0)",
        "x.damaged.eq(x.damaged)",
        "",
        slow=False,
    ),
    "the ring is overrun": Mutation(
        "receiver", "host.link.receiver", "with m.Elif(x.overflow):", "with m.Elif(0):", ""
    ),
    "a byte is read twice": Mutation(
        "ring",
        "host.link.receiver",
        "m.d.sync += [pointer.eq(after), after.eq(after + 1)]",
        "m.d.sync += after.eq(after + 1)",
        "",
    ),
    "a byte is lost when the reader pauses": Mutation(
        "ring",
        "host.link.receiver",
        "found & move, after, pointer",
        "found, after, pointer",
        "the same byte",
        run=10,
    ),
    "flags are not escaped": Mutation(
        "transmitter",
        "host.link.transmitter",
        "(byte == FLAG) | (byte == ESCAPE)",
        "byte == ESCAPE",
        "flags are at the ends",
        run=8,
        slow=False,
    ),
    "escapes are not turned over": Mutation(
        "transmitter",
        "host.link.transmitter",
        "byte ^ Mux(escaped, FLIP, 0)",
        "byte",
        "an escape escapes",
        run=8,
    ),
    "the checksum is one byte four times": Mutation(
        "transmitter",
        "host.link.transmitter",
        "rest.eq(rest >> 8)",
        "rest.eq(rest)",
        "its checksum",
        run=16,
    ),
    "the checksum goes on from frame to frame": Mutation(
        "transmitter", "host.link.transmitter", "m.d.comb += crc_start.eq(1)", "pass", ""
    ),
    "a transfer is lost": Mutation(
        "slice",
        "parts.register_slice",
        "spare_valid_next.eq(~moves & (spare_valid | i_stream.valid))",
        "spare_valid_next.eq(0)",
        "in order",
        run=6,
    ),
    "a transfer comes twice": Mutation(
        "slice",
        "parts.register_slice",
        "spare_valid_next.eq(~moves & (spare_valid | i_stream.valid))",
        "spare_valid_next.eq(spare_valid | (~moves & i_stream.valid))",
        "what is in it is offered",
        run=8,
    ),
    "one half of a payload does not come from the spare place": Mutation(
        "early slice",
        "parts.register_slice",
        "out[half:], ~keeps, ~spare_free)",
        "out[half:], ~keeps, Signal())",
        "in order",
        run=8,
        slow=False,
    ),
    "both halves move at different times": Mutation(
        "early slice", "parts.register_slice", "keeps.eq(~moves_next)", "keeps.eq(~moves)", ""
    ),
    "what the taker said is not heeded": Mutation(
        "early slice",
        "parts.register_slice",
        "moves_next.eq(~valid_next | self.o_ready_next)",
        "moves_next.eq(1)",
        "what is in it is offered",
        run=6,
    ),
    "full places are filled": Mutation(
        "places",
        "memory.crossing",
        "Mux(writer.en, following, same)",
        "1",
        "in order",
        run=18,
        slow=False,
    ),
    "a place counts as free while it is filled": Mutation(
        "places",
        "memory.crossing",
        "Mux(writer.en, following, same)",
        "same",
        "in order",
        run=20,
    ),
    "the flag of any place counts for the next one": Mutation(
        "places",
        "memory.crossing",
        "((filled_there ^ emptied) & here).any()",
        "(filled_there ^ emptied).any()",
        "what is offered went in",
        run=10,
    ),
    "an emptied place stays there": Mutation(
        "places",
        "memory.crossing",
        "emptied.eq(emptied ^ here)",
        "emptied.eq(emptied)",
        "what is offered went in",
        run=18,
    ),
    "the taker is not waited for": Mutation(
        "places",
        "memory.crossing",
        "reader.en.eq(~out.valid | out.ready)",
        "reader.en.eq(1)",
        "stream",
        run=8,
    ),
    "a write is done once the memory has it": Mutation(
        "writes",
        "memory.crossing",
        "self.memory.write_idle & ~sink.valid",
        "~sink.valid",
        "done means done",
        run=14,
        slow=False,
    ),
    "a write is offered again": Mutation(
        "writes",
        "memory.crossing",
        "m.d[local] += sink.valid.eq(0)",
        "pass",
        "each once",
        run=14,
    ),
    "a write does not wait for the one before": Mutation(
        "writes", "memory.crossing", "idle & open_", "open_", "one at a time", run=6
    ),
    "a burst crosses a border": Mutation(
        "splitter",
        "memory.axi4",
        "(more[bits:] == 0) & ~in_block_end[bits]",
        "more[bits:] == 0",
        "border",
        run=6,
        slow=False,
    ),
    "the same, on the bus": Mutation(
        "axi4",
        "memory.axi4",
        "(more[bits:] == 0) & ~in_block_end[bits]",
        "more[bits:] == 0",
        "no burst crosses 4 KB",
        run=6,
    ),
    "the address is not raised": Mutation(
        "splitter", "memory.axi4", "block.eq(block + 1)", "block.eq(block)", "next word"
    ),
    "one burst too many": Mutation(
        "axi4",
        "memory.axi4",
        "count == self._limit - 1",
        "count == self._limit",
        "reads on their way",
        run=14,
    ),
    "valid does not wait for ready": Mutation(
        "axi4", "memory.axi4", "with m.If(self.m_axi_wready):", "with m.If(1):", "w stays"
    ),
}


@pytest.mark.parametrize(
    "name", [pytest.param(n, marks=[pytest.mark.slow] * m.slow) for n, m in MUTATIONS.items()]
)
def test_mutation_is_noticed(name, monkeypatch):
    mutation = MUTATIONS[name]
    proof = mutation.build(monkeypatch)
    if mutation.run:
        proof.depth = mutation.run
        outcome = proof.check(induction=False, only=[mutation.failed])
        assert (outcome.proven, outcome.failed) == (False, mutation.failed)
    else:
        outcome = proof.check()
        assert not outcome.proven
        assert outcome.failed and mutation.failed in outcome.failed


# -- the runner itself ----------------------------------------------------------------------------


def counter(depth: int, limit: int) -> Proof:
    proof = Proof(depth)
    count = Signal(4)
    step = proof.anything(1, "step")
    with proof.m.If(step & (count != 10)):
        proof.m.d.sync += count.eq(count + 1)
    proof.claim("limit", count <= limit)
    proof.reach("four", count == 4)
    return proof


def test_the_runner_tells_proofs_from_runs_and_steps():
    assert counter(12, 10).check().proven
    outcome = counter(12, 9).check()
    assert (outcome.proven, outcome.failed) == (False, "limit")
    # Too short to see that nine is left, and any number follows one that is lower.
    assert counter(5, 9).check(induction=False).proven
    assert counter(3, 9).check().failed == "induction: limit"
    assert counter(5, 10).cover()
    assert not counter(4, 10).cover()

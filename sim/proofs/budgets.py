"""What is proven of budgets: no vector has more events than its budget, whatever comes, for all
time; and the largest changes are not stopped for want of room that smaller ones took."""

from __future__ import annotations

from amaranth.hdl import Cat, Mux, Signal

from stillnet.hw.events.budget import Budget

from .proof import Proof

__all__ = ["budget_proof", "order_proof"]


class _Surroundings:
    """An encoder around the budget: groups of one vector after the other, with pauses, anything in
    them. A vector begins after the one before was sent."""

    def __init__(self, proof: Proof, dut: Budget) -> None:
        m, came, sent = proof.m, dut.came, dut.sent
        proof.free(dut.came_valid, came, dut.limits, dut.unlimited, dut.vector)
        proof.free(dut.budgets.write, dut.budgets.index, dut.budgets.value)
        self.within, self.waiting = Signal(), Signal()  # within a vector; until it was sent
        with m.If(dut.came_valid):
            m.d.sync += [self.within.eq(~came.last), self.waiting.eq(came.last)]
        with m.If(dut.sent_valid & sent.last):
            m.d.sync += self.waiting.eq(0)
        proof.assume(~dut.came_valid | (came.first == ~self.within))
        proof.assume(~dut.came_valid | ~self.waiting)
        self.number = Signal.like(came.group)
        with m.If(dut.came_valid):
            m.d.sync += self.number.eq(Mux(came.last, 0, self.number + 1))


def budget_proof(*, depth: int = 6, budget: type = Budget) -> Proof:
    """The counter of a vector's events never passes its budget, for all inputs and all times.

    Budgets may change at any time, also within a vector. Groups of two elements; the sizes are
    parameters of the component.

    Parameters
    ----------
    depth : int
    budget : class, optional
        Another one than :class:`Budget`.
    """
    proof = Proof(depth)
    m, claim = proof.m, proof.claim
    dut = budget(2, 4, 2, row_bits=3, group_bits=3)
    proof.add("budget", dut)
    c, around = dut.probes, _Surroundings(proof, dut)
    replayed = Signal()
    total, now = Signal(18), Signal(2)
    m.d.sync += replayed.eq(c.tokens[-1].valid)
    m.d.comb += now.eq(replayed.replicate(2) & (dut.sent.fire[0] + dut.sent.fire[1]))
    with m.If(c.beginning):
        m.d.sync += total.eq(0)
    with m.Else():
        m.d.sync += total.eq(total + now)
    replaying = Signal()
    m.d.comb += replaying.eq(Cat(c.deciding, replayed, *(t.valid for t in c.tokens)).any())
    claim("within the budget", ~replaying | (total + now <= c.budget))
    # Invariants.
    claim("what is left", ~replaying | (c.left + total + now == c.budget))
    last_tokens = [t.valid & t.last for t in c.tokens]
    ends = [c.beginning, c.deciding, *c.lasts, *last_tokens, dut.sent_valid & dut.sent.last]
    claim("one vector at a time", sum(ends[1:], start=ends[0] + 0) == around.waiting)
    followers = [c.deciding, *(t.valid for t in c.tokens)]
    for k, (token, follows) in enumerate(zip(c.tokens, followers)):
        claim(f"no gap {k}", ~token.valid | token.last | follows)
    claim("no gap at the end", ~replayed | (dut.sent_valid & (dut.sent.last | c.tokens[-1].valid)))
    proof.reach("events are sent", replaying & (now == 2))
    return proof


def order_proof(*, depth: int = 24, budget: type = Budget) -> Proof:
    """In every run of so many cycles: the counter stops no event that the counts admit, and events
    in the window are sent.

    Parameters
    ----------
    depth : int
    budget : class, optional
        Another one than :class:`Budget`.
    """
    proof = Proof(depth)
    dut = budget(1, 4, 1, row_bits=3, group_bits=3)
    proof.add("budget", dut)
    around = _Surroundings(proof, dut)
    proof.assume(~dut.came_valid | (dut.came.group == around.number))
    proof.assume(~dut.came_valid | (around.number != 3) | dut.came.last)
    c = dut.probes
    proof.claim("the counts suffice", ~c.tokens[-1].valid | (c.wanted == c.admitted))
    proof.claim("the window is sent", ~c.tokens[-1].valid | ~c.inside | (c.admitted == c.fire))
    return proof

"""``stillnet bench weights``: the claims of docs/weights.md; the large shape is slow."""

from __future__ import annotations

import pytest

from stillnet.sim.bench.edgedrnn import SHAPES
from stillnet.sim.bench.weights import CASES, Case, weights

SMALL = next(s for s in SHAPES if str(s) == "40-128-2")


def case(pattern: str, bits: int, density: float = 1.0) -> Case:
    return next(c for c in CASES if (c.pattern, c.bits, c.density) == (pattern, bits, density))


@pytest.mark.slow
def test_rows_hold_together() -> None:
    (row,) = weights(shape=SMALL, cases=(case("1 of 4", 4, 0.25),))
    assert row["format"] == "place 1 of 4" and row["density"] == 0.25
    columns = row["words"] / row["fired_columns"]
    assert columns == pytest.approx(24 * 0.25 * 1.5)  # 24 rounds; two places in a word of indices
    assert row["fired_columns"] == pytest.approx((1 - SMALL.sparsity) * 424, rel=0.05)
    stalls = row["stall_cell"] + row["stall_memory"] + row["stall_events"]
    assert row["cycles"] == pytest.approx(row["words"] + stalls)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("chosen", "cycles"),
    [(case("all", 4), 34_000), (case("1 of 4", 4, 0.25), 13_000), (case("any", 8, 0.1), 13_600)],
)
def test_the_large_network(chosen: Case, cycles: float) -> None:
    (row,) = weights(cases=(chosen,))
    assert row["cycles"] <= cycles
    assert row["utilisation"] >= 0.98
    assert row["predicted_cycles"] == pytest.approx(row["cycles"], rel=0.02)


@pytest.mark.slow
def test_half_of_the_blocks() -> None:
    dense, blocks = weights(cases=(case("all", 8), case("blocks", 8, 0.5)))
    ratio = dense["cycles"] / dense["fired_columns"]
    ratio /= blocks["cycles"] / blocks["fired_columns"]
    assert ratio >= 1.9 and blocks["utilisation"] >= 0.98

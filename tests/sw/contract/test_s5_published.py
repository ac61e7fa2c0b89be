"""The reference equals ``s5_published``, written from the page alone: every number of every step.

Vectors, states, events and outputs of stacks of any size; then the same with all integers at the
ends of their formats, and for so long that states wrap. Each of the ways in which the two could
plausibly differ is broken once, and must be noticed.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from stillnet.sw.contract import tanh_sigmoid as tables
from stillnet.sw.contract.cells import CELLS, expr, rules
from stillnet.sw.contract.cells import s5 as cells_s5
from stillnet.sw.network.network import Network
from stillnet.sw.network.reference import Reference
from stillnet.sw.network.sequence import Layout, run_integers
from tests.support.networks.quick import quantize
from tests.support.networks.s5 import (
    HIGH,
    LOW,
    SIZES,
    random_model,
    rows_at_the_ends,
    slow_network,
    to_the_ends,
)
from tests.support.oracles.s5 import PublishedS5, sigmoid, state_update

S5_CELLS = ("s5_encoder", "s5_state", "s5_imag", "s5_output", "s5_glu")


def first_difference(network: Network, rows: list[list[int]]) -> tuple[str | None, PublishedS5]:
    """What differs first, if anything does; and the second implementation, for its counts."""
    published, reference = PublishedS5(network), Reference(network)
    for step, row in enumerate(rows):
        before, clipped = published.events, published.clipped
        mine = published.step(row)
        output = reference.step_integers(np.array(row, np.int64))
        for index, layer in enumerate(network.layers):
            where = f"step {step}, layer '{layer.name}' ({layer.cell})"
            states = {name: v.tolist() for name, v in reference.state[index].items()}
            if states != published.states[index]:
                return f"{where}: state {states}, not {published.states[index]}", published
            # The reference vector of plain events is what was sent; thresholds are zero here.
            sent = reference.reference[index].tolist()
            if layer.mode.name == "NONZERO" and sent != published.vectors[index]:
                return f"{where}: sent {sent}, not {published.vectors[index]}", published
        if output.tolist() != mine:
            return f"step {step}: output {output.tolist()}, not {mine}", published
        if sum(reference.last.events.values()) != published.events - before:
            return f"step {step}: {reference.last.events} events", published
        if reference.last.saturations != published.clipped - clipped:
            return f"step {step}: {reference.last.saturations} saturations", published
    return None, published


SLOW = settings(deadline=None, max_examples=15, suppress_health_check=[HealthCheck.too_slow])


@SLOW
@given(SIZES, st.sampled_from([0.01, 0.3, 1.0, 6.0]), st.sampled_from([0.0, 0.2]), st.integers(0))
def test_every_number_of_every_step(sizes, size, threshold, seed) -> None:
    rng = np.random.default_rng(seed)
    model = random_model(rng, **sizes, size=size)
    x = np.cumsum(rng.normal(0, 0.3, (12, sizes["inputs"])), 0)
    if rng.random() < 0.5:
        network = quantize(model, x, thresholds=threshold)
    else:
        network = quantize(model, x, nonzero=("input",))
    # As calibrated; then far louder than anything that calibration showed.
    rows = network.quantize_input(x).tolist() + rows_at_the_ends(rng, 12, sizes["inputs"])
    difference, _ = first_difference(network, rows)
    assert difference is None, difference


@SLOW
@given(SIZES, st.integers(0))
def test_every_number_at_the_ends_of_its_format(sizes, seed) -> None:
    rng = np.random.default_rng(seed)
    network = quantize(random_model(rng, **sizes), rng.normal(0, 1, (6, sizes["inputs"])))
    to_the_ends(rng, network)
    difference, _ = first_difference(network, rows_at_the_ends(rng, 16, sizes["inputs"]))
    assert difference is None, difference


@pytest.mark.parametrize("method", ["zoh", "bilinear"])
def test_long_runs_in_which_states_wrap(method: str) -> None:
    network, rows = slow_network(method)
    difference, published = first_difference(network, rows)
    assert difference is None, difference
    assert published.wrapped > 20 and published.clipped > 100
    assert any(min(s["xr"]) < 0 < max(s["xr"]) for s in published.states if "xr" in s)


def test_a_saved_network_says_it_all(tmp_path) -> None:
    network, rows = slow_network("zoh")
    network.save(tmp_path / "s5.safetensors")
    loaded = PublishedS5(Network.load(tmp_path / "s5.safetensors"))
    reference = Reference(network)
    for row in rows[:20]:
        assert loaded.step(row) == reference.step_integers(np.array(row)).tolist()


@pytest.mark.parametrize("seed", range(4))
def test_whole_sequences_are_the_same(seed: int) -> None:
    """The second path of the software, which takes recordings at once."""
    rng = np.random.default_rng(seed)
    network = quantize(random_model(rng, 3, 6, [5, 2], 2, "zoh"), rng.normal(0, 1, (6, 3)))
    if seed >= 2:
        to_the_ends(rng, network)
    recordings = [rows_at_the_ends(rng, steps, 3) for steps in (7, 20)]
    layout = Layout([len(rows) for rows in recordings])
    found = run_integers(network, layout, layout.pack([np.array(r) for r in recordings]))
    for number, rows in enumerate(recordings):
        published = PublishedS5(network)
        for step, row in enumerate(rows):
            published.step(row)
            for index in range(len(network.layers)):
                vector = layout.unpack(found.vectors[index])[number][step]
                assert vector.tolist() == published.vectors[index], (number, step, index)


def test_sigmoid_over_every_input() -> None:
    x = np.arange(-(1 << 17), 1 << 17)
    assert tables.sigmoid(x).tolist() == [sigmoid(int(v)) for v in x]


@given(st.lists(st.integers(-(1 << 31), (1 << 31) - 1), min_size=2, max_size=2), st.data())
def test_three_products_are_four(x, data) -> None:
    ends = [data.draw(st.integers(LOW, HIGH)) for _ in range(2)]
    wide = [data.draw(st.integers(-(1 << 17), (1 << 17) - 1)) for _ in range(4)]
    names = ("lam_re", "lam_im", "c_re", "c_im", "bre", "bim")
    m = {name: np.array([v]) for name, v in zip(names, [*ends, *wide], strict=True)}
    state = {"xr": np.array(x[:1]), "xi": np.array(x[1:])}
    _, new, _ = CELLS["s5_state"].evaluate(m, state)
    assert (int(new["xr"][0]), int(new["xi"][0])) == state_update(*x, *ends, *wide)


# -- that it can fail -----------------------------------------------------------------------------


def _broken(name: str, patch: pytest.MonkeyPatch) -> None:
    def operation(of: str, function: Callable) -> None:
        patch.setitem(rules.INTEGERS, of, function)

    def gate(decides: Callable) -> None:
        patch.setattr(cells_s5, "_passes", decides)

    def floor(node, a):
        return rules.narrow(a, node.args[0].format.fraction, node.format)

    def wrap(node, a):
        shift = node.args[0].format.fraction - node.format.fraction
        return rules.saturate(rules.floor_shift(a, shift), node.format.bits)

    def wrap_rounded(node, a):
        shift = node.args[0].format.fraction - node.format.fraction
        return rules.wrap((a + (1 << (shift - 1))) >> shift, node.format.bits)

    changes: dict[str, Callable[[], None]] = {
        "gate on the imaginary part": lambda: gate(lambda re, im: im > 0),
        "gate without the tie": lambda: gate(lambda re, im: re > 0),
        "gate that lets zero through": lambda: gate(lambda re, im: re >= 0),
        "no gate": lambda: gate(lambda re, im: (re >= 0) | (re < 0)),
        "rounds instead of flooring": lambda: operation("floor", floor),
        "state rounds": lambda: operation("wrap", wrap_rounded),
        "state saturates": lambda: operation("wrap", wrap),
        "plus the imaginary part": lambda: patch.setattr(
            cells_s5.S5Output,
            "update",
            lambda self, m, state: state.x1.next(
                expr.relu((m.yr + m.yi) + m.d * state.v).floor(cells_s5.STREAM)
            ),
        ),
        "lost feedthrough": lambda: patch.setattr(
            cells_s5.S5Output,
            "update",
            lambda self, m, state: state.x1.next(expr.relu(m.yr - m.yi).floor(cells_s5.STREAM)),
        ),
        "lost skip": lambda: patch.setattr(
            cells_s5.S5Glu,
            "update",
            lambda self, m, state: state.v.next(
                expr.relu(state.x1 * expr.sigmoid(m.g)).floor(cells_s5.STREAM)
            ),
        ),
    }
    changes[name]()
    for cell in S5_CELLS:
        patch.setitem(CELLS, cell, type(CELLS[cell])())  # a graph is made once: make it again


BROKEN = [
    "gate on the imaginary part",
    "gate without the tie",
    "gate that lets zero through",
    "no gate",
    "rounds instead of flooring",
    "state rounds",
    "state saturates",
    "plus the imaginary part",
    "lost feedthrough",
    "lost skip",
]


@pytest.fixture(scope="module")
def tied() -> tuple[Network, list[list[int]]]:
    """A network in which the tie of the gate decides; no difference is found while nothing is
    broken."""
    network, rows = slow_network("zoh")
    for layer in network.layers:  # two states whose real part stays zero: the tie of the gate
        if layer.cell == "s5_state":
            for p, value in {"lam_re": HIGH, "lam_im": 0, "c_re": 0, "c_im": 0}.items():
                layer.parameters[p][:2] = value
            layer.initial = {s: np.zeros(layer.units, np.int64) for s in ("xr", "xi")}
            layer.initial["xi"][:2] = 1 << 29, -(1 << 29)
    assert first_difference(network, rows)[0] is None
    return network, rows


@pytest.mark.parametrize("name", BROKEN)
def test_a_broken_cell_is_noticed(
    tied: tuple[Network, list[list[int]]], name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    _broken(name, monkeypatch)
    assert first_difference(*tied)[0] is not None

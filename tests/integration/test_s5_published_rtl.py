"""The generated Verilog equals ``s5_published``, written from the page alone: every integer.

The reference of ``sw`` stands nowhere between the two. Outputs, vectors, states and the sums of
differences are compared after each step; then runs back to back, and runs in which states wrap.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from stillnet.sim.engine.equivalence import NetworkOnEngine
from stillnet.sim.engine.model import Behaviour, EngineModel
from stillnet.sw.contract.cells import CELLS
from stillnet.sw.network.network import Network
from tests.support.networks.quick import quantize
from tests.support.networks.random import engine_config
from tests.support.networks.s5 import (
    SIZES,
    random_model,
    rows_at_the_ends,
    slow_network,
    to_the_ends,
)
from tests.support.oracles import s5 as s5_published
from tests.support.oracles.s5 import PublishedS5

# make test has the reference against that implementation (test_s5_published), and the generated
# hardware against the reference (test_engine_cells).
pytestmark = pytest.mark.slow

CONFIG = engine_config(
    lanes=8,
    cell_width=2,
    layers=14,
    matrices=48,
    units=256,
    cells=("s5_encoder", "s5_state", "s5_imag", "s5_output", "s5_glu", "linear"),
)
BEHAVIOURS = (
    Behaviour(latency=1),
    Behaviour(latency=8),
    Behaviour(latency=40, jitter=9, memory_stall=300, output_stall=300, input_stall=300, seed=3),
    Behaviour(latency=3, request_stall=700, output_stall=800, seed=4),
)
FAST = settings(
    deadline=None, max_examples=30, derandomize=True, suppress_health_check=list(HealthCheck)
)


@pytest.fixture(scope="module")
def engine() -> Iterator[EngineModel]:
    with EngineModel(CONFIG) as model:
        yield model


def state_difference(on_engine: NetworkOnEngine, published: PublishedS5) -> str | None:
    """The first number inside of the engine that is not the one of the second implementation."""
    for index, layer in enumerate(published.layers):
        where = f"layer {index} ({layer['cell']})"
        for name, values in published.states[index].items():
            found = on_engine.state(index, name).tolist()
            if found != values:
                return f"{where}: {name} is {found}, not {values}"
        if layer["mode"] == "NONZERO":
            found = on_engine.reference(index).tolist()
            if found != published.vectors[index]:
                return f"{where}: sent {found}, not {published.vectors[index]}"
        sources = {m["source"] for m in layer["matrices"]}
        if published.input_mode == "DELTA" and sources == {-1}:
            for row, gate in enumerate(CELLS[layer["cell"]].accumulators):
                found = on_engine.accumulators(index)[row].tolist()
                if found != published.sums[index][gate]:
                    return f"{where}: sums are {found}, not {published.sums[index][gate]}"
    return None


def difference(
    model: EngineModel,
    network: Network,
    rows: list[list[int]],
    behaviour: Behaviour,
    streaming: bool,
) -> tuple[str | None, PublishedS5]:
    """What differs first, if anything does; and the second implementation, for its counts."""
    published = PublishedS5(network)
    expected = []
    with NetworkOnEngine(network, CONFIG, model=model) as on_engine:
        model.behave(behaviour)
        on_engine.reset()
        model.clear_counters()
        if streaming:
            expected = [published.step(row) for row in rows]
            found = model.run(np.array(rows), len(rows), network.outputs)[0]
            for step, (a, b) in enumerate(zip(found.tolist(), expected, strict=True)):
                if a != b:
                    return f"step {step}: output {a}, not {b}", published
            model.wait_idle()
            return state_difference(on_engine, published), published
        for step, row in enumerate(rows):
            wanted = published.step(row)
            found = model.run(np.array(row), 1, network.outputs)[0][0].tolist()
            model.wait_idle()
            if found != wanted:
                return f"step {step}: output {found}, not {wanted}", published
            inside = state_difference(on_engine, published)
            if inside is not None:
                return f"step {step}, {inside}", published
        if model.counters()["saturations"] != published.clipped:
            return f"{model.counters()['saturations']} saturations", published
    return None, published


def test_every_number_of_every_step(engine: EngineModel) -> None:
    @FAST
    @given(
        SIZES, st.sampled_from([0.01, 0.3, 1.0, 6.0]), st.sampled_from([0.0, 0.2]), st.integers(0)
    )
    def check(sizes, size, threshold, seed) -> None:
        rng = np.random.default_rng(seed)
        model = random_model(rng, **sizes, size=size)
        x = np.cumsum(rng.normal(0, 0.3, (8, sizes["inputs"])), 0)
        if rng.random() < 0.5:
            network = quantize(model, x, thresholds=threshold)
        else:
            network = quantize(model, x, nonzero=("input",))
        rows = network.quantize_input(x).tolist() + rows_at_the_ends(rng, 6, sizes["inputs"])
        behaviour = BEHAVIOURS[seed % len(BEHAVIOURS)]
        for streaming in (False, True):
            found, _ = difference(engine, network, rows, behaviour, streaming)
            assert found is None, found

    check()


def test_every_number_at_the_ends_of_its_format(engine: EngineModel) -> None:
    @FAST
    @given(SIZES, st.integers(0))
    def check(sizes, seed) -> None:
        rng = np.random.default_rng(seed)
        network = quantize(random_model(rng, **sizes), rng.normal(0, 1, (6, sizes["inputs"])))
        to_the_ends(rng, network)
        rows = rows_at_the_ends(rng, 10, sizes["inputs"])
        for streaming in (False, True):
            found, _ = difference(engine, network, rows, BEHAVIOURS[seed % 4], streaming)
            assert found is None, found

    check()


@pytest.mark.parametrize("method", ["zoh", "bilinear"])
def test_long_runs_in_which_states_wrap(engine: EngineModel, method: str) -> None:
    network, rows = slow_network(method)
    found, published = difference(engine, network, rows, BEHAVIOURS[2], True)
    assert found is None, found
    assert published.wrapped > 20 and published.clipped > 100
    found, _ = difference(engine, network, rows[180:220], BEHAVIOURS[1], False)
    assert found is None, found


# -- that it can fail -----------------------------------------------------------------------------


def _rounds(xr: int, xi: int, lam_re: int, lam_im: int, *rest: int) -> tuple[int, int]:
    """The state with its one rounding half up."""
    c_re, c_im, bre, bim = rest
    re = lam_re * xr - lam_im * xi + ((c_re * bre - c_im * bim) << 9)
    im = lam_re * xi + lam_im * xr + ((c_re * bim + c_im * bre) << 9)
    return tuple(s5_published.low_bits((v + (1 << 14)) >> 15, 32) for v in (re, im))  # type: ignore


BROKEN: dict[str, tuple[str, Callable]] = {
    "gate on each part": ("passes", lambda re, im: im > 0),
    "gate without the tie": ("passes", lambda re, im: re > 0),
    "state rounds": ("state_update", _rounds),
    "sigmoid a little too large": ("sigmoid", lambda x, old=s5_published.sigmoid: old(x) + 64),
}


@pytest.fixture(scope="module")
def tied(engine: EngineModel) -> tuple[Network, list[list[int]]]:
    """A network in which the tie of the gate decides; no difference is found while nothing is
    broken."""
    network, rows = slow_network("zoh")
    for layer in network.layers:  # two states whose real part stays zero: the tie of the gate
        if layer.cell == "s5_state":
            for p, value in {"lam_re": 32767, "lam_im": 0, "c_re": 0, "c_im": 0}.items():
                layer.parameters[p][:2] = value
            layer.initial = {s: np.zeros(layer.units, np.int64) for s in ("xr", "xi")}
            layer.initial["xi"][:2] = 1 << 29, -(1 << 29)
    assert difference(engine, network, rows[:60], BEHAVIOURS[0], False)[0] is None
    return network, rows[:60]


@pytest.mark.parametrize("name", BROKEN)
def test_another_rule_is_noticed(
    engine: EngineModel,
    tied: tuple[Network, list[list[int]]],
    name: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The same comparison with one rule of the second implementation changed."""
    monkeypatch.setattr(s5_published, *BROKEN[name])
    assert difference(engine, *tied, BEHAVIOURS[0], False)[0] is not None

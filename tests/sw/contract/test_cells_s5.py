"""S5 and LRU: float oracles, bounds, and the integers against a second implementation.

``published_integers`` is written from docs/cells.md in plain Python integers. It reads the
quantized numbers out of a network and uses nothing else of stillnet's.
"""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stillnet.sw.contract.cells import CELLS
from stillnet.sw.contract.errors import StillnetError
from stillnet.sw.contract.events import Mode
from stillnet.sw.contract.fixed import PRE
from stillnet.sw.model.model import Model
from stillnet.sw.model.s5 import batch_norm, discretize
from stillnet.sw.network.network import Network
from stillnet.sw.network.reference import Reference
from stillnet.sw.network.sequence import Layout, run_integers
from tests.support.networks.quick import quantize
from tests.support.oracles.bounds import check
from tests.support.oracles.cells import lru, s5_stack


def refused(text: str) -> pytest.RaisesExc:
    return pytest.raises(StillnetError, match=f"^{text}$")


def block(rng: np.random.Generator, width: int, states: int, method: str, density=0.5) -> dict:
    def sparse(*shape):
        return rng.normal(0, 1, shape) * (rng.random(shape) < density)

    return {
        "lam": -np.exp(rng.uniform(-2, 1, states)) + 1j * rng.uniform(-8, 8, states),
        "step": np.exp(rng.uniform(np.log(0.002), np.log(0.3), states)),
        "b": (sparse(states, width) + 1j * sparse(states, width)) / np.sqrt(width),
        "c": (sparse(width, states) + 1j * sparse(width, states)) / np.sqrt(states),
        "d": rng.normal(0, 1, width),
        "norm": (
            rng.normal(0, 0.3, width),
            rng.uniform(0.3, 2, width),
            rng.uniform(0.5, 1.5, width),
            rng.normal(0, 0.1, width),
        ),
        "glu": (rng.normal(0, 1 / np.sqrt(width), (width, width)), rng.normal(0, 0.5, width)),
        "method": method,
    }


def stack(rng, inputs, width, states, blocks, outputs, method="zoh"):
    """(model, function of x that is the oracle)."""
    encoder = (rng.normal(0, 1 / np.sqrt(inputs), (width, inputs)), rng.normal(0, 0.1, width))
    decoder = (rng.normal(0, 1 / np.sqrt(width), (outputs, width)), rng.normal(0, 0.1, outputs))
    parts = [block(rng, width, states, method) for _ in range(blocks)]
    model = Model(inputs).s5_encoder(*encoder, name="encoder")
    for k, p in enumerate(parts):
        model.s5(
            p["lam"],
            p["b"],
            p["c"],
            p["d"],
            glu=p["glu"],
            step=p["step"],
            method=method,
            norm=batch_norm(*p["norm"]),
            name=f"block{k}",
        )
    model.dense(*decoder, name="decoder")
    return model, lambda x: s5_stack(x, encoder, parts, decoder)


def signal(rng: np.random.Generator, steps: int, inputs: int) -> np.ndarray:
    return np.cumsum(rng.normal(0, 0.3, (steps, inputs)), 0)


# -- float ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", ["zoh", "bilinear"])
def test_stack_against_the_float_oracle(method) -> None:
    rng = np.random.default_rng(1)
    model, oracle = stack(rng, 5, 12, 9, 2, 3, method)
    x = signal(rng, 60, 5)
    y = oracle(x)
    assert np.allclose(model.run(x), y, atol=1e-9)
    network = quantize(model, x)
    got, _ = check(model, network, x)
    # A complex value near re = 0 may open or close: seldom, but by all of its imaginary part.
    assert np.sqrt(np.mean((got - y) ** 2)) < 0.04 * np.sqrt(np.mean(y**2))
    assert {layer.mode for layer in network.layers[:-1]} == {Mode.NONZERO}
    assert network.input_mode is Mode.DELTA
    assert all(layer.write_shift == 0 for layer in network.layers if CELLS[layer.cell].floors)


SIZES = st.tuples(
    st.integers(1, 6), st.integers(1, 10), st.integers(1, 10), st.integers(1, 2), st.integers(1, 4)
)


@settings(max_examples=20, deadline=None)
@given(SIZES, st.integers(1, 12), st.sampled_from(["zoh", "bilinear"]), st.integers(0))
def test_stack_of_any_size(size, steps, method, seed) -> None:
    inputs, width, states, blocks, outputs = size
    rng = np.random.default_rng(seed)
    model, oracle = stack(rng, inputs, width, states, blocks, outputs, method)
    x = signal(rng, steps, inputs)
    assert np.allclose(model.run(x), oracle(x), atol=1e-9)
    network = quantize(model, x)
    check(model, network, x)
    reference = Reference(network)
    rows = network.quantize_input(x)
    y = np.array([reference.step_integers(r) for r in rows])
    assert np.array_equal(y, published_integers(network, rows))


def test_discretisation() -> None:
    lam = np.array([-0.5 + 3j, -1e-9 + 0j, -2.0 + 0j])
    step = np.array([0.1, 0.01, 0.5])
    bar, factor = discretize(lam, step)
    assert np.allclose(bar, np.exp(lam * step))
    assert np.allclose(factor[[0, 2]], ((np.exp(lam * step) - 1) / lam)[[0, 2]])
    assert np.isclose(factor[1], 0.01)  # no 0/0
    bar, factor = discretize(lam, step, "bilinear")
    assert np.allclose(bar * (1 - lam * step / 2), 1 + lam * step / 2)
    assert np.allclose(factor * (1 - lam * step / 2), step)
    with refused("discretisation must be 'zoh' or 'bilinear', not 'euler'"):
        discretize(lam, step, "euler")


# -- the published integers, a second time ---------------------------------------------------------


def half_up(value: int, bits: int) -> int:
    return value << -bits if bits <= 0 else (value + (1 << bits - 1)) >> bits


def clip(value: int, bits: int) -> int:
    return max(-(1 << bits - 1), min((1 << bits - 1) - 1, value))


def low_bits(value: int, bits: int) -> int:
    value &= (1 << bits) - 1
    return value - (1 << bits) if value >> bits - 1 else value


def floor_pre(accumulator: int, bias: int, shift: int) -> int:
    """docs/cells.md: the bias holds minus half a unit, so that rounding half up is a floor."""
    right = shift - 8
    half = 1 << right - 1 if right > 0 else 0
    exact = low_bits(accumulator + bias, 32) + half  # without the folded half
    value = exact >> right if right > 0 else exact << -right
    return clip(value, 18)


def sigmoid_table(x: int) -> int:
    """The contract's table: tanh in 512 segments of 1/64, rounded to 15 fraction bits."""
    magnitude = min(abs(x), (1 << 17) - 1)
    segment, fraction = magnitude >> 8, magnitude & 255
    knot = [int(np.rint(np.tanh(k / 64) * 32768)) for k in (segment, segment + 1)]
    y = knot[0] + (((knot[1] - knot[0]) * fraction + 128) >> 8)
    return 32768 - y if x < 0 else 32768 + y


def published_integers(network: Network, rows: np.ndarray) -> np.ndarray:
    """An S5 stack as docs/cells.md describes it, one number at a time."""
    layers = network.layers
    xr = {i: [0] * layer.units for i, layer in enumerate(layers) if layer.cell == "s5_state"}
    xi = {i: [0] * layer.units for i in xr for layer in [layers[i]]}
    outputs = []
    for row in rows:
        vectors: dict[int, list[int]] = {-1: [int(v) for v in row]}
        for i, layer in enumerate(layers):

            def product(gate: str, unit: int, layer=layer, vectors=vectors) -> int:
                total = 0
                for m in layer.matrices:
                    if gate in m.gates:
                        weights = m.weight[m.gates.index(gate)][unit]
                        total += sum(int(w) * v for w, v in zip(weights, vectors[m.source]))
                return total

            def read(gate: str, unit: int, layer=layer, product=product) -> int:
                return floor_pre(product(gate, unit), int(layer.bias[gate][unit]), layer.shift)

            p = {k: [int(n) for n in v] for k, v in layer.parameters.items()}
            out = []
            for n in range(layer.units):
                if layer.cell == "s5_encoder":
                    value = clip(read("y", n), 16)
                elif layer.cell == "s5_state":
                    r, j = read("bre", n), read("bim", n)
                    lr, li, cr, ci = (p[k][n] for k in ("lam_re", "lam_im", "c_re", "c_im"))
                    a, b = xr[i][n], xi[i][n]
                    # fraction 39 for lam * x, 30 for c * b; floor to 24
                    re = (lr * a - li * b) + ((cr * r - ci * j) << 9)
                    im = (lr * b + li * a) + ((cr * j + ci * r) << 9)
                    xr[i][n], xi[i][n] = low_bits(re >> 15, 32), low_bits(im >> 15, 32)
                    a, b = xr[i][n], xi[i][n]
                    passes = a > 0 or (a == 0 and b > 0)
                    value = clip(a >> 10, 16) if passes else 0
                elif layer.cell == "s5_imag":
                    a, b = xr[i - 1][n], xi[i - 1][n]
                    passes = a > 0 or (a == 0 and b > 0)
                    value = clip(b >> 10, 16) if passes else 0
                elif layer.cell == "s5_output":
                    v = vectors[layer.peers["v"]][n]
                    total = ((read("yr", n) - read("yi", n)) << 12) + p["d"][n] * v
                    value = clip(max(total, 0) >> 12, 16)
                elif layer.cell == "s5_glu":
                    x1, v = vectors[layer.peers["x1"]][n], vectors[layer.peers["v"]][n]
                    total = x1 * sigmoid_table(read("g", n)) * 1 + (v << 16)
                    value = clip(max(total, 0) >> 16, 16)
                else:  # the decoder: an ordinary dense layer, half up
                    accumulator = low_bits(product("y", n) + int(layer.bias["y"][n]), 32)
                    value = clip(half_up(accumulator << 8, layer.shift), 18)
                    value = clip(value, 16)
                out.append(value)
            vectors[i] = out
        outputs.append(vectors[len(layers) - 1])
    return np.array(outputs)


def test_biases_hold_the_half_that_makes_a_floor() -> None:
    rng = np.random.default_rng(1)
    model, _ = stack(rng, 4, 8, 7, 1, 3)
    network = quantize(model, signal(rng, 30, 4), correct_bias=False)
    for i, (layer, real) in enumerate(zip(network.layers, model.layers)):
        half = 0
        if CELLS[layer.cell].floors and layer.shift > 8:
            half = 1 << layer.shift - 9
        for g, b in layer.bias.items():
            scaled = 0 if layer.unit_exponents is None else layer.unit_exponents
            exact = np.rint(real.bias[g] * 2.0 ** (network.exponent(i) + scaled))
            assert np.array_equal(b, exact - half), (layer.name, g)


def loud(network: Network, rng: np.random.Generator) -> None:
    """Every number at or near the ends of its format; |lam| may exceed one."""
    for layer in network.layers:
        cell = CELLS[layer.cell]
        for m in layer.matrices:
            m.weight = rng.choice([-128, 127, 0, 1], m.weight.shape).astype(np.int8)
        for name in layer.parameters:
            fmt = cell.parameters[name]
            ends = [fmt.minimum, fmt.maximum, 0, 1, -1]
            layer.parameters[name] = rng.choice(ends, layer.units)
        for g, b in layer.bias.items():
            layer.bias[g] = rng.integers(-(1 << 20), 1 << 20, b.shape)


@pytest.mark.parametrize("seed", range(6))
def test_integers_are_the_published_ones(seed) -> None:
    rng = np.random.default_rng(seed)
    model, _ = stack(rng, 4, 8, 7, 2, 3, "zoh" if seed % 2 else "bilinear")
    x = signal(rng, 40, 4)
    network = quantize(model, x)
    rows = network.quantize_input(x)
    if seed >= 3:
        loud(network, rng)
        rows = rng.choice([-32768, 32767, 0, 1], rows.shape)
    reference = Reference(network)
    y = np.array([reference.step_integers(r) for r in rows])
    assert np.array_equal(y, published_integers(network, rows))
    if seed >= 3:
        largest = max(np.abs(v).max() for v in reference.state[1].values())
        assert largest > 1 << 26, "the results were clipped"


def test_the_second_implementation_can_fail() -> None:
    rng = np.random.default_rng(9)
    model, _ = stack(rng, 4, 8, 7, 1, 3)
    x = signal(rng, 20, 4)
    network = quantize(model, x)
    rows = network.quantize_input(x)
    y = published_integers(network, rows)
    for change in ("lam_re", "c_im", "bias"):
        layer = network.layers[1]
        keep = dict(layer.parameters), dict(layer.bias)
        if change == "bias":
            layer.bias["bre"] = layer.bias["bre"] + (1 << 14)
        else:
            layer.parameters[change] = layer.parameters[change] - 64
        reference = Reference(network)
        assert not np.array_equal(y, np.array([reference.step_integers(r) for r in rows])), change
        layer.parameters, layer.bias = keep


# -- the gate -------------------------------------------------------------------------------------


def test_one_decision_for_a_complex_value() -> None:
    cell = CELLS["s5_imag"]
    re = np.array([1, 0, 0, 0, -1, -1, 1 << 20, 1 << 20, -(1 << 31)])
    im = np.array([-(1 << 20), 1 << 20, 0, -(1 << 20), 1 << 20, 0, 1 << 20, 0, 1 << 30])
    y, _, _ = cell.evaluate({"none": np.zeros(9, np.int64)}, {"xr": re, "xi": im})
    assert y.tolist() == [-1024, 1024, 0, 0, 0, 0, 1024, 0, 0]


def test_state_wraps_and_is_not_clipped() -> None:
    cell = CELLS["s5_state"]
    m = {a: np.array([0]) for a in ("bre", "bim", "lam_im", "c_im")}
    m |= {"lam_re": np.array([32767]), "c_re": np.array([(1 << 17) - 1])}
    m["bre"] = np.array([PRE.maximum])
    x = np.array([(1 << 31) - 1])
    _, new, _ = cell.evaluate(m, {"xr": x, "xi": np.array([0])})
    exact = (32767 * int(x[0]) + (((1 << 17) - 1) * PRE.maximum << 9)) >> 15
    assert exact > (1 << 31) - 1 and new["xr"][0] == exact - (1 << 32)


# -- scales ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("scale", [1e-6, 1.0, 1e6])
def test_formats_follow_the_signal(scale) -> None:
    """Linear up to the gate of the GLU, which is constant here."""
    rng = np.random.default_rng(3)
    p = block(rng, 8, 6, "zoh")
    model = Model(4).s5_encoder(rng.normal(0, 1, (8, 4)))
    glu = np.zeros((8, 8)), p["glu"][1]
    model.s5(p["lam"], p["b"], p["c"], p["d"], glu=glu, step=p["step"], name="b")
    model.dense(rng.normal(0, 1, (3, 8)))
    x = signal(rng, 60, 4) * scale
    network = quantize(model, x)
    got, _ = check(model, network, x)
    wanted = model.run(x)
    assert np.sqrt(np.mean((got - wanted) ** 2)) < 0.03 * np.sqrt(np.mean(wanted**2))
    streams = {layer.exponents["v"] for layer in network.layers if "v" in layer.exponents}
    states = {layer.exponents["x"] for layer in network.layers if "x" in layer.exponents}
    assert len(streams) == 1 and len(states) == 1, "peers share a scale"


def test_silent_calibration() -> None:
    rng = np.random.default_rng(3)
    model, _ = stack(rng, 4, 6, 5, 1, 2)
    network = quantize(model, np.zeros((5, 4)))
    check(model, network, np.zeros((5, 4)))


@pytest.mark.parametrize("gamma", [0.0, 1e-4, 300.0])
def test_row_factors_of_any_size(gamma) -> None:
    rng = np.random.default_rng(3)
    lam = 0.99 * np.exp(1j * rng.uniform(-1, 1, 5))
    b, c = rng.normal(0, 1, (5, 4)) + 0j, rng.normal(0, 1, (3, 5)) + 0j
    model, x = Model(4).lru(lam, b, c, gamma=gamma), signal(rng, 100, 4)
    network = quantize(model, x)
    got, _ = check(model, network, x)
    wanted = model.run(x)
    assert np.sqrt(np.mean((got - wanted) ** 2)) <= 0.03 * np.sqrt(np.mean(wanted**2))
    if gamma:
        assert np.abs(network.layers[0].parameters["gamma"]).max() > 1 << 10


# -- LRU ------------------------------------------------------------------------------------------


@settings(max_examples=20, deadline=None)
@given(st.integers(1, 8), st.integers(1, 10), st.integers(1, 5), st.integers(1, 20), st.integers(0))
def test_lru_of_any_size(inputs, states, units, steps, seed) -> None:
    rng = np.random.default_rng(seed)
    lam = rng.uniform(0.3, 0.999, states) * np.exp(1j * rng.uniform(-3, 3, states))
    b = rng.normal(0, 1, (states, inputs)) + 1j * rng.normal(0, 1, (states, inputs))
    c = rng.normal(0, 1, (units, states)) + 1j * rng.normal(0, 1, (units, states))
    d, gamma = rng.normal(0, 1, (units, inputs)), np.sqrt(1 - np.abs(lam) ** 2)
    bias, x = rng.normal(0, 1, units), signal(rng, steps, inputs)
    model = Model(inputs).lru(lam, b, c, d, gamma, bias)
    y = lru(x, lam, b, c, d, gamma, bias)
    assert np.allclose(model.run(x), y, atol=1e-9)
    check(model, quantize(model, x), x)


# -- files, recordings, refusals ------------------------------------------------------------------


def test_saved_whole_sequence_and_streamed_are_the_same(tmp_path) -> None:
    rng = np.random.default_rng(2)
    model, _ = stack(rng, 4, 8, 6, 2, 3)
    x = signal(rng, 30, 4)
    network = quantize(model, x)
    network.save(tmp_path / "net.safetensors")
    again = Network.load(tmp_path / "net.safetensors")
    assert [layer.exponents for layer in again.layers] == [n.exponents for n in network.layers]
    assert [layer.peers for layer in again.layers] == [n.peers for n in network.layers]
    rows = network.quantize_input(x)
    first, second = Reference(network), Reference(again)
    y = np.array([first.step_integers(r) for r in rows])
    assert np.array_equal(y, np.array([second.step_integers(r) for r in rows]))
    layout = Layout([5, 30])
    flat = run_integers(network, layout, layout.pack([rows[:5], rows]))
    parts = layout.unpack(flat.vectors[len(network.layers) - 1])
    assert np.array_equal(parts[1], y) and np.array_equal(parts[0], y[:5])
    third = Reference(network)
    for r in rows[:9]:
        third.step_integers(r)
    fourth = Reference(network)
    fourth.set_state(third.get_state())
    assert np.array_equal(y[9:], np.array([fourth.step_integers(r) for r in rows[9:]]))


def test_initial_state_of_a_block() -> None:
    rng = np.random.default_rng(4)
    p = block(rng, 6, 5, "zoh")
    x0 = rng.normal(0, 0.2, 5) + 1j * rng.normal(0, 0.2, 5)
    model = Model(3).s5_encoder(rng.normal(0, 1, (6, 3)))
    model.s5(p["lam"], p["b"], p["c"], p["d"], glu=p["glu"], step=p["step"], x0=x0, name="b")
    x = signal(rng, 10, 3)
    check(model, quantize(model, x), x)


def test_refusals() -> None:
    rng = np.random.default_rng(0)
    p = block(rng, 6, 5, "zoh")
    rest = (p["c"], p["d"])
    with refused(
        "layer 'a': an S5 block stands on s5_encoder or on another block; add s5_encoder first"
    ):
        Model(6).s5(p["lam"], p["b"], *rest, glu=p["glu"], name="a")
    encoder = np.eye(6)
    with refused(r"layer 'a': b has shape \(5, 4\), expected \(5, 6\) for 5 states on 6 elements"):
        Model(6).s5_encoder(encoder).s5(p["lam"], p["b"][:, :4], *rest, glu=p["glu"], name="a")
    with refused("layer 'a': give factor or step, not both"):
        Model(6).s5_encoder(encoder).s5(
            p["lam"], p["b"], *rest, glu=p["glu"], step=0.1, factor=0.5, name="a"
        )
    model = Model(6).s5_encoder(encoder)
    model.s5(np.full(5, 1.2 + 0j), p["b"], *rest, glu=p["glu"], name="a")
    with refused(
        "layer 'a.state': parameter 'lam_re' is 1.2 at unit 0, cell 's5_state' takes -1 to 0.999969"
    ):
        quantize(model, signal(rng, 10, 6))
    network = quantize(
        Model(6).s5_encoder(encoder).s5(p["lam"], p["b"], *rest, glu=p["glu"], step=0.1, name="a"),
        signal(rng, 10, 6),
    )
    network.layers[4].exponents = {"v": 40}
    with refused("layer 'a': rescale shift .*|layer 'a.*"):
        network.validate()
    network = quantize(
        Model(6).s5_encoder(encoder).s5(p["lam"], p["b"], *rest, glu=p["glu"], step=0.1, name="a"),
        signal(rng, 10, 6),
    )
    network.layers[2].peers = {"xr": 1}
    with refused(
        r"layer 'a.imag': peers are given for \['xr'\], cell 's5_imag' reads \['xi', 'xr'\]"
    ):
        network.validate()

"""The bit-exact reference: against onnxruntime, against the equations, against its own state."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stillnet.sw.contract import fixed
from stillnet.sw.contract import tanh_sigmoid as tables
from stillnet.sw.contract.cells import CELLS
from stillnet.sw.contract.errors import StillnetError
from stillnet.sw.contract.events import Mode
from stillnet.sw.contract.sources import INPUT, SECOND
from stillnet.sw.model.model import Model
from stillnet.sw.network.network import Network, QuantizedLayer, QuantizedMatrix
from stillnet.sw.network.reference import Reference
from stillnet.sw.network.sequence import Layout, run_integers
from stillnet.sw.util.blas import blas_threads, single_thread
from tests.support.networks.quick import quantize

# -- the quantization bound of one GRU step -------------------------------------------------------


def _table_error(function, real, to: fixed.Format) -> float:
    x = np.arange(fixed.PRE.minimum, fixed.PRE.maximum + 1)
    return float(np.abs(function(x) / 2.0**to.fraction - real(x / 2.0**13)).max())


SIGMOID_ERROR = _table_error(tables.sigmoid, lambda x: 0.5 + 0.5 * np.tanh(x / 2), tables.SIGMOID)
TANH_ERROR = _table_error(tables.tanh, np.tanh, tables.TANH)
"""Largest errors of the tables, over every input that exists."""

EDGE = 16.0 - 2.0**-13
"""Largest pre-activation that the 18 bits hold."""

TAIL = float(np.exp(-EDGE))
"""More than sigmoid or tanh still change beyond the edge."""


@dataclass(frozen=True)
class Gru:
    """Float weights of one GRU layer: (gates, units, columns) for r, u, cx and for r, u, ch."""

    wx: np.ndarray
    wh: np.ndarray
    bias: dict[str, np.ndarray]

    @classmethod
    def of(cls, model: Model) -> Gru:
        layer = model.layers[0]
        assert [m.gates for m in layer.matrices] == [("r", "u", "cx"), ("r", "u", "ch")]
        return cls(layer.matrices[0].weight, layer.matrices[1].weight, layer.bias)


def step_bound(
    gru: Gru,
    network: Network,
    x: np.ndarray,
    h: np.ndarray,
    state_error: np.ndarray,
    *,
    float_epsilon: float = 0.0,
    function_error: float = 0.0,
) -> np.ndarray:
    """Largest error that one step of the quantized GRU may make, unit by unit.

    Derived, nothing in it is tuned: every rounding is half a unit of its format, the tables have
    their measured error, sigmoid has slope 1/4 and tanh 1, and a product ab is off by at most
    |a| db + da |b| + da db.

    Parameters
    ----------
    gru, network : the float weights and what quantization made of them
    x : exact input of this step
    h : exact hidden state before this step
    state_error : how far the quantized state was off before this step, measured
    float_epsilon : rounding unit of the oracle's own sums (2**-24 for float32), 0 if exact
    function_error : error of the oracle's own sigmoid and tanh
    """
    layer = network.layers[0]
    qx, qh = layer.matrices
    wqx, wqh = qx.weight * 2.0**-qx.fraction, qh.weight * 2.0**-qh.fraction
    exponent = network.exponent(0)
    input_error = 2.0 ** -(network.input_fraction + 1)
    # The vector that the matrices see is the state, rounded once more.
    vector_error = state_error + 2.0 ** -(layer.fraction + 1)
    m, e = {}, {}
    for g, bias in gru.bias.items():
        total, size, error = (
            bias.copy(),
            np.abs(bias),
            np.abs(layer.bias[g] * 2.0**-exponent - bias),
        )
        terms = 1
        for gates, w, wq, v, dv in (
            (qx.gates, gru.wx, wqx, x, np.full(len(x), input_error)),
            (qh.gates, gru.wh, wqh, h, vector_error),
        ):
            if g in gates:
                k = gates.index(g)
                total = total + w[k] @ v
                size = size + np.abs(w[k]) @ np.abs(v)
                error = error + np.abs(wq[k] - w[k]) @ np.abs(v) + np.abs(wq[k]) @ dv
                terms += len(v)
        m[g] = total
        e[g] = error + (terms + 4) * float_epsilon * size + 2.0**-14  # and rescaled to 13 bits
    for g in ("cx", "ch"):  # saturation: what lies beyond the edge is lost
        e[g] = e[g] + np.maximum(np.abs(m[g]) + e[g] - EDGE, 0.0)
    r, u = 1 / (1 + np.exp(-m["r"])), 1 / (1 + np.exp(-m["u"]))
    e_r, e_u = (
        np.minimum(1.0, e[g] / 4 + SIGMOID_ERROR + TAIL + function_error) for g in ("r", "u")
    )
    c = np.tanh(m["cx"] + r * m["ch"])
    e_sum = e["cx"] + r * e["ch"] + e_r * (np.abs(m["ch"]) + e["ch"]) + 2.0**-14
    e_c = np.minimum(2.0, e_sum + TANH_ERROR + TAIL + function_error)
    e_h = (
        np.minimum(1.0, 1 - u + e_u) * e_c
        + np.minimum(1.0, u + e_u) * state_error
        + e_u * np.abs(h - c)
    )
    return e_h + 2.0**-15 + 8 * float_epsilon


def check_against_oracle(
    gru: Gru,
    network: Network,
    x: np.ndarray,
    h0: np.ndarray,
    y: np.ndarray,
    *,
    stated: Network | None = None,
    **oracle: float,
) -> float:
    """Holds the reference against the oracle's states y, step by step; returns the mean bound.

    ``stated``: the network whose integers the bound is computed from, if it is another one.
    """
    reference = Reference(network)
    bounds = []
    before = h0
    for t, row in enumerate(x):
        state = reference.state[0]["h"] * 2.0**-14
        state_error = np.abs(state - before)
        bound = step_bound(gru, stated or network, row, before, state_error, **oracle)
        reference.step(row)
        error = np.abs(reference.state[0]["h"] * 2.0**-14 - y[t])
        worst = int(np.argmax(error - bound))
        assert np.all(error <= bound), (
            f"step {t}, unit {worst}: error {error[worst]:.3g}, bound {bound[worst]:.3g}"
        )
        before = y[t]
        bounds.append(bound)
    assert reference.last.saturations == 0
    return float(np.mean(bounds))


def random_gru(rng: np.random.Generator, inputs: int, units: int, scale: float) -> dict:
    spread = scale / np.sqrt(inputs + units)
    return {
        "w_ih": rng.normal(0, spread, (3 * units, inputs)).astype(np.float32),
        "w_hh": rng.normal(0, spread, (3 * units, units)).astype(np.float32),
        "b_ih": rng.uniform(-1, 1, 3 * units).astype(np.float32),
        "b_hh": rng.uniform(-1, 1, 3 * units).astype(np.float32),
    }


def onnx_gru(w: dict, x: np.ndarray, h0: np.ndarray) -> np.ndarray:
    """Hidden states, shape (steps, units), of onnxruntime's GRU; gates in ONNX order."""
    import onnx
    import onnxruntime
    from onnx import TensorProto, helper

    units, inputs = w["w_hh"].shape[1], w["w_ih"].shape[1]
    node = helper.make_node(
        "GRU",
        ["x", "w", "r", "b", "", "h0"],
        ["y"],
        hidden_size=units,
        linear_before_reset=1,
    )
    tensors = {
        "w": w["w_ih"][None],
        "r": w["w_hh"][None],
        "b": np.concatenate([w["b_ih"], w["b_hh"]])[None],
        "h0": h0.astype(np.float32)[None, None],
    }
    graph = helper.make_graph(
        [node],
        "gru",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [None, 1, inputs])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
        [onnx.numpy_helper.from_array(v, k) for k, v in tensors.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 14)], ir_version=8)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(model.SerializeToString(), options)
    (y,) = session.run(None, {"x": x.astype(np.float32)[:, None]})
    return y[:, 0, 0].astype(np.float64)


SHAPES = [(1, 1, 50, 1.0), (1, 300, 10, 1.0), (300, 1, 10, 1.0), (300, 300, 20, 1.0)]
SHAPES += [(2, 3, 1, 0.0), (5, 8, 50, 8.0)]


def cases(count: int) -> list[tuple[int, int, int, int, float]]:
    rng = np.random.default_rng(7)
    drawn = [
        (
            int(np.exp(rng.uniform(0, np.log(301)))),
            int(np.exp(rng.uniform(0, np.log(301)))),
            int(rng.integers(1, 51)),
            float(np.exp(rng.uniform(np.log(0.3), np.log(4)))),
        )
        for _ in range(count - len(SHAPES))
    ]
    return [(seed, *case) for seed, case in enumerate(SHAPES + drawn)]


def case_data(seed: int, inputs: int, units: int, steps: int, scale: float):
    rng = np.random.default_rng(seed)
    w = random_gru(rng, inputs, units, scale)
    loud = float(np.exp(rng.uniform(-3, 3)))
    w["w_ih"] /= np.float32(loud)
    # An input as slow as a spectrum, exactly representable in the oracle's float32.
    x = np.cumsum(rng.normal(0, 0.5, (steps, inputs)), axis=0) * loud
    x = x.astype(np.float32).astype(np.float64)
    h0 = rng.uniform(-1, 1, units) if seed % 3 else np.zeros(units)
    return w, x, h0.astype(np.float32).astype(np.float64)


@pytest.mark.parametrize(("seed", "inputs", "units", "steps", "scale"), cases(24))
def test_gru_against_onnxruntime(seed, inputs, units, steps, scale) -> None:
    w, x, h0 = case_data(seed, inputs, units, steps, scale)
    model = Model(inputs).gru(**w, h0=h0, order="urc")
    y = onnx_gru(w, x, h0)
    network = quantize(model, x)
    # onnxruntime's own sigmoid and tanh are polynomials for float32, good to about 1e-7.
    bound = check_against_oracle(
        Gru.of(model), network, x, h0, y, float_epsilon=2.0**-24, function_error=2.0**-20
    )
    if scale <= 1:
        assert bound < 0.5, "the bound says nothing any more"


def torch_gru(w: dict, x: np.ndarray, h: np.ndarray) -> np.ndarray:
    """nn.GRU as its documentation has it: r, z, n; h' = (1 - z) * n + z * h."""
    w = {k: v.astype(np.float64) for k, v in w.items()}
    states = []
    for row in x:
        gi, gh = w["w_ih"] @ row + w["b_ih"], w["w_hh"] @ h + w["b_hh"]
        (ir, iz, inn), (hr, hz, hn) = np.split(gi, 3), np.split(gh, 3)
        r, z = 1 / (1 + np.exp(-ir - hr)), 1 / (1 + np.exp(-iz - hz))
        h = (1 - z) * np.tanh(inn + r * hn) + z * h
        states.append(h)
    return np.array(states)


@pytest.mark.parametrize(("seed", "inputs", "units", "steps", "scale"), cases(12))
def test_gru_against_the_formula_of_pytorch(seed, inputs, units, steps, scale) -> None:
    w, x, h0 = case_data(seed + 1000, inputs, units, steps, scale)
    model = Model(inputs).gru(**w, h0=h0)
    y = torch_gru(w, x, h0)
    check_against_oracle(Gru.of(model), quantize(model, x), x, h0, y)
    assert np.allclose(model.run(x), y, atol=1e-12)


def lose_b_hc(network: Network) -> None:
    network.layers[0].bias["ch"][:] = 0


def swap_gates(network: Network) -> None:
    for m in network.layers[0].matrices:
        m.gates = tuple({"r": "u", "u": "r"}.get(g, g) for g in m.gates)


def shift_rows(network: Network) -> None:
    matrix = network.layers[0].matrices[1]
    matrix.weight = np.roll(matrix.weight, 1, axis=1)


def lose_a_column(network: Network) -> None:
    network.layers[0].matrices[0].weight[:, :, 3] = 0


def encode_the_bias(network: Network) -> None:
    """Biases as one more input behind a threshold: gone when it passes 1.0."""
    for b in network.layers[0].bias.values():
        b[:] = 0


@pytest.mark.parametrize(
    "mistake", [None, lose_b_hc, swap_gates, shift_rows, lose_a_column, encode_the_bias]
)
def test_the_bound_sees_mistakes(mistake) -> None:
    """Mutations that have happened to published accelerators; the bound is that of the original."""
    w, x, h0 = case_data(4, 6, 10, 30, 3.0)
    model = Model(6).gru(**w, h0=h0)
    y, gru = torch_gru(w, x, h0), Gru.of(model)
    network, stated = quantize(model, x), quantize(model, x)
    if mistake is None:
        check_against_oracle(gru, network, x, h0, y, stated=stated)
        return
    mistake(network)
    with pytest.raises(AssertionError, match="^step .* bound"):
        check_against_oracle(gru, network, x, h0, y, stated=stated)


# -- random integer networks ----------------------------------------------------------------------


def random_network(
    rng: np.random.Generator,
    *,
    layers: int | None = None,
    extreme: bool = False,
    input_mode: Mode | None = None,
) -> Network:
    """Any valid network: sizes, cells, formats, modes, thresholds, second encoders."""

    def weights(*shape: int) -> np.ndarray:
        if extreme:
            return rng.choice([-128, -1, 0, 127], shape).astype(np.int8)
        return rng.integers(-128, 128, shape).astype(np.int8)

    def threshold(fraction: int) -> int:
        middle = rng.integers(0, 1 << min(max(fraction, 1), 15))
        return int(rng.choice([0, 0, 1, 2, middle, 131071]))

    input_mode = Mode(int(rng.integers(0, 4))) if input_mode is None else input_mode
    inputs = int(rng.integers(1, 20))
    input_fraction = int(rng.integers(0, 16))
    network = Network(inputs, input_fraction, [], input_mode, threshold(input_fraction))
    count = int(rng.integers(1, 5)) if layers is None else layers
    source, mode, fraction = INPUT, input_mode, input_fraction
    for i in range(count):
        cell = str(rng.choice(["gru", "linear", "relu", "sigmoid", "tanh"]))
        if mode.reload and cell == "gru":
            cell = "relu"  # its own recurrence is by differences
        units, size = int(rng.integers(1, 25)), network.source_size(source)
        exponent = int(rng.integers(10, 22))
        order = CELLS[cell].accumulators
        own = 14 - int(rng.integers(0, 6))
        shift, write_shift = exponent - 13 + 8, 14 - own
        if CELLS[cell].homogeneous:
            own = int(rng.integers(exponent - 12, exponent + 9))
            shift, write_shift = exponent - own + 8, 0
        gates = ("y",) if cell != "gru" else ("r", "u", "cx")
        matrices = [
            QuantizedMatrix(source, gates, weights(len(gates), units, size), exponent - fraction)
        ]
        if cell == "gru":
            matrices.append(
                QuantizedMatrix(i, ("r", "u", "ch"), weights(3, units, units), exponent - own)
            )
        if i > 1 and rng.integers(2) and not mode.reload:
            below = network.layers[i - 2]
            if not below.mode.reload:
                matrices.append(
                    QuantizedMatrix(
                        i - 2,
                        gates,
                        weights(len(gates), units, below.units),
                        exponent - below.fraction,
                    )
                )
        layer = QuantizedLayer(
            f"layer{i}",
            cell,
            units,
            matrices,
            {g: rng.integers(-(1 << exponent), 1 << exponent, units) for g in order},
            shift,
            write_shift,
            own,
            threshold=threshold(own),
        )
        if cell == "relu" and rng.integers(2):
            layer.mode = Mode.NONZERO
        if cell == "gru" and rng.integers(2):
            layer.threshold_recurrent = threshold(own)
        if cell == "gru" and rng.integers(2):
            layer.initial["h"] = rng.integers(-(1 << 14), (1 << 14) + 1, units)
        network.layers.append(layer)
        source, mode, fraction = i, layer.mode, own
    network.validate()
    return network


def random_input(rng: np.random.Generator, network: Network, steps: int) -> np.ndarray:
    """Quiet stretches, noise, and jumps from one end of the format to the other."""
    if network.input_mode.one_hot:
        tokens = rng.integers(-1, network.inputs, (steps, 1))
        return np.where(rng.random((steps, 1)) < 0.3, np.roll(tokens, 1, axis=0), tokens)
    x = rng.integers(-40, 40, (steps, network.inputs)).cumsum(axis=0)
    jumps = rng.choice([-32768, 32767], x.shape)
    x = np.where(rng.random(x.shape) < 0.1, jumps, x)
    for t in range(1, steps):
        kind = rng.random()
        if kind < 0.2:
            x[t] = x[t - 1]
        elif kind < 0.3:
            x[t] = np.where(x[t - 1] < 0, 32767, -32768)
    return np.clip(x, -32768, 32767)


def networks():
    return st.integers(0, 2**32 - 1).map(np.random.default_rng)


@settings(deadline=None, max_examples=60)
@given(networks(), st.booleans())
def test_invariant(rng: np.random.Generator, extreme: bool) -> None:
    """M = bias + W . ref after every step, whatever happens."""
    network = random_network(rng, extreme=extreme)
    reference = Reference(network)
    for x in random_input(rng, network, 12):
        reference.step_integers(x)
        for i in range(len(network.layers)):
            assert np.array_equal(reference.accumulators[i], reference.expected_accumulators(i))


# -- a second implementation, not eager, from the equations ---------------------------------------


class Naive:
    """The same network written down again: plain Python, recurrences added when they are used."""

    def __init__(self, network: Network) -> None:
        self.network = network
        zeros = {i: np.zeros(q.units, np.int64) for i, q in enumerate(network.layers)}
        self.h = {i: q.initial.get("h", zeros[i]).copy() for i, q in enumerate(network.layers)}
        self.seen: dict[tuple[int, bool], np.ndarray] = {}  # references by (source, recurrent)
        self.m = {i: self.bias(i) for i in zeros}
        self.words = 0
        self.pending: dict[int, np.ndarray | None] = dict.fromkeys(zeros)
        for i, q in enumerate(network.layers):
            if "h" in q.initial:
                self.pending[i] = self.vector(i, self.h[i])
                self.feed(i, False, self.pending[i])
        self.words = 0

    def layer(self, i: int) -> list[QuantizedMatrix]:
        return self.network.layers[i].matrices

    def bias(self, i: int) -> dict[str, list[int]]:
        return {g: [int(v) for v in b] for g, b in self.network.layers[i].bias.items()}

    def vector(self, i: int, y: np.ndarray) -> np.ndarray:
        s = self.network.layers[i].write_shift
        return np.array([v if s == 0 else (int(v) + (1 << (s - 1))) // (1 << s) for v in y])

    def fire(self, source: int, recurrent: bool, v: np.ndarray) -> list[tuple[int, int]]:
        network = self.network
        if source == INPUT:
            mode, threshold = network.input_mode, network.input_threshold
        else:
            q = network.layers[source]
            mode, threshold = q.mode, q.threshold
            if recurrent and q.threshold_recurrent is not None:
                threshold = q.threshold_recurrent
        ref = self.seen.setdefault(
            (source, recurrent), np.zeros(network.source_size(source), np.int64)
        )
        one = 2**network.input_fraction
        if mode in (Mode.ONE_HOT, Mode.ONE_HOT_PLAIN):
            hot = np.zeros(network.inputs, np.int64)
            if v[0] >= 0:
                hot[v[0]] = one
            d = hot - ref if mode is Mode.ONE_HOT else hot
            ref[:] = hot
            return [(c, int(d[c])) for c in range(len(d)) if d[c]]
        events = []
        for c in range(len(v)):
            d = int(v[c]) - (int(ref[c]) if mode is Mode.DELTA else 0)
            if d != 0 and abs(d) >= threshold:
                events.append((c, d))
                ref[c] = v[c]
            elif mode is Mode.NONZERO:
                ref[c] = 0
        return events

    def feed(self, source: int, recurrent: bool, v: np.ndarray) -> int:
        events = self.fire(source, recurrent, v)
        for i in self.m:
            for m in self.layer(i):
                if m.source != source or (m.source >= i) != recurrent:
                    continue
                blocks = (self.network.layers[i].units + 7) // 8
                self.words += len(events) * blocks * len(m.gates)
                for column, d in events:
                    for k, g in enumerate(m.gates):
                        for row in range(len(self.m[i][g])):
                            self.m[i][g][row] += int(m.weight[k, row, column]) * d
        return len(events)

    def step(self, x: np.ndarray) -> np.ndarray:
        self.words = 0
        self.feed(INPUT, False, x)
        v = x
        for i, q in enumerate(self.network.layers):
            if self.pending[i] is not None:
                self.feed(i, True, self.pending[i])  # the recurrence, as late as possible
            pre = {
                g: np.array([self.rescale((a + 2**31) % 2**32 - 2**31, q.shift) for a in row])
                for g, row in self.m[i].items()
            }
            v = self.vector(i, self.cell(i, q.cell, pre))
            if any(self.network.source_mode(m.source).reload for m in q.matrices):
                self.m[i] = self.bias(i)
                self.words += 4 * ((q.units + 7) // 8) * len(self.m[i])
            self.feed(i, False, v)
            self.pending[i] = v
        return v

    @staticmethod
    def rescale(a: int, shift: int) -> int:
        value = (a * 2**8 * 2 + 2**shift) // (2 * 2**shift)
        return min(max(value, -(2**17)), 2**17 - 1)

    def cell(self, i: int, cell: str, pre: dict[str, np.ndarray]) -> np.ndarray:
        def half_up(value: np.ndarray, shift: int, bits: int) -> np.ndarray:
            rounded = (value + 2 ** (shift - 1)) // 2**shift
            return np.clip(rounded, -(2 ** (bits - 1)), 2 ** (bits - 1) - 1)

        if cell != "gru":
            y = pre["y"]
            if cell == "relu":
                y = np.maximum(y, 0)
            if cell in ("linear", "relu"):
                return np.clip(y, -32768, 32767)
            return (
                half_up(tables.sigmoid(y), 2, 16)
                if cell == "sigmoid"
                else half_up(tables.tanh(y), 1, 16)
            )
        r, u = tables.sigmoid(pre["r"]), tables.sigmoid(pre["u"])  # 16 fraction bits
        c = tables.tanh(half_up(pre["cx"] * 2**16 + r * pre["ch"], 16, 18))  # 15
        self.h[i] = half_up(c * 2**16 + u * (2 * self.h[i] - c), 17, 16)  # 31 to 14
        return self.h[i]


@settings(deadline=None, max_examples=60)
@given(networks(), st.booleans())
def test_against_a_naive_implementation(rng: np.random.Generator, extreme: bool) -> None:
    network = random_network(rng, extreme=extreme)
    reference, naive = Reference(network), Naive(network)
    rows = random_input(rng, network, 10)
    words = [0, 0]
    for t, x in enumerate(rows):
        y, wanted = reference.step_integers(x), naive.step(x)
        assert y.tolist() == wanted.tolist(), f"step {t}"
        words[0] += reference.last.words
        words[1] += naive.words
    for i in naive.m:  # what the naive one has not added yet
        if naive.pending[i] is not None:
            naive.words = 0
            naive.feed(i, True, naive.pending[i])
            words[1] += naive.words
        got = reference.accumulators[i]
        order = CELLS[network.layers[i].cell].accumulators
        for k, g in enumerate(order):
            assert [(a - b) % 2**32 for a, b in zip(got[k].tolist(), naive.m[i][g])] == (
                [0] * network.layers[i].units
            )
    assert words[0] == words[1] - _initial_words(network)


def _initial_words(network: Network) -> int:
    """Words of the recurrences that initial states fetch; no step of the reference counts them."""
    total = 0
    reference = Reference(network)
    for i, layer in enumerate(network.layers):
        if "h" not in layer.initial:
            continue
        second = layer.threshold_recurrent is not None
        ref = (reference.reference_second if second else reference.reference)[i]
        for m in layer.matrices:
            if m.source == i:
                total += np.count_nonzero(ref) * m.column_words(8)
    return total


@settings(deadline=None, max_examples=40)
@given(networks())
def test_whole_sequences_are_the_same_integers(rng: np.random.Generator) -> None:
    """sequence.run_integers, on which calibration rests, over recordings of several lengths."""
    network = random_network(rng)
    lengths = rng.integers(1, 12, int(rng.integers(1, 5)))
    recordings = [random_input(rng, network, int(n)) for n in lengths]
    layout = Layout(lengths.tolist())
    trace = run_integers(network, layout, layout.pack(recordings))
    last = len(network.layers) - 1
    events: dict[int, int] = {}
    saturations = 0
    for k, rows in enumerate(recordings):
        reference = Reference(network)
        got = trace.vectors[last][layout.index(k)]
        for t, x in enumerate(rows):
            assert np.array_equal(reference.step_integers(x), got[t])
            saturations += reference.last.saturations
            for key, n in reference.last.events.items():
                events[key] = events.get(key, 0) + n
    assert saturations == trace.saturations
    assert {k: v for k, v in events.items() if v} == {k: v for k, v in trace.events.items() if v}


# -- state ----------------------------------------------------------------------------------------


@settings(deadline=None, max_examples=30)
@given(networks())
def test_saved_state_continues_exactly(rng: np.random.Generator) -> None:
    network = random_network(rng)
    first, second = Reference(network), Reference(network)
    rows = random_input(rng, network, 12)
    for x in rows[:6]:
        first.step_integers(x)
    saved = first.get_state()
    copies = {k: v.copy() for k, v in saved.items()}
    for x in random_input(rng, network, 3):
        second.step_integers(x)
    second.set_state(saved)
    for x in rows[6:]:
        assert np.array_equal(first.step_integers(x), second.step_integers(x))
        assert first.last == second.last
        for a, b in zip(first.accumulators, second.accumulators):
            assert np.array_equal(a, b)
    for key, value in saved.items():
        assert np.array_equal(value, copies[key]), "a saved state is a copy"


def small_gru(**options) -> Network:
    rng = np.random.default_rng(3)
    w = random_gru(rng, 3, 5, 2.0)
    return quantize(Model(3).gru(**w, name="gru"), rng.normal(0, 1, (50, 3)), **options)


def test_state_of_another_network_is_refused() -> None:
    reference = Reference(small_gru())
    state = reference.get_state()
    with pytest.raises(
        StillnetError,
        match=r"^state does not belong to network 'network': 0/h has shape \(4,\), exp.* \(5,\)$",
    ):
        reference.set_state({**state, "0/h": np.zeros(4)})
    state.pop("-1/reference")
    with pytest.raises(StillnetError, match="^state does not belong to network 'network': -1/ref"):
        reference.set_state(state)


def test_set_hidden_clears_and_encodes() -> None:
    network = small_gru(thresholds=0.25)
    layer, reference = network.layers[0], Reference(network)
    for _ in range(3):
        reference.step(np.ones(3))
    h = np.array([16384, -16384, 4096, 4095, 0]) // 1
    reference.set_hidden({(0, "h"): h})
    v = fixed.round_shift(h, layer.write_shift)
    kept = np.where(np.abs(v) >= layer.threshold, v, 0)
    assert np.array_equal(reference.state[0]["h"], h) and reference.state[0]["h"] is not h
    assert np.array_equal(reference.reference[0], kept)
    assert not reference.reference[INPUT].any()
    assert np.array_equal(reference.accumulators[0], reference.expected_accumulators(0))
    bias = np.stack([layer.bias[g] for g in ("r", "cx", "u", "ch")])
    assert np.array_equal(reference.accumulators[0][1], bias[1])  # W_h feeds r, u, ch only
    for g, k in (("r", 0), ("u", 2), ("ch", 3)):
        w = layer.matrices[1].weight[layer.matrices[1].gates.index(g)].astype(np.int64)
        assert np.array_equal(reference.accumulators[0][k], bias[k] + w @ kept)
    with pytest.raises(StillnetError, match=r"^layer 'gru': state 'c' of shape \(5,\) does not ex"):
        reference.set_hidden({(0, "c"): h})
    with pytest.raises(StillnetError, match=r"^layer 'gru': state 'h' of shape \(6,\) does not ex"):
        reference.set_hidden({(0, "h"): np.zeros(6)})


def test_reset_and_clear() -> None:
    w, x, h0 = case_data(1, 4, 6, 8, 1.0)
    network = quantize(Model(4).gru(**w, h0=h0), x)
    reference = Reference(network)
    first = [reference.step(row) for row in x]
    reference.reset()
    assert np.array_equal(first, [reference.step(row) for row in x])
    reference.clear()
    assert not reference.state[0]["h"].any() and not reference.reference[0].any()
    assert np.array_equal(reference.state[0]["h"], np.zeros(6))
    reference.reset()
    assert np.array_equal(reference.state[0]["h"], network.layers[0].initial["h"])


def test_a_threshold_change_applies_from_the_next_encoding() -> None:
    network = small_gru()
    reference = Reference(network)
    reference.step(np.ones(3))
    network.layers[0].threshold = 131071
    network.input_threshold = 131071
    before = {k: v.copy() for k, v in reference.reference.items()}
    reference.step(-np.ones(3))
    assert reference.last.events == {INPUT: 0, 0: 0} and reference.last.words == 0
    for k, v in reference.reference.items():
        assert np.array_equal(v, before[k])


def test_accumulators_wrap_around() -> None:
    """Only a host that sets h beyond its bound gets there; order still must not matter."""
    recurrent = np.full((3, 1, 400), 127, np.int8)
    layer = QuantizedLayer(
        "gru",
        "gru",
        400,
        [
            QuantizedMatrix(INPUT, ("r", "u", "cx"), np.zeros((3, 400, 1), np.int8), 20),
            QuantizedMatrix(0, ("r", "u", "ch"), np.repeat(recurrent, 400, axis=1), 6),
        ],
        {g: np.full(400, 1 << 30, np.int64) for g in ("r", "u", "cx", "ch")},
        shift=20 - 13 + 8,
        write_shift=0,
        fraction=14,
    )
    reference = Reference(Network(1, 0, [layer]))
    reference.set_hidden({(0, "h"): np.full(400, 32767)})
    total = (1 << 30) + 400 * 127 * 32767
    assert total >= 1 << 31
    assert reference.accumulators[0][0].tolist() == [total - (1 << 32)] * 400
    assert np.array_equal(reference.accumulators[0], reference.expected_accumulators(0))
    reference.set_hidden({(0, "h"): np.zeros(400)})
    assert np.all(reference.accumulators[0] == 1 << 30)


# -- biases ---------------------------------------------------------------------------------------


def test_b_hc_matters() -> None:
    zero = {"w_ih": np.zeros((3, 1)), "w_hh": np.zeros((3, 1)), "b_ih": np.zeros(3)}
    y = [
        Reference(quantize(Model(1).gru(**zero, b_hh=b), np.ones((4, 1)))).run(np.ones((4, 1)))
        for b in (np.zeros(3), np.array([0, 0, 1.0]))
    ]
    assert not y[0].any()
    # r = u = 1/2: h' = c + (h - c) / 2 with c = tanh(b_hc / 2)
    wanted = np.tanh(0.5) * (1 - 0.5 ** np.arange(1, 5))
    assert np.abs(y[1][:, 0] - wanted).max() < 2e-4


@pytest.mark.parametrize("threshold", [1.0625, 2.0, 1000.0])
def test_thresholds_above_one_lose_no_bias(threshold: float) -> None:
    """Biases never pass the encoder: nothing fires, and every accumulator still is its bias."""
    w, x, _ = case_data(5, 6, 7, 40, 1.0)
    x = np.clip(x, -1, 1)
    model = Model(6).gru(**w, name="gru").dense(np.ones((2, 7)), np.array([3.0, -3.0]))
    network = quantize(model, x, thresholds=threshold)
    reference = Reference(network)
    h = np.zeros(7, np.int64)
    layer = network.layers[0]
    pre = {g: fixed.rescale(b, layer.shift) for g, b in layer.bias.items()}
    exponent = network.exponent(0)
    for row in x:
        y = reference.step(row)
        assert reference.last.events == {INPUT: 0, 0: 0, 1: 2 if row is x[0] else 0} or (
            reference.last.events[INPUT] == reference.last.events[0] == 0
        )
        h, _, _ = CELLS["gru"].evaluate(pre, {"h": h})
        assert np.array_equal(reference.state[0]["h"], h)
        assert np.abs(y - [3.0, -3.0]).max() < 0.05
    assert h.any() and np.abs(layer.bias["ch"]).max() > 0.1 * 2.0**exponent


# -- counting -------------------------------------------------------------------------------------


def test_events_words_and_saturations_by_hand() -> None:
    """Two layers of 9 units on 8 lanes: two words a gate and column."""
    ones = np.ones((1, 9, 2), np.int8)
    dense = QuantizedLayer(
        "a", "relu", 9, [QuantizedMatrix(INPUT, ("y",), ones, 4)], {"y": np.zeros(9)}, 8, 0, 4
    )
    dense.bias["y"] = np.zeros(9, np.int64)
    top = QuantizedLayer(
        "b",
        "linear",
        1,
        [QuantizedMatrix(0, ("y",), np.ones((1, 1, 9), np.int8), 4)],
        {"y": np.zeros(1, np.int64)},
        8,
        0,
        8,
        mode=Mode.DELTA,
    )
    network = Network(2, 0, [dense, top])
    reference = Reference(network)
    y = reference.step_integers(np.array([3, 4]))
    assert y.tolist() == [63]  # 9 * (3 + 4)
    assert reference.last.events == {INPUT: 2, 0: 9, 1: 1}
    assert reference.last.words == 2 * 2 + 9 * 1
    reference.step_integers(np.array([3, 4]))
    assert (reference.last.events, reference.last.words) == ({INPUT: 0, 0: 0, 1: 0}, 0)
    reference.step_integers(np.array([32767, 32767]))
    assert reference.last.saturations == 9 + 1
    assert reference.describe() == {
        "events": {"input": 2, "a": 9, "b": 1},
        "words": 13,
        "words_hot": 0,
        "saturations": 10,
    }
    dense.mode = Mode.NONZERO
    reference = Reference(network, lanes=4)
    for _ in range(2):  # three blocks of 4 for a, one for b; b reloads its bias each step
        assert reference.step_integers(np.array([3, 4])).tolist() == [63]
    assert reference.last.events == {INPUT: 0, 0: 9, 1: 0}
    assert reference.last.words == 9 * 1 + 4 * 1 * 1


def test_two_encoders_count_apart() -> None:
    network = small_gru(thresholds=0.01, threshold_recurrent=0.2)
    network.layers.append(
        QuantizedLayer(
            "out",
            "linear",
            2,
            [QuantizedMatrix(0, ("y",), np.ones((1, 2, 5), np.int8), 6)],
            {"y": np.zeros(2, np.int64)},
            8,
            0,
            network.layers[0].fraction + 6,
        )
    )
    network.layers[0].threshold_recurrent = int(0.2 * 2 ** network.layers[0].fraction)
    network.layers[0].threshold = 1
    reference = Reference(network)
    total = {INPUT: 0, 0: 0, 1: 0, SECOND: 0}
    for row in np.random.default_rng(0).normal(0, 1, (20, 3)):
        reference.step(row)
        for key, n in reference.last.events.items():
            total[key] += n
    assert 0 < total[SECOND] < total[0]
    assert reference.event_names() == {
        INPUT: "input",
        0: "gru",
        SECOND: "gru (recurrent)",
        1: "out",
    }


def test_inputs_are_rounded_half_up_and_clipped() -> None:
    network = small_gru()
    one = 2.0**network.input_fraction
    x = np.array([[0.5, -0.5, 1.5], [0.49, 1e9, -1e9], [32767.4, 32767.5, -32768.5]])
    assert network.quantize_input(x / one).tolist() == [
        [1, 0, 2],
        [0, 32767, -32768],
        [32767, 32767, -32768],
    ]


def test_wrong_input_is_refused() -> None:
    reference = Reference(small_gru())
    with pytest.raises(StillnetError, match=r"^input has shape \(1, 4\); network 'network' takes "):
        reference.step(np.zeros(4))
    with pytest.raises(StillnetError, match="^input holds nan at step 1, element 2; remove NaN"):
        reference.run(np.array([[0, 0, 0], [0, 0, np.nan]]))
    with pytest.raises(StillnetError, match=r"^input has shape \(0, 3\); .* at least one step$"):
        reference.run(np.zeros((0, 3)))


def test_one_blas_thread_inside_and_as_before_outside() -> None:
    control = blas_threads()
    if control is None:
        pytest.skip("NumPy has another BLAS than OpenBLAS here")
    get, put = control
    first = get()
    try:
        put(2)
        with pytest.raises(KeyError), single_thread():
            assert get() == 1
            with single_thread():
                assert get() == 1
            assert get() == 1
            raise KeyError
        assert get() == 2
    finally:
        put(first)

"""What ``docs/cells.md`` says of S5, claim by claim, against complex arithmetic.

The oracle has no closed form of a discretisation and no folding: it integrates the continuous
equation x' = lam x + B u, carries both states of each conjugate pair (arXiv 2208.04933), normalises
what it is told to normalise, and takes the rectifier of a complex number as the larger of it and
zero, real part first (arXiv 2502.01330).
"""

from __future__ import annotations

import numpy as np
import pytest

from stillnet.sw.model.model import Model
from stillnet.sw.model.s5 import batch_norm
from tests.support.networks.quick import quantize
from tests.support.oracles.s5 import PublishedS5

EPSILON = 1e-5


def parts(seed: int, units: int = 6, states: int = 5) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(seed)

    def sparse(*shape: int) -> np.ndarray:
        return rng.normal(0, 1, shape) * (rng.random(shape) < 0.6)

    return {
        "lam": -np.exp(rng.uniform(-2, 1, states)) + 1j * rng.uniform(-9, 9, states),
        "b": sparse(states, units) + 1j * sparse(states, units),
        "c": sparse(units, states) + 1j * sparse(units, states),
        "d": rng.normal(0, 1, units),
        "step": np.exp(rng.uniform(-5, -1, states)),
        "mean": rng.normal(0, 0.5, units),
        "variance": rng.uniform(0.3, 2, units),
        "weight": rng.uniform(0.5, 1.5, units),
        "bias": rng.normal(0, 0.3, units),
        "glu_w": rng.normal(0, 1, (units, units)) / np.sqrt(units),
        "glu_b": rng.normal(0, 0.5, units),
    }


def rectified(z: complex) -> complex:
    """max(z, 0) in the order of complex numbers: by the real part, then by the imaginary part."""
    return complex(*max((z.real, z.imag), (0.0, 0.0)))


def advance(x: np.ndarray, lam: np.ndarray, bu: np.ndarray, step: np.ndarray, method: str):
    """x one time step later."""
    if method == "bilinear":  # the trapezium rule: x' taken at both ends
        return (x + step / 2 * (lam * x + 2 * bu)) / (1 - step / 2 * lam)
    for _ in range(64):  # u held: Runge and Kutta's rule
        h = step / 64
        k1 = lam * x + bu
        k2 = lam * (x + h / 2 * k1) + bu
        k3 = lam * (x + h / 2 * k2) + bu
        k4 = lam * (x + h * k3) + bu
        x = x + h / 6 * (k1 + 2 * k2 + 2 * k3 + k4)
    return x


def block(v: np.ndarray, p: dict[str, np.ndarray], method: str, wrong: str = "") -> np.ndarray:
    """One S5 block over a sequence; ``wrong`` names a mistake to make."""
    u = (v - p["mean"]) / np.sqrt(p["variance"] + EPSILON) * p["weight"] + p["bias"]
    if wrong == "no normalisation":
        u = v
    lam, b, c = (np.concatenate([p[k], p[k].conj()], axis) for k, axis in PAIRED)
    step = np.concatenate([p["step"], p["step"]])
    if wrong == "one of the pair":
        c = np.where(np.arange(len(lam)) < len(lam) // 2, c, 0)
    x = np.zeros(len(lam), complex)
    out = []
    for row, skip in zip(u, v, strict=True):
        x = advance(x, lam, b @ row, step, method)
        if wrong == "each part":
            open_x = np.maximum(x.real, 0) + 1j * np.maximum(x.imag, 0)
            open_x[len(x) // 2 :] = open_x[: len(x) // 2].conj()
        else:
            open_x = np.array([rectified(complex(z)) for z in x])
        feed = skip if wrong == "feedthrough of v" else row
        y = (c @ open_x).real + p["d"] * feed
        x1 = np.maximum(y, 0)
        gate = p["glu_w"] @ (y if wrong == "gate before relu" else x1) + p["glu_b"]
        z = (y if wrong == "no relu" else x1) / (1 + np.exp(-gate))
        out.append(np.maximum(z + (row if wrong == "skip of u" else skip), 0))
    return np.array(out)


PAIRED = (("lam", 0), ("b", 0), ("c", 1))
WRONG = (
    "no normalisation",
    "one of the pair",
    "each part",
    "feedthrough of v",
    "gate before relu",
    "no relu",
    "skip of u",
)


def built(p: dict[str, np.ndarray], method: str, blocks: int = 1) -> tuple[Model, np.ndarray]:
    """A stack without a decoder, and the encoder's weights."""
    units = len(p["d"])
    encoder = np.random.default_rng(3).normal(0, 0.7, (units, 3))
    model = Model(3).s5_encoder(encoder)
    norm = batch_norm(p["mean"], p["variance"], p["weight"], p["bias"], EPSILON)
    for _ in range(blocks):
        model.s5(
            *(p[k] for k in ("lam", "b", "c", "d")),
            glu=(p["glu_w"], p["glu_b"]),
            step=p["step"],
            method=method,
            norm=norm,
        )
    return model, encoder


def signal(steps: int) -> np.ndarray:
    return np.cumsum(np.random.default_rng(4).normal(0, 0.4, (steps, 3)), 0)


@pytest.mark.parametrize("method", ["zoh", "bilinear"])
@pytest.mark.parametrize("seed", range(3))
def test_a_stack_is_what_complex_arithmetic_says(seed: int, method: str) -> None:
    p = parts(seed)
    model, encoder = built(p, method, 2)
    x = signal(40)
    v = x @ encoder.T
    expected = block(block(v, p, method), p, method)
    # Runge and Kutta's error at |lam step| up to 4 and 64 parts is some 1e-6.
    assert np.allclose(model.run(x), expected, rtol=1e-5, atol=1e-5)
    if seed:
        return  # one stack for each method is enough to show that mistakes are seen
    other = "zoh" if method == "bilinear" else "bilinear"
    for name in WRONG:
        assert not np.allclose(model.run(x), block(block(v, p, method, name), p, method), atol=1e-2)
    assert not np.allclose(model.run(x), block(block(v, p, other), p, other), atol=1e-3)


def test_the_gate_at_the_tie() -> None:
    """A purely imaginary state: what passes is decided by the imaginary part, and only there."""
    for sign in (1, -1):
        model = Model(1).s5_encoder(np.ones((1, 1)))
        one = np.ones((1, 1))
        # c of i turns i s into -s, so y = 2 Re(-i x) = 2 s where it passes.
        model.s5([0], sign * 1j * one, -1j * sign * one, [0], glu=(0 * one, [40.0]))
        x = np.array([[1.0], [2.0], [0.0]])
        y = model.run(x)[:, 0]
        assert np.allclose(y, (2 * x + x if sign > 0 else x)[:, 0]), sign


def test_b_keeps_its_zeros_and_its_normalisation_costs_no_events() -> None:
    rng = np.random.default_rng(8)
    units, states = 60, 50
    p = parts(8, units, states)
    masks = [rng.random((states, units)) < 0.1 for _ in range(2)]
    p["b"] = rng.normal(0, 1, (states, units)) * masks[0] + 1j * (
        rng.normal(0, 1, (states, units)) * masks[1]
    )
    model, _ = built(p, "zoh")
    fed = model.layers[1].matrices[0]
    for part, mask in zip(fed.weight, masks, strict=True):
        assert np.array_equal(part != 0, mask)
    factor = model.layers[1].parameters["c_re"] + 1j * model.layers[1].parameters["c_im"]
    mixed = factor[:, None] * (fed.weight[0] + 1j * fed.weight[1])
    assert 0.17 < np.mean(mixed.real != 0) < 0.21  # 1 - 0.9 * 0.9
    # The offset of the normalisation is in biases: a silent v has no events at all.
    network = quantize(model, signal(10), correct_bias=False)
    published = PublishedS5(network)
    for _ in range(5):
        published.step([0, 0, 0])
        reached = [m.source for m in network.layers[1].matrices]
        assert reached == [0] and published.vectors[0] == [0] * units
        assert any(published.states[1]["xr"]), "the offset moves the state"


@pytest.mark.parametrize("method", ["zoh", "bilinear"])
def test_scales_say_what_the_integers_stand_for(method: str) -> None:
    """Each layer of each step in complex arithmetic, from the integers of the layer below."""
    p = parts(1)
    model, _ = built(p, method, 2)
    x = signal(60)
    network = quantize(model, x)
    published = PublishedS5(network)
    layers = network.layers

    def power(index: int, label: str) -> int:
        return layers[index].exponents.get(label, 0)

    def real(index: int, values: list[int], fraction: int) -> np.ndarray:
        return np.array(values) / 2.0**fraction

    for row in network.quantize_input(x).tolist():
        old = [{k: list(v) for k, v in s.items()} for s in published.states]
        published.step(row)
        for i, layer in enumerate(layers):
            half = 2.0 ** (layer.shift - 9) if layer.shift > 8 else 0.0
            e = network.exponent(i)
            total = {g: (b + half) / 2.0**e for g, b in layer.bias.items()}
            for m in layer.matrices:
                if m.source < 0:
                    continue
                below = real(m.source, published.vectors[m.source], layers[m.source].fraction)
                for g, w in zip(m.gates, m.weight / 2.0**m.fraction, strict=True):
                    total[g] = total[g] + w @ below
            if layer.cell == "s5_state":
                kx, kb = power(i, "x"), power(i, "b")
                q = {k: v.astype(float) for k, v in layer.parameters.items()}
                lam = (q["lam_re"] + 1j * q["lam_im"]) / 2.0**15
                c = (q["c_re"] + 1j * q["c_im"]) / 2.0 ** (17 + kx - kb)
                was = real(i, old[i]["xr"], 24 + kx) + 1j * real(i, old[i]["xi"], 24 + kx)
                now = [real(i, published.states[i][s], 24 + kx) for s in ("xr", "xi")]
                exact = lam * was + c * (total["bre"] + 1j * total["bim"])
                # Floors: of the two accumulators, through c; of the state.
                slack = (abs(c.real) + abs(c.imag)) * 2.0 ** -(13 + kb) + 2.0 ** -(24 + kx)
                assert np.all(np.abs(exact.real - now[0]) <= slack), (i, "xr")
                assert np.all(np.abs(exact.imag - now[1]) <= slack), (i, "xi")
                passing = (now[0] > 0) | ((now[0] == 0) & (now[1] > 0))
                for n, part in ((i, now[0]), (i + 1, now[1])):
                    sent = real(n, published.vectors[n], layers[n].fraction)
                    error = np.where(passing, part, 0) - sent
                    assert np.all((error >= 0) & (error < 2.0 ** -(14 + kx))), n
            elif layer.cell == "s5_output":
                kv = power(i, "v")
                below = layer.peers["v"]
                v = real(below, published.states[below]["v"], 13 + kv)
                exact = total["yr"] - total["yi"] + layer.parameters["d"] / 2.0**12 * v
                error = np.maximum(exact, 0) - real(i, published.vectors[i], 13 + kv)
                unit = 2.0 ** -(13 + kv)
                assert np.all((error > -1.0001 * unit) & (error < 2.0001 * unit)), i
            elif layer.cell == "s5_glu":
                out, below = layer.peers["x1"], layer.peers["v"]
                kv = power(i, "v")
                x1 = real(out, published.states[out]["x1"], 13 + kv)
                v = real(below, published.states[below]["v"], 13 + kv)
                inside = np.abs(total["g"]) < 15.9
                exact = np.maximum(x1 / (1 + np.exp(-total["g"])) + v, 0)
                slack = np.abs(x1) * (2.4e-5 + 2.0**-15) + 2.0 ** -(13 + kv)
                error = np.abs(exact - real(i, published.vectors[i], 13 + kv))
                assert np.all(inside) and np.all(error <= slack), i
    assert published.clipped == 0 and published.wrapped == 0


def test_the_factor_two_costs_no_bit() -> None:
    """Twice C, or twice Re: the same integers of C, one fraction bit apart."""
    p = parts(2)
    real = built(p, "zoh")[0]
    fed = [layer for layer in real.layers if layer.cell == "s5_output"][0].matrices
    assert np.allclose(fed[0].weight[0], 2 * p["c"].real)
    assert np.allclose(fed[1].weight[0], 2 * p["c"].imag)
    network = quantize(real, signal(40))
    layer = [layer for layer in network.layers if layer.cell == "s5_output"][0]
    for m, part in zip(layer.matrices, (p["c"].real, p["c"].imag), strict=True):
        once = np.clip(np.floor(part * 2.0 ** (m.fraction + 1) + 0.5), -128, 127)
        assert np.array_equal(m.weight[0], once)


@pytest.mark.parametrize("cell", ["s5", "lru"])
def test_no_eigenvalue_is_rounded_out_of_the_unit_circle(cell: str) -> None:
    rng = np.random.default_rng(6)
    states = 200
    lam = np.exp(-(10.0 ** rng.uniform(-7, -3, states)) + 1j * rng.uniform(-3.1, 3.1, states))
    lam[:4] = 1, -1, 1j, -1j
    b, c = rng.normal(0, 1, (states, 2)) + 0j, rng.normal(0, 0.1, (2, states)) + 0j
    model = Model(2)
    if cell == "s5":
        model.s5_encoder(np.eye(2)).s5(lam, b, c, [1, 1], glu=(np.eye(2), None))
    else:
        model.lru(lam, b, c)
    network = quantize(model, rng.normal(0, 1, (20, 2)))
    found = next(n.parameters for n in network.layers if "lam_re" in n.parameters)
    size = found["lam_re"] ** 2 + found["lam_im"] ** 2
    assert np.all(size <= 1 << 30)
    exact = lam * (1 << 15)
    away = found["lam_re"] + 1j * found["lam_im"] - exact
    assert np.all(np.abs(away.real) <= 1) and np.all(np.abs(away.imag) <= 1)
    nearest = np.floor(exact.real + 0.5) + 1j * np.floor(exact.imag + 0.5)
    left = np.abs(nearest) > 1 << 15
    assert 20 < left.sum() < 120, "rounding alone would not do"
    moved = nearest != found["lam_re"] + 1j * found["lam_im"]
    assert np.array_equal(np.flatnonzero(moved & ~left), [0, 2]), "1 and i are at the format's end"

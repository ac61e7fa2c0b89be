"""Compression: solvers against brute force, patterns, budgets, determinism, resumption."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from stillnet.sw.compression import (
    CompressOptions,
    Given,
    Pattern,
    checkpoint,
    compress,
    engine_for,
)
from stillnet.sw.contract.errors import StillnetError
from stillnet.sw.contract.events import Mode, encode
from stillnet.sw.contract.image import Kind
from stillnet.sw.contract.sources import INPUT
from stillnet.sw.model.model import Model
from stillnet.sw.network.network import Network
from stillnet.sw.network.reference import Reference
from stillnet.sw.network.sequence import Layout, run_float, run_integers
from stillnet.sw.quantization.limits import curves
from stillnet.sw.quantization.sensitivity import sensitivity
from stillnet.sw.quantization.simulate import Encoders, simulate
from stillnet.sw.quantization.solvers.hessian import bundles, gather
from stillnet.sw.quantization.solvers.masks import keep_blocks, keep_largest
from stillnet.sw.quantization.solvers.rounding import Grid, best_steps, round_to_nearest
from stillnet.sw.quantization.solvers.second_order import descend, objective, refit_steps, sweep


def small_model(units: int = 12, seed: int = 0) -> Model:
    rng = np.random.default_rng(seed)
    model = Model(6, name="small")
    model.dense(rng.normal(0, 0.5, (units, 6)), rng.normal(0, 0.5, units), "relu", name="fc")
    model.gru(
        rng.normal(0, 1.0, (3 * units, units)) / np.sqrt(units),
        rng.normal(0, 1.0, (3 * units, units)) / np.sqrt(units),
        rng.normal(0, 0.3, 3 * units),
        rng.normal(0, 0.3, 3 * units),
        name="gru",
    )
    return model.dense(
        rng.normal(0, 1.5, (5, units)) / np.sqrt(units), np.zeros(5), "sigmoid", name="out"
    )


def recordings(count: int = 3, steps: int = 60, inputs: int = 6, seed: int = 1) -> list[np.ndarray]:
    mixing = np.random.default_rng(1).normal(size=(inputs, inputs))
    rng = np.random.default_rng(seed)
    result = []
    for _ in range(count):
        x = np.zeros((steps, inputs))
        for t in range(1, steps):
            x[t] = 0.95 * x[t - 1] + 0.3 * rng.normal(size=inputs)
        result.append(x @ mixing * 0.6)
    return result


def everything(shape: tuple[int, int]):
    kept = np.ones(shape, bool)
    return lambda saliency, column: kept[:, column]


def layer_problem(rows: int, columns: int, seed: int):
    """A random layer with correlated inputs: weights, Hessian, grid."""
    rng = np.random.default_rng(seed)
    z = rng.normal(size=(400, columns)) @ rng.normal(size=(columns, columns))
    hessian = z.T @ z / len(z)
    weight = rng.normal(size=(rows, columns))
    step = best_steps(weight, np.ones(columns), 4)
    return weight, hessian, Grid(4, step, np.ones(columns))


# -- solvers --------------------------------------------------------------------------------------


def test_solvers_come_close_to_the_best_of_all_roundings():
    """Every one of the 16**4 integer rows is tried, by a formula of the test's own."""
    rows = np.array(list(itertools.product(range(-8, 8), repeat=4)), float)
    sums = np.zeros(4)
    for seed in range(12):
        weight, hessian, grid = layer_problem(1, 4, seed)
        ones = np.ones(1)
        errors = rows * grid.step[0] - weight[0]
        best = float(np.min(np.sum(errors @ hessian * errors, axis=1)))
        nearest = objective(round_to_nearest(weight, grid), weight, hessian)
        swept = sweep(weight, hessian, grid, everything((1, 4)), ones)
        found = descend(swept, weight, hessian, grid, everything((1, 4)), ones)
        final = objective(found, weight, hessian)
        assert best * (1 - 1e-9) <= final <= objective(swept, weight, hessian) * (1 + 1e-9)
        sums += [best, final, objective(swept, weight, hessian), nearest]
    assert sums[1] < 1.3 * sums[0] and sums[3] > 1.8 * sums[0]


def test_second_order_beats_rounding_on_a_layer():
    weight, hessian, grid = layer_problem(30, 40, 7)
    ones, choose = np.ones(30), everything((30, 40))
    nearest = objective(round_to_nearest(weight, grid), weight, hessian)
    swept = sweep(weight, hessian, grid, choose, ones)
    final = descend(swept, weight, hessian, grid, choose, ones)
    assert objective(swept, weight, hessian) < 0.6 * nearest
    assert objective(final, weight, hessian) < 0.97 * objective(swept, weight, hessian)
    # Whatever is found lies on the grid.
    assert np.allclose(grid.values(grid.integers(final)), final)


def test_pruning_makes_good_for_what_is_removed():
    """With weights free and a mask given, the sweep must come near the closed form."""
    rng = np.random.default_rng(3)
    weight, hessian, _ = layer_problem(1, 8, 3)
    kept = rng.random((1, 8)) < 0.6
    fine = Grid(8, np.array([1e-4]), np.full(8, 1.0))

    class Free(Grid):
        def nearest(self, value: np.ndarray, column: int) -> np.ndarray:
            return value

    free = Free(8, fine.step, fine.ratio)

    def choose(saliency: np.ndarray, column: int) -> np.ndarray:
        return kept[:, column]

    found = descend(weight * kept, weight, hessian, free, choose, np.ones(1), sweeps=2000)
    index = np.flatnonzero(kept[0])
    exact = np.zeros(8)
    exact[index] = np.linalg.solve(hessian[np.ix_(index, index)], (hessian @ weight[0])[index])
    assert np.allclose(found[0], exact, atol=1e-4 * np.abs(exact).max())


def test_refit_of_steps_is_a_line_search():
    weight, hessian, grid = layer_problem(5, 12, 4)
    integers = grid.integers(weight).astype(float)
    steps = refit_steps(integers, weight, hessian, grid)
    for r in range(5):
        errors = [
            objective(integers[r : r + 1] * s, weight[r : r + 1], hessian)
            for s in steps[r] * np.array([0.99, 1.0, 1.01])
        ]
        assert errors[1] < errors[0] and errors[1] < errors[2]
    bounds = (np.full(5, 0.2), 0.21)
    bounded = refit_steps(integers, weight, hessian, grid, bounds)
    assert np.allclose(bounded, np.clip(steps, 0.2, 0.21))


def test_best_steps_clip_where_that_pays():
    rng = np.random.default_rng(5)
    weight = rng.normal(size=(3, 200))
    full = np.max(np.abs(weight), axis=1) / 7.5
    step = best_steps(weight, np.ones(200), 4)
    assert np.all(step < full)
    for r in range(3):

        def error(s: float, r: int = r) -> float:
            return float(np.sum((np.clip(np.rint(weight[r] / s), -8, 7) * s - weight[r]) ** 2))

        assert error(step[r]) <= 1.01 * min(error(s) for s in np.linspace(0.31, 1, 40) * full[r])


# -- patterns -------------------------------------------------------------------------------------


@pytest.mark.parametrize("units", [64, 50, 100])
def test_lane_pattern_is_what_bitmaps_count(units):
    pattern = Pattern("lane", 0.5, lanes=4)
    rng = np.random.default_rng(units)
    blocks = -(-units // 4)
    kept = np.zeros((3, units), bool)
    saliency = rng.random((3, units))
    # Gates 0 and 2 are solved together, 1 on its own: groups go on from one gate to the next.
    for gates in ([0, 2], [1]):
        groups = pattern.groups(gates, units)
        kept[gates] = groups.keep(saliency[gates].ravel()).reshape(len(gates), units)
    for lane in range(4):
        rows = np.zeros(3 * blocks, int)
        for g in range(3):
            for b in range(blocks):
                if 4 * b + lane < units:
                    rows[g * blocks + b] = kept[g, 4 * b + lane]
        counts = [rows[k : k + 16].sum() for k in range(0, len(rows), 16)]
        assert max(counts) <= 8 and sum(counts) >= 0.46 * 3 * units / 4 - 2
        assert all(c == 8 for c in counts[:-1]) or units % 4


def test_keep_largest_and_blocks_are_exact():
    rng = np.random.default_rng(0)
    saliency = rng.random((2 * 12, 20))
    kept = keep_largest(saliency, 100)
    assert kept.sum() == 100
    assert saliency[kept].min() > saliency[~kept].max()
    blocks = keep_blocks(saliency, 2, 0.5)
    for g in range(2):
        for r, c in itertools.product(range(0, 12, 8), range(0, 20, 8)):
            part = blocks[g * 12 + r : g * 12 + min(r + 8, 12), c : c + 8]
            assert part.all() or not part.any()
    assert 0.3 < blocks.mean() < 0.7


@pytest.mark.parametrize("text", ["lanes", ""])
def test_unknown_patterns_are_refused(text):
    with pytest.raises(
        StillnetError, match=f"^pattern must be one of unstructured, lane, block8, not '{text}'$"
    ):
        Pattern(text, 0.5)
    with pytest.raises(StillnetError, match="^sparsity must be 0 to below 1, not 1.5$"):
        Pattern("lane", 1.5)


# -- what the solvers are fed ---------------------------------------------------------------------


def test_bundles_of_a_gru_and_their_statistics():
    model = small_model()
    parts = bundles(model, 1)
    assert [b.gates for b in parts] == [("r", "u"), ("cx",), ("ch",)]
    weight = parts[0].weight(model.layers[1])
    x, h = model.layers[1].matrices
    assert np.array_equal(weight[:12], np.concatenate([x.weight[0], h.weight[0]], axis=1))
    assert np.array_equal(weight[12:], np.concatenate([x.weight[1], h.weight[1]], axis=1))
    rng = np.random.default_rng(0)
    z, a = rng.normal(size=(5000, 3)) + 2, rng.normal(size=(5000, 2))
    found = gather(z, a)
    assert np.allclose(found.hessian, np.cov(z.T, bias=True))
    assert np.allclose(found.cross, np.cov(a.T, z.T, bias=True)[:2, 2:])


def test_simulation_without_encoders_is_the_float_model():
    model, clips = small_model(), recordings(3, 40)
    layout = Layout([40, 40, 40])
    x = layout.pack(clips)
    result = simulate(model, layout, x)
    for k, clip in enumerate(clips):
        assert np.allclose(layout.unpack(result.trace.vectors[2])[k], model.run(clip), atol=1e-12)
    assert np.allclose(result.seen[1], result.trace.vectors[1])


def test_curves_count_what_the_encoder_does():
    rng = np.random.default_rng(2)
    layout = Layout([50, 30])
    clips = [np.cumsum(rng.integers(-40, 41, (n, 4)), axis=0) for n in (50, 30)]
    found = curves(layout, layout.pack([c / 256.0 for c in clips]), 1 / 256)
    for k in (0, 7, 14, len(found.rate) - 1):
        threshold = int(np.ceil(found.thresholds[k, 0] * 256 - 1e-6))
        fired, error = np.zeros(4), np.zeros(4)
        for clip in clips:
            ref = np.zeros(4, np.int64)
            for row in clip:
                fired += np.bincount(encode(Mode.DELTA, row, ref, threshold)[0], minlength=4)
                error += ((row - ref) / 256.0) ** 2
        assert np.allclose(found.rate[k] * 80, fired)
        assert np.allclose(found.error[k] * 80, error, rtol=1e-4, atol=1e-6)


def test_sensitivity_is_that_of_finite_differences():
    """The sum over a recording of what its outputs do for a bias moved at one step."""
    model = small_model(units=4)
    clip = recordings(1, 6)[0]
    layout = Layout([6])
    trace = run_float(model, layout, clip)
    felt = sensitivity(model, trace, probes=400)
    for index, gate, unit, step in [
        (1, "u", 2, 3),
        (1, "ch", 0, 1),
        (0, "y", 1, 4),
        (2, "y", 3, 5),
    ]:
        outputs = []
        for sign in (1, -1):
            state: dict = {}
            y = []
            for t, row in enumerate(clip):
                moved = small_model(units=4)
                if t == step:
                    moved.layers[index].bias[gate] = moved.layers[index].bias[gate].copy()
                    moved.layers[index].bias[gate][unit] += sign * 1e-4
                y.append(moved.run(row[None], state=state)[0])
            outputs.append(np.array(y))
        wanted = np.sum(((outputs[0] - outputs[1]) / 2e-4) ** 2)
        assert felt.accumulators[index, gate][step, unit] == pytest.approx(wanted, rel=0.25)


# -- the whole ------------------------------------------------------------------------------------


def integer_error(model: Model, network: Network, clips: list[np.ndarray]) -> float:
    errors = [np.abs(Reference(network).run(c) - model.run(c)) for c in clips]
    return float(np.mean(np.concatenate(errors)))


def test_int4_second_order_is_better_than_rounding_and_runs_in_the_reference():
    model, clips = small_model(), recordings()
    network = compress(model, clips, CompressOptions(bits=4))
    plain = compress(model, clips, CompressOptions(bits=4, method="nearest"))
    unseen = recordings(3, steps=120, seed=99)
    assert all(m.bits == 4 for layer in network.layers for m in layer.matrices)
    assert integer_error(model, network, unseen) < 0.8 * integer_error(model, plain, unseen)
    report = network.notes["compression"]
    assert report["output_error"] == pytest.approx(integer_error(model, network, clips), rel=0.2)
    assert all(layer["error"] < layer["nearest_error"] for layer in report["layers"])


def test_int8_has_multipliers_of_rows_unless_they_are_refused():
    model, clips = small_model(), recordings()
    errors = []
    for rows in (False, True):
        network = compress(model, clips, CompressOptions(bits=8, row_steps=rows))
        assert network.row_scale is rows
        errors.append(integer_error(model, network, clips))
    assert errors[1] < 0.8 * errors[0] < 0.01


def test_lane_pattern_is_stored_as_bitmaps_of_half():
    model, clips = small_model(units=64), recordings(2)
    options = CompressOptions(sparsity=0.5, pattern="lane")
    config = engine_for(options)
    network = compress(model, clips, options, config=config)
    for layer in network.layers[1:2]:  # the others are so small that they stay whole
        for m in layer.matrices:
            found = m.layout(layer.cell, config)
            assert (found.kind, found.kept) == (Kind.BITMAP, 8)
            assert 0.35 < np.mean(m.weight != 0) <= 0.5


def test_sparsity_of_the_whole_is_met():
    model, clips = small_model(), recordings()
    network = compress(model, clips, CompressOptions(sparsity=0.6))
    sizes = [m.weight.size for layer in network.layers for m in layer.matrices]
    kept = [np.count_nonzero(m.weight) for layer in network.layers for m in layer.matrices]
    assert sum(kept) <= 0.4 * sum(sizes) + 4 and sum(kept) > 0.33 * sum(sizes)


def test_masks_and_steps_from_elsewhere_are_honoured():
    model, clips = small_model(), recordings()
    rng = np.random.default_rng(8)
    masks = []
    for layer in model.layers:
        for m in layer.matrices:
            mask = rng.random(m.weight.shape) < 0.5
            m.weight[~mask] = 0.0
            masks.append(mask)
    steps = {("fc", "y"): 0.11, ("out", "y"): np.linspace(0.05, 0.08, 5)}
    network = compress(model, clips, CompressOptions(), given=Given(steps=steps))
    found = [m for layer in network.layers for m in layer.matrices]
    for mask, m in zip(masks, found):
        assert np.all(m.weight[~mask] == 0) and np.any(m.weight[mask] != 0)
    for index, name in ((0, "fc"), (2, "out")):
        layer = network.layers[index]
        assert layer.scale is not None
        realised = layer.scale["y"] / 2.0**14 * 2.0 ** -layer.matrices[0].fraction
        assert np.allclose(realised, steps[name, "y"], rtol=2e-4)


def test_steps_for_a_gate_that_is_not_there_are_refused():
    with pytest.raises(
        StillnetError, match="^steps name gate 'z' of layer 'gru', which is not there$"
    ):
        compress(small_model(), recordings(1), given=Given(steps={("gru", "z"): 0.1}))
    with pytest.raises(
        StillnetError,
        match="^layer 'gru': steps are given for some gates but not for 'u'; give all of them$",
    ):
        compress(small_model(), recordings(1), given=Given(steps={("gru", "r"): 0.1}))


def test_error_budget_is_kept_and_used():
    model, clips = small_model(), recordings()
    still = compress(model, clips, CompressOptions(bits=8))
    options = CompressOptions(bits=8, max_error=0.02)
    network = compress(model, clips, options)
    report = network.notes["compression"]
    assert report["output_error"] <= 0.02
    assert integer_error(model, network, clips) <= 0.021
    assert report["words_a_step"] < 0.8 * still.notes["compression"]["words_a_step"]
    assert network.element_thresholds
    one = compress(model, clips, CompressOptions(bits=8, max_error=0.02, by_element=False))
    assert not one.element_thresholds and one.notes["compression"]["output_error"] <= 0.02


def test_impossible_budgets_are_refused():
    with pytest.raises(
        StillnetError,
        match=r"^max_error 1e-06 cannot be kept: the mean error of one output is \S+ with the ",
    ):
        compress(small_model(), recordings(1), CompressOptions(max_error=1e-6))


def test_same_seed_same_network(tmp_path):
    model, clips = small_model(), recordings()
    options = CompressOptions(sparsity=0.5, max_error=0.03)
    for name in ("a", "b"):
        compress(model, clips, options).save(tmp_path / name)
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


@pytest.mark.parametrize("stop", [("layers, weights-0", 2), ("thresholds, limits-1", 8)])
def test_a_run_that_was_stopped_goes_on(tmp_path, stop):
    model, clips = small_model(), recordings()
    options = CompressOptions(sparsity=0.5, max_error=0.03)
    compress(model, clips, options).save(tmp_path / "whole")

    def interrupt(what: str, done: int, total: int) -> None:
        if (what, done) == stop:
            raise KeyboardInterrupt

    folder = tmp_path / "stages"
    with pytest.raises(KeyboardInterrupt):
        compress(model, clips, options, folder=folder, progress=interrupt)
    kept = {f.name: f.stat().st_mtime_ns for f in folder.iterdir()}
    assert "weights-0-layer01.npz" in kept and not any(k.startswith("limits-1") for k in kept)
    compress(model, clips, options, folder=folder).save(tmp_path / "resumed")
    assert (tmp_path / "resumed").read_bytes() == (tmp_path / "whole").read_bytes()
    assert all(f.stat().st_mtime_ns == kept[f.name] for f in folder.iterdir() if f.name in kept)
    with pytest.raises(StillnetError, match=r"holds another compression \(of another model, other"):
        compress(model, clips, CompressOptions(sparsity=0.4), folder=folder)


def test_budgets_share_the_weights_that_come_before_them(tmp_path):
    model, clips, folder = small_model(), recordings(), tmp_path / "stages"
    compress(model, clips, CompressOptions(sparsity=0.5), folder=folder)
    solved = {f.name: f.stat().st_mtime_ns for f in folder.iterdir()}
    for budget in (0.03, 0.05):
        options = CompressOptions(sparsity=0.5, max_error=budget)
        compress(model, clips, options).save(tmp_path / "alone")
        compress(model, clips, options, folder=folder).save(tmp_path / "shared")
        assert (tmp_path / "shared").read_bytes() == (tmp_path / "alone").read_bytes()
    kept = {f.name: f.stat().st_mtime_ns for f in folder.iterdir()}
    assert solved.items() <= kept.items()
    assert sum(k.startswith("limits-0") for k in kept) == 2
    with pytest.raises(StillnetError, match="holds another compression"):
        compress(
            model, clips, CompressOptions(sparsity=0.5), folder=folder, thresholds={INPUT: 1.0}
        )


def test_stages_of_other_methods_are_refused(tmp_path, monkeypatch):
    model, clips = small_model(), recordings(1)
    compress(model, clips, folder=tmp_path)
    compress(model, clips, folder=tmp_path)
    monkeypatch.setattr(checkpoint, "VERSION", checkpoint.VERSION + 1)
    with pytest.raises(StillnetError, match=r"or by another version of stillnet\); remove it"):
        compress(model, clips, folder=tmp_path)


def test_damaged_stage_is_named(tmp_path):
    model, clips = small_model(), recordings(1)
    compress(model, clips, folder=tmp_path)
    (tmp_path / "weights-0-layer00.npz").write_bytes(b"PK")
    with pytest.raises(StillnetError, match=r"layer00.npz' is damaged \(.*\); remove it, and the"):
        compress(model, clips, folder=tmp_path)


def test_integers_and_simulation_agree():
    """The network that thresholds are searched on is the one that is delivered."""
    model, clips = small_model(), recordings()
    network = compress(model, clips, CompressOptions(), thresholds={INPUT: 0.2, 0: 0.1, 1: 0.05})
    layout = Layout([len(c) for c in clips])
    x = layout.pack(clips)
    values = run_integers(network, layout, layout.pack([network.quantize_input(c) for c in clips]))
    equal = Model(6)
    for layer, q in zip(model.layers, network.layers):
        scale = {g: q.scale[g] / 2.0**14 if q.scale else 1.0 for g in q.bias}
        matrices = []
        for m, w in zip(layer.matrices, q.matrices):
            rows = np.stack([w.weight[k] * scale[g][:, None] for k, g in enumerate(w.gates)])
            matrices.append(type(m)(m.source, m.gates, rows * 2.0**-w.fraction))
        exponent = q.matrices[0].fraction + (
            network.input_fraction
            if q.matrices[0].source == INPUT
            else network.layers[q.matrices[0].source].fraction
        )
        bias = {g: b * 2.0**-exponent * scale[g] for g, b in q.bias.items()}
        equal.layers.append(type(layer)(layer.name, layer.cell, layer.units, tuple(matrices), bias))
    fraction = {INPUT: network.input_fraction} | {
        i: q.fraction for i, q in enumerate(network.layers)
    }
    limits = {INPUT: network.input_threshold, 0: network.layers[0].threshold}
    limits[1] = network.layers[1].threshold
    encoders = Encoders({s: v * 2.0 ** -fraction[s] for s, v in limits.items()}, fraction)
    floats = simulate(equal, layout, x, encoders)
    y = network.dequantize_output(values.vectors[2])
    assert np.mean(np.abs(y - floats.trace.vectors[2])) < 1e-3
    for s in (INPUT, 0, 1):
        assert floats.fired[s].sum() == pytest.approx(values.fired[s].sum(), rel=0.02)


# -- every cell, and no harm ----------------------------------------------------------------------


def cells() -> dict[str, Model]:
    rng = np.random.default_rng(21)
    conv = Model(6, name="conv").conv(rng.normal(0, 0.5, (40, 6, 3)), activation="relu", name="c")
    conv.dense(rng.normal(0, 0.3, (3, 40)), name="out")
    lru = Model(6, name="lru").dense(rng.normal(0, 0.5, (16, 6)), name="in")
    lru.lru(
        0.9 * np.exp(1j * rng.uniform(0, 1, 16)),
        rng.normal(0, 0.3, (16, 16)) + 1j * rng.normal(0, 0.3, (16, 16)),
        rng.normal(0, 0.3, (4, 16)) + 1j * rng.normal(0, 0.3, (4, 16)),
        name="lru",
    )
    tokens = Model(20, one_hot=True, name="tokens")
    tokens.gru(rng.normal(0, 0.5, (96, 20)), rng.normal(0, 0.3, (96, 32)), name="g")
    tokens.dense(rng.normal(0, 0.5, (4, 32)), name="out")
    return {"conv": conv, "lru": lru, "tokens": tokens}


@pytest.mark.parametrize("bits", [8, 4])
@pytest.mark.parametrize("name", ["conv", "lru", "tokens"])
def test_every_cell_is_compressed(name: str, bits: int) -> None:
    model = cells()[name]
    clips = recordings(3, 120) if name != "tokens" else [np.arange(300) ** 2 % 20]
    network = compress(model, clips, CompressOptions(bits=bits, sparsity=0.3))
    assert all(d.startswith("sparsity 0.3 ") for d in network.notes["report"]["doubts"])
    kept = [np.mean(m.weight != 0) for layer in network.layers for m in layer.matrices]
    assert min(kept) < 0.8, "weights are gone"
    assert integer_error(model, network, clips) < 0.1 * np.std(model.run(clips[0]))


@pytest.mark.parametrize("pattern", ["lane", "block8", "unstructured"])
@pytest.mark.parametrize("outputs", [1, 2, 4])
def test_small_layers_keep_what_they_need(outputs: int, pattern: str) -> None:
    """Half of the rows of one output would be nothing at all."""
    rng = np.random.default_rng(22)
    model = Model(6).dense(rng.normal(0, 0.5, (64, 6)), rng.normal(0, 0.5, 64), "relu", name="fc")
    model.dense(rng.normal(0, 0.3, (outputs, 64)), name="out")
    clips = recordings(3, 100)
    network = compress(model, clips, CompressOptions(bits=8, sparsity=0.5, pattern=pattern))
    assert not any("lost all" in d or "never changes" in d for d in network.doubts)
    last = network.layers[-1].matrices[0].weight
    assert np.all(np.any(last != 0, axis=2))
    assert integer_error(model, network, clips) < 0.3 * np.std(model.run(clips[0]))


def test_an_option_that_saves_nothing_says_so() -> None:
    rng = np.random.default_rng(23)
    model = Model(6).dense(rng.normal(0, 0.5, (4, 6)), name="out")
    network = compress(model, recordings(3, 100), CompressOptions(bits=8, sparsity=0.5))
    assert any(
        d.startswith("sparsity 0.5 with pattern 'unstructured' saves ") for d in network.doubts
    )

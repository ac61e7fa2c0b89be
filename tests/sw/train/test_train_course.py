"""A training keeps its budget and its masks, can be stopped, and gives the same network again."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from stillnet.sw.contract.config import PRESETS
from stillnet.sw.contract.errors import StillnetError
from stillnet.sw.model.model import Model
from stillnet.sw.network.network import Network
from stillnet.sw.network.reference import Reference
from stillnet.sw.packing.engine_fit import fit
from stillnet.sw.quantization.quantizer import quantize
from stillnet.sw.train import TrainOptions, train
from tests.support.networks.cells import random_cell_case

from .test_train_module import KINDS
from .toys import recordings, toy_model, toy_network

pytestmark = pytest.mark.torch
torch = pytest.importorskip("torch", reason="make test-train installs it")

SHORT = TrainOptions(updates=12, batch=2, steps=16, remask=4)


@pytest.fixture(scope="module")
def small() -> Network:
    return toy_network()


@pytest.fixture(scope="module")
def pruned() -> Network:
    return toy_network(sparsity=0.5, error=0.06)


def reference_words(network: Network, x: list[np.ndarray]) -> float:
    """Words per step by the reference itself."""
    reference = Reference(network, config=fit(network, PRESETS["sdram16"]))
    total = steps = 0
    for recording in x:
        reference.reset()
        for row in network.quantize_input(recording):
            reference.step_integers(row)
            total += reference.last.words
            steps += 1
    return total / steps


def same(a: Network, b: Network) -> bool:
    """Whether two networks have the same integers."""
    pairs = [(a.input_limit, b.input_limit)]
    for x, y in zip(a.layers, b.layers):
        pairs += [(m.weight, n.weight) for m, n in zip(x.matrices, y.matrices)]
        pairs += [(x.bias[g], y.bias[g]) for g in x.bias] + [(x.limit, y.limit)]
        pairs += [(x.scale[g], y.scale[g]) for g in x.scale or {} if y.scale]
    return all(np.array_equal(p, q) for p, q in pairs)


# -- budgets --------------------------------------------------------------------------------------


def test_a_budget_of_words_holds_by_the_reference(small: Network) -> None:
    x = recordings()
    before = reference_words(small, x)
    options = TrainOptions(updates=60, batch=3, steps=32, words=0.7 * before)
    config = fit(small, PRESETS["sdram16"])
    trained = train(toy_model(), small, x, options, config=config)
    after = trained.notes["training"]["after"]
    assert reference_words(trained, x) == pytest.approx(after["words"], rel=1e-9)
    assert after["words"] <= 0.7 * before
    # Thresholds alone, all scaled by one factor, err more for as many words.
    blunt = copy.deepcopy(small)
    factor = 1.0
    while reference_words(blunt, x) > after["words"]:
        factor *= 1.05
        assert small.input_thresholds is not None
        blunt.input_thresholds = np.rint(small.input_thresholds * factor).astype(np.int64)
        for new, old in zip(blunt.layers, small.layers):
            if old.thresholds is not None:
                new.thresholds = np.rint(old.thresholds * factor).astype(np.int64)
    wanted = np.concatenate([toy_model().run(r) for r in x])
    got = np.concatenate([Reference(blunt).run(r) for r in x])
    assert after["error"] < 0.9 * float(np.mean(np.abs(got - wanted)))


def test_a_budget_of_error_holds_by_the_reference(small: Network) -> None:
    x = recordings()
    options = TrainOptions(updates=60, batch=3, steps=32, mean_error=0.04)
    trained = train(toy_model(), small, x, options)
    figures = trained.notes["training"]
    wanted = np.concatenate([toy_model().run(r) for r in x])
    got = np.concatenate([Reference(trained).run(r) for r in x])
    assert float(np.mean(np.abs(got - wanted))) <= 0.04
    assert figures["after"]["words"] < figures["before"]["words"]


def test_a_network_without_thresholds_gets_them() -> None:
    x = recordings()
    start = quantize(toy_model(), x, thresholds=0.0)
    trained = train(toy_model(), start, x, replace(SHORT, mean_error=0.1))
    assert np.all(np.asarray(trained.input_limit) > 0)
    assert np.all(np.asarray(trained.layers[0].limit) > 0)
    assert trained.layers[1].thresholds is None  # nothing reads the output


def test_a_budget_out_of_reach_is_said_in_one_sentence(small: Network) -> None:
    trained = train(toy_model(), small, recordings(), replace(SHORT, words=1.0))
    (doubt,) = [d for d in trained.doubts if "as asked" in d]
    assert "not 1 as asked; train for more updates, or ask for less" in doubt
    assert trained.notes["training"]["threshold_factor"] == 1.0


# -- masks ----------------------------------------------------------------------------------------


def zeros(network: Network) -> list[np.ndarray]:
    return [m.weight == 0 for layer in network.layers for m in layer.matrices]


def test_masks_stay_as_they_are(pruned: Network) -> None:
    trained = train(toy_model(), pruned, recordings(), replace(SHORT, rate=0.2))
    assert not same(trained, pruned)
    heavy = [z for z in zeros(pruned) if z.mean() > 0.35]
    found = [n for z, n in zip(zeros(pruned), zeros(trained)) if z.mean() > 0.35]
    assert heavy and all(np.all(n[z]) for z, n in zip(heavy, found))


def test_masks_become_sparser_and_exchange_weights(pruned: Network) -> None:
    options = replace(SHORT, updates=40, sparsity=0.7, regrow=0.3, rate=0.2)
    trained = train(toy_model(), pruned, recordings(), options)
    kept = trained.notes["training"]["kept"]
    assert kept == pytest.approx(0.3, abs=0.01)
    total = np.concatenate([z.ravel() for z in zeros(trained)])
    assert total.mean() >= 0.69
    assert any(np.any(z & ~n) for z, n in zip(zeros(pruned), zeros(trained)))  # some came back


def test_formats_and_shifts_stay(pruned: Network) -> None:
    trained = train(toy_model(), pruned, recordings(), SHORT)
    for old, new in zip(pruned.layers, trained.layers):
        assert (old.shift, old.write_shift, old.fraction) == (
            new.shift,
            new.write_shift,
            new.fraction,
        )
        assert [m.fraction for m in old.matrices] == [m.fraction for m in new.matrices]
        assert all(np.abs(m.weight).max() <= 8 for m in new.matrices)


# -- again, and again from the middle -------------------------------------------------------------


class Stopped(Exception):
    """What interrupts a training here."""


def stop_after(count: int) -> Callable[[str, int, int], None]:
    def progress(what: str, done: int, total: int) -> None:
        if what == "training" and done == count:
            raise Stopped

    return progress


def test_the_seed_decides(small: Network) -> None:
    options = replace(SHORT, words=300.0, regrow=0.1)
    first, again, other = (
        train(toy_model(), small, recordings(), replace(options, seed=seed, rate=0.2))
        for seed in (0, 0, 1)
    )
    assert same(first, again) and not same(first, other)


def test_a_stopped_training_goes_on_as_if_it_had_not_been(
    pruned: Network, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import stillnet.sw.train.run as module

    monkeypatch.setattr(module, "KEEP_EVERY", 0.0)
    options = replace(SHORT, words=300.0, sparsity=0.6, regrow=0.2, rate=0.2)
    whole = train(toy_model(), pruned, recordings(), options)
    for count in (3, 7):
        with pytest.raises(Stopped):
            train(
                toy_model(),
                pruned,
                recordings(),
                options,
                folder=tmp_path,
                progress=stop_after(count),
            )
    resumed = train(toy_model(), pruned, recordings(), options, folder=tmp_path)
    assert same(whole, resumed)
    assert whole.notes["training"]["history"] == resumed.notes["training"]["history"]


def test_a_folder_of_another_training_is_refused(small: Network, tmp_path: Path) -> None:
    train(toy_model(), small, recordings(), SHORT, folder=tmp_path)
    with pytest.raises(StillnetError, match="holds another"):
        train(toy_model(), small, recordings(), replace(SHORT, seed=3), folder=tmp_path)


# -- losses, cells --------------------------------------------------------------------------------


def test_a_loss_of_ones_own_sees_labels(small: Network) -> None:
    x = recordings()
    labels = [np.full(len(r), float(k)) for k, r in enumerate(x)]
    seen = []

    def loss(y: Any, stretch: Any) -> Any:
        assert stretch.labels is not None
        seen.append(np.array_equal(stretch.labels[0], stretch.recording))
        return (y[..., 0] - torch.as_tensor(stretch.labels).to(y.dtype)).abs()

    trained = train(toy_model(), small, x, replace(SHORT, rate=0.1), loss=loss, labels=labels)
    assert all(seen) and len(seen) == SHORT.updates
    assert not same(trained, small)
    with pytest.raises(StillnetError, match="the loss gives"):
        train(toy_model(), small, x, SHORT, loss=lambda y, stretch: y)
    with pytest.raises(StillnetError, match="labels must be"):
        train(toy_model(), small, x, SHORT, loss=loss, labels=labels[:1])


def test_losses_that_are_known_fall() -> None:
    """Of a network whose weights are shaken."""
    x = recordings()
    start = quantize(toy_model(), x, thresholds=0.0)
    rng = np.random.default_rng(0)
    for m in start.layers[1].matrices:
        m.weight = np.clip(m.weight + rng.integers(-40, 41, m.weight.shape), -127, 127).astype(
            np.int8
        )
    for loss in ("mae", "mse", "kl"):
        options = TrainOptions(updates=40, batch=3, steps=32, loss=loss, rate=0.05)
        course = train(toy_model(), start, x, options).notes["training"]["history"]
        assert course[-1]["loss"] < 0.7 * course[0]["loss"], loss


@pytest.mark.parametrize("seed", range(24))
def test_networks_of_any_cells_have_gradients(seed: int) -> None:
    from stillnet.sw.train.trainer import Trainer

    config = KINDS[seed % 4]
    case = random_cell_case(seed, config)
    network, rows = case.network, np.asarray(case.inputs)
    wanted = np.random.default_rng(seed).normal(size=(len(rows), network.outputs))
    trainer = Trainer(network, [rows], [wanted], None, replace(SHORT, words=1.0), config)
    for _ in range(3):
        trainer.update()
    for name, value in trainer.module.values.items():
        assert value.grad is None or bool(torch.isfinite(value.grad).all()), name
    trainer.module.to_network()


def test_an_event_based_unit_learns_to_be_silent() -> None:
    """EGRU: no encoder has a threshold there; the cell's own surrogate gradient does it."""
    rng = np.random.default_rng(0)
    rows = 3 * 12
    model = Model(5).egru(
        rng.normal(0, 0.6, (rows, 5)),
        rng.normal(0, 0.4, (rows, 12)),
        np.zeros(rows),
        np.zeros(rows),
        np.full(12, 0.05),
        name="cell",
    )
    model.dense(rng.normal(0, 0.3, (3, 12)), np.zeros(3), name="out")
    x = recordings()
    start = quantize(model, x)
    before = reference_words(start, x)
    config = fit(start, PRESETS["sdram16"])
    options = TrainOptions(
        updates=60, batch=3, steps=32, words=0.97 * before, rate=1.0, patience=2.0
    )
    trained = train(model, start, x, options, config=config)
    assert reference_words(trained, x) <= 0.97 * before
    assert np.array_equal(start.layers[0].limit, trained.layers[0].limit)


# -- losses ---------------------------------------------------------------------------------------


def test_the_unit_of_a_loss_does_not_matter(small: Network) -> None:
    """Beside words, a loss weighs by how much larger it is than where it began."""

    def loss(factor: float) -> Callable[[Any, Any], Any]:
        def squared(outputs: Any, stretch: Any) -> Any:
            d = outputs - torch.as_tensor(stretch.wanted).to(outputs.dtype)
            return factor * (d * d).sum(-1)

        return squared

    x = recordings()
    options = replace(SHORT, words=60.0, rate=0.1)
    large, little = (train(toy_model(), small, x, options, loss=loss(f)) for f in (1.0, 2.0**-12))
    assert same(large, little) and not same(large, small)

"""The modules of ``examples/reproduce`` that train in floating point."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytestmark = pytest.mark.torch
torch = pytest.importorskip("torch", reason="make test-train installs it")

FOLDER = Path(__file__).parents[3] / "examples/reproduce"


@pytest.fixture
def scripts(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.syspath_prepend(str(FOLDER))
    yield
    for path in FOLDER.glob("*.py"):
        sys.modules.pop(path.stem, None)


class Fires(torch.autograd.Function):
    """An event, with the triangle as its derivative."""

    @staticmethod
    def forward(ctx: Any, d: Any, half: float, height: float) -> Any:
        ctx.save_for_backward(d)
        ctx.triangle = half, height
        return (d > 0).to(d.dtype)

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> Any:
        (d,) = ctx.saved_tensors
        half, height = ctx.triangle
        return grads[0] * torch.clamp(1 - d.abs() / half, min=0) * height, None, None


def test_gradients_of_the_event_based_gru(scripts: None) -> None:
    """Written out by hand, and as PyTorch records the same equations."""
    import egru_training as module

    torch.manual_seed(0)
    model = module.CharacterModel(5, 7).double()
    tokens = torch.randint(0, 5, (6, 3))
    start = tuple(s.double() for s in model.start(3))
    logits, _, _ = model(tokens, start)
    (logits**2).sum().backward()
    found = [p.grad.clone() for p in model.parameters()]
    model.zero_grad()
    h, y = start
    rows = []
    for row in model.kernel[tokens] + model.bias:
        zr, rr, gr = (y @ model.recurrent + model.recurrent_bias).chunk(3, 1)
        zx, rx, gx = row.chunk(3, 1)
        u, r = torch.sigmoid(zx + zr), torch.sigmoid(rx + rr)
        g = torch.tanh(gx + r * gr)
        c = g + u * (h - g)
        fires = Fires.apply(c - model.theta.clamp(0, 1), module.SUPPORT, module.DAMPING)
        y, h = c * fires, c - model.theta.clamp(0, 1) * fires
        rows.append(y)
    (model.decoder(torch.stack(rows)) ** 2).sum().backward()
    for one, other in zip(found, model.parameters()):
        assert torch.allclose(one, other.grad, rtol=1e-9, atol=1e-12)


def test_a_character_model_is_the_float_model(scripts: None) -> None:
    import egru
    import egru_training as module

    torch.manual_seed(1)
    trained = module.CharacterModel(len(egru.LETTERS), 6)
    tokens = np.random.default_rng(0).integers(0, len(egru.LETTERS), 40)
    with torch.no_grad():
        logits, _, _ = trained(torch.as_tensor(tokens)[:, None], trained.start(1))
    assert np.allclose(egru.imported(trained).run(tokens), logits[:, 0].numpy(), atol=1e-5)


def test_an_s5_is_the_float_model(scripts: None) -> None:
    import s5_training
    import sparse_s5

    torch.manual_seed(2)
    net = s5_training.S5Net(sparse_s5.SITES, 6, 5, 2, sparse_s5.SITES)
    net.prune(0.4)
    x = np.random.default_rng(0).normal(size=(30, sparse_s5.SITES))
    with torch.no_grad():
        y = net(torch.as_tensor(x, dtype=torch.float32)[:, None])[:, 0].numpy()
    assert np.allclose(sparse_s5.imported(net).run(x), y, atol=1e-5)
    assert sum(float((w != 0).sum()) for w in net.weights()) <= 0.41 * sum(
        w.numel() for w in net.weights()
    )


def test_a_filter_is_the_float_model_and_masks_hold(scripts: None) -> None:
    import block_sparsity as module
    import gru_training

    torch.manual_seed(4)
    net = gru_training.Filter(module.SITES, 9)
    masks = [(torch.rand(w.shape) < 0.3).float() for w in net.weights()]
    seen = torch.randn(40, 3, module.SITES)
    begin = [w.detach().clone() for w in net.weights()]
    trained = gru_training.train(net, seen, seen, 4, batch=2, steps=20, masks=masks)
    for weight, mask, old in zip(trained.weights(), masks, begin):
        assert torch.equal(weight != 0, mask != 0)
        assert not torch.equal(weight, old * mask)
    with torch.no_grad():
        y = trained(seen)[:, 0].numpy()
    assert np.allclose(module.imported(trained).run(seen[:, 0].numpy()), y, atol=1e-5)


def test_pruning_ends_at_what_was_asked(scripts: None) -> None:
    import egru_training as module

    torch.manual_seed(3)
    model = module.CharacterModel(5, 8)
    course = module.Course(np.random.default_rng(0).integers(0, 5, 4000), 4, 8)
    trained = module.train(model, course, 60, lambda part: 1e-3, kept=0.2)
    weights = list(trained.weights().values())
    kept = sum(float((w != 0).sum()) for w in weights)
    assert kept == pytest.approx(0.2 * sum(w.numel() for w in weights), abs=2)
    assert not torch.equal(trained.recurrent, model.recurrent)


def test_lorenz_is_what_its_equation_says(scripts: None) -> None:
    """Small steps of Euler's method end where the method of Runge and Kutta does."""
    from signals import lorenz

    _, true = lorenz(2, 3, 5, sites=8)
    x = 4 * true[0]
    for _ in range(2000):
        rate = (np.roll(x, -1, 1) - np.roll(x, 2, 1)) * np.roll(x, 1, 1) - x + 8
        x = x + 0.05 / 2000 * rate
    assert np.allclose(x, 4 * true[1], atol=0.02)

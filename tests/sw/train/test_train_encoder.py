"""Encoders with gradients: where the value came from, what a threshold would change."""

from __future__ import annotations

import pytest

from stillnet.sw.contract.events import Mode

pytestmark = pytest.mark.torch
torch = pytest.importorskip("torch", reason="make test-train installs it")


def encode(v, limit, mode=Mode.DELTA, start=None):
    from stillnet.sw.train.encoder import encode_vectors

    start = torch.zeros_like(v[0]) if start is None else start
    return encode_vectors(mode, v, start, limit)


def column(*values: float) -> torch.Tensor:
    """One element over time."""
    return torch.tensor(values, dtype=torch.float64).view(-1, 1, 1).requires_grad_()


def test_the_gradient_goes_to_the_value_that_was_sent() -> None:
    v = column(10.0, 11.0, 12.0, 30.0, 29.0)
    refs, fired = encode(v, torch.tensor(5.0))
    assert refs.flatten().tolist() == [10.0, 10.0, 10.0, 30.0, 30.0]
    assert fired.flatten().tolist() == [1.0, 0.0, 0.0, 1.0, 0.0]
    (refs * column(1.0, 2.0, 4.0, 8.0, 16.0).detach()).sum().backward()
    assert v.grad is not None
    assert v.grad.flatten().tolist() == [7.0, 0.0, 0.0, 24.0, 0.0]


def test_differences_agree_with_the_gradient() -> None:
    generator = torch.Generator().manual_seed(0)
    v = (8 * torch.randn(12, 2, 3, generator=generator, dtype=torch.float64)).requires_grad_()
    start = torch.randn(2, 3, generator=generator, dtype=torch.float64).requires_grad_()
    limit = torch.tensor([1.0, 4.0, 9.0], dtype=torch.float64)
    assert torch.autograd.gradcheck(lambda a, s: encode(a, limit, start=s)[0], (v, start))


def test_events_that_almost_happen_pull_at_threshold_and_vector() -> None:
    v = column(10.0, 13.0, 11.0)
    limit = torch.tensor(5.0, dtype=torch.float64, requires_grad=True)
    _, fired = encode(v, limit)
    fired[1:].sum().backward()
    assert limit.grad is not None and v.grad is not None
    assert float(limit.grad) < 0  # a larger threshold: fewer events
    assert float(v.grad[1]) > 0 and float(v.grad[0]) < 0  # 13 is 3 above 10: less would be less


def test_a_threshold_is_told_what_late_values_cost() -> None:
    v = column(10.0, 14.0)
    limit = torch.tensor(5.0, dtype=torch.float64, requires_grad=True)
    refs, _ = encode(v, limit)
    (refs[1] - 14.0).pow(2).sum().backward()
    assert limit.grad is not None and float(limit.grad) > 0


def test_plain_events() -> None:
    v = column(0.0, 3.0, -40.0)
    refs, fired = encode(v, torch.tensor(5.0), Mode.NONZERO)
    assert refs.flatten().tolist() == [0.0, 0.0, -40.0]
    assert fired.flatten().tolist() == [0.0, 0.0, 1.0]
    fired.sum().backward()
    assert v.grad is not None
    assert float(v.grad[0]) == 0 and float(v.grad[1]) > 0 and float(v.grad[2]) < 0

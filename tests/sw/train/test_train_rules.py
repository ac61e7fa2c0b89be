"""The cell language in PyTorch: integers of the contract, and gradients that are right."""

from __future__ import annotations

import numpy as np
import pytest

from stillnet.sw.contract.cells import CELLS, Cell
from stillnet.sw.contract.fixed import PRE, Format

pytestmark = pytest.mark.torch
torch = pytest.importorskip("torch", reason="make test-train installs it")


def operands(cell: Cell, seed: int, share: float) -> tuple[dict[str, np.ndarray], ...]:
    """Random integers of every operand: accumulators with parameters, and states with peers."""
    rng = np.random.default_rng(seed)

    def some(fmt: Format) -> np.ndarray:
        low, high = fmt.minimum * share, fmt.maximum * share
        if share < 1:  # within +-1/4, so that wide formats do not make narrow ones saturate
            high = min(high, 2.0 ** (fmt.fraction - 2))
            low = -high
        return np.rint(rng.uniform(low, high, 64)).astype(np.int64)

    m = {a: some(PRE) for a in cell.accumulators}
    m |= {p: some(fmt) for p, fmt in cell.parameters.items()}
    return m, {s: some(fmt) for s, fmt in {**cell.peers, **cell.state}.items()}


def formats(cell: Cell) -> dict[str, Format]:
    """Of every operand."""
    return {
        **dict.fromkeys(cell.accumulators, PRE),
        **cell.parameters,
        **cell.peers,
        **cell.state,
    }


def tensors(cell: Cell, values: dict[str, np.ndarray]) -> dict[str, torch.Tensor]:
    """In the units of the formats."""
    return {k: torch.as_tensor(v * 2.0 ** -formats(cell)[k].fraction) for k, v in values.items()}


@pytest.mark.parametrize("share", [1.0, 0.1])
@pytest.mark.parametrize("name", sorted(CELLS))
def test_every_cell_gives_the_same_integers(name: str, share: float) -> None:
    from stillnet.sw.train.rules import CellRule

    cell = CELLS[name]
    m, state = operands(cell, 0, share)
    y, following, _ = cell.evaluate(m, state)
    got, after = CellRule(name)(tensors(cell, m), tensors(cell, state))
    fraction = cell.graph.result.format.fraction
    np.testing.assert_array_equal(got.numpy() * 2.0**fraction, np.broadcast_to(y, 64))
    assert set(after) == set(following)
    for s, value in following.items():
        np.testing.assert_array_equal(after[s].numpy() * 2.0 ** cell.state[s].fraction, value)


@pytest.mark.parametrize("name", sorted(CELLS))
def test_in_the_limit_of_fine_formats_it_is_the_float_form(name: str) -> None:
    from stillnet.sw.train.rules import CellRule

    cell = CELLS[name]
    m, state = (tensors(cell, values) for values in operands(cell, 1, 0.1))
    y, following = cell.evaluate_float(
        {k: v.numpy() for k, v in m.items()}, {k: v.numpy() for k, v in state.items()}
    )
    got, after = CellRule(name, exact=False)(m, state)
    np.testing.assert_allclose(got.numpy(), np.broadcast_to(y, 64), rtol=1e-12, atol=1e-12)
    for s, value in following.items():
        np.testing.assert_allclose(after[s].numpy(), value, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("name", sorted(CELLS))
def test_gradients_are_those_of_differences(name: str) -> None:
    """Of every cell, by every operand; triangles are made too narrow to be met."""
    from stillnet.sw.train.rules import CellRule

    cell = CELLS[name]
    m, state = (tensors(cell, values) for values in operands(cell, 2, 0.05))
    names = [(0, k) for k in m] + [(1, k) for k in state]
    rule = CellRule(name, width=1e-12, exact=False)

    def whole(*values: torch.Tensor) -> tuple[torch.Tensor, ...]:
        parts: tuple[dict, dict] = ({}, {})
        for (place, k), v in zip(names, values):
            parts[place][k] = v
        y, after = rule(*parts)
        return tuple(v for v in (y, *after.values()) if v.requires_grad)

    given = [(m, state)[place][k][:8].clone().requires_grad_() for place, k in names]
    assert torch.autograd.gradcheck(whole, given, eps=1e-6, atol=1e-5, rtol=1e-3)


@pytest.mark.parametrize("name", sorted(CELLS))
def test_rounding_passes_gradients_straight_through(name: str) -> None:
    """With real formats they are close to those without, where nothing saturates."""
    from stillnet.sw.train.rules import CellRule

    cell = CELLS[name]
    m, state = (tensors(cell, values) for values in operands(cell, 3, 0.02))
    found = []
    for exact in (True, False):
        leaves = [v.clone().requires_grad_() for v in (*m.values(), *state.values())]
        again = dict(zip((*m, *((1, k) for k in state)), leaves))
        y, after = CellRule(name, width=1e-12, exact=exact)(
            {k: again[k] for k in m}, {k: again[1, k] for k in state}
        )
        total = sum((v.sum() for v in after.values()), y.sum())
        grads = torch.autograd.grad(total, leaves, allow_unused=True)
        found.append(torch.cat([torch.zeros(64) if g is None else g for g in grads]))
    # A few elements lie so close to a kink that rounding takes them to its other side.
    assert float(((found[0] - found[1]).abs() < 0.02).double().mean()) > 0.95


def test_only_what_jumps_has_the_gradient_of_a_triangle() -> None:
    from stillnet.sw.train.rules import jumps

    found = {name: len(jumps(CELLS[name].graph)) for name in CELLS}
    assert found["egru"] == 2  # the vector, and what is left of the state
    assert found["s5_imag"] == 1 and found["s5_state"] == 0
    for name in ("gru", "relu", "leaky_relu", "clip", "gru_hard", "lstm"):
        assert found[name] == 0, name


def test_an_event_of_an_egru_has_a_gradient_where_it_almost_fires() -> None:
    from stillnet.sw.train.rules import CellRule

    theta = torch.tensor([0.3, 0.3, 0.3], dtype=torch.float64, requires_grad=True)
    zeros = torch.zeros(3, dtype=torch.float64)
    h = torch.tensor([0.2, 0.29, -0.9], dtype=torch.float64)
    m = {"r": zeros, "cx": zeros, "u": zeros + 8.0, "ch": zeros, "theta": theta}
    y, _ = CellRule("egru", width=0.2)(m, {"h": h})
    assert not y.detach().any()
    y.sum().backward()
    assert theta.grad is not None
    near, nearer, far = theta.grad.tolist()
    assert nearer < near < 0 and far == 0

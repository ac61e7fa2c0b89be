"""Tables of functions: every input integer against NumPy and SciPy, and what is refused."""

from __future__ import annotations

import re
from typing import Any, ClassVar

import numpy as np
import pytest
from scipy import special

from stillnet.sw.contract import tanh_sigmoid as tables
from stillnet.sw.contract.cells import Cell
from stillnet.sw.contract.cells.expr import Node, function, output, table
from stillnet.sw.contract.config import cell_signature
from stillnet.sw.contract.errors import StillnetError
from stillnet.sw.contract.fixed import PRE, Format
from stillnet.sw.contract.functions import ALLOWED, TABLES, Piece, Table, erf, named_table, piece

X = np.arange(PRE.minimum, PRE.maximum + 1)
REAL = X * 2.0**-PRE.fraction


def over_relu(f: Any) -> Any:
    """What runs along max(x, 0) has the rest of it in its table."""
    return lambda x: f(x) - np.maximum(x, 0.0)


EXACT = {
    "erf": special.erf,
    "softsign": lambda x: x / (1 + np.abs(x)),
    "gelu": over_relu(lambda x: x * special.ndtr(x)),
    "gelu_tanh": over_relu(
        lambda x: 0.5 * x * (1 + np.tanh(np.sqrt(2 / np.pi) * (x + 0.044715 * x**3)))
    ),
    "silu": over_relu(lambda x: x * special.expit(x)),
    "softplus": over_relu(lambda x: np.logaddexp(0.0, x)),
    "hard_swish": over_relu(lambda x: x * np.clip(x / 6 + 0.5, 0, 1)),
    "elu": lambda x: np.where(x > 0, 0.0, np.expm1(x)),
    "exp": np.exp,
    "sqrt": lambda x: np.sqrt(np.maximum(x, 0)),
}


@pytest.mark.parametrize("name", TABLES)
def test_every_input_within_a_4096th_of_full_scale(name: str) -> None:
    known = named_table(name)
    x, real = X, REAL
    if name == "exp":  # calibration keeps its input below 1
        x, real = X[REAL <= 1], REAL[REAL <= 1]
    exact = EXACT[name](real)
    error = np.abs(known.integers(x) * 2.0**-known.output.fraction - exact)
    assert error.max() <= ALLOWED * np.abs(exact).max()
    assert error.max() == pytest.approx(known.error, rel=1e-6)
    assert np.all(np.abs(known.integers(X)) < 1 << (known.output.bits - 1))
    np.testing.assert_allclose(known.exact(real), exact, atol=1e-12)


@pytest.mark.parametrize("name", ["erf", "softsign", "elu", "exp", "sqrt"])
def test_monotone_functions_stay_monotone(name: str) -> None:
    assert np.all(np.diff(named_table(name).integers(X)) >= 0)


def test_elu_is_exactly_zero_from_zero_on() -> None:
    assert not np.any(named_table("elu").integers(X[X >= 0]))


def test_tanh_and_sigmoid_are_tables_of_the_same_kind() -> None:
    """The table of ``contract.tanh_sigmoid`` has the integers that this module would make."""
    tanh = Table("tanh", np.tanh, (piece(0, 8, 2**-6),), tables.TANH, mirror="odd")
    np.testing.assert_array_equal(tanh.integers(X), tables.tanh(X))
    half = (piece(0, 16, 2**-5),)
    sigmoid = Table("sigmoid", special.expit, half, tables.SIGMOID, mirror="odd", centre=0.5)
    np.testing.assert_array_equal(sigmoid.integers(X), tables.sigmoid(X))


@pytest.mark.parametrize("name", TABLES)
def test_the_bound_holds_for_every_pair_of_inputs(name: str) -> None:
    """What stands for x may be off it; the result is within the bound of f(x)."""
    known, rng = named_table(name), np.random.default_rng(3)
    stands = rng.integers(PRE.minimum, PRE.maximum + 1, 20_000)
    error = np.abs(rng.normal(0, 0.3, len(stands))) * rng.integers(0, 2, len(stands))
    x = stands * 2.0**-PRE.fraction + rng.uniform(-1, 1, len(stands)) * error
    off = np.abs(known.integers(stands) * 2.0**-known.output.fraction - known.exact(x))
    bound = known.bound(x, error)
    assert np.all(off <= bound + 1e-7)  # between two inputs the path is a line
    inside = (np.abs(x) < 15) & (error == 0) & ((name != "exp") | (x < 1))
    assert np.all(bound[inside] <= known.error + 2e-4)


# -- tables of one's own --------------------------------------------------------------------------


class Bell(Cell):
    """A cell of a user: exp(-x^2) * y."""

    name = "test_bell"
    accumulators = ("x", "y")
    parameters: ClassVar[dict[str, Format]] = {}

    def update(self, m: Any, state: Any) -> Node:
        bell = table(lambda v: np.exp(-v * v), m.x, Format(17, 15), high=4.0, mirror="even")
        return output((bell * m.y).narrow(Format(16, 11)))


def test_a_function_of_ones_own() -> None:
    cell, rng = Bell(), np.random.default_rng(0)
    m = {k: rng.integers(-(1 << 15), 1 << 15, 5000) for k in "xy"}
    y, _, _ = cell.evaluate(m, {})
    x = {k: v * 2.0**-13 for k, v in m.items()}
    exact, _ = cell.evaluate_float(x, {})
    np.testing.assert_allclose(exact, np.exp(-(x["x"] ** 2)) * x["y"])
    assert np.abs(y * 2.0**-11 - exact).max() < 4 * ALLOWED + 2.0**-12


def test_a_cell_with_another_table_has_another_signature() -> None:
    class Wider(Bell):
        def update(self, m: Any, state: Any) -> Node:
            bell = table(lambda v: np.exp(-2 * v * v), m.x, Format(17, 15), high=4, mirror="even")
            return output((bell * m.y).narrow(Format(16, 11)))

    assert cell_signature(Bell()) == cell_signature(Bell())
    assert cell_signature(Bell()) != cell_signature(Wider())


def refused(text: str) -> pytest.RaisesExc:
    return pytest.raises(StillnetError, match=f"^{re.escape(text)}")


def test_what_is_refused() -> None:
    one, fine = Format(17, 15), (piece(0, 8, 2**-6),)
    with refused("table of 'sin' is off by ") as error:
        Table("sin", lambda v: np.sin(20 * v), (piece(-4, 4, 2**-4),), one)
    assert "1/4096 of its full scale allows 0.000244" in str(error.value)
    with refused("table of 'exp' takes values that s17.15 does not hold"):
        Table("exp", np.exp, (piece(-8, 8, 2**-5),), one)
    with refused("table of 'tanh' has pieces that do not follow each other"):
        Table("tanh", np.tanh, (Piece(0, 64, 3), Piece(128, 256, 3)), one)
    with refused("table of 'tanh' has 1024 segments"):
        Table("tanh", np.tanh, (piece(0, 8, 2**-7),), one)
    with refused("table of 'tanh' has the mirror 'both'"):
        Table("tanh", np.tanh, fine, one, mirror="both")
    with refused("table of 'tanh' reaches beyond its input format s18.13"):
        Table("tanh", np.tanh, (piece(0, 32, 2**-4),), one)
    with refused("cell equation: table() of a function needs the format of its result"):
        table(np.tanh, Node("accumulator", (), PRE, "a"))
    with refused("cell equation: function 'gelo' is unknown; known are relu, sigmoid, tanh, erf"):
        function("gelo", Node("accumulator", (), PRE, "a"))
    with refused("no table of 'sine' is known"):
        named_table("sine")


def test_erf_is_that_of_scipy() -> None:
    x = np.linspace(-7, 7, 1001)
    np.testing.assert_allclose(erf(x), special.erf(x), atol=1e-15)

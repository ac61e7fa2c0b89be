"""Vectors as changes: what is written is read again, in every form, and is never too long."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from stillnet.sw.contract.vectors.changes import Form, apply_changes, best_form, changes, most_bytes

FORMS = tuple(Form(k) for k in range(4))
ELEMENTS = st.one_of(
    st.integers(-32768, 32767), st.integers(-9, 9), st.sampled_from([-32768, -1, 0, 32767])
)
PAIRS = st.lists(st.tuples(ELEMENTS, ELEMENTS), min_size=1, max_size=60)


@given(PAIRS, st.sampled_from(FORMS), st.booleans())
def test_what_is_written_is_read_again(pairs, form: Form, cut: bool) -> None:
    old, new = np.array(pairs).T
    data = changes(new, old, form)
    assert 1 + len(data) <= most_bytes(len(new))
    data = data.rstrip(b"\0") if cut else data
    np.testing.assert_array_equal(apply_changes(data, old, form), new)


@given(PAIRS)
def test_the_best_form_is_the_shortest(pairs) -> None:
    old, new = np.array(pairs).T
    sizes = [1 + len(changes(new, old, form)) for form in FORMS]
    form, size = best_form(new, old)
    assert size == sizes[form] == min(sizes)


@given(st.binary(max_size=60), st.lists(ELEMENTS, min_size=1, max_size=30))
def test_any_bytes_are_some_vector(data: bytes, old: list[int]) -> None:
    for form in FORMS:
        y = apply_changes(data, np.array(old), form)
        assert len(y) == len(old) and y.min() >= -32768 and y.max() <= 32767


@pytest.mark.parametrize(
    ("form", "old", "new", "bits"),
    [
        # width 2: residuals 1, -2, 0 are coded 2, 3, 0
        (Form(0), [5, 5, 5], [6, 3, 5], "0100" + "01" + "11" + "00"),
        # the same with a mask of the first two
        (Form.MASKED, [5, 5, 5], [6, 3, 5], "0100" + "11000000" + "01" + "11"),
        # all move by one: only the first one has a residual
        (Form.SLOPE, [5, 5, 5], [6, 6, 6], "0100" + "01" + "00" + "00"),
        (Form(0), [7] * 8, [7] * 8, "0000"),
        # all 16 bits, modulo 2**16: 32767 - -32768 is a residual of -1
        (Form(0), [-32768], [32767], "1000" + "1"),
        (Form(0), [0], [-32768], "1111" + "1" * 16),
    ],
)
def test_examples(form: Form, old: list[int], new: list[int], bits: str) -> None:
    written = np.array(list(bits), int).astype(bool)
    expected = np.packbits(written, bitorder="little").tobytes()
    assert changes(np.array(new), np.array(old), form) == expected
    np.testing.assert_array_equal(apply_changes(expected, np.array(old), form), new)

"""A vector as its changes from the one before: what the host link sends in place of whole vectors.

Both ends keep the latest vector. What goes over the line is a list of bits, the first one in the
lowest bit of the first byte. It describes the elements in blocks of 8 by their *residuals*, of 16
bits, modulo 2**16::

    residual = (element - old element) - (SLOPE: the change of the element before, else 0)
    coded    = 2 * residual, or -2 * residual - 1 where it is negative

    block: width, 4 bits: bits of the largest coded residual; 15 stands for 16
           MASKED and width not 0: 8 bits, one per element, whether its residual is not 0
           coded residuals, each of ``width`` bits, low bits first; with MASKED only those not 0

A block without changes takes four bits. Where the list ends early, zeros follow, so blocks without
changes at the end need not be sent.

``SLOPE`` is for vectors whose neighbours move together, like the gains of a filter bank. ``MASKED``
is for blocks in which only some elements change. A byte in front of the list, the *form*, says
which of them are in use.
"""

from __future__ import annotations

from enum import IntFlag

import numpy as np

from ..fixed import ACTIVATION_BITS

__all__ = [
    "BLOCK",
    "FULL_WIDTH",
    "WANTED_SHIFT",
    "WIDTH_BITS",
    "Form",
    "apply_changes",
    "best_form",
    "changes",
    "most_bytes",
]

BLOCK = 8
"""Elements of a block."""
WIDTH_BITS = 4
FULL_WIDTH = (1 << WIDTH_BITS) - 1
"""The width that stands for all bits of an element."""
WANTED_SHIFT = 4
"""Of the form byte of a command: from here on, the form that its reply is to have."""
_MASK = (1 << ACTIVATION_BITS) - 1


class Form(IntFlag):
    """How a list of changes is written."""

    MASKED = 1
    """A bit per element says whether it has a residual."""
    SLOPE = 2
    """An element is expected to change as much as the one before."""


_FORMS = tuple(Form(k) for k in range(4))


def _coded(new: np.ndarray, old: np.ndarray, form: Form) -> np.ndarray:
    """Coded residuals by blocks; int64 array, shape (blocks, BLOCK), zeros behind the last."""
    change = np.asarray(new, np.int64) - np.asarray(old, np.int64)
    if form & Form.SLOPE:
        change[1:] -= change[:-1].copy()
    residual = ((change + (1 << ACTIVATION_BITS - 1)) & _MASK) - (1 << ACTIVATION_BITS - 1)
    coded = np.zeros((-(-len(residual) // BLOCK), BLOCK), np.int64)
    coded.reshape(-1)[: len(residual)] = (residual << 1) ^ (residual >> ACTIVATION_BITS - 1)
    return coded


def _widths(coded: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The widths of blocks, as they are written, and in bits."""
    largest = coded.max(axis=1, initial=0)
    width = (largest[:, None] >> np.arange(ACTIVATION_BITS) != 0).sum(axis=1)
    bits = np.where(width >= FULL_WIDTH, ACTIVATION_BITS, width)
    return np.minimum(width, FULL_WIDTH), bits


def _sizes(coded: np.ndarray, count: int) -> tuple[int, int]:
    """Bits of a list without and with ``MASKED``, zeros at its end included."""
    _, bits = _widths(coded)
    elements = np.full(len(coded), BLOCK)
    if len(coded):
        elements[-1] = count - BLOCK * (len(coded) - 1)
    plain = WIDTH_BITS * len(coded) + int((bits * elements).sum())
    changed = (coded != 0).sum(axis=1)
    masked = WIDTH_BITS * len(coded) + int((bits * changed + BLOCK * (bits != 0)).sum())
    return plain, masked


def best_form(new: np.ndarray, old: np.ndarray) -> tuple[Form, int]:
    """The form in which changes are shortest, and how many bytes they take in it.

    Parameters
    ----------
    new, old : int array, shape (elements,)

    Returns
    -------
    form : Form
    size : int
        Bytes, the form among them.
    """
    bits = [
        size
        for slope in (Form(0), Form.SLOPE)
        for size in _sizes(_coded(new, old, slope), len(new))
    ]
    best = min(range(4), key=bits.__getitem__)
    return _FORMS[best], 1 + -(-bits[best] // 8)


def most_bytes(count: int) -> int:
    """Bytes that changes of a vector of ``count`` elements take at most, in any form."""
    blocks = -(-count // BLOCK)
    return 1 + -(-(ACTIVATION_BITS * count + (WIDTH_BITS + BLOCK) * blocks) // 8)


def changes(new: np.ndarray, old: np.ndarray, form: Form) -> bytes:
    """The list of bits, without the form byte.

    Parameters
    ----------
    new, old : int array, shape (elements,)
        Elements of 16 bits.
    form : Form

    Returns
    -------
    bytes
        Filled up with zeros to whole bytes.
    """
    count = len(new)
    coded = _coded(new, old, form)
    widths, bits = _widths(coded)
    blocks = len(coded)
    place = np.arange(ACTIVATION_BITS)
    stream = np.zeros((blocks, WIDTH_BITS + BLOCK + BLOCK * ACTIVATION_BITS), bool)
    sent = np.zeros_like(stream)
    stream[:, :WIDTH_BITS] = widths[:, None] >> np.arange(WIDTH_BITS) & 1
    sent[:, :WIDTH_BITS] = True
    mask = slice(WIDTH_BITS, WIDTH_BITS + BLOCK)
    stream[:, mask] = coded != 0
    sent[:, mask] = bool(form & Form.MASKED) & (bits != 0)[:, None]
    stream[:, mask.stop :] = (coded[..., None] >> place & 1).reshape(blocks, -1)
    present = np.arange(blocks * BLOCK).reshape(blocks, BLOCK) < count
    if form & Form.MASKED:
        present &= coded != 0
    inside = place < bits[:, None, None]
    sent[:, mask.stop :] = (present[..., None] & inside).reshape(blocks, -1)
    return np.packbits(stream[sent], bitorder="little").tobytes()


def apply_changes(data: bytes, old: np.ndarray, form: Form) -> np.ndarray:
    """The vector that a list of changes describes; zeros are read behind its end.

    Parameters
    ----------
    data : bytes
        Without the form byte.
    old : int array, shape (elements,)
    form : Form

    Returns
    -------
    int64 array, shape (elements,)
    """
    stream = int.from_bytes(data, "little")
    residuals = []
    for first in range(0, len(old), BLOCK):
        count = min(BLOCK, len(old) - first)
        width = stream & FULL_WIDTH
        stream >>= WIDTH_BITS
        present = (1 << BLOCK) - 1 if width else 0
        if form & Form.MASKED and width:
            present = stream & ((1 << BLOCK) - 1)
            stream >>= BLOCK
        bits = ACTIVATION_BITS if width == FULL_WIDTH else width
        for k in range(count):
            coded = 0
            if present >> k & 1:
                coded = stream & ((1 << bits) - 1)
                stream >>= bits
            residuals.append(coded >> 1 ^ -(coded & 1))
    change = np.array(residuals, np.int64)
    if form & Form.SLOPE:
        change = np.cumsum(change)
    value = np.asarray(old, np.int64) + change + (1 << ACTIVATION_BITS - 1)
    return (value & _MASK) - (1 << ACTIVATION_BITS - 1)

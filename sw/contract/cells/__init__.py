"""The cells: each equation written once.

From the ``update`` of a cell come the NumPy reference, the hardware pipeline and the float form
that tests hold against PyTorch and onnxruntime. To add a cell, subclass :class:`Cell`, write
``update`` as in the paper, and :func:`register` it. ``docs/cells.md`` lists them all.

===============  ===================================================================================
module           holds
===============  ===================================================================================
``cell``         what a cell is, and the registry
``expr``         the small language of the equations; ``rules`` has its arithmetic
``schedule``     when a pipeline does each operation; ``report`` says it for people
``gru``          GRU in its forms
``lstm``         LSTM, with and without peepholes
``hard``         GRU and LSTM whose gates are clips
``egru``         event-based GRU
``dense``        dense layers
``activations``  leaky ReLU, clip, ELU, GELU and other functions; masks and products
``s5``           the S5 block and the LRU: diagonal complex recurrences
``small``        minGRU, LiGRU, leaky integrator
``conv``         causal convolution in time
===============  ===================================================================================
"""

from __future__ import annotations

# Cells are listed in the order in which they register here.
# isort: off
from .cell import CELLS, Cell, load_cells, register
from .gru import GRU, GRUBefore, GRUBeforeRelu, GRURelu, GRUReset, GRUResetRelu
from .lstm import LSTM, LSTMPeephole
from .egru import EGRU
from .dense import Linear, Relu, Sigmoid, Tanh
from . import conv, s5, small, activations, hard
# isort: on

__all__ = [
    "CELLS",
    "EGRU",
    "GRU",
    "LSTM",
    "Cell",
    "GRUBefore",
    "GRUBeforeRelu",
    "GRURelu",
    "GRUReset",
    "GRUResetRelu",
    "LSTMPeephole",
    "Linear",
    "Relu",
    "Sigmoid",
    "Tanh",
    "activations",
    "conv",
    "hard",
    "load_cells",
    "register",
    "s5",
    "small",
]

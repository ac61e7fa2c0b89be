"""Import of trained networks from ONNX files.

The graph is walked once, node by node, in the shapes of its tensors. What does not depend on the
data input is a constant and is computed (with onnx's reference evaluator); what does is a *flow*:
vectors of the network, laid out in some tensor. Every dimension of a flow is the product of the
input's axes and of one feature axis, so that a reshape or transpose is followed exactly, and one
that mixes features with steps is seen. Nodes that change values become layers or are folded into
one; any other node is refused by its name.

Vectors may be added and joined side by side, and read by several nodes
(:class:`~stillnet.sw.model.layer_graph.LayerGraph` holds the layers); two of them are never
multiplied.

Dynamic axes are given probe sizes (primes), and the whole walk is done with two sets of them: a
network that differs between the two has a length written into it somewhere, and is refused.

The parts: ``file`` reads files; ``tensors`` says what a tensor is to the walk, ``graph`` what does
not change between walks; ``walk`` is one pass over the nodes, ``ending`` its outputs, and
``final_states`` follows the states that the graph returns. The operators stand by topic in
``dense``, ``recurrent``, ``convolution``, ``embedding`` and ``moves``.
"""

from __future__ import annotations

from .file import from_onnx, load_onnx

__all__ = ["from_onnx", "load_onnx"]

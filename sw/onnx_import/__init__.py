"""Import of trained networks from ONNX files.

The graph is walked once, node by node, in the shapes of its tensors. What does not depend on the
data input is a constant and is computed (with onnx's reference evaluator); what does is a *flow*:
the vectors of the chain, laid out in some tensor. Every dimension of a flow is the product of the
input's axes and of one feature axis, so that a reshape or transpose is followed exactly, and one
that mixes features with steps is seen. Nodes that change values become layers or are folded into
one; any other node is refused by its name.

The network is a chain. A tensor that two nodes change is a branch and is refused.

Dynamic axes are given probe sizes (primes), and the whole walk is done with two sets of them: a
network that differs between the two has a length written into it somewhere, and is refused.

The parts: ``tensors`` (what a tensor is to the walk), ``graph`` (what does not change between
walks), ``walk`` (one pass over the nodes), and the operators by topic: ``moves``, ``dense``,
``recurrent``. ``file`` reads files and builds the model.
"""

from __future__ import annotations

from .file import from_onnx, load_onnx

__all__ = ["from_onnx", "load_onnx"]

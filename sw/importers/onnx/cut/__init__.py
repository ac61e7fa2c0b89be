"""Cuts a whole model into a part for the chip and parts for the host.

============  =====================================================================================
module        does
============  =====================================================================================
``whole``     the graph as the cut sees it: one level of nodes, constants folded, shapes known
``states``    which inputs are data, which are states, and the outputs that belong to these
``divided``   states that several parts keep in one tensor, divided among them
``island``    the part of a graph that an engine can run, seen from one tensor
``graphs``    the graphs for onnxruntime, in front of that part and behind it
``choose``    tries every tensor and takes the part with the most weights
============  =====================================================================================
"""

from .choose import cut_model
from .states import Unclear

__all__ = ["Unclear", "cut_model"]

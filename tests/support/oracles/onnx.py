"""Helpers of the ONNX import tests: small graphs, and onnxruntime as the oracle."""

import re

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper

from stillnet.sw.contract.errors import StillnetError
from stillnet.sw.importers.onnx import from_onnx

FLOAT = TensorProto.FLOAT
TOLERANCE = 2e-5  # float32 sums of up to 300 products in onnxruntime


def const(name, value, dtype=np.float32):
    return numpy_helper.from_array(np.asarray(value, dtype), name)


def ints(name, *values):
    return numpy_helper.from_array(np.array(values, np.int64), name)


def make(
    nodes, inits, x_shape, *, out="y", outputs=None, extra_inputs=(), opset=14, elem=FLOAT, x="x"
):
    """A model with input x; nodes as make_node arguments."""
    nodes = [n if isinstance(n, onnx.NodeProto) else node(*n) for n in nodes]
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info(x, elem, x_shape), *extra_inputs],
        [helper.make_tensor_value_info(o, FLOAT, None) for o in outputs or [out]],
        list(inits),
    )
    opsets = [helper.make_opsetid("", opset)]
    return helper.make_model(graph, opset_imports=opsets, ir_version=8)


def node(op, inputs, outputs, attrs=None, domain=""):
    """A node named after its operator and its first output."""
    return helper.make_node(
        op,
        inputs.split() if isinstance(inputs, str) else inputs,
        outputs.split(),
        name=f"{op.lower()}_{outputs.split()[0]}",
        domain=domain,
        **(attrs or {}),
    )


def inputs_of(**shapes):
    return [helper.make_tensor_value_info(n, FLOAT, s) for n, s in shapes.items()]


def runtime(model, x, dtype=np.float32, **more):
    """onnxruntime's outputs for x of the type given and float32 states."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(model.SerializeToString(), options)
    feeds = {k: np.asarray(v, np.float32) for k, v in more.items()}
    return session.run(None, {"x": np.asarray(x, dtype), **feeds})


def weights(rng, inputs, units, gates):
    """W (1, gates*H, I), R (1, gates*H, H), B (1, 2*gates*H): biases as large as anything."""
    scale = 1.5 / np.sqrt(units + inputs)
    return (
        (rng.normal(size=(1, gates * units, inputs)) * scale * 1.5).astype(np.float32),
        (rng.normal(size=(1, gates * units, units)) * scale).astype(np.float32),
        rng.normal(size=(1, 2 * gates * units)).astype(np.float32),
    )


def refused(model, message):
    """The import fails with exactly this sentence (a regular expression)."""
    with pytest.raises(StillnetError) as error:
        from_onnx(model)
    assert re.fullmatch(message, str(error.value)), str(error.value)
    assert "\n" not in str(error.value)

"""Small ONNX graphs as people bring them: recurrent and dense layers in surroundings of a host."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import onnxruntime
from onnx import TensorProto, helper, numpy_helper

__all__ = ["GraphBuilder", "run_onnx"]


class GraphBuilder:
    """Writes nodes one after another; every method gives the name of the tensor it made."""

    def __init__(self, seed: int = 0) -> None:
        self.rng = np.random.default_rng(seed)
        self.nodes: list[onnx.NodeProto] = []
        self.constants: list[onnx.TensorProto] = []
        self.inputs: list[onnx.ValueInfoProto] = []
        self.outputs: list[onnx.ValueInfoProto] = []

    def random(self, *shape: int, scale: float | None = None) -> np.ndarray:
        values = self.rng.normal(size=shape) * (scale or shape[-1] ** -0.5)
        return np.asarray(values, np.float32)

    def input(self, name: str, *shape: int | str, kind: int = TensorProto.FLOAT) -> str:
        self.inputs.append(helper.make_tensor_value_info(name, kind, list(shape)))
        return name

    def output(self, tensor: str, name: str = "y", *shape: int | str | None) -> None:
        if tensor != name:
            self.nodes.append(helper.make_node("Identity", [tensor], [name]))
        form = list(shape) if shape else None
        self.outputs.append(helper.make_tensor_value_info(name, TensorProto.FLOAT, form))

    def const(self, value: Any, kind: Any = None) -> str:
        name = f"c{len(self.constants)}"
        array = np.asarray(value, kind)
        array = array.astype(np.float32) if array.dtype == np.float64 else array
        self.constants.append(numpy_helper.from_array(array, name))
        return name

    def node(
        self, op: str, *inputs: str, name: str = "", outputs: int = 1, **attributes: Any
    ) -> Any:
        name = name or f"{op}{len(self.nodes)}"
        outs = [name if outputs == 1 else f"{name}.{k}" for k in range(outputs)]
        self.nodes.append(helper.make_node(op, list(inputs), outs, name=name, **attributes))
        return outs[0] if outputs == 1 else outs

    def dense(self, x: str, inputs: int, units: int) -> str:
        y = self.node("MatMul", x, self.const(self.random(units, inputs).T.copy()))
        return str(self.node("Add", y, self.const(self.random(units, scale=0.3))))

    def recurrent(
        self, op: str, x: str, inputs: int, units: int, *states: str
    ) -> tuple[str, list[str]]:
        """Y without its axis of directions, and all outputs."""
        gates = {"GRU": 3, "LSTM": 4}[op]
        weights = [
            self.const(self.random(1, gates * units, inputs)),
            self.const(self.random(1, gates * units, units)),
            self.const(self.random(1, 2 * gates * units, scale=0.3)),
        ]
        more = {"linear_before_reset": 1} if op == "GRU" else {}
        outs = self.node(
            op, x, *weights, "", *states, outputs=2 + (op == "LSTM"), hidden_size=units, **more
        )
        return str(self.node("Squeeze", outs[0], self.const(np.array([1])))), outs

    def model(self, opset: int = 17) -> onnx.ModelProto:
        graph = helper.make_graph(self.nodes, "g", self.inputs, self.outputs, self.constants)
        return helper.make_model(
            graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8
        )


def run_onnx(
    model: onnx.ModelProto, feeds: list[dict[str, np.ndarray]], states: dict[str, str] | None = None
) -> list[dict[str, np.ndarray]]:
    """The outputs of calls of a model in onnxruntime, states carried from call to call."""
    session = onnxruntime.InferenceSession(
        model.SerializeToString(), providers=["CPUExecutionProvider"]
    )
    names = [o.name for o in session.get_outputs()]
    carried: dict[str, np.ndarray] = {}
    found = []
    for feed in feeds:
        results = dict(zip(names, session.run(names, {**feed, **carried})))
        carried = {i: results[o] for i, o in (states or {}).items()}
        found.append(results)
    return found

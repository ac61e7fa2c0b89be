"""What stays out is refused on the command line in one sentence that says what to give instead."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from onnx import TensorProto, helper

from stillnet.sw.cli.main import main
from tests.support.oracles.onnx import FLOAT, const, make, node
from tests.support.torch_files import a_class, save_torch
from tests.sw.importers.onnx.test_import_onnx import gru_model, gru_weights


def onnx_file(path: Path, proto) -> Path:
    path.write_bytes(proto.SerializeToString())
    return path


def loop(folder: Path) -> Path:
    value = helper.make_tensor_value_info
    body = helper.make_graph(
        [node("Identity", "c", "d"), node("Add", "s s", "t")],
        "body",
        [value(n, FLOAT, None) for n in "ics"],
        [value(n, FLOAT, None) for n in "dt"],
    )
    loop = ("Loop", ["", "", "x"], "y", {"body": body})
    return onnx_file(folder / "m.onnx", make([loop], [], ["t", 3]))


def dynamic(folder: Path) -> Path:
    lstm = node("DynamicQuantizeLSTM", "x w w", "y", domain="com.microsoft")
    return onnx_file(folder / "m.onnx", make([lstm], [const("w", np.ones((3, 2)))], ["t", 1, 3]))


def activations(folder: Path) -> Path:
    quantize = ("QuantizeLinear", "x s", "y")
    return onnx_file(folder / "m.onnx", make([quantize], [const("s", 0.1)], ["t", 3]))


def packed(folder: Path) -> Path:
    w, r, b = gru_weights(np.random.default_rng(0), 3, 4)
    lengths = helper.make_tensor_value_info("lengths", TensorProto.INT64, [1])
    proto = gru_model(w, r, b, extra_inputs=[lengths])
    proto.graph.node[0].input.append("short")
    proto.graph.node.insert(0, node("Cast", "lengths", "short", {"to": TensorProto.INT32}))
    return onnx_file(folder / "m.onnx", proto)


def pickled(folder: Path) -> Path:
    return save_torch(folder / "m.pt", {"model": a_class("my.code", "Net")()})


def script(folder: Path) -> Path:
    more = {"constants.pkl": b"", "code/__torch__.py": b""}
    return save_torch(folder / "m.pt", {"w": np.ones((2, 3), np.float32)}, extra=more)


def saved_model(folder: Path) -> Path:
    (folder / "m").mkdir()
    (folder / "m" / "saved_model.pb").write_bytes(b"\x08\x01")
    return folder / "m"


def bytes_of(name: str, data: bytes):
    def write(folder: Path) -> Path:
        (folder / name).write_bytes(data)
        return folder / name

    return write


CASES = {
    "loop": (loop, "'loop_y' (Loop)", "give the .keras or .h5 file in place of this one"),
    "dynamic": (dynamic, "(DynamicQuantizeLSTM)", "give the float model that this one was made"),
    "activations": (activations, "'quantizelinear_y'", "give the float model that this one was"),
    "packed": (packed, "graph input 'lengths'", "export the module without pack_padded_sequence"),
    "object": (pickled, "'my.code.Net' under 'model'", "torch.save(m.state_dict(), 'm_weights.pt'"),
    "script": (script, "is a TorchScript archive", "m = torch.jit.load('m.pt'), then torch.save("),
    "saved model": (saved_model, "a SavedModel of TensorFlow", "--saved-model"),
    "tflite": (bytes_of("m.tflite", b"\x1c\0\0\0TFL3"), "TensorFlow Lite", "If that is lost: "),
    "graph": (bytes_of("m.pb", b"\n\x01"), "TensorFlow graphs are not read", ".keras or .h5"),
    "old": (bytes_of("m.pth", b"0.1.10 tar"), "not a file of torch.save", "module.state_dict()"),
}


@pytest.mark.parametrize("case", CASES)
def test_one_sentence_with_a_way_out(tmp_path, capsys, case) -> None:
    make_file, thing, remedy = CASES[case]
    np.save(tmp_path / "x.npy", np.ones((3, 3)))
    arguments = [str(make_file(tmp_path)), "--data", str(tmp_path / "x.npy"), "-o", "net.st"]
    assert main(["quantize", *arguments]) == 2
    out, err = capsys.readouterr()
    assert out == "" and err.count("\n") == 1 and err.startswith("stillnet: error: ")
    assert thing in err and remedy in err, err

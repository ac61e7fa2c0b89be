"""Files that are damaged at random, and every reader that must survive them.

A reader may give an answer or raise ``StillnetError``: anything else is a defect. What a reader
takes must be usable, so each one uses it: runs it, saves it, describes it.

    python -m tests.support.damage --seconds 600

damages files until the time is over, in a process of its own for each kind of file, and prints how
many there were, the slowest, and each kind of traceback once. With ``--files`` each kind ends at
that number of files.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import multiprocessing
import resource
import signal
import sys
import tempfile
import time
import traceback
import warnings
import zipfile
import zlib
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import save as save_tensors

from stillnet.sw.contract.config import EngineConfig
from stillnet.sw.contract.errors import StillnetError
from stillnet.sw.contract.image import HEADER, SLOT_BYTES, find_field
from stillnet.sw.importers.keras import child
from stillnet.sw.importers.load import load_model
from stillnet.sw.importers.s5 import S5Options, save_s5
from stillnet.sw.model.model import Model
from stillnet.sw.network.network import Network
from stillnet.sw.network.reference import Reference
from stillnet.sw.packing.describe import info
from stillnet.sw.packing.packer import image_crc, pack
from stillnet.sw.util.recordings import load_recordings
from tests.support.networks.quick import quantize
from tests.support.torch_files import torch_bytes

__all__ = ["SECONDS", "damaged", "read", "signed", "valid_files", "zipped"]

SECONDS = 20
"""Longest time for one file, of the processor's time: other work must not look like a defect."""

HANG = 600
"""Seconds without an answer after which a process is thought to hang."""

MEMORY = 3 << 30
"""Bytes that a process may have; more is refused by the system, and seen as a traceback."""

# -- valid files ----------------------------------------------------------------------------------


def _state(rng: np.random.Generator) -> dict[str, np.ndarray]:
    """The state_dict of a GRU and a linear layer, one of its weights pruned."""
    shapes = {"rnn.weight_ih_l0": (12, 3), "rnn.weight_hh_l0": (12, 4), "rnn.bias_ih_l0": (12,)}
    shapes |= {"fc.weight_orig": (2, 4), "fc.bias": (2,)}
    state = {k: rng.normal(0, 0.5, shape).astype(np.float32) for k, shape in shapes.items()}
    return state | {"fc.weight_mask": np.float32(rng.random((2, 4)) < 0.5)}


def _model(rng: np.random.Generator) -> Model:
    model = Model(3, name="m").gru(rng.normal(0, 0.5, (12, 3)), rng.normal(0, 0.5, (12, 4)))
    return model.dense(rng.normal(0, 0.5, (2, 4)), rng.normal(size=2), "relu")


def _onnx(rng: np.random.Generator) -> bytes:
    from tests.support.oracles.onnx import const, ints, make, weights

    inits = [const(n, v) for n, v in zip("WRB", weights(rng, 3, 4, 3))]
    inits += [ints("one", 1), const("V", rng.normal(size=(4, 2))), const("c", rng.normal(size=2))]
    nodes = [
        ("GRU", "x W R B", "Y h", {"linear_before_reset": 1, "hidden_size": 4}),
        ("Squeeze", "Y one", "s"),
        ("MatMul", "s V", "m"),
        ("Add", "m c", "a"),
        ("Sigmoid", "a", "y"),
    ]
    return make(nodes, inits, ["t", 1, 3]).SerializeToString()


def _onnx_states(rng: np.random.Generator) -> bytes:
    from onnx import helper

    from tests.support.oracles.onnx import FLOAT, const, ints, make, weights

    inits = [const(n, v) for n, v in zip("WRB", weights(rng, 4, 4, 4))]
    inits += [
        ints("one", 1),
        ints("zero", 0),
        ints("two", 2),
        const("k", rng.normal(size=(4, 3, 2))),
    ]
    nodes = [
        ("Conv", "x k", "v", {"pads": [1, 0]}),
        ("Transpose", "v", "t", {"perm": [2, 0, 1]}),
        ("Slice", "state zero one zero", "h"),
        ("Slice", "state one two zero", "c"),
        ("LSTM", ["t", "W", "R", "B", "", "h", "c"], "Y hn cn", {"hidden_size": 4}),
        ("Concat", "hn cn", "next", {"axis": 0}),
        ("Squeeze", "Y one", "y"),
    ]
    state = helper.make_tensor_value_info("state", FLOAT, [2, 1, 4])
    shape = [1, 3, "t"]
    proto = make(nodes, inits, shape, outputs=["y", "next"], extra_inputs=[state])
    return proto.SerializeToString()


def _onnx_moves(rng: np.random.Generator) -> bytes:
    """A step of several axes, whose parts are moved, and convolutions inside it."""
    from tests.support.oracles.onnx import const, ints, make

    inits = [ints("form", 1, 3, 4), ints("sizes", 1, 3), ints("pads", 0, 0, 1, 0, 0, 1)]
    inits += [ints("order", 3, 1, 1, 0), ints("twice", 1, 1, 2), ints("one", 1), ints("two", 2)]
    inits += [const("k", rng.normal(size=(2, 3, 2))), const("F", rng.normal(size=(12, 3)))]
    nodes = [
        ("Reshape", "x form", "r"),
        ("Split", "r sizes", "a b", {"axis": 2}),
        ("Tanh", "a", "c"),
        ("Concat", "b c", "d", {"axis": 2}),
        ("Gather", "d order", "e", {"axis": 2}),
        ("Slice", "e one two one", "f"),
        ("Pad", "e pads", "p"),
        ("Conv", "p k", "g", {"strides": [2]}),
        ("Tile", "f twice", "t"),
        ("Flatten", "t", "u"),
        ("Flatten", "g", "v"),
        ("Concat", "u v u", "w", {"axis": 1}),
        ("Slice", "w zero twelve one", "s"),
        ("MatMul", "s F", "y"),
    ]
    inits += [ints("zero", 0), ints("twelve", 12)]
    return make(nodes, inits, [1, 12]).SerializeToString()


def _keras(rng: np.random.Generator, suffix: str) -> bytes:
    """Both forms of Keras's files, made by hand."""
    import h5py

    shapes = {"kernel": (3, 12), "recurrent_kernel": (4, 12), "bias": (2, 12)}
    gru = {k: rng.normal(size=shape).astype(np.float32) for k, shape in shapes.items()}
    dense = {"kernel": rng.normal(size=(4, 2)), "bias": rng.normal(size=2)}
    body = [
        {"class_name": "InputLayer", "config": {"name": "in", "batch_shape": [None, None, 3]}},
        {
            "class_name": "GRU",
            "config": {"name": "gru", "units": 4, "reset_after": True, "return_sequences": True},
        },
        {"class_name": "Dense", "config": {"name": "fc", "units": 2, "activation": "relu"}},
    ]
    config = json.dumps({"class_name": "Sequential", "config": {"name": "s", "layers": body}})
    buffer = io.BytesIO()
    with h5py.File(buffer, "w") as file:
        for name, arrays in (("gru", gru), ("dense", dense)):
            if suffix == ".keras":
                place = file.create_group(f"layers/{name}/{'cell/' * (name == 'gru')}vars")
                for i, array in enumerate(arrays.values()):
                    place.create_dataset(str(i), data=array)
                continue
            name = {"dense": "fc"}.get(name, name)
            place = file.create_group(f"model_weights/{name}")
            place.attrs["weight_names"] = [f"{name}/{k}:0".encode() for k in arrays]
            for key, array in arrays.items():
                place.create_dataset(f"{name}/{key}:0", data=array)
        if suffix == ".h5":
            file.attrs["model_config"] = config
    if suffix == ".h5":
        return buffer.getvalue()
    return zipped({"metadata.json": b"{}", "config.json": config.encode(),
                    "model.weights.h5": buffer.getvalue()})  # fmt: skip


def _keras_weights(rng: np.random.Generator, weights: dict[str, list[tuple[int, ...]]]) -> bytes:
    """The file of weights inside of a ``.keras`` file; shapes by layer."""
    import h5py

    buffer = io.BytesIO()
    with h5py.File(buffer, "w") as file:
        for name, shapes in weights.items():
            place = file.create_group(f"layers/{name}/vars")
            for i, shape in enumerate(shapes):
                place.create_dataset(str(i), data=rng.normal(size=shape).astype(np.float32))
    return buffer.getvalue()


def _keras_whole(rng: np.random.Generator) -> bytes:
    """An archive with layers for the host, and a graph of layers with numbers and states."""

    def tensor(name: str, index: int = 0) -> dict[str, object]:
        return {"class_name": "__keras_tensor__", "config": {"keras_history": [name, 0, index]}}

    def layer(kind: str, name: str, *reads: object, **config: object) -> dict[str, object]:
        nodes = [{"args": list(reads), "kwargs": {}}] if reads else []
        config = {"name": name, **config}
        return {"class_name": kind, "config": config, "name": name, "inbound_nodes": nodes}

    rec: dict[str, object] = {"units": 4, "return_sequences": True, "return_state": True}
    body = [
        layer("InputLayer", "x", batch_shape=[None, 12, 6]),
        layer("Reshape", "r", tensor("x"), target_shape=[12, 6, 1]),
        layer("Conv2D", "c", tensor("r"), kernel_size=[3, 2], strides=[2, 1], padding="same"),
        layer("MaxPooling2D", "p", tensor("c"), pool_size=[1, 2], padding="valid"),
        layer("Reshape", "s", tensor("p"), target_shape=[-1, 6]),
        layer("LayerNormalization", "n", tensor("s"), axis=[-1], scale=False, center=False),
        layer("LSTM", "l", tensor("n"), **rec),
        layer("Multiply", "m", tensor("l"), 0.5),
        layer("ReLU", "q", tensor("m"), max_value=6.0, negative_slope=0.1),
        layer("Concatenate", "k", tensor("q"), tensor("n"), axis=-1),
        layer("ZeroPadding1D", "z", tensor("k"), padding=[1, 0]),
        layer("AveragePooling1D", "a", tensor("z"), pool_size=[2], strides=[1]),
        layer("Dense", "d", tensor("a"), units=2, activation="softmax", use_bias=False),
    ]
    ends = {"input_layers": [["x", 0, 0]], "output_layers": [["d", 0, 0], ["l", 0, 1]]}
    config = {"class_name": "Functional", "config": {"layers": body, **ends}}
    weights = {
        "conv2d": [(3, 2, 1, 2), (2,)],
        "lstm": [(6, 16), (4, 16), (16,)],
        "dense": [(10, 2)],
    }
    return zipped(
        {
            "metadata.json": b'{"keras_version": "3.1.0"}',
            "config.json": json.dumps(config).encode(),
            "model.weights.h5": _keras_weights(rng, weights),
        }
    )


def _keras_nested(rng: np.random.Generator) -> bytes:
    """Models inside a model, one at every step, a layer that is called twice, and an index."""

    def tensor(name: str, call: int = 0) -> dict[str, object]:
        return {"class_name": "__keras_tensor__", "config": {"keras_history": [name, call, 0]}}

    def layer(kind: str, name: str, *calls: object, **config: object) -> dict[str, object]:
        nodes = [{"args": [c] if isinstance(c, dict) else c, "kwargs": {}} for c in calls]
        config = {"name": name, **config}
        return {"class_name": kind, "config": config, "name": name, "inbound_nodes": nodes}

    part = [
        layer("InputLayer", "i", batch_shape=[None, None, 4]),
        layer("GRU", "g", tensor("i"), units=4, return_sequences=True, reset_after=True),
    ]
    ends = {"input_layers": [["i", 0, 0]], "output_layers": [["g", 0, 0]]}
    span = {"start": 0, "stop": None, "step": 1}
    part_of = {"class_name": "__slice__", "config": span}
    each = {
        "class_name": "Sequential",
        "config": {"name": "each", "layers": [layer("Dense", "n", units=4, activation="relu")]},
    }
    body = [
        layer("InputLayer", "x", batch_shape=[None, None, 4]),
        layer("TimeDistributed", "td", tensor("x"), layer=each),
        layer("GetItem", "i", [tensor("td"), [{"class_name": "__ellipsis__"}, part_of]]),
        layer("ExpandDims", "up", tensor("i"), axis=-1),
        layer("Squeeze", "down", tensor("up"), axis=3),
        layer("Functional", "f", tensor("down"), layers=part, **ends),
        layer("Dense", "d", tensor("f"), tensor("d"), units=4, activation="tanh"),
        layer("Add", "s", [[tensor("d"), tensor("d", 1)]]),
    ]
    ends = {"input_layers": [["x", 0, 0]], "output_layers": [["s", 0, 0]]}
    config = {"class_name": "Functional", "config": {"layers": body, **ends}}
    weights = {
        "time_distributed/layer/layers/dense": [(4, 4), (4,)],
        "functional/layers/gru/cell": [(4, 12), (4, 12), (2, 12)],
        "dense": [(4, 4), (4,)],
    }
    members = {
        "metadata.json": b'{"keras_version": "3.1.0"}',
        "model.weights.h5": _keras_weights(rng, weights),
    }
    return zipped({**members, "config.json": json.dumps(config).encode()})


def zipped(members: dict[str, bytes]) -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return out.getvalue()


def _saved(save: Callable[[Any], Any], suffix: str) -> bytes:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, f"x{suffix}")
        save(path)
        return path.read_bytes()


def _array(array: np.ndarray) -> bytes:
    return _saved(lambda path: np.save(path, array), ".npy")


def _s5(rng: np.random.Generator) -> bytes:
    state = {
        "encoder.weight": rng.normal(size=(4, 3)),
        "blocks.0.lam": -rng.uniform(0.1, 1, (3, 2)),
        "blocks.0.log_step": rng.normal(size=3),
        "blocks.0.b": rng.normal(size=(3, 4, 2)),
        "blocks.0.c": rng.normal(size=(4, 3, 2)),
        "blocks.0.d": rng.normal(size=4),
        "blocks.0.glu.weight": rng.normal(size=(4, 4)),
        "decoder.weight": rng.normal(size=(2, 4)),
    }
    return _saved(lambda path: save_s5(path, state, S5Options()), ".safetensors")


def _egru(rng: np.random.Generator) -> bytes:
    shapes = {"kernel": (3, 12), "recurrent_kernel": (4, 12), "bias": (12,), "thr": (4,)}
    return save_tensors({f"rnns.0.{k}": rng.random(shape) for k, shape in shapes.items()})


def _whole(rng: np.random.Generator) -> bytes:
    """A network with parts for the host in front of the chip and behind it."""
    from tests.support.networks.graphs import GraphBuilder

    g = GraphBuilder(3)
    x, last = g.input("x", 1, 3), g.input("last", 1, 3)
    h = g.input("h", 1, 1, 4)
    steps = g.node("Unsqueeze", g.node("Cos", g.node("Sub", x, last)), g.const([0]))
    y, outs = g.recurrent("GRU", steps, 3, 4, h)
    g.output(g.node("Softmax", g.dense(y, 4, 2), axis=-1))
    g.output(x, "lastN")
    g.output(outs[1], "hn")
    folder = Path(tempfile.mkdtemp())
    (folder / "m.onnx").write_bytes(g.model().SerializeToString())
    network = quantize(load_model(folder / "m.onnx"), rng.normal(size=(30, 3)))
    return _saved(network.save, ".safetensors")


@cache
def valid_files() -> dict[str, tuple[str, bytes]]:
    """A small file of each kind: its extension and its content."""
    rng = np.random.default_rng(0)
    state, model = _state(rng), _model(rng)
    x = rng.normal(size=(40, 3))
    network = quantize(model, x, thresholds=0.0625)
    layers = json.dumps([["gru", "rnn"], ["sigmoid", "fc"]])
    wrapped = {"epoch": 3, "model": state, "lr": 0.1, "more": [1, (2, None)], "flag": True}
    return {
        "npy": (".npy", _array(x[:5])),
        "npy of integers": (".npy", _array(np.arange(6, dtype=np.int16).reshape(2, 3))),
        "onnx": (".onnx", _onnx(rng)),
        "onnx with states": (".onnx", _onnx_states(rng)),
        "onnx with moves": (".onnx", _onnx_moves(np.random.default_rng(2))),
        "nested keras": (".keras", _keras_nested(np.random.default_rng(3))),
        "keras": (".keras", _keras(rng, ".keras")),
        "h5": (".h5", _keras(rng, ".h5")),
        "whole keras": (".keras", _keras_whole(np.random.default_rng(1))),
        "safetensors": (".safetensors", save_tensors(state, {"layers": layers})),
        "saved model": (".safetensors", _saved(model.save, ".safetensors")),
        "s5": (".safetensors", _s5(rng)),
        "egru": (".safetensors", _egru(rng)),
        "npz": (".npz", _saved(lambda path: np.savez(path, **state), ".npz")),
        "pt": (".pt", torch_bytes(wrapped)),
        "pt legacy": (".pt", torch_bytes(wrapped, "legacy")),
        "network": (".net", _saved(network.save, ".safetensors")),
        "whole network": (".net", _whole(rng)),
        "image": (".img", pack(network, EngineConfig.load("tiny")).data),
        "config": (".toml", EngineConfig.load("axi64").to_toml().encode()),
    }


# -- damage ---------------------------------------------------------------------------------------

_BYTES = b'\x00\xff\x80\x7f09-"[]{}(),.:='
_NUMBERS = (b"0", b"-1", b"999999999", b"1e99", b"true", b"null", b"4294967296", b"2")


class Choices:
    """Where and how to damage a file: numbers from 0 to 1, from a generator or a test."""

    def __init__(self, numbers: Iterator[float]) -> None:
        self._numbers = numbers

    def below(self, count: int) -> int:
        return min(int(next(self._numbers) * count), max(count - 1, 0))


def _once(data: bytearray, c: Choices) -> bytearray:
    """One mutation: flip, set, cut, delete, insert, zero, duplicate, another number."""
    if not data:
        return bytearray(b"\0")
    at, size = c.below(len(data)), 1 + c.below(min(len(data), 48))
    what = c.below(9)
    if what == 0:
        data[at] ^= 1 << c.below(8)
    elif what == 1:
        data[at] = _BYTES[c.below(len(_BYTES))]
    elif what == 2:
        del data[at:]
    elif what == 3:
        del data[at : at + size]
    elif what == 4:
        data[at:at] = bytes(c.below(256) for _ in range(min(size, 8)))
    elif what == 5:
        data[at : at + size] = bytes(len(data[at : at + size]))
    elif what == 6:
        other = c.below(len(data))
        data[other:other] = data[at : at + size]
    elif what == 7:
        data[at] = (data[at] + 1) % 256
    else:
        digits = [i for i in range(at, min(at + 400, len(data))) if 48 <= data[i] < 58]
        if digits:
            end = digits[0]
            while end < len(data) and 48 <= data[end] < 58:
                end += 1
            data[digits[0] : end] = _NUMBERS[c.below(len(_NUMBERS))]
    return data


def damaged(kind: str, data: bytes, numbers: Iterator[float]) -> bytes:
    """The file with up to six mutations, half of the time behind its checksums."""
    c = Choices(numbers)
    inside, count = c.below(2), 1 + c.below(6)
    if inside and data.startswith(b"PK"):
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            members = {name: archive.read(name) for name in archive.namelist()}
        name = list(members)[c.below(len(members))]
        for _ in range(count):
            members[name] = bytes(_once(bytearray(members[name]), c))
        return zipped(members)
    changed = bytearray(data)
    for _ in range(count):
        changed = _once(changed, c)
    if inside and kind == "image":
        return signed(bytes(changed))
    return bytes(changed)


def signed(data: bytes) -> bytes:
    """An image with checksums that fit."""
    at = find_field(HEADER, "notes_bytes")[0] * SLOT_BYTES
    size = int.from_bytes(data[at : at + 4], "little")
    if not 4 <= size <= len(data) - len(HEADER) * SLOT_BYTES:
        return data
    hardware, notes = bytearray(data[:-size]), data[len(data) - size : -4]
    place = find_field(HEADER, "crc")[0] * SLOT_BYTES
    hardware[place : place + 4] = image_crc(bytes(hardware)).to_bytes(4, "little")
    return bytes(hardware) + notes + zlib.crc32(notes).to_bytes(4, "little")


# -- reading --------------------------------------------------------------------------------------


def _read_recording(path: Path) -> None:
    load_recordings([path])


def _read_model(path: Path) -> None:
    model = load_model(path)
    model.save(path.with_name("saved"))
    if model.inputs <= 4096 and sum(layer.units for layer in model.layers) <= 4096:
        model.run(np.zeros(2, int) if model.one_hot else np.zeros((2, model.inputs)))


def _read_network(path: Path) -> None:
    network = Network.load(path)
    network.save(path.with_name("saved"))
    info(path)
    size = network.inputs if network.host is None else network.host.inputs
    if max(size, network.inputs) <= 4096:
        Reference(network).run(np.zeros((2, size)))


def _read_image(path: Path) -> None:
    info(path)


def _read_config(path: Path) -> None:
    config = EngineConfig.load(path)
    config.to_toml()
    _ = config.fingerprint


_READERS: dict[str, Callable[[Path], None]] = {
    ".npy": _read_recording,
    ".net": _read_network,
    ".img": _read_image,
    ".toml": _read_config,
}


class TooLong(Exception):
    """A reader took more than ``SECONDS``."""


@contextlib.contextmanager
def _limited() -> Iterator[None]:
    def stop(*_: Any) -> None:
        raise TooLong(f"more than {SECONDS} seconds")

    limit, child.LIMIT = child.LIMIT, HANG / 4
    before = signal.signal(signal.SIGPROF, stop)
    signal.setitimer(signal.ITIMER_PROF, SECONDS)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
        signal.signal(signal.SIGPROF, before)
        child.LIMIT = limit


def read(folder: Path, suffix: str, data: bytes) -> bool:
    """Reads a file with the reader of its extension; whether it was taken.

    Raises
    ------
    Exception
        Any but ``StillnetError`` that the reader lets through.
    """
    path = folder / f"x{suffix}"
    path.write_bytes(data)
    with warnings.catch_warnings(), np.errstate(all="ignore"), _limited():
        warnings.simplefilter("ignore")
        try:
            _READERS.get(suffix, _read_model)(path)
        except StillnetError as error:
            assert str(error).strip(), "an error without a message"
            return False
    return True


# -- for many more --------------------------------------------------------------------------------


def _numbers(seed: int) -> Iterator[float]:
    rng = np.random.default_rng(seed)
    while True:
        yield from rng.random(64).tolist()


@dataclass
class Report:
    """What became of the damaged files of one kind."""

    files: int = 0
    taken: int = 0
    slowest: float = 0.0
    found: Counter[str] = field(default_factory=Counter)
    examples: dict[str, tuple[int, str]] = field(default_factory=dict)

    def note(self, key: str, seed: int, text: str) -> None:
        self.found[key] += 1
        self.examples.setdefault(key, (seed, text))


def _work(kind: str, end: float, first: int, last: int, send: Any) -> None:
    """Damages files of one kind until the time is over; tells each seed, then the report."""
    suffix, data = valid_files()[kind]
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
    report, seed = Report(), first
    with tempfile.TemporaryDirectory() as folder:
        while time.monotonic() < end and seed < last:
            send.send(seed)
            start = time.monotonic()
            try:
                report.taken += read(Path(folder), suffix, damaged(kind, data, _numbers(seed)))
            except Exception as error:
                frame = traceback.extract_tb(error.__traceback__)[-1]
                where = f"{Path(frame.filename).name}:{frame.lineno}"
                text = traceback.format_exc()
                report.note(f"{type(error).__name__} at {where}", seed, text)
            report.slowest = max(report.slowest, time.monotonic() - start)
            report.files += 1
            seed += 1
    send.send(report)


def _supervised(kind: str, seconds: float, seed: int, files: int) -> Report:
    """The work in a process that may hang or die: then another one goes on after that file.

    The process is a new one, not a fork: libraries that have started threads may wait for ever in a
    fork.
    """
    fresh = multiprocessing.get_context("spawn")
    end, last, total = time.monotonic() + seconds, seed + files, Report()
    while time.monotonic() < end and seed < last:
        receive, send = fresh.Pipe(duplex=False)
        process = fresh.Process(target=_work, args=(kind, end, seed, last, send))
        process.start()
        send.close()
        first, report = seed, None
        with contextlib.suppress(EOFError):
            while receive.poll(HANG) and not isinstance(report, Report):
                report = receive.recv()
                seed = report if isinstance(report, int) else seed
        if isinstance(report, Report):
            total.files += report.files
            total.taken += report.taken
            total.slowest = max(total.slowest, report.slowest)
            seed = first + report.files
            for key, (at, text) in report.examples.items():
                total.note(key, at, text)
                total.found[key] += report.found[key] - 1
        else:
            alive = process.is_alive()
            process.kill()
            total.files += seed - first + 1
            what = f"no answer in {HANG} seconds" if alive else "the process died"
            total.note(what, seed, "")
            seed += 1
        process.join()
    return total


def main() -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("--seconds", type=float, default=60, help="for all kinds together")
    parser.add_argument("--files", type=int, default=1 << 30, help="of each kind at most")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--kind", choices=list(valid_files()), action="append")
    args = parser.parse_args()
    kinds = args.kind or list(valid_files())
    files = failures = 0
    for kind in kinds:
        report = _supervised(kind, args.seconds / len(kinds), args.seed, args.files)
        files, failures = files + report.files, failures + report.found.total()
        print(
            f"{kind:<18}{report.files:>8} files, {report.taken:>6} taken, slowest "
            f"{report.slowest:.2f} s",
            flush=True,
        )
        for key, number in report.found.most_common():
            seed, text = report.examples[key]
            print(f"    {number} x {key}, first with seed {seed}\n{text}")
    print(f"{files} files, {failures} tracebacks, hangs and crashes")
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())

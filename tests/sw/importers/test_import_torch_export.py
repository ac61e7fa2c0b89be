"""Files by PyTorch's own exporters, both of them, against the modules that they came from.

The networks are of the kinds that exist in the wild: voice activity detection (convolutions, an
LSTM), noise suppression (convolutions, GRUs, all of them joined), recurrent stacks with and without
states as inputs. And what is not supported is refused in one sentence, whichever exporter wrote it.
"""

from __future__ import annotations

import contextlib
import io
import re
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from stillnet.sw.contract.errors import StillnetError
from stillnet.sw.importers.load import load_model

pytestmark = pytest.mark.torch

torch = pytest.importorskip("torch", reason="pip install torch onnxscript")
nn = torch.nn
STEPS = 12


class Stack(nn.Module):
    """A recurrence and a dense layer; states are inputs and outputs where given."""

    def __init__(self, kind: str, layers: int, activation: Callable, **options: Any) -> None:
        super().__init__()
        self.rnn = getattr(nn, kind)(5, 7, num_layers=layers, **options)
        self.fc = nn.Linear(7, 3)
        self.activation = activation

    def forward(self, x: Any, h: Any = None, c: Any = None) -> Any:
        if h is None:
            return self.activation(self.fc(self.rnn(x)[0]))
        y, after = self.rnn(x, h if c is None else (h, c))
        after = after if isinstance(after, tuple) else (after,)
        return self.activation(self.fc(y)), *after


class VoiceActivity(nn.Module):
    """As silero-vad: convolutions in front, an LSTM, ReLU on its state, a 1x1 convolution."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Conv1d(6, 8, 3), nn.Conv1d(8, 8, 3)
        self.rnn, self.out = nn.LSTM(8, 7, batch_first=True), nn.Conv1d(7, 1, 1)

    def forward(self, x: Any) -> Any:
        pad = nn.functional.pad
        x = torch.relu(self.first(pad(x, (2, 0))))
        x = torch.relu(self.second(pad(x, (2, 0))))
        y = torch.relu(self.rnn(x.transpose(1, 2))[0])
        return torch.sigmoid(self.out(y.transpose(1, 2)))


class NoiseSuppression(nn.Module):
    """As the PyTorch form of RNNoise: two convolutions, three GRUs, gains of all of them."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Conv1d(6, 8, 3), nn.Conv1d(8, 9, 3)
        self.rnns = nn.ModuleList(nn.GRU(9, 9, batch_first=True) for _ in range(3))
        self.gains, self.voice = nn.Linear(36, 4), nn.Linear(36, 1)

    def forward(self, x: Any) -> Any:
        pad, x = nn.functional.pad, x.permute(0, 2, 1)
        x = torch.tanh(self.first(pad(x, (2, 0))))
        x = torch.tanh(self.second(pad(x, (2, 0)))).permute(0, 2, 1)
        parts = [x]
        for rnn in self.rnns:
            parts.append(rnn(parts[-1])[0])
        x = torch.cat(parts, -1)
        return torch.sigmoid(self.gains(x)), torch.sigmoid(self.voice(x))


class Normalised(nn.Module):
    """Batch normalisation behind a dense layer, dropout behind a GRU."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.norm, self.b = nn.Linear(5, 8), nn.BatchNorm1d(8), nn.Linear(7, 2)
        self.rnn, self.drop = nn.GRU(8, 7, batch_first=True), nn.Dropout(0.3)
        nn.init.normal_(self.norm.running_mean)
        nn.init.uniform_(self.norm.running_var, 0.5, 2.0)
        nn.init.uniform_(self.norm.weight, 0.5, 2.0)

    def forward(self, x: Any) -> Any:
        y = self.norm(self.a(x).transpose(1, 2)).transpose(1, 2)
        return self.b(self.drop(self.rnn(torch.relu(y))[0]))


class Tokens(nn.Module):
    """An embedding, a GRU, logits."""

    def __init__(self) -> None:
        super().__init__()
        self.emb, self.fc = nn.Embedding(11, 5), nn.Linear(7, 11)
        self.rnn = nn.GRU(5, 7, batch_first=True)

    def forward(self, x: Any) -> Any:
        return self.fc(self.rnn(self.emb(x))[0])


class LastStep(nn.Module):
    """The last state of a sequence."""

    def __init__(self) -> None:
        super().__init__()
        self.rnn, self.fc = nn.GRU(5, 7, batch_first=True), nn.Linear(7, 2)

    def forward(self, x: Any) -> Any:
        return self.fc(self.rnn(x)[1][-1])


class Chain(nn.Module):
    """Modules one after the other, of a recurrence only the vectors."""

    def __init__(self, *parts: Any) -> None:
        super().__init__()
        self.parts = nn.ModuleList(parts)

    def forward(self, x: Any) -> Any:
        for part in self.parts:
            if isinstance(part, nn.MultiheadAttention):
                x = part(x, x, x)
            else:
                x = part(x)
            x = x[0] if isinstance(x, tuple) else x
        return x


class Cell(nn.Module):
    """One step of a cell."""

    def __init__(self, kind: str) -> None:
        super().__init__()
        self.cell, self.fc = getattr(nn, kind)(5, 7), nn.Linear(7, 1)

    def forward(self, x: Any, *states: Any) -> Any:
        after = self.cell(x, states if len(states) > 1 else states[0])
        after = after if isinstance(after, tuple) else (after,)
        return self.fc(after[0]), *after


def batch_first(size: int, units: int = 0) -> list[Any]:
    return [torch.randn(1, STEPS, size)]


def with_states(count: int, layers: int, steps: int = STEPS) -> list[Any]:
    """Steps first, and zero states."""
    return [torch.randn(steps, 1, 5), *(torch.zeros(layers, 1, 7) for _ in range(count))]


CASES: dict[str, tuple[Callable[[], Any], Callable[[], list[Any]], int, list[str]]] = {
    "GRU": (
        lambda: Stack("GRU", 2, torch.sigmoid, batch_first=True),
        lambda: batch_first(5),
        1,
        ["gru", "gru", "sigmoid"],
    ),
    "GRU, steps first": (
        lambda: Stack("GRU", 1, torch.tanh),
        lambda: with_states(0, 1),
        0,
        ["gru", "tanh"],
    ),
    "GRU with a state": (
        lambda: Stack("GRU", 2, torch.relu),
        lambda: with_states(1, 2),
        0,
        ["gru", "gru", "relu"],
    ),
    "LSTM": (
        lambda: Stack("LSTM", 2, torch.tanh, batch_first=True),
        lambda: batch_first(5),
        1,
        ["lstm", "lstm", "tanh"],
    ),
    "LSTM without biases": (
        lambda: Stack("LSTM", 1, torch.tanh, batch_first=True, bias=False),
        lambda: batch_first(5),
        1,
        ["lstm", "tanh"],
    ),
    "LSTM with states": (
        lambda: Stack("LSTM", 2, torch.sigmoid),
        lambda: with_states(2, 2),
        0,
        ["lstm", "lstm", "sigmoid"],
    ),
    "voice activity": (
        VoiceActivity,
        lambda: [torch.randn(1, 6, STEPS)],
        2,
        ["conv3_relu", "conv3_relu", "lstm", "relu", "sigmoid"],
    ),
    "noise suppression": (
        NoiseSuppression,
        lambda: batch_first(6),
        1,
        ["conv3", "tanh", "conv3", "tanh", *["gru"] * 3, "sigmoid"],
    ),
    "batch normalisation": (
        Normalised,
        lambda: batch_first(5),
        1,
        ["relu", "gru", "linear"],
    ),
    "tokens": (
        Tokens,
        lambda: [torch.randint(0, 11, (1, STEPS))],
        1,
        ["gru", "linear"],
    ),
    "GELU": (
        lambda: Chain(nn.Linear(5, 6), nn.GELU(), nn.GRU(6, 7, batch_first=True)),
        lambda: batch_first(5),
        1,
        ["gelu", "gru"],
    ),
    "last step": (LastStep, lambda: batch_first(5), 1, ["gru", "linear"]),
}
"""Module, inputs, the axis of steps, cells."""

REFUSED: dict[str, tuple[Callable[[], Any], Callable[[], list[Any]], str, int | None]] = {
    "bidirectional": (
        lambda: Chain(nn.GRU(5, 7, batch_first=True, bidirectional=True)),
        lambda: batch_first(5),
        r"node '.*' \(GRU\): direction is 'bidirectional'; a stream has no end to start from, .*",
        None,
    ),
    "a cell that is written out": (
        lambda: Cell("LSTMCell"),
        lambda: [torch.randn(1, 5), torch.zeros(1, 7), torch.zeros(1, 7)],
        r"the graph has 3 data inputs \(in0 \(1, 5\), in1 \(1, 7\), in2 \(1, 7\)\); name the "
        r"output that carries a state on with --state INPUT=OUTPUT, and give constants .*",
        None,
    ),
    "strides": (
        lambda: Chain(nn.Conv1d(6, 8, 3, stride=2)),
        lambda: [torch.randn(1, 6, STEPS)],
        r"node '.*' \(Conv\): its stride is 2; a stream has one output for each input, so keep .*",
        2,
    ),
}
"""Module, inputs, message, the axis of steps where it is dynamic."""


def export(module: Any, inputs: list[Any], path: Path, *, newer: bool, axis: int | None) -> None:
    """Writes a module by one of the two exporters; ``axis`` of the first input is dynamic."""
    names = [f"in{i}" for i in range(len(inputs))]
    options: dict[str, Any] = {"input_names": names, "dynamo": newer}
    if newer:
        options["external_data"] = False
    if axis is not None and newer:
        steps = torch.export.Dim("steps", min=2, max=500)
        options["dynamic_shapes"] = ({axis: steps}, *[None] * (len(inputs) - 1))
    elif axis is not None:
        options["dynamic_axes"] = {"in0": {axis: "steps"}}
    with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
        warnings.simplefilter("ignore")
        torch.onnx.export(module, tuple(inputs), str(path), **options)


@pytest.mark.parametrize("newer", [False, True], ids=["exporter of 1.x", "exporter of 2.x"])
@pytest.mark.parametrize("dynamic", [False, True], ids=["fixed", "dynamic"])
@pytest.mark.parametrize("name", CASES)
def test_exported_networks(tmp_path: Path, name: str, dynamic: bool, newer: bool) -> None:
    if newer:
        pytest.importorskip("onnxscript", reason="pip install onnxscript")
    make, data, axis, cells = CASES[name]
    torch.manual_seed(len(name))
    module, inputs = make().eval(), data()
    with torch.no_grad():
        for p in module.parameters():  # biases that matter, gates that are not all open
            p.mul_(2.5)
        found = module(*inputs)
    found = found if isinstance(found, tuple) else (found,)
    if len(inputs) > 1:
        found = found[:1]
    path = tmp_path / "net.onnx"
    export(module, inputs, path, newer=newer, axis=axis if dynamic else None)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        warnings.filterwarnings("ignore", "the graph's outputs are joined side by side")
        model = load_model(path)
    assert [layer.cell for layer in model.layers] == cells

    def steps_first(tensor: Any, at: int) -> np.ndarray:
        array = np.moveaxis(tensor.numpy(), at, 0)
        return array.reshape(STEPS, -1)

    x = steps_first(inputs[0], axis)
    got = model.run(x[:, 0] if name == "tokens" else x)
    if name == "last step":
        np.testing.assert_allclose(got[-1:], found[0].numpy(), atol=1e-5)
        return
    expected = np.concatenate([steps_first(f, axis) for f in found], axis=1)
    assert np.ptp(expected) > 0.05
    np.testing.assert_allclose(got, expected, atol=1e-5)


@pytest.mark.parametrize("newer", [False, True], ids=["exporter of 1.x", "exporter of 2.x"])
@pytest.mark.parametrize("name", REFUSED)
def test_refused_in_one_sentence(tmp_path: Path, name: str, newer: bool) -> None:
    if newer:
        pytest.importorskip("onnxscript", reason="pip install onnxscript")
    make, data, message, axis = REFUSED[name]
    path = tmp_path / "net.onnx"
    export(make().eval(), data(), path, newer=newer, axis=axis)
    with pytest.raises(StillnetError) as error:
        load_model(path)
    assert re.fullmatch(message, str(error.value)), str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("newer", [False, True], ids=["exporter of 1.x", "exporter of 2.x"])
def test_attention_and_normalisation_stay_on_the_host(tmp_path: Path, newer: bool) -> None:
    parts = [nn.Linear(6, 6), nn.MultiheadAttention(6, 2)]
    if not newer:  # the other one hides the steps from the recurrence
        parts = [nn.LayerNorm(6), nn.GRU(6, 6, batch_first=True)]
    path = tmp_path / "net.onnx"
    export(Chain(*parts).eval(), batch_first(6), path, newer=newer, axis=1)
    model = load_model(path)
    assert model.host is not None and len(model.layers) >= 1


def test_a_cell_is_read_from_its_state_dict(tmp_path: Path) -> None:
    """As the sentence above says."""
    torch.manual_seed(1)
    module = Cell("LSTMCell").eval()
    torch.save(module.state_dict(), tmp_path / "net.pt")
    model = load_model(tmp_path / "net.pt", layers=[("lstm", "cell"), ("linear", "fc")])
    x, states, expected = torch.randn(STEPS, 5), (torch.zeros(1, 7),) * 2, []
    with torch.no_grad():
        for row in x:
            y, *states = module(row[None], *states)
            expected.append(y[0].numpy())
    np.testing.assert_allclose(model.run(x.numpy()), expected, atol=1e-5)

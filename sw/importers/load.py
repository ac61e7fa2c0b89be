"""The front door for trained models: one function, whatever the file is."""

from __future__ import annotations

import warnings
import zipfile
from collections.abc import Mapping
from os import PathLike
from pathlib import Path
from typing import Any

from stillnet.sw.contract.errors import StillnetError
from stillnet.sw.model.file import METADATA, model_of
from stillnet.sw.model.model import Model
from stillnet.sw.partition.options import CutOptions

from .egru import from_egru, is_egru
from .pt_file import LEGACY_MAGIC
from .s5 import S5Options, from_s5
from .s5_names import s5_from_jax
from .tensor_files import read_npz, read_pt, read_safetensors
from .torch import LayerList, from_state_dict, layers_of

__all__ = ["load_model"]

_FORMATS = ".onnx, .keras, .h5, .safetensors, .npz, .pt, .pth or .ckpt"
_OTHERS = {
    ".tflite": "TensorFlow Lite models are not read; give the .keras or .h5 file that it was made "
    "from. If that is lost: python -m tf2onnx.convert --tflite {name} --output model.onnx, which "
    "helps where its layers are Dense or convolutions in float, or build the model from the arrays "
    "that tf.lite.Interpreter('{name}').get_tensor(i) gives with stillnet.Model and save it",
    ".pb": "TensorFlow graphs are not read; give the .keras or .h5 file of the model, or convert "
    "it with tf2onnx to .onnx",
    ".npy": "one array is no model; save the weights with numpy.savez(path, **arrays) as .npz",
    ".img": "it is a memory image; import the model that it was packed from",
}


def load_model(
    path: str | PathLike[str],
    *,
    layers: LayerList | None = None,
    cut: CutOptions | None = None,
    gru_reset: str | None = None,
    ignore_mask: bool = False,
) -> Model:
    """Reads a trained model in floating point.

    ::

        import stillnet as sn

        model = sn.load_model("model.npz", layers=[("gru", "rnn"), ("linear", "out")])
        assert (model.inputs, len(model.layers)) == (4, 2)

    The content decides how the file is read; the extension only where the content does not tell.

    Parameters
    ----------
    path : path of an ONNX file, of a Keras model (.keras, .h5), of a PyTorch ``state_dict`` or
        checkpoint (.safetensors, .npz, .pt, .pth, .ckpt), or of what ``Model.save`` wrote
    layers : sequence of (kind, prefix), optional
        Order and activations of the modules of a ``state_dict``, which does not hold them; see
        :mod:`stillnet.sw.importers.torch`. Not allowed for other files, which do.
    gru_reset : str, optional
        Where the reset gate of the GRUs of an ONNX file or a ``state_dict`` stands: ``"before"`` or
        ``"after"`` the product with the recurrent matrix. Absent: as the file says.
    ignore_mask : bool
        Take a Keras model with masks as if it had none: for streams in which no step is left out.
    cut : CutOptions, optional
        Of an ONNX or Keras model of which only a part can run on the chip: what it does not say
        itself. The rest of the model is in ``host`` of the result.

    Raises
    ------
    StillnetError
        The file cannot be read, or holds something that is not supported, named in the message.
    """
    path = Path(path)
    if gru_reset not in (None, "before", "after"):
        raise StillnetError(f"gru_reset is {gru_reset!r}: give 'before', 'after' or nothing")
    if path.is_dir():
        raise StillnetError(_folder(path))
    kind = _kind(path)
    if kind == ".onnx":
        _refuse_choice(layers is not None, path, "an ONNX model", "layers")
        _refuse_choice(ignore_mask, path, "an ONNX model", "ignore_mask")
        from .onnx import load_onnx

        return load_onnx(path, cut or CutOptions(), gru_reset=gru_reset)
    if kind == ".keras":
        _refuse_choice(layers is not None, path, "a Keras model", "layers")
        _refuse_choice(gru_reset is not None, path, "a Keras model", "gru_reset")
        return _load_keras(path, cut or CutOptions(), ignore_mask)
    _refuse_choice(ignore_mask, path, "a file of weights", "ignore_mask")
    return _load_tensors(path, kind, layers, gru_reset)


def _load_keras(path: Path, cut: CutOptions, ignore_mask: bool) -> Model:
    """The first graph of a Keras file that can be cut."""
    from .keras.model import keras_graphs
    from .onnx.file import import_onnx, whole_model

    import_onnx()
    problem: StillnetError | None = None
    for graph in keras_graphs(path, ignore_mask=ignore_mask):
        try:
            return whole_model(graph, path.stem, cut)
        except StillnetError as error:
            problem = problem or error
    assert problem is not None
    raise problem


def _refuse_choice(given: bool, path: Path, what: str, choice: str) -> None:
    """Refuses an argument that a file of this kind has no use for."""
    if not given:
        return
    why = {
        "layers": "which knows its layers itself",
        "gru_reset": "which says itself where the reset gate stands",
        "ignore_mask": "which has no masks",
    }
    raise StillnetError(f"file '{path}' is {what}, {why[choice]}: leave out {choice}")


def _folder(path: Path) -> str:
    """What to do about a folder."""
    if (path / "saved_model.pb").is_file():
        return (
            f"'{path}' is a SavedModel of TensorFlow: give the .keras or .h5 file of the model, or "
            f"convert it with python -m tf2onnx.convert --saved-model {path} --output model.onnx "
            "(GRUs and LSTMs that become loops there are read from the .keras file only)"
        )
    return f"'{path}' is a folder: give the path of a file ({_FORMATS})"


def _load_tensors(path: Path, kind: str, layers: LayerList | None, gru_reset: str | None) -> Model:
    """A model from named tensors."""
    state: dict[str, Any]
    metadata: dict[str, str] = {}
    if kind == ".safetensors":
        state, metadata = read_safetensors(path)
    elif kind == ".npz":
        state = read_npz(path)
    else:
        state = read_pt(path)
    if METADATA in metadata:
        for choice, given in (("layers", layers), ("gru_reset", gru_reset)):
            _refuse_choice(given is not None, path, "a model that stillnet saved", choice)
        return model_of(metadata[METADATA], state, path)
    if layers is None and "layers" not in metadata:
        model = _by_names(path, state, metadata)
        if model is not None:
            return model
    if layers is None and "layers" in metadata:
        layers = layers_of(path, metadata)
    return from_state_dict(state, layers, name=path.stem, gru_reset=gru_reset)


def _by_names(path: Path, state: Any, metadata: Mapping[str, str]) -> Model | None:
    """Networks that their tensors' names give away; None for a plain ``state_dict``."""
    if "s5" in metadata:
        return from_s5(state, S5Options.from_json(metadata["s5"]), name=path.stem)
    if not isinstance(state, Mapping) or not all(isinstance(k, str) for k in state):
        return None
    if any(k.endswith("Lambda_re") for k in state):
        warnings.warn(
            f"file '{path}' has the names of the public S5, which say neither the discretisation "
            "nor the activation: zero-order hold, conjugate pairs and ReLU are assumed; use "
            "s5_from_jax with S5Options",
            stacklevel=3,
        )
        return from_s5(s5_from_jax(state), name=path.stem)
    return from_egru(state, name=path.stem) if is_egru(state) else None


def _kind(path: Path) -> str:
    """One of the extensions that stand for a format."""
    suffix = path.suffix.lower()
    try:
        with path.open("rb") as file:
            head = file.read(9)
    except OSError as e:
        raise StillnetError(
            f"file '{path}' cannot be read ({e.strerror or e}): check the path"
        ) from None
    if not head:
        raise StillnetError(f"file '{path}' is empty: save or copy the model again")
    if head.startswith(b"PK\x03\x04") and suffix not in _OTHERS:
        try:
            with zipfile.ZipFile(path) as archive:
                names = archive.namelist()
        except Exception:  # zipfile raises many; the loader that is chosen says what is wrong
            names = []
        if names and all(n.endswith(".npy") for n in names):
            return ".npz"
        if any(n.endswith("data.pkl") for n in names):
            return ".pt"
        if "config.json" in names:
            return ".keras"
    if head == LEGACY_MAGIC:
        return ".pt"
    if head.startswith(b"\x89HDF\r\n\x1a\n"):
        return ".keras"
    if len(head) == 9 and head[8:] == b"{" and int.from_bytes(head[:8], "little") < 1 << 32:
        return ".safetensors"
    if suffix in (".onnx", ".safetensors", ".npz"):
        return suffix
    if suffix in (".pt", ".pth", ".ckpt"):
        return ".pt"
    if suffix in (".keras", ".h5", ".hdf5"):
        return ".keras"
    if suffix in _OTHERS:
        raise StillnetError(
            f"file '{path}' cannot be imported: " + _OTHERS[suffix].format(name=path.name)
        )
    raise StillnetError(
        f"file '{path}' has the extension '{suffix}' and no known content: give a {_FORMATS} file"
    )

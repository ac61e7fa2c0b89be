"""The front door for trained models: one function, whatever the file is."""

from __future__ import annotations

import zipfile
from os import PathLike
from pathlib import Path

from .errors import StillnetError
from .model import Model
from .torch_import import LayerList, load_npz, load_pt, load_safetensors

__all__ = ["load_model"]

_FORMATS = ".onnx, .keras, .h5, .safetensors, .npz, .pt or .pth"
_OTHERS = {
    ".tflite": "TensorFlow Lite models are not read; convert the original with tf2onnx to .onnx",
    ".pb": "TensorFlow models are not read directly; convert it with tf2onnx to .onnx",
    ".npy": "one array is no model; save the weights with numpy.savez(path, **arrays) as .npz",
    ".img": "it is a memory image; import the model that it was packed from",
}


def load_model(path: str | PathLike[str], *, layers: LayerList | None = None) -> Model:
    """Reads a trained model in floating point.

    The content decides how the file is read; the extension only where the content does not tell.

    Parameters
    ----------
    path : path of an ONNX file, of a Keras model (.keras, .h5), or of a PyTorch ``state_dict``
        (.safetensors, .npz, .pt, .pth)
    layers : sequence of (kind, prefix), optional
        Order and activations of the modules of a ``state_dict``, which does not hold them; see
        :mod:`stillnet.sw.torch_import`. Not allowed for ONNX and Keras files, which do.

    Raises
    ------
    StillnetError
        The file cannot be read, or holds something that is not supported, named in the message.
    """
    path = Path(path)
    if path.is_dir():
        raise StillnetError(f"'{path}' is a folder: give the path of a file ({_FORMATS})")
    kind = _kind(path)
    if kind == ".onnx":
        if layers is not None:
            raise StillnetError(
                f"file '{path}' is an ONNX model, which knows its layers itself: leave out layers"
            )
        from .onnx_import import load_onnx

        return load_onnx(path)
    if kind == ".keras":
        if layers is not None:
            raise StillnetError(
                f"file '{path}' is a Keras model, which knows its layers itself: leave out layers"
            )
        from .keras_import import load_keras

        return load_keras(path)
    if kind == ".safetensors":
        return load_safetensors(path, layers)
    if kind == ".npz":
        return load_npz(path, layers)
    return load_pt(path, layers)


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
    if head.startswith(b"\x89HDF\r\n\x1a\n"):
        return ".keras"
    if len(head) == 9 and head[8:] == b"{" and int.from_bytes(head[:8], "little") < 1 << 32:
        return ".safetensors"
    if suffix in (".onnx", ".safetensors", ".npz"):
        return suffix
    if suffix in (".pt", ".pth"):
        return ".pt"
    if suffix in (".keras", ".h5", ".hdf5"):
        return ".keras"
    if suffix in _OTHERS:
        raise StillnetError(f"file '{path}' cannot be imported: {_OTHERS[suffix]}")
    raise StillnetError(
        f"file '{path}' has the extension '{suffix}' and no known content: give a {_FORMATS} file"
    )

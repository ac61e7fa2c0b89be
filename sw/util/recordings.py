"""Recordings: ``.npy`` files of input vectors, (steps, inputs), or of tokens, (steps,)."""

from __future__ import annotations

import math
import os
import warnings
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import BinaryIO

import numpy as np

from stillnet.sw.contract.errors import StillnetError

__all__ = ["as_recordings", "elements_of", "load_array", "load_recordings", "recording_files"]


def load_array(path: str | Path, what: str = "input") -> np.ndarray:
    """A ``.npy`` file of real numbers, not empty.

    Parameters
    ----------
    path : str or Path
    what : str
        What the file is, for errors.
    """
    path = Path(path)
    advice = "write it with numpy.save"
    try:
        with path.open("rb") as file:
            if file.read(6) != b"\x93NUMPY":
                raise StillnetError(f"{what} '{path}' is not a .npy file; {advice}")
            file.seek(0)
            _check_header(file)
            file.seek(0)
            array = np.lib.format.read_array(file, allow_pickle=False)
    except OSError as error:
        raise StillnetError(f"cannot read {what} '{path}': {error.strerror or error}") from error
    except StillnetError:
        raise
    except Exception as error:  # the header is Python text, whose parser raises errors of any kind
        reason = " ".join(str(error).split()).rstrip(".")
        reason = "".join(c if c.isprintable() else "?" for c in reason)[:200]
        raise StillnetError(
            f"{what} '{path}' is cut off or damaged ({reason or type(error).__name__}); {advice}"
        ) from error
    if array.dtype.kind not in "fiub":
        raise StillnetError(
            f"{what} '{path}' holds elements of type {array.dtype}; real numbers are needed"
        )
    if array.size == 0:
        raise StillnetError(
            f"{what} '{path}' is empty, shape {array.shape}; give at least one step"
        )
    return array


def _check_header(file: BinaryIO) -> None:
    """Refuses a header that promises more elements than the file has, before memory is taken."""
    version = np.lib.format.read_magic(file)
    read = {
        (1, 0): np.lib.format.read_array_header_1_0,
        (2, 0): np.lib.format.read_array_header_2_0,
    }.get(version)
    if read is None:  # for names that are not Latin, which numbers do not have
        raise ValueError(f"its format {version[0]}.{version[1]} is not supported")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        shape, _, dtype = read(file)
    first = file.tell()
    rest = file.seek(0, os.SEEK_END) - first
    if dtype.hasobject:
        raise ValueError("it holds Python objects")
    if min(shape, default=0) < 0 or math.prod(shape) * dtype.itemsize > rest:
        raise ValueError(f"{rest} bytes are there for the shape {shape} of {dtype}")


def load_recordings(places: Iterable[str | Path]) -> list[np.ndarray]:
    """Recordings from ``.npy`` files, and from every such file of a folder, by name."""
    return [load_array(file, "recording") for file in recording_files(places)]


def recording_files(places: Iterable[str | Path]) -> list[Path]:
    """The files, and every ``.npy`` file of the folders among them, by name."""
    files: list[Path] = []
    for place in map(Path, places):
        if place.is_dir():
            found = sorted(place.glob("*.npy"))
            if not found:
                raise StillnetError(
                    f"folder '{place}' holds no .npy file; write the model's input vectors there "
                    "with numpy.save, (steps, inputs) for each recording"
                )
            files += found
        else:
            files.append(place)
    return files


def elements_of(recordings: Sequence[np.ndarray]) -> int | None:
    """Elements of a step of these recordings; None where they differ."""
    sizes = {r.shape[1] if r.ndim == 2 else 1 for r in recordings}
    return sizes.pop() if len(sizes) == 1 else None


def as_recordings(x: object) -> object:
    """Recordings as the API takes them: arrays stay, and paths are loaded.

    Parameters
    ----------
    x : array, path of a file or a folder, or a list of them
    """
    if isinstance(x, (str, Path)):
        x = [x]
    if isinstance(x, (list, tuple)) and x and isinstance(x[0], (str, Path)):
        loaded = load_recordings(x)
        return loaded if len(loaded) > 1 else loaded[0]
    return x

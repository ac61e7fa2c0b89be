"""Files that are complete or absent."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

from stillnet.sw.contract.errors import StillnetError

__all__ = ["check_place", "make_folder", "read_whole", "write_atomically"]


def check_place(path: str | Path | None) -> None:
    """Refuses a place that a result could not be written to, before the work for it begins.

    Raises
    ------
    StillnetError
        Where the folder does not exist or cannot be written. None is no place to check.
    """
    if path is None:
        return
    path = Path(path)
    if path.is_dir():
        raise StillnetError(f"cannot write '{path}': it is a folder; choose another place")
    if not path.parent.is_dir():
        raise StillnetError(
            f"cannot write '{path}': folder '{path.parent}' does not exist; make it first"
        )
    if not os.access(path.parent, os.W_OK):
        raise StillnetError(
            f"cannot write '{path}': folder '{path.parent}' may not be written; choose another "
            "place"
        )


def make_folder(path: str | Path) -> None:
    """Makes a folder for several results; it may be there already.

    Raises
    ------
    StillnetError
        Where the place is taken by a file, or cannot be written.
    """
    try:
        Path(path).mkdir(exist_ok=True)
    except OSError as error:
        raise StillnetError(
            f"cannot make folder '{path}' ({error.strerror}); choose another place"
        ) from None


def read_whole(path: Path, remedy: str) -> bytes:
    """All bytes of a file.

    Parameters
    ----------
    path : Path
    remedy : str
        What to do about an empty file, for the message.

    Raises
    ------
    StillnetError
        Where the file cannot be read, or is empty.
    """
    try:
        data = path.read_bytes()
    except OSError as error:
        raise StillnetError(
            f"file '{path}' cannot be read ({error.strerror or error}): check the path"
        ) from None
    if not data:
        raise StillnetError(f"file '{path}' is empty: {remedy}")
    return data


def write_atomically(path: str | Path, data: bytes | str) -> None:
    """Writes a file under a temporary name beside its place, then moves it there.

    Raises
    ------
    StillnetError
        Where the folder does not exist or cannot be written.
    """
    path = Path(path)
    data = data.encode() if isinstance(data, str) else data
    try:
        handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    except OSError as error:
        raise StillnetError(f"cannot write '{path}': {error.strerror}; choose another place") from (
            error
        )
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(data)
        umask = os.umask(0)
        os.umask(umask)
        os.chmod(name, 0o666 & ~umask)
        os.replace(name, path)
    except BaseException as error:
        os.unlink(name)
        if isinstance(error, OSError):
            raise StillnetError(f"cannot write '{path}': {error.strerror}") from error
        raise

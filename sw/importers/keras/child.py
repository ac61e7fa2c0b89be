"""HDF5 files, read in a process of their own.

HDF5's library may run for ever on a damaged file, or end its process, and no Python code can stop
it there. So a child reads the files: it is started with the first one, serves all others, and is
stopped where one takes too long. Both sides speak of paths, JSON and plain arrays only.
"""

from __future__ import annotations

import atexit
import contextlib
import io
import json
import os
import subprocess
import sys
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

__all__ = ["LIMIT", "ChildFailed", "ask"]

LIMIT = 60.0
"""Seconds for one file."""

_lock = threading.Lock()
_child: tuple[int, subprocess.Popen[bytes]] | None = None
"""The process that started it, and the child."""


class ChildFailed(Exception):
    """The child gave no answer."""


def ask(path: Path) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """The facts and the arrays that :func:`serve` gives for a file.

    Raises
    ------
    ChildFailed
        HDF5's library neither reads nor refuses the file.
    """
    with _lock:
        process = _started()
        timer = threading.Timer(LIMIT, process.kill)
        timer.start()
        try:
            assert process.stdin is not None and process.stdout is not None
            process.stdin.write(json.dumps(str(path.resolve())).encode() + b"\n")
            process.stdin.flush()
            size = int.from_bytes(process.stdout.read(8), "little")
            data = process.stdout.read(size)
            if not size or len(data) != size:
                raise ChildFailed
        except (OSError, ChildFailed):
            _stop()
            raise ChildFailed(
                f"HDF5's library gives no answer within {LIMIT:g} seconds, or crashes"
            ) from None
        finally:
            timer.cancel()
    with np.load(io.BytesIO(data), allow_pickle=False) as file:
        arrays = {key: file[key] for key in file.files}
    return json.loads(arrays.pop("facts").tobytes()), arrays


def _started() -> subprocess.Popen[bytes]:
    global _child
    if _child is None or _child[0] != os.getpid() or _child[1].poll() is not None:
        places = os.pathsep.join(p or os.getcwd() for p in sys.path)
        process = subprocess.Popen(
            [sys.executable, "-m", "stillnet.sw.importers.keras.child"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env={**os.environ, "PYTHONPATH": places},
        )
        _child = (os.getpid(), process)
    return _child[1]


@atexit.register
def _stop() -> None:
    global _child
    if _child is not None and _child[0] == os.getpid():
        process = _child[1]
        process.kill()
        process.wait()
        for pipe in (process.stdin, process.stdout):
            if pipe is not None and not pipe.closed:
                with contextlib.suppress(OSError):  # what was not sent is lost with the child
                    pipe.close()
    _child = None


# -- in the child ---------------------------------------------------------------------------------


def _packed(facts: Mapping[str, Any], arrays: Mapping[str, np.ndarray]) -> bytes:
    out = io.BytesIO()
    text = np.frombuffer(json.dumps(facts).encode(), np.uint8)
    np.savez(out, facts=text, **arrays)  # type: ignore[arg-type]
    return out.getvalue()


def serve() -> None:
    """Answers a path per line, until there are no more."""
    from .file import parts_of

    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # what a library prints is no answer
    for line in sys.stdin:
        data = _packed(*parts_of(Path(json.loads(line))))
        answers.write(len(data).to_bytes(8, "little") + data)
        answers.flush()


if __name__ == "__main__":
    serve()

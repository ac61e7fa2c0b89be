"""One thread for small matrix products.

OpenBLAS splits even a product of 400 x 1200 by one vector over all cores and waits for them in a
busy loop. Where another program uses one of the cores, that is ten times slower than one thread.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path

import numpy as np

__all__ = ["blas_threads", "single_thread"]


@cache
def blas_threads() -> tuple[Callable[[], int], Callable[[int], None]] | None:
    """How to read and set the threads of NumPy's OpenBLAS; None where it has another BLAS."""
    package = Path(np.__file__).parent
    places = [package.parent / "numpy.libs", package / ".dylibs"]
    for path in sorted(p for place in places for p in place.glob("*openblas*")):
        try:
            library = ctypes.CDLL(str(path))  # the one that is loaded already
        except OSError:
            continue
        for prefix in ("scipy_openblas", "openblas"):
            for suffix in ("64_", ""):
                try:
                    get = getattr(library, f"{prefix}_get_num_threads{suffix}")
                    put = getattr(library, f"{prefix}_set_num_threads{suffix}")
                except AttributeError:
                    continue
                get.restype, get.argtypes = ctypes.c_int, []
                put.restype, put.argtypes = None, [ctypes.c_int]
                return get, put
    return None


@contextmanager
def single_thread() -> Iterator[None]:
    """NumPy's matrix products use one thread inside, and what they used before afterwards."""
    control = blas_threads()
    if control is None:
        yield
        return
    get, put = control
    before = get()
    if before == 1:
        yield
        return
    put(1)
    try:
        yield
    finally:
        put(before)

"""Progress of long work on standard error: bars on a terminal, a line now and then elsewhere."""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TextIO

__all__ = ["Progress", "console_progress", "lines", "silent"]

Progress = Callable[[str, int, int], None]
"""Called as ``progress(what, done, total)``; a new ``what`` begins a new bar. Functions take it as
their parameter ``progress``, or None."""

INTERVAL = 10.0
"""Seconds between two lines where standard error is no terminal. Shorter work prints none."""


def silent(what: str, done: int, total: int) -> None:
    """Shows nothing."""


@contextmanager
def console_progress() -> Iterator[Progress]:
    """Bars where standard error is a terminal; else a line about every ten seconds.

    Standard output stays free for the result, so that ``--json`` can be read by a program.
    """
    if sys.stderr.isatty():
        with _bars() as show:
            yield show
    else:
        with lines(sys.stderr, INTERVAL) as show:
            yield show


@contextmanager
def _bars() -> Iterator[Progress]:
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn
    from rich.progress import Progress as Bars

    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
    )
    with Bars(*columns, console=Console(stderr=True), transient=True) as bars:
        tasks = {}

        def show(what: str, done: int, total: int) -> None:
            if what not in tasks:
                tasks[what] = bars.add_task(what, total=total)
            bars.update(tasks[what], completed=done, total=total)

        yield show


@contextmanager
def lines(stream: TextIO, interval: float) -> Iterator[Progress]:
    """Says every ``interval`` seconds what is done; also while a stage reports nothing.

    A thread prints, because some stages (a compiler, a router) report only their end.
    """
    begin = time.monotonic()
    stop = threading.Event()
    latest = ["", 0, 0]

    def show(what: str, done: int, total: int) -> None:
        latest[:] = [what, done, total]

    def tell() -> None:
        while not stop.wait(interval):
            what, done, total = latest
            if what:
                count = f" {done}/{total}" if total != 1 else ""
                line = f"stillnet: {what}{count}, {time.monotonic() - begin:.0f} s\n"
                stream.write(line)
                stream.flush()

    thread = threading.Thread(target=tell, name="progress", daemon=True)
    thread.start()
    try:
        yield show
    finally:
        stop.set()
        thread.join()

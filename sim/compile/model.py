"""Verilog as a program: the one place that calls Verilator, g++ and Icarus, and their cache.

Three kinds of programs come out of it. A *library* holds a design and a C++ file with functions
that Python calls. A *simulator* holds a design that a cocotb bench drives, built with Verilator or
with Icarus. The key of the cache is everything that a program is made of, so it is built once.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import re
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from stillnet.sw.contract.errors import StillnetError

from . import verilator

__all__ = ["HARNESSES", "SIMULATORS", "build_library", "build_simulator", "cache_folder"]

HARNESSES = Path(__file__).parents[1] / "harness"
"""C++ around a compiled design: clock, memories, streams."""

SIMULATORS = ("icarus", "verilator")
"""What :func:`build_simulator` builds for."""

_HEADERS = ("verilated.h", "deque", "memory", "string", "unordered_map", "vector")
_SPLIT = ("--output-split-cfuncs", "500")  # g++ takes much longer for one large function
_PUBLIC = ("--public-depth", "1")  # benches use the top module; more takes time at every edge
_DUMP = "stillnet_waves"
_MEMORY = re.compile(r"^  initial begin\n(?:    [^\n]*;\n)+  end\n", re.M)
_ZERO = re.compile(r"^    (?:\\\S+ |\w+) ?\[\d+\] = \d+'[hd]0+;\n", re.M)


def cache_folder() -> Path:
    """Where built models are kept; ``STILLNET_CACHE`` overrides it."""
    if "STILLNET_CACHE" in os.environ:
        return Path(os.environ["STILLNET_CACHE"])
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(base) / "stillnet"


def build_library(
    verilog: str,
    top: str,
    harness: Path,
    *,
    headers: tuple[Path, ...] = (),
    optimise: str | None = None,
    prologue: str = "",
    trace: bool = False,
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
        Files that it includes; their folders are searched.
    optimise : str, optional
        Option for the C++ compiler; ``STILLNET_OPTIMISE`` or ``-O1`` where absent. ``-O0`` builds
        a little faster and runs at a third of the speed: for runs of few thousand cycles. What runs
        once, such as initial values, is never optimised.
    prologue : str
        C++ before the file, such as definitions.
    trace : bool
        The model can write waveforms (VCD).
    """
    verilog = _without_zeros(verilog)
    optimise = optimise or os.environ.get("STILLNET_OPTIMISE", "-O1")
    texts = [harness.read_text(), *(h.read_text() for h in headers), optimise, prologue, str(trace)]

    def build(built: Path) -> None:
        cxx = _Compiler(optimise, trace)
        verilated = _verilate(built.parent, verilog, top, f"V{top}", trace, _SPLIT)
        cxx.link(
            verilated,
            harness,
            built,
            [*(f"-I{f.parent}" for f in (harness, *headers)), "-shared", "-Wl,-Bsymbolic"],
            prologue=prologue,
        )

    return _kept(f"{top}.so", [verilog, top, *texts, *_SPLIT, _verilator_key()], build)


def build_simulator(
    verilog: str,
    top: str,
    simulator: str = "verilator",
    *,
    waves: bool = False,
    optimise: str = "-O0",
) -> Path:
    """A design that cocotb can drive, or the one in the cache.

    Parameters
    ----------
    verilog : str
    top : str
    simulator : str
        One of :data:`SIMULATORS`.
    waves : bool
        It writes waveforms: ``dump.vcd`` with Verilator, ``dump.fst`` with Icarus.
    optimise : str
        Option for the C++ compiler. Optimising takes long, and most of a short run goes into
        Python.

    Returns
    -------
    Path
        The program; its folder is the ``build_dir`` of cocotb's runner.

    Raises
    ------
    StillnetError
        If a tool is not installed, or the simulator refuses the design.
    """
    if simulator == "icarus":
        return _build_icarus(verilog, top, waves)
    if simulator != "verilator":
        raise StillnetError(
            f"there is no simulator '{simulator}'; simulators are {', '.join(SIMULATORS)}"
        )
    from cocotb_tools import config

    verilog = _without_zeros(verilog)
    main = config.share_dir / "lib" / "verilator" / "verilator.cpp"

    def build(built: Path) -> None:
        cxx = _Compiler(optimise, waves, vpi=True)
        options = ("--vpi", *_PUBLIC, "--timescale", "1ns/1ps", *_SPLIT)
        verilated = _verilate(built.parent, verilog, top, "Vtop", waves, options)
        libraries = f"-L{config.libs_dir}", "-lcocotbvpi_verilator"
        cxx.link(verilated, main, built, [f"-Wl,-rpath,{config.libs_dir}", *libraries])

    key = [
        verilog,
        top,
        optimise,
        *_PUBLIC,
        *_SPLIT,
        str(waves),
        main.read_text(),
        str(config.libs_dir),
        _verilator_key(),
    ]
    return _kept(top, key, build)


def _build_icarus(verilog: str, top: str, waves: bool) -> Path:
    tool = shutil.which("iverilog")
    if tool is None:
        raise StillnetError(
            "Icarus Verilog is not installed: run `apt-get install iverilog` or your system's "
            "equivalent, or choose the simulator verilator"
        )
    dump = f'module {_DUMP};\n  initial begin $dumpfile("dump.fst"); $dumpvars(0, {top}); end\n'
    text = f"`timescale 1ns/1ps\n{verilog}\n" + (f"{dump}endmodule\n" if waves else "")
    version = subprocess.run([tool, "-V"], capture_output=True, text=True).stdout.split("\n")[0]

    def build(built: Path) -> None:
        source = built.with_name(f"{top}.v")
        source.write_text(text)
        tops = ["-s", top, *(["-s", _DUMP] if waves else [])]
        _run([tool, "-g2012", "-o", str(built), *tops, str(source)], refused=("Icarus", top))

    return _kept("sim.vvp", [text, top, version], build)


# -- cache ----------------------------------------------------------------------------------------


def _kept(name: str, key: list[str], build: Callable[[Path], None]) -> Path:
    """The file of this key, built if it is not there yet."""
    folder = cache_folder() / "models" / f"{Path(name).stem}-{_digest(name, *key)}"
    kept = folder / name

    def build_and_place() -> None:
        with tempfile.TemporaryDirectory() as scratch:
            build(Path(scratch) / name)
            _place(Path(scratch) / name, kept)

    _once(kept, build_and_place)
    return kept


def _once(kept: Path, build: Callable[[], None]) -> None:
    """Builds a file of the cache, which has a folder of its own, unless it is there.

    Processes that want the same wait for the one that builds it.
    """
    if kept.exists():
        return
    kept.parent.mkdir(parents=True, exist_ok=True)
    with _locked(kept.parent / ".lock"):
        if not kept.exists():
            build()


def _place(built: Path, kept: Path) -> None:
    fresh = kept.with_suffix(f".{os.getpid()}")
    shutil.copy(built, fresh)
    os.replace(fresh, kept)


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    with open(path, "w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


# -- tools ----------------------------------------------------------------------------------------


def _run(
    command: list[str],
    environment: dict[str, str] | None = None,
    *,
    refused: tuple[str, str] | None = None,
) -> None:
    """Runs a tool. ``refused`` names a simulator and a design: a failure is then the design's."""
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    if done.returncode == 0:
        return
    log = f"{done.stdout[-2000:]}\n{done.stderr[-4000:]}"
    if refused is not None:
        raise StillnetError("{} could not build module '{}':\n{}".format(*refused, log))
    raise RuntimeError(f"{command[0]} failed:\n{log}")


def _verilator_key() -> str:
    return f"{verilator.executable().stat().st_mtime_ns} {' '.join(verilator.FLAGS)}"


def _without_zeros(verilog: str) -> str:
    """Leaves out words of memories that begin at zero, as everything does here.

    They are half of the text, and Verilator takes as long for them as for the rest.
    """
    return _MEMORY.sub(lambda block: _ZERO.sub("", block[0]), verilog)


def _verilate(
    folder: Path, verilog: str, top: str, prefix: str, trace: bool, options: tuple[str, ...] = ()
) -> list[Path]:
    """The C++ files that Verilator writes for a design."""
    (folder / f"{top}.v").write_text(verilog)
    command = [str(verilator.executable()), "--cc", "--top-module", top, "--prefix", prefix]
    command += [*verilator.FLAGS, *options, *(["--trace"] if trace else [])]
    command += ["--Mdir", str(folder / "model"), str(folder / f"{top}.v")]
    _run(command, verilator.environment(), refused=("Verilator", top))
    return sorted((folder / "model").glob("*.cpp"))


class _Compiler:
    """g++ with the options of one kind of model.

    Parameters
    ----------
    optimise : str
    trace : bool
        With waveforms.
    vpi : bool
        With the interface through which cocotb drives a design.
    """

    def __init__(self, optimise: str, trace: bool, vpi: bool = False) -> None:
        self.include = verilator.root() / "include"
        self.optimise = optimise
        runtime = ["verilated.cpp", "verilated_threads.cpp"]
        runtime += ["verilated_vcd_c.cpp"] if trace else []
        runtime += ["verilated_vpi.cpp", "verilated_dpi.cpp"] if vpi else []
        self.runtime = [self.include / name for name in runtime]
        common = ["g++", "-std=gnu++17", "-fPIC", "-fno-gnu-unique", "-DVM_COVERAGE=0"]
        common += ["-DVM_TRACE_FST=0", "-DVM_TRACE_SAIF=0", "-DVM_SC=0"]
        common += [f"-I{self.include}", f"-I{self.include / 'vltstd'}"]
        self.command = [*common, f"-DVM_TRACE={int(trace)}", f"-DVM_TRACE_VCD={int(trace)}"]
        # The runtime does not ask whether there are waveforms, and little time goes into it.
        self._for_runtime = [*common, "-DVM_TRACE=0", "-DVM_TRACE_VCD=0", "-O1"]
        self._version = subprocess.run(["g++", "--version"], capture_output=True, text=True).stdout

    def link(
        self,
        verilated: list[Path],
        own: Path,
        built: Path,
        options: list[str],
        *,
        prologue: str = "",
    ) -> None:
        """Compiles Verilator's files and ours as one, as most of the time goes into the headers."""
        # Files of what runs once, at the start, have this name; they are a third of the text.
        once = [s for s in verilated if s.stem.endswith("__Slow")]
        often = [s for s in verilated if s not in once]
        parts = [prologue, *(f'#include "{s}"\n' for s in often)]
        parts += ['#pragma GCC push_options\n#pragma GCC optimize("O0")\n']
        parts += [f'#include "{s}"\n' for s in once]
        parts += [f'#pragma GCC pop_options\n#include "{own}"\n']
        everything = built.with_name("everything.cpp")
        everything.write_text("".join(parts))
        command = [*self.command, self.optimise, "-include", str(self._headers())]
        # Libraries stand after what needs them.
        libraries = [o for o in options if re.match("-[lL]", o)]
        command += [f"-I{built.parent / 'model'}", *(o for o in options if o not in libraries)]
        command += [str(everything), *(str(self._object(source)) for source in self.runtime)]
        _run([*command, *libraries, "-lpthread", "-o", str(built)])

    def _headers(self) -> Path:
        """Headers that every model includes, compiled once."""
        text = "".join(f"#include <{name}>\n" for name in _HEADERS)
        command = [*self.command, self.optimise]
        digest = self._digest(command, self.include / "verilated.h", text)
        folder = cache_folder() / "runtime" / f"headers-{digest}"
        header, compiled = folder / "headers.h", folder / "headers.h.gch"

        def build() -> None:
            header.write_text(text)
            _run([*command, "-x", "c++-header", str(header), "-o", str(folder / "fresh")])
            os.replace(folder / "fresh", compiled)

        _once(compiled, build)
        return header

    def _object(self, source: Path) -> Path:
        """Verilator's own runtime is the same for every model: compiled once."""
        digest = self._digest(self._for_runtime, source, os.uname().machine)
        kept = cache_folder() / "runtime" / f"{source.stem}-{digest}" / f"{source.stem}.o"

        def build() -> None:
            fresh = kept.with_suffix(".fresh")
            _run([*self._for_runtime, "-c", str(source), "-o", str(fresh)])
            os.replace(fresh, kept)

        _once(kept, build)
        return kept

    def _digest(self, command: list[str], source: Path, *parts: str) -> str:
        stamp = str(source.stat().st_mtime_ns)
        return _digest(*command, self._version, str(source), stamp, *parts)


def _digest(*parts: str) -> str:
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()[:24]

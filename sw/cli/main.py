"""The command line: a thin layer over the Python API.

Commands are found through the entry-point group ``stillnet.commands``, so that this package needs
no import of the hardware, the simulation or the boards; those of ``stillnet.sw`` itself are always
there. An entry point names a :class:`Command`::

    [project.entry-points."stillnet.commands"]
    pack = "stillnet.sw.cli.pack:PACK"

Exit codes: 0, 1 where hardware and reference differ, 2 for bad input or usage (one line on
standard error), 130 when interrupted.
"""

from __future__ import annotations

import argparse
import difflib
import importlib
import json
import os
import sys
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib import metadata
from typing import Any, NoReturn

import numpy as np

from stillnet.sw.contract.cells.cell import load_cells
from stillnet.sw.contract.errors import StillnetError
from stillnet.sw.util.results.result import Result

__all__ = ["Command", "command_parser", "commands", "main"]

_OWN = {
    "quantize": "stillnet.sw.cli.quantize:QUANTIZE",
    "run": "stillnet.sw.cli.run:RUN",
    "info": "stillnet.sw.cli.info:INFO",
    "compress": "stillnet.sw.cli.compress:COMPRESS",
    "sweep": "stillnet.sw.cli.sweep:SWEEP",
    "search": "stillnet.sw.cli.search:SEARCH",
    "train": "stillnet.sw.cli.train:TRAIN",
    "check": "stillnet.sw.cli.check:CHECK",
    "monitor": "stillnet.sw.cli.service.monitor:MONITOR",
    "deploy": "stillnet.sw.cli.service.deploy:DEPLOY",
    "c-driver": "stillnet.sw.cli.c_driver:C_DRIVER",
}
_GROUP = "stillnet.commands"


def _show_values(result: Any) -> None:
    """Prints a result as one ``name: value`` per line."""
    for key, value in _values(result).items():
        print(f"{key}: {value}")


def _values(result: Result | dict[str, Any]) -> dict[str, Any]:
    return result.to_dict() if isinstance(result, Result) else result


@dataclass(frozen=True)
class Command:
    """One command of ``stillnet``.

    Attributes
    ----------
    name : str
    help : str
        One line for the list of commands.
    configure : function of an ArgumentParser
        Adds the arguments. ``--json`` is there already.
    run : function of the parsed arguments
        Does the work and returns its result: a :class:`~stillnet.sw.util.results.result.Result`, a
        dictionary of plain values, or None. ``--json`` prints all of its fields.
    show : function of the result, optional
        Prints it for people.
    epilog : str
        Examples, shown under ``--help``.
    """

    name: str
    help: str
    configure: Callable[[argparse.ArgumentParser], None]
    run: Callable[[argparse.Namespace], Result | dict[str, Any] | None]
    show: Callable[[Any], None] = _show_values
    epilog: str = ""


class _Parser(argparse.ArgumentParser):
    """Reports bad usage like any other bad input."""

    def error(self, message: str) -> NoReturn:
        raise StillnetError(f"{message}; see '{self.prog} --help'")


def commands() -> dict[str, Callable[[], Any]]:
    """A loader for each command by name."""

    def own(target: str) -> Callable[[], Any]:
        module, _, attribute = target.partition(":")
        return lambda: getattr(importlib.import_module(module), attribute)

    found: dict[str, Callable[[], Any]] = {name: own(target) for name, target in _OWN.items()}
    for point in metadata.entry_points(group=_GROUP):
        found.setdefault(point.name, point.load)
    return found


def _load(name: str, loader: Callable[[], Any]) -> Any:
    try:
        return loader()
    except ImportError as error:
        raise StillnetError(
            f"command '{name}' cannot be loaded ({error}); install what it needs, for instance "
            'with pip install "stillnet[sim,build]"'
        ) from error


def _overview() -> str:
    lines = [
        "usage: stillnet COMMAND ...",
        "",
        "FPGA accelerators for streaming recurrent networks. From a trained model to hardware:",
        "quantize it on your own recordings, run it, pack it, generate the engine.",
        "",
        "commands:",
    ]
    for name, loader in commands().items():
        try:
            text = loader().help
        except ImportError as error:
            text = f"(not available: {error})"
        lines.append(f"  {name:<12}{text}")
    lines += [
        "",
        "Each has --json for programs and --help with examples: stillnet quantize --help",
        "Cells of your own: stillnet --cells FILE.py COMMAND ... (docs/start/your-own-cell.md)",
    ]
    return "\n".join(lines)


def _plain(value: Any) -> Any:
    """NumPy numbers and arrays for json."""
    if isinstance(value, np.generic):
        return value.item()
    if isinstance(value, np.ndarray):
        return value.tolist()
    return str(value)


def _warn(message: Warning | str, *rest: Any, **options: Any) -> None:
    print(f"stillnet: warning: {message}", file=sys.stderr)


def command_parser(command: Command) -> argparse.ArgumentParser:
    """The parser of a command, with ``--json``."""
    parser = _Parser(
        prog=f"stillnet {command.name}",
        description=command.help,
        epilog=getattr(command, "epilog", "") or None,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    command.configure(parser)
    parser.add_argument("--json", action="store_true", help="print the result as JSON")
    return parser


def _find(name: str) -> Command:
    known = commands()
    if name not in known:
        near = difflib.get_close_matches(name, known, n=1, cutoff=0.5)
        hint = f"did you mean '{near[0]}'?" if near else f"commands are {', '.join(known)}"
        raise StillnetError(f"there is no command '{name}'; {hint}")
    return _load(name, known[name])


def _dispatch(argv: list[str], as_json: bool) -> int:
    if argv and argv[0] == "--json":
        argv = [*argv[1:], "--json"]
    while argv and argv[0] == "--cells":
        if len(argv) < 2 or argv[1].startswith("-"):
            raise StillnetError("--cells needs a Python file that registers cells")
        load_cells(argv[1])
        argv = argv[2:]
    if not argv or argv[0] == "--json":
        print(_overview(), file=sys.stderr)
        raise StillnetError("no command given; see 'stillnet --help'")
    if argv[0] in ("-h", "--help", "help"):
        print(_overview())
        return 0
    if argv[0] == "--version":
        print(f"stillnet {metadata.version('stillnet')}")
        return 0
    command = _find(argv[0])
    result = command.run(command_parser(command).parse_args(argv[1:]))
    if result is None:
        return 0
    values = _values(result)
    if as_json:
        print(json.dumps(values, indent=2, default=_plain))
    else:
        getattr(command, "show", _show_values)(result)
    for doubt in getattr(result, "doubts", []):
        print(f"stillnet: warning: {doubt}", file=sys.stderr)
    return 1 if values.get("mismatches") else 0


def main(argv: Sequence[str] | None = None) -> int:
    """Runs one command.

    Parameters
    ----------
    argv : sequence of str, optional
        Arguments without the program's name; those of the process where absent.

    Returns
    -------
    int
        Exit code: 0, 1 after a mismatch, 2 after a :class:`StillnetError` or bad usage, 130 after
        an interrupt.
        Any other exception is a defect and keeps its traceback.
    """
    argv = list(sys.argv[1:] if argv is None else argv)
    as_json = "--json" in argv
    try:
        with warnings.catch_warnings():
            warnings.showwarning = _warn
            code = _dispatch(argv, as_json)
        sys.stdout.flush()
        return code
    except StillnetError as error:
        message = " ".join(str(error).split())
        print(f"stillnet: error: {message}", file=sys.stderr)
        if as_json:
            print(json.dumps({"error": message}))
        return 2
    except KeyboardInterrupt:
        print("stillnet: interrupted", file=sys.stderr)
        return 130
    except BrokenPipeError:
        # The reader has had enough (stillnet info net | head); keep the interpreter quiet too.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 141
    except SystemExit as stop:  # argparse after --help
        return int(stop.code or 0)


if __name__ == "__main__":
    sys.exit(main())

"""The house: which folder may import which, how full folders are, how long functions are."""

from __future__ import annotations

import ast
import re
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cache
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

from tests.conftest import LONGEST_FIRST

ROOT = Path(__file__).parents[1]
TOPS = ("hw", "sw", "sim", "boards")

MOST_FILES = 16
"""Python files directly in one folder."""
LONGEST_FUNCTION = 110
"""Lines."""

HINT = re.compile(r"import.*\b_\w|^    _\w+,$|(?<!self)(?<!cls)\._[a-z]", re.MULTILINE)
"""Without a match, a file uses no private name of another one."""

PRIVATE = r"stillnet(\.\w+)*\._[a-zA-Z]\w*"
"""A private name by its path, as monkeypatch takes it."""

LEAVES = (ast.Name, ast.expr_context, ast.operator, ast.cmpop)
"""Nodes that nothing is read from."""

HARDWARE = "hw hw.cell hw.compact hw.events hw.fetch hw.host hw.host.link hw.lanes hw.memory"
HARDWARE += " hw.memory.sdram hw.parts hw.verilog"

MAY_IMPORT = {
    # What every folder may import as well, and what is below everything.
    "sw.contract": "",
    "sw.util": "",
    # Hardware: the blocks, from the small ones to the core.
    "hw.parts": "",
    "hw.memory": "hw.parts",
    "hw.memory.sdram": "hw.memory hw.parts",
    "hw.cell": "hw.parts",
    "hw.lanes": "hw.parts",
    "hw.events": "hw.parts",
    "hw.fetch": "hw.memory hw.parts",
    "hw.host": "hw.memory hw.parts",
    "hw.host.link": "hw.host hw.memory hw.parts",
    "hw.compact": "hw.cell hw.fetch hw.host hw.memory hw.parts",
    "hw": "hw.cell hw.events hw.fetch hw.host hw.lanes hw.memory hw.parts",
    "hw.verilog": "hw.parts hw sw.cli sw.network sw.packing sw.util",
    # Software: from a trained model to an image, and to a host that uses it.
    "sw.partition": "sw.util",
    "sw.model": "sw.partition sw.util",
    "sw.importers.keras": "sw.util",
    "sw.importers.onnx": "sw.model sw.partition sw.util",
    "sw.importers": "sw.importers.keras sw.importers.onnx sw.model sw.partition sw.util",
    "sw.network": "sw.partition sw.util",
    "sw.quantization.solvers": "sw.model",
    "sw.quantization.checking": "sw.model sw.network",
    "sw.quantization": "sw.model sw.network sw.partition sw.quantization.checking"
    " sw.quantization.solvers sw.util",
    "sw.packing": "sw.network sw.util",
    "sw.cost": "sw.network sw.util",
    "sw.compression": "sw.cost sw.model sw.network sw.quantization sw.quantization.checking"
    " sw.quantization.solvers sw.util",
    "sw.search": "sw.compression sw.cost sw.model sw.network sw.quantization"
    " sw.quantization.checking sw.quantization.solvers sw.util",
    "sw.train": "sw.compression sw.cost sw.model sw.network sw.quantization"
    " sw.quantization.checking sw.util",
    "sw.host.driver": "sw.network sw.packing sw.partition sw.util",
    "sw.host": "sw.host.driver sw.network sw.packing sw.partition sw.util",
    "sw.monitor": "sw.host sw.host.driver sw.model sw.network sw.util",
    "sw.report": "sw.cost sw.model sw.network sw.packing sw.util",
    "sw.cli": "sw.compression sw.cost sw.host sw.host.driver sw.importers sw.model sw.monitor"
    " sw.network sw.packing sw.partition sw.quantization sw.quantization.solvers sw.report"
    " sw.search sw.train sw.util",
    "sw.cli.service": "sw.cli sw.host sw.host.driver sw.model sw.monitor sw.network sw.packing"
    " sw.quantization sw.util",
    "sw.api": "hw.verilog sw.compression sw.cost sw.host sw.host.driver sw.importers sw.model"
    " sw.monitor sw.network sw.packing sw.partition sw.quantization sw.train sw.util",
    # Boards: a board and the catalogue are modules that all the others read.
    "boards.board": "hw.compact hw.host.link hw.memory.sdram sw.cost sw.network sw.packing",
    "boards.catalogue": "boards.board boards.platforms",
    "boards.platforms": "",
    "boards.top": "boards.board boards.catalogue boards.platforms hw hw.compact hw.host"
    " hw.host.link hw.memory hw.memory.sdram hw.parts",
    "boards.build": "boards.board boards.catalogue boards.platforms boards.top hw.parts sw.util",
    "boards": "boards.board boards.build boards.catalogue sw.cli sw.host.driver sw.network"
    " sw.packing sw.util",
    "boards.systems": "hw hw.verilog",
    "boards.bench": "boards.build boards.catalogue hw hw.cell sw.cli sw.util",
    # Simulation.
    "sim.compile": "",
    "sim.audio": "sw.util",
    "sim.engine": "hw.verilog sim.compile sw.network sw.packing sw.util",
    "sim.sdram": "hw.memory.sdram hw.verilog sim.compile",
    "sim.board": "boards.board boards.catalogue boards.top hw hw.host hw.host.link hw.memory"
    " hw.memory.sdram hw.verilog sim.compile sw.cli sw.network sw.packing sw.util",
    "sim.gates": "boards.board boards.build boards.catalogue sim.board sim.compile sw.cli sw.host"
    " sw.host.driver sw.model sw.network sw.packing sw.quantization sw.util",
    "sim.proofs": "hw.events hw.host.link hw.memory hw.memory.sdram hw.parts",
    "sim.testbenches": f"{HARDWARE} boards.catalogue boards.top sim.board sim.compile sim.engine"
    " sim.sdram sim.testbenches.template sw.cli sw.host sw.host.driver sw.network sw.packing"
    " sw.util",
    "sim.testbenches.template": "",
    "sim.bench": "boards.board boards.catalogue hw.memory.sdram sim.audio sim.board sim.engine"
    " sim.sdram sw.compression sw.cost sw.host sw.host.driver sw.importers sw.model sw.network"
    " sw.packing sw.partition sw.quantization sw.report sw.util",
    "sim": "",
    "sw": "",
}
"""What the modules of a folder may import besides their own folder and ``sw.contract``.

A name is a folder, without those in it, or a single module.
"""

PARTS = {
    "sw.contract.cells": "sw.contract",
    "sw.contract.vectors": "sw.contract",
    "sw.util.results": "sw.util",
    "sw.importers.onnx.cut": "sw.importers.onnx",
}
"""Folders that stand and fall together with another one."""


@dataclass
class File:
    """What one file imports, and what else is counted in it.

    Attributes
    ----------
    imports : list of (str, int, bool)
        Full path of each name imported, its line, and whether it is imported late: within a
        function, or for type checkers only.
    functions : list of (str, int, int)
        Name, line and length of each function.
    attributes : list of (str, str, int)
        Private attributes ``name._attribute`` of plain names.
    texts : list of (str, int)
        Strings that are private names by their path, as monkeypatch takes them.
    """

    imports: list[tuple[str, int, bool]] = field(default_factory=list)
    functions: list[tuple[str, int, int]] = field(default_factory=list)
    attributes: list[tuple[str, str, int]] = field(default_factory=list)
    texts: list[tuple[str, int]] = field(default_factory=list)

    def visit(self, node: ast.AST, package: list[str], late: bool) -> None:
        """Reads a node and all below it."""
        if isinstance(node, ast.Import):
            self.imports += [(alias.name, node.lineno, late) for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            base = node.module.split(".") if node.module else []
            if node.level:
                base = ["stillnet", *package[: len(package) - node.level + 1], *base]
            for alias in node.names:
                self.imports.append((".".join([*base, alias.name]), node.lineno, late))
        elif isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
            lines = (node.end_lineno or node.lineno) - node.lineno + 1
            self.functions.append((node.name, node.lineno, lines))
            late = True
        elif isinstance(node, ast.If):
            late |= "TYPE_CHECKING" in ast.unparse(node.test)
        elif isinstance(node, ast.Attribute):
            if isinstance(node.value, ast.Name) and re.match("_[^_]", node.attr):
                self.attributes.append((node.value.id, node.attr, node.lineno))
        elif isinstance(node, ast.Constant) and isinstance(node.value, str):
            self.texts += [(node.value, node.lineno)] * bool(re.fullmatch(PRIVATE, node.value))
        for name in node._fields:
            below = getattr(node, name, None)
            for child in below if isinstance(below, list) else (below,):
                if isinstance(child, ast.AST) and not isinstance(child, LEAVES):
                    self.visit(child, package, late)


@cache
def sources(top: str) -> dict[str, Path]:
    """The modules of a top folder by their names: ``hw.cell.unit``."""
    found = {}
    for path in sorted(ROOT.joinpath(top).rglob("*.py")):
        parts = path.relative_to(ROOT).with_suffix("").parts
        found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


@cache
def modules() -> dict[str, Path]:
    """Every module of the package."""
    return {name: path for top in TOPS for name, path in sources(top).items()}


@cache
def read(path: Path) -> File:
    """Reads a file once; of its tree nothing is kept."""
    folder = path.parent.relative_to(ROOT)
    file = File()
    file.visit(ast.parse(path.read_text()), list(folder.parts), False)
    return file


def imports(module: str) -> Iterator[tuple[str, int, bool]]:
    """What a module imports of the package: path below ``stillnet``, line, whether late."""
    for path, line, late in read(modules()[module]).imports:
        top, _, rest = path.partition(".")
        if top == "stillnet":
            yield rest, line, late


def module_of(path: str) -> str:
    """The module that an imported path is, or is in; ``sw.api`` is the package itself."""
    while path and path not in modules():
        path = path.rpartition(".")[0]
    return path or "sw.api"


def place(module: str) -> str:
    """The line of the table that a module belongs to, or its folder where there is none."""
    if module in MAY_IMPORT:
        return module
    is_folder = modules()[module].stem == "__init__"
    folder = module if is_folder else module.rpartition(".")[0]
    return PARTS.get(folder, folder)


@pytest.mark.parametrize("top", TOPS)
def test_imports_follow_the_table(top: str) -> None:
    wrong = []
    for module in sources(top):
        here = place(module)
        if here not in MAY_IMPORT:
            wrong.append(f"{module}: no line of the table has folder '{here}'")
            continue
        allowed = {here, "sw.contract", *MAY_IMPORT[here].split()}
        for path, line, _ in imports(module):
            there = place(module_of(path))
            if there not in allowed:
                wrong.append(f"{module}:{line} imports '{path}' of '{there}'")
    assert not wrong, "\n".join(wrong)


def test_the_table_has_no_circle() -> None:
    graph = {name: {*allowed.split()} for name, allowed in MAY_IMPORT.items()}
    unknown = {there for allowed in graph.values() for there in allowed} - set(graph)
    assert not unknown
    assert list(TopologicalSorter(graph).static_order())


def test_no_circle_of_modules() -> None:
    """Modules that need each other when they are loaded."""
    graph = {
        name: {module_of(path) for path, _, late in imports(name) if not late} - {name}
        for name in modules()
    }
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        pytest.fail(" imports ".join(error.args[1]))


def test_only_the_api_knows_all_and_loads_it_late() -> None:
    early = [
        f"{module}:{line} imports '{path}'"
        for module in sources("sw")
        for path, line, late in imports(module)
        if path.split(".")[0] in ("hw", "sim", "boards")
        and not (module.startswith("sw.api") and late)
    ]
    assert not early, "\n".join(early)


def test_the_contract_needs_numpy_and_nothing_else() -> None:
    known = sys.stdlib_module_names | {"numpy", "stillnet"}
    for module, path in sources("sw").items():
        if module.startswith("sw.contract"):
            assert {name.split(".")[0] for name, _, _ in read(path).imports} <= known, module


def test_folders_are_not_too_full() -> None:
    full = {}
    for top in (*TOPS, "tests"):
        for folder in {path.parent for path in sources(top).values()}:
            count = len([path for path in folder.glob("*.py") if path.stem != "__init__"])
            if count > MOST_FILES:
                full[str(folder.relative_to(ROOT))] = count
    assert not full, f"more than {MOST_FILES} files: {full}"


def test_functions_are_not_too_long() -> None:
    long = [
        f"{path.relative_to(ROOT)}:{line} {name}: {lines}"
        for path in modules().values()
        for name, line, lines in read(path).functions
        if lines > LONGEST_FUNCTION
    ]
    assert not long, f"longer than {LONGEST_FUNCTION} lines:\n" + "\n".join(long)


def private_uses(path: Path) -> Iterator[str]:
    """Private names of other modules that a file uses."""
    if not HINT.search(path.read_text()):
        return
    where, file = path.relative_to(ROOT), read(path)
    names = [(name.removeprefix("stillnet."), line) for name, line, _ in file.imports]
    own = [(name, line) for name, line in names if name.split(".")[0] in (*TOPS, "tests")]
    for name, line in own:
        if re.search(r"\._[^_.][^.]*$", name):
            yield f"{where}:{line} imports '{name}'"
    known = {name.rpartition(".")[2] for name, _ in own if name in modules()}
    for name, attribute, line in file.attributes:
        if name in known:
            yield f"{where}:{line} uses '{name}.{attribute}'"
    for text, line in file.texts:
        yield f"{where}:{line} names '{text}'"


@pytest.mark.parametrize("top", [*TOPS, "tests"])
def test_private_names_stay_in_their_module(top: str) -> None:
    wrong = [use for path in sources(top).values() for use in private_uses(path)]
    assert not wrong, "\n".join(wrong)


def test_long_files_are_there() -> None:
    """``tests/conftest.py`` names those that begin first."""
    gone = [name for name in LONGEST_FIRST if not (ROOT / "tests" / f"{name}.py").is_file()]
    assert not gone and len(set(LONGEST_FIRST)) == len(LONGEST_FIRST)

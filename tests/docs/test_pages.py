"""Pages do what they say: their code runs, their commands exist, their links lead somewhere.

The blocks of a page run in order, in a folder with a small model and recordings under the names
that the pages use. A block with ``<!-- not run: WHY -->`` in front of it is not run, because it
needs a board, or minutes; its commands, options and Python syntax are checked all the same.
"""

from __future__ import annotations

import argparse
import ast
import contextlib
import functools
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from stillnet.hw.verilog import generate as generate_module
from stillnet.sw.cli.main import main

from .pages import DOCS, PAGES, ROOT, Block, anchors, blocks, commands, links

CODE = ("hw", "sw", "sim", "boards", "tests", "examples")
CITED = re.compile(r"\bdocs/[\w/-]+\.(?:md|svg|png|py|css)\b")
GENERATED = {DOCS / "reference" / f"{name}.md" for name in ("commands", "python", "presets")}
"""Made by docs/site/hooks.py when the site is built."""


# -- a small world --------------------------------------------------------------------------------


def save_model(path: Path, inputs: int = 8, units: int = 16, outputs: int = 4) -> None:
    """An ONNX file: a GRU and a dense layer with random weights."""
    rng = np.random.default_rng(3)

    def tensor(name: str, *shape: int) -> onnx.TensorProto:
        return numpy_helper.from_array(rng.normal(0, 0.3, shape).astype(np.float32), name)

    nodes = [
        helper.make_node(
            "GRU", ["x", "W", "R", "B"], ["y4"], hidden_size=units, linear_before_reset=1
        ),
        helper.make_node("Squeeze", ["y4", "axes"], ["y"]),
        helper.make_node("MatMul", ["y", "V"], ["v"]),
        helper.make_node("Sigmoid", ["v"], ["z"]),
    ]
    graph = helper.make_graph(
        nodes,
        "small",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["steps", 1, inputs])],
        [helper.make_tensor_value_info("z", TensorProto.FLOAT, ["steps", 1, outputs])],
        [
            tensor("W", 1, 3 * units, inputs),
            tensor("R", 1, 3 * units, units),
            tensor("B", 1, 6 * units),
            tensor("V", units, outputs),
            numpy_helper.from_array(np.array([1], np.int64), "axes"),
        ],
    )
    opset = helper.make_opsetid("", 17)
    onnx.save(helper.make_model(graph, opset_imports=[opset], ir_version=8), str(path))


@pytest.fixture(scope="module")
def made_once(tmp_path_factory):
    """A folder with everything that pages speak of."""
    folder = tmp_path_factory.mktemp("world")
    rng = np.random.default_rng(5)
    with contextlib.chdir(folder):
        save_model(Path("model.onnx"))
        for name, steps in {"x": 300, "test": 40, "clips/0": 200, "clips/1": 200}.items():
            Path(f"{name}.npy").parent.mkdir(exist_ok=True)
            np.save(f"{name}.npy", np.cumsum(rng.normal(0, 0.1, (steps, 8)), axis=0))
        quantize = "quantize model.onnx --data x.npy --threshold 16/256 -o net.safetensors"
        assert main(quantize.split()) == 0
        Path("examples").symlink_to(ROOT / "examples")
    return folder


VERILOG = functools.cache(generate_module.core_verilog)
"""Pages generate the same few cores."""


@pytest.fixture
def world(made_once, tmp_path, monkeypatch):
    """A copy of that folder; the working directory of the test."""
    shutil.copytree(made_once, tmp_path, symlinks=True, dirs_exist_ok=True)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(generate_module, "core_verilog", VERILOG)
    return tmp_path


# -- running --------------------------------------------------------------------------------------


class Parsed(BaseException):
    """A command line was understood."""


def understood(argv: list[str], monkeypatch) -> None:
    """Requires that a command and its options exist, without running it."""
    parse = argparse.ArgumentParser.parse_args

    def stop(self, args=None, namespace=None):
        parse(self, args, namespace)
        raise Parsed

    with monkeypatch.context() as patch:
        patch.setattr(argparse.ArgumentParser, "parse_args", stop)
        with pytest.raises(Parsed):
            assert main(argv) == 0, f"stillnet {' '.join(argv)} is not understood"


def stillnet(words: list[str], run: bool, monkeypatch) -> None:
    """A line that begins with ``stillnet``."""
    if "--cells" in words and run:  # registers cells, so it has a process of its own
        subprocess.run([sys.executable, "-m", "stillnet.sw.cli.main", *words], check=True)
    elif run:
        assert main(words) == 0, f"stillnet {' '.join(words)}"
    else:
        at = words.index("--cells") if "--cells" in words else -1
        understood(words[at + 2 :] if at >= 0 else words, monkeypatch)


def python(words: list[str], run: bool) -> None:
    """A line that begins with ``python``: an example, or pytest."""
    if words[:2] == ["-m", "pytest"]:
        places = [w.partition("::")[0] for w in words[2:] if w.startswith("tests")]
        assert places and all((ROOT / place).exists() for place in places), words
        return
    script = ROOT / words[0]
    assert script.is_file(), f"there is no {words[0]}"
    if run:
        subprocess.run([sys.executable, str(script), *words[1:]], check=True)
    shared = script.parent / "shared.py"  # has the options that all scripts of its folder take
    text = script.read_text() + (shared.read_text() if shared.is_file() else "")
    for option in (word for word in words if word.startswith("--")):
        assert f'"{option}"' in text, f"{words[0]} has no {option}"


def extras(words: list[str]) -> None:
    """``pip install``: of this project, with extras that it has, or of packages that it names."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    known = str(project)
    for word in words[1:]:
        for extra in re.findall(r"\[([\w,]+)\]", word):
            assert set(extra.split(",")) <= set(project["optional-dependencies"]), word
        if re.fullmatch(r"\w[\w-]*", word):
            assert word in known or word == "onnxscript", word


def shell(block: Block, monkeypatch) -> None:
    """Runs or checks the lines of a shell block."""
    run = not block.why
    for words in commands(block):
        while words and re.fullmatch(r"[A-Z_]+=\S*", words[0]):
            words = words[1:]
        name, rest = words[0].removeprefix(".venv/bin/"), words[1:]
        if name == "stillnet":
            stillnet(rest, run, monkeypatch)
        elif name == "python":
            python(rest, run)
        elif name == "make":
            target = next(w for w in rest if "=" not in w)
            assert re.search(rf"^{target}:", (ROOT / "Makefile").read_text(), re.MULTILINE), target
        elif name == "pip":
            extras(rest)
        else:
            assert name in (".", "cd", "git"), f"this test knows no command '{name}'"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_code_of_a_page(page, world, monkeypatch, capsys):
    """Blocks run in order and share the folder; Python blocks share their names."""
    names: dict[str, object] = {"__name__": "page"}
    for block in blocks(page):
        if block.language == "sh":
            shell(block, monkeypatch)
        elif block.language == "python" and block.why:
            ast.parse(block.text)
        elif block.language == "python":
            code = compile("\n" * (block.line - 1) + block.text, str(page), "exec")
            with contextlib.chdir(world):
                exec(code, names)


# -- links ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_links_of_a_page(page):
    for target, anchor in links(page):
        path = (page.parent / target).resolve() if target else page
        if path in GENERATED:
            continue
        assert path.exists(), f"{target} is not there"
        assert not anchor or anchor in anchors(path), f"{target} has no heading #{anchor}"


def test_code_cites_pages_that_exist():
    """docs/... in comments, messages and docstrings."""
    files = [path for folder in CODE for path in (ROOT / folder).rglob("*.py")]
    files += [ROOT / "Makefile", ROOT / "pyproject.toml", ROOT / "mkdocs.yml"]
    missing = {
        f"{path.relative_to(ROOT)}: {cited}"
        for path in files
        for cited in CITED.findall(path.read_text())
        if not (ROOT / cited).exists() and ROOT / cited not in GENERATED
    }
    assert not missing


def test_every_page_is_in_the_navigation():
    listed = set(re.findall(r": ([\w/-]+\.md)$", (ROOT / "mkdocs.yml").read_text(), re.MULTILINE))
    there = {page.relative_to(DOCS).as_posix() for page in [*PAGES[1:], *GENERATED]}
    assert listed == there | {"index.md"}


def test_few_files_in_a_folder():
    """A reader finds things by the names of folders."""
    for folder in [DOCS, *(p for p in DOCS.rglob("*") if p.is_dir())]:
        files = [p for p in folder.iterdir() if p.is_file()]
        assert len(files) <= 16, f"{folder.relative_to(ROOT)}: {len(files)} files"

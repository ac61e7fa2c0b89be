"""Pages of the site that are made while it is built, and links that leave ``docs/``.

* The front page is the README.
* ``reference/commands.md`` is what each command says under ``--help``.
* ``reference/python.md`` lists the names of ``import stillnet``; mkdocstrings fills it.
* ``reference/presets.md`` comes from the presets and from the catalogue of boards.
* A link to a file outside ``docs/`` leads to a page of the site that shows the file.
"""

from __future__ import annotations

import ast
import contextlib
import dataclasses
import io
import os
import posixpath
import re
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
LINK = re.compile(r"(\]\()([^)\s#]+)(#[^)\s]*)?(\))")
ROLE = re.compile(r":(?:class|func|meth|mod|attr):`~?(?:[\w.]*\.)?(\w+)`")
LANGUAGES = {
    ".py": "python",
    ".c": "c",
    ".toml": "toml",
    ".h": "cpp",
    ".cpp": "cpp",
    ".v": "verilog",
}
PACKAGES = ("hw", "sw", "sim", "boards")


# -- generated pages ------------------------------------------------------------------------------


def front_page() -> str:
    """The README, seen from ``docs/``."""
    return (ROOT / "README.md").read_text()


def run_command(*argv: str) -> str:
    """What ``stillnet`` prints."""
    from stillnet.sw.cli.main import main

    os.environ["COLUMNS"] = "96"
    output = io.StringIO()
    with contextlib.redirect_stdout(output):
        code = main(argv)
    if code:
        raise SystemExit(f"stillnet {' '.join(argv)} ended with code {code}")
    return output.getvalue().rstrip()


def command_names() -> list[str]:
    """All commands, in the order of ``stillnet --help``."""
    _, _, listed = run_command("--help").partition("commands:\n")
    return re.findall(r"^  (\w[\w-]*)  +\S", listed.partition("\n\n")[0], re.MULTILINE)


def commands_page() -> str:
    """What every command says of itself."""
    text = run_command("--help")
    lines = [
        "# Commands",
        "",
        "This page is what the commands themselves say under `--help`. Exit codes: 0 done, 1 the "
        "hardware differs from the reference, 2 bad input or usage (one sentence on standard "
        "error), 130 interrupted.",
        "",
        f"```text\n{text}\n```",
    ]
    for name in command_names():
        lines += ["", f"## stillnet {name}", "", f"```text\n{run_command(name, '--help')}\n```"]
    return "\n".join(lines) + "\n"


def python_page() -> str:
    """A directive of mkdocstrings for each public name."""
    import stillnet

    lines = ["# Python", "", "```python", "import stillnet as sn", "```", ""]
    lines += [
        "These are the names of the package. Each is loaded when it is first used, so the import "
        "itself takes no time.",
    ]
    for name in stillnet.__all__:
        value = getattr(stillnet, name)
        place = f"{value.__module__}.{value.__qualname__}"
        lines += ["", f"## sn.{name}", "", f"::: {place}", "    options:"]
        lines += ["      show_root_heading: false", "      show_root_toc_entry: false"]
    return "\n".join(lines) + "\n"


def field_meanings(documented: type) -> dict[str, str]:
    """The attributes of a class by name, from its docstring in NumPy's style."""
    text = documented.__doc__ or ""
    entries = re.findall(
        r"^    (\w[\w, ]*) : [^\n]*\n((?:^        [^\n]*\n|^\n)+)", text + "\n", re.MULTILINE
    )
    return {
        name.strip(): " ".join(meaning.split())
        for names, meaning in entries
        for name in names.split(",")
    }


def shown(value: Any) -> str:
    """A value as it stands in a table."""
    if isinstance(value, bool):
        return "yes" if value else "–"
    if isinstance(value, int):
        return f"{value:,}"
    if isinstance(value, tuple):
        return ", ".join(map(str, value)) or "–"
    return str(value)


def table(head: list[str], rows: list[list[str]]) -> list[str]:
    """A table in Markdown."""
    cells = [head, ["---"] * len(head), *rows]
    return ["| " + " | ".join(row) + " |" for row in cells]


def presets_page() -> str:
    """Presets by field, boards by what they have."""
    from stillnet import EngineConfig
    from stillnet.boards.catalogue import BOARDS
    from stillnet.sw.contract.config import PRESETS

    fields = [f.name for f in dataclasses.fields(EngineConfig) if f.name != "name"]
    meanings = {
        k: v.split(". ")[0].rstrip(".").replace("``", "`")
        for k, v in field_meanings(EngineConfig).items()
    }
    lines = [
        "# Presets and boards",
        "",
        "An engine is what its configuration says. Give a preset, the name of a board, or a TOML "
        "file with fields of your own: `--preset NAME_OR_FILE`. A field that the file leaves out "
        "has its default.",
        "",
        "## Presets",
        "",
        *table(
            ["field", *(f"`{name}`" for name in PRESETS)],
            [
                [f"`{field}`", *(shown(getattr(preset, field)) for preset in PRESETS.values())]
                for field in fields
            ],
        ),
        "",
        "## Fields",
        "",
        *table(
            ["field", "default", "meaning"],
            [
                [f"`{f.name}`", shown(f.default), meanings.get(f.name, "")]
                for f in dataclasses.fields(EngineConfig)
                if f.name != "name"
            ],
        ),
        "",
        "## Boards",
        "",
        "The name of a board is the preset of its own engine too.",
        "",
        *table(
            ["`--board`", "board", "device", "memory", "clock", "lanes", "units", "inputs"],
            [
                [
                    f"`{name}`",
                    board.title,
                    board.device,
                    memory_of(board),
                    f"{board.clock_hz / 1e6:g} MHz",
                    *(shown(getattr(board.config(), f)) for f in ("lanes", "units", "inputs")),
                ]
                for name, board in BOARDS.items()
            ],
        ),
    ]
    return "\n".join(lines) + "\n"


def memory_of(board: Any) -> str:
    """Where a board keeps its weights."""
    if board.sdram is None:
        return f"{board.config().ram_words * board.config().word_bits // 8192} kB in the FPGA"
    return f"{board.sdram.data_bits}-bit SDRAM {board.part}"


GENERATED = {
    "index.md": front_page,
    "reference/commands.md": commands_page,
    "reference/python.md": python_page,
    "reference/presets.md": presets_page,
}


# -- files outside docs/ --------------------------------------------------------------------------


def first_sentence(path: Path) -> str:
    """Of a module's docstring."""
    try:
        text = ast.get_docstring(ast.parse(path.read_text())) or ""
    except (SyntaxError, UnicodeDecodeError):
        return ""
    return text.split("\n\n")[0].replace("\n", " ")


def source_page(path: Path) -> str:
    """A page that shows a file, or lists a folder."""
    name = path.relative_to(ROOT).as_posix()
    lines = ["---", "search:", "  exclude: true", "---", f"# {name}", ""]
    if path.is_dir():
        rows = [[f"`{p.name}`", first_sentence(p)] for p in sorted(path.glob("*.py"))]
        rows += [
            [f"`{p.parent.name}/`", first_sentence(p)] for p in sorted(path.glob("*/__init__.py"))
        ]
        return "\n".join([*lines, *table(["file", "what it holds"], rows)]) + "\n"
    language = LANGUAGES.get(path.suffix, "text")
    return "\n".join([*lines, f"````{language}", path.read_text().rstrip(), "````"]) + "\n"


def has_own_page(path: Path) -> bool:
    """Whether the site has a file under its own name."""
    return path.is_relative_to(ROOT / "docs") and path.suffix != ".py"


def source_uri(path: Path) -> str:
    """Where the page of a file outside ``docs/`` stands."""
    return f"source/{path.relative_to(ROOT).as_posix().rstrip('/')}.md"


def targets(uri: str, text: str) -> Iterator[tuple[str, Path]]:
    """Links of a page to files: as written, and what they mean."""
    folder = ROOT if uri == "index.md" else (ROOT / "docs" / uri).parent
    for _, link, _, _ in LINK.findall(text):
        if not re.match(r"[a-z]+:", link):
            yield link, Path(os.path.normpath(folder / link))


def relative(uri: str, target: str) -> str:
    """A link from one page of the site to another one."""
    return posixpath.relpath(target, posixpath.dirname(uri) or ".")


# -- events of MkDocs -----------------------------------------------------------------------------


def on_startup(command: str, dirty: bool) -> None:
    """Lays out the package as mkdocstrings reads it: it follows no links to folders."""
    package = ROOT / "build" / "site-package" / "stillnet"
    shutil.rmtree(package, ignore_errors=True)
    for name, source in {"": "sw/api", **{name: name for name in PACKAGES}}.items():
        shutil.copytree(ROOT / source, package / name, ignore=_only_python, dirs_exist_ok=True)

    for path in package.rglob("*.py"):
        # Roles of Sphinx mean nothing here: :class:`~a.b.Name` becomes `Name`.
        path.write_text(ROLE.sub(r"`\1`", path.read_text()))


def _only_python(folder: str, names: list[str]) -> list[str]:
    place = Path(folder)
    return [n for n in names if n == "__pycache__" or not (place / n).is_dir() and n[-3:] != ".py"]


def on_files(files: Any, config: Any) -> Any:
    """Adds the generated pages, and a page for each file that a page links to."""
    from mkdocs.structure.files import File

    texts = {uri: make() for uri, make in GENERATED.items()}
    pages = {f.src_uri: Path(f.abs_src_path).read_text() for f in files.documentation_pages()}
    linked = {
        path
        for uri, text in (pages | texts).items()
        for _, path in targets(uri, text)
        if path.exists() and path.is_relative_to(ROOT) and not has_own_page(path)
    }
    texts |= {source_uri(path): source_page(path) for path in linked if path != ROOT / "README.md"}
    for uri, text in texts.items():
        files.append(File.generated(config, uri, content=text))
    return files


def on_page_markdown(markdown: str, page: Any, config: Any, files: Any) -> str:
    """Turns links that work on GitHub into links that work on the site."""
    uri = page.file.src_uri
    if uri.startswith("source/"):
        return markdown
    meant = dict(targets(uri, markdown))

    def site(match: re.Match[str]) -> str:
        opening, link, anchor, closing = match.groups()
        path = meant.get(link)
        if path is None or not path.is_relative_to(ROOT):
            return match.group(0)
        if path == ROOT / "README.md":
            target = "index.md"
        elif has_own_page(path):
            target = path.relative_to(ROOT / "docs").as_posix()
        elif path.exists():
            target = source_uri(path)
        else:
            return match.group(0)  # a dead link: the strict build names it
        return f"{opening}{relative(uri, target)}{anchor or ''}{closing}"

    return LINK.sub(site, markdown)


if __name__ == "__main__":  # prints a generated page
    print(GENERATED[sys.argv[1]]())

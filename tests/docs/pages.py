"""Pages as the tests see them: blocks of code in order, links, anchors."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

__all__ = ["DOCS", "PAGES", "ROOT", "Block", "anchors", "blocks", "commands", "links", "prose"]

ROOT = Path(__file__).resolve().parents[2]
DOCS = ROOT / "docs"
PAGES = [ROOT / "README.md", *sorted(DOCS.rglob("*.md"))]

_FENCE = re.compile(
    r"^(?:<!-- not run: (?P<why>.+?) -->\n)?```(?P<language>\w*)\n(?P<text>.*?)^```$",
    re.MULTILINE | re.DOTALL,
)
_LINK = re.compile(r"\]\(([^)\s#]*)(?:#([^)\s]*))?\)")


@dataclass(frozen=True)
class Block:
    """A block of code of a page.

    Attributes
    ----------
    language : str
        ``sh``, ``python``; others are not looked at.
    text : str
    line : int
        Of its first line in the page.
    why : str
        Why it is not run, from the comment ``<!-- not run: WHY -->`` in front of it; empty where it
        is run.
    """

    language: str
    text: str
    line: int
    why: str


def blocks(page: Path) -> Iterator[Block]:
    """Fenced blocks of a page, in order."""
    text = page.read_text()
    for match in _FENCE.finditer(text):
        line = text.count("\n", 0, match.start("text")) + 1
        yield Block(match["language"], match["text"], line, match["why"] or "")


def commands(block: Block) -> Iterator[list[str]]:
    """Command lines of a shell block, as lists of words; ``a && b`` are two."""
    joined = block.text.replace("\\\n", " ")
    for line in joined.splitlines():
        words = shlex.split(line, comments=True)
        while "&&" in words:
            at = words.index("&&")
            yield words[:at]
            words = words[at + 1 :]
        if words:
            yield words


def prose(page: Path) -> str:
    """A page without its blocks of code and without inline code."""
    return re.sub(r"`[^`\n]*`", "", _FENCE.sub("", page.read_text()))


def links(page: Path) -> Iterator[tuple[str, str]]:
    """Links of a page that stay in the repository: path as written, anchor."""
    for target, anchor in _LINK.findall(prose(page)):
        if not re.match(r"[a-z]+:", target):
            yield target, anchor


def anchors(page: Path) -> set[str]:
    """Names of headings, as GitHub and MkDocs make them, and anchors written as HTML."""
    text = _FENCE.sub("", page.read_text())
    found = set(re.findall(r'<a (?:id|name)="([^"]+)"', text))
    found |= set(re.findall(r"\{ ?#([\w-]+) ?\}", text))
    for heading in re.findall(r"^#+ (.+?)(?: \{ ?#.*\})?$", text, re.MULTILINE):
        plain = re.sub(r"[`*]|\[([^\]]*)\]\([^)]*\)", r"\1", heading).lower()
        found.add(re.sub(r"[\s-]+", "-", re.sub(r"[^\w\s-]", "", plain).strip()))
    return found

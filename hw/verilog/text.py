"""Engines as Verilog text, for tools and for people."""

from __future__ import annotations

import functools
import os
import re
from collections import Counter
from collections.abc import Sequence

from stillnet.hw.engine import Engine
from stillnet.hw.parts.elaboration import swift_elaboration
from stillnet.sw.contract.config import EngineConfig

__all__ = ["engine_verilog", "readable_verilog", "to_verilog"]

_BACKEND = "$auto$verilog_backend"
_RUN_ONCE = re.compile(rf"^ *reg (\\{re.escape(_BACKEND)}\S*) *= 0;\n", re.M)
_CONSTANT = re.compile(
    r"^( *)always @\*\n( *(?:\w+|\\\S+ )(?: ?\[[\d:]+\])? = \d+'[hd][0-9a-fx]+;\n)", re.M
)


def to_verilog(component: object, name: str) -> str:
    """Verilog of a component; its ports are those of its signature.

    The Yosys that comes with Amaranth does the conversion, so that the text depends on no tool of
    the machine. Every combinational block is evaluated at time zero, in every simulator.
    """
    from amaranth.back import verilog

    os.environ.setdefault("AMARANTH_USE_YOSYS", "builtin")
    with swift_elaboration():
        text = verilog.convert(component, name=name, emit_src=False)
    return _started(text)


def _started(text: str) -> str:
    """Verilog in which no combinational block waits for a change that never comes.

    Yosys has each block read a register that is set as it is declared. Icarus sets it before the
    blocks wait, and they miss it: what reads only values that keep still would stay unknown. So the
    register changes once more, by an assignment that takes place when all blocks wait. Synthesis
    does not see that, as it needs none of it. A block that reads nothing has no register.
    """
    starts = r"\g<0>`ifndef SYNTHESIS\n  initial \1  <= 1;\n`endif\n"
    return _CONSTANT.sub(r"\1initial\n\2", _RUN_ONCE.sub(starts, text))


@functools.lru_cache(maxsize=32)
def engine_verilog(config: EngineConfig, *, check_dispatch: bool = True) -> str:
    """The bare engine of a configuration: register bus, streams and memory port."""
    return to_verilog(Engine(config, check_dispatch=check_dispatch), "engine")


# -- the same for people --------------------------------------------------------------------------

_COLUMNS = 100
_LOOP = 256
"""Words that one initial block sets: Yosys takes time that grows with their square."""
_TRIGGER = "run_once"
_ESCAPED = re.compile(r"\\(\S+)\s")
_MODULE = re.compile(r"^module (\w+) *\(([^)]*)\);\n(.*?)^endmodule\n", re.M | re.S)
_WORD = re.compile(r"^    (\w+)\[(\d+)\] = (\d+'[hd][0-9a-f]+);$")
_REPEATED = re.compile(r"(?<![\w\]])(\w+(?:\[[\d:]+\])?)((?:, \1(?![\w\[])){3,})")


def readable_verilog(text: str, top: str, comments: dict[str, str]) -> str:
    """Rewrites converted Verilog so that people can read it; the hardware is the same.

    Names become plain identifiers, modules that are alike become one, memories are set in loops or
    several words a line, repeated bits become replications, and the top module comes first with
    one port a line.

    Parameters
    ----------
    text : str
        From :func:`to_verilog`.
    top : str
        The top module.
    comments : dict of str to str
        A comment by name of a port of the top module, in the order in which ports are listed.
        Lines before the last one are a heading of the ports that share it.

    Returns
    -------
    str
    """
    text = re.sub(r"^/\*.*?\*/\s*", "", text, count=1, flags=re.S)
    text = re.sub(r"/\* *_\d+_ *\*/", "", text)
    text = re.sub(r"^ *\(\* *(?:generator|top|init|enum_\w+) = [^\n]*\*\)\n", "", text, flags=re.M)
    text = _plain_names(text)
    text = _REPEATED.sub(_replicate, text)
    text = re.sub(r"^(  (?:input|output)( .*;\n))  wire\2", r"\1", text, flags=re.M)
    modules = {m[1]: (m[2], m[3]) for m in _MODULE.finditer(text)}
    ports, body = modules.pop(top)
    modules, renamed = _merge(modules)
    used = Counter(re.findall(r"^  (\w+) \w+ \($", "".join(b for _, b in modules.values()), re.M))
    parts = [_top_module(top, body, comments, renamed)]
    for name, (ports, body) in modules.items():
        times = f"// One module for {used[name]} instances.\n" if used[name] > 1 else ""
        listed = _wrap([p.strip() for p in ports.split(",")], "  ", ", ")
        parts.append(f"{times}module {name} (\n{listed}\n);\n{_body(body)}endmodule\n")
    return "\n".join(parts)


def _plain_names(text: str) -> str:
    """Replaces escaped identifiers by plain ones that nothing else is called."""
    escaped = set(_ESCAPED.findall(text))
    taken = set(re.findall(r"[A-Za-z_]\w*", _ESCAPED.sub(" ", text)))
    names = {}
    for name in sorted(escaped):
        if re.fullmatch(r"\$\d+", name):
            plain = f"n{name[1:]}"
        elif name.startswith(_BACKEND):
            names[name] = _TRIGGER
            continue
        else:
            plain = re.sub(r"_*\W+_*", "_", name).strip("_")
        if plain == name or not re.match(r"[A-Za-z_]", plain):  # a keyword, or a digit first
            plain += "_" if plain == name else ""
            plain = plain if re.match(r"[A-Za-z_]", plain) else f"_{plain}"
        while plain in taken:
            plain += "_"
        taken.add(plain)
        names[name] = plain
    return re.sub(_ESCAPED, lambda m: names[m[1]] + _space(m), text)


def _space(match: re.Match[str]) -> str:
    """The space that ends an escaped identifier goes, but not one that separates words."""
    after = match.string[match.end() : match.end() + 1]
    return match[0][-1] if re.match(r"[\w(\\]", after) else ""


def _replicate(match: re.Match[str]) -> str:
    count = 1 + match[2].count(",")
    return f"{{{count}{{{match[1]}}}}}"


def _merge(
    modules: dict[str, tuple[str, str]],
) -> tuple[dict[str, tuple[str, str]], dict[str, str]]:
    """Keeps one of the modules that are alike; returns the rest and what each name became."""
    renamed: dict[str, str] = {}
    while True:
        first: dict[tuple[str, str], str] = {}
        same = {}
        for name, module in modules.items():
            kept = first.setdefault(module, name)
            if kept != name:
                same[name] = kept
        if not same:
            return modules, renamed
        renamed = {k: same.get(v, v) for k, v in renamed.items()} | same
        modules = {
            name: (ports, _rename(body, same))
            for name, (ports, body) in modules.items()
            if name not in same
        }


def _rename(body: str, names: dict[str, str]) -> str:
    return re.sub(r"^  (\w+)(?= \w+ \($)", lambda m: f"  {names.get(m[1], m[1])}", body, flags=re.M)


def _wrap(words: Sequence[str], indent: str, separator: str) -> str:
    lines, line = [], indent
    for k, word in enumerate(words):
        word += separator if k < len(words) - 1 else ""
        if len(line) + len(word.rstrip()) > _COLUMNS and line != indent:
            lines.append(line.rstrip())
            line = indent
        line += word
    return "\n".join([*lines, line.rstrip()])


def _body(body: str) -> str:
    """Sets memories in loops, or several words a line, and breaks long lines."""
    lines: list[str] = []
    words: list[tuple[int, str]] = []
    memory = ""

    def flush() -> None:
        nonlocal words
        k = 0
        items: list[str] = []
        while k < len(words):
            last = k
            while last + 1 < len(words) and words[last + 1][1] == words[k][1]:
                last += 1
            address, value = words[k]
            if last - k >= 8:
                if items:
                    lines.append(_wrap(items, "    ", " "))
                    items = []
                stop = words[last][0] + 1
                for begin in range(address, stop, _LOOP):
                    if begin > address:
                        lines.extend(["  end", "  initial begin"])
                    lines.append(
                        f"    for (init_row = {begin}; init_row < {min(begin + _LOOP, stop)}; "
                        "init_row = init_row + 1)"
                    )
                    lines.append(f"      {memory}[init_row] = {value};")
                k = last + 1
            else:
                items.append(f"{memory}[{address}] = {value};")
                k += 1
        if items:
            lines.append(_wrap(items, "    ", " "))
        words = []

    for line in body.splitlines():
        match = _WORD.match(line)
        if match and (not words or match[1] == memory):
            memory = match[1]
            words.append((int(match[2]), match[3]))
            continue
        flush()
        if match:
            memory = match[1]
            words.append((int(match[2]), match[3]))
        else:
            lines.append(_break(line))
    flush()
    if any("init_row" in line for line in lines):
        place = next(k for k, line in enumerate(lines) if line.startswith("  initial begin"))
        lines.insert(place, "  integer init_row;")
    return "\n".join(lines) + "\n"


def _break(line: str) -> str:
    """Breaks a long line after commas."""
    if len(line) <= _COLUMNS or ", " not in line:
        return line
    indent = " " * (len(line) - len(line.lstrip()) + 4)
    head, *rest = line.split(", ")
    lines = [head]
    for word in rest:
        if len(lines[-1]) + len(word) + 3 > _COLUMNS:
            lines[-1] += ","
            lines.append(indent + word)
        else:
            lines[-1] += f", {word}"
    return "\n".join(lines)


def _top_module(top: str, body: str, comments: dict[str, str], renamed: dict[str, str]) -> str:
    """The top module with its ports in the order of ``comments``, one a line with its comment."""
    directions: dict[str, str] = {}
    registers = set()
    for m in re.finditer(r"^  (input|output) (\[\d+:0\] )?(\w+);\n", body, re.M):
        directions[m[3]] = f"{m[1]} {{}}{m[2] or ''}"
    for name in directions:
        body = re.sub(rf"^  (?:input|output|wire) (?:\[\d+:0\] )?{name};\n", "", body, flags=re.M)
        declared = re.search(rf"^  reg (?:\[\d+:0\] )?{name}(?: = \S+)?;\n", body, re.M)
        if declared:
            registers.add(name)
            if " = " not in declared[0]:
                body = body.replace(declared[0], "")
            else:
                body = body.replace(
                    declared[0], f"  initial {declared[0].split(']')[-1].strip()}\n"
                )
                body = body.replace("  initial reg ", "  initial ")
    names = [n for n in comments if n in directions]
    names += [n for n in directions if n not in comments]
    lines, group = [], None
    for k, name in enumerate(names):
        head, _, comment = comments.get(name, "").rpartition("\n")
        if head and head != group:
            group = head
            lines += ([""] if k else []) + [f"  // {line}" for line in head.splitlines()]
        comma = "," if k < len(names) - 1 else ""
        declaration = directions[name].format("reg " if name in registers else "wire ") + name
        declaration = f"  {declaration}{comma}"
        if comment and max(40, len(declaration)) + len(comment) + 4 <= _COLUMNS:
            lines.append(f"{declaration:<40} // {comment}")
        else:
            lines += [f"  // {comment}"] if comment else []
            lines.append(declaration)
    return (
        f"module {top} (\n" + "\n".join(lines) + f"\n);\n{_body(_rename(body, renamed))}endmodule\n"
    )

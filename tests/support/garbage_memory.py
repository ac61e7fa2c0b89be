"""Block RAM that gives garbage for a row that is read while it is written.

Memories that are told ``no_rw_check`` may give anything then, and on an FPGA they do; simulators
give the old value.
"""

from __future__ import annotations

import re

__all__ = ["garbage_reads"]

_MEMORY = re.compile(
    r"\(\* no_rw_check = [^*]*\*\)\s+reg \[[^]]*\] (?P<name>\S+) +\[.*?"
    r"if \((?P<enable>[^)]*)\)\s+(?P=name) *\[(?P<write>[^;]*)\] <= .*?"
    r"(?P<take>_\d+_ <= )(?P<value>(?P=name) *\[(?P<read>[^;]*)\]);",
    re.S,
)


def _garbage(match: re.Match[str]) -> str:
    part = match.groupdict()
    hit = f"{{128{{({part['enable']}) && ({part['write']}) == ({part['read']})}}}}"
    old = f"{part['take']}{part['value']};"
    assert match[0].count(old) == 1
    return match[0].replace(old, f"{part['take']}{part['value']} ^ {hit};")


def garbage_reads(verilog: str) -> tuple[str, int]:
    """The text with every such read of a row being written inverted, and how many memories there
    are; fails where one is not of the form that Amaranth writes."""
    text, count = _MEMORY.subn(_garbage, verilog)
    assert count == text.count("no_rw_check")
    return text, count

"""LiteDRAM's ``DFITimingsChecker`` on the pins of a simulated SDRAM.

The checker is Migen; Migen itself converts it to Verilog. The one change to the text is that each
message is counted instead of printed, so that a test can ask for it by name.
"""

from __future__ import annotations

import ctypes
import re
from collections import Counter
from functools import cache
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from litedram import modules
from litedram.phy.model import DFITimingsChecker
from migen import Module, Signal
from migen.fhdl import verilog

from stillnet.hw.memory.sdram.parts import SdramPart
from stillnet.sim.compile.model import build_library
from stillnet.sim.sdram.simulation import SdramSimulation

HARNESS = Path(__file__).with_name("sdram_checker.cpp")

LITEDRAM = {
    "IS42S16160": modules.IS42S16160,
    "MT48LC16M16": modules.MT48LC16M16,
    "AS4C32M16": modules.AS4C32M16,
    "W9825G6KH": modules.W9825G6KH6,
    "M12L64322A": modules.M12L64322A,
    "M12L16161A-x2": modules.M12L16161A,
}
"""LiteDRAM's class for each of our parts. It has none for EM638325."""

MISFIRES = ("tREFI violation (64ms period)",)
"""LiteDRAM 2024.12 looks at this sum when a counter is zero, also right after reset."""


def checker_timings(part: SdramPart, clock_hz: int) -> dict[str, Any]:
    """What the checker requires: of LiteDRAM's figures and ours, the longer ones, in (cycles, ns).

    LiteDRAM has no figure for tRAS and tRRD of some parts, and then would not look.
    """
    ours = {
        "tRP": (0, part.trp),
        "tRCD": (0, part.trcd),
        "tWR": (part.twr_cycles, part.twr),
        "tRFC": (0, part.trfc),
        "tRAS": (0, part.tras),
        "tRRD": (part.trrd_cycles, part.trrd),
        "tREFI": (0, part.window_ms * 10**9 // part.refreshes),
    }
    timings: dict[str, Any] = {name: (c, ps / 1000) for name, (c, ps) in ours.items()}
    timings |= {"tCCD": (1, 0), "tWTR": (2, 0), "tFAW": None, "tZQCS": None}
    if part.name in LITEDRAM:
        theirs = LITEDRAM[part.name](clock_hz, "1:1")
        for name in ("tRP", "tRCD", "tWR", "tRFC", "tRAS", "tRRD", "tCCD", "tWTR"):
            value = theirs.get(name)
            if value is not None:
                timings[name] = tuple(max(a, b) for a, b in zip(timings[name], value, strict=True))
    timings["tCK"] = clock = 1e9 / clock_hz
    # The checker rounds two cycles of 7.519 ns up, and finds them longer than they are: a least
    # number of cycles is said by a time in the middle of the last one.
    least, longest = timings["tRRD"]
    timings["tRRD"] = (0, max(longest, (least - 0.5) * clock))
    return timings


@cache
def checker_verilog(part: SdramPart, clock_hz: int) -> tuple[str, tuple[str, ...]]:
    """The checker as Verilog, and its messages in the order of their counters."""

    class Top(Module):
        def __init__(self) -> None:
            self.pins = {
                "cs_n": Signal(name="cs_n"),
                "ras_n": Signal(name="ras_n"),
                "cas_n": Signal(name="cas_n"),
                "we_n": Signal(name="we_n"),
                "bank": Signal(part.bank_bits, name="bank"),
                "address": Signal(part.address_pins, name="address"),
            }
            dfi = SimpleNamespace(p0=SimpleNamespace(**self.pins))
            self.submodules.checker = DFITimingsChecker(
                dfi, part.banks, 1, checker_timings(part, clock_hz), None, "SDR"
            )

    top = Top()
    text = str(verilog.convert(top, set(top.pins.values()), name="timings"))
    messages: list[str] = []

    def count(match: re.Match[str]) -> str:
        messages.append(match[1])
        place = f"seen[{32 * (len(messages) - 1)} +: 32]"
        return f"{place} <= {place} + 1;"

    text = re.sub(r'\$display\("\[%016dps\] ([^"]*?)(?: on bank %0d|: %0d)?"[^;]*;', count, text)
    assert "$display" not in text and len(messages) > 20
    text = re.sub(
        r"module timings\(",
        f"module timings(\n\toutput reg [{32 * len(messages) - 1}:0] seen,",
        text,
    )
    return text, tuple(messages)


class TimingsChecker:
    """Watches the pins of a simulation from now on.

    Parameters
    ----------
    simulation : SdramSimulation
    part : SdramPart, optional
        Other timings than those of the simulation's part.
    """

    def __init__(self, simulation: SdramSimulation, part: SdramPart | None = None) -> None:
        controller = simulation.controller
        text, self._messages = checker_verilog(part or controller.part, controller.clock_hz)
        library = ctypes.CDLL(str(build_library(text, "timings", HARNESS, optimise="-O1")))
        library.checker_new.restype = ctypes.c_void_p
        library.checker_seen.restype = ctypes.c_uint32
        self._library = library
        self._handle = ctypes.c_void_p(library.checker_new())
        simulation.observe(library.checker_clock, self._handle)

    def seen(self) -> Counter[str]:
        """How often each message was given, banks taken together."""
        result: Counter[str] = Counter()
        for k, message in enumerate(self._messages):
            count = self._library.checker_seen(self._handle, k)
            if count and message not in MISFIRES:
                result[message.removesuffix(" violation")] += count
        return result

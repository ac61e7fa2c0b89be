"""What a board's SDRAM did, from the registers of its memory controller."""

from __future__ import annotations

import numpy as np

from stillnet.sw.contract import link
from stillnet.sw.contract.link import Command
from stillnet.sw.contract.registers import (
    SDRAM_COUNTERS,
    SDRAM_HIGH,
    SDRAM_HOLD,
    SDRAM_MAGIC,
    SDRAM_PARTS,
    Register,
    SdramCounter,
)
from stillnet.sw.util.results.runs import SdramUse

from .driver.session import Session

__all__ = ["sdram_use"]


def sdram_use(session: Session) -> SdramUse | None:
    """The counters since they were cleared, all of the same moment; None where a board has none.

    Parameters
    ----------
    session : Session
        Of an engine that has nothing to do.
    """
    selects: list[int] = [SdramCounter.KIND, SdramCounter.CLOCK]
    for counter in SDRAM_COUNTERS:
        selects += [counter, counter | SDRAM_HIGH]
    payload = b""
    for select in selects:
        payload += link.write(Register.SDRAM_SELECT, [select | SDRAM_HOLD], half=True)
        payload += link.read(Register.SDRAM_COUNT)
    payload += link.write(Register.SDRAM_SELECT, [0], half=True)
    values = np.frombuffer(session.call(Command.ACCESS, payload, 4 * len(selects)), "<u4").tolist()
    kind, khz, *parts = values
    if kind >> 16 != SDRAM_MAGIC or (kind & 0xFFFF) >= len(SDRAM_PARTS):
        return None
    counts = {
        counter.name.lower(): low | high << 32
        for counter, low, high in zip(SDRAM_COUNTERS, parts[::2], parts[1::2])
    }
    return SdramUse(part=SDRAM_PARTS[kind & 0xFF], clock_hz=1000 * khz, counts=counts)

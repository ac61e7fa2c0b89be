"""The boards that are known by name."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from stillnet.sw.contract.config import EngineConfig
from stillnet.sw.contract.errors import StillnetError

from .board import Board

__all__ = ["BOARDS", "board", "of_preset", "presets"]

TIERED = "-tiers"
"""After a board's name: its engine with a hot store."""


TANG_ENGINE = (
    *(("units", 3072), ("inputs", 512), ("accumulators", 1280), ("matrices", 16)),
    *(("cell_sharing", 4), ("prefetch_blocks", 4)),
)
"""Of the Tang Nano 20K: NSNet2's layers. Its FPGA has no blocks of RAM for powers of two, and a
cell that takes four cycles a unit, whose accumulators come in turn, is what nextpnr finds a place
for."""


def _ulx3s(size: str, block_rams: int, idcode: int) -> Board:
    return Board(
        name=f"ulx3s-{size}f",
        title=f"ULX3S {size}F",
        platform=f"amaranth_boards.ulx3s:ULX3S_{size}F_Platform",
        device=f"LFE5U-{size}F-6BG381C",
        block_rams=block_rams,
        part="16M16-any",
        loader=("-b", "ulx3s"),
        idcode=idcode,
        flash_bytes=16 << 20,
        image_offset=4 << 20,
        lamps=(("led", 0), ("led", 1), ("led", 2), ("led", 3)),
    )


def _up5k(name: str, title: str, platform: str, **board: Any) -> Board:
    return Board(
        name=name,
        title=title,
        platform=f"stillnet.boards.platforms.ice40:{platform}",
        device="iCE40UP5K-SG48",
        family="ice40",
        block_rams=30,
        part=None,
        idcode=None,
        image_offset=None,
        clock_hz=24_000_000,
        baud=1_000_000,
        cells=("gru", "linear"),
        ring_bytes=1024,
        window=4,
        **board,
    )


BOARDS: dict[str, Board] = {
    b.name: b
    for b in (
        _ulx3s("12", 56, 0x21111043),
        _ulx3s("25", 56, 0x41111043),
        _ulx3s("45", 108, 0x41112043),
        _ulx3s("85", 208, 0x41113043),
        Board(
            name="icepi-zero",
            title="Icepi Zero v1.3",
            platform="amaranth_boards.icepi_zero:IcepiZero1_3Platform",
            device="LFE5U-25F-6BG256C",
            block_rams=56,
            part="W9825G6KH",
            loader=("-b", "icepi-zero"),
            idcode=0x41111043,
            flash_bytes=16 << 20,
            image_offset=2 << 20,
            lamps=(("led", 0), ("led", 1), ("led", 2), ("led", 3)),
        ),
        Board(
            name="icesugar-pro",
            title="iCESugar-Pro",
            platform="amaranth_boards.icesugar_pro:ICESugarProPlatform",
            device="LFE5U-25F-6BG256C",
            block_rams=56,
            part="IS42S16160",
            loader=("-c", "cmsisdap"),
            cmsis_dap=True,
            idcode=0x41111043,
            flash_bytes=32 << 20,
            image_offset=2 << 20,
            lamps=(("rgb_led", 1), ("rgb_led", 2), ("rgb_led", 0)),
        ),
        Board(
            name="colorlight-5a-75b",
            title="Colorlight 5A-75B r7.0",
            platform="amaranth_boards.colorlight_5a75b_r7_0:Colorlight_5A75B_R70Platform",
            device="LFE5U-25F-6BG256C",
            block_rams=56,
            part="M12L16161A-x2",
            loader=("-b", "colorlight", "-c", "ft232"),
            idcode=0x41111043,
            flash_bytes=4 << 20,
            image_offset=1 << 20,
            clock_enable=False,
            lamps=(),
        ),
        Board(
            name="colorlight-i5",
            title="Colorlight i5 v7.0 on its extension board",
            platform="stillnet.boards.platforms.colorlight:ColorlightI5Platform",
            device="LFE5U-25F-6BG381C",
            block_rams=56,
            part="EM638325",
            loader=("-b", "colorlight-i5"),
            cmsis_dap=True,
            idcode=0x41111043,
            flash_bytes=2 << 20,
            image_offset=1 << 20,
            clock_enable=False,
            lamps=(("led", 0),),
        ),
        Board(
            name="colorlight-i9",
            title="Colorlight i9 v7.2 on its extension board",
            platform="stillnet.boards.platforms.colorlight:ColorlightI9Platform",
            device="LFE5U-45F-6BG381C",
            block_rams=108,
            part="M12L64322A",
            loader=("-b", "colorlight-i9"),
            cmsis_dap=True,
            idcode=0x41112043,
            flash_bytes=8 << 20,
            image_offset=2 << 20,
            clock_enable=False,
            lamps=(("led", 0),),
        ),
        Board(
            name="tang-nano-20k",
            title="Sipeed Tang Nano 20K",
            platform="stillnet.boards.platforms.gowin:TangNano20KPlatform",
            device="GW2AR-LV18QN88C8/I7",
            family="gowin",
            block_rams=44,  # of 46; two are the queue of columns
            part="EM638325",  # the die in the package has no name; this is the slowest of its kind
            clock_hz=81_000_000,
            cells=("gru", "linear", "relu", "sigmoid"),
            own=TANG_ENGINE,
            counted=False,  # two percent of its LUTs
            loader=("-b", "tangnano20k"),
            idcode=0x0000081B,
            flash_bytes=8 << 20,
            image_offset=2 << 20,
            lamps=(("led", 0), ("led", 1), ("led", 2), ("led", 3)),
        ),
        _up5k(
            "icebreaker",
            "iCEBreaker v1",
            "ICEBreakerPlatform",
            flash_bytes=16 << 20,
            loader=("-b", "ice40_generic"),
            usb="0403:6010",
            # Green on the board, two green ones of the section at PMOD 2, red on the board.
            lamps=(("led", 1), ("led", 3), ("led", 4), ("led", 0)),
        ),
        _up5k(
            "upduino",
            "UPduino v3",
            "UpduinoPlatform",
            flash_bytes=4 << 20,
            loader=("-b", "ice40_generic", "-c", "ft232"),
            usb="0403:6014",
            lamps=(("rgb", 0), ("rgb", 1), ("rgb", 2)),
            pll_pad=False,
            rgb_pins="gbr",
        ),
    )
}
"""The boards known by name."""


def board(name: str) -> Board:
    """The board of a name.

    Raises
    ------
    StillnetError
        If there is no such board.
    """
    if name not in BOARDS:
        raise StillnetError(f"board '{name}' is unknown; known are {', '.join(BOARDS)}")
    return BOARDS[name]


def presets() -> dict[str, EngineConfig]:
    """The engines of all boards by the board's name, and with a hot store as ``NAME-tiers``."""
    found = {name: target.config() for name, target in BOARDS.items()}
    for name, target in BOARDS.items():
        if target.can_tier:
            tiered = name + TIERED
            found[tiered] = replace(target.tiered().config(), name=tiered)
    return found


def of_preset(name: str) -> Board | None:
    """The board of an engine in :func:`presets`; None for any other name."""
    found = BOARDS.get(name.removesuffix(TIERED))
    return found.tiered() if found is not None and name.endswith(TIERED) else found

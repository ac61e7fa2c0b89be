"""A system on a chip, in simulation: a RISC-V CPU drives the core with the C driver.

::

    python examples/litex/soc.py net.safetensors x.npy --steps 20

builds a LiteX system (VexRiscv, Wishbone, UART) with the core in it, compiles ``main.c`` and the C
driver for the CPU, lets it run the network on the simulated system, and compares every output with
the reference. It needs LiteX and the CPU (``pip install litex pythondata-cpu-vexriscv``), and a
compiler for RISC-V (``apt-get install gcc-riscv64-unknown-elf``).
"""

from __future__ import annotations

import argparse
import contextlib
import ctypes
import logging
import shutil
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from stillnet.boards.systems import WEIGHTS
from stillnet.sim.compile.model import build_library
from stillnet.sw.contract.config import EngineConfig
from stillnet.sw.contract.errors import StillnetError
from stillnet.sw.host.c_driver import write_c_driver
from stillnet.sw.network.network import Network
from stillnet.sw.network.reference import Reference
from stillnet.sw.packing.engine_fit import fit
from stillnet.sw.packing.packer import pack

HERE = Path(__file__).parent
CLOCK_HZ = 65_536_000
ROM_BYTES = 1 << 20
RAM_BYTES = 1 << 20
COMPILER = "riscv64-unknown-elf-gcc"
FLAGS = ("-march=rv32im_zicsr", "-mabi=ilp32", "-O2", "-std=gnu99", "-ffreestanding", "-nostdlib")
FLAGS += ("-Wall", "-Wextra", "-DSTILLNET_LINK=0")
BY_INTERRUPT = 2
"""Steps at the beginning for which the CPU waits by interrupt."""
WEIGHTS_AT = RAM_BYTES // 2
"""Of main_ram, where weights are in memory on the bus."""


@dataclass(frozen=True)
class Outcome:
    """What the program said.

    Attributes
    ----------
    outputs : int array, shape (steps, outputs)
    cycles : int
        Of the steps that did not wait for an interrupt.
    busy : int
        Cycles of these in which a step was in progress in the core.
    interrupts : int
    """

    outputs: np.ndarray
    cycles: int
    busy: int
    interrupts: int


def make_system(config: EngineConfig, weights: str, folder: Path) -> Any:
    """The system, elaborated.

    Parameters
    ----------
    config : EngineConfig
    weights : str
        Where they are, one of ``WEIGHTS``.
    folder : Path
        For the core's Verilog.
    """
    from litex.build.generic_platform import Pins, Subsignal
    from litex.build.io import CRG
    from litex.build.sim import SimPlatform
    from litex.soc.integration.soc_core import SoCCore

    from stillnet.boards.systems.litex_core import add_stillnet

    logging.disable(logging.INFO)  # LiteX tells much about itself
    serial = [
        Subsignal(f"{way}_{name}", Pins(8 if name == "data" else 1))
        for way in ("source", "sink")
        for name in ("valid", "ready", "data")
    ]
    platform = SimPlatform("SIM", [("sys_clk", 0, Pins(1)), ("serial", 0, *serial)])
    sdram = weights == "sdram"
    soc = SoCCore(
        platform,
        CLOCK_HZ,
        cpu_type="vexriscv",
        uart_name="sim",
        timer_uptime=True,
        integrated_rom_size=ROM_BYTES,
        integrated_rom_init=[0],
        integrated_sram_size=RAM_BYTES // 4 if sdram else 8192,
        integrated_main_ram_size=0 if sdram else RAM_BYTES,
        ident_version=False,
    )
    soc.crg = CRG(platform.request("sys_clk"))
    if sdram:
        _add_sdram(soc)
    base = soc.mem_map["main_ram"] + (0 if sdram else WEIGHTS_AT)
    add_stillnet(soc, config, weights=weights, memory_base=base, folder=folder)
    soc.finalize()
    return soc


def _add_sdram(soc: Any) -> None:
    """LiteDRAM with its own model of a chip."""
    from litedram import modules
    from litedram.phy.model import SDRAMPHYModel, get_sdram_phy_settings

    module = modules.MT48LC16M16(CLOCK_HZ, "1:1")
    settings = get_sdram_phy_settings(memtype=module.memtype, data_width=32, clk_freq=CLOCK_HZ)
    soc.sdrphy = SDRAMPHYModel(module=module, settings=settings, clk_freq=CLOCK_HZ)
    soc.add_sdram("sdram", phy=soc.sdrphy, module=module, size=1 << 26, l2_cache_size=0)


def system_header(soc: Any, steps: int, by_interrupt: int) -> str:
    """What the program has to know: LiteX's own addresses, and the number of steps."""
    registers = {
        f"{region}_{register.name}": bank.origin + 4 * place
        for region, bank in soc.csr.regions.items()
        if isinstance(bank.obj, list)
        for register, place in _places(bank.obj)
    }
    wanted = ("timer0_uptime_latch", "timer0_uptime_cycles", "uart_rxtx", "uart_txfull")
    lines = ["/* Written by soc.py. */"]
    lines += [f"#define {name.upper()} {registers[name]:#x}u" for name in wanted]
    lines += [f"#define STILLNET_EV_ENABLE {registers['stillnet_ev_enable']:#x}u"]
    lines += [f"#define STILLNET_BASE {soc.bus.regions['stillnet'].origin:#x}u"]
    lines += [f"#define STILLNET_IRQ {soc.irq.locs['stillnet']}"]
    lines += ["#define TIMEOUT 30"]  # milliseconds, so that a simulation that hangs ends
    lines += [f"#define STEPS {steps}", f"#define BY_INTERRUPT {by_interrupt}"]
    control = registers.get("sdram_dfii_control")
    prepare = "" if control is None else f"WORD({control:#x}u) = 1"  # the controller has the pins
    return "\n".join([*lines, f"#define PREPARE() {prepare or '(void)0'}"]) + "\n"


def _places(registers: list[Any]) -> list[tuple[Any, int]]:
    """Each CSR with the index of its first word."""
    places, at = [], 0
    for register in registers:
        places.append((register, at))
        at += (register.size + 31) // 32
    return places


def compile_program(
    soc: Any,
    network: Network,
    config: EngineConfig,
    rows: np.ndarray,
    by_interrupt: int,
    folder: Path,
) -> bytes:
    """The program with driver, image and vectors, as it lies in ROM."""
    if shutil.which(COMPILER) is None:
        raise StillnetError(
            f"the compiler {COMPILER} is missing; install it: apt-get install "
            "gcc-riscv64-unknown-elf"
        )
    image = pack(network, config)
    write_c_driver(folder, loaded=image)
    (folder / "net.img").write_bytes(image.hardware)
    rows.astype("<i2").tofile(folder / "x.bin")
    (folder / "system.h").write_text(system_header(soc, len(rows), by_interrupt))
    ram = soc.bus.regions["main_ram" if soc.integrated_main_ram_size else "sram"]
    sources = [HERE / "start.S", HERE / "main.c", folder / "stillnet.c"]
    linker = [f"-Wl,--defsym=ROM={soc.mem_map['rom']:#x}", f"-Wl,--defsym=RAM={ram.origin:#x}"]
    size = min(ram.size, WEIGHTS_AT)
    linker += [f"-Wl,--defsym=RAM_SIZE={size:#x}", "-T", str(HERE / "link.ld")]
    command = [COMPILER, *FLAGS, f"-I{folder}", *linker, *map(str, sources), "-lgcc"]
    _call([*command, "-o", "program.elf"], folder)
    _call([COMPILER.replace("gcc", "objcopy"), "-O", "binary", "program.elf", "program"], folder)
    return (folder / "program").read_bytes()


def _call(command: list[str], folder: Path) -> None:
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"{command[0]} failed:\n{done.stderr[-4000:]}")


def simulate(soc: Any, program: bytes, folder: Path, limit: int) -> str:
    """What the program sends. Builds the simulation, or finds it in stillnet's cache."""
    converted = soc.platform.get_verilog(soc, name="system")
    sources = [Path(source[0]).read_text() for source in soc.platform.sources]
    lines = converted.main_source.splitlines()  # comments have the time of day
    verilog = "\n".join([line for line in lines if not line.startswith("//")] + sources)
    library = build_library(verilog, "system", HERE / "sim.cpp")
    for name, text in converted.data_files.items():
        (folder / name).write_text(text)
    program += bytes(-len(program) % 4)
    words = np.frombuffer(program, "<u4")
    (rom,) = [name for name in converted.data_files if "rom" in name]
    (folder / rom).write_text("".join(f"{word:08x}\n" for word in words))
    size = 1 << 20
    text = ctypes.create_string_buffer(size)
    call = ctypes.CDLL(str(library)).run_system
    call.restype = ctypes.c_uint64
    with contextlib.chdir(folder):
        sent = call(ctypes.c_uint64(limit), text, ctypes.c_uint64(size))
    return text.raw[:sent].decode("latin-1")


def run(
    network: Network,
    rows: np.ndarray,
    config: EngineConfig,
    *,
    weights: str = "core",
    by_interrupt: int = BY_INTERRUPT,
    limit: int = 50_000_000,
) -> Outcome:
    """Runs vectors of integers through the network on the simulated system.

    Parameters
    ----------
    network : Network
    rows : int array, shape (steps, inputs)
    config : EngineConfig
    weights : str
        One of ``WEIGHTS``.
    by_interrupt : int
        Steps at the beginning for which the CPU waits by interrupt.
    limit : int
        Cycles.
    """
    with tempfile.TemporaryDirectory(prefix="stillnet-litex-") as name:
        folder = Path(name)
        soc = make_system(config, weights, folder)
        program = compile_program(soc, network, config, rows, by_interrupt, folder)
        said = simulate(soc, program, folder, limit)
    head, _, rest = said.partition("outputs\n")
    found = dict(line.split(" ", 1) for line in head.splitlines() if " " in line)
    if "error" in found or not rest:
        raise StillnetError(f"the program on the system said: {said[-300:] or 'nothing'}")
    count = network.outputs
    pairs = np.array([int(line, 16) for line in rest.split()], "<u4").reshape(len(rows), -1)
    outputs = pairs.view("<i2")[:, :count].astype(np.int64)
    numbers = {key: int(found[key], 16) for key in ("cycles", "busy", "interrupts")}
    return Outcome(outputs, **numbers)


def main() -> int:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("network", help="a network that 'stillnet quantize' wrote")
    parser.add_argument("inputs", help="recording, .npy, of shape (steps, inputs)")
    parser.add_argument("--steps", type=int, default=10)
    parser.add_argument("--weights", choices=WEIGHTS, default="core")
    arguments = parser.parse_args()
    try:
        network = Network.load(arguments.network)
        if arguments.steps <= BY_INTERRUPT:
            raise StillnetError(f"--steps must be more than {BY_INTERRUPT}, not {arguments.steps}")
        x = np.load(arguments.inputs)[: arguments.steps]
        rows = network.quantize_input(x)
        config = EngineConfig.load("axi64" if arguments.weights != "core" else "tiny")
        config = fit(network, config)
        outcome = run(network, rows, config, weights=arguments.weights)
    except (StillnetError, OSError, ValueError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    reference = Reference(network, config.lanes)
    expected = np.array([reference.step_integers(row) for row in rows])
    wrong = int((outcome.outputs != expected).sum())
    streamed = len(rows) - BY_INTERRUPT
    print(f"{len(rows)} steps of '{network.name}', {expected.size} outputs, {wrong} differ")
    print(
        f"{outcome.cycles / max(1, streamed):.0f} cycles per step, "
        f"{outcome.busy / max(1, streamed):.0f} of them with a step in the core"
    )
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())

"""``stillnet selftest``: whether a board does what it should, in a sentence to act on."""

from __future__ import annotations

import argparse
from dataclasses import dataclass, field
from functools import cache
from typing import Any

import numpy as np

from stillnet.sw.cli import options
from stillnet.sw.cli.main import Command
from stillnet.sw.contract.config import EngineConfig
from stillnet.sw.contract.errors import StillnetError
from stillnet.sw.host.driver import Engine
from stillnet.sw.host.driver.transport import DEFAULT_BAUD
from stillnet.sw.host.sdram_counters import sdram_use
from stillnet.sw.model.model import Model
from stillnet.sw.network.network import Network
from stillnet.sw.network.reference import Reference
from stillnet.sw.packing.packer import Image, pack
from stillnet.sw.quantization.quantizer import quantize

__all__ = ["SELFTEST", "Findings", "selftest", "verdict"]

BITS_PER_BYTE = 10
"""On a serial line."""
SLOW = 0.5
"""Share of the line's rate below which the host holds it back."""
STEPS = 20
UNITS, INPUTS = 16, 8
"""Of the network at each power of two of the memory's addresses."""
LARGE_UNITS, LARGE_INPUTS = 256, 128
"""Of the network whose weights are the pattern, and whose answers are known."""


@dataclass
class Findings:
    """What was found.

    Attributes
    ----------
    board : str
    clock_mhz : float
    part : str or None
        The SDRAM that the bitstream is made for, where the board says it.
    baud : int or None
        Of a serial line.
    bytes_per_second : float or None
        That the line carried while images were loaded.
    errors : dict of str to int
        What was wrong on the line and repaired.
    memory_bytes : int
        That the engine can address.
    pattern_bytes : int
        Written and read back as one pattern.
    pattern : str
        Empty, or why the board refused it.
    lost : list of int
        Bytes of addresses at which an image was overwritten by a later one, or never held.
    alias : int or None
        A byte address that is the same place as address 0.
    steps, wrong : int
        Steps with known answers, and how many were wrong; none without a cell for it.
    """

    board: str
    clock_mhz: float
    part: str | None = None
    baud: int | None = None
    bytes_per_second: float | None = None
    errors: dict[str, int] = field(default_factory=dict)
    memory_bytes: int = 0
    pattern_bytes: int = 0
    pattern: str = ""
    lost: list[int] = field(default_factory=list)
    alias: int | None = None
    steps: int = 0
    wrong: int = 0

    @property
    def size_bytes(self) -> int | None:
        """Of the memory: up to where it begins again, or all that the engine can address; None
        where that was not found."""
        if self.alias is not None:
            return self.alias
        return None if self.pattern or self.lost else self.memory_bytes


@cache
def _network(config: EngineConfig, units: int, inputs: int, seed: int) -> tuple[Network, Any]:
    """A network of random weights, and what it is fed."""
    rng = np.random.default_rng(seed)
    units, inputs = min(units, config.units), min(inputs, config.inputs)
    x = np.cumsum(rng.normal(0, 0.1, (STEPS, inputs)), axis=0)
    if "gru" in config.cells:
        shapes = ((3 * units, inputs), (3 * units, units), 3 * units, 3 * units)
        model = Model(inputs).gru(*(rng.normal(0, 0.3, shape) for shape in shapes))
    elif "linear" in config.cells:
        weight = rng.normal(0, 0.3, (units, inputs))
        model = Model(inputs).dense(weight, rng.normal(0, 0.3, units))
    else:
        raise StillnetError(
            "the board's engine has neither gru nor linear cells, of which the test's networks "
            "are; build it with one of them"
        )
    network = quantize(model, x, thresholds=1 / 64, method="nearest", row_steps=False)
    return network, network.quantize_input(x)


@cache
def _images(config: EngineConfig) -> dict[int, Image]:
    """A small image for address 0 and each power of two, in words, as far as memory goes; no two
    are the same, and none reaches the next one.

    Each is 64 bytes further behind its power of two than the one before. A board checks only that
    an image is whole in itself: one that came to lie exactly on another would be taken for it, one
    that lies across it breaks it.
    """
    images, room = {}, config.ram_words if config.memory == "ram" else 1 << config.address_bits
    first, _ = _network(config, UNITS, INPUTS, 0)
    words = -(-len(pack(first, config).hardware) // config.word_bytes)
    step = 64 // config.word_bytes
    base = max(step, 1 << (words - 1).bit_length())
    bases = [0]
    while base + len(bases) * step + words <= room:
        bases.append(base + len(bases) * step)
        base *= 2
    for k, at in enumerate(bases):
        images[at] = pack(_network(config, UNITS, INPUTS, k)[0], config)
    return images


def selftest(engine: Engine, *, progress: Any = None) -> Findings:
    """Tests a board: its line, its memory, its engine. What was loaded before is lost.

    Parameters
    ----------
    engine : Engine
    progress : Progress, optional
    """
    tell = progress or (lambda *_: None)
    config, identity = engine.config, engine.identity
    found = Findings(identity.board, identity.clock_hz / 1e6)
    found.baud = getattr(engine.transport, "baud", None)
    room = config.ram_words if config.memory == "ram" else 1 << config.address_bits
    found.memory_bytes = room * config.word_bytes
    use = sdram_use(engine.session)
    found.part = None if use is None else use.part

    network, rows = _network(config, LARGE_UNITS, LARGE_INPUTS, 99)
    image = pack(network, config)
    found.pattern_bytes = len(image.hardware)
    begin = engine.transport.now()
    try:
        engine.load(image, progress=lambda _, done, total: tell("pattern", done, total))
    except StillnetError as error:
        found.pattern = str(error)
    seconds = engine.transport.now() - begin
    found.bytes_per_second = found.pattern_bytes / seconds if seconds > 0 else None
    found.errors = engine.session.errors
    if found.pattern:
        return found

    reference = Reference(network, config=config)
    for row in rows:
        found.steps += 1
        same = np.array_equal(engine.step_integers(row), reference.step_integers(row))
        found.wrong += not same
    _addresses(engine, found, tell)
    found.errors = engine.session.errors
    return found


def _addresses(engine: Engine, found: Findings, tell: Any) -> None:
    """An image at each power of two; then whether all are still there."""
    images, word_bytes = _images(engine.config), engine.config.word_bytes
    for k, (base, image) in enumerate(images.items()):
        tell("addresses", k, 2 * len(images))
        if not _accepts(engine.load, image, base):
            found.lost.append(_power(base) * word_bytes)
    for k, (base, image) in enumerate(images.items()):
        tell("addresses", len(images) + k, 2 * len(images))
        at = _power(base) * word_bytes
        if at not in found.lost and not _accepts(engine.start, image, base):
            found.lost.append(at)
    tell("addresses", 2 * len(images), 2 * len(images))
    if 0 not in found.lost:
        return
    for base, image in list(images.items())[1:]:
        _accepts(engine.load, images[0], 0)
        _accepts(engine.load, image, base)
        if not _accepts(engine.start, images[0], 0):
            found.alias = _power(base) * word_bytes
            return


def _power(base: int) -> int:
    """The power of two that an image is for, or 0."""
    return 1 << (base.bit_length() - 1) if base else 0


def _accepts(call: Any, image: Image, base: int) -> bool:
    """Whether the engine finds an image where it was put; other errors are the caller's."""
    try:
        call(image, base=base)
    except StillnetError as error:
        if "refused the image" not in str(error):
            raise
        return False
    return True


def verdict(found: Findings) -> tuple[bool, str]:
    """Whether all is well, and a sentence to act on."""
    memory = "the memory" if found.part is None else f"the SDRAM ({found.part})"
    if found.pattern:
        return False, (
            f"{memory} does not hold what is written to its first bytes ({found.pattern}): build "
            "the bitstream with --sdram for the part that is on the board, or with a lower --clock"
        )
    if found.alias is not None:
        return False, (
            f"{memory} ends after {_size(found.alias)}, or an address line does not reach it: byte "
            f"{found.alias:,} is byte 0 again; build the bitstream with --sdram for the part that "
            "is on the board, or keep images below that"
        )
    if found.lost:
        places = ", ".join(f"{at:,}" for at in found.lost)
        return False, (
            f"{memory} does not keep what is written at byte {places}: build the bitstream with "
            "--sdram for the part that is on the board, or with a lower --clock"
        )
    if found.wrong:
        return False, (
            f"memory and line are good, but {found.wrong} of {found.steps} steps were wrong: the "
            "FPGA computes something else; build the bitstream again with a lower --clock"
        )
    if sum(found.errors.values()):
        counts = ", ".join(f"{n} {what}" for what, n in found.errors.items() if n)
        return False, (
            f"all answers are right, but frames were lost on the line ({counts}): use another "
            "cable or port, or a slower rate"
        )
    if found.baud is not None and found.bytes_per_second is not None:
        most = found.baud / BITS_PER_BYTE
        if found.bytes_per_second < SLOW * most:
            return True, (
                f"all is well, but the line carries {found.bytes_per_second:,.0f} bytes per second "
                f"of {most:,.0f}: set the adapter's latency timer to 1 ms"
            )
    return True, "all is well"


def _size(bytes_: int) -> str:
    return f"{bytes_ >> 20} MB" if bytes_ >= 1 << 20 else f"{bytes_ >> 10} kB"


def _configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "port", metavar="PORT", help="/dev/ttyUSB0, tcp:HOST:PORT, or sim:BOARD for a virtual one"
    )
    options.add_baud(parser, f"of a serial port ({DEFAULT_BAUD:,})")


def _run(args: argparse.Namespace) -> dict[str, Any]:
    from stillnet.sw.util.progress import console_progress

    extra = {} if args.baud is None else {"baud": args.baud}
    with Engine.open(args.port, **extra) as engine, console_progress() as progress:
        found = selftest(engine, progress=progress)
    good, sentence = verdict(found)
    return {**vars(found), "size_bytes": found.size_bytes, "good": good, "verdict": sentence}


def _show(result: dict[str, Any]) -> None:
    print(f"{result['board']}: engine at {result['clock_mhz']:g} MHz")
    if result["bytes_per_second"]:
        most = "" if result["baud"] is None else f" of {result['baud'] // BITS_PER_BYTE:,}"
        print(f"line: {result['bytes_per_second']:,.0f}{most} bytes per second", end="; ")
        print(", ".join(f"{n} {what}" for what, n in result["errors"].items()))
    part = "" if result["part"] is None else f", made for {result['part']}"
    size = result["size_bytes"]
    there = "" if size is None else f", {_size(size)} found"
    print(f"memory: {_size(result['memory_bytes'])} addressed{there}{part}", end="; ")
    print(f"a pattern of {_size(result['pattern_bytes'])}, and an image at each power of two")
    print(f"answers: {result['steps'] - result['wrong']} of {result['steps']} as the reference")
    print(result["verdict"])


SELFTEST = Command(
    name="selftest",
    help="Test a board: the line, the memory, known answers; what was loaded is lost.",
    configure=_configure,
    run=_run,
    show=_show,
    epilog="""\
examples:
  stillnet selftest /dev/ttyUSB0
      a minute after the board was bought; the last line says what to do
  stillnet selftest sim:ulx3s-12f
      the same on the virtual board""",
)

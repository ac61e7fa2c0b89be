"""A board's gates at work: a network goes over the link, outputs come back and are compared."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from stillnet.boards.board import Board
from stillnet.sw.contract.config import EngineConfig
from stillnet.sw.contract.errors import StillnetError
from stillnet.sw.host.driver import Engine
from stillnet.sw.model.model import Model
from stillnet.sw.network.network import Network
from stillnet.sw.network.reference import Reference
from stillnet.sw.packing.packer import pack
from stillnet.sw.quantization.quantizer import quantize
from stillnet.sw.util.progress import Progress

from .board import GatesBoard
from .checks import Findings, check
from .netlist import Netlist
from .unpack import Unpacked

__all__ = ["Outcome", "small_network", "trial", "verdict"]

UNITS, INPUTS = 12, 6
WAIT_SECONDS, WAIT_A_BYTE = 2e-3, 2e-8
"""Simulated, that the host waits for an answer with no other traffic on the line; and more for each
byte of the image, four times what reading it takes."""
STARTUP_CYCLES = 2_000
"""Between two looks at the lamp that says that the memory has started."""
PLL_US = 50
"""From power-up to the first cycle of the engine, at least: until then no lamp says anything."""


@dataclass
class Outcome:
    """What a run of the gates gave.

    Attributes
    ----------
    board, stage : str
    cells : dict of str to int
        Of the netlist, by type.
    network_cells : list of str
        Cells of the network, as the engine has them.
    steps, wrong : int
    cycles : int
        Of the engine's clock, from power-up.
    image_bytes : int
    loaded : str
        ``"link"``, or ``"memory"`` where the image was in the SDRAM already.
    trouble : str
        What the memory's model or the driver complained of; empty if nothing.
    seen : Findings
        By looking, without running.
    loose : int
        Wires of a bitstream that nothing drives.
    """

    board: str
    stage: str
    cells: dict[str, int] = field(default_factory=dict)
    network_cells: list[str] = field(default_factory=list)
    steps: int = 0
    wrong: int = 0
    cycles: int = 0
    image_bytes: int = 0
    loaded: str = "link"
    trouble: str = ""
    seen: Findings = field(default_factory=Findings)
    loose: int = 0

    @property
    def good(self) -> bool:
        """Whether all is well."""
        return not (self.wrong or self.trouble or self.seen.problems) and self.steps > 0


def small_network(config: EngineConfig) -> tuple[Network, np.ndarray]:
    """A network with one layer of each of the common cells that an engine has, and its input.

    Raises
    ------
    StillnetError
        For an engine with none of them.
    """
    rng = np.random.default_rng(5)
    model, size = Model(INPUTS), INPUTS
    for cell in config.cells:
        if cell == "gru":
            shapes = ((3 * UNITS, size), (3 * UNITS, UNITS), 3 * UNITS, 3 * UNITS)
            model = model.gru(*(rng.normal(0, 0.5, shape) for shape in shapes))
        elif cell in ("linear", "relu", "sigmoid", "tanh"):
            weight, bias = rng.normal(0, 0.5, (UNITS, size)), rng.normal(0, 0.3, UNITS)
            model = model.dense(weight, bias, cell)
        else:
            continue
        size = UNITS
    if not model.layers:
        raise StillnetError(
            f"the engine has no cell of the built-in network, only {', '.join(config.cells)}; name "
            "a network: stillnet gates NET --board NAME"
        )
    x = np.cumsum(rng.normal(0, 0.2, (20, INPUTS)), axis=0)
    network = quantize(model, x, thresholds=1 / 64, method="nearest", row_steps=False)
    return network, network.quantize_input(x)


def trial(
    board: Board,
    stage: str,
    netlist: Netlist,
    network: Network,
    rows: np.ndarray,
    progress: Progress,
    *,
    preload: bool = False,
) -> Outcome:
    """Looks through a netlist, then runs a network on it.

    Parameters
    ----------
    board : Board
    stage : str
        After which the netlist is, for people.
    netlist : Netlist
        As the tools wrote it.
    network : Network
    rows : array of int, shape (steps, inputs)
    progress : Progress
    preload : bool
        The image is in the SDRAM already, as after an earlier session: the engine checks and starts
        it. Over the link, a megabyte takes a hundred million cycles.
    """
    config = board.config()
    image = pack(network, config)
    result = Outcome(board.name, stage, netlist.kinds(), image_bytes=len(image.hardware))
    result.network_cells = sorted({layer.cell for layer in network.layers})
    result.loaded = "memory" if preload else "link"
    progress("checks", 0, 1)
    if isinstance(netlist, Unpacked):
        result.loose = len(netlist.loose)  # the checks know an ECP5's cells
    else:
        result.seen = check(netlist)
    progress("simulator", 0, 1)
    model = GatesBoard(board, netlist)
    progress("simulator", 1, 1)
    try:
        _start(model, board, progress)
        wait = WAIT_SECONDS + WAIT_A_BYTE * len(image.hardware)
        engine = Engine(model, timeout=wait, retry=wait / 4)
        if preload:
            # Only now: the copy from an empty flash has ended, which writes to the first words.
            model.fill(image.hardware)
            engine.start(image)
        else:
            engine.load(image, progress=progress)
        reference = Reference(network, config=config)
        for k, row in enumerate(rows):
            progress("steps", k, len(rows))
            same = np.array_equal(engine.step_integers(row), reference.step_integers(row))
            result.steps, result.wrong = k + 1, result.wrong + (not same)
        progress("steps", len(rows), len(rows))
    except StillnetError as error:
        result.trouble = str(error)
    finally:
        if model.violations and not result.trouble:
            result.trouble = model.first_violation
        result.cycles = model.cycle
        model.close()
    return result


def _start(model: GatesBoard, board: Board, progress: Progress) -> None:
    """From power-up until the SDRAM has started: its pause, and the PLL's."""
    assert board.sdram is not None
    most = 2 * board.sdram.startup_us * board.clock_hz // 10**6 + 50_000
    model.run(PLL_US * board.clock_hz // 10**6)
    while model.lamps & 1 and model.cycle < most:
        model.run(STARTUP_CYCLES)
        progress("power-up", min(model.cycle, most), most)
    if model.violations:
        raise StillnetError(f"the SDRAM complained: {model.first_violation}")


def verdict(outcome: Outcome) -> str:
    """One sentence for people."""
    what = f"the gates of {outcome.board} after {outcome.stage}"
    if outcome.seen.problems:
        more = len(outcome.seen.problems) - 1
        rest = f" (and {more} more)" if more else ""
        return f"{what} are not as they should be: {outcome.seen.problems[0]}{rest}"
    if outcome.trouble:
        return f"{what} do not work: {outcome.trouble}"
    if outcome.wrong:
        return f"{what} computed {outcome.wrong} of {outcome.steps} steps wrong"
    well = (
        f"{what} computed {outcome.steps} steps as the reference does, in {outcome.cycles:,} cycles"
    )
    if outcome.stage == "bitstream":
        return well
    return f"{well}; no latch, no loop, no clock crossing that is not meant"

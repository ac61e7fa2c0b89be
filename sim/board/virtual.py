"""The virtual board: everything inside the pins of a board, its SDRAM and its flash, compiled.

Boards without SDRAM have their weights in memory of the FPGA, which is inside the pins.

The host's programs work on it as on a real one: as a transport in the same process
(``Engine.open("sim:ulx3s-85f")``), or over a socket or pseudo-terminal (:mod:`.board_server`). Its
clock is that of the simulation; it stands still while nobody asks for anything.
"""

from __future__ import annotations

import ctypes
import functools

from stillnet.boards.board import PIN_REGISTERS, Board
from stillnet.boards.catalogue import board
from stillnet.boards.top.system import System
from stillnet.hw.memory.sdram.parts import SdramPart
from stillnet.hw.verilog.text import to_verilog
from stillnet.sim.compile.model import HARNESSES, build_library
from stillnet.sw.contract.config import EngineConfig
from stillnet.sw.contract.errors import StillnetError
from stillnet.sw.contract.registers import SdramCounter
from stillnet.sw.network.network import Network

__all__ = ["MODELS", "STARTUP_US", "VirtualBoard", "flash_half", "sim_transport"]

HARNESS = HARNESSES / "board.cpp"
MODELS = (
    *(HARNESSES / f"{part}_model.h" for part in ("sdram", "flash", "uart")),
    HARNESSES / "host_side.h",
)
STARTUP_US = 2
"""Pause of the SDRAM after power-up, shorter than a real one's; nothing else is."""
YES = (True, "true", "1", "yes")
TIMINGS = 18
"""Numbers of the model's ``SdramTiming``."""
FLASH_HALF_NS = 13
"""Least time that the flash's clock is high, or low: reads at 33 MHz."""

FLASH_WAKE_US = 30
"""What the flash needs to wake up, the longest of the common parts (see ``flash_model.h``)."""

_SDRAM_COUNTS = {
    SdramCounter.READS: 2,
    SdramCounter.WRITES: 3,
    SdramCounter.ACTIVATES: 4,
    SdramCounter.REFRESHES: 6,
    SdramCounter.OPEN: 8,
    SdramCounter.CLOSED: 9,
    SdramCounter.POWER_DOWN: 10,
    SdramCounter.READ_CYCLES: 11,
    SdramCounter.WAKES: 12,
}
"""Where the model has what the board counts."""


class VirtualBoard:
    """A board in simulation, as a transport of the host driver.

    Parameters
    ----------
    target : Board
    serial : bool
        Through the serial port, at its rate. Else the bytes go to the link directly, as over a
        faster interface: an image of megabytes takes seconds instead of many minutes.
    config : EngineConfig, optional
        Instead of the board's engine.
    flash : bytes, optional
        An image in the configuration flash, where the board looks for one at power-up. Without, the
        flash is erased.
    missing_row_bits : int
        Address lines of rows, from the highest, that the SDRAM on the board does not have, though
        the bitstream is made for them: each makes it half as large.
    """

    startup_us: int | None = STARTUP_US
    """Pause of the SDRAM after power-up; None: the part's own."""

    def __init__(
        self,
        target: Board,
        *,
        serial: bool = False,
        config: EngineConfig | None = None,
        flash: bytes | None = None,
        missing_row_bits: int = 0,
    ) -> None:
        self.target = target
        self.serial = serial
        self.config = config or target.config()
        self.name, self.baud = f"the virtual {target.title}", target.baud
        part = target.sdram
        if flash is not None and target.image_offset is None:
            raise StillnetError(
                f"{self.name} loads no image from its flash; load it over the link instead"
            )
        self._library = lib = self._build()
        lib.board_new.restype = ctypes.c_void_p
        lib.board_violation.restype = ctypes.c_char_p
        for name in ("cycle", "violations", "waiting", "quiet", "pull", "sdram"):
            getattr(lib, f"board_{name}").restype = ctypes.c_uint64
        geometry: tuple[int, ...] = (0,) * 4
        timing: tuple[int, ...] = (0,) * TIMINGS
        if part is not None:
            geometry = (part.row_bits, part.column_bits, part.bank_bits, part.data_bits)
            timing = _timing(part, target.memory_hz or target.clock_hz, self.startup_us)
        offset = target.image_offset or 0
        wake = FLASH_WAKE_US * target.clock_hz // 10**6
        self._handle = ctypes.c_void_p(
            lib.board_new(
                (ctypes.c_int32 * len(geometry))(*geometry),
                (ctypes.c_int64 * len(timing))(*timing),
                PIN_REGISTERS,
                ctypes.c_double(target.clock_hz / target.baud),
                ctypes.c_uint64(target.flash_bytes),
                ctypes.c_uint64(wake),
                ctypes.c_uint64(10**12 // target.clock_hz),
                ctypes.c_uint64(10**12 // (target.memory_hz or target.clock_hz)),
            )
        )
        image = flash or b""
        if offset + len(image) > target.flash_bytes:
            raise StillnetError(
                f"image of {len(image)} bytes does not fit the flash of {self.name} behind "
                f"{offset}; use a smaller network"
            )
        lib.board_flash(
            self._handle,
            ctypes.c_uint64(offset),
            image,
            ctypes.c_uint64(len(image)),
        )
        if missing_row_bits:
            lib.board_missing_rows(self._handle, missing_row_bits)
        self._buffer = ctypes.create_string_buffer(1 << 16)

    def _build(self) -> ctypes.CDLL:
        """The compiled model."""
        return _library(self.target, self.serial, self.config)

    # -- what only a simulation has ---------------------------------------------------------------

    @property
    def cycle(self) -> int:
        """Clock cycles since the beginning."""
        return int(self._library.board_cycle(self._handle))

    @property
    def lamps(self) -> int:
        """The LEDs, as in :class:`~stillnet.boards.top.system.Lamps`."""
        return int(self._library.board_lamps(self._handle))

    @property
    def violations(self) -> int:
        """What the SDRAM, the flash, or the host's serial port had to complain of."""
        return int(self._library.board_violations(self._handle))

    @property
    def first_violation(self) -> str:
        """The first of them."""
        return self._library.board_violation(self._handle).decode()

    @property
    def sdram_counts(self) -> dict[SdramCounter, int]:
        """What the model of the SDRAM has counted since power-up."""
        return {
            counter: int(self._library.board_sdram(self._handle, place))
            for counter, place in _SDRAM_COUNTS.items()
        }

    @property
    def quiet_cycles(self) -> int:
        """Cycles since a byte moved."""
        return int(self._library.board_quiet(self._handle))

    @property
    def waiting(self) -> int:
        """Bytes that the board has not taken yet."""
        return int(self._library.board_waiting(self._handle))

    def run(self, cycles: int, *, until_frame: bool = False) -> None:
        """Lets the clock run."""
        self._library.board_run(self._handle, ctypes.c_uint64(cycles), int(until_frame))

    def pull(self) -> bytes:
        """Bytes that the board has sent."""
        count = self._library.board_pull(
            self._handle, self._buffer, ctypes.c_uint64(len(self._buffer))
        )
        return self._buffer.raw[:count]

    # -- as a transport ---------------------------------------------------------------------------

    def now(self) -> float:
        """Simulated seconds."""
        return self.cycle / self.target.clock_hz

    def write(self, data: bytes) -> None:
        """Bytes to the board."""
        self._library.board_push(self._handle, data, ctypes.c_uint64(len(data)))

    def read(self, timeout: float) -> bytes:
        """Bytes from the board, as soon as a frame is complete or the time is over.

        Raises
        ------
        StillnetError
            If a memory was used against its datasheet: then nothing that follows is to be trusted.
        """
        self.run(int(timeout * self.target.clock_hz) + 1, until_frame=True)
        if self.violations:
            raise StillnetError(
                f"{self.name} broke the rules of a memory: {self.first_violation}; please report "
                "this"
            )
        return self.pull()

    def close(self) -> None:
        """Ends the simulation."""
        if self._handle:
            self._library.board_delete(self._handle)
            self._handle = ctypes.c_void_p()


@functools.cache
def _library(target: Board, serial: bool, config: EngineConfig) -> ctypes.CDLL:
    """The compiled model, which any number of boards may share."""
    system = System(
        config,
        clock_hz=target.clock_hz,
        baud=target.baud if serial else None,
        input_delay=PIN_REGISTERS,
        startup_us=STARTUP_US,
        **target.system_options(),
    )
    text = to_verilog(system, "system")
    header = "" if serial else "#define STILLNET_BYTES 1\n"
    header += flash_half(target)
    header += "" if target.sdram else "#define STILLNET_NO_SDRAM 1\n"
    header += "#define STILLNET_MEMORY_CLOCK 1\n" if target.memory_hz else ""
    header += "#define STILLNET_NO_FLASH 1\n" if target.image_offset is None else ""
    return ctypes.CDLL(str(build_library(text, "system", HARNESS, headers=MODELS, prologue=header)))


def flash_half(target: Board) -> str:
    """The line of a harness that tells the flash's model the board's clock."""
    return f"#define STILLNET_FLASH_HALF {-(-FLASH_HALF_NS * target.clock_hz // 10**9)}\n"


def _timing(part: SdramPart, clock_hz: int, startup_us: int | None) -> tuple[int, ...]:
    """The part's datasheet in cycles, in the order of the model's ``SdramTiming``."""
    t = part.timings(clock_hz, startup_us=startup_us)
    latencies = [latency for latency, highest in part.cas if clock_hz <= highest]
    return (
        *(t.trcd, t.trp, t.tras, 100 * clock_hz // 10**6, t.trc, t.trfc, t.trrd, t.twr, t.tmrd),
        *(8, part.window(clock_hz), part.refreshes, t.startup, 8, max(latencies), min(latencies)),
        *(t.txp, t.tcke),
    )


def sim_transport(
    name: str,
    *,
    serial: bool | str = False,
    tiers: bool | str = False,
    fit: Network | None = None,
) -> VirtualBoard:
    """The transport behind ``sim:NAME``.

    Parameters
    ----------
    name : str
        A board, as in ``ulx3s-85f``.
    serial : bool
        See :class:`VirtualBoard`.
    tiers : bool
        The board as ``stillnet build --tiers`` makes it.
    fit : Network, optional
        The board as ``stillnet build --fit`` makes it for this network.
    """
    target = board(name).tiered() if tiers in YES else board(name)
    target = target if fit is None else target.fitted(fit)
    return VirtualBoard(target, serial=serial in YES)

"""What can be seen in a netlist without running it.

* No latch and no loop: registers are the only cells that hold a bit. (Yosys makes a latch of a LUT
  that feeds itself, so a latch is a loop here.)
* Clocks: a register that takes a bit of another clock's domain, or of a pad, which has no clock,
  takes it without logic in between and is the first of a synchroniser, or the register of a pad.
  One pad is left out: data of the flash changes at edges of a clock that the design itself makes,
  and is taken when it has long been there.
* Pads of the SDRAM have their registers: nothing but the pad is behind the last one, nothing before
  the first, and after placement they are in the IO cells.
"""

from __future__ import annotations

from collections import defaultdict, deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

from stillnet.boards.build.toolchain import ECP5

from .netlist import Bit, Cell, Netlist

__all__ = ["Findings", "check"]

FIRST_STAGE = "stage0"
"""In the name of the first register of a synchroniser (Amaranth's ``FFSynchronizer``)."""

TIMED_PADS = ("boot_flash_0__cipo__io",)
"""Pads whose data changes only when the design has asked for it."""

REGISTERED = ("sdram_0__", "uart_0__tx__")
"""Pads that have registers: what their names begin with."""

IO_CELLS = ("IOLOGIC", "SIOLOGIC")
"""Where registers of pads are after placement."""

_NO_LOGIC = ("TRELLIS_IO", "EHXPLLL", "USRMCLK", "DCCA", "$scopeinfo")
_CLOCKS = ("CLK", "CLKA", "CLKB", "WCK", "SCLK", *(f"CLK{i}" for i in range(4)))
_LUT_PINS = ("A", "B", "C", "D")


@dataclass
class Findings:
    """What was seen.

    Attributes
    ----------
    kinds : dict of str to int
        Cells of each type.
    domains : dict of str to int
        Registers of each clock, by its name.
    crossings : dict of str to list of str
        Synchronisers by ``from -> to``.
    pad_registers : int
        Pads of the SDRAM whose register is where it is meant.
    problems : list of str
        Sentences; empty if all is well.
    """

    kinds: dict[str, int] = field(default_factory=dict)
    domains: dict[str, int] = field(default_factory=dict)
    crossings: dict[str, list[str]] = field(default_factory=dict)
    pad_registers: int = 0
    problems: list[str] = field(default_factory=list)


def check(netlist: Netlist) -> Findings:
    """Looks through a netlist as the tools wrote it."""
    return _Check(netlist).run()


def arcs(cell: Cell) -> Iterator[tuple[tuple[str, ...], str]]:
    """Paths through a cell without a register: pins in, pin out."""
    kind, pins = cell["type"], cell["connections"]
    inputs, outputs = _sides(cell)
    if kind in ("LUT4", "PFUMX", "L6MUX21", "CCU2C"):
        yield from ((inputs, out) for out in outputs)
    elif kind == "TRELLIS_COMB":
        through = (*_LUT_PINS, "FCI")
        for out in outputs:
            yield ((*through, "M", "F1", "FXA", "FXB") if out == "OFX" else through), out
    elif kind == "TRELLIS_DPR16X4":
        yield ("RAD",), "DO"
    elif kind == "TRELLIS_RAMW":
        for out, pin in _RAM_WRITE.items():
            if pins.get(out):
                yield (pin,), out
    elif kind == "MULT18X18D" and not _registered(cell):
        yield from ((inputs, out) for out in outputs)


_RAM_WRITE = {f"WADO{k}": pin for k, pin in enumerate(("D0", "B0", "C0", "A0"))}
_RAM_WRITE |= {f"WDO{k}": pin for k, pin in enumerate(("C1", "A1", "D1", "B1"))}


def _sides(cell: Cell) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Pins that are connected: inputs and outputs."""
    inputs: list[str] = []
    outputs: list[str] = []
    for pin, bits in cell["connections"].items():
        if bits:
            out = cell["port_directions"].get(pin) == "output"
            (outputs if out else inputs).append(pin)
    return tuple(inputs), tuple(outputs)


def _registered(cell: Cell) -> bool:
    """Whether a multiplier has any register in use."""
    names = ("INPUTA", "INPUTB", "PIPELINE", "OUTPUT")
    found = (str(cell["parameters"].get(f"REG_{n}_CLK", "NONE")).strip() for n in names)
    return any(f != "NONE" for f in found)


class _Check:
    def __init__(self, netlist: Netlist) -> None:
        self.netlist = netlist
        self.found = Findings(kinds=netlist.kinds())
        self.pads = {bit: n for n, port in netlist.ports.items() for bit in port["bits"]}
        self.driver: dict[Bit, tuple[str, str]] = {}
        self.loads: dict[Bit, list[tuple[str, str]]] = defaultdict(list)
        for name, cell in netlist.cells.items():
            for pin, bits in cell["connections"].items():
                out = cell["port_directions"].get(pin) == "output"
                for bit in bits:
                    if not isinstance(bit, int):
                        continue
                    if out:
                        self.driver[bit] = name, pin
                    elif pin != "B" or cell["type"] != "TRELLIS_IO":
                        self.loads[bit].append((name, pin))

    def run(self) -> Findings:
        self._sources()
        self._loops()
        self._crossings()
        self._pad_registers()
        return self.found

    def _name(self, bit: Bit) -> str:
        return self.netlist.nets.get(bit, f"net {bit}")

    def _pad(self, cell: Cell) -> str:
        """The port at a pad."""
        return self.pads.get((cell["connections"].get("B") or [None])[0], "?")

    # -- where bits come from ---------------------------------------------------------------------

    def _clock(self, cell: Cell, pin: str) -> str | None:
        bits = cell["connections"].get(pin) or ["0"]
        return ECP5.clock_name(self._name(bits[0])) if isinstance(bits[0], int) else None

    def _clock_of(self, cell: Cell, pin: str) -> str | None:
        """The clock to which a pin of a cell with registers belongs; None where it has none."""
        kind = cell["type"]
        if kind == "DP16KD":
            wide = str(cell["parameters"].get("DATA_WIDTH_B", "")).strip() in ("36", f"{36:032b}")
            side = "B" if pin.startswith("DO") and wide else _side(pin)
            return self._clock(cell, f"CLK{side}")
        if kind == "MULT18X18D":
            return self._clock(cell, "CLK0") if _registered(cell) else None
        for name in _CLOCKS:
            if name in cell["connections"]:
                return self._clock(cell, name)
        return None

    def _sources(self) -> None:
        """Registers and pads put bits out; ``origin`` says of which clock."""
        self.origin: dict[Bit, str] = {}
        counts: dict[str, int] = defaultdict(int)
        for cell in self.netlist.cells.values():
            if cell["type"] == "TRELLIS_IO":
                if (pad := self._pad(cell)) not in TIMED_PADS:
                    self.origin |= dict.fromkeys(cell["connections"].get("O", []), f"pad {pad}")
                continue
            if cell["type"] == "EHXPLLL":
                self.origin |= dict.fromkeys(cell["connections"].get("LOCK", []), "PLL lock")
                continue
            for pin in _sides(cell)[1]:
                clock = self._clock_of(cell, pin)
                through = ("TRELLIS_DPR16X4", "TRELLIS_COMB", *_NO_LOGIC)
                if clock and cell["type"] not in through:
                    self.origin |= dict.fromkeys(cell["connections"][pin], clock)
                if clock and cell["type"] == "TRELLIS_FF":
                    counts[clock] += 1
        self.found.domains = dict(counts)

    # -- loops ------------------------------------------------------------------------------------

    def _loops(self) -> None:
        """Sorts all logic so that each bit comes after what it depends on; notes the clocks on the
        way. What cannot be sorted is a loop."""
        before: dict[Bit, set[Bit]] = {}
        after: dict[Bit, list[Bit]] = defaultdict(list)
        extra: dict[Bit, str] = {}  # distributed RAM: what was written has the writer's clock
        for cell in self.netlist.cells.values():
            pins = cell["connections"]
            for inputs, out in arcs(cell):
                sources = [b for pin in inputs for b in pins.get(pin, []) if isinstance(b, int)]
                for bit in pins.get(out, []):
                    before[bit] = set(sources)
                    for b in before[bit]:
                        after[b].append(bit)
                    clock = self._clock(cell, "WCK") if "WCK" in pins else None
                    if clock:
                        extra[bit] = clock
        left = {bit: sum(b in before for b in sources) for bit, sources in before.items()}
        ready = deque(bit for bit, count in left.items() if not count)
        self.clocks: dict[Bit, frozenset[str]] = {b: frozenset([c]) for b, c in self.origin.items()}
        done = 0
        while ready:
            bit = ready.popleft()
            done += 1
            own = frozenset([extra[bit]] if bit in extra else [])
            self.clocks[bit] = own.union(*(self.clocks.get(b, ()) for b in before[bit]))
            for b in after[bit]:
                left[b] -= 1
                if not left[b]:
                    ready.append(b)
        if done < len(before):
            inside = next(bit for bit, count in left.items() if count)
            self.found.problems.append(
                f"{len(before) - done} bits of logic depend on themselves, among them "
                f"'{self._name(inside)}': a loop or a latch"
            )

    # -- clocks -----------------------------------------------------------------------------------

    def _crossings(self) -> None:
        for name, cell in self.netlist.cells.items():
            if cell["type"] in _NO_LOGIC:
                continue
            for pin in _sides(cell)[0]:
                if pin in _CLOCKS or (cell["type"] == "TRELLIS_DPR16X4" and pin == "RAD"):
                    continue
                clock = self._clock_of(cell, pin)
                if clock is None or (cell["type"] == "TRELLIS_COMB" and pin in _LUT_PINS):
                    continue
                for bit in cell["connections"][pin]:
                    foreign = self.clocks.get(bit, frozenset()) - {clock}
                    if foreign:
                        self._crossing(name, cell, pin, bit, clock, foreign)

    def _crossing(
        self, name: str, cell: Cell, pin: str, bit: Bit, clock: str, foreign: frozenset[str]
    ) -> None:
        what = f"{', '.join(sorted(foreign))} -> {clock}"
        if bit not in self.origin:
            self.found.problems.append(
                f"'{name}' ({cell['type']}.{pin}) takes logic of {what} between the clocks"
            )
            return
        first = any(FIRST_STAGE in self._name(b) for b in cell["connections"].get("Q", []))
        if cell["type"] == "TRELLIS_FF" and first and pin in ("DI", "M"):
            found = self._name(cell["connections"]["Q"][0])
            self.found.crossings.setdefault(what, []).append(found)
        elif self.origin[bit].startswith("pad ") and self._is_pad_register(cell, bit):
            self.found.crossings.setdefault(what, []).append(name)
        else:
            self.found.problems.append(
                f"'{name}' ({cell['type']}.{pin}) takes a bit of {what} and is no synchroniser"
            )

    def _is_pad_register(self, cell: Cell, bit: Bit) -> bool:
        """The only load of a pad's input, in the IO cell after placement."""
        if cell["type"] in IO_CELLS:
            return True
        return len(self.loads[bit]) == 1 and _wants_pad(cell)

    # -- pads -------------------------------------------------------------------------------------

    def _pad_registers(self) -> None:
        placed = any(kind in self.found.kinds for kind in (*IO_CELLS, "TRELLIS_COMB"))
        for name, cell in self.netlist.of("TRELLIS_IO").items():
            if not self._pad(cell).startswith(REGISTERED):
                continue
            pins = cell["connections"]
            sides: list[tuple[str, Iterable[tuple[str, str]]]] = []
            for pin in ("I", "T", "IOLDO", "IOLTO"):
                bit = (pins.get(pin) or ["0"])[0]
                if isinstance(bit, int):
                    sides.append((pin, [self.driver.get(bit, ("", ""))]))
                    if len(self.loads[bit]) != 1 and pin != "T":
                        self._problem(name, pin, "its register drives more than the pad")
            if cell["parameters"]["DIR"] == "BIDIR" and pins.get("O"):
                sides.append(("O", self.loads[pins["O"][0]]))
            for pin, cells in sides:
                for other, _ in cells:
                    kind = self.netlist.cells[other]["type"] if other else "nothing"
                    good = kind in IO_CELLS if placed else self._may_be_in_pad(other)
                    if not good:
                        self._problem(name, pin, f"has {kind} '{other}' beside it, no pad register")
            self.found.pad_registers += 1

    def _may_be_in_pad(self, name: str) -> bool:
        cell = self.netlist.cells.get(name)
        return cell is not None and (cell["type"] == "ODDRX1F" or _wants_pad(cell))

    def _problem(self, pad: str, pin: str, what: str) -> None:
        self.found.problems.append(f"pad '{pad}' ({pin}) {what}")


def _side(pin: str) -> str:
    """Port of a block RAM to which a pin belongs."""
    return "B" if pin.rstrip("0123456789").endswith("B") else "A"


def _wants_pad(cell: Cell) -> bool:
    """A register that the design asks to be in an IO cell."""
    value: Any = cell.get("attributes", {}).get("syn_useioff", "0")
    return cell["type"] == "TRELLIS_FF" and int(str(value), 2) == 1

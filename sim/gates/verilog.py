"""From a netlist to Verilog that a simulator builds quickly.

Yosys could do this with its own models of the cells, but the text is ten times as long and takes as
much longer to build: a module for each LUT, a block for each register. So LUTs, carries,
multiplexers, registers and distributed RAM are written out here as expressions, and a test holds
each of them against Yosys' model (``cells_sim.v``). Block RAM, multipliers and what is at the pins
stay cells, with models of ours: Yosys has black boxes only.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

from stillnet.sw.contract.errors import StillnetError

from .netlist import Bit, Cell, Netlist

__all__ = ["MODELS", "Writer", "lut", "netlist_verilog"]

FOLDER = Path(__file__).parent
MODELS = tuple(FOLDER / name for name in ("pads.v", "dp16kd.v", "mult18x18d.v"))
"""Our models of cells."""

MODELLED = ("STILLNET_PAD", "ODDRX1F", "DP16KD", "MULT18X18D")
"""Cells that they are of."""

_NET = re.compile(r"\bn\d+\b")

BLOCK = 400
"""Registers in one block of Verilog."""


def netlist_verilog(netlist: Netlist, top: str = "gates") -> str:
    """Verilog of a netlist that :meth:`.Netlist.prepare` has made ready, with its cells' models.

    Raises
    ------
    StillnetError
        For a type of cell that is not known.
    """
    return Writer(netlist).text(top) + "".join(m.read_text() for m in MODELS)


# -- logic ----------------------------------------------------------------------------------------


@cache
def lut(table: int, inputs: tuple[str, ...]) -> str:
    """An expression for a table of ``2 ** len(inputs)`` bits.

    Parameters
    ----------
    table : int
        Bit ``k`` is the value where input ``i`` is bit ``i`` of ``k``.
    inputs : tuple of str
        Names, or constants.
    """
    if not inputs:
        return f"1'b{table & 1}"
    half = 1 << (len(inputs) - 1)
    ones = (1 << half) - 1
    low, high = table & ones, table >> half & ones
    name, rest = inputs[-1], inputs[:-1]
    if name == "1'b0" or low == high:
        return lut(low, rest)
    if name == "1'b1":
        return lut(high, rest)
    if low == high ^ ones:
        other = lut(low, rest)
        return {"1'b0": name, "1'b1": f"~{name}"}.get(other, f"({name} ^ {other})")
    zero, one = lut(low, rest), lut(high, rest)
    if zero == one:
        return zero
    if zero == "1'b0":
        return name if one == "1'b1" else f"({name} & {one})"
    if one == "1'b0":
        return f"~{name}" if zero == "1'b1" else f"(~{name} & {zero})"
    if zero == "1'b1":
        return f"(~{name} | {one})"
    if one == "1'b1":
        return f"({name} | {zero})"
    return f"({name} ? {one} : {zero})"


def _number(value: Any, bits: int) -> int:
    """A parameter as a number: text of bits, or a number as nextpnr writes some."""
    if isinstance(value, int):
        return value
    text = str(value).strip().replace("x", "0")
    return int(text, 2) if len(text) >= bits else int(text or "0", 2)


class Writer:
    """Verilog of one netlist, line by line."""

    chip = "an ECP5"

    def __init__(self, netlist: Netlist) -> None:
        self.netlist = netlist
        self.lines: list[str] = []
        self.wires: list[str] = []
        # What happens at an edge, by clock and edge.
        self.clocked: dict[str, list[str]] = defaultdict(list)
        named: dict[str, Callable[[str, Cell], None]] = {
            "LUT4": self._lut4,
            "PFUMX": self._pfumx,
            "L6MUX21": self._l6mux21,
            "CCU2C": self._ccu2c,
            "TRELLIS_COMB": self._comb,
            "TRELLIS_FF": self._register,
            "TRELLIS_DPR16X4": self._ram,
            "TRELLIS_RAMW": self._ram_write,
            "DCCA": self._gate,
            "IOLOGIC": self._io_logic,
            "SIOLOGIC": self._io_logic,
        }
        self.kinds = {**dict.fromkeys(MODELLED, self._instance), **named}

    def text(self, top: str) -> str:
        for i, cell in enumerate(self.netlist.cells.values()):
            if cell["type"] not in self.kinds:
                raise StillnetError(
                    f"there is no model of the cell {cell['type']} of {self.chip}; please report "
                    "this"
                )
            self.kinds[cell["type"]](f"c{i}", cell)
        ports, assigns = [], []
        for name, port in self.netlist.ports.items():
            width = f"[{len(port['bits']) - 1}:0] " if len(port["bits"]) > 1 else ""
            ports.append(f"{port['direction']} {width}{name}")
            bits = "{" + ", ".join(_net(bit) for bit in reversed(port["bits"])) + "}"
            if port["direction"] == "output":
                assigns.append(f"assign {name} = {bits};")
            else:
                assigns.append(f"assign {bits} = {name};")
                self.wires += [_net(bit) for bit in port["bits"]]
        blocks = []
        for edge, statements in self.clocked.items():
            for k in range(0, len(statements), BLOCK):
                part = "\n".join(statements[k : k + BLOCK])
                blocks.append(f"always @({edge}) begin\n{part}\nend")
        body = "\n".join([*self.lines, *assigns, *blocks])
        driven = set(self.wires)
        loose = sorted(set(_NET.findall(body)) - driven)
        wires = [f"wire {name};" for name in dict.fromkeys(self.wires)]
        wires += [f"wire {name} = 1'b0;" for name in loose]
        head = f"module {top}({', '.join(ports)});"
        return "\n".join([head, *wires, body]) + "\nendmodule\n"

    # -- pins -------------------------------------------------------------------------------------

    def _in(self, cell: Cell, pin: str, k: int = 0) -> str:
        bits = cell["connections"].get(pin) or ["0"]
        return _net(bits[k])

    def _out(self, cell: Cell, pin: str, expression: str, k: int = 0) -> None:
        bits = cell["connections"].get(pin)
        if bits and isinstance(bits[k], int):
            self.wires.append(_net(bits[k]))
            self.lines.append(f"assign {_net(bits[k])} = {expression};")

    def _select(self, cell: Cell, pin: str, mux: str, default: str) -> str:
        """A pin behind its multiplexer."""
        choice = str(cell["parameters"].get(mux, default)).strip()
        if choice in ("0", "1"):
            return f"1'b{choice}"
        value = self._in(cell, pin)
        return _not(value) if choice == "INV" else value

    # -- cells ------------------------------------------------------------------------------------

    def _lut4(self, name: str, cell: Cell) -> None:
        pins = tuple(self._in(cell, pin) for pin in "ABCD")
        self._out(cell, "Z", lut(_number(cell["parameters"]["INIT"], 16), pins))

    def _pfumx(self, name: str, cell: Cell) -> None:
        self._mux(cell, "Z", "C0", "ALUT", "BLUT")

    def _l6mux21(self, name: str, cell: Cell) -> None:
        self._mux(cell, "Z", "SD", "D1", "D0")

    def _mux(self, cell: Cell, out: str, select: str, one: str, zero: str) -> None:
        names = self._in(cell, zero), self._in(cell, one), self._in(cell, select)
        self._out(cell, out, lut(0b11001010, names))

    def _ccu2c(self, name: str, cell: Cell) -> None:
        carry = self._in(cell, "CIN")
        for k in (0, 1):
            pins = tuple(self._in(cell, f"{pin}{k}") for pin in "ABCD")
            inject = cell["parameters"].get(f"INJECT1_{k}", "YES") == "YES"
            init = _number(cell["parameters"][f"INIT{k}"], 16)
            carry = self._adder(f"{name}_{k}", cell, f"S{k}", init, pins, carry, inject)
        self._out(cell, "COUT", carry)

    def _adder(
        self,
        name: str,
        cell: Cell,
        out: str,
        init: int,
        pins: tuple[str, ...],
        carry: str,
        inject: bool,
    ) -> str:
        """One bit of a carry chain; returns its carry."""
        four, two = lut(init, pins), lut(init & 15, pins[:2])
        self.lines.append(f"wire {name} = {four};")
        self._out(cell, out, name if inject or carry == "1'b0" else f"{name} ^ {carry}")
        generate = "" if inject or two == "1'b0" else f" | (~{name} & {two})"
        self.lines.append(f"wire {name}_c = ({name} & {carry}){generate};")
        return f"{name}_c"

    def _comb(self, name: str, cell: Cell) -> None:
        """A LUT of a routed netlist: alone, in a carry chain, or as a bit of a RAM."""
        parameters = cell["parameters"]
        init, mode = _number(parameters["INITVAL"], 16), parameters.get("MODE", "LOGIC")
        pins = tuple(self._in(cell, pin) for pin in "ABCD")
        if mode == "LOGIC":
            self._out(cell, "F", lut(init, pins))
        elif mode == "CCU2":
            inject = parameters.get("CCU2_INJECT1", "NO") == "YES"
            carry = self._adder(name, cell, "F", init, pins, self._in(cell, "FCI"), inject)
            self._out(cell, "FCO", carry)
        elif mode == "DPRAM":
            self.lines.append(f"reg [15:0] {name} = 16'h{init:x};")
            self._out(cell, "F", f"{name}[{{{pins[0]}, {pins[2]}, {pins[1]}, {pins[3]}}}]")
            address = ", ".join(self._in(cell, f"WAD{k}") for k in (3, 2, 1, 0))
            write = self._select(cell, "WRE", "WREMUX", "WRE")
            statement = f"if ({write}) {name}[{{{address}}}] <= {self._in(cell, 'WD')};"
            self.clocked[self._edge(cell, "WCK", "WCKMUX")].append(statement)
        elif mode != "RAMW_BLOCK":  # its LUT is that of a RAM's write port: nothing comes out
            raise StillnetError(f"a LUT in mode {mode} is not known; please report this")
        if cell["connections"].get("FXA") or cell["connections"].get("FXB"):
            self._mux(cell, "OFX", "M", "FXB", "FXA")
        else:
            self._mux(cell, "OFX", "M", "F1", "F")

    def _edge(self, cell: Cell, pin: str, mux: str) -> str:
        inverted = str(cell["parameters"].get(mux, pin)).strip() == "INV"
        return f"{'negedge' if inverted else 'posedge'} {self._in(cell, pin)}"

    def _register(self, name: str, cell: Cell) -> None:
        parameters, connections = cell["parameters"], cell["connections"]
        if not connections.get("Q"):
            return
        out = _net(connections["Q"][0])
        value = "1'b1" if parameters.get("REGSET", "RESET") == "SET" else "1'b0"
        # In a routed netlist a register may take its data from another pin of its slice.
        data = self._in(cell, "M" if str(parameters.get("SD", "1")).strip() == "0" else "DI")
        enable = self._select(cell, "CE", "CEMUX", "1")
        reset = self._select(cell, "LSR", "LSRMUX", "LSR")
        self.lines.append(f"reg {name} = {value};")
        self.wires.append(out)
        self.lines.append(f"assign {out} = {name};")
        edge = self._edge(cell, "CLK", "CLKMUX")
        load = f"{name} <= {data};" if enable == "1'b1" else f"if ({enable}) {name} <= {data};"
        if enable == "1'b0":
            load = ";"
        if reset != "1'b0":
            load = f"if ({reset}) {name} <= {value}; else {load}"
            if parameters.get("SRMODE", "LSR_OVER_CE").strip() == "ASYNC":
                edge += f" or posedge {self._named(f'{name}_r', reset)}"
        self.clocked[edge].append(load)

    def _named(self, name: str, expression: str) -> str:
        self.lines.append(f"wire {name} = {expression};")
        return name

    def _ram(self, name: str, cell: Cell) -> None:
        init = _number(cell["parameters"].get("INITVAL", "0"), 64)
        words = [f"{name}[{k}] = 4'd{init >> 4 * k & 15};" for k in range(16) if init >> 4 * k & 15]
        self.lines.append(f"reg [3:0] {name} [0:15];")
        zero = f"for (i = 0; i < 16; i = i + 1) {name}[i] = 4'd0;"
        self.lines.append(f"initial begin : {name}_init integer i; {zero} {' '.join(words)} end")
        pins = {
            pin: "{" + ", ".join(self._in(cell, pin, k) for k in (3, 2, 1, 0)) + "}"
            for pin in ("RAD", "WAD", "DI")
        }
        word = self._named_word(f"{name}_q", f"{name}[{pins['RAD']}]")
        for k in range(4):
            self._out(cell, "DO", f"{word}[{k}]", k)
        write = self._select(cell, "WRE", "WREMUX", "WRE")
        statement = f"if ({write}) {name}[{pins['WAD']}] <= {pins['DI']};"
        self.clocked[self._edge(cell, "WCK", "WCKMUX")].append(statement)

    def _named_word(self, name: str, expression: str) -> str:
        self.lines.append(f"wire [3:0] {name} = {expression};")
        return name

    def _ram_write(self, name: str, cell: Cell) -> None:
        """The slice that hands address and data to the RAM bits beside it: wires only."""
        ways = {f"WADO{k}": pin for k, pin in enumerate(("D0", "B0", "C0", "A0"))}
        ways |= {f"WDO{k}": pin for k, pin in enumerate(("C1", "A1", "D1", "B1"))}
        for out, pin in ways.items():
            self._out(cell, out, self._in(cell, pin))

    def _gate(self, name: str, cell: Cell) -> None:
        """A clock gate, or a global clock that is never gated."""
        if self._in(cell, "CE") == "1'b1":
            self._out(cell, "CLKO", self._in(cell, "CLKI"))
        else:
            self._instance(name, cell)

    def _io_logic(self, name: str, cell: Cell) -> None:
        """Registers of an IO cell: data in, data out, driver; or two bits a cycle."""
        parameters, pins = cell["parameters"], cell["connections"]
        mode = parameters.get("MODE")
        if mode not in ("IREG_OREG", "IDDRX1_ODDRX1"):
            raise StillnetError(f"an IO cell in mode {mode} is not known; please report this")
        double = mode == "IDDRX1_ODDRX1"
        for data, out, kind in (
            ("PADDI", "INFF", "FF"),
            ("TXDATA0", "IOLDO", "OUTREG"),
            ("TSDATA0", "IOLTO", "TSREG"),
        ):
            if not pins.get(out):
                continue
            if double and out == "IOLDO":
                bits = ", ".join(self._in(cell, pin) for pin in ("TXDATA0", "TXDATA1"))
                self.wires.append(f"{name}_q")
                clock = self._in(cell, "CLK")
                self.lines.append(f"ODDRX1F {name} ({clock}, 1'b0, {bits}, {name}_q);")
                self._out(cell, out, f"{name}_q")
                continue
            register = parameters.get(f"{kind}.{'IN' if kind == 'FF' else 'OUT'}REGMODE")
            if register != "FF":
                raise StillnetError(
                    f"an IO cell with {kind} of mode {register} is not known; please report this"
                )
            way = "I" if kind == "FF" else "O"
            always = str(parameters.get(f"CE{way}MUX", "1")).strip() == "1"
            made = {
                "type": "TRELLIS_FF",
                "parameters": {
                    "REGSET": parameters.get(f"{kind}.REGSET", "RESET"),
                    "CLKMUX": parameters.get(f"CLK{way}MUX", "CLK"),
                    "CEMUX": "1" if always else parameters.get("CEMUX", "CE"),
                },
                "connections": {"Q": pins[out], "DI": pins.get(data, ["0"])}
                | {pin: pins[pin] for pin in ("CLK", "CE") if pins.get(pin)},
            }
            self._register(f"{name}_{kind}", made)

    def _instance(self, name: str, cell: Cell) -> None:
        directions, pins = cell["port_directions"], []
        for pin, bits in cell["connections"].items():
            if directions.get(pin, "input") == "output":
                if isinstance(bits[0], int):
                    self.wires.append(_net(bits[0]))
                    pins.append(f".{pin}({_net(bits[0])})")
            else:
                pins.append(f".{pin}({_net(bits[0])})")
        parameters = ", ".join(
            f".{key}({_literal(key, value)})" for key, value in _known(cell["parameters"])
        )
        self.lines.append(f"{cell['type']} #({parameters}) {name} ({', '.join(pins)});")


def _known(parameters: dict[str, Any]) -> list[tuple[str, Any]]:
    """Parameters that a model has: not the levels of single pins, which drive them already."""
    clocks = ("CLKAMUX", "CLKBMUX")
    return [
        (key, value)
        for key, value in parameters.items()
        if (not key.endswith("MUX") or key in clocks) and "." not in key and key != "WID"
    ]


def _literal(key: str, value: Any) -> str:
    if isinstance(value, int):
        return str(value)
    text = str(value).strip()
    if key.startswith(("INITVAL", "DATA_WIDTH")):
        if set(text) <= {"0", "1", "x"} and len(text) > 4:
            return f"{len(text)}'h{int(text.replace('x', '0'), 2):x}"
        return text
    return f'"{text}"'


def _net(bit: Bit) -> str:
    return f"n{bit}" if isinstance(bit, int) else f"1'b{bit if bit in '01' else '0'}"


def _not(value: str) -> str:
    return {"1'b0": "1'b1", "1'b1": "1'b0"}.get(value, f"~{value}")

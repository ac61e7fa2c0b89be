"""Verilog of a netlist that came out of a Gowin bitstream."""

from __future__ import annotations

from stillnet.sw.contract.errors import StillnetError

from .netlist import Cell
from .unpack import Unpacked
from .verilog import FOLDER, Writer, lut

__all__ = ["MODELS", "unpacked_verilog"]

MODELS = (FOLDER / "pads.v", FOLDER / "bsram.v")

_BYPASSES = 12
"""Registers of a multiplier that can be left out, by their marks."""
_VECTORS = {"ADA": 14, "ADB": 14, "BLKSELA": 3, "BLKSELB": 3, "DI": 36, "DO": 36}


def unpacked_verilog(netlist: Unpacked, top: str = "gates") -> str:
    """Verilog of a bitstream's netlist, with the models of its blocks."""
    return _Writer(netlist).text(top) + "".join(m.read_text() for m in MODELS)


class _Writer(Writer):
    chip = "a Gowin"

    def __init__(self, netlist: Unpacked) -> None:
        super().__init__(netlist)
        self.kinds = {
            "LUT": self._table,
            "ALU": self._alu,
            "MUX2": self._mux2,
            "DFF": self._flip_flop,
            "RAM16": self._ram16,
            "MULT18X18": self._multiplier,
            "BSRAM": self._block_ram,
            "ODDR": self._double,
            "STILLNET_PAD": self._instance,
        }

    def _pins(self, cell: Cell, names: str = "ABCD") -> tuple[str, ...]:
        return tuple(self._in(cell, pin) for pin in names)

    def _table(self, name: str, cell: Cell) -> None:
        self._out(cell, "F", lut(cell["parameters"]["INIT"], self._pins(cell)))

    def _alu(self, name: str, cell: Cell) -> None:
        """A bit of a sum. Where its table is 0, the carry is the table of A and B that its first
        four bits are."""
        table, carry = cell["parameters"]["INIT"], self._in(cell, "CIN")
        pins = self._pins(cell)
        self.lines.append(f"wire {name} = {lut(table, pins)};")
        self._out(cell, "F", f"{name} ^ {carry}")
        self._out(cell, "COUT", f"{name} ? {carry} : {lut(table & 15, pins[:2])}")

    def _mux2(self, name: str, cell: Cell) -> None:
        self._mux(cell, "O", "S0", "I1", "I0")

    def _flip_flop(self, name: str, cell: Cell) -> None:
        kind, pins = cell["parameters"]["KIND"], cell["connections"]
        value = "1'b1" if kind[-1] in "SP" else "1'b0"
        edge = f"{'negedge' if kind[3:4] == 'N' else 'posedge'} {self._in(cell, 'CLK')}"
        enable, reset = self._in(cell, "CE"), self._in(cell, "LSR") if "LSR" in pins else "1'b0"
        self.lines.append(f"reg {name} = {value};")
        self._out(cell, "Q", name)
        load = f"{name} <= {self._in(cell, 'D')};"
        load = {"1'b1": load, "1'b0": ";"}.get(enable, f"if ({enable}) {load}")
        if reset != "1'b0":
            load = f"if ({reset}) {name} <= {value}; else {load}"
            if kind[-1] in "CP":
                edge += f" or posedge {self._named(f'{name}_r', reset)}"
        self.clocked[edge].append(load)

    def _ram16(self, name: str, cell: Cell) -> None:
        """One bit of a RAM of 16 words."""
        self.lines.append(f"reg [15:0] {name} = 16'h{cell['parameters']['INIT']:x};")
        read, write = (", ".join(self._in(cell, p + k) for k in "DCBA") for p in ("", "W"))
        self._out(cell, "F", f"{name}[{{{read}}}]")
        statement = f"if ({self._in(cell, 'WRE')}) {name}[{{{write}}}] <= {self._in(cell, 'DATA')};"
        self.clocked[f"posedge {self._in(cell, 'CLK')}"].append(statement)

    def _multiplier(self, name: str, cell: Cell) -> None:
        found, half = cell["parameters"]["ATTRIBUTES"], cell["parameters"]["HALF"]
        marks = [f"IRBY_IREG{half}", f"PPREG{half}_BYP", f"OREG{half}_BYP"]
        marks += [f"{p}_{3 * half + k}" for p in ("CINBY", "CPRBY") for k in (0, 1)]
        count = sum(key.startswith(tuple(marks)) for key in found)
        if count != _BYPASSES:
            raise StillnetError(
                f"the multiplier at {cell['parameters']['PLACE']} has registers in use "
                f"({_BYPASSES - count} of {_BYPASSES}), which its model does not have; please "
                "report this"
            )
        for side in "AB":
            bits = ", ".join(self._in(cell, f"{side}{k}") for k in reversed(range(18)))
            sign = f"{self._in(cell, side + 'SIGN')} & {self._in(cell, side + '17')}"
            self.lines.append(f"wire signed [35:0] {name}{side} = {{{{18{{{sign}}}}}, {bits}}};")
        self.lines.append(f"wire [35:0] {name} = {name}A * {name}B;")
        for k in range(36):
            self._out(cell, f"DOUT{k}", f"{name}[{k}]")

    def _double(self, name: str, cell: Cell) -> None:
        """Two bits a cycle (UG289, ODDR): D0 leaves while the clock is high, D1 while it is low."""
        pins = ", ".join(self._in(cell, pin) for pin in ("CLK", "D0", "D1"))
        self.lines.append(f"wire {name}; STILLNET_ODDR {name}_i ({pins}, {name});")
        self._out(cell, "Q", name)

    def _block_ram(self, name: str, cell: Cell) -> None:
        known = cell["parameters"]
        words = sum(int(word) << 18 * k for k, word in enumerate(known["WORDS"]))
        parameters = [f".WORDS(18432'h{words:x})"]
        parameters += [f".{key}({value})" for key, value in known.items() if key != "WORDS"]
        pins = []
        for vector, width in _VECTORS.items():
            if vector == "DO":
                self.lines.append(f"wire [35:0] {name};")
                pins.append(f".DO({name})")
                for k in range(width):
                    self._out(cell, f"DO{k}", f"{name}[{k}]")
            else:
                bits = ", ".join(self._in(cell, f"{vector}{k}") for k in reversed(range(width)))
                pins.append(f".{vector}({{{bits}}})")
        for side in "AB":
            for pin in ("CLK", "CE", "OCE", "WRE", "RESET"):
                pins.append(f".{pin}{side}({self._in(cell, pin + side)})")
        text = f"STILLNET_BSRAM #({', '.join(parameters)}) {name}_i ({', '.join(pins)});"
        self.lines.append(text)

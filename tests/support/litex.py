"""The LiteX system of ``examples/litex``, for tests and measurements."""

from __future__ import annotations

import importlib.util
import sys
from types import ModuleType

from tests import ROOT

__all__ = ["example"]


def example() -> ModuleType:
    """The module ``examples/litex/soc.py``, anew each time."""
    spec = importlib.util.spec_from_file_location("litex_soc", ROOT / "examples/litex/soc.py")
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module

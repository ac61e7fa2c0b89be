"""Engines as Verilog text."""

from __future__ import annotations

import functools
import os

from stillnet.sw.contract.config import EngineConfig

from .engine import Engine

__all__ = ["engine_verilog", "to_verilog"]


def to_verilog(component: object, name: str) -> str:
    """Verilog of a component; its ports are those of its signature.

    The Yosys that comes with Amaranth does the conversion, so that the text depends on no tool of
    the machine.
    """
    from amaranth.back import verilog

    os.environ.setdefault("AMARANTH_USE_YOSYS", "builtin")
    return verilog.convert(component, name=name, emit_src=False)


@functools.lru_cache(maxsize=32)
def engine_verilog(config: EngineConfig, *, check_dispatch: bool = True) -> str:
    """The bare engine of a configuration: register bus, streams and memory port."""
    return to_verilog(Engine(config, check_dispatch=check_dispatch), "engine")

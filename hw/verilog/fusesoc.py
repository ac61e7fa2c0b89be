"""A core as a package of FuseSoC (CAPI2)."""

from __future__ import annotations

from importlib import metadata
from typing import Any

__all__ = ["fusesoc_core"]

_TEXT = """\
CAPI=2:

# Written by stillnet {version}; generate again instead of changing it.
name: stillnet:engines:{name}:{version}
description: "stillnet engine, configuration '{preset}', fingerprint {fingerprint}"

filesets:
  rtl:
    files:
      - {name}.v
    file_type: verilogSource-2005

targets:
  # What other cores get that depend on this one.
  default:
    filesets: [rtl]
    toplevel: {name}

  # fusesoc run --target lint stillnet:engines:{name}
  lint:
    description: Verilator's warnings
    flow: lint
    flow_options:
      tool: verilator
    filesets: [rtl]
    toplevel: {name}
"""


def fusesoc_core(description: dict[str, Any]) -> str:
    """The ``.core`` file.

    Parameters
    ----------
    description : dict
        What :func:`~stillnet.hw.verilog.describe.describe_core` says of the core.
    """
    version = metadata.version("stillnet")
    keys = {key: description[key] for key in ("preset", "fingerprint")}
    return _TEXT.format(name=description["module"], version=version, **keys)

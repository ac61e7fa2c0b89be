"""Pictures that are drawn with matplotlib: how all of them look, and where they may be written."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

from stillnet.sw.contract.errors import StillnetError

from .files import check_place

__all__ = ["FAINT", "INK", "PALETTE", "STYLE", "check_picture"]

PALETTE = ("#0072B2", "#E69F00", "#009E73", "#CC79A7", "#56B4E9", "#D55E00", "#999999")
"""Okabe and Ito's colours, told apart by colour-blind readers."""

INK, FAINT = "#22303c", "#8a8a8a"

STYLE: dict[Any, Any] = {
    "font.family": "DejaVu Sans",
    "font.size": 10,
    "axes.titlesize": 11.5,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": FAINT,
    "axes.labelcolor": INK,
    "axes.titlecolor": INK,
    "xtick.color": INK,
    "ytick.color": INK,
    "text.color": INK,
    "figure.facecolor": "white",
    "legend.frameon": False,
}
"""Settings of matplotlib."""

_KINDS = (".png", ".svg", ".pdf")


def check_picture(path: str | Path) -> None:
    """Refuses a picture that could not be drawn, before the work for it begins.

    Raises
    ------
    StillnetError
        For another kind of file, a folder that is not there, or without matplotlib.
    """
    if Path(path).suffix not in _KINDS:
        raise StillnetError(f"'{path}' is no picture; its name must end in {', '.join(_KINDS)}")
    check_place(path)
    if importlib.util.find_spec("matplotlib") is None:
        raise StillnetError('plots need matplotlib; pip install "stillnet[plot]"')

"""Pictures that commands draw with matplotlib."""

from __future__ import annotations

import importlib.util
from pathlib import Path

from stillnet.sw.contract.errors import StillnetError

from .files import check_place

__all__ = ["check_picture"]

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

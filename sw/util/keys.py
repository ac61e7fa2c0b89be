"""Keys of what stillnet wrote to a file: all of them are there, and no other."""

from __future__ import annotations

from collections.abc import Iterable

from stillnet.sw.contract.errors import StillnetError

__all__ = ["check_keys"]


def check_keys(
    found: Iterable[str],
    known: Iterable[str],
    where: str,
    *,
    optional: Iterable[str] = (),
    kind: str = "key",
    remedy: str = "quantize again",
) -> None:
    """Refuses what a file of stillnet lacks, or has too much.

    A guess in place of a value that is not there would give other numbers than the network had.

    Parameters
    ----------
    found : iterable of str
    known : iterable of str
        What must be there.
    where : str
        Which part of which file, for the message.
    optional : iterable of str
        What may be there besides.
    kind : str
        What the names are.
    remedy : str
        How to make the file again.
    """
    found, known = set(found), set(known)
    for name in sorted(known - found):
        _refuse(f"{where} has no {kind} '{name}'", remedy)
    for name in sorted(found - known - set(optional)):
        _refuse(f"{where} has an unknown {kind} '{name}'", remedy)


def _refuse(what: str, remedy: str) -> None:
    raise StillnetError(f"{what}: made by another version of stillnet; {remedy}")

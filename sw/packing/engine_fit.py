"""What a network asks of an engine: options, formats of columns, cells, capacities.

A compressed network needs hardware that a plain engine does not have: multipliers for four bits,
a decoder for columns with gaps, multipliers of rows. :func:`fit` adds just that to a configuration,
so that nobody has to know which options a network uses.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import fields, replace
from typing import Any

from stillnet.sw.contract.cells import CELLS
from stillnet.sw.contract.config import EngineConfig
from stillnet.sw.contract.image import FORMATS, MOST_ROWS, UNEQUAL_FORMATS, block_rows
from stillnet.sw.network.network import Network

from .packer import capacities, costs

__all__ = ["changed", "fit", "lacking", "missing"]

GAIN = 0.02
"""A format of columns is added where it saves this part of the words; its decoder costs area."""

COLUMNS = 1024
"""Lengths of columns in a block of RAM: never fewer."""


def _options(network: Network, base: EngineConfig) -> dict[str, Any]:
    """Fields of ``base`` with what a network asks for, formats and capacities left out."""
    cells = dict.fromkeys([*base.cells, *(layer.cell for layer in network.layers)])
    four = any(m.bits == 4 for layer in network.layers for m in layer.matrices)
    return {
        "cells": tuple(cells),
        "int4": base.int4 or four,
        "row_scale": network.row_scale or (base.row_scale and _rooms_for_multipliers(cells)),
        "element_thresholds": base.element_thresholds or network.element_thresholds,
        "second_threshold": base.second_threshold or network.second_threshold,
        "budgets": base.budgets or bool(network.budgets),
    }


def _rooms_for_multipliers(cells: Iterable[str]) -> bool:
    """Whether blocks of all cells have room for multipliers of rows (``EngineConfig``)."""
    return all(block_rows(CELLS[c], True) <= MOST_ROWS for c in cells)


def lacking(network: Network, config: EngineConfig) -> list[str]:
    """Options that a network asks for and an engine does not have: fields of ``EngineConfig``."""
    asked = _options(network, config)
    return [field for field, value in asked.items() if value != getattr(config, field)]


def missing(network: Network, config: EngineConfig) -> list[str]:
    """Fields of ``config`` that must change before the network fits; empty where it fits.

    More than :func:`lacking`: formats that the network asks for by name and capacities count too.
    """
    found = lacking(network, config)
    asked = {m.format for layer in network.layers for m in layer.matrices} - {None}
    if not asked <= set(config.formats):
        found.append("formats")
    return [*found, *_larger(network, replace(config, **_options(network, config)))]


def changed(base: EngineConfig, config: EngineConfig) -> list[str]:
    """Fields in which two configurations differ, except their names."""
    return [
        f.name
        for f in fields(base)
        if f.name != "name" and getattr(base, f.name) != getattr(config, f.name)
    ]


def fit(network: Network, base: EngineConfig) -> EngineConfig:
    """An engine like another one, with what a network asks of it.

    Parameters
    ----------
    network : Network
    base : EngineConfig
        Gives the lanes, the memory, and everything that is large enough already.

    Returns
    -------
    EngineConfig
        ``base`` itself where it has all of it; else named ``BASE-fit``. Capacities that are too
        small are raised to the next power of two, those of tables to what is needed. The same
        network and base give the same engine always.

    Raises
    ------
    StillnetError
        If no engine has all that the network asks.
    """
    network.validate()
    config = replace(base, name=f"{base.name}-fit", **_options(network, base))
    config = _formats(network, config)
    config = replace(config, **_larger(network, config))
    return base if config.fingerprint == base.fingerprint else config


def _larger(network: Network, config: EngineConfig) -> dict[str, Any]:
    """Capacities that are too small, with the value that they need."""
    return {
        field: needed if field in ("layers", "matrices") else 1 << (needed - 1).bit_length()
        for field, needed in capacities(network, config).items()
        if needed > getattr(config, field)
    }


def _formats(network: Network, config: EngineConfig) -> EngineConfig:
    """With the formats that matrices ask for by name, and those that save words elsewhere."""
    everything = config.reading(FORMATS)
    asked = [m.format for layer in network.layers for m in layer.matrices]
    found = []  # fewest words by format, of each matrix
    for row, name in zip(costs(network, everything), asked):
        words: dict[str, int] = {}
        for stored, count in row["words"].items():
            kind = stored.split()[0]
            words[kind] = min(count, words.get(kind, count))
        found.append(words if name is None else {name: words[name]})

    def total(formats: list[str]) -> int:
        return sum(min(w[f] for f in formats if f in w) for w in found)

    # From all of them, what is missed least goes, until something would be missed.
    kept = {*config.formats, *asked}  # None among them does no harm
    chosen = [*config.formats, *(f for f in FORMATS if f not in config.formats)]
    while spare := [f for f in chosen if f not in kept]:
        least = min(spare, key=lambda f: total([g for g in chosen if g != f]))
        fewer = [f for f in chosen if f != least]
        if (1 - GAIN) * total(fewer) > total(chosen):
            break
        chosen = fewer
    fitted = config.reading(chosen)
    if not fitted.columns:
        return fitted
    listed = sum(
        m.weight.shape[2]
        for layer in network.layers
        for m in layer.matrices
        if config.hot_words or m.layout(layer.cell, fitted).kind.name.lower() in UNEQUAL_FORMATS
    )
    needed = 1 << (listed - 1).bit_length() if listed else 0
    return replace(fitted, columns=max(config.columns, COLUMNS, needed))

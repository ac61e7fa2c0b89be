"""Checks of a network that follow from its cells: scales, parameters, peers, initial state."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from stillnet.sw.contract.cells import CELLS, Cell
from stillnet.sw.contract.errors import StillnetError
from stillnet.sw.contract.fixed import PRE, RESCALE_GUARD_BITS, Format

if TYPE_CHECKING:
    from .network import Network, QuantizedLayer

__all__ = ["check_cell", "label_exponent", "nominal_fraction", "parameter_range", "state_format"]


def label_exponent(cell: Cell, exponents: dict[str, int], name: str) -> int:
    """Power of two by which the integers of a name are finer than its format says.

    Parameters
    ----------
    cell : Cell
    exponents : dict of str to int
        By label, as ``QuantizedLayer.exponents``.
    name : str
        A key of ``Cell.scale``; what is not there has the scale of its format. Parameters of
        homogeneous cells are ratios: they have no scale.
    """
    if name in cell.parameters and name not in cell.scale:
        return 0
    label = cell.scale.get(name, "")
    over, _, under = label.partition("/")
    return exponents.get(over, 0) - (exponents.get(under, 0) if under else 0)


def state_format(layer: QuantizedLayer, name: str) -> Format:
    """Format of a state variable of a layer in real units."""
    cell = CELLS[layer.cell]
    fmt = cell.state[name]
    return Format(fmt.bits, fmt.fraction + label_exponent(cell, layer.exponents, name))


def nominal_fraction(layer: QuantizedLayer) -> int:
    """Fraction bits of the cell's 16-bit result in real units, before the write shift."""
    cell = CELLS[layer.cell]
    return cell.graph.result.format.fraction + label_exponent(cell, layer.exponents, "y")


def parameter_range(cell: Cell, name: str) -> tuple[float, float]:
    """Smallest and largest value of a parameter, in the units of its format."""
    fmt = cell.parameters[name]
    low, high = cell.limits.get(name, (-np.inf, np.inf))
    unit = 2.0**-fmt.fraction
    return max(low, fmt.minimum * unit), min(high, fmt.maximum * unit)


def check_cell(network: Network, index: int, exponent: int) -> None:
    """Refuses scales, parameters and peers that do not fit the cell of a layer.

    Parameters
    ----------
    network : Network
    index : int
    exponent : int
        Fraction bits of the layer's accumulators.
    """
    layer = network.layers[index]
    cell, where = CELLS[layer.cell], f"layer '{layer.name}'"
    if cell.homogeneous:
        fits = layer.write_shift == 0
        fits &= layer.shift == exponent - layer.fraction + RESCALE_GUARD_BITS
    else:
        fits = layer.fraction == nominal_fraction(layer) - layer.write_shift
        pre = PRE.fraction + label_exponent(cell, layer.exponents, "m")
        fits &= layer.shift == exponent - pre + RESCALE_GUARD_BITS
    if not fits:
        raise StillnetError(
            f"{where}: rescale shift {layer.shift}, write shift {layer.write_shift} and "
            f"fraction {layer.fraction} do not fit exponent {exponent}"
        )
    labels = {part for label in cell.scale.values() for part in label.split("/")}
    unknown = sorted(set(layer.exponents) - labels)
    if unknown:
        raise StillnetError(f"{where}: cell '{layer.cell}' has no scale '{unknown[0]}'")
    if set(layer.parameters) != set(cell.parameters):
        raise StillnetError(
            f"{where}: parameters are given for {sorted(layer.parameters)}, the cell has "
            f"{sorted(cell.parameters)}"
        )
    for name, values in layer.parameters.items():
        if values.shape != (layer.units,):
            raise StillnetError(
                f"{where}: parameter '{name}' has shape {values.shape}, expected {(layer.units,)}"
            )
        unit = 2.0 ** -cell.parameters[name].fraction
        low, high = parameter_range(cell, name)
        bad = (values * unit < low) | (values * unit > high)
        if np.any(bad):
            unit_number = int(np.argmax(bad))
            raise StillnetError(
                f"{where}: parameter '{name}' is {int(values[unit_number])} at unit {unit_number}, "
                f"cell '{layer.cell}' takes {int(np.ceil(low / unit))} to "
                f"{int(np.floor(high / unit))}"
            )
    _check_peers(network, index)


def _check_peers(network: Network, index: int) -> None:
    layer = network.layers[index]
    cell, where = CELLS[layer.cell], f"layer '{layer.name}'"
    if set(layer.peers) != set(cell.peers):
        raise StillnetError(
            f"{where}: peers are given for {sorted(layer.peers)}, cell '{layer.cell}' reads "
            f"{sorted(cell.peers)}"
        )
    for name, number in layer.peers.items():
        if not 0 <= number < len(network.layers) or number == index:
            raise StillnetError(f"{where}: peer '{name}' is layer {number}, which does not exist")
        other = network.layers[number]
        fmt = CELLS[other.cell].state.get(name)
        if fmt != cell.peers[name]:
            raise StillnetError(
                f"{where}: peer '{name}' of layer '{other.name}' is {fmt or 'not there'}, cell "
                f"'{layer.cell}' reads {cell.peers[name]}"
            )
        if other.units != layer.units:
            raise StillnetError(
                f"{where} has {layer.units} units and reads '{name}' of layer '{other.name}', "
                f"which has {other.units}"
            )
        own = label_exponent(cell, layer.exponents, name)
        theirs = label_exponent(CELLS[other.cell], other.exponents, name)
        if own != theirs:
            raise StillnetError(
                f"{where} reads '{name}' at scale 2**{own}, layer '{other.name}' writes it at "
                f"2**{theirs}; quantize the network again"
            )

"""Networks that were pruned or trained quantized elsewhere: their masks and steps are honoured.

A weight of zero in the model stays zero, and a step that the training used stays what it was; the
solvers only move what is left free.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np

from stillnet.sw.contract.errors import StillnetError
from stillnet.sw.model.model import Model
from stillnet.sw.quantization.preparation import Fixed
from stillnet.sw.quantization.solvers.hessian import bundles

__all__ = ["Given", "honour"]


@dataclass
class Given:
    """What came with a network.

    Attributes
    ----------
    zeros : bool
        Weights that are zero in the model stay zero.
    steps : dict of (layer name, gate) to float or array, shape (units,)
        Steps of the rows: a weight is an integer times this. Where a gate is fed by several
        matrices they share it.
    """

    zeros: bool = True
    steps: Mapping[tuple[str, str], float | np.ndarray] = field(default_factory=dict)

    def digest(self) -> str:
        """Of everything that decides the result."""
        hash_ = hashlib.sha256(str(self.zeros).encode())
        for key in sorted(self.steps):
            hash_.update(str(key).encode())
            hash_.update(np.asarray(self.steps[key], float).tobytes())
        return hash_.hexdigest()


def honour(model: Model, given: Given) -> Fixed:
    """Masks and steps by layer and bundle.

    Raises
    ------
    StillnetError
        Where a step names no gate, is not positive, or covers only some gates that share a bundle.
    """
    fixed = Fixed()
    names = {(layer.name, g) for layer in model.layers for g in layer.bias}
    for key, value in given.steps.items():
        if key not in names:
            raise StillnetError(
                f"steps name gate '{key[1]}' of layer '{key[0]}', which is not there"
            )
        if not np.all(np.isfinite(value)) or np.any(np.asarray(value) <= 0):
            raise StillnetError(
                f"layer '{key[0]}': the steps of gate '{key[1]}' must be positive numbers"
            )
    for i, layer in enumerate(model.layers):
        for place, bundle in enumerate(bundles(model, i)):
            weight = bundle.weight(layer)
            if given.zeros and np.any(weight == 0):
                fixed.kept[i, place] = weight != 0
            named = [(layer.name, g) in given.steps for g in bundle.gates]
            if any(named) and not all(named):
                missing = bundle.gates[named.index(False)]
                raise StillnetError(
                    f"layer '{layer.name}': steps are given for some gates but not for "
                    f"'{missing}'; give all of them"
                )
            if all(named):
                fixed.steps[i, place] = np.concatenate(
                    [
                        np.broadcast_to(
                            np.asarray(given.steps[layer.name, g], float), (layer.units,)
                        )
                        for g in bundle.gates
                    ]
                )
    return fixed

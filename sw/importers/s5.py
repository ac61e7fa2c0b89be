"""Import of S5 stacks: a documented safetensors layout, and converters from other names.

The layout (``docs/import.md`` has it as a table), for blocks N = 0, 1, ...::

    encoder.weight (H, I)        encoder.bias (H,)
    blocks.N.lam (P, 2)          blocks.N.log_step (P,)     or blocks.N.factor (P, 2)
    blocks.N.b (P, H, 2)         blocks.N.c (H, P, 2)       blocks.N.d (H,)
    blocks.N.glu.weight (H, H)   blocks.N.glu.bias (H,)
    blocks.N.norm.mean, .variance, .weight, .bias (H,)
    decoder.weight (O, H)        decoder.bias (O,)

A last axis of 2 is real and imaginary part. The metadata key ``s5`` holds :class:`S5Options` as
JSON. ``s5_names`` converts from other names.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np

from stillnet.sw.contract.errors import StillnetError
from stillnet.sw.model.model import Model
from stillnet.sw.model.s5 import batch_norm

from .tensor_files import float_array, refuse_tensor

__all__ = ["S5Options", "from_s5", "save_s5"]

_BLOCK = re.compile(r"blocks\.(\d+)\.(.+)")
_ENDS = ("encoder.weight", "encoder.bias", "decoder.weight", "decoder.bias")
_PARTS = ("lam", "log_step", "factor", "b", "c", "d", "glu.weight", "glu.bias") + tuple(
    f"norm.{n}" for n in ("mean", "variance", "weight", "bias")
)


@dataclass(frozen=True)
class S5Options:
    """What the tensors of an S5 stack do not say.

    Attributes
    ----------
    method : str
        Discretisation: ``"zoh"``, ``"bilinear"``, or ``"discrete"`` where ``lam`` is discrete
        already and ``factor`` multiplies the rows of ``b``.
    conjugate : bool
        Only one of each conjugate pair is kept: y = 2 Re(C x). Otherwise y = Re(C x).
    clip_eigenvalues : bool
        Real parts of ``lam`` are at most -0.0001 (``clip_eigs`` of the public S5).
    step_scale : float
        Factor of the time step, for another sampling rate than in training.
    epsilon : float
        Of the batch normalisation.
    activation : str
        ``"relu"``: the only one that the cell has, and the one that makes events sparse.
    prenorm : bool
        The normalisation stands before the state space model.
    """

    method: str = "zoh"
    conjugate: bool = True
    clip_eigenvalues: bool = False
    step_scale: float = 1.0
    epsilon: float = 1e-5
    activation: str = "relu"
    prenorm: bool = True

    def __post_init__(self) -> None:
        if self.method not in ("zoh", "bilinear", "discrete"):
            raise StillnetError(
                f"S5 option method must be 'zoh', 'bilinear' or 'discrete', not '{self.method}'"
            )
        if self.activation != "relu":
            raise StillnetError(
                f"S5 option activation is '{self.activation}'; only 'relu' is supported, so train "
                "or fine-tune the stack with ReLU"
            )
        if not self.prenorm:
            raise StillnetError(
                "S5 option prenorm is false; a normalisation after the skip connection cannot be "
                "folded, so train with prenorm"
            )
        if not (np.isfinite(self.step_scale) and self.step_scale > 0):
            raise StillnetError(f"S5 option step_scale must be positive, not {self.step_scale}")

    @classmethod
    def from_json(cls, text: str) -> S5Options:
        """Options from the metadata of a file."""
        try:
            values = json.loads(text)
            unknown = sorted(set(values) - {f.name for f in fields(cls)})
        except (ValueError, TypeError) as e:
            raise StillnetError(
                f"metadata key 's5' is no JSON object ({e}): write the file with save_s5"
            ) from None
        if unknown:
            raise StillnetError(
                f"metadata key 's5' has the option '{unknown[0]}', which is not known; options "
                "are " + ", ".join(f.name for f in fields(cls))
            )
        return cls(**values)


def from_s5(
    state: Mapping[str, Any], options: S5Options | None = None, *, name: str = "network"
) -> Model:
    """Builds a model from tensors in the layout of this module.

    Parameters
    ----------
    state : mapping of str to tensor
    options : S5Options, optional
    name : str
        Name of the result.

    Returns
    -------
    Model
        An encoder, four layers a block (``blocks.N.state``, ``.imag``, ``.output``, ``blocks.N``)
        and a linear decoder, if the file has one. Batch normalisation is folded.

    Raises
    ------
    StillnetError
        A tensor, named, is missing, unknown or of the wrong shape.
    """
    options = options or S5Options()
    blocks: dict[int, dict[str, np.ndarray]] = {}
    ends: dict[str, np.ndarray] = {}
    for key, value in state.items():
        m = _BLOCK.fullmatch(key)
        if m is not None and m[2] in _PARTS:
            blocks.setdefault(int(m[1]), {})[m[2]] = float_array(key, value)
        elif key in _ENDS:
            ends[key] = float_array(key, value)
        else:
            refuse_tensor(key, "it is not part of the S5 layout; see docs/import.md")
    if sorted(blocks) != list(range(len(blocks))) or not blocks:
        raise StillnetError(
            f"the S5 stack has the blocks {sorted(blocks)}; they must be 0, 1, ... without a gap"
        )
    if "encoder.weight" not in ends:
        refuse_tensor("encoder.weight", "it is missing; an S5 stack begins with an encoder")
    encoder = _shaped("encoder.weight", ends["encoder.weight"], (None, None))
    width = len(encoder)
    model = Model(encoder.shape[1], name=name)
    model.s5_encoder(encoder, _bias(ends, "encoder.bias", width), name="encoder")
    for n in range(len(blocks)):
        _add_block(model, f"blocks.{n}", blocks[n], width, options)
    if "decoder.weight" in ends:
        decoder = _shaped("decoder.weight", ends["decoder.weight"], (None, width))
        model.dense(decoder, _bias(ends, "decoder.bias", len(decoder)), name="decoder")
    return model


def save_s5(
    path: str | PathLike[str], state: Mapping[str, Any], options: S5Options | None = None
) -> None:
    """Writes tensors in the layout of this module, and the options, to a ``.safetensors`` file.

    The stack is built once, so that a file that could not be read is not written.
    """
    from safetensors.numpy import save_file

    options = options or S5Options()
    from_s5(state, options)
    arrays = {k: np.ascontiguousarray(float_array(k, v)) for k, v in state.items()}
    save_file(arrays, Path(path), metadata={"s5": json.dumps(asdict(options))})


def _shaped(key: str, value: np.ndarray, shape: tuple[int | None, ...]) -> np.ndarray:
    """Checks a shape; None stands for any size above zero."""
    fits = value.ndim == len(shape) and all(
        n > 0 if want is None else n == want for n, want in zip(value.shape, shape)
    )
    if not fits:
        wanted = ", ".join("n" if n is None else str(n) for n in shape)
        comma = "," if len(shape) == 1 else ""
        refuse_tensor(key, f"it has shape {value.shape}, expected ({wanted}{comma})")
    return value


def _bias(ends: Mapping[str, np.ndarray], key: str, size: int) -> np.ndarray | None:
    return _shaped(key, ends[key], (size,)) if key in ends else None


def _add_block(
    model: Model, name: str, parts: dict[str, np.ndarray], width: int, options: S5Options
) -> None:
    def take(part: str, *shape: int | None) -> np.ndarray:
        if part not in parts:
            refuse_tensor(f"{name}.{part}", "it is missing; save the whole stack")
        return _shaped(f"{name}.{part}", parts[part], shape)

    def pair(part: str, *shape: int | None) -> np.ndarray:
        value = take(part, *shape, 2)
        return value[..., 0] + 1j * value[..., 1]

    lam = pair("lam", None)
    states = len(lam)
    more: dict[str, Any] = {}
    if options.method == "discrete":
        more["factor"] = pair("factor", states) if "factor" in parts else 1.0
        if "log_step" in parts:
            refuse_tensor(f"{name}.log_step", "it has no use with the method 'discrete'; remove it")
    else:
        if "factor" in parts:
            refuse_tensor(
                f"{name}.factor", f"it has no use with the method '{options.method}'; remove it"
            )
        if options.clip_eigenvalues:
            lam = np.minimum(lam.real, -1e-4) + 1j * lam.imag
        step = np.exp(take("log_step", states)) * options.step_scale
        more |= {"step": step, "method": options.method}
    if any(p.startswith("norm.") for p in parts):
        weight = take("norm.weight", width) if "norm.weight" in parts else None
        bias = take("norm.bias", width) if "norm.bias" in parts else None
        variance = take("norm.variance", width)
        if np.any(variance + options.epsilon <= 0):
            refuse_tensor(f"{name}.norm.variance", "it has a negative element; save it again")
        mean = take("norm.mean", width)
        more["norm"] = batch_norm(mean, variance, weight, bias, options.epsilon)
    glu_bias = take("glu.bias", width) if "glu.bias" in parts else None
    model.s5(
        lam,
        pair("b", states, width),
        pair("c", width, states),
        take("d", width),
        glu=(take("glu.weight", width, width), glu_bias),
        conjugate=options.conjugate,
        name=name,
        **more,
    )

"""Import of S5 stacks: a documented safetensors layout, and converters from other names.

The layout (``docs/import.md`` has it as a table), for blocks N = 0, 1, ...::

    encoder.weight (H, I)        encoder.bias (H,)
    blocks.N.lam (P, 2)          blocks.N.log_step (P,)     or blocks.N.factor (P, 2)
    blocks.N.b (P, H, 2)         blocks.N.c (H, P, 2)       blocks.N.d (H,)
    blocks.N.glu.weight (H, H)   blocks.N.glu.bias (H,)
    blocks.N.norm.mean, .variance, .weight, .bias (H,)
    decoder.weight (O, H)        decoder.bias (O,)

A last axis of 2 is real and imaginary part. The metadata key ``s5`` holds :class:`S5Options` as
JSON. Files of other code bases have neither the discretisation nor the activation in them; the
converters take both as options.

Facts of the code bases (names and shapes; none of their code is used): lindermanlab/S5 keeps
``Lambda_re``, ``Lambda_im``, ``B``, ``C``, ``D``, ``log_step`` in ``encoder/layers_N/seq``, the
half-GLU in ``out2``, and running statistics in ``batch_stats``; s5-pytorch 0.2 keeps complex
``Lambda`` and ``C`` and gives y without the factor 2 of a conjugate pair.
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

from .builders_s5 import batch_norm
from .errors import StillnetError
from .model import Model
from .tensor_files import float_array, refuse_tensor

__all__ = ["S5Options", "from_s5", "s5_from_jax", "s5_from_torch", "save_s5"]

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
                "S5 option prenorm is false; a normalisation behind the skip connection cannot be "
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


# -- converters -----------------------------------------------------------------------------------


def _flat(tree: Mapping[str, Any], before: str = "") -> dict[str, Any]:
    """Nested mappings, or names with slashes, to names with dots."""
    found: dict[str, Any] = {}
    for key, value in tree.items():
        name = f"{before}{key}".replace("/", ".")
        if isinstance(value, Mapping):
            found |= _flat(value, f"{name}.")
        else:
            found[name] = value
    return found


def s5_from_jax(
    params: Mapping[str, Any], batch_stats: Mapping[str, Any] | None = None
) -> dict[str, np.ndarray]:
    """Tensors of the public S5 (lindermanlab/S5, JAX) in the layout of this module.

    Parameters
    ----------
    params, batch_stats : mappings
        The collections of the trained state, nested, or flat with names joined by ``/`` or ``.``;
        ``params`` may also hold both under their names. Options that they do not tell
        (``discretization``, ``conj_sym``, ``clip_eigs``) go to :class:`S5Options`.

    Raises
    ------
    StillnetError
        A tensor, named, belongs to a form of the block that is not supported: a full GLU, layer
        normalisation, or a bidirectional model.
    """
    tree = _flat(params)
    if any(k.startswith("params.") for k in tree):
        stats = {k: v for k, v in tree.items() if k.startswith("batch_stats.")}
        tree = {k: v for k, v in tree.items() if k.startswith("params.")}
        tree = {k.removeprefix("params."): v for k, v in tree.items()}
        batch_stats = batch_stats or {k.removeprefix("batch_stats."): v for k, v in stats.items()}
    running = _flat(batch_stats or {})
    renames = {
        "seq.D": "d",
        "seq.log_step": "log_step",
        "seq.B": "b",
        "seq.C": "c",
        "out2.kernel": "glu.weight",
        "out2.bias": "glu.bias",
        "norm.scale": "norm.weight",
        "norm.bias": "norm.bias",
    }
    refusals = {
        "seq.C1": "the model is bidirectional; a stream has no end to start from",
        "seq.C2": "the model is bidirectional; a stream has no end to start from",
        "out1.kernel": "a full GLU is not supported; train with activation half_glu1",
        "out1.bias": "a full GLU is not supported; train with activation half_glu1",
    }
    found: dict[str, np.ndarray] = {}
    eigenvalues: dict[str, dict[str, np.ndarray]] = {}
    for key, value in tree.items():
        if m := re.fullmatch(r"encoder\.layers_(\d+)\.(.+)", key):
            block, part = f"blocks.{m[1]}", m[2]
            if part in refusals:
                refuse_tensor(key, refusals[part])
            array = float_array(key, value)
            if part in ("seq.Lambda_re", "seq.Lambda_im"):
                eigenvalues.setdefault(block, {})[part[-2:]] = array
            elif part in renames:
                array = array.T if part == "out2.kernel" else array
                array = array.reshape(-1) if part == "seq.log_step" else array
                found[f"{block}.{renames[part]}"] = array
            else:
                refuse_tensor(key, "it is no tensor of a supported S5 block")
        elif m := re.fullmatch(r"(?:encoder\.)?(encoder|decoder)\.(kernel|bias)", key):
            array = float_array(key, value)
            what = "weight" if m[2] == "kernel" else "bias"
            found[f"{m[1]}.{what}"] = array.T if what == "weight" else array
        else:
            refuse_tensor(key, "it is no tensor of a supported S5 model")
    for block, parts in eigenvalues.items():
        for part in ("re", "im"):
            if part not in parts:
                number = block.removeprefix("blocks.")
                refuse_tensor(f"encoder.layers_{number}.seq.Lambda_{part}", "it is missing")
        found[f"{block}.lam"] = np.stack([parts["re"], parts["im"]], axis=-1)
    for key, value in running.items():
        if m := re.fullmatch(r"encoder\.layers_(\d+)\.norm\.(mean|var)", key):
            what = {"mean": "mean", "var": "variance"}[m[2]]
            found[f"blocks.{m[1]}.norm.{what}"] = float_array(key, value)
    for key in list(found):
        m = re.fullmatch(r"blocks\.(\d+)\.norm\.\w+", key)
        if m and f"blocks.{m[1]}.norm.mean" not in found:
            refuse_tensor(
                f"encoder.layers_{m[1]}.norm",
                "it has no running mean: give batch_stats, or train with batchnorm, as layer "
                "normalisation cannot be folded",
            )
    return found


def s5_from_torch(
    state: Mapping[str, Any],
    *,
    ssm: str = "layers.{}.s5.seq",
    glu: str = "layers.{}.glu",
    norm: str | None = "layers.{}.norm",
    encoder: str = "encoder",
    decoder: str | None = "decoder",
) -> dict[str, np.ndarray]:
    """Tensors of a stack around the ``S5SSM`` modules of s5-pytorch, in the layout of this module.

    The package has the state space model alone in a form that can be taken (its ``S5Block`` has
    layer normalisation and GELU); the rest of the stack is yours, so its names are parameters.
    ``conjugate`` of :class:`S5Options` must be False for such a stack.

    Parameters
    ----------
    state : mapping of str to tensor
        ``module.state_dict()``; ``Lambda`` and ``C`` complex, or with a last axis of 2.
    ssm, glu, norm : str
        Prefixes of the ``S5SSM``, the nn.Linear of the half-GLU and the nn.BatchNorm1d of block
        ``{}``; None for a stack without normalisation.
    encoder, decoder : str
        Prefixes of the nn.Linear in front and behind; ``decoder`` may be None.
    """
    for key in state:
        if key.endswith((".attn_norm.weight", ".ff_norm.weight")):
            refuse_tensor(
                key,
                "the S5Block of s5-pytorch has layer normalisation and GELU, which are not "
                "supported; build the stack from S5 modules with BatchNorm1d and ReLU",
            )
        if key.endswith((".BH", ".BP", ".CH", ".CP")):
            refuse_tensor(key, "factorised B and C are not supported; train with bcInit 'dense'")
    used: set[str] = set()
    found: dict[str, np.ndarray] = {}

    def take(key: str, to: str, *, pairs: bool = False, needed: bool = True) -> None:
        if key in state:
            used.add(key)
            found[to] = _pairs(key, state[key]) if pairs else float_array(key, state[key])
        elif needed:
            known = ", ".join(f"'{k}'" for k in list(state)[:6])
            refuse_tensor(key, f"it is missing; the state_dict has {known}, so give its prefix")

    def linear(prefix: str, to: str) -> None:
        take(f"{prefix}.weight", f"{to}.weight")
        take(f"{prefix}.bias", f"{to}.bias", needed=False)

    linear(encoder, "encoder")
    count = 0
    while count == 0 or f"{ssm.format(count)}.Lambda" in state:
        of, block = ssm.format(count), f"blocks.{count}"
        take(f"{of}.Lambda", f"{block}.lam", pairs=True)
        take(f"{of}.B", f"{block}.b", pairs=True)
        take(f"{of}.C", f"{block}.c", pairs=True)
        take(f"{of}.D", f"{block}.d")
        take(f"{of}.log_step", f"{block}.log_step")
        found[f"{block}.log_step"] = found[f"{block}.log_step"].reshape(-1)
        linear(glu.format(count), f"{block}.glu")
        if norm is not None:
            prefix = norm.format(count)
            take(f"{prefix}.running_mean", f"{block}.norm.mean")
            take(f"{prefix}.running_var", f"{block}.norm.variance")
            take(f"{prefix}.weight", f"{block}.norm.weight", needed=False)
            take(f"{prefix}.bias", f"{block}.norm.bias", needed=False)
        count += 1
    if decoder is not None:
        linear(decoder, "decoder")
    left = [k for k in state if k not in used and not k.endswith("num_batches_tracked")]
    if left:
        refuse_tensor(left[0], "it has no place in the stack that the prefixes describe")
    return found


def _pairs(key: str, value: Any) -> np.ndarray:
    """A complex tensor with real and imaginary part as a last axis; others as they are."""
    for step in ("detach", "cpu", "resolve_conj"):
        value = getattr(value, step, lambda v=value: v)()
    array = np.asarray(value.numpy() if hasattr(value, "numpy") else value)
    if array.dtype.kind == "c":
        return float_array(key, np.stack([array.real, array.imag], axis=-1))
    return float_array(key, value)

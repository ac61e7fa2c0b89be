"""Tensors of two public S5 code bases in the layout of ``s5_import``.

Neither the discretisation nor the activation is in the files of these code bases; both are options
of :class:`~stillnet.sw.importers.s5.S5Options`.

Facts of the code bases (names and shapes; none of their code is used): lindermanlab/S5 keeps
``Lambda_re``, ``Lambda_im``, ``B``, ``C``, ``D``, ``log_step`` in ``encoder/layers_N/seq``, the
half-GLU in ``out2``, and running statistics in ``batch_stats``; s5-pytorch 0.2 keeps complex
``Lambda`` and ``C`` and gives y without the factor 2 of a conjugate pair.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import numpy as np

from .tensor_files import float_array, refuse_tensor

__all__ = ["s5_from_jax", "s5_from_torch"]


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

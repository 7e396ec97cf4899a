"""The arrays of attention as PyTorch's and Keras's MultiheadAttention keep them."""

from functools import partial

import numpy as np

from jaxbias.layers._attention_inputs import PROJECTIONS
from jaxbias.layouts import AS_HERE, Arrays, Layout, Layouts

_IN = ("query", "key", "value")
_EXTRA = {"bias_k": "bias_k", "bias_v": "bias_v"}


def _to_pytorch(arrays: Arrays) -> Arrays:
    """torch.nn.MultiheadAttention: one matrix for q, k and v where they have one fan-in, or three."""
    known = {*(f"{name}.{leaf}" for name in PROJECTIONS for leaf in ("weight", "bias")), *_EXTRA}
    if unknown := [name for name in arrays if name not in known]:
        raise ValueError(f"io: PyTorch's MultiheadAttention has no {', '.join(unknown)}.")
    matrices = {name: arrays[f"{name}.weight"].reshape(len(arrays[f"{name}.weight"]), -1).T for name in _IN}
    written = {}
    shapes = {matrix.shape for matrix in matrices.values()}
    if len(shapes) == 1:
        written["in_proj_weight"] = np.concatenate(list(matrices.values()))
    else:
        written |= {f"{name[0]}_proj_weight": matrix for name, matrix in matrices.items()}
    if any(f"{name}.bias" in arrays for name in PROJECTIONS):
        zeros = {name: np.zeros(len(matrix), matrix.dtype) for name, matrix in matrices.items()}
        written["in_proj_bias"] = np.concatenate([arrays.get(f"{n}.bias", zeros[n]).reshape(-1) for n in _IN])
    written |= {there: arrays[here].reshape(1, 1, -1) for there, here in _EXTRA.items() if here in arrays}
    out = arrays["out.weight"]
    written["out_proj.weight"] = out.reshape(-1, out.shape[-1]).T
    if "in_proj_bias" in written:
        written["out_proj.bias"] = arrays.get("out.bias", np.zeros(out.shape[-1], out.dtype))
    return written


def _from_pytorch(heads: int, groups: int, arrays: Arrays) -> Arrays:
    """Its inverse; a bias that PyTorch has, and this layer not, is named when it is filled in."""
    apart = dict(zip(_IN, (heads, groups, groups)))
    if "in_proj_weight" in arrays:
        matrices = dict(zip(_IN, np.split(arrays["in_proj_weight"], 3)))
    else:
        matrices = {name: arrays[f"{name[0]}_proj_weight"] for name in _IN}
    read: Arrays = {
        f"{name}.weight": matrices[name].T.reshape(-1, apart[name], len(matrices[name]) // apart[name]) for name in _IN
    }
    if "in_proj_bias" in arrays:
        ends = np.cumsum([len(matrices[name]) for name in _IN])[:2]
        for name, bias in zip(_IN, np.split(arrays["in_proj_bias"], ends)):
            read[f"{name}.bias"] = bias.reshape(apart[name], -1)
        read["out.bias"] = arrays["out_proj.bias"]
    read |= {here: arrays[there].reshape(groups, -1) for there, here in _EXTRA.items() if there in arrays}
    matrix = arrays["out_proj.weight"].T
    return {**read, "out.weight": matrix.reshape(heads, len(matrix) // heads, -1)}


def layouts(heads: int, groups: int, plain: bool) -> Layouts:
    """PyTorch's keeps no heads apart; Keras's MultiHeadAttention is as here."""
    return Layouts(pytorch=Layout(_to_pytorch, partial(_from_pytorch, heads, groups)), keras=AS_HERE if plain else None)

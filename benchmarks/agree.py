"""Correctness before speed: do the contenders agree, and does this backend make a known mistake?

Contenders are compared leaf by leaf, each error relative to the largest entry of its leaf of the reference.
"""

from collections.abc import Callable, Collection
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks.record import Record
from jaxbias import verify

FLOAT64_BOUND = 1e-9
UNITS = 64
"""Contenders may differ by so many units in the last place of a leaf's largest entry: two ways to sum the same terms,
each off by about the square root of a few thousand roundings."""


def unit(dtype: Any) -> float:
    """Relative spacing of the arithmetic that products of this dtype run in on this backend.

    The default float32 product is TF32 on a recent GPU (10 bits) and bfloat16 on a TPU (7 bits).
    """
    own = float(jnp.finfo(dtype).eps)
    narrow = {"gpu": 2.0**-10, "tpu": 2.0**-7}.get(jax.default_backend(), own)
    full = str(jax.config.values["jax_default_matmul_precision"]) in ("highest", "float32")
    return own if jnp.dtype(dtype) != jnp.float32 or full else max(own, narrow)


def disagreement(actual: Any, reference: Any, zeros: Collection[str] = ()) -> float:
    """Largest error of all leaves, NaN if one of them is NaN: to be judged as `disagreement <= bound`.

    Args:
        zeros: paths of leaves that are zero in exact arithmetic, such as the key bias gradient of attention: what is
            left of their terms is judged against the largest entry of all leaves.

    Raises:
        ValueError: other leaves or other shapes than the reference.
    """
    errors = verify.relative_errors(actual=actual, expected=reference)
    scales = _scales(reference)
    largest = max(scales.values(), default=0.0)
    judged = [e * scales[path] / largest if path in zeros and largest else e for path, e in errors.items()]
    return float(np.max(judged, initial=0.0))  # np.max hands a NaN on


def _scales(tree: Any) -> dict[str, float]:
    leaves = jax.tree_util.tree_leaves_with_path(tree)
    values = {verify.path_name(path): leaf for path, leaf in leaves}
    return {path: float(np.max(np.abs(np.asarray(leaf, np.float64)), initial=0.0)) for path, leaf in values.items()}


def zero_leaves(reference: Any) -> list[str]:
    """Paths of the leaves that are nothing but rounding, 1e-12 of the largest entry of all; for float64 values."""
    scales = _scales(reference)
    return [path for path, scale in scales.items() if scale <= 1e-12 * max(scales.values())]


def bound(dtype: Any) -> float:
    """What two correct contenders may differ by."""
    return FLOAT64_BOUND if jnp.dtype(dtype) == jnp.float64 else UNITS * unit(dtype)


# --- canaries: wrong answers that backends have given -----------------------------------------------------------------


def scaled_product(a, b, bias, alpha):
    """α (A B + b): some GPU builds computed α A B + b."""
    return alpha * (a @ b + bias[None, :])


def bias_per_column(x, w, bias):
    """relu(x W + b) and its transpose, square: a fused epilogue once added b along the wrong axis."""
    z = jnp.maximum(x @ w + bias[None, :], 0)
    transposed = jnp.maximum(w.T @ x.T + bias[:, None], 0)
    return z, transposed


def attention_bias_gradient(query, key, value, bias, cotangent):
    """∂L/∂(score bias) of attention: cuDNN's was once missing or wrong."""

    def out(bias):
        return jax.nn.dot_product_attention(query, key, value, bias)

    return jax.vjp(out, bias)[1](cotangent)[0]


def wide_bias(x, w, bias):
    """A float32 bias added to a product of bfloat16 matrices: it must not be rounded to bfloat16."""
    return jnp.matmul(x, w, preferred_element_type=jnp.float32) + bias[None, :]


def _draw(seed: int, *shape: int) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def _scaled_product_case():
    a, b, bias = _draw(0, 48, 32), _draw(1, 32, 48), _draw(2, 48)
    alpha = np.float32(0.37)
    return (a, b, bias, alpha), alpha * (a.astype(np.float64) @ b + bias[None, :]), np.float32


def _bias_per_column_case():
    x, w, bias = _draw(0, 64, 64), _draw(1, 64, 64), 10 * _draw(2, 64)
    z = np.maximum(x.astype(np.float64) @ w + bias[None, :], 0)
    return (x, w, bias), (z, z.T), np.float32


def _attention_bias_case():
    shape = (2, 16, 3, 8)  # (n, time, heads, depth)
    query, key, value, cotangent = (_draw(i, *shape) for i in range(4))
    bias = _draw(4, 2, 3, 16, 16)
    q, k, v, ct = (np.float64(each) for each in (query, key, value, cotangent))
    scores = np.einsum("nthd,nshd->nhts", q, k) / np.sqrt(shape[-1]) + bias
    p = np.exp(scores - scores.max(-1, keepdims=True))
    p /= p.sum(-1, keepdims=True)
    delta_p = np.einsum("nthd,nshd->nhts", ct, v)
    return (query, key, value, bias, cotangent), p * (delta_p - (p * delta_p).sum(-1, keepdims=True)), np.float32


def _wide_bias_case():
    x, w = (jnp.asarray(_draw(i, 32, 32), jnp.bfloat16) for i in range(2))
    bias = 1e3 * _draw(2, 32)  # its rounding to bfloat16 would be about 4
    product = np.asarray(x, np.float64) @ np.asarray(w, np.float64)
    return (x, w, bias), product + bias[None, :], np.float32


CANARIES: dict[str, tuple[Callable[..., Any], Callable[[], Any]]] = {
    "α(AB + b)": (scaled_product, _scaled_product_case),
    "bias on the right axis": (bias_per_column, _bias_per_column_case),
    "attention bias gradient": (attention_bias_gradient, _attention_bias_case),
    "float32 bias, bfloat16 weights": (wide_bias, _wide_bias_case),
}


def canary(name: str, function: Callable[..., Any] | None = None) -> Record:
    """Run one canary against NumPy in float64; another `function` may stand in, to see that the canary sings."""
    own, case = CANARIES[name]
    args, expected, dtype = case()
    actual = jax.jit(function or own)(*args)
    error = disagreement(actual, expected)
    right = error <= UNITS * unit(dtype)
    note = "" if right else f"this backend computes {name} wrong, by {error:.2g} of the largest entry"
    status = "ok" if right else "wrong"
    return Record("canaries", name, jax.default_backend(), dtype="float32", status=status, note=note, error=error)

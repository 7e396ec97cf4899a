"""What `fit` demands of its data, checked once and before any work starts."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array


def _as_array(value: Any, name: str) -> Array:
    array = value if isinstance(value, jax.Array) else np.asarray(value)
    numeric = jnp.issubdtype(array.dtype, jnp.number) or jnp.issubdtype(array.dtype, jnp.bool_)
    if not numeric or jnp.issubdtype(array.dtype, jnp.complexfloating):
        raise TypeError(f"fit: {name} must be an array of real numbers, got dtype {array.dtype}. Convert it first.")
    if array.ndim == 0:
        raise ValueError(f"fit: {name} must have one row per example along its first axis, got a scalar.")
    return jnp.asarray(array)


def _check_finite(array: Array, name: str) -> None:
    if not jnp.issubdtype(array.dtype, jnp.floating):
        return
    whole = array.is_fully_addressable
    local = np.asarray(array) if whole else np.concatenate([np.asarray(s.data) for s in array.addressable_shards])
    bad = ~np.isfinite(local.astype(np.float64))
    if bad.any():
        row = int(np.argwhere(bad)[0][0])
        raise ValueError(
            f"fit: {name} holds {int(bad.sum())} values that are NaN or infinite, the first in row {row} "
            f"(shape {array.shape}). Drop or fill those rows first."
        )


def check_data(data: Any, name: str) -> tuple[Array, Array]:
    """`data` as two arrays (x, targets) with as many rows each.

    Raises:
        TypeError: not a pair, or not arrays of real numbers.
        ValueError: no rows, another number of rows in x than in targets, NaN or infinity.
    """
    if not isinstance(data, tuple | list) or len(data) != 2:
        got = f"{len(data)} entries" if isinstance(data, tuple | list) else type(data).__name__
        raise TypeError(f"fit: {name} must be a pair (x, targets) of arrays, got {got}.")
    x, targets = _as_array(data[0], f"{name} x"), _as_array(data[1], f"{name} targets")
    if len(x) != len(targets):
        raise ValueError(
            f"fit: {name} x has {len(x)} rows but targets has {len(targets)} (shapes {x.shape} and {targets.shape}). "
            f"Both need one row per example."
        )
    if len(x) == 0:
        raise ValueError(f"fit: {name} is empty (x {x.shape}, targets {targets.shape}). At least one row is needed.")
    _check_finite(x, f"{name} x")
    _check_finite(targets, f"{name} targets")
    return x, targets


def check_batch_size(batch_size: int, rows: int) -> None:
    """Raise unless batch_size is a whole number from 1 to `rows`."""
    check_count(batch_size, "batch_size")
    if batch_size > rows:
        raise ValueError(
            f"fit: batch_size={batch_size} is larger than the data, which has {rows} rows. "
            f"Take at most batch_size={rows}."
        )


def check_count(value: int, name: str) -> None:
    """Raise unless value is a whole number, at least 1."""
    if isinstance(value, bool) or not isinstance(value, int | np.integer):
        raise TypeError(f"fit: {name} must be a whole number, got {value!r}.")
    if value < 1:
        raise ValueError(f"fit: {name} must be at least 1, got {value}.")


def check_dtype(params: Any, x: Array) -> None:
    """Raise a TypeError where a floating-point x has a dtype that no leaf of params has."""
    wanted = sorted({str(p.dtype) for p in jax.tree.leaves(params) if jnp.issubdtype(p.dtype, jnp.floating)})
    if wanted and jnp.issubdtype(x.dtype, jnp.floating) and str(x.dtype) not in wanted:
        raise TypeError(
            f"fit: data x is {x.dtype} but params are {', '.join(wanted)}. Convert x, for example "
            f'x.astype("{wanted[0]}"), or make params with network.init(key, x).'
        )


def check_compute_dtype(dtype: Any, how: str) -> None:
    """Raise a TypeError for a dtype to compute in that is no float, a ValueError for float16 without its scaling."""
    if dtype is None:
        return
    try:
        wanted = jnp.dtype(dtype)
    except TypeError:
        wanted = None
    if wanted is None or not jnp.issubdtype(wanted, jnp.floating):
        got = repr(dtype) if wanted is None else wanted.name
        raise TypeError(f"fit: compute_dtype must be a float, as jnp.bfloat16, got {got}.")
    if wanted == jnp.float16 and how != "delta":
        raise ValueError(
            'fit: compute_dtype=float16 needs how="delta": autodiff gives no place to scale the error signal. Take '
            "bfloat16, which needs no scaling."
        )

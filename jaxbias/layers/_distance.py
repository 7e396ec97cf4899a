"""Score biases that depend on how far a key lies from the query, r = j − i_t: ALiBi's slopes and T5's buckets."""

import math
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
from jax.typing import DTypeLike
from jaxtyping import Array, Float

POSITIONS = ("alibi", "learned_alibi", "buckets")


def distances(queries: int, keys: int) -> np.ndarray:
    """r at j − t + queries − 1, for the last query aligned with the last key."""
    return np.arange(max(queries + keys - 1, 0)) - (keys - 1)


def alibi_slopes(heads: int) -> np.ndarray:
    """m_h = 2^(−8 h/heads), h = 1 … heads; where heads is no power of two, those of the power below, then every other
    one of the power above.

    Source: O. Press et al. (2022), and their published code for other numbers of heads.
    """
    power = 2 ** int(math.log2(heads))
    slopes = 2.0 ** (-8 * np.arange(1, power + 1) / power)
    between = 2.0 ** (-8 * np.arange(1, 2 * power + 1, 2) / (2 * power))
    return np.concatenate([slopes, between[: heads - power]])


def bucket_of(r: np.ndarray, buckets: int, max_distance: int, two_sided: bool) -> np.ndarray:
    """β(r): half of the buckets for keys behind the query and half for those ahead, or all for those behind.

    Within a half of n buckets the first n/2 distances have one each; larger ones share the rest, logarithmically up to
    `max_distance`, beyond which all have the last.

    Source: C. Raffel et al. (2020), `_relative_position_bucket` of their published code.
    """
    n = buckets // 2 if two_sided else buckets
    far = np.abs(r) if two_sided else np.maximum(-r, 0)
    exact = n // 2
    steps = np.log(np.maximum(far, exact) / exact) / math.log(max_distance / exact) * (n - exact)
    within = np.where(far < exact, far, np.minimum(exact + steps.astype(int), n - 1))
    return within + (n * (r > 0) if two_sided else 0)


class Distances(NamedTuple):
    """What is fixed when a program is traced: T, S, H, and which biases of the distance there are."""

    queries: int
    keys: int
    heads: int
    alibi: bool
    max_distance: int
    two_sided: bool


def score_bias(
    slopes: Float[Array, " H"] | None, table: Float[Array, "buckets H"] | None, fixed: Distances, dtype: DTypeLike
) -> Float[Array, "H distances"] | None:
    """B of each head and distance, r at r + keys − 1: −m_h |r| with fixed or learned slopes, R[β(r), h]; or None."""
    r = distances(fixed.queries, fixed.keys)
    parts = []
    if fixed.alibi:
        parts.append(jnp.asarray(-alibi_slopes(fixed.heads)[:, None] * np.abs(r), dtype))
    if slopes is not None:
        parts.append(-slopes.astype(dtype)[:, None] * jnp.asarray(np.abs(r), dtype)[None])
    if table is not None:
        parts.append(table.astype(dtype)[bucket_of(r, len(table), fixed.max_distance, fixed.two_sided)].T)
    return sum(parts[1:], start=parts[0]) if parts else None


def grads_of_score_bias(
    slopes: Array | None, table: Array | None, fixed: Distances, delta: Float[Array, "H distances"] | None
) -> tuple[Float[Array, " H"] | None, Float[Array, "buckets H"] | None]:
    """∂L/∂m_h = −Σ δZ |r| and ∂L/∂R[b,h] = Σ_{r: β = b} δZ, from δZ summed over each distance (9.1.12)."""
    if delta is None:
        return None, None
    r = distances(fixed.queries, fixed.keys)
    grad_slopes = grad_table = None
    if slopes is not None:
        grad_slopes = -(delta * jnp.asarray(np.abs(r), delta.dtype)[None]).sum(-1)
    if table is not None:
        bucket = bucket_of(r, len(table), fixed.max_distance, fixed.two_sided)
        grad_table = jnp.zeros(table.shape, delta.dtype).at[bucket].add(delta.T)
    return grad_slopes, grad_table

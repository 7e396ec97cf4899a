"""What the core of attention is given: heads as (groups, heads of a group), prepared q and k, biases, masks."""

from typing import Any, NamedTuple

import jax.numpy as jnp
from jaxtyping import Array

from jaxbias._numerics import widen
from jaxbias.layers import _attention as core
from jaxbias.layers._attention_inputs import AttentionParams, Inputs, four_axes
from jaxbias.layers._distance import Distances, score_bias
from jaxbias.layers._query_norm import Preparation, prepared
from jaxbias.params import Params


class Settings(NamedTuple):
    """What is fixed when a program is traced."""

    plan: core.Plan
    preparation: Preparation
    alibi: bool
    max_distance: int


def first_query(q: Array, k: Array) -> int:
    """Position of the first query: the last one is aligned with the last key."""
    return k.shape[2] - q.shape[2]


def gains_of(params: AttentionParams) -> tuple[Array | None, Array | None]:
    """What normalised queries and keys are multiplied by: γ, or e^τ of each head and nothing."""
    if params.query_norm is not None and params.key_norm is not None:
        of_feature = lambda norm: widen(norm.weight).reshape(1, 1, 1, -1)
        return of_feature(params.query_norm), of_feature(params.key_norm)
    if params.temperature is not None:
        return jnp.exp(widen(params.temperature)).reshape(1, -1, 1, 1), None
    return None, None


def grads_of_gains(params: AttentionParams, grad_q: Array | None, grad_k: Array | None) -> dict[str, Any]:
    if params.query_norm is not None and grad_q is not None and grad_k is not None:
        return {"query_norm": Params(grad_q.reshape(-1), None), "key_norm": Params(grad_k.reshape(-1), None)}
    if params.temperature is not None and grad_q is not None:  # A depends on τ through e^τ
        return {"temperature": jnp.exp(widen(params.temperature)) * grad_q.reshape(-1)}
    return {}


def distances_of(q: Array, k: Array, settings: Settings) -> Distances:
    two_sided = not settings.plan.causal
    return Distances(q.shape[2], k.shape[2], q.shape[1], settings.alibi, settings.max_distance, two_sided)


def operands_of(
    params: AttentionParams, given: Inputs, q: Array, k: Array, v: Array, dropout_key: Array | None, settings: Settings
) -> core.Operands:
    """What the core takes, with the heads as (G, R)."""
    n, heads, t, d = q.shape
    groups = k.shape[1]
    apart = lambda x: None if x is None else x.reshape(groups, heads // groups, *x.shape[1:])
    gain_q, gain_k = gains_of(params)
    prepared_q = prepared(q, gain_q, first_query(q, k), settings.preparation)
    by_distance = score_bias(params.slopes, params.buckets, distances_of(q, k, settings), prepared_q.dtype)
    return core.Operands(
        prepared_q.reshape(n, groups, heads // groups, t, d),
        prepared(k, gain_k, 0, settings.preparation),
        v,
        bias=like_scores(given.bias, groups),
        by_distance=apart(by_distance),
        appended_key=params.bias_k,
        appended_value=params.bias_v,
        sink=apart(params.sink),
        visible=like_scores(four_axes(given.visible), groups),
        key=dropout_key,
    )


def like_scores(x: Any, groups: int) -> Array | None:
    """What broadcasts to (n, H, T, S), with the five axes of the core's scores."""
    if x is None:
        return None
    n, heads, t, s = (1,) * (4 - x.ndim) + x.shape
    return jnp.asarray(x).reshape(n, *((groups, heads // groups) if heads > 1 else (1, 1)), t, s)

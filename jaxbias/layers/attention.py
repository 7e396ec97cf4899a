"""Multi-head attention: H query heads of size d on G key and value heads; four biases, each there or not.

x (*batch, T, E), y (*batch, S, E′), y = x in self-attention; n is all leading axes as one. Head h reads key head
g(h) = ⌊h G/H⌋: G = H is multi-head, 1 < G < H grouped-query, G = 1 multi-query attention.

params: query (E, H, d), key (E′, G, d), value (E′, G, e), out (H, e, F), each Params(weight, bias), the bias with the
axes of its output: (H, d), (G, d), (G, e), (F,).

Forward     q = x Wq + bq     k = y Wk + bk     v = y Wv + bv                                   (9.2.1)
            q, k normalised, if asked for                                                       (9.1.15), (9.1.16)
            q[t] ← R_t q[t]   k[j] ← R_j k[j]                 rotary positions, of all features or the first  (9.2.2)
            o_h = core(q_h, k_g(h), v_g(h))                                                     (9.2.3), section 9.1
            z = Σ_h o_h Wo_h + bo                                                               (9.2.4)
Backward, with δ = ∂L/∂z:
            ∂L/∂bo = Σ δ      ∂L/∂Wo[h] = Σ o_hᵀ δ            δo_h = δ Wo_hᵀ                    (9.2.5)
            δk_g, δv_g = Σ over the heads of the group        δq, δk, δv from the core          (9.2.6)
            δq[t] ← R_tᵀ δq[t]                                rotation by −θ                    (9.2.7)
            norm: δ ← r (u − q̂ mean(u q̂)), u = γ δ            ∂L/∂γ = Σ δ q̂                     (9.1.15)
            ∂L/∂Wq = Σ xᵀ δq  ∂L/∂bq = Σ δq                   likewise k, v with y              (9.2.8)
            δx = Σ_h δq_h Wq_hᵀ                               δy = Σ_g (δk_g Wk_gᵀ + δv_g Wv_gᵀ)
            in self-attention ∂L/∂x is the sum of all three ways                                (9.2.9)
            ∂L/∂β_k = Σ δk of the appended key                                                  (9.2.10)

The last query is aligned with the last key: i_t = t + S − T is its position for causality, window, rotation and bias.

Which biases matter (9.14): the key bias adds the same number to all scores of a query, which softmax takes away: its
gradient is 0, and only rounding moves it, unless rotation, softcap, a norm, a sink or an appended key is there. The
value bias adds bv Wo to every output, as the weights of a row sum to 1: a duplicate of bo, with
∂L/∂bv_g = Σ_{h: g(h)=g} Wo_h ∂L/∂bo (9.2.11), unless a sink, an appended key or dropout is there.

>>> layer = attention.layer(4, 16, causal=True, rotary="half")
>>> params = layer.init(jax.random.key(0), x)           # x (n, time, features)
>>> z, residuals = layer.forward(params, x)
>>> cross = layer.forward(params, (x, y))
>>> padded = layer.forward(params, attention.Inputs(x, visible=lengths[:, None] > jnp.arange(x.shape[1])[None]))

Source: A. Vaswani et al., Attention is all you need (2017); N. Shazeer (2019) for one key head, J. Ainslie et al.
(2023) for groups; J. Su et al. (2021) for rotary positions, O. Press et al. (2022) for ALiBi, C. Raffel et al. (2020)
for buckets; derivation sheet 9.1, 9.2.
"""

import math
from collections.abc import Collection
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import DTypeLike
from jaxtyping import Array, Float

from jaxbias import initializers
from jaxbias._doors import check_delta, check_float, check_key, check_size
from jaxbias._numerics import matmul, rows, sum_over, widen
from jaxbias.derivation import Derivation, Example, normal
from jaxbias.initializers import Initializer
from jaxbias.layers import _attention as core
from jaxbias.layers._attention_heads import heads_backward, matrix_of, merged, split_heads, unmerged
from jaxbias.layers._attention_inputs import (
    PROJECTIONS,
    as_inputs,
    check_inputs,
    check_params,
    check_settings,
    check_sizes,
    with_bias,
)
from jaxbias.layers._attention_inputs import AttentionParams as AttentionParams
from jaxbias.layers._attention_inputs import Inputs as Inputs
from jaxbias.layers._attention_layouts import layouts
from jaxbias.layers._attention_operands import (
    Settings,
    distances_of,
    first_query,
    gains_of,
    grads_of_gains,
    operands_of,
)
from jaxbias.layers._distance import alibi_slopes, grads_of_score_bias
from jaxbias.layers._query_norm import Preparation, prepared_backward
from jaxbias.params import Layer, Params, State, Static


class Residuals(NamedTuple):
    x: Any  # in the form in which it came
    params: AttentionParams
    q: Float[Array, "n H T d"]  # projections, before norm and rotation
    k: Float[Array, "n G S d"]
    v: Float[Array, "n G S e"]
    o: Float[Array, "n G R T e"]
    ell: Float[Array, "n G R T"]
    dropout_key: Array | None
    settings: Static


def init(
    key: Array,
    fan_in: int,
    heads: int,
    head_size: int,
    *,
    memory_fan_in: int | None = None,
    key_heads: int | None = None,
    value_size: int | None = None,
    fan_out: int | None = None,
    use_bias: bool | Collection[str] = True,
    norm: str | None = None,
    position: str | None = None,
    buckets: int = 32,
    sink: bool = False,
    append_key: bool = False,
    weight_init: Initializer = initializers.lecun_normal,
    bias_init: Initializer = initializers.zeros,
    dtype: DTypeLike = jnp.float32,
) -> AttentionParams:
    """Four weights, by default LeCun normal with the fan-in of the matrix, and their biases, by default zero.

    Args:
        heads, head_size: H and d.
        memory_fan_in: E′, by default fan_in.
        key_heads: G, a divisor of H; by default H.
        value_size, fan_out: e and F; by default d and fan_in.
        use_bias: which of "query", "key", "value", "out" have a bias; True for all, False for none.
        norm: "rms" for a learned RMS norm over each head's q and k, "unit" for unit length and a learned temperature,
            which begins at e^τ = 10.
        position: "learned_alibi" for slopes that begin as ALiBi's, "buckets" for T5's table, which begins at 0; "alibi"
            has fixed slopes and learns nothing.
        buckets: rows of that table.
        sink: whether each head has a learned logit beside its keys, which begins at 0.
        append_key: whether a learned key and value stand behind those of y (PyTorch's add_bias_kv), N(0, 1/d).
        weight_init, bias_init: a function `(key, shape, dtype) -> array`, or its name in `jb.initializers.NAMES`.
        dtype: of all leaves.

    Raises:
        TypeError, ValueError: sizes that are no positive whole numbers or do not fit together, or an unknown name.
    """
    groups, e, fan_out = key_heads or heads, value_size or head_size, fan_out or fan_in
    biases = with_bias(use_bias, "attention.init")
    check_sizes("attention.init", heads, head_size, groups, e, fan_out, norm, position, buckets)
    memory = memory_fan_in or fan_in
    axes = {
        "query": ((fan_in,), (heads, head_size)),
        "key": ((memory,), (groups, head_size)),
        "value": ((memory,), (groups, e)),
        "out": ((heads, e), (fan_out,)),
    }

    def projection(number, name):
        into, out = axes[name]
        matrix, vector = (math.prod(into), math.prod(out)), (math.prod(out),)
        part_key, has_bias = jax.random.fold_in(key, number), name in biases
        weight, bias = initializers.affine(
            part_key, matrix, vector, dtype, use_bias=has_bias, weight_init=weight_init, bias_init=bias_init
        )
        return Params(weight.reshape(*into, *out), None if bias is None else bias.reshape(out))

    appended = initializers.normal(1 / math.sqrt(head_size))
    scale = Params(jnp.ones(head_size, dtype), None) if norm == "rms" else None
    return AttentionParams(
        *(projection(number, name) for number, name in enumerate(PROJECTIONS)),
        query_norm=scale,
        key_norm=scale,
        temperature=jnp.full(heads, math.log(10), dtype) if norm == "unit" else None,
        slopes=jnp.asarray(alibi_slopes(heads), dtype) if position == "learned_alibi" else None,
        buckets=jnp.zeros((buckets, heads), dtype) if position == "buckets" else None,
        sink=jnp.zeros(heads, dtype) if sink else None,
        bias_k=appended(jax.random.fold_in(key, 4), (groups, head_size), dtype) if append_key else None,
        bias_v=appended(jax.random.fold_in(key, 5), (groups, e), dtype) if append_key else None,
    )


def forward(
    params: AttentionParams,
    x: Any,
    state: Array | None = None,
    *,
    causal: bool = False,
    window: int | None = None,
    softcap: float | None = None,
    scale: float | None = None,
    rotary: str | None = None,
    rotary_base: float = 10_000.0,
    rotary_size: int | None = None,
    alibi: bool = False,
    max_distance: int = 128,
    eps: float = 1e-6,
    dropout: float = 0.0,
    block: int = 256,
) -> tuple[Float[Array, "*batch T F"], Residuals]:
    """z = Σ_h o_h Wo_h + bo.

    Args:
        x: (*batch, T, E), a pair (x, y) for cross-attention, or `Inputs`.
        state: with dropout, the random key; one key and one `block` give one mask.
        causal: whether a query sees no key after its own position.
        window: a query sees the keys less than `window` positions away.
        softcap: c of c tanh(A/c).
        scale: s, by default 1/√d; with unit length e^τ stands in its place, and s is 1.
        rotary: "half" or "interleaved", how features are paired for rotation.
        rotary_base: of the angles.
        rotary_size: how many features of a head are turned, the first; by default all of them.
        alibi: whether −m_h |i_t − j| with fixed slopes is added to the scores.
        max_distance: beyond it all distances share the last bucket of T5's table, which is two-sided unless causal.
        eps: of the RMS norm of q and k.
        dropout: probability of silencing a weight.
        block: largest side of a tile of scores; it changes memory and time, and no result but the dropout mask.

    Raises:
        TypeError: an array of another kind, or params is no `AttentionParams`.
        ValueError: shapes that do not fit together, an unknown name, or a missing key.
    """
    function = "attention.forward"
    check_params(params, function)
    check_settings(
        function,
        window=window,
        softcap=softcap,
        scale=scale,
        rotary=rotary,
        rotary_base=rotary_base,
        rotary_size=rotary_size,
        max_distance=max_distance,
        dropout=dropout,
        block=block,
    )
    given = as_inputs(x, function)
    n = check_inputs(given, params, function)
    d = params.query.weight.shape[-1]
    if rotary and (rotary_size or d) % 2:
        raise ValueError(f"{function}: rotary positions turn pairs of features, but head_size is {d}.")
    if rotary_size is not None and rotary_size > d:
        raise ValueError(f"{function}: rotary_size={rotary_size} is more than the {d} features of a head.")
    norm = "rms" if params.query_norm is not None else "unit" if params.temperature is not None else None
    if scale is None:
        scale = 1.0 if norm == "unit" else 1 / math.sqrt(d)
    settings = Settings(
        core.Plan(scale, causal, window, softcap, dropout, block),
        Preparation(norm, eps, rotary, rotary_base, rotary_size),
        alibi,
        max_distance,
    )
    dropout_key = None
    if dropout:
        if state is None:
            raise ValueError(
                f"{function}: with dropout the state is a random key, and it is missing. Pass "
                f"layer.state.init(key, x), or use jb.inference(layer) when not training."
            )
        check_key(state, function)
        dropout_key, _ = jax.random.split(state)
    y = given.x if given.y is None else given.y
    q, k, v = (
        split_heads(tokens.reshape(n, *tokens.shape[-2:]), projection)
        for tokens, projection in ((given.x, params.query), (y, params.key), (y, params.value))
    )
    operands = operands_of(params, given, q, k, v, dropout_key, settings)
    o, ell = core.forward(operands, settings.plan)
    weight, bias = params.out
    z = matmul(merged(o), matrix_of(weight))
    if bias is not None:
        z = z + jnp.broadcast_to(widen(bias), z.shape)
    z = z.astype(given.x.dtype).reshape(*given.x.shape[:-1], weight.shape[-1])
    return z, Residuals(x, params, q, k, v, o, ell, dropout_key, Static(settings))


def backward(residuals: Residuals, delta: Float[Array, "*batch T F"]) -> tuple[AttentionParams, Any]:
    """Gradients of all params, and ∂L/∂x in the form in which x came: an array, a pair, or `Inputs`.

    Raises:
        TypeError: delta is not floating point.
        ValueError: delta has another shape than z.
    """
    x, params, q, k, v, o, ell, dropout_key, static = residuals
    settings: Settings = static.value
    given = as_inputs(x, "attention.backward")
    y = given.x if given.y is None else given.y
    weight_out, bias_out = params.out
    delta = check_delta(delta, (*given.x.shape[:-1], weight_out.shape[-1]), "attention.backward")
    n, heads, t, _ = q.shape
    delta = widen(delta).reshape(n, t, delta.shape[-1])

    # (9.2.5)
    grad_out = Params(
        matmul(rows(merged(o)).T, rows(delta)).reshape(weight_out.shape),
        None if bias_out is None else sum_over(delta, (0, 1)),
    )
    delta_o = unmerged(matmul(delta, matrix_of(weight_out).T), o.shape)

    # 9.1 and (9.2.6)
    operands = operands_of(params, given, q, k, v, dropout_key, settings)
    deltas = core.backward(operands, o, ell, delta_o, settings.plan)

    # (9.2.7), (9.1.15), (9.1.16)
    how = settings.preparation
    gain_q, gain_k = gains_of(params)
    delta_q, grad_gain_q = prepared_backward(q, gain_q, deltas.q.reshape(q.shape), first_query(q, k), how)
    delta_k, grad_gain_k = prepared_backward(k, gain_k, deltas.k, 0, how)

    # (9.2.8), (9.2.9)
    grad_query, delta_x = heads_backward(given.x, params.query, delta_q)
    grad_key, through_key = heads_backward(y, params.key, delta_k)
    grad_value, through_value = heads_backward(y, params.value, deltas.v)
    delta_y = through_key + through_value
    if given.y is None:
        delta_x, delta_y = delta_x + delta_y, None

    by_distance = None if deltas.by_distance is None else deltas.by_distance.reshape(heads, -1)
    grad_slopes, grad_buckets = grads_of_score_bias(
        params.slopes, params.buckets, distances_of(q, k, settings), by_distance
    )
    grads = AttentionParams(
        grad_query,
        grad_key,
        grad_value,
        grad_out,
        **grads_of_gains(params, grad_gain_q, grad_gain_k),
        slopes=grad_slopes,
        buckets=grad_buckets,
        sink=None if deltas.sink is None else deltas.sink.reshape(heads),
        bias_k=deltas.appended_key,
        bias_v=deltas.appended_value,
    )
    grad_bias = None if deltas.bias is None else deltas.bias.reshape(given.bias.shape)
    like = lambda grad, leaf: None if grad is None or leaf is None else grad.astype(leaf.dtype)
    grads = jax.tree.map(like, grads, params)
    delta_inputs = Inputs(like(delta_x, given.x), like(delta_y, given.y), None, like(grad_bias, given.bias))
    if isinstance(x, Inputs):
        return grads, delta_inputs
    return grads, (delta_inputs.x, delta_inputs.y) if isinstance(x, tuple | list) else delta_inputs.x


def step(key: Array, residuals: Residuals | None = None) -> Array:
    """The dropout key of the next training step."""
    del residuals
    return jax.random.split(key)[1]


def layer(
    heads: int,
    head_size: int,
    *,
    key_heads: int | None = None,
    value_size: int | None = None,
    fan_out: int | None = None,
    use_bias: bool | Collection[str] = True,
    norm: str | None = None,
    position: str | None = None,
    buckets: int = 32,
    sink: bool = False,
    append_key: bool = False,
    causal: bool = False,
    window: int | None = None,
    softcap: float | None = None,
    scale: float | None = None,
    rotary: str | None = None,
    rotary_base: float = 10_000.0,
    rotary_size: int | None = None,
    max_distance: int = 128,
    eps: float = 1e-6,
    dropout: float = 0.0,
    block: int = 256,
    weight_init: Initializer = initializers.lecun_normal,
    bias_init: Initializer = initializers.zeros,
) -> Layer[AttentionParams]:
    """Attention with `heads` heads of `head_size`; fan-ins, fan_out and dtype are those of the input.

    Keywords as for `init` and `forward`. With dropout it keeps a random key as its state.

    Raises:
        TypeError, ValueError: sizes that are no positive whole numbers or do not fit together, or an unknown name.
    """
    groups = key_heads or heads
    check_size(heads, "attention.layer", "heads")
    check_sizes("attention.layer", heads, head_size, groups, value_size or 1, fan_out or 1, norm, position, buckets)
    with_bias(use_bias, "attention.layer")
    keywords = {
        "causal": causal, "window": window, "softcap": softcap, "scale": scale, "rotary": rotary,
        "rotary_base": rotary_base, "rotary_size": rotary_size, "alibi": position == "alibi",
        "max_distance": max_distance, "eps": eps, "block": block,
    }  # fmt: skip
    check_settings(
        "attention.layer",
        window=window,
        softcap=softcap,
        scale=scale,
        rotary=rotary,
        rotary_base=rotary_base,
        rotary_size=rotary_size,
        max_distance=max_distance,
        dropout=dropout,
        block=block,
    )

    def init_for(key, x):
        given = as_inputs(x, "attention.init")
        y = given.x if given.y is None else given.y
        check_float(given.x, "attention.init")
        check_float(y, "attention.init", "y")
        return init(
            key,
            given.x.shape[-1],
            heads,
            head_size,
            memory_fan_in=y.shape[-1],
            key_heads=key_heads,
            value_size=value_size,
            fan_out=fan_out,
            use_bias=use_bias,
            norm=norm,
            position=position,
            buckets=buckets,
            sink=sink,
            append_key=append_key,
            weight_init=weight_init,
            bias_init=bias_init,
            dtype=given.x.dtype,
        )

    known = layouts(heads, groups, not (norm or sink or append_key or position in ("learned_alibi", "buckets")))
    still = Layer(init_for, partial(forward, **keywords), backward, "attention", layouts=known)
    if not dropout:
        return still
    state = State(lambda key, x: key, step, still)
    return still._replace(forward=partial(forward, **keywords, dropout=dropout), state=state)


def _drawn_inputs(x: tuple[int, ...], bias: tuple[int, ...], hide: tuple[tuple[int, int], ...]):
    """Self-attention with a bias; of `hide` each (row, first) is a row and the first key that it hides."""

    def draw(key, dtype):
        keys = jax.random.split(key)
        visible = np.full(x[:2], True)
        for row, first in hide:
            visible[row, first:] = False
        return Inputs(normal(keys[0], x, dtype), None, jnp.asarray(visible), normal(keys[1], bias, dtype))

    return draw


def _pair(x: tuple[int, ...], y: tuple[int, ...]):
    def draw(key, dtype):
        keys = jax.random.split(key)
        return normal(keys[0], x, dtype), normal(keys[1], y, dtype)

    return draw


DERIVATIONS = (
    Derivation(
        "attention",
        (
            r"q = x W_q + b_q,\ k = y W_k + b_k,\ v = y W_v + b_v",
            r"P = \mathrm{softmax}(s\, q k^\top + B),\quad z = b_o + \sum_h P_h v_{g(h)} W_{o,h}",
            r"\delta Z = P \circ (\delta P - D),\quad \delta P = \delta o\, v^\top,\quad D = \sum_e \delta o \circ o",
            r"\delta q = s\, \delta Z\, k,\quad \delta k = s\, \delta Z^\top q,\quad \delta v = P^\top \delta o",
            r"\partial L/\partial W_q = \sum x^\top \delta q",
            r"\partial L/\partial b_q = \sum \delta q",
            r"\partial L/\partial W_k = \sum y^\top \delta k",
            r"\partial L/\partial b_k = \sum \delta k",
            r"\partial L/\partial W_v = \sum y^\top \delta v",
            r"\partial L/\partial b_v = \sum \delta v",
            r"\partial L/\partial W_{o,h} = \sum o_h^\top \delta",
            r"\partial L/\partial b_o = \sum \delta",
            r"\partial L/\partial \gamma = \sum \delta q \circ \hat q",
            r"\partial L/\partial T_r = \sum_{r(t - j) = r} \delta Z_{tj} \text{ (buckets)}",
            r"\partial L/\partial s_h = -\sum_t e^{s_h - \ell_t} D_t \text{ (sink)}",
            r"\partial L/\partial B = \sum \delta Z",
            r"\partial L/\partial x = \delta q\, W_q^\top \text{ (from } y \text{ too where } y = x \text{)}",
            r"\partial L/\partial y = \delta k\, W_k^\top + \delta v\, W_v^\top",
        ),
        "Vaswani et al. (2017); derivation sheet 9.1, 9.2",
        (
            Example("self-attention, rotary in part", layer(2, 3, rotary="half", rotary_size=2), (2, 3, 3)),
            Example(
                "grouped, causal, window, RMS norm, buckets, softcap, sink, bias of each key, padding, tiles",
                layer(
                    4, 2, key_heads=2, causal=True, window=4, softcap=2.0, norm="rms", position="buckets", buckets=4,
                    max_distance=4, sink=True, use_bias=("query", "key", "out"), block=2,
                ),
                _drawn_inputs((2, 5, 2), bias=(4, 1, 5), hide=((0, 4), (1, 0))),
            ),
            Example(
                "cross-attention, no key bias",
                layer(2, 1, use_bias=("query", "value", "out")),
                _pair((2, 3, 2), (2, 2, 4)),
            ),
            Example("no keys", layer(2, 1), _pair((2, 2, 2), (2, 0, 3))),
        ),
        {
            "W_q": ("query.weight",), "b_q": ("query.bias",), "W_k": ("key.weight",), "b_k": ("key.bias",),
            "W_v": ("value.weight",), "b_v": ("value.bias",), "W_{o,h}": ("out.weight",), "b_o": ("out.bias",),
            r"\gamma": ("query_norm.weight", "key_norm.weight"), "T_r": ("buckets",), "s_h": ("sink",),
            "B": ("x.bias",), "x": ("x", "x.x", "x.0"), "y": ("x.1",),
        },
    ),
)  # fmt: skip

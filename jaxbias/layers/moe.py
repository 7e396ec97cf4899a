"""Mixture of experts: a router sends each row to k of E layers, and their outputs are added with its weights.

params: router = Params(Wr (fan_in, E), br (E,)), experts = the params of the expert layer, each leaf with a first axis
of E. Any number of leading axes; T rows in all. Scores p = softmax(z) or σ(z) of the router's z; selection bias e (E,).

Forward     z = x Wr + br,  S[t] = the k largest of p[t] + e         e enters the choice alone              (9.5.1)
            w[t,i] = p[t,i] / Σ_{j∈S} p[t,j] on S (`renormalise`), or p[t,i] on S; 0 elsewhere             (9.5.2)
            y[t] = Σ_i w[t,i] f_i(x[t])                                                                     (9.5.3)
Backward    δw[t,i] = δ[t]·f_i(x[t]) on S, else 0; expert i receives w[t,i] δ[t]                            (9.5.4)
            softmax, renormalised        δz = w (δw − Σ_i w δw)              0 outside of S                 (9.5.5)
            softmax, not renormalised    δz = p (δw − Σ_i p δw)              not 0 outside of S             (9.5.6)
            sigmoid, renormalised        δz = w (1 − p) (δw − Σ_i w δw)      (not: p (1 − p) δw)            (9.5.7)
            ∂L/∂Wr = xᵀ δz    ∂L/∂br = Σ_t δz    ∂L/∂x = δz Wrᵀ + Σ_i (∂L/∂x of expert i)                   (9.5.8)

Two losses of the router's own can be added, with q = softmax(z) and F[i] the share of all choices that fell on i, a
constant:
            balance   α E Σ_i F[i] mean_t q[t,i]         δz += (α E/T) q (F − Σ_j q F)                      (9.5.10)
            z-loss    (β/T) Σ_t ℓ[t]²,  ℓ = log Σ e^z    δz += (2β/T) ℓ q                                   (9.5.11)
Their gradients enter in backward with the factor 1 and do not stand in the output: here backward is on purpose not the
derivative of forward alone, but of ⟨y, δ⟩ and these losses. `own_losses(residuals)` says what they are.

With `selection_rate` γ the selection bias is the layer's state, and training moves it outside of the gradient:
            e[i] ← e[i] + γ sign(mean load − load[i])                                                       (9.5.9)

With `capacity` an expert takes so many rows, the first ones that chose it; what it does not take adds 0 to y and gets
δw = 0, while its w still counts in Σ w δw: weights are normalised before rows are dropped. The router computes in at
least float32. A constant on br is redundant with softmax scores, Σ_i ∂L/∂br = 0, but for the z-loss; it matters with
sigmoid scores. With k = 1 renormalised weights are all 1 and the router would learn nothing: that is refused.

    >>> layer = moe.layer(glu.layer(16, gate="silu"), experts=8, top=2, balance=0.01)

Source: N. Shazeer et al. (2017); W. Fedus et al., Switch Transformers (2022), eqs. 4-6; B. Zoph et al., ST-MoE (2022);
DeepSeek-V3 (2024) for e; equations 9.5.
"""

import math
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float, Int

from jaxbias import initializers
from jaxbias._doors import check_delta, check_features, check_float, check_key, check_number, check_size, describe
from jaxbias._numerics import accumulation_dtype, widen
from jaxbias.derivation import Derivation, Example
from jaxbias.initializers import Initializer
from jaxbias.layers import dense
from jaxbias.layouts import AS_HERE, Layouts
from jaxbias.params import Layer, Params, State, Static, Tree, as_layer, weight_and_bias

SCORES = ("softmax", "sigmoid")


class MoeParams(NamedTuple):
    """The router, and the experts' params stacked along a first axis."""

    router: Params
    experts: Any


class Residuals(NamedTuple):
    x: Float[Array, "*batch fan_in"]
    router: Array  # its weight
    has_bias: Static
    z: Float[Array, "rows experts"]
    chosen: Int[Array, "rows top"]
    slots: Int[Array, "rows top"]  # where a choice stands among all experts' places; the last one is nowhere
    outputs: Float[Array, "experts places fan_out"]
    experts: Tree


class _Setting(NamedTuple):
    """What a layer is made with."""

    expert: Layer
    experts: int
    top: int
    scores: str
    renormalise: bool
    capacity: int | None
    balance: float
    z_loss: float


# --- forward ----------------------------------------------------------------------------------------------------------


def _scores(z: Array, setting: _Setting) -> Array:
    return jax.nn.softmax(z, axis=-1) if setting.scores == "softmax" else lax.logistic(z)


def _weights(z: Array, chosen: Array, setting: _Setting) -> tuple[Array, Array]:
    """w and p at the chosen experts, (9.5.2)."""
    p = jnp.take_along_axis(_scores(z, setting), chosen, axis=1)
    return (p / p.sum(axis=1, keepdims=True) if setting.renormalise else p), p


def _slots(chosen: Array, experts: int, places: int) -> Array:
    """The place of each choice, counted through all experts, in the order of the rows; E·places where none is left."""
    flat = chosen.reshape(-1)
    ones = jax.nn.one_hot(flat, experts, dtype=jnp.int32)
    earlier = jnp.cumsum(ones, axis=0, dtype=jnp.int32) - ones
    before = (earlier * ones).sum(axis=1, dtype=jnp.int32)  # how many chose the same expert earlier
    slots = jnp.where(before < places, flat.astype(jnp.int32) * places + before, experts * places)
    return slots.reshape(chosen.shape)


def _with_nothing(stacked: Array) -> Array:
    """(E, places, features) as rows, and a row of zeros after them, for choices that have no place."""
    flat = stacked.reshape(-1, stacked.shape[-1])
    return jnp.concatenate([flat, jnp.zeros((1, flat.shape[1]), flat.dtype)])


def _dispatched(rows: Array, slots: Array, experts: int, places: int) -> Array:
    """Rows, one for each choice (T, k, features), at their places (E, places, features); zeros where none is."""
    empty = jnp.zeros((experts * places, rows.shape[-1]), rows.dtype)
    filled = empty.at[slots.reshape(-1)].set(rows.reshape(-1, rows.shape[-1]), mode="drop")
    return filled.reshape(experts, places, rows.shape[-1])


def _forward(params: MoeParams, x: Array, selection: Array | None = None, *, setting: _Setting):
    weight, bias = _check_params(params, setting)
    check_features(x, weight.shape[0], "moe.forward", f"the router has fan_in={weight.shape[0]}")
    rows = x.reshape(math.prod(x.shape[:-1]), x.shape[-1])
    z = jnp.matmul(widen(rows), widen(weight))
    z = z if bias is None else z + widen(bias)[None]
    p = lax.stop_gradient(_scores(z, setting))
    _, chosen = lax.top_k(p if selection is None else p + selection.astype(p.dtype)[None], setting.top)  # (9.5.1)
    places = max(len(rows), 1) if setting.capacity is None else setting.capacity
    slots = _slots(chosen, setting.experts, places)
    repeated = jnp.broadcast_to(rows[:, None], (*slots.shape, rows.shape[1]))
    dispatched = _dispatched(repeated, slots, setting.experts, places)
    outputs, inside = jax.vmap(setting.expert.forward)(params.experts, dispatched)
    w, _ = _weights(z, chosen, setting)
    y = (w[..., None] * widen(_with_nothing(outputs))[slots]).sum(axis=1)  # (9.5.3)
    out = y.astype(x.dtype).reshape(*x.shape[:-1], y.shape[-1])
    return out, Residuals(x, weight, Static(bias is not None), z, chosen, slots, outputs, inside)


# --- backward ---------------------------------------------------------------------------------------------------------


def _backward(residuals: Residuals, delta: Array, *, setting: _Setting):
    x, router, has_bias, z, chosen, slots, outputs, inside = residuals
    experts, places, fan_out = outputs.shape
    delta = check_delta(delta, (*x.shape[:-1], fan_out), "moe.backward")
    wide = widen(delta).reshape(len(z), fan_out)
    w, p_chosen = _weights(z, chosen, setting)

    delta_w = (wide[:, None] * widen(_with_nothing(outputs))[slots]).sum(axis=-1)  # (9.5.4)
    to_experts = _dispatched((w[..., None] * wide[:, None]).astype(outputs.dtype), slots, experts, places)
    expert_grads, delta_dispatched = jax.vmap(setting.expert.backward)(inside, to_experts)

    delta_z = _through_scores(z, chosen, w, p_chosen, delta_w, setting) + _of_own_losses(z, chosen, setting)
    rows = widen(x).reshape(len(z), x.shape[-1])
    through_experts = widen(_with_nothing(delta_dispatched))[slots].sum(axis=1)
    delta_x = delta_z @ widen(router).T + through_experts  # (9.5.8)
    grad_bias = delta_z.sum(axis=0).astype(router.dtype) if has_bias.value else None
    grads = MoeParams(Params((rows.T @ delta_z).astype(router.dtype), grad_bias), expert_grads)
    return grads, delta_x.astype(x.dtype).reshape(x.shape)


def _through_scores(z, chosen, w, p_chosen, delta_w, setting: _Setting) -> Array:
    """δz of the weights, (9.5.5) to (9.5.7)."""
    if setting.scores == "softmax" and not setting.renormalise:
        p = _scores(z, setting)
        return p * (_everywhere(delta_w, chosen, z) - (p_chosen * delta_w).sum(axis=1, keepdims=True))
    if setting.renormalise:
        delta_chosen = w * (delta_w - (w * delta_w).sum(axis=1, keepdims=True))
        delta_chosen = delta_chosen if setting.scores == "softmax" else delta_chosen * (1 - p_chosen)
    else:
        delta_chosen = p_chosen * (1 - p_chosen) * delta_w
    return _everywhere(delta_chosen, chosen, z)


def _everywhere(of_chosen: Array, chosen: Array, z: Array) -> Array:
    """(T, k) at the chosen experts of (T, E), 0 elsewhere."""
    return jnp.zeros_like(z).at[jnp.arange(len(z))[:, None], chosen].set(of_chosen)


def _of_own_losses(z: Array, chosen: Array, setting: _Setting) -> Array:
    """δz of balance and z-loss, (9.5.10) and (9.5.11)."""
    q, n = jax.nn.softmax(z, axis=-1), max(len(z), 1)
    total = jnp.zeros_like(z)
    if setting.balance:
        share = _share(chosen, setting).astype(z.dtype)[None]
        total = total + setting.balance * setting.experts / n * q * (share - (q * share).sum(axis=1, keepdims=True))
    if setting.z_loss:
        total = total + 2 * setting.z_loss / n * jax.nn.logsumexp(z, axis=1, keepdims=True) * q
    return total


# --- what is not the output -------------------------------------------------------------------------------------------


def _share(chosen: Array, setting: _Setting) -> Array:
    return load_of(chosen, setting.experts) / max(chosen.size, 1)


def load_of(chosen: Array, experts: int) -> Array:
    """How many rows chose each expert, in float32."""
    return jnp.zeros(experts, jnp.float32).at[chosen.reshape(-1)].add(1)


def own_losses(residuals: Residuals, *, balance: float = 0.0, z_loss: float = 0.0) -> dict[str, Array]:
    """Balance and z-loss of one forward pass, which backward added to the gradient and the output does not hold.

    Args:
        residuals: of `layer.forward`.
        balance, z_loss: α and β, as for `layer`.
    """
    z, chosen, experts = residuals.z, residuals.chosen, residuals.z.shape[1]
    n = max(len(z), 1)
    share = (load_of(chosen, experts) / max(chosen.size, 1)).astype(z.dtype)
    mean_q = jax.nn.softmax(z, axis=-1).sum(axis=0) / n
    return {
        "balance": balance * experts * (share * mean_q).sum(),
        "z_loss": z_loss / n * jnp.square(jax.nn.logsumexp(z, axis=1)).sum(),
    }


def _check_params(params: MoeParams, setting: _Setting) -> tuple[Array, Array | None]:
    if not isinstance(params, MoeParams):
        raise TypeError(
            f"moe.forward: params must be MoeParams(router, experts), got {describe(params)}. Make it with "
            f"layer.init(key, x)."
        )
    weight, bias = weight_and_bias(params.router, "moe.forward (router)", ("fan_in", "experts"))
    firsts = {leaf.shape[:1] for leaf in jax.tree.leaves(params.experts)}
    if weight.shape[1] != setting.experts or firsts - {(setting.experts,)}:
        raise ValueError(
            f"moe.forward: the router and every leaf of the experts must have {setting.experts} experts, got a router "
            f"of shape {weight.shape} and first axes {sorted(firsts)}."
        )
    return weight, bias


LAYOUTS = Layouts(pytorch=AS_HERE)


def layer(
    expert: Layer,
    *,
    experts: int,
    top: int,
    scores: str = "softmax",
    renormalise: bool = True,
    capacity: int | None = None,
    balance: float = 0.0,
    z_loss: float = 0.0,
    selection_rate: float | None = None,
    use_bias: bool = True,
    weight_init: Initializer = initializers.lecun_normal,
    bias_init: Initializer = initializers.zeros,
) -> Layer[MoeParams]:
    """`experts` layers like `expert`, of which a router chooses `top` for each row.

    Args:
        expert: a layer of rows without a state, such as `glu.layer(16)`.
        experts, top: E and k.
        scores: "softmax" or "sigmoid".
        renormalise: whether the weights of the chosen sum to 1.
        capacity: how many rows an expert takes; None for all that come, at the cost of E times the rows.
        balance, z_loss: α and β, at least 0.
        selection_rate: γ; the layer then keeps e as a state. None for no selection bias.
        use_bias: whether the router has a bias.
        weight_init, bias_init: of the router; a function `(key, shape, dtype) -> array`, or its name in
            `jb.initializers.NAMES`.

    Raises:
        TypeError: expert is no `Layer`, or a keyword of another kind.
        ValueError: an expert with a state, k above E, other scores, k = 1 with renormalised weights, or a negative
            rate.
    """
    as_layer(expert, "moe.layer")
    if expert.state is not None:
        raise ValueError(f"moe.layer: the expert must be a layer without a state, got {expert.name}.")
    check_size(experts, "moe.layer", "experts")
    check_size(top, "moe.layer", "top")
    if top > experts:
        raise ValueError(f"moe.layer: top must be at most the number of experts, {experts}, got {top}.")
    if scores not in SCORES:
        raise ValueError(f"moe.layer: scores must be one of {', '.join(SCORES)}, got {describe(scores)}.")
    if top == 1 and renormalise:
        raise ValueError(
            "moe.layer: with top=1 a renormalised weight is always 1, so the router would get no gradient. Write "
            "renormalise=False."
        )
    if capacity is not None:
        check_size(capacity, "moe.layer", "capacity")
    for name, value in {"balance": balance, "z_loss": z_loss, "selection_rate": selection_rate or 0.0}.items():
        check_number(value, "moe.layer", name)
        if value < 0:
            raise ValueError(f"moe.layer: {name} must be at least 0, got {value}.")
    setting = _Setting(expert, experts, top, scores, renormalise, capacity, balance, z_loss)

    def init(key, x):
        check_float(x, "moe.init")
        check_key(key, "moe.init")
        fan_in = x.shape[-1]
        router = initializers.affine(
            key,
            (fan_in, experts),
            (experts,),
            x.dtype,
            use_bias=use_bias,
            weight_init=weight_init,
            bias_init=bias_init,
        )
        row = jax.ShapeDtypeStruct((1, fan_in), x.dtype)
        keys = jax.random.split(jax.random.fold_in(key, 2), experts)
        return MoeParams(router, jax.vmap(lambda key: expert.init(key, row))(keys))

    forward, backward = partial(_forward, setting=setting), partial(_backward, setting=setting)
    made = Layer(init, forward, backward, "moe", layouts=LAYOUTS, convolves=expert.convolves)
    if selection_rate is None:
        return made

    def selection(key, x):
        del key
        return jnp.zeros(experts, accumulation_dtype(x.dtype))

    def step(state, residuals):
        load = load_of(residuals.chosen, experts)
        return state + selection_rate * jnp.sign(load.mean() - load).astype(state.dtype)  # (9.5.9)

    quiet = made._replace(state=State(selection, lambda state, residuals: state, None))
    return made._replace(state=State(selection, step, quiet))


DERIVATIONS = (
    Derivation(
        "moe",
        (
            r"y_t = \sum_{i \in S_t} w_{ti} f_i(x_t), \quad w_{ti} = p_{ti} / \sum_{j \in S_t} p_{tj}",
            r"\delta w_{ti} = \delta_t \cdot f_i(x_t) \text{ on } S_t, \quad \delta f_i = w_{ti} \delta_t",
            r"\delta z = w \circ (\delta w - \sum_i w\, \delta w)",
            r"\partial L/\partial W_r = x^\top \delta z",
            r"\partial L/\partial b_r = \sum_t \delta z",
            r"\partial L/\partial W_i = x^\top \delta f_i \text{ (dense experts)}",
            r"\partial L/\partial b_i = \sum_t \delta f_i",
            r"\partial L/\partial x = \delta z\, W_r^\top + \sum_i \delta f_i\, W_i^\top",
        ),
        "Shazeer et al. (2017), Fedus et al. (2022), Zoph et al. (2022); equations 9.5",
        (
            Example("two of three, capacity", layer(dense.layer(2), experts=3, top=2, capacity=3), (5, 3)),
            Example(
                "softmax, not renormalised",
                layer(dense.layer(2), experts=3, top=1, renormalise=False, use_bias=False),
                (2, 2, 3),
            ),
            Example(
                "sigmoid, selection bias",
                layer(dense.layer(2), experts=3, top=2, scores="sigmoid", selection_rate=0.1),
                (4, 3),
            ),
            Example(
                "sigmoid, not renormalised",
                layer(dense.layer(2), experts=2, top=1, scores="sigmoid", renormalise=False),
                (3, 2),
            ),
        ),
        {
            "W_r": ("router.weight",),
            "b_r": ("router.bias",),
            "W_i": ("experts.weight",),
            "b_i": ("experts.bias",),
        },
    ),
)

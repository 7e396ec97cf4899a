"""Causal linear attention: a state S of d × e numbers per head in the place of T × T scores; H heads, five biases.

x (*batch, T, E), n is all leading axes as one. params: query, key (E, H, d), value (E, H, e), out (H, e, F), each
Params(weight, bias), the bias with the axes of its output; and gate (E, H, d) where the state decays.

Forward     q = x Wq + bq     k = x Wk + bk     v = x Wv + bv             z = Σ_h o_h Wo_h + bo
    normalised          with φ(u) = elu(u) + 1 of q and of k:
            S[t] = S[t−1] + k vᵀ    s[t] = s[t−1] + k     m = q·s         o = qᵀ S / m                      (9.9.12)
    decayed             log a = log σ(x Wa + ba) / κ, κ = 16:
            S[t] = Diag(a) S[t−1] + k vᵀ                                  o = qᵀ S                          (9.9.14)
Backward, with δ = ∂L/∂o:
    normalised          g = δ/m    η = −(δ·o)/m    R[t] = Σ_{t′ ≥ t} q gᵀ    r[t] = Σ_{t′ ≥ t} q η
            δq = S g + s η         δk = R v + r    δv = Rᵀ k                                                (9.9.13)
            of the projections δq φ′, δk φ′, φ′ = min(φ, 1)
    decayed             R[t] = q δᵀ + Diag(a[t+1]) R[t+1]    δq = S δ    δk = R v    δv = Rᵀ k              (9.9.14)
            δ(log a)[t] = Σ_{t′ ≥ t} (q∘δq − k∘δk), and through the gate (1 − σ)/κ of it                    (9.9.15)
    ∂L/∂W = Σ xᵀ δ and ∂L/∂b = Σ δ of each product, and ∂L/∂x is the sum of its ways, as in 9.2.8-9.2.9.

Both forms go through chunks of steps (`_linear_attention.py`): neither all S[t] nor T × T scores exist at any time. The
normalised one is carried as a column of ones beside v, whose S is s and whose δ is η. S g and s η nearly cancel, as o
does not depend on the length of φ(q): φ(q)·δφ(q) = 0. The rounding of o, and so of η, is off that by as much as the
terms round, which can be 100 times what is left of them; so η is corrected by what is missing to 0,

            η ← η − φ(q)·δφ(q)/m            δq ← δq − s φ(q)·δφ(q)/m    δk ← δk − Σ_{t′ ≥ t} φ(q) φ(q)·δφ(q)/m
            and ∂L/∂s[0] loses the sum over all t

A state S before the first step may be given, normalised with s as one more column, (n, H, d, e + 1), and the state
behind the last one asked for. A step that does not count, by lengths or a mask, keeps the state, and its z is 0.
A step sees nothing behind itself, so that padding at the end of a row changes no step before it.

Which biases matter (9.14): normalised, the weights of a step sum to 1, so the value bias adds bv Wo to every output, a
duplicate of bo: ∂L/∂bv_h = Wo_h ∂L/∂bo. The key bias matters, unlike in softmax attention. Decayed, none is redundant;
ba decides how long is remembered: a = σ(ba)^(1/κ) at x = 0.

>>> layer = linear_attention.layer(4, 16, decay=True)
>>> params = layer.init(jax.random.key(0), x)           # x (n, time, features)
>>> z, residuals = layer.forward(params, x)

Source: A. Katharopoulos et al., Transformers are RNNs (2020); S. Yang et al., Gated linear attention (2024) for the
decay and the chunks; derivation sheet 9.9.
"""

import math
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import DTypeLike
from jaxtyping import Array, Float

from jaxbias import initializers
from jaxbias._doors import check_delta, check_features, check_number, check_size, describe
from jaxbias._numerics import widen
from jaxbias.derivation import Derivation, Example, normal
from jaxbias.initializers import Initializer
from jaxbias.layers import _linear_attention as core
from jaxbias.layers._affine import affine, affine_backward
from jaxbias.layers._sequence import (
    OF_SEQUENCES,
    STATE,
    STEPS,
    Sequences,
    check_output,
    checked_state,
    in_form_of,
    init_over_time,
    mask_of,
    parts_of,
)
from jaxbias.layouts import AS_HERE, Layouts
from jaxbias.params import Layer, Params, weight_and_bias

CHUNK, TEMPERATURE = 32, 16.0
OUTPUTS = STEPS, STATE


class LinearAttentionParams(NamedTuple):
    """What it learns; `gate` is None where the state does not decay."""

    query: Params
    key: Params
    value: Params
    out: Params
    gate: Any = None


class Residuals(NamedTuple):
    x: Any  # in the form in which it came
    params: LinearAttentionParams
    projections: tuple[Array, Array, Array, Array | None]  # q, k before φ, v, and the gate before σ
    o: Float[Array, "n H T e"]
    total: Array | None  # m (n, H, T, 1)
    states: Array  # before each chunk
    last: Array  # behind the last step


def init(
    key: Array,
    fan_in: int,
    heads: int,
    head_size: int,
    *,
    value_size: int | None = None,
    fan_out: int | None = None,
    decay: bool = False,
    use_bias: bool = True,
    weight_init: Initializer = initializers.lecun_normal,
    bias_init: Initializer = initializers.zeros,
    dtype: DTypeLike = jnp.float32,
) -> LinearAttentionParams:
    """Weights by default LeCun normal with the fan-in of the matrix, biases zero.

    Args:
        heads, head_size: H and d.
        value_size, fan_out: e and F; by default d and fan_in.
        decay: whether there is a gate, and no normalisation.
        use_bias: whether the products have biases; without them they are None.
        weight_init, bias_init: a function `(key, shape, dtype) -> array`, or its name in `jb.initializers.NAMES`.
        dtype: of all leaves.
    """
    e = value_size or head_size
    of_keys = (fan_in,), (heads, head_size)
    axes = [of_keys, of_keys, ((fan_in,), (heads, e)), ((heads, e), (fan_out or fan_in,))] + [of_keys] * decay

    def product(number, into, out):
        weight, bias = initializers.affine(
            jax.random.fold_in(key, number),
            (math.prod(into), math.prod(out)),
            (math.prod(out),),
            dtype,
            use_bias=use_bias,
            weight_init=weight_init,
            bias_init=bias_init,
        )
        return Params(weight.reshape(*into, *out), None if bias is None else bias.reshape(out))

    return LinearAttentionParams(*(product(number, *sides) for number, sides in enumerate(axes)))


def forward(
    params: LinearAttentionParams, x: Any, *, temperature: float = TEMPERATURE, chunk: int = CHUNK, output: str = STEPS
) -> tuple[Array, Residuals]:
    """z = Σ_h o_h Wo_h + bo.

    Args:
        x: (*batch, T, E); a pair (x, S0) to start from another state than zero, S0 (n, H, d, e), normalised
            (n, H, d, e + 1); or `jb.layers.Sequences` with lengths (n,) or a mask (n, T).
        temperature: κ; the larger, the slower the state decays.
        chunk: largest number of steps that are done at the same time: memory and time, no result.
        output: "steps" for all z[t], "state" for S behind the last step, in the form of S0.

    Raises:
        TypeError: x or S0 is not floating point, or params is no `LinearAttentionParams`.
        ValueError: x without a time axis, shapes that do not fit together, a temperature that is not positive, or
            another `output`.
    """
    function = "linear_attention.forward"
    _check_params(params)
    _check_settings(function, temperature, chunk)
    check_output(output, function, OUTPUTS)
    given = parts_of(x, function)
    fan_in = params.query.weight.shape[0]
    check_features(given.x, fan_in, function, f"the query weight has fan_in={fan_in}")
    if given.x.ndim < 3:
        raise ValueError(
            f"{function}: x must be (*batch, time, features), got shape {given.x.shape}. A single sequence needs a "
            f"batch axis: x[None]."
        )
    by_row, counts = _rows(given.x), _counts(given, function)
    q, k, v = (_heads(by_row, part) for part in params[:3])
    gate = None if params.gate is None else _heads(by_row, params.gate)
    start = _start(given, params)
    o, last, states = core.forward(_operands(q, k, v, gate, counts, temperature), widen(start), chunk)
    total = None
    if gate is None:  # (9.9.12)
        o, total = o[..., :-1], o[..., -1:]
        total = total if counts is None else jnp.where(_of_heads(counts), total, 1)  # 0 where no step counted yet
        o = o / total
    residuals = Residuals(x, params, (q, k, v, gate), o, total, states, last)
    if output == STATE:
        return last.astype(start.dtype), residuals
    z = affine(_merged(o), _as_matrix(params.out, 2)).astype(given.x.dtype)
    return _silent(z, counts).reshape(*given.x.shape[:-1], z.shape[-1]), residuals


def backward(
    residuals: Residuals, delta: Array, *, temperature: float = TEMPERATURE, chunk: int = CHUNK, output: str = STEPS
) -> tuple[LinearAttentionParams, Any]:
    """Gradients of all params, and ∂L/∂x in the form of x, with ∂L/∂S0 where S0 was given.

    The keywords are those of `forward`.

    Raises:
        TypeError: delta is not floating point.
        ValueError: delta has another shape than the output.
    """
    function = "linear_attention.backward"
    x, params, (q, k, v, gate), o, total, states, last = residuals
    given = parts_of(x, function)
    by_row, counts, start = _rows(given.x), _counts(given, function), _start(given, params)
    out_shape = (*given.x.shape[:-1], params.out.weight.shape[-1])
    delta = widen(check_delta(delta, last.shape if output == STATE else out_shape, function))
    later = delta if output == STATE else jnp.zeros(last.shape, delta.dtype)
    delta = jnp.zeros(out_shape, delta.dtype) if output == STATE else delta
    grad_out, delta_o = affine_backward(_merged(o), _as_matrix(params.out, 2), _silent(_rows(delta), counts))
    delta_o = jnp.swapaxes(delta_o.reshape(*delta_o.shape[:2], *params.out.weight.shape[:2]), 1, 2)
    if total is not None:  # (9.9.13): g, and η in the column of ones
        eta = -jnp.sum(delta_o * o, axis=-1, keepdims=True)
        delta_o = jnp.concatenate([delta_o, eta], axis=-1) / total
    operands = _operands(q, k, v, gate, counts, temperature)
    deltas, delta_start = core.backward(operands, states, last, delta_o, later, chunk)
    delta_q, delta_k, delta_v = deltas[:3]
    if total is not None:
        missing = jnp.sum(operands.q * delta_q, axis=-1, keepdims=True) / total
        delta_q, delta_k, delta_start = _with_exact_eta(operands, widen(start), missing, delta_q, delta_k, delta_start)
        delta_q, delta_k, delta_v = delta_q * _slope(operands.q), delta_k * _slope(operands.k), delta_v[..., :-1]
    if counts is not None:
        delta_k = jnp.where(_of_heads(counts), delta_k, 0)
    by_product = {"query": delta_q, "key": delta_k, "value": delta_v}
    if gate is not None and deltas.log_a is not None:
        delta_log_a = deltas.log_a if counts is None else jnp.where(_of_heads(counts), deltas.log_a, 0)
        by_product["gate"] = delta_log_a * jax.nn.sigmoid(-gate) / temperature
    grads, delta_xs = {"out": grad_out}, []
    for name, delta_heads in by_product.items():
        grads[name], delta_x = affine_backward(by_row, _as_matrix(getattr(params, name)), _merged(delta_heads))
        delta_xs.append(delta_x)
    like = lambda grad, leaf: grad.reshape(leaf.shape).astype(leaf.dtype)
    delta_state = None if given.state is None else like(delta_start, start)
    delta_x = in_form_of(x, Sequences(like(sum(delta_xs), given.x), delta_state))
    return jax.tree.map(like, LinearAttentionParams(**grads), params), delta_x


# --- the named steps --------------------------------------------------------------------------------------------------


def _operands(
    q: Array, k: Array, v: Array, gate: Array | None, counts: Array | None, temperature: float
) -> core.Operands:
    """What the core takes: φ of q and k and ones beside v, or log a; a step that does not count has k = 0, a = 1."""
    only = lambda x: x if counts is None else jnp.where(_of_heads(counts), x, 0)
    if gate is not None:
        return core.Operands(q, only(k), v, only(jax.nn.log_sigmoid(gate) / temperature))
    beside = jnp.concatenate([v, jnp.ones((*v.shape[:-1], 1), v.dtype)], axis=-1)
    return core.Operands(_phi(q), only(_phi(k)), beside, None)


def _counts(given: Sequences, function: str) -> Array | None:
    """(n, T) bools: whether a step counts; None where all do."""
    if given.lengths is None:
        return None
    return mask_of(given.lengths, (math.prod(given.x.shape[:-2]), given.x.shape[-2]), function)


def _of_heads(counts: Array) -> Array:
    return counts[:, None, :, None]


def _silent(z: Array, counts: Array | None) -> Array:
    """z of the steps that count, 0 of the others."""
    return z if counts is None else jnp.where(counts[..., None], z, 0)


def _start(given: Sequences, params: LinearAttentionParams) -> Array:
    """S before the first step; normalised, with s as its last column."""
    _, heads, d = params.query.weight.shape
    e = params.value.weight.shape[-1]
    columns, axes = (e, "(n, H, d, e)") if params.gate is not None else (e + 1, "(n, H, d, e + 1)")
    shape = (math.prod(given.x.shape[:-2]), heads, d, columns)
    return checked_state(given.state, shape, given.x.dtype, "linear_attention.forward", "S0", axes)


def _phi(u: Array) -> Array:
    """elu(u) + 1."""
    return jnp.where(u > 0, u + 1, jnp.exp(jnp.minimum(u, 0)))


def _slope(phi: Array) -> Array:
    """φ′, from φ."""
    return jnp.minimum(phi, 1)


def _with_exact_eta(
    operands: core.Operands, start: Array, missing: Array, delta_q: Array, delta_k: Array, delta_start: Array
) -> tuple[Array, Array, Array]:
    """δφ(q), δφ(k) and ∂L/∂S0 without the rounding of η: φ(q)·δφ(q) is 0, and what it is instead was η's.

    Args:
        missing: φ(q)·δφ(q)/m.
    """
    s = start[:, :, None, :, -1] + jnp.cumsum(operands.k, axis=-2)
    through_s = operands.q * missing
    return (
        delta_q - s * missing,
        delta_k - core.sum_of_later(through_s),
        delta_start.at[..., -1].add(-jnp.sum(through_s, axis=-2)),
    )


def _rows(x: Array) -> Array:
    """(n, T, features), all leading axes as one."""
    return x.reshape(math.prod(x.shape[:-2]), *x.shape[-2:])


def _as_matrix(params: Params, axes_in: int = 1) -> Params:
    """The weight with its first axes as one and its last as one, the bias a vector."""
    weight, bias = params
    fan_in, fan_out = math.prod(weight.shape[:axes_in]), math.prod(weight.shape[axes_in:])
    return Params(weight.reshape(fan_in, fan_out), None if bias is None else bias.reshape(fan_out))


def _heads(x: Float[Array, "n T E"], params: Params) -> Float[Array, "n H T d"]:
    z = affine(x, _as_matrix(params))
    return jnp.swapaxes(z.reshape(*z.shape[:2], *params.weight.shape[1:]), 1, 2)


def _merged(x: Float[Array, "n H T d"]) -> Float[Array, "n T merged"]:
    n, heads, time, size = x.shape
    return jnp.swapaxes(x, 1, 2).reshape(n, time, heads * size)


# --- doors ------------------------------------------------------------------------------------------------------------


def _check_params(params: Any) -> None:
    function = "linear_attention.forward"
    if not isinstance(params, LinearAttentionParams):
        raise TypeError(
            f"{function}: params must be LinearAttentionParams(query, key, value, out, gate), got {describe(params)}. "
            f"Make it with layer.init(key, x)."
        )
    wanted = {}
    for name, part in params._asdict().items():
        if part is None and name == "gate":
            continue
        axes = ("H", "e", "F") if name == "out" else ("fan_in", "H", "e" if name == "value" else "d")
        weight, _ = weight_and_bias(part, f"{function} ({name})", axes, bias_axes=1 if name == "out" else 2)
        for axis, length in zip(axes, weight.shape):
            if wanted.setdefault(axis, length) != length:
                raise ValueError(
                    f"{function}: the {name} weight must have {axis}={wanted[axis]}, as those before it, got shape "
                    f"{weight.shape} for ({', '.join(axes)})."
                )


def _check_settings(function: str, temperature: Any, chunk: Any) -> None:
    check_size(chunk, function, "chunk")
    check_number(temperature, function, "temperature")
    if not temperature > 0:
        raise ValueError(f"{function}: temperature must be positive, got {temperature}.")


LAYOUTS = Layouts(pytorch=AS_HERE)  # PyTorch has no such module


def layer(
    heads: int,
    head_size: int,
    *,
    value_size: int | None = None,
    fan_out: int | None = None,
    decay: bool = False,
    temperature: float = TEMPERATURE,
    use_bias: bool = True,
    chunk: int = CHUNK,
    output: str = STEPS,
    weight_init: Initializer = initializers.lecun_normal,
    bias_init: Initializer = initializers.zeros,
) -> Layer[LinearAttentionParams]:
    """Causal linear attention with `heads` heads of `head_size`; fan_in, fan_out and dtype are those of the input.

    Keywords as for `init` and `forward`.

    Raises:
        TypeError, ValueError: sizes that are no positive whole numbers, a temperature that is not positive, or another
            `output`.
    """
    sizes = {"heads": heads, "head_size": head_size, "value_size": value_size or 1, "fan_out": fan_out or 1}
    for name, size in sizes.items():
        check_size(size, "linear_attention.layer", name)
    _check_settings("linear_attention.layer", temperature, chunk)
    check_output(output, "linear_attention.layer", OUTPUTS)

    init_for = init_over_time(
        "linear_attention",
        init,
        heads,
        head_size,
        value_size=value_size,
        fan_out=fan_out,
        decay=decay,
        use_bias=use_bias,
        weight_init=weight_init,
        bias_init=bias_init,
    )

    keywords = {"temperature": temperature, "chunk": chunk, "output": output}
    return Layer(
        init_for, partial(forward, **keywords), partial(backward, **keywords), "linear_attention", layouts=LAYOUTS
    )


def _given(x: tuple[int, int, int], state: tuple[int, ...], lengths: tuple[int, ...] | None):
    def draw(key: Array, dtype: DTypeLike) -> Any:
        x_key, state_key = jax.random.split(key)
        pair = normal(x_key, x, dtype), jnp.abs(normal(state_key, state, dtype))  # a sum of keys is positive
        return pair if lengths is None else Sequences(*pair, jax.device_put(np.array(lengths, np.int32)))

    return draw


DERIVATIONS = (
    Derivation(
        "linear_attention",
        (
            r"q = x W_q + b_q,\ k = x W_k + b_k,\ v = x W_v + b_v,\quad z = b_o + \sum_h o_h W_{o,h}",
            r"S_t = S_{t-1} + \varphi(k) v^\top,\ s_t = s_{t-1} + \varphi(k),\ o = \varphi(q)^\top S / m",
            r"S_t = \mathrm{Diag}(a) S_{t-1} + k v^\top,\ o = q^\top S,\quad a = \sigma(x W_a + b_a)^{1/\kappa}",
            r"g = \delta / m,\quad \eta = -(\delta \cdot o)/m,\quad m = \varphi(q)^\top s",
            r"\delta q = S g + s \eta,\quad \delta k = R v + r,\quad \delta v = R^\top k",
            r"R_t = q g^\top + \mathrm{Diag}(a_{t+1}) R_{t+1},\quad r_t = q \eta + r_{t+1}",
            r"\delta_{\log a,t} = \sum_{t' \geq t} (q \circ \delta q - k \circ \delta k)",
            r"\partial L/\partial W_q = \sum x^\top \delta q",
            r"\partial L/\partial b_q = \sum \delta q",
            r"\partial L/\partial W_k = \sum x^\top \delta k",
            r"\partial L/\partial b_k = \sum \delta k",
            r"\partial L/\partial W_v = \sum x^\top \delta v",
            r"\partial L/\partial b_v = \sum \delta v",
            r"\partial L/\partial W_a = \sum x^\top \delta_{\log a} (1 - \sigma)/\kappa",
            r"\partial L/\partial b_a = \sum \delta_{\log a} (1 - \sigma)/\kappa",
            r"\partial L/\partial W_{o,h} = \sum o_h^\top \delta",
            r"\partial L/\partial b_o = \sum \delta",
            r"\partial L/\partial S_0 = \mathrm{Diag}(a_1) R_1",
            r"\partial L/\partial x = \delta q W_q^\top + \delta k W_k^\top + \delta v W_v^\top\ (+ \delta_a W_a^\top)",
        ),
        "Katharopoulos et al. (2020), Yang et al. (2024); equations 9.9.12-9.9.15",
        (
            Example("normalised, in chunks", layer(1, 3, value_size=2, chunk=2), (2, 5, 2)),
            Example("decayed, in chunks", layer(2, 2, decay=True, temperature=2.0, chunk=2), (1, 2, 5, 2)),
            Example(
                "normalised, given state, lengths, in chunks",
                layer(1, 2, value_size=1, chunk=2),
                _given((3, 3, 2), (3, 1, 2, 2), (3, 0, 2)),
            ),
            Example(
                "decayed, given state, state behind the last step, in chunks",
                layer(1, 2, decay=True, temperature=2.0, chunk=2, output=STATE),
                _given((2, 3, 2), (2, 1, 2, 2), None),
            ),
            Example("decayed, no bias, no steps", layer(1, 2, decay=True, use_bias=False, fan_out=3), (2, 0, 2)),
        ),
        {
            "W_q": ("query.weight",),
            "b_q": ("query.bias",),
            "W_k": ("key.weight",),
            "b_k": ("key.bias",),
            "W_v": ("value.weight",),
            "b_v": ("value.bias",),
            "W_a": ("gate.weight",),
            "b_a": ("gate.bias",),
            "W_{o,h}": ("out.weight",),
            "b_o": ("out.bias",),
            "x": OF_SEQUENCES["x_t"],
            "S_0": OF_SEQUENCES["h_0"],
        },
    ),
)

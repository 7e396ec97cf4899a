"""LSTM over a sequence: x (n, time, fan_in), output h (n, time, units), one bias for all time steps.

params: LstmParams(input=Params(W (fan_in, 4 units), b (4 units,)), hidden=Params(V (units, 4 units), None), peephole,
projection). The columns are those of the gates i, f, g, o, in that order.

Forward     z[t] = x[t] W + b + h[t−1] V in blocks z_i, z_f, z_g, z_o, c₋ = c[t−1]
            i = σ(z_i + p_i∘c₋)    f = σ(z_f + p_f∘c₋)    g = tanh z_g
            c[t] = f∘c₋ + i∘g      o = σ(z_o + p_o∘c)     h[t] = o∘tanh c                                    (9.3.1)
Backward, with D[t] = ∂L/∂h[t] of the output and δ[t] = ∂L/∂z[t], from the last step to the first, δ[T+1] = 0:
            δh = D[t] + δ[t+1] Vᵀ                                                                            (9.3.2)
            δo = δh∘tanh c∘o(1 − o)                                                                          (9.3.3)
            δc = δh∘o(1 − tanh²c) + δo∘p_o + carry[t+1]                                                      (9.3.4)
            δi = δc∘g∘i(1 − i)     δf = δc∘c₋∘f(1 − f)    δg = δc∘i∘(1 − g²)                                 (9.3.5)
            carry = δc∘f + δi∘p_i + δf∘p_f                                                                   (9.3.6)
            ∂L/∂W = Σ_t x[t]ᵀ δ[t]       ∂L/∂V = Σ_t h[t−1]ᵀ δ[t]       ∂L/∂b = Σ_t δ[t]ᵀ 1
            ∂L/∂p_i = Σ_t δi∘c₋          ∂L/∂p_f = Σ_t δf∘c₋            ∂L/∂p_o = Σ_t δo∘c                   (9.3.7)
            ∂L/∂x[t] = δ[t] Wᵀ           ∂L/∂h0 = δ[1] Vᵀ               ∂L/∂c0 = carry[1]                    (9.3.8)

Each option touches one of these steps:
    peephole        p_i, p_f, p_o, the rows of peephole.weight (3, units); otherwise they are 0
    coupled         i = 1 − f: δf = δc∘(c₋ − g)∘f(1 − f), no δi; the gates are f, g, o, 3 units columns          (9.3.9)
    projection      h[t] = (o∘tanh c) R, R (units, projection): ∂L/∂R = Σ_t (o∘tanh c)ᵀ δh, and δh Rᵀ in the
                    place of δh in (9.3.3-4)                                                                (9.3.10)
    hidden_bias     z = … + h[t−1] V + d: ∂L/∂d = ∂L/∂b, always. Only b + d counts, so d is redundant (9.14)
    lengths         steps that do not count keep h and c (9.3.21)
    reverse         from the last step to the first
    recompute       i, f, g, o by one product for all steps in backward, (9.3.1) again; otherwise they are kept

Kept for backward: x, h, c and the four gates, or without them. The state is computed in at least float32, as δ is.

Source: S. Hochreiter, J. Schmidhuber (1997); F. Gers et al. (2000, 2002) for forget gate and peepholes; K. Greff et al.
(2017) for the coupled gate; H. Sak et al. (2014) for the projection; derivation sheet 9.3.
"""

from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.typing import DTypeLike
from jaxtyping import Array

from jaxbias import initializers
from jaxbias._doors import check_size
from jaxbias._numerics import accumulation_dtype, matmul, rows, sum_over
from jaxbias.derivation import Derivation, Example, normal
from jaxbias.initializers import Initializer
from jaxbias.layers._recurrent_layouts import IN_KERAS, in_pytorch
from jaxbias.layers._sequence import (
    LAST,
    OF_SEQUENCES,
    STATE,
    STEPS,
    Sequences,
    arriving,
    before,
    check_output,
    checked_state,
    chosen,
    delta_of_steps,
    gradient_of,
    hidden_params,
    init_over_time,
    input_and_hidden,
    opened,
    silenced,
)
from jaxbias.layouts import Layouts
from jaxbias.params import Layer, Params, Static, weight_and_bias


class LstmParams(NamedTuple):
    """What the cell learns: `input` maps x[t] and holds the bias, `hidden` maps h[t−1]; the others are options."""

    input: Params
    hidden: Params
    peephole: Any = None  # Params or None
    projection: Any = None  # Params or None


class Residuals(NamedTuple):
    x: Array
    h: Array  # (n, time, units): the output itself, where that is every step
    c: Array  # (time, n, units)
    gates: Array | None  # (time, n, 4 units)
    start: tuple[Array, Array]
    mask: Array | None
    params: LstmParams
    form: Static


def init(
    key: Array,
    fan_in: int,
    units: int,
    *,
    use_bias: bool = True,
    hidden_bias: bool = False,
    peephole: bool = False,
    coupled: bool = False,
    projection: int | None = None,
    weight_init: Initializer = initializers.lecun_normal,
    hidden_init: Initializer = initializers.orthogonal,
    bias_init: Initializer | None = None,
    dtype: DTypeLike = jnp.float32,
) -> LstmParams:
    """W by default LeCun normal, each gate's V orthogonal, b zero but 1 for the forget gate; peepholes zero, R as W.

    Args:
        use_bias: whether there is a bias; without one it is None.
        hidden_bias: a second, redundant bias beside V, zero at the start, as PyTorch keeps one.
        peephole: the gates see the cell's state too.
        coupled: i = 1 − f.
        projection: size of h, where that is not `units`.
        weight_init, hidden_init, bias_init: of W, V and b; a function `(key, shape, dtype) -> array`, or its name in
            `jb.initializers.NAMES`. b by default is `initializers.forget_gate(1.0)`; `initializers.chrono` is another.
        dtype: of all.
    """
    gates = "fgo" if coupled else "ifgo"
    blocks = len(gates)
    input_key, hidden_key, projection_key = (jax.random.fold_in(key, i) for i in range(3))
    return LstmParams(
        input=initializers.affine(
            input_key,
            (fan_in, blocks * units),
            (blocks * units,),
            dtype,
            use_bias=use_bias,
            weight_init=weight_init,
            bias_init=initializers.forget_gate(1.0, gates) if bias_init is None else bias_init,
            layer="" if coupled or peephole or projection else "lstm",
        ),
        hidden=hidden_params(
            hidden_key,
            (projection or units, blocks * units),
            dtype,
            blocks=blocks,
            use_bias=use_bias and hidden_bias,
            hidden_init=hidden_init,
        ),
        peephole=Params(jnp.zeros((blocks - 1, units), dtype), None) if peephole else None,
        projection=initializers.affine(
            projection_key,
            (units, projection),
            (projection,),
            dtype,
            use_bias=False,
            weight_init=weight_init,
            bias_init=initializers.zeros,
        )
        if projection
        else None,
    )


def forward(
    params: LstmParams,
    x: Any,
    *,
    coupled: bool = False,
    reverse: bool = False,
    output: str = STEPS,
    recompute: bool = False,
) -> tuple[Array, Residuals]:
    """h[1] … h[T] of (9.3.1), or what is left after the last step.

    Args:
        x: the sequences (n, time, fan_in); a pair (sequences, (h0, c0)) to start from another state than zero; or
            `jb.layers.Sequences` with lengths.
        coupled: i = 1 − f.
        reverse: from the last step to the first.
        output: "steps" for all h[t], "last" for h after the last step, (n, units); "state" for h and c after it,
            (n, 2 units), one beside the other.
        recompute: whether backward computes the gates again.

    Raises:
        TypeError: the sequences or the state are not floating point, or params is no `LstmParams`.
        ValueError: the sequences are not (n, time, fan_in), another shape of the state or of the lengths, leaves of
            params whose shapes do not fit together, or another `output`.
    """
    weight, bias, recurrent, second, peep, project = _leaves(params, coupled)
    check_output(output, "lstm.forward", (STEPS, LAST, STATE))
    sequence, state, mask, form = opened(x, "lstm.forward", weight.shape[0], weight.shape)
    dtype, wide = sequence.dtype, accumulation_dtype(sequence.dtype)
    start = _start(state, sequence.shape[0], recurrent, weight.shape[1] // _blocks(coupled), dtype)
    from_input = _plus(matmul(jnp.swapaxes(sequence, 0, 1), weight), bias, second)  # of all steps at once, time first
    peep, project = jax.tree.map(lambda leaf: leaf.astype(wide), (peep, project))

    def step(before, at_t):
        h_before, c_before = before
        z_input, counts = at_t
        z = (z_input + matmul(h_before, recurrent)).astype(wide)
        gates, c = _cell(z, c_before, peep, coupled)
        m = gates[..., -c.shape[-1] :] * jnp.tanh(c)
        h = (m if project is None else matmul(m, project)).astype(dtype)
        h, c = chosen(counts, (h, c), before)
        return (h, c), (h, c.astype(dtype), None if recompute else gates.astype(dtype))

    h_start, c_start = start
    (h_last, c_last), (h, c, gates) = lax.scan(
        step, (h_start, c_start.astype(wide)), (from_input, mask), reverse=reverse
    )
    states = jnp.swapaxes(h, 0, 1)
    after = {STEPS: states, LAST: h_last, STATE: jnp.concatenate([h_last, c_last.astype(dtype)], axis=-1)}
    return after[output], Residuals(sequence, states, c, gates, start, mask, params, form)


def backward(
    residuals: Residuals,
    delta: Array,
    *,
    coupled: bool = False,
    reverse: bool = False,
    output: str = STEPS,
    recompute: bool = False,
) -> tuple[LstmParams, Any]:
    """The gradients (9.3.7-10) of params, and ∂L/∂x in the form of x, with (∂L/∂h0, ∂L/∂c0) where a state was given.

    The keywords are those of `forward`.

    Raises:
        TypeError: delta is not floating point.
        ValueError: delta has another shape than the output.
    """
    x, h, c, gates, start, mask, params, form = residuals
    n, time, _ = x.shape
    beyond = h.shape[-1] + c.shape[-1] if output == STATE else h.shape[-1]
    delta_h, delta_last = delta_of_steps(delta, n, time, beyond, output, "lstm.backward")
    wide = delta_last.dtype
    x, h = (jnp.swapaxes(array, 0, 1).astype(wide) for array in (x, h))
    c, gates, h_start, c_start = jax.tree.map(lambda leaf: leaf.astype(wide), (c, gates, *start))
    weight, bias, recurrent, second, peep, project = _leaves(
        jax.tree.map(lambda leaf: leaf.astype(wide), params), coupled
    )
    delta_last, carry = delta_last[:, : h.shape[-1]], delta_last[:, h.shape[-1] :]
    h_before, c_before = before(h, h_start, reverse), before(c, c_start, reverse)
    if recompute:  # (9.3.1) of all steps at once
        z = _plus(matmul(x, weight) + matmul(h_before, recurrent), bias, second)
        gates, _ = _cell(z, c_before, peep, coupled)
    assert gates is not None

    def step(later, at_t):
        delta_h, gates, c, c_before, counts = at_t
        i, f, g, o = _named(gates, coupled)
        tanh_c = jnp.tanh(c)
        delta_h, carry = arriving(delta_h, later[0]), later[1]  # (9.3.2)
        delta_m = delta_h if project is None else matmul(delta_h, project.T)  # (9.3.10)
        delta_o = delta_m * tanh_c * o * (1 - o)  # (9.3.3)
        delta_c = delta_m * o * (1 - tanh_c * tanh_c) + _peeped(delta_o, peep, -1) + carry  # (9.3.4)
        delta_g = delta_c * i * (1 - g * g)  # (9.3.5)
        delta_f = delta_c * (c_before - g if coupled else c_before) * f * (1 - f)  # (9.3.5), (9.3.9)
        delta_i = [] if coupled else [delta_c * g * i * (1 - i)]
        carry = delta_c * f + _peeped(delta_f, peep, -2) + sum(_peeped(part, peep, -3) for part in delta_i)  # (9.3.6)
        delta_z = jnp.concatenate([*delta_i, delta_f, delta_g, delta_o], axis=-1)
        earlier = matmul(delta_z, recurrent.T), carry
        of_params = delta_z, None if project is None else delta_h
        return chosen(counts, earlier, (delta_h, later[1])), silenced(counts, of_params)  # (9.3.21)

    beyond = delta_last, carry if output == STATE else jnp.zeros_like(c_start)
    (delta_h0, delta_c0), (delta_z, delta_h) = lax.scan(
        step, beyond, (delta_h, gates, c, c_before, mask), reverse=not reverse
    )
    total = sum_over(delta_z, (0, 1))
    grads = LstmParams(
        input=Params(matmul(rows(x).T, rows(delta_z)), None if bias is None else total),
        hidden=Params(matmul(rows(h_before).T, rows(delta_z)), None if second is None else total),
        peephole=None if peep is None else Params(_grad_of_peepholes(delta_z, c_before, c, coupled), None),
        projection=None
        if project is None
        else Params(matmul(rows(gates[..., -c.shape[-1] :] * jnp.tanh(c)).T, rows(delta_h)), None),
    )
    grads = jax.tree.map(lambda grad, leaf: grad.astype(leaf.dtype), grads, params)
    return grads, gradient_of(form, matmul(delta_z, weight.T), residuals.x, (delta_h0, delta_c0), start)


# --- the named steps --------------------------------------------------------------------------------------------------


def _cell(z: Array, c_before: Array, peep: Array | None, coupled: bool) -> tuple[Array, Array]:
    """The gates side by side, and c; for one step or for all at once.   (9.3.1), (9.3.9)"""
    *z_i, z_f, z_g, z_o = jnp.split(z, _blocks(coupled), axis=-1)
    f, g = jax.nn.sigmoid(z_f + _peeped(c_before, peep, -2)), jnp.tanh(z_g)
    i = [jax.nn.sigmoid(z_part + _peeped(c_before, peep, -3)) for z_part in z_i]
    c = f * c_before + (i[0] if i else 1 - f) * g
    o = jax.nn.sigmoid(z_o + _peeped(c, peep, -1))
    return jnp.concatenate([*i, f, g, o], axis=-1), c


def _named(gates: Array, coupled: bool) -> tuple[Array, Array, Array, Array]:
    """i, f, g, o."""
    *i, f, g, o = jnp.split(gates, _blocks(coupled), axis=-1)
    return i[0] if i else 1 - f, f, g, o


def _peeped(values: Array, peep: Array | None, row: int) -> Array | float:
    """p∘values, with p_o, p_f, p_i the last, the last but one and the third row from the end."""
    return 0.0 if peep is None else values * jnp.expand_dims(peep[row], range(values.ndim - 1))


def _grad_of_peepholes(delta_z: Array, c_before: Array, c: Array, coupled: bool) -> Array:
    """Σ δi∘c₋, Σ δf∘c₋, Σ δo∘c.   (9.3.7)"""
    *delta_i, delta_f, _, delta_o = jnp.split(delta_z, _blocks(coupled), axis=-1)
    met = [*((part, c_before) for part in delta_i), (delta_f, c_before), (delta_o, c)]
    return jnp.stack([sum_over(delta * state, (0, 1)) for delta, state in met])


def _plus(z: Array, *biases: Array | None) -> Array:
    for bias in biases:
        z = z if bias is None else z + jnp.broadcast_to(bias, z.shape)
    return z


def _blocks(coupled: bool) -> int:
    return 3 if coupled else 4


# --- doors ------------------------------------------------------------------------------------------------------------


def _leaves(params: Any, coupled: bool):
    """W, b, V, the second bias, p and R, which must fit together."""
    function = "lstm.forward"
    fan_out = None
    if isinstance(params, LstmParams) and params.projection is not None:
        fan_out = weight_and_bias(params.projection, f"{function} (projection)", ("units", "projection"), bias_axes=0)[
            0
        ].shape[1]
    has_second = isinstance(params, LstmParams) and getattr(params.hidden, "bias", None) is not None
    leaves = input_and_hidden(params, function, LstmParams, _blocks(coupled), has_second, fan_out)
    weight, bias, recurrent, second = leaves
    units = weight.shape[1] // _blocks(coupled)
    peep = project = None
    if params.projection is not None:
        project = params.projection.weight
        _check_shape(project, (units, project.shape[1]), "projection", "(units, projection)", weight.shape)
    if params.peephole is not None:
        peep, _ = weight_and_bias(params.peephole, f"{function} (peephole)", ("gates", "units"), bias_axes=0)
        _check_shape(peep, (_blocks(coupled) - 1, units), "peephole", "(gates, units)", weight.shape)
    return weight, bias, recurrent, second, peep, project


def _check_shape(leaf: Array, wanted: tuple[int, int], name: str, axes: str, weight_shape: tuple[int, ...]) -> None:
    if leaf.shape != wanted:
        raise ValueError(
            f"lstm.forward: the {name} weight must be {axes} = {wanted} for an input weight of shape {weight_shape}, "
            f"got shape {leaf.shape}."
        )


def _start(state: Any, n: int, recurrent: Array, units: int, dtype: Any) -> tuple[Array, Array]:
    """h0 and c0."""
    if state is not None and not (isinstance(state, tuple | list) and len(state) == 2):
        raise ValueError(
            "lstm.forward: the state must be a pair (h0, c0), got something else. Call with x = (sequences, (h0, c0))."
        )
    h, c = (None, None) if state is None else state
    of_h = checked_state(h, (n, recurrent.shape[0]), dtype, "lstm.forward", "h0", "(n, units)")
    return of_h, checked_state(c, (n, units), dtype, "lstm.forward", "c0", "(n, units)")


def _layouts(hidden_bias: bool, peephole: bool, coupled: bool, projection: int | None) -> Layouts:
    """Peepholes and coupled gates have no layout there; Keras knows no second bias and no projection."""
    if peephole or coupled:
        return Layouts()
    return Layouts(in_pytorch(hidden_bias), None if hidden_bias or projection else IN_KERAS)


def layer(
    units: int,
    *,
    use_bias: bool = True,
    hidden_bias: bool = False,
    peephole: bool = False,
    coupled: bool = False,
    projection: int | None = None,
    reverse: bool = False,
    output: str = STEPS,
    recompute: bool = False,
    weight_init: Initializer = initializers.lecun_normal,
    hidden_init: Initializer = initializers.orthogonal,
    bias_init: Initializer | None = None,
) -> Layer[LstmParams]:
    """An LSTM with `units` units; fan_in and dtype are those of the input.

        classifier = jb.chain(jb.layers.lstm.layer(64, output="last"), jb.layers.dense.layer(10))

    Keywords as for `init` and `forward`.

    Raises:
        TypeError, ValueError: units or projection is no positive whole number, or another `output`.
    """
    check_size(units, "lstm.layer", "units")
    if projection is not None:
        check_size(projection, "lstm.layer", "projection")
    check_output(output, "lstm.layer", (STEPS, LAST, STATE))

    init_for = init_over_time(
        "lstm",
        init,
        units,
        use_bias=use_bias,
        hidden_bias=hidden_bias,
        peephole=peephole,
        coupled=coupled,
        projection=projection,
        weight_init=weight_init,
        hidden_init=hidden_init,
        bias_init=bias_init,
    )

    keywords = {"coupled": coupled, "reverse": reverse, "output": output, "recompute": recompute}
    layouts = _layouts(hidden_bias, peephole, coupled, projection)
    return Layer(init_for, partial(forward, **keywords), partial(backward, **keywords), "lstm", layouts=layouts)


def _drawn(n: int, time: int, fan_in: int, state: tuple[int, int], lengths: Any = None):
    """Sequences with the state (h0, c0) of these sizes, and with lengths."""

    def draw(key, dtype):
        keys = jax.random.split(key, 3)
        x, h, c = (normal(k, shape, dtype) for k, shape in zip(keys, ((n, time, fan_in), *((n, s) for s in state))))
        return (x, (h, c)) if lengths is None else Sequences(x, (h, c), jnp.asarray(np.array(lengths)))

    return draw


DERIVATIONS = (
    Derivation(
        "lstm",
        (
            r"z_t = x_t W + b + h_{t-1} V,\quad c_t = f c_{t-1} + i g,\quad h_t = o \tanh c_t",
            r"\delta h = D_t + \delta_{t+1} V^\top,\quad \delta_o = \delta h \tanh c_t\, o(1-o)",
            r"\delta c = \delta h\, o(1-\tanh^2 c_t) + \delta_o p_o + \delta c_{t+1} f_{t+1} + \ldots",
            r"\delta_i = \delta c\, g\, i(1-i),\quad \delta_f = \delta c\, c_{t-1} f(1-f)",
            r"\delta_g = \delta c\, i (1-g^2),\quad \delta = (\delta_i, \delta_f, \delta_g, \delta_o)",
            r"\partial L/\partial W = \sum_t x_t^\top \delta_t",
            r"\partial L/\partial V = \sum_t h_{t-1}^\top \delta_t",
            r"\partial L/\partial b = \sum_t \delta_t^\top \mathbf{1}",
            r"\partial L/\partial d = \partial L/\partial b",
            r"\partial L/\partial P = \sum_t (\delta_i c_{t-1}, \delta_f c_{t-1}, \delta_o c_t)",
            r"\partial L/\partial R = \sum_t (o \tanh c_t)^\top \delta h",
            r"\partial L/\partial x_t = \delta_t W^\top",
            r"\partial L/\partial h_0 = \delta_1 V^\top,\quad \partial L/\partial c_0 = \delta c_1 f_1 + \ldots",
        ),
        "Hochreiter and Schmidhuber (1997), Gers et al. (2002); equations 9.3.1-9.3.10, 9.3.21",
        (
            Example("all steps", layer(3), (2, 4, 2)),
            Example(
                "peepholes, projected, lengths, reverse",
                layer(3, peephole=True, projection=2, reverse=True),
                _drawn(3, 4, 2, (2, 3), [4, 0, 2]),
            ),
            Example(
                "coupled, peepholes, second bias, a mask, state after the last step",
                layer(2, coupled=True, peephole=True, hidden_bias=True, recompute=True, output=STATE),
                _drawn(2, 3, 2, (2, 2), [[True, False, True], [False, True, True]]),
            ),
            Example("no steps, no bias", layer(2, use_bias=False, output=STATE), _drawn(2, 0, 3, (2, 2))),
        ),
        {
            "W": ("input.weight",), "V": ("hidden.weight",), "b": ("input.bias",), "d": ("hidden.bias",),
            "P": ("peephole.weight",), "R": ("projection.weight",), **OF_SEQUENCES,
        },
    ),
)  # fmt: skip

"""Simple recurrent cell over a sequence: x (n, time, fan_in), output h (n, time, units), one bias for all time steps.

params: Params(input=Params(W (fan_in, units), b (units,)), hidden=Params(U (units, units), None)). W and U are stored
sender first, the transposes of the sheet's Wx and U.

Forward     z[t] = x[t] W + b + h[t−1] U,  h[t] = σ(z[t]),  t = 1 … T                                    (5.4)
            h[0] is zero, or given: x is then the pair (x, h0), h0 (n, units), or `jb.layers.Sequences`
Backward, with D[t] = ∂L/∂h[t] of the output and δ[t] = ∂L/∂z[t], from the last step to the first, δ[T+1] = 0:
            δ[t] = (D[t] + δ[t+1] Uᵀ) σ′(z[t])                                                           (5.4)
            ∂L/∂W = Σ_t x[t]ᵀ δ[t]      ∂L/∂U = Σ_t h[t−1]ᵀ δ[t]      ∂L/∂b = Σ_t δ[t]ᵀ 1                (5.4)
            ∂L/∂x[t] = δ[t] Wᵀ          ∂L/∂h0 = δ[1] Uᵀ              (8) without its σ′ factor

σ is tanh, σ′ = 1 − h², or relu, σ′ = [h > 0] with the value 0 at the kink. δ is carried back in at least float32.
Steps that do not count, by lengths or a mask, keep h; their error signal passes by the cell (9.3.21). With `reverse`
the cell runs from the last step to the first, within the lengths.

Source: J. Elman, Finding structure in time (1990); derivation sheet 5.4, 9.3.21-22.
"""

from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.typing import DTypeLike
from jaxtyping import Array, Float

from jaxbias import initializers
from jaxbias._doors import check_size, describe
from jaxbias._numerics import matmul, rows, sum_over
from jaxbias.derivation import Derivation, Example, normal
from jaxbias.initializers import Initializer
from jaxbias.layers._both_directions import both_directions
from jaxbias.layers._recurrent_layouts import IN_KERAS, in_pytorch
from jaxbias.layers._sequence import (
    LAST,
    OF_SEQUENCES,
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
from jaxbias.params import Layer, Params, Static

ACTIVATIONS = {
    "tanh": (jnp.tanh, lambda h: 1 - h * h),
    "relu": (lambda z: jnp.where(z > 0, z, 0), lambda h: (h > 0).astype(h.dtype)),
}
"""Name → (σ, σ′ written from the output h)."""


class RnnParams(NamedTuple):
    """What the cell learns: `input` maps x[t] and holds the bias, `hidden` maps h[t−1] and has none."""

    input: Params
    hidden: Params


class Residuals(NamedTuple):
    x: Float[Array, "n time fan_in"]
    h: Float[Array, "n time units"]  # the output itself, where that is every step
    start: Float[Array, "n units"]
    mask: Array | None
    params: RnnParams
    form: Static


def init(
    key: Array,
    fan_in: int,
    units: int,
    *,
    use_bias: bool = True,
    weight_init: Initializer = initializers.lecun_normal,
    hidden_init: Initializer = initializers.orthogonal,
    bias_init: Initializer = initializers.zeros,
    dtype: DTypeLike = jnp.float32,
) -> RnnParams:
    """W (fan_in, units) by default LeCun normal, U (units, units) orthogonal, b (units,) zero.

    Args:
        use_bias: whether there is a bias; without one it is None.
        weight_init, hidden_init, bias_init: of W, U and b; a function `(key, shape, dtype) -> array`, or its name in
            `jb.initializers.NAMES`.
        dtype: of all three.
    """
    input_key, hidden_key = jax.random.fold_in(key, 0), jax.random.fold_in(key, 1)
    return RnnParams(
        input=initializers.affine(
            input_key,
            (fan_in, units),
            (units,),
            dtype,
            use_bias=use_bias,
            weight_init=weight_init,
            bias_init=bias_init,
            layer="rnn",
        ),
        hidden=hidden_params(hidden_key, (units, units), dtype, blocks=1, use_bias=False, hidden_init=hidden_init),
    )


def forward(
    params: RnnParams, x: Any, *, activation: str = "tanh", reverse: bool = False, output: str = STEPS
) -> tuple[Float[Array, "n *time units"], Residuals]:
    """h[1] … h[T] with h[t] = σ(x[t] W + b + h[t−1] U), or the last of them.

    Args:
        x: the sequences (n, time, fan_in); a pair (sequences, h0) to start from another state than zero; or
            `jb.layers.Sequences` with lengths.
        activation: "tanh" or "relu".
        reverse: from the last step to the first.
        output: "steps" for all h[t], "last" for h after the last step, (n, units).

    Raises:
        TypeError: the sequence or h0 is not floating point, or params is no `RnnParams` of floating-point arrays.
        ValueError: the sequence is not (n, time, fan_in), h0 is not (n, units), another shape of the lengths, leaves of
            params whose shapes do not fit together, or another activation or `output`.
    """
    weight, bias, recurrent = _leaves(params)
    check_output(output, "rnn.forward")
    sequence, h0, mask, form = opened(x, "rnn.forward", weight.shape[0], weight.shape)
    start_shape = sequence.shape[0], recurrent.shape[0]
    start = checked_state(h0, start_shape, sequence.dtype, "rnn.forward", "h0", "(n, units)")
    sigma, _ = _activation(activation)
    from_input = matmul(jnp.swapaxes(sequence, 0, 1), weight)  # of all steps at once, time first
    if bias is not None:
        from_input = from_input + jnp.broadcast_to(bias, from_input.shape)

    def step(h_before, at_t):
        z_input, counts = at_t
        h = chosen(counts, sigma(z_input + matmul(h_before, recurrent)), h_before)
        return h, h

    last, states = lax.scan(step, start, (from_input, mask), reverse=reverse)
    h = jnp.swapaxes(states, 0, 1)
    return h if output == STEPS else last, Residuals(sequence, h, start, mask, params, form)


def backward(
    residuals: Residuals,
    delta: Float[Array, "n *time units"],
    *,
    activation: str = "tanh",
    reverse: bool = False,
    output: str = STEPS,
) -> tuple[RnnParams, Any]:
    """(∂L/∂W, ∂L/∂b, ∂L/∂U), and ∂L/∂x in the form of x, with ∂L/∂h0 where h0 was given; delta is ∂L/∂h.

    The keywords are those of `forward`.

    Raises:
        TypeError: delta is not floating point.
        ValueError: delta has another shape than the output.
    """
    _, slope = _activation(activation)
    x, h, start, mask, params, form = residuals
    n, time, _ = x.shape
    delta_h, last = delta_of_steps(delta, n, time, h.shape[-1], output, "rnn.backward")
    wide = last.dtype
    x, h = (jnp.swapaxes(array, 0, 1).astype(wide) for array in (x, h))
    (weight, bias), (recurrent, _) = jax.tree.map(lambda leaf: leaf.astype(wide), params)

    def step(later, at_t):
        delta_h, h_t, counts = at_t
        delta_h = arriving(delta_h, later)
        delta_z = delta_h * slope(h_t)
        return chosen(counts, matmul(delta_z, recurrent.T), delta_h), silenced(counts, delta_z)  # (9.3.21)

    delta_h0, delta_z = lax.scan(step, last, (delta_h, h, mask), reverse=not reverse)
    h_before = before(h, start.astype(wide), reverse)
    grads = RnnParams(
        input=Params(matmul(rows(x).T, rows(delta_z)), None if bias is None else sum_over(delta_z, (0, 1))),
        hidden=Params(matmul(rows(h_before).T, rows(delta_z)), None),
    )
    grads = jax.tree.map(lambda grad, leaf: grad.astype(leaf.dtype), grads, params)
    return grads, gradient_of(form, matmul(delta_z, weight.T), residuals.x, delta_h0, start)


def _leaves(params: Any) -> tuple[Array, Array | None, Array]:
    """W, b and U, which must fit together."""
    weight, bias, recurrent, _ = input_and_hidden(params, "rnn.forward", RnnParams, 1, False, None)
    return weight, bias, recurrent


def _activation(name: str):
    if not isinstance(name, str) or name not in ACTIVATIONS:
        raise ValueError(f"rnn.forward: activation must be one of {', '.join(ACTIVATIONS)}, got {describe(name)}.")
    return ACTIVATIONS[name]


LAYOUTS = Layouts(in_pytorch(hidden_bias=False), IN_KERAS)


def layer(
    units: int,
    *,
    activation: str = "tanh",
    reverse: bool = False,
    output: str = STEPS,
    use_bias: bool = True,
    weight_init: Initializer = initializers.lecun_normal,
    hidden_init: Initializer = initializers.orthogonal,
    bias_init: Initializer = initializers.zeros,
) -> Layer[RnnParams]:
    """A simple recurrent cell with `units` units over time; fan_in and dtype are those of the input.

    Keywords as for `init` and `forward`.

    Raises:
        TypeError, ValueError: units is no positive whole number, or another activation or `output`.
    """
    check_size(units, "rnn.layer", "units")
    check_output(output, "rnn.layer")
    _activation(activation)

    init_for = init_over_time(
        "rnn",
        init,
        units,
        use_bias=use_bias,
        weight_init=weight_init,
        hidden_init=hidden_init,
        bias_init=bias_init,
    )

    keywords = {"activation": activation, "reverse": reverse, "output": output}
    return Layer(init_for, partial(forward, **keywords), partial(backward, **keywords), "rnn", layouts=LAYOUTS)


def _with_state(n: int, time: int, fan_in: int, units: int):
    def draw(key, dtype):
        x_key, h_key = jax.random.split(key)
        return normal(x_key, (n, time, fan_in), dtype), normal(h_key, (n, units), dtype)

    return draw


def _with_lengths(key: Array, dtype: DTypeLike) -> Sequences:
    keys = jax.random.split(key, 3)
    x, *state = (normal(k, shape, dtype) for k, shape in zip(keys, ((3, 4, 2), (3, 2), (3, 2))))
    return Sequences(x, tuple(state), jnp.asarray(np.array([4, 0, 2], np.int32)))


DERIVATIONS = (
    Derivation(
        "rnn",
        (
            r"h_t = \sigma(z_t),\quad z_t = x_t W + b + h_{t-1} U",
            r"\delta_t = (\partial L/\partial h_t + \delta_{t+1} U^\top)\, \sigma'(z_t)",
            r"\partial L/\partial W = \sum_t x_t^\top \delta_t",
            r"\partial L/\partial U = \sum_t h_{t-1}^\top \delta_t",
            r"\partial L/\partial b = \sum_t \delta_t^\top \mathbf{1}",
            r"\partial L/\partial x_t = \delta_t W^\top",
            r"\partial L/\partial h_0 = \delta_1 U^\top",
        ),
        "Elman (1990); equations 5.4",
        (
            Example("tanh", layer(4), (2, 5, 3)),
            Example("relu, no bias, last", layer(4, activation="relu", use_bias=False, output=LAST), (2, 3, 3)),
            Example("given state", layer(2), _with_state(3, 4, 5, 2)),
            Example("both directions, each reversed, lengths", both_directions(layer(2, reverse=True)), _with_lengths),
            Example("no steps", layer(2), (3, 0, 2)),
            Example("no rows", layer(2), (0, 3, 2)),
        ),
        {"W": ("*input.weight",), "U": ("*hidden.weight",), "b": ("*input.bias",), **OF_SEQUENCES},
    ),
)

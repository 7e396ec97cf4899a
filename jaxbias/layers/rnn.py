"""Simple recurrent cell over a sequence: x (n, time, fan_in), output h (n, time, units), one bias for all time steps.

params: Params(input=Params(W (fan_in, units), b (units,)), hidden=Params(U (units, units), None)). W and U are stored
sender first, the transposes of the sheet's Wx and U.

Forward     z[t] = x[t] W + b + h[t−1] U,  h[t] = σ(z[t]),  t = 1 … T                                    (5.4)
            h[0] is zero, or given: x is then the pair (x, h0), h0 (n, units)
Backward, with D[t] = ∂L/∂h[t] of the output and δ[t] = ∂L/∂z[t], from the last step to the first, δ[T+1] = 0:
            δ[t] = (D[t] + δ[t+1] Uᵀ) σ′(z[t])                                                           (5.4)
            ∂L/∂W = Σ_t x[t]ᵀ δ[t]      ∂L/∂U = Σ_t h[t−1]ᵀ δ[t]      ∂L/∂b = Σ_t δ[t]ᵀ 1                (5.4)
            ∂L/∂x[t] = δ[t] Wᵀ          ∂L/∂h0 = δ[1] Uᵀ              (8) without its σ′ factor

σ is tanh, σ′ = 1 − h², or relu, σ′ = [h > 0] with the value 0 at the kink. δ is carried back in at least float32.

Source: J. Elman, Finding structure in time (1990); derivation sheet 5.4.
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
from jaxbias._doors import check_delta, check_float, check_size, describe
from jaxbias._numerics import accumulation_dtype, matmul, rows, sum_over
from jaxbias.derivation import Derivation, Example, normal
from jaxbias.initializers import Initializer
from jaxbias.layouts import Arrays, Layout, Layouts
from jaxbias.params import Layer, Params, Static, weight_and_bias

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
    h: Float[Array, "time_and_1 n units"]  # h[0] … h[T]
    params: RnnParams
    has_h0: Static


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
    shape = (units, units)  # drawn in at least float32: the QR decomposition of `orthogonal` needs it
    input_key, hidden_key = jax.random.fold_in(key, 0), jax.random.fold_in(key, 1)
    hidden = initializers.by_name(hidden_init)(hidden_key, shape, accumulation_dtype(dtype))
    return RnnParams(
        input=initializers.affine(
            input_key,
            (fan_in, units),
            (units,),
            dtype,
            use_bias=use_bias,
            weight_init=weight_init,
            bias_init=bias_init,
        ),
        hidden=Params(hidden.astype(dtype), None),
    )


def forward(
    params: RnnParams,
    x: Float[Array, "n time fan_in"] | tuple[Float[Array, "n time fan_in"], Float[Array, "n units"]],
    *,
    activation: str = "tanh",
) -> tuple[Float[Array, "n time units"], Residuals]:
    """h[1] … h[T] with h[t] = σ(x[t] W + b + h[t−1] U).

    Args:
        x: the sequence, or the pair (sequence, h0) to start from another state than zero.
        activation: "tanh" or "relu".

    Raises:
        TypeError: the sequence or h0 is not floating point, or params is no `RnnParams` of floating-point arrays.
        ValueError: the sequence is not (n, time, fan_in), h0 is not (n, units), leaves of params whose shapes do not
            fit together, or another activation.
    """
    weight, bias, recurrent = _leaves(params)
    sequence, h0 = x if isinstance(x, tuple | list) else (x, None)
    check_float(sequence, "rnn.forward")
    if sequence.ndim != 3 or sequence.shape[-1] != weight.shape[0]:
        raise ValueError(
            f"rnn.forward: x must be (n, time, fan_in) with fan_in={weight.shape[0]} for an input weight of shape "
            f"{weight.shape}, got shape {sequence.shape}. A single sequence needs a batch axis: x[None]."
        )
    start = jnp.zeros((sequence.shape[0], recurrent.shape[0]), sequence.dtype) if h0 is None else h0
    check_float(start, "rnn.forward", "h0")
    if start.shape != (sequence.shape[0], recurrent.shape[0]):
        raise ValueError(
            f"rnn.forward: h0 must be (n, units) = {(sequence.shape[0], recurrent.shape[0])}, got shape {start.shape}."
        )
    sigma, _ = _activation(activation)
    from_input = matmul(jnp.swapaxes(sequence, 0, 1), weight)  # of all steps at once, time first
    if bias is not None:
        from_input = from_input + jnp.broadcast_to(bias, from_input.shape)

    def step(h, z_input):
        h = sigma(z_input + matmul(h, recurrent))
        return h, h

    _, states = lax.scan(step, start, from_input)
    h = jnp.concatenate([start[None], states])
    return jnp.swapaxes(states, 0, 1), Residuals(sequence, h, params, Static(h0 is not None))


def backward(
    residuals: Residuals, delta: Float[Array, "n time units"], *, activation: str = "tanh"
) -> tuple[RnnParams, Any]:
    """(∂L/∂W, ∂L/∂b, ∂L/∂U), ∂L/∂x, or the pair (∂L/∂x, ∂L/∂h0) where h0 was given; delta is ∂L/∂h.

    The keyword is that of `forward`.

    Raises:
        TypeError: delta is not floating point.
        ValueError: delta has another shape than the output.
    """
    _, slope = _activation(activation)
    n, time, _ = residuals.x.shape
    delta = check_delta(delta, (n, time, residuals.h.shape[-1]), "rnn.backward")
    dtype = delta.dtype
    wide = accumulation_dtype(dtype)
    x, h = (jnp.asarray(each, wide) for each in (jnp.swapaxes(residuals.x, 0, 1), residuals.h))
    (weight, bias), (recurrent, _) = jax.tree.map(lambda leaf: leaf.astype(wide), residuals.params)

    def step(from_later, at_t):
        delta_h, h_t = at_t
        delta_z = (delta_h + from_later) * slope(h_t)
        return matmul(delta_z, recurrent.T), delta_z

    last = jnp.zeros(h.shape[1:], wide)
    delta_h0, delta_z = lax.scan(step, last, (jnp.swapaxes(delta, 0, 1).astype(wide), h[1:]), reverse=True)
    grads = RnnParams(
        input=Params(matmul(rows(x).T, rows(delta_z)), None if bias is None else sum_over(delta_z, (0, 1))),
        hidden=Params(matmul(rows(h[:-1]).T, rows(delta_z)), None),
    )
    delta_x = jnp.swapaxes(matmul(delta_z, weight.T), 0, 1)
    deltas = (delta_x, delta_h0) if residuals.has_h0.value else delta_x
    return jax.tree.map(lambda leaf: leaf.astype(dtype), (grads, deltas))


def _leaves(params: Any) -> tuple[Array, Array | None, Array]:
    """W, b and U, which must fit together."""
    if not isinstance(params, RnnParams):
        raise TypeError(
            f"rnn.forward: params must be RnnParams(input, hidden), each a jb.Params, got {describe(params)}. Make it "
            f"with layer.init(key, x)."
        )
    weight, bias = weight_and_bias(params.input, "rnn.forward (input)", ("fan_in", "units"))
    recurrent, _ = weight_and_bias(params.hidden, "rnn.forward (hidden)", ("units", "units"), bias_axes=0)
    if recurrent.shape != (weight.shape[1], weight.shape[1]):
        raise ValueError(
            f"rnn.forward: the hidden weight must be (units, units) = {(weight.shape[1], weight.shape[1])} for an "
            f"input weight of shape {weight.shape}, got shape {recurrent.shape}."
        )
    return weight, bias, recurrent


def _activation(name: str):
    if not isinstance(name, str) or name not in ACTIVATIONS:
        raise ValueError(f"rnn.forward: activation must be one of {', '.join(ACTIVATIONS)}, got {describe(name)}.")
    return ACTIVATIONS[name]


def _to_pytorch(arrays: Arrays) -> Arrays:
    written = {"weight_ih_l0": arrays["input.weight"].T, "weight_hh_l0": arrays["hidden.weight"].T}
    if "input.bias" in arrays:
        written |= {"bias_ih_l0": arrays["input.bias"], "bias_hh_l0": np.zeros_like(arrays["input.bias"])}
    return written


def _from_pytorch(arrays: Arrays) -> Arrays:
    read = {"input.weight": arrays["weight_ih_l0"].T, "hidden.weight": arrays["weight_hh_l0"].T}
    if "bias_ih_l0" in arrays:
        read["input.bias"] = arrays["bias_ih_l0"] + arrays["bias_hh_l0"]
    return read


_KERAS = {"kernel": "input.weight", "recurrent_kernel": "hidden.weight", "bias": "input.bias"}
LAYOUTS = Layouts(
    pytorch=Layout(_to_pytorch, _from_pytorch),
    keras=Layout(
        lambda arrays: {there: arrays[here] for there, here in _KERAS.items() if here in arrays},
        lambda arrays: {_KERAS[name]: array for name, array in arrays.items()},
    ),
)


def layer(
    units: int,
    *,
    activation: str = "tanh",
    use_bias: bool = True,
    weight_init: Initializer = initializers.lecun_normal,
    hidden_init: Initializer = initializers.orthogonal,
    bias_init: Initializer = initializers.zeros,
) -> Layer[RnnParams]:
    """A simple recurrent cell with `units` units over time; fan_in and dtype are those of the input.

    Keywords as for `init` and `forward`.

    Raises:
        TypeError, ValueError: units is no positive whole number, or another activation.
    """
    check_size(units, "rnn.layer", "units")
    _activation(activation)

    def init_for(key, x):
        sequence = x[0] if isinstance(x, tuple | list) else x
        check_float(sequence, "rnn.init")
        return init(
            key,
            sequence.shape[-1],
            units,
            use_bias=use_bias,
            weight_init=weight_init,
            hidden_init=hidden_init,
            bias_init=bias_init,
            dtype=sequence.dtype,
        )

    keywords = {"activation": activation}
    return Layer(init_for, partial(forward, **keywords), partial(backward, **keywords), "rnn", layouts=LAYOUTS)


def _with_state(n: int, time: int, fan_in: int, units: int):
    def draw(key, dtype):
        x_key, h_key = jax.random.split(key)
        return normal(x_key, (n, time, fan_in), dtype), normal(h_key, (n, units), dtype)

    return draw


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
        ),
        "Elman (1990); equations 5.4",
        (
            Example("tanh", layer(4), (2, 5, 3)),
            Example("relu, no bias", layer(4, activation="relu", use_bias=False), (2, 3, 3)),
            Example("given state", layer(2), _with_state(3, 4, 5, 2)),
            Example("one step", layer(2), (3, 1, 2)),
            Example("no steps", layer(2), (3, 0, 2)),
            Example("no rows", layer(2), (0, 3, 2)),
        ),
    ),
)

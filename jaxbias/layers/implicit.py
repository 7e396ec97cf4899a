"""Fixed-point layer: the state at which one layer of weights stays, differentiated there and not as it was found.

params: ImplicitParams(input=Params(U (fan_in, units), b (units,)), hidden=Params(W (units, units), None)); x (*batch,
fan_in), any number of leading axes. σ is tanh or relu, as in `rnn`, of which this is the steady state.

Forward     z = σ(z W + x U + b), found by iterating it from 0; s = σ′ there                              (9.13.1)
Backward    δ̂ = s (δ + δ̂ Wᵀ), found by iterating it: δ̂ = ∂L/∂(z W + x U + b)                              (9.13.2)
            that is δ̂ = s λ, where (I − W Diag(s)) λ = δ for each row                                      (9.13.3)
            ∂L/∂b = Σ δ̂      ∂L/∂W = zᵀ δ̂      ∂L/∂U = xᵀ δ̂      ∂L/∂x = δ̂ Uᵀ                              (9.13.4)

Kept are z, x and the params: neither the iterates nor where they began, on which z does not depend. Autodiff of the
iteration keeps them all.

Both iterations end if σ(· W) contracts, the more so the smaller |W|: after `iterations` steps an error of the order
of |W Diag(s)|^iterations is left, in z and in δ̂. `residual` says how far z is from a fixed point, which is to be looked
at: where it is not small, z is no fixed point and the gradients are those of none. W starts orthogonal times ½.

A second bias, in the product with W, would be redundant: only the sum of both enters, so there is one.

    >>> layer = implicit.layer(16)
    >>> z, _ = layer.forward(params, x)
    >>> implicit.residual(params, x, z)

Kinks: those of relu, σ′(0) = 0.

Source: S. Bai et al., Deep Equilibrium Models (2019); derivation sheet (9.13.1-4).
"""

from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jax.typing import DTypeLike
from jaxtyping import Array, Float

from jaxbias import initializers
from jaxbias._doors import check_delta, check_features, check_float, check_size, describe
from jaxbias._numerics import matmul, widen
from jaxbias.derivation import Derivation, Example
from jaxbias.initializers import Initializer
from jaxbias.layers._affine import affine, affine_backward
from jaxbias.layers._sequence import hidden_params, input_and_hidden
from jaxbias.layers.rnn import ACTIVATIONS
from jaxbias.layouts import AS_HERE, Layouts
from jaxbias.params import Layer, Params


def half_orthogonal(key: Array, shape: tuple[int, ...], dtype: DTypeLike = jnp.float32) -> Array:
    """Orthogonal times ½: every vector comes out half as long, so that the iteration contracts."""
    return initializers.orthogonal(key, shape, dtype) / 2


class ImplicitParams(NamedTuple):
    """What the layer learns: `input` maps x and holds the bias, `hidden` maps z and has none."""

    input: Params
    hidden: Params


class Residuals(NamedTuple):
    z: Float[Array, "*batch units"]
    x: Float[Array, "*batch fan_in"]
    params: ImplicitParams


def init(
    key: Array,
    fan_in: int,
    units: int,
    *,
    use_bias: bool = True,
    weight_init: Initializer = initializers.lecun_normal,
    hidden_init: Initializer = half_orthogonal,
    bias_init: Initializer = initializers.zeros,
    dtype: DTypeLike = jnp.float32,
) -> ImplicitParams:
    """U (fan_in, units) by default LeCun normal, W (units, units) orthogonal times ½, b (units,) zero.

    Args:
        use_bias: whether there is a bias; without one it is None.
        weight_init, hidden_init, bias_init: of U, W and b; a function `(key, shape, dtype) -> array`, or its name in
            `jb.initializers.NAMES`.
        dtype: of all three.
    """
    input_key, hidden_key = jax.random.fold_in(key, 0), jax.random.fold_in(key, 1)
    return ImplicitParams(
        input=initializers.affine(
            input_key,
            (fan_in, units),
            (units,),
            dtype,
            use_bias=use_bias,
            weight_init=weight_init,
            bias_init=bias_init,
        ),
        hidden=hidden_params(hidden_key, (units, units), dtype, blocks=1, use_bias=False, hidden_init=hidden_init),
    )


def forward(
    params: ImplicitParams, x: Float[Array, "*batch fan_in"], *, activation: str = "tanh", iterations: int = 50
) -> tuple[Float[Array, "*batch units"], Residuals]:
    """z = σ(z W + x U + b), after so many iterations from 0.

    Args:
        activation: "tanh" or "relu".
        iterations: of forward, and of backward.

    Raises:
        TypeError: x is not floating point, or params is no `ImplicitParams` of floating-point arrays.
        ValueError: shapes that do not fit together, another activation, or fewer than one iteration.
    """
    check_size(iterations, "implicit.forward", "iterations")
    sigma, _ = _activation(activation, "implicit.forward")
    _check_params(params, x, "implicit.forward")
    z = _iterated(lambda z, arriving: sigma(arriving + matmul(z, _hidden(params))), affine(x, params.input), iterations)
    return z.astype(x.dtype), Residuals(z, x, params)


def backward(
    residuals: Residuals, delta: Float[Array, "*batch units"], *, activation: str = "tanh", iterations: int = 50
) -> tuple[ImplicitParams, Float[Array, "*batch fan_in"]]:
    """(∂L/∂U = xᵀ δ̂, ∂L/∂b = Σ δ̂, ∂L/∂W = zᵀ δ̂), ∂L/∂x = δ̂ Uᵀ, with δ̂ = s (δ + δ̂ Wᵀ).

    The keywords are those of `forward`.

    Raises:
        TypeError: delta is not floating point.
        ValueError: delta has another shape than z.
    """
    z, x, params = residuals
    _, slope = _activation(activation, "implicit.backward")
    delta = widen(check_delta(delta, z.shape, "implicit.backward"))
    s, transposed = slope(z), _hidden(params).T
    delta_hat = _iterated(lambda d, arriving: s * (arriving + matmul(d, transposed)), delta, iterations)
    of_input, delta_x = affine_backward(x, params.input, delta_hat)
    of_hidden, _ = affine_backward(z, params.hidden, delta_hat)
    grads = ImplicitParams(of_input, of_hidden)
    grads = jax.tree.map(lambda grad, leaf: grad.astype(leaf.dtype), grads, params)
    return grads, delta_x.astype(x.dtype)


def residual(
    params: ImplicitParams,
    x: Float[Array, "*batch fan_in"],
    z: Float[Array, "*batch units"],
    *,
    activation: str = "tanh",
) -> Float[Array, ""]:
    """max |σ(z W + x U + b) − z|: 0 at a fixed point.

    Args:
        z: what forward made of x.
        activation: as for `forward`.

    Raises:
        TypeError, ValueError: as `forward`.
    """
    sigma, _ = _activation(activation, "implicit.residual")
    _check_params(params, x, "implicit.residual")
    z = widen(z)
    again = sigma(affine(x, params.input) + matmul(z, _hidden(params)))
    return jnp.max(jnp.abs(again - z), initial=0.0)


def _iterated(step: Any, arriving: Array, iterations: int) -> Array:
    """step(value, arriving), again and again, from 0."""
    return lax.fori_loop(0, iterations, lambda _, value: step(value, arriving), jnp.zeros_like(arriving))


def _hidden(params: ImplicitParams) -> Array:
    return widen(params.hidden.weight)


def _activation(name: str, function: str):
    if not isinstance(name, str) or name not in ACTIVATIONS:
        raise ValueError(f"{function}: activation must be one of {', '.join(ACTIVATIONS)}, got {describe(name)}.")
    return ACTIVATIONS[name]


def _check_params(params: Any, x: Any, function: str) -> None:
    weight, *_ = input_and_hidden(params, function, ImplicitParams, 1, False, None)
    check_features(x, weight.shape[0], function, f"weight has fan_in={weight.shape[0]}, shape {weight.shape}")


LAYOUTS = Layouts(pytorch=AS_HERE)


def layer(
    units: int,
    *,
    activation: str = "tanh",
    iterations: int = 50,
    use_bias: bool = True,
    weight_init: Initializer = initializers.lecun_normal,
    hidden_init: Initializer = half_orthogonal,
    bias_init: Initializer = initializers.zeros,
) -> Layer[ImplicitParams]:
    """A fixed-point layer with `units` units; fan_in and dtype are those of the input.

    Keywords as for `init` and `forward`.

    Raises:
        TypeError, ValueError: units or iterations is no positive whole number, or another activation.
    """
    check_size(units, "implicit.layer", "units")
    check_size(iterations, "implicit.layer", "iterations")
    _activation(activation, "implicit.layer")

    def init_for(key, x):
        check_float(x, "implicit.init")
        return init(
            key,
            x.shape[-1],
            units,
            use_bias=use_bias,
            weight_init=weight_init,
            hidden_init=hidden_init,
            bias_init=bias_init,
            dtype=x.dtype,
        )

    keywords = {"activation": activation, "iterations": iterations}
    return Layer(init_for, partial(forward, **keywords), partial(backward, **keywords), "implicit", layouts=LAYOUTS)


def _contracting(inside: Layer, by: float = 0.125) -> Layer:
    """The layer with its W made smaller: what is drawn for an example is standard normal, and does not contract."""

    def shrunk(params: ImplicitParams) -> ImplicitParams:
        return params._replace(hidden=Params(params.hidden.weight * by, None))

    def backward(residuals, delta):
        grads, delta_x = inside.backward(residuals, delta)
        return shrunk(grads), delta_x

    return inside._replace(forward=lambda params, x: inside.forward(shrunk(params), x), backward=backward)


DERIVATIONS = (
    Derivation(
        "implicit",
        (
            r"z = \sigma(z W + x U + \mathbf{1} b^\top), \quad s = \sigma'(z W + x U + \mathbf{1} b^\top)",
            r"\delta = s \circ (\partial L/\partial z + \delta W^\top)",
            r"\partial L/\partial W = z^\top \delta",
            r"\partial L/\partial U = x^\top \delta",
            r"\partial L/\partial b = \delta^\top \mathbf{1}",
            r"\partial L/\partial x = \delta U^\top",
        ),
        "Bai et al. (2019); equations (9.13.1)-(9.13.4)",
        (
            Example("tanh, W times 1/8", _contracting(layer(4)), (5, 3)),
            Example("relu, no bias, W times 1/8", _contracting(layer(3, activation="relu", use_bias=False)), (2, 3, 2)),
            Example("no rows", _contracting(layer(2, iterations=3)), (0, 3)),
        ),
        {"W": ("hidden.weight",), "U": ("input.weight",), "b": ("input.bias",)},
    ),
)

"""Positions added to a sequence x (*batch, T, E): a learned table P (length, E), or sines and cosines, not learned.

Forward     z[n,t] = x[n,t] + P[t]                                      the part P[t] of                (9.12.1)
            sinusoidal: P[t, 2i] = sin(t/base^(2i/E)), P[t, 2i + 1] = cos(t/base^(2i/E))
Backward, with δ = ∂L/∂z:
            ∂L/∂P[t] = Σ_n δ[n,t]       over the samples, not over t; 0 for rows behind the sequence   (9.12.4)
            ∂L/∂x = δ

P[t] is a bias of each position: a bias after it, or a constant in the embedding below, can be taken up by it (9.12).

>>> layer = positions.layer(128)                        # sequences of up to 128 steps
>>> params = layer.init(jax.random.key(0), x)           # x (n, time, features)
>>> z, residuals = positions.sinusoidal().forward((), x)

Source: A. Vaswani et al., Attention is all you need (2017), section 3.5; derivation sheet 9.12.
"""

from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
from jax.typing import DTypeLike
from jaxtyping import Array, Float

from jaxbias import initializers
from jaxbias._doors import check_delta, check_float, check_no_params, check_number, check_size
from jaxbias._numerics import accumulation_dtype
from jaxbias.derivation import Derivation, Example
from jaxbias.initializers import Initializer
from jaxbias.layouts import AS_HERE, Layouts
from jaxbias.params import Layer, Params, Static, weight_and_bias

SMALL_NORMAL = initializers.normal(0.02)


class Residuals(NamedTuple):
    shape: Static
    table: Static  # shape and dtype of P; None for the sinusoidal form


def init(
    key: Array,
    length: int,
    features: int,
    *,
    weight_init: Initializer = SMALL_NORMAL,
    dtype: DTypeLike = jnp.float32,
) -> Params:
    """Weight P (length, features), by default N(0, 0.02²). No bias.

    Args:
        weight_init: a function `(key, shape, dtype) -> array`, or its name in `jb.initializers.NAMES`.
        dtype: of the weight.
    """
    return Params(initializers.by_name(weight_init)(key, (length, features), dtype), None)


def forward(params: Params, x: Float[Array, "*batch T E"]) -> tuple[Float[Array, "*batch T E"], Residuals]:
    """z[t] = x[t] + P[t].

    Raises:
        TypeError: x is not floating point, or params is no `Params` with a floating-point weight.
        ValueError: a sequence longer than the table, another number of features, or params with a bias.
    """
    weight, _ = weight_and_bias(params, "positions.forward", ("length", "features"), bias_axes=0)
    _check_sequence(x, "positions.forward")
    length, features = weight.shape
    if x.shape[-1] != features or x.shape[-2] > length:
        raise ValueError(
            f"positions.forward: a table of shape {weight.shape} takes sequences of up to {length} steps of {features} "
            f"features, got x of shape {x.shape}."
        )
    z = x + jnp.broadcast_to(weight[: x.shape[-2]], x.shape)
    return z, Residuals(Static(x.shape), Static((weight.shape, weight.dtype)))


def backward(residuals: Residuals, delta: Float[Array, "*batch T E"]) -> tuple[Any, Float[Array, "*batch T E"]]:
    """∂L/∂P[t] = Σ_n δ[n,t], ∂L/∂x = δ.

    Raises:
        TypeError: delta is not floating point.
        ValueError: delta has another shape than z.
    """
    delta = check_delta(delta, residuals.shape.value, "positions.backward")
    if residuals.table.value is None:
        return (), delta
    shape, dtype = residuals.table.value
    grad = jnp.sum(delta, axis=tuple(range(delta.ndim - 2)), dtype=accumulation_dtype(delta.dtype))
    return Params(jnp.pad(grad.astype(dtype), ((0, shape[0] - len(grad)), (0, 0))), None), delta


def sinusoidal_forward(
    params: tuple[()], x: Float[Array, "*batch T E"], *, base: float = 10_000.0
) -> tuple[Float[Array, "*batch T E"], Residuals]:
    """z[t] = x[t] + P[t] with sines and cosines for P.

    Args:
        params: nothing is learned; `()`.
        base: of the wavelengths, which grow from 2π to 2π · base.

    Raises:
        TypeError: x is not floating point.
        ValueError: no axis of time, or params that another layer learns.
    """
    check_no_params(params, "positions.sinusoidal_forward")
    _check_sequence(x, "positions.sinusoidal_forward")
    t, features = x.shape[-2:]
    # in float64: at position 10,000 an angle in float32 is off by 1e-3
    angle = np.arange(t)[:, None] * float(base) ** (-2 * (np.arange(features) // 2) / max(features, 1))
    table = np.where(np.arange(features) % 2 == 0, np.sin(angle), np.cos(angle))
    return x + jnp.broadcast_to(jnp.asarray(table, x.dtype), x.shape), Residuals(Static(x.shape), Static(None))


def _check_sequence(x: Any, function: str) -> None:
    check_float(x, function)
    if x.ndim < 2:
        raise ValueError(f"{function}: x must be (*batch, time, features), got shape {x.shape}.")


LAYOUTS = Layouts(pytorch=AS_HERE)  # the weight of an Embedding


def layer(length: int, *, weight_init: Initializer = SMALL_NORMAL) -> Layer[Params]:
    """A learned table for sequences of up to `length` steps; features and dtype are those of the input.

    Keywords as for `init`.

    Raises:
        TypeError, ValueError: length is no positive whole number.
    """
    check_size(length, "positions.layer", "length")

    def init_for(key, x):
        _check_sequence(x, "positions.init")
        return init(key, length, x.shape[-1], weight_init=weight_init, dtype=x.dtype)

    return Layer(init_for, forward, backward, "positions", layouts=LAYOUTS)


def sinusoidal(*, base: float = 10_000.0) -> Layer[tuple[()]]:
    """Sines and cosines of the position; nothing is learned. Keyword as for `sinusoidal_forward`.

    Raises:
        TypeError, ValueError: base is no positive number.
    """
    check_number(base, "positions.sinusoidal", "base")
    if not base > 0:
        raise ValueError(f"positions.sinusoidal: base must be positive, got {base}.")

    def init_for(key, x):
        del key
        _check_sequence(x, "positions.init")
        return ()

    return Layer(init_for, lambda params, x: sinusoidal_forward(params, x, base=base), backward, "positions")


DERIVATIONS = (
    Derivation(
        "positions",
        (
            r"z_{nt} = x_{nt} + P_t",
            r"\partial L/\partial P_t = \sum_n \delta_{nt}",
            r"\partial L/\partial x = \delta",
        ),
        "Vaswani et al. (2017), sec. 3.5; derivation sheet 9.12",
        (
            Example("learned, longer than the sequence", layer(6), (3, 4, 2)),
            Example("learned, two leading axes", layer(2), (2, 2, 2, 3)),
            Example("sinusoidal", sinusoidal(), (2, 3, 5)),
            Example("no rows", layer(3), (0, 3, 2)),
        ),
        {"P_t": ("weight",)},
    ),
)

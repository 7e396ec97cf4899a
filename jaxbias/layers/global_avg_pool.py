"""Global average pooling: the mean over all spatial positions, channels last; no params.

Forward     z[n,c] = (1/m) Σ_p x[n,p,c]         x (n, *spatial, channels), m positions in all
Backward    ∂L/∂x[n,p,c] = δ[n,c] / m                                                                 (5)

Source: derivation sheet (5) with ∂z/∂x = 1/m.
"""

import math

import jax.numpy as jnp
from jaxtyping import Array, Float

from jaxbias._doors import check_delta, check_float, check_no_params
from jaxbias._numerics import sum_over
from jaxbias.derivation import Derivation, Example
from jaxbias.params import Layer, Static


def forward(params: tuple[()], x: Float[Array, "n *spatial channels"]) -> tuple[Float[Array, "n channels"], Static]:
    """Mean over the axes between the first and the last, accumulated in at least float32.

    Raises:
        TypeError: x is not floating point.
        ValueError: x has no spatial axis, or an empty one: the mean of nothing does not exist.
    """
    check_no_params(params, "global_avg_pool.forward")
    check_float(x, "global_avg_pool.forward")
    if x.ndim < 3 or 0 in x.shape[1:-1]:
        raise ValueError(
            f"global_avg_pool.forward: x must be (n, *spatial, channels) with at least one spatial axis, none of them "
            f"empty, got shape {x.shape}. A single image needs a batch axis: x[None]."
        )
    return sum_over(x, tuple(range(1, x.ndim - 1))) / math.prod(x.shape[1:-1]), Static(x.shape)


def backward(
    residuals: Static, delta: Float[Array, "n channels"]
) -> tuple[tuple[()], Float[Array, "n *spatial channels"]]:
    """No grads; ∂L/∂x = δ/m at every position.

    Raises:
        TypeError: delta is not floating point.
        ValueError: delta has another shape than z.
    """
    shape = residuals.value
    delta = check_delta(delta, (shape[0], shape[-1]), "global_avg_pool.backward")
    share = jnp.expand_dims(delta / math.prod(shape[1:-1]), range(1, len(shape) - 1))
    return (), jnp.broadcast_to(share, shape)


def layer() -> Layer[tuple[()]]:
    """Global average pooling: (n, *spatial, channels) → (n, channels)."""

    def init(key, x):
        del key
        check_float(x, "global_avg_pool.init")
        return ()

    return Layer(init, forward, backward, "global_avg_pool")


DERIVATIONS = (
    Derivation(
        "global_avg_pool",
        (r"z_{nc} = \frac{1}{m} \sum_p x_{npc}", r"\partial L/\partial x_{npc} = \delta_{nc} / m"),
        "equation (5)",
        (Example("2-D", layer(), (2, 3, 4, 5)), Example("1-D", layer(), (3, 5, 2))),
    ),
)

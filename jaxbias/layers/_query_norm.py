"""How queries and keys are prepared for their product: normalised (9.1.15), (9.1.16), then rotated (9.2.2)."""

from typing import NamedTuple

import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float

from jaxbias._numerics import widen
from jaxbias.layers._rotary import rotated

NORMS = ("rms", "unit")


class Preparation(NamedTuple):
    """What is fixed when a program is traced; None for a step that is not taken."""

    norm: str | None
    eps: float
    rotary: str | None
    rotary_base: float
    rotary_size: int | None


def prepared(
    z: Float[Array, "n heads t d"], gain: Float[Array, "1 _ 1 _"] | None, first: int, how: Preparation
) -> Float[Array, "n heads t d"]:
    """R_t (γ ẑ[t]), in at least float32.

    Args:
        gain: what broadcasts to z: γ of the RMS norm, or e^τ of each head; None for 1.
        first: position of the first row.
    """
    z = widen(z)
    if how.norm is not None:
        z, _ = _normalised(z, how)
    if gain is not None:
        z = z * jnp.broadcast_to(gain, z.shape)
    return z if how.rotary is None else rotated(z, first, how.rotary, how.rotary_base, how.rotary_size)


def prepared_backward(
    z: Float[Array, "n heads t d"],
    gain: Float[Array, "1 _ 1 _"] | None,
    delta: Float[Array, "n heads t d"],
    first: int,
    how: Preparation,
) -> tuple[Float[Array, "n heads t d"], Float[Array, "1 _ 1 _"] | None]:
    """δ of z, and the gradient of the gain."""
    if how.rotary is not None:  # (9.2.7)
        delta = rotated(delta, first, how.rotary, how.rotary_base, how.rotary_size, back=True)
    if how.norm is None:
        return delta, None
    z_hat, r = _normalised(widen(z), how)
    u, grad = delta, None
    if gain is not None:
        broadcast = [axis for axis, length in enumerate(gain.shape) if length == 1]
        u, grad = delta * jnp.broadcast_to(gain, delta.shape), (delta * z_hat).sum(broadcast, keepdims=True)
    share = (u * z_hat).sum(-1, keepdims=True)
    return r * (u - z_hat * (share / z.shape[-1] if how.norm == "rms" else share)), grad


def _normalised(z: Array, how: Preparation) -> tuple[Array, Array]:
    """ẑ = r z, and r: 1/√(mean z² + eps), or 1/|z|, which is 0 for a vector of zeros."""
    square = jnp.square(z).sum(-1, keepdims=True)
    if how.norm == "rms":
        r = lax.rsqrt(square / z.shape[-1] + how.eps)
    else:
        r = jnp.where(square > 0, lax.rsqrt(jnp.where(square > 0, square, 1)), 0)
    return r * z, r

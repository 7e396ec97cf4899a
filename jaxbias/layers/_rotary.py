"""Rotary positions: each pair of features of a query or key is turned by an angle that grows with its position."""

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

PAIRINGS = ("half", "interleaved")
"""(i, i + d/2), or (2i, 2i + 1); weights learned with one do not carry over to the other."""


def rotated(
    z: Float[Array, "n heads t d"], first: int, pairing: str, base: float, *, back: bool = False
) -> Float[Array, "n heads t d"]:
    """R_t z[t] (9.2.2), or its transpose, the rotation by −θ (9.2.7).

    Args:
        first: position of the first row.
        back: whether to turn the other way.
    """
    t, d = z.shape[-2:]
    # in float64: at position 10,000 an angle in float32 is off by 1e-3
    theta = float(base) ** (-2 * np.arange(d // 2) / d)
    angle = (first + np.arange(t))[:, None] * theta * (-1 if back else 1)
    cos, sin = (jnp.asarray(part, z.dtype)[None, None] for part in (np.cos(angle), np.sin(angle)))
    if pairing == "half":
        a, b = z[..., : d // 2], z[..., d // 2 :]
        return jnp.concatenate([a * cos - b * sin, a * sin + b * cos], axis=-1)
    a, b = z[..., 0::2], z[..., 1::2]
    return jnp.stack([a * cos - b * sin, a * sin + b * cos], axis=-1).reshape(z.shape)

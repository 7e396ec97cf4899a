"""Rotary positions: each pair of features of a query or key is turned by an angle that grows with its position.

The first `size` features of a head may be turned alone, in the angles of a head of that size; the others then carry no
position.
"""

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

PAIRINGS = ("half", "interleaved")
"""(i, i + d/2), or (2i, 2i + 1); weights learned with one do not carry over to the other."""


def rotated(
    z: Float[Array, "n heads t d"], first: int, pairing: str, base: float, size: int | None, *, back: bool = False
) -> Float[Array, "n heads t d"]:
    """R_t z[t] (9.2.2), or its transpose, the rotation by −θ (9.2.7).

    Args:
        first: position of the first row.
        size: how many features are turned; None for all.
        back: whether to turn the other way.
    """
    if size is not None and size < z.shape[-1]:
        turned = rotated(z[..., :size], first, pairing, base, None, back=back)
        return jnp.concatenate([turned, z[..., size:]], axis=-1)
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

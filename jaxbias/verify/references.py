"""References for forwards without reverse mode: forward mode column by column, and differences of the forward.

Each has the form of `Problem.reference`: `(primals, seeds) -> [*gradients, *forward values]`, traceable.
"""

import math
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

Function = Callable[..., list[Array]]
"""`(*floats) -> [float outputs]`."""

MOST_COLUMNS = 4096
"""Entries of all arguments together up to which a gradient is built column by column."""

STEPS = (1e-2, 5e-3, 2.5e-3)
"""Of the largest entry (at least 1): steps of the differences, each half of the one before."""


class TooManyColumns(ValueError):
    """The arguments have more entries than a gradient is built of, one at a time."""


def _paired(outs: Sequence[Array], seeds: Sequence[Any]) -> Array:
    """Σ cotangent · out, over all outputs."""
    return sum((jnp.sum(jnp.asarray(s).astype(out.dtype) * out) for out, s in zip(outs, seeds)), jnp.zeros(()))


def _require_columns(floats: Sequence[Any], how: str) -> None:
    count = sum(math.prod(np.shape(x)) for x in floats)
    if count > MOST_COLUMNS:
        raise TooManyColumns(
            f"verify: the forward has no reverse mode, so its gradient is built {how}, up to {MOST_COLUMNS:,} entries "
            f"of the arguments; these have {count:,}. Give smaller arguments."
        )
    if any(jnp.iscomplexobj(x) for x in floats):
        raise ValueError("verify: the forward has no reverse mode, and its complex arguments no other reference.")


def by_columns(function: Function, floats: Sequence[Any], seeds: Sequence[Any]) -> list[Array]:
    """Gradients, then values: ⟨cotangent, J eₖ⟩ for every unit vector eₖ, by forward mode.

    Raises:
        TooManyColumns: more than `MOST_COLUMNS`.
        ValueError: a complex argument.
    """
    floats = [jnp.asarray(x) for x in floats]
    _require_columns(floats, "by forward mode, column by column")
    zeros = [jnp.zeros_like(x) for x in floats]

    def gradient(k: int) -> Array:
        def along(direction):
            tangents = [*zeros[:k], direction, *zeros[k + 1 :]]
            return _paired(jax.jvp(function, floats, tangents)[1], seeds)

        x = floats[k]
        units = jnp.eye(x.size, dtype=x.dtype).reshape(x.size, *x.shape)
        return jax.vmap(along)(units).reshape(x.shape)

    return [*(gradient(k) for k in range(len(floats))), *function(*floats)]


def _extrapolated(wide: Array, middle: Array, narrow: Array) -> tuple[Array, Array]:
    """The slope at step 0 from those with `STEPS` (Richardson), and from the last two only."""
    first, second = middle + (middle - wide) / 3, narrow + (narrow - middle) / 3
    return second + (second - first) / 15, second


def by_differences(function: Function, floats: Sequence[Any], seeds: Sequence[Any]) -> list[Array]:
    """Gradients, then values, then the gradients once more from fewer differences: their distance is the error.

    Central differences with three steps, extrapolated to step 0 (Richardson); the others with the last two.

    Raises:
        TooManyColumns: more than `MOST_COLUMNS`.
        ValueError: a complex argument.
    """
    floats = [jnp.asarray(x) for x in floats]
    _require_columns(floats, "from differences, entry by entry")

    def gradient(k: int) -> tuple[Array, Array]:
        x = floats[k]
        size = jnp.maximum(1.0, jnp.max(jnp.abs(x), initial=0.0)).astype(x.dtype)

        def slope(place, step):
            moved = jnp.where(jnp.arange(x.size).reshape(x.shape) == place, step * size, 0).astype(x.dtype)
            up, down = (_paired(function(*floats[:k], x + s * moved, *floats[k + 1 :]), seeds) for s in (1, -1))
            return (up - down) / (2 * step * size)

        def at(place):
            return _extrapolated(*(slope(place, step) for step in STEPS))

        best, other = jax.lax.map(at, jnp.arange(x.size))
        return best.reshape(x.shape), other.reshape(x.shape)

    pairs = [gradient(k) for k in range(len(floats))]
    return [*(best for best, _ in pairs), *function(*floats), *(other for _, other in pairs)]


def along_tangents(function: Function, floats: Sequence[Any], tangents: Sequence[Any]) -> list[Array]:
    """As `by_differences`, the tangents of the outputs: differences of the forward along those of the arguments.

    Raises:
        ValueError: a complex argument.
    """
    floats = [jnp.asarray(x) for x in floats]
    if any(jnp.iscomplexobj(x) for x in floats):
        raise ValueError("verify: the forward has no derivative, and its complex arguments no other reference.")
    tangents = [jnp.asarray(t).astype(x.dtype) for x, t in zip(floats, tangents)]
    longest = jnp.max(jnp.stack([jnp.max(jnp.abs(t), initial=0.0) for t in tangents]))
    size = 1 / jnp.maximum(1.0, longest)

    def slopes(step):
        h = step * size
        up, down = (function(*(x + (s * h).astype(x.dtype) * t for x, t in zip(floats, tangents))) for s in (1, -1))
        return [(u - d) / (2 * h).astype(u.dtype) for u, d in zip(up, down)]

    pairs = [_extrapolated(*three) for three in zip(*map(slopes, STEPS))]
    return [*(best for best, _ in pairs), *function(*floats), *(other for _, other in pairs)]

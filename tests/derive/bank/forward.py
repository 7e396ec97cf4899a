"""What a forward of the bank is: a function with a draw of its arguments."""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np


class Forward(NamedTuple):
    """A function and a draw of its arguments."""

    function: Callable[..., Any]
    args: tuple[Any, ...]


_rng = np.random.default_rng(0)


def normal(*shape: int) -> jax.Array:
    return jnp.asarray(_rng.standard_normal(shape), jnp.float32)


def positive(*shape: int) -> jax.Array:
    return jnp.asarray(_rng.uniform(0.5, 2.0, shape), jnp.float32)


def labels(n: int, k: int) -> jax.Array:
    return jnp.asarray(_rng.integers(0, k, n), jnp.int32)


def drawn(shapes: Sequence[jax.ShapeDtypeStruct]) -> tuple[jax.Array, ...]:
    """Values for these shapes; whole numbers are labels of two classes."""
    return tuple(normal(*x.shape) if x.dtype == jnp.float32 else labels(x.size, 2).reshape(x.shape) for x in shapes)


def entering(bank: dict[str, Forward]) -> Callable[..., Callable[[Callable[..., Any]], Callable[..., Any]]]:
    """A decorator `of(*args)` that enters a function into this bank with these arguments."""

    def of(*args: Any) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
        def enter(function: Callable[..., Any]) -> Callable[..., Any]:
            bank[function.__name__] = Forward(function, args)
            return function

        return enter

    return of

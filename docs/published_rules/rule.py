"""What a row of the table is, and what several of them are made of."""

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np


class Rule(NamedTuple):
    """One published rule, and where to check it.

    Attributes:
        name: of the function, as its package calls it.
        function, args: what is differentiated, and a point of its domain; new points are drawn like it.
        closed: the same function in elementary operations, where the published one iterates to a limit.
        modes: those that the rule has.
        rtol: relative error to allow, where the published values are an approximation to fewer digits than a float64.
        found: heading of docs/found.md under which a wrong one is described.
    """

    name: str
    function: Callable[..., Any]
    args: tuple[Any, ...]
    closed: Callable[..., Any] | None = None
    modes: tuple[str, ...] = ("fwd", "rev")
    rtol: float | None = None
    found: str = ""


class Package(NamedTuple):
    """The module to import, and the rules that it brings."""

    module: str
    rules: Callable[[], Iterator[Rule]]


def normal(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng([7, seed]).standard_normal(shape)


def between(low: float, high: float, *shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng([8, seed]).uniform(low, high, shape)


def positive_definite(b: Any) -> Any:
    return b @ b.T + jnp.eye(b.shape[0], dtype=b.dtype)


def explicit_inverse(a: Any) -> Any:
    """By cofactors, so that no rule of a solver is used."""
    n = a.shape[0]
    if n == 1:
        return 1 / a
    minor = lambda i, j: explicit_det(jnp.delete(jnp.delete(a, i, 0), j, 1))
    cofactors = jnp.stack([jnp.stack([(-1.0) ** (i + j) * minor(i, j) for j in range(n)]) for i in range(n)])
    return cofactors.T / explicit_det(a)


def explicit_det(a: Any) -> Any:
    """By the first column."""
    if a.shape[0] == 1:
        return a[0, 0]
    return sum((-1.0) ** i * a[i, 0] * explicit_det(jnp.delete(jnp.delete(a, i, 0), 0, 1)) for i in range(a.shape[0]))

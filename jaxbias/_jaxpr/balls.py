"""Arrays of balls and the arithmetic that everything on them shares.

A ball is a midpoint with a radius, and every operation gives a ball that is certain to hold the exact result, whatever
was rounded on the way (python-flint's `arb` and `acb`; F. Johansson, Arb: efficient arbitrary-precision midpoint-radius
interval arithmetic (2017)).
"""

import functools
from collections.abc import Callable
from contextlib import contextmanager
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

Balls = Any
"""A NumPy array of objects, each an `arb` or an `acb`; or a plain array of integers or bools."""


class NoBall(Exception):
    """A primitive that has no enclosure here; the message is its name."""


class Late(Exception):
    """The time that was given is over."""


class Open(Exception):
    """A comparison, an order or a rounding to an integer that the radii leave open."""


@functools.cache
def python_flint() -> Any:
    """python-flint, imported when first used.

    Raises:
        NoBall: it is not installed.
    """
    try:
        import flint
    except ModuleNotFoundError as missing:
        raise NoBall("python-flint is not installed") from missing
    return flint


def available() -> bool:
    """Whether enclosures can be computed here."""
    try:
        return bool(python_flint())
    except NoBall:
        return False


@contextmanager
def precision(bits: int):
    """Within, every operation keeps so many bits."""
    context = python_flint().ctx
    before, context.prec = context.prec, bits
    try:
        yield
    finally:
        context.prec = before


def lift(x: Any, radius: Any = 0.0) -> Balls:
    """The array as balls: exact, or each finite entry with its radius; integers and bools as they are."""
    if isinstance(x, jax.Array) and jnp.issubdtype(x.dtype, jax.dtypes.extended):
        return x  # random keys
    x = np.asarray(x)
    if x.dtype == object or not jnp.issubdtype(x.dtype, jnp.inexact):
        return x
    x, flint = x if x.dtype.kind == "c" else x.astype(np.float64), python_flint()
    if not np.any(radius):
        return objects(x, lambda z: flint.acb(z.real, z.imag)) if x.dtype.kind == "c" else objects(x, flint.arb)
    radii = np.where(np.isfinite(x), radius, 0.0)
    if x.dtype.kind == "c":
        return objects(x, lambda value, r: flint.acb(flint.arb(value.real, r), flint.arb(value.imag, r)), radii)
    return objects(x, flint.arb, radii)


def rounded(x: Balls) -> np.ndarray:
    """Midpoints in float64 or complex128."""
    if x.dtype != object:
        return x
    numbers = [complex(value.mid()) if is_complex(value) else float(value.mid()) for value in x.ravel()]
    return np.array(numbers, np.complex128 if any(isinstance(n, complex) for n in numbers) else float).reshape(x.shape)


def objects(x: np.ndarray, make: Callable[..., Any], *more: np.ndarray) -> np.ndarray:
    """Of each entry, and of the same one of the other arrays."""
    out = np.empty(x.size, object)
    out[:] = list(map(make, x.ravel().tolist(), *(y.ravel().tolist() for y in more)))
    return out.reshape(x.shape)


def map_balls(f: Callable[..., Any], *xs: Balls) -> Balls:
    out = np.frompyfunc(f, len(xs), 1)(*xs)
    if isinstance(out, np.ndarray):
        return out
    held = np.empty((), object)
    held[()] = out
    return held


def compared(a: Any, b: Any) -> int | None:
    """−1, 0 or 1; None for a NaN, as IEEE's comparisons are all false there."""
    if a is b:
        return None if a.is_nan() else 0
    if a < b:
        return -1
    if a > b:
        return 1
    if a.is_nan() or b.is_nan():
        return None
    if a.is_exact() and b.is_exact() and a == b:
        return 0
    raise Open("a comparison")


def is_complex(x: Any) -> bool:
    return isinstance(x, python_flint().acb)


def conjugate(x: Any) -> Any:
    return x.conjugate() if is_complex(x) else x


SMALL_PRODUCT = 512
"""Products up to which NumPy's loop over objects is as fast as `arb_mat`."""


def matmul(a: Balls, b: Balls) -> Balls:
    (m, k), n = a.shape, b.shape[1]
    if not m * n:
        return np.empty((m, n), object)
    if not k:
        return lift(np.zeros((m, n)))
    if m * k * n <= SMALL_PRODUCT:
        return a @ b
    flint = python_flint()
    kind = flint.acb_mat if is_complex(a.flat[0]) or is_complex(b.flat[0]) else flint.arb_mat
    product = kind(m, k, list(a.flat)) * kind(k, n, list(b.flat))
    out = np.empty(m * n, object)
    out[:] = product.entries()
    return out.reshape(m, n)

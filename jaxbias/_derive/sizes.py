"""Numbers of a trace as the code has them: sizes of arguments, which change when the arguments have other sizes, and
constants with all their digits, which a trace in float32 has rounded."""

import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import jax
import numpy as np

from jaxbias import _jaxpr
from jaxbias.symbols import expressions as ex
from jaxbias.symbols.expressions import Expression

Sizes = dict[tuple[int, int], Callable[[Any], Expression]]
"""(id of a program, number of a constant of it) → its expression in a dtype."""


def sizes_in(
    program: _jaxpr.Program, function: Callable[..., Any], leaves: Sequence[Any], inputs: Sequence[Expression]
) -> Sizes:
    """Constants of the program that are sizes, products of two, their roots or reciprocals.

    Every size above 1 is made larger, equal ones alike and each by another number, so that 4 is not taken for 5 less 1.
    Where the function cannot take that, nothing is known.

    Args:
        program: the trace of the function on these leaves.
        inputs: the arguments by name.
    """
    larger = {n: n + k for k, n in enumerate(sorted({n for leaf in leaves for n in np.shape(leaf) if n > 1}), start=1)}
    other = [jax.ShapeDtypeStruct([larger.get(n, n) for n in np.shape(leaf)], leaf.dtype) for leaf in leaves]
    try:
        second, _ = _jaxpr.trace_inlined(function, *other)
    except Exception:  # the function's own: its shapes do not fit together any more
        return {}
    sizes = [
        (ex.size(x, [-1 if k == x.ndim - 1 and k else k], np.int32), x.shape[k], o.shape[k])
        for x, o in zip(inputs, other)
        for k in range(x.ndim)
        if x.shape[k] > 1
    ]
    known: Sizes = {}
    for place, first_value, second_value in _moving(program, second):
        if (made := _as_size(first_value, second_value, sizes)) is not None:
            known[place] = made
    return known


Digits = dict[tuple[int, int], float]
"""(id of a program, number of a constant of it) → the constant with all its digits."""


def digits_in(program: _jaxpr.Program, function: Callable[..., Any], leaves: Sequence[Any]) -> Digits:
    """Constants that a trace in float32 has rounded, as they are in a trace in float64.

    A number that is short already is one that somebody wrote. Where the two traces differ in their operations, a
    constant is known that only one of the second becomes in float32.
    """
    rounded = {place: float(x) for place, x in _scalars(program) if np.asarray(x).dtype == np.float32}
    rounded = {place: x for place, x in rounded.items() if not is_short(x)}
    if not rounded:
        return {}
    wide = [jax.ShapeDtypeStruct(np.shape(x), "float64" if x.dtype == np.float32 else x.dtype) for x in leaves]
    try:
        with jax.enable_x64(True):
            second, _ = _jaxpr.trace_inlined(function, *wide)
    except Exception:  # the function's own: it takes no float64
        return {}
    if _names(program) == _names(second):
        pairs = zip(_scalars(program), _scalars(second))
        return {
            place: float(y) for (place, x), (_, y) in pairs if place in rounded and math.isclose(x, y, rel_tol=1e-6)
        }
    exact: dict[float, set[float]] = {}
    for _, x in _scalars(second):
        if abs(x) < np.finfo(np.float32).max:
            exact.setdefault(float(np.float32(x)), set()).add(float(x))
    return {place: min(exact[x]) for place, x in rounded.items() if len(exact.get(x, ())) == 1}


def _names(program: _jaxpr.Program) -> list[Any]:
    """Its operations, in order, with those of bodies."""
    return [(e.name, *map(_names, e.bodies)) for e in program.equations] + [len(list(program.constants))]


def is_short(x: Any) -> bool:
    """Whether float32 holds it as so few digits as somebody writes."""
    return not np.isfinite(x) or len(str(np.float32(x)).strip("-0.").replace(".", "").partition("e")[0]) <= 5


def _scalars(program: _jaxpr.Program) -> Iterator[tuple[tuple[int, int], Any]]:
    """Constants that are single floating-point numbers, those of bodies too, with their places."""
    for number, x in program.constants.items():
        if not hasattr(getattr(x, "dtype", None), "_rules") and np.ndim(x) == 0 and np.asarray(x).dtype.kind == "f":
            yield (id(program), number), x
    for equation in program.equations:
        for body in equation.bodies:
            yield from _scalars(body)


def _moving(a: _jaxpr.Program, b: _jaxpr.Program) -> Iterator[tuple[tuple[int, int], float, float]]:
    """Scalar constants that differ between two traces of one function."""
    if [e.name for e in a.equations] != [e.name for e in b.equations]:
        return
    for (number, x), y in zip(a.constants.items(), b.constants.values()):
        keys = any(hasattr(getattr(held, "dtype", None), "_rules") for held in (x, y))
        if not keys and np.ndim(x) == np.ndim(y) == 0 and np.asarray(x).dtype.kind in "fiu" and x != y:
            yield (id(a), number), float(x), float(y)
    for first, second in zip(a.equations, b.equations):
        for body, other in zip(first.bodies, second.bodies):
            yield from _moving(body, other)


_OF_A_SIZE: tuple[tuple[Callable[[float], float], Callable[[Expression], Expression]], ...] = (
    (lambda n: n, lambda x: x),
    (lambda n: 1 / n, lambda x: ex.divide(ex.number(1, x.dtype), x)),
    (lambda n: n**0.5, lambda x: ex.apply("jnp.sqrt", x)),
    (lambda n: n**-0.5, lambda x: ex.power(x, -0.5)),
    (lambda n: n - 1, lambda x: ex.subtract(x, ex.number(1, x.dtype))),
)
"""What becomes of a size: as numbers, and as expressions; the simplest first."""


def _as_size(first: float, second: float, sizes: Sequence[Any]) -> Callable[[Any], Expression] | None:
    """The expression that is the first number at the first sizes and the second at the others."""
    same = lambda x, y: math.isclose(x, first, rel_tol=1e-6) and math.isclose(y, second, rel_tol=1e-6)
    retyped = lambda x, dtype: ex.size(x.args[0], x.detail, dtype)
    for of, write in _OF_A_SIZE:
        for x, n, m in sizes:
            if same(of(n), of(m)):
                return lambda dtype, x=x, write=write: write(retyped(x, dtype))
    for x, n, m in sizes:
        for y, k, j in sizes:
            if same(n * k, m * j):
                return lambda dtype, x=x, y=y: ex.multiply(retyped(x, dtype), retyped(y, dtype))
    return None

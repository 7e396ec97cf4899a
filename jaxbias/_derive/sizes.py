"""Numbers of a trace as the code has them: sizes of arguments, which change when the arguments have other sizes, and
constants with all their digits, which a trace in float32 has rounded."""

import itertools
import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np

from jaxbias import _jaxpr
from jaxbias.symbols import expressions as ex
from jaxbias.symbols.expressions import Expression

Sizes = dict[tuple[int, int], Callable[[Any], Expression]]
"""(id of a program, number of a constant of it) → its expression in a dtype."""


class Twin(NamedTuple):
    """The same function on arguments of other sizes, traced to the same operations."""

    leaves: Sequence[Any]
    program: _jaxpr.Program


_APART = (1, 2, 4, 8, 13, 21, 31, 45, 66, 81, 97, 123, 148, 182)
"""Numbers of which no two pairs have the same sum: a size made larger by one is no sum or difference of others."""

_FACTORS = (2, 3, 5, 7, 11, 13)
"""Where heads must divide a width, sizes are multiplied."""

_TRIES = 40
"""Of other sizes."""


def twins_of(
    program: _jaxpr.Program, function: Callable[..., Any], leaves: Sequence[Any]
) -> Iterator[tuple[Twin, Twin]]:
    """The function at two other sizes: every size above 1 larger, equal ones alike and each in another way.

    What comes first is most general; behind it sizes that the function may hold as numbers stay what they are. Nothing
    comes where the function takes no other sizes, or does other things then.
    """
    sizes = sorted({n for leaf in leaves for n in np.shape(leaf) if n > 1})
    for larger in itertools.islice(_ways(sizes), _TRIES):
        made = []
        for order in (sizes, sizes[::-1]):
            new = larger(order)
            if all(n == m for n, m in new.items()):
                break
            shapes = [jax.ShapeDtypeStruct([new.get(n, n) for n in np.shape(leaf)], leaf.dtype) for leaf in leaves]
            try:
                made.append(Twin(shapes, _jaxpr.trace_inlined(function, *shapes)[0]))
            except Exception:  # the function's own: its shapes do not fit together any more
                break
            if _operations(made[-1].program) != _operations(program):
                break
        else:
            yield made[0], made[1]


Larger = dict[int, int]
Relation = tuple[int, Callable[[Larger], int]]
"""A size, and what it becomes when others become larger."""


def _ways(sizes: Sequence[int]) -> Iterator[Callable[[Sequence[int]], Larger]]:
    """`sizes in some order -> {size: larger}`: added to or multiplied; then but for some that follow from others."""
    if not sizes or len(sizes) > len(_APART):
        return
    relations = list(_relations(sizes))
    singly = [(relation,) for relation in relations]
    one_alone = [tuple(_kept(n) for n in sizes if n != free) for free in sizes]
    for follow in ((), *singly, *one_alone, *itertools.combinations(relations, 2)):
        free = lambda order, follow=follow: [n for n in order if n not in {n for n, _ in follow}]
        added = lambda order, free=free: {n: n + k for n, k in zip(free(order), _APART)}
        scaled = lambda order, free=free: {n: n * k for n, k in zip(free(order), _FACTORS)}
        for larger in (added, scaled)[: 1 + (len(sizes) <= len(_FACTORS))]:
            yield lambda order, larger=larger, follow=follow: _with_followers(larger(order), follow)


def _with_followers(larger: Larger, follow: Sequence[Relation]) -> Larger:
    for n, of in sorted(follow, key=lambda relation: relation[0]):
        larger[n] = of(larger)
    return larger


def _relations(sizes: Sequence[int]) -> Iterator[Relation]:
    """Sizes that are multiples, products or sums of others, as those of gates, heads and joined features are, or that
    the function holds as a number."""
    for n in reversed(sizes):
        smaller = [m for m in sizes if m < n]
        for m in reversed(smaller):
            if n % m == 0 and n // m in (2, 3, 4):
                yield n, lambda larger, n=n, m=m: n // m * larger[m]
        for a, b in itertools.combinations(smaller, 2):
            if a * b == n:
                yield n, lambda larger, a=a, b=b: larger[a] * larger[b]
            if a + b == n:
                yield n, lambda larger, a=a, b=b: larger[a] + larger[b]
    yield from map(_kept, sizes)


def _kept(n: int) -> Relation:
    return n, lambda larger: n


def _operations(program: _jaxpr.Program) -> list[Any]:
    """Its operations, in order, with those of bodies."""
    return [(e.name, *map(_operations, e.bodies)) for e in program.equations]


def sizes_in(program: _jaxpr.Program, leaves: Sequence[Any], twin: Twin | None, inputs: Sequence[Expression]) -> Sizes:
    """Constants of the program that are sizes, products of two, their roots or reciprocals.

    Args:
        program: the trace of the function on these leaves.
        inputs: the arguments by name.
    """
    if twin is None:
        return {}
    sizes = [
        (ex.size(x, [-1 if k == x.ndim - 1 and k else k], np.int32), x.shape[k], o.shape[k])
        for x, o in zip(inputs, twin.leaves)
        for k in range(x.ndim)
        if x.shape[k] > 1
    ]
    known: Sizes = {}
    for place, first_value, second_value in _moving(program, twin.program):
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
    """Scalar constants that differ between two traces of one function that have the same operations."""
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

"""Expressions over arrays, in NumPy's vocabulary: what a forward computes, and what its backward pass has to.

Two expressions that are alike are one object, so a part that occurs twice is known to. The constructors simplify what
every reader would: factors of 1, double negation, sums of what does not vary, numbers of numbers. Operands of
elementwise functions may have fewer or unit axes, as NumPy broadcasts them; `spread` stands for a broadcast that no
operand brings about by itself.
"""

import math
import operator
import weakref
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

Shape = tuple[int, ...]


@dataclass(frozen=True, eq=False)
class Expression:
    """A value.

    Attributes:
        op: what it is: "name", "number", "size", "add", "mul", "power", "apply", "total", …
        args: the expressions that it is made of.
        detail: what else there is to say, by op: the name, the number, the axes.
        shape, dtype: of the array.
    """

    op: str
    args: tuple["Expression", ...]
    detail: Any
    shape: Shape
    dtype: Any

    @property
    def ndim(self) -> int:
        return len(self.shape)


_INTERNED: weakref.WeakValueDictionary[Any, Expression] = weakref.WeakValueDictionary()


def make(op: str, args: Sequence[Expression], detail: Any, shape: Sequence[int], dtype: Any) -> Expression:
    """The one expression that is this; `detail` must be hashable."""
    args, shape, dtype = tuple(args), tuple(shape), np.dtype(dtype) if not hasattr(dtype, "_rules") else dtype
    key = (op, tuple(map(id, args)), repr(detail), detail, shape, str(dtype))  # 0.0 and -0.0 are not the same
    if (known := _INTERNED.get(key)) is None:
        known = _INTERNED[key] = Expression(op, args, detail, shape, dtype)
    return known


# --- leaves -----------------------------------------------------------------------------------------------------------


def name(text: str, shape: Sequence[int], dtype: Any) -> Expression:
    """A variable."""
    return make("name", (), text, shape, dtype)


def number(value: Any, dtype: Any) -> Expression:
    """A scalar."""
    return make("number", (), value, (), dtype)


def size(of: Expression, axes: Sequence[int], dtype: Any) -> Expression:
    """How many entries `of` has along these axes, as a number of this dtype that is not written out."""
    axes = tuple(axes)
    return make("size", (of,), axes, (), dtype) if axes else number(1, dtype)


def value_of(x: Expression) -> Any:
    """The number that a number or a size is, None for all else."""
    if x.op == "number":
        return x.detail
    if x.op == "size":
        return math.prod(x.args[0].shape[axis] for axis in x.detail)
    if x.op == "mul" and not x.shape:
        a, b = map(value_of, x.args)
        return None if a is None or b is None else a * b
    return None


def is_inexact(x: Expression) -> bool:
    """Whether it holds real or complex floats, and so has an error signal; keys of random numbers hold none."""
    if hasattr(x.dtype, "_rules"):
        return False
    return np.issubdtype(x.dtype, np.inexact) or str(x.dtype) == "bfloat16"


def is_zero(x: Expression) -> bool:
    return (x.op == "number" and x.detail == 0) or (x.op == "spread" and is_zero(x.args[0]))


def zeros(like: Expression) -> Expression:
    return spread(number(0, like.dtype), like.shape)


# --- elementwise ------------------------------------------------------------------------------------------------------


def bare(x: Expression) -> Expression:
    """Without a broadcast that an elementwise function brings about by itself."""
    return x.args[0] if x.op == "spread" else x


def elementwise(op: str, args: Sequence[Expression], detail: Any, dtype: Any) -> Expression:
    """An elementwise function; where its operands were broadcast together, so is the result."""
    shape = np.broadcast_shapes(*(x.shape for x in args))
    args = [bare(x) for x in args]
    inner = np.broadcast_shapes(*(x.shape for x in args))
    return spread(make(op, args, detail, inner, dtype), shape)


def spread(x: Expression, shape: Sequence[int]) -> Expression:
    """x broadcast to a shape, as NumPy does it: axes in front, and unit axes repeated."""
    shape = tuple(shape)
    x = bare(x)
    return x if x.shape == shape else make("spread", (x,), None, shape, x.dtype)


def negative(x: Expression) -> Expression:
    core = bare(x)
    if core.op == "number":
        return spread(number(-core.detail, core.dtype), x.shape)
    if core.op == "negative":
        return spread(core.args[0], x.shape)
    if core.op == "add" and core.args[1].op == "negative":
        return spread(subtract(core.args[1].args[0], core.args[0]), x.shape)
    if core.op in ("mul", "div"):
        first, second = core.args
        if first.op == "negative" or first.op == "number":
            return spread(elementwise(core.op, (negative(first), second), None, core.dtype), x.shape)
    return elementwise("negative", (x,), None, x.dtype)


def add(a: Expression, b: Expression) -> Expression:
    shape = np.broadcast_shapes(a.shape, b.shape)
    if is_zero(a):
        return spread(b, shape)
    if is_zero(b):
        return spread(a, shape)
    x, y = bare(a), bare(b)
    if x.op == y.op == "number" and (folded := _exact(x.detail + y.detail, number(3, x.dtype))) is not None:
        return spread(folded, shape)
    if x is y:
        return spread(multiply(number(2, x.dtype), x), shape)
    if x.op == "negative" and y.op != "negative":
        x, y = y, x
    return spread(elementwise("add", (x, y), None, a.dtype), shape)


def subtract(a: Expression, b: Expression) -> Expression:
    if bare(a) is bare(b):
        return spread(number(0, a.dtype), np.broadcast_shapes(a.shape, b.shape))
    if is_zero(b):
        return spread(a, np.broadcast_shapes(a.shape, b.shape))
    return add(a, negative(b)) if not is_zero(a) else spread(negative(b), np.broadcast_shapes(a.shape, b.shape))


def multiply(a: Expression, b: Expression) -> Expression:
    shape = np.broadcast_shapes(a.shape, b.shape)
    x, y = bare(a), bare(b)
    if is_zero(x) or is_zero(y):
        return spread(number(0, a.dtype), shape)
    if x.op == y.op == "number" and (folded := _exact(x.detail * y.detail, x, y)) is not None:
        return spread(folded, shape)
    if y.op == "number" and x.op != "number":
        x, y = y, x
    if x.op == "number" and x.detail == 1:
        return spread(y, shape)
    if x.op == "number" and x.detail == -1:
        return spread(negative(y), shape)
    for first, second in ((x, y), (y, x)):
        if first.op == "negative":
            return spread(negative(multiply(first.args[0], second)), shape)
    if x is y:
        return spread(power(x, 2), shape)
    for first, second in ((x, y), (y, x)):
        if second.op == "mul" and second.args[0].op == "number":  # numbers in front
            coefficient, rest = second.args
            if first.op == "number":
                folded = _exact(first.detail * coefficient.detail, first, coefficient)
                if folded is None:
                    continue
                return spread(multiply(folded, rest), shape)
            return spread(multiply(coefficient, multiply(first, rest) if second is y else multiply(rest, first)), shape)
        if second.op == "power" and second.args[0] is first and isinstance(second.detail, int) and second.detail > 0:
            return spread(power(first, second.detail + 1), shape)
        if first.op == "number" and second.op == "div" and second.args[0].op == "number":
            return spread(divide(multiply(first, second.args[0]), second.args[1]), shape)
    return spread(elementwise("mul", (x, y), None, a.dtype), shape)


def _exact(value: Any, *of: Expression) -> Expression | None:
    """The number, where its dtype holds it as it is: two roundings would make another number than one."""
    dtype = of[0].dtype
    kept = np.asarray(value, dtype).item() == value and abs(value) < 2**24
    scaled = any(isinstance(x.detail, float | int) and math.frexp(x.detail)[0] in (0.5, -0.5) for x in of)
    return number(value, dtype) if kept or scaled else None


def divide(a: Expression, b: Expression) -> Expression:
    shape = np.broadcast_shapes(a.shape, b.shape)
    x, y = bare(a), bare(b)
    if is_zero(x):
        return spread(number(0, a.dtype), shape)
    if y.op == "number" and y.detail == 1:
        return spread(x, shape)
    if x.op == "negative":
        return spread(negative(divide(x.args[0], y)), shape)
    if x is y:
        return spread(number(1, x.dtype), shape)
    return spread(elementwise("div", (x, y), None, a.dtype), shape)


def power(x: Expression, exponent: int | float) -> Expression:
    """x to a number."""
    core = bare(x)
    if exponent == 1:
        return x
    if exponent == 0:
        return spread(number(1, x.dtype), x.shape)
    if core.op == "negative" and exponent == 2:
        core = core.args[0]
    return spread(elementwise("power", (core,), exponent, x.dtype), x.shape)


def apply(function: str, *args: Expression, dtype: Any = None) -> Expression:
    """An elementwise function by its name in Python, "jnp.tanh"."""
    return elementwise("apply", args, function, args[0].dtype if dtype is None else dtype)


_SIGNS = {
    ">": operator.gt,
    ">=": operator.ge,
    "<": operator.lt,
    "<=": operator.le,
    "==": operator.eq,
    "!=": operator.ne,
}


def compare(sign: str, a: Expression, b: Expression) -> Expression:
    """a < b and the like; of two numbers what it is."""
    x, y = value_of(bare(a)), value_of(bare(b))
    if x is not None and y is not None:
        return spread(number(_SIGNS[sign](x, y), np.bool_), np.broadcast_shapes(a.shape, b.shape))
    return elementwise("compare", (a, b), sign, np.bool_)


def where(condition: Expression, a: Expression, b: Expression) -> Expression:
    shape = np.broadcast_shapes(condition.shape, a.shape, b.shape)
    if bare(condition).op == "number":
        return spread(a if bare(condition).detail else b, shape)
    if is_zero(a) and is_zero(b) and a.dtype != np.bool_:
        return spread(number(0, a.dtype), shape)
    yes, no = bare(a), bare(b)
    if yes.op == no.op == "number" and yes.dtype == np.bool_ and (yes.detail, no.detail) == (True, False):
        return spread(condition, shape)
    return spread(elementwise("where", (condition, a, b), None, a.dtype), shape)


def cast(x: Expression, dtype: Any) -> Expression:
    core = bare(x)
    if core.dtype == dtype:
        return x
    if core.op == "number" and core.dtype != np.bool_:
        kind = np.dtype(dtype).kind
        return spread(number(core.detail if kind not in "iu" else int(core.detail), dtype), x.shape)
    if core.op == "size":
        return spread(size(core.args[0], core.detail, dtype), x.shape)
    return spread(elementwise("cast", (core,), str(np.dtype(dtype)), dtype), x.shape)


# --- layout -----------------------------------------------------------------------------------------------------------


def expand(x: Expression, axes: Sequence[int]) -> Expression:
    """Unit axes put in, which then stand at these places."""
    axes = tuple(sorted(axes))
    if not axes:
        return x
    if x.op in ("number", "size"):
        return spread(x, (1,) * len(axes))
    shape = list(x.shape)
    for axis in axes:
        shape.insert(axis, 1)
    if x.op == "spread" and x.args[0].ndim == 0:
        return spread(x.args[0], shape)
    if x.op == "negative":
        return negative(expand(x.args[0], axes))
    if x.op == "drop" and x.detail == axes:
        return x.args[0]
    if x.op in ("mul", "div") and x.args[0].op == "number":
        return make_scaled(x, expand(x.args[1], axes))
    if x.op == "div" and x.args[1].op == "number":
        return divide(expand(x.args[0], axes), x.args[1])
    if axes == tuple(range(len(axes))):
        return spread(x, shape)  # in front: NumPy does it by itself
    if x.op == "spread":
        inner, lead = x.args[0], x.ndim - x.args[0].ndim
        kept = [axis - lead for axis in axes if axis >= lead]
        if all(axis > lead for axis in axes) or inner.ndim == x.ndim:
            return spread(expand(inner, kept), shape)
    if x.op == "expand":
        inner, before = x.args[0], list(x.detail)
        places = [k for k in range(len(shape)) if k not in axes]
        return expand(inner, [*axes, *(places[k] for k in before)])
    return make("expand", (x,), axes, shape, x.dtype)


def drop(x: Expression, axes: Sequence[int]) -> Expression:
    """Unit axes taken away."""
    axes = tuple(sorted(axes))
    if not axes:
        return x
    shape = [n for k, n in enumerate(x.shape) if k not in axes]
    if x.op == "negative":
        return negative(drop(x.args[0], axes))
    if x.op in ("mul", "div") and x.args[0].op == "number":
        return make_scaled(x, drop(spread(x.args[1], x.shape), axes))
    if x.op == "div" and x.args[1].op == "number":
        return divide(drop(spread(x.args[0], x.shape), axes), x.args[1])
    if x.op == "spread":
        inner, lead = x.args[0], x.ndim - x.args[0].ndim
        return spread(drop(inner, [axis - lead for axis in axes if axis >= lead]), shape)
    if x.op == "part":
        free = [k for k, p in enumerate(x.detail) if isinstance(p, tuple)]
        taken = {free[axis] for axis in axes}
        return part(x.args[0], [p[0] if k in taken else p for k, p in enumerate(x.detail)])
    if x.op == "expand" and set(axes) <= set(x.detail):
        rest = [k for k in x.detail if k not in axes]
        return expand(x.args[0], [k - sum(axis < k for axis in axes) for k in rest])
    return make("drop", (x,), axes, shape, x.dtype)


def make_scaled(x: Expression, rest: Expression) -> Expression:
    """A number times, or over, something else than in x."""
    return multiply(x.args[0], rest) if x.op == "mul" else divide(x.args[0], rest)


def reshape(x: Expression, shape: Sequence[int]) -> Expression:
    shape = tuple(shape)
    if x.shape == shape:
        return x
    if x.op == "spread" and x.args[0].ndim == 0:
        return spread(x.args[0], shape)
    kept = [n for n in x.shape if n != 1]
    if kept == [n for n in shape if n != 1]:  # unit axes come and go
        flat = drop(x, [k for k, n in enumerate(x.shape) if n == 1])
        return expand(flat, [k for k, n in enumerate(shape) if n == 1])
    if x.op == "reshape":
        return reshape(x.args[0], shape)
    return make("reshape", (x,), shape, shape, x.dtype)


def part(x: Expression, places: Sequence[Any]) -> Expression:
    """x[places]: for each axis an index, or (start, stop, step)."""
    places = tuple(places)
    if all(p == (0, n, 1) for p, n in zip(places, x.shape)):
        return x
    shape = [len(range(*p)) for p in places if isinstance(p, tuple)]
    if x.op == "spread" and len(shape) == x.ndim:
        core, lead = x.args[0], x.ndim - x.args[0].ndim
        alike = [k < lead or (core.shape[k - lead] == 1 and x.shape[k] != 1) for k in range(x.ndim)]
        if all(same or p == (0, n, 1) for same, p, n in zip(alike, places, x.shape)):
            return spread(core, shape)  # it does not vary there
    return make("part", (x,), places, shape, x.dtype)


def placed(x: Expression, places: Sequence[Any], like: Expression) -> Expression:
    """Zeros in the shape of `like`, with x at these places."""
    places = list(places)
    if x.op == "expand":  # one entry of an axis: by its index
        ones = [k for k, p in enumerate(places) if isinstance(p, tuple)]
        single = [ones[axis] for axis in x.detail]
        if all(len(range(*places[k])) == 1 for k in single):
            for k in single:
                places[k] = places[k][0]
            x = x.args[0]
    return make("placed", (like, x), tuple(places), like.shape, x.dtype)


def transpose(x: Expression, order: Sequence[int]) -> Expression:
    order = tuple(order)
    if order == tuple(range(len(order))):
        return x
    shape = [x.shape[k] for k in order]
    if x.op == "transpose":
        return transpose(x.args[0], [x.detail[k] for k in order])
    if x.op == "spread" and x.args[0].ndim == 0:
        return spread(x.args[0], shape)
    if x.op == "contract" and x.ndim == 2 and not x.detail[1][0] and x.args[0].ndim == x.args[1].ndim <= 2:
        (contracted, batch), (a, b) = x.detail, x.args
        return contract(b, a, contracted[::-1], batch[::-1], x.dtype)
    return make("transpose", (x,), order, shape, x.dtype)


# --- sums and products ------------------------------------------------------------------------------------------------


def total(x: Expression, axes: Sequence[int]) -> Expression:
    """Σ over axes, which are gone."""
    axes = tuple(sorted(axes))
    if not axes:
        return x
    shape = [n for k, n in enumerate(x.shape) if k not in axes]
    if is_zero(x):
        return spread(number(0, x.dtype), shape)
    core = bare(x)
    lead = x.ndim - core.ndim
    alike = [k for k in axes if k < lead or (core.shape[k - lead] == 1 and x.shape[k] != 1)]
    if alike:  # it does not vary there
        count = number(math.prod(x.shape[k] for k in alike), x.dtype)
        rest = drop(core, [k - lead for k in alike if k >= lead]) if core.ndim else core
        left = [n for k, n in enumerate(x.shape) if k not in alike]
        moved = [k - sum(j < k for j in alike) for k in axes if k not in alike]
        return multiply(count, total(spread(rest, left), moved))
    if any(x.shape[k] == 1 for k in axes) and x.op != "spread":
        ones = [k for k in axes if x.shape[k] == 1]
        moved = [k - sum(j < k for j in ones) for k in axes if k not in ones]
        return total(drop(x, ones), moved)
    if core.op == "negative":
        return negative(total(spread(core.args[0], x.shape), axes))
    if core.op in ("mul", "div"):
        first, second = core.args
        for factor, rest, usable in ((first, second, core.op == "mul"), (second, first, True)):
            if usable and not _varies(factor, axes, x.ndim):
                outer = drop(_padded(factor, x.ndim), axes)
                inner = total(spread(rest, x.shape), axes)
                return multiply(outer, inner) if core.op == "mul" else divide(inner, outer)
    if core.op == "total" and not lead:
        places = [k for k in range(core.args[0].ndim) if k not in core.detail]
        return total(core.args[0], [*core.detail, *(places[k] for k in axes)])
    return make("total", (x,), axes, shape, x.dtype)


def _varies(x: Expression, axes: Sequence[int], ndim: int) -> bool:
    """Whether x, an operand of an array of so many axes, has entries along any of them."""
    lead = ndim - x.ndim
    return any(k >= lead and x.shape[k - lead] != 1 for k in axes)


def _padded(x: Expression, ndim: int) -> Expression:
    return spread(x, (*(1,) * (ndim - x.ndim), *x.shape))


def contract(
    a: Expression,
    b: Expression,
    contracted: tuple[Sequence[int], Sequence[int]],
    batch: tuple[Sequence[int], Sequence[int]],
    dtype: Any,
) -> Expression:
    """The products of `lax.dot_general`: batch axes first, then the free ones of a, then those of b."""
    if is_zero(a) or is_zero(b):
        free = [
            [n for k, n in enumerate(x.shape) if k not in (*batch[i], *contracted[i])] for i, x in enumerate((a, b))
        ]
        return spread(number(0, dtype), (*(a.shape[k] for k in batch[0]), *free[0], *free[1]))
    a, contracted, batch = _straightened(a, 0, contracted, batch)
    b, contracted, batch = _straightened(b, 1, contracted, batch)
    detail = tuple(tuple(tuple(int(k) for k in part) for part in pair) for pair in (contracted, batch))
    taken = [(*detail[1][k], *detail[0][k]) for k in range(2)]
    free = [[n for k, n in enumerate(x.shape) if k not in taken[i]] for i, x in enumerate((a, b))]
    shape = (*(a.shape[k] for k in detail[1][0]), *free[0], *free[1])
    return make("contract", (a, b), detail, shape, dtype)


def _straightened(x: Expression, which: int, contracted: Any, batch: Any) -> tuple[Expression, Any, Any]:
    """An operand of a product without a transpose, where its free axes stay in order: the product names the axes."""
    if x.op != "transpose":
        return x, contracted, batch
    taken = {*contracted[which], *batch[which]}
    free = [x.detail[k] for k in range(x.ndim) if k not in taken]
    if free != sorted(free):
        return x, contracted, batch
    moved = lambda pair: tuple(tuple(x.detail[k] for k in p) if i == which else tuple(p) for i, p in enumerate(pair))
    return x.args[0], moved(contracted), moved(batch)


def call(template: str, args: Sequence[Expression], shape: Sequence[int], dtype: Any) -> Expression:
    """Anything else, as Python with {0}, {1} … in the place of its arguments."""
    return make("call", args, template, shape, dtype)

"""What each primitive is in NumPy's words, and what its error signal is worth to each of its operands.

A rule has two halves. `read(equation, args)` is the expression of the output, `pull(equation, args, out, delta)` the
error signals of the operands, None for one that has none. A primitive without a rule is carried out by JAX, and said
to be.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from jaxbias import _jaxpr
from jaxbias.symbols import expressions as ex
from jaxbias.symbols.expressions import Expression

Args = Sequence[Expression]
Pulled = Sequence[Expression | None]


@dataclass(frozen=True)
class Rule:
    """Both halves of a primitive."""

    read: Callable[[_jaxpr.Equation, Args], Expression]
    pull: Callable[[_jaxpr.Equation, Args, Expression, Expression], Pulled]


RULES: dict[str, Rule] = {}


class NoRule(Exception):
    """This use of a primitive has no rule here."""


def _shape(equation: _jaxpr.Equation) -> tuple[int, ...]:
    return equation.shapes.outputs[0]


# --- elementwise ------------------------------------------------------------------------------------------------------


def _num(value: Any, like: Expression) -> Expression:
    return ex.number(value, like.dtype)


def _named(x: Expression) -> bool:
    return ex.bare(x).op == "name"


UNARY: dict[str, tuple[str, Callable[[Expression, Expression, Expression], Expression]]] = {
    # primitive: (its name in Python, δ from (x, out, δ))
    "tanh": ("jnp.tanh", lambda x, out, d: ex.multiply(d, ex.subtract(_num(1, x), ex.power(out, 2)))),
    "exp": ("jnp.exp", lambda x, out, d: ex.multiply(d, out)),
    "exp2": ("jnp.exp2", lambda x, out, d: ex.multiply(ex.multiply(_num(math.log(2), x), d), out)),
    "log": ("jnp.log", lambda x, out, d: ex.divide(d, x)),
    "log1p": ("jnp.log1p", lambda x, out, d: ex.divide(d, ex.add(_num(1, x), x))),
    "expm1": ("jnp.expm1", lambda x, out, d: ex.multiply(d, ex.add(out, _num(1, x)))),
    "sin": ("jnp.sin", lambda x, out, d: ex.multiply(d, ex.apply("jnp.cos", x))),
    "cos": ("jnp.cos", lambda x, out, d: ex.negative(ex.multiply(d, ex.apply("jnp.sin", x)))),
    "tan": ("jnp.tan", lambda x, out, d: ex.multiply(d, ex.add(_num(1, x), ex.power(out, 2)))),
    "sinh": ("jnp.sinh", lambda x, out, d: ex.multiply(d, ex.apply("jnp.cosh", x))),
    "cosh": ("jnp.cosh", lambda x, out, d: ex.multiply(d, ex.apply("jnp.sinh", x))),
    "asin": ("jnp.arcsin", lambda x, out, d: ex.divide(d, _root(ex.subtract(_num(1, x), ex.power(x, 2))))),
    "acos": ("jnp.arccos", lambda x, out, d: ex.negative(
        ex.divide(d, _root(ex.subtract(_num(1, x), ex.power(x, 2)))))),
    "atan": ("jnp.arctan", lambda x, out, d: ex.divide(d, ex.add(_num(1, x), ex.power(x, 2)))),
    "asinh": ("jnp.arcsinh", lambda x, out, d: ex.divide(d, _root(ex.add(ex.power(x, 2), _num(1, x))))),
    "acosh": ("jnp.arccosh", lambda x, out, d: ex.divide(d, _root(ex.subtract(ex.power(x, 2), _num(1, x))))),
    "atanh": ("jnp.arctanh", lambda x, out, d: ex.divide(d, ex.subtract(_num(1, x), ex.power(x, 2)))),
    "logistic": ("jax.nn.sigmoid",
                 lambda x, out, d: ex.multiply(ex.multiply(d, out), ex.subtract(_num(1, x), out))),
    "sqrt": ("jnp.sqrt", lambda x, out, d: ex.divide(d, ex.multiply(_num(2, x), out))),
    "rsqrt": ("jax.lax.rsqrt", lambda x, out, d: ex.multiply(ex.multiply(_num(-0.5, x), d), ex.power(out, 3))),
    "cbrt": ("jnp.cbrt", lambda x, out, d: ex.divide(d, ex.multiply(_num(3, x), ex.power(out, 2)))),
    "abs": ("jnp.abs", lambda x, out, d: ex.multiply(d, ex.apply("jnp.sign", x))),
    "erf": ("jax.scipy.special.erf", lambda x, out, d: ex.multiply(
        ex.multiply(_num(2 / math.sqrt(math.pi), x), d), ex.apply("jnp.exp", ex.negative(ex.power(x, 2))))),
    "erfc": ("jax.scipy.special.erfc", lambda x, out, d: ex.multiply(
        ex.multiply(_num(-2 / math.sqrt(math.pi), x), d), ex.apply("jnp.exp", ex.negative(ex.power(x, 2))))),
    "lgamma": ("jax.scipy.special.gammaln",
               lambda x, out, d: ex.multiply(d, ex.apply("jax.scipy.special.digamma", x))),
    "digamma": ("jax.scipy.special.digamma",
                lambda x, out, d: ex.multiply(
                    d, ex.call("jax.scipy.special.polygamma(1, {0})", [x], x.shape, x.dtype))),
    "relu": ("jax.nn.relu", lambda x, out, d: ex.where(ex.compare(">", x, _num(0, x)), d, _num(0, x))),
    "softplus": ("jax.nn.softplus", lambda x, out, d: ex.multiply(d, ex.apply("jax.nn.sigmoid", x))),
}  # fmt: skip

STEPS = {
    "sign": "jnp.sign",
    "floor": "jnp.floor",
    "ceil": "jnp.ceil",
    "round": "jnp.round",
    "is_finite": "jnp.isfinite",
}
"""Functions whose derivative is 0."""

COMPARISONS = {"gt": ">", "ge": ">=", "lt": "<", "le": "<=", "eq": "==", "ne": "!="}
BITWISE = {"and": "&", "or": "|", "xor": "^", "not": "~"}


def _root(x: Expression) -> Expression:
    return ex.apply("jnp.sqrt", x)


def _unary(function: str, slope: Callable[[Expression, Expression, Expression], Expression]) -> Rule:
    return Rule(lambda eq, args: ex.apply(function, args[0]), lambda eq, args, out, d: [slope(args[0], out, d)])


for _name, (_function, _slope) in UNARY.items():
    RULES[_name] = _unary(_function, _slope)
for _name, _function in STEPS.items():
    RULES[_name] = Rule(
        lambda eq, args, function=_function: ex.apply(function, args[0], dtype=eq.dtypes.outputs[0]),
        lambda eq, args, out, d: [None],
    )
for _name, _sign in COMPARISONS.items():
    RULES[_name] = Rule(
        lambda eq, args, sign=_sign: ex.compare(sign, *args), lambda eq, args, out, d: [None] * len(args)
    )
for _name, _sign in BITWISE.items():
    RULES[_name] = Rule(lambda eq, args, sign=_sign: ex.apply(sign, *args), lambda eq, args, out, d: [None] * len(args))


def rule(*names: str) -> Callable[[type], type]:
    """Register a class with `read` and `pull` for these primitives."""

    def register(made: type) -> type:
        for name in names:
            RULES[name] = Rule(made.read, made.pull)  # type: ignore[attr-defined]
        return made

    return register


@rule("add", "add_any")
class _Add:
    read = staticmethod(lambda eq, args: ex.add(*args))
    pull = staticmethod(lambda eq, args, out, d: [d, d])


@rule("sub")
class _Sub:
    read = staticmethod(lambda eq, args: ex.subtract(*args))
    pull = staticmethod(lambda eq, args, out, d: [d, ex.negative(d)])


@rule("neg")
class _Neg:
    read = staticmethod(lambda eq, args: ex.negative(args[0]))
    pull = staticmethod(lambda eq, args, out, d: [ex.negative(d)])


@rule("mul")
class _Mul:
    read = staticmethod(lambda eq, args: ex.multiply(*args))
    pull = staticmethod(lambda eq, args, out, d: [ex.multiply(d, args[1]), ex.multiply(d, args[0])])


@rule("div")
class _Div:
    @staticmethod
    def read(eq, args):
        return ex.divide(*args)

    @staticmethod
    def pull(eq, args, out, d):
        a, b = args
        if _named(out):  # out = a / b
            return [ex.divide(d, b), ex.negative(ex.divide(ex.multiply(d, out), b))]
        return [ex.divide(d, b), ex.negative(ex.divide(ex.multiply(d, a), ex.power(b, 2)))]


@rule("integer_pow")
class _IntegerPow:
    read = staticmethod(lambda eq, args: ex.power(args[0], eq.params["y"]))

    @staticmethod
    def pull(eq, args, out, d):
        x, y = args[0], eq.params["y"]
        return [ex.multiply(ex.multiply(_num(y, x), d), ex.power(x, y - 1))]


@rule("square")
class _Square:
    read = staticmethod(lambda eq, args: ex.power(args[0], 2))
    pull = staticmethod(lambda eq, args, out, d: [ex.multiply(ex.multiply(_num(2, args[0]), d), args[0])])


@rule("pow")
class _Pow:
    @staticmethod
    def read(eq, args):
        exponent = ex.value_of(ex.bare(args[1]))
        if args[1].op != "size" and exponent is not None:
            return ex.spread(ex.power(args[0], float(exponent)), _shape(eq))
        return ex.apply("jnp.power", *args)

    @staticmethod
    def pull(eq, args, out, d):
        x, y = args
        exponent = ex.value_of(ex.bare(y))
        if exponent is not None:
            exponent = float(exponent)
            return [ex.multiply(ex.multiply(_num(exponent, x), d), ex.power(x, exponent - 1)), None]
        slope = ex.multiply(y, ex.apply("jnp.power", x, ex.subtract(y, _num(1, y))))
        return [ex.multiply(d, slope), ex.multiply(ex.multiply(d, out), ex.apply("jnp.log", x))]


@rule("max", "min")
class _Max:
    @staticmethod
    def read(eq, args):
        for a, b in (args, args[::-1]):
            limit = ex.value_of(ex.bare(a))
            if limit is not None and limit == (-math.inf if eq.name == "max" else math.inf):
                return b
        return ex.apply("jnp.maximum" if eq.name == "max" else "jnp.minimum", *args)

    @staticmethod
    def pull(eq, args, out, d):
        """Half to each where they are equal, as JAX has it; a number takes none."""
        a, b = args
        sign = ">" if eq.name == "max" else "<"
        if out is a or out is b:
            return [d if out is x else None for x in args]
        zero, half = _num(0, out), ex.multiply(_num(0.5, out), d)

        def share(mine, other):
            tied = ex.where(ex.compare("==", mine, other), half, zero)
            return ex.where(ex.compare(sign, mine, other), d, tied)

        return [None if ex.value_of(ex.bare(x)) is not None else share(x, y) for x, y in ((a, b), (b, a))]


@rule("clamp")
class _Clamp:
    @staticmethod
    def read(eq, args):
        low, x, high = args
        return ex.apply("jnp.clip", x, low, high)

    @staticmethod
    def pull(eq, args, out, d):
        low, x, high = args
        inside = ex.apply("&", ex.compare(">", x, low), ex.compare("<", x, high), dtype=np.bool_)
        return [None, ex.where(inside, d, _num(0, x)), None]


@rule("select_n")
class _Select:
    @staticmethod
    def read(eq, args):
        if len(args) != 3 or args[0].dtype != np.bool_:
            raise NoRule
        return ex.where(args[0], args[2], args[1])

    @staticmethod
    def pull(eq, args, out, d):
        condition, no, yes = args
        zero = _num(0, out)
        return [None, ex.where(condition, zero, d), ex.where(condition, d, zero)]


@rule("atan2")
class _Atan2:
    read = staticmethod(lambda eq, args: ex.apply("jnp.arctan2", *args))

    @staticmethod
    def pull(eq, args, out, d):
        y, x = args
        square = ex.add(ex.power(x, 2), ex.power(y, 2))
        return [ex.divide(ex.multiply(d, x), square), ex.negative(ex.divide(ex.multiply(d, y), square))]


@rule("nextafter", "rem", "shift_left", "shift_right_logical", "shift_right_arithmetic")
class _NoRule:
    @staticmethod
    def read(eq, args):
        raise NoRule

    pull = read


@rule("convert_element_type", "reduce_precision")
class _Convert:
    read = staticmethod(lambda eq, args: ex.cast(args[0], eq.dtypes.outputs[0]))

    @staticmethod
    def pull(eq, args, out, d):
        return [ex.cast(d, args[0].dtype) if np.issubdtype(args[0].dtype, np.inexact) or _float(args[0]) else None]


def _float(x: Expression) -> bool:
    return str(x.dtype) in ("bfloat16", "float16", "float32", "float64")


@rule("copy", "copy_p", "optimization_barrier", "reshard", "pvary")
class _Same:
    read = staticmethod(lambda eq, args: args[0])
    pull = staticmethod(lambda eq, args, out, d: [d])


@rule("stop_gradient")
class _Stop:
    read = staticmethod(lambda eq, args: ex.call("jax.lax.stop_gradient({0})", args, _shape(eq), args[0].dtype))
    pull = staticmethod(lambda eq, args, out, d: [None])


@rule("iota")
class _Iota:
    @staticmethod
    def read(eq, args):
        shape, axis = _shape(eq), eq.params["dimension"]
        dtype = eq.dtypes.outputs[0]
        text = (
            f"jnp.arange({shape[axis]})" if str(dtype) == "int32" else f"jnp.arange({shape[axis]}, dtype=jnp.{dtype})"
        )
        line = ex.call(text, [], (shape[axis],), dtype)
        return ex.spread(ex.expand(line, [k for k in range(len(shape)) if k > axis and True][: len(shape) - axis - 1])
                         if axis < len(shape) - 1 else line, shape)  # fmt: skip

    pull = staticmethod(lambda eq, args, out, d: [])


# --- layout -----------------------------------------------------------------------------------------------------------


@rule("broadcast_in_dim")
class _Broadcast:
    @staticmethod
    def read(eq, args):
        (x, *_), shape = args, _shape(eq)
        dims = tuple(eq.params["broadcast_dimensions"])
        if x.ndim == 0:
            return ex.spread(x, shape)
        first = dims[0]
        return ex.spread(ex.expand(x, [k - first for k in range(first, len(shape)) if k not in dims]), shape)

    @staticmethod
    def pull(eq, args, out, d):
        x, dims = args[0], tuple(eq.params["broadcast_dimensions"])
        new = [k for k in range(d.ndim) if k not in dims]
        grown = [k for axis, k in enumerate(dims) if x.shape[axis] == 1 and d.shape[k] != 1]
        summed = ex.total(d, [*new, *grown])
        back = ex.expand(summed, [axis for axis, k in enumerate(dims) if k in grown])
        return [back, *[None] * (len(args) - 1)]


@rule("reshape")
class _Reshape:
    read = staticmethod(lambda eq, args: ex.reshape(args[0], _shape(eq)))
    pull = staticmethod(lambda eq, args, out, d: [ex.reshape(d, args[0].shape), *[None] * (len(args) - 1)])


@rule("squeeze")
class _Squeeze:
    read = staticmethod(lambda eq, args: ex.drop(args[0], [k % args[0].ndim for k in eq.params["dimensions"]]))
    pull = staticmethod(lambda eq, args, out, d: [ex.expand(d, [k % args[0].ndim for k in eq.params["dimensions"]])])


@rule("expand_dims")
class _ExpandDims:
    read = staticmethod(lambda eq, args: ex.expand(args[0], eq.params["dimensions"]))
    pull = staticmethod(lambda eq, args, out, d: [ex.drop(d, eq.params["dimensions"])])


@rule("transpose")
class _Transpose:
    read = staticmethod(lambda eq, args: ex.transpose(args[0], eq.params["permutation"]))
    pull = staticmethod(lambda eq, args, out, d: [ex.transpose(d, np.argsort(eq.params["permutation"]).tolist())])


@rule("rev")
class _Rev:
    @staticmethod
    def read(eq, args):
        axes = tuple(eq.params["dimensions"])
        return ex.call(f"jnp.flip({{0}}, {axes[0] if len(axes) == 1 else axes})", args, _shape(eq), args[0].dtype)

    pull = staticmethod(lambda eq, args, out, d: [_Rev.read(eq, [d])])


def _spans(starts: Sequence[int], stops: Sequence[int], steps: Sequence[int] | None = None) -> list[Any]:
    return [(int(a), int(b), int(c)) for a, b, c in zip(starts, stops, steps or (1,) * len(starts))]


@rule("slice")
class _Slice:
    @staticmethod
    def places(eq):
        return _spans(eq.params["start_indices"], eq.params["limit_indices"], eq.params["strides"])

    read = staticmethod(lambda eq, args: ex.part(args[0], _Slice.places(eq)))
    pull = staticmethod(lambda eq, args, out, d: [ex.placed(d, _Slice.places(eq), args[0])])


@rule("pad")
class _Pad:
    @staticmethod
    def read(eq, args):
        x, value = args
        config = tuple(eq.params["padding_config"])
        if any(low < 0 or high < 0 or inner for low, high, inner in config):
            raise NoRule
        widths = tuple((int(low), int(high)) for low, high, _ in config)
        words = "" if ex.is_zero(value) else ", constant_values={1}"
        return ex.call(f"jnp.pad({{0}}, {widths}{words})", args if words else [x], _shape(eq), x.dtype)

    @staticmethod
    def pull(eq, args, out, d):
        x, value = args
        config = eq.params["padding_config"]
        starts = [low for low, _, _ in config]
        stops = [low + n for (low, _, _), n in zip(config, x.shape)]
        inside = ex.part(d, _spans(starts, stops))
        outside = None if ex.value_of(value) is not None else ex.subtract(
            ex.total(d, range(d.ndim)), ex.total(inside, range(d.ndim)))  # fmt: skip
        return [inside, outside]


@rule("concatenate")
class _Concatenate:
    @staticmethod
    def read(eq, args):
        axis = eq.params["dimension"]
        axis = -1 if axis == args[0].ndim - 1 and axis else axis
        parts = ", ".join(f"{{{k}}}" for k in range(len(args)))
        return ex.call(f"jnp.concatenate([{parts}], axis={axis})", args, _shape(eq), args[0].dtype)

    @staticmethod
    def pull(eq, args, out, d):
        axis, begin, parts = eq.params["dimension"], 0, []
        for x in args:
            starts, stops = [0] * x.ndim, list(d.shape)
            starts[axis], stops[axis] = begin, begin + x.shape[axis]
            begin = stops[axis]
            parts.append(ex.part(d, _spans(starts, stops)) if x.shape[axis] else None)
        return parts


# --- sums, products, maxima -------------------------------------------------------------------------------------------


@rule("reduce_sum")
class _Sum:
    read = staticmethod(lambda eq, args: ex.total(args[0], eq.params["axes"]))
    pull = staticmethod(lambda eq, args, out, d: [ex.spread(ex.expand(d, eq.params["axes"]), args[0].shape)])


@rule("reduce_max", "reduce_min")
class _Extreme:
    @staticmethod
    def read(eq, args):
        axes = tuple(eq.params["axes"])
        x = args[0]
        last = ", ".join(str(-1 if k == x.ndim - 1 and x.ndim > 1 else k) for k in axes)
        words = f"axis={last}" if len(axes) == 1 else f"axis=({last})"
        return ex.call(f"{{0}}.{eq.name[7:]}({words}{{keep}})", args, _shape(eq), x.dtype)

    @staticmethod
    def pull(eq, args, out, d):
        """In equal parts to all that are the largest, as JAX has it."""
        (x,), axes = args, eq.params["axes"]
        largest = ex.cast(ex.compare("==", x, ex.expand(out, axes)), x.dtype)
        count = ex.expand(ex.total(largest, axes), axes)
        return [ex.multiply(ex.expand(d, axes), ex.divide(largest, count))]


@rule("reduce_prod")
class _Prod:
    @staticmethod
    def read(eq, args):
        axes = tuple(eq.params["axes"])
        text = axes[0] if len(axes) == 1 else axes
        return ex.call(f"{{0}}.prod(axis={text}{{keep}})", args, _shape(eq), args[0].dtype)

    @staticmethod
    def pull(eq, args, out, d):
        raise NoRule


@rule("argmax", "argmin")
class _Arg:
    @staticmethod
    def read(eq, args):
        (axis,) = eq.params["axes"]
        return ex.call(f"{{0}}.{eq.name}(axis={axis})", args, _shape(eq), eq.dtypes.outputs[0])

    pull = staticmethod(lambda eq, args, out, d: [None])


@rule("reduce_and", "reduce_or")
class _AnyAll:
    @staticmethod
    def read(eq, args):
        axes = tuple(eq.params["axes"])
        word = "all" if eq.name == "reduce_and" else "any"
        return ex.call(f"{{0}}.{word}(axis={axes[0] if len(axes) == 1 else axes})", args, _shape(eq), np.bool_)

    pull = staticmethod(lambda eq, args, out, d: [None])


@rule("cumsum")
class _Cumsum:
    @staticmethod
    def sums(x: Expression, axis: int, reverse: bool) -> Expression:
        text = f"jnp.cumsum({{0}}, axis={axis})"
        if reverse:
            text = f"jnp.flip(jnp.cumsum(jnp.flip({{0}}, {axis}), axis={axis}), {axis})"
        return ex.call(text, [x], x.shape, x.dtype)

    read = staticmethod(lambda eq, args: _Cumsum.sums(args[0], eq.params["axis"], eq.params["reverse"]))
    pull = staticmethod(lambda eq, args, out, d: [_Cumsum.sums(d, eq.params["axis"], not eq.params["reverse"])])


@rule("sort")
class _Sort:
    @staticmethod
    def read(eq, args):
        if len(args) != 1:
            raise NoRule
        return ex.call(f"jnp.sort({{0}}, axis={eq.params['dimension']})", args, _shape(eq), args[0].dtype)

    @staticmethod
    def pull(eq, args, out, d):
        """Back to where each came from."""
        axis, (x,) = eq.params["dimension"], args
        text = f"jnp.take_along_axis({{1}}, jnp.argsort(jnp.argsort({{0}}, axis={axis}), axis={axis}), axis={axis})"
        return [ex.call(text, [x, d], x.shape, x.dtype)]


@rule("dot_general")
class _Dot:
    @staticmethod
    def read(eq, args):
        contracted, batch = eq.params["dimension_numbers"]
        a, b = args
        return ex.cast(ex.contract(a, b, contracted, batch, _product_dtype(args)), eq.dtypes.outputs[0])

    @staticmethod
    def pull(eq, args, out, d):
        contracted, batch = eq.params["dimension_numbers"]
        return [_dot_pull(args, k, contracted, batch, d) for k in range(2)]


def _product_dtype(args: Args) -> Any:
    return np.promote_types(args[0].dtype, args[1].dtype) if args[0].dtype != args[1].dtype else args[0].dtype


def _dot_pull(args: Args, k: int, contracted: Any, batch: Any, d: Expression) -> Expression:
    """The error signal of one operand: δ times the other, over the other's free axes, in the operand's order."""
    mine, other = args[k], args[1 - k]
    free_mine = [i for i in range(mine.ndim) if i not in (*batch[k], *contracted[k])]
    free_other = [i for i in range(other.ndim) if i not in (*batch[1 - k], *contracted[1 - k])]
    n = len(batch[0])
    start = n if k == 0 else n + len(free_other)
    at_mine = list(range(start, start + len(free_mine)))
    at_other = [i for i in range(n, d.ndim) if i not in at_mine]
    lead = tuple(range(n))
    # the product's axes: batch, then those of δ that are mine, then the contracted ones in the order of `other`
    order_of_contracted = sorted(range(len(contracted[0])), key=lambda j: contracted[1 - k][j])
    straight = [*batch[k], *free_mine, *(contracted[k][j] for j in order_of_contracted)]
    turned = [*batch[k], *(contracted[k][j] for j in order_of_contracted), *free_mine]
    if turned == list(range(mine.ndim)):
        product = ex.contract(other, d, (free_other, at_other), (batch[1 - k], lead), d.dtype)
        order = turned
    else:
        product = ex.contract(d, other, (at_other, free_other), (lead, batch[1 - k]), d.dtype)
        order = straight
    return ex.cast(ex.transpose(product, np.argsort(order).tolist()), mine.dtype)


# --- picking and placing ----------------------------------------------------------------------------------------------


def _picked(eq: _jaxpr.Equation) -> tuple[int, ...] | None:
    """The first axes of a table that a gather takes single entries of, by one index each; None for other gathers."""
    numbers, sizes = eq.params["dimension_numbers"], eq.params["slice_sizes"]
    table, indices = eq.shapes.inputs
    axes = tuple(numbers.start_index_map)
    count = len(indices) - 1
    rest = [k for k in range(len(table)) if k not in axes]
    offsets = tuple(range(count, count + len(rest)))
    if axes == tuple(range(len(axes))) or len(axes) == 1:
        whole = tuple(numbers.collapsed_slice_dims) == axes and all(sizes[k] == table[k] for k in rest)
        if len(axes) == 1:
            offsets = (*range(axes[0]), *range(axes[0] + count, count + len(rest)))
        if whole and not numbers.operand_batching_dims and tuple(numbers.offset_dims) == offsets:
            return axes
    return None


def _along(eq: _jaxpr.Equation) -> int | None:
    """The axis of a `take_along_axis`; None for other gathers."""
    numbers, (table, indices) = eq.params["dimension_numbers"], eq.shapes.inputs
    rest = tuple(numbers.operand_batching_dims)
    axes = [k for k in range(len(table)) if k not in rest]
    single = len(axes) == 1 and tuple(numbers.start_index_map) == tuple(axes) == tuple(numbers.collapsed_slice_dims)
    usual = not numbers.offset_dims and tuple(numbers.start_indices_batching_dims) == tuple(
        k for k in range(len(rest) + 1) if k != axes[0]
    )
    return axes[0] if single and usual and len(indices) == len(table) + 1 else None


@rule("gather")
class _Gather:
    @staticmethod
    def parts(eq, args):
        x, indices = args
        axes = _picked(eq)
        if axes is None:
            raise NoRule
        columns = [_undo_wrap(c, x.shape[k]) for c, k in zip(_columns(indices), axes)]
        places = [*[":"] * axes[0], *(f"{{{1 + k}}}" for k in range(len(columns)))]
        return x, columns, ", ".join(places)

    @staticmethod
    def read(eq, args):
        if (axis := _along(eq)) is not None:
            ids = _undo_wrap(ex.drop(args[1], [args[1].ndim - 1]), args[0].shape[axis])
            return ex.call(f"jnp.take_along_axis({{0}}, {{1}}, axis={axis})", [args[0], ids], _shape(eq), args[0].dtype)
        x, columns, places = _Gather.parts(eq, args)
        return ex.call(f"{{0}}[{places}]", [x, *columns], _shape(eq), x.dtype)

    @staticmethod
    def pull(eq, args, out, d):
        if (axis := _along(eq)) is not None:
            x, ids = args[0], _undo_wrap(ex.drop(args[1], [args[1].ndim - 1]), args[0].shape[axis])
            if ids.shape[axis] != 1:
                raise NoRule
            text = f"jnp.put_along_axis(jnp.zeros_like({{0}}), {{1}}, {{2}}, axis={axis}, inplace=False)"
            return [ex.call(text, [x, ids, d], x.shape, x.dtype), None]
        x, columns, places = _Gather.parts(eq, args)
        text = f"jnp.zeros_like({{0}}).at[{places}].add({{{1 + len(columns)}}})"
        return [ex.call(text, [x, *columns, d], x.shape, x.dtype), None]


def _columns(indices: Expression) -> list[Expression]:
    """Index arrays, one for each axis."""
    last = indices.ndim - 1
    if indices.shape[last] == 1:
        return [ex.drop(indices, [last])]
    if indices.op == "call" and indices.detail.startswith("jnp.concatenate"):
        return [ex.drop(x, [last]) for x in indices.args]
    spans = [(0, n, 1) for n in indices.shape[:-1]]
    return [ex.part(indices, [*spans, k]) for k in range(indices.shape[last])]


def _undo_wrap(ids: Expression, n: int) -> Expression:
    """Indices as the user gave them: JAX adds n to negative ones, and so does what is printed."""
    core = ex.bare(ids)
    if core.op == "where" and core.args[0].op == "compare" and core.args[0].detail == "<":
        given = core.args[2]
        wrapped = core.args[1]
        plus_n = wrapped.op == "add" and wrapped.args[0] is given and ex.value_of(wrapped.args[1]) == n
        if core.args[0].args[0] is given and plus_n:
            return ex.spread(given, ids.shape)
    return ids


# --- complex numbers and transforms -----------------------------------------------------------------------------------


def _call(text: str, args: Args, shape: Sequence[int], dtype: Any) -> Expression:
    return ex.call(text, args, shape, dtype)


@rule("real")
class _Real:
    read = staticmethod(lambda eq, args: _call("{0}.real", args, _shape(eq), eq.dtypes.outputs[0]))
    pull = staticmethod(lambda eq, args, out, d: [ex.cast(d, args[0].dtype)])


@rule("imag")
class _Imag:
    read = staticmethod(lambda eq, args: _call("{0}.imag", args, _shape(eq), eq.dtypes.outputs[0]))
    pull = staticmethod(lambda eq, args, out, d: [_call("-1j * {0}.astype(jnp.complex64)"
        if str(args[0].dtype) == "complex64" else "-1j * {0}", [d], d.shape, args[0].dtype)])  # fmt: skip


@rule("conj")
class _Conj:
    read = staticmethod(lambda eq, args: _call("{0}.conj()", args, _shape(eq), eq.dtypes.outputs[0]))
    pull = staticmethod(lambda eq, args, out, d: [_call("{0}.conj()", [d], d.shape, d.dtype)
        if np.dtype(args[0].dtype).kind == "c" else _call("{0}.real", [d], d.shape, args[0].dtype)])  # fmt: skip


def _transform(kind: str, x: Expression, lengths: Sequence[int], shape: Sequence[int], dtype: Any) -> Expression:
    """A transform over the last axes."""
    if len(lengths) == 1:
        n = f", n={lengths[0]}" if kind == "irfft" and lengths[0] % 2 else ""
        return _call(f"jnp.fft.{kind}({{0}}{n})", [x], shape, dtype)
    axes = ", ".join(str(k) for k in range(-len(lengths), 0))
    sizes = f", s=({', '.join(map(str, lengths))})" if kind == "irfft" else ""
    return _call(f"jnp.fft.{kind}n({{0}}{sizes}, axes=({axes}))", [x], shape, dtype)


@rule("fft")
class _Fft:
    @staticmethod
    def kind(eq):
        kind = eq.params["fft_type"]
        return ("fft", "ifft", "rfft", "irfft")[int(kind)] if not isinstance(kind, str) else kind.lower()

    @staticmethod
    def read(eq, args):
        return _transform(_Fft.kind(eq), args[0], eq.params["fft_lengths"], _shape(eq), eq.dtypes.outputs[0])

    @staticmethod
    def pull(eq, args, out, d):
        (x,), kind, lengths = args, _Fft.kind(eq), eq.params["fft_lengths"]
        if kind in ("fft", "ifft"):  # symmetric matrices
            return [_transform(kind, d, lengths, d.shape, x.dtype)]
        if len(lengths) > 1:
            raise NoRule
        n, half = lengths[0], lengths[0] // 2 + 1
        if kind == "rfft":
            pad = [(0, 0)] * (d.ndim - 1) + [(0, n - half)]
            full = _call(f"jnp.pad({{0}}, {tuple(pad)})", [d], (*d.shape[:-1], n), d.dtype)
            return [_call("jnp.fft.fft({0}).real", [full], x.shape, x.dtype)]
        middle = f"[1{', 2' * (half - 1 - (n % 2 == 0))}{', 1' if n % 2 == 0 else ''}]"
        return [_call(f"(jnp.array({middle}) * jnp.fft.rfft({{0}}) / {n}).conj()", [d], x.shape, x.dtype)]


_plain_abs = RULES["abs"]


@rule("abs")
class _Abs:
    read = staticmethod(lambda eq, args: ex.apply("jnp.abs", args[0], dtype=eq.dtypes.outputs[0]))

    @staticmethod
    def pull(eq, args, out, d):
        x = args[0]
        if np.dtype(x.dtype).kind != "c":
            return _plain_abs.pull(eq, args, out, d)
        return [_call("{0} * {1}.conj() / {2}", [d, x, out], x.shape, x.dtype)]


# --- matrices ---------------------------------------------------------------------------------------------------------


@rule("cholesky")
class _Cholesky:
    read = staticmethod(lambda eq, args: _call("jnp.linalg.cholesky({0})", args, _shape(eq), args[0].dtype))

    @staticmethod
    def pull(eq, args, out, d):
        raise NoRule

"""Elementwise functions: arithmetic, comparisons, choices, casts."""

import math
from collections.abc import Callable

import numpy as np

from jaxbias._derive.rules.rule import RULES, NoRule, Rule, constant, rule, shape_of
from jaxbias.symbols import expressions as ex
from jaxbias.symbols.expressions import Expression


def _named(x: Expression) -> bool:
    return ex.bare(x).op == "name"


UNARY: dict[str, tuple[str, Callable[[Expression, Expression, Expression], Expression]]] = {
    # primitive: (its name in Python, δ from (x, out, δ))
    "tanh": ("jnp.tanh", lambda x, out, d: ex.multiply(d, ex.subtract(constant(1, x), ex.power(out, 2)))),
    "exp": ("jnp.exp", lambda x, out, d: ex.multiply(d, out)),
    "exp2": ("jnp.exp2", lambda x, out, d: ex.multiply(ex.multiply(constant(math.log(2), x), d), out)),
    "log": ("jnp.log", lambda x, out, d: ex.divide(d, x)),
    "log1p": ("jnp.log1p", lambda x, out, d: ex.divide(d, ex.add(constant(1, x), x))),
    "expm1": ("jnp.expm1", lambda x, out, d: ex.multiply(d, ex.add(out, constant(1, x)))),
    "sin": ("jnp.sin", lambda x, out, d: ex.multiply(d, ex.apply("jnp.cos", x))),
    "cos": ("jnp.cos", lambda x, out, d: ex.negative(ex.multiply(d, ex.apply("jnp.sin", x)))),
    "tan": ("jnp.tan", lambda x, out, d: ex.multiply(d, ex.add(constant(1, x), ex.power(out, 2)))),
    "sinh": ("jnp.sinh", lambda x, out, d: ex.multiply(d, ex.apply("jnp.cosh", x))),
    "cosh": ("jnp.cosh", lambda x, out, d: ex.multiply(d, ex.apply("jnp.sinh", x))),
    "asin": ("jnp.arcsin", lambda x, out, d: ex.divide(d, _root(ex.subtract(constant(1, x), ex.power(x, 2))))),
    "acos": ("jnp.arccos", lambda x, out, d: ex.negative(
        ex.divide(d, _root(ex.subtract(constant(1, x), ex.power(x, 2)))))),
    "atan": ("jnp.arctan", lambda x, out, d: ex.divide(d, ex.add(constant(1, x), ex.power(x, 2)))),
    "asinh": ("jnp.arcsinh", lambda x, out, d: ex.divide(d, _root(ex.add(ex.power(x, 2), constant(1, x))))),
    "acosh": ("jnp.arccosh", lambda x, out, d: ex.divide(d, _root(ex.subtract(ex.power(x, 2), constant(1, x))))),
    "atanh": ("jnp.arctanh", lambda x, out, d: ex.divide(d, ex.subtract(constant(1, x), ex.power(x, 2)))),
    "logistic": ("jax.nn.sigmoid",
                 lambda x, out, d: ex.multiply(ex.multiply(d, out), ex.subtract(constant(1, x), out))),
    "sqrt": ("jnp.sqrt", lambda x, out, d: ex.divide(d, ex.multiply(constant(2, x), out))),
    "rsqrt": ("jax.lax.rsqrt", lambda x, out, d: ex.multiply(ex.multiply(constant(-0.5, x), d), ex.power(out, 3))),
    "cbrt": ("jnp.cbrt", lambda x, out, d: ex.divide(d, ex.multiply(constant(3, x), ex.power(out, 2)))),
    "abs": ("jnp.abs", lambda x, out, d: ex.multiply(d, ex.apply("jnp.sign", x))),
    "erf": ("jax.scipy.special.erf", lambda x, out, d: ex.multiply(
        ex.multiply(constant(2 / math.sqrt(math.pi), x), d), ex.apply("jnp.exp", ex.negative(ex.power(x, 2))))),
    "erfc": ("jax.scipy.special.erfc", lambda x, out, d: ex.multiply(
        ex.multiply(constant(-2 / math.sqrt(math.pi), x), d), ex.apply("jnp.exp", ex.negative(ex.power(x, 2))))),
    "erf_inv": ("jax.scipy.special.erfinv", lambda x, out, d: ex.multiply(
        ex.multiply(constant(math.sqrt(math.pi) / 2, x), d), ex.apply("jnp.exp", ex.power(out, 2)))),
    "lgamma": ("jax.scipy.special.gammaln",
               lambda x, out, d: ex.multiply(d, ex.apply("jax.scipy.special.digamma", x))),
    "digamma": ("jax.scipy.special.digamma",
                lambda x, out, d: ex.multiply(
                    d, ex.call("jax.scipy.special.polygamma(1, {0})", [x], x.shape, x.dtype))),
    "relu": ("jax.nn.relu", lambda x, out, d: ex.where(ex.compare(">", x, constant(0, x)), d, constant(0, x))),
    "relu6": ("jax.nn.relu6",
              lambda x, out, d: ex.where(_between(x, constant(0, x), constant(6, x)), d, constant(0, x))),
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


def _between(x: Expression, low: Expression, high: Expression) -> Expression:
    return ex.apply("&", ex.compare(">", x, low), ex.compare("<", x, high), dtype=np.bool_)


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


@rule("rem")
class _Rem:
    read = staticmethod(lambda eq, args: ex.apply("jnp.fmod", *args))

    @staticmethod
    def pull(eq, args, out, d):
        a, b = args
        whole = ex.apply("jnp.trunc", ex.divide(a, b))
        return [d, None if ex.value_of(ex.bare(b)) is not None else ex.negative(ex.multiply(d, whole))]


@rule("integer_pow")
class _IntegerPow:
    read = staticmethod(lambda eq, args: ex.power(args[0], eq.params["y"]))

    @staticmethod
    def pull(eq, args, out, d):
        x, y = args[0], eq.params["y"]
        return [ex.multiply(ex.multiply(constant(y, x), d), ex.power(x, y - 1))]


@rule("square")
class _Square:
    read = staticmethod(lambda eq, args: ex.power(args[0], 2))
    pull = staticmethod(lambda eq, args, out, d: [ex.multiply(ex.multiply(constant(2, args[0]), d), args[0])])


@rule("pow")
class _Pow:
    @staticmethod
    def read(eq, args):
        exponent = ex.value_of(ex.bare(args[1]))
        if args[1].op != "size" and exponent is not None:
            return ex.spread(ex.power(args[0], float(exponent)), shape_of(eq))
        x, y = args
        return ex.apply("jnp.power", x, ex.cast(y, x.dtype))  # a base 2.0 is written 2, which is whole beside whole y

    @staticmethod
    def pull(eq, args, out, d):
        x, y = args
        exponent = ex.value_of(ex.bare(y))
        if exponent is not None:
            exponent = float(exponent)
            return [ex.multiply(ex.multiply(constant(exponent, x), d), ex.power(x, exponent - 1)), None]
        y = ex.cast(y, x.dtype)
        slope = ex.multiply(y, ex.apply("jnp.power", x, ex.subtract(y, constant(1, y))))
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
        zero, half = constant(0, out), ex.multiply(constant(0.5, out), d)

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
        return [None, ex.where(_between(x, low, high), d, constant(0, x)), None]


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
        zero = constant(0, out)
        return [None, ex.where(condition, zero, d), ex.where(condition, d, zero)]


@rule("atan2")
class _Atan2:
    read = staticmethod(lambda eq, args: ex.apply("jnp.arctan2", *args))

    @staticmethod
    def pull(eq, args, out, d):
        y, x = args
        square = ex.add(ex.power(x, 2), ex.power(y, 2))
        return [ex.divide(ex.multiply(d, x), square), ex.negative(ex.divide(ex.multiply(d, y), square))]


@rule("convert_element_type", "reduce_precision")
class _Convert:
    read = staticmethod(lambda eq, args: ex.cast(args[0], eq.dtypes.outputs[0]))

    @staticmethod
    def pull(eq, args, out, d):
        return [ex.cast(d, args[0].dtype) if ex.is_inexact(args[0]) else None]


@rule("copy", "copy_p", "optimization_barrier", "reshard", "pvary")
class _Same:
    read = staticmethod(lambda eq, args: args[0])
    pull = staticmethod(lambda eq, args, out, d: [d])


@rule("stop_gradient")
class _Stop:
    read = staticmethod(lambda eq, args: ex.call("jax.lax.stop_gradient({0})", args, shape_of(eq), args[0].dtype))
    pull = staticmethod(lambda eq, args, out, d: [None])


@rule("iota")
class _Iota:
    @staticmethod
    def read(eq, args):
        shape, axis = shape_of(eq), eq.params["dimension"]
        dtype = eq.dtypes.outputs[0]
        text = (
            f"jnp.arange({shape[axis]})" if str(dtype) == "int32" else f"jnp.arange({shape[axis]}, dtype=jnp.{dtype})"
        )
        line = ex.call(text, [], (shape[axis],), dtype)
        return ex.spread(ex.expand(line, range(1, len(shape) - axis)), shape)

    pull = staticmethod(lambda eq, args, out, d: [])

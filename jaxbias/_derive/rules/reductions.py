"""Sums, maxima, products of matrices."""

from typing import Any

import numpy as np

from jaxbias._derive.rules.rule import Args, NoRule, rule, shape_of
from jaxbias.symbols import expressions as ex
from jaxbias.symbols.expressions import Expression


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
        return ex.call(f"{{0}}.{eq.name[7:]}({words}{{keep}})", args, shape_of(eq), x.dtype)

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
        return ex.call(f"{{0}}.prod(axis={text}{{keep}})", args, shape_of(eq), args[0].dtype)

    @staticmethod
    def pull(eq, args, out, d):
        raise NoRule


@rule("argmax", "argmin")
class _Arg:
    @staticmethod
    def read(eq, args):
        (axis,) = eq.params["axes"]
        return ex.call(f"{{0}}.{eq.name}(axis={axis})", args, shape_of(eq), eq.dtypes.outputs[0])

    pull = staticmethod(lambda eq, args, out, d: [None])


@rule("reduce_and", "reduce_or")
class _AnyAll:
    @staticmethod
    def read(eq, args):
        axes = tuple(eq.params["axes"])
        word = "all" if eq.name == "reduce_and" else "any"
        return ex.call(f"{{0}}.{word}(axis={axes[0] if len(axes) == 1 else axes})", args, shape_of(eq), np.bool_)

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
        return ex.call(f"jnp.sort({{0}}, axis={eq.params['dimension']})", args, shape_of(eq), args[0].dtype)

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

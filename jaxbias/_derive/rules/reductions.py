"""Sums, maxima, products of matrices."""

import math
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
        """δ times the product of the other factors, those before and those after, so that a zero is no trouble."""
        (x,), axes = args, tuple(eq.params["axes"])
        if len(axes) != 1:
            raise NoRule
        (axis,) = axes
        widths = [(1, 0) if k == axis else (0, 0) for k in range(x.ndim)]
        start = ", ".join([":"] * axis + [":-1"])
        before = f"jnp.pad(jnp.cumprod({{0}}, axis={axis})[{start}], {tuple(widths)}, constant_values=1)"
        turned = f"jnp.flip({{0}}, {axis})"
        after = f"jnp.flip({before.replace('{0}', turned)}, {axis})"
        others = ex.call(f"{before} * {after}", [x], x.shape, x.dtype)
        return [ex.multiply(ex.expand(d, axes), ex.call("({0})", [others], x.shape, x.dtype))]


@rule("top_k", outputs=2)
class _TopK:
    @staticmethod
    def read(eq, args):
        if eq.params.get("axis", args[0].ndim - 1) not in (-1, args[0].ndim - 1):
            raise NoRule
        forms = zip(eq.shapes.outputs, eq.dtypes.outputs)
        return [ex.call(f"jax.lax.top_k({{0}}, {eq.params['k']})[{i}]", args, *form) for i, form in enumerate(forms)]

    @staticmethod
    def pull(eq, args, out, d):
        """Back to where each came from."""
        if d[0] is None:
            return [None]
        text = "jnp.put_along_axis(jnp.zeros_like({0}), {1}, {2}, axis=-1, inplace=False)"
        return [ex.call(text, [args[0], out[1], d[0]], args[0].shape, args[0].dtype)]


WINDOWS = {"reduce_window_max": "-jnp.inf, jax.lax.max", "reduce_window_min": "jnp.inf, jax.lax.min",
           "reduce_window_sum": "0.0, jax.lax.add"}  # fmt: skip


@rule(*WINDOWS)
class _Window:
    """Pooling over windows that do not overlap and leave nothing over: a reshape and a reduction."""

    @staticmethod
    def apart(eq) -> tuple[list[int], list[int]]:
        """The shape with each window along an axis of its own, and these axes."""
        p, shape = eq.params, eq.shapes.inputs[0]
        window = tuple(p["window_dimensions"])
        plain = all(a == b == 0 for a, b in p["padding"]) and set(p["base_dilation"]) | set(p["window_dilation"]) == {1}
        if not plain or tuple(p["window_strides"]) != window or any(n % w for n, w in zip(shape, window)):
            raise NoRule
        split, axes = [], []
        for n, w in zip(shape, window):
            split.append(n // w)
            if w > 1:
                axes.append(len(split))
                split.append(w)
        return split, axes

    @staticmethod
    def reduced(eq, x: Expression) -> tuple[Expression, Expression, list[int]]:
        split, axes = _Window.apart(eq)
        whole = ex.reshape(x, split)
        if eq.name.endswith("sum"):
            return whole, ex.total(whole, axes), axes
        word = ", ".join(map(str, axes))
        text = f"{{0}}.{eq.name[-3:]}(axis={word if len(axes) == 1 else f'({word})'}{{keep}})"
        return whole, ex.call(text, [whole], shape_of(eq), x.dtype), axes

    read = staticmethod(lambda eq, args: _Window.reduced(eq, args[0])[1])

    @staticmethod
    def pull(eq, args, out, d):
        """All of it to the first that is the largest, as JAX has it."""
        (x,) = args
        whole, _, axes = _Window.reduced(eq, x)
        if eq.name.endswith("sum"):
            return [ex.reshape(ex.spread(ex.expand(d, axes), whole.shape), x.shape)]
        order = [*(k for k in range(whole.ndim) if k not in axes), *axes]  # the entries of a window in a row
        count = math.prod(whole.shape[k] for k in axes)
        last = ex.reshape(ex.transpose(whole, order), (*shape_of(eq), count))
        which = ex.call(f"{{0}}.arg{eq.name[-3:]}(axis=-1)", [last], last.shape[:-1], np.int32)
        chosen = ex.call(f"jax.nn.one_hot({{0}}, {last.shape[-1]}, dtype={{1}}.dtype)", [which, d], last.shape, x.dtype)
        sent = ex.multiply(ex.expand(d, (d.ndim,)), chosen)
        back = ex.reshape(sent, [whole.shape[k] for k in order])
        return [ex.reshape(ex.transpose(back, np.argsort(order).tolist()), x.shape)]


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


@rule("sort of 2", outputs=2)
class _SortWithPlaces:
    """`argsort`, and the values where they are used too."""

    @staticmethod
    def read(eq, args):
        x, places = args
        axis = eq.params["dimension"]
        line = places.op == "spread" or places.ndim == 1
        if eq.params["num_keys"] != 1 or not line or "arange" not in str(ex.bare(places).detail):
            raise NoRule
        forms = zip(eq.shapes.outputs, eq.dtypes.outputs)
        return [
            ex.call(f"jnp.{word}({{0}}, axis={axis})", [x], *form) for word, form in zip(("sort", "argsort"), forms)
        ]

    @staticmethod
    def pull(eq, args, out, d):
        if d[0] is None:
            return [None, None]
        axis = eq.params["dimension"]
        text = f"jnp.put_along_axis(jnp.zeros_like({{0}}), {{1}}, {{2}}, axis={axis}, inplace=False)"
        return [ex.call(text, [args[0], out[1], d[0]], args[0].shape, args[0].dtype), None]


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

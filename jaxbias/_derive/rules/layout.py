"""What only moves the entries of an array: broadcasts, reshapes, slices, padding."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from jaxbias._derive.rules.rule import NoRule, rule, shape_of
from jaxbias._jaxpr import Equation
from jaxbias.symbols import expressions as ex


@rule("broadcast_in_dim")
class _Broadcast:
    @staticmethod
    def read(eq, args):
        (x, *_), shape = args, shape_of(eq)
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
    read = staticmethod(lambda eq, args: ex.reshape(args[0], shape_of(eq)))
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
        return ex.call(f"jnp.flip({{0}}, {axes[0] if len(axes) == 1 else axes})", args, shape_of(eq), args[0].dtype)

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


def pieces(eq: Equation) -> list[Equation]:
    """A split as one slice for each part."""
    axis, begin, made = eq.params["axis"], 0, []
    shape = eq.shapes.inputs[0]
    for part, n in enumerate(eq.params["sizes"]):
        starts, stops = [0] * len(shape), list(shape)
        starts[axis], stops[axis] = begin, begin + n
        begin += n
        params = {"start_indices": tuple(starts), "limit_indices": tuple(stops), "strides": None}
        made.append(replace(eq, name="slice", params=params, outputs=eq.outputs[part : part + 1], bodies=()))
    return made


@rule("pad")
class _Pad:
    """Around an array, and between its entries."""

    @staticmethod
    def read(eq, args):
        x, value = args
        config = tuple(tuple(map(int, part)) for part in eq.params["padding_config"])
        if any(low < 0 or high < 0 for low, high, _ in config):
            raise NoRule
        if any(inner for *_, inner in config):
            text = f"jax.lax.pad({{0}}, jnp.asarray({{1}}, jnp.{x.dtype}), {config})"
            return ex.call(text, args, shape_of(eq), x.dtype)
        widths = tuple((low, high) for low, high, _ in config)
        words = "" if ex.is_zero(value) else ", constant_values={1}"
        return ex.call(f"jnp.pad({{0}}, {widths}{words})", args if words else [x], shape_of(eq), x.dtype)

    @staticmethod
    def pull(eq, args, out, d):
        x, value = args
        spans = [(int(low), int(low) + (n - 1) * (int(inner) + 1) + 1 if n else int(low), int(inner) + 1)
                 for (low, _, inner), n in zip(eq.params["padding_config"], x.shape)]  # fmt: skip
        inside = ex.part(d, spans)
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
        return ex.call(f"jnp.concatenate([{parts}], axis={axis})", args, shape_of(eq), args[0].dtype)

    @staticmethod
    def pull(eq, args, out, d):
        axis, begin, parts = eq.params["dimension"], 0, []
        for x in args:
            starts, stops = [0] * x.ndim, list(d.shape)
            starts[axis], stops[axis] = begin, begin + x.shape[axis]
            begin = stops[axis]
            parts.append(ex.part(d, _spans(starts, stops)) if x.shape[axis] else None)
        return parts


@rule("stack")
class _Stack:
    """Arrays along a new axis, which newer JAX has as one primitive."""

    @staticmethod
    def axis(eq):
        shape = shape_of(eq)
        given = eq.params.get("axis", eq.params.get("dimension", 0))
        return given % len(shape)

    @staticmethod
    def read(eq, args):
        axis, ndim = _Stack.axis(eq), len(shape_of(eq))
        holes = ", ".join(f"{{{k}}}" for k in range(len(args)))
        word = -1 if axis == ndim - 1 and axis else axis
        return ex.call(f"jnp.stack([{holes}], axis={word})", args, shape_of(eq), args[0].dtype)

    @staticmethod
    def pull(eq, args, out, d):
        axis = _Stack.axis(eq)
        spans = [(0, n, 1) for n in d.shape]
        return [ex.part(d, [*spans[:axis], k, *spans[axis + 1 :]]) for k in range(len(args))]

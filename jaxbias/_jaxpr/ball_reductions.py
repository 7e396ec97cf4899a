"""Primitives on balls that bring many entries together: contractions, reductions, windows, orders."""

import functools
import itertools
import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from jaxbias._jaxpr import in_numpy
from jaxbias._jaxpr.balls import NoBall, compared, lift, map_balls, matmul


def dot_general(p, a, b):
    (contract_a, contract_b), (batch_a, batch_b) = p["dimension_numbers"]
    free_a = [i for i in range(a.ndim) if i not in (*contract_a, *batch_a)]
    free_b = [i for i in range(b.ndim) if i not in (*contract_b, *batch_b)]
    size = [math.prod(x.shape[i] for i in axes) for x, axes in ((a, free_a), (a, contract_a), (b, free_b))]
    batch = [a.shape[i] for i in batch_a]
    left = a.transpose((*batch_a, *free_a, *contract_a)).reshape(math.prod(batch), size[0], size[1])
    right = b.transpose((*batch_b, *contract_b, *free_b)).reshape(math.prod(batch), size[1], size[2])
    out = np.empty((math.prod(batch), size[0], size[2]), object)
    for k in range(len(out)):
        out[k] = matmul(left[k], right[k])
    return out.reshape((*batch, *(a.shape[i] for i in free_a), *(b.shape[i] for i in free_b)))


def over_axes(combine: Callable[[Any, Any], Any]):
    """A reduction by a function of two elements, axis after axis."""

    def reduce(p, x, *_):
        for axis in sorted(p["axes"], reverse=True):
            x = reduce_axis(combine, x, axis)
        return x

    return reduce


def reduce_axis(combine, x, axis):
    if not x.shape[axis]:
        raise NoBall("no enclosure of an extremum of nothing")
    return functools.reduce(lambda a, b: map_balls(combine, a, b), (np.take(x, i, axis) for i in range(x.shape[axis])))


def cumulative(combine: Callable[[Any, Any], Any]):
    def run(p, x):
        axis = p["axis"]
        slices = [np.take(x, i, axis) for i in range(x.shape[axis])]
        slices = slices[::-1] if p["reverse"] else slices
        sums = list(itertools.accumulate(slices, lambda a, b: map_balls(combine, a, b)))
        return np.stack(sums[::-1] if p["reverse"] else sums, axis) if sums else x

    return run


def reduce_window(combine: Callable[[Any, Any], Any], start: float):
    def run(p, x):
        windows = in_numpy.windows(p, x, lift(np.float64(start))[()])
        for axis in range(windows.ndim - 1, x.ndim - 1, -1):
            windows = reduce_axis(combine, windows, axis)
        return windows

    return run


def select_and_scatter_add(p, source, operand):
    """Each entry of the source is added where its window of the operand holds the first of the largest entries."""
    wins = 1 if p["select_prim"].name in ("ge", "gt") else -1
    undilated = {"base_dilation": (1,) * operand.ndim, "window_dilation": (1,) * operand.ndim}
    places = in_numpy.windows(p | undilated, np.arange(operand.size).reshape(operand.shape), -1)
    out = lift(np.zeros(operand.size))
    for position in np.ndindex(source.shape):
        inside = [place for place in places[position].ravel() if place >= 0]
        best = functools.reduce(
            lambda a, b: b if compared(operand.flat[b], operand.flat[a]) == wins else a, inside[1:], inside[0]
        )
        out[best] = out[best] + source[position]
    return out.reshape(operand.shape)


def less(xs: Sequence[Any], ys: Sequence[Any]) -> int:
    """Lexicographic order of the keys, NaN last."""
    for x, y in zip(xs, ys):
        if isinstance(x, int | bool | np.generic):
            order = int(x > y) - int(x < y)
        else:
            order = compared(x, y)
            order = x.is_nan() - y.is_nan() if order is None else order
        if order:
            return int(order)
    return 0


def ranks(keys: list[np.ndarray]) -> list[int]:
    """Positions in stable order of their keys."""
    rows = list(zip(*keys))
    return sorted(range(len(rows)), key=functools.cmp_to_key(lambda i, j: less(rows[i], rows[j])))


def sort(p, *xs):
    axis = p["dimension"]
    moved = [np.moveaxis(x, axis, -1) for x in xs]
    outs = [np.empty(x.shape, x.dtype) for x in moved]
    for row in np.ndindex(moved[0].shape[:-1]):
        order = ranks([x[row] for x in moved[: p["num_keys"]]])
        for out, x in zip(outs, moved):
            out[row] = x[row][order]
    return [np.moveaxis(out, -1, axis) for out in outs]


def top_k(p, x):
    axis = p.get("axis", x.ndim - 1) % x.ndim
    places = np.broadcast_to(np.arange(x.shape[axis]).reshape([-1 if a == axis else 1 for a in range(x.ndim)]), x.shape)
    _, order = sort({"dimension": axis, "num_keys": 2}, map_balls(lambda value: -value, x), places)
    order = np.take(order, np.arange(p["k"]), axis).astype(np.int32)
    return [np.take_along_axis(x, order, axis), order]


def arg(sign: int):
    def run(p, x):
        (axis,) = p["axes"]
        moved = np.moveaxis(x, axis, -1)
        out = np.empty(moved.shape[:-1], np.int64)
        for row in np.ndindex(out.shape):
            best = 0
            for i in range(1, moved.shape[-1]):
                if compared(moved[row][i], moved[row][best]) == sign:
                    best = i
            out[row] = best
        return out.astype(p["index_dtype"])

    return run

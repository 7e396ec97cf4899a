"""Anyone's function and params: which leaves are arrays that can be traced, and the program of the function."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import numpy as np

from jaxbias import _jaxpr
from jaxbias._jaxpr import Program
from jaxbias._trees import path_name
from jaxbias.foreign import _nnx


class Split(NamedTuple):
    """The array leaves of a params tree, their paths, and the way back.

    Attributes:
        leaves: arrays, in tree order.
        paths: their paths in dots.
        rebuild: `(values) -> tree` with the values at the arrays' places and every other leaf as it was;
            `(values, None) -> tree` with None at every other leaf.
    """

    leaves: list[Any]
    paths: tuple[str, ...]
    rebuild: Callable[..., Any]


def split_params(params: Any) -> Split:
    """Part the arrays of a tree from what cannot be traced.

    An Equinox module holds its activation function, and dropout its rate and its switch, as leaves. So in a tree with a
    leaf that JAX cannot trace, or a bool, only real arrays count; elsewhere Python numbers do too, as in `jax.grad`.
    Of the variables of Flax nnx only Params count: batch statistics, keys and counters are state.
    """
    arrays = (jax.Array, np.ndarray, np.generic, jax.ShapeDtypeStruct)
    with_paths, treedef = jax.tree_util.tree_flatten_with_path(params)
    plain = all(isinstance(leaf, (*arrays, float, int, complex)) for _, leaf in with_paths)
    plain = plain and not any(isinstance(leaf, bool) for _, leaf in with_paths)
    others = _nnx.no_params(params)
    keeps = [(plain or isinstance(leaf, arrays)) and not other for (_, leaf), other in zip(with_paths, others)]
    paths = tuple(path_name(path) or "params" for (path, _), keep in zip(with_paths, keeps) if keep)
    same = object()

    def rebuild(values, other=same):
        values = iter(values)
        others = (leaf if other is same else other for _, leaf in with_paths)
        return treedef.unflatten([next(values) if keep else leaf for leaf, keep in zip(others, keeps)])

    return Split([leaf for (_, leaf), keep in zip(with_paths, keeps) if keep], paths, rebuild)


class TracedFunction(NamedTuple):
    """`fn(params, *args, **options)` as a program of the leaves of params and then the arrays of everything else."""

    program: Program
    paths: tuple[str, ...]
    leaves: list[Any]
    data: list[Any]
    out_shape: Any


def check_function(fn: object) -> None:
    """Raise a TypeError unless fn is a function."""
    if not callable(fn):
        raise TypeError(
            f"fn must be a function of (params, *args), got a {type(fn).__name__}. Hand the function first."
        )


def traced(
    fn: Callable, params: Any, args: tuple[Any, ...], options: dict[str, Any], remat: bool = True
) -> TracedFunction:
    """Trace a function; nothing is computed.

    Args:
        options: keyword arguments of fn; only arrays among them are traced, numbers and switches stay what they are.
        remat: keep rematerialised calls as calls; False: write them out.

    Raises:
        TypeError: fn is no function.
    """
    check_function(fn)
    fn, params = _nnx.split_module(fn, params)
    leaves, paths, rebuild = split_params(params)
    data, _, rebuild_args = split_params(args)
    named, _, rebuild_options = split_params((options, False))  # the bool: only real arrays count

    def run(leaves, data):
        keywords, _ = rebuild_options(data[len(data) - len(named) :])
        return fn(rebuild(leaves), *rebuild_args(data), **keywords)

    data = data + named
    program, out_shape = _jaxpr.trace_inlined(run, leaves, data, remat=remat)
    return TracedFunction(program, paths, leaves, data, out_shape)

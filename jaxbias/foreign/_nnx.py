"""Modules and States of Flax nnx, as they come: what of them is a param, and masks that fit its optimizer.

Flax is not imported: without it there is nothing of it in params.
"""

import sys
from collections.abc import Callable
from typing import Any

import jax

from jaxbias._trees import path_name


def _nnx() -> Any:
    return sys.modules.get("flax.nnx")


def split_module(fn: Callable, params: Any) -> tuple[Callable, Any]:
    """(function, State of its Params) where params is a module; both as they are elsewhere.

    What else the module holds (batch statistics, counters of random numbers) is constant; the module is left as it is.
    """
    nnx = _nnx()
    if nnx is None or not isinstance(params, nnx.Module):
        return fn, params
    graph, state, rest = nnx.split(params, nnx.Param, ...)
    return (lambda state, *args, **options: fn(nnx.merge(graph, state, rest, copy=True), *args, **options)), state


def no_params(params: Any) -> list[bool]:
    """Of each leaf, whether it belongs to a variable that is no Param: batch statistics, keys and counters."""
    nnx = _nnx()
    if nnx is None:
        return [False] * len(jax.tree.leaves(params))
    is_variable = lambda x: isinstance(x, nnx.Variable)
    parts = jax.tree.leaves(params, is_leaf=is_variable)
    others = [is_variable(x) and not isinstance(x, nnx.Param) for x in parts]
    return [other for x, other in zip(parts, others) for _ in jax.tree.leaves(x)]


def for_optax(tree: Any) -> Any:
    """The tree, or a function that gives it where optax could not take the tree itself.

    optax calls what is callable, and an Equinox module is. A State of nnx has two forms in its optimizer, which makes
    its state from Variables and its updates from pure arrays: there the entries are found by their path.
    """
    nnx = sys.modules.get("flax.nnx")
    if nnx is None or not isinstance(tree, nnx.State):
        return (lambda _: tree) if callable(tree) else tree
    is_entry = lambda x: isinstance(x, tuple)
    entries = {_plain(path): entry for path, entry in jax.tree_util.tree_leaves_with_path(tree, is_leaf=is_entry)}
    return lambda params: jax.tree_util.tree_map_with_path(lambda path, _: entries.get(_plain(path)), params)


def _plain(path: tuple[Any, ...]) -> str:
    return path_name(path).removesuffix(".value")

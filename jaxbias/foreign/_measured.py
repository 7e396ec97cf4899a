"""What every surgery does before and after: leaves by path, and the measured change of the user's own function."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import numpy as np
from jaxtyping import Array

from jaxbias.foreign.traced import split_params
from jaxbias.params import SomeTree, Tree


class Surgery(NamedTuple):
    """New params, and the change of the output: max |after − before| / max |before|, measured on the given data."""

    params: Tree
    change: float


def output_change(fn: Callable, before: Any, after: Any, *args: Any) -> float:
    """max |fn(after) − fn(before)| / max |fn(before)| over all output entries; NaN where an output is NaN."""
    outputs = output_of(fn, before, args)
    old = outputs(before)
    same_tree = split_params(before).paths == split_params(after).paths
    return relative_change(old, (outputs if same_tree else output_of(fn, after, args))(after))


def output_of(fn: Callable, params: Any, args: tuple[Any, ...]) -> Callable[[Any], np.ndarray]:
    """`params -> all entries of fn(params, *args)`, compiled once, for params of this tree."""
    rebuild = split_params(params).rebuild
    run = jax.jit(lambda leaves: jax.tree.leaves(fn(rebuild(leaves), *args)))
    return lambda params: np.concatenate([np.ravel(x) for x in run(split_params(params).leaves)])


def relative_change(before: Any, after: Any) -> float:
    """max |after − before| / max |before|."""
    before, after = (np.asarray(x, np.float64) for x in (before, after))
    scale = max(np.max(np.abs(before), initial=0.0), np.finfo(np.float64).tiny)
    return float(np.max(np.abs(after - before), initial=0.0) / scale)


def get_leaf(params: Any, path: str, function: str) -> Array:
    """The leaf at a path.

    Raises:
        KeyError: no such leaf; the message lists the paths there are.
    """
    split = split_params(params)
    if path not in split.paths:
        raise KeyError(f"{function}: params have no leaf {path!r}; the leaves are {', '.join(split.paths)}.")
    return split.leaves[split.paths.index(path)]


def set_leaves(params: SomeTree, new: dict[str, Array]) -> SomeTree:
    """The same tree with some leaves replaced, cast to the dtype that they had."""
    split = split_params(params)
    leaves = [new[p].astype(x.dtype) if p in new else x for p, x in zip(split.paths, split.leaves)]
    return split.rebuild(leaves)


def measured(fn: Callable, before: Any, after: Any, args: tuple[Any, ...]) -> Surgery:
    """The new params with the change of fn."""
    return Surgery(after, output_change(fn, before, after, *args))

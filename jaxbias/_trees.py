"""What every room asks of a tree, a leaf or an exception: its name, its kind, its first line, its distance.

`leaf_errors` is the innermost step of every check: how far each leaf is from its reference, relative to its size.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.dtypes import float0


def path_name(path: tuple[Any, ...]) -> str:
    """A tree path as text, for example "0.weight"; "" for the path of a tree that is one leaf."""
    return jax.tree_util.keystr(path, simple=True, separator=".")


def is_float(x: Any) -> bool:
    """Whether this array, or what stands for one, holds real or complex floats, and so has a gradient."""
    return jnp.issubdtype(jnp.result_type(x), jnp.inexact)


def first_line(error: BaseException) -> str:
    """The first line of what an exception says; "" where it says nothing."""
    return (str(error).strip().splitlines() or [""])[0]


def in_one_line(error: BaseException) -> str:
    """The exception's class and its first line, as in the last line of a traceback: "ValueError: got 3 rows"."""
    return ": ".join(filter(None, [type(error).__name__, first_line(error)]))


def relative_errors(actual: Any, expected: Any) -> dict[str, float]:
    """Largest error of each leaf of `expected`, relative to the largest entry of that leaf; absolute where that is 0.

    A float0 leaf (the cotangent of an integer) has no value and is left out.

    Raises:
        ValueError: the trees or the shapes of their leaves differ.
    """
    expected_leaves = {
        path_name(path): leaf
        for path, leaf in jax.tree_util.tree_leaves_with_path(expected)
        if jnp.result_type(leaf) != float0
    }
    actual_leaves = {path_name(path): leaf for path, leaf in jax.tree_util.tree_leaves_with_path(actual)}
    if actual_leaves.keys() != expected_leaves.keys():
        raise ValueError(
            f"leaves differ: the backward returned {sorted(actual_leaves)}, expected {sorted(expected_leaves)}."
        )
    errors = {}
    for path, leaf in expected_leaves.items():
        want, got = np.asarray(leaf, np.float64), np.asarray(actual_leaves[path], np.float64)
        if want.shape != got.shape:
            raise ValueError(
                f"{path or 'the only leaf'}: the backward returned shape {got.shape}, expected {want.shape}."
            )
        scale = np.max(np.abs(want), initial=0.0)
        errors[path] = float(np.max(np.abs(got - want), initial=0.0) / (scale or 1.0))
    return errors


def leaf_errors(
    forward: Callable[..., Any], backward: Callable[..., Any], params: Any, x: Any, delta: Any
) -> dict[str, float]:
    """Largest error of each leaf of (grads, delta_x) against autodiff, relative to that leaf's largest entry.

    Args:
        forward: `(params, x) -> (out, residuals)`.
        backward: `(residuals, delta) -> (grads, delta_x)`.

    Raises:
        ValueError: backward returned another tree or other shapes than (params, x).
    """
    _, pull_back, residuals = jax.vjp(forward, params, x, has_aux=True)
    return relative_errors(actual=backward(residuals, delta), expected=pull_back(delta))

"""The checks at the public doors, once for all: each error is one line with what came, what was wanted, a remedy.

A door checks what autodiff or broadcasting would take without a word (a bias of shape (1,), a δ of another shape) or
answer in words of its own; shapes and dtypes are known while tracing, so a check adds nothing to a compiled program.
"""

import numbers
import operator
from functools import partial
from types import ModuleType
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

LONGEST_AXIS = 2**63 - 1
"""XLA counts the entries of an axis with 64 bits."""


def describe(x: Any) -> str:
    """What x is, in a few words for an error message."""
    if hasattr(x, "shape") and hasattr(x, "dtype"):
        return f"{_article(str(x.dtype))} array of shape {tuple(x.shape)}"
    if isinstance(x, ModuleType):
        return f"the module {x.__name__}"
    if isinstance(x, type):
        return f"the class {x.__name__}"
    if isinstance(x, tuple) and (fields := getattr(x, "_fields", ())):
        if hasattr(x, "forward"):
            return f"the {'layer' if hasattr(x, 'init') else 'loss'} {getattr(x, 'name', '')}".rstrip()
        return f"{type(x).__name__}({', '.join(fields)})"
    if isinstance(x, dict):
        return f"a dict with the keys {', '.join(map(str, x))}" if x else "an empty dict"
    if isinstance(x, list | tuple):
        return f"a {type(x).__name__} of {len(x)}" if x else f"an empty {type(x).__name__}"
    if x is None:
        return "None"
    if isinstance(x, str | numbers.Number):
        return f"the {type(x).__name__} {x!r}"
    if isinstance(x, partial):
        return f"a partial of {describe(x.func)}"
    if callable(x) and hasattr(x, "__name__"):
        return "a lambda" if x.__name__ == "<lambda>" else f"the function {function_name(x)}"
    return _article(type(x).__name__)


def function_name(function: Any) -> str:
    """Its name; `layer`, `loss`, `forward`, … of a module of this library with that module before it."""
    name, module = function.__name__, getattr(function, "__module__", None) or ""
    return f"{module.rpartition('.')[2]}.{name}" if name in ("layer", "loss", "forward", "backward", "init") else name


def _article(noun: str) -> str:
    return f"an {noun}" if noun[:1].lower() in "aeiou" and not noun.startswith("uint") else f"a {noun}"


def check_float(x: Any, function: str, argument: str = "x") -> None:
    """Raise a TypeError unless x is a floating-point array."""
    if not hasattr(x, "dtype") or not jnp.issubdtype(x.dtype, jnp.floating):
        got = x.dtype if hasattr(x, "dtype") else type(x).__name__
        remedy = f"{argument}.astype(jnp.float32)" if hasattr(x, "dtype") else f"jnp.asarray({argument}, jnp.float32)"
        if hasattr(x, "dtype") and jnp.issubdtype(x.dtype, jnp.complexfloating):
            remedy = f"{argument}.real"
        raise TypeError(
            f"{function}: {argument} must be a floating-point array, got {got}. Convert it first, for example {remedy}."
        )


def check_features(x: Any, features: int, function: str, needed_by: str) -> None:
    """Raise unless x is a floating-point array whose last axis has `features` entries.

    Raises:
        TypeError: x is not a floating-point array.
        ValueError: x has no axis, or another number of features.
    """
    check_float(x, function)
    if x.ndim == 0 or x.shape[-1] != features:
        got = "is a scalar" if x.ndim == 0 else f"has {x.shape[-1]} features"
        raise ValueError(f"{function}: x {got} but {needed_by} (x has shape {x.shape}).")


def check_delta(delta: Any, shape: tuple[int, ...], function: str) -> Array:
    """delta as a JAX array, which must have the shape of the output; any floating dtype will do.

    Raises:
        TypeError: delta is not a floating-point array.
        ValueError: another shape, which a product or a sum might otherwise broadcast.
    """
    check_float(delta, function, "delta")
    if tuple(delta.shape) != tuple(shape):
        raise ValueError(
            f"{function}: delta has shape {tuple(delta.shape)} but the output of forward has {tuple(shape)}: δ = ∂L/∂z "
            f"holds one number for each entry of z. Hand over the residuals and the delta of one forward pass."
        )
    return jnp.asarray(delta) if isinstance(delta, np.ndarray | np.generic) else delta


def check_size(value: Any, function: str, argument: str, least: int = 1) -> None:
    """Raise unless value is a whole number of at least `least`; True and False are none.

    Raises:
        TypeError: no whole number.
        ValueError: a smaller one, or one that no axis can have.
    """
    wanted = f"{function}: {argument} must be a whole number of at least {least}, got {describe(value)}."
    try:
        size = operator.index(value)
    except TypeError:
        remedy = " Use // or int(...) to make one." if isinstance(value, float) else ""
        raise TypeError(wanted + remedy) from None
    if isinstance(value, bool | np.bool_):
        raise TypeError(wanted)
    if size < least:
        raise ValueError(wanted)
    if size > LONGEST_AXIS:
        raise ValueError(f"{function}: {argument} must be at most {LONGEST_AXIS}, the longest axis, got {size}.")


def check_number(value: Any, function: str, argument: str) -> None:
    """Raise a TypeError unless value is a real number, or a scalar array; True and False are none."""
    is_scalar = getattr(value, "shape", None) == () and not jnp.issubdtype(value.dtype, jnp.bool_)
    if isinstance(value, bool) or not (is_scalar or isinstance(value, numbers.Real)):
        raise TypeError(f"{function}: {argument} must be a number, got {describe(value)}.")


def check_flag(value: Any, function: str, argument: str) -> None:
    """Raise a TypeError unless value is True or False."""
    if not isinstance(value, bool | np.bool_):
        raise TypeError(f"{function}: {argument} must be True or False, got {describe(value)}.")


def check_key(key: Any, function: str) -> None:
    """Raise a TypeError unless key is a JAX key, of the new or the old kind."""
    is_key = hasattr(key, "dtype") and (jnp.issubdtype(key.dtype, jax.dtypes.prng_key) or key.dtype == jnp.uint32)
    if not is_key:
        raise TypeError(f"{function}: key must be a JAX key such as jax.random.key(0), got {describe(key)}.")


def check_no_params(params: Any, function: str) -> None:
    """Raise a ValueError where a layer that learns nothing is handed params, whose gradients would be missing."""
    if jax.tree.leaves(params):
        raise ValueError(
            f"{function}: this layer learns nothing and wants the empty tuple () as params, got {describe(params)}. "
            f"Are these the params of another layer?"
        )

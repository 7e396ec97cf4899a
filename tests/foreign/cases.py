"""Functions with the roles of their leaves, as tests enter them."""

import warnings
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import pytest
from jax import lax

import jaxbias as jb

X = jax.ShapeDtypeStruct((5, 3), jnp.float32)
ROW = jax.ShapeDtypeStruct((3,), jnp.float32)
INDEX = jax.ShapeDtypeStruct((), jnp.int32)
IDS = jax.ShapeDtypeStruct((5,), jnp.int32)
KEY = jax.eval_shape(lambda: jax.random.key(0))
OLD_KEY = jax.ShapeDtypeStruct((2,), jnp.uint32)

W, B = (3, 4), (4,)


def shapes(**leaves):
    return {name: jax.ShapeDtypeStruct(shape, jnp.float32) for name, shape in leaves.items()}


def check(fn, params, args, expected):
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # no "other" here comes from an operation that is not known
        assert jb.roles(fn, params, *args) == expected


def entering(cases: list[Any]) -> Callable[..., Callable[[Callable[..., Any]], Callable[..., Any]]]:
    """A decorator that enters a function of params and `args` into these cases."""

    def case(kind, params, args, **expected):
        def register(fn):
            cases.append(pytest.param(fn, params, args, expected, id=f"{kind}: {fn.__name__}"))
            return fn

        return register

    return case


# --- whole architectures ----------------------------------------------------------------------------------------------


def form(*shape):
    return jax.ShapeDtypeStruct(shape, jnp.float32)


def ints(*shape):
    return jax.ShapeDtypeStruct(shape, jnp.int32)


def entering_models(models: list[Any]) -> Callable[..., Callable[[Callable[..., Any]], Callable[..., Any]]]:
    """A decorator that enters a function of params and `args` into these models; of each leaf its shape and role."""

    def model(*args, **leaves):
        def register(fn):
            params = {name: form(*shape) for name, (shape, _) in leaves.items()}
            expected = {name: role for name, (_, role) in leaves.items()}
            models.append(pytest.param(fn, params, args, expected, id=fn.__name__))
            return fn

        return register

    return model


def check_or_warned(fn, params, args, expected):
    """Every leaf has its role, or one of "a | b", or is "other" and a warning names it."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        roles = jb.roles(fn, params, *args)
    said = "".join(str(w.message) for w in caught)
    warned = [k for k, role in roles.items() if role == "other" and f"{k} by" in said]
    wrong = {k: role for k, role in roles.items() if role not in expected[k].split(" | ") and k not in warned}
    assert not wrong


def convolved(x, kernel, groups=1):
    return lax.conv_general_dilated(
        x, kernel, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC"), feature_group_count=groups
    )


def normalised(x, axis=-1):
    return (x - x.mean(axis, keepdims=True)) * lax.rsqrt(x.var(axis, keepdims=True) + 1e-6)

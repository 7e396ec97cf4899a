"""Functions with the roles of their leaves, as tests enter them."""

import warnings
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import pytest

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

"""Weight and bias initializers, by name or as functions `(key, shape, dtype) -> array`."""

from collections.abc import Callable
from typing import Any

import jax
from jax.typing import DTypeLike
from jaxtyping import Array

from jaxbias.params import Params

Initializer = Callable[..., Array]
"""`(key, shape, dtype) -> array`, as in `jax.nn.initializers`."""

zeros = jax.nn.initializers.zeros
lecun_normal = jax.nn.initializers.lecun_normal()


def affine(
    key: Array,
    weight_shape: tuple[int, ...],
    bias_shape: tuple[int, ...],
    dtype: DTypeLike,
    *,
    use_bias: bool,
    weight_init: Any,
    bias_init: Any,
) -> Params:
    """Params of an affine layer; the fan-in is the product of all weight axes but the last."""
    weight_key, bias_key = jax.random.split(key)
    weight = weight_init(weight_key, weight_shape, dtype)
    if not use_bias:
        return Params(weight, None)
    return Params(weight, bias_init(bias_key, bias_shape, dtype))

"""What the wrappers of an affine layer share, whose weight is computed from what is learned."""

import jax
import numpy as np
from jaxtyping import Array

from jaxbias.layouts import Arrays
from jaxbias.params import Layer, Params, as_layer


def check_base(base: Layer, function: str) -> None:
    """Raise unless `base` is a stateless leaf layer; whether it is affine its params say.

    Raises:
        TypeError: no `Layer`.
        ValueError: a network, or a layer with a state.
    """
    as_layer(base, function)
    if base.parts or base.state is not None:
        raise ValueError(f"{function}: {base.name} is no single affine layer without a state, such as jb.layers.dense.")


def affine_params(base: Layer, key: Array, x, function: str) -> Params:
    """Params of the layer inside, which must be a weight of two axes or more, and a bias or None.

    Raises:
        ValueError: another kind of params.
    """
    params = base.init(key, x)
    if not isinstance(params, Params) or params.weight.ndim < 2:
        shapes = [leaf.shape for leaf in jax.tree.leaves(params)]
        raise ValueError(f"{function}: {base.name} has no weight matrix (its params have shapes {shapes}).")
    return params


def as_matrix(weight: Array) -> Array:
    """(fan-in, outputs): all axes but the last made one."""
    return weight.reshape(-1, weight.shape[-1])


def base_weight(base: Layer, weight: np.ndarray, *, written: bool) -> np.ndarray:
    """The weight of the layer inside in PyTorch's layout where it is `written`, or back from it."""
    layout = base.layouts.pytorch
    if layout is None:
        raise ValueError(f"the PyTorch layout of a {base.name} layer is not known.")
    arrays: Arrays = {"weight": weight}
    return (layout.write if written else layout.read)(arrays)["weight"]

"""Initialization from a batch: weights and biases scaled so that every pre-activation has mean 0 and variance 1.

With the mean μ and the standard deviation s of z = x W + b over the rows (and positions) of a batch, unit by unit:

            W ← W / s,    b ← (b − μ) / s,    so that z ← (z − μ) / s

Source: T. Salimans and D. Kingma, Weight Normalization (2016), eqs. 5-6, there on the parameters g and b.
"""

from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array

from jaxbias._numerics import widen
from jaxbias.params import Layer, Params, SomeTree, Tree, as_layer, run_forward


def data_dependent(
    network: Layer, params: SomeTree, x: Any, state: Tree = None, *, unit_variance: bool = True
) -> SomeTree:
    """Params with which every affine layer that has a bias starts at mean 0 and variance 1 on the batch x.

    The layers are set from the first to the last, each on what the layers before it now give. Layers without a bias,
    norms and recurrent cells keep their params. A unit that gives the same z for every row is shifted and not scaled.

    Args:
        network: any layer, so any network.
        params: from `network.init(key, x)`.
        x: a batch of at least two rows, in whatever form the network takes: a pair for bilinear, ids for an embedding.
        state: from `network.state.init(key, x)`, where the network keeps a state.
        unit_variance: False shifts the biases to mean 0 and leaves the weights alone.

    Raises:
        TypeError: network is no `Layer`.
        ValueError: fewer than two rows.
    """
    as_layer(network, "data_dependent")
    shapes = [leaf.shape for leaf in jax.tree.leaves(x)]
    if not shapes or any(not shape or shape[0] < 2 for shape in shapes):
        got = ", ".join(map(str, shapes)) or "nothing"
        raise ValueError(f"data_dependent: x must be a batch of at least two rows to have a variance, got {got}.")
    return _set(network, params, x, state, unit_variance)[0]


def _set(layer: Layer, params: Tree, x: Any, state: Tree, unit_variance: bool) -> tuple[Tree, Any]:
    """New params of a layer, and its output with them."""
    if layer.name == "chain":
        new = []
        for i, part in enumerate(layer.parts):
            part_params, x = _set(part, params[i], x, None if state is None else state[i], unit_variance)
            new.append(part_params)
        return tuple(new), x
    if layer.name == "parallel":
        params = tuple(
            _set(part, params[i], x, None if state is None else state[i], unit_variance)[0]
            for i, part in enumerate(layer.parts)
        )
    elif layer.name == "residual":
        params = _set(layer.parts[0], params, x, state, unit_variance)[0]
    out, _ = run_forward(layer, params, x, state)
    if isinstance(params, Params) and not layer.parts and params.bias is not None and params.weight.ndim > 1:
        params = _normalized(params.weight, params.bias, out, unit_variance)
        out, _ = run_forward(layer, params, x, state)
    return params, out


def _normalized(weight: Array, bias: Array, z: Array, unit_variance: bool) -> Params:
    """W / s and (b − μ) / s, for a layer whose units are the last axis of weight, bias and z."""
    z = widen(z).reshape(-1, z.shape[-1])
    mean, deviation = z.mean(axis=0), z.std(axis=0)
    varies = deviation > 16 * float(jnp.finfo(weight.dtype).eps) * jnp.abs(mean)
    scale = 1 / jnp.where(varies, deviation, 1) if unit_variance else jnp.ones_like(deviation)
    new_weight = weight.astype(mean.dtype) * jnp.broadcast_to(scale, weight.shape)
    new_bias = (bias.astype(mean.dtype) - mean) * scale
    return Params(new_weight.astype(weight.dtype), new_bias.astype(bias.dtype))

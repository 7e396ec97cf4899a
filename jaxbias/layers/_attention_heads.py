"""The four products of attention: features to heads and back, each with its gradients (9.2.1), (9.2.4), (9.2.8)."""

import jax.numpy as jnp
from jaxtyping import Array, Float

from jaxbias._numerics import matmul, product, rows, sum_over, widen
from jaxbias.params import Params


def split_heads(x: Float[Array, "n t fan_in"], params: Params) -> Float[Array, "n heads t size"]:
    """x W + b, the heads apart (9.2.1)."""
    fan_in, heads, size = params.weight.shape
    z = product(x, params.weight.reshape(fan_in, heads * size))
    if params.bias is not None:
        z = z + jnp.broadcast_to(params.bias.reshape(-1), z.shape)
    return jnp.swapaxes(z.reshape(*x.shape[:-1], heads, size), 1, 2)


def heads_backward(x: Array, params: Params, delta: Float[Array, "n heads t size"]) -> tuple[Params, Array]:
    """Its gradients and δx (9.2.8), (9.2.9)."""
    weight, bias = params
    fan_in, heads, size = weight.shape
    delta = jnp.swapaxes(delta, 1, 2)
    delta = delta.reshape(*delta.shape[:2], heads * size)
    grad_weight = matmul(rows(widen(x)).T, rows(delta)).reshape(weight.shape)
    grad_bias = None if bias is None else sum_over(delta, (0, 1)).reshape(bias.shape)
    return Params(grad_weight, grad_bias), matmul(delta, widen(weight).reshape(fan_in, heads * size).T).reshape(x.shape)


def merged(o: Float[Array, "n G R T e"]) -> Float[Array, "n T merged"]:
    n, g, r, t, e = o.shape
    return jnp.moveaxis(o, 3, 1).reshape(n, t, g * r * e)


def unmerged(merged: Float[Array, "n T merged"], shape: tuple[int, ...]) -> Float[Array, "n G R T e"]:
    n, g, r, t, e = shape
    return jnp.moveaxis(merged.reshape(n, t, g, r, e), 1, 3)


def matrix_of(weight_out: Float[Array, "H e F"]) -> Float[Array, "merged F"]:
    heads, e, fan_out = weight_out.shape
    return widen(weight_out).reshape(heads * e, fan_out)

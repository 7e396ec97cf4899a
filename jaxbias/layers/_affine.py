"""x W + b and its gradients, for layers that hold several of them; in at least float32."""

import jax.numpy as jnp
from jaxtyping import Array

from jaxbias._numerics import matmul, rows, sum_over, widen
from jaxbias.params import Params


def affine(x: Array, params: Params) -> Array:
    """z = x W + b."""
    z = matmul(widen(x), widen(params.weight))
    return z if params.bias is None else z + jnp.broadcast_to(widen(params.bias), z.shape)


def affine_backward(x: Array, params: Params, delta: Array) -> tuple[Params, Array]:
    """∂L/∂W = Σ xᵀ δ and ∂L/∂b = Σ δ over all leading axes, and ∂L/∂x = δ Wᵀ."""
    grad_bias = None if params.bias is None else sum_over(delta, tuple(range(delta.ndim - 1)))
    grads = Params(matmul(rows(widen(x)).T, rows(delta)), grad_bias)
    return grads, matmul(delta, widen(params.weight).T)

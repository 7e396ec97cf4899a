"""A layer and its right rule, the start of what the tests plant mistakes in."""

import jax.numpy as jnp


def forward(x, weight):
    return jnp.tanh(x @ weight)


def rule(args, ct):
    x, weight = args
    delta = ct * (1 - jnp.tanh(x @ weight) ** 2)
    return delta @ weight.T, x.T @ delta

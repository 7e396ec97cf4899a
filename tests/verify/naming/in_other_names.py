"""A rule of a module that calls `jax.numpy` by another name."""

from jax import numpy as xp


def grows(x, w):
    h = xp.exp(xp.cumsum(x @ w, axis=0))
    return 2 * h


def grows_backwards(args, ct):
    x, w = args
    h = xp.exp(xp.cumsum(x @ w, axis=0))
    dz = xp.cumsum(2 * ct * h, axis=0)
    return dz @ w.T, x.T @ dz

"""Linear regression with and without a bias: the article's data, closed forms, and the model in the library.

With a bias     w = Sxy / Sxx,  b = ȳ − w x̄
Without         w₀ = Σxy / Σx² = w + b Σx / Σx²
Cost gap        MSE₀ − MSE = b² (1 − (Σx)² / (n Σx²)) ≥ 0
Source: derivation sheet, section 6.
"""

from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
from numpy import ndarray

from jaxbias.layers import dense
from jaxbias.params import Params


class Line(NamedTuple):
    """y = weight · x + bias and its mean squared error on the data that it was fitted to."""

    weight: float
    bias: float
    mse: float


def article_data() -> tuple[ndarray, ndarray]:
    """x and y of the article's script: y = 3x + 2 + noise of standard deviation 2, 50 points on [0, 10] (A4.5)."""
    rng = np.random.RandomState(42)  # the legacy generator, whose stream is frozen; the noise is its first draw
    noise = rng.normal(0, 2, size=(50, 1))[:, 0]
    x = np.linspace(0, 10, 50)
    return x, 3 * x + 2 + noise


def mse(weight: float | int, bias: float | int, x: ndarray, y: ndarray) -> float:
    """Mean squared error of a line."""
    return float(np.mean((weight * x + bias - y) ** 2))


def with_bias(x: ndarray, y: ndarray) -> Line:
    """The least-squares line."""
    sxx, sxy = np.sum((x - x.mean()) ** 2), np.sum((x - x.mean()) * (y - y.mean()))
    weight = float(sxy / sxx)
    bias = float(y.mean() - weight * x.mean())
    return Line(weight, bias, mse(weight, bias, x, y))


def without_bias(x: ndarray, y: ndarray) -> Line:
    """The least-squares line through the origin."""
    weight = float(np.sum(x * y) / np.sum(x * x))
    return Line(weight, 0.0, mse(weight, 0.0, x, y))


def gap(x: ndarray, y: ndarray) -> float:
    """What the bias is worth on the training data: b² (1 − (Σx)² / (n Σx²))."""
    return with_bias(x, y).bias ** 2 * (1 - x.sum() ** 2 / (x.size * np.sum(x * x)))


def r_squared(line: Line, y: ndarray) -> float:
    """1 − MSE / Var(y)."""
    return float(1 - line.mse / np.var(y))


NEURON = dense.layer(1)
"""One linear neuron with a bias; its x is (n, 1)."""

NEURON_WITHOUT = dense.layer(1, use_bias=False)
"""One linear neuron without a bias."""


def start(use_bias: bool = True) -> Params:
    """The neuron's params at zero, float64."""
    return Params(jnp.zeros((1, 1)), jnp.zeros(1) if use_bias else None)

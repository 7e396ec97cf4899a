"""Activations that couple the entries of one axis: softmax, log-softmax, and the sparse sparsemax and 1.5-entmax."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array

from jaxbias._doors import check_float, describe
from jaxbias._numerics import widen
from jaxbias.derivation import Derivation, Example
from jaxbias.layers._elementwise import without_params
from jaxbias.params import Layer


def check_axis(axis: int, function: str) -> Callable[[Any, str], None]:
    """The check of an input for the axis of its classes; raises a TypeError at once where that is no number."""
    if isinstance(axis, bool) or not isinstance(axis, int):
        raise TypeError(f"{function}: axis must be the number of one axis, got {describe(axis)}.")

    def check(x: Any, function: str) -> None:  # at init, x may be a ShapeDtypeStruct
        check_float(x, function)
        if not -len(x.shape) <= axis < len(x.shape):
            raise ValueError(f"{function}: axis={axis} does not exist in x of shape {x.shape}.")

    return check


def _shifted(z: Array, axis: int) -> Array:
    """z less its maximum, in at least float32. A shift changes no function here, so no derivative runs through it."""
    z = widen(z)
    return z - jax.lax.stop_gradient(z.max(axis=axis, keepdims=True, initial=-jnp.inf))


def make_softmax(axis: int = -1) -> Layer[tuple[()]]:
    """a = e^z / Σ e^z along `axis`; ∂L/∂z = a (δ − Σ a δ), whose sum along the axis is 0.

    Raises (from init and forward):
        ValueError: x has no such axis.
    """

    def function(z):
        exp = jnp.exp(_shifted(z, axis))
        return (exp / exp.sum(axis=axis, keepdims=True)).astype(z.dtype)

    def error_signal(a, delta):
        return a * (delta - (a * delta).sum(axis=axis, keepdims=True))

    return without_params("softmax", function, error_signal, "output", check_axis(axis, "make_softmax"))


def make_log_softmax(axis: int = -1) -> Layer[tuple[()]]:
    """a = z − log Σ e^z along `axis`; ∂L/∂z = δ − eᵃ Σ δ, whose sum along the axis is 0.

    Raises (from init and forward):
        ValueError: x has no such axis.
    """

    def function(z):
        shifted = _shifted(z, axis)
        return (shifted - jnp.log(jnp.exp(shifted).sum(axis=axis, keepdims=True))).astype(z.dtype)

    def error_signal(a, delta):
        return delta - jnp.exp(a) * delta.sum(axis=axis, keepdims=True)

    return without_params("log_softmax", function, error_signal, "output", check_axis(axis, "make_log_softmax"))


def make_sparsemax(axis: int = -1) -> Layer[tuple[()]]:
    """The point of the simplex nearest to z: a = max(z − τ, 0) along `axis`, τ such that Σ a = 1.

    With the support K, where a > 0: τ = (Σ_K z − 1)/|K|, and ∂L/∂z = [a > 0] (δ − Σ_K δ/|K|), whose sum along the axis
    is 0 (9.10.10). A z at the border, z = τ, has a = 0 and counts as outside.

    Raises (from init and forward):
        ValueError: x has no such axis.
    """

    def function(z):
        shifted = _shifted(z, axis)
        # the j largest are the support as long as the least of them stays above the τ that they would have
        largest, count = _descending(shifted, axis)
        inside = 1 + count * largest > jnp.cumsum(largest, axis=axis)
        outside = shifted < _least(largest, inside, axis)
        tau = (_sum(shifted, outside, axis) - 1) / _sum(jnp.ones_like(shifted), outside, axis)
        return jnp.where(outside | (shifted <= tau), 0, shifted - tau).astype(z.dtype)

    def error_signal(a, delta):
        outside = a <= 0
        mean = _sum(delta, outside, axis) / _sum(jnp.ones_like(delta), outside, axis)
        return jnp.where(outside, 0, delta - mean)

    return without_params("sparsemax", function, error_signal, "output", check_axis(axis, "make_sparsemax"))


def make_entmax15(axis: int = -1) -> Layer[tuple[()]]:
    """a = max(z/2 − τ, 0)² along `axis`, τ such that Σ a = 1: between softmax and sparsemax.

    With g = √a: ∂L/∂z = g (δ − Σ g δ/Σ g), whose sum along the axis is 0 (9.10.11). No kink: g goes to 0 with a.

    Raises (from init and forward):
        ValueError: x has no such axis.
    """

    def function(z):
        half = _shifted(z, axis) / 2
        # τ of the j largest, as long as the least of them stays above it
        largest, count = _descending(half, axis)
        mean = jnp.cumsum(largest, axis=axis) / count
        left = 1 - (jnp.cumsum(largest * largest, axis=axis) - count * mean * mean)
        inside = mean - jnp.sqrt(jnp.maximum(left, 0) / count) < largest
        outside = half < _least(largest, inside, axis)
        size = _sum(jnp.ones_like(half), outside, axis)
        mean = _sum(half, outside, axis) / size
        away = jnp.where(outside, 0, half - mean)
        tau = mean - jnp.sqrt((1 - (away * away).sum(axis=axis, keepdims=True)) / size)
        root = jnp.where(outside | (half <= tau), 0, half - tau)
        return (root * root).astype(z.dtype)

    def error_signal(a, delta):
        g = jnp.sqrt(a)
        return g * (delta - (g * delta).sum(axis=axis, keepdims=True) / g.sum(axis=axis, keepdims=True))

    return without_params("entmax15", function, error_signal, "output", check_axis(axis, "make_entmax15"))


def _descending(z: Array, axis: int) -> tuple[Array, Array]:
    """z from its largest entry on, as constants, and 1, 2, 3, … beside it."""
    axis = axis % z.ndim
    count = jax.lax.broadcasted_iota(z.dtype, z.shape, axis) + 1
    return -jnp.sort(-jax.lax.stop_gradient(z), axis=axis), count


def _least(largest: Array, inside: Array, axis: int) -> Array:
    """The smallest entry of the support. A comparison with it is false for NaN, which so stays in it and comes out."""
    return jnp.where(inside, largest, jnp.inf).min(axis=axis, keepdims=True, initial=jnp.inf)


def _sum(values: Array, outside: Array, axis: int) -> Array:
    return jnp.where(outside, 0, values).sum(axis=axis, keepdims=True)


softmax: Layer[tuple[()]] = make_softmax()
"""Softmax along the last axis."""

log_softmax: Layer[tuple[()]] = make_log_softmax()
"""Log-softmax along the last axis; stable where the logarithm of a softmax would be log 0."""

sparsemax: Layer[tuple[()]] = make_sparsemax()
"""Sparsemax along the last axis: probabilities of which some are exactly 0."""

entmax15: Layer[tuple[()]] = make_entmax15()
"""1.5-entmax along the last axis."""


DERIVATIONS = (
    Derivation(
        "softmax",
        (
            r"a_k = e^{z_k} / \sum_i e^{z_i}",
            r"\partial L/\partial z = a \left(\delta - \sum_i a_i \delta_i\right)",
        ),
        "Bishop (2006), eq. 4.106",
        (
            Example("matrix", softmax, (5, 3)),
            Example("middle axis", make_softmax(axis=1), (2, 3, 4)),
            Example("one class", softmax, (5, 1)),
            Example("no rows", softmax, (0, 3)),
        ),
    ),
    Derivation(
        "log_softmax",
        (
            r"a_k = z_k - \log \sum_i e^{z_i}",
            r"\partial L/\partial z = \delta - e^{a} \sum_i \delta_i",
        ),
        "Bishop (2006), eq. 4.106",
        (
            Example("matrix", log_softmax, (5, 3)),
            Example("first axis", make_log_softmax(axis=0), (2, 3, 4)),
            Example("one class", log_softmax, (5, 1)),
            Example("no classes", log_softmax, (5, 0)),
        ),
    ),
    Derivation(
        "sparsemax",
        (
            r"a = \max(z - \tau, 0), \quad \tau = \left(\sum_{i \in K} z_i - 1\right) / |K|, \quad K = \{i: a_i > 0\}",
            r"\partial L/\partial z = [a > 0] \left(\delta - \sum_{i \in K} \delta_i / |K|\right)",
        ),
        "Martins and Astudillo (2016); equation (9.10.10)",
        (
            Example("matrix", sparsemax, (5, 3)),
            Example("middle axis", make_sparsemax(axis=1), (2, 5, 3)),
            Example("one class", sparsemax, (5, 1)),
            Example("no rows", sparsemax, (0, 3)),
        ),
    ),
    Derivation(
        "entmax15",
        (
            r"a = \max(z/2 - \tau, 0)^2, \quad \sum_i a_i = 1",
            r"\partial L/\partial z = g \left(\delta - \sum_i g_i \delta_i / \sum_i g_i\right), \quad g = \sqrt{a}",
        ),
        "Peters et al. (2019); equation (9.10.11)",
        (
            Example("matrix", entmax15, (5, 3)),
            Example("middle axis", make_entmax15(axis=1), (2, 5, 3)),
            Example("one class", entmax15, (5, 1)),
            Example("no rows", entmax15, (0, 3)),
        ),
    ),
)

"""Resampling of the spatial axes to other lengths, nearest or linear in each axis, channels last; no params.

Input (n, *spatial, channels), output (n, *lengths, channels); axis after axis, from n entries to m.

Forward     nearest   z[p] = x[src(p)],  src(p) = ⌊p n/m⌋                                           (9.8.5)
            linear    z = A x, the rows of A have the two weights 1 − w and w                       (9.8.6)
                      z[p] = (1 − w) x[lo] + w x[lo + 1],  lo + w the source coordinate of p:
                      (p + ½) n/m − ½ clipped to [0, n − 1], or p (n − 1)/(m − 1) with align_corners
Backward    nearest   ∂L/∂x[i] = Σ_{p: src(p) = i} δ[p]      a sum and no mean                      (9.8.5), (5)
            linear    ∂L/∂x = Aᵀ δ                                                                  (9.8.6), (5)

Over two axes "linear" is bilinear, z = A_h x A_wᵀ. Where an axis gets longer, `jax.image.resize` has the same linear
form without align_corners; nothing is smoothed where it gets shorter. Rows of A sum to 1, so a bias per channel before
the resampling is the same as one after it. Computed and summed in at least float32.

    >>> z, _ = upsample.layer(2, method="linear").forward((), jnp.ones((1, 4, 4, 3)))      # (1, 8, 8, 3)

Source: equations (9.8.5), (9.8.6); coordinates as in torch.nn.functional.interpolate.
"""

from collections.abc import Sequence
from functools import partial

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from jaxbias._doors import check_delta, check_float, check_no_params, describe
from jaxbias._numerics import widen
from jaxbias.derivation import Derivation, Example
from jaxbias.layers._windows import check_lengths, per_axis, spatial_axes
from jaxbias.params import Layer, Static

METHODS = ("nearest", "linear")


def forward(
    params: tuple[()],
    x: Float[Array, "n *spatial channels"],
    *,
    factor: int | Sequence[int] | None = None,
    size: int | Sequence[int] | None = None,
    method: str = "nearest",
    align_corners: bool = False,
) -> tuple[Float[Array, "n *lengths channels"], Static]:
    """x with other spatial lengths.

    Args:
        params: the empty tuple.
        factor: how many times as long, an int or one per spatial axis.
        size: the new lengths in its place.
        method: "nearest" or "linear".
        align_corners: whether the first and the last entries stay where they are; for "linear".

    Raises:
        TypeError: x is not floating point.
        ValueError: x has no spatial axis or an empty one, both or neither of factor and size, another method, or
            align_corners with "nearest".
    """
    check_no_params(params, "upsample.forward")
    check_float(x, "upsample.forward")
    _check(factor, size, method, align_corners, "upsample.forward")
    z = widen(x)
    for axis, length in enumerate(_lengths(x.shape, factor, size), start=1):
        reads = _reads(x.shape[axis], length, method, align_corners)
        terms = [jnp.take(z, places, axis) * _along(weight, z, axis) for places, weight in reads]
        z = sum(terms[1:], terms[0])
    return z.astype(x.dtype), Static(x.shape)


def backward(
    residuals: Static,
    delta: Float[Array, "n *lengths channels"],
    *,
    factor: int | Sequence[int] | None = None,
    size: int | Sequence[int] | None = None,
    method: str = "nearest",
    align_corners: bool = False,
) -> tuple[tuple[()], Float[Array, "n *spatial channels"]]:
    """No grads; ∂L/∂x collects δ, weighted, of every place that reads it. The keywords are those of `forward`.

    Raises:
        TypeError: delta is not floating point.
        ValueError: delta has another shape than z.
    """
    x_shape = residuals.value
    lengths = _lengths(x_shape, factor, size)
    delta = check_delta(delta, (x_shape[0], *lengths, x_shape[-1]), "upsample.backward")
    delta_x = widen(delta)
    for axis, length in enumerate(lengths, start=1):
        total = jnp.zeros((*delta_x.shape[:axis], x_shape[axis], *delta_x.shape[axis + 1 :]), delta_x.dtype)
        for places, weight in _reads(x_shape[axis], length, method, align_corners):
            where = (*[slice(None)] * axis, places)
            total = total.at[where].add(delta_x * _along(weight, delta_x, axis), indices_are_sorted=True)
        delta_x = total
    return (), delta_x.astype(delta.dtype)


def _reads(n: int, m: int, method: str, align_corners: bool) -> list[tuple[np.ndarray, np.ndarray]]:
    """What each of m places reads of n entries: pairs of the entry's number and its weight, both of length m."""
    p = np.arange(m)
    if method == "nearest":
        return [(p * n // m, np.ones(m))]
    aligned, by_halves = p * ((n - 1) / max(m - 1, 1)), np.clip((p + 0.5) * (n / m) - 0.5, 0, n - 1)
    source = aligned if align_corners else by_halves
    low = np.minimum(source.astype(int), n - 1)
    weight = source - low
    return [(low, 1 - weight), (np.minimum(low + 1, n - 1), weight)]


def _along(weight: np.ndarray, like: Array, axis: int) -> Array:
    """The weights of one axis, shaped to broadcast against `like`."""
    return jnp.asarray(np.expand_dims(weight, tuple(i for i in range(like.ndim) if i != axis)), like.dtype)


def _lengths(x_shape: tuple[int, ...], factor, size) -> tuple[int, ...]:
    axes = spatial_axes(x_shape, "upsample.forward")
    if 0 in x_shape[1:-1]:
        raise ValueError(f"upsample.forward: a spatial axis has no entries to read (x has shape {x_shape}).")
    if size is not None:
        return per_axis(size, axes, "upsample.forward", "size", x_shape)
    factors = per_axis(factor, axes, "upsample.forward", "factor", x_shape)
    return tuple(n * r for n, r in zip(x_shape[1:-1], factors))


def _check(factor, size, method: str, align_corners: bool, function: str) -> None:
    if (factor is None) == (size is None):
        raise ValueError(f"{function}: either factor or size says how long the axes become, got {factor} and {size}.")
    check_lengths(factor if size is None else size, function, "factor" if size is None else "size")
    if method not in METHODS:
        raise ValueError(f"{function}: method must be one of {', '.join(METHODS)}, got {describe(method)}.")
    if not isinstance(align_corners, bool):
        raise TypeError(f"{function}: align_corners must be True or False, got {describe(align_corners)}.")
    if align_corners and method == "nearest":
        raise ValueError(f'{function}: align_corners says where "linear" reads; leave it out with "nearest".')


def layer(
    factor: int | Sequence[int] | None = None,
    *,
    size: int | Sequence[int] | None = None,
    method: str = "nearest",
    align_corners: bool = False,
) -> Layer[tuple[()]]:
    """Resampling by `factor`, or to the lengths of `size`.

    Keywords as for `forward`.

    Raises:
        TypeError, ValueError: as `forward` of the keywords.
    """
    _check(factor, size, method, align_corners, "upsample.layer")

    def init(key, x):
        del key
        check_float(x, "upsample.init")
        return ()

    keywords = {"factor": factor, "size": size, "method": method, "align_corners": align_corners}
    return Layer(init, partial(forward, **keywords), partial(backward, **keywords), "upsample")


DERIVATIONS = (
    Derivation(
        "upsample",
        (
            r"z_p = x_{\mathrm{src}(p)} \text{ (nearest)}, \quad z = A_h\, x\, A_w^\top \text{ (linear)}",
            r"\partial L/\partial x_i = \sum_{p:\,\mathrm{src}(p)=i} \delta_p \text{ (nearest)}",
            r"\partial L/\partial x = A_h^\top \delta A_w \text{ (linear)}",
        ),
        "equations (9.8.5), (9.8.6)",
        (
            Example("nearest", layer(2), (2, 2, 3, 2)),
            Example("nearest, other lengths", layer(size=(5, 2)), (2, 3, 4, 2)),
            Example("linear, other lengths", layer(size=(5, 2), method="linear"), (2, 3, 4, 2)),
            Example("linear, corners aligned, 1-D", layer(3, method="linear", align_corners=True), (2, 3, 2)),
            Example("no rows, one place", layer(size=1, method="linear", align_corners=True), (0, 3, 2)),
        ),
    ),
)

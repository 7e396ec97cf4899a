"""Reshape every row of the batch: the leading axis n stays, the others are laid out anew; no params.

Forward     z = x in the shape (n, *shape)          shape None: (n, everything), which flattens
Backward    ∂L/∂x = δ in the shape of x             the map only renames the entries, so its transpose renames them back

Source: (5) with ∂z/∂x a permutation.
"""

import math
from collections.abc import Sequence
from functools import partial
from typing import NamedTuple

from jaxtyping import Array, Float

from jaxbias._doors import check_delta, check_float, check_no_params
from jaxbias.derivation import Derivation, Example
from jaxbias.params import Layer, Static


class Residuals(NamedTuple):
    x_shape: Static
    out_shape: Static


def forward(
    params: tuple[()], x: Float[Array, "n ..."], *, shape: Sequence[int] | None = None
) -> tuple[Float[Array, "n ..."], Residuals]:
    """x with the axes after the first laid out as `shape`; None flattens them into one.

    Args:
        params: the empty tuple.
        shape: lengths of the new axes; one of them may be −1, which stands for what is left.

    Raises:
        TypeError: x is not floating point.
        ValueError: x has no batch axis, or its rows do not have the number of entries that `shape` holds.
    """
    check_no_params(params, "reshape.forward")
    check_float(x, "reshape.forward")
    if x.ndim == 0:
        raise ValueError("reshape.forward: x must be (n, ...), got a scalar. Give it a batch axis: x[None].")
    size = math.prod(x.shape[1:])
    out = x.reshape(x.shape[0], *_lengths((size,) if shape is None else tuple(shape), size, x.shape))
    return out, Residuals(Static(x.shape), Static(out.shape))


def backward(residuals: Residuals, delta: Float[Array, "n ..."]) -> tuple[tuple[()], Float[Array, "n ..."]]:
    """No grads; ∂L/∂x = δ in the shape of x.

    Raises:
        TypeError: delta is not floating point.
        ValueError: delta has another shape than z.
    """
    delta = check_delta(delta, residuals.out_shape.value, "reshape.backward")
    return (), delta.reshape(residuals.x_shape.value)


def _lengths(shape: tuple[int, ...], size: int, x_shape: tuple[int, ...]) -> tuple[int, ...]:
    known = math.prod(n for n in shape if n != -1)
    free = shape.count(-1)
    if free == 1 and known > 0 and size % known == 0:
        return tuple(size // known if n == -1 else n for n in shape)
    if free == 0 and known == size and all(n >= 0 for n in shape):
        return shape
    raise ValueError(
        f"reshape.forward: each row of x has {size} entries, which do not fill shape {shape} (x has shape {x_shape}; "
        f"shape leaves out the batch axis, and at most one length may be -1)."
    )


def layer(shape: Sequence[int] | None = None) -> Layer[tuple[()]]:
    """Reshape each row to `shape`; without a shape, flatten it."""

    def init(key, x):
        del key
        check_float(x, "reshape.init")
        return ()

    return Layer(init, partial(forward, shape=shape), backward, "flatten" if shape is None else "reshape")


DERIVATIONS = (
    Derivation(
        "reshape",
        (r"z = \mathrm{reshape}(x)", r"\partial L/\partial x = \mathrm{reshape}^{-1}(\delta)"),
        "equation (5)",
        (
            Example("flatten", layer(), (5, 2, 3)),
            Example("to an image", layer((3, -1, 1)), (5, 6)),
            Example("vector rows", layer(), (5,)),
            Example("no rows", layer((3, 2)), (0, 6)),
        ),
    ),
)

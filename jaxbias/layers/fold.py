"""Fold: windows put back into an image, overlaps added up, also called col2im; no params. The transpose of `unfold`.

Input X (n, *positions, places · channels), one row per window of an image of lengths `size`, the places u of a window
in row-major order, channels last; output z (n, *size, channels). With stride S, dilation F and low padding P:

Forward     z[n, p, c] = Σ_{i,u: S i + F u − P = p} X[n, i, (u, c)]        0 where no window reads         (9.8.7)
Backward    ∂L/∂X[n, i, (u, c)] = δ[n, S i + F u − P, c]                   unfold(δ), 0 in the padding    (9.8.7), (5)

Sums are accumulated in at least float32. Means of overlaps are the fold divided by the fold of ones:

    >>> layer = fold.layer((8, 8), window=3)
    >>> z, _ = layer.forward((), patches)                              # (n, 6, 6, 9 · channels) to (n, 8, 8, channels)

torch.nn.Fold numbers the other way, c · places + u, and has the positions of all axes in one.

Source: derivation sheet (9.8.7), (5.1).
"""

import math
from collections.abc import Sequence
from functools import partial

from jaxtyping import Array, Float

from jaxbias._doors import check_delta, check_float, check_no_params
from jaxbias.derivation import Derivation, Example
from jaxbias.layers import _patches
from jaxbias.layers._windows import Padding, check_lengths, per_axis, spatial_axes
from jaxbias.params import Layer, Static


def forward(
    params: tuple[()],
    x: Float[Array, "n *positions entries"],
    *,
    size: int | Sequence[int],
    window: int | Sequence[int],
    stride: int | Sequence[int] = 1,
    padding: Padding = "VALID",
    dilation: int | Sequence[int] = 1,
) -> tuple[Float[Array, "n *size channels"], Static]:
    """The image of these windows, overlaps added up.

    Args:
        params: the empty tuple.
        size: lengths of the image, an int or one per spatial axis.
        window, stride, padding, dilation: how the windows lie in it, as for `unfold`.

    Raises:
        TypeError: x is not floating point.
        ValueError: x has no spatial axis, other positions than such windows have, or a number of entries that the
            places of a window do not divide; a keyword that does not fit the spatial axes.
    """
    check_no_params(params, "fold.forward")
    check_float(x, "fold.forward")
    n, *positions, entries = x.shape
    lengths = per_axis(size, spatial_axes(x.shape, "fold.forward"), "fold.forward", "size", x.shape)
    moves = _patches.moves((n, *lengths, entries), window, stride, padding, dilation, "fold.forward")
    if tuple(positions) != moves.positions:
        raise ValueError(
            f"fold.forward: an image of lengths {lengths} has {moves.positions} such windows, got x of shape {x.shape}."
        )
    places = math.prod(moves.window)
    if entries % places:
        raise ValueError(
            f"fold.forward: the entries of a window must be a multiple of its {places} places, got x of shape "
            f"{x.shape}."
        )
    return _patches.fold(x, moves.window, lengths, moves).astype(x.dtype), Static((moves, x.shape))


def backward(residuals: Static, delta: Float[Array, "n *size channels"]) -> tuple[tuple[()], Array]:
    """No grads; ∂L/∂X = unfold(δ).

    Raises:
        TypeError: delta is not floating point.
        ValueError: delta has another shape than z.
    """
    moves, (n, *_, entries) = residuals.value
    delta = check_delta(delta, (n, *moves.lengths, entries // math.prod(moves.window)), "fold.backward")
    return (), _patches.unfold(delta, moves.window, moves)


def layer(
    size: int | Sequence[int],
    *,
    window: int | Sequence[int],
    stride: int | Sequence[int] = 1,
    padding: Padding = "VALID",
    dilation: int | Sequence[int] = 1,
) -> Layer[tuple[()]]:
    """Windows put back into an image of lengths `size`.

    Keywords as for `forward`.

    Raises:
        TypeError, ValueError: an entry of size, window, stride or dilation is no positive whole number.
    """
    check_lengths(size, "fold.layer", "size")
    _patches.check_moves(window, stride, dilation, "fold.layer")

    def init(key, x):
        del key
        check_float(x, "fold.init")
        return ()

    keywords = {"size": size, "window": window, "stride": stride, "padding": padding, "dilation": dilation}
    return Layer(init, partial(forward, **keywords), backward, "fold")


DERIVATIONS = (
    Derivation(
        "fold",
        (
            r"z_{npc} = \sum_{i,u:\,Si+Fu-P=p} X_{n,i,(u,c)}",
            r"\partial L/\partial X_{n,i,(u,c)} = \delta_{n,\,Si+Fu-P,\,c}",
        ),
        "equations (9.8.7), (5)",
        (
            Example("2-D", layer((4, 3), window=2), (2, 3, 2, 8)),
            Example(
                "2-D, all keywords",
                layer((5, 4), window=(3, 2), stride=(2, 1), padding=((1, 2), (0, 1)), dilation=(1, 2)),
                (2, 3, 3, 12),
            ),
            Example("1-D, gaps, cropped", layer(9, window=2, stride=3, padding=-1), (2, 2, 6)),
            Example("no rows", layer(4, window=3, padding="SAME"), (0, 4, 4, 9)),
        ),
        {"X": ("x",)},
    ),
)

"""Unfold: the windows of an image as rows, channels last, also called im2col; no params. Its transpose is `fold`.

Input x (n, *spatial, channels), output X (n, *positions, places · channels); window i starts at S i − P for stride S
and low padding P and reads every F-th entry (dilation). The places u of a window are in row-major order, channels last:

Forward     X[n, i, (u, c)] = x̄[n, S i + F u − P, c]        x̄ is x, and 0 in the padding                  (9.8.7)
Backward    ∂L/∂x[n, p, c] = Σ_{i,u: S i + F u − P = p} δ[n, i, (u, c)]        fold(δ)                    (9.8.7), (5)

A dense layer behind it is a convolution whose kernel (*kernel, channels, out) is the matrix of the dense layer:

    >>> patches, _ = unfold.layer(3).forward((), images)
    >>> z = patches @ kernel.reshape(-1, kernel.shape[-1])              # conv.layer(out, 3)

torch.nn.Unfold numbers the other way, c · places + u, and has the positions of all axes in one. fold(unfold(x)) is x
times the number of windows that see each entry.

Source: derivation sheet (9.8.7), (5.1).
"""

import math
from collections.abc import Sequence
from functools import partial

from jaxtyping import Array, Float

from jaxbias._doors import check_delta, check_float, check_no_params
from jaxbias.derivation import Derivation, Example
from jaxbias.layers import _patches
from jaxbias.layers._windows import Padding
from jaxbias.params import Layer, Static


def forward(
    params: tuple[()],
    x: Float[Array, "n *spatial channels"],
    *,
    window: int | Sequence[int],
    stride: int | Sequence[int] = 1,
    padding: Padding = "VALID",
    dilation: int | Sequence[int] = 1,
) -> tuple[Float[Array, "n *positions entries"], Static]:
    """Every window as a row of places · channels entries.

    Args:
        params: the empty tuple.
        window: length of the window, an int or one per spatial axis.
        stride: the same, from one window to the next.
        padding: "VALID", "SAME", "CAUSAL", an int, or (low, high) pairs; negative ones crop.
        dilation: distance of the entries that a window reads, an int or one per spatial axis.

    Raises:
        TypeError: x is not floating point.
        ValueError: x has no spatial axis, a keyword does not fit its spatial axes, or a window is larger than the
            padded input.
    """
    check_no_params(params, "unfold.forward")
    check_float(x, "unfold.forward")
    moves = _patches.moves(x.shape, window, stride, padding, dilation, "unfold.forward")
    return _patches.unfold(x, moves.window, moves), Static((moves, x.shape))


def backward(residuals: Static, delta: Float[Array, "n *positions entries"]) -> tuple[tuple[()], Array]:
    """No grads; ∂L/∂x = fold(δ), summed in at least float32.

    Raises:
        TypeError: delta is not floating point.
        ValueError: delta has another shape than the output.
    """
    moves, (n, *lengths, channels) = residuals.value
    shape = (n, *moves.positions, math.prod(moves.window) * channels)
    delta = check_delta(delta, shape, "unfold.backward")
    return (), _patches.fold(delta, moves.window, tuple(lengths), moves).astype(delta.dtype)


def layer(
    window: int | Sequence[int],
    *,
    stride: int | Sequence[int] = 1,
    padding: Padding = "VALID",
    dilation: int | Sequence[int] = 1,
) -> Layer[tuple[()]]:
    """The windows of length `window` as rows.

    Keywords as for `forward`.

    Raises:
        TypeError, ValueError: an entry of window, stride or dilation is no positive whole number.
    """
    _patches.check_moves(window, stride, dilation, "unfold.layer")

    def init(key, x):
        del key
        check_float(x, "unfold.init")
        return ()

    keywords = {"window": window, "stride": stride, "padding": padding, "dilation": dilation}
    return Layer(init, partial(forward, **keywords), backward, "unfold")


DERIVATIONS = (
    Derivation(
        "unfold",
        (
            r"X_{n,i,(u,c)} = x_{n,\,Si+Fu-P,\,c}",
            r"\partial L/\partial x_{npc} = \sum_{i,u:\,Si+Fu-P=p} \delta_{n,i,(u,c)}",
        ),
        "equations (9.8.7), (5)",
        (
            Example("2-D", layer(2), (2, 4, 3, 3)),
            Example(
                "2-D, all keywords",
                layer((3, 2), stride=(2, 1), padding=((1, 2), (0, 1)), dilation=(1, 2)),
                (2, 5, 4, 3),
            ),
            Example("1-D, gaps, cropped", layer(2, stride=3, padding=-1), (2, 9, 3)),
            Example("no rows, same", layer(3, padding="SAME"), (0, 4, 4, 2)),
        ),
    ),
)

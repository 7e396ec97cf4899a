"""How a window moves over the spatial axes of an image: strides, dilations and padding, one entry per axis."""

from collections.abc import Sequence

PADDINGS = ("SAME", "VALID", "CAUSAL")

Padding = str | int | Sequence[tuple[int, int]]
"""The name of a rule, the zeros on every side, or one pair (low, high) per spatial axis; negative padding crops."""


def per_axis(value: int | Sequence[int], axes: int, function: str, argument: str, least: int = 1) -> tuple[int, ...]:
    """One int per spatial axis, from an int for all of them or from a sequence.

    Raises:
        ValueError: another length, or an entry below `least`.
    """
    values = (value,) * axes if isinstance(value, int) else tuple(value)
    if len(values) != axes:
        raise ValueError(
            f"{function}: {argument} must be an int or have one entry for each of the {axes} spatial axes, got {value}."
        )
    if any(not isinstance(v, int) or v < least for v in values):
        raise ValueError(f"{function}: {argument} must be made of ints of at least {least}, got {value}.")
    return values


def dilated(length: int, dilation: int) -> int:
    """Length of an axis with dilation − 1 zeros between neighbours."""
    return max((length - 1) * dilation + 1, 0)


def out_lengths(
    lengths: Sequence[int], windows: Sequence[int], stride: Sequence[int], pads: Sequence[tuple[int, int]]
) -> tuple[int, ...]:
    """Number of window positions per axis, floor((length + low + high − window) / stride) + 1; lengths are dilated."""
    return tuple((n + low + high - w) // s + 1 for n, w, s, (low, high) in zip(lengths, windows, stride, pads))


def resolve_padding(
    padding: Padding, lengths: Sequence[int], windows: Sequence[int], stride: Sequence[int], function: str
) -> tuple[tuple[int, int], ...]:
    """(low, high) per spatial axis.

    SAME    ceil(length / stride) window positions; an odd total puts the extra zero at the end
    VALID   no padding
    CAUSAL  (1-D) window − 1 zeros at the start, so that no output sees a later input

    Args:
        lengths, windows: of input and window per axis, both already dilated.

    Raises:
        ValueError: an unknown name, CAUSAL on more than one axis, or another number of pairs.
    """
    axes = len(lengths)
    if isinstance(padding, int):
        return ((padding, padding),) * axes
    if not isinstance(padding, str):
        pads: list[tuple[int, ...]] = [tuple(pair) if isinstance(pair, Sequence) else () for pair in padding]
        if len(pads) != axes or any(len(pair) != 2 or not all(isinstance(p, int) for p in pair) for pair in pads):
            raise ValueError(
                f"{function}: padding must hold one (low, high) pair of ints for each of the {axes} spatial axes, "
                f"got {padding}."
            )
        return tuple((pair[0], pair[1]) for pair in pads)
    if padding not in PADDINGS:
        raise ValueError(
            f"{function}: padding must be one of {', '.join(PADDINGS)}, an int or (low, high) pairs, got {padding!r}."
        )
    if padding == "VALID":
        return ((0, 0),) * axes
    if padding == "CAUSAL":
        if axes != 1:
            raise ValueError(
                f"{function}: CAUSAL padding needs exactly one spatial axis (time), got {axes}. "
                f"Use SAME or explicit (low, high) pairs."
            )
        return ((windows[0] - 1, 0),)
    totals = [max((-(-n // s) - 1) * s + w - n, 0) for n, w, s in zip(lengths, windows, stride)]
    return tuple((total // 2, total - total // 2) for total in totals)


def check_window_fits(
    lengths: Sequence[int],
    windows: Sequence[int],
    pads: Sequence[tuple[int, int]],
    function: str,
    what: str,
    x_shape: tuple[int, ...],
) -> None:
    """Raise a ValueError where a window is longer than the padded input."""
    padded = tuple(n + low + high for n, (low, high) in zip(lengths, pads))
    if any(w > p for w, p in zip(windows, padded)):
        raise ValueError(
            f"{function}: {what} of spatial size {tuple(windows)} (dilated) is larger than the padded input "
            f"{padded} (x has shape {x_shape}, padding {tuple(pads)}). Pad more or use a smaller {what}."
        )

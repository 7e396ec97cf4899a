"""What attention takes: its params and the forms of its input, and the checks at its door."""

import math
from collections.abc import Collection
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from jaxbias._doors import check_features, check_float, check_number, check_size, describe
from jaxbias.layers._distance import POSITIONS
from jaxbias.layers._query_norm import NORMS
from jaxbias.layers._rotary import PAIRINGS
from jaxbias.params import Params, weight_and_bias

PROJECTIONS = ("query", "key", "value", "out")


class AttentionParams(NamedTuple):
    """What attention learns; None for what is not there."""

    query: Params
    key: Params
    value: Params
    out: Params
    query_norm: Params | None = None  # γ (d,) of an RMS norm over each head's query
    key_norm: Params | None = None
    temperature: Array | None = None  # τ (H,): e^τ scales the scores of queries and keys of unit length
    slopes: Array | None = None  # m (H,) of learned ALiBi
    buckets: Array | None = None  # R (buckets, H), T5's table
    sink: Array | None = None  # s (H,)
    bias_k: Array | None = None  # β_k (G, d), an appended key that every query sees
    bias_v: Array | None = None  # β_v (G, e)


class Inputs(NamedTuple):
    """The form of x that carries more than one array.

    Attributes:
        x: (*batch, T, E), from which the queries come.
        y: (*batch, S, E′), from which keys and values come; None for x.
        visible: bools, True where a query may look: (n, S) for each key of a sample, or what broadcasts to
            (n, H, T, S) with four axes.
        bias: B, added to the scores; what broadcasts to (n, H, T, S). Its gradient comes back in its place.
    """

    x: Any
    y: Any = None
    visible: Any = None
    bias: Any = None


def as_inputs(x: Any, function: str) -> Inputs:
    """x as `Inputs`, the arrays of NumPy in it as arrays of JAX."""
    if isinstance(x, tuple | list) and not isinstance(x, Inputs) and len(x) != 2:
        raise ValueError(f"{function}: x must be an array, a pair (x, y) or attention.Inputs, got {describe(x)}.")
    fields = x if isinstance(x, tuple | list) else (x,)
    return Inputs(*(jnp.asarray(field) if isinstance(field, np.ndarray | np.generic) else field for field in fields))


def four_axes(visible: Any) -> Any:
    """(n, S) as (n, 1, 1, S)."""
    return visible[:, None, None, :] if visible is not None and visible.ndim == 2 else visible


def check_inputs(given: Inputs, params: AttentionParams, function: str) -> int:
    """Raise unless the arrays fit together and to the params; n."""
    fan_in, heads, _ = params.query.weight.shape
    memory = params.key.weight.shape[0]
    check_features(given.x, fan_in, function, f"the query weight has fan_in={fan_in}")
    y = given.x if given.y is None else given.y
    check_features(y, memory, f"{function} (y)" if given.y is not None else function, f"the key weight has {memory}")
    for name, array in (("x", given.x), ("y", y)):
        if array.ndim < 3:
            raise ValueError(
                f"{function}: {name} must be (*batch, time, features), got shape {array.shape}. A single sequence "
                f"needs a batch axis: {name}[None]."
            )
    if given.x.shape[:-2] != y.shape[:-2]:
        raise ValueError(
            f"{function}: x and y must have the same leading axes, got shapes {given.x.shape} and {y.shape}."
        )
    n, t, s = math.prod(y.shape[:-2]), given.x.shape[-2], y.shape[-2]
    if given.visible is not None:
        if getattr(given.visible, "dtype", None) != jnp.bool_:
            raise TypeError(
                f"{function}: visible must be an array of bools, True where a query may look, got "
                f"{describe(given.visible)}."
            )
        if given.visible.ndim == 2 and given.visible.shape != (n, s):
            raise ValueError(
                f"{function}: visible with two axes is (n, S) = {(n, s)}, got shape {given.visible.shape}. Write "
                f"visible[None, None] for (T, S)."
            )
        _check_broadcasts(four_axes(given.visible), (n, heads, t, s), function, "visible")
    if given.bias is not None:
        check_float(given.bias, function, "bias")
        _check_broadcasts(given.bias, (n, heads, t, s), function, "bias")
    return n


def _check_broadcasts(x: Any, wanted: tuple[int, ...], function: str, name: str) -> None:
    fits = x.ndim <= 4 and all(a in (1, b) for a, b in zip(reversed(x.shape), reversed(wanted)))
    if not fits:
        raise ValueError(
            f"{function}: {name} has shape {x.shape}, which does not broadcast to (n, heads, T, S) = {wanted}."
        )


def check_params(params: Any, function: str) -> None:
    if not isinstance(params, AttentionParams):
        raise TypeError(
            f"{function}: params must be AttentionParams(query, key, value, out, ...), got {describe(params)}. Make it "
            f"with layer.init(key, x)."
        )
    fields = {"query": ("fan_in", "H", "d"), "key": ("fan_in", "G", "d"), "value": ("fan_in", "G", "e")}
    for name, axes in fields.items():
        weight_and_bias(getattr(params, name), f"{function} ({name})", axes, bias_axes=2)
    weight_and_bias(params.out, f"{function} (out)", ("H", "e", "F"))
    (_, heads, d), (memory, groups, _) = params.query.weight.shape, params.key.weight.shape
    e = params.value.weight.shape[-1]
    wanted = {
        "key": (memory, groups, d), "value": (memory, groups, e), "out": (heads, e, params.out.weight.shape[-1]),
    }  # fmt: skip
    for name, shape in wanted.items():
        if (came := getattr(params, name).weight.shape) != shape:
            raise ValueError(
                f"{function}: the {name} weight must have shape {shape} beside a query weight of shape "
                f"{params.query.weight.shape} and a value weight of shape {params.value.weight.shape}, got {came}."
            )
    _check_groups(heads, groups, function)
    others = {
        "temperature": (heads,), "slopes": (heads,), "sink": (heads,), "bias_k": (groups, d), "bias_v": (groups, e),
    }  # fmt: skip
    for name, shape in others.items():
        leaf = getattr(params, name)
        if leaf is not None:
            check_float(leaf, function, name)
            if leaf.shape != shape:
                raise ValueError(f"{function}: {name} must have shape {shape}, got {leaf.shape}.")
    if (params.bias_k is None) != (params.bias_v is None):
        raise ValueError(f"{function}: bias_k and bias_v are the key and the value of one position: both, or neither.")


def _check_groups(heads: int, groups: int, function: str) -> None:
    if not groups or heads % groups:
        raise ValueError(
            f"{function}: {heads} query heads cannot share {groups} key heads evenly. key_heads must divide heads."
        )


def check_sizes(function, heads, head_size, groups, e, fan_out, norm, position, buckets) -> None:
    sizes = {"heads": heads, "head_size": head_size, "key_heads": groups, "value_size": e, "fan_out": fan_out}
    for name, size in sizes.items():
        check_size(size, function, name)
    check_size(buckets, function, "buckets", 4)  # so that each half has an exact and a shared bucket
    _check_groups(heads, groups, function)
    _check_name(norm, NORMS, function, "norm")
    _check_name(position, POSITIONS, function, "position")


def _check_name(value: Any, names: tuple[str, ...], function: str, argument: str) -> None:
    if value is not None and not (isinstance(value, str) and value in names):
        raise ValueError(f"{function}: {argument} must be None or one of {', '.join(names)}, got {describe(value)}.")


def check_settings(
    function: str,
    *,
    window: Any,
    softcap: Any,
    scale: Any,
    rotary: Any,
    rotary_base: Any,
    rotary_size: Any,
    max_distance: Any,
    dropout: Any,
    block: Any,
) -> None:
    """Raise unless the keywords of `forward` make sense.

    Args:
        window, max_distance, block: whole numbers of at least 1.
        softcap, rotary_base, scale: positive numbers.
        dropout: a probability.
        rotary: the name of a pairing.
        rotary_size: an even whole number.
    """
    check_size(block, function, "block")
    check_size(max_distance, function, "max_distance")
    if window is not None:
        check_size(window, function, "window")
    for name, value in (("softcap", softcap), ("rotary_base", rotary_base), ("scale", scale)):
        if value is not None:
            check_number(value, function, name)
            if not value > 0:
                raise ValueError(f"{function}: {name} must be positive, got {value}.")
    check_number(dropout, function, "dropout")
    if not 0 <= dropout <= 1:
        raise ValueError(f"{function}: dropout is the probability of silencing a weight, in [0, 1]; got {dropout}.")
    _check_name(rotary, PAIRINGS, function, "rotary")
    if rotary_size is not None:
        check_size(rotary_size, function, "rotary_size", 2)
        if rotary_size % 2:
            raise ValueError(f"{function}: rotary positions turn pairs of features, but rotary_size is {rotary_size}.")
        if rotary is None:
            raise ValueError(f'{function}: rotary_size={rotary_size} needs a pairing: rotary="half", say.')


def with_bias(use_bias: bool | Collection[str], function: str) -> Collection[str]:
    if isinstance(use_bias, bool):
        return PROJECTIONS if use_bias else ()
    if isinstance(use_bias, str) or not set(use_bias) <= set(PROJECTIONS):
        raise ValueError(
            f"{function}: use_bias must be True, False, or some of {', '.join(PROJECTIONS)} in a tuple, got "
            f"{use_bias!r}."
        )
    return use_bias

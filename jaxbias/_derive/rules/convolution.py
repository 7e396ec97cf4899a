"""Convolutions: δ meets the flipped kernel, and the input meets δ as a kernel.

A stride of the forward spreads δ out in both; a spread-out kernel makes a stride in that of the kernel.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
from jax import lax

from jaxbias._derive.rules.rule import NoRule, rule, shape_of
from jaxbias.symbols import expressions as ex
from jaxbias.symbols.expressions import Expression

SPATIAL = {0: "", 1: "W", 2: "HW", 3: "DHW"}


def _letters(spec: Sequence[int], first: str, second: str) -> str:
    """The layout of an array: "NHWC" where its axes are named in this order of batch, features, space."""
    spatial = SPATIAL.get(len(spec) - 2)
    if spatial is None:
        raise NoRule
    places = dict(zip(spec, [first, second, *spatial]))
    return "".join(places[k] for k in range(len(spec)))


def _spread(n: int, dilation: int) -> int:
    return 0 if n == 0 else (n - 1) * dilation + 1


def _written(
    x: Expression, kernel: Expression, shape: Sequence[int], dtype: Any, layout: tuple[str, str, str], **words: Any
) -> Expression:
    """A call of `lax.conv_general_dilated`; words that say what goes without saying are left out."""
    usual = {"lhs_dilation": 1, "rhs_dilation": 1}
    texts = [f"{word}={value}" for word, value in words.items()
             if word not in ("strides", "padding", *usual) and value != 1]  # fmt: skip
    texts += [f"{word}={_tuple(words[word])}" for word in usual if any(n != 1 for n in words[word])]
    padding = words["padding"]
    text = f'"{padding}"' if isinstance(padding, str) else f"[{', '.join(f'({a}, {b})' for a, b in padding)}]"
    names = ", ".join(f'"{part}"' for part in layout)
    call = ", ".join(["{0}", "{1}", _tuple(words["strides"]), text, *texts, f"dimension_numbers=({names})"])
    return ex.call(f"jax.lax.conv_general_dilated({call})", [x, kernel], shape, dtype)


def _tuple(values: Sequence[int]) -> str:
    return f"({', '.join(map(str, values))}{',' if len(values) == 1 else ''})"


@rule("conv_general_dilated")
class _Conv:
    @staticmethod
    def sizes(eq):
        numbers = eq.params["dimension_numbers"]
        specs = numbers.lhs_spec, numbers.rhs_spec, numbers.out_spec
        shapes = (*eq.shapes.inputs, shape_of(eq))
        return specs, [[shape[k] for k in spec[2:]] for shape, spec in zip(shapes, specs)]

    @staticmethod
    def read(eq, args):
        p = eq.params
        (lhs, rhs, out), (size, kernel_size, _) = _Conv.sizes(eq)
        if p["batch_group_count"] != 1 or any(np.dtype(x.dtype).kind == "c" for x in args):
            raise NoRule
        padding: Any = [tuple(map(int, pair)) for pair in p["padding"]]
        window = [_spread(n, d) for n, d in zip(kernel_size, p["rhs_dilation"])]
        whole = [_spread(n, d) for n, d in zip(size, p["lhs_dilation"])]
        for word in ("VALID", "SAME"):
            if padding == [tuple(pair) for pair in lax.padtype_to_pads(whole, window, p["window_strides"], word)]:
                padding = word
                break
        if any(d != 1 for d in p["lhs_dilation"]) and padding == "SAME":
            padding = [tuple(map(int, pair)) for pair in p["padding"]]
        layout = _letters(lhs, "N", "C"), _letters(rhs, "O", "I"), _letters(out, "N", "C")
        return _written(
            args[0], args[1], shape_of(eq), eq.dtypes.outputs[0], layout, strides=p["window_strides"], padding=padding,
            lhs_dilation=p["lhs_dilation"], rhs_dilation=p["rhs_dilation"],
            feature_group_count=p["feature_group_count"],
        )  # fmt: skip

    @staticmethod
    def pull(eq, args, out, d):
        p, (x, kernel) = eq.params, args
        (lhs, rhs, outs), (size, kernel_size, out_size) = _Conv.sizes(eq)
        groups = p["feature_group_count"]
        strides, spread, wide = p["window_strides"], p["lhs_dilation"], p["rhs_dilation"]
        whole = [_spread(n, k) for n, k in zip(size, spread)]
        window = [_spread(n, k) for n, k in zip(kernel_size, wide)]
        apart = [_spread(n, k) for n, k in zip(out_size, strides)]
        low = [int(a) for a, _ in p["padding"]]
        before = [w - a - 1 for w, a in zip(window, low)]
        after = [n + w - 1 - m - b for n, w, m, b in zip(whole, window, apart, before)]
        flipped = ex.call(f"jnp.flip({{0}}, {_tuple(sorted(rhs[2:]))})", [kernel], kernel.shape, kernel.dtype)
        d_x = _written(
            d, _by_group(flipped, rhs, groups), x.shape, x.dtype,
            (_letters(outs, "N", "C"), _letters(rhs, "I", "O"), _letters(lhs, "N", "C")), strides=spread,
            padding=list(zip(before, after)), lhs_dilation=strides, rhs_dilation=wide, feature_group_count=groups,
        )  # fmt: skip
        ends = [m - n + w - a - 1 for m, n, w, a in zip(apart, whole, window, low)]
        d_kernel = _written(
            x, d, kernel.shape, kernel.dtype,
            (_letters(lhs, "C", "N"), _letters(outs, "I", "O"), _letters(rhs, "C", "N")), strides=wide,
            padding=list(zip(low, ends)), lhs_dilation=spread, rhs_dilation=strides, batch_group_count=groups,
        )  # fmt: skip
        return [d_x, d_kernel]


def _by_group(kernel: Expression, spec: Sequence[int], groups: int) -> Expression:
    """A grouped kernel with in and out exchanged: each group's outputs as inputs, all inputs as outputs."""
    out, inputs = spec[0], spec[1]
    if groups == 1:
        return kernel
    if kernel.shape[out] == groups and kernel.shape[inputs] == 1:  # a channel each
        order = list(range(kernel.ndim))
        order[out], order[inputs] = inputs, out
        return ex.transpose(kernel, order)
    apart = [*kernel.shape[:out], groups, kernel.shape[out] // groups, *kernel.shape[out + 1 :]]
    at = inputs if inputs < out else inputs + 1  # of the inputs, with the groups in a place of their own
    order = [k for k in range(len(apart)) if k != out]
    order.insert(order.index(at), out)
    joined = list(kernel.shape)
    joined[out], joined[inputs] = kernel.shape[out] // groups, kernel.shape[inputs] * groups
    return ex.reshape(ex.transpose(ex.reshape(kernel, apart), order), joined)

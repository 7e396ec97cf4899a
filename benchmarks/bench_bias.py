"""What a bias costs: layers with and without it, over the bare products; and its gradient alone.

Every contender of "forward + backward" returns the output, all gradients and the error signal for the layer below.
"""

from collections.abc import Iterator

import jax
import jax.numpy as jnp

from benchmarks.case import Case, Setting, run_cases
from benchmarks.record import Record
from jaxbias import Params, as_function, chain
from jaxbias.layers import conv, dense, relu

SUITE = "bias"
DENSE = {
    "tiny": [(3, 5)],
    "quick": [(64, 256), (256, 1024)],
    "full": [(n, width) for n in (1, 64, 1024, 4096) for width in (64, 256, 1024, 4096) if n * width <= 2**22],
}
"""(batch, width) of a square dense layer; the products of the largest take 10¹¹ operations."""
CONV = {
    "tiny": [(2, 4, 2, 3)],
    "quick": [(64, 8, 16, 32)],
    "full": [(64, 8, 1, 16), (64, 8, 16, 32), (32, 32, 16, 32)],
}
"""(batch, height and width, channels in, channels out) of a 3×3 convolution that keeps the size."""
REDUCTION = {"tiny": [(4, 3)], "quick": [(256, 1024)], "full": [(64, 1024), (256, 1024), (1024, 4096), (4096, 64)]}


def _draw(dtype, *shapes):
    keys = jax.random.split(jax.random.key(7), len(shapes))
    return tuple(jax.random.normal(key, shape, dtype) for key, shape in zip(keys, shapes))


def _without_bias(f):
    return lambda params, x, delta: f(Params(params.weight, None), x, delta)


def _by_hand(layer):
    """Forward and backward of a layer and the ReLU after it; no gradient is returned for the params of the ReLU."""
    network = chain(layer, relu)

    def run(params, x, delta):
        out, residuals = network.forward((params, ()), x)
        grads, delta_x = network.backward(residuals, delta)
        return out, grads[0].weight, grads[0].bias, delta_x

    return run


def _forward(layer):
    return lambda params, x, delta: chain(layer, relu).forward((params, ()), x)[0]


def _build_dense(sizes, dtype):
    n, width = sizes["batch"], sizes["width"]
    weight, bias, x, delta = _draw(dtype, (width, width), (width,), (n, width), (n, width))
    layer = dense.layer(width)
    function = as_function(chain(layer, relu))

    def products(params, x, delta):
        return x @ params.weight, x.T @ delta, delta @ params.weight.T

    def autodiff(params, x, delta):
        def plain(params, x):
            return jax.nn.relu(x @ params.weight + params.bias[None, :])

        out, pull_back = jax.vjp(plain, params, x)
        grads, delta_x = pull_back(delta)
        return out, grads.weight, grads.bias, delta_x

    def custom_vjp(params, x, delta):
        out, pull_back = jax.vjp(function, (params, ()), x)
        grads, delta_x = pull_back(delta)
        return out, grads[0].weight, grads[0].bias, delta_x

    if sizes["pass"] == "forward":
        contenders = {
            "bare product": lambda params, x, delta: x @ params.weight,
            "no bias": _without_bias(_forward(layer)),
            "bias": _forward(layer),
            "bias, autodiff": lambda params, x, delta: jax.nn.relu(x @ params.weight + params.bias[None, :]),
        }
    else:
        contenders = {
            "bare products": products,
            "no bias": _without_bias(_by_hand(layer)),
            "bias": _by_hand(layer),
            "bias, as custom_vjp": custom_vjp,
            "bias, autodiff": autodiff,
        }
    return contenders, (Params(weight, bias), x, delta)


def _build_conv(sizes, dtype):
    n, size, c_in, c_out = sizes["batch"], sizes["size"], sizes["channels_in"], sizes["channels_out"]
    weight, bias, x, delta = _draw(dtype, (3, 3, c_in, c_out), (c_out,), (n, size, size, c_in), (n, size, size, c_out))
    layer = conv.layer(c_out, 3, padding="SAME")

    def autodiff(params, x, delta):
        def plain(params, x):
            z = jax.lax.conv_general_dilated(
                x, params.weight, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC")
            )
            return jax.nn.relu(z + jnp.broadcast_to(params.bias, z.shape))

        out, pull_back = jax.vjp(plain, params, x)
        grads, delta_x = pull_back(delta)
        return out, grads.weight, grads.bias, delta_x

    contenders = {
        "no bias": _without_bias(_by_hand(layer)),
        "bias": _by_hand(layer),
        "bias, autodiff": autodiff,
    }
    return contenders, (Params(weight, bias), x, delta)


def _build_reduction(sizes, dtype):
    (delta,) = _draw(dtype, (sizes["batch"], sizes["width"]))
    n = sizes["batch"]

    def column(delta):
        # the homogeneous column [x, 1]ᵀ δ with a one-column x: the last row is the bias gradient
        x = jnp.concatenate([delta[:, :1], jnp.ones((n, 1), delta.dtype)], axis=1)
        return (x.T @ delta)[-1]

    return {
        "sum": lambda delta: delta.sum(axis=0),
        "ones-row product": lambda delta: jnp.ones((n,), delta.dtype) @ delta,
        "homogeneous column": column,
    }, (delta,)


def cases(setting: Setting) -> Iterator[Case]:
    dtypes = (jnp.float32, jnp.bfloat16) if setting.scale == "full" else (jnp.float32,)
    small = {"batch": 5, "width": 3}
    for dtype in dtypes:
        for n, width in DENSE[setting.scale]:
            for which in ("forward", "forward + backward")[setting.scale == "tiny" :]:
                bare = "bare product" if which == "forward" else "bare products"
                yield Case(
                    SUITE,
                    f"dense {n}×{width}, {which}",
                    {"batch": n, "width": width, "pass": which},
                    _build_dense,
                    small | {"pass": which},
                    baseline=bare,
                    reference="bias, autodiff",
                    dtype=dtype,
                    no_reference=(bare, "no bias"),
                    flops=(2 if which == "forward" else 6) * n * width * width,
                )
    for n, size, c_in, c_out in CONV[setting.scale]:
        yield Case(
            SUITE,
            f"conv 3×3 {n}×{size}×{size}×{c_in}→{c_out}, forward + backward",
            {"batch": n, "size": size, "channels_in": c_in, "channels_out": c_out},
            _build_conv,
            {"batch": 2, "size": 4, "channels_in": 2, "channels_out": 3},
            baseline="no bias",
            reference="bias, autodiff",
            no_reference=("no bias",),
            flops=3 * 2 * 9 * n * size * size * c_in * c_out,
        )
    for n, width in REDUCTION[setting.scale]:
        yield Case(
            SUITE,
            f"bias gradient alone {n}×{width}",
            {"batch": n, "width": width},
            _build_reduction,
            small,
            baseline="sum",
            reference="sum",
        )


def run(setting: Setting) -> Iterator[list[Record]]:
    yield from run_cases(cases(setting), setting)

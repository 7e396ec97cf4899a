import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from jaxbias.derivation import generator
from jaxbias.layers import conv, conv_transpose
from jaxbias.params import Params
from tests.layers.loops import convolution
from tests.planted import assert_caught

EXAMPLES = {example.label: example for example in conv_transpose.DERIVATIONS[0].examples}


def exchanged(weight, groups):
    """The kernel of the convolution that is transposed: channels in and out exchanged in each group."""
    parts = np.split(np.asarray(weight), groups, axis=-1)
    return np.concatenate([np.swapaxes(part, -1, -2) for part in parts], axis=-1)


def assert_equals_loops(x_shape, kernel, stride, pads, extra, dilation, groups):
    """z is the loops' ∂L/∂x of the convolution from z to x; its gradients follow from the loops of that convolution."""
    rng = np.random.default_rng(7)
    axes = len(kernel)
    x, bias = rng.standard_normal(x_shape), rng.standard_normal(2 * groups)
    weight = rng.standard_normal((*kernel, x_shape[-1] // groups, 2 * groups))
    keywords = {"stride": stride, "padding": pads, "output_padding": extra, "kernel_dilation": dilation}
    params, x = Params(jnp.asarray(weight), jnp.asarray(bias)), jnp.asarray(x)
    shape = jax.eval_shape(lambda: conv_transpose.forward(params, x, groups=groups, **keywords)[0]).shape
    delta = rng.standard_normal(shape)

    @jax.jit
    def both(params, x, delta):
        z, residuals = conv_transpose.forward(params, x, groups=groups, **keywords)
        return z, *conv_transpose.backward(residuals, delta, groups=groups, **keywords)

    z, grads, delta_x = both(params, x, jnp.asarray(delta))

    loop_keywords = {"stride": stride, "pads": pads, "input_dilation": (1,) * axes, "kernel_dilation": dilation}
    loops = convolution(
        delta, exchanged(weight, groups), np.zeros(x_shape[-1]), lambda shape: x, groups=groups, **loop_keywords
    )
    want_delta_x, want_weight, _, want_z = loops
    lengths = [
        (n - 1) * s + f * (k - 1) + 1 - low - high + e
        for n, s, f, k, (low, high), e in zip(x_shape[1:-1], stride, dilation, kernel, pads, extra)
    ]
    assert z.shape == (x_shape[0], *lengths, 2 * groups)
    np.testing.assert_allclose(z, want_z + bias, rtol=0, atol=1e-12)
    np.testing.assert_allclose(delta_x, want_delta_x, rtol=0, atol=1e-12)
    np.testing.assert_allclose(grads.weight, exchanged(want_weight, groups), rtol=0, atol=1e-12)
    np.testing.assert_allclose(grads.bias, delta.sum(tuple(range(axes + 1))), rtol=0, atol=1e-12)


@st.composite
def geometries(draw):
    axes = draw(st.integers(1, 2))
    per_axis = lambda low, high: tuple(draw(st.integers(low, high)) for _ in range(axes))
    kernel, stride, dilation, lengths = per_axis(1, 3), per_axis(1, 3), per_axis(1, 2), per_axis(1, 3)
    extra = tuple(draw(st.integers(0, s - 1)) for s in stride)
    pads = []
    for n, s, f, k, e in zip(lengths, stride, dilation, kernel, extra):
        full = (n - 1) * s + f * (k - 1) + 1 + e
        low = draw(st.integers(-1, min(full - 1, 3)))
        pads.append((low, draw(st.integers(-1, min(full - 1 - max(low, 0), 3)))))
    groups = draw(st.sampled_from([1, 2]))
    x_shape = (draw(st.integers(1, 2)), *lengths, groups * draw(st.integers(1, 2)))
    return x_shape, kernel, stride, tuple(pads), extra, dilation, groups


@settings(max_examples=6, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
@given(geometry=geometries())
def test_any_geometry_equals_the_loops(geometry):
    assert_equals_loops(*geometry)


@pytest.mark.slow
@settings(max_examples=40, deadline=None, suppress_health_check=list(HealthCheck))
@given(geometry=geometries())
def test_many_geometries_equal_the_loops(geometry):
    assert_equals_loops(*geometry)


def test_by_hand():
    """x = 1 2, w = 1 10 100, stride 2: each x lays down x · w every 2 places: 1 10 100+2 20 200; z = that + 1000."""
    params = Params(jnp.array([1.0, 10, 100]).reshape(3, 1, 1), jnp.array([1000.0]))
    layer = conv_transpose.layer(1, 3, stride=2)
    z, residuals = layer.forward(params, jnp.array([1.0, 2]).reshape(1, 2, 1))
    assert z.ravel().tolist() == [1001.0, 1010, 1102, 1020, 1200]
    grads, delta_x = layer.backward(residuals, jnp.array([1.0, 2, 3, 4, 5]).reshape(1, 5, 1))
    assert grads.bias.tolist() == [15.0]
    assert grads.weight.ravel().tolist() == [1.0 + 6, 2.0 + 8, 3.0 + 10]
    assert delta_x.ravel().tolist() == [321.0, 543.0]


def test_it_is_the_transpose_of_conv(key):
    """⟨conv(y), x⟩ = ⟨y, conv_transpose(x)⟩, the kernel's channels exchanged."""
    draw = generator(key).standard_normal
    weight, x, y = draw((3, 2, 4, 3)), draw((2, 3, 4, 4)), draw((2, 6, 8, 3))

    @jax.jit
    def both(weight, x, y):
        keywords = {"stride": 2, "padding": "SAME"}
        up, _ = conv_transpose.forward(Params(weight, None), x, **keywords)
        down, _ = conv.forward(Params(jnp.swapaxes(weight, -1, -2), None), y, **keywords)
        return up, down

    up, down = both(weight, x, y)
    np.testing.assert_allclose(np.vdot(down, x), np.vdot(y, up), rtol=1e-12)


@pytest.mark.parametrize(
    ("x_shape", "keywords", "match"),
    [
        ((2, 5, 3), {}, r"conv_transpose.forward: x must be .* got x of shape \(2, 5, 3\)"),
        ((2, 5, 5, 2), {}, r"conv_transpose.forward: x has 2 channels but weight wants 3"),
        ((2, 5, 5, 3), {"padding": "CAUSAL"}, r"looks ahead, so there is no CAUSAL padding"),
        ((2, 5, 5, 3), {"stride": 2, "output_padding": 2}, r"output_padding must be less than the stride"),
        (
            (2, 5, 5, 3),
            {"stride": 2, "output_padding": 1, "padding": "SAME"},
            r"output_padding must be 0, got",
        ),
        ((2, 1, 1, 3), {"padding": 2}, r"z would have the spatial lengths \(-1, -1\) .* Pad less"),
    ],
)
def test_bad_input_is_named(x_shape, keywords, match):
    with pytest.raises(ValueError, match=match):
        conv_transpose.forward(Params(jnp.ones((3, 3, 3, 4)), None), jnp.ones(x_shape), **keywords)


@pytest.mark.parametrize(
    ("change", "leaves"),
    [
        (lambda g, dx, r, d: (g._replace(bias=d.mean((0, 1, 2))), dx), {"0.bias"}),
        (lambda g, dx, r, d: (g._replace(weight=jnp.flip(g.weight, (0, 1))), dx), {"0.weight"}),
        (lambda g, dx, r, d: (g._replace(weight=g.weight / 2), dx), {"0.weight"}),
        (lambda g, dx, r, d: (g, conv_transpose.backward(r, jnp.flip(d, 1))[1]), {"1"}),
    ],
    ids=["bias: mean", "weight: flipped", "weight: mean over rows", "x: flipped"],
)
def test_planted_faults_are_caught(key, change, leaves):
    example = EXAMPLES["2-D"]
    assert_caught(example, key, lambda r, d: change(*example.layer.backward(r, d), r, d), leaves)

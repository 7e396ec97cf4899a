import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from jaxbias.layers import avg_pool, global_avg_pool
from tests.layers.loops import convolution
from tests.planted import assert_caught

EXAMPLES = {example.label: example for example in avg_pool.DERIVATIONS[0].examples}


def sums(x, delta, window, stride, pads, dilation):
    """Loops of a depthwise convolution with a kernel of ones: sums over windows, and their transpose."""
    ones = np.ones((*window, 1, x.shape[-1]))
    axes, nothing = len(window), np.zeros(x.shape[-1])
    keywords = {"stride": stride, "pads": pads, "input_dilation": (1,) * axes, "kernel_dilation": dilation}
    z, _, _, delta_x = convolution(x, ones, nothing, delta, groups=x.shape[-1], **keywords)
    return z, delta_x


@st.composite
def windows(draw):
    axes = draw(st.integers(1, 2))
    window = tuple(draw(st.integers(1, 3)) for _ in range(axes))
    stride = tuple(draw(st.integers(1, 4)) for _ in range(axes))
    dilation = tuple(draw(st.integers(1, 3)) for _ in range(axes))
    pads = tuple((draw(st.integers(0, w - 1)), draw(st.integers(0, w - 1))) for w in window)
    spans = [(w - 1) * d + 1 for w, d in zip(window, dilation)]
    # at least one dilation long, so that no window jumps over x
    lengths = [max(n - sum(pair), d) + draw(st.integers(0, 3)) for n, d, pair in zip(spans, dilation, pads)]
    return (2, *lengths, 2), window, stride, pads, dilation, draw(st.booleans())


def assert_equals_loops(x_shape, window, stride, pads, dilation, count_include_pad):
    rng = np.random.default_rng(6)
    x = rng.standard_normal(x_shape)
    keywords = {"window": window, "stride": stride, "padding": pads, "count_include_pad": count_include_pad}
    keywords["dilation"] = dilation
    drawn = []

    def delta(shape):
        drawn.append(rng.standard_normal(shape))
        return drawn[0] / size

    @jax.jit  # one program to compile in the place of some fifty operations
    def run(x, delta):
        z, residuals = avg_pool.forward((), x, **keywords)
        return z, avg_pool.backward(residuals, delta, **keywords)[1]

    moves = window, stride, pads, dilation
    size = np.prod(window) if count_include_pad else sums(np.ones(x_shape), np.zeros, *moves)[0]
    total, delta_x = sums(x, delta, *moves)
    z, actual_delta_x = run(x, drawn[0])
    np.testing.assert_allclose(z, total / size, rtol=0, atol=1e-13)
    np.testing.assert_allclose(actual_delta_x, delta_x, rtol=0, atol=1e-13)


@settings(max_examples=6, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
@given(case=windows())
def test_any_window_equals_the_loops(case):
    assert_equals_loops(*case)


@pytest.mark.slow
@settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
@given(case=windows())
def test_many_windows_equal_the_loops(case):
    assert_equals_loops(*case)


@pytest.mark.parametrize(
    ("count_include_pad", "z", "delta_x"), [(True, [0.5, 2.5], [3.0, 6, 6]), (False, [1.0, 2.5], [6.0, 6, 6])]
)
def test_by_hand(count_include_pad, z, delta_x):
    """Windows (0 1) and (2 3), where the 0 is padding; δ = 6 12."""
    layer = avg_pool.layer(2, padding=((1, 0),), count_include_pad=count_include_pad)
    out, residuals = layer.forward((), jnp.array([1.0, 2, 3]).reshape(1, 3, 1))
    assert out.ravel().tolist() == z
    _, back = layer.backward(residuals, jnp.array([6.0, 12]).reshape(1, 2, 1))
    assert back.ravel().tolist() == delta_x


@pytest.mark.parametrize(("count_include_pad", "last"), [(True, 2.5), (False, 5.0)])
def test_a_window_of_ceil_mode_is_divided_by_what_it_reads_of_input_and_padding(count_include_pad, last):
    """Windows (1 2 3) and (5 0 |: the 5, one padding, and one place behind it that is no entry."""
    layer = avg_pool.layer(3, stride=4, padding=((0, 1),), ceil_mode=True, count_include_pad=count_include_pad)
    out, residuals = layer.forward((), jnp.arange(1.0, 6).reshape(1, 5, 1))
    assert out.ravel().tolist() == [2, last]
    delta_x = layer.backward(residuals, jnp.array([3.0, 4]).reshape(1, 2, 1))[1]
    assert delta_x.ravel().tolist() == [1, 1, 1, 0, 4 * last / 5]


def test_narrow_means_are_accumulated_in_float32():
    """In bfloat16 1 + 2⁻⁸ is 1, and a running sum of ones stops growing at 256."""
    x = jnp.array([1, 2.0**-8, 2.0**-8, 0], jnp.bfloat16).reshape(1, 4, 1)
    layer = avg_pool.layer(4)
    z, residuals = layer.forward((), x)
    assert z.ravel().tolist() == [(1 + 2.0**-7) / 4]
    assert layer.backward(residuals, z)[1].dtype == jnp.bfloat16
    ones = jnp.ones((1, 1024, 1), jnp.bfloat16)
    z, residuals = global_avg_pool.forward((), ones)
    assert z.tolist() == [[1.0]]
    assert np.array_equal(global_avg_pool.backward(residuals, 1024 * z)[1], ones)


def test_global_mean_by_hand():
    layer = global_avg_pool.layer()
    z, residuals = layer.forward((), jnp.arange(8.0).reshape(1, 2, 2, 2))
    assert z.tolist() == [[3.0, 4.0]]
    _, delta_x = layer.backward(residuals, jnp.array([[4.0, 8.0]]))
    assert delta_x.tolist() == [[[[1.0, 2.0]] * 2] * 2]


def test_bad_input_is_named():
    with pytest.raises(ValueError, match=r"avg_pool.forward: padding must be at least 0 and smaller than the window"):
        avg_pool.layer(2, padding=3).forward((), jnp.ones((1, 4, 4, 1)))
    for shape in [(2, 3), (2, 0, 3)]:
        with pytest.raises(ValueError, match=r"global_avg_pool.forward: x must be \(n, \*spatial, channels\)"):
            global_avg_pool.forward((), jnp.ones(shape))


@pytest.mark.usefixtures("as_users_run_it")
def test_integer_images_are_refused():
    for layer, name in ((avg_pool.layer(2), "avg_pool"), (global_avg_pool.layer(), "global_avg_pool")):
        with pytest.raises(TypeError, match=rf"{name}\.forward: x must be a floating-point array, got int32"):
            layer.forward((), jnp.ones((2, 4, 4, 3), jnp.int32))


@pytest.mark.parametrize(
    "wrong",
    [
        lambda layer, r, d: ((), 4 * layer.backward(r, d)[1]),
        lambda layer, r, d: layer.backward(r, jnp.flip(d, 1)),
        lambda layer, r, d: ((), jnp.zeros(r.value, d.dtype).at[:, ::2, ::2].set(d)),
    ],
    ids=["not divided", "positions exchanged", "to one place"],
)
def test_planted_faults_are_caught(key, wrong):
    example = EXAMPLES["2-D"]
    assert_caught(example, key, lambda r, d: wrong(example.layer, r, d), {"1"})


def test_counting_the_padding_or_not_is_caught(key):
    example = EXAMPLES["2-D, same, without padding"]
    counted = avg_pool.layer(3, padding="SAME")
    assert_caught(example, key, counted.backward, {"1"})


@pytest.mark.parametrize(
    "wrong",
    [lambda dx: dx * 12, lambda dx: dx.at[:, 0].set(0), lambda dx: jnp.flip(dx, 0)],
    ids=["not divided", "a row of positions left out", "rows exchanged"],
)
def test_planted_faults_in_the_global_mean_are_caught(key, wrong):
    example = global_avg_pool.DERIVATIONS[0].examples[0]
    assert_caught(example, key, lambda r, d: ((), wrong(global_avg_pool.backward(r, d)[1])), {"1"})

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from jax import lax

from jaxbias.derivation import generator
from jaxbias.layers import max_pool
from tests.planted import assert_caught

EXAMPLES = {example.label: example for example in max_pool.DERIVATIONS[0].examples}


def loops(x, delta, window, stride, pads, dilation, ceil):
    """(z, delta_x), one window at a time; np.argmax takes the first of equal entries in row-major order."""
    positions = []
    for m, w, s, d, (lo, hi) in zip(x.shape[1:-1], window, stride, dilation, pads):
        room = m + lo + hi - (w - 1) * d - 1
        more = -(-room // s) if ceil and -(-room // s) * s < m + lo else room // s
        positions.append(more + 1)
    wide = [(lo, hi + w * d) for (lo, hi), w, d in zip(pads, window, dilation)]
    padded = np.pad(x, [(0, 0), *wide, (0, 0)], constant_values=-np.inf)
    z, delta_padded = np.zeros((x.shape[0], *positions, x.shape[-1])), np.zeros(padded.shape)
    delta = delta(z.shape)
    for row, c, *i in itertools.product(range(x.shape[0]), range(x.shape[-1]), *map(range, positions)):
        cut = tuple(slice(a * s, a * s + (w - 1) * d + 1, d) for a, s, w, d in zip(i, stride, window, dilation))
        seen = padded[(row, *cut, c)]
        winner = np.unravel_index(np.argmax(seen), seen.shape)
        z[(row, *i, c)] = seen[winner]
        delta_padded[(row, *(a * s + d * u for a, s, d, u in zip(i, stride, dilation, winner)), c)] += delta[
            (row, *i, c)
        ]
    inside = tuple(slice(lo, lo + m) for m, (lo, _) in zip(x.shape[1:-1], pads))
    return z, delta_padded[(slice(None), *inside)], delta


def program(layer):
    """(x, delta) -> (z, delta_x): one program to compile in the place of some fifty operations."""

    @jax.jit
    def run(x, delta):
        z, residuals = layer.forward((), x)
        return z, layer.backward(residuals, delta)[1]

    return run


def assert_equals_loops(x, window, stride, pads, dilation=(1, 1), ceil=False):
    z, delta_x, delta = loops(x, np.random.default_rng(5).standard_normal, window, stride, pads, dilation, ceil)
    keywords = {"stride": stride, "padding": pads, "dilation": dilation[: len(window)], "ceil_mode": ceil}
    actual, actual_delta_x = program(max_pool.layer(window, **keywords))(x, delta)
    assert np.array_equal(actual, z)
    np.testing.assert_allclose(actual_delta_x, delta_x, atol=1e-14)


@st.composite
def windows(draw):
    """What `assert_equals_loops` takes, over one or two axes; x has few values, so most windows have ties."""
    axes = draw(st.integers(1, 2))
    window = tuple(draw(st.integers(1, 3)) for _ in range(axes))
    stride = tuple(draw(st.integers(1, 4)) for _ in range(axes))
    dilation = tuple(draw(st.integers(1, 3)) for _ in range(axes))
    pads = tuple((draw(st.integers(0, w - 1)), draw(st.integers(0, w - 1))) for w in window)
    spans = [(w - 1) * d + 1 for w, d in zip(window, dilation)]
    # at least one dilation long, so that no window jumps over x
    lengths = [max(n - sum(pair), d) + draw(st.integers(0, 4)) for n, d, pair in zip(spans, dilation, pads)]
    rng = np.random.default_rng(draw(st.integers(0, 99)))
    return rng.integers(-2, 3, (2, *lengths, 2)).astype(np.float64), window, stride, pads, dilation, draw(st.booleans())


@settings(max_examples=8, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
@given(case=windows())
def test_any_window_equals_the_loops(case):
    assert_equals_loops(*case)


@pytest.mark.slow
@settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
@given(case=windows())
def test_many_windows_equal_the_loops(case):
    assert_equals_loops(*case)


def test_by_hand():
    """Windows 3 1 4 | 4 1 5 | 5 9 2 overlap in 4 and 5; δ = 1 10 100 goes to the 4, the second 5 and the 9."""
    layer = max_pool.layer(3, stride=2)
    z, residuals = layer.forward((), jnp.array([3.0, 1, 4, 1, 5, 9, 2]).reshape(1, 7, 1))
    assert z.ravel().tolist() == [4.0, 5, 9]
    _, delta_x = layer.backward(residuals, jnp.array([1.0, 10, 100]).reshape(1, 3, 1))
    assert delta_x.ravel().tolist() == [0.0, 0, 1, 0, 10, 100, 0]


@pytest.mark.parametrize(("window", "stride", "padding"), [((2, 2), (2, 2), "VALID"), ((3, 2), (2, 1), "SAME")])
def test_ties_go_where_reduce_window_sends_them(key, window, stride, padding):
    def plain(x):
        return lax.reduce_window(x, -jnp.inf, lax.max, (1, *window, 1), (1, *stride, 1), padding)

    draw = generator(key)
    x = draw.integers(0, 3, (2, 6, 5, 3)).astype(np.float64)
    delta = draw.standard_normal(jax.eval_shape(plain, x).shape)
    z, delta_x = program(max_pool.layer(window, stride=stride, padding=padding))(x, delta)
    expected, expected_delta_x = jax.jit(lambda x, delta: (plain(x), jax.vjp(plain, x)[1](delta)[0]))(x, delta)
    assert np.array_equal(z, expected)
    np.testing.assert_allclose(delta_x, expected_delta_x, atol=1e-14)


def test_places_in_a_long_window_do_not_fit_into_int8():
    """Place 129 of a window of 130 would be stored as −127."""
    for window, dtype in ((128, jnp.int8), (130, jnp.int32)):
        x = jax.ShapeDtypeStruct((1, window, 1), jnp.float32)
        _, residuals = jax.eval_shape(lambda x, w=window: max_pool.forward((), x, window=w), x)
        assert residuals.winners[0].dtype == dtype


def test_one_number_says_where_the_maximum_is_unless_windows_overlap():
    x = jax.ShapeDtypeStruct((2, 8, 6, 3), jnp.float32)
    kept = lambda **keywords: jax.eval_shape(lambda x: max_pool.forward((), x, **keywords), x)[1].winners
    assert [winner.shape for winner in kept(window=2)] == [(2, 4, 3, 3)]
    assert [winner.shape for winner in kept(window=3, stride=2)] == [(2, 8, 2, 3), (2, 3, 2, 3)]


@pytest.mark.parametrize(
    ("window", "stride", "pads"),
    [
        ((9,), (1,), ((3, 5),)),
        ((12,), (5,), ((0, 0),)),
        ((10, 2), (13, 1), ((4, 0), (1, 1))),
        ((2,), (300,), ((0, 0),)),
    ],
)
def test_long_windows_and_strides_equal_the_loops(window, stride, pads):
    lengths = [w + s + 11 for w, s in zip(window, stride)]
    x = np.random.default_rng(3).integers(-2, 3, (2, *lengths, 2)).astype(np.float64)
    assert_equals_loops(x, window, stride, pads)


def test_a_long_dilated_window_equals_the_loops():
    x = np.random.default_rng(3).integers(-2, 3, (2, 26, 2)).astype(np.float64)
    assert_equals_loops(x, (6,), (3,), ((2, 4),), (3,), True)


def test_ceil_mode_adds_a_window_only_where_it_begins_in_the_input():
    x = jnp.arange(1.0, 6).reshape(1, 5, 1)
    z = lambda **keywords: max_pool.layer(2, ceil_mode=True, **keywords).forward((), x)[0].ravel().tolist()
    assert z() == [2, 4, 5]
    assert z(stride=3, padding=1) == [1, 4]  # the next one would begin at 6, in the padding


@pytest.mark.parametrize("stride", [2, 9])
def test_a_dilated_window_of_minus_infinity_gives_its_delta_to_the_first_entry_that_it_reads(stride):
    """Places 0 and 2 of a window that begins in the padding: entry 1, although entry 0 lies nearer."""
    x = jnp.full((1, 2, 1), -jnp.inf)
    layer = max_pool.layer(2, stride=stride, padding=((1, 0),), dilation=2)
    _, residuals = layer.forward((), x)
    assert layer.backward(residuals, jnp.ones((1, 1, 1)))[1].ravel().tolist() == [0, 1]


def test_the_program_of_a_long_window_does_not_grow():
    """Written out, a window of 100 would have ten times as many operations as one of 10."""

    def operations(window):
        def run(x, delta):
            _, residuals = max_pool.forward((), x, window=window, stride=5)
            return max_pool.backward(residuals, delta, window=window, stride=5)

        x = jax.ShapeDtypeStruct((2, window + 5, 3), jnp.float32)
        return len(jax.jit(run).lower(x, jax.ShapeDtypeStruct((2, 2, 3), jnp.float32)).as_text().splitlines())

    assert operations(100) == operations(10)


@pytest.mark.parametrize("window", [3, 10])
def test_an_entry_of_minus_infinity_keeps_its_delta_next_to_padding(window):
    """Every entry that the first window sees is −∞, as its padding: the first entry wins, not the padding before it."""
    run = program(max_pool.layer(window, stride=window, padding=((window - 2, 0),)))
    x = np.concatenate([np.full(2, -np.inf), np.arange(1.0, window + 1)]).reshape(1, -1, 1)
    z, delta_x = (np.ravel(array) for array in run(x, np.array([5.0, 7.0]).reshape(1, 2, 1)))
    assert z.tolist() == [-np.inf, window]
    assert delta_x[0] == 5 and delta_x[1] == 0 and delta_x[-1] == 7 and delta_x.sum() == 12


@pytest.mark.parametrize("stride", [(3, 7), (4, 7), (2, 7), (2, 3)])
def test_the_first_window_never_chooses_its_padding(stride):
    """A window (3, 7) that sees 2×2 entries behind padding: of entries that are all −∞ it chooses the first."""
    run = program(max_pool.layer((3, 7), stride=stride, padding=((1, 0), (5, 0))))
    for best, winner in (((), (0, 0)), ((1, 0), (1, 0)), ((0, 1), (0, 1)), ((1, 1), (1, 1))):
        x = np.random.default_rng(1).standard_normal((1, 5, 9, 1))
        x[0, :2, :2] = -np.inf
        if best:
            x[(0, *best)] = 3.0
        delta = np.zeros((1, (5 + 1 - 3) // stride[0] + 1, (9 + 5 - 7) // stride[1] + 1, 1))
        delta[0, 0, 0] = 5.0
        z, delta_x = map(np.asarray, run(x, delta))
        assert z[0, 0, 0] == x[(0, *winner)]
        assert delta_x[(0, *winner)] == 5.0 and delta_x.sum() == 5.0


def test_nan_is_not_hidden():
    z, _ = max_pool.layer(2).forward((), jnp.array([1.0, jnp.nan, 3, 4]).reshape(1, 4, 1))
    assert np.isnan(z[0, 0, 0]) and z[0, 1, 0] == 4


@pytest.mark.parametrize(
    ("x_shape", "keywords", "match"),
    [
        ((2, 5), {"window": 2}, r"max_pool.forward: x must be \(n, \*spatial, channels\) .* got shape \(2, 5\)"),
        ((2, 5, 5, 3), {"window": 6}, r"window of spatial size \(6, 6\) .* larger than the padded input \(5, 5\)"),
        (
            (2, 5, 5, 3),
            {"window": (2, 2, 2)},
            r"window must be an int or have one entry for each of the 2 spatial axes",
        ),
        ((2, 5, 5, 3), {"window": 2, "padding": 2}, r"padding must be at least 0 and smaller than the window"),
        ((2, 5, 5, 3), {"window": 2, "padding": -1}, r"padding must be at least 0 and smaller than the window"),
        ((2, 1, 3), {"window": 2, "padding": 1, "dilation": 2}, r"no window sees padding only; .* dilated to \(3,\)"),
        ((2, 5, 5, 3), {"window": 4, "dilation": 2}, r"window of spatial size \(7, 7\) \(dilated\) is larger"),
        ((2, 5, 5, 3), {"window": 2, "stride": 0}, r"stride must be a whole number of at least 1, got the int 0"),
    ],
)
def test_bad_input_is_named(x_shape, keywords, match):
    with pytest.raises(ValueError, match=match):
        max_pool.forward((), jnp.ones(x_shape), **keywords)


@pytest.mark.usefixtures("as_users_run_it")
def test_integer_images_are_refused():
    with pytest.raises(TypeError, match=r"max_pool\.forward: x must be a floating-point array, got int32"):
        max_pool.layer(2).forward((), jnp.ones((2, 4, 4, 3), jnp.int32))


def shifted(winners):
    return tuple((winner + 1) % 2 for winner in winners)


@pytest.mark.parametrize(
    "wrong",
    [
        lambda layer, r, d: ((), layer.backward(r, d)[1] / 4),
        lambda layer, r, d: layer.backward(r._replace(winners=shifted(r.winners)), d),
        lambda layer, r, d: layer.backward(r._replace(winners=tuple(0 * w for w in r.winners)), d),
        lambda layer, r, d: ((), jnp.repeat(jnp.repeat(d, 2, 1), 2, 2)),
    ],
    ids=["shared by the window", "to another place", "to the first place", "to all places"],
)
def test_planted_faults_are_caught(key, wrong):
    example = EXAMPLES["2-D"]
    assert_caught(example, key, lambda r, d: wrong(example.layer, r, d), {"1"})

"""Unfold and fold: places by hand, each the transpose of the other, convolution by a product, planted faults."""

import itertools

import jax.numpy as jnp
import numpy as np
import pytest

from jaxbias.derivation import normal
from jaxbias.layers import conv, fold, unfold
from jaxbias.params import Params
from tests.planted import assert_caught

UNFOLD, ALL_KEYWORDS = unfold.DERIVATIONS[0].examples[:2]
FOLD = fold.DERIVATIONS[0].examples[0]
HOW = {"window": (3, 2), "stride": (2, 1), "padding": ((1, 2), (0, 1)), "dilation": (1, 2)}


def test_windows_entry_by_entry(key):
    x = np.asarray(normal(key, (2, 5, 4, 3), jnp.float64))
    rows, residuals = unfold.layer(**HOW).forward((), jnp.asarray(x))
    assert rows.shape == (2, 3, 3, 18)
    padded = np.pad(x, ((0, 0), (1, 2), (0, 1), (0, 0)))
    counts = np.zeros_like(padded)
    for i, j, u, v in itertools.product(range(3), range(3), range(3), range(2)):
        place = slice(3 * (2 * u + v), 3 * (2 * u + v) + 3)
        assert np.array_equal(rows[:, i, j, place], padded[:, 2 * i + u, j + 2 * v])
        counts[:, 2 * i + u, j + 2 * v] += 1
    counts = counts[:, 1:-2, :-1]
    back, _ = fold.layer((5, 4), **HOW).forward((), rows)
    np.testing.assert_allclose(back, counts * x, rtol=1e-14)
    assert counts.max() > 1 and np.array_equal(unfold.backward(residuals, rows)[1], back)


def test_by_hand():
    rows, _ = unfold.layer(2).forward((), jnp.array([1.0, 2, 3])[None, :, None])
    assert rows.tolist() == [[[1, 2], [2, 3]]]
    image, residuals = fold.layer(3, window=2).forward((), jnp.array([[[1.0, 2], [10, 20]]]))
    assert image[0, :, 0].tolist() == [1, 12, 20]
    assert fold.backward(residuals, image)[1].tolist() == [[[1, 12], [12, 20]]]


def test_a_product_behind_it_is_a_convolution(key):
    x, kernel = normal(key, (2, 5, 4, 3), jnp.float64), normal(key, (3, 2, 3, 4), jnp.float64)
    rows, _ = unfold.layer(**HOW).forward((), x)
    how = {"stride": HOW["stride"], "padding": HOW["padding"], "kernel_dilation": HOW["dilation"]}
    z, _ = conv.layer(4, (3, 2), **how).forward(Params(kernel, None), x)
    np.testing.assert_allclose(rows @ kernel.reshape(-1, 4), z, rtol=1e-12, atol=1e-13)


def test_half_precision_adds_in_float32():
    """2048 + 1 is 2048 in float16; three windows that overlap there hold 2048, 1 and 1."""
    rows = jnp.array([[[0, 0, 2048], [0, 1, 0], [1, 0, 0]]], jnp.float16)
    assert fold.layer(5, window=3).forward((), rows)[0][0, 2, 0] == 2050


def channels_first(layer, places):
    """The order of torch.nn.Unfold in the place of this one."""

    def wrong(residuals, delta):
        swapped = delta.reshape(*delta.shape[:-1], -1, places).swapaxes(-1, -2).reshape(delta.shape)
        return layer.backward(residuals, swapped)

    return wrong


def last_window_alone(residuals, delta):
    """Set in the place of add."""
    _, rows, columns, channels = residuals.value[1]
    delta_x = jnp.zeros(residuals.value[1], delta.dtype)
    for i, j, u, v in itertools.product(range(rows - 1), range(columns - 1), range(2), range(2)):
        place = channels * (2 * u + v)
        delta_x = delta_x.at[:, i + u, j + v].set(delta[:, i, j, place : place + channels])
    return (), delta_x


def mean_of_overlaps(residuals, delta):
    _, right = UNFOLD.layer.backward(residuals, delta)
    _, counts = UNFOLD.layer.backward(residuals, jnp.ones_like(delta))
    return (), right / counts


def stride_one(residuals, delta):
    """The dilation forgotten: each place beside the other."""
    moves, shape = residuals.value
    changed = moves._replace(kernel_dilation=(1, 1), pads=(moves.pads[0], (0, 0)))
    return unfold.backward(type(residuals)((changed, shape)), delta)


FAULTS = {
    "set in place of add": (UNFOLD, last_window_alone),
    "mean in place of the sum": (UNFOLD, mean_of_overlaps),
    "channels first": (UNFOLD, channels_first(UNFOLD.layer, 4)),
    "dilation forgotten": (ALL_KEYWORDS, stride_one),
    "fold: channels first": (
        FOLD,
        lambda r, d: ((), FOLD.layer.backward(r, d)[1].reshape(2, 3, 2, 4, 2).swapaxes(-1, -2).reshape(2, 3, 2, 8)),
    ),
    "fold: places of a window exchanged": (FOLD, lambda r, d: ((), jnp.roll(FOLD.layer.backward(r, d)[1], 2, -1))),
    "fold: divided by the overlaps": (
        FOLD,
        lambda r, d: FOLD.layer.backward(r, d / FOLD.layer.forward((), jnp.ones((2, 3, 2, 8)))[0]),
    ),
}


@pytest.mark.parametrize("name", FAULTS)
def test_planted_fault_is_caught(key, name):
    example, wrong = FAULTS[name]
    assert_caught(example, key, wrong, {"1"})


@pytest.mark.usefixtures("as_users_run_it")
def test_bad_input_is_named():
    with pytest.raises(TypeError, match=r"unfold\.forward: x must be a floating-point array, got int"):
        unfold.layer(2).forward((), jnp.ones((1, 4, 2), int))
    with pytest.raises(ValueError, match=r"unfold\.forward: window of spatial size \(5,\) .* larger than the padded"):
        unfold.layer(3, dilation=2).forward((), jnp.ones((1, 4, 2)))
    with pytest.raises(ValueError, match=r"unfold\.layer: stride must be a whole number of at least 1, got the int 0"):
        unfold.layer(2, stride=0)
    with pytest.raises(ValueError, match=r"unfold\.backward: delta has shape \(1, 3, 2\) but .* \(1, 3, 4\)"):
        unfold.backward(unfold.layer(2).forward((), jnp.ones((1, 4, 2)))[1], jnp.ones((1, 3, 2)))
    with pytest.raises(
        ValueError, match=r"fold\.forward: an image of lengths \(4,\) has \(3,\) such windows, got x of"
    ):
        fold.layer(4, window=2).forward((), jnp.ones((1, 2, 4)))
    with pytest.raises(ValueError, match=r"fold\.forward: the entries .* multiple of its 2 places, .* \(1, 3, 5\)"):
        fold.layer(4, window=2).forward((), jnp.ones((1, 3, 5)))
    with pytest.raises(ValueError, match=r"fold\.forward: x must be \(n, \*spatial, channels\)"):
        fold.layer(4, window=2).forward((), jnp.ones((3, 4)))
    with pytest.raises(TypeError, match=r"fold\.layer: size must be a whole number"):
        fold.layer(2.5, window=2)

"""Pixel shuffle: places worked by hand, planted faults, bad input."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxbias.layers import pixel_shuffle
from tests.planted import assert_caught

EXAMPLE = pixel_shuffle.DERIVATIONS[0].examples[0]
X = np.arange(1 * 2 * 1 * 8, dtype=np.float64).reshape(1, 2, 1, 8)


@pytest.mark.parametrize("order", pixel_shuffle.ORDERS)
def test_places_by_hand_and_back(order):
    """Channel 4 c + 2 a + b, or 2 (2 a + b) + c, of pixel i becomes channel c of place (2 i + a, b)."""
    layer, inverse = (pixel_shuffle.layer(2, order=order, inverse=each) for each in (False, True))
    z, residuals = layer.forward((), jnp.asarray(X))
    assert z.shape == (1, 4, 2, 2)
    for i, a, b, c in np.ndindex(2, 2, 2, 2):
        channel = 4 * c + 2 * a + b if order == "pytorch" else 2 * (2 * a + b) + c
        assert z[0, 2 * i + a, b, c] == X[0, i, 0, channel]
    back, _ = inverse.forward((), z)
    assert np.array_equal(back, X) and np.array_equal(layer.backward(residuals, z)[1], X)


FAULTS = {
    "channel order of the other library": lambda r, d: pixel_shuffle.backward(r, d, factor=2, order="depth_to_space"),
    "rows and columns of a block exchanged": lambda r, d: (
        (),
        EXAMPLE.layer.backward(r, d)[1].reshape(2, 2, 3, 2, 2, 2).swapaxes(-1, -2).reshape(2, 2, 3, 8),
    ),
    "spread by a plain reshape": lambda r, d: ((), d.reshape(r.value)),
}


@pytest.mark.parametrize("name", FAULTS)
def test_planted_fault_is_caught(key, name):
    assert_caught(EXAMPLE, key, FAULTS[name], {"1"})


@pytest.mark.usefixtures("as_users_run_it")
def test_bad_input_is_named():
    with pytest.raises(
        ValueError, match=r"pixel_shuffle\.forward: the channels must be a multiple of 4, .* \(1, 2, 2, 6\)"
    ):
        pixel_shuffle.layer(2).forward((), jnp.ones((1, 2, 2, 6)))
    with pytest.raises(
        ValueError, match=r"the spatial lengths must be multiples of the factor \(2, 2\), .* \(1, 3, 2, 6\)"
    ):
        pixel_shuffle.layer(2, inverse=True).forward((), jnp.ones((1, 3, 2, 6)))
    with pytest.raises(ValueError, match=r"pixel_shuffle\.forward: x must be \(n, \*spatial, channels\)"):
        pixel_shuffle.layer(2).forward((), jnp.ones((2, 4)))
    with pytest.raises(
        ValueError, match=r"pixel_shuffle\.layer: order must be one of pytorch, .*, got the str 'keras'"
    ):
        pixel_shuffle.layer(2, order="keras")
    with pytest.raises(TypeError, match=r"pixel_shuffle\.layer: inverse must be True or False, got the int 1"):
        pixel_shuffle.layer(2, inverse=1)
    with pytest.raises(ValueError, match=r"pixel_shuffle\.layer: factor must be a whole number of at least 1"):
        pixel_shuffle.layer(0)
    with pytest.raises(ValueError, match=r"pixel_shuffle\.backward: delta has shape \(1, 2, 2, 4\)"):
        jax.eval_shape(
            lambda x: pixel_shuffle.layer(2).backward(pixel_shuffle.layer(2).forward((), x)[1], x),
            jnp.ones((1, 2, 2, 4)),
        )

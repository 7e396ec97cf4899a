"""Resampling: numbers worked by hand, against `jax.image.resize`, planted faults, bad input."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxbias.layers import upsample
from tests.planted import assert_caught

EXAMPLES = {example.label: example for example in upsample.DERIVATIONS[0].examples}

BY_HAND = [
    ({"factor": 2}, [1, 1, 5, 5], [3, 12]),
    ({"size": 3}, [1, 1, 5], [3, 4]),  # ⌊p 2/3⌋ = 0, 0, 1
    ({"factor": 2, "method": "linear"}, [1, 2, 4, 5], [1 + 1.5 + 1, 0.5 + 3 + 8]),  # at 0, ¼, ¾, 1
    ({"size": 3, "method": "linear", "align_corners": True}, [1, 3, 5], [2, 5]),  # at 0, ½, 1
]


@pytest.mark.parametrize(("keywords", "z", "delta_x"), BY_HAND)
def test_by_hand(keywords, z, delta_x):
    """Entries 1 and 5; δ = 1, 2, 4, 8, as many as there are places."""
    layer = upsample.layer(**keywords)
    delta = 2.0 ** np.arange(len(z)).reshape(1, -1, 1)

    @jax.jit
    def run(x, delta):
        out, residuals = layer.forward((), x)
        return out, layer.backward(residuals, delta)[1]

    out, actual = run(np.array([1.0, 5]).reshape(1, 2, 1), delta)
    assert out.ravel().tolist() == z and actual.ravel().tolist() == delta_x


def test_linear_without_aligned_corners_is_what_jax_resizes():
    x = np.random.default_rng(1).standard_normal((2, 3, 4, 2))
    layer = upsample.layer(size=(7, 9), method="linear")
    out, expected = jax.jit(lambda x: (layer.forward((), x)[0], jax.image.resize(x, (2, 7, 9, 2), "linear")))(x)
    np.testing.assert_allclose(out, expected, rtol=1e-6, atol=1e-6)  # its weights are float32


@pytest.mark.parametrize("label", ["nearest, other lengths", "linear, other lengths"])
def test_a_bias_before_it_is_one_after_it(label):
    """Each place is a mean with weights of sum 1, so δ and ∂L/∂x have the same sum for each channel."""
    layer = EXAMPLES[label].layer
    delta = np.random.default_rng(2).standard_normal((2, 5, 2, 2))
    x = jnp.zeros((2, 3, 4, 2))
    delta_x = jax.jit(lambda x, delta: layer.backward(layer.forward((), x)[1], delta)[1])(x, delta)
    np.testing.assert_allclose(np.sum(delta_x, (0, 1, 2)), delta.sum((0, 1, 2)), rtol=1e-13)


NEAREST, LINEAR = EXAMPLES["nearest"], EXAMPLES["linear, corners aligned, 1-D"]
FAULTS = {
    "mean for the sum": (NEAREST, lambda r, d: NEAREST.layer.backward(r, d)[1] / 4),
    "set for add": (NEAREST, lambda r, d: d[:, 1::2, 1::2]),
    "the other nearest place": (NEAREST, lambda r, d: NEAREST.layer.backward(r, jnp.roll(d, 1, 1))[1]),
    "corners not aligned": (LINEAR, lambda r, d: upsample.backward(r, d, factor=3, method="linear")[1]),
    "nearest for linear": (LINEAR, lambda r, d: upsample.backward(r, d, factor=3)[1]),
}


@pytest.mark.parametrize("name", FAULTS)
def test_planted_fault_is_caught(key, name):
    example, wrong = FAULTS[name]
    assert_caught(example, key, lambda residuals, delta: ((), wrong(residuals, delta)), {"1"})


@pytest.mark.usefixtures("as_users_run_it")
def test_bad_input_is_named():
    with pytest.raises(ValueError, match=r"upsample\.layer: either factor or size .*, got None and None"):
        upsample.layer()
    with pytest.raises(ValueError, match=r"upsample\.layer: either factor or size .*, got 2 and 3"):
        upsample.layer(2, size=3)
    with pytest.raises(
        ValueError, match=r"upsample\.layer: method must be one of nearest, linear, got the str 'bilinear'"
    ):
        upsample.layer(2, method="bilinear")
    with pytest.raises(ValueError, match=r"upsample\.layer: align_corners says where \"linear\" reads"):
        upsample.layer(2, align_corners=True)
    with pytest.raises(TypeError, match=r"upsample\.layer: align_corners must be True or False, got the int 1"):
        upsample.layer(2, align_corners=1)
    with pytest.raises(
        ValueError, match=r"upsample\.layer: factor must be a whole number of at least 1, got the int 0"
    ):
        upsample.layer(0)
    with pytest.raises(ValueError, match=r"upsample\.forward: size must be an int or have one entry for each of the 2"):
        upsample.layer(size=(2, 3, 4)).forward((), jnp.ones((1, 2, 2, 1)))
    with pytest.raises(ValueError, match=r"upsample\.forward: a spatial axis has no entries"):
        upsample.layer(2).forward((), jnp.ones((1, 0, 1)))
    with pytest.raises(TypeError, match=r"upsample\.forward: x must be a floating-point array, got int"):
        upsample.layer(2).forward((), jnp.ones((1, 2, 1), int))

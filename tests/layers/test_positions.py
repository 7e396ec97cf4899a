import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxbias.layers import positions
from jaxbias.params import Params
from tests.planted import assert_caught

EXAMPLE = positions.DERIVATIONS[0].examples[0]


def test_by_hand():
    """Two samples of two steps; the third row of the table is behind the sequence."""
    table = jnp.array([[1.0], [2.0], [3.0]])
    z, residuals = positions.forward(Params(table, None), jnp.array([[[10.0], [20.0]], [[30.0], [40.0]]]))
    assert z.ravel().tolist() == [11.0, 22.0, 31.0, 42.0]
    delta = jnp.array([[[1.0], [2.0]], [[3.0], [5.0]]])
    grads, delta_x = positions.backward(residuals, delta)
    assert grads.weight.ravel().tolist() == [4.0, 7.0, 0.0]
    assert (delta_x == delta).all()


def test_sines_and_cosines():
    z, residuals = positions.sinusoidal(base=100.0).forward((), jnp.zeros((1, 3, 4)))
    expected = [[np.sin(t), np.cos(t), np.sin(t / 10), np.cos(t / 10)] for t in range(3)]
    np.testing.assert_allclose(z[0], expected, rtol=1e-15)
    assert positions.backward(residuals, z)[0] == ()


@pytest.mark.usefixtures("as_users_run_it")
def test_bad_input_is_named():
    params = positions.layer(3).init(jax.random.key(0), jnp.ones((2, 3, 4)))
    with pytest.raises(ValueError, match=r"positions.forward: a table of shape \(3, 4\) takes .* up to 3 steps of 4"):
        positions.forward(params, jnp.ones((2, 5, 4)))
    with pytest.raises(ValueError, match=r"positions.forward: a table .* got x of shape \(2, 3, 5\)"):
        positions.forward(params, jnp.ones((2, 3, 5)))
    with pytest.raises(ValueError, match=r"positions.init: x must be \(\*batch, time, features\), got shape \(4,\)"):
        positions.layer(3).init(jax.random.key(0), jnp.ones(4))
    with pytest.raises(ValueError, match=r"positions.sinusoidal: base must be positive, got 0"):
        positions.sinusoidal(base=0)
    with pytest.raises(
        ValueError, match=r"positions.layer: length must be a whole number of at least 1, got the int 0"
    ):
        positions.layer(0)


@pytest.mark.parametrize(
    ("wrong", "leaves"),
    [
        (lambda g, d: (jnp.broadcast_to(g.sum(0, keepdims=True), g.shape), d), {"0.weight"}),
        (lambda g, d: (g / len(d), d), {"0.weight"}),
        (lambda g, d: (g.at[: d.shape[1]].set(d[-1]), d), {"0.weight"}),
        (lambda g, d: (g, d * jnp.arange(1.0, 5).reshape(1, 4, 1)), {"1"}),
    ],
    ids=["P summed over t", "mean over samples", "set for add", "δ weighted by position"],
)
def test_planted_faults_are_caught(key, wrong, leaves):
    def backward(residuals, delta):
        grads, delta_x = positions.backward(residuals, delta)
        weight, delta_x = wrong(grads.weight, delta_x)
        return Params(weight, None), delta_x

    assert_caught(EXAMPLE, key, backward, leaves)

import jax.numpy as jnp
import pytest

from jaxbias.layers import bilinear
from jaxbias.params import Params
from tests.planted import assert_caught


def test_by_hand():
    """z = x1ᵀ W x2 + b with x1 = 1 2, x2 = 3 5 7, W = [[1 0 1], [0 2 0]]: 3 + 7 + 20 + 100."""
    params = Params(jnp.array([[1.0, 0, 1], [0, 2, 0]])[..., None], jnp.array([100.0]))
    z, residuals = bilinear.forward(params, (jnp.array([[1.0, 2]]), jnp.array([[3.0, 5, 7]])))
    assert z.tolist() == [[130.0]]
    grads, (delta_x1, delta_x2) = bilinear.backward(residuals, jnp.array([[10.0]]))
    assert grads.weight[..., 0].tolist() == [[30.0, 50, 70], [60, 100, 140]]
    assert grads.bias.tolist() == [10.0]
    assert delta_x1.tolist() == [[100.0, 100]]
    assert delta_x2.tolist() == [[10.0, 40, 10]]


def test_bad_input_is_named():
    params = Params(jnp.ones((3, 4, 2)), None)
    x1, x2 = jnp.ones((5, 3)), jnp.ones((5, 4))
    with pytest.raises(ValueError, match=r"bilinear.forward \(x1\): x has 4 features but weight has fan_in1=3"):
        bilinear.forward(params, (x2, x2))
    with pytest.raises(ValueError, match=r"bilinear.forward \(x2\): x has 3 features but weight has fan_in2=4"):
        bilinear.forward(params, (x1, x1))


@pytest.mark.usefixtures("as_users_run_it")
def test_bad_pairs_are_named():
    params = Params(jnp.ones((3, 4, 2)), None)
    x1, x2 = jnp.ones((5, 3)), jnp.ones((5, 4))
    with pytest.raises(
        ValueError, match=r"x1 and x2 must have the same leading axes, got shapes \(5, 3\) and \(2, 4\)"
    ):
        bilinear.forward(params, (x1, x2[:2]))
    with pytest.raises(ValueError, match=r"bilinear.forward: x must be a pair \(x1, x2\) of arrays, got a tuple of 3"):
        bilinear.forward(params, (x1, x2, x2))
    with pytest.raises(TypeError, match=r"bilinear.forward \(x1\): x must be a floating-point array, got int32"):
        bilinear.forward(params, (x1.astype(jnp.int32), x2))


@pytest.mark.parametrize(
    ("change", "leaves"),
    [
        (lambda g, dx, r, d: (g._replace(bias=d.mean(0)), dx), {"0.bias"}),
        (lambda g, dx, r, d: (g._replace(weight=g.weight / len(d)), dx), {"0.weight"}),
        (lambda g, dx, r, d: (g, (dx[0] * r.x1, dx[1])), {"1.0"}),
        (lambda g, dx, r, d: (g, (dx[0], 2 * dx[1])), {"1.1"}),
    ],
    ids=["bias: mean", "weight: mean", "x1: its own factor kept", "x2: doubled"],
)
def test_planted_faults_are_caught(key, change, leaves):
    example = bilinear.DERIVATIONS[0].examples[0]
    assert_caught(example, key, lambda r, d: change(*bilinear.backward(r, d), r, d), leaves)

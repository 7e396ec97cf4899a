"""PReLU: numbers worked by hand, planted faults, bad input."""

import jax
import jax.numpy as jnp
import pytest

from jaxbias import Params
from jaxbias.layers import prelu
from tests.planted import assert_caught

PER_UNIT, ONE_SLOPE, _ = prelu.DERIVATIONS[0].examples


def test_by_hand():
    """(9.10.1): only what is not above 0 meets the slope, and 0 itself has it too."""
    params = Params(jnp.array([0.5, -2.0]), None)
    out, residuals = prelu.forward(params, jnp.array([[-4.0, 3], [6, -1], [0, -5]]))
    grads, delta_x = prelu.backward(residuals, jnp.array([[1.0, 10], [100, 2], [7, 3]]))
    assert out.tolist() == [[-2, 3], [6, 2], [0, 10]]
    assert grads.weight.tolist() == [-4, -17] and grads.bias is None
    assert delta_x.tolist() == [[0.5, 10], [100, -4], [3.5, -6]]


def test_slopes_start_at_a_quarter_one_for_each_unit_or_one_for_all(key):
    assert prelu.layer().init(key, jnp.ones((2, 3))).weight.tolist() == [0.25] * 3
    assert prelu.layer(shared=True).init(key, jnp.ones((2, 3))).weight.tolist() == [0.25]


def test_narrow_deltas_are_summed_in_float32():
    ones = jnp.ones((4096, 1), jnp.bfloat16)  # in bfloat16 a running sum stops at 256
    _, residuals = prelu.forward(Params(ones[0], None), -ones)
    assert prelu.backward(residuals, ones)[0].weight.tolist() == [-4096]


FAULTS = {
    "slope without z": (lambda g, x, r, d: (jnp.where(r.z > 0, 0, d).sum(0), x), {"0.weight"}),
    "slope averaged": (lambda g, x, r, d: (g / len(d), x), {"0.weight"}),
    "slope from the positive side": (lambda g, x, r, d: (jnp.where(r.z > 0, d * r.z, 0).sum(0), x), {"0.weight"}),
    "slope not applied to delta": (lambda g, x, r, d: (g, jnp.where(r.z > 0, d, 0)), {"1"}),
}


@pytest.mark.parametrize("name", FAULTS)
def test_planted_fault_is_caught(key, name):
    fault, leaves = FAULTS[name]

    def wrong(residuals, delta):
        grads, delta_x = prelu.backward(residuals, delta)
        weight, delta_x = fault(grads.weight, delta_x, residuals, delta)
        return Params(weight, None), delta_x

    assert_caught(PER_UNIT, key, wrong, leaves)


def test_a_shared_slope_is_summed_over_all_axes(key):
    def wrong(residuals, delta):
        grads, delta_x = prelu.backward(residuals, delta)
        return Params(jnp.where(residuals.z > 0, 0, delta * residuals.z)[..., 0].sum()[None], None), delta_x

    assert_caught(ONE_SLOPE, key, wrong, {"0.weight"})


def test_bad_input_is_named(as_users_run_it):
    with pytest.raises(ValueError, match=r"prelu\.forward: .* got x \(5, 4\) and weight \(3,\)"):
        prelu.forward(Params(jnp.ones(3), None), jnp.ones((5, 4)))
    with pytest.raises(ValueError, match=r"prelu\.forward: .* got x \(3,\) and weight \(2, 3\)"):
        prelu.forward(Params(jnp.ones((2, 3)), None), jnp.ones(3))
    with pytest.raises(ValueError, match=r"prelu\.forward: this layer has no bias"):
        prelu.forward(Params(jnp.ones(3), jnp.ones(3)), jnp.ones((5, 3)))
    with pytest.raises(TypeError, match=r"prelu\.forward: x must be a floating-point array, got int"):
        prelu.forward(Params(jnp.ones(3), None), jnp.ones((5, 3), int))
    with pytest.raises(TypeError, match=r"prelu\.layer: shared must be True or False, got the int 1"):
        prelu.layer(shared=1)  # pyright: ignore[reportArgumentType]
    with pytest.raises(ValueError, match=r"prelu\.init: x needs at least 2 axes, got shape \(3,\)"):
        prelu.layer(axes=2).init(jax.random.key(0), jnp.ones(3))

"""Fixed-point layers: by hand, linear systems, what is kept, how fast it settles, planted faults, bad input."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxbias.derivation import normal, random_like
from jaxbias.layers import implicit, rnn
from jaxbias.layers.implicit import ImplicitParams
from jaxbias.layers.rnn import RnnParams
from jaxbias.params import Params
from tests.planted import assert_caught

EXAMPLE = implicit.DERIVATIONS[0].examples[0]


@pytest.fixture
def task(key):
    """Params with |W| ½, an input of five rows, an error signal."""
    params = implicit.init(key, 3, 4, dtype=jnp.float64)
    params = params._replace(input=random_like(key, params.input))
    keys = jax.random.split(key)
    return params, normal(keys[0], (5, 3), jnp.float64), normal(keys[1], (5, 4), jnp.float64)


def test_by_hand():
    """relu, x U + b = 3: z = z/2 + 3 is 6, and δ̂ = 1 + δ̂/2 is 2."""
    params = ImplicitParams(Params(jnp.array([[2.0]]), jnp.array([1.0])), Params(jnp.array([[0.5]]), None))
    z, residuals = implicit.forward(params, jnp.array([[1.0]]), activation="relu", iterations=60)
    grads, delta_x = implicit.backward(residuals, jnp.array([[1.0]]), activation="relu", iterations=60)
    assert z.tolist() == [[6]] and implicit.residual(params, jnp.array([[1.0]]), z, activation="relu") == 0
    assert [leaf.item() for leaf in (grads.input.bias, grads.input.weight, grads.hidden.weight)] == [2, 2, 12]
    assert delta_x.tolist() == [[4]]


def test_each_row_solves_its_linear_system(task):
    """(I − W Diag(s)) λ = δ, δ̂ = s λ (9.13.3), at the steady state of the recurrent cell."""
    params, x, delta = task
    z, residuals = implicit.forward(params, x)
    steady, _ = rnn.forward(RnnParams(*params), jnp.broadcast_to(x[:, None], (5, 60, 3)), output="last")
    np.testing.assert_allclose(z, steady, rtol=1e-13)
    assert implicit.residual(params, x, z) < 1e-15
    grads, delta_x = implicit.backward(residuals, delta)
    weight, s = np.asarray(params.hidden.weight), 1 - np.asarray(z) ** 2
    solved = [slope * np.linalg.solve(np.eye(4) - weight * slope[None], d) for slope, d in zip(s, np.asarray(delta))]
    np.testing.assert_allclose(grads.input.bias, np.sum(solved, axis=0), rtol=1e-12)
    np.testing.assert_allclose(delta_x, np.array(solved) @ np.asarray(params.input.weight).T, rtol=1e-12)


def test_an_error_shrinks_by_the_contraction(task):
    """|W| = ½ and slopes of at most 1: ten more iterations leave less than 2⁻¹⁰ of it, in z and in the gradients."""
    params, x, delta = task

    def run(iterations):
        z, residuals = implicit.forward(params, x, iterations=iterations)
        return z, implicit.backward(residuals, delta, iterations=iterations)[0].input.bias

    end = run(60)
    for few, more in zip(zip(run(3), end), zip(run(13), end), strict=True):
        away, nearer = (np.abs(value - settled).max() for value, settled in (few, more))
        assert 0 < nearer < away / 2**10


def test_nothing_of_the_iterations_is_kept(task):
    """Autodiff keeps every iterate; here the residuals are z, x and params, whatever their number."""
    params, x, _ = task
    kept = [jax.eval_shape(lambda n=n: implicit.forward(params, x, iterations=n)[1]) for n in (5, 500)]
    assert kept[0] == kept[1] and [leaf.shape for leaf in jax.tree.leaves(kept[0])][:2] == [(5, 4), (5, 3)]
    _, pull_back = jax.vjp(lambda params: implicit.forward(params, x, iterations=50)[0], params)
    assert sum(leaf.size for leaf in jax.tree.leaves(pull_back)) > 50 * 5 * 4


def test_half_precision_iterates_in_float32(task):
    params, x, delta = task
    narrow = jax.tree.map(lambda leaf: leaf.astype(jnp.bfloat16), (params, x, delta))
    z, residuals = implicit.forward(*narrow[:2])
    grads, _ = implicit.backward(residuals, narrow[2])
    wide = jax.tree.map(lambda leaf: leaf.astype(jnp.float64), narrow)
    expected, _ = implicit.backward(implicit.forward(*wide[:2])[1], wide[2])
    assert z.dtype == grads.hidden.weight.dtype == jnp.bfloat16 and residuals.z.dtype == jnp.float32
    np.testing.assert_allclose(grads.hidden.weight, expected.hidden.weight, rtol=0, atol=0.01)


def faulty(solve):
    """Backward of EXAMPLE with another δ̂, from I, W as it is used, s and δ of each row."""

    def wrong(residuals, delta):
        z, x, params = residuals
        weight, s = params.hidden.weight, 1 - z * z
        solved = jax.vmap(lambda s, d: solve(jnp.eye(4), weight, s, d))(s, delta)
        hidden = Params(z.T @ solved / 8, None)
        return ImplicitParams(Params(x.T @ solved, solved.sum(0)), hidden), solved @ params.input.weight.T

    return wrong


ALL = {"0.input.weight", "0.input.bias", "0.hidden.weight", "1"}
FAULTS = {
    "one step": faulty(lambda eye, w, s, d: s * d),
    "transposed system": faulty(lambda eye, w, s, d: s * jnp.linalg.solve(eye - w.T * s[None], d)),
    "plus in place of minus": faulty(lambda eye, w, s, d: s * jnp.linalg.solve(eye + w * s[None], d)),
    "slope on the wrong side": faulty(lambda eye, w, s, d: jnp.linalg.solve(eye - w * s[None], s * d)),
    "slope missing": faulty(lambda eye, w, s, d: jnp.linalg.solve(eye - w * s[None], d)),
}


def test_the_right_system_is_acquitted(key):
    assert_caught(EXAMPLE, key, faulty(lambda eye, w, s, d: s * jnp.linalg.solve(eye - w * s[None], d)), set())


@pytest.mark.parametrize("name", FAULTS)
def test_planted_fault_is_caught(key, name):
    assert_caught(EXAMPLE, key, FAULTS[name], ALL)


@pytest.mark.usefixtures("as_users_run_it")
def test_bad_input_is_named(task, key):
    params, x, delta = task
    with pytest.raises(
        TypeError, match=r"implicit\.forward: params must be ImplicitParams\(input, hidden\), each a jb\.Params, got"
    ):
        implicit.forward(tuple(params), x)
    with pytest.raises(
        ValueError, match=r"implicit\.forward: the hidden weight must be \(units, units\) .* got shape \(4, 3\)"
    ):
        implicit.forward(params._replace(hidden=Params(jnp.ones((4, 3)), None)), x)
    with pytest.raises(ValueError, match=r"implicit\.forward \(hidden\): this layer has no bias"):
        implicit.forward(params._replace(hidden=Params(jnp.eye(4), jnp.ones(4))), x)
    with pytest.raises(ValueError, match=r"implicit\.forward: x has 4 features but weight has fan_in=3"):
        implicit.forward(params, delta)
    with pytest.raises(ValueError, match=r"implicit\.layer: activation must be one of tanh, relu, got the str 'gelu'"):
        implicit.layer(4, activation="gelu")
    with pytest.raises(ValueError, match=r"implicit\.layer: iterations must be a whole number of at least 1"):
        implicit.layer(4, iterations=0)
    with pytest.raises(ValueError, match=r"implicit\.backward: delta has shape \(5, 3\)"):
        implicit.backward(implicit.forward(params, x)[1], x)
    with pytest.raises(TypeError, match=r"implicit\.init: x must be a floating-point array, got int"):
        implicit.layer(4).init(key, jnp.ones((2, 3), int))

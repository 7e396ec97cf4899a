"""Negative binomial likelihood: SciPy's distribution, Poisson's limit, large concentrations, planted faults."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import special, stats

from jaxbias.losses import negative_binomial_nll, poisson_nll
from tests.planted import assert_caught, assert_loss_caught

EXAMPLE, LARGE, _ = negative_binomial_nll.DERIVATIONS[0].examples


def value_and_delta(out, targets, **options):
    def run(out):
        value, residuals = negative_binomial_nll.forward(out, targets, **options)
        return value, negative_binomial_nll.backward(residuals)

    return jax.jit(run)(out)


COUNTS = np.array([[0.0, 7], [3, 1], [40, 2]])
LOG_MEANS = np.array([[0.3, 1.5], [-2, 0], [3, 8]])


@pytest.mark.parametrize("concentration", [0.05, 1.0, 15.9, 16.1, 1e4])
def test_the_distribution_of_scipy(concentration):
    """With log y!, which is left out here, it is −log NB."""
    mu = np.exp(LOG_MEANS)
    expected = -stats.nbinom(concentration, concentration / (concentration + mu)).logpmf(COUNTS)
    expected = (expected - special.gammaln(COUNTS + 1)).sum()
    value, delta = value_and_delta(
        jnp.asarray(LOG_MEANS), jnp.asarray(COUNTS), concentration=concentration, reduction="sum"
    )
    np.testing.assert_allclose(value, expected, rtol=1e-9)
    np.testing.assert_allclose(
        delta, concentration * (mu - COUNTS) / (concentration + mu), rtol=1e-12, atol=1e-15 * (1 + concentration)
    )


def test_both_derivatives_in_float32_where_the_gammas_cancel():
    """At r = 1e6 two log Γ of 1e7 differ by 100. For whole counts y they are a product and a sum of y terms."""
    r = np.array([1e2, 1e4, 1e6, 1e8])
    y, mu = np.full(4, 9.0), np.full(4, 5.0)
    out = np.stack([np.log(mu), np.log(r)], axis=-1)
    value, delta = value_and_delta(jnp.asarray(out, jnp.float32), jnp.asarray(y[:, None], jnp.float32), reduction="sum")
    # Γ(y + r)/Γ(r) is a product of y factors, and ψ(y + r) − ψ(r) the sum of their reciprocals
    steps = r[:, None] + np.arange(9)
    cost = r * np.log1p(mu / r) + y * np.log1p(r / mu) - np.log(steps).sum(1)
    np.testing.assert_allclose(value, cost.sum(), rtol=1e-5)
    of_mean = r * (mu - y) / (r + mu)
    of_concentration = r * (np.log1p(mu / r) - (1 / steps).sum(1)) - of_mean
    np.testing.assert_allclose(delta[:, 0], of_mean, rtol=1e-5)
    np.testing.assert_allclose(delta[:, 1], of_concentration, rtol=1e-3, atol=1e-5)


def test_a_large_concentration_is_a_poisson():
    out, targets = jnp.asarray(LOG_MEANS[:2]), jnp.asarray(COUNTS[:2])
    value, delta = value_and_delta(out, targets, concentration=1e12)
    expected, residuals = poisson_nll.forward(out, targets)
    np.testing.assert_allclose(value, expected, rtol=1e-10)
    np.testing.assert_allclose(delta, poisson_nll.backward(residuals), rtol=1e-10)


def test_no_rows_and_half_precision():
    value, delta = value_and_delta(jnp.zeros((0, 4)), jnp.zeros((0, 2)))
    assert value == 0 and delta.shape == (0, 4)
    value, delta = value_and_delta(jnp.array([[2.0, 12]], jnp.float16), jnp.array([[500.0]], jnp.float16))
    assert value.dtype == jnp.float32 and np.isfinite(delta).all() and delta.dtype == jnp.float16


def faulty(change):
    """δ of (5, 2) counts with other slopes of z and s."""

    def backward(residuals):
        z, s = jnp.split(residuals.out, 2, axis=-1)
        mu, r, y = jnp.exp(z), jnp.exp(s), residuals.targets
        of_mean = r * (mu - y) / (r + mu)
        psi = jax.scipy.special.digamma
        of_s = r * (psi(r) - psi(y + r) + jnp.log1p(mu / r)) - of_mean
        return jnp.concatenate(change(mu, r, y, of_mean, of_s), axis=-1) / 5

    return backward


FAULTS = {
    "the slope of a Poisson": faulty(lambda mu, r, y, of_mean, of_s: (mu - y, of_s)),
    "by r and not by log r": faulty(lambda mu, r, y, of_mean, of_s: (of_mean, of_s / r)),
    "the share of μ in ∂/∂s missing": faulty(lambda mu, r, y, of_mean, of_s: (of_mean, of_s + of_mean)),
    "log Γ alone": faulty(lambda mu, r, y, of_mean, of_s: (of_mean, of_s - r * jnp.log1p(mu / r))),
    "mean and concentration exchanged": faulty(lambda mu, r, y, of_mean, of_s: (of_s, of_mean)),
}


@pytest.mark.parametrize("name", FAULTS)
def test_planted_fault_is_caught(key, name):
    assert_loss_caught(EXAMPLE, key, FAULTS[name])


def test_the_logarithms_of_the_series_alone_are_caught(key):
    """ψ(x) is log x − 1/2x − …"""

    def wrong(residuals, delta):
        z, s = jnp.split(residuals.out, 2, axis=-1)
        mu, r, y = jnp.exp(z), jnp.exp(s), residuals.targets
        of_mean = r * (mu - y) / (r + mu)
        of_s = r * (jnp.log1p(mu / r) - jnp.log1p(y / r)) - of_mean
        return (), jnp.concatenate([of_mean, of_s], axis=-1) * (residuals.rows.factor * delta)[:, None]

    assert_caught(LARGE, key, wrong, {"1"})


def test_bad_input(as_users_run_it):
    with pytest.raises(ValueError, match=r"^negative_binomial_nll\.forward: out must hold a log mean and a log conc"):
        negative_binomial_nll.forward(jnp.zeros((3, 2)), jnp.zeros((3, 2)))
    with pytest.raises(ValueError, match=r"^negative_binomial_nll\.forward: out must hold a log mean for each target"):
        negative_binomial_nll.forward(jnp.zeros((3, 4)), jnp.zeros((3, 2)), concentration=1.0)
    with pytest.raises(ValueError, match=r"^negative_binomial_nll\.forward: targets are counts and must not .* got -1"):
        negative_binomial_nll.forward(jnp.zeros((1, 2)), jnp.array([[-1.0]]))
    for wrong in (0, float("inf"), float("nan")):
        with pytest.raises(ValueError, match=r"^negative_binomial_nll\.loss: concentration must be above 0 and finite"):
            negative_binomial_nll.loss(concentration=wrong)
    with pytest.raises(TypeError, match=r"^negative_binomial_nll\.loss: concentration must be a number, got the str"):
        negative_binomial_nll.loss(concentration="1")

"""Rules of distributions, and of the functions that they are made of."""

import functools
from collections.abc import Iterator

import jax.numpy as jnp
import numpy as np

from docs.published_rules.rule import Package, Rule, between, normal, positive_definite


def distrax_rules() -> Iterator[Rule]:
    from distrax._src.distributions import von_mises
    from distrax._src.utils import math

    pair = between(0.3, 2, 3), between(0.3, 2, 3, seed=1)
    yield Rule("math.multiply_no_nan", math.multiply_no_nan, pair)
    yield Rule("math.power_no_nan", math.power_no_nan, pair)
    cdf = lambda x, k: von_mises._von_mises_cdf(x, k, jnp.float64)
    yield Rule("VonMises.cdf", cdf, (normal(2), between(0.5, 2, 2)), rtol=1e-9)


def numpyro_rules() -> Iterator[Rule]:
    from numpyro import distributions as dist
    from numpyro.distributions.util import log1mexp

    yield Rule("distributions.util.log1mexp", log1mexp, (between(-3, -0.1, 3),))
    power = lambda method: (
        lambda x, alpha, low, high: getattr(dist.DoublyTruncatedPowerLaw(alpha, low, high), method)(x)
    )
    args = tuple(map(np.float64, (1.8, -1.7, 0.6, 3.1)))
    yield Rule(
        "DoublyTruncatedPowerLaw.log_prob",
        power("log_prob"),
        args,
        found="numpyro-doublytruncatedpowerlawlog_prob-in-low-and-high",
    )
    yield Rule("DoublyTruncatedPowerLaw.cdf", power("cdf"), args)
    args = tuple(map(np.float64, (0.4, -1.7, 0.6, 3.1)))
    yield Rule("DoublyTruncatedPowerLaw.icdf", power("icdf"), args)


def tfp_rules() -> Iterator[Rule]:
    from tensorflow_probability.substrates import jax as tfp
    from tensorflow_probability.substrates.jax.distributions import student_t, von_mises
    from tensorflow_probability.substrates.jax.math import special
    from tensorflow_probability.substrates.jax.math.psd_kernels.internal import util

    m, tfb = tfp.math, tfp.bijectors
    b, rhs = normal(3, 3), normal(3, 2, seed=1)
    yield Rule("math.hpsd_logdet", lambda b: m.hpsd_logdet(positive_definite(b)), (b,))
    yield Rule("math.hpsd_solve", lambda b, y: m.hpsd_solve(positive_definite(b), y), (b, rhs))
    yield Rule("math.hpsd_solvevec", lambda b, y: m.hpsd_solvevec(positive_definite(b), y), (b, rhs[:, 0]))
    form = lambda b, y: m.hpsd_quadratic_form_solve(positive_definite(b), y)
    yield Rule(
        "math.hpsd_quadratic_form_solve",
        form,
        (b, rhs),
        found="tfpmathhpsd_quadratic_form_solve-in-the-right-hand-side",
    )
    form = lambda b, y: m.hpsd_quadratic_form_solvevec(positive_definite(b), y)
    yield Rule("math.hpsd_quadratic_form_solvevec", form, (b, rhs[:, 0]))
    pair = between(0.4, 2, 2), between(0.4, 2, 2, seed=1)
    unit = between(0.2, 0.8, 2, seed=2)
    yield Rule("math.log_cosh", m.log_cosh, (normal(3),))
    yield Rule("math.lbeta", m.lbeta, pair, rtol=1e-9)
    yield Rule("math.log_gamma_difference", m.log_gamma_difference, (pair[0], 8 + 4 * pair[1]), rtol=1e-9)
    yield Rule("math.dawsn", m.dawsn, (pair[0],), rtol=1e-10)
    yield Rule("math.erfcx", m.erfcx, (pair[0],), rtol=1e-10)
    yield Rule("math.lambertw", m.lambertw, (pair[0],), rtol=1e-8)
    yield Rule("math.owens_t", m.owens_t, (pair[0], unit), rtol=1e-9)
    # At these parameters the function has a closed form.
    polynomial = lambda x: x * x * (6 - 8 * x + 3 * x * x)
    yield Rule("math.betainc", functools.partial(m.betainc, 2.0, 3.0), (unit,), closed=polynomial, rtol=1e-9)
    inverse = functools.partial(special.betaincinv, 2.0, 1.0)
    yield Rule("math.betaincinv", inverse, (unit,), closed=jnp.sqrt, rtol=1e-8)
    inverse = functools.partial(m.igammainv, 1.0)
    yield Rule("math.igammainv", inverse, (unit,), closed=lambda p: -jnp.log1p(-p), rtol=1e-8)
    inverse = functools.partial(m.igammacinv, 1.0)
    yield Rule("math.igammacinv", inverse, (unit,), closed=lambda p: -jnp.log(p), rtol=1e-8)
    half, ive = np.float64(0.5), lambda z: -jnp.expm1(-2 * z) / jnp.sqrt(2 * np.pi * z)
    kve = lambda z: jnp.sqrt(np.pi / (2 * z))
    ratio = lambda z: 1 / jnp.tanh(z) - 1 / z
    for name, order, closed in (
        ("bessel_ive", half, ive),
        ("bessel_kve", half, kve),
        ("log_bessel_ive", half, lambda z: jnp.log(ive(z))),
        ("log_bessel_kve", half, lambda z: jnp.log(kve(z))),
        ("bessel_iv_ratio", half + 1, ratio),
    ):
        function = functools.partial(getattr(m, name), order)
        yield Rule(f"math.{name}", function, (pair[0],), closed=closed, rtol=1e-8)
    yield Rule("bijectors.Softplus", tfb.Softplus().forward, (normal(3),))
    yield Rule("psd_kernels sqrt_with_finite_grads", util.sqrt_with_finite_grads, (pair[0],), modes=("rev",))
    two = np.float64(2.0)
    cdf = lambda t: 0.5 + t / (2 * jnp.sqrt(2 + t * t))
    yield Rule("StudentT.cdf", functools.partial(student_t.stdtr, two), (normal(2),), closed=cdf, rtol=1e-8)
    quantile = lambda p: (2 * p - 1) / jnp.sqrt(2 * p * (1 - p))
    yield Rule("StudentT.quantile", functools.partial(student_t.stdtrit, two), (unit,), closed=quantile, rtol=1e-8)
    yield Rule("VonMises.cdf", von_mises.von_mises_cdf, (normal(2), pair[1]), modes=("rev",), rtol=1e-8)


PACKAGES = {
    "distrax": Package("distrax", distrax_rules),
    "numpyro": Package("numpyro", numpyro_rules),
    "tensorflow_probability (on JAX)": Package("tensorflow_probability.substrates.jax", tfp_rules),
}

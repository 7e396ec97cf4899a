"""Constants that forward and rule close over: one array in two forms, and reals that were computed with rounding."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxbias import verify

pytestmark = pytest.mark.usefixtures("as_users_run_it", "by_the_rules_of_jax")


@pytest.mark.parametrize("half", [np.float16, jnp.bfloat16])
def test_a_half_precision_array_is_the_same_in_another_order_or_dtype(half):
    weight = np.random.default_rng(0).standard_normal((4, 3)).astype(half)
    x = jnp.asarray(np.random.default_rng(1).standard_normal((2, 4)), jnp.float32)
    turned, wide = np.ascontiguousarray(weight.T), jnp.asarray(weight, jnp.float32)
    for factor, verdict in ((1.0, "right"), (1.0 + float(jnp.finfo(half).eps), "wrong")):
        for product in (lambda ct: ct @ turned, lambda ct: ct @ wide.T):
            rule = lambda args, ct, product=product, factor=factor: ((factor * product(ct)).astype(ct.dtype),)
            assert verify.vjp(lambda x: x @ weight, rule, (x,), diagnose=False).verdict == verdict


@pytest.mark.parametrize(("factor", "verdict"), [(1.0, "right"), (1 + 1e-9, "wrong")])
def test_a_fourier_matrix_computed_in_float64(factor, verdict):
    n = np.arange(6)
    matrix = np.exp(-2j * np.pi * np.outer(n, n) / 6)  # whose entries are off by several roundings
    z = jnp.asarray(np.random.default_rng(0).standard_normal(6) + 1j)
    report = verify.vjp(jnp.fft.fft, lambda args, ct: (factor * (matrix @ ct),), (z,), diagnose=False)
    assert report.verdict == verdict, report


@pytest.mark.parametrize(("factor", "verdict"), [(1.0, "right"), (1.001, "wrong")])
def test_a_fourier_matrix_rounded_to_complex64(factor, verdict):
    n = np.arange(8)
    matrix = np.exp(-2j * np.pi * np.outer(n, n) / 8).astype(np.complex64)

    def rule(args, ct):
        return (2 * factor * jnp.real(jnp.conj(matrix).T @ (ct * (matrix @ args[0]))),)

    x = jnp.asarray(np.random.default_rng(14).standard_normal(8), jnp.float32)
    report = verify.vjp(lambda x: jnp.abs(jnp.fft.fft(x)) ** 2, rule, (x,), diagnose=False)
    assert report.verdict == verdict, report


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.float64])
@pytest.mark.parametrize(("factor", "verdict"), [(1.0, "right"), (1.001, "wrong")])
def test_a_product_of_constants_beside_terms_that_cancel(dtype, factor, verdict):
    """selu′ = selu + λα for negative x: λα is rounded once more, and far out that is all there is."""
    scale, alpha = 1.0507009873554804934193349852946, 1.6732632423543772848170429916717

    def rule(args, ct):
        (x,) = args
        return (factor * ct * jnp.where(x > 0, scale, jax.nn.selu(x) + scale * alpha),)

    x = jnp.array([1.0, -31.0, -28.5, 2.0, -0.5], dtype)
    report = verify.vjp(jax.nn.selu, rule, (x,), diagnose=False)
    assert report.verdict == verdict, report


@pytest.mark.parametrize(("factor", "verdict"), [(1.0, "right"), (1 + 1e-5, "wrong")])
def test_a_factor_where_float64_has_nothing_left_of_the_gradient(factor, verdict):
    """The largest score has a weight of 1 in float64, and its gradient, which others have 1e-90 of, is 0 there."""
    single = lambda *numbers: jnp.array(numbers, jnp.float32)
    scores, values = single([5.0, 24.0, -15.0]), single(0.5, -1.25, 2.0)

    def forward(q, k):
        return jax.nn.softmax(q @ k.T / math.sqrt(3), -1) @ values

    def rule(args, ct):
        q, k = args
        p = jax.nn.softmax(q @ k.T * (1 / math.sqrt(3)), -1)
        ds = p * (ct[:, None] * values - jnp.sum(p * values, -1, keepdims=True) * ct[:, None]) * (1 / math.sqrt(3))
        return factor * ds @ k, factor * ds.T @ q

    report = verify.vjp(forward, rule, (single([12.0]), scores.T), diagnose=False)
    assert report.verdict == verdict, report

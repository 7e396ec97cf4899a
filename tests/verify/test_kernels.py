"""A Pallas kernel with a rule of its own, in interpret mode on the CPU, against the plain function."""

import jax
import jax.numpy as jnp
import pytest
from jax.experimental import pallas as pl

from jaxbias import verify


def kernel(x_ref, bias_ref, out_ref):
    out_ref[...] = jnp.maximum(x_ref[...] + bias_ref[...], 0)


def backward_kernel(x_ref, bias_ref, ct_ref, out_ref):
    out_ref[...] = jnp.where(x_ref[...] + bias_ref[...] > 0, ct_ref[...], 0)


def call(body, *arrays):
    shape = jax.ShapeDtypeStruct(arrays[0].shape, arrays[0].dtype)
    return pl.pallas_call(body, out_shape=shape, interpret=True)(*arrays)


def fused(sum_bias):
    """relu(x + bias) as a kernel; its rule is a kernel too."""

    @jax.custom_vjp
    def function(x, bias):
        return call(kernel, x, bias[None, :])

    def forward(x, bias):
        return function(x, bias), (x, bias)

    def backward(residuals, ct):
        x, bias = residuals
        dx = call(backward_kernel, x, bias[None, :], ct)
        return dx, sum_bias(dx)

    function.defvjp(forward, backward)
    return function


def test_a_kernel_with_its_own_rule(key):
    plain = lambda x, bias: jax.nn.relu(x + bias[None, :])
    args = jax.random.normal(key, (5, 3), jnp.float32), jnp.array([0.3, -0.2, 0.1], jnp.float32)
    report = verify.custom_vjp(fused(lambda dx: dx.sum(axis=0)), plain, args)
    assert report.ok and report.verdict in ("right", "right up to convention"), report
    report = verify.custom_vjp(fused(lambda dx: dx.mean(axis=0)), plain, args)
    assert [path for path, leaf in report.leaves.items() if not leaf.ok] == ["bias"]
    assert report.diagnoses[0].kind in ("batch-mean-vs-sum", "scale-constant"), report


@pytest.mark.parametrize("factor", [1.05, 3.0])
def test_a_factor_is_named_in_a_rule_of_one_dtype_and_one_size(key, factor):
    """There are no other sizes at which to see the factor again: the rule holds its own as a number."""

    def rule(args, cotangent):
        x, taps = args
        if x.dtype == jnp.float64:
            raise TypeError("float32 only")
        spectrum = jnp.fft.rfft(cotangent)
        back = lambda other: factor * jnp.fft.irfft(spectrum * jnp.conj(jnp.fft.rfft(other)), n=5)
        return back(taps), back(x)

    circular = lambda x, taps: jnp.fft.irfft(jnp.fft.rfft(x) * jnp.fft.rfft(taps), n=5)
    report = verify.vjp(circular, rule, tuple(jax.random.normal(key, (2, 5), jnp.float32)))
    assert [diagnosis.kind for diagnosis in report.diagnoses] == ["scale-constant"] * 2, report
    assert f"{factor:g}" in str(report.diagnoses[0])

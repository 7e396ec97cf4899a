"""Fourier and complex valued pieces (cotangents as jax hands them over, no conjugation of the holomorphic Jacobian)."""

import jax
import jax.numpy as jnp

from tests.verify.slips.changes import wrong_rules


def cnormal(key, shape):
    a, b = jax.random.split(key)
    return (jax.random.normal(a, shape) + 1j * jax.random.normal(b, shape)).astype(jnp.complex64)


def spectrum_power(x, h):
    X = jnp.fft.fft(x)
    return h * jnp.abs(X) ** 2


def right_spectrum_power_back(inputs, cot):
    x, h = inputs
    X = jnp.fft.fft(x)
    dh = cot * (X.real**2 + X.imag**2)
    dX = 2.0 * cot * h * jnp.conj(X)
    dx = jnp.fft.fft(dX).real
    return dx, dh


def complex_dense(z, w):
    """Energy of a complex linear layer."""
    y = z @ w
    return jnp.sum(y.real**2 + y.imag**2, axis=1)


def right_complex_dense_back(inputs, cot):
    z, w = inputs
    y = z @ w
    dy = 2 * cot[:, None] * jnp.conj(y)
    dz = dy @ w.T
    dw = z.T @ dy
    return dz, dw


def phase_shift(z, theta):
    return (z * jnp.exp(1j * theta)).astype(jnp.complex64)


def right_phase_shift_back(inputs, cot):
    z, theta = inputs
    rot = jnp.exp(1j * theta)
    dz = cot * rot
    dtheta = jnp.real(cot * 1j * z * rot).sum(axis=0)
    return dz, dtheta


def circular_filter(x, k):
    return jnp.fft.ifft(jnp.fft.fft(x) * jnp.fft.fft(k)).real


def right_circular_filter_back(inputs, cot):
    x, k = inputs
    C = jnp.fft.fft(cot)
    # circular correlation with the other signal
    dx = jnp.fft.ifft(C * jnp.conj(jnp.fft.fft(k))).real
    dk = jnp.fft.ifft(C * jnp.conj(jnp.fft.fft(x))).real
    return dx, dk


SINGLE = [
    *wrong_rules(
        spectrum_power,
        right_spectrum_power_back,
        lambda key: tuple(jax.random.normal(k, (8,)) for k in jax.random.split(key)),
        """
spectrum_power_back
- dX = 2.0 * cot * h * jnp.conj(X)
+ dX = 2.0 * cot * h * X
conjugate: gradient of |X|^2 is 2 conj(X) here
    """,
    ),
    *wrong_rules(
        complex_dense,
        right_complex_dense_back,
        lambda key: tuple(cnormal(k, s) for k, s in zip(jax.random.split(key), ((3, 4), (4, 2)))),
        """
complex_dense_back
- dz = dy @ w.T
+ dz = dy @ jnp.conj(w).T
conjugate: transpose without conjugate wanted: dy carries the conjugate already
    """,
    ),
    *wrong_rules(
        phase_shift,
        right_phase_shift_back,
        lambda key: (cnormal(key, (3, 5)), jax.random.normal(key, (5,))),
        """
phase_shift_back
- dtheta = jnp.real(cot * 1j * z * rot).sum(axis=0)
+ dtheta = jnp.imag(cot * 1j * z * rot).sum(axis=0)
operand: real part of the product is wanted, not the imaginary
    """,
    ),
    *wrong_rules(
        circular_filter,
        right_circular_filter_back,
        lambda key: tuple(jax.random.normal(k, (7,)) for k in jax.random.split(key)),
        """
circular_filter_back
- dk = jnp.fft.ifft(C * jnp.conj(jnp.fft.fft(x))).real
+ dk = jnp.fft.ifft(C * jnp.fft.fft(x)).real
conjugate: correlation needs the conjugate of the signal's spectrum
    """,
    ),
]

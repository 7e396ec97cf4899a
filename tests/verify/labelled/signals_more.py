"""Rules with signals whose verdict is certain."""

import jax.numpy as jnp
import numpy as np

from tests.verify.labelled import group, normals

CASES = []


# ---- linear autocorrelation by zero-padded FFT, lags 0..4
def autoc(x):
    X = jnp.fft.rfft(x, n=16)
    return jnp.fft.irfft(X * jnp.conj(X), n=16)[:5]


def autoc_r1(args, ct):
    (x,) = args
    C = jnp.fft.rfft(ct, n=16)
    return (2 * jnp.fft.irfft(C.real * jnp.fft.rfft(x, n=16), n=16)[:8],)


def autoc_r2(args, ct):
    (x,) = args
    g = jnp.zeros_like(x)
    for k in range(5):
        g = g.at[: 8 - k].add(ct[k] * x[k:])
        g = g.at[k:].add(ct[k] * x[: 8 - k])
    return (g,)


def autoc_w1(args, ct):
    (x,) = args
    g = jnp.zeros_like(x)
    for k in range(5):
        g = g.at[: 8 - k].add(ct[k] * x[k:])
    return (g,)


def autoc_w2(args, ct):
    (x,) = args
    return (2 * jnp.fft.irfft(jnp.fft.rfft(ct, n=16) * jnp.fft.rfft(x, n=16), n=16)[:8],)


def autoc_w3(args, ct):
    (x,) = args
    C = jnp.fft.rfft(ct, n=8)
    return (2 * jnp.fft.irfft(C.real * jnp.fft.rfft(x, n=8), n=8),)


def autoc_w4(args, ct):
    (x,) = args
    g = autoc_r2(args, ct)[0]
    return (g - ct[0] * x,)


CASES += group(
    "signal",
    "autocorrelation",
    autoc,
    normals((8,)),
    [autoc_r1, autoc_r2],
    [
        (autoc_w1, "one of the two terms"),
        (autoc_w2, "real part forgotten"),
        (autoc_w3, "no zero padding: wraps around"),
        (autoc_w4, "lag 0 counted once"),
    ],
)

# ---- image filter in the frequency domain, complex closed-over response
_r = np.random.default_rng(3)
H = (_r.standard_normal((4, 6)) + 1j * _r.standard_normal((4, 6))).astype(np.complex64)


def filt(x, a):
    return a * jnp.real(jnp.fft.ifft2(H * jnp.fft.fft2(x)))


def filt_r1(args, ct):
    x, a = args
    y = jnp.real(jnp.fft.ifft2(H * jnp.fft.fft2(x)))
    return jnp.real(jnp.fft.ifft2(jnp.conj(H) * jnp.fft.fft2(a * ct))).astype(x.dtype), jnp.sum(ct * y).astype(a.dtype)


def filt_r2(args, ct):
    x, a = args
    gx = jnp.real(jnp.fft.fft2(H * jnp.fft.ifft2(a * ct)))
    return gx.astype(x.dtype), jnp.vdot(ct, filt(x, jnp.ones_like(a))).astype(a.dtype)


def filt_w1(args, ct):
    x, a = args
    return jnp.real(jnp.fft.ifft2(H * jnp.fft.fft2(a * ct))).astype(x.dtype), filt_r1(args, ct)[1]


def filt_w2(args, ct):
    x, a = args
    return jnp.real(jnp.fft.fft2(jnp.conj(H) * jnp.fft.ifft2(a * ct))).astype(x.dtype), filt_r1(args, ct)[1]


def filt_w3(args, ct):
    gx, ga = filt_r1(args, ct)
    return gx * 24, ga


def filt_w4(args, ct):
    x, a = args
    return filt_r1(args, ct)[0], jnp.sum(ct * a * jnp.real(jnp.fft.ifft2(H * jnp.fft.fft2(x)))).astype(a.dtype)


CASES += group(
    "signal",
    "fft2_filter",
    filt,
    normals((4, 6), ()),
    [filt_r1, filt_r2],
    [
        (filt_w1, "conjugate of the response forgotten"),
        (filt_w2, "conjugate and transposed transforms both"),
        (filt_w3, "normalisation of the inverse transform"),
        (filt_w4, "factor a too much in its own gradient"),
    ],
)

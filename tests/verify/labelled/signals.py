"""Rules with signals whose verdict is certain."""

import jax.numpy as jnp
import numpy as np

from tests.verify.labelled import group, normals

CASES = []


# ---- circular convolution by rfft
def circ(x, h):
    return jnp.fft.irfft(jnp.fft.rfft(x) * jnp.fft.rfft(h), n=16)


def circ_r1(args, ct):
    x, h = args
    C = jnp.fft.rfft(ct)
    return (jnp.fft.irfft(C * jnp.conj(jnp.fft.rfft(h)), n=16), jnp.fft.irfft(C * jnp.conj(jnp.fft.rfft(x)), n=16))


_I = ((np.arange(16)[:, None] - np.arange(16)[None, :]) % 16).astype(np.int32)


def circ_r2(args, ct):
    x, h = args
    return ct @ h[_I], ct @ x[_I]


def circ_w1(args, ct):
    x, h = args
    C = jnp.fft.rfft(ct)
    return (jnp.fft.irfft(C * jnp.fft.rfft(h), n=16), jnp.fft.irfft(C * jnp.fft.rfft(x), n=16))


def circ_w2(args, ct):
    gx, gh = circ_r1(args, ct)
    return gx, jnp.roll(gh, 1)


def circ_w3(args, ct):
    gx, gh = circ_r1(args, ct)
    return gh, gx


def circ_w4(args, ct):
    x, h = args
    C = jnp.fft.rfft(ct).at[8].set(0)
    return (jnp.fft.irfft(C * jnp.conj(jnp.fft.rfft(h)), n=16), jnp.fft.irfft(C * jnp.conj(jnp.fft.rfft(x)), n=16))


CASES += group(
    "signal",
    "circular_convolution",
    circ,
    normals((16,), (16,)),
    [circ_r1, circ_r2],
    [
        (circ_w1, "conjugate forgotten"),
        (circ_w2, "gradient of h shifted by one"),
        (circ_w3, "gradients swapped"),
        (circ_w4, "Nyquist bin lost"),
    ],
)


# ---- power spectrum
def power(x):
    X = jnp.fft.rfft(x, axis=-1)
    return (X.real**2 + X.imag**2) / 12


def power_r1(args, ct):
    (x,) = args
    X = jnp.fft.rfft(x, axis=-1)
    Y = jnp.pad(ct * X, ((0, 0), (0, 5)))
    return (2 * jnp.fft.ifft(Y, axis=-1).real,)


_n = np.arange(12)
_k = np.arange(7)
_COS = np.cos(2 * np.pi * np.outer(_k, _n) / 12).astype(np.float64)
_SIN = np.sin(2 * np.pi * np.outer(_k, _n) / 12).astype(np.float64)


def power_r2(args, ct):
    (x,) = args
    C, S = _COS.astype(x.dtype), _SIN.astype(x.dtype)
    re, im = x @ C.T, -(x @ S.T)
    return ((2 / 12) * ((ct * re) @ C - (ct * im) @ S),)


def power_r3(args, ct):
    (x,) = args
    w = jnp.ones((7,), x.dtype).at[jnp.array([0, 6])].set(2)
    return (jnp.fft.irfft(ct * w * jnp.fft.rfft(x, axis=-1), n=12, axis=-1),)


def power_w1(args, ct):
    (x,) = args
    return (2 * jnp.fft.irfft(ct * jnp.fft.rfft(x, axis=-1), n=12, axis=-1),)


def power_w2(args, ct):
    (x,) = args
    return (jnp.fft.irfft(ct * jnp.fft.rfft(x, axis=-1), n=12, axis=-1),)


def power_w3(args, ct):
    return (power_r1(args, ct)[0] / 2,)


def power_w4(args, ct):
    (x,) = args
    X = jnp.fft.rfft(x, axis=-1)
    return (2 * jnp.fft.ifft(jnp.pad(ct * jnp.conj(X), ((0, 0), (0, 5))), axis=-1).real,)


CASES += group(
    "signal",
    "power_spectrum",
    power,
    normals((2, 12)),
    [power_r1, power_r2, power_r3],
    [
        (power_w1, "irfft counts the middle bins twice"),
        (power_w2, "DC and Nyquist halved"),
        (power_w3, "factor 2 forgotten"),
        (power_w4, "conjugated spectrum: time reversed"),
    ],
)


# ---- FIR filter, causal, 'same' length
def fir(x, h):
    xp = jnp.concatenate([jnp.zeros_like(h[:-1]), x])
    return jnp.stack([xp[i : i + 4] @ h[::-1] for i in range(10)])


def fir_r1(args, ct):
    x, h = args
    xp = jnp.concatenate([jnp.zeros_like(h[:-1]), x])
    gxp = jnp.zeros_like(xp)
    for i in range(10):
        gxp = gxp.at[i : i + 4].add(ct[i] * h[::-1])
    gh = sum(ct[i] * xp[i : i + 4][::-1] for i in range(10))
    return gxp[3:], gh


def fir_r2(args, ct):
    x, h = args
    gx = jnp.convolve(ct[::-1], h)[:10][::-1]
    gh = jnp.stack([jnp.vdot(ct[k:], x[: 10 - k]) for k in range(4)])
    return gx, gh


def fir_w1(args, ct):
    x, h = args
    gx = jnp.convolve(ct, h)[:10]
    return gx, fir_r2(args, ct)[1]


def fir_w2(args, ct):
    gx, gh = fir_r2(args, ct)
    return gx, gh[::-1]


def fir_w3(args, ct):
    gx, gh = fir_r2(args, ct)
    return gx.at[9].set(0), gh


def fir_w4(args, ct):
    x, h = args
    gx = jnp.convolve(ct, h[::-1], mode="same")
    return gx, fir_r2(args, ct)[1]


CASES += group(
    "signal",
    "fir",
    fir,
    normals((10,), (4,)),
    [fir_r1, fir_r2],
    [
        (fir_w1, "filters forward in time again"),
        (fir_w2, "gradient of h reversed"),
        (fir_w3, "last element zero"),
        (fir_w4, "off by the centring of 'same'"),
    ],
)

"""Rules with complex numbers whose verdict is certain."""

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from tests.verify.labelled import group, normals

CASES = []

C64 = jnp.complex64


# ---- rotation by a real angle
def rot(z, t):
    return z * lax.complex(jnp.cos(t), jnp.sin(t))


def rot_draw(key):
    a, b = jax.random.split(key)
    return jax.random.normal(a, (5,), C64), jax.random.normal(b, (5,), jnp.float32)


def rot_r1(args, ct):
    z, t = args
    g = ct * lax.complex(jnp.cos(t), jnp.sin(t))
    return g, -jnp.imag(g * z)


def rot_r2(args, ct):
    z, t = args
    c, s = jnp.cos(t), jnp.sin(t)
    dr, di = -z.real * s - z.imag * c, z.real * c - z.imag * s
    return ct * (c + 1j * s), ct.real * dr - ct.imag * di


def rot_w1(args, ct):
    z, t = args
    return ct * lax.complex(jnp.cos(t), -jnp.sin(t)), rot_r1(args, ct)[1]


def rot_w2(args, ct):
    g, gt = rot_r1(args, ct)
    return g, -gt


def rot_w3(args, ct):
    z, t = args
    g = ct * lax.complex(jnp.cos(t), jnp.sin(t))
    return g, jnp.real(g * z)


def rot_w4(args, ct):
    z, t = args
    g = ct * lax.complex(jnp.cos(t), jnp.sin(t))
    return g, -jnp.imag(jnp.conj(g) * z)


CASES += group(
    "complex",
    "rotation",
    rot,
    rot_draw,
    [rot_r1, rot_r2],
    [
        (rot_w1, "conjugated phase"),
        (rot_w2, "sign of the angle's gradient"),
        (rot_w3, "real part for the imaginary"),
        (rot_w4, "conjugate inside"),
    ],
)

# ---- weighted DFT of a complex signal, complex closed-over weights
WT = np.array([1 + 2j, -0.5j, 0.3, 2 - 1j, 1j, -1], np.complex64)
DFT = np.exp(-2j * np.pi * np.outer(np.arange(6), np.arange(6)) / 6)


def wdft(z):
    return jnp.fft.fft(z) * WT


def wdft_r1(args, ct):
    (z,) = args
    return (jnp.fft.fft(ct * WT).astype(z.dtype),)


def wdft_r2(args, ct):
    (z,) = args
    return ((DFT.astype(z.dtype).T @ (WT.astype(z.dtype) * ct)).astype(z.dtype),)


def wdft_w1(args, ct):
    (z,) = args
    return ((6 * jnp.fft.ifft(ct * np.conj(WT))).astype(z.dtype),)


def wdft_w2(args, ct):
    (z,) = args
    return (jnp.fft.fft(ct * np.conj(WT)).astype(z.dtype),)


def wdft_w3(args, ct):
    (z,) = args
    return (jnp.fft.ifft(ct * WT).astype(z.dtype),)


CASES += group(
    "complex",
    "weighted_dft",
    wdft,
    normals((2, 6), dtype=C64),
    [wdft_r1, lambda a, c: (jax.vmap(lambda z, c: wdft_r2((z,), c)[0])(a[0], c),)],
    [
        (wdft_w1, "adjoint in place of the transpose (JAX's convention)"),
        (wdft_w2, "weights conjugated"),
        (wdft_w3, "inverse transform"),
    ],
)

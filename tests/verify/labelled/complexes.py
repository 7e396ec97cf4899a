"""Rules with complex numbers whose verdict is certain."""

import jax.numpy as jnp
from jax import lax

from tests.verify.labelled import group, normals

CASES = []

C64 = jnp.complex64


# ---- z * conj(w) + z^2   (JAX's convention of cotangents)
def poly(z, w):
    return z * jnp.conj(w) + z * z


def poly_r1(args, ct):
    z, w = args
    return ct * (jnp.conj(w) + 2 * z), jnp.conj(ct * z)


def poly_r2(args, ct):
    z, w = args
    d = ct * z
    return ct * jnp.conj(w) + 2 * d, lax.complex(d.real, -d.imag)


def poly_w1(args, ct):
    z, w = args
    return ct * (jnp.conj(w) + 2 * z), ct * z


def poly_w2(args, ct):
    z, w = args
    return ct * (w + 2 * z), jnp.conj(ct * z)


def poly_w3(args, ct):
    z, w = args
    return ct * jnp.conj(jnp.conj(w) + 2 * z), jnp.conj(ct) * z


CASES += group(
    "complex",
    "z_conj_w",
    poly,
    normals((4,), (4,), dtype=C64),
    [poly_r1, poly_r2],
    [
        (poly_w1, "conjugate of the gradient of w forgotten"),
        (poly_w2, "w not conjugated"),
        (poly_w3, "PyTorch's conjugated convention"),
    ],
)


# ---- smooth modulus, real output
def smod(z):
    return jnp.sqrt(z.real**2 + z.imag**2 + 0.1)


def smod_r1(args, ct):
    (z,) = args
    return (ct * jnp.conj(z) / smod(z),)


def smod_r2(args, ct):
    (z,) = args
    s = smod(z)
    return (lax.complex(ct * z.real / s, -ct * z.imag / s),)


def smod_w1(args, ct):
    (z,) = args
    return (ct * z / smod(z),)


def smod_w2(args, ct):
    (z,) = args
    return (2 * ct * jnp.conj(z) / smod(z),)


def smod_w3(args, ct):
    (z,) = args
    return (lax.complex(ct * z.real / smod(z), jnp.zeros_like(ct)),)


def smod_w4(args, ct):
    (z,) = args
    return (ct * jnp.conj(z) / (jnp.abs(z) + 0.1),)


CASES += group(
    "complex",
    "smooth_modulus",
    smod,
    normals((5,), dtype=C64),
    [smod_r1, smod_r2],
    [
        (smod_w1, "conjugate forgotten"),
        (smod_w2, "factor 2"),
        (smod_w3, "imaginary part lost"),
        (smod_w4, "epsilon outside the root"),
    ],
)


# ---- complex matrix product with a conjugate transpose
def herm(a, b):
    return jnp.conj(a).T @ b


def herm_r1(args, ct):
    a, b = args
    return jnp.conj(b @ ct.T), jnp.conj(a) @ ct


def herm_r2(args, ct):
    a, b = args
    return jnp.einsum("ij,kj->ki", jnp.conj(ct), jnp.conj(b)), jnp.einsum("ki,ij->kj", jnp.conj(a), ct)


def herm_w1(args, ct):
    a, b = args
    return b @ ct.T, jnp.conj(a) @ ct


def herm_w2(args, ct):
    a, b = args
    return jnp.conj(b @ ct.T), a @ ct


def herm_w3(args, ct):
    a, b = args
    return jnp.conj(b) @ ct.T, jnp.conj(a) @ ct


CASES += group(
    "complex",
    "hermitian_product",
    herm,
    normals((3, 2), (3, 4), dtype=C64),
    [herm_r1, herm_r2],
    [(herm_w1, "outer conjugate forgotten"), (herm_w2, "a not conjugated"), (herm_w3, "ct not conjugated")],
)

"""Rules with constants whose verdict is certain."""

import jax.numpy as jnp
import numpy as np

from tests.verify.labelled import group, normals, normals64

CASES = []

_rng = np.random.default_rng(11)
# ---- separable smoothing with closed-over float32 kernels
KR = _rng.standard_normal((5, 4)).astype(np.float32)
KC = _rng.standard_normal((3, 6)).astype(np.float32)


def sep(x):
    return jnp.sin(KR @ x @ KC.T)


def sep_r1(args, ct):
    (x,) = args
    return ((KR.T @ (ct * jnp.cos(KR @ x @ KC.T)) @ KC).astype(x.dtype),)


def sep_r2(args, ct):
    (x,) = args
    d = ct * jnp.cos(jnp.einsum("ai,ij,bj->ab", KR, x, KC))
    return (jnp.einsum("ab,ai,bj->ij", d, KR, KC).astype(x.dtype),)


def sep_w1(args, ct):
    (x,) = args
    return ((KR.T @ ct @ KC).astype(x.dtype),)


def sep_w2(args, ct):
    (x,) = args
    return ((KR.T @ (ct * jnp.cos(KR @ x @ KC.T)) @ np.abs(KC)).astype(x.dtype),)


def sep_w3(args, ct):
    (x,) = args
    return ((KR.T @ (ct * jnp.cos(KR @ x @ KC.T)) @ KC).at[2, 3].multiply(0.9).astype(x.dtype),)


def sep_w4(args, ct):
    (x,) = args
    return ((KR[::-1].T @ (ct * jnp.cos(KR @ x @ KC.T)) @ KC).astype(x.dtype),)


CASES += group(
    "constants",
    "separable_np32",
    sep,
    normals((4, 6)),
    [sep_r1, sep_r2],
    [
        (sep_w1, "cosine missing"),
        (sep_w2, "absolute kernel"),
        (sep_w3, "one element off by a tenth"),
        (sep_w4, "rows reversed"),
    ],
)

# ---- finite differences on an uneven closed-over grid (float64 NumPy), integer powers
XS = np.cumsum(np.array([0.0, 0.3, 0.5, 0.2, 0.7, 0.4]))
PW = np.array([2, 3, 2, 1, 3])


def energy(u):
    d = jnp.diff(u) / jnp.asarray(np.diff(XS), u.dtype)
    return jnp.stack([d[i] ** int(PW[i]) for i in range(5)])


def energy_r1(args, ct):
    (u,) = args
    h = jnp.asarray(np.diff(XS), u.dtype)
    d = jnp.diff(u) / h
    g = ct * jnp.stack([int(p) * d[i] ** (int(p) - 1) for i, p in enumerate(PW)]) / h
    z = jnp.zeros_like(u[:1])
    return (jnp.concatenate([z, g]) - jnp.concatenate([g, z]),)


def energy_r2(args, ct):
    (u,) = args
    D = np.zeros((5, 6))
    D[np.arange(5), np.arange(5)] = -1 / np.diff(XS)
    D[np.arange(5), np.arange(5) + 1] = 1 / np.diff(XS)
    D = jnp.asarray(D, u.dtype)
    d = D @ u
    s = jnp.stack(
        [jnp.prod(jnp.stack([d[i]] * (int(p) - 1) + [jnp.ones_like(d[i]) * int(p)])) for i, p in enumerate(PW)]
    )
    return (D.T @ (ct * s),)


def energy_w1(args, ct):
    (u,) = args
    h = jnp.asarray(np.diff(XS), u.dtype)
    d = jnp.diff(u) / h
    g = ct * jnp.stack([int(p) * d[i] ** (int(p) - 1) for i, p in enumerate(PW)])
    z = jnp.zeros_like(u[:1])
    return (jnp.concatenate([z, g]) - jnp.concatenate([g, z]),)


def energy_w2(args, ct):
    g = energy_r1(args, ct)[0]
    return (g.at[0].set(0),)


def energy_w3(args, ct):
    return (-energy_r1(args, ct)[0],)


def energy_w4(args, ct):
    (u,) = args
    h = jnp.asarray(np.diff(XS), u.dtype)
    d = jnp.diff(u) / h
    g = ct * jnp.stack([d[i] ** (int(p) - 1) for i, p in enumerate(PW)]) / h
    z = jnp.zeros_like(u[:1])
    return (jnp.concatenate([z, g]) - jnp.concatenate([g, z]),)


CASES += group(
    "constants",
    "uneven_grid",
    energy,
    normals64((6,)),
    [energy_r1, energy_r2],
    [
        (energy_w1, "grid step missing"),
        (energy_w2, "boundary element zero"),
        (energy_w3, "sign"),
        (energy_w4, "power's factor missing"),
    ],
)

"""Adjoints for integrators, filters, spectral layers and matrix factors."""

import jax
import jax.numpy as jnp
import numpy as np

from tests.verify.slips.changes import wrong_rules

STEP = 0.5

MASK = jnp.array([1, 1, 0, 1, 0, 1, 1, 0], jnp.float32)

DATA = jnp.asarray(np.random.default_rng(8).normal(size=(8, 2)) @ [1, 1j], jnp.complex64)

EDGE_I = np.array([0, 1, 2, 0, 3])

EDGE_J = np.array([1, 2, 3, 2, 1])


def rk4(y, W):
    f = lambda s: jnp.tanh(W @ s)
    k1 = f(y)
    k2 = f(y + STEP / 2 * k1)
    k3 = f(y + STEP / 2 * k2)
    k4 = f(y + STEP * k3)
    return y + STEP / 6 * (k1 + 2 * k2 + 2 * k3 + k4)


def right_rk4_adjoint(args, a):
    y, W = args
    k1 = jnp.tanh(W @ y)
    s2 = y + STEP / 2 * k1
    k2 = jnp.tanh(W @ s2)
    s3 = y + STEP / 2 * k2
    k3 = jnp.tanh(W @ s3)
    s4 = y + STEP * k3

    def pull(s, a_k):
        z = a_k * (1 - jnp.tanh(W @ s) ** 2)
        return W.T @ z, jnp.outer(z, s)

    a4, G4 = pull(s4, STEP / 6 * a)
    a3, G3 = pull(s3, STEP / 3 * a + STEP * a4)
    a2, G2 = pull(s2, STEP / 3 * a + STEP / 2 * a3)
    a1, G1 = pull(y, STEP / 6 * a + STEP / 2 * a2)
    a_y = a + a1 + a2 + a3 + a4
    return a_y, G1 + G2 + G3 + G4


def kalman(z, phi, q, r, P):
    m, ms = jnp.zeros(()), []
    for zt in z:
        mp, Pp = phi * m, phi**2 * P + q
        K = Pp / (Pp + r)
        m, P = mp + K * (zt - mp), (1 - K) * Pp
        ms.append(m)
    return jnp.stack(ms)


def right_kalman_adjoint(args, a):
    z, phi, q, r, P = args
    m, tape = jnp.zeros(()), []
    for zt in z:
        mp, Pp = phi * m, phi**2 * P + q
        K = Pp / (Pp + r)
        tape.append((m, P, mp, Pp, K, zt))
        m, P = mp + K * (zt - mp), (1 - K) * Pp
    am = aP = aphi = aq = ar = 0.0
    az = []
    for t, (m, P, mp, Pp, K, zt) in reversed(list(enumerate(tape))):
        am = am + a[t]
        aK = am * (zt - mp) - aP * Pp
        aS = -aK * Pp / (Pp + r) ** 2
        aPp = aP * (1 - K) + aK / (Pp + r) + aS
        az.insert(0, am * K)
        amp = am * (1 - K)
        aphi = aphi + amp * m + 2 * phi * P * aPp
        aq, ar = aq + aPp, ar + aS
        am, aP = phi * amp, phi**2 * aPp
    return jnp.stack(az), aphi, aq, ar, aP


def springs(x, k, rest):
    d = x[EDGE_I] - x[EDGE_J]
    r = jnp.linalg.norm(d, axis=1)
    f = (k * (r - rest) / r)[:, None] * d
    return jnp.zeros_like(x).at[EDGE_I].add(-f).at[EDGE_J].add(f)


def right_springs_adjoint(args, a):
    x, k, rest = args
    d = x[EDGE_I] - x[EDGE_J]
    r = jnp.linalg.norm(d, axis=1)
    af = a[EDGE_J] - a[EDGE_I]
    along = jnp.sum(af * d, axis=1)
    ak = along * (r - rest) / r
    arest = -along * k / r
    ad = (k * (1 - rest / r))[:, None] * af
    ad = ad + (along * k * rest / r**3)[:, None] * d
    ax = jnp.zeros_like(x).at[EDGE_I].add(ad).at[EDGE_J].add(-ad)
    return ax, ak, arest


def spectral_layer(x, filt, w):
    y = jnp.fft.ifft(filt * jnp.fft.fft(x)).real
    return jnp.tanh(y + w * x)


def right_spectral_layer_adjoint(args, a):
    x, filt, w = args
    X = jnp.fft.fft(x)
    out = jnp.tanh(jnp.fft.ifft(filt * X).real + w * x)
    a_pre = a * (1 - out**2)
    a_w = jnp.sum(a_pre * x)
    a_Y = jnp.fft.ifft(a_pre)
    a_filt = (a_Y * X).astype(filt.dtype)
    a_x = jnp.fft.fft(a_Y * filt).real
    a_x = a_x + w * a_pre
    return a_x, a_filt, a_w


def masked_kspace(img, coil):
    res = MASK * jnp.fft.fft(coil * img) - MASK * DATA
    return jnp.sum(jnp.abs(res) ** 2)


def right_masked_kspace_adjoint(args, a):
    img, coil = args
    res = MASK * (jnp.fft.fft(coil * img) - DATA)
    a_res = 2 * a * jnp.conj(res)
    a_u = jnp.fft.fft(MASK * a_res)
    a_img = a_u * coil
    a_coil = a_u * img
    return a_img, a_coil


def whiten(B, x):
    L = jnp.linalg.cholesky(B @ B.T + jnp.eye(3))
    return jnp.linalg.solve(L, x)


def right_whiten_adjoint(args, a):
    B, x = args
    L = jnp.linalg.cholesky(B @ B.T + jnp.eye(3))
    w = jnp.linalg.solve(L, x)
    a_x = jnp.linalg.solve(L.T, a)
    a_L = -jnp.tril(a_x @ w.T)
    Phi = jnp.tril(L.T @ a_L)
    Phi = Phi - 0.5 * jnp.diag(jnp.diag(Phi))
    Li = jnp.linalg.inv(L)
    a_S = Li.T @ Phi @ Li
    a_B = (a_S + a_S.T) @ B
    return a_B, a_x


def nrm(key, *shape):
    return jax.random.normal(key, shape)


def draw_rk4(key):
    k1, k2 = jax.random.split(key)
    return nrm(k1, 4), nrm(k2, 4, 4)


def draw_kalman(key):
    k1, k2 = jax.random.split(key)
    q, r, P = 0.5 + jax.random.uniform(k2, (3,))
    return nrm(k1, 5), jnp.float32(0.8), q, r, P


def draw_springs(key):
    k1, k2, k3 = jax.random.split(key, 3)
    x = jnp.array([[0.0, 0, 0], [1, 0, 0], [1, 1, 0], [0, 1, 1]]) + 0.15 * nrm(k1, 4, 3)
    return x, 1 + jax.random.uniform(k2, (5,)), 0.5 + jax.random.uniform(k3, (5,))


def cplx(key, n):
    k1, k2 = jax.random.split(key)
    return jax.lax.complex(nrm(k1, n), nrm(k2, n))


def draw_spectral(key):
    k1, k2 = jax.random.split(key)
    return nrm(k1, 8), cplx(k2, 8), jnp.float32(0.7)


def draw_kspace(key):
    k1, k2 = jax.random.split(key)
    return cplx(k1, 8), cplx(k2, 8)


def draw_whiten(key):
    k1, k2 = jax.random.split(key)
    return nrm(k1, 3, 3), nrm(k2, 3, 2)


SEVERAL = [
    *wrong_rules(
        rk4,
        right_rk4_adjoint,
        draw_rk4,
        """
rk4_adjoint
- a3, G3 = pull(s3, STEP / 3 * a + STEP * a4)
+ a3, G3 = pull(s3, STEP / 3 * a + STEP / 2 * a4)
- a_y = a + a1 + a2 + a3 + a4
+ a_y = a + a1
constant: last stage uses a full step of k3, not half
@ a3, G3 = pull(s3, STEP / 3 * a + STEP / 2 * a4)
term: every stage starts from y, shares of stages 2 to 4 missing
@ a_y = a + a1
    """,
    ),
    *wrong_rules(
        kalman,
        right_kalman_adjoint,
        draw_kalman,
        """
kalman_adjoint
- aS = -aK * Pp / (Pp + r) ** 2
+ aS = -aK * Pp / (Pp + r)
- amp = am * (1 - K)
+ amp = am
- am, aP = phi * amp, phi**2 * aPp
+ am, aP = phi * amp, phi * aPp
factor: quotient rule needs the square of the innovation variance
@ aS = -aK * Pp / (Pp + r)
term: prediction is in the innovation too, -K missing
@ amp = am
constant: variance goes with phi squared
@ am, aP = phi * amp, phi * aPp
    """,
    ),
    *wrong_rules(
        springs,
        right_springs_adjoint,
        draw_springs,
        """
springs_adjoint
- af = a[EDGE_J] - a[EDGE_I]
+ af = a[EDGE_J] + a[EDGE_I]
- ad = ad + (along * k * rest / r**3)[:, None] * d
+ ad = ad + (along * k * rest / r**2)[:, None] * d
sign: force acts with opposite signs on both ends
@ af = a[EDGE_J] + a[EDGE_I]
constant: derivative of 1/r along d has r cubed
@ ad = ad + (along * k * rest / r**2)[:, None] * d
    """,
    ),
    *wrong_rules(
        spectral_layer,
        right_spectral_layer_adjoint,
        draw_spectral,
        """
spectral_layer_adjoint
- a_filt = (a_Y * X).astype(filt.dtype)
+ a_filt = (a_Y * jnp.conj(X)).astype(filt.dtype)
- a_x = jnp.fft.fft(a_Y * filt).real
-     a_x = a_x + w * a_pre
+ a_x = jnp.fft.fft(a_Y * filt).real
conjugate: product is holomorphic, no conjugate here
@ a_filt = (a_Y * jnp.conj(X)).astype(filt.dtype)
term: pointwise path w * x left out of the gradient of x
@ return a_x, a_filt, a_w
    """,
    ),
    *wrong_rules(
        masked_kspace,
        right_masked_kspace_adjoint,
        draw_kspace,
        """
masked_kspace_adjoint
- a_res = 2 * a * jnp.conj(res)
+ a_res = 2 * a * res
- a_coil = a_u * img
+ a_coil = a_u * coil
conjugate: conjugate of the residual forgotten
@ a_res = 2 * a * res
operand: wrong partner in the product, gradient of coil needs img
@ a_coil = a_u * coil
    """,
    ),
    *wrong_rules(
        whiten,
        right_whiten_adjoint,
        draw_whiten,
        """
whiten_adjoint
- a_x = jnp.linalg.solve(L.T, a)
+ a_x = jnp.linalg.solve(L, a)
- Phi = Phi - 0.5 * jnp.diag(jnp.diag(Phi))
+ Phi = Phi - jnp.diag(jnp.diag(Phi))
- a_B = (a_S + a_S.T) @ B
+ a_B = a_S @ B
transpose: L transposed wanted in the adjoint solve
@ a_x = jnp.linalg.solve(L, a)
constant: diagonal is halved, not dropped
@ Phi = Phi - jnp.diag(jnp.diag(Phi))
term: B stands on both sides of B B^T, transposed half missing
@ a_B = a_S @ B
    """,
    ),
]

"""Rules with mistakes in the derivatives of matrices."""

import jax
import jax.numpy as jnp

from tests.verify.slips.changes import wrong_rules


def solve_fwd(A, b):
    return jnp.linalg.solve(A + 4 * jnp.eye(4), b)


def solve_draw(key):
    a, b = jax.random.split(key)
    return jax.random.normal(a, (4, 4)), jax.random.normal(b, (4, 2))


def right_solve(args, ct):
    A, b = args
    M = A + 4 * jnp.eye(4)
    sol = jnp.linalg.solve(M, b)
    b_bar = jnp.linalg.solve(M.T, ct)
    A_bar = -b_bar @ sol.T
    return A_bar, b_bar


def gauss_fwd(x, mu, L):
    S = L @ L.T + jnp.eye(3)
    r = x - mu
    quad = jnp.sum(r * jnp.linalg.solve(S, r.T).T, axis=1)
    return -0.5 * quad - 0.5 * jnp.linalg.slogdet(S)[1]


def gauss_draw(key):
    a, b, c = jax.random.split(key, 3)
    return jax.random.normal(a, (5, 3)), jax.random.normal(b, (3,)), jax.random.normal(c, (3, 3))


def right_gauss(args, ct):
    x, mu, L = args
    S = L @ L.T + jnp.eye(3)
    Sinv = jnp.linalg.inv(S)
    r = x - mu
    a = r @ Sinv
    gx = -ct[:, None] * a
    gmu = -gx.sum(axis=0)
    gS = 0.5 * jnp.einsum("n,ni,nj->ij", ct, a, a)
    gS = gS - 0.5 * ct.sum() * Sinv
    gL = (gS + gS.T) @ L
    return gx, gmu, gL


def invquad_fwd(X, y, lam):
    K = X @ X.T + jnp.exp(lam) * jnp.eye(X.shape[0])
    return 0.5 * y @ jnp.linalg.inv(K) @ y + 0.5 * jnp.linalg.slogdet(K)[1]


def invquad_draw(key):
    a, b, c = jax.random.split(key, 3)
    return jax.random.normal(a, (4, 2)), jax.random.normal(b, (4,)), jax.random.normal(c, ()) * 0.5


def right_invquad(args, ct):
    X, y, lam = args
    n = y.size
    K = X @ X.T + jnp.exp(lam) * jnp.eye(n)
    Kinv = jnp.linalg.inv(K)
    alpha = Kinv @ y
    dK = 0.5 * (Kinv - jnp.outer(alpha, alpha))
    dX = 2 * dK @ X
    dlam = jnp.trace(dK) * jnp.exp(lam)
    return ct * dX, ct * alpha, ct * dlam


def tri_fwd(M, b):
    L = jnp.tril(M) + 3 * jnp.eye(4)
    return jax.scipy.linalg.solve_triangular(L, b, lower=True)


def tri_draw(key):
    a, b = jax.random.split(key)
    return jax.random.normal(a, (4, 4)), jax.random.normal(b, (4,))


def right_tri(args, ct):
    M, b = args
    L = jnp.tril(M) + 3 * jnp.eye(4)
    n = b.shape[0]
    y = []
    for i in range(n):
        y.append((b[i] - sum(L[i, j] * y[j] for j in range(i))) / L[i, i])
    y = jnp.stack(y)
    gb = [None] * n
    for i in reversed(range(n)):
        acc = ct[i]
        for j in range(i + 1, n):
            acc = acc - L[j, i] * gb[j]
        gb[i] = acc / L[i, i]
    gb = jnp.stack(gb)
    gM = -jnp.tril(jnp.outer(gb, y))
    return gM, gb


def chol_fwd(B):
    return jnp.linalg.cholesky(B @ B.T + 2 * jnp.eye(3))


def chol_draw(key):
    return (jax.random.normal(key, (3, 3)),)


def right_chol(args, ct):
    (B,) = args
    L = jnp.linalg.cholesky(B @ B.T + 2 * jnp.eye(3))
    P = jnp.tril(L.T @ jnp.tril(ct))
    P = P - 0.5 * jnp.diag(jnp.diag(P))
    Linv = jnp.linalg.inv(L)
    G = Linv.T @ P @ Linv
    S_bar = 0.5 * (G + G.T)
    B_bar = 2 * S_bar @ B
    return (B_bar,)


def kalman_fwd(m, P, y, A, H):
    mp = A @ m
    Pp = A @ P @ A.T + 0.3 * jnp.eye(3)
    S = H @ Pp @ H.T + 0.5 * jnp.eye(2)
    K = Pp @ H.T @ jnp.linalg.inv(S)
    return mp + K @ (y - H @ mp)


def kalman_draw(key):
    a, b, c, d, e = jax.random.split(key, 5)
    R = jax.random.normal(b, (3, 3))
    return (
        jax.random.normal(a, (3,)),
        R @ R.T + jnp.eye(3),
        jax.random.normal(c, (2,)),
        jax.random.normal(d, (3, 3)),
        jax.random.normal(e, (2, 3)),
    )


def right_kalman(args, ct):
    m, P, y, A, H = args
    mp = A @ m
    Pp = A @ P @ A.T + 0.3 * jnp.eye(3)
    Si = jnp.linalg.inv(H @ Pp @ H.T + 0.5 * jnp.eye(2))
    PH = Pp @ H.T
    K = PH @ Si
    v = y - H @ mp
    gK = jnp.outer(ct, v)
    gv = K.T @ ct
    gPH = gK @ Si.T
    gSi = PH.T @ gK
    gS = -Si.T @ gSi @ Si.T
    gPp = gPH @ H + H.T @ gS @ H
    gH = gPH.T @ Pp + gS @ H @ Pp.T + gS.T @ H @ Pp
    gmp = ct - H.T @ gv
    gH = gH - jnp.outer(gv, mp)
    gA = jnp.outer(gmp, m) + gPp @ A @ P.T + gPp.T @ A @ P
    gm = A.T @ gmp
    gP = A.T @ gPp @ A
    return gm, gP, gv, gA, gH


def ridge_fwd(X, Y, Z):
    G = X.T @ X + 0.7 * jnp.eye(X.shape[1])
    return Z @ jnp.linalg.solve(G, X.T @ Y)


def ridge_draw(key):
    a, b, c = jax.random.split(key, 3)
    return jax.random.normal(a, (6, 3)), jax.random.normal(b, (6, 2)), jax.random.normal(c, (4, 3))


def right_ridge(args, ct):
    X, Y, Z = args
    G = X.T @ X + 0.7 * jnp.eye(X.shape[1])
    theta = jnp.linalg.solve(G, X.T @ Y)
    dZ = ct @ theta.T
    dtheta = Z.T @ ct
    lam = jnp.linalg.solve(G, dtheta)
    dG = -lam @ theta.T
    dY = X @ lam
    dX = Y @ lam.T
    dX = dX + X @ (dG + dG.T)
    return dX, dY, dZ


def neumann_fwd(A, v):
    s = v
    t = v
    for i in range(1, 4):
        t = A @ t / i
        s = s + t
    return s


def neumann_draw(key):
    a, b = jax.random.split(key)
    return jax.random.normal(a, (3, 3)), jax.random.normal(b, (3,))


def right_neumann(args, ct):
    A, v = args
    terms = [v]
    for i in range(1, 4):
        terms.append(A @ terms[-1] / i)
    A_bar = jnp.zeros_like(A)
    t_bar = ct
    for i in (3, 2, 1):
        A_bar = A_bar + jnp.outer(t_bar, terms[i - 1]) / i
        t_bar = A.T @ t_bar / i
        t_bar = t_bar + ct
    return A_bar, t_bar


def spec_fwd(x, w):
    X = jnp.fft.fft(x)
    return jnp.fft.ifft(X * w)


def spec_draw(key):
    a, b, c, d = jax.random.split(key, 4)
    n = jax.random.normal
    return n(a, (6,)) + 1j * n(b, (6,)), n(c, (6,)) + 1j * n(d, (6,))


def right_spec(args, ct):
    x, w = args
    X = jnp.fft.fft(x)
    gY = jnp.fft.ifft(ct)
    gw = gY * X
    gX = gY * w
    gx = jnp.fft.fft(gX)
    return gx, gw


def cmod_fwd(z, a):
    u = z * a + 0.3j
    return jnp.abs(u) ** 2 * jnp.real(z)


def cmod_draw(key):
    a, b, c, d = jax.random.split(key, 4)
    n = jax.random.normal
    return n(a, (5,)) + 1j * n(b, (5,)), n(c, (5,)) + 1j * n(d, (5,))


def right_cmod(args, ct):
    z, a = args
    u = z * a + 0.3j
    mag = u.real**2 + u.imag**2
    gu = ct * z.real * 2 * jnp.conj(u)
    gz = gu * a
    gz = gz + ct * mag
    ga = gu * z
    return gz, ga


def fno_fwd(x, R, w):
    X = jnp.fft.rfft(x)
    low = X[:, :3] * R
    spec = jnp.zeros_like(X).at[:, :3].set(low)
    return jnp.fft.irfft(spec, 8) + w * x


def fno_draw(key):
    a, b, c, d = jax.random.split(key, 4)
    n = jax.random.normal
    return n(a, (2, 8)), n(b, (3,)) + 1j * n(c, (3,)), n(d, ())


def right_fno(args, ct):
    x, R, w = args
    n = x.shape[1]
    X = jnp.fft.rfft(x)
    weight = jnp.array([1.0, 2.0, 2.0]) / n
    g_low = jnp.conj(jnp.fft.rfft(ct)[:, :3]) * weight
    g_R = (g_low * X[:, :3]).sum(axis=0)
    g_X = g_low * R
    full = jnp.zeros((2, n), g_X.dtype).at[:, :3].set(g_X)
    g_x = jnp.fft.fft(full, axis=1).real
    g_x = g_x + w * ct
    g_w = jnp.sum(ct * x)
    return g_x, g_R, g_w


def cgate_fwd(z, W):
    h = W @ z
    g = jax.nn.sigmoid(jnp.real(h))
    return g * h


def cgate_draw(key):
    a, b, c, d = jax.random.split(key, 4)
    n = jax.random.normal
    return n(a, (3,)) + 1j * n(b, (3,)), n(c, (4, 3)) + 1j * n(d, (4, 3))


def right_cgate(args, ct):
    z, W = args
    h = W @ z
    g = jax.nn.sigmoid(h.real)
    gh = ct * g
    gg = jnp.real(ct * h)
    gh = gh + gg * g * (1 - g)
    gz = W.T @ gh
    gW = jnp.outer(gh, z)
    return gz, gW


SINGLE = [
    *wrong_rules(
        solve_fwd,
        right_solve,
        solve_draw,
        """
solve_a
- b_bar = jnp.linalg.solve(M.T, ct)
+ b_bar = jnp.linalg.solve(M, ct)
transpose: system not transposed

solve_b
- A_bar = -b_bar @ sol.T
+ A_bar = b_bar @ sol.T
sign: minus of the inverse lost
    """,
    ),
    *wrong_rules(
        gauss_fwd,
        right_gauss,
        gauss_draw,
        """
gauss_a
- gS = 0.5 * jnp.einsum("n,ni,nj->ij", ct, a, a)
-     gS = gS - 0.5 * ct.sum() * Sinv
+ gS = 0.5 * jnp.einsum("n,ni,nj->ij", ct, a, a)
term: log-determinant term missing
@ gL = (gS + gS.T) @ L
    """,
    ),
    *wrong_rules(
        invquad_fwd,
        right_invquad,
        invquad_draw,
        """
invquad_a
- dlam = jnp.trace(dK) * jnp.exp(lam)
+ dlam = jnp.trace(dK)
factor: slope of exp(lam) missing
    """,
    ),
    *wrong_rules(
        tri_fwd,
        right_tri,
        tri_draw,
        """
tri_a
- acc = acc - L[j, i] * gb[j]
+ acc = acc - L[i, j] * gb[j]
transpose: indices of L not transposed in the back substitution
    """,
    ),
    *wrong_rules(
        chol_fwd,
        right_chol,
        chol_draw,
        """
chol_a
- P = jnp.tril(L.T @ jnp.tril(ct))
-     P = P - 0.5 * jnp.diag(jnp.diag(P))
+ P = jnp.tril(L.T @ jnp.tril(ct))
constant: diagonal not halved
@ G = Linv.T @ P @ Linv

chol_b
- P = jnp.tril(L.T @ jnp.tril(ct))
+ P = jnp.tril(L @ jnp.tril(ct))
transpose: L not transposed
    """,
    ),
    *wrong_rules(
        kalman_fwd,
        right_kalman,
        kalman_draw,
        """
kalman_a
- gS = -Si.T @ gSi @ Si.T
+ gS = Si.T @ gSi @ Si.T
sign: minus of the inverse lost

kalman_c
- gH = gH - jnp.outer(gv, mp)
+ gH = gH - jnp.outer(gv, m)
operand: m in place of the predicted mean
    """,
    ),
    *wrong_rules(
        ridge_fwd,
        right_ridge,
        ridge_draw,
        """
ridge_a
- dX = dX + X @ (dG + dG.T)
+ dX = dX + 2 * X @ dG
transpose: dG not symmetrised
    """,
    ),
    *wrong_rules(
        neumann_fwd,
        right_neumann,
        neumann_draw,
        """
neumann_a
- t_bar = A.T @ t_bar / i
-         t_bar = t_bar + ct
+ t_bar = A.T @ t_bar / i
carry: each term's own contribution to the sum not added
@ A_bar = A_bar + jnp.outer(t_bar, terms[i - 1]) / i
@ return A_bar, t_bar
@ t_bar = A.T @ t_bar / i
    """,
    ),
    *wrong_rules(
        spec_fwd,
        right_spec,
        spec_draw,
        """
spec_a
- gY = jnp.fft.ifft(ct)
+ gY = jnp.fft.ifft(ct) * ct.size
factor: 1/n of the inverse transform undone

spec_c
- gw = gY * X
+ gw = gY * jnp.conj(X)
conjugate: X conjugated
    """,
    ),
    *wrong_rules(
        cmod_fwd,
        right_cmod,
        cmod_draw,
        """
cmod_a
- gu = ct * z.real * 2 * jnp.conj(u)
+ gu = ct * z.real * 2 * u
conjugate: conjugate of u missing
    """,
    ),
    *wrong_rules(
        fno_fwd,
        right_fno,
        fno_draw,
        """
fno_a
- weight = jnp.array([1.0, 2.0, 2.0]) / n
+ weight = 1.0 / n
constant: 2 for the doubled frequencies missing
    """,
    ),
    *wrong_rules(
        cgate_fwd,
        right_cgate,
        cgate_draw,
        """
cgate_a
- gg = jnp.real(ct * h)
+ gg = jnp.real(ct * jnp.conj(h))
conjugate: h conjugated in the gate path
    """,
    ),
]


SEVERAL = [
    *wrong_rules(
        gauss_fwd,
        right_gauss,
        gauss_draw,
        """
gauss_b
- gmu = -gx.sum(axis=0)
+ gmu = gx.sum(axis=0)
- gL = (gS + gS.T) @ L
+ gL = gS @ L
constant: only one of the two factors L L^T
@ gL = gS @ L
sign: sign of the mean
@ gmu = gx.sum(axis=0)
    """,
    ),
    *wrong_rules(
        invquad_fwd,
        right_invquad,
        invquad_draw,
        """
invquad_b
- dK = 0.5 * (Kinv - jnp.outer(alpha, alpha))
+ dK = 0.5 * (Kinv - jnp.outer(y, alpha))
- dX = 2 * dK @ X
+ dX = dK @ X
operand: y in place of K^-1 y
@ dK = 0.5 * (Kinv - jnp.outer(y, alpha))
constant: factor 2 of X X^T missing
@ dX = dK @ X
    """,
    ),
    *wrong_rules(
        tri_fwd,
        right_tri,
        tri_draw,
        """
tri_b
- gb[i] = acc / L[i, i]
+ gb[i] = acc
- gM = -jnp.tril(jnp.outer(gb, y))
+ gM = -jnp.outer(gb, y)
factor: division by the diagonal missing
@ gb[i] = acc
mask: lower triangle mask missing
@ gM = -jnp.outer(gb, y)
    """,
    ),
    *wrong_rules(
        kalman_fwd,
        right_kalman,
        kalman_draw,
        """
kalman_b
- gK = jnp.outer(ct, v)
+ gK = jnp.outer(ct, y)
- gmp = ct - H.T @ gv
+ gmp = ct
- gP = A.T @ gPp @ A
+ gP = A @ gPp @ A.T
term: path of the prediction through the innovation missing
@ gmp = ct
transpose: A transposed the wrong way round
@ gP = A @ gPp @ A.T
operand: observation in place of the innovation
@ gK = jnp.outer(ct, y)
    """,
    ),
    *wrong_rules(
        ridge_fwd,
        right_ridge,
        ridge_draw,
        """
ridge_b
- dG = -lam @ theta.T
+ dG = lam @ theta.T
- dY = X @ lam
+ dY = X @ dtheta
sign: sign of the inverse
@ dG = lam @ theta.T
operand: dtheta in place of the solved adjoint
@ dY = X @ dtheta
    """,
    ),
    *wrong_rules(
        neumann_fwd,
        right_neumann,
        neumann_draw,
        """
neumann_b
- A_bar = A_bar + jnp.outer(t_bar, terms[i - 1]) / i
+ A_bar = A_bar + jnp.outer(t_bar, terms[i]) / i
- t_bar = A.T @ t_bar / i
+ t_bar = A.T @ t_bar
index: term index one too late
@ A_bar = A_bar + jnp.outer(t_bar, terms[i]) / i
factor: 1/i of the series missing
@ t_bar = A.T @ t_bar
    """,
    ),
    *wrong_rules(
        spec_fwd,
        right_spec,
        spec_draw,
        """
spec_b
- gX = gY * w
+ gX = gY * jnp.conj(w)
- gx = jnp.fft.fft(gX)
+ gx = jnp.fft.ifft(gX)
conjugate: w conjugated
@ gX = gY * jnp.conj(w)
transpose: inverse transform in place of the forward one
@ gx = jnp.fft.ifft(gX)
    """,
    ),
    *wrong_rules(
        cmod_fwd,
        right_cmod,
        cmod_draw,
        """
cmod_b
- gz = gz + ct * mag
-     ga = gu * z
+ ga = gu * jnp.conj(z)
term: path through the real part of z left out
@ return gz, ga
conjugate: z conjugated
@ ga = gu * jnp.conj(z)
    """,
    ),
    *wrong_rules(
        fno_fwd,
        right_fno,
        fno_draw,
        """
fno_b
- g_low = jnp.conj(jnp.fft.rfft(ct)[:, :3]) * weight
+ g_low = jnp.fft.rfft(ct)[:, :3] * weight
- g_x = g_x + w * ct
+ g_x = g_x + ct
conjugate: conjugate of the transformed cotangent missing
@ g_low = jnp.fft.rfft(ct)[:, :3] * weight
factor: skip weight w missing
@ g_x = g_x + ct
    """,
    ),
    *wrong_rules(
        cgate_fwd,
        right_cgate,
        cgate_draw,
        """
cgate_b
- gh = gh + gg * g * (1 - g)
+ gh = gh + gg
- gz = W.T @ gh
+ gz = W.conj().T @ gh
conjugate: conjugate transpose in place of the transpose
@ gz = W.conj().T @ gh
activation: sigmoid slope missing
@ gh = gh + gg
    """,
    ),
]

"""Calls of JAX as its own gradient tests make them, by kind: what `verify.check_grads` must say of each is known.

`CALLS` are right, as they stand; `FAULTS` are derivatives that JAX gets wrong, each with the point that shows it.
"""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.scipy import integrate, linalg, signal, special, stats
from jax.scipy.interpolate import RegularGridInterpolator
from jax.scipy.ndimage import map_coordinates

RNG = np.random.default_rng(11)
KEY = jax.random.key(3)


class Call(NamedTuple):
    """`f(*args)`, and the modes in which JAX has a derivative of it."""

    f: Callable[..., Any]
    args: tuple[Any, ...]
    modes: tuple[str, ...] = ("fwd", "rev")


def call(f, *args, modes=("fwd", "rev")) -> Call:
    return Call(f, args, modes)


def forward(f, *args) -> Call:
    return Call(f, args, ("fwd",))


def reverse(f, *args) -> Call:
    return Call(f, args, ("rev",))


# --- arguments --------------------------------------------------------------------------------------------------------


def x(*shape, dtype=jnp.float32):
    """Of both signs."""
    if jnp.issubdtype(dtype, jnp.complexfloating):
        return jnp.asarray(RNG.standard_normal(shape) + 1j * RNG.standard_normal(shape), dtype)
    return jnp.asarray(RNG.standard_normal(shape), dtype)


def p(*shape, low=0.3, high=2.5, dtype=jnp.float32):
    """Between two bounds."""
    return jnp.asarray(RNG.uniform(low, high, shape), dtype)


def u(*shape, dtype=jnp.float32):
    """Between 0 and 1, far from both."""
    return p(*shape, low=0.15, high=0.7, dtype=dtype)


def i(*shape, below=3):
    return jnp.asarray(RNG.integers(0, below, shape), jnp.int32)


def z(*shape):
    return x(*shape, dtype=jnp.complex64)


def square(n, *batch, dtype=jnp.float32):
    """Regular matrices."""
    return x(*batch, n, n, dtype=dtype) + jnp.asarray(np.broadcast_to(3 * np.eye(n), (*batch, n, n)), dtype)


def positive(n, dtype=jnp.float32):
    """A symmetric matrix with positive eigenvalues apart from each other."""
    a = np.asarray(RNG.standard_normal((n, n)))
    return jnp.asarray(a @ a.T + np.diag(np.arange(1.0, n + 1)), dtype)


def symmetric(f):
    """f of the symmetric part, which is all that it may look at."""
    return lambda a: f((a + jnp.swapaxes(a, -1, -2)) / 2)


# --- functions of more than a line ------------------------------------------------------------------------------------


def carried(xs, w):
    def step(carry, row):
        new = jnp.tanh(carry @ w + row)
        return new, new.sum()

    return lax.scan(step, jnp.ones_like(xs[0]), xs)


def counted(xs):
    step = lambda carry, row: ((carry[0] + 1, carry[1] * row + carry[0]), carry[1])
    return lax.scan(step, (jnp.int32(0), jnp.ones_like(xs[0])), xs, reverse=True)


def nested(xs):
    inner = lambda c, v: (c * jnp.cos(v), c)
    return lax.scan(lambda c, row: lax.scan(inner, c, row), jnp.ones_like(xs[0, 0]), xs)


def long(a, n):
    """More passes than are unrolled."""
    return lax.scan(lambda c, _: (0.99 * c + 0.01 * jnp.sin(a * c), None), a, None, length=n)[0]


def halved(a):
    return lax.while_loop(lambda v: jnp.sum(v * v) > 0.5, lambda v: v * 0.5 * jnp.cos(v), a)


def counted_while(a, n):
    return lax.while_loop(lambda s: s[0] < n, lambda s: (s[0] + 1, jnp.sin(s[1]) + a), (0, a))[1]


def branches(which, a):
    return lax.switch(which, [jnp.sin, lambda v: v * v, lambda v: jnp.exp(-v)], a)


def root(a):
    solve = lambda f, start: lax.fori_loop(0, 25, lambda _, v: v - f(v) / (3 * v * v), start)
    return lax.custom_root(lambda v: v**3 - a, jnp.ones_like(a), solve, lambda g, y: y / g(jnp.ones_like(y)))


def linear_solve(a, b):
    solve = lambda matvec, y: jnp.linalg.solve(a, y)
    return lax.custom_linear_solve(lambda v: a @ v, b, solve, lambda vecmat, y: jnp.linalg.solve(a.T, y))


@jax.custom_jvp
def log1pexp(v):
    return jnp.log1p(jnp.exp(v))


log1pexp.defjvps(lambda t, _, v: t * jax.nn.sigmoid(v))


@functools.partial(jax.custom_jvp, nondiff_argnums=(0,))
def applied(f, v):
    return f(v) * 2


applied.defjvp(lambda f, primals, tangents: (applied(f, *primals), 2 * jax.jvp(f, primals, tangents)[1]))


@jax.custom_vjp
def bilinear(tree):
    return tree["a"] @ tree["b"]


bilinear.defvjp(lambda t: (t["a"] @ t["b"], t), lambda t, g: ({"a": g @ t["b"].T, "b": t["a"].T @ g},))


@jax.custom_vjp
def rows(table, ids):
    return table[ids]


rows.defvjp(
    lambda table, ids: (table[ids], (table, ids)),
    lambda held, g: (jnp.zeros_like(held[0]).at[held[1]].add(g), np.zeros(held[1].shape, jax.dtypes.float0)),
)


@functools.partial(jax.custom_vjp, nondiff_argnums=(1,))
def powered(v, n):
    return v**n


powered.defvjp(lambda v, n: (v**n, v), lambda n, v, g: (g * n * v ** (n - 1),))


@jax.custom_gradient
def cubed(v):
    return v**3, lambda g: g * 3 * v**2


@jax.custom_batching.custom_vmap
def doubled(v):
    return jnp.sin(2 * v)


doubled.def_vmap(lambda size, batched, v: (jnp.sin(2 * v), batched[0]))


def convolve(a, kernel, strides=(1,), padding="SAME", form=("NWC", "WIO", "NWC"), **more):
    return lax.conv_general_dilated(a, kernel, strides, padding, dimension_numbers=form, **more)


IMAGES = "NHWC", "HWIO", "NHWC"


def pool(a, start, combine, window, strides, padding="VALID"):
    return lax.reduce_window(a, np.asarray(start, a.dtype), combine, window, strides, padding)


def attention(q, k, v):
    return jax.nn.dot_product_attention(q, k, v, is_causal=True)


def hermitian(a):
    return (a + a.conj().T) / 2 + 4 * jnp.eye(a.shape[0], dtype=a.dtype)


def of_one_device(f):
    def run(*args):
        mesh = jax.sharding.Mesh(jax.devices()[:1], ("d",))
        spec = jax.sharding.PartitionSpec("d")
        return jax.shard_map(f, mesh=mesh, in_specs=spec, out_specs=spec)(*args)

    return run


def grid(a, points):
    return RegularGridInterpolator((jnp.arange(3.0), jnp.arange(4.0)), a)(points)


# --- the calls --------------------------------------------------------------------------------------------------------

CALLS: dict[str, dict[str, Call]] = {
    "nn": {
        "relu": call(jax.nn.relu, x(3, 4)),
        "relu6": call(jax.nn.relu6, 4 * x(5)),
        "sigmoid": call(jax.nn.sigmoid, x(2, 3)),
        "log_sigmoid": call(jax.nn.log_sigmoid, x(3, dtype=jnp.float64)),
        "softplus": call(jax.nn.softplus, x(4, dtype=jnp.float16)),
        "soft_sign": call(jax.nn.soft_sign, x(4)),
        "silu": call(jax.nn.silu, x(2, 3, dtype=jnp.bfloat16)),
        "gelu": call(jax.nn.gelu, x(5)),
        "gelu exact": call(lambda a: jax.nn.gelu(a, approximate=False), x(2, 2)),
        "elu": call(jax.nn.elu, x(5), jnp.float32(0.7)),
        "selu": call(jax.nn.selu, x(5, dtype=jnp.bfloat16)),
        "celu": call(jax.nn.celu, x(4), p()),
        "leaky_relu": call(jax.nn.leaky_relu, x(2, 2, 2)),
        "hard_tanh": call(jax.nn.hard_tanh, x(6)),
        "hard_swish": call(jax.nn.hard_swish, 3 * x(6)),
        "glu": call(jax.nn.glu, x(3, 4)),
        "squareplus": call(jax.nn.squareplus, x(3)),
        "mish": call(jax.nn.mish, x(4)),
        "sparse_plus": call(jax.nn.sparse_plus, x(6)),
        "softmax": call(jax.nn.softmax, x(2, 5)),
        "softmax of columns": call(lambda a: jax.nn.softmax(a, axis=0), x(3, 2, dtype=jnp.float64)),
        "softmax where": call(lambda a, m: jax.nn.softmax(a, where=m), x(2, 4), jnp.asarray([[1, 1, 0, 1]] * 2, bool)),
        "log_softmax": call(jax.nn.log_softmax, x(3, 3, dtype=jnp.float16)),
        "logsumexp": call(lambda a, b: jax.nn.logsumexp(a, axis=-1, b=b), x(2, 4), p(2, 4)),
        "standardize": call(jax.nn.standardize, x(3, 5)),
        "attention": call(attention, x(1, 3, 2, 2), x(1, 3, 2, 2), x(1, 3, 2, 2)),
        "labels": call(lambda a, n: -(jax.nn.one_hot(n, 4) * jax.nn.log_softmax(a)).sum(), x(3, 4), i(3, below=4)),
    },
    "linear algebra": {
        "trace": call(jnp.trace, x(3, 4)),
        "det": call(jnp.linalg.det, p(3, 3)),
        "det of many": call(jnp.linalg.det, p(3, 2, 2)),
        "slogdet": call(lambda a: jnp.linalg.slogdet(a)[1], square(3)),
        "inv": call(jnp.linalg.inv, square(3, 2)),
        "solve": call(jnp.linalg.solve, square(3), x(3, 2)),
        "solve of many": call(jnp.linalg.solve, square(2, 2), x(2, 2, 1)),
        "cholesky": call(symmetric(jnp.linalg.cholesky), positive(3)),
        "eigh": call(symmetric(lambda a: (lambda w, v: (w, v**2))(*jnp.linalg.eigh(a))), positive(3)),
        "eigvalsh": call(symmetric(jnp.linalg.eigvalsh), positive(4, jnp.float64)),
        "eigvals": call(lambda a: jnp.sort(jnp.linalg.eigvals(a).real), p(3, 3) + np.diag([0, 3, 6]).astype("f")),
        "svd values": call(lambda a: jnp.linalg.svd(a, compute_uv=False), x(3, 2)),
        "svd": call(lambda a: (lambda w, s, v: (w**2, s, v**2))(*jnp.linalg.svd(a, full_matrices=False)), x(2, 3)),
        "qr": call(lambda a: jnp.linalg.qr(a), x(3, 3)),
        "qr of a tall one": call(lambda a: jnp.linalg.qr(a)[1], x(4, 2, dtype=jnp.float64)),
        "pinv": call(jnp.linalg.pinv, x(4, 2)),
        "lstsq": call(lambda a, b: jnp.linalg.lstsq(a, b)[0], x(4, 2), x(4)),
        "norm": call(jnp.linalg.norm, x(2, 3)),
        "norm of rows": call(lambda a: jnp.linalg.norm(a, ord=3, axis=1), x(3, 2)),
        "norm one": call(lambda a: jnp.linalg.norm(a, 1), x(3)),
        "norm infinite": call(lambda a: jnp.linalg.norm(a, jnp.inf), x(2, 3)),
        "norm nuclear": call(lambda a: jnp.linalg.norm(a, "nuc"), x(3, 2)),
        "norm spectral": call(lambda a: jnp.linalg.norm(a, 2), x(2, 2)),
        "cond": call(lambda a: jnp.linalg.cond(a), square(2)),
        "matrix_power": call(lambda a: jnp.linalg.matrix_power(a, 3), x(2, 2)),
        "matrix_power -2": call(lambda a: jnp.linalg.matrix_power(a, -2), square(2)),
        "multi_dot": call(lambda *a: jnp.linalg.multi_dot(a), x(2, 3), x(3, 1), x(1, 2)),
        "tensorinv": call(lambda a: jnp.linalg.tensorinv(a, ind=1), square(4).reshape(4, 2, 2)),
        "cross": call(jnp.cross, x(2, 3), x(2, 3)),
        "outer": call(jnp.outer, x(3), x(2)),
        "kron": call(jnp.kron, x(2, 2), x(1, 2)),
        "expm": call(linalg.expm, x(3, 3, dtype=jnp.float64)),
        "lu": call(lambda a: linalg.lu(a)[1:], p(3, 3)),
        "lu_solve": call(lambda a, b: linalg.lu_solve(linalg.lu_factor(a), b), square(3), x(3)),
        "cho_solve": call(symmetric(lambda a: linalg.cho_solve(linalg.cho_factor(a), jnp.eye(3)[0])), positive(3)),
        "triangular": call(lambda a, b: linalg.solve_triangular(a, b, lower=True), jnp.tril(square(3)), x(3, 2)),
        "triangular turned": call(lambda a, b: linalg.solve_triangular(a, b, trans=1), jnp.triu(square(3)), x(3)),
        "block_diag": call(linalg.block_diag, x(1, 2), x(2, 1)),
        "toeplitz": call(linalg.toeplitz, x(3), x(4)),
        "tridiagonal": call(lax.linalg.tridiagonal_solve, x(4).at[0].set(0), p(4) + 3, x(4).at[3].set(0), x(4, 2)),
        "without columns": call(lambda a, b: a @ b, x(3, 0), x(0, 2)),
    },
    "control flow": {
        "scan": call(carried, x(3, 2), x(2, 2)),
        "scan backward with a counter": call(counted, x(3, 2)),
        "scan of scans": call(nested, x(2, 3)),
        "scan of no pass": call(lambda a, b: lax.scan(lambda c, r: (c * r, c), a, b)[0], x(2), x(0)),
        "long scan": call(functools.partial(long, n=450), p(1)),
        "scan with remat": call(lambda a: lax.scan(jax.checkpoint(lambda c, r: (jnp.sin(c) * r, c)), a[0], a), x(3)),
        "scan with cond": call(
            lambda a: lax.scan(lambda c, r: (lax.cond(r > 0, jnp.sin, jnp.exp, c * r), c), a[0], a), x(4)
        ),
        "while": forward(halved, p(3, high=3.0)),
        "while with a counter": forward(counted_while, x(2), jnp.int32(4)),
        "while of many": forward(jax.vmap(halved), x(2, 3)),
        "fori": call(lambda a: lax.fori_loop(0, 3, lambda k, v: jnp.sin(v) * (k + 1), a), x(3)),
        "fori to a bound": forward(lambda a, n: lax.fori_loop(0, n, lambda _, v: jnp.sin(v), a), x(3), jnp.int32(4)),
        "cond": call(lambda a: lax.cond(a.sum() > 0.1, jnp.sin, lambda v: v * v, a), x(3)),
        "cond of many": call(jax.vmap(lambda a: lax.cond(a > 0.1, jnp.sin, lambda v: v * v, a)), x(5)),
        "switch": call(branches, jnp.int32(1), x(2, 2)),
        "switch of many": call(jax.vmap(branches), i(4), x(4)),
        "associative_scan": call(lambda a: lax.associative_scan(jnp.multiply, a), p(5)),
        "associative_scan of pairs": call(
            lambda a, b: lax.associative_scan(lambda s, t: (s[0] * t[0], t[0] * s[1] + t[1]), (a, b))[1], x(4), x(4)
        ),
        "map": call(lambda a: lax.map(lambda r: r * jnp.cos(r).sum(), a), x(3, 2)),
        "map in batches": call(lambda a: lax.map(jnp.tanh, a, batch_size=2), x(3, 2)),
        "custom_root": call(root, p(3)),
        "custom_root scalar": call(root, p(dtype=jnp.float64)),
        "custom_linear_solve": call(linear_solve, square(3), x(3)),
        "conjugate gradients": call(
            symmetric(lambda a: jax.scipy.sparse.linalg.cg(a, jnp.arange(1.0, 4), tol=1e-14, maxiter=9)[0]),
            positive(3, jnp.float64),
        ),
    },
    "custom rules": {
        "custom_jvp": call(log1pexp, x(3)),
        "custom_jvp in half": call(log1pexp, x(3, dtype=jnp.bfloat16)),
        "custom_jvp of a function": call(functools.partial(applied, jnp.sin), x(2, 2)),
        "custom_jvp in scan": call(lambda a: lax.scan(lambda c, r: (log1pexp(c * r), c), a[0], a)[0], x(3)),
        "custom_jvp mapped": call(jax.vmap(jax.jit(log1pexp)), x(2, 2)),
        "custom_vjp": reverse(bilinear, {"a": x(2, 3), "b": x(3, 2)}),
        "custom_vjp with integers": reverse(rows, x(4, 2), i(3, below=4)),
        "custom_vjp of a power": reverse(lambda v: powered(v, 3), x(3)),
        "custom_vjp in scan": reverse(lambda a: lax.scan(lambda c, r: (powered(c * r, 2), c), a[0], a)[0], p(3)),
        "custom_vjp in while": reverse(lambda a: lax.fori_loop(0, 2, lambda _, v: jnp.cos(powered(v, 2)), a), x(2)),
        "custom_gradient": reverse(cubed, x(2, 2)),
        "custom_vmap": call(jax.vmap(doubled), x(3)),
    },
    "fourier": {
        "fft": call(jnp.fft.fft, z(4)),
        "fft of reals": call(jnp.fft.fft, x(5)),
        "ifft": call(lambda a: jnp.fft.ifft(a, axis=0), z(3, 2)),
        "fft cut": call(lambda a: jnp.fft.fft(a, n=3), z(5)),
        "rfft": call(jnp.fft.rfft, x(2, 5)),
        "irfft": call(jnp.fft.irfft, z(4)),
        "irfft odd": call(lambda a: jnp.fft.irfft(a, n=5, norm="ortho"), z(3)),
        "fft2": call(jnp.fft.fft2, z(2, 3)),
        "fftn": call(jnp.fft.fftn, z(2, 2, 2)),
        "rfft2": call(jnp.fft.rfft2, x(3, 4)),
        "irfftn": call(lambda a: jnp.fft.irfftn(a, s=(2, 4)), z(2, 3)),
        "hfft": call(jnp.fft.hfft, z(3)),
        "ihfft": call(jnp.fft.ihfft, x(4)),
        "fftshift": call(lambda a: jnp.fft.fftshift(abs(jnp.fft.fft(a))), x(5)),
        "spectrum": call(lambda a: jnp.abs(jnp.fft.rfft(a)) ** 2, x(6, dtype=jnp.float64)),
    },
    "scipy": {
        "gammaln": call(special.gammaln, p(4)),
        "gamma": call(special.gamma, p(3)),
        "digamma": call(special.digamma, p(4)),
        "polygamma": call(lambda a: special.polygamma(1, a), p(3)),
        "zeta": call(lambda q: special.zeta(2.5, q), p(3)),
        "multigammaln": call(lambda a: special.multigammaln(a, 2), p(3, low=1.0)),
        "betaln": call(special.betaln, p(3), p(3)),
        "beta": call(special.beta, p(2), p(2)),
        "erf": call(special.erf, x(2, 3)),
        "erfc": call(special.erfc, x(3, dtype=jnp.bfloat16)),
        "erfinv": call(special.erfinv, u(3)),
        "ndtr": call(special.ndtr, x(4)),
        "log_ndtr": call(special.log_ndtr, 3 * x(5)),
        "ndtri": call(special.ndtri, u(4)),
        "logit": call(special.logit, u(3)),
        "expit": call(special.expit, x(3, dtype=jnp.float16)),
        "xlogy": call(special.xlogy, p(3), p(3)),
        "xlog1py": call(special.xlog1py, x(3), p(3)),
        "entr": call(special.entr, p(3)),
        "rel_entr": call(special.rel_entr, p(3), p(3)),
        "kl_div": call(special.kl_div, p(3), p(3)),
        "i0": call(special.i0, x(3)),
        "i0e": call(special.i0e, x(3)),
        "i1": call(special.i1, x(3)),
        "i1e": call(special.i1e, x(3)),
        "gammainc": call(special.gammainc, p(2), p(2)),
        "gammaincc": call(special.gammaincc, p(2), p(2)),
        "betainc": call(lambda v: special.betainc(1.5, 0.7, v), u(3)),
        "exp1": call(special.exp1, p(1)),
        "logsumexp": call(special.logsumexp, x(2, 2)),
        "norm.logpdf": call(stats.norm.logpdf, x(3), x(3), p(3)),
        "norm.cdf": call(stats.norm.cdf, x(3), jnp.float32(0.2), p()),
        "norm.ppf": call(stats.norm.ppf, u(3)),
        "gamma.logpdf": call(stats.gamma.logpdf, p(3), p(3)),
        "beta.logpdf": call(stats.beta.logpdf, u(2), p(2), p(2)),
        "t.logpdf": call(stats.t.logpdf, x(3), p(3)),
        "cauchy.logpdf": call(stats.cauchy.logpdf, x(3)),
        "laplace.cdf": call(stats.laplace.cdf, x(3)),
        "logistic.logpdf": call(stats.logistic.logpdf, x(3)),
        "chi2.logpdf": call(stats.chi2.logpdf, p(3), p(3)),
        "poisson.logpmf": call(lambda m, k: stats.poisson.logpmf(k, m), p(3), i(3)),
        "dirichlet.logpdf": call(stats.dirichlet.logpdf, jnp.asarray([0.2, 0.3, 0.5], jnp.float32), p(3)),
        "truncnorm.logpdf": call(lambda v, a: stats.truncnorm.logpdf(v, a - 3, 2.0), u(3), u()),
        "vonmises.logpdf": call(stats.vonmises.logpdf, x(3), p(3)),
        "multivariate_normal": call(
            lambda v, m, a: stats.multivariate_normal.logpdf(v, m, (a + a.T) / 2), x(2), x(2), positive(2)
        ),
        "gaussian_kde": call(lambda data, v: stats.gaussian_kde(data).evaluate(v), x(5), x(2)),
        "convolve": call(signal.convolve, x(4), x(3)),
        "correlate2d": call(lambda a, b: signal.correlate2d(a, b, "same"), x(3, 3), x(2, 2)),
        "fftconvolve": call(signal.fftconvolve, x(4), x(3)),
        "detrend": call(signal.detrend, x(5)),
        "stft": call(lambda a: jnp.abs(signal.stft(a, nperseg=4)[2]) ** 2, x(8)),
        "map_coordinates": call(lambda a, c: map_coordinates(a, [c[0], c[1]], order=1), x(3, 3), p(2, 2, high=1.7)),
        "regular grid": call(grid, x(3, 4), p(2, 2, high=1.7)),
        "trapezoid": call(integrate.trapezoid, x(5), jnp.sort(x(5))),
    },
    "indexing": {
        "rows": call(lambda a, n: a[n], x(4, 2), i(3, 2, below=4)),
        "a column": call(lambda a: a[:, 1], x(3, 2)),
        "strides": call(lambda a: a[::-2, 1:], x(5, 3)),
        "an ellipsis": call(lambda a, n: a[..., n], x(2, 2, 3), i(2)),
        "outside": call(lambda a, n: jnp.take(a, n, 0, mode="fill", fill_value=0), x(3, 2), jnp.asarray([0, 5, 2])),
        "clipped": call(lambda a, n: jnp.take(a, n, mode="clip"), x(4), jnp.asarray([[1, 9], [0, 3]])),
        "take_along_axis": call(lambda a, n: jnp.take_along_axis(a, n, 1), x(2, 4), i(2, 3, below=4)),
        "at.set": call(lambda a, b, n: a.at[n].set(b), x(4, 2), x(2, 2), jnp.asarray([3, 0])),
        "at.add": call(lambda a, b, n: a.at[n].add(b), x(3), x(4), i(4)),
        "at.multiply": call(lambda a, b: a.at[jnp.array([2, 0])].multiply(b, unique_indices=True), x(3), x(2)),
        "at.max": call(lambda a, b, n: a.at[n].max(b), x(3), x(4), i(4)),
        "at.min": call(lambda a, b, n: a.at[n].min(b), x(3), x(2), jnp.asarray([1, 2])),
        "dynamic_slice": call(lambda a, n: lax.dynamic_slice(a, (n, n + 1), (2, 2)), x(4, 4), jnp.int32(1)),
        "dynamic_update_slice": call(lambda a, b, n: lax.dynamic_update_slice(a, b, (n,)), x(5), x(2), jnp.int32(2)),
        "segment_sum": call(lambda a, n: jax.ops.segment_sum(a, n, 3), x(5), i(5)),
        "segment_max": call(lambda a, n: jax.ops.segment_max(a, n, 3), x(5), jnp.asarray([0, 2, 1, 2, 0])),
        "segment_prod": call(lambda a, n: jax.ops.segment_prod(a, n, 3, unique_indices=True), x(3), jnp.arange(3)),
        "where": call(jnp.where, jnp.asarray([True, False, True]), x(3), x(3)),
        "choose": call(lambda n, *a: jnp.choose(n, a, mode="clip"), i(4, below=2), x(4), x(4)),
        "sort": call(jnp.sort, x(2, 4)),
        "sort with values": call(lambda a, b: lax.sort((a, b), num_keys=1)[1], x(4), x(4)),
        "argsort": call(lambda a, b: b[jnp.argsort(a)], x(4), x(4)),
        "top_k": call(lambda a: lax.top_k(a, 2)[0], x(2, 4)),
        "median": call(jnp.median, x(5)),
        "quantile": call(lambda a, q: jnp.quantile(a, q), x(5), u()),
        "searchsorted": call(lambda a, v: a[jnp.searchsorted(jnp.arange(3.0), v)], x(4), p(3)),
        "interp": call(lambda v, f: jnp.interp(v, jnp.arange(4.0), f), p(3), x(4)),
        "roll": call(lambda a: jnp.roll(a, 2, axis=0), x(3, 2)),
        "pad": call(lambda a: jnp.pad(a, ((1, 0), (2, 1))), x(2, 2)),
        "pad by mirrors": call(lambda a: jnp.pad(a, 2, mode="reflect"), x(4)),
        "pad by edges": call(lambda a: jnp.pad(a, (1, 3), mode="edge"), x(2)),
        "lax.pad": call(lambda a, v: lax.pad(a, v, ((1, -1, 2), (-1, 2, 0))), x(3, 3), x()),
        "repeat": call(lambda a: jnp.repeat(a, jnp.array([2, 0, 1]), total_repeat_length=3), x(3)),
        "tile": call(lambda a: jnp.tile(a, (2, 1)), x(2, 3)),
        "diagonal": call(lambda a: jnp.diag(jnp.diag(a)), x(3, 3)),
        "triangle": call(jnp.tril, x(3, 2)),
        "concatenate": call(lambda a, b: jnp.concatenate([a, b, a], 1), x(2, 1), x(2, 2)),
        "stack and split": call(lambda a, b: jnp.split(jnp.stack([a, b], 1), 2, axis=0), x(4), x(4)),
        "no rows": call(lambda a, n: a[n] * 2, x(3, 2), i(0)),
    },
    "convolutions and windows": {
        "conv": call(convolve, x(2, 5, 2), x(3, 2, 2)),
        "conv with strides": call(lambda a, k: convolve(a, k, (2,), "VALID"), x(1, 6, 2), x(2, 2, 3)),
        "conv dilated": call(
            lambda a, k: convolve(a, k, (1,), ((1, 2),), lhs_dilation=(2,), rhs_dilation=(2,)), x(1, 4, 1), x(2, 1, 2)
        ),
        "conv of images": call(lambda a, k: convolve(a, k, (1, 2), "SAME", IMAGES), x(1, 3, 4, 2), x(2, 2, 2, 1)),
        "conv in groups": call(lambda a, k: convolve(a, k, feature_group_count=2), x(1, 4, 4), x(2, 2, 2)),
        "conv of batches": call(lambda a, k: convolve(a, k, batch_group_count=2), x(2, 3, 1), x(2, 1, 2)),
        "conv in half": call(convolve, x(1, 4, 1, dtype=jnp.bfloat16), x(2, 1, 2, dtype=jnp.bfloat16)),
        "conv_transpose": call(
            lambda a, k: lax.conv_transpose(a, k, (2,), "SAME", dimension_numbers=("NWC", "WIO", "NWC")),
            x(1, 3, 2), x(3, 2, 1),
        ),
        "conv patches": call(lambda a: lax.conv_general_dilated_patches(a, (2,), (1,), "VALID"), x(1, 2, 4)),
        "jnp.convolve": call(jnp.convolve, x(4), x(2)),
        "average": call(lambda a: pool(a, 0, lax.add, (2, 2), (1, 2)) / 4, x(3, 4)),
        "maximum": call(lambda a: pool(a, -jnp.inf, lax.max, (2, 2), (2, 1)), x(4, 3)),
        "maximum padded": call(lambda a: pool(a, -jnp.inf, lax.max, (3,), (2,), "SAME"), x(5)),
        "minimum": call(lambda a: pool(a, jnp.inf, lax.min, (2,), (1,)), x(4)),
        "resize": call(lambda a: jax.image.resize(a, (4, 3), "linear"), x(2, 3)),
        "resize cubic": call(lambda a: jax.image.resize(a, (5,), "cubic"), x(3)),
    },
    "complex": {
        "exp": call(jnp.exp, z(3)),
        "log": call(jnp.log, z(3)),
        "sqrt": call(jnp.sqrt, z(2)),
        "sin": call(jnp.sin, z(2)),
        "tanh": call(jnp.tanh, 0.5 * z(2)),
        "sigmoid": call(jax.nn.sigmoid, z(2)),
        "abs": call(jnp.abs, z(2, 2)),
        "angle": call(jnp.angle, z(3)),
        "parts": call(lambda a: a.real * jnp.cos(a.imag), z(3)),
        "conjugate": call(lambda a: (a.conj() * a * a).sum(), z(3)),
        "to complex": call(lambda a, b: lax.complex(a, b) ** 2, x(3), x(3)),
        "power": call(lambda a, b: a**b, z(2), z(2)),
        "quotient": call(lambda a, b: a / b, z(2), z(2)),
        "sums and products": call(lambda a: jnp.cumprod(a) + a.prod(), z(3)),
        "matmul": call(jnp.matmul, z(2, 3), z(3, 1)),
        "vdot": call(jnp.vdot, z(3), z(3)),
        "solve": call(jnp.linalg.solve, square(2, dtype=jnp.complex64), z(2)),
        "inv": call(jnp.linalg.inv, square(2, dtype=jnp.complex128)),
        "det": call(jnp.linalg.det, square(3, dtype=jnp.complex64)),
        "cholesky": call(lambda a: jnp.linalg.cholesky(hermitian(a)), z(2, 2)),
        "eigvalsh": call(lambda a: jnp.linalg.eigvalsh(hermitian(a)), z(2, 2)),
        "sinc": call(jnp.sinc, z(2)),
        "mixed": call(lambda a, b: jnp.real(a * b) @ b.real, x(2, 3), z(3)),
    },
    "contractions": {
        "matmul": call(jnp.matmul, x(2, 3), x(3, 4)),
        "matmul of many": call(jnp.matmul, x(2, 2, 3), x(3, 1)),
        "matmul in half": call(jnp.matmul, x(2, 3, dtype=jnp.float16), x(3, 2, dtype=jnp.float16)),
        "einsum": call(lambda a, b: jnp.einsum("ij,kj->ki", a, b), x(2, 3), x(4, 3)),
        "einsum of three": call(lambda a, b, c: jnp.einsum("bi,bij,bj->b", a, b, c), x(2, 3), x(2, 3, 2), x(2, 2)),
        "einsum of a diagonal": call(lambda a: jnp.einsum("ii->i", a), x(3, 3)),
        "tensordot": call(lambda a, b: jnp.tensordot(a, b, 2), x(2, 3, 2), x(3, 2)),
        "inner": call(jnp.inner, x(2, 3), x(4, 3)),
        "wider result": call(
            lambda a, b: lax.dot(a, b, preferred_element_type=jnp.float32),
            x(2, 2, dtype=jnp.bfloat16), x(2, 2, dtype=jnp.bfloat16),
        ),
        "ragged_dot": call(lax.ragged_dot, x(4, 2), x(2, 2, 3), jnp.asarray([1, 3], jnp.int32)),
        "integers by floats": call(lambda a, n: n.astype(a.dtype) @ a, x(3, 2), i(2, 3)),
    },
    "transformations": {
        "vmap": call(jax.vmap(lambda a, b: jnp.tanh(a @ b), (0, None)), x(3, 2), x(2, 2)),
        "vmap of axes": call(jax.vmap(jnp.outer, (1, 0), 2), x(2, 3), x(3, 2)),
        "jit": call(jax.jit(lambda a: jax.jit(jnp.sin)(a) * a), x(3)),
        "remat": call(jax.checkpoint(lambda a: jnp.sin(jnp.sin(a))), x(3)),
        "remat by policy": call(
            jax.checkpoint(lambda a, b: jnp.sin(a @ b), policy=jax.checkpoint_policies.dots_saveable), x(2, 2), x(2, 2)
        ),
        "of a gradient": call(jax.grad(lambda a: (jnp.sin(a) * a**2).sum()), x(3)),
        "of a jvp": call(lambda a, t: jax.jvp(jnp.tanh, (a,), (t,)), x(3), x(3)),
        "of a hessian": call(jax.hessian(lambda a: jnp.prod(jnp.sin(a))), x(2)),
        "of a jacobian": call(jax.jacfwd(lambda a: jnp.cumsum(a**3)), x(3)),
        "linearized": call(lambda a: jax.linearize(jnp.sin, a)[1](a), x(3)),
        "transposed": call(lambda a, b: jax.linear_transpose(lambda v: a @ v, b)(a @ b)[0], x(2, 2), x(2)),
        "shard_map": call(of_one_device(lambda a: jnp.sin(a) * lax.psum(a, "d")), x(2, 2)),
        "barrier": call(lambda a: lax.optimization_barrier(jnp.sin(a)), x(2)),
    },
    "reductions": {
        "sum": call(lambda a: a.sum(axis=(0, 2)), x(2, 3, 2)),
        "sum of nothing": call(lambda a, b: a.sum(axis=0) + b, x(0, 3), x(3)),
        "mean": call(jnp.mean, x(2, 3, dtype=jnp.bfloat16)),
        "average": call(lambda a, w: jnp.average(a, weights=w), x(4), p(4)),
        "var": call(lambda a: jnp.var(a, axis=1, ddof=1), x(2, 3)),
        "std": call(jnp.std, x(4)),
        "prod": call(lambda a: a.prod(axis=0), x(3, 2)),
        "prod with zeros": call(jnp.prod, jnp.asarray([1.5, 0.0, -2.0], jnp.float32)),
        "max": call(lambda a: a.max(axis=1), x(2, 4)),
        "min": call(jnp.min, x(5)),
        "max from": call(lambda a: jnp.max(a, initial=0.1, where=a < 1), x(5)),
        "ptp": call(jnp.ptp, x(4)),
        "nansum": call(jnp.nansum, x(4)),
        "cumsum": call(lambda a: jnp.cumsum(a, 1), x(2, 4)),
        "cumprod": call(lambda a: lax.cumprod(a, reverse=True), x(4)),
        "cumlogsumexp": call(lax.cumlogsumexp, x(4)),
        "cummax": call(lax.cummax, x(5)),
        "cummin": call(lambda a: lax.cummin(a, axis=1), x(2, 4)),
        "reduction by logaddexp": call(lambda a: lax.reduce(a, np.float32(-9), jnp.logaddexp, (0,)), x(4)),
        "lax.reduce": call(lambda a: lax.reduce(a, np.float32(1), lax.mul, (0,)), x(4)),
        "diff": call(jnp.diff, x(4)),
        "cov": call(jnp.cov, x(2, 4)),
        "corrcoef": call(jnp.corrcoef, x(2, 4)),
        "scalar": call(lambda a: a.sum(), x()),
    },
    "elementwise": {
        "add": call(jnp.add, x(2, 3), x(3)),
        "subtract": call(jnp.subtract, x(2, 1), x(1, 3)),
        "multiply": call(jnp.multiply, x(2, 3), x()),
        "divide": call(jnp.divide, x(3), p(3)),
        "power": call(jnp.power, p(3), x(3)),
        "power of integers": call(lambda a, n: a**n, x(4), i(4, below=4)),
        "power -3": call(lambda a: a**-3, x(3)),
        "float_power": call(lambda a: jnp.float_power(a, 1.5), p(3)),
        "negative": call(jnp.negative, x(2)),
        "abs": call(jnp.abs, x(4)),
        "exp": call(jnp.exp, x(3, dtype=jnp.float16)),
        "exp2": call(jnp.exp2, x(3)),
        "expm1": call(jnp.expm1, x(3)),
        "log": call(jnp.log, p(3, dtype=jnp.bfloat16)),
        "log2": call(jnp.log2, p(3)),
        "log1p": call(jnp.log1p, p(3)),
        "sqrt": call(jnp.sqrt, p(2, 2)),
        "rsqrt": call(lax.rsqrt, p(3)),
        "cbrt": call(jnp.cbrt, x(3)),
        "square": call(jnp.square, x(3)),
        "reciprocal": call(jnp.reciprocal, p(3)),
        "tan": call(jnp.tan, u(3)),
        "sinc": call(jnp.sinc, x(3)),
        "arcsin": call(jnp.arcsin, u(3)),
        "arccos": call(jnp.arccos, u(3)),
        "arctan": call(jnp.arctan, x(3)),
        "arctan2": call(jnp.arctan2, x(4), x(4)),
        "hypot": call(jnp.hypot, x(3), x(3)),
        "sinh": call(jnp.sinh, x(3)),
        "cosh": call(jnp.cosh, x(3)),
        "arcsinh": call(jnp.arcsinh, x(3)),
        "arccosh": call(lambda a: jnp.arccosh(1 + a), p(3)),
        "arctanh": call(jnp.arctanh, u(3)),
        "maximum": call(jnp.maximum, x(4), x(4)),
        "minimum": call(jnp.minimum, x(2, 2), x()),
        "clip": call(lambda a, low: jnp.clip(a, low, 0.8), x(5), -p()),
        "lax.clamp": call(lax.clamp, -p(4), x(4), p(4)),
        "logaddexp": call(jnp.logaddexp, x(3), x(3)),
        "logaddexp2": call(jnp.logaddexp2, x(3), x(3)),
        "remainder": call(jnp.remainder, x(4), p(4)),
        "fmod": call(jnp.fmod, 3 * x(4), p(4)),
        "copysign": call(jnp.copysign, p(3), x(3)),
        "steps": call(lambda a: jnp.floor(3 * a) + jnp.round(a) + jnp.sign(a) + a, x(4)),
        "nan_to_num": call(jnp.nan_to_num, x(3)),
        "ldexp": call(lambda a, n: jnp.ldexp(a, n), x(3), i(3)),
        "polyval": call(jnp.polyval, x(3), x(4)),
        "lax.igamma": call(lambda a: lax.igamma(jnp.float32(1.5), a), p(3)),
        "casts": call(lambda a: a.astype(jnp.bfloat16).astype(jnp.float32) * a, x(3)),
        "reduce_precision": call(lambda a: lax.reduce_precision(a, 8, 10) * a, x(3)),
        "no entries": call(lambda a, b: jnp.sin(a).sum() + b, x(0, 2), x()),
    },
    "random": {
        "normal": call(lambda m, s: m + s * jax.random.normal(KEY, (3,), jnp.float32), x(3), p(3)),
        "dropout": call(lambda a: jnp.where(jax.random.bernoulli(KEY, 0.6, a.shape), a / 0.6, 0), x(4)),
        "permutation": call(lambda a: jax.random.permutation(KEY, a), x(4)),
        "a key among the arguments": call(lambda k, a: a * jax.random.uniform(k, a.shape), jax.random.key(1), x(3)),
        "multivariate_normal": call(
            lambda m, a: jax.random.multivariate_normal(KEY, m, (a + a.T) / 2, dtype=jnp.float32), x(2), positive(2)
        ),
        "gumbel softmax": call(lambda a: jax.nn.softmax(a + jax.random.gumbel(KEY, a.shape, jnp.float32)), x(3)),
    },
}  # fmt: skip


class Fault(NamedTuple):
    """A derivative that JAX gets wrong at a point; `finding` stands in what the check says."""

    f: Callable[..., Any]
    args: tuple[Any, ...]
    modes: tuple[str, ...]
    finding: str


FAULTS = {
    "det of rank n - 1, zero pivot not last": Fault(
        jnp.linalg.det,
        (jnp.asarray([[0, 1, 2, 1], [0, 2, 0, 1], [0, 0, 1, 3], [0, 0, 0, 2]], jnp.float32),),
        ("rev",),
        "0, not ",
    ),
    "spence between 1 and 2": Fault(special.spence, (jnp.asarray([1.3, 1.7], jnp.float32),), ("rev",), "nan, not"),
}

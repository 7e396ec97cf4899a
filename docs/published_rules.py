"""Derivative rules that others have published, checked: `python -m docs.published_rules [PACKAGE ...]`.

Every row is a function of an installed package that carries a rule of its own (`jax.custom_jvp`, `jax.custom_vjp`, a
linear solve or an implicit function whose derivative is not that of its iterations). What JAX gives with that rule is
held against autodiff of the function without it and against differences of the function in ball arithmetic; where the
function is the limit of an iteration, against autodiff of a closed form. Packages that are not installed are skipped.

The mistakes are described in docs/found.md.
"""

import argparse
import functools
import importlib
import importlib.metadata
import time
import warnings
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from rich.console import Console
from rich.table import Table

from jaxbias import verify
from jaxbias.verify.of_autodiff import reports

FOUND = "see docs/found.md"

KINDS = {
    "custom_jvp_call": "jvp",
    "custom_vjp_call": "vjp",
    "custom_lin[": "implicit",
    "custom_linear_solve": "solve",
    "linear_solve": "solve",
    "CustomJVP": "jvp",
    "CustomVJP": "vjp",
    "CustomRoot": "implicit",
    "custom_root": "implicit",
}
"""What the text of a traced function shows of its rules."""


class Rule(NamedTuple):
    """One published rule, and where to check it.

    Attributes:
        name: of the function, as its package calls it.
        function, args: what is differentiated, and a point of its domain; new points are drawn like it.
        closed: the same function in elementary operations, where the published one iterates to a limit.
        modes: those that the rule has.
        rtol: relative error to allow, where the published values are an approximation to fewer digits than a float64.
        note: what the table says beside the verdict.
    """

    name: str
    function: Callable[..., Any]
    args: tuple[Any, ...]
    closed: Callable[..., Any] | None = None
    modes: tuple[str, ...] = ("fwd", "rev")
    rtol: float | None = None
    note: str = ""


class Outcome(NamedTuple):
    """A row of the table."""

    package: str
    rule: str
    kind: str
    verdict: str
    evidence: str
    seconds: float


Rules = Callable[[], Iterator[Rule]]
PACKAGES: dict[str, tuple[str, Rules]] = {}
"""Title → the module to import, and its rules."""


def package(title: str, module: str) -> Callable[[Rules], Rules]:
    def add(rules: Rules) -> Rules:
        PACKAGES[title] = module, rules
        return rules

    return add


def normal(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng([7, seed]).standard_normal(shape)


def between(low: float, high: float, *shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng([8, seed]).uniform(low, high, shape)


def positive_definite(b: Any) -> Any:
    return b @ b.T + jnp.eye(b.shape[0], dtype=b.dtype)


# --- JAX --------------------------------------------------------------------------------------------------------------


@package("jax.nn", "jax")
def jax_nn() -> Iterator[Rule]:
    yield Rule("relu", jax.nn.relu, (normal(4),))
    yield Rule("relu6", jax.nn.relu6, (5 * normal(4),))
    yield Rule("log1mexp", jax.nn.log1mexp, (between(0.1, 3, 4),))


@package("jax.numpy", "jax")
def jax_numpy() -> Iterator[Rule]:
    yield Rule("hypot", jnp.hypot, (normal(3), normal(3, seed=1)))
    yield Rule("logaddexp", jnp.logaddexp, (normal(3), normal(3, seed=1)))
    yield Rule("logaddexp2", jnp.logaddexp2, (normal(3), normal(3, seed=1)))
    yield Rule("i0", jnp.i0, (normal(3),))


@package("jax.numpy.linalg", "jax")
def jax_linalg() -> Iterator[Rule]:
    yield Rule("det 2×2", jnp.linalg.det, (normal(2, 2),))
    yield Rule("det 2×2, second pivot first", jnp.linalg.det, (np.array([[0.0, 1.0], [0.0, 2.0]]),), note=FOUND)
    yield Rule("det 3×3", jnp.linalg.det, (normal(3, 3),))
    yield Rule("det 4×4", jnp.linalg.det, (normal(4, 4),))
    yield Rule("slogdet 2×2", jnp.linalg.slogdet, (normal(2, 2),))
    yield Rule("slogdet 3×3", jnp.linalg.slogdet, (normal(3, 3),))
    yield Rule(
        "slogdet by qr",
        lambda a: tuple(jnp.linalg.slogdet(a, method="qr")),
        (normal(3, 3),),
        closed=lambda a: (jnp.sign(explicit_det(a)), jnp.log(jnp.abs(explicit_det(a)))),
    )
    yield Rule("pinv", jnp.linalg.pinv, (normal(3, 2),), closed=lambda a: explicit_inverse(a.T @ a) @ a.T)
    yield Rule("solve", jnp.linalg.solve, (normal(3, 3), normal(3)), closed=lambda a, b: explicit_inverse(a) @ b)
    yield Rule(
        'scipy solve, assume_a="pos"',
        lambda b, y: jax.scipy.linalg.solve(positive_definite(b), y, assume_a="pos"),
        (normal(3, 3), normal(3, seed=1)),
        closed=lambda b, y: explicit_inverse(positive_definite(b)) @ y,
    )


def explicit_inverse(a: Any) -> Any:
    """By cofactors, so that no rule of a solver is used."""
    n = a.shape[0]
    if n == 1:
        return 1 / a
    minor = lambda i, j: explicit_det(jnp.delete(jnp.delete(a, i, 0), j, 1))
    cofactors = jnp.stack([jnp.stack([(-1.0) ** (i + j) * minor(i, j) for j in range(n)]) for i in range(n)])
    return cofactors.T / explicit_det(a)


def explicit_det(a: Any) -> Any:
    """By the first column."""
    if a.shape[0] == 1:
        return a[0, 0]
    return sum((-1.0) ** i * a[i, 0] * explicit_det(jnp.delete(jnp.delete(a, i, 0), 0, 1)) for i in range(a.shape[0]))


@package("jax.scipy.sparse.linalg", "jax")
def jax_sparse() -> Iterator[Rule]:
    from jax.scipy.sparse import linalg

    args = normal(3, 3), normal(3, seed=1)
    closed = lambda b, y: explicit_inverse(positive_definite(b)) @ y
    for name in ("cg", "gmres", "bicgstab"):
        solve = getattr(linalg, name)
        function = lambda b, y, solve=solve: solve(positive_definite(b), y, tol=1e-14)[0]
        yield Rule(name, function, args, closed=closed, rtol=1e-8)


@package("jax.lax", "jax")
def jax_lax() -> Iterator[Rule]:
    def square_root(a):
        newton = lambda f, x: jax.lax.fori_loop(0, 40, lambda _, y: y - f(y) / jax.grad(f)(y), x)
        return jax.lax.custom_root(lambda y: y * y - a, 1.0 + a, newton, lambda g, y: y / g(1.0))

    yield Rule("custom_root", square_root, (np.float64(1.7),), closed=jnp.sqrt, rtol=1e-10)
    yield Rule(
        "custom_linear_solve",
        lambda a, b: jax.lax.custom_linear_solve(
            lambda x: a @ x, b, lambda _, y: explicit_inverse(a) @ y, lambda _, y: explicit_inverse(a).T @ y
        ),
        (normal(3, 3), normal(3, seed=1)),
        closed=lambda a, b: explicit_inverse(a) @ b,
    )


@package("jax.experimental", "jax")
def jax_experimental() -> Iterator[Rule]:
    from jax.experimental.ode import odeint

    times = np.array([0.0, 0.4, 1.0])
    yield Rule(
        "ode.odeint",
        lambda y, k: odeint(lambda y, t, k: -k * y, y, times, k, rtol=1e-11, atol=1e-11),
        (np.float64(1.3), np.float64(0.7)),
        closed=lambda y, k: y * jnp.exp(-k * times),
        modes=("rev",),
        rtol=1e-7,
    )


@package("jax.scipy.special", "jax")
def jax_special() -> Iterator[Rule]:
    s = jax.scipy.special
    unit = between(0.1, 0.9, 3)
    yield Rule("logit", s.logit, (unit,))
    yield Rule("xlogy", s.xlogy, (between(0.2, 2, 3), between(0.2, 2, 3, seed=1)))
    yield Rule("xlog1py", s.xlog1py, (between(0.2, 2, 3), between(0.2, 2, 3, seed=1)))
    yield Rule("entr", s.entr, (between(0.2, 2, 3),))
    yield Rule("rel_entr", s.rel_entr, (between(0.2, 2, 3), between(0.2, 2, 3, seed=1)))
    yield Rule("kl_div", s.kl_div, (between(0.2, 2, 3), between(0.2, 2, 3, seed=1)), note=FOUND)
    yield Rule("ndtri", s.ndtri, (unit,), rtol=1e-11)
    yield Rule("log_ndtr", s.log_ndtr, (normal(4),), rtol=1e-9)
    for_q = lambda q: jnp.sum((q[:, None] + jnp.arange(300.0)) ** -12.5, axis=1)
    yield Rule("zeta in q", lambda q: s.zeta(12.5, q), (between(0.5, 3, 3),), closed=for_q, rtol=1e-10)
    yield Rule("expi", s.expi, (between(0.2, 3, 3),), rtol=1e-11)
    yield Rule("exp1", s.exp1, (between(0.2, 3, 3),), rtol=1e-11)
    yield Rule("expn", lambda x: s.expn(3, x), (between(0.2, 3, 3),), rtol=1e-10)
    yield Rule("poch", s.poch, (between(0.5, 3, 3), between(0.5, 2, 3, seed=1)), rtol=1e-9)
    yield Rule("hyp1f1", lambda x: s.hyp1f1(0.7, 1.9, x), (between(0.2, 2, 3),), rtol=1e-9)
    yield Rule("fresnel", s.fresnel, (between(0.2, 1.4, 3),), rtol=1e-10)
    yield Rule("spence, no rule of its own", s.spence, (between(0.2, 1.8, 4),), note=FOUND)
    later = {
        "sici": ((between(0.3, 3, 3),), 1e-10),
        "erfcinv": ((between(0.2, 1.8, 3),), 1e-10),
        "erfcx": ((between(0.2, 2, 3),), 1e-10),
        "dawsn": ((between(0.2, 2, 3),), 1e-10),
        "owens_t": ((between(0.2, 1.5, 2), between(0.2, 0.8, 2, seed=1)), 1e-9),
    }
    for name, (args, rtol) in later.items():
        if (function := getattr(s, name, None)) is not None:
            yield Rule(name, function, args, rtol=rtol)


# --- optimizers and solvers -------------------------------------------------------------------------------------------


@package("optax", "optax")
def optax_rules() -> Iterator[Rule]:
    import optax
    from optax.losses import _classification

    yield Rule("projections.projection_simplex", optax.projections.projection_simplex, (normal(4),))
    yield Rule("projections.projection_l1_ball", optax.projections.projection_l1_ball, (3 * normal(4),))
    yield Rule("losses.weighted_logsoftmax", _classification.weighted_logsoftmax, (normal(4), between(0.1, 1, 4)))
    yield Rule(
        "losses.safe_softmax_cross_entropy",
        lambda x: optax.losses.safe_softmax_cross_entropy(x, jnp.array([0.0, 0.25, 0.75])),
        (normal(3),),
    )


@package("lineax", "lineax")
def lineax_rules() -> Iterator[Rule]:
    import lineax as lx

    yield Rule("internal.two_norm", lx.internal.two_norm, (normal(4),))
    yield Rule("internal.rms_norm", lx.internal.rms_norm, (normal(4),))
    yield Rule("internal.max_norm", lx.internal.max_norm, (normal(4),))
    symmetric = frozenset((lx.positive_semidefinite_tag, lx.symmetric_tag))

    def solved_by(solver, shaped, tags=frozenset()):
        return lambda a, b: lx.linear_solve(lx.MatrixLinearOperator(shaped(a), tags), b, solver, throw=False).value

    inverse = lambda shaped: lambda a, b: explicit_inverse(shaped(a)) @ b
    same, args = (lambda a: a), (normal(3, 3), normal(3, seed=1))
    regular = lambda a: a + 4 * jnp.eye(3)
    diagonal = lambda a: jnp.diag(jnp.diag(regular(a)))
    lower = lambda a: jnp.tril(regular(a))
    banded = lambda a: jnp.triu(jnp.tril(regular(a), 1), -1)
    yield Rule("LU", solved_by(lx.LU(), regular), args, closed=inverse(regular))
    yield Rule("QR", solved_by(lx.QR(), regular), args, closed=inverse(regular))
    yield Rule("SVD", solved_by(lx.SVD(), regular), args, closed=inverse(regular), rtol=1e-9)
    yield Rule(
        "Cholesky",
        solved_by(lx.Cholesky(), positive_definite, symmetric),
        args,
        closed=inverse(positive_definite),
    )
    tags = frozenset((lx.diagonal_tag,))
    yield Rule("Diagonal", solved_by(lx.Diagonal(), diagonal, tags), args, closed=inverse(diagonal))
    tags = frozenset((lx.lower_triangular_tag,))
    yield Rule("Triangular", solved_by(lx.Triangular(), lower, tags), args, closed=inverse(lower))
    tags = frozenset((lx.tridiagonal_tag,))
    yield Rule("Tridiagonal", solved_by(lx.Tridiagonal(), banded, tags), args, closed=inverse(banded))
    limits = {"rtol": 1e-13, "atol": 1e-13}
    yield Rule(
        "CG",
        solved_by(lx.CG(**limits), positive_definite, symmetric),
        args,
        closed=inverse(positive_definite),
        rtol=1e-8,
    )
    for name in ("GMRES", "BiCGStab"):
        yield Rule(name, solved_by(getattr(lx, name)(**limits), regular), args, closed=inverse(regular), rtol=1e-8)
    tall = lambda a, b: explicit_inverse(a.T @ a) @ (a.T @ b)
    args = normal(4, 2), normal(4, seed=1)
    yield Rule("QR, least squares", solved_by(lx.QR(), same), args, closed=tall)
    yield Rule("SVD, least squares", solved_by(lx.SVD(), same), args, closed=tall, rtol=1e-9)
    yield Rule("Normal(CG)", solved_by(lx.Normal(lx.CG(**limits)), same), args, closed=tall, rtol=1e-7)


@package("optimistix", "optimistix")
def optimistix_rules() -> Iterator[Rule]:
    import optimistix as optx

    limits = {"rtol": 1e-13, "atol": 1e-13}
    a = np.float64(1.7)

    def root(solver, **options):
        return lambda a: (
            optx.root_find(lambda y, a: y**3 - a, solver, jnp.ones_like(a), a, max_steps=500, **options).value
        )

    cube = lambda a: a ** (1 / 3)
    yield Rule("root_find, Newton", root(optx.Newton(**limits)), (a,), closed=cube, rtol=1e-8)
    yield Rule("root_find, Chord", root(optx.Chord(**limits)), (a,), closed=cube, rtol=1e-8)
    bracket = {"options": {"lower": 0.1, "upper": 5.0}}
    yield Rule("root_find, Bisection", root(optx.Bisection(**limits), **bracket), (a,), closed=cube, rtol=1e-8)
    yield Rule(
        "fixed_point, FixedPointIteration",
        lambda m, b: (
            optx.fixed_point(
                lambda y, args: 0.1 * args[0] @ y + args[1],
                optx.FixedPointIteration(**limits),
                jnp.zeros_like(b),
                (m, b),
                max_steps=500,
            ).value
        ),
        (normal(2, 2), normal(2, seed=1)),
        closed=lambda m, b: explicit_inverse(jnp.eye(2) - 0.1 * m) @ b,
        rtol=1e-8,
    )

    def least(solver):
        return lambda x, y: (
            optx.least_squares(lambda w, data: data[0] @ w - data[1], solver, jnp.zeros(2), (x, y), max_steps=500).value
        )

    args = normal(4, 2), normal(4, seed=1)
    tall = lambda x, y: explicit_inverse(x.T @ x) @ (x.T @ y)
    yield Rule(
        "least_squares, LevenbergMarquardt", least(optx.LevenbergMarquardt(**limits)), args, closed=tall, rtol=1e-6
    )
    yield Rule("least_squares, GaussNewton", least(optx.GaussNewton(**limits)), args, closed=tall, rtol=1e-6)
    yield Rule("least_squares, Dogleg", least(optx.Dogleg(**limits)), args, closed=tall, rtol=1e-6)
    yield Rule(
        "minimise, BFGS",
        lambda x, y: (
            optx.minimise(
                lambda w, data: jnp.sum((data[0] @ w - data[1]) ** 2),
                optx.BFGS(**limits),
                jnp.zeros(2),
                (x, y),
                max_steps=500,
            ).value
        ),
        args,
        closed=tall,
        rtol=1e-6,
    )


@package("diffrax", "diffrax")
def diffrax_rules() -> Iterator[Rule]:
    import diffrax as dfx

    def solved(adjoint, solver=None, steps=None):
        def function(y, k):
            terms = dfx.ODETerm(lambda t, y, k: -k * y)
            controller = dfx.ConstantStepSize() if steps else dfx.PIDController(rtol=1e-11, atol=1e-11)
            dt = 1 / steps if steps else None
            found = dfx.diffeqsolve(
                terms,
                solver or dfx.Dopri8(),
                0.0,
                1.0,
                dt,
                y,
                k,
                stepsize_controller=controller,
                adjoint=adjoint,
                max_steps=256,
            )
            return found.ys[0]

        return function

    args = np.float64(1.3), np.float64(0.7)
    euler = lambda y, k: y * (1 - k / 4) ** 4
    exact = lambda y, k: y * jnp.exp(-k)
    steps = (dfx.Euler(), 4)
    yield Rule(
        "RecursiveCheckpointAdjoint",
        solved(dfx.RecursiveCheckpointAdjoint(), *steps),
        args,
        closed=euler,
        modes=("rev",),
        rtol=1e-10,
    )
    yield Rule("BacksolveAdjoint", solved(dfx.BacksolveAdjoint()), args, closed=exact, modes=("rev",), rtol=1e-6)


@package("equinox", "equinox")
def equinox_rules() -> Iterator[Rule]:
    import equinox.internal as eqxi

    def power(x, a):
        step = lambda carry: (carry[0] + 1, jnp.sin(a * carry[1]))
        return eqxi.while_loop(lambda c: c[0] < 5, step, (0, x), max_steps=8, kind="checkpointed", checkpoints=2)[1]

    def written_out(x, a):
        for _ in range(5):
            x = jnp.sin(a * x)
        return x

    args = np.float64(0.6), np.float64(1.2)
    yield Rule('while_loop, kind="checkpointed"', power, args, closed=written_out, modes=("rev",))


@package("jaxopt", "jaxopt")
def jaxopt_rules() -> Iterator[Rule]:
    import jaxopt

    yield Rule("projection.projection_simplex", jaxopt.projection.projection_simplex, (normal(4),))
    yield Rule("projection.projection_l1_ball", jaxopt.projection.projection_l1_ball, (3 * normal(4),))
    args = normal(4, 2), normal(4, seed=1)
    residual = lambda w, x, y: x @ w - y
    ridge = lambda x, y: explicit_inverse(x.T @ x) @ (x.T @ y)

    def fitted(solver):
        return lambda x, y: solver.run(jnp.zeros(2), x, y).params

    loss = lambda w, x, y: 0.5 * jnp.sum(residual(w, x, y) ** 2)
    for name in ("BFGS", "LBFGS", "GradientDescent"):
        solver = getattr(jaxopt, name)(loss, tol=1e-12, maxiter=2000)
        yield Rule(f"{name}, implicit", fitted(solver), args, closed=ridge, modes=("rev",), rtol=1e-6)
    for name in ("GaussNewton", "LevenbergMarquardt"):
        solver = getattr(jaxopt, name)(residual, tol=1e-12)
        yield Rule(f"{name}, implicit", fitted(solver), args, closed=ridge, modes=("rev",), rtol=1e-6)
    linear = lambda y, m, b: 0.1 * m @ y + b
    iteration = jaxopt.FixedPointIteration(linear, tol=1e-13, maxiter=500)
    yield Rule(
        "FixedPointIteration, implicit",
        lambda m, b: iteration.run(jnp.zeros(2), m, b).params,
        (normal(2, 2), normal(2, seed=1)),
        closed=lambda m, b: explicit_inverse(jnp.eye(2) - 0.1 * m) @ b,
        modes=("rev",),
        rtol=1e-6,
    )
    bisection = jaxopt.Bisection(
        lambda y, a: y**3 - a, lower=0.1, upper=5.0, tol=1e-13, maxiter=200, check_bracket=False
    )
    yield Rule(
        "Bisection, implicit",
        lambda a: bisection.run(None, a).params,
        (np.float64(1.7),),
        closed=lambda a: a ** (1 / 3),
        modes=("rev",),
        rtol=1e-6,
    )


# --- distributions ----------------------------------------------------------------------------------------------------


@package("distrax", "distrax")
def distrax_rules() -> Iterator[Rule]:
    from distrax._src.distributions import von_mises
    from distrax._src.utils import math

    pair = between(0.3, 2, 3), between(0.3, 2, 3, seed=1)
    yield Rule("math.multiply_no_nan", math.multiply_no_nan, pair)
    yield Rule("math.power_no_nan", math.power_no_nan, pair)
    cdf = lambda x, k: von_mises._von_mises_cdf(x, k, jnp.float64)
    yield Rule("VonMises.cdf", cdf, (normal(2), between(0.5, 2, 2)), rtol=1e-9)


@package("numpyro", "numpyro")
def numpyro_rules() -> Iterator[Rule]:
    from numpyro import distributions as dist
    from numpyro.distributions.util import log1mexp

    yield Rule("distributions.util.log1mexp", log1mexp, (between(-3, -0.1, 3),))
    power = lambda method: (
        lambda x, alpha, low, high: getattr(dist.DoublyTruncatedPowerLaw(alpha, low, high), method)(x)
    )
    args = tuple(map(np.float64, (1.8, -1.7, 0.6, 3.1)))
    yield Rule("DoublyTruncatedPowerLaw.log_prob", power("log_prob"), args, note=FOUND)
    yield Rule("DoublyTruncatedPowerLaw.cdf", power("cdf"), args)
    args = tuple(map(np.float64, (0.4, -1.7, 0.6, 3.1)))
    yield Rule("DoublyTruncatedPowerLaw.icdf", power("icdf"), args)


@package("tensorflow_probability (on JAX)", "tensorflow_probability.substrates.jax")
def tfp_rules() -> Iterator[Rule]:
    from tensorflow_probability.substrates import jax as tfp
    from tensorflow_probability.substrates.jax.distributions import student_t, von_mises
    from tensorflow_probability.substrates.jax.math import special
    from tensorflow_probability.substrates.jax.math.psd_kernels.internal import util

    m, tfb = tfp.math, tfp.bijectors
    b, rhs = normal(3, 3), normal(3, 2, seed=1)
    yield Rule("math.hpsd_logdet", lambda b: m.hpsd_logdet(positive_definite(b)), (b,))
    yield Rule("math.hpsd_solve", lambda b, y: m.hpsd_solve(positive_definite(b), y), (b, rhs))
    yield Rule("math.hpsd_solvevec", lambda b, y: m.hpsd_solvevec(positive_definite(b), y), (b, rhs[:, 0]))
    form = lambda b, y: m.hpsd_quadratic_form_solve(positive_definite(b), y)
    yield Rule("math.hpsd_quadratic_form_solve", form, (b, rhs), note=FOUND)
    form = lambda b, y: m.hpsd_quadratic_form_solvevec(positive_definite(b), y)
    yield Rule("math.hpsd_quadratic_form_solvevec", form, (b, rhs[:, 0]))
    pair = between(0.4, 2, 2), between(0.4, 2, 2, seed=1)
    unit = between(0.2, 0.8, 2, seed=2)
    yield Rule("math.log_cosh", m.log_cosh, (normal(3),))
    yield Rule("math.lbeta", m.lbeta, pair, rtol=1e-9)
    yield Rule("math.log_gamma_difference", m.log_gamma_difference, (pair[0], 8 + 4 * pair[1]), rtol=1e-9)
    yield Rule("math.dawsn", m.dawsn, (pair[0],), rtol=1e-10)
    yield Rule("math.erfcx", m.erfcx, (pair[0],), rtol=1e-10)
    yield Rule("math.lambertw", m.lambertw, (pair[0],), rtol=1e-8)
    yield Rule("math.owens_t", m.owens_t, (pair[0], unit), rtol=1e-9)
    # At these parameters the function has a closed form.
    polynomial = lambda x: x * x * (6 - 8 * x + 3 * x * x)
    yield Rule("math.betainc", functools.partial(m.betainc, 2.0, 3.0), (unit,), closed=polynomial, rtol=1e-9)
    inverse = functools.partial(special.betaincinv, 2.0, 1.0)
    yield Rule("math.betaincinv", inverse, (unit,), closed=jnp.sqrt, rtol=1e-8)
    inverse = functools.partial(m.igammainv, 1.0)
    yield Rule("math.igammainv", inverse, (unit,), closed=lambda p: -jnp.log1p(-p), rtol=1e-8)
    inverse = functools.partial(m.igammacinv, 1.0)
    yield Rule("math.igammacinv", inverse, (unit,), closed=lambda p: -jnp.log(p), rtol=1e-8)
    half, ive = np.float64(0.5), lambda z: -jnp.expm1(-2 * z) / jnp.sqrt(2 * np.pi * z)
    kve = lambda z: jnp.sqrt(np.pi / (2 * z))
    ratio = lambda z: 1 / jnp.tanh(z) - 1 / z
    for name, order, closed in (
        ("bessel_ive", half, ive),
        ("bessel_kve", half, kve),
        ("log_bessel_ive", half, lambda z: jnp.log(ive(z))),
        ("log_bessel_kve", half, lambda z: jnp.log(kve(z))),
        ("bessel_iv_ratio", half + 1, ratio),
    ):
        function = functools.partial(getattr(m, name), order)
        yield Rule(f"math.{name}", function, (pair[0],), closed=closed, rtol=1e-8)
    yield Rule("bijectors.Softplus", tfb.Softplus().forward, (normal(3),))
    yield Rule("psd_kernels sqrt_with_finite_grads", util.sqrt_with_finite_grads, (pair[0],), modes=("rev",))
    two = np.float64(2.0)
    cdf = lambda t: 0.5 + t / (2 * jnp.sqrt(2 + t * t))
    yield Rule("StudentT.cdf", functools.partial(student_t.stdtr, two), (normal(2),), closed=cdf, rtol=1e-8)
    quantile = lambda p: (2 * p - 1) / jnp.sqrt(2 * p * (1 - p))
    yield Rule("StudentT.quantile", functools.partial(student_t.stdtrit, two), (unit,), closed=quantile, rtol=1e-8)
    yield Rule("VonMises.cdf", von_mises.von_mises_cdf, (normal(2), pair[1]), modes=("rev",), rtol=1e-8)


@package("ott-jax", "ott")
def ott_rules() -> Iterator[Rule]:
    from ott.geometry import costs, pointcloud, regularizers
    from ott.math import fixed_point_loop, matrix_square_root, utils
    from ott.problems.linear import linear_problem
    from ott.solvers.linear import semidiscrete, sinkhorn

    yield Rule("math.utils.norm", utils.norm, (normal(4),))
    yield Rule("math.utils.logsumexp", lambda x, b: utils.logsumexp(x, b=b), (normal(4), between(0.2, 1, 4)))
    yield Rule("math.utils.softmin", utils.softmin, (normal(4), np.float64(0.7)), modes=("rev",), note=FOUND)
    yield Rule("math.utils.lambertw", utils.lambertw, (between(0.4, 2, 3),), rtol=1e-7)
    root = lambda a: matrix_square_root.sqrtm_only(positive_definite(a), threshold=1e-13)
    inverse = lambda a: matrix_square_root.inv_sqrtm_only(positive_definite(a), threshold=1e-13)
    both = lambda a: matrix_square_root.sqrtm(positive_definite(a), threshold=1e-13)[:2]

    def root_of_two(a):
        a = positive_definite(a)
        s = jnp.sqrt(a[0, 0] * a[1, 1] - a[0, 1] * a[1, 0])
        return (a + s * jnp.eye(2)) / jnp.sqrt(jnp.trace(a) + 2 * s)

    inverse_of_two = lambda a: explicit_inverse(root_of_two(a))
    both_of_two = lambda a: (root_of_two(a), inverse_of_two(a))
    b = (normal(2, 2),)
    yield Rule("math.matrix_square_root.sqrtm_only", root, b, closed=root_of_two, modes=("rev",), rtol=1e-5)
    yield Rule("math.matrix_square_root.inv_sqrtm_only", inverse, b, closed=inverse_of_two, modes=("rev",), rtol=1e-5)
    yield Rule("math.matrix_square_root.sqrtm", both, b, closed=both_of_two, modes=("rev",), rtol=1e-5)

    def iterated(at_least, x, a):
        step = lambda i, constants, state, errors: jnp.sin(constants * state)
        return fixed_point_loop.fixpoint_iter_backprop(lambda *_: True, step, at_least, 6, 3, a, x)

    def written_out(x, a):
        for _ in range(6):
            x = jnp.sin(a * x)
        return x

    args = np.float64(0.6), np.float64(1.2)
    for at_least, note in ((0, ""), (6, FOUND)):
        function = functools.partial(iterated, at_least)
        name = f"math.fixpoint_iter_backprop, {at_least} to 6 steps"
        yield Rule(name, function, args, closed=written_out, modes=("rev",), note=note)
    cost = costs.RegTICost(regularizers.L1(), lam=0.3)
    yield Rule("geometry.costs.RegTICost.h_legendre", cost.h_legendre, (2 * normal(3),), modes=("rev",))
    x, y = normal(4, 2), normal(3, 2, seed=1)

    def semidual(g):
        return semidiscrete._semidiscrete_loss(
            g, linear_problem.LinearProblem(pointcloud.PointCloud(x, y, epsilon=0.5))
        )

    yield Rule("solvers.linear.semidiscrete loss", semidual, (normal(3, seed=2),), modes=("rev",))

    def transport(c):
        from ott.geometry import geometry

        problem = linear_problem.LinearProblem(geometry.Geometry(cost_matrix=c, epsilon=0.5))
        return sinkhorn.Sinkhorn(threshold=1e-10, max_iterations=2000)(problem).matrix

    def plan_of_two(c):
        # Masses of one half: the plan is [[t, ½−t], [½−t, t]] with (t / (½−t))² = exp(−(c₁₁ + c₂₂ − c₁₂ − c₂₁) / ε).
        ratio = jnp.exp(-(c[0, 0] + c[1, 1] - c[0, 1] - c[1, 0]) / (2 * 0.5))
        t = 0.5 * ratio / (1 + ratio)
        return jnp.array([[t, 0.5 - t], [0.5 - t, t]])

    costs_of_two = between(0.1, 1, 2, 2)
    yield Rule(
        "solvers.linear.sinkhorn, implicit", transport, (costs_of_two,), closed=plan_of_two, modes=("rev",), rtol=1e-5
    )


# --- running them -----------------------------------------------------------------------------------------------------


def version_of(module: str) -> str:
    """Of the distribution that brings a module."""
    top = module.partition(".")[0]
    names = importlib.metadata.packages_distributions().get(top, [top])
    return importlib.metadata.version(sorted(names)[-1])


def kind_of(rule: Rule) -> str:
    """What sort of rule the function carries; empty if autodiff reads through it."""
    text = str(jax.make_jaxpr(rule.function)(*rule.args))
    return ", ".join(sorted({kind for mark, kind in KINDS.items() if mark in text}))


def checked(rule: Rule) -> list[verify.Report]:
    """A report for each mode."""
    if rule.closed is None:
        return list(reports(rule.function, rule.args, 1, rule.modes, rtol=rule.rtol, atol=rule.rtol))

    function = jax.jit(rule.function)
    arrays = lambda tree: jax.tree.map(jnp.asarray, tree)

    def tangents(args, tangents):
        return jax.jvp(function, arrays(args), arrays(tangents))[1]

    def cotangents(args, cotangents):
        return jax.vjp(function, *arrays(args))[1](arrays(cotangents))

    doors = {"fwd": (verify.jvp, tangents), "rev": (verify.vjp, cotangents)}
    tolerances = {"rtol": rule.rtol, "atol": rule.rtol}
    return [doors[mode][0](rule.closed, doors[mode][1], rule.args, **tolerances) for mode in rule.modes]


def outcome(title: str, rule: Rule) -> Outcome:
    start = time.perf_counter()
    kind = ""
    try:
        kind = kind_of(rule)
        found = checked(rule)
    except Exception as error:
        line = f"{type(error).__name__}: {error}".splitlines()[0]
        return Outcome(title, rule.name, kind, "not checked", line[:160], time.perf_counter() - start)
    worst = next((r for r in found if not r.ok), next((r for r in found if r.verdict != "right"), found[-1]))
    told = [f"{d.leaf}: {d.kind}" for d in worst.diagnoses[:2]] if not worst.ok else []
    if worst.verdict == "undecided":
        told = list(worst.notes[-1:])
    said = [worst.evidence] if worst.evidence else [f"within {rule.rtol:.0e}"] if rule.rtol else []
    if rule.closed is not None:
        said.append("against a closed form")
    if not worst.ok and rule.note:
        said.append(rule.note)
    return Outcome(title, rule.name, kind, worst.verdict, "; ".join([*told, *said]), time.perf_counter() - start)


def run(titles: Sequence[str], console: Console) -> list[Outcome]:
    """Check the rules of the named packages, or of all; print the table and the counts."""
    asked = [t for t in PACKAGES if not titles or any(word in t for word in titles)]
    outcomes, skipped, progress = [], [], Console(stderr=True)
    for title in asked:
        module, rules = PACKAGES[title]
        try:
            importlib.import_module(module)
            version = version_of(module)
        except Exception as error:
            skipped.append(f"{title} ({type(error).__name__})")
            continue
        table = Table(title=f"{title} {version}", title_justify="left")
        for column in ("rule", "kind", "verdict", "evidence", "seconds"):
            table.add_column(column, justify="right" if column == "seconds" else "left", overflow="fold")
        try:
            for rule in rules():
                each = outcome(title, rule)
                outcomes.append(each)
                progress.print(f"{title}: {each.rule}: {each.verdict} ({each.seconds:.0f} s)", style="dim")
                table.add_row(each.rule, each.kind, each.verdict, each.evidence, f"{each.seconds:.1f}")
        except (ImportError, AttributeError) as error:  # another version of the package has moved something
            skipped.append(f"the rest of {title} ({error})")
        console.print(table)
    verdicts = Counter(each.verdict for each in outcomes if each.kind)
    console.print(
        f"{verdicts.total()} rules of {len({each.package for each in outcomes})} packages: "
        + ", ".join(f"{count} {verdict}" for verdict, count in verdicts.most_common())
    )
    without = [each.rule for each in outcomes if not each.kind and each.verdict != "not checked"]
    console.print(f"not counted, since autodiff reads through them: {', '.join(without) or 'none'}")
    console.print(f"skipped: {', '.join(skipped) or 'none'}")
    return outcomes


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        prog="python -m docs.published_rules", description="Check derivative rules of installed packages."
    )
    parser.add_argument("packages", nargs="*", metavar="PACKAGE", help=f"of {', '.join(PACKAGES)}; all by default")
    asked = parser.parse_args(argv)
    jax.config.update("jax_enable_x64", True)
    warnings.simplefilter("ignore")
    run(asked.packages, Console(width=160))


if __name__ == "__main__":
    main()

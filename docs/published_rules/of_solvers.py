"""Rules of optimizers and of solvers: of equations, of least squares, of differential equations."""

from collections.abc import Iterator

import jax.numpy as jnp
import numpy as np

from docs.published_rules.rule import Package, Rule, between, explicit_inverse, normal, positive_definite


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


PACKAGES = {
    "optax": Package("optax", optax_rules),
    "lineax": Package("lineax", lineax_rules),
    "optimistix": Package("optimistix", optimistix_rules),
    "diffrax": Package("diffrax", diffrax_rules),
    "equinox": Package("equinox", equinox_rules),
    "jaxopt": Package("jaxopt", jaxopt_rules),
}

"""Rules of optimal transport."""

import functools
from collections.abc import Iterator

import jax.numpy as jnp
import numpy as np

from docs.published_rules.rule import Package, Rule, between, explicit_inverse, normal, positive_definite


def ott_rules() -> Iterator[Rule]:
    from ott.geometry import costs, pointcloud, regularizers
    from ott.math import fixed_point_loop, matrix_square_root, utils
    from ott.problems.linear import linear_problem
    from ott.solvers.linear import semidiscrete, sinkhorn

    yield Rule("math.utils.norm", utils.norm, (normal(4),))
    yield Rule("math.utils.logsumexp", lambda x, b: utils.logsumexp(x, b=b), (normal(4), between(0.2, 1, 4)))
    yield Rule(
        "math.utils.softmin",
        utils.softmin,
        (normal(4), np.float64(0.7)),
        modes=("rev",),
        found="ottmathutilssoftmin-in-gamma",
    )
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
    backwards = "ott-fixpoint_iter_backprop-with-as-many-iterations-at-least-as-at-most"
    for at_least, found in ((0, ""), (6, backwards)):
        function = functools.partial(iterated, at_least)
        name = f"math.fixpoint_iter_backprop, {at_least} to 6 steps"
        yield Rule(name, function, args, closed=written_out, modes=("rev",), found=found)
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


PACKAGES = {
    "ott-jax": Package("ott", ott_rules),
}

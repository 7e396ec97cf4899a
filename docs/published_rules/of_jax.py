"""Rules of JAX itself."""

from collections.abc import Iterator

import jax
import jax.numpy as jnp
import numpy as np

from docs.published_rules.rule import Package, Rule, between, explicit_det, explicit_inverse, normal, positive_definite

DET = "jaxnumpylinalgdet-at-singular-matrices"


def jax_nn() -> Iterator[Rule]:
    yield Rule("relu", jax.nn.relu, (normal(4),))
    yield Rule("relu6", jax.nn.relu6, (5 * normal(4),))
    yield Rule("log1mexp", jax.nn.log1mexp, (between(0.1, 3, 4),))


def jax_numpy() -> Iterator[Rule]:
    yield Rule("hypot", jnp.hypot, (normal(3), normal(3, seed=1)))
    yield Rule("logaddexp", jnp.logaddexp, (normal(3), normal(3, seed=1)))
    yield Rule("logaddexp2", jnp.logaddexp2, (normal(3), normal(3, seed=1)))
    yield Rule("i0", jnp.i0, (normal(3),))


def jax_linalg() -> Iterator[Rule]:
    yield Rule("det 2×2", jnp.linalg.det, (normal(2, 2),), found=DET)
    yield Rule("det 2×2, second pivot first", jnp.linalg.det, (np.array([[0.0, 1.0], [0.0, 2.0]]),), found=DET)
    yield Rule("det 3×3", jnp.linalg.det, (normal(3, 3),), found=DET)
    yield Rule("det 4×4", jnp.linalg.det, (normal(4, 4),), found=DET)
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


def jax_sparse() -> Iterator[Rule]:
    from jax.scipy.sparse import linalg

    args = normal(3, 3), normal(3, seed=1)
    closed = lambda b, y: explicit_inverse(positive_definite(b)) @ y
    for name in ("cg", "gmres", "bicgstab"):
        solve = getattr(linalg, name)
        function = lambda b, y, solve=solve: solve(positive_definite(b), y, tol=1e-14)[0]
        yield Rule(name, function, args, closed=closed, rtol=1e-8)


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


def jax_special() -> Iterator[Rule]:
    s = jax.scipy.special
    unit = between(0.1, 0.9, 3)
    yield Rule("logit", s.logit, (unit,))
    yield Rule("xlogy", s.xlogy, (between(0.2, 2, 3), between(0.2, 2, 3, seed=1)))
    yield Rule("xlog1py", s.xlog1py, (between(0.2, 2, 3), between(0.2, 2, 3, seed=1)))
    yield Rule("entr", s.entr, (between(0.2, 2, 3),))
    yield Rule("rel_entr", s.rel_entr, (between(0.2, 2, 3), between(0.2, 2, 3, seed=1)))
    yield Rule(
        "kl_div", s.kl_div, (between(0.2, 2, 3), between(0.2, 2, 3, seed=1)), found="jaxscipyspecialkl_div-near-p--q"
    )
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
    yield Rule(
        "spence, no rule of its own", s.spence, (between(0.2, 1.8, 4),), found="jaxscipyspecialspence-between-1-and-2"
    )
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


PACKAGES = {
    "jax.nn": Package("jax", jax_nn),
    "jax.numpy": Package("jax", jax_numpy),
    "jax.numpy.linalg": Package("jax", jax_linalg),
    "jax.scipy.sparse.linalg": Package("jax", jax_sparse),
    "jax.lax": Package("jax", jax_lax),
    "jax.experimental": Package("jax", jax_experimental),
    "jax.scipy.special": Package("jax", jax_special),
}

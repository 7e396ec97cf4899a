"""Changes of several lines that only together give what is wanted."""

import ast

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxbias import verify
from jaxbias._jaxpr.sources import Segment
from jaxbias.verify.naming.together import together
from jaxbias.verify.naming.trying import Fit
from jaxbias.verify.naming.variants import Variant

RNG = np.random.default_rng(3)


def fit(line, cost=1.0):
    return Fit(Segment("f.py", line, 0, line, 1, "f"), f"line {line}", Variant(cost, "sign", "", ast.Constant(0), ""))


def effects(value, lines, changes):
    """Fits, what the value is with each alone, and what it is now; of each line the right change stands last."""
    fits = [fit(line) for line in lines for _ in changes[line]]
    return fits, [value(**{**NOW, line: x}) for line in lines for x in changes[line]], value(**NOW)


SIZES = {"a": (4, 3), "b": (4, 3), "c": (4, 3)}
NOW = {name: RNG.standard_normal(shape) for name, shape in SIZES.items()}
CHANGES = {name: [RNG.standard_normal(shape) for _ in range(30)] for name, shape in SIZES.items()}


@pytest.mark.parametrize("joined", [lambda a, b, c: a - 2 * b + c, lambda a, b, c: a * b / c])
@pytest.mark.parametrize("lines", ["a", "ab", "bc", "abc"])
def test_the_changes_that_come_to_what_is_wanted(joined, lines):
    fits, values, now = effects(joined, "abc", CHANGES)
    wanted = joined(**{**NOW, **{line: CHANGES[line][-1] for line in lines}})
    first = next(together(fits, values, now, wanted), ())
    its = {fits.index(f) for f in first}
    assert [f.segment.line for f in first] == list(lines) and len(its) == len(lines)
    assert all(values[k] is values[30 * ("abc".index(str(f.segment.line)) + 1) - 1] for k, f in zip(sorted(its), first))


def test_two_changes_of_one_line_are_none_together():
    fits, values, now = effects(lambda a, b, c: a + b + c, "abc", CHANGES)
    wanted = now + (CHANGES["a"][3] - NOW["a"]) + (CHANGES["a"][4] - NOW["a"])
    assert not [*together(fits, values, now, wanted)]


@pytest.mark.parametrize("now", [None, np.ones(3), np.full((4, 3), np.nan)])
def test_what_is_not_known_has_none(now):
    fits, values, _ = effects(lambda a, b, c: a + b + c, "abc", CHANGES)
    assert not [*together(fits, values, now, np.ones((4, 3)))]


def normal(*shapes):
    return tuple(jax.random.normal(jax.random.key(k), shape) for k, shape in enumerate(shapes))


def drawn(mu, s, w):
    z = mu + jnp.exp(0.5 * s) * NOISE
    return ((z @ w) ** 2).sum(axis=1) - 0.5 * (1 + s - jnp.exp(s)).sum(axis=1)


NOISE = RNG.standard_normal((5, 3))


def drawn_two_terms(args, ct):
    mu, s, w = args
    sd = jnp.exp(0.5 * s)
    z = mu + sd * NOISE
    gz = 2 * ct[:, None] * (z @ w) @ w.T
    gs = gz * sd * NOISE
    gs = gs + 0.5 * (sd - 1) * ct[:, None]
    return gz, gs, z.T @ (2 * ct[:, None] * (z @ w))


def huber(x, w):
    r = x @ w
    a = jnp.abs(r)
    return (jnp.where(a <= 0.7, 0.5 * r**2, 0.7 * (a - 0.35)) * MASK).sum() / MASK.sum()


MASK = np.array([1.0, 0.0, 1.0, 1.0, 0.0, 1.0])


def huber_two_factors(args, ct):
    x, w = args
    r = x @ w
    slope = jnp.where(jnp.abs(r) <= 0.7, 2 * r, 0.7 * jnp.sign(r))
    dr = ct * slope / MASK.sum()
    return jnp.outer(dr, w), x.T @ dr


def group_norm(x, w):
    grouped = x.reshape(x.shape[0], 2, -1)
    centred = grouped - grouped.mean(-1, keepdims=True)
    return (centred / jnp.sqrt(grouped.var(-1, keepdims=True) + 1e-3)).reshape(x.shape) * w[None, :, None]


def group_norm_across_groups(args, ct):
    x, w = args
    grouped = x.reshape(x.shape[0], 2, -1)
    scale = 1 / jnp.sqrt(grouped.var(-1, keepdims=True) + 1e-3)
    xhat = (grouped - grouped.mean(-1, keepdims=True)) * scale
    dxhat = (ct * w[None, :, None]).reshape(grouped.shape)
    mean = dxhat.mean(1, keepdims=True)
    along = (dxhat * xhat).mean(-1, keepdims=True)
    dx = scale * (dxhat - mean + xhat * along)
    return dx.reshape(x.shape), (ct * xhat.reshape(x.shape)).sum((0, 2))


def up(x, k):
    u = jnp.pad(jnp.repeat(x, 2, axis=0), ((1, 1), (0, 0)))
    return jax.nn.leaky_relu(sum(u[j : j + 2 * x.shape[0]] @ k[j] for j in range(3)), 0.1)


def up_three(args, ct):
    x, k = args
    n = 2 * x.shape[0]
    u = jnp.pad(jnp.repeat(x, 2, axis=0), ((1, 1), (0, 0)))
    pre = sum(u[j : j + n] @ k[j] for j in range(3))
    dpre = jnp.where(pre > 0, ct, 0.0)
    dk = jnp.stack([u[j : j + n].T @ dpre for j in range(3)])
    du = jnp.zeros_like(u)
    for j in range(3):
        du = du.at[j : j + n].add(dpre @ k[2 - j].T)
    du = du[1:-1]
    dx = du.reshape(-1, 2, x.shape[1]).mean(axis=1)
    return dx, dk


@pytest.mark.parametrize(
    ("forward", "rule", "args", "patches"),
    [
        # the statement that takes the mean is seen with every other mean
        (
            group_norm, group_norm_across_groups, normal((3, 4, 5), (4,)),
            {"mean = dxhat.mean(2, keepdims=True)", "dx = scale * (dxhat - mean - xhat * along)"},
        ),
        # sizes that the rule has written into it are no others
        (
            up, up_three, normal((4, 2), (3, 2, 5)),
            {
                "dpre = jnp.where(pre > 0, ct, 0.1 * ct)", "du = du.at[j : j + n].add(dpre @ k[j].T)",
                "dx = du.reshape(-1, 2, x.shape[1]).sum(axis=1)",
            },
        ),
        (
            drawn, drawn_two_terms, normal((5, 3), (5, 3), (3, 2)),
            {"gs = gs + 0.5 * (sd**2 - 1) * ct[:, None]", "gs = gz * sd * NOISE * 0.5"},
        ),
        (
            huber, huber_two_factors, normal((6, 3), (3,)),
            {"slope = jnp.where(jnp.abs(r) <= 0.7, r, 0.7 * jnp.sign(r))", "dr = ct * slope / MASK.sum() * MASK"},
        ),
    ],
)  # fmt: skip
def test_both_lines_are_told_and_what_to_write(forward, rule, args, patches):
    report = verify.vjp(forward, rule, args)
    assert {d.patch for d in report.diagnoses} == patches, str(report)
    places = [line.text for line in report.lines if line.status == "wrong"]
    assert all(any(patch.split(" = ")[0] + " = " in place for place in places) for patch in patches)

"""Loops that run in the wrong direction."""

import ast

import jax
import jax.numpy as jnp
import pytest
from jax import lax

from jaxbias import verify
from jaxbias.verify.naming.directions import _iterated, _scanned

pytestmark = pytest.mark.usefixtures("as_users_run_it", "by_the_rules_of_jax")


def normal(*shapes):
    return tuple(jax.random.normal(jax.random.key(k), shape) for k, shape in enumerate(shapes))


@pytest.mark.parametrize(
    ("code", "wanted"),
    [
        ("lax.scan(step, start, xs)", "lax.scan(step, start, xs, reverse=True)"),
        ("lax.scan(step, start, xs,)", "lax.scan(step, start, xs, reverse=True)"),
        ("lax.scan(step, start, xs, reverse=True)", "lax.scan(step, start, xs, reverse=False)"),
        ("lax.scan(step, start, xs, reverse=back)", ""),
    ],
)
def test_a_scan(code, wanted):
    assert _scanned(code, ast.parse(code, mode="eval").body) == wanted


@pytest.mark.parametrize(
    ("code", "wanted"),
    [
        ("range(n)", "reversed(range(n))"),
        ("reversed(range(n))", "range(n)"),
        ("tape[::-1]", "tape"),
        ("tape", "tape[::-1]"),
        ("tape[1:]", ""),
        ("zip(a, b)", ""),
    ],
)
def test_what_a_loop_goes_through(code, wanted):
    assert _iterated(code, ast.parse(code, mode="eval").body) == wanted


def summed(xs, a):
    def step(s, x):
        s = a * s + x
        return s, s

    return lax.scan(step, jnp.zeros_like(a), xs)[1]


def forwards(args, ct):
    xs, a = args
    before = jnp.concatenate([jnp.zeros_like(xs[:1]), summed(xs, a)[:-1]])

    def back(bar, g):
        bar = a * bar + g
        return bar, bar

    bars = lax.scan(back, jnp.zeros_like(a), ct)[1]
    return bars, -(bars * before).sum(0)


def listed(args, ct):
    xs, a = args
    states = [jnp.zeros_like(a)]
    for x in xs:
        states.append(a * states[-1] + x)
    bar, dxs, da = jnp.zeros_like(a), jnp.zeros_like(xs), jnp.zeros_like(a)
    for t in range(xs.shape[0]):
        bar = bar + ct[t]
        dxs = dxs.at[t].set(bar)
        da = da + bar * states[t]
        bar = a * bar
    return dxs, da


def test_a_scan_beside_another_mistake():
    report = verify.vjp(summed, forwards, normal((5, 3), (3,)))
    assert {d.patch: d.kind for d in report.diagnoses} == {
        "bars = lax.scan(back, jnp.zeros_like(a), ct, reverse=True)[1]": "wrong-index",
        "return bars, (bars * before).sum(0)": "sign",
    }


def test_a_loop_that_makes_two_gradients_wrong_is_one_finding():
    (found,) = verify.vjp(summed, listed, normal((5, 3), (3,))).diagnoses
    assert (found.leaf, found.kind) == ("xs, a", "wrong-index")
    assert found.patch == "for t in reversed(range(xs.shape[0])):"
    assert found.explanation == "`range(xs.shape[0])` goes through the passes in the wrong direction."

"""What is written in the place of a line, and that the rule is carried out with it."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxbias import verify
from jaxbias._jaxpr.sources import Segment
from jaxbias.verify.naming.code import written
from jaxbias.verify.naming.rewrite import rewritten

pytestmark = pytest.mark.usefixtures("as_users_run_it", "by_the_rules_of_jax")

TABLE = (
    ("ds @ k", "{} * scale", "ds @ k * scale"),
    ("a + b", "{} * scale", "(a + b) * scale"),
    ("p * dp", "{} - p * t", "p * dp - p * t"),
    ("a * b", "{}.T", "(a * b).T"),
    ("a + b", "jnp.flip({}, axis=0)", "jnp.flip(a + b, axis=0)"),
    ("-g", "v + {}", "v + (-g)"),
    ("dw += x.T @ dz", "{} / n", "dw += x.T @ dz / n"),
    ("a - b", "{} - h * (h * {0}).mean(0)", "a - b - h * (h * (a - b)).mean(0)"),
    ("a.sum(0)", "{} - p * {0}.sum()", "a.sum(0) - p * a.sum(0).sum()"),
    ("a.T", "{}.T", "a"),
    ("g @ a.T", "{}.T", "(g @ a.T).T"),
    ("jnp.conj(a + b)", "jnp.conj({})", "a + b"),
    ("w.conj()", "jnp.conj({})", "w"),
    ("dz = a @ b / x.shape[0]", "{} * x.shape[0]", "dz = a @ b"),
    ("a @ b * n", "{} / n", "a @ b"),
    ("a @ b / n", "{} / n", "a @ b / n / n"),
    ("a / (n * k)", "{} * n", "a / (n * k) * n"),
    ("(x > 0) & (x < 1)", "{} * g", "((x > 0) & (x < 1)) * g"),
)


@pytest.mark.parametrize(("code", "template", "wanted"), TABLE)
def test_what_is_written(code, template, wanted):
    assert [*written(code, [template])] == [wanted]


def test_a_mean_becomes_a_sum():
    assert [*written("g.mean(0)", ["{} * 4"])] == ["g.sum(0)", "g.mean(0) * 4"]
    assert [*written("g.mean(0)", ["{} * scale"])] == ["g.mean(0) * scale"]


def test_of_what_cannot_be_read_nothing_is_written():
    assert not [*written("for x in", ["{}.T"])]


def scaled(x):
    return 3 * x


TABLE_OF_FUNCTIONS = {"scaled": lambda x: scaled(x) + 1}


def caller(x):
    return TABLE_OF_FUNCTIONS["scaled"](x)


def test_a_copy_calls_what_is_replaced_and_the_function_does_not():
    line = scaled.__code__.co_firstlineno + 1
    copy = rewritten(caller, [(Segment(__file__, line, 11, line, 16, "scaled"), "5 * x")])
    assert copy is not None and (copy(2), caller(2), scaled(2)) == (11, 7, 6)


def test_what_is_not_reached_is_not_replaced():
    line = scaled.__code__.co_firstlineno + 1
    assert rewritten(np.sum, [(Segment(__file__, line, 11, line, 16, "scaled"), "5 * x")]) is None


X, W = jax.random.normal(jax.random.key(0), (5, 3)), jax.random.normal(jax.random.key(1), (3, 4))


def layer(x, w):
    return jnp.tanh(x @ w)


def without_slope(args, ct):
    x, w = args
    h = jnp.tanh(x @ w)
    dz = ct * (1 - h * h)
    return dz @ w.T, x.T @ ct


def turned(args, ct):
    x, w = args
    h = jnp.tanh(x @ w)
    dz = ct * (1 + h * h)
    return dz @ w.T, x.T @ dz


@pytest.mark.parametrize(
    ("rule", "kind", "patch"),
    [
        (without_slope, "missing-activation-derivative", "return dz @ w.T, x.T @ dz"),
        (turned, "sign", "dz = ct * (1 - h * h)"),
    ],
)
def test_the_line_to_write(rule, kind, patch):
    (diagnosis,) = verify.vjp(layer, rule, (X, W)).diagnoses
    assert diagnosis.kind == kind, diagnosis
    assert diagnosis.patch == patch and "2 sizes" in diagnosis.evidence, diagnosis


def test_which_cotangent_is_not_used():
    forward = lambda x: (jnp.sin(x), jnp.cos(x))
    (diagnosis,) = verify.vjp(forward, lambda args, ct: (ct[0] * jnp.cos(args[0]),), (X,)).diagnoses
    assert diagnosis.kind == "missing-term" and "does not use cotangent[1]" in diagnosis.explanation


def test_which_entries_of_the_cotangent_are_left_out():
    add = lambda x, b: x + b
    (diagnosis,) = verify.vjp(add, lambda args, ct: (ct, ct[0]), (X, jnp.ones(3))).diagnoses
    assert diagnosis.kind == "broadcast-not-summed" and "takes one entry alone" in diagnosis.explanation
    assert "ct.sum(0)" in diagnosis.patch


def test_gradients_that_are_exchanged():
    multiply = lambda x, y: x * y
    report = verify.vjp(multiply, lambda args, ct: (ct * args[0], ct * args[1]), (X, X + 1))
    assert [d.kind for d in report.diagnoses] == ["swapped-outputs"], str(report)

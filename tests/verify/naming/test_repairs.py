"""Repairs of a line: what is written in its place, and that the rule is carried out with it."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxbias import verify
from jaxbias._jaxpr.sources import Segment
from jaxbias.verify.naming.repairs import Repair, edits
from jaxbias.verify.naming.rewrite import rewritten

pytestmark = pytest.mark.usefixtures("as_users_run_it", "by_the_rules_of_jax")

TABLE = (
    ("ds @ k", Repair("wrap", "{} * scale"), "ds @ k * scale"),
    ("a + b", Repair("wrap", "{} * scale"), "(a + b) * scale"),
    ("p * dp", Repair("wrap", "{} - p * t"), "p * dp - p * t"),
    ("a * b", Repair("wrap", "{}.T"), "(a * b).T"),
    ("x.T @ dh", Repair("swap", "dh * slope", "dh"), "x.T @ (dh * slope)"),
    ("g * scale * x", Repair("without", code="scale"), "g * x"),
    ("2 * g", Repair("without"), "g"),
    ("a - b", Repair("without", code="b"), "a"),
    ("n - h", Repair("signs"), "n + h"),
    ("(a + b) - c", Repair("signs"), "(a + b) + c"),
    ("-ct @ w", Repair("signs"), "ct @ w"),
    ("(p * ct).mean(axis=0)", Repair("calls", "sum", "mean"), "(p * ct).sum(axis=0)"),
    ("jnp.conj(z) * g", Repair("calls", "", "conj"), "z * g"),
    ("jnp.sum(a, axis=0, keepdims=True)", Repair("axes", "1"), "jnp.sum(a, axis=1, keepdims=True)"),
    ("a.sum()", Repair("axes", "(0, 2)"), "a.sum(axis=(0, 2))"),
    ("dz @ u", Repair("transposes", code="u"), "dz @ u.T"),
    ("ds.T @ q", Repair("transposes"), "ds @ q"),
    ('jnp.einsum("ij,jk->ik", a, b)', Repair("letters"), 'jnp.einsum("ji,jk->ik", a, b)'),
    ("jnp.where(z > 0, a, b)", Repair("compares", "<"), "jnp.where(z < 0, a, b)"),
    ("dw += x.T @ dz", Repair("wrap", "{} / n"), "dw += x.T @ dz / n"),
    ("jnp.linalg.solve(s, d)", Repair("transposes", code="s"), "jnp.linalg.solve(s.T, d)"),
)


@pytest.mark.parametrize(("code", "repair", "wanted"), TABLE)
def test_what_is_written(code, repair, wanted):
    assert next(edits(code, (repair,))) == wanted


def test_what_cannot_be_read_has_no_repair():
    assert not list(edits("for x in", [Repair("signs")]))


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

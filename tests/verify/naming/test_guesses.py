"""Small changes of a line's code that are tried where its value says nothing."""

import jax
import jax.numpy as jnp
import pytest

from jaxbias import verify
from jaxbias.verify.naming import guesses
from jaxbias.verify.naming.repairs import value_of

pytestmark = pytest.mark.usefixtures("as_users_run_it", "by_the_rules_of_jax")

TABLE = (
    (guesses._letters, 'jnp.einsum("ni,mj->ij", x, y)', "wrong-index", 'jnp.einsum("ni,nj->ij", x, y)'),
    (guesses._signs, "a + b * c", "sign", "a - b * c"),
    (guesses._signs, "-a @ b", "sign", "a @ b"),
    (guesses._axes, "d.sum(axis=0)", "wrong-reduction-axis", "d.sum(axis=1)"),
    (guesses._calls, "jnp.argmin(x, axis=1)", "missing-mask", "jnp.argmax(x, axis=1)"),
    (guesses._transposes, "dz @ u", "transpose", "dz @ u.T"),
    (guesses._too_much, "g * x * scale", "wrong-operand", "g * x"),
    (guesses._too_much, "2 * g", "scale-constant", "g"),
    (guesses._too_much, "a + b", "extra-term", "a"),
    (guesses._exchanged, "a @ u + b @ v", "wrong-operand", "a @ v + b @ u"),
)


def read(code):
    text, tree = value_of(code)
    assert tree is not None
    return text, tree


@pytest.mark.parametrize(("way", "code", "kind", "right"), TABLE)
def test_what_is_tried(way, code, kind, right):
    text, tree = read(code)
    assert (kind, right) in [(guess.kind, guess.code) for guess in way(text, tree)]


@pytest.mark.parametrize(("code", "right"), [("hs[t + 1]", "hs[t]"), ("w[taps - 1 - u]", "w[u]"), ("y[0]", "y[t]")])
def test_another_entry(code, right):
    assert right in [guess.code for guess in guesses._indices(*read(code), ["t"])]


def test_variables_are_those_assigned_before_and_entries_may_move_with_the_passes():
    text, tree = read("x[:, :reach]")
    assert "y[:, :reach]" in [guess.code for guess in guesses._names(text, tree, ["y", "x"])]
    assert "x[:, u : u + reach]" in [guess.code for guess in guesses._slices(text, tree, ["u"])]


def bilinear(x, w, y):
    return jnp.einsum("ni,ijo,nj->no", x, w, y)


def rows_apart(args, ct):
    x, w, y = args
    dx = jnp.einsum("no,ijo,nj->ni", ct, w, y)
    dw = jnp.einsum("ni,no,mj->ijo", x, ct, y)
    dy = jnp.einsum("ni,ijo,no->nj", x, w, ct)
    return dx, dw, dy


def correlate(x, w):
    return sum(x[k : k + 4] * w[k] for k in range(3))


def first_entries_in_every_pass(args, ct):
    x, w = args
    dx, dw = jnp.zeros_like(x), jnp.zeros_like(w)
    for k in range(3):
        seen = x[:4]
        dw = dw.at[k].set((seen * ct).sum())
        dx = dx.at[k : k + 4].add(w[k] * ct)
    return dx, dw


@pytest.mark.parametrize(
    ("forward", "rule", "shapes", "patch"),
    [
        (bilinear, rows_apart, ((5, 3), (3, 4, 2), (5, 4)), 'dw = jnp.einsum("ni,no,nj->ijo", x, ct, y)'),
        (correlate, first_entries_in_every_pass, ((6,), (3,)), "seen = x[k : k + 4]"),
    ],
)
def test_a_guess_that_is_told_is_proved(forward, rule, shapes, patch):
    keys = jax.random.split(jax.random.key(4), len(shapes))
    report = verify.vjp(forward, rule, tuple(map(jax.random.normal, keys, shapes)))
    (diagnosis,) = report.diagnoses
    assert (diagnosis.kind, diagnosis.patch) == ("wrong-index", patch), str(report)

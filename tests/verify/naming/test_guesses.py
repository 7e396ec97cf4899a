"""Small changes of a line's code that are tried where its value says nothing."""

import jax
import jax.numpy as jnp
import pytest

from jaxbias import verify
from jaxbias._jaxpr.sources import Segment
from jaxbias.verify.naming.guesses import guesses
from jaxbias.verify.naming.repairs import edits

pytestmark = pytest.mark.usefixtures("as_users_run_it", "by_the_rules_of_jax")

TABLE = (
    ('jnp.einsum("ni,mj->ij", x, y)', "wrong-index", 'jnp.einsum("ni,nj->ij", x, y)'),
    ("a + b * c", "sign", "a - b * c"),
    ("(a + b) - c", "sign", "(a + b) + c"),
    ("-a @ b", "sign", "a @ b"),
    ("d.sum(axis=0)", "wrong-reduction-axis", "d.sum(axis=1)"),
    ("jax.nn.softmax(s, axis=0)", "wrong-reduction-axis", "jax.nn.softmax(s, axis=-1)"),
    ("jnp.argmin(x, axis=1)", "missing-mask", "jnp.argmax(x, axis=1)"),
    ("dz @ u", "transpose", "dz @ u.T"),
    ("(a * b) @ u", "transpose", "((a * b).T) @ u"),
    ("jnp.linalg.solve(a, g)", "transpose", "jnp.linalg.solve(a.T, g)"),
    ("jnp.cumsum(g, axis=1)", "wrong-index", "jnp.flip(jnp.cumsum(jnp.flip(g, 1), axis=1), 1)"),
    ("jnp.roll(g, 1, axis=0)", "wrong-index", "jnp.roll(g, -1, axis=0)"),
    ("g * x * scale", "wrong-operand", "g * x"),
    ("2 * g", "scale-constant", "g"),
    ("a + b", "extra-term", "a"),
    ("a @ u + b @ v", "wrong-operand", "a @ v + b @ u"),
    ("hs[t + 1]", "wrong-index", "hs[t]"),
    ("w[taps - 1 - u]", "wrong-index", "w[u]"),
    ("y[0]", "wrong-index", "y[t]"),
    ("x[:, :reach]", "wrong-operand", "y[:, :reach]"),
    ("x[:, :reach]", "wrong-index", "x[:, u : u + reach]"),
)


def tried(code, tmp_path):
    """What is guessed of a statement in the second of two loops of a function that has made x and y."""
    lines = ("def rule(x):", "    y = x", "    for t in x:", "        for u in x:", f"            z = {code}")
    file = tmp_path / "rule.py"
    file.write_text("\n".join(lines))
    segment = Segment(str(file), 5, 16, 5, 16 + len(code), "rule")
    kinds = dict(guesses(segment))
    return [(kinds[edit.repair], edit.code) for edit in edits(segment.text, kinds)]


@pytest.mark.parametrize(("code", "kind", "right"), TABLE)
def test_what_is_tried(code, kind, right, tmp_path):
    assert (kind, right) in tried(code, tmp_path)


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

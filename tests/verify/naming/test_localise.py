"""The rule line by line: what each line is, which is the first wrong one, and what it must be."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxbias import verify
from tests.verify.slips import right, several, single

pytestmark = pytest.mark.usefixtures("as_users_run_it", "by_the_rules_of_jax")


def normal(*shapes):
    keys = jax.random.split(jax.random.key(3), len(shapes))
    return tuple(jax.random.normal(k, s, jnp.float32) for k, s in zip(keys, shapes))


def attention(q, k, v):
    s = q @ k.T / jnp.sqrt(q.shape[-1])
    p = jax.nn.softmax(s, axis=-1)
    return p @ v


def two_slips(args, g):
    q, k, v = args
    scale = 1 / jnp.sqrt(q.shape[-1])
    p = jax.nn.softmax(q @ k.T * scale, axis=-1)
    dp = g @ v.T
    ds = p * dp
    return ds @ k, ds.T @ q * scale, p.T @ g


def other_axis(args, g):
    q, k, v = args
    scale = 1 / jnp.sqrt(q.shape[-1])
    p = jax.nn.softmax(q @ k.T * scale, axis=-1)
    dp = g @ v.T
    row = jnp.sum(dp * p, axis=0, keepdims=True)
    ds = p * (dp - row)
    return ds @ k * scale, ds.T @ q * scale, p.T @ g


QKV = normal((5, 4), (7, 4), (7, 3))


def said(report):
    return [(line.status, line.text, line.meaning) for line in report.lines]


def test_two_slips_are_two_findings_each_with_its_line():
    report = verify.vjp(attention, two_slips, QKV)
    assert said(report) == [
        ("ok", "scale = 1 / jnp.sqrt(q.shape[-1])", "a constant"),
        ("ok", "p = jax.nn.softmax(q @ k.T * scale, axis=-1)", "p"),
        ("ok", "dp = g @ v.T", "∂L/∂p"),
        ("wrong", "ds = p * dp", "must be ∂L/∂s: lacks the term −p * (p * dp).sum(-1)"),
        ("wrong", "ds @ k", "must be ∂L/∂q: lacks the factor scale"),
        ("given", "ds.T @ q * scale", "∂L/∂k"),
        ("ok", "p.T @ g", "∂L/∂v"),
    ]
    by_leaf = {d.leaf: d for d in report.diagnoses}
    assert by_leaf["q"].kind == "missing-factor" and "return ds @ k, ds.T @ q" in by_leaf["q"].rule_line
    assert by_leaf["q"].wanted == "∂L/∂q"
    assert by_leaf["k"].kind == "missing-term" and by_leaf["k"].rule_line.endswith(": ds = p * dp")
    text = str(report)
    assert "the rule, line by line:" in text and "(given what is mended above)" in text
    assert report.to_dict()["lines"][3]["status"] == "wrong" and "ds = p * dp" in report._repr_html_()


def batch_norm(x):
    centred = x - x.mean(axis=0)
    return centred / jnp.sqrt((centred**2).mean(axis=0) + 0.1)


def two_terms(args, g):
    (x,) = args
    n, centred = x.shape[0], x - x.mean(axis=0)
    std = jnp.sqrt((centred**2).mean(axis=0) + 0.1)
    dvar = (g * centred).sum(axis=0) * -0.5 / std**3
    dmean = g.sum(axis=0) / std
    from_var = dvar * centred / n
    return (g / std + from_var + dmean / n,)


def gates(x, u, v):
    z = x @ jnp.concatenate([u, v], axis=1)
    return jnp.tanh(z[:, :3]) * jax.nn.sigmoid(z[:, 3:])


def two_pieces(args, g):
    x, u, v = args
    h, s = jnp.tanh(x @ u), jax.nn.sigmoid(x @ v)
    dh = g * s * (1 - h)
    ds = g * h * s
    dz = jnp.concatenate([dh, ds], axis=1)
    dw = x.T @ dz
    return dz @ jnp.concatenate([u, v], axis=1).T, dw[:, :3], dw[:, 3:]


TOGETHER = {
    "terms of a sum": (batch_norm, two_terms, ((6, 4),), ["dmean =", "from_var ="]),
    "pieces put together": (gates, two_pieces, ((5, 4), (4, 3), (4, 3)), ["dh =", "ds ="]),
}


@pytest.mark.parametrize("name", TOGETHER)
def test_slips_that_go_into_one_value_are_told_apart(name):
    forward, rule, shapes, lines = TOGETHER[name]
    report = verify.vjp(forward, rule, normal(*shapes))
    wrong = [line.text for line in report.lines if line.status == "wrong"]
    assert [line.split("=")[0] + "=" for line in wrong] == lines, str(report)
    assert len(report.diagnoses) == 2 and all(d.kind != "unexplained" for d in report.diagnoses), str(report)


def residual_loss(x, y):
    return 0.5 * ((x - y) ** 2).sum()


def handed_on(args, g):
    x, y = args
    dx = g * (x - y)
    dy = dx
    return dx, dy


def test_what_is_returned_twice_is_wrong_where_it_is_handed_on():
    (diagnosis,) = verify.vjp(residual_loss, handed_on, normal((3, 4), (3, 4))).diagnoses
    assert (diagnosis.leaf, diagnosis.kind, diagnosis.patch) == ("y", "sign", "dy = -dx")
    assert diagnosis.rule_line.endswith(": dy = dx")


def triangular(l, b):
    return jax.scipy.linalg.solve_triangular(l, b, lower=True)


def operand_and_sign(args, g):
    l, b = args
    db = jax.scipy.linalg.solve_triangular(l, g, lower=True, trans="T")
    outer = db @ b.T
    dl = jnp.tril(outer)
    return dl, db


def test_a_slip_that_leaves_a_constant_is_told_and_the_constant_after_it():
    x = normal((4, 4), (4, 2))
    report = verify.vjp(triangular, operand_and_sign, (jnp.tril(x[0]) + 3 * jnp.eye(4), x[1]))
    assert [(d.kind, d.rule_line.split(": ")[-1]) for d in report.diagnoses] == [
        ("wrong-operand", "outer = db @ b.T"),
        ("sign", "dl = jnp.tril(outer)"),
    ], str(report)


def test_a_line_of_the_rule_is_not_called_one_of_the_forward():
    (diagnosis,) = verify.vjp(attention, other_axis, QKV).diagnoses
    assert diagnosis.kind == "wrong-reduction-axis" and diagnosis.source == ""
    assert "row = jnp.sum(dp * p, axis=0" in diagnosis.rule_line


def test_what_a_sum_over_the_wrong_axis_was_to_be():
    report = verify.vjp(attention, other_axis, QKV, diagnose=True)
    wrong = [line for line in report.lines if line.status == "wrong"]
    assert [line.meaning for line in wrong] == ["sums over axis 0, and must sum over axis 1"]


SAMPLE = right.RIGHT[::6]


@pytest.mark.parametrize("case", SAMPLE, ids=lambda case: case.name)
def test_no_line_of_a_right_rule_is_wrong(case):
    report = verify.explain(case.forward, case.rule, case.draw(jax.random.key(2)))
    assert report.ok, str(report)
    assert not any(line.status in ("wrong", "given") for line in report.lines), str(report)
    assert report.lines or any("no listing" in note for note in report.notes)


@pytest.mark.slow
@pytest.mark.parametrize("case", [case for case in right.RIGHT if case not in SAMPLE], ids=lambda case: case.name)
def test_no_line_of_any_right_rule_is_wrong(case):
    test_no_line_of_a_right_rule_is_wrong(case)


PLACED = (
    "attention_total_over_queries", "attention_total_of_squares", "attention_keys_unscaled",
    "layer_norm_mean_over_rows", "gru_cell_reset_forgotten", "tanh_mlp_bias_before_slope",
)  # fmt: skip


@pytest.mark.parametrize("name", PLACED)
def test_the_wrong_line_is_found_and_no_other(name):
    slip = next(slip for slip in single.SINGLE if slip.name == name)
    report = verify.vjp(slip.forward, slip.rule, slip.draw(jax.random.key(1)))
    wrong = [line.text for line in report.lines if line.status == "wrong"]
    (line,) = slip.lines
    assert len(wrong) == 1 and (wrong[0] in line or line in wrong[0]), str(report)


@pytest.mark.slow
def test_a_slip_in_every_pass_of_a_loop_is_one_finding():
    slip = next(slip for slip in several.SEVERAL if slip.name == "rnn_slope_and_transpose")
    report = verify.vjp(slip.forward, slip.rule, slip.draw(jax.random.key(1)))
    wrong = [line.text for line in report.lines if line.status == "wrong"]
    assert wrong == ["dz = (dh + g) * (1 - h_before * h_before)", "dh = dz @ u"], str(report)


def squared_scale(args, g):
    q, k, v = args
    scale = 1 / jnp.square(q.shape[-1] * 1.0)
    p = jax.nn.softmax(q @ k.T * scale, axis=-1)
    dp = g @ v.T
    ds = p * (dp - jnp.sum(dp * p, axis=-1, keepdims=True))
    return ds @ k * scale, ds.T @ q * scale, p.T @ g


def test_a_constant_that_several_formulas_take_is_wrong_where_it_is_computed():
    report = verify.vjp(attention, squared_scale, QKV)
    assert [line.text for line in report.lines if line.status == "wrong"] == [
        "scale = 1 / jnp.square(q.shape[-1] * 1.0)"
    ]
    assert [d.kind for d in report.diagnoses] == ["scale-constant"], str(report)


def slope_and_value(x, w):
    z = x @ w
    return jnp.tanh(z), z


def by_another_name(args, ct):
    x, w = args
    _, ct_z = ct
    dz = ct_z
    return dz @ w.T, x.T @ dz


def test_a_value_that_is_called_by_another_name_has_a_line_of_its_own():
    x, w = normal((5, 4), (4, 3))
    report = verify.vjp(slope_and_value, by_another_name, (x, w))
    assert [line.text for line in report.lines if line.status == "wrong"] == ["dz = ct_z"], str(report)
    (diagnosis,) = report.diagnoses
    assert diagnosis.kind == "missing-term" and diagnosis.rule_line.endswith("dz = ct_z")


def test_what_cannot_be_listed_is_said():
    def in_numpy(args, ct):
        return (np.asarray(ct) * (1 - np.tanh(np.asarray(args[0])) ** 2),)

    report = verify.explain(jnp.tanh, in_numpy, normal((2, 3)))
    assert report.lines == () and any("no listing: the rule cannot be traced" in note for note in report.notes)


def test_a_listing_never_costs_the_verdict(monkeypatch):
    from jaxbias.verify import decide

    def broken(*_):
        raise NotImplementedError("no value")

    monkeypatch.setattr(decide, "list_lines", broken)
    report = verify.explain(jnp.tanh, lambda args, ct: (ct * (1 - jnp.tanh(args[0]) ** 2),), normal((2, 3)))
    assert report.verdict == "right" and any("no listing" in note for note in report.notes)


def test_lines_that_cannot_be_told_never_cost_the_verdict(monkeypatch):
    from jaxbias.verify import decide

    def broken(*_):
        raise ValueError("shapes (3,3) (2,3)")

    monkeypatch.setattr(decide, "list_lines", broken)
    report = verify.vjp(attention, two_slips, QKV)
    assert report.verdict == "wrong" and {d.kind for d in report.diagnoses} == {"unexplained"}


def test_a_forward_that_cannot_be_taken_apart_leaves_the_gradients_their_names(monkeypatch):
    from jaxbias.verify.naming import localise

    def broken(*_):
        raise TypeError("no such operation")

    monkeypatch.setattr(localise, "reference_values", broken)
    dense = lambda x, w: jnp.tanh(x @ w)
    rule = lambda args, ct: (ct @ args[1].T, -args[0].T @ (ct * (1 - dense(*args) ** 2)))
    report = verify.explain(dense, rule, normal((5, 3), (3, 4)))
    assert [(d.leaf, d.kind) for d in report.diagnoses] == [("w", "sign"), ("x", "unexplained")]
    assert any("no such operation" in note for note in report.notes)


IN_NUMPY = {
    "sign": lambda x, w, d: (d @ w.T, -x.T @ d),
    "batch-mean-vs-sum": lambda x, w, d: (d @ w.T, x.T @ d / len(x)),
    "scale-constant": lambda x, w, d: (d @ w.T, x.T @ d / 5),
    "transpose": lambda x, w, d: (d @ w.T, d.T @ x),
    "detached": lambda x, w, d: (d @ w.T, 0 * w),
    "wrong-index": lambda x, w, d: (d @ w.T, np.roll(x.T @ d, 1, axis=0)),
    "unexplained": lambda x, w, d: (d @ w.T, x.T @ (d * np.sin(x @ w))),
}


@pytest.mark.parametrize("kind", IN_NUMPY)
def test_a_rule_that_cannot_be_traced_has_names_for_its_gradients(kind):
    """There are no lines of it; what a gradient is beside the true one is said of the whole of it."""

    def rule(args, ct):
        x, w = map(np.asarray, args)
        return IN_NUMPY[kind](x, w, np.asarray(ct) * (1 - np.tanh(x @ w) ** 2))

    report = verify.vjp(lambda x, w: jnp.tanh(x @ w), rule, normal((5, 4), (4, 4)))
    assert [(d.leaf, d.kind) for d in report.diagnoses] == [("w", kind)], str(report)
    if kind != "unexplained":
        assert "2 sizes" in report.diagnoses[0].evidence


def test_a_term_is_missed_in_what_cannot_be_traced():
    def rule(args, ct):
        e = np.exp(np.asarray(args[0]))
        return (e / e.sum(axis=-1, keepdims=True) * np.asarray(ct),)

    (diagnosis,) = verify.vjp(lambda z: jax.nn.softmax(z, axis=-1), rule, normal((5, 4))).diagnoses
    assert diagnosis.kind == "missing-term" and "Σ[axis 1]" in diagnosis.explanation

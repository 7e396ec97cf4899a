"""How mistakes are named: the kind, the words, the condition under which the rule would be right."""

import dataclasses

import jax
import jax.numpy as jnp
import pytest

from jaxbias import selfcheck, verify
from jaxbias.selfcheck import planted
from jaxbias.selfcheck.planted import judge, mutations


def softmax(z):
    e = jnp.exp(z - z.max(axis=-1, keepdims=True))
    return e / e.sum(axis=-1, keepdims=True)


def embedding(table, ids):
    return table[ids]


def dense(x, weight, bias):
    return jnp.tanh(x @ weight + bias[None, :])


def dense_slip(change):
    def rule(args, ct):
        x, weight, bias = args
        a = jnp.tanh(x @ weight + bias[None, :])
        return change(x, weight, a, ct * (1 - a * a), ct)

    return rule


DENSE = {
    "batch-mean-vs-sum": lambda x, w, a, d, ct: (d @ w.T, x.T @ d, d.mean(axis=0)),
    "missing-activation-derivative": lambda x, w, a, d, ct: (ct @ w.T, x.T @ ct, ct.sum(axis=0)),
    "sign": lambda x, w, a, d, ct: (-d @ w.T, x.T @ d, d.sum(axis=0)),
    "scale-constant": lambda x, w, a, d, ct: (d @ w.T, 0.5 * (x.T @ d), d.sum(axis=0)),
    "detached": lambda x, w, a, d, ct: (d @ w.T, jnp.zeros_like(w), d.sum(axis=0)),
    "overwritten-not-accumulated": lambda x, w, a, d, ct: (d @ w.T, x.T @ d, d[-1]),
    "transpose": lambda x, w, a, d, ct: (d @ w, x.T @ d, d.sum(axis=0)),
}


@pytest.mark.parametrize("kind", DENSE)
def test_dense(key, kind):
    keys = jax.random.split(key, 3)
    args = tuple(jax.random.normal(k, s) for k, s in zip(keys, ((5, 4), (4, 4), (4,))))
    report = verify.vjp(dense, dense_slip(DENSE[kind]), args)
    assert [d.kind for d in report.diagnoses] == [kind], str(report)


SOFTMAX = {
    "missing-term": lambda p, ct: p * ct,
    "sign": lambda p, ct: p * (ct + (p * ct).sum(axis=-1, keepdims=True)),
    "wrong-reduction-axis": lambda p, ct: p * (ct - (p * ct).sum(axis=0, keepdims=True)),
    "missing-factor": lambda p, ct: ct - (p * ct).sum(axis=-1, keepdims=True),
    "batch-mean-vs-sum": lambda p, ct: p * (ct - (p * ct).mean(axis=-1, keepdims=True)),
    "unexplained": lambda p, ct: ct * jnp.sin(7.7 * p + 0.3),
}


@pytest.mark.parametrize("kind", SOFTMAX)
def test_softmax(key, kind):
    z = jax.random.normal(key, (5, 4))
    report = verify.vjp(softmax, lambda args, ct: (SOFTMAX[kind](softmax(args[0]), ct),), (z,))
    assert [d.kind for d in report.diagnoses] == [kind], str(report)


def test_conditions(key):
    x = jax.random.normal(key, (5, 4))
    args = (x, jax.random.normal(key, (4, 3)), jnp.full(3, 0.2))
    assert (
        verify.vjp(dense, dense_slip(DENSE["batch-mean-vs-sum"]), args).diagnoses[0].condition
        == "right only for batch 1"
    )
    overwrite = lambda args, ct: (jnp.zeros_like(args[0]).at[args[1]].set(ct), None)
    report = verify.vjp(embedding, overwrite, (jax.random.normal(key, (6, 3)), jnp.array([0, 2, 2, 5])))
    assert report.diagnoses[0].kind == "index-collision"
    assert report.diagnoses[0].condition == "right only without repeated indices"
    scaled = lambda x, gamma: x * gamma[None, :]
    no_gamma = lambda args, ct: (ct, (ct * args[0]).sum(axis=0))
    report = verify.vjp(scaled, no_gamma, (x, jnp.ones(4)))
    assert report.diagnoses[0].condition == "right only when gamma = 1"


def test_the_source_line_of_the_forward(key):
    args = (jax.random.normal(key, (5, 4)), jax.random.normal(key, (4, 3)), jnp.full(3, 0.2))
    diagnosis = verify.vjp(dense, dense_slip(DENSE["missing-activation-derivative"]), args).diagnoses[0]
    assert "jnp.tanh(x @ weight + bias[None, :])" in diagnosis.source and "test_naming.py" in diagnosis.source


def test_kind_is_of_the_vocabulary():
    with pytest.raises(ValueError, match="kind 'typo'"):
        verify.Diagnosis("x", "typo", "")
    assert all(kinds <= verify.KINDS.keys() for kinds in planted.ACCEPTED.values())


def test_the_self_test_covers_layers_and_losses():
    derivations = [selfcheck.layer_derivations()["silu"], selfcheck.loss_derivations()["hinge"]]
    silu, hinge = planted.rules_of(derivations)
    assert [body.__name__ for body, _ in silu.bodies] == ["backward", "_silu_derivative"]
    outcomes = planted.run([silu, hinge], pick=lambda k: k % 17 == 0)
    assert outcomes
    check_figures(outcomes)


def check_figures(outcomes):
    assert not [o for o in outcomes if o.crashed]
    assert planted.good_enough(planted.summarise(outcomes)), planted.table(outcomes)


@pytest.mark.slow
def test_self_test_in_short():
    rules = [planted.RULES[name] for name in ("dense_tanh", "softmax", "embedding")]
    check_figures(planted.run(rules, limit=1, pick=lambda k: k % 5 == 0))


def test_a_line_counts_that_is_planted_or_that_alone_mends_the_rule():
    rule = planted.RULES["softmax"]
    points = judge._points(rule)
    mutant = next(m for m in mutations.source_mutants(rule) if m.planted == "missing-term")
    source = mutant.source
    assert source is not None and len(source.planted) == 1
    (number,) = source.planted
    args = rule.draw(jax.random.key(0))
    report = verify.vjp(rule.forward, mutant.rule, args)
    assert judge._placed(rule, mutant, report, points)
    statement = source.lines[number - 1].strip()
    other = dataclasses.replace(source, planted=frozenset({number + 1}))  # as if another line had been changed
    elsewhere = dataclasses.replace(mutant, source=other)
    assert [d.patch for d in report.diagnoses] != [statement]
    assert judge._placed(rule, elsewhere, report, points)  # what is to be written at the line that is blamed mends it
    unmended = [dataclasses.replace(d, patch=statement) for d in report.diagnoses]
    assert not judge._placed(rule, elsewhere, dataclasses.replace(report, diagnoses=unmended), points)
    assert judge._placed(rule, mutant, dataclasses.replace(report, lines=()), points) is None


@pytest.mark.parametrize("name", planted.RULES)
def test_the_right_rules_are_right(name):
    rule = planted.RULES[name]
    assert verify.vjp(rule.forward, rule.rule, rule.draw(jax.random.key(1))).verdict == "right"


def test_a_missing_term_is_written_in_the_names_of_the_rule(key):
    softmax = lambda z: jax.nn.softmax(z, axis=-1)
    rule = lambda args, cotangent: (softmax(args[0]) * cotangent,)
    report = verify.vjp(softmax, rule, (jax.random.normal(key, (2, 3)),))
    assert [d.explanation for d in report.diagnoses] == [
        (
            "`softmax(args[0]) * cotangent` must be ∂L/∂z: lacks the term "
            "−softmax(args[0]) · Σ[axis 1](softmax(args[0]) · cotangent)."
        )
    ]


def test_a_mask_that_would_be_the_same_everywhere_is_no_name():
    """Any comparison that never holds takes a factor away; and the first entry alone says nothing of batch 1."""
    x = jnp.array([-45.0, -20.0, -3.0, 0.5, 4.0, 25.0, 40.0], jnp.float32)

    def rule(args, cotangent):
        a = jax.nn.sigmoid(args[0])
        return (cotangent * a * (1 - a) * jnp.where(args[0] > 3, jnp.float32(1.01), jnp.float32(1)),)

    (diagnosis,) = verify.vjp(jax.nn.sigmoid, rule, (x,)).diagnoses
    assert diagnosis.kind != "missing-mask" and "compares by" not in str(diagnosis)
    assert "jnp.where" in diagnosis.rule_line and "batch 1" not in str(diagnosis)

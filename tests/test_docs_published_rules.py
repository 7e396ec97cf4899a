"""The table of docs/published_rules.md, and the script that writes it."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from docs.published_rules import __main__ as script
from docs.published_rules.judge import outcome
from docs.published_rules.rule import Rule

PAGE = script.PAGE.read_text(encoding="utf-8")

pytestmark = pytest.mark.usefixtures("as_users_run_it", "by_the_rules_of_jax")


def test_a_wrong_row_says_where_it_is_described():
    rows = script.rows_of(PAGE)
    wrong = [row for row in rows if row.verdict == "wrong"]
    assert len([row for row in rows if row.kind]) >= 60 and wrong
    assert all("(found.md#" in row.evidence for row in wrong), wrong
    assert not [row for row in rows if row.verdict == "undecided"]


def test_the_counts_are_those_of_the_rows():
    assert script.counts(script.rows_of(PAGE)) in PAGE


def test_rows_are_read_as_they_were_written():
    shown = script.row_of(script.Row("|x|", "jvp", "right", "equal exactly at 7 probes"))
    assert script.rows_of(f"{script.COLUMNS}\n{shown}\n") == [
        script.Row("|x|", "jvp", "right", "equal exactly at 7 probes")
    ]


def doubled(factor):
    double = jax.custom_jvp(lambda x: 2 * x)
    double.defjvp(lambda primals, tangents: (2 * primals[0], factor * tangents[0]))
    return double


@pytest.mark.parametrize(("factor", "verdict"), [(2.0, "right"), (2.001, "wrong")])
@pytest.mark.parametrize("closed", [None, lambda x: x + x])
def test_a_rule_is_judged(factor, verdict, closed):
    row = outcome(Rule("double", doubled(factor), (np.array([0.3, -1.2]),), closed, found="heading"))
    assert (row.kind, row.verdict) == ("jvp", verdict)
    assert ("[found](found.md#heading)" in row.evidence) == (verdict == "wrong")


def test_what_does_not_run_is_not_called_right():
    row = outcome(Rule("raises", lambda x: jnp.linalg.inv(x), (np.zeros(3),)))
    assert row.verdict == "not checked" and "Error" in row.evidence

"""A rule of a package, judged."""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from docs.published_rules.rule import Rule
from jaxbias import verify
from jaxbias.verify.of_autodiff import reports

KINDS = {
    "custom_jvp_call": "jvp",
    "custom_vjp_call": "vjp",
    "custom_lin[": "implicit",
    "custom_linear_solve": "solve",
    "linear_solve": "solve",
    "CustomJVP": "jvp",
    "CustomVJP": "vjp",
    "CustomRoot": "implicit",
    "custom_root": "implicit",
}
"""What the text of a traced function shows of its rules."""

NOT_CHECKED = "not checked"


class Row(NamedTuple):
    """Of the table.

    Attributes:
        kind: of the function's own rule; empty where autodiff reads through it.
        verdict: of the checker, or `NOT_CHECKED`.
    """

    rule: str
    kind: str
    verdict: str
    evidence: str


def outcome(rule: Rule) -> Row:
    """The verdict of one rule, and what it rests on."""
    kind = ""
    try:
        kind = kind_of(rule)
        judged = checked(rule)
    except Exception as error:
        line = next((line for line in str(error).splitlines() if line.strip()), "")
        return Row(rule.name, kind, NOT_CHECKED, f"{type(error).__name__}: {line[:160]}")
    worst = next((r for r in judged if not r.ok), next((r for r in judged if r.verdict != "right"), judged[-1]))
    if worst.ok:
        said = []
    elif worst.verdict == "undecided":
        said = list(worst.notes[-1:])
    else:
        said = [f"{d.leaf}: {d.kind}" for d in worst.diagnoses[:2]]
    if worst.evidence:
        said.append(worst.evidence)
    elif rule.rtol:
        said.append(f"within {rule.rtol:.0e}")
    if rule.closed is not None:
        said.append("against a closed form")
    if rule.found and not worst.ok:
        said.append(f"[found](found.md#{rule.found})")
    return Row(rule.name, kind, worst.verdict, "; ".join(said))


def kind_of(rule: Rule) -> str:
    """What sort of rule the function carries; empty if autodiff reads through it."""
    text = str(jax.make_jaxpr(rule.function)(*rule.args))
    return ", ".join(sorted({kind for mark, kind in KINDS.items() if mark in text}))


def checked(rule: Rule) -> list[verify.Report]:
    """A report for each mode."""
    if rule.closed is None:
        return list(reports(rule.function, rule.args, 1, rule.modes, rtol=rule.rtol, atol=rule.rtol))

    function = jax.jit(rule.function)
    arrays = lambda tree: jax.tree.map(jnp.asarray, tree)

    def tangents(args, tangents):
        return jax.jvp(function, arrays(args), arrays(tangents))[1]

    def cotangents(args, cotangents):
        return jax.vjp(function, *arrays(args))[1](arrays(cotangents))

    doors = {"fwd": (verify.jvp, tangents), "rev": (verify.vjp, cotangents)}
    tolerances = {"rtol": rule.rtol, "atol": rule.rtol}
    return [doors[mode][0](rule.closed, doors[mode][1], rule.args, **tolerances) for mode in rule.modes]

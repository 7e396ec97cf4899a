"""From wrong gradients to diagnoses: what is certain, the slips of the listing, and a search for what they leave."""

import dataclasses
from collections.abc import Sequence

import numpy as np

from jaxbias._jaxpr.sources import at_line
from jaxbias._trees import in_one_line
from jaxbias.verify.certain import certain
from jaxbias.verify.checker import Case, Checker
from jaxbias.verify.conditions import find_condition, reproduce, shrink
from jaxbias.verify.localise import Listing, Located
from jaxbias.verify.naming import name_mistakes
from jaxbias.verify.report import Diagnosis


def diagnoses_of(
    checker: Checker, cases: list[Case], listing: Listing, wrong: list[int], rng: np.random.Generator, *, search: bool
) -> tuple[list[Diagnosis], str, Sequence[str]]:
    """Diagnoses of the wrong gradients, code that shows them, and notes.

    Args:
        search: for a mistake in what the slips of the listing do not explain.
    """
    named, told = _of_slips(checker, cases, listing, wrong, rng)
    if told.issuperset(wrong):
        return named, _reproduction(checker, cases, wrong, rng), ()
    if not search:
        return named, "", ()
    paths = [path for path, _, _ in checker.problem.leaves]
    try:
        others, reproduction, notes = name_mistakes(checker, cases, wrong, rng)
        others = _of_others(others, told, paths)
    except Exception as error:  # the verdict must not depend on whether the mistake can be searched for
        others = [Diagnosis(paths[i], "unexplained", "Differs from the reference.") for i in wrong if i not in told]
        reproduction, notes = "", [f"the search for the mistake failed: {in_one_line(error)}"]
    return named + with_lines(others, listing, paths), reproduction, notes


def _together(slips: Sequence[Located]) -> list[Located]:
    """One for the same mistake in several lines: the first, with the gradients of all."""
    groups: dict[object, Located] = {}
    for slip in slips:
        key = (slip.relation.kind, slip.relation.text) if slip.relation else slip.line
        known = groups.get(key)
        if known is None or slip.relation is None or "take" not in slip.relation.text:
            groups[key if known is None else (key, slip.line, slip.code)] = slip
        else:
            code = f"{known.code}` and `{slip.code}"
            groups[key] = dataclasses.replace(known, leaves=known.leaves | slip.leaves, code=code)
    return list(groups.values())


VAGUE = ("unexplained", "only-some-elements", "missing-term")
"""Kinds of a slip beside which it says more which entries are missing."""


def _of_slips(
    checker: Checker, cases: list[Case], listing: Listing, wrong: list[int], rng: np.random.Generator
) -> tuple[list[Diagnosis], set[int]]:
    """A diagnosis for each slip of the listing that has a name, and the gradients that they explain."""
    diagnoses, told = [], set()
    smooth = [case for case in cases if not case.kink and not case.probe.kink]
    for fact in certain(checker, smooth[:1], wrong) if smooth else ():
        its = next((slip for slip in listing.slips if slip.leaves.issuperset(fact.leaves)), None)
        if not fact.first and its is not None and its.relation is not None and its.relation.kind not in VAGUE:
            continue
        told.update(fact.leaves)
        place = (its.line, its.wanted) if its else ("", "")
        paths = ", ".join(checker.problem.leaves[i][0] for i in sorted(fact.leaves))
        condition = find_condition(checker, cases, sorted(fact.leaves), rng)
        diagnoses.append(Diagnosis(paths, fact.kind, fact.text, "", "", condition, "", (), *place))
    for slip in _together(listing.slips):
        leaves = sorted(slip.leaves.intersection(wrong))
        if not leaves or slip.relation is None or slip.relation.kind == "unexplained" or told.issuperset(leaves):
            continue
        told.update(leaves)
        paths = ", ".join(checker.problem.leaves[i][0] for i in leaves)
        condition = find_condition(checker, cases, leaves, rng)
        diagnoses.append(
            Diagnosis(
                paths,
                slip.relation.kind,
                f"`{slip.code}` {slip}.",
                evidence=slip.evidence,
                condition=condition,
                source=slip.source,
                rule_line=slip.line,
                wanted=slip.wanted,
                patch=slip.patch,
            )
        )
    return diagnoses, told


def _reproduction(checker: Checker, cases: list[Case], wrong: list[int], rng: np.random.Generator) -> str:
    smooth = [case for case in cases if not case.kink and not case.probe.kink] or cases
    return reproduce(checker, shrink(checker, smooth, wrong, rng) or smooth, wrong) if wrong else ""


def _of_others(diagnoses: list[Diagnosis], told: set[int], paths: list[str]) -> list[Diagnosis]:
    """Diagnoses of the gradients that no slip explains."""
    kept = []
    for diagnosis in diagnoses:
        left = [path for path in diagnosis.leaf.split(", ") if path not in {paths[i] for i in told}]
        if left:
            kept.append(dataclasses.replace(diagnosis, leaf=", ".join(left)))
    return kept


def with_lines(diagnoses: list[Diagnosis], listing: Listing, paths: list[str]) -> list[Diagnosis]:
    """Diagnoses with the line of the rule that each speaks of; what had no name takes that of its slip."""
    located: list[Diagnosis] = []
    for diagnosis in diagnoses:
        leaves = {paths.index(path) for path in diagnosis.leaf.split(", ") if path in paths}
        slips = [slip for slip in listing.slips if slip.leaves & leaves]
        if any(diagnosis.source == at_line(line.file, line.number, line.text) for line in listing.lines):
            diagnosis = dataclasses.replace(diagnosis, rule_line=diagnosis.source, source="")
        if diagnosis.kind != "unexplained" and slips:
            diagnosis = dataclasses.replace(diagnosis, rule_line=slips[0].line, wanted=slips[0].wanted)
        if diagnosis.kind != "unexplained" or not slips:
            located.append(diagnosis)
            continue
        for slip in slips:
            path = ", ".join(paths[i] for i in sorted(slip.leaves))
            kind = slip.relation.kind if slip.relation else "unexplained"
            text = f"`{slip.code}` {slip}."
            if all((d.rule_line, d.explanation) != (slip.line, text) for d in located):
                located.append(Diagnosis(path, kind, text, rule_line=slip.line, wanted=slip.wanted))
        told = {path for d in located for path in d.leaf.split(", ")}
        if left := [path for path in diagnosis.leaf.split(", ") if path not in told]:
            located.append(dataclasses.replace(diagnosis, leaf=", ".join(left)))
    return located

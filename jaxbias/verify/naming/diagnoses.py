"""From wrong gradients to diagnoses: what is certain, the slips of the listing, and what is left without a name."""

import dataclasses
from collections.abc import Sequence

import numpy as np

from jaxbias._jaxpr.sources import at_line
from jaxbias.verify.case import UNUSUAL, Case, away_from_kinks
from jaxbias.verify.checker import Checker
from jaxbias.verify.naming.certain import certain
from jaxbias.verify.naming.conditions import find_condition, reproduce, shrink
from jaxbias.verify.naming.localise import Listing, Located
from jaxbias.verify.report import Diagnosis


def diagnoses_of(
    checker: Checker,
    cases: list[Case],
    listing: Listing,
    wrong: list[int],
    rng: np.random.Generator,
    *,
    explained: bool,
) -> tuple[list[Diagnosis], str]:
    """Diagnoses of the wrong gradients, and code that shows them.

    Args:
        explained: whether it is known already what is wrong with all of them; the lines say where.
    """
    if explained:
        return _of_slips(checker, cases, listing, wrong, rng)[0], ""
    smooth = away_from_kinks(cases)
    told = [case for case in smooth if not case.kink or case.probe.name not in UNUSUAL]
    edges = [i for i in wrong if not any(np.any(case.wrong[i]) for case in told)]
    diagnoses = _of_edges(checker, cases, edges)
    rest = [i for i in wrong if i not in edges]
    named, told = _of_slips(checker, cases, listing, rest, rng)
    diagnoses += named
    open_ones = [_unexplained(checker, cases, smooth, i, rng) for i in rest if i not in told]
    diagnoses += with_lines(open_ones, listing, [path for path, _, _ in checker.problem.leaves])
    if not wrong:
        return diagnoses, ""
    small = shrink(checker, smooth, rest, rng) if rest else []
    return diagnoses, reproduce(checker, small or smooth or cases, wrong)


def _of_edges(checker: Checker, cases: list[Case], edges: list[int]) -> list[Diagnosis]:
    """Gradients that are wrong at special points alone; one for all that are wrong at the same."""
    texts: dict[tuple[str, bool], list[str]] = {}
    for i in edges:
        case = next(case for case in cases if np.any(case.wrong[i]) and not case.convention[i])
        nan = not np.all(np.isfinite(case.actual[i][case.wrong[i]]))
        does = "gives NaN or infinity" if nan else "is outside the interval of the one-sided derivatives"
        where = f" ({'; '.join(case.kink[:2])})" if case.kink else ""
        text = f'The rule is right except at special points: on the probe "{case.probe.name}" it {does}{where}.'
        texts.setdefault((text, nan), []).append(checker.problem.leaves[i][0])
    return [
        Diagnosis(", ".join(paths), "edge-point", text, "treat the zero or the tie apart", also=("missing-mask",) * nan)
        for (text, nan), paths in texts.items()
    ]


def _unexplained(
    checker: Checker, cases: list[Case], smooth: list[Case], i: int, rng: np.random.Generator
) -> Diagnosis:
    """What can be said of a gradient without a name for what is wrong: how much of it, and when it is right."""
    case = next(c for c in smooth if np.any(c.wrong[i]))
    share = np.mean(case.wrong[i])
    with np.errstate(all="ignore"):
        ratio = np.real(case.actual[i] / case.expected[i])[case.wrong[i]]
        ratio = ratio[np.isfinite(ratio)]
    spread = f"; wrong/right runs from {ratio.min():.3g} to {ratio.max():.3g}" if ratio.size else ""
    if not np.any(case.actual[i][case.wrong[i]]):
        spread = ", where it is zero"
    where = "every element" if share == 1 else f"{share:.0%} of the elements"
    text = f"No single mistake reproduces the rule on every probe; it is wrong in {where}{spread}."
    condition = find_condition(checker, cases, [i], rng)
    return Diagnosis(checker.problem.leaves[i][0], "unexplained", text, condition=condition)


def _together(slips: Sequence[Located]) -> list[Located]:
    """One, with the gradients of all, for what is to be written once, and for the same mistake in several places."""
    its: list[Located] = []
    for slip in slips:
        k = next((k for k, known in enumerate(its) if _is_written(known, slip) or _is_alike(known, slip)), None)
        if k is None:
            its.append(slip)
        else:
            code = its[k].code if _is_written(its[k], slip) else f"{its[k].code}` and `{slip.code}"
            its[k] = dataclasses.replace(its[k], leaves=its[k].leaves | slip.leaves, code=code)
    return its


def _is_written(known: Located, slip: Located) -> bool:
    """Is the same to be written at the same place?"""
    return bool(slip.patch) and (known.line, known.patch) == (slip.line, slip.patch)


def _is_alike(known: Located, slip: Located) -> bool:
    """Is it the same mistake: in pieces of one line, or in lines of which it is not known what is to be written?"""
    if known.relation is None or slip.relation is None or "take" not in slip.relation.text:
        return False
    place, other = (its.line.partition(": ")[0] for its in (known, slip))
    alike = (known.relation.kind, known.relation.text) == (slip.relation.kind, slip.relation.text)
    return alike and (place == other or not slip.patch)


VAGUE = ("unexplained", "only-some-elements", "missing-term")
"""Kinds of a slip beside which it says more which entries are missing."""


def _of_slips(
    checker: Checker, cases: list[Case], listing: Listing, wrong: list[int], rng: np.random.Generator
) -> tuple[list[Diagnosis], set[int]]:
    """A diagnosis for each slip of the listing that has a name, and the gradients that they explain."""
    diagnoses, told = [], set()
    smooth = away_from_kinks(cases)
    for fact in certain(checker, smooth[:1], wrong) if smooth else ():
        its = next((slip for slip in listing.slips if slip.leaves.issuperset(fact.leaves)), None)
        vague = its is None or (its.kind in VAGUE and not its.patch)
        if not fact.first and not vague:
            continue
        told.update(fact.leaves)
        place = (its.line, its.wanted) if its else ("", "")
        paths = ", ".join(checker.problem.leaves[i][0] for i in sorted(fact.leaves))
        condition = find_condition(checker, cases, sorted(fact.leaves), rng)
        kind, text = fact.kind, fact.text
        if fact.likely and (its is None or its.kind != "missing-term"):
            kind, text = fact.likely, f"One entry alone is taken, and not the sum. {text}"
        diagnoses.append(Diagnosis(paths, kind, text, "", "", condition, "", (), *place))
    certain_of = frozenset(told)
    for slip in _together(listing.slips):
        leaves = sorted(slip.leaves.intersection(wrong))
        if not leaves or not slip.named or certain_of.issuperset(leaves):
            continue
        assert slip.relation is not None
        told.update(leaves)
        paths = ", ".join(checker.problem.leaves[i][0] for i in leaves)
        condition = find_condition(checker, cases, leaves, rng)
        diagnoses.append(
            Diagnosis(
                paths,
                slip.relation.kind,
                slip.sentence,
                evidence=slip.evidence,
                condition=condition,
                source=slip.source,
                rule_line=slip.line,
                wanted=slip.wanted,
                patch=slip.patch,
            )
        )
    return diagnoses, told


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
            text = slip.sentence
            if all((d.rule_line, d.explanation) != (slip.line, text) for d in located):
                located.append(Diagnosis(path, kind, text, rule_line=slip.line, wanted=slip.wanted))
        told = {path for d in located for path in d.leaf.split(", ")}
        if left := [path for path in diagnosis.leaf.split(", ") if path not in told]:
            located.append(dataclasses.replace(diagnosis, leaf=", ".join(left)))
    return located

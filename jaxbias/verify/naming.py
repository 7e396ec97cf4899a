"""Names the mistake: the simplest hypothesis that reproduces the rule to rounding on every probe, or "unexplained"."""

import dataclasses
import re
import time
from typing import TYPE_CHECKING, Any

import numpy as np

from jaxbias.verify.conditions import find_condition, other_sizes, reproduce, shrink
from jaxbias.verify.expressions import line
from jaxbias.verify.findings import Evidence, Finding
from jaxbias.verify.patterns import describe_pattern
from jaxbias.verify.report import Diagnosis
from jaxbias.verify.search import portable, search
from jaxbias.verify.whole_leaf import COPIED, whole_leaves

if TYPE_CHECKING:
    from jaxbias.verify.checker import Case, Checker


SHARE = 0.4
"""Of the processor time for a check, what the search for the mistake may take; a search cut short is noted."""


OUT = re.compile(r"`[^`]*\bout\b(?!\.)[^`]*`")
"""A formula with the forward's value in it."""

MOST_EQUATIONS = 400
"""Of a program whose loops are not shortened for the search."""


def name_mistakes(
    checker: "Checker", cases: list["Case"], off: list[int], rng: np.random.Generator
) -> tuple[list[Diagnosis], str, list[str]]:
    """Diagnoses of the wrong leaves, code that reproduces the failure at small sizes, and notes."""
    deadline = min(time.process_time() + SHARE * checker.seconds, checker.deadline)
    notes: list[str] = []
    findings: dict[int, Finding] = {}
    smooth = [case for case in cases if not case.kink and not case.probe.kink]
    for i in off:
        if not any(np.any(case.wrong[i]) for case in smooth):
            findings[i] = _edge(checker, cases, i)
    rest = [i for i in off if i not in findings]
    small = shrink(checker, smooth, rest, rng) if rest else []
    if rest:
        same = [case for case in smooth if case.program is smooth[0].program]
        evidence = [Evidence(checker, small or same[:5], rest)]
        others = same[:2] if small else other_sizes(checker, same, rest, rng)
        if others:
            evidence.append(Evidence(checker, others, rest))
        if small and not portable(small[0].program, same[0].program) and _count(same[0]) <= MOST_EQUATIONS:
            # a loop of fewer steps: what explains two steps need not explain more
            evidence = [Evidence(checker, same[:5], rest), Evidence(checker, small[:2], rest)]
        copied: dict[int, Finding] = {}
        for found in whole_leaves(evidence, rest):
            known = copied if found.tier >= COPIED else findings
            for i in found.leaves - known.keys():
                known[i] = found
        for i in rest:
            found = None if i in findings else describe_pattern(checker, evidence[0].cases, smooth, i)
            if found is not None and found.tier == 0:
                findings[i] = found
        unsolved = [i for i in rest if i not in findings]
        # One mistake upstream may have a simple name at one leaf and not at the others: search for all together.
        joint = rest if unsolved else []
        if joint or any(f.tier > 0 for f in findings.values()):
            for i, found in search(evidence, rest, findings, deadline, notes).items():
                findings[i] = found
        for i, found in copied.items():
            known = findings.setdefault(i, found)
            if known is not found and known.leaves == found.leaves:
                known.also += (found.kind,)
        for i in rest:
            if i not in findings:
                findings[i] = describe_pattern(checker, evidence[0].cases, smooth, i) or _unexplained(
                    checker, smooth, i
                )
    findings = _merged(findings, [path for path, _, _ in checker.problem.leaves])
    diagnoses, seen = [], set()
    for i in off:
        found = findings[i]
        if id(found) in seen:
            continue
        seen.add(id(found))
        paths = ", ".join(checker.problem.leaves[k][0] for k in sorted(k for k in findings if findings[k] is found))
        condition = find_condition(checker, small or cases, [k for k in findings if findings[k] is found], rng)
        diagnoses.append(_diagnosis(found, paths, condition, smooth))
    reproduction = reproduce(checker, small or smooth or cases, off)
    return diagnoses, reproduction, notes


def _count(case: "Case") -> int:
    return len(case.program.equations)


def _merged(findings: dict[int, Finding], names: list[str]) -> dict[int, Finding]:
    """One finding where several leaves have the same mistake in the same words."""
    groups: dict[Any, list[int]] = {}
    for i, found in findings.items():
        words = found.text.replace(f"gradient of {names[i]}", "gradient of §")
        groups.setdefault((found.kind, words, found.fix, found.source), []).append(i)
    merged = dict(findings)
    for (_, words, _, _), leaves in groups.items():
        first = findings[leaves[0]]
        if len(leaves) > 1 and any(findings[i] is not first for i in leaves):
            together = ", ".join(names[i] for i in leaves[:-1]) + f" and {names[leaves[-1]]}"
            text = words.replace("gradient of §", f"gradient of {together}")
            one = dataclasses.replace(first, text=text, leaves=frozenset(leaves))
            merged |= dict.fromkeys(leaves, one)
    return merged


def _diagnosis(found: Finding, paths: str, condition: str, smooth) -> Diagnosis:
    text = found.text[0].upper() + found.text[1:] if found.text else ""
    if OUT.search(text):
        text += ", where out is the value of the forward"
    evidence = ""
    if found.kind not in ("unexplained", "edge-point") and np.isfinite(found.accuracy):
        evidence = f"reproduces the rule on {len(smooth)} probes, every element, to {found.accuracy:.0e}"
    return Diagnosis(
        paths,
        found.kind,
        text if text.endswith(".") else text + ".",
        found.fix,
        evidence,
        condition,
        line(found.source),
        tuple(k for k in found.also if k != found.kind),
    )


def _unexplained(checker, smooth, i) -> Finding:
    case = next(c for c in smooth if np.any(c.wrong[i]))
    share = np.mean(case.wrong[i])
    with np.errstate(all="ignore"):
        ratio = (case.actual[i] / case.expected[i])[case.wrong[i]]
        ratio = ratio[np.isfinite(ratio)]
    spread = f"; wrong/right runs from {ratio.min():.3g} to {ratio.max():.3g}" if ratio.size else ""
    if not np.any(case.actual[i][case.wrong[i]]):
        spread = ", where it is zero"
    where = "every element" if share == 1 else f"{share:.0%} of the elements"
    return Finding(
        frozenset([i]),
        "unexplained",
        f"no single mistake reproduces the rule on every probe; it is wrong in {where}{spread}",
        "",
        9,
        np.inf,
    )


def _edge(checker, cases, i) -> Finding:
    shown = [case for case in cases if np.any(case.wrong[i]) and not case.convention[i]]
    case = shown[0]
    nan = not np.all(np.isfinite(case.actual[i][case.wrong[i]]))
    where = "; ".join(case.kink[:2])
    what = "gives NaN or infinity" if nan else "is outside the interval of the one-sided derivatives"
    text = f'the rule is right except at special points: on the probe "{case.probe.name}" it {what}'
    if where:
        text += f" ({where})"
    return Finding(
        frozenset([i]),
        "edge-point",
        text,
        "treat the zero or the tie apart",
        0,
        0.0,
        also=("missing-mask",) if nan else (),
    )

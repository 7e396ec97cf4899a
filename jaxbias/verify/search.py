"""Searches for the simplest edit that reproduces the rule: of the true backward, or of the rule to make it right."""

import dataclasses
import time
from collections.abc import Sequence
from typing import Any

import numpy as np

from jaxbias import _jaxpr
from jaxbias.verify import loops
from jaxbias.verify.constants import name_constant
from jaxbias.verify.edits import Edit, Editor, edits
from jaxbias.verify.findings import Evidence, Finding, scaled, sharp
from jaxbias.verify.terms import explain


def portable(a: _jaxpr.Program, b: _jaxpr.Program) -> bool:
    """Do two programs consist of the same equations, for other sizes?"""
    return len(a.equations) == len(b.equations) and all(x.name == y.name for x, y in zip(a.equations, b.equations))


def search(evidence, off, known, deadline, notes) -> dict[int, Finding]:
    """The simplest edit for each leaf; one edit that explains several leaves is preferred to one for each."""
    first = evidence[0].cases[0]
    problem = evidence[0].checker.problem
    names = [*problem.primal_names, *problem.seed_names]
    editor = Editor(first.program, evidence[0].cases, len(problem.seeds), off, names)
    # A slip in the body of a Python loop is made in every pass: such edits come first, being fewer.
    pairs = [(_in_reference_loops(evidence, off), _Trial(evidence, editor, off))]
    if (mirrored := _mirrored(evidence)) is not None:
        case = mirrored[0].cases[0]
        repairs = Editor(case.program, mirrored[0].cases, len(problem.seeds), off, names, repairing=True)
        pairs.append((_in_loops(mirrored, loops.of_rule(case.program), off, True), _Trial(mirrored, repairs, off)))
    best: dict[int, Finding] = dict(known)
    open_leaves = {i for i in off if i not in known}
    for tier in (1, 2, 3, 4):
        found: list[Finding] = []
        for together, single in pairs:
            of_loops = together.findings(tier, deadline, notes) if together is not None else []
            found += of_loops
            if not of_loops or not open_leaves <= {i for finding in of_loops for i in finding.leaves}:
                found += single.findings(tier, deadline, notes)
        for finding in _ranked(found):
            gain = {i for i in finding.leaves if i not in best}
            joint = len(finding.leaves) > 1 and not finding.harmed and finding.leaves > gain
            # what looks like a mistake of one leaf may be one upstream that all of them share
            own = {i for i in finding.leaves if i in known or (i in best and best[i].leaves < finding.leaves)}
            spoiled = own if joint and gain else set()
            for i in gain | spoiled:
                best[i] = finding
        _add_alternatives(best, found)
        open_leaves -= best.keys()
        if not open_leaves or time.process_time() > deadline:
            break
    for i in sorted(open_leaves):
        if (finding := explain(evidence[0], editor, i, deadline)) is not None:
            best[i] = finding
    for i in sorted(best):
        # the place of the term is known; the other engine may write it shorter than the edited equations do
        if len(best[i].leaves) == 1 and best[i].lacks_term:
            written = explain(evidence[0], editor, i, deadline)
            if written is not None and written.kind == "missing-term" and len(written.text) < len(best[i].text):
                best[i].text = written.text
    return best


def _in_reference_loops(evidence: list[Evidence], off) -> "_Trial | None":
    numbered = []
    for e in evidence:
        if not (cases := loops.numbered(e.checker, e.cases)):
            return None
        numbered.append(Evidence(e.checker, cases, e.off))
    return _in_loops(numbered, loops.of_reference(numbered[0].cases[0].program), off)


def _in_loops(evidence: list[Evidence], copies: loops.Places, off, repairing: bool = False) -> "_Trial | None":
    """Trials of edits of all passes of a Python loop at once; None where nothing repeats."""
    if not copies:
        return None
    case, problem = evidence[0].cases[0], evidence[0].checker.problem
    names = [*problem.primal_names, *problem.seed_names]
    editor = Editor(case.program, evidence[0].cases, len(problem.seeds), off, names, repairing, copies)
    return _Trial(evidence, editor, off)


def _mirrored(evidence: list[Evidence]) -> list[Evidence] | None:
    """The same probes with rule and reference exchanged: an edit of the *rule* that makes it right is sought there.

    A rule written in another form than autodiff's may hold a slip that no edit of autodiff's form reproduces.
    """
    mirrored = []
    for e in evidence:
        cases = []
        for case in e.cases:
            try:
                program = e.checker.rule.program(case.probe.primals, case.probe.seeds)
            except Exception:
                return None
            if program is None or len(program.outputs) != len(case.expected):
                return None
            values = _jaxpr.evaluate(program, case.probe.inputs)
            cases.append(
                dataclasses.replace(case, program=program, held=values, expected=case.actual, actual=case.expected)
            )
        mirrored.append(Evidence(e.checker, cases, e.off))
    return mirrored


INVERSE = {
    "missing-term": "extra-term",
    "extra-term": "missing-term",
    "missing-factor": "wrong-operand",
    "missing-activation-derivative": "wrong-operand",
    "missing-mask": "wrong-operand",
    "double-count": "missing-term",
    "index-collision": "double-count",
    "overwritten-not-accumulated": "double-count",
}
"""What a slip is called whose repair bears another name: leaving a factor out repairs a factor too many."""


PREFERENCE = (
    "detached",
    "batch-mean-vs-sum",
    "scale-constant",
    "double-count",
    "missing-term",
    "sign",  # after missing-term: of two equal terms, one with the wrong sign leaves none
    "overwritten-not-accumulated",
    "index-collision",
    "missing-activation-derivative",
    "missing-mask",
    "transpose",
    "wrong-reduction-axis",
    "missing-factor",
    "wrong-index",
    "swapped-outputs",
    "stale-value",
    "only-some-elements",
    "wrong-operand",
    "extra-term",
)


def _preference(kind: str) -> int:
    return PREFERENCE.index(kind) if kind in PREFERENCE else len(PREFERENCE)


def _ranked(found: list[Finding]) -> list[Finding]:
    return sorted(found, key=lambda f: (len(f.harmed) > 0, -len(f.leaves), f.tier, _preference(f.kind), -f.position))


def _add_alternatives(best: dict[int, Finding], found: list[Finding]) -> None:
    """Kinds that reproduce the same values on every probe are named beside the chosen one."""
    for chosen in {id(f): f for f in best.values()}.values():
        same = [f for f in found if f.leaves == chosen.leaves and f.harmed == chosen.harmed and f is not chosen]
        kinds = dict.fromkeys([*chosen.also, *(f.kind for f in _ranked(same) if f.tier <= chosen.tier + 0.5)])
        chosen.also = tuple(kind for kind in kinds if kind != chosen.kind)[:3]


class _Trial:
    """Evaluates edits on the probes and compares them with the rule."""

    def __init__(self, evidence: list[Evidence], editor: Editor, off: Sequence[int]):
        self.evidence, self.editor, self.off = evidence, editor, list(off)
        self.right = [i for i in range(len(evidence[0].checker.problem.leaves)) if i not in off]
        self.names = [path for path, _, _ in evidence[0].checker.problem.leaves]
        program = editor.program
        self.portable = [e for e in evidence[1:] if e.cases and portable(e.cases[0].program, program)]

    def findings(self, tier: int, deadline: float, notes: list[str]) -> list[Finding]:
        """What the edits of one tier explain."""
        found = []
        for count, edit in enumerate(edits(self.editor, tier)):
            if count % 32 == 0 and time.process_time() > deadline:  # to ask the clock can cost as much as an edit
                notes.append("the search for the mistake was cut short")
                break
            if edit.rewrites and (finding := self.run(edit)) is not None:
                found.append(finding)
        return found

    def outputs(self, case, edit, leaves, needed=None) -> dict[int, Any]:
        """Values of some leaves under an edit; only those that change."""
        self.editor.active = case.program
        try:
            changed = _jaxpr.rerun(case.program, case.values, {**self.editor.pins, **edit.rewrites}, needed)
        except Exception:  # an edit that makes no sense for these shapes or dtypes is no hypothesis
            return {}
        outs = {}
        for i in leaves:
            number = case.program.outputs[i]
            if number in changed:
                outs[i] = np.asarray(changed[number])
        return outs

    def run(self, edit: Edit) -> Finding | None:
        cases = self.evidence[0].cases
        leaves = set(self.off)
        factors: dict[int, list[float]] = {i: [] for i in leaves}
        accuracy = 0.0
        for case in cases:
            outs = self.outputs(case, edit, sorted(leaves), self.editor.needed)
            for i in sorted(leaves):
                if i not in outs:
                    leaves.discard(i)
                    continue
                error, c = self.compare(case, i, outs[i], edit.fitted)
                if error == np.inf:
                    leaves.discard(i)
                    continue
                if c is not None:
                    factors[i].append(c)
                accuracy = max(accuracy, error)
            if not leaves:
                return None
        if edit.fitted:
            return self.fitted(edit, leaves, factors, accuracy)
        if not self.on_given_sizes(edit, leaves):
            return None
        harmed = self.harmed(edit)
        text = f"the rule {edit.text}"
        kind, also, fix = edit.kind, edit.also, edit.fix
        if self.editor.repairing and not edit.repair:
            kind, text, fix = (
                INVERSE.get(edit.kind, edit.kind),
                f"the rule becomes right when changed so that it {edit.text}",
                "",
            )
            also = ("double-count", "extra-term") if kind == "wrong-operand" and kind != edit.kind else ()
        return Finding(
            frozenset(leaves),
            kind,
            text,
            fix,
            edit.tier + edit.weight + 0.3 * self.editor.repairing,
            accuracy,
            edit.source,
            also,
            harmed,
            edit.position,
        )

    def compare(self, case, i, out, fitted) -> tuple[float, float | None]:
        evidence = self.evidence[0]
        if not fitted:
            return evidence.error(case, i, out), None
        with np.errstate(all="ignore"):
            if np.shape(out) != np.shape(case.expected[i]):
                return np.inf, None
            direction, difference = out - case.expected[i], case.actual[i] - case.expected[i]
            size = float(np.sum(direction * direction))
            if not np.isfinite(size) or size == 0:
                return (0.0, None) if not np.any(case.wrong[i]) else (np.inf, None)
            b = float(np.sum(direction * difference)) / size
            blur = np.max(case.tolerance[i]) / np.max(np.abs(direction))  # of the factor, where much cancels
            c = 0.0 if abs(1 - b) < min(max(1e-7, blur), 1e-4) else 1 - b
            known = c == 0 or (sharp(case, i) and blur < 1e-4)
            return evidence.error(case, i, case.expected[i] + (1 - c) * direction), c if known else None

    def fitted(self, edit, leaves, factors, accuracy) -> Finding | None:
        """The contribution counts with a constant: name it, and ask whether it is the same in every leaf and probe."""
        evidence = self.evidence[0]
        shapes = [evidence.shapes(case) for case in evidence.cases]
        values = {i: list(factors[i]) for i in leaves if factors[i]}
        if not values:
            return None
        agreed = {}
        for i, row in values.items():
            if row and (not any(row) or name_constant(row, shapes[:1] * len(row))):
                agreed[i] = row
        if not agreed:
            return None
        first = next(iter(agreed.values()))
        leaves = {i for i, row in agreed.items() if np.allclose(row, first[0], rtol=1e-6, atol=1e-8)}
        harmed = self.harmed(edit)
        given = self.factors_on_given_sizes(edit, leaves)
        if given is None:
            return None
        more, more_shapes = given
        base = {
            "leaves": frozenset(leaves),
            "tier": edit.tier + edit.weight,
            "accuracy": accuracy,
            "source": edit.source,
        }
        names = " and ".join(self.names[i] for i in sorted(leaves))
        row = [*first, *more]
        repairing = self.editor.repairing
        own = {"harmed": harmed, "position": edit.position}
        if repairing:
            base["tier"] += 0.3
        if edit.kind == "extra-term":
            amounts = [c - 1 for c in row]
            if not np.allclose(amounts, amounts[0], rtol=1e-6) or not any(row):
                return None
            term = edit.term if abs(amounts[0] - 1) < 1e-6 else f"{amounts[0]:.4g} times {edit.term}"
            where = edit.text.removeprefix(f"adds the term {edit.term}").removesuffix(", which does not belong there")
            if repairing:
                text = f"the rule lacks the term {term}{where}"
                return Finding(
                    kind="missing-term", text=text, fix="add the term", also=("wrong-operand",), **base, **own
                )
            text = f"the rule adds {term}{where}"
            return Finding(kind="extra-term", text=text, fix="leave it out", also=("wrong-operand",), **base, **own)
        if not any(row):
            where = edit.text.removeprefix("leaves out the term")
            short = edit.term.startswith("`")  # else no formula short enough to print: the line says where it is
            term = f"the term {edit.term}{where}" if short or not where else f"a term{where}"
            if repairing:
                text = f"the rule has {term} too much"
                return Finding(kind="extra-term", text=text, fix="leave it out", **base, **own)
            text = f"the rule leaves out {term}"
            return Finding(kind="missing-term", text=text, fix=edit.fix, lacks_term=True, **base, **own)
        if repairing:
            if not all(row):
                return None
            row = [1 / c for c in row]  # what the rule's term is, as a multiple of the true one
        named = name_constant(row, [*shapes[:1] * len(first), *more_shapes])
        if named is None:
            return None
        found = scaled(base["leaves"], named, edit.term, edit.source, base["tier"], accuracy, names)
        found.harmed, found.position = harmed, edit.position
        return found

    def factors_on_given_sizes(self, edit, leaves) -> Any:
        factors, shapes = [], []
        for e in self.portable:
            for case in e.cases[:1]:
                outs = self.outputs(case, edit, sorted(leaves))
                for i in leaves:
                    if i not in outs:
                        return None
                    error, c = self.compare(case, i, outs[i], True)
                    if error == np.inf:
                        return None
                    if c is not None:
                        factors.append(c)
                        shapes.append(e.shapes(case))
        return factors, shapes

    def on_given_sizes(self, edit, leaves) -> bool:
        for e in self.portable:
            for case in e.cases[:1]:
                outs = self.outputs(case, edit, sorted(leaves))
                if any(i not in outs or e.error(case, i, outs[i]) == np.inf for i in leaves):
                    return False
        return True

    def harmed(self, edit: Edit) -> frozenset[int]:
        """Leaves that the rule has right and the edit would change: the mistake is then in one leaf's formula only."""
        case = self.evidence[0].cases[0]
        outs = self.outputs(case, edit, self.right)
        return frozenset(i for i, out in outs.items() if self.evidence[0].error(case, i, out) == np.inf)

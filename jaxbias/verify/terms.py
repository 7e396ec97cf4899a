"""The second engine: wrong − right fitted as one or two terms made of the forward's own values.

A term is g₁ · u · g₂ or g₁ · Σ_axes(u · g₂), where u is linear in the cotangent and the g are forward values, their
inverses or 1. Terms are formed at a value inside the backward pass and carried to the gradient through what follows.
If the true gradient is a sum of such terms too, the comparison of both sums says what became of which term.
"""

import itertools
import time
from dataclasses import dataclass
from typing import Any

import numpy as np

from jaxbias import _jaxpr
from jaxbias.verify.constants import name_constant
from jaxbias.verify.edits import Editor, views
from jaxbias.verify.findings import Evidence, Finding, scaled

MOST_TERMS = 900


@dataclass(frozen=True)
class Term:
    """outer · Σ_axes(u · inner); axes None: no sum."""

    u: int
    outer: tuple[str, ...]
    inner: tuple[str, ...]
    axes: tuple[int, ...] | None

    def size(self) -> int:
        return len(self.outer) + len(self.inner) + (self.axes is not None)


class Terms:
    """Terms at one value of the backward pass, for one gradient."""

    def __init__(self, evidence: Evidence, editor: Editor, leaf: int, node: int, deadline: float):
        self.evidence, self.editor, self.leaf, self.node = evidence, editor, leaf, node
        self.deadline = deadline
        # saturated values make terms cancel that are far larger than their sum, and a fit cannot tell them apart
        self.cases = [case for case in evidence.cases if case.probe.name != "large values"][:4]
        self.program = editor.program
        self.shape = self.program.shapes[node]
        self.labels: dict[str, tuple[int, tuple[int, ...], bool]] = {}
        self.terms: list[Term] = []
        self.columns: Any | None = None

    def build(self) -> bool:
        """Evaluate every term on every probe; False if there are none."""
        self._factors()
        us = self._bases()
        if not us:
            return False
        names = list(self.labels)
        singles = [(), *((name,) for name in names)]
        products = [*singles, *itertools.combinations_with_replacement(names, 2)]
        rank = len(self.shape)
        axes = [a for r in range(1, rank + 1) for a in itertools.combinations(range(rank), r)]
        terms = [Term(u, (), g, None) for u in us for g in products]
        terms += [Term(u, o, i, a) for u in us for a in axes for o in singles for i in singles]
        self.terms = sorted(terms, key=Term.size)[:MOST_TERMS]
        rows = []
        for case in self.cases:
            block = []
            if time.process_time() > self.deadline:
                return False
            zero = self._push(case, np.zeros(self.shape))
            scale = np.max(np.abs(case.expected[self.leaf])) or 1.0
            for term in self.terms:
                with np.errstate(all="ignore"):
                    value = self._value(case, term)
                    column = (self._push(case, value) - zero) / scale
                block.append(column.ravel())
            rows.append(np.stack(block, axis=1))
        self.columns = np.concatenate(rows)
        return True

    def _factors(self) -> None:
        """Named forward values that broadcast to the shape of the node, and their inverses."""
        found = []
        for g in self.editor.fresh:
            if g in self.editor.linear:
                continue
            shown_as = views(self.program.shapes[g], self.shape)
            if not shown_as or (g not in self.program.inputs and not self.editor.write(g)):
                continue
            given = g in self.program.inputs or g in self.program.outputs
            found.append((not given, len(self.editor.write(g)), g, shown_as[-1]))
        for *_, g, view in sorted(found)[:8]:
            text = self.editor.write(g) or "x"
            self.labels.setdefault(text, (g, view, False))
            if np.all(np.asarray(self.editor.values[g]) != 0):
                self.labels.setdefault(f"1/({text})", (g, view, True))

    def _bases(self) -> list[int]:
        linear = [
            i
            for i in self.editor.fresh
            if i in self.editor.linear and self.program.shapes[i] == self.shape and i != self.node
        ]
        seeds = [i for i in linear if i in self.editor.seeds]
        if not seeds:
            for seed in self.editor.seeds:
                shape = self.program.shapes[seed]
                if len(shape) < len(self.shape) and all(a == b for a, b in zip(shape, self.shape)):
                    seeds.append(seed)
        return seeds[:2] or linear[:1]

    def _value(self, case: Any, term: Term) -> Any:
        x = np.asarray(case.values[term.u])
        x = np.broadcast_to(x.reshape(x.shape + (1,) * (len(self.shape) - x.ndim)), self.shape)
        x = self._times(case, x, term.inner)
        if term.axes is not None:
            x = np.broadcast_to(x.sum(axis=term.axes, keepdims=True), self.shape)
        return self._times(case, x, term.outer)

    def _times(self, case, x, labels):
        for label in labels:
            g, view, inverse = self.labels[label]
            value = np.asarray(case.values[g]).reshape([n if v != 1 else 1 for n, v in zip(view, view)])
            x = x / value if inverse else x * value
        return x

    def _push(self, case, value) -> Any:
        """The gradient if the node had this value."""
        if self.node == self.program.outputs[self.leaf]:
            return value
        position = self.editor.born[self.node]
        rewrites = {**self.editor.pins, position: lambda read, inputs: [value]}
        self.editor.active = case.program
        changed = _jaxpr.rerun(case.program, case.values, rewrites, self.editor.needed)
        number = self.program.outputs[self.leaf]
        return np.asarray(changed.get(number, case.values[number]))

    def lacking(self, k: int, amount: float) -> bool:
        """Whether the true gradient has the term that the difference takes away, rather than the rule one too many.

        The backward has it among its values; where it has neither, the difference shrinks what it is added to.
        """
        case = self.cases[0]
        added = amount * self._value(case, self.terms[k])
        before = self.editor.ancestors(self.node) & self.editor.linear - {self.node}
        values = [np.asarray(case.values[i]) for i in before]
        for sign in (-1, 1):
            if any(v.shape == added.shape and np.allclose(v, sign * added, 1e-9, 0) for v in values):
                return sign < 0
        return float(self.stack("expected") @ self.stack("difference")) < 0

    # --- fitting ------------------------------------------------------------------------------------------------------

    def stack(self, arrays: str) -> Any:
        rows = []
        for case in self.cases:
            scale = np.max(np.abs(case.expected[self.leaf])) or 1.0
            expected, actual = case.expected[self.leaf], case.actual[self.leaf]
            rows.append(((expected if arrays == "expected" else actual - expected) / scale).ravel())
        return np.concatenate(rows)

    def fit(self, target: Any, most: int = 2) -> list[tuple[int, float]]:
        """The simplest one or two terms that give the target to rounding, with their factors."""
        assert self.columns is not None
        columns = self.columns
        good = np.all(np.isfinite(columns), axis=0)
        norm = np.sqrt(np.sum(np.where(good, columns, 0) ** 2, axis=0))
        good &= norm > 1e-12
        index = np.flatnonzero(good)
        if index.size == 0:
            return []
        unit = columns[:, index] / norm[index]
        total = float(target @ target)
        if total == 0:
            return []
        along = unit.T @ target
        close = np.flatnonzero(total - along**2 < 1e-10 * total)
        for k in sorted(close, key=lambda k: self.terms[index[k]].size()):
            if (found := self._exact(target, [index[k]])) is not None:
                return found
        if most < 2:
            return []
        gram = unit.T @ unit
        with np.errstate(all="ignore"):
            determinant = 1 - gram**2
            explained = (along[:, None] ** 2 + along[None] ** 2 - 2 * gram * along[:, None] * along[None]) / determinant
        hits = np.argwhere((np.abs(total - explained) < 1e-9 * total) & (determinant > 1e-4))
        hits = [tuple(h) for h in hits if h[0] < h[1]]
        hits.sort(key=lambda h: self.terms[index[h[0]]].size() + self.terms[index[h[1]]].size())
        for a, b in hits[:40]:
            if (found := self._exact(target, [index[a], index[b]])) is not None:
                return found
        return []

    def _exact(self, target, chosen) -> list[tuple[int, float]] | None:
        assert self.columns is not None
        part = self.columns[:, chosen]
        factors, *_ = np.linalg.lstsq(part, target, rcond=None)
        if np.max(np.abs(part @ factors - target)) > 1e-9 * np.max(np.abs(target)):
            return None
        shapes = [self.evidence.shapes(case) for case in self.evidence.cases]
        if any(name_constant([f] * len(shapes), shapes) is None and abs(f - 1) > 1e-7 for f in factors):
            return None
        return [(int(k), float(f)) for k, f in zip(chosen, factors)]

    def write(self, k: int, factor: float) -> str:
        term = self.terms[k]
        u = self.editor.write(term.u) or "δ"
        inner = " · ".join([u, *(_bracket(g) for g in term.inner)])
        text = inner if term.axes is None else f"Σ[axis {', '.join(map(str, term.axes))}]({inner})"
        text = " · ".join([*(_bracket(g) for g in term.outer), text])
        if abs(factor - 1) < 1e-7:
            return text
        return f"-{text}" if abs(factor + 1) < 1e-7 else f"{factor:.4g} · {text}"


def _bracket(text: str) -> str:
    return f"({text})" if " " in text and not text.startswith("1/(") else text


def explain(evidence: Evidence, editor: Editor, leaf: int, deadline: float) -> Any:
    """A finding for one gradient, or None."""
    name = evidence.checker.problem.leaves[leaf][0]
    for node in _nodes(editor, leaf):
        terms = Terms(evidence, editor, leaf, node, deadline)
        if time.process_time() > deadline or not terms.build():
            continue
        difference = terms.fit(terms.stack("difference"))
        if not difference:
            continue
        truth = dict(terms.fit(terms.stack("expected")))
        source = editor.equations[editor.born[node]].source if node in editor.born else None

        def found(kind, text, fix, also=(), leaf=leaf, source=source):
            return Finding(frozenset([leaf]), kind, text, fix, 4.5, 1e-9, source, also)

        if len(difference) == 1:
            k, amount = difference[0]
            if k in truth:
                c = 1 + amount / truth[k]
                term = f"`{terms.write(k, truth[k])}`"
                if abs(c) < 1e-7:
                    return found("missing-term", f"the gradient of {name} lacks the term {term}", "add the term")
                shapes = [evidence.shapes(case) for case in evidence.cases]
                named = name_constant([c] * len(shapes), shapes)
                if named is not None:
                    return scaled(frozenset([leaf]), named, term, source, 4.5, 1e-9, name)
            if truth:
                term = f"`{terms.write(k, amount)}`"
                return found("extra-term", f"the gradient of {name} has the term {term} too much", "leave it out")
            if terms.lacking(k, amount):
                term = f"`{terms.write(k, -amount)}`"
                return found(
                    "missing-term", f"the gradient of {name} lacks the term {term}", "add the term", ("extra-term",)
                )
            term = f"`{terms.write(k, amount)}`"
            return found(
                "extra-term", f"the gradient of {name} has the term {term} too much", "leave it out", ("missing-term",)
            )
        (a, x), (b, y) = difference
        if b in truth and a not in truth:
            (a, x), (b, y) = (b, y), (a, x)
        if a not in truth or b in truth or abs(truth[a] + x) > 1e-7 * abs(x):
            continue
        old, new = terms.terms[a], terms.terms[b]
        text = f"the gradient of {name} has the term `{terms.write(b, y)}` where it must have `{terms.write(a, -x)}`"
        fix = f"use `{terms.write(a, -x)}`"
        same_factors = sorted([*old.outer, *old.inner]) == sorted([*new.outer, *new.inner])
        if (old.u, old.outer, old.inner) == (new.u, new.outer, new.inner) or (same_factors and new.axes is None):
            return found("wrong-reduction-axis", text, fix, ("missing-term",) if new.axes is None else ())
        if (old.u, old.axes) == (new.u, new.axes):
            factors_old, factors_new = [*old.outer, *old.inner], [*new.outer, *new.inner]
            fewer = len(factors_new) < len(factors_old) and all(f in factors_old for f in factors_new)
            return found("missing-factor" if fewer else "wrong-operand", text, fix)
        return found("wrong-operand", text, fix)
    return None


def _nodes(editor: Editor, leaf: int) -> list[int]:
    """The gradient itself, then the last value of every other shape on the way to it."""
    out = editor.program.outputs[leaf]
    before = editor.ancestors(out)
    nodes, shapes = [out], {editor.program.shapes[out]}
    for eqn in reversed(editor.equations):
        for number in eqn.outputs:
            shape = editor.program.shapes[number]
            linear = number in before and number in editor.linear and number not in nodes
            if linear and len(shape) > 0 and shape not in shapes:
                shapes.add(shape)
                nodes.append(number)
    return nodes[:3]

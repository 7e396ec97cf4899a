"""What is certain of a wrong rule, whatever it was meant to be: gradients exchanged, entries of a cotangent left out.

A gradient is linear in the cotangent, so it is a matrix. Where the rule's matrix is the true one but for entries that
are zero, those contributions are what it lacks.
"""

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from jaxbias import _jaxpr

if TYPE_CHECKING:
    from jaxbias.verify.checker import Case, Checker

MOST_COLUMNS = 160
"""Entries of the cotangent, each of which costs an evaluation of both programs."""

MOST_WORK = 60_000
"""These times the number of equations."""


@dataclass(frozen=True)
class Certain:
    """What explains all that is wrong with some gradients.

    Attributes:
        leaves: their positions.
        kind: one of `report.KINDS`.
        text: a sentence.
        first: whether it says more than a line of the rule that explains the same.
        likely: the kind of mistake, where no line tells, if one entry alone is taken in the place of a sum.
    """

    leaves: frozenset[int]
    kind: str
    text: str
    first: bool = True
    likely: str = ""


def certain(checker: "Checker", cases: Sequence["Case"], wrong: Sequence[int]) -> Iterator[Certain]:
    """What is certain, as far as it explains gradients.

    Args:
        cases: ordinary probes of one size.
        wrong: positions of the gradients to explain.
    """
    left = list(wrong)
    for finder in (_exchanged, _unused, _blocks):
        for fact in finder(checker, cases, left) if left else ():
            left = [i for i in left if i not in fact.leaves]
            yield fact


def _exchanged(checker: "Checker", cases: Sequence["Case"], wrong: Sequence[int]) -> Iterator[Certain]:
    """Gradients that are each the other's."""
    is_of = lambda i, j: all(np.all(_close(case.actual[i], case.expected[j], case.expected[j])) for case in cases)
    for i, j in itertools.combinations(wrong, 2):
        if is_of(i, j) and is_of(j, i):
            a, b = (checker.problem.leaves[k][0] for k in (i, j))
            yield Certain(frozenset((i, j)), "swapped-outputs", f"The gradients of {a} and {b} are exchanged.")


def _values(checker: "Checker", case: "Case", seeds: Sequence[Any]) -> tuple[list[Any], list[Any]]:
    """True gradients, and the rule's."""
    primals = case.probe.primals
    expected = _jaxpr.run(case.program, [*primals, *seeds])[: len(case.expected)]
    given = checker.rule(list(primals), list(seeds))
    fill = [np.zeros(np.shape(e)) if g is None else np.asarray(g) for g, e in zip(given, expected)]
    return [np.asarray(e) for e in expected], fill


def _close(a: np.ndarray, b: np.ndarray, scale: np.ndarray) -> np.ndarray:
    if np.shape(a) != np.shape(b):
        return np.zeros(np.shape(b), bool)
    with np.errstate(all="ignore"):
        return np.abs(a - b) <= 1e-9 * np.max(np.abs(scale), initial=0.0)


def _unused(checker: "Checker", cases: Sequence["Case"], wrong: Sequence[int]) -> Iterator[Certain]:
    """Cotangents of whole outputs."""
    case = cases[0]
    seeds = list(case.probe.seeds)
    for k in range(len(seeds)) if len(seeds) > 1 else ():
        without = [np.zeros_like(s) if j == k else s for j, s in enumerate(seeds)]
        expected, given = _values(checker, case, without)
        same = all(np.all(_close(g, a, a)) for g, a in zip(given, case.actual))
        leaves = [i for i in wrong if np.all(_close(case.actual[i], expected[i], case.expected[i]))]
        if same and leaves:
            text = f"The rule does not use {checker.problem.seed_names[k]}, and lacks what that contributes."
            yield Certain(frozenset(leaves), "missing-term", text)


def _blocks(checker: "Checker", cases: Sequence["Case"], wrong: Sequence[int]) -> Iterator[Certain]:
    """Entries of the cotangent that never reach entries of a gradient."""
    case = cases[0]
    seeds, rule = list(case.probe.seeds), checker.rule.program(case.probe.primals, case.probe.seeds)
    count = sum(np.size(s) for s in seeds)
    work = count * (len(case.program.equations) + (len(rule.equations) if rule is not None else 100))
    if count > MOST_COLUMNS or work > MOST_WORK or any(np.iscomplexobj(s) for s in seeds):
        return
    columns: dict[int, list[tuple[list[np.ndarray], list[np.ndarray]]]] = {}
    for k, seed in enumerate(seeds):
        for j in range(np.size(seed)):
            if checker.short_of_time(0.3):
                return
            unit = np.zeros(np.shape(seed))
            unit.flat[j] = 1.0
            zero = [unit if m == k else np.zeros_like(s) for m, s in enumerate(seeds)]
            columns.setdefault(k, []).append(_values(checker, case, zero))
    for i in wrong:
        pairs, first, last = [], True, True
        for k, seed in enumerate(seeds):
            expected = np.stack([column[0][i] for column in columns[k]])
            given = np.stack([column[1][i] for column in columns[k]])
            if np.shape(given) != np.shape(expected):
                return
            if not np.any(given):
                break  # a gradient of zeros has another name
            missing = ~_close(given, expected, expected)
            if not np.any(missing):
                continue
            shape = np.shape(seed), np.shape(expected)[1:]
            blocks = _block(missing, expected, *shape) if not np.any(given[missing]) else None
            if blocks is None:
                pairs = []
                break
            reached = np.argwhere(~missing.reshape(len(missing), -1).any(axis=1).reshape(np.shape(seed)))
            first = first and len(reached) > 0 and bool(np.any(np.ptp(reached, axis=0) == 0))
            last = last and first and bool(np.any(np.min(reached, axis=0) == np.array(np.shape(seed)) - 1))
            names = checker.problem.seed_names[k], checker.problem.leaves[i][0]
            pairs.append("{} to {}".format(*(f"{name}{block}" for name, block in zip(names, blocks))))
        if pairs:
            text = f"Contributions of {', and of '.join(pairs)}, are missing."
            text = text.replace(", are", " are") if len(pairs) == 1 else text
            likely = ""
            if first and all(pair.endswith(f" to {checker.problem.leaves[i][0]}") for pair in pairs):
                likely = "overwritten-not-accumulated" if last else "broadcast-not-summed"
            yield Certain(frozenset([i]), "missing-term", text, first=False, likely=likely)


def _block(
    missing: np.ndarray, expected: np.ndarray, seed: tuple[int, ...], leaf: tuple[int, ...]
) -> tuple[str, str] | None:
    """Entries of the cotangent and of the gradient between which all is missing; None where there is no such block."""
    flat = missing.reshape(len(missing), -1)
    of_seed, of_leaf = np.asarray(flat.any(axis=1)), np.asarray(flat.any(axis=0))
    nonzero = np.abs(expected.reshape(flat.shape)) > 1e-9 * np.max(np.abs(expected), initial=0.0)
    if not np.array_equal(flat, nonzero & of_seed[:, None] & of_leaf[None, :]):
        return None
    texts = _index(of_seed.reshape(seed)), _index(of_leaf.reshape(leaf))
    if None in texts or texts == ("", ""):
        return None  # all of it: a gradient of zeros, which has another name
    return texts[0] or "", texts[1] or ""


def _index(mask: np.ndarray) -> str | None:
    """A set of entries as an index; empty where it is all of them, None where it is no product of ranges."""
    parts, product = [], np.ones(mask.shape, bool)
    for axis, n in enumerate(mask.shape):
        at = np.flatnonzero(mask.any(axis=tuple(a for a in range(mask.ndim) if a != axis)))
        product &= np.isin(np.arange(n), at).reshape([-1 if a == axis else 1 for a in range(mask.ndim)])
        if at.size == n:
            parts.append(":")
        elif at.size == 1:
            parts.append(str(at[0]))
        elif at.size == at[-1] - at[0] + 1:
            parts.append(f"{at[0] or ''}:{'' if at[-1] == n - 1 else at[-1] + 1}")
        else:
            parts.append(str(at.tolist()))
    if not np.array_equal(product, mask):
        return None
    while parts and parts[-1] == ":":
        parts.pop()
    return f"[{', '.join(parts)}]" if parts else ""

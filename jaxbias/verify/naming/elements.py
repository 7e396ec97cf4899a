"""Values that are wrong in some elements only: what these have in common, and what is wrong there."""

from collections.abc import Iterator

import numpy as np

from jaxbias.verify.naming.code import bracketed, listed
from jaxbias.verify.naming.difference import Difference, Relation
from jaxbias.verify.naming.variants import MASKED

COMPARISONS = ("gt", "ge", "lt", "le")

HALVES = {"above": "tril", "below": "triu"}
"""What leaves nothing on that side of the diagonal."""


def some_elements(d: Difference) -> Iterator[Relation]:
    """Right but for some elements, which have something in common."""
    size = np.max(np.abs(d.wanted), initial=0.0)
    wrong = ~(np.abs(d.given - d.wanted) <= 1e-8 * size)
    if not 0 < wrong.mean() < 1:
        return
    if (indices := _repeated(d, wrong)) and _overwrites(d):
        words = f"is wrong only in entries that {indices} names more than once: they must add up"
        yield Relation("index-collision", words, 1.2)
        return
    where, kink = in_words(d, wrong)
    if not where:
        return
    ratio = d.given[wrong] / np.where(d.wanted[wrong] == 0, np.nan, d.wanted[wrong])
    if not np.any(d.wanted[wrong]):
        codes = ()
        if where.startswith("where "):
            condition = where.removeprefix("where ").replace("not ", "~")
            codes = (f"jnp.where({condition}, 0, {{}})",)
        elif where.endswith("the diagonal") and where.split()[0] in HALVES:
            codes = (f"jnp.{HALVES[where.split()[0]]}({{}})",)
        kind = "missing-activation-derivative" if kink else "missing-mask"
        yield Relation(kind, f"must be 0 {where}", 1.25, codes=codes)
    elif np.all(np.real(d.wanted[wrong]) <= -MASKED):
        yield Relation("missing-mask", f"must be {np.real(d.wanted[wrong].flat[0]):.4g} {where}", 1.2)
    elif not np.any(d.given[wrong]):
        kind = "missing-activation-derivative" if kink else "only-some-elements"
        yield Relation(kind, f"is 0 {where}, and must not be", 1.4)
    elif np.all(np.isfinite(ratio)) and np.ptp(np.real(ratio)) <= 1e-8 * abs(ratio[0]):
        factor = float(np.real(ratio[0]))
        kind = {2.0: "double-count", -1.0: "sign"}.get(round(factor, 8), "scale-constant")
        more, codes = 1 / factor - 1, ()
        if where == "on the diagonal" and d.given.ndim == 3:
            codes = (f"{{}} {'+' if more > 0 else '-'} {abs(more):.12g} * jnp.diag(jnp.diag({{}}))",)
        yield Relation(kind, f"is {factor:.6g} times what it must be {where}", 1.4, codes=codes)
    else:
        kind = "missing-activation-derivative" if kink and d.linear else "unexplained"
        yield Relation(kind, f"is wrong {where}", 3.5)


def in_words(d: Difference, wrong: np.ndarray) -> tuple[str, bool]:
    """Words for a set of elements, empty if there are none, and whether a float decides it, as at a kink."""
    shape = wrong.shape[1:]
    if np.all(wrong == wrong[:1]):
        first = wrong[0]
        if len(shape) >= 2 and shape[-1] == shape[-2]:
            diagonal = np.broadcast_to(np.eye(shape[-1], dtype=bool), shape)
            if np.array_equal(first, diagonal):
                return "on the diagonal", False
            if np.array_equal(first, ~diagonal):
                return "off the diagonal", False
            for words, half in (("above", np.triu), ("below", np.tril)):
                if np.array_equal(first, half(np.ones(shape, bool), 1 if half is np.triu else -1)):
                    return f"{words} the diagonal", False
        for axis in range(len(shape)):
            others = tuple(a for a in range(len(shape)) if a != axis)
            some = first.any(axis=others)
            spread = np.broadcast_to(some.reshape([-1 if a == axis else 1 for a in range(len(shape))]), shape)
            if np.array_equal(spread, first):
                index = np.flatnonzero(some)
                more = " …" if index.size > 6 else ""
                return f"at index {listed(index[:6])}{more} of axis {axis}", False
    tests = {"== 0": np.equal, "> 0": np.greater, "< 0": np.less, "!= 0": np.not_equal}
    for value in d.at_hand(shape, False):
        if np.iscomplexobj(value.array):
            continue
        for sign, test in tests.items():
            if np.array_equal(test(value.array, 0), wrong):
                kink = sign != "!= 0" and value.array.dtype.kind == "f" and np.unique(value.array).size > 2
                return f"where {value.name} {sign}", kink
    alignment = d.alignment
    for n, equation in ((e.outputs[0], e) for e in alignment.program.equations):
        if alignment.program.shapes[n] == shape and alignment.values[0][n].dtype.kind == "b":
            condition = alignment.column(n)
            for words, test in (("where", condition), ("where not", ~condition)):
                if np.array_equal(test, wrong):
                    return f"{words} {bracketed(alignment.text(n))}", equation.name in COMPARISONS
    return "", False


def _overwrites(d: Difference) -> bool:
    """Is the value made by writing into an array? Of what cannot be traced it may be."""
    if d.equation is None or d.number not in d.alignment.position:
        return True
    equations = d.alignment.program.equations
    return any(equations[p].name == "scatter" for p in d.alignment.unknown_above(d.number))


def _repeated(d: Difference, wrong: np.ndarray) -> str:
    """Name of integers that the rule takes, whose repeated values are the wrong entries along the first axis."""
    program = d.alignment.program
    rows = np.asarray(wrong.reshape(*wrong.shape[:2], -1).any(axis=2) if wrong.ndim > 1 else wrong[:, None])
    for n in (*program.inputs, *program.constants):
        ids = (
            d.alignment.column(n)
            if n in program.inputs or np.asarray(program.constants[n]).dtype.kind in "iu"
            else None
        )
        if ids is None or ids.dtype.kind not in "iu" or ids[0].size < 2:
            continue
        often = np.stack([_counts(x, rows.shape[1]) > 1 for x in ids])
        if not np.any(rows & ~often):
            return d.alignment.text(n)
    return ""


def _counts(ids: np.ndarray, size: int) -> np.ndarray:
    """How often each row is named; negative numbers count from the end."""
    ids = np.where(ids < 0, ids + size, ids).ravel()
    return np.bincount(ids[(ids >= 0) & (ids < size)], minlength=size)

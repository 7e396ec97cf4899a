"""Error patterns in index space: which elements are wrong, and what they have in common."""

from typing import TYPE_CHECKING, Any

import numpy as np

from jaxbias._trees import is_float
from jaxbias.verify.findings import Finding

if TYPE_CHECKING:
    from jaxbias.verify.checker import Case, Checker


def describe_pattern(checker: "Checker", cases: list["Case"], given: list["Case"], i: int) -> Any:
    """A finding where only some elements are wrong, in the same way on every probe; None otherwise."""
    name = checker.problem.leaves[i][0]
    masks = [case.wrong[i] for case in cases]

    def finding(kind, text, fix, also=(), tier=5):
        return Finding(frozenset([i]), kind, text, fix, tier, np.inf, also=also)

    ever = np.any(masks, axis=0)  # where the true gradient happens to be zero as well, it is not wrong on every probe
    if ever.any() and not ever.all() and not any(np.any(case.actual[i][ever]) for case in cases):
        where = _where(ever) or f"{int(ever.sum())} of its elements"
        return finding(
            "only-some-elements",
            f"the gradient of {name} is zero in {where}, and right elsewhere",
            "fill in the missing elements",
            tier=0,
        )
    collision = _repeated(checker, [*cases, *given], i)
    if collision:
        return finding(
            "index-collision",
            f"the gradient of {name} is wrong only in entries that {collision} names more than once: repeated indices "
            f"do not add up",
            "use .at[...].add",
            ("overwritten-not-accumulated",),
        )
    if all(mask.all() for mask in masks):
        return None
    same = all(np.array_equal(mask, masks[0]) for mask in masks)
    if same and masks[0].ndim:
        where = _where(masks[0])
        if where and np.mean(masks[0]) <= 0.5:
            ok = all(np.any(~mask) for mask in masks)
            if ok:
                return finding(
                    "only-some-elements",
                    f"the gradient of {name} is wrong only in {where}, and right elsewhere",
                    f"check {where}",
                )
        return None
    for k, primal in enumerate(checker.problem.primal_names):
        for word, test in (
            ("where {} is negative", lambda x: x < 0),
            ("where {} is positive", lambda x: x > 0),
            ("where {} is zero or False", lambda x: x == 0),
            ("where {} is not zero", lambda x: x != 0),
        ):
            if _explains(cases, masks, k, test):
                return finding(
                    "missing-mask",
                    f"the gradient of {name} is wrong exactly {word.format(primal)}",
                    "apply the condition of the forward",
                    ("edge-point",) if "zero" in word and is_float(checker.problem.primals[k]) else (),
                )
    return None


def _explains(cases, masks, k, test) -> bool:
    hits = False
    for case, mask in zip(cases, masks):
        x = case.probe.primals[k]
        if getattr(x, "shape", None) != mask.shape:
            return False
        where = test(np.asarray(x))
        if np.any(mask & ~where):
            return False
        hits |= bool(np.mean(mask[where]) > 0.9) if np.any(where) else False
        if np.any(where) and np.mean(mask[where]) <= 0.9:
            return False
    return hits


def _where(mask: Any) -> str:
    for axis in range(mask.ndim):
        others = tuple(a for a in range(mask.ndim) if a != axis)
        some, every = mask.any(axis=others), mask.all(axis=others)
        if np.array_equal(some, every) and some.any() and not some.all():
            places = np.flatnonzero(some)
            if len(places) == 1:
                last = " (the last)" if places[0] == mask.shape[axis] - 1 else ""
                return f"entry {places[0]}{last} of axis {axis}"
            if len(places) == mask.shape[axis] - 1:
                return f"every entry of axis {axis} but {np.flatnonzero(~some)[0]}"
            if np.all(np.diff(places) == 1):
                return f"entries {places[0]} to {places[-1]} of axis {axis}"
            return f"entries {', '.join(map(str, places[:6]))} of axis {axis}"
    if mask.ndim == 2 and mask.shape[0] == mask.shape[1]:
        eye = np.eye(mask.shape[0], dtype=bool)
        if np.array_equal(mask, eye):
            return "the diagonal"
        if np.array_equal(mask, ~eye):
            return "everything off the diagonal"
        for word, f in (("lower", np.tril), ("upper", np.triu)):
            for offset, strict in ((0, ""), (-1 if word == "lower" else 1, "strict ")):
                if np.array_equal(mask, f(np.ones_like(mask), offset)):
                    return f"the {strict}{word} triangle"
    if mask.ndim >= 2 and min(mask.shape[:2]) > 2:
        inner = np.zeros_like(mask)
        inner[(slice(1, -1),) * mask.ndim] = True
        if np.array_equal(mask, ~inner):
            return "the border"
    return ""


def _repeated(checker: "Checker", cases: list["Case"], i: int) -> str:
    """Name of an integer argument whose repeated values are exactly the wrong rows of the leaf."""
    for k, name in enumerate(checker.problem.primal_names):
        if is_float(checker.problem.primals[k]) or np.size(checker.problem.primals[k]) < 2:
            continue
        seen = False
        for case in cases:
            ids = np.asarray(case.probe.primals[k])
            mask = np.asarray(case.wrong[i])
            if ids.dtype == bool or not mask.ndim:
                break
            rows = np.atleast_1d(mask.any(axis=tuple(range(1, mask.ndim))))
            values, counts = np.unique(ids, return_counts=True)
            values = np.where(values < 0, values + len(rows), values)
            inside = (values >= 0) & (values < len(rows))
            often = np.zeros(len(rows), bool)
            often[values[inside & (counts > 1)]] = True
            if np.any(rows & ~often):
                break
            seen |= bool(np.any(rows))
        else:
            if seen:
                return name
    return ""

"""Gradients whose shape is not that of their argument: what was forgotten."""

import itertools
from typing import TYPE_CHECKING, Any

import numpy as np

from jaxbias.verify.probes import Probe
from jaxbias.verify.problem import Arrays, Problem, narrow_np, widen
from jaxbias.verify.report import Diagnosis

if TYPE_CHECKING:
    from jaxbias.verify.checker import Checker


def find(problem: Problem, checker: "Checker", probes: list[Probe], actual: Arrays) -> dict[int, Diagnosis]:
    """A diagnosis for every leaf that the rule returned in another shape."""
    wrong = [
        i
        for i, ((_, shape, _), a) in enumerate(zip(problem.leaves, actual))
        if a is not None and np.shape(a) != tuple(shape)
    ]
    if not wrong:
        return {}
    seeds = [widen(narrow_np(s, np.asarray(g).dtype)) for s, g in zip(probes[0].seeds, problem.seeds)]
    expected = checker.expect(Probe("as given", probes[0].primals, seeds))[1].expected
    return {i: _explain(problem.leaves[i][0], actual[i], expected[i]) for i in wrong}


def _explain(path: str, actual: Any, expected: Any) -> Diagnosis:
    shapes = f"shape {actual.shape}, but {path} has shape {expected.shape}"

    def equal(x):
        return x.shape == expected.shape and np.allclose(
            x, expected, rtol=2e-2, atol=1e-3 * np.abs(expected).max(initial=0)
        )

    for size in range(1, actual.ndim + 1):
        for axes in itertools.combinations(range(actual.ndim), size):
            for keep in (False, True):
                summed = actual.sum(axis=axes, keepdims=keep)
                if (
                    actual.size != expected.size
                    and summed.size == expected.size
                    and equal(summed.reshape(expected.shape))
                ):
                    axis = axes[0] if len(axes) == 1 else axes
                    return Diagnosis(
                        path,
                        "broadcast-not-summed",
                        f"The gradient has {shapes}: the forward broadcasts {path}, so its gradient is the sum over "
                        f"axis {axis}, which is missing.",
                        f"add .sum(axis={axis}{', keepdims=True' if keep and actual.ndim == expected.ndim else ''})",
                        "the sum equals the true gradient",
                        also=("wrong-shape",),
                    )
    if actual.size == expected.size:
        for axes in itertools.permutations(range(actual.ndim)):
            if actual.ndim > 1 and axes != tuple(range(actual.ndim)) and equal(actual.transpose(axes)):
                return Diagnosis(
                    path,
                    "transpose",
                    f"The gradient has {shapes}: it is transposed.",
                    f"transpose it with axes {axes}" if actual.ndim > 2 else "return its transpose",
                    "the transpose equals the true gradient",
                    also=("wrong-shape",),
                )
        if equal(actual.reshape(expected.shape)):
            return Diagnosis(
                path,
                "wrong-shape",
                f"The gradient has {shapes}; its values are right.",
                f"add .reshape({expected.shape})",
                "the reshaped values equal the true gradient",
            )
    return Diagnosis(path, "wrong-shape", f"The gradient has {shapes}.", "return one value per element of the argument")

"""Why rules are right that look as if a factor were missing, or as if it were another one."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from jaxbias import _jaxpr
from jaxbias._jaxpr.queries import depends_on
from jaxbias.verify.checker import Case

_EXPONENTIALS, _LOGARITHMS = ("exp", "exp2", "expm1", "logistic"), ("log", "log1p")


def of_right_rule(case: Case, rule: _jaxpr.Program) -> list[str]:
    """All there is to say of a rule of which it is known that it is right, traced for this case."""
    cancelled = _cancelled_logarithm(case.program, rule)
    return [*([cancelled] if cancelled else []), *_derivatives_from_outputs(case, rule)]


def _cancelled_logarithm(reference: _jaxpr.Program, rule: _jaxpr.Program) -> str | None:
    """A sentence where a logarithm of exponentials, such as cross-entropy after softmax, has no trace in the rule.

    The derivative of the logarithm is 1/p, that of the exponentials has a factor p, and in δ = p − t neither is left
    (equation 4.2 of the derivation sheet).
    """
    exponentials = [n for e in reference.equations if e.name in _EXPONENTIALS for n in e.outputs]
    behind = depends_on(reference, exponentials)
    logarithms = [e for e in reference.equations if e.name in _LOGARITHMS and e.inputs[0] in behind]
    if not logarithms or any(e.name in _LOGARITHMS for e in rule.equations):
        return None
    source = next((e.source for e in logarithms if e.source), None)
    where = f" in `{source.text}`" if source and source.text else ""
    return (
        f"the rule has no factor for the logarithm{where}, and is right: the 1/p of the logarithm and the p of the "
        f"exponentials cancel, so that softmax and cross-entropy, or sigmoid and log, leave p − t"
    )


_FROM_OUTPUT: dict[str, tuple[str, tuple[Callable[[Any], Any], ...]]] = {
    "tanh": ("1 − a²", (lambda a: 1 - a * a, lambda a: 1 - a)),
    "logistic": ("a (1 − a)", (lambda a: 1 - a,)),
    "max": ("1 where a > 0", (lambda a: a > 0,)),
}
"""Operation → its derivative in words of its output a, and values of which autodiff forms one for that derivative."""


def _derivatives_from_outputs(case: Case, rule: _jaxpr.Program) -> list[str]:
    """A sentence for every operation a = f(z) whose derivative the rule takes from a alone.

    That is so where gradients depend on a, but on nothing else that is computed from z, and the forward has the same
    operation, of which autodiff takes the derivative.
    """
    operations: dict[tuple[str, int], list[_jaxpr.Equation]] = {}
    for equation in rule.equations:
        z = [i for i in equation.inputs if not _is_zero(rule.constants.get(i))]
        if equation.name in _FROM_OUTPUT and len(z) == 1:
            operations.setdefault((equation.name, z[0]), []).append(equation)
    held = _jaxpr.evaluate(rule, case.probe.inputs) if operations else []
    sentences = []
    for (name, z), equations in operations.items():
        outputs = [number for equation in equations for number in equation.outputs]
        if not depends_on(rule, [z], without=equations).isdisjoint(rule.outputs):
            continue
        if depends_on(rule, outputs).isdisjoint(rule.outputs):
            continue
        derivative, formed = _FROM_OUTPUT[name]
        a = np.asarray(held[outputs[0]])
        alike = [case.values[e.outputs[0]] for e in case.program.equations if e.name == name]
        if not _holds(alike, a) or not any(_holds(case.values, form(a)) for form in formed):
            continue
        source = next((e.source.text for e in equations if e.source and e.source.text), "")
        where = f" in `{source}`" if source else ""
        sentences.append(
            f"the rule takes the derivative of `{name}`{where} from its output a alone, as {derivative}, and is right: "
            f"that is the derivative at its input, written in a"
        )
    return sentences


def _is_zero(constant: Any) -> bool:
    return isinstance(constant, np.ndarray | np.generic) and not np.any(constant)


def _holds(values: Sequence[Any], sought: np.ndarray) -> bool:
    """Whether one of the values is this array, up to rounding; a mask may be of 0 and 1."""
    return any(
        value.shape == sought.shape and value.dtype.kind in "bf" and np.allclose(value, sought, 1e-9, 1e-12)
        for value in values
        if isinstance(value, np.ndarray | np.generic)
    )

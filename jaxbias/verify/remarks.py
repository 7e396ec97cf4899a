"""Remarks on rules that are right although they look as if a factor were missing."""

from jaxbias import _jaxpr

_EXPONENTIALS, _LOGARITHMS = ("exp", "exp2", "expm1", "logistic"), ("log", "log1p")


def cancelled_logarithm(reference: _jaxpr.Program, rule: _jaxpr.Program) -> str | None:
    """A remark where a logarithm of exponentials, such as cross-entropy after softmax, has no trace in the rule.

    The derivative of the logarithm is 1/p, that of the exponentials has a factor p, and in δ = p − t neither is left
    (equation 4.2 of the derivation sheet).

    Args:
        reference: forward and backward of autodiff.
        rule: of which it is known that it is right.
    """
    exponentials = [n for e in reference.equations if e.name in _EXPONENTIALS for n in e.outputs]
    behind = _jaxpr.depends_on(reference, exponentials)
    logarithms = [e for e in reference.equations if e.name in _LOGARITHMS and e.inputs[0] in behind]
    if not logarithms or any(e.name in _LOGARITHMS for e in rule.equations):
        return None
    source = next((e.source for e in logarithms if e.source), None)
    where = f" in `{source.text}`" if source and source.text else ""
    return (
        f"the rule has no factor for the logarithm{where}, and is right: the 1/p of the logarithm and the p of the "
        f"exponentials cancel, so that softmax and cross-entropy, or sigmoid and log, leave p − t"
    )

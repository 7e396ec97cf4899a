"""What the change of a factor, of an operand or of a part of the backward is called."""

from collections.abc import Sequence

import numpy as np

from jaxbias import _jaxpr
from jaxbias._jaxpr.queries import depends_on
from jaxbias.verify.edits.editor import Editor, line_text

ELEMENTWISE = {
    "mul", "div", "neg", "select_n", "add", "add_any", "sub", "integer_pow", "square", "convert_element_type", "copy",
    "one_minus_square", "broadcast_in_dim", "reshape", "squeeze",
}  # fmt: skip


ALGEBRAIC = {"sqrt", "rsqrt", "cbrt", "square", "integer_pow", "pow"}


def factor_kind(editor: Editor, eqn: _jaxpr.Equation, f: int) -> tuple[str, str]:
    """Kind and further words for a factor that is left out."""
    value = np.asarray(editor.values[f])
    if value.size and np.all(value == value.flat[0]) and not _moves(editor, f):
        return "scale-constant", editor.about(eqn)
    if np.all((value == 0) | (value == 1)):
        return mask_kind(editor, eqn, f)
    with np.errstate(all="ignore"):
        activation = _derivative_of(editor, eqn, np.asarray(1 / value) if eqn.name == "div" else value)
    if activation is not None:
        # 1/√v is a common factor by itself, not only the derivative of √v
        kind = "missing-factor" if activation.name in ALGEBRAIC else "missing-activation-derivative"
        return kind, f", the derivative that belongs to `{line_text(activation)}`"
    return "missing-factor", editor.about(eqn)


def equals(kind: str, words: str) -> tuple[str, ...]:
    """Other kinds that describe the same factor."""
    if kind == "missing-activation-derivative":
        return ("missing-factor",)
    return ("missing-activation-derivative",) if words.startswith(", the derivative") else ()


def _moves(editor: Editor, number: int) -> bool:
    """Does a value depend on a float argument other than a 0/1 mask?"""
    floats = {i for i in editor.program.inputs if np.asarray(editor.values[i]).dtype.kind == "f"} - set(editor.seeds)
    moving = {i for i in floats if not np.all((editor.values[i] == 0) | (editor.values[i] == 1))}
    return bool(editor.ancestors(number) & moving)


def _derivative_of(editor: Editor, eqn: _jaxpr.Equation, value: np.ndarray) -> _jaxpr.Equation | None:
    """The elementwise function on the equation's line whose derivative is the value, up to a constant factor."""
    for activation in editor.activations(eqn):
        if value.shape != editor.program.shapes[activation.outputs[0]]:
            continue
        xs = [np.asarray(editor.values[i]) for i in activation.inputs]
        for k, x in enumerate(xs):
            if x.dtype.kind != "f" or np.ndim(x) != value.ndim:
                continue
            step = 1e-6 * (1 + np.abs(x))
            at = editor.born[activation.outputs[0]]
            with np.errstate(all="ignore"):
                high = editor.compute(at, [y + step if j == k else y for j, y in enumerate(xs)])[0]
                low = editor.compute(at, [y - step if j == k else y for j, y in enumerate(xs)])[0]
                ratio = (high - low) / (2 * step) / value
                ratio = ratio[np.isfinite(ratio)]
            if ratio.size > 1 and np.ptp(ratio) < 1e-5 * np.max(np.abs(ratio)):
                return activation
    return None


def mask_kind(editor: Editor, eqn: _jaxpr.Equation, f: int | None = None) -> tuple[str, str]:
    """Kind and further words for a condition that is left out: of the data, or the kink of an activation."""
    activation = next(iter(editor.activations(eqn)), None)
    if activation is not None and _moves(editor, eqn.inputs[0] if f is None else f):
        return "missing-activation-derivative", f", the derivative that belongs to `{line_text(activation)}`"
    return "missing-mask", editor.about(eqn)


def skipped(editor: Editor, path: Sequence[_jaxpr.Equation]) -> tuple[str, str]:
    lines = list(dict.fromkeys(eqn.source.text for eqn in path if eqn.source is not None and eqn.source.text))
    where = " and ".join(f"`{text}`" for text in lines[-2:]) or "a part of the forward"
    if all(eqn.name in ELEMENTWISE or not any(i in editor.linear for i in eqn.inputs) for eqn in path):
        if any(activation.name not in ALGEBRAIC for eqn in path for activation in editor.activations(eqn)):
            return "missing-activation-derivative", f"leaves out the derivative that belongs to {where}"
        if any(eqn.name == "select_n" for eqn in path):
            return "missing-mask", f"leaves out the condition of {where}"
    if any(eqn.name == "add_any" for eqn in path) and not any(eqn.name == "dot_general" for eqn in path):
        return "missing-term", f"leaves out terms that belong to {where}"
    return "missing-factor", f"leaves out the derivative of {where}"


def kind_of_factor(editor: Editor, number: int) -> str:
    """Kind of a factor that is left out, whatever it belongs to."""
    value = np.asarray(editor.values[number])
    mask = np.all((value == 0) | (value == 1)) and np.any(value == 0) and np.any(value == 1)
    return "missing-mask" if mask else "missing-factor"


def replaced(editor: Editor, eqn: _jaxpr.Equation, own: int, g: int) -> tuple[str, str]:
    """Kind and words for g in place of the own operand: often a factor or a term of it is all that misses."""
    if editor.repairing:
        own, g = g, own  # the rule's operand is the wrong one
    mine, other = np.asarray(editor.values[own]), np.asarray(editor.values[g])
    maker = editor.equations[editor.born[own]] if own in editor.born else None
    text = editor.exchange(g, own, eqn)
    if own in editor.linear:
        if own in depends_on(editor.program, [g]):
            kind, words = skipped(editor, editor.between(g, own))
            return kind, words
        return "wrong-operand", text
    with np.errstate(all="ignore"):
        ratio, difference = mine / other, mine - other
    for h in editor.fresh:
        if h in editor.linear or editor.program.shapes[h] != mine.shape:
            continue
        value = np.asarray(editor.values[h])
        if h not in (own, g) and np.allclose(ratio, value, rtol=1e-9, atol=0):
            words = f"leaves the factor {editor.name(h)} out of {editor.name(own)}{editor.about(eqn)}"
            return kind_of_factor(editor, h), words
    if maker is not None and maker.name == "select_n" and g in maker.inputs[1:]:
        kind, _ = mask_kind(editor, maker)
        return kind, f"leaves the condition {editor.name(maker.inputs[0])} out{editor.about(maker)}"
    what = {"add": "term", "sub": "term", "mul": "factor", "div": "factor"}.get(maker.name if maker else "")
    if maker is not None and what is not None and g in maker.inputs:
        rest = maker.inputs[1] if maker.inputs[0] == g else maker.inputs[0]
        kind = kind_of_factor(editor, rest) if what == "factor" else "missing-term"
        return kind, f"leaves the {what} {editor.name(rest)} out of {editor.name(own)}{editor.about(eqn)}"
    if mine.size > 1 and np.ptp(difference) < 1e-12 * (1 + np.abs(difference).max()):
        return "missing-term", text
    return "wrong-operand", text

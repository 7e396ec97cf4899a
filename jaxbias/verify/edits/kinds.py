"""What the change of a factor, of an operand or of a part of the backward is called."""

from collections.abc import Sequence

import numpy as np

from jaxbias import _jaxpr
from jaxbias.verify.edits.editor import Editor, line_text

ELEMENTWISE = {
    "mul", "div", "neg", "select_n", "add", "add_any", "sub", "integer_pow", "square", "convert_element_type", "copy",
    "one_minus_square", "broadcast_in_dim", "reshape", "squeeze",
}  # fmt: skip


def factor_kind(editor: Editor, eqn: _jaxpr.Equation, f: int) -> tuple[str, str]:
    value = np.asarray(editor.values[f])
    if value.size and np.all(value == value.flat[0]):
        return "scale-constant", editor.about(eqn)
    if np.all((value == 0) | (value == 1)):
        return mask_kind(editor, eqn, f)
    activation = editor.activation(eqn)
    if activation is not None and value.shape == editor.program.shapes[activation.outputs[0]]:
        return "missing-activation-derivative", f", the derivative that belongs to `{line_text(activation)}`"
    return "missing-factor", editor.about(eqn)


def mask_kind(editor: Editor, eqn: _jaxpr.Equation, f: int | None = None) -> tuple[str, str]:
    predicate = eqn.inputs[0] if f is None else f
    activation = editor.activation(eqn)
    floats = {i for i in editor.program.inputs if np.asarray(editor.values[i]).dtype.kind == "f"} - set(editor.seeds)
    moves = [i for i in floats if not np.all((editor.values[i] == 0) | (editor.values[i] == 1))]
    if activation is not None and editor.ancestors(predicate) & set(moves):
        return "missing-activation-derivative", f", the derivative that belongs to `{line_text(activation)}`"
    return "missing-mask", editor.about(eqn)


def skipped(editor: Editor, path: Sequence[_jaxpr.Equation]) -> tuple[str, str]:
    lines = list(dict.fromkeys(eqn.source.text for eqn in path if eqn.source is not None and eqn.source.text))
    where = " and ".join(f"`{text}`" for text in lines[-2:]) or "a part of the forward"
    if all(eqn.name in ELEMENTWISE or not any(i in editor.linear for i in eqn.inputs) for eqn in path):
        if any(editor.activation(eqn) is not None for eqn in path):
            return "missing-activation-derivative", f"leaves out the derivative that belongs to {where}"
        if any(eqn.name == "select_n" for eqn in path):
            return "missing-mask", f"leaves out the condition of {where}"
    if any(eqn.name == "add_any" for eqn in path) and not any(eqn.name == "dot_general" for eqn in path):
        return "missing-term", f"leaves out terms that belong to {where}"
    return "missing-factor", f"leaves out the derivative of {where}"


def replaced(editor: Editor, eqn: _jaxpr.Equation, own: int, g: int) -> tuple[str, str]:
    """Kind and words for g in place of the own operand: often a factor or a term of it is all that misses."""
    if editor.repairing:
        own, g = g, own  # the rule's operand is the wrong one
    mine, other = np.asarray(editor.values[own]), np.asarray(editor.values[g])
    maker = editor.equations[editor.born[own]] if own in editor.born else None
    text = f"uses {editor.name(g)} in place of {editor.name(own)}{editor.about(eqn)}"
    if own in editor.linear:
        if own in _jaxpr.depends_on(editor.program, [g]):
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
            return "missing-factor", f"leaves the factor {editor.name(h)} out of {editor.name(own)}{editor.about(eqn)}"
    if maker is not None and maker.name in ("add", "sub") and g in maker.inputs:
        return "missing-term", text
    if maker is not None and maker.name in ("mul", "div") and g in maker.inputs:
        return "missing-factor", text
    if mine.size > 1 and np.ptp(difference) < 1e-12 * (1 + np.abs(difference).max()):
        return "missing-term", text
    return "wrong-operand", text

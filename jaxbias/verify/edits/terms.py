"""A term left out, counted otherwise, or added."""

from collections.abc import Iterator

import numpy as np

from jaxbias import _jaxpr
from jaxbias.verify.edits.editor import Edit, Editor

ADDING = {
    "add", "add_any", "sub", "concatenate", "stack", "loop_stack", "select_n", "scatter-add", "dynamic_update_slice",
}  # fmt: skip

SUMS = {"add", "add_any"}
"""Of these, the ones whose operands are parts of one sum, not of one array."""


def terms(editor: Editor, position: int, eqn: _jaxpr.Equation, linear: list[int]) -> Iterator[Edit]:
    """Leave a contribution out, or count it with another constant."""

    def zero_output(p):
        return lambda read, inputs: [np.zeros_like(out) for out in editor.compute(p, inputs)]

    if len(eqn.outputs) == 1:
        yield Edit(
            "missing-term",
            1,
            f"leaves out the term{editor.about(eqn)}",
            "add the term",
            editor.everywhere(position, zero_output),
            eqn.source,
            position,
            fitted=True,
            term=editor.name(eqn.outputs[0]),
        )
    if eqn.name not in ADDING or len(linear) < 2:
        return
    for k in linear:

        def zero_operand(p, k=k):
            return lambda read, inputs: editor.compute(
                p, [np.zeros_like(x) if j == k else x for j, x in enumerate(inputs)]
            )

        maker = editor.equations[editor.born[eqn.inputs[k]]] if eqn.inputs[k] in editor.born else eqn
        if eqn.name in SUMS and _is_half(editor, position, eqn.inputs[k]):
            yield Edit(
                "scale-constant",
                1,
                f"has the term {editor.name(eqn.inputs[k])} once{editor.about(maker)}, where it belongs twice",
                "multiply it by 2",
                editor.everywhere(position, zero_operand),
                maker.source,
                position,
                also=("missing-term",),
            )
            continue
        yield Edit(
            "missing-term",
            1,
            f"leaves out the term{editor.about(maker)}",
            "add the term",
            editor.everywhere(position, zero_operand),
            maker.source,
            position,
            fitted=True,
            term=editor.name(eqn.inputs[k]),
        )
    loop = editor.slots[editor.slot_of[eqn.outputs[0]]]
    if len(loop) > 1 and eqn.name in SUMS:
        for k in linear:
            if editor.slot_of.get(eqn.inputs[1 - k]) != editor.slot_of[eqn.outputs[0]]:
                continue  # not the sum of the earlier passes
            yield Edit(
                "overwritten-not-accumulated",
                1,
                "keeps only one iteration's contribution where the iterations of the loop add up",
                "add the contributions of all iterations",
                editor.everywhere(position, lambda p, k=k: lambda read, inputs: [inputs[k] + 0 * inputs[1 - k]]),
                eqn.source,
                position,
            )


def _is_half(editor: Editor, position: int, number: int) -> bool:
    """Whether what is added here equals another part of the same sum, as the two parts of the derivative of w·w do."""
    consumers = editor.consumers
    while True:
        (out,) = editor.equations[position].outputs
        above = [p for p, _ in consumers[out] if editor.equations[p].name == "add_any"]
        if len(consumers[out]) != 1 or not above:
            break
        position = above[0]
    parts, stack = [], [position]
    while stack:
        for i in editor.equations[stack.pop()].inputs:
            if i in editor.born and editor.equations[editor.born[i]].name == "add_any" and i != number:
                stack.append(editor.born[i])
            else:
                parts.append(i)
    return any(i != number and editor.same_value(i, number) for i in parts) or parts.count(number) > 1


def extras(editor: Editor, position: int, eqn: _jaxpr.Equation) -> Iterator[Edit]:
    """A term too many: another linear value of the same shape added, with any constant factor."""
    if len(eqn.outputs) != 1 or editor.uses[eqn.outputs[0]] == 0:
        return
    shape = editor.shape(position)
    for u in editor.fresh:
        if u not in editor.linear or editor.program.shapes[u] != shape or editor.born.get(u, -1) >= position:
            continue
        rewrites = editor.everywhere(position, lambda p, u=u: editor.plus(p, u))
        if rewrites:
            yield Edit(
                "extra-term",
                4,
                f"adds the term {editor.name(u)}{editor.about(eqn)}, which does not belong there",
                "leave it out",
                rewrites,
                eqn.source,
                position,
                fitted=True,
                term=editor.name(u),
                weight=0.5,
            )

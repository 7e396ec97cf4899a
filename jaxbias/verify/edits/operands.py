"""Another value where an operand belongs, or the gradient passing by a part of the backward."""

from collections.abc import Iterator

import numpy as np

from jaxbias import _jaxpr
from jaxbias.verify.edits.editor import Edit, Editor
from jaxbias.verify.edits.kinds import replaced, skipped


def shortcuts(editor: Editor, position: int, eqn: _jaxpr.Equation, linear: list[int]) -> Iterator[Edit]:
    """The gradient passes by a part of the backward: the derivative of that part is left out."""
    if not linear or len(eqn.outputs) != 1:
        return
    shape = editor.shape(position)
    for u in editor.upstream(position, shape):
        path = editor.between(u, eqn.outputs[0])
        kind, text = skipped(editor, path)
        yield Edit(
            kind,
            3,
            text,
            "multiply by the derivative of that part",
            editor.everywhere(position, lambda p, u=u: editor.replace_output(p, u)),
            eqn.source,
            position,
            weight=0.01 * len(path),
        )
    for k in linear:
        v = eqn.inputs[k]
        if editor.uses[v] < 2 or v not in editor.born:
            continue
        for u in editor.upstream(editor.born[v], editor.program.shapes[v]):
            path = editor.between(u, v)
            kind, text = skipped(editor, path)
            yield Edit(
                kind,
                3,
                text,
                "multiply by the derivative of that part",
                editor.everywhere(position, lambda p, u=u, k=k: editor.replace_input(p, k, u)),
                eqn.source,
                position,
                weight=0.01 * len(path) + 0.005,
            )


def operands(editor: Editor, position: int, eqn: _jaxpr.Equation, linear: list[int]) -> Iterator[Edit]:
    """One operand replaced by another value of the same shape, its transpose, or that of another iteration."""
    for k, own in enumerate(eqn.inputs):
        if np.asarray(editor.values[own]).dtype.kind != "f" or (own in editor.program.constants):
            continue
        for shift in (-1, 1):
            rewrites = editor.everywhere(position, lambda p, k=k, s=shift: editor.other_iteration(p, k, s))
            if len(rewrites) > 0:
                yield Edit(
                    "stale-value",
                    3,
                    f"takes {editor.name(own)} of the {'step before' if shift < 0 else 'next step'}{editor.about(eqn)}",
                    "take the value of the same step",
                    rewrites,
                    eqn.source,
                    position,
                    also=("wrong-operand",),
                )
        if own in editor.linear and eqn.name not in ("dot_general", "mul"):
            continue
        shape = editor.program.shapes[own]
        for g in editor.fresh:
            if g == own or (g in editor.linear) != (own in editor.linear):
                continue
            other = editor.program.shapes[g]
            if editor.born.get(g, -1) >= position and editor.born.get(editor.partner(g, position) or g, -1) >= position:
                continue
            if other == shape:
                rewrites = editor.everywhere(position, lambda p, k=k, g=g: editor.replace_input(p, k, g))
                if not rewrites or editor.same_value(g, own):
                    continue
                kind, text = replaced(editor, eqn, own, g)
                right = editor.name(g if editor.repairing else own)
                yield Edit(kind, 3, text, f"use {right}", rewrites, eqn.source, position, weight=0.02, repair=True)
            if len(shape) == 2 and other == shape[::-1] and shape[0] == shape[1]:
                rewrites = editor.everywhere(position, lambda p, k=k, g=g: editor.replace_input(p, k, g, np.transpose))
                if rewrites:
                    yield Edit(
                        "transpose",
                        4,
                        f"uses the transpose of {editor.name(g)} in place of {editor.name(own)}",
                        f"use {editor.name(own)}",
                        rewrites,
                        eqn.source,
                        position,
                    )

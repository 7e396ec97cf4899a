"""A factor or a condition left out, inverted, or multiplied in once more."""

from collections.abc import Iterator
from typing import Any

import numpy as np

from jaxbias import _jaxpr
from jaxbias.verify.edits.editor import Edit, Editor, views
from jaxbias.verify.edits.kinds import equals, factor_kind, mask_kind

DERIVED: tuple[tuple[str, Any], ...] = (
    ("({})²", np.square),
    ("1/({})", lambda x: 1 / x),
    ("√({})", lambda x: np.sqrt(np.abs(x))),
    ("-({})", np.negative),
    ("1 - {}", lambda x: 1 - x),
    ("1 - ({})²", lambda x: 1 - x * x),
    ("{0} (1 - {0})", lambda x: x * (1 - x)),
    ("1/({})²", lambda x: x**-2.0),
    ("({})³", lambda x: x**3),
    ("cos({})", np.cos),
    ("sin({})", np.sin),
    ("exp({})", np.exp),
    ("1 + ({})²", lambda x: 1 + x * x),
    ("tanh({})", np.tanh),
    ("|{}|", np.abs),
    ("1 + {}", lambda x: 1 + x),
)


MASKS: tuple[tuple[str, Any], ...] = (("{}", np.asarray), ("not {}", np.logical_not))


SLOPES: tuple[tuple[str, Any], ...] = (
    ("1 - ({})²", lambda x: 1 - x * x),
    ("{0} (1 - {0})", lambda x: x * (1 - x)),
    ("{} > 0", lambda x: x > 0),
    ("1 - {}", lambda x: 1 - x),
    ("cos({})", np.cos),
    ("1/(1 + ({})²)", lambda x: 1 / (1 + x * x)),
    ("1/√(1 - ({})²)", lambda x: 1 / np.sqrt(1 - x * x)),
    ("sigmoid({})", lambda x: 1 / (1 + np.exp(-x))),
    ("1 - tanh({})²", lambda x: 1 - np.tanh(x) ** 2),
    ("1 + ({})²", lambda x: 1 + x * x),
    ("sign({})", np.sign),
    ("exp({})", np.exp),
)


def factors(editor: Editor, position: int, eqn: _jaxpr.Equation, linear: list[int]) -> Iterator[Edit]:
    """Leave a factor out."""
    if eqn.name in ("mul", "div") and len(linear) == 1 and not (eqn.name == "div" and linear == [1]):
        k = linear[0]
        f = eqn.inputs[1 - k]
        kind, what = factor_kind(editor, eqn, f)
        yield Edit(
            kind,
            2,
            f"leaves out the factor {editor.factor_name(eqn, f)}{what}",
            "multiply by it" if eqn.name == "mul" else "divide by it",
            editor.everywhere(
                position, lambda p, k=k: lambda read, inputs: [np.broadcast_to(inputs[k], editor.shape(p))]
            ),
            eqn.source,
            position,
            also=equals(kind, what),
            term=editor.name(f),
        )
        if eqn.name == "mul":
            yield Edit(
                "wrong-operand",
                3,
                f"divides by {editor.name(f)} where it must multiply",
                "multiply instead",
                editor.everywhere(position, lambda p, k=k: lambda read, inputs: [inputs[k] / inputs[1 - k]]),
                eqn.source,
                position,
            )
        else:
            yield Edit(
                "wrong-operand",
                3,
                f"multiplies by {editor.name(f)} where it must divide",
                "divide instead",
                editor.everywhere(position, lambda p: lambda read, inputs: [inputs[0] * inputs[1]]),
                eqn.source,
                position,
            )
    if eqn.name == "select_n" and len(eqn.inputs) == 3:
        kind, what = mask_kind(editor, eqn)
        for k in (1, 2):
            if k in linear:
                yield Edit(
                    kind,
                    2,
                    f"leaves out the condition {editor.name(eqn.inputs[0])}{what}",
                    "keep the gradient only where it holds",
                    editor.everywhere(position, lambda p, k=k: lambda read, inputs: [inputs[k]]),
                    eqn.source,
                    position,
                )
        yield Edit(
            "missing-mask",
            3,
            f"takes the opposite of the condition {editor.name(eqn.inputs[0])}",
            "invert the condition",
            editor.everywhere(position, lambda p: lambda read, inputs: [np.where(inputs[0], inputs[1], inputs[2])]),
            eqn.source,
            position,
            also=("wrong-operand",),
            repair=True,
        )


def derived(editor: Editor, position: int, eqn: _jaxpr.Equation, linear: list[int]) -> Iterator[Edit]:
    """A factor replaced by a simple function of another value, or applied once more."""
    if eqn.name in ("mul", "div", "dot_general"):
        for k, own in enumerate(eqn.inputs):
            if own in editor.linear or np.asarray(editor.values[own]).dtype.kind != "f":
                continue
            shape = editor.program.shapes[own]
            for g in editor.fresh:
                if g in editor.linear or editor.program.shapes[g] != shape:
                    continue
                if editor.born.get(g, -1) >= position:
                    continue
                for form, f in DERIVED:
                    rewrites = editor.everywhere(position, lambda p, k=k, g=g, f=f: editor.replace_input(p, k, g, f))
                    if not rewrites:
                        continue
                    text = form.format(editor.name(g).strip("`"))
                    kind = "wrong-operand"
                    with np.errstate(all="ignore"):
                        derived = f(np.asarray(editor.values[g]))
                    if np.allclose(derived, -np.asarray(editor.values[own]), rtol=1e-9, atol=0):
                        kind = "sign"
                    yield Edit(
                        kind,
                        4,
                        f"uses `{text}` in place of {editor.name(own)}{editor.about(eqn)}",
                        f"use {editor.name(own)}",
                        rewrites,
                        eqn.source,
                        position,
                    )
    if not linear or len(eqn.outputs) != 1 or eqn.name in ("broadcast_in_dim", "reshape", "neg"):
        return
    out = editor.shape(position)
    for g in editor.fresh:
        if g in editor.linear or editor.born.get(g, -1) >= position or not np.any(editor.values[g]):
            continue
        shape = editor.program.shapes[g]
        seen = views(shape, out)
        for view in seen:
            for divide in (False, True):
                text = f"{'divides' if divide else 'multiplies'} by {editor.name(g)} once too often{editor.about(eqn)}"
                kind, also = "wrong-operand", ("double-count", "extra-term")
                if editor.repairing and not divide:
                    kind, also = "missing-factor", ("wrong-operand",)
                    text = f"leaves out the factor {editor.name(g)}{editor.about(eqn)}"
                elif editor.repairing:
                    text = f"multiplies by {editor.name(g)} once too often{editor.about(eqn)}"
                elif divide:
                    kind, also = "missing-factor", ("wrong-operand",)
                    text = f"leaves out the factor {editor.name(g)}{editor.about(eqn)}"
                yield Edit(
                    kind,
                    4,
                    text,
                    "divide by it" if not divide else "multiply by it",
                    editor.everywhere(position, lambda p, g=g, v=view, d=divide: editor.times(p, g, v, d)),
                    eqn.source,
                    position,
                    also=also,
                    weight=0.1 * (len(seen) > 1),
                    repair=True,
                )


def lacking(editor: Editor, position: int, eqn: _jaxpr.Equation) -> Iterator[Edit]:
    """Repairs of a rule: a mask or the derivative of an activation multiplied in."""
    out = editor.shape(position)
    for number, value in enumerate(editor.values):
        known = isinstance(value, np.ndarray | np.generic) and number not in editor.linear
        if not known or editor.born.get(number, -1) >= position or editor.program.shapes[number] == ():
            continue
        kind = np.asarray(value).dtype.kind
        if kind not in "fb" or (kind == "f" and number not in editor.fresh):
            continue
        for view in views(editor.program.shapes[number], out):
            for form, f in MASKS if kind == "b" else SLOPES:
                text = form.format(editor.name(number).strip("`"))
                rewrites = editor.everywhere(position, lambda p, g=number, v=view, f=f: editor.times(p, g, v, False, f))
                name = "missing-mask" if kind == "b" else "missing-activation-derivative"
                yield Edit(
                    name,
                    4,
                    f"leaves out the factor `{text}`{editor.about(eqn)}",
                    "multiply by it",
                    rewrites,
                    eqn.source,
                    position,
                    repair=True,
                    also=("missing-factor",),
                )

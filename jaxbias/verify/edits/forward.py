"""Slips in values that the rule computes again from the forward."""

from collections.abc import Iterator

import numpy as np

from jaxbias import _jaxpr
from jaxbias.verify.edits.editor import ACTIVATIONS, Edit, Editor
from jaxbias.verify.edits.kinds import kind_of_factor, mask_kind


def forward_slips(editor: Editor, position: int, eqn: _jaxpr.Equation) -> Iterator[Edit]:
    """Mistakes in values that the rule recomputes from the forward."""
    name = eqn.name
    if not editor.float_out(eqn):
        return

    def edit(kind, text, fix, make, tier=2, **more):
        # a mistake in the backward itself is the simpler explanation
        return Edit(kind, tier, text, fix, editor.everywhere(position, make), eqn.source, position, weight=0.15, **more)

    out = editor.name(eqn.outputs[0])
    if name in ("add", "sub"):
        for k in (0, 1):
            dropped = editor.name(eqn.inputs[k])
            sign = -1.0 if name == "sub" and k == 0 else 1.0
            yield edit(
                "missing-term",
                f"leaves {dropped} out of {out}",
                f"use {out}",
                lambda q, k=k, s=sign: lambda read, xs: [np.broadcast_to(s * xs[1 - k], editor.shape(q))],
            )
            if name == "sub" and k == 0:
                yield edit(
                    "wrong-operand",
                    f"uses {editor.name(eqn.inputs[1])} in place of {out}",
                    f"use {out}",
                    lambda q: lambda read, xs: [np.broadcast_to(xs[1], editor.shape(q))],
                    also=("missing-term",),
                )
            yield edit(
                "double-count",
                f"counts {dropped} twice in {out}",
                f"use {out}",
                lambda q, k=k: lambda read, xs: editor.compute(q, [2 * x if j == k else x for j, x in enumerate(xs)]),
            )
        yield edit(
            "sign",
            f"has the wrong sign inside {out}",
            "flip the sign",
            lambda q: lambda read, xs: [xs[0] - xs[1] if name == "add" else xs[0] + xs[1]],
            repair=True,
        )
    if name == "one_minus_square":
        x = editor.name(eqn.inputs[0])
        for kind, form, f in (
            ("missing-factor", f"1 - {x}", lambda x: 1 - x),
            ("sign", f"1 + {x}²", lambda x: 1 + x * x),
            ("wrong-operand", f"{x}²", lambda x: x * x),
            ("missing-term", f"-{x}²", lambda x: -x * x),
            ("missing-factor", f"1 + {x}", lambda x: 1 + x),
        ):
            yield edit(kind, f"uses {form} in place of {out}", f"use {out}", lambda q, f=f: lambda read, xs: [f(xs[0])])
    if name == "select_n" and len(eqn.inputs) == 3:
        condition = editor.name(eqn.inputs[0])
        for k in (1, 2):
            yield edit(
                mask_kind(editor, eqn)[0],
                f"leaves the condition {condition} out of {out}",
                f"use {out}",
                lambda q, k=k: lambda read, xs: [np.broadcast_to(xs[k], editor.shape(q))],
            )
        yield edit(
            "missing-mask",
            f"takes the opposite of the condition {condition}",
            "invert the condition",
            lambda q: lambda read, xs: [np.where(xs[0], xs[1], xs[2])],
            also=("wrong-operand",),
            tier=3,
            repair=True,
        )
    if name in ("mul", "div"):
        for k in (0, 1):
            if name == "div" and k == 0:
                continue
            value = np.asarray(editor.values[eqn.inputs[k]])
            constant = value.size > 0 and bool(np.all(value == value.flat[0]))
            yield edit(
                "scale-constant" if constant else kind_of_factor(editor, eqn.inputs[k]),
                f"leaves {editor.factor_name(eqn, eqn.inputs[k])} out of {out}",
                f"use {out}",
                lambda q, k=k: lambda read, xs: [np.broadcast_to(xs[1 - k], editor.shape(q))],
            )
    if name in ACTIVATIONS and name not in ("max", "min", "clamp", "pow") and len(eqn.inputs) == 1:
        yield edit(
            "missing-factor" if name in ("integer_pow", "square", "sqrt", "rsqrt") else "wrong-operand",
            f"uses {editor.name(eqn.inputs[0])} in place of {out}",
            f"use {out}",
            lambda q: lambda read, xs: [xs[0]],
            tier=3,
        )
    yield edit(
        "sign",
        f"has the wrong sign of {out}",
        "flip the sign",
        lambda q: lambda read, xs: [-o for o in editor.compute(q, xs)],
        tier=2,
        repair=True,
    )
    for factor, text in ((2.0, "2"), (0.5, "1/2")):
        yield edit(
            "scale-constant",
            f"has a factor {text} too much in {out}",
            f"use {out}",
            lambda q, f=factor: lambda read, xs: [f * o for o in editor.compute(q, xs)],
            tier=3,
        )

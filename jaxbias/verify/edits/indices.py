"""Mistakes of where things go: transposed, shifted, flipped, overwritten, joined in another order."""

from collections.abc import Iterator
from typing import Any

import numpy as np

from jaxbias import _jaxpr
from jaxbias._jaxpr.in_numpy import scatter_accumulate, scatter_overwrite
from jaxbias.verify.edits.editor import Edit, Editor
from jaxbias.verify.edits.reductions import reductions, sums_spread_again


def special(editor: Editor, position: int, eqn: _jaxpr.Equation, linear: list[int]) -> Iterator[Edit]:
    """Mistakes of particular operations: transposed matrices, other axes, shifted indices, overwriting."""
    name, p = eqn.name, eqn.params
    back = bool(linear)

    def edit(kind, text, fix, make, **more):
        return Edit(kind, 2, text, fix, editor.everywhere(position, make), eqn.source, position, **more)

    if name in ("dot_general", "lu"):
        for k in range(len(eqn.inputs)):
            shape = editor.program.shapes[eqn.inputs[k]]
            if len(shape) >= 2 and shape[-1] == shape[-2]:
                yield edit(
                    "transpose",
                    f"transposes {editor.name(eqn.inputs[k])}{editor.about(eqn)}",
                    "transpose it",
                    lambda q, k=k: (
                        lambda read, xs: editor.compute(
                            q, [np.swapaxes(x, -1, -2) if j == k else x for j, x in enumerate(xs)]
                        )
                    ),
                )
    if name == "transpose":
        shape = editor.shape(position)
        if shape == editor.program.shapes[eqn.inputs[0]]:
            yield edit(
                "transpose", f"misses a transpose{editor.about(eqn)}", "transpose", lambda q: lambda read, xs: [xs[0]]
            )
        else:
            yield edit(
                "transpose",
                f"reshapes where it must transpose{editor.about(eqn)}",
                "transpose instead of reshaping",
                lambda q: lambda read, xs: [xs[0].reshape(editor.shape(q))],
            )
    if name in ("reduce_sum", "reduce_max", "reduce_min"):
        yield from reductions(editor, position, eqn, back, edit)
    if name == "scatter-add" and back:
        yield edit(
            "index-collision",
            f"overwrites where repeated indices must add up{editor.about(eqn)}",
            "use .at[...].add",
            lambda q: lambda read, xs: [scatter_overwrite(editor.active.equations[q].params, *xs)],
            also=("overwritten-not-accumulated",),
        )
        for shift in (-1, 1):
            yield edit(
                "wrong-index",
                f"is off by one in the indices{editor.about(eqn)}",
                f"shift the indices by {-shift}",
                lambda q, s=shift: lambda read, xs: editor.compute(q, [xs[0], xs[1] + s, *xs[2:]]),
            )
    if name == "scatter" and editor.repairing and eqn.inputs[2] in editor.linear:
        yield edit(
            "index-collision",
            f"overwrites where repeated indices must add up{editor.about(eqn)}",
            "use .at[...].add",
            lambda q: lambda read, xs: [scatter_accumulate(editor.active.equations[q].params, *xs)],
            also=("overwritten-not-accumulated",),
            repair=True,
        )
    if name in ("gather", "dynamic_slice"):
        for shift in (-1, 1):
            yield edit(
                "wrong-index",
                f"is off by one in the indices{editor.about(eqn)}",
                f"shift the indices by {-shift}",
                lambda q, s=shift: lambda read, xs: editor.compute(q, [xs[0], *(x + s for x in xs[1:])]),
            )
    if name in ("cumsum", "cummax", "cumprod", "cumlogsumexp"):
        yield edit(
            "wrong-index",
            f"accumulates in the wrong direction{editor.about(eqn)}",
            "reverse the direction",
            lambda q: lambda read, xs: editor.compute(q, xs, {**p, "reverse": not p["reverse"]}),
            also=("wrong-reduction-axis",),
        )
        if name == "cumsum":
            yield edit(
                "wrong-index",
                f"leaves the element itself out of the cumulative sum{editor.about(eqn)}",
                "include it",
                lambda q: lambda read, xs: [editor.compute(q, xs)[0] - xs[0]],
            )
            for axis in range(len(editor.shape(position))):
                if axis != p["axis"]:
                    yield edit(
                        "wrong-reduction-axis",
                        f"accumulates over axis {axis}, not {p['axis']}{editor.about(eqn)}",
                        f"use axis {p['axis']}",
                        lambda q, a=axis: lambda read, xs: editor.compute(q, xs, {**p, "axis": a}),
                    )
    if name == "rev":
        yield edit("wrong-index", f"misses a flip{editor.about(eqn)}", "flip", lambda q: lambda read, xs: [xs[0]])
    if name == "pad" and back and any(lo != hi for lo, hi, _ in p["padding_config"]):
        yield edit(
            "wrong-index",
            f"puts the gradient at the wrong end{editor.about(eqn)}",
            "swap the two ends",
            lambda q: (
                lambda read, xs: editor.compute(
                    q, xs, {**p, "padding_config": tuple((hi, lo, i) for lo, hi, i in p["padding_config"])}
                )
            ),
        )
    if name in ("pad", "slice") and back:
        for shift in (-1, 1):
            for axis in range(len(editor.shape(position))):
                yield edit(
                    "wrong-index",
                    f"is off by one along axis {axis}{editor.about(eqn)}",
                    f"shift by {-shift}",
                    lambda q, s=shift, a=axis: lambda read, xs: [shifted(editor.compute(q, xs)[0], s, a)],
                )
    if name == "concatenate" and len(linear) > 1:
        shapes = {editor.program.shapes[i] for i in eqn.inputs}
        if len(shapes) == 1:
            yield edit(
                "swapped-outputs",
                f"joins the parts in the wrong order{editor.about(eqn)}",
                "exchange them",
                lambda q: lambda read, xs: editor.compute(q, xs[::-1]),
            )
    if name == "broadcast_in_dim" and back:
        yield from sums_spread_again(editor, position, eqn, edit)
    if name in ("gather", "sort", "reduce_window_sum", "select_and_scatter_add", "conv_general_dilated"):
        return


def shifted(x: Any, shift: int, axis: int) -> Any:
    rolled = np.roll(x, shift, axis)
    edge = [slice(None)] * x.ndim
    edge[axis] = slice(0, 1) if shift > 0 else slice(-1, None)
    rolled[tuple(edge)] = 0
    return rolled

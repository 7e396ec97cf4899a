"""Sums over other axes, or not taken at all."""

import itertools
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from jaxbias import _jaxpr
from jaxbias.verify.edits.editor import Edit, Editor


def reductions(editor: Editor, position: int, eqn: _jaxpr.Equation, back: bool, edit: Any) -> Iterator[Edit]:
    p = eqn.params
    shape = editor.program.shapes[eqn.inputs[0]]
    out = editor.shape(position)
    for axes in itertools.combinations(range(len(shape)), len(p["axes"])):
        rest = tuple(n for a, n in enumerate(shape) if a not in axes)
        if axes != tuple(p["axes"]) and rest == out:
            yield edit(
                "wrong-reduction-axis",
                f"reduces over axis {axes_text(axes)}, not {axes_text(p['axes'])}{editor.about(eqn)}",
                f"use axis={axes_text(p['axes'])}",
                lambda q, a=axes: lambda read, xs: editor.compute(q, xs, {**p, "axes": a}),
            )
    if not back:
        return
    count = int(np.prod([shape[a] for a in p["axes"]]))
    if count > 1:
        for k, which in ((-1, "last"), (0, "first")):
            yield edit(
                "overwritten-not-accumulated",
                f"keeps only the {which} contribution of a sum over axis {axes_text(p['axes'])}{editor.about(eqn)}",
                f"sum over axis {axes_text(p['axes'])}",
                lambda q, k=k: lambda read, xs: [take(xs[0], p["axes"], k)],
                also=("only-some-elements",),
            )
        yield edit(
            "wrong-operand",
            f"takes the maximum where it must sum{editor.about(eqn)}",
            "sum",
            lambda q: lambda read, xs: [xs[0].max(axis=tuple(p["axes"]))],
        )


def sums_spread_again(
    editor: Editor, position: int, eqn: _jaxpr.Equation, edit: Any, collected: bool = False
) -> Iterator[Edit]:
    """A sum that is broadcast back, as in softmax and in normalisations: over another axis, or not summed.

    Args:
        collected: tell `edit` also which axes are exchanged, so that such edits can be grouped.
    """
    chain, number = [], eqn.inputs[0]
    while number in editor.born and len(chain) < 7:
        maker = editor.equations[editor.born[number]]
        linear = [i for i in maker.inputs if i in editor.linear]
        if maker.name == "reduce_sum":
            break
        if len(linear) != 1 or maker.name not in ("reshape", "mul", "div", "neg", "broadcast_in_dim", "squeeze"):
            return
        chain.append(maker)
        number = linear[0]
    else:
        return
    full = editor.program.shapes[maker.inputs[0]]
    target = editor.shape(position)
    true_axes = tuple(maker.params["axes"])
    kept_axes = tuple(1 if a in true_axes else n for a, n in enumerate(full))
    if target not in (full, kept_axes):  # either spread, or left to the broadcasting of what follows
        return
    summed, spread = np.asarray(editor.values[maker.outputs[0]]), np.asarray(editor.values[eqn.outputs[0]])
    kept = np.broadcast_to(np.expand_dims(summed, true_axes), target)
    if not np.any(kept):
        return
    largest = np.argmax(np.abs(kept))  # some sums may be zero, as those of what a kink masks
    scale = float(spread.flat[largest] / kept.flat[largest])
    if not np.allclose(spread, scale * kept, rtol=1e-9, atol=0):
        return
    spread_out = target == full
    x = maker.inputs[0]

    def summed_over(value, axes, mean):
        """In place of the true sum, or of the true mean."""
        factor = np.prod([value.shape[a] for a in true_axes]) / np.prod([value.shape[a] for a in axes]) if mean else 1.0
        total = scale * factor * value.sum(axis=axes, keepdims=True)
        if spread_out:
            return total + 0 * value
        if set(axes) > set(true_axes):  # what follows expects the shape that the true axes leave
            total = np.broadcast_to(total, [1 if a in true_axes else n for a, n in enumerate(value.shape)])
        return total

    for count in range(len(full) + 1):
        for axes in itertools.combinations(range(len(full)), count):
            if axes == true_axes:
                continue
            for mean in (False, True):
                if count == 0:
                    kind, text = "missing-term", f"does not sum over axis {axes_text(true_axes)}"
                    also = ("wrong-reduction-axis",)
                else:
                    kind, also = "wrong-reduction-axis", ()
                    text = f"sums over axis {axes_text(axes)}, not {axes_text(true_axes)}"
                yield edit(
                    kind,
                    f"{text}{editor.about(eqn)}",
                    f"sum over axis {axes_text(true_axes)} with keepdims",
                    lambda q, a=axes, m=mean: lambda read, xs: [summed_over(read(x), a, m)],
                    also=also,
                    **({"change": (true_axes, axes, mean)} if collected else {}),
                )


def take(x: Any, axes: Sequence[int], k: int) -> Any:
    for axis in sorted(axes, reverse=True):
        x = np.take(x, k, axis=axis)
    return x


def axes_text(axes: Sequence[int]) -> str:
    return str(axes[0]) if len(axes) == 1 else str(tuple(int(a) for a in axes))

"""One mistake in several places: a condition or a factor forgotten wherever it occurs, every sum over a wrong axis.

Autodiff may use a value several times where a person writes it once, and a person who forgets a mask in a forward that
the rule computes again forgets it in the backward too.
"""

import itertools
from collections import defaultdict
from collections.abc import Iterator
from typing import Any

import numpy as np

from jaxbias import _jaxpr
from jaxbias.verify.edits.editor import Edit, Editor
from jaxbias.verify.edits.kinds import factor_kind, mask_kind
from jaxbias.verify.edits.reductions import sums_spread_again


def repeated(editor: Editor) -> Iterator[Edit]:
    """Edits of several equations at once; where there is only one, the single edits cover it."""
    yield from _conditions(editor)
    yield from _factors(editor)
    yield from _sums(editor)
    yield from _joined_parts(editor)


def _key(editor: Editor, number: int) -> Any:
    """The same for values that are equal, and for one value of a loop in all of its iterations."""
    slot = editor.slot_of.get(number)
    if slot is not None and len(editor.slots[slot]) > 1:
        return slot
    value = np.asarray(editor.values[number])
    return value.size, hash(value.tobytes())


def _together(editor: Editor, kind: str, text: str, fix: str, rewrites: dict[int, Any], **more: Any) -> Edit:
    position = max(rewrites)
    source = editor.equations[position].source
    return Edit(kind, 2, text, fix, rewrites, source, position, weight=0.3, **more)


def _conditions(editor: Editor) -> Iterator[Edit]:
    places: dict[Any, list[int]] = defaultdict(list)
    for position, eqn in enumerate(editor.equations):
        if editor.needed[position] and eqn.name == "select_n" and len(eqn.inputs) == 3:
            places[_key(editor, eqn.inputs[0])].append(position)
    for positions in places.values():
        if len(positions) < 2:
            continue
        eqn = editor.equations[positions[-1]]
        kind, what = mask_kind(editor, eqn)
        for k in (1, 2):
            yield _together(
                editor,
                kind,
                f"leaves out the condition {editor.name(eqn.inputs[0])} wherever it occurs{what}",
                "apply it",
                {p: lambda read, xs, k=k: [xs[k]] for p in positions},
            )


def _factors(editor: Editor) -> Iterator[Edit]:
    """A factor forgotten in the whole backward, or in the forward that the rule computes again as well."""
    places: dict[Any, list[tuple[int, int]]] = defaultdict(list)
    for position, eqn in enumerate(editor.equations):
        if not editor.needed[position] or eqn.name not in ("mul", "div"):
            continue
        for k, number in enumerate(eqn.inputs):
            if number in editor.linear or (eqn.name == "div" and k == 0):
                continue
            if np.asarray(editor.values[number]).dtype.kind == "f":
                places[eqn.name, _key(editor, number)].append((position, k))
    for found in places.values():
        back = [(p, k) for p, k in found if editor.equations[p].inputs[1 - k] in editor.linear]
        for chosen in [back, found] if len(found) > len(back) else [back]:
            sites = {editor.slot_of[editor.equations[p].outputs[0]] for p, _ in chosen}
            if len(sites) < 2 or not back:
                continue
            position, k = back[0]
            eqn = editor.equations[position]
            kind, what = factor_kind(editor, eqn, eqn.inputs[k])
            rewrites = {p: lambda read, xs, p=p, k=k: [np.broadcast_to(xs[1 - k], editor.shape(p))] for p, k in chosen}
            text = f"leaves out the factor {editor.factor_name(eqn, eqn.inputs[k])} wherever it occurs{what}"
            yield _together(editor, kind, text, "multiply by it", rewrites, also=("missing-factor",))


def _sums(editor: Editor) -> Iterator[Edit]:
    """Every sum that is broadcast back, as those of a normalisation, over the same wrong axis."""
    groups: dict[Any, list[tuple[str, dict[int, Any]]]] = defaultdict(list)

    def collect(position: int, eqn: _jaxpr.Equation) -> None:
        def edit(kind, text, fix, make, also=(), change=()):
            groups[kind, fix, also, change].append((text, editor.everywhere(position, make)))

        list(sums_spread_again(editor, position, eqn, edit, collected=True))

    for position, eqn in enumerate(editor.equations):
        broadcast = eqn.name == "broadcast_in_dim" and editor.needed[position] and editor.leader(position)
        if broadcast and any(i in editor.linear for i in eqn.inputs):
            collect(position, eqn)
    for (kind, fix, also, _), rows in groups.items():
        if len(rows) > 1:
            rewrites = {p: rewrite for _, each in rows for p, rewrite in each.items()}
            yield _together(editor, kind, f"{rows[-1][0]} and elsewhere", fix, rewrites, also=also)


def _joined_parts(editor: Editor) -> Iterator[Edit]:
    """Two parts exchanged in every concatenation of as many parts, as the gates of a recurrent cell."""
    places: dict[Any, list[int]] = defaultdict(list)
    for position, eqn in enumerate(editor.equations):
        linear = [i for i in eqn.inputs if i in editor.linear]
        if eqn.name == "concatenate" and editor.needed[position] and len(linear) == len(eqn.inputs) > 1:
            places[tuple(editor.program.shapes[i][eqn.params["dimension"]] for i in eqn.inputs)].append(position)
    for sizes, positions in places.items():
        for a, b in itertools.combinations(range(min(len(sizes), 5)), 2):
            if sizes[a] != sizes[b]:
                continue
            order = [{a: b, b: a}.get(k, k) for k in range(len(sizes))]
            line = editor.about(editor.equations[positions[-1]])
            yield _together(
                editor,
                "swapped-outputs",
                f"exchanges parts {a} and {b} of {len(sizes)} that are joined{line}",
                "exchange them",
                {p: lambda read, xs, p=p, order=order: editor.compute(p, [xs[k] for k in order]) for p in positions},
                also=("wrong-operand", "wrong-index"),
            )

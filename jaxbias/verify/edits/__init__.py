"""Single edits of the true backward pass: each is a mistake that a person could have made, as a rewrite of equations.

The backward pass is the jaxpr of autodiff, so an edit can leave out a factor or a term, flip a sign, sum over another
axis, take another intermediate, forget a mask, overwrite where it must add. An edit that reproduces what the rule
returns is the diagnosis. Edits come in tiers, the simplest first. What stands in a loop is edited in every iteration.
"""

from collections.abc import Iterator

from jaxbias.verify.edits.editor import Edit as Edit
from jaxbias.verify.edits.editor import Editor as Editor
from jaxbias.verify.edits.editor import views as views
from jaxbias.verify.edits.factors import derived, factors, lacking
from jaxbias.verify.edits.forward import forward_slips
from jaxbias.verify.edits.indices import special
from jaxbias.verify.edits.operands import operands, shortcuts
from jaxbias.verify.edits.repeated import repeated
from jaxbias.verify.edits.terms import extras, terms

LOOP_PARTS = {"loop_index", "loop_stack"}


def edits(editor: Editor, tier: int) -> Iterator[Edit]:
    """Edits of one tier."""
    for position, eqn in enumerate(editor.equations):
        if not editor.needed[position] or not editor.leader(position):
            continue
        linear = [k for k, i in enumerate(eqn.inputs) if i in editor.linear]
        if tier == 1 and linear:
            yield from terms(editor, position, eqn, linear)
        if eqn.name in LOOP_PARTS:
            continue
        if tier == 2:
            yield from special(editor, position, eqn, linear)
            if linear:
                yield from factors(editor, position, eqn, linear)
            else:
                yield from forward_slips(editor, position, eqn)
        if tier == 3:
            yield from shortcuts(editor, position, eqn, linear)
            yield from operands(editor, position, eqn, linear)
        if tier == 4:
            yield from derived(editor, position, eqn, linear)
            if linear:
                yield from extras(editor, position, eqn)
            if linear and editor.repairing and len(eqn.outputs) == 1:
                yield from lacking(editor, position, eqn)
    if tier == 2:
        yield from repeated(editor)

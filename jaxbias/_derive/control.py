"""Loops and choices: how they are read, and their error signals, which are a loop from the last pass to the first and
the same choice between the branches' own backward passes.

A body is read and derived as a function is. What is the same in every pass is computed before the loop. What the
backward of a pass reads is stacked by the loop; what a pass was handed is the stack of what passes hand on, moved by
one. Error signals of what the body closes over are summed from pass to pass.
"""

import keyword
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from jaxbias import _jaxpr
from jaxbias._derive.backward import Backward
from jaxbias._derive.pairs import Pair
from jaxbias._derive.scope import Scope, Whole
from jaxbias._derive.statements import Body, Choice, Loop, names_in
from jaxbias._derive.values import Values
from jaxbias.symbols import expressions as ex
from jaxbias.symbols import queries
from jaxbias.symbols.expressions import Expression
from jaxbias.symbols.names import parameters

Names = Sequence[str | None]


def function_name(equation: _jaxpr.Equation, otherwise: str) -> str:
    """Name of the function that an equation calls, as its author wrote it."""
    name = next((body.signature.function for body in equation.bodies), "")
    text = name if name.isidentifier() else re.sub(r"\W+", "_", otherwise).strip("_") or "step"
    return f"{text}_loop" if keyword.iskeyword(text) else text


def free_numbers(body: Scope) -> list[int]:
    """Values of a function around it that a body reads, in order."""
    read = [number for step in body.steps for number in step.inputs]
    own = [n for n in dict.fromkeys([*read, *body.outputs]) if not body.makes(n)]
    return [n for n in own if body.values.of[n].op != "number"]


# --- loops ------------------------------------------------------------------------------------------------------------


@dataclass
class _Scan:
    """A loop that has been read."""

    body: Scope
    statement: Loop
    pair: Pair | None
    free: list[int]
    n_carried: int
    left: list[Expression]  # what every pass leaves: the outputs of the body, then what its backward reads


def read_scan(reading: Scope, equation: _jaxpr.Equation, inputs: Sequence[int], names: Names) -> list[int]:
    """A `lax.scan`."""
    values, program = reading.values, equation.bodies[0]
    n_consts, n_carried = equation.carried
    called = [*parameters(program.signature), *[""] * len(program.inputs)][: len(program.inputs)]
    forms = [(program.shapes[i], program.dtypes[i]) for i in program.inputs]
    inside = []
    for k in range(n_consts, len(inputs)):
        text = called[k] or (f"carried_{k}" if k < n_consts + n_carried else f"slice_{k}")
        inside.append(values.new(values.variable(text, *forms[k])))
    body = reading.body(program, [*inputs[:n_consts], *inside], inside)
    for k, number in enumerate(body.outputs[:n_carried]):
        if body.makes(number) and ex.is_inexact(values.of[number]):
            body.define(number, values.of[inside[k]].detail)
    free = free_numbers(body)
    for number in free:
        body.named_above(number)
    outer = [_exactly(values.of[i]) for i in inputs[n_consts:]]
    ends, stacks = [], []
    for k, (shape, dtype) in enumerate(zip(equation.shapes.outputs, equation.dtypes.outputs)):
        text = names[k]
        if text is None:
            inner = ex.bare(values.of[inside[k] if k < n_carried else body.outputs[k]])
            stem = inner.detail if inner.op == "name" else "y"
            text = f"{stem}_end" if k < n_carried else f"{stem}s"
        (ends if k < n_carried else stacks).append(values.variable(text, shape, dtype))
    carried = [values.of[n] for n in inside[:n_carried]]
    taken = [values.of[n] for n in inside[n_carried:]]
    left = [values.of[n] for n in body.outputs[n_carried:]]
    scan = _Scan(body, None, None, free, n_carried, left)  # type: ignore[arg-type]
    function = values.unique(function_name(equation, "step"))
    scan.statement = Loop(
        function, carried, taken, outer[:n_carried], outer[n_carried:], ends, stacks, lambda keep: _passes(scan, keep),
        equation.params["length"], bool(equation.params["reverse"]),
    )  # fmt: skip
    reading.statements.append(scan.statement)
    step = Whole(equation, (*free, *inputs[n_consts:]), (), lambda *args: _pull_scan(scan, *args))
    return reading.step(step, [*ends, *stacks])


def _exactly(x: Expression) -> Expression:
    """With its dtype, where it is a number: a loop hands on what it was given."""
    if x.op != "number":
        return x
    text = "jnp.zeros((), jnp.{1})" if x.detail == 0 else "jnp.asarray({0}, jnp.{1})"
    return ex.call(text.replace("{1}", str(x.dtype)), [x], (), x.dtype)


def _passes(scan: _Scan, keep: Sequence[bool]) -> Body:
    """The forward of a pass, as text."""
    if scan.pair is None:
        scan.pair = Pair(scan.body, [None] * len(scan.body.outputs), [], "named")
    values = scan.body.values
    carried = [values.of[n] for n in scan.body.outputs[: scan.n_carried]]
    left = [x for x, kept in zip(scan.left, keep) if kept]
    lines, texts, reads = scan.pair.forward_of([*carried, *left])
    return Body(lines, texts[: len(carried)], texts[len(carried) :], reads)


def _pull_scan(
    scan: _Scan, backward: Backward, step: Whole, deltas: Sequence[Expression | None]
) -> list[Expression | None]:
    values, body, n = backward.values, scan.body, scan.n_carried
    starts, sequences = step.inputs[len(scan.free) : len(scan.free) + n], step.inputs[len(scan.free) + n :]
    inside = body.inputs[len(body.inputs) - n - len(sequences) :]
    outs = body.outputs
    inexact = [ex.is_inexact(values.of[i]) for i in inside]
    # signals come to a carried value from the end, from what passes leave, and from later passes
    live = {k for k in range(n) if deltas[k] is not None}
    while True:
        sent = [outs[k] for k in range(len(outs)) if (k in live if k < n else deltas[k] is not None)]
        reached = _reached(body, sent)
        more = {k for k in range(n) if inside[k] in reached and inexact[k]}
        if more <= live:
            break
        live |= more
    # they are asked for where it comes from an argument that is
    asked = {k for k in range(n) if starts[k] in backward.needed}
    from_outside = {m for m in scan.free if m in backward.needed} | {
        inside[n + k] for k, m in enumerate(sequences) if m in backward.needed
    }
    while True:
        leading = backward.leading(body, from_outside | {inside[k] for k in asked})
        more = {k for k in range(n) if outs[k] in leading}
        if more <= asked:
            break
        asked |= more
    active = [k for k in range(n) if k in live and k in asked and inexact[k]]
    # the backward of a pass
    signals: list[Expression | None] = [None] * len(outs)
    for k in active:
        core = values.of[inside[k]]
        signals[k] = values.variable(f"d_{core.detail}", core.shape, core.dtype)
    left = [k for k in range(n, len(outs)) if deltas[k] is not None]
    for k in left:
        core = values.of[outs[k]]
        signals[k] = values.variable(f"d_{scan.statement.stacks[k - n].detail}_t", core.shape, core.dtype)
    of_free = [m for m in scan.free if m in backward.needed and ex.is_inexact(values.of[m])]
    of_slices = [
        k for k, m in enumerate(sequences) if m in backward.needed and inexact[n + k] and inside[n + k] in reached
    ]
    wanted = [*(inside[k] for k in active), *of_free, *(inside[n + k] for k in of_slices)]
    pair = scan.pair = Pair(body, signals, wanted, backward.keep)
    gradients = pair.backward.gradients
    silent = [k for k, x in enumerate(gradients) if len(active) <= k < len(active) + len(of_free) and ex.is_zero(x)]
    of_free = [m for k, m in enumerate(of_free, len(active)) if k not in silent]
    totals = []
    for m in of_free:
        core, name = values.of[m], ex.bare(values.of[m])
        text = name.detail if name.op == "name" else queries.word_for(core)
        totals.append(values.variable(f"d_{text}", core.shape, core.dtype))
    kept = [k for k in range(len(gradients)) if k not in silent]
    texts = pair.write_backward(
        {wanted[k]: total for k, total in zip([k for k in kept if k >= len(active)], totals)}, kept
    )
    residuals = _stacked(scan, pair)
    # the loop over them
    delta_names = [s for k, s in enumerate(signals[n:], n) if s is not None]
    ends = [_signal_name(values, starts[k], values.of[inside[k]].detail) for k in active]
    slices = [_signal_name(values, sequences[k], values.of[inside[n + k]].detail) for k in of_slices]
    n_carried = len(active) + len(of_free)
    read = pair.backward_reads.union(*(names_in([sequence]) for _, sequence in residuals))
    made = Body(pair.backward_lines, texts[:n_carried], texts[n_carried:], pair.backward_reads)
    ours = {x.detail for x in [*delta_names, *(name for name, _ in residuals)]}
    carried = [*(signals[k] for k in active), *totals]
    backward.statements.append(
        Loop(
            values.unique(f"{scan.statement.function}_back"),
            carried,  # type: ignore[arg-type]
            [*delta_names, *(name for name, _ in residuals)],
            [
                *(deltas[k] or _zeros(values.of[starts[k]], read) for k in active),
                *(_zeros(values.of[m], read) for m in of_free),
            ],
            [*(deltas[k] for k in left), *(sequence for _, sequence in residuals)],  # type: ignore[list-item]
            [*ends, *totals],
            slices,
            lambda keep: made,
            scan.statement.length,
            not scan.statement.reverse,
            pair.backward_reads - ours - {x.detail for x in carried if x is not None},
        )
    )
    pulled = dict(zip(of_free, totals)) | {starts[k]: end for k, end in zip(active, ends)}
    sent = [pulled.get(m) for m in scan.free]
    sent += [ends[active.index(k)] if k in active else None for k in range(n)]
    return sent + [slices[of_slices.index(k)] if k in of_slices else None for k in range(len(sequences))]


def _reached(body: Scope, outputs: Sequence[int]) -> set[int]:
    """The values that outputs of a body are computed from."""
    reached = set(outputs)
    for step in reversed(body.steps):
        if reached.intersection(step.outputs):
            reached.update(step.inputs)
    return reached


def _zeros(like: Expression, read: set[str]) -> Expression:
    """Zeros in a shape: like a variable, if it is at hand."""
    if like.op == "name" and like.detail in read:
        return ex.call("jnp.zeros_like({0})", [like], like.shape, like.dtype)
    return _exactly(ex.zeros(like))


def _signal_name(values: Values, number: int, otherwise: str) -> Expression:
    core = values.of[number]
    name = ex.bare(core)
    text = name.detail if name.op == "name" else f"{otherwise}_0"
    return values.variable(f"d_{text}", core.shape, core.dtype)


def _stacked(scan: _Scan, pair: Pair) -> list[tuple[Expression, Expression]]:
    """What the backward of a pass reads of its forward: the name there, and all passes of it."""
    loop, values, residuals = scan.statement, scan.body.values, []
    of_forward = {x.detail: x for x in [*loop.taken, *loop.carried]} | pair.made
    for text in [text for text in of_forward if text in pair.backward_reads]:
        x = of_forward[text]
        name = ex.name(text, x.shape, x.dtype)
        if x in loop.taken:
            residuals.append((name, loop.sequences[loop.taken.index(x)]))
            continue
        if x in loop.carried:
            k = loop.carried.index(x)
            handed_on = values.of[scan.body.outputs[k]]
            if handed_on in scan.left or (handed_on.op == "name" and handed_on.detail in pair.backward_reads):
                stack, start = _stack(scan, handed_on), loop.starts[k]
                text = (
                    "jnp.concatenate([{1}[1:], {0}[None]])"
                    if loop.reverse
                    else "jnp.concatenate([{0}[None], {1}[:-1]])"
                )
                residuals.append((name, ex.call(text, [start, stack], stack.shape, stack.dtype)))
                continue
        residuals.append((name, _stack(scan, x)))
    return residuals


def _stack(scan: _Scan, x: Expression) -> Expression:
    """All passes of a value, which the loop leaves if it did not."""
    if x in scan.left:
        return scan.statement.stacks[scan.left.index(x)]
    text = x.detail if x.op == "name" else scan.pair.texts[x]  # type: ignore[union-attr]
    stack = scan.body.values.variable(f"{text}s", (scan.statement.length, *x.shape), x.dtype)
    scan.left.append(x)
    scan.statement.stacks.append(stack)
    return stack


# --- choices ----------------------------------------------------------------------------------------------------------


def read_cond(reading: Scope, equation: _jaxpr.Equation, inputs: Sequence[int], names: Names) -> list[int]:
    """A `lax.cond` or `lax.switch`."""
    values = reading.values
    branches = [reading.body(program, inputs[1:], ()) for program in equation.bodies]
    free = list(dict.fromkeys(n for branch in branches for n in free_numbers(branch)))
    for number in free:
        branches[0].named_above(number)
    usual = ("otherwise", "then") if len(branches) == 2 else [f"branch_{k}" for k in range(len(branches))]
    called = [body.signature.function for body in equation.bodies]
    functions = tuple(values.unique(text if text.isidentifier() else word) for text, word in zip(called, usual))
    forms = zip(equation.shapes.outputs, equation.dtypes.outputs)
    outs = [values.variable(text or "chosen", *form) for text, form in zip(names, forms)]

    def written() -> list[Body]:
        return [_branch(branch) for branch in branches]

    which = _predicate(values.of[inputs[0]]) if len(branches) == 2 else values.of[inputs[0]]
    reading.statements.append(Choice(functions, which, outs, written))

    def pull(backward: Backward, step: Whole, deltas: Sequence[Expression | None]) -> list[Expression | None]:
        return _pull_cond(branches, free, which, functions, backward, deltas)

    return reading.step(Whole(equation, tuple(free), (), pull), outs)


def _predicate(x: Expression) -> Expression:
    """The bool that an index of two was made of."""
    core = ex.bare(x)
    return core.args[0] if core.op == "cast" and core.args[0].dtype == bool else core


def _branch(branch: Scope) -> Body:
    pair = Pair(branch, [None] * len(branch.outputs), [], "named")
    lines, texts, reads = pair.forward_of([branch.values.of[n] for n in branch.outputs])
    return Body(lines, texts, [], reads)


def _pull_cond(
    branches: Sequence[Scope],
    free: Sequence[int],
    which: Expression,
    functions: Sequence[str],
    backward: Backward,
    deltas: Sequence[Expression | None],
) -> list[Expression | None]:
    values = backward.values
    wanted = [m for m in free if m in backward.needed and ex.is_inexact(values.of[m])]
    given = [delta if delta is None or delta.op in ("name", "number") else backward.line(delta) for delta in deltas]
    made = []
    for branch in branches:
        pair = Pair(branch, given, wanted, "named")
        texts = pair.write_backward({}, range(len(wanted)))
        needed = pair.backward_reads & set(pair.made)
        lines, _, reads = pair.forward_of([pair.made[text] for text in pair.made if text in needed])
        own = reads | (pair.backward_reads - set(pair.made))
        made.append(Body([*lines, *pair.backward_lines], texts, [], own))
    totals = []
    for m in wanted:
        core, name = values.of[m], ex.bare(values.of[m])
        text = name.detail if name.op == "name" else queries.word_for(core)
        totals.append(values.variable(f"d_{text}", core.shape, core.dtype))
    backs = tuple(values.unique(f"{function}_back") for function in functions)
    read = set().union(*(body.reads for body in made))
    if wanted:
        backward.statements.append(Choice(backs, which, totals, lambda: made, read))
    sent = dict(zip(wanted, totals))
    return [sent.get(m) for m in free]


READ: dict[str, Callable[[Scope, _jaxpr.Equation, Sequence[int], Names], list[int]]] = {
    "scan": read_scan,
    "cond": read_cond,
}

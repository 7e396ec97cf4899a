"""Evaluates programs: in NumPy and float64, again with some equations rewritten, or by any other step."""

import math
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer

from jaxbias._jaxpr import in_numpy
from jaxbias._jaxpr.in_numpy import DRAWS, as_array, cast
from jaxbias._jaxpr.program import CALLED_WHOLE, CONTROL_FLOW, Equation, Program, read, trace_inlined

Step = Callable[[int, Equation, list[Any]], Sequence[Any]]
"""`(position, equation, inputs) -> outputs` of one equation."""

Rewrite = Callable[[Callable[[int], Any], list[Any]], list[Any]]
"""`(read, inputs) -> outputs` in place of one equation; `read(number)` gives any value computed so far."""


def run_by(step: Step, program: Program, inputs: Iterable[Any]) -> list[Any]:
    """Outputs of the program, each equation carried out by `step`; what is no longer needed is let go on the way."""
    last = {number: k for k, equation in enumerate(program.equations) for number in equation.inputs}
    last |= dict.fromkeys(program.outputs, len(program.equations))
    values = dict(program.constants) | dict(zip(program.inputs, inputs))
    for k, equation in enumerate(program.equations):
        outs = step(k, equation, [values[i] for i in equation.inputs])
        values.update((number, out) for number, out in zip(equation.outputs, outs) if number in last)
        for number in equation.inputs:
            if last[number] == k:
                values.pop(number, None)
    return [values[i] for i in program.outputs]


def run_in_jax(program: Program, inputs: Iterable[Any]) -> list[Any]:
    """Outputs of the program under JAX, so that it can be traced, differentiated and mapped again."""
    return run_by(lambda _, equation, values: equation.bind(*values), program, inputs)


def with_draws_held(function: Callable[..., Any], *args: Any) -> Callable[..., Any]:
    """`function` for arguments like these, with all that depends on none of them computed in its own dtypes.

    Random numbers from a key that it closes over are then constants, whoever evaluates it, and in whatever precision.
    """
    program, shapes = trace_inlined(function, *args)

    def step(_, equation: Equation, values: list[Any]) -> list[Any]:
        if any(isinstance(value, Tracer) for value in values):
            return equation.bind(*values)
        with jax.ensure_compile_time_eval():
            return equation.bind(*values)

    def run(*args: Any) -> Any:
        return jax.tree.unflatten(jax.tree.structure(shapes), run_by(step, program, jax.tree.leaves(args)))

    return run


# --- in NumPy ---------------------------------------------------------------------------------------------------------


class Endless(RuntimeError):
    """A loop that has not ended in the time that it was given; at some values, or after an edit, it may never."""


_LONGEST: ContextVar[float] = ContextVar("seconds that a loop may take", default=math.inf)


@contextmanager
def loops_end_within(seconds: float) -> Iterator[None]:
    """Within, a loop of unknown length that takes more processor time raises `Endless`."""
    token = _LONGEST.set(seconds)
    try:
        yield
    finally:
        _LONGEST.reset(token)


def let_loops_take(seconds: float) -> None:
    """From now on another time, until the end of `loops_end_within`."""
    _LONGEST.set(seconds)


def _in_time(program: Program, inputs: list[Any], end: float) -> list[Any]:
    if time.process_time() > end:
        raise Endless("a loop did not end in the time for it")
    return run(program, inputs)


def apply(equation: Equation, inputs: Sequence[Any], params: dict[str, Any] | None = None) -> list[Any]:
    """Outputs of one equation, optionally with other parameters than it was traced with."""
    if equation.bodies:
        end = time.process_time() + _LONGEST.get() if equation.test is not None else math.inf
        return control_flow(equation, inputs, lambda body, values: _in_time(body, values, end))
    value = in_numpy.VALUE.get(equation.name)
    if value is None or any(isinstance(x, jax.Array) for x in inputs if type(x) is not np.ndarray):
        return _by_jax(equation, inputs)
    out = value(equation.params if params is None else params, *inputs)
    return list(out) if isinstance(out, list) else [out]


def _by_jax(equation: Equation, inputs: Sequence[Any]) -> list[Any]:
    """One equation as JAX carries it out, in float64 where the traced function has floats."""
    dtypes = equation.dtypes.inputs
    bits = equation.name == "bitcast_convert_type" or equation.name in DRAWS
    compiled = equation.name in ("pallas_call", "shard_map")  # else compiled each time
    bind = equation.compiled if compiled else lambda *values: _bound(equation, values)
    with jax.enable_x64(True):  # and with JAX arrays: primitives of other packages may take nothing else
        try:
            outs = bind(*(jnp.asarray(cast(x, dtype, widen=not bits)) for x, dtype in zip(inputs, dtypes)))
        except (TypeError, ValueError, jax.errors.JaxRuntimeError):  # it insists on the dtypes it was traced with
            try:
                outs = bind(*(jnp.asarray(cast(x, dtype)) for x, dtype in zip(inputs, dtypes)))
            except ValueError as error:
                if equation.name.endswith("callback"):  # JAX hands on what the user's function raised, in this type
                    raise RuntimeError(str(error)) from error
                raise
    return [as_array(out) for out in outs]


def control_flow(
    equation: Equation, inputs: Sequence[Any], run: Callable[[Program, list[Any]], list[Any]], more: int = 0
) -> list[Any]:
    """A branch or a loop, its bodies evaluated by `run`; a loop over nothing makes so many passes more."""
    p, bodies = equation.params, equation.bodies
    called = equation.body_inputs(inputs)
    if equation.name == "cond":
        return run(bodies[int(np.clip(inputs[0], 0, len(bodies) - 1))], called)
    n_consts, n_carry = equation.carried
    consts, carry, xs = called[:n_consts], called[n_consts : n_consts + n_carry], called[n_consts + n_carry :]
    if equation.test is not None:
        test, given = equation.test, inputs[: p["cond_nconsts"]]
        tests = lambda: np.asarray(run(test, [*given, *carry])[0])
        while np.any(going := tests()):
            after = run(bodies[0], [*consts, *carry])
            # a mapped loop goes on until every member has ended, and those that have keep their values
            carry = after if going.ndim == 0 else [_where(going, new, old) for new, old in zip(after, carry)]
        for _ in range(more if going.ndim == 0 else 0):
            carry = run(bodies[0], [*consts, *carry])
        return carry
    only_carries = not xs and len(bodies[0].outputs) == n_carry
    steps = range(p["length"] + (more if only_carries else 0))
    rows = []
    for step in reversed(steps) if p["reverse"] else steps:
        outs = run(bodies[0], [*consts, *carry, *(x[step] for x in xs)])
        carry = outs[:n_carry]
        rows.append(outs[n_carry:])
    if not rows:
        forms = zip(equation.shapes.outputs[n_carry:], equation.dtypes.outputs[n_carry:])
        return [*carry, *(as_array(np.zeros(shape, dtype)) for shape, dtype in forms)]
    rows = rows[::-1] if p["reverse"] else rows
    return [*carry, *(_namespace(column[0]).stack(column) for column in zip(*rows))]


def _where(which: np.ndarray, new: Any, old: Any) -> Any:
    which = which.reshape(which.shape + (1,) * (np.ndim(new) - which.ndim))
    return _namespace(new).where(which, new, old)


def _namespace(x: Any) -> Any:
    """Random keys are JAX's own."""
    return jnp if isinstance(x, jax.Array) else np


def _rounded(equation: Equation, outs: Sequence[Any], to: Any = True) -> list[Any]:
    """Each result rounded to the dtype it was traced with; or floats to the dtype `to`."""
    if equation.name == "reduce_precision":
        outs = [np.asarray(jax.lax.reduce_precision(np.asarray(out), **equation.params)) for out in outs]
    if to is True:
        return [as_array(cast(out, dtype)) for out, dtype in zip(outs, equation.dtypes.outputs)]
    wide = [np.asarray(out).dtype in (np.float64, np.complex128) for out in outs]
    return [as_array(rounded_to(out, to)) if is_wide else out for out, is_wide in zip(outs, wide)]


def rounded_to(x: Any, dtype: Any) -> np.ndarray:
    """Floats, or both parts of complex ones, rounded to a narrower dtype and held in their own."""
    x = np.asarray(x)
    if np.iscomplexobj(x):
        return np.asarray(rounded_to(x.real, dtype) + 1j * rounded_to(x.imag, dtype))
    return x.astype(dtype).astype(x.dtype)


def run(program: Program, inputs: Sequence[Any], rounded: bool = False) -> list[Any]:
    """Outputs of the program in float64; `rounded`: each result rounded to the dtype it was traced with."""

    def step(_, equation: Equation, values: list[Any]) -> list[Any]:
        outs = apply(equation, values)
        return _rounded(equation, outs) if rounded else outs

    with np.errstate(all="ignore"):
        return run_by(step, program, map(as_array, inputs))


def run_longer(program: Program, inputs: Sequence[Any], more: int) -> list[Any]:
    """As `run`, but every loop over nothing makes so many passes more: how far is an iteration from its limit?"""
    longer = lambda body, inputs: run_longer(body, inputs, more)

    def step(_, equation: Equation, values: list[Any]) -> list[Any]:
        return control_flow(equation, values, longer, more) if equation.bodies else apply(equation, values)

    with np.errstate(all="ignore"):
        return run_by(step, program, map(as_array, inputs))


def evaluate(program: Program, inputs: Sequence[Any], rounded: Any = False) -> list[Any]:
    """Every value of the program by number, as `run` computes them; `rounded` may be the dtype that all floats have."""
    values: list[Any] = [None] * len(program.shapes)
    for number, value in (*program.constants.items(), *zip(program.inputs, map(as_array, inputs))):
        values[number] = value
    with np.errstate(all="ignore"):
        for equation in program.equations:
            outs = apply(equation, [values[i] for i in equation.inputs])
            for number, out in zip(equation.outputs, _rounded(equation, outs, rounded) if rounded else outs):
                values[number] = out
    return values


def rerun(program: Program, values: Sequence[Any], rewrites: Mapping[int, Rewrite]) -> dict[int, Any]:
    """Values that change, by number, when some equations (by position) are rewritten; the others are not evaluated."""
    changed: dict[int, Any] = {}

    def read(number):
        return changed[number] if number in changed else values[number]

    with np.errstate(all="ignore"):
        for position in range(min(rewrites), len(program.equations)):
            equation = program.equations[position]
            rewrite = rewrites.get(position)
            if rewrite is not None:
                outs = rewrite(read, [read(i) for i in equation.inputs])
            elif not any(i in changed for i in equation.inputs):
                continue
            else:
                outs = apply(equation, [read(i) for i in equation.inputs])
            changed.update(zip(equation.outputs, outs))
    return changed


# --- under JAX, equation by equation ----------------------------------------------------------------------------------


def evaluate_with_offsets(
    program: Program, inputs: Iterable[Any], offsets: dict[str, Any], names: Sequence[str]
) -> list[Any]:
    """Outputs of a program that was `read`, an offset added to each named output where its value is made.

    So the derivative by an offset is the gradient of that intermediate value, through everything that uses it.
    """
    marked = {number: offsets[name] for name, number in zip(names, program.outputs)}

    def step(_: int, equation: Equation, values: list[Any]) -> list[Any]:
        outs = equation.bind(*values)
        return [out + marked[i] if i in marked else out for i, out in zip(equation.outputs, outs)]

    return run_by(step, program, inputs)


def values_and_cotangents(
    program: Program, inputs: Sequence[Any], seeds: Sequence[Any]
) -> tuple[list[Any], list[Any], list[Any], list[Any]]:
    """Every float value that the equations of a `trace_inlined` program make, the gradient of Σ seed · out by it, the
    parts of the gradients by values that are used more than once, and the gradients by the inputs that are floats.

    The order is that of `float_values(program)`, of `shared_uses(program)` and of the program's inputs; a gradient
    counts everything that uses the value, a part one use of it.
    """
    made, uses = float_values(program), shared_uses(program)
    floats = [k for k, x in enumerate(inputs) if jnp.issubdtype(jnp.result_type(x), jnp.inexact)]

    def run(of_inputs: list[Any], offsets: list[Any], at_uses: list[Any]) -> tuple[list[Any], list[Any]]:
        taken = dict(enumerate(inputs)) | dict(zip(floats, of_inputs))
        held, used = dict(zip(made, offsets)), dict(zip(uses, at_uses))
        seen: dict[int, Any] = {}

        def step(position: int, equation: Equation, values: list[Any]) -> list[Any]:
            values = [x + used[position, j] if (position, j) in used else x for j, x in enumerate(values)]
            outs = [out + held[i] if i in held else out for i, out in zip(equation.outputs, _bound(equation, values))]
            seen.update(zip(equation.outputs, outs))
            return outs

        outs = run_by(step, program, [*taken.values()])
        return outs, [seen[i] for i in made]

    zeros = lambda numbers: [jnp.zeros(program.shapes[i], program.dtypes[i]) for i in numbers]
    operands = [program.equations[position].inputs[j] for position, j in uses]
    outs, pull_back, values = jax.vjp(
        run, [jnp.asarray(inputs[k]) for k in floats], zeros(made), zeros(operands), has_aux=True
    )
    by_inputs, cotangents, parts = pull_back([jnp.asarray(seed).astype(out.dtype) for seed, out in zip(seeds, outs)])
    return values, cotangents, parts, by_inputs


def slope(equations: Sequence[Equation], operand: int, held: Mapping[int, Any]) -> Any:
    """Of an elementwise function: the derivative, entry by entry, of what the last of its equations gives.

    Args:
        equations: in their order.
        operand: number of the value by which the derivative is.
        held: that value, and others that the equations take.

    Raises:
        KeyError: they take another value.
    """

    def function(x: Any) -> Any:
        values = dict(held) | {operand: x}
        for equation in equations:
            constants = equation.program.constants
            taken = [values[n] if n in values else constants[n] for n in equation.inputs]
            values.update(zip(equation.outputs, _bound(equation, taken)))
        return values[equations[-1].outputs[0]]

    return jax.jvp(function, (held[operand],), (jnp.ones_like(held[operand]),))[1]


def shared_uses(program: Program) -> list[tuple[int, int]]:
    """(Position of an equation, which of its operands) of every use of a float value that is used more than once."""
    uses: dict[int, list[tuple[int, int]]] = {}
    for position, equation in enumerate(program.equations):
        for j, number in enumerate(equation.inputs):
            dtype = program.dtypes[number]
            if number not in program.constants and dtype is not None and jnp.issubdtype(dtype, jnp.inexact):
                uses.setdefault(number, []).append((position, j))
    return [use for its in uses.values() if len(its) > 1 for use in its]


def float_values(program: Program) -> list[int]:
    """Numbers of the float values that the equations of a program make of its inputs."""
    known = set(program.constants)
    for equation in program.equations:
        if known.issuperset(equation.inputs):
            known.update(equation.outputs)
    made = (number for equation in program.equations for number in equation.outputs if number not in known)
    return [i for i in made if program.dtypes[i] is not None and jnp.issubdtype(program.dtypes[i], jnp.inexact)]


def _bound(equation: Equation, values: Sequence[Any]) -> list[Any]:
    """Under JAX, the parts of an unrolled loop too."""
    if equation.name == "loop_index":
        return [values[0][equation.params["step"]]]
    if equation.name == "loop_stack":
        return [jnp.stack(values) if values else jnp.zeros(equation.shapes.outputs[0], equation.dtypes.outputs[0])]
    return equation.bind(*values)


CUSTOM_RULES = frozenset(("custom_jvp_call", "custom_vjp_call", "custom_vjp_call_jaxpr", "call_hi_primitive"))
"""Calls whose derivative is written down, and is not that of their body."""


def without_custom_rules(function: Callable[..., Any]) -> Callable[..., Any]:
    """The same function, every `jax.custom_jvp` and `jax.custom_vjp` in it written out, so that autodiff sees none.

    But for functions that compute with the bits of numbers, which have no derivative other than their rule's.
    """

    def run(*args):
        program, shapes = read(function, *args)
        outs = run_by(_plain, program, jax.tree.leaves(args))
        return jax.tree.unflatten(jax.tree.structure(shapes), outs)

    return run


def _has_custom_rule(program: Program) -> bool:
    return any(
        equation.name in CUSTOM_RULES or any(map(_has_custom_rule, (*equation.bodies, *filter(None, [equation.test]))))
        for equation in program.equations
    )


def _by_bits(program: Program) -> bool:
    """Does it make numbers of bits? There autodiff sees no dependence; bits that only choose hide none, nor do those of
    what has a rule of its own in it, which stays."""
    return any(
        (equation.name == "bitcast_convert_type" and jnp.issubdtype(equation.params["new_dtype"], jnp.inexact))
        or (equation.name not in CUSTOM_RULES and any(map(_by_bits, equation.bodies)))
        for equation in program.equations
    )


def _plain(_: int, equation: Equation, values: list[Any]) -> Sequence[Any]:
    run = lambda body: lambda *inputs: run_by(_plain, body, inputs)
    bodies = equation.bodies
    if equation.name in CUSTOM_RULES:
        return equation.bind(*values) if _by_bits(bodies[0]) else run(bodies[0])(*values)
    if not any(map(_has_custom_rule, bodies)) or equation.name in CALLED_WHOLE - CONTROL_FLOW:
        return equation.bind(*values)  # a body that is no function of the operands, as of a reduction, stays
    if equation.name == "cond":
        return jax.lax.switch(values[0], [run(body) for body in bodies], *values[1:])
    if equation.name not in ("scan", "while"):
        return run(bodies[0])(*equation.body_inputs(values))
    n_consts, n_carry = equation.carried
    called = equation.body_inputs(values)
    consts, carry, xs = called[:n_consts], called[n_consts : n_consts + n_carry], called[n_consts + n_carry :]
    if equation.test is not None:
        given, test = values[: equation.params["cond_nconsts"]], run(equation.test)
        return jax.lax.while_loop(lambda c: test(*given, *c)[0], lambda c: run(bodies[0])(*consts, *c), list(carry))

    def step(carry, x):
        outs = run(bodies[0])(*consts, *carry, *x)
        return outs[:n_carry], outs[n_carry:]

    length, reverse = equation.params["length"], equation.params["reverse"]
    last, rows = jax.lax.scan(step, list(carry), list(xs), length=length, reverse=reverse)
    return [*last, *rows]

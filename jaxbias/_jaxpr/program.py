"""A traced function as a `Program`: a list of equations on numbered values. The one reader of JAX's own jaxprs.

An equation that calls something (a jit, a loop, a branch, a custom rule) holds it as a body, which is a program too.
Three forms, all of them programs:

    read            as JAX traced it
    trace_inlined   plain calls written out; loops, branches, remat and custom rules keep their bodies: for `foreign`
    trace           every call written out and short loops unrolled, constants as NumPy arrays in float64: for `verify`

In the last two a choice by platform (`lax.platform_dependent`) is made, for the platform on which JAX runs here.
"""

import dataclasses
import functools
import hashlib
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax._src import core, source_info_util  # jax.extend.core would bring Pallas with it
from jax._src.interpreters import partial_eval

from jaxbias._jaxpr import in_numpy, shards
from jaxbias._jaxpr.closed_over import taken_anew
from jaxbias._jaxpr.sources import Segment, Source, user_line, user_segments

MAX_UNROLLED = 2000
"""Equations that unrolling one loop may add; a longer loop stays one equation."""

PLAIN_CALLS = {"jit", "pjit", "closed_call", "core_call", "custom_lin"}
"""Primitives that only carry their body out."""

CONTROL_FLOW = {"scan", "while", "cond"}
CALLED_WHOLE = CONTROL_FLOW | {"pallas_call", "shard_map", "reduce", "reduce_window"}
"""Primitives whose bodies mean something else when they are written out."""

MONOIDS = {"add": "reduce_sum", "max": "reduce_max", "min": "reduce_min", "mul": "reduce_prod"}
"""Operation that a general reduction combines by → its reduction."""


class InOut(NamedTuple):
    """Something of each value that goes into an equation, and of each that comes out."""

    inputs: tuple[Any, ...]
    outputs: tuple[Any, ...]


class Axes(NamedTuple):
    """Axes of one operand of a contraction, by what becomes of them."""

    batch: tuple[int, ...]
    contracted: tuple[int, ...]
    free: tuple[int, ...]


@dataclass(eq=False)
class Equation:
    """One equation of a program, its values by number.

    Attributes:
        name: of the primitive, "mul"; every spelling of rematerialisation is "remat", parts of an unrolled loop are
            "loop_index" and "loop_stack".
        program: that it stands in.
        bodies: what it calls with its own inputs (see `body_inputs`): branches, the body of a loop or of a call.
        test: of a while loop: whether it goes on.
        caller: the call that was written out, for an equation of its body.
        iteration: of the innermost unrolled loop; 0 outside of loops.
    """

    name: str
    inputs: tuple[int, ...]
    outputs: tuple[int, ...]
    params: dict[str, Any]
    program: "Program" = field(repr=False)
    bodies: tuple["Program", ...] = ()
    test: "Program | None" = None
    caller: "Equation | None" = None
    iteration: int = 0
    _eqn: Any = field(default=None, repr=False)  # JAX's own

    @property
    def shapes(self) -> InOut:
        return self._of_values(self.program.shapes)

    @property
    def dtypes(self) -> InOut:
        return self._of_values(self.program.dtypes)

    def _of_values(self, held: list[Any]) -> InOut:
        return InOut(tuple(held[i] for i in self.inputs), tuple(held[i] for i in self.outputs))

    @property
    def varying(self) -> frozenset[str]:
        """Inside of a shard_map that checks it: the axes along which the first output may differ."""
        return frozenset(self._eqn.outvars[0].aval.manual_axis_type.varying)

    @property
    def under_another_mesh(self) -> bool:
        """Whether it is carried out under other axes than those that are set now, as in `jax.sharding.auto_axes`."""
        return self._eqn.ctx.cur_abstract_mesh != jax.sharding.get_abstract_mesh()

    def dot_axes(self) -> tuple[Axes, Axes]:
        """Of each operand of a `dot_general`, which axes are batch, contracted and free."""
        contracted, batch = self.params["dimension_numbers"]

        def of_operand(k):
            taken = (*batch[k], *contracted[k])
            free = tuple(i for i in range(len(self.program.shapes[self.inputs[k]])) if i not in taken)
            return Axes(tuple(batch[k]), tuple(contracted[k]), free)

        return of_operand(0), of_operand(1)

    @property
    def carried(self) -> tuple[int, int]:
        """Of a loop: position of the first carried value among the inputs of its body, and how many are carried."""
        if self.name == "while":
            consts = self.params["body_nconsts"]
            return consts, len(self.bodies[0].inputs) - consts
        if "num_consts" in self.params:
            return self.params["num_consts"], self.params["num_carry"]
        consts, carry, _ = self.params["ft_in"].unpack()  # JAX 0.12 keeps them as trees
        return len(list(consts)), len(list(carry))

    def body_inputs(self, values: Sequence[Any]) -> list[Any]:
        """Those of `values`, one per input of the equation, that its bodies are called with."""
        return list(values[1:] if self.name == "cond" else values[self.params.get("cond_nconsts", 0) :])

    @functools.cached_property
    def source(self) -> Source | None:
        """The user's line, or that of the call."""
        return user_line(self._eqn.source_info.traceback) or (self.caller.source if self.caller else None)

    @functools.cached_property
    def segments(self) -> tuple[Segment, ...]:
        """The user's pieces of code that this equation belongs to, the innermost first.

        JAX keeps the body of a function that it has compiled once, with the lines of its first caller: of the body's
        own frames only those inside of that function count, and outside of it those of the call.
        """
        own = user_segments(self._eqn.source_info.traceback)
        if self.caller is None or self.caller.name in CONTROL_FLOW:
            return own or (self.caller.segments if self.caller else ())
        name = self.caller.params.get("name")
        inside = max((k + 1 for k, segment in enumerate(own) if segment.function == name), default=0)
        return (*own[:inside], *self.caller.segments)

    @property
    def called(self) -> str:
        """Name of the function with a derivative of its own that this calls, as its author wrote it; "" for others."""
        body = self.params.get("call_jaxpr")
        info = getattr(_open(body)[0], "debug_info", None) if self.name == "custom_jvp_call" else None
        return getattr(info, "func_name", "")

    @property
    def group(self) -> int:
        """Shared by the copies of one equation: those of every pass of a loop, and of every call of a function."""
        return id(self._eqn)

    def bind(self, *values: Any) -> list[Any]:
        """Carry the primitive out under JAX; one entry per output."""
        primitive = self._eqn.primitive
        with source_info_util.user_context(self._eqn.source_info.traceback), self._eqn.ctx.manager:
            out = primitive.bind(*values, **primitive.get_bind_params(self._eqn.params))
        return list(out) if primitive.multiple_results else [out]

    @functools.cached_property
    def compiled(self) -> Callable[..., list[Any]]:
        """`bind`, compiled once."""
        return jax.jit(self.bind)


@dataclass(frozen=True)
class Signature:
    """A traced function as its author wrote it: its name, where it stands ("" if unknown), paths of its arguments."""

    function: str = ""
    file: str = ""
    line: int = 0
    arguments: tuple[str, ...] = ()


@dataclass(eq=False)
class Program:
    """A traced function.

    Attributes:
        inputs, outputs: numbers of the values that come in and go out.
        constants: number of a value → what it is.
        shapes, dtypes: of every value, by number, as traced.
        signature: of the function; arguments that it only closes over are "".
    """

    inputs: tuple[int, ...] = ()
    outputs: tuple[int, ...] = ()
    constants: dict[int, Any] = field(default_factory=dict)
    equations: list[Equation] = field(default_factory=list)
    shapes: list[tuple[int, ...]] = field(default_factory=list)
    dtypes: list[Any] = field(default_factory=list)
    signature: Signature = Signature()

    def value(self, shape: Sequence[int], dtype: Any) -> int:
        """Number of a new value."""
        self.shapes.append(tuple(shape))
        self.dtypes.append(dtype)
        return len(self.shapes) - 1

    def constant(self, shape: Sequence[int], dtype: Any, held: Any) -> int:
        """Number of a new constant."""
        self.constants[number := self.value(shape, dtype)] = held
        return number

    @functools.cached_property
    def fingerprint(self) -> bytes | None:
        """Equal for programs that compute the same, equation by equation, constants included.

        None where it cannot be told: a parameter is a function, or a jaxpr that keeps its constants to itself.
        """
        digest = hashlib.blake2b(digest_size=16)
        digest.update(repr((self.inputs, self.outputs, self.shapes, list(map(str, self.dtypes)))).encode())
        for number, value in self.constants.items():
            digest.update(repr(number).encode() + digest_of([value]))
        for equation in self.equations:
            params: dict[str, Any] = equation.params
            bodies = [body.fingerprint for body in (*equation.bodies, equation.test) if body is not None]
            if bodies:
                params = {name: value for name, value in params.items() if isinstance(value, int)}
                params["counts"] = equation.carried if equation.name == "scan" else ()
            text = f"{equation.name} {equation.inputs} {equation.outputs} {params} {bodies}"
            if None in bodies or any(mark in text for mark in (" at 0x", "...", "lambda ;")):
                return None
            digest.update(text.encode())
        return digest.digest()


def digest_of(arrays: Sequence[Any]) -> bytes:
    """A digest of the values, shapes and dtypes of arrays."""
    digest = hashlib.blake2b(digest_size=16)
    for x in arrays:
        if isinstance(x, jax.Array) and jnp.issubdtype(x.dtype, jax.dtypes.extended):
            digest.update(str(x.dtype).encode())
            x = jax.random.key_data(x)
        x = np.asarray(x)
        digest.update(f"{x.dtype} {x.shape}".encode())
        digest.update(x.tobytes())
    return digest.digest()


# --- from a function to its program -----------------------------------------------------------------------------------


def _traced(function: Callable[..., Any], args: Sequence[Any]) -> tuple[Any, Any]:
    """JAX's closed jaxpr, and the shapes of what the function returns."""
    with taken_anew():
        return jax.make_jaxpr(function, return_shape=True)(*args)


def read(function: Callable[..., Any], *args: Any) -> tuple[Program, Any]:
    """`function(*args)` as JAX traces it, one input per leaf of args, and the shapes of what it returns."""
    closed, shapes = _traced(function, args)
    return _read(*_open(closed)), shapes


def trace(function: Callable[..., Any], *args: Any, unrolled: bool = True) -> Program:
    """`function(*args)`, which returns a flat list of arrays, with every call written out and short loops unrolled."""
    return WrittenOut(_read(*_open(_traced(function, args)[0])), True, unrolled).out


def trace_inlined(
    function: Callable[..., Any], *args: Any, unrolled: bool = False, remat: bool = True
) -> tuple[Program, Any]:
    """`function(*args)` with plain calls written out, without dead code, and the shapes of what it returns.

    Args:
        unrolled: write the passes of short loops out too.
        remat: keep rematerialised calls as calls; False: write them out too.
    """
    closed, shapes = _traced(function, args)
    jaxpr, consts = closed.jaxpr, closed.consts
    jaxpr, _ = partial_eval.dce_jaxpr(jaxpr, [True] * len(jaxpr.outvars), instantiate=True)
    return WrittenOut(_read(jaxpr, consts), False, unrolled, remat).out, shapes


def _open(jaxpr: Any) -> tuple[Any, Sequence[Any]]:
    """(jaxpr, consts) of an open or a closed jaxpr."""
    inner = getattr(jaxpr, "jaxpr", None)
    return (inner, jaxpr.consts) if inner is not None and hasattr(jaxpr, "consts") else (jaxpr, ())


def _signature(jaxpr: Any) -> Signature:
    """From what JAX notes for its messages: "step at file:3"."""
    info = getattr(jaxpr, "debug_info", None)
    function, _, place = (getattr(info, "func_src_info", "") or "").partition(" at ")
    file, _, line = place.rpartition(":")
    arguments = tuple(text or "" for text in getattr(info, "arg_names", None) or ())
    return Signature(function, file, int(line) if line.isdigit() else 0, arguments)


def _read(jaxpr: Any, consts: Sequence[Any]) -> Program:
    program = Program(signature=_signature(jaxpr))
    numbers: dict[Any, int] = {}

    def new(aval) -> int:
        return program.value(getattr(aval, "shape", ()), getattr(aval, "dtype", None))  # a token has neither

    def constant(aval, held) -> int:
        if isinstance(held, int | float | complex):  # with a dtype, in a class of JAX's own
            held = np.asarray(held, aval.dtype)
        return program.constant(aval.shape, aval.dtype, held)

    def number(atom) -> int:
        return constant(atom.aval, atom.val) if isinstance(atom, core.Literal) else numbers[atom]

    program.inputs = tuple(new(v.aval) for v in jaxpr.invars)
    numbers.update(zip(jaxpr.invars, program.inputs))
    numbers.update((var, constant(var.aval, held)) for var, held in zip(jaxpr.constvars, consts))
    for eqn in jaxpr.eqns:
        name = "remat" if eqn.primitive.name in ("remat2", "checkpoint") else eqn.primitive.name
        inputs, outputs = tuple(map(number, eqn.invars)), tuple(new(v.aval) for v in eqn.outvars)
        bodies = tuple(_read(*_open(body)) for body in _bodies(eqn))
        test = _read(*_open(eqn.params["cond_jaxpr"])) if name == "while" else None
        program.equations.append(Equation(name, inputs, outputs, eqn.params, program, bodies, test, _eqn=eqn))
        numbers.update(zip(eqn.outvars, outputs))
    program.outputs = tuple(map(number, jaxpr.outvars))
    return program


def _bodies(eqn: Any) -> tuple[Any, ...]:
    """The jaxprs that an equation calls with its own inputs; parameter names differ between primitives."""
    name, params = eqn.primitive.name, eqn.params
    if name == "cond":
        return tuple(params["branches"])
    if name == "while":
        return (params["body_jaxpr"],)
    if name == "call_hi_primitive":  # what it stands for is traced when it is asked for
        low = functools.partial(eqn.primitive.to_lojax, **params)  # type: ignore[attr-defined]
        return (jax.make_jaxpr(low)(*(jax.ShapeDtypeStruct(v.aval.shape, v.aval.dtype) for v in eqn.invars)),)
    for key in ("jaxpr", "call_jaxpr", "fun_jaxpr"):
        inner = _open(params.get(key))[0]
        if hasattr(inner, "eqns") and len(inner.invars) == len(eqn.invars):
            return (params[key],)
    return ()


def branch_that_runs(platforms: tuple[tuple[str, ...] | None, ...]) -> int:
    """Which branch of a `lax.platform_dependent` JAX takes on its default device; None stands for any other platform.

    A program is read to be evaluated here and now, so what other platforms would do is not part of it.

    Args:
        platforms: of each branch, as an equation keeps them (`branches_platforms`).

    Raises:
        NotImplementedError: no branch is for this platform.
    """
    choices = {name: i for i, names in enumerate(platforms) for name in names or ("default",)}
    with jax.ensure_compile_time_eval():
        return jax.lax.platform_dependent(**{name: lambda i=i: i for name, i in choices.items()})  # type: ignore[arg-type]


def _monoid(body: Program) -> str:
    """Name of the one operation of two operands that a reduction combines by; empty if it is another one."""
    (first, *others) = body.equations or [None]
    plain = first is not None and not others and first.outputs == body.outputs and first.name in MONOIDS
    return first.name if first is not None and plain and set(first.inputs) == set(body.inputs) else ""


def _forms(equation: Equation) -> list[tuple[tuple[int, ...], Any]]:
    """Shape and dtype of each output."""
    return [(equation.program.shapes[i], equation.program.dtypes[i]) for i in equation.outputs]


class WrittenOut:
    """A program in which calls are replaced by their bodies; `flat`: all of them; `unrolled`: short loops too."""

    def __init__(self, program: Program, flat: bool, unrolled: bool, remat: bool = True):
        self.flat, self.most = flat, MAX_UNROLLED if unrolled else 0
        self.plain = PLAIN_CALLS if remat else PLAIN_CALLS | {"remat"}
        self.out = Program(signature=program.signature)
        self.out.inputs = tuple(self.out.value(program.shapes[i], program.dtypes[i]) for i in program.inputs)
        self.out.outputs = tuple(self.run(program, self.out.inputs, None, 0))

    def run(self, program: Program, inputs: Sequence[int], caller: Equation | None, iteration: int) -> list[int]:
        """Append what the program does to these values; numbers of its outputs."""
        numbers = dict(zip(program.inputs, inputs))

        def number(i: int) -> int:
            if i not in numbers:
                numbers[i] = self.constant(program.shapes[i], program.dtypes[i], program.constants[i])
            return numbers[i]

        for equation in program.equations:
            values = tuple(map(number, equation.inputs))
            outputs = self.equation(equation, values, caller, iteration)
            numbers.update(zip(equation.outputs, outputs))
        return [number(i) for i in program.outputs]

    def constant(self, shape: Sequence[int], dtype: Any, held: Any) -> int:
        if not self.flat:
            return self.out.constant(shape, dtype, held)
        wide = in_numpy.as_array(held, copy=True)  # the function may change later what it closes over
        rounded = np.ndim(held) > 0 and not isinstance(held, jax.Array)  # by NumPy, before JAX saw it
        return self.out.constant(wide.shape, held.dtype if rounded else wide.dtype, wide)

    def equation(
        self, equation: Equation, inputs: tuple[int, ...], caller: Equation | None, iteration: int
    ) -> Sequence[int]:
        """Append the equation, or what it calls; numbers of its outputs."""
        name, params, bodies = equation.name, equation.params, equation.bodies
        if name == "platform_index":
            return [self.constant((), np.dtype(np.int32), np.int32(branch_that_runs(params["platforms"])))]
        unrolled = name == "scan" and 0 < len(bodies[0].equations) * params["length"] <= self.most
        known = self.flat and name == "custom_jvp_call" and params.get("name") in in_numpy.FUNCTIONS
        called = None
        if params.get("branches_platforms") is not None:
            called, inputs = bodies[branch_that_runs(params["branches_platforms"])], inputs[1:]
        elif self.flat and name == "custom_linear_solve":
            before, consts = sum(params["const_lengths"][:2]), params["const_lengths"].solve
            called = _read(*_open(params["jaxprs"].solve))
            inputs = (*inputs[before : before + consts], *inputs[sum(params["const_lengths"]) :])
        elif bodies and not known and (name in self.plain or (self.flat and name not in CALLED_WHOLE)):
            called = bodies[0]
        if called is not None:
            return self.run(called, inputs, dataclasses.replace(equation, caller=caller), iteration)
        if unrolled:
            return self.unrolled(dataclasses.replace(equation, caller=caller), inputs)
        if self.flat and name == "shard_map":
            body = WrittenOut(bodies[0], True, self.most > 0).out
            if shards.can_be_written_out(equation, body):
                return shards.Shards(self, dataclasses.replace(equation, caller=caller), body).write(inputs)
        if self.flat and name == "reduce" and len(inputs) == 2 and (kind := _monoid(bodies[0])):
            (shape, dtype), axes = _forms(equation)[0], {"axes": equation.params["dimensions"]}
            changes = {"caller": caller, "iteration": iteration, "bodies": ()}
            (total,) = self.append(equation, inputs[:1], [(shape, dtype)], name=MONOIDS[kind], params=axes, **changes)
            return self.append(equation, (total, inputs[1]), [(shape, dtype)], name=kind, params={}, **changes)
        changes: dict[str, Any] = {"caller": caller, "iteration": iteration}
        if known:
            changes |= {"name": params["name"], "params": {}, "bodies": ()}
        elif bodies:
            kept = bodies if not self.flat or name in CONTROL_FLOW else ()  # JAX carries out other calls
            changes["bodies"] = tuple(self.inner(body) for body in kept)
            changes["test"] = equation.test and self.inner(equation.test)
        return self.append(equation, inputs, _forms(equation), **changes)

    def inner(self, body: Program) -> Program:
        """A body that stays one, written out in the same way."""
        return WrittenOut(body, self.flat, self.most > 0, self.plain == PLAIN_CALLS).out

    def append(self, equation: Equation, inputs: tuple[int, ...], forms: Iterable[Any], **changes: Any):
        """The equation on other inputs, its outputs of these shapes and dtypes; their numbers."""
        outputs = tuple(self.out.value(shape, dtype) for shape, dtype in forms)
        self.out.equations.append(
            dataclasses.replace(equation, inputs=inputs, outputs=outputs, program=self.out, **changes)
        )
        return outputs

    def unrolled(self, scan: Equation, inputs: tuple[int, ...]) -> list[int]:
        """The passes of a loop one after another: each takes its slices, the results are stacked at the end."""
        (body,), (n_consts, n_carry) = scan.bodies, scan.carried
        consts, carry, xs = inputs[:n_consts], inputs[n_consts : n_consts + n_carry], inputs[n_consts + n_carry :]
        sliced = [(body.shapes[i], body.dtypes[i]) for i in body.inputs[n_consts + n_carry :]]
        whole = _forms(scan)[n_carry:]
        steps = range(scan.params["length"])
        rows: list[list[int]] = []

        def part(name: str, inputs: tuple[int, ...], output: Any, iteration: int, **params: Any) -> int:
            changes = {"name": name, "params": params, "bodies": (), "iteration": iteration}
            return self.append(scan, inputs, [output], **changes)[0]

        for step in reversed(steps) if scan.params["reverse"] else steps:
            slices = [part("loop_index", (x,), form, step, step=step) for x, form in zip(xs, sliced)]
            outputs = self.run(body, (*consts, *carry, *slices), scan, step)
            carry = outputs[:n_carry]
            rows.append(outputs[n_carry:])
        rows = rows[::-1] if scan.params["reverse"] else rows
        columns = zip(*rows) if rows else [()] * len(whole)
        stacks = [part("loop_stack", tuple(c), form, 0, shape=form[0][1:]) for c, form in zip(columns, whole)]
        return [*carry, *stacks]

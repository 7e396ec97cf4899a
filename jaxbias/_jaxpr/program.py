"""The only file that touches jaxpr internals, which move between JAX releases.

Sections: a traced function as a flat list of equations, evaluated one by one (used by `verify`);
a traced function as nested blocks that can be walked and evaluated again under JAX (used by `contact`, `capture`).
"""

import functools
import hashlib
import itertools
import linecache
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax._src import core, source_info_util  # jax.extend.core would bring Pallas with it
from jax._src.interpreters import partial_eval

from jaxbias._jaxpr import in_numpy

# --- a traced function, equation by equation --------------------------------------------------------------------------
#
# Calls are entered (jit, custom_jvp_call, custom_vjp_call, remat, ...) and short loops unrolled, so that every equation
# of a backward pass stands in one list, beside the source line of the user's function that it comes from. Values are
# numbered; `evaluate` returns them all, `rerun` evaluates again with some of them replaced. All in NumPy and float64.

CALLS = {"jaxpr", "call_jaxpr", "fun_jaxpr"}
"""Parameters under which call-like primitives keep their body."""

OWN_FILES = tuple(
    f"/jaxbias/{name}.py"
    for name in ("verify/entrances", "verify/problem", "verify/checker", "verify/single_steps", "_jaxpr/program")
)
"""Frames of the checker between the user's lines and JAX."""

NUMBERED = "jaxbias_equation_"
"""Prefix of the name scopes that `numbered` puts equations in."""

MAX_UNROLLED = 2000
"""Equations that unrolling one loop may add; a longer loop stays one equation."""


class Source(NamedTuple):
    """A line of the user's function."""

    file: str
    line: int
    function: str

    @property
    def text(self) -> str:
        return linecache.getline(self.file, self.line).strip()


@dataclass(eq=False)
class Equation:
    """One equation, its values by number.

    Attributes:
        name: primitive, for example "mul"; parts of an unrolled loop are "loop_index" and "loop_stack".
        group: equations of one loop body share it, whichever iteration they belong to.
        iteration: of the innermost unrolled loop; 0 outside of loops.
        bodies: programs of a control-flow primitive that stays one equation.
        run: carries the primitive out under JAX; made when first needed.
        origin: number of the equation of a `numbered` function that this one is, or is part of the derivative of.
    """

    name: str
    inputs: tuple[int, ...]
    outputs: tuple[int, ...]
    params: dict[str, Any]
    source: Source | None
    group: int
    iteration: int = 0
    primitive: Any = None
    bodies: tuple["Program", ...] = ()
    run: Callable[..., Any] | None = None
    origin: int | None = None


@dataclass(eq=False)
class Program:
    """A traced function.

    Attributes:
        inputs, outputs: numbers of the values that come in and go out.
        constants: value number → array.
        shapes, dtypes: of every value, as traced.
    """

    inputs: tuple[int, ...] = ()
    outputs: tuple[int, ...] = ()
    constants: dict[int, Any] = field(default_factory=dict)
    equations: list[Equation] = field(default_factory=list)
    shapes: list[tuple[int, ...]] = field(default_factory=list)
    dtypes: list[Any] = field(default_factory=list)

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
            bodies = [body.fingerprint for body in equation.bodies]
            if bodies:
                params = {name: each for name, each in params.items() if isinstance(each, int)}
                params["counts"] = scan_counts(equation.params) if equation.name == "scan" else ()
            text = f"{equation.name} {equation.inputs} {equation.outputs} {params} {bodies}"
            if None in bodies or any(mark in text for mark in (" at 0x", "...", "lambda ;")):
                return None
            digest.update(text.encode())
        return digest.digest()

    def number(self, aval: Any) -> int:
        self.shapes.append(tuple(aval.shape))
        self.dtypes.append(aval.dtype)
        return len(self.shapes) - 1


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


def trace(fun: Callable[..., Any], *args: Any) -> Program:
    """Trace `fun(*args)`, which returns a flat list of arrays, into a `Program` with one input per leaf of args."""
    closed = jax.make_jaxpr(fun)(*args)
    return _flatten(closed)


def _flatten(closed: Any) -> Program:
    program = Program()
    jaxpr = closed.jaxpr
    inputs = tuple(program.number(v.aval) for v in jaxpr.invars)
    outputs = _Flattener(program).run(jaxpr, closed.consts, inputs, None, 0)
    program.inputs, program.outputs = inputs, tuple(outputs)
    return program


def _source(eqn: Any) -> Source | None:
    frames = list(source_info_util.user_frames(eqn.source_info.traceback))
    for frame in frames:
        if not frame.file_name.endswith(OWN_FILES):
            return Source(frame.file_name, frame.start_line, frame.function_name)
    return None


class _Flattener:
    def __init__(self, program: Program):
        self.program = program
        self.groups: dict[int, int] = {}
        self.kept: list[Any] = []  # keeps equations alive, so that their id is not used again

    def constant(self, value: Any) -> int:
        held = _as_array(value, copy=True)  # the function may change later what it closes over
        rounded = np.ndim(value) > 0 and not isinstance(value, jax.Array)  # by NumPy, before JAX saw it
        number = self.program.number(value if rounded else held)
        self.program.constants[number] = held
        return number

    def group(self, eqn: Any) -> int:
        self.kept.append(eqn)
        return self.groups.setdefault(id(eqn), len(self.groups))

    def run(self, jaxpr: Any, consts: Sequence[Any], inputs: Sequence[int], source: Source | None, iteration: int):
        numbers: dict[Any, int] = dict(zip(jaxpr.constvars, (self.constant(c) for c in consts)))
        numbers.update(zip(jaxpr.invars, inputs))

        def read(atom):
            return self.constant(atom.val) if isinstance(atom, core.Literal) else numbers[atom]

        for eqn in jaxpr.eqns:
            ins = tuple(read(atom) for atom in eqn.invars)
            where = _source(eqn) or source
            before = len(self.program.equations)
            outs = self.equation(eqn, ins, where, iteration)
            numbers.update(zip(eqn.outvars, outs))
            _, scope, rest = str(eqn.source_info.name_stack).partition(NUMBERED)
            if scope:
                for part in self.program.equations[before:]:
                    part.origin = int("".join(itertools.takewhile(str.isdigit, rest)))
        return [read(atom) for atom in jaxpr.outvars]

    def equation(self, eqn: Any, ins: tuple[int, ...], where: Source | None, iteration: int) -> Sequence[int]:
        name, params = eqn.primitive.name, eqn.params
        if name == "scan" and (body := params["jaxpr"]) and len(body.jaxpr.eqns) * params["length"] <= MAX_UNROLLED:
            return self.scan(eqn, ins, where)
        if name == "platform_index":
            return (self.constant(np.int32(branch_that_runs(params["platforms"]))),)
        if (platforms := params.get("branches_platforms")) is not None:
            branch = params["branches"][branch_that_runs(platforms)]
            return self.run(branch.jaxpr, branch.consts, ins[1:], where, iteration)
        if name == "custom_linear_solve":
            solve, before = params["jaxprs"].solve, sum(params["const_lengths"][:2])
            consts = ins[before : before + params["const_lengths"].solve]
            return self.run(
                solve.jaxpr, solve.consts, (*consts, *ins[sum(params["const_lengths"]) :]), where, iteration
            )
        known = params.get("name") if name == "custom_jvp_call" else None
        if known in in_numpy.FUNCTIONS:  # its body works on the bits of one dtype
            outs = tuple(self.program.number(v.aval) for v in eqn.outvars)
            self.program.equations.append(Equation(known, ins, outs, {}, where, self.group(eqn), iteration))
            return outs
        if name not in ("scan", "while", "cond", "pallas_call", "shard_map"):
            for key in CALLS & params.keys():
                body = params[key]
                inner, consts = (body.jaxpr, body.consts) if hasattr(body, "consts") else (body, ())
                if len(inner.invars) == len(ins):
                    return self.run(inner, consts, ins, where, iteration)
        outs = tuple(self.program.number(v.aval) for v in eqn.outvars)
        bodies = _bodies(name, params)
        self.program.equations.append(
            Equation(name, ins, outs, params, where, self.group(eqn), iteration, eqn.primitive, bodies)
        )
        return outs

    def loop_part(self, eqn, name, ins, aval, params, where, iteration):
        out = self.program.number(aval)
        self.program.equations.append(Equation(name, ins, (out,), params, where, self.group(eqn), iteration))
        return out

    def scan(self, eqn: Any, ins: tuple[int, ...], where: Source | None) -> Sequence[int]:
        params, body = eqn.params, eqn.params["jaxpr"]
        n_consts, n_carry = scan_counts(params)
        consts, carry, xs = ins[:n_consts], ins[n_consts : n_consts + n_carry], ins[n_consts + n_carry :]
        length = params["length"]
        x_avals = [v.aval for v in body.jaxpr.invars[n_consts + n_carry :]]
        steps = range(length - 1, -1, -1) if params["reverse"] else range(length)
        stacked: list[list[int]] = [[] for _ in eqn.outvars[n_carry:]]
        for step in steps:
            slices = [
                self.loop_part(eqn, "loop_index", (x,), aval, {"step": step}, where, step)
                for x, aval in zip(xs, x_avals)
            ]
            outs = self.run(body.jaxpr, body.consts, (*consts, *carry, *slices), where, step)
            carry = tuple(outs[:n_carry])
            for column, out in zip(stacked, outs[n_carry:]):
                column.append(out)
        results = []
        for column, var in zip(stacked, eqn.outvars[n_carry:]):
            column = tuple(reversed(column)) if params["reverse"] else tuple(column)
            shape = {"shape": tuple(var.aval.shape[1:])}
            results.append(self.loop_part(eqn, "loop_stack", column, var.aval, shape, where, 0))
        return [*carry, *results]


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


def scan_counts(params: dict[str, Any]) -> tuple[int, int]:
    """How many constants and carried values a scan equation has; JAX 0.12 keeps them as trees."""
    if "num_consts" in params:
        return params["num_consts"], params["num_carry"]
    consts, carry, _ = params["ft_in"].unpack()
    return len(list(consts)), len(list(carry))


def _bodies(name: str, params: dict[str, Any]) -> tuple[Program, ...]:
    if name == "cond":
        return tuple(_flatten(branch) for branch in params["branches"])
    if name == "while":
        return _flatten(params["cond_jaxpr"]), _flatten(params["body_jaxpr"])
    if name == "scan":
        return (_flatten(params["jaxpr"]),)
    return ()


def _as_array(value: Any, copy: bool = False) -> Any:
    """A NumPy array, its floats as float64; a JAX array where the dtype is JAX's own (random keys)."""
    if isinstance(value, jax.Array) and jnp.issubdtype(value.dtype, jax.dtypes.extended):
        return value
    value = np.asarray(value)
    if jnp.issubdtype(value.dtype, jnp.floating):
        return value.astype(np.float64, copy=copy)
    return value.astype(np.complex128, copy=copy) if value.dtype.kind == "c" else value


def _by_jax(equation: Equation, shapes: Any, dtypes: Any, inputs: Sequence[Any]) -> list[Any]:
    """One equation as JAX carries it out, in float64 where the traced function has floats."""
    bits = equation.name == "bitcast_convert_type"
    exact = [_cast(x, dtype, widen=not bits) for x, dtype in zip(inputs, dtypes)]
    if equation.run is None:
        bind = functools.partial(equation.primitive.bind, **equation.params)
        equation.run = jax.jit(bind) if equation.name == "pallas_call" else bind  # a kernel is compiled at every bind
    try:
        with jax.enable_x64(True):
            outs = equation.run(*exact)
    except (TypeError, jax.errors.JaxRuntimeError):  # the equation insists on the dtype it was traced with
        with jax.enable_x64(True):
            outs = equation.run(*(_cast(x, d) for x, d in zip(inputs, dtypes)))
    return [_as_array(out) for out in (outs if equation.primitive.multiple_results else [outs])]


def _cast(x: Any, dtype: Any, widen: bool = False) -> Any:
    if isinstance(x, jax.Array) or jnp.issubdtype(dtype, jax.dtypes.extended):
        return x
    if jnp.issubdtype(dtype, jnp.floating):
        return x.astype(np.float64 if widen else dtype)
    return x.astype(np.complex128 if widen and jnp.issubdtype(dtype, jnp.complexfloating) else dtype)


def _control_flow(equation: Equation, inputs: Sequence[Any]) -> list[Any]:
    p = equation.params
    if equation.name == "cond":
        index = int(np.clip(inputs[0], 0, len(equation.bodies) - 1))
        return run(equation.bodies[index], inputs[1:])
    if equation.name == "while":
        test, body = equation.bodies
        split = p["cond_nconsts"] + p["body_nconsts"]
        test_consts, body_consts = inputs[: p["cond_nconsts"]], inputs[p["cond_nconsts"] : split]
        carry = list(inputs[split:])
        while run(test, [*test_consts, *carry])[0]:
            carry = run(body, [*body_consts, *carry])
        return carry
    n_consts, n_carry = scan_counts(p)
    consts, carry, xs = inputs[:n_consts], list(inputs[n_consts : n_consts + n_carry]), inputs[n_consts + n_carry :]
    steps = range(p["length"] - 1, -1, -1) if p["reverse"] else range(p["length"])
    rows = []
    for step in steps:
        outs = run(equation.bodies[0], [*consts, *carry, *(x[step] for x in xs)])
        carry = outs[:n_carry]
        rows.append(outs[n_carry:])
    rows = rows[::-1] if p["reverse"] else rows
    return [*carry, *(np.stack(column) for column in zip(*rows))]


def apply(program: Program, equation: Equation, inputs: Sequence[Any], params: dict[str, Any] | None = None) -> list:
    """Outputs of one equation, optionally with other parameters than it was traced with."""
    params = equation.params if params is None else params
    if equation.bodies:
        return _control_flow(equation, inputs)
    value = in_numpy.VALUE.get(equation.name)
    if value is None or any(isinstance(x, jax.Array) for x in inputs):
        dtypes = [program.dtypes[i] for i in equation.inputs]
        return _by_jax(equation, program.shapes, dtypes, inputs)
    out = value(params, *inputs)
    return list(out) if isinstance(out, list) else [out]


def evaluate(program: Program, inputs: Sequence[Any], rounded: bool = False) -> list[Any]:
    """Every value of the program, in float64; `rounded`: each result rounded to the dtype it was traced with."""
    values: list[Any] = [None] * len(program.shapes)
    for number, value in program.constants.items():
        values[number] = value
    for number, value in zip(program.inputs, inputs):
        values[number] = _as_array(value)
    with np.errstate(all="ignore"):
        for equation in program.equations:
            outs = apply(program, equation, [values[i] for i in equation.inputs])
            for number, out in zip(equation.outputs, outs):
                values[number] = _as_array(_cast(out, program.dtypes[number])) if rounded else out
    return values


def run(program: Program, inputs: Sequence[Any], rounded: bool = False) -> list[Any]:
    """Outputs of the program, as `evaluate` gives them; what is no longer needed is let go on the way."""
    last = {number: k for k, equation in enumerate(program.equations) for number in equation.inputs}
    for number in program.outputs:
        last[number] = len(program.equations)
    values = dict(program.constants)
    values.update(zip(program.inputs, map(_as_array, inputs)))
    with np.errstate(all="ignore"):
        for k, equation in enumerate(program.equations):
            outs = apply(program, equation, [values[i] for i in equation.inputs])
            for number, out in zip(equation.outputs, outs):
                if number in last:
                    values[number] = _as_array(_cast(out, program.dtypes[number])) if rounded else out
            for number in equation.inputs:
                if last[number] == k:
                    values.pop(number, None)
    return [values[i] for i in program.outputs]


Rewrite = Callable[[Callable[[int], Any], list[Any]], list[Any]]
"""`(read, inputs) -> outputs` in place of one equation; `read(number)` gives any value computed so far."""


def rerun(
    program: Program, values: Sequence[Any], rewrites: dict[int, Rewrite], needed: Sequence[bool] | None = None
) -> dict[int, Any]:
    """Values that change, by number, when some equations (by position) are rewritten; the others are not evaluated.

    Args:
        needed: which equations matter for the outputs of interest.
    """
    changed: dict[int, Any] = {}

    def read(number):
        return changed[number] if number in changed else values[number]

    with np.errstate(all="ignore"):
        for position in range(min(rewrites), len(program.equations)):
            equation = program.equations[position]
            rewrite = rewrites.get(position)
            if rewrite is not None:
                outs = rewrite(read, [read(i) for i in equation.inputs])
            elif (needed is not None and not needed[position]) or not any(i in changed for i in equation.inputs):
                continue
            else:
                outs = apply(program, equation, [read(i) for i in equation.inputs])
            changed.update(zip(equation.outputs, outs))
    return changed


def evaluate_with_offsets(closed: Any, args: Sequence[Any], offsets: dict[str, Any], names: Sequence[str]) -> list[Any]:
    """Outputs of a traced function under JAX, an offset added to each named output where its value is made.

    So the derivative by an offset is the gradient of that intermediate value, through everything that uses it.
    """
    jaxpr = closed.jaxpr
    values: dict[Any, Any] = dict(zip([*jaxpr.constvars, *jaxpr.invars], [*closed.consts, *args]))
    marked = {var: offsets[name] for name, var in zip(names, jaxpr.outvars) if not isinstance(var, core.Literal)}

    def read(atom):
        return atom.val if isinstance(atom, core.Literal) else values[atom]

    for number, eqn in enumerate(jaxpr.eqns):
        with source_info_util.user_context(eqn.source_info.traceback), jax.named_scope(f"{NUMBERED}{number}"):
            outs = eqn.primitive.bind(*(read(a) for a in eqn.invars), **_bind_params(eqn))
        for var, out in zip(eqn.outvars, outs if eqn.primitive.multiple_results else [outs]):
            values[var] = out + marked[var] if var in marked else out
    return [read(var) for var in jaxpr.outvars]


def numbered(function: Callable[..., Any]) -> Callable[..., Any]:
    """The same function, each of its equations in a name scope with its number, which its derivatives inherit."""

    def run(*args):
        closed, out = jax.make_jaxpr(function, return_shape=True)(*args)
        return jax.tree.unflatten(jax.tree.structure(out), evaluate_with_offsets(closed, jax.tree.leaves(args), {}, ()))

    return run


def _bind_params(eqn: Any) -> dict[str, Any]:
    found = eqn.primitive.get_bind_params(eqn.params)
    return found[1] if isinstance(found, tuple) else found


# --- walking call-like primitives, layout-only operations, contact equations ------------------------------------------

WALKED = {"scan": "scan", "cond": "cond", "remat2": "remat", "checkpoint": "remat"}
"""Primitives whose bodies can be evaluated equation by equation without changing what they mean."""

LAYOUT = frozenset(
    "convert_element_type reshape transpose squeeze expand_dims broadcast_in_dim slice rev copy copy_p split "  # noqa: SIM905
    "reduce_precision optimization_barrier sharding_constraint layout_constraint mesh_cast reshard "
    "pbroadcast pvary pcast name".split()
)
"""Primitives that move the entries of an array, or change how they are stored, but compute nothing."""

_INLINED = frozenset(("jit", "pjit", "closed_call", "core_call", "custom_lin"))


@dataclass(frozen=True, eq=False)
class Op:
    """One equation. Inputs and outputs are numbers of values in the block that holds it."""

    eqn: Any
    inputs: tuple[int, ...]
    outputs: tuple[int, ...]
    bodies: tuple["Block", ...] = ()

    @property
    def name(self) -> str:
        """Name of the primitive; every spelling of rematerialisation is "remat"."""
        name: str = self.eqn.primitive.name
        return WALKED.get(name, name)

    @property
    def params(self) -> dict[str, Any]:
        return self.eqn.params

    @property
    def where(self) -> str:
        """The user's line, as `file:line:column (function)`."""
        return str(source_info_util.summarize(self.eqn.source_info))

    def bind(self, *values):
        """Apply the primitive; always returns a list, one entry per output."""
        primitive = self.eqn.primitive
        with self.eqn.ctx.manager:
            out = primitive.bind(*values, **primitive.get_bind_params(self.eqn.params))
        return list(out) if primitive.multiple_results else [out]


@dataclass(frozen=True, eq=False)
class Block:
    """A jaxpr with its jit calls inlined; values are numbered 0, 1, ..."""

    inputs: tuple[int, ...]
    outputs: tuple[int, ...]
    ops: tuple[Op, ...]
    literals: dict[int, Any]
    avals: list[Any] = field(repr=False)


def trace_block(f: Callable, *args) -> tuple[Block, Any]:
    """Block of `f(*args)` without dead code, its inputs the leaves of args, and the shapes of the output tree."""
    closed, shapes = jax.make_jaxpr(f, return_shape=True)(*args)
    jaxpr, consts = closed.jaxpr, closed.consts
    jaxpr, _ = partial_eval.dce_jaxpr(jaxpr, [True] * len(jaxpr.outvars), instantiate=True)
    return _read_block(jaxpr, consts), shapes


def _open(jaxpr) -> tuple[Any, Sequence[Any]]:
    """(jaxpr, consts) of an open or a closed jaxpr."""
    inner = getattr(jaxpr, "jaxpr", None)
    return (inner, jaxpr.consts) if inner is not None and hasattr(jaxpr, "consts") else (jaxpr, ())


def _body_jaxprs(eqn) -> tuple[Any, ...]:
    """The jaxprs of an equation that are called with the equation's own inputs, in the order `body_inputs` gives."""
    name, params = eqn.primitive.name, eqn.params
    if name == "cond":
        return tuple(params["branches"])
    if name == "while":
        return (params["body_jaxpr"],)
    for key in ("jaxpr", "call_jaxpr", "fun_jaxpr"):
        body = params.get(key)
        if body is not None and hasattr(_open(body)[0], "eqns") and len(_open(body)[0].invars) == len(eqn.invars):
            return (body,)
    return ()


def body_inputs(op: Op, values: Sequence[Any]) -> list[list[Any]]:
    """For each body of the equation, those of `values` (one per input of the equation) that it is called with."""
    if op.name == "cond":
        return [list(values[1:])] * len(op.bodies)
    if op.name == "while":
        return [list(values[op.params["cond_nconsts"] :])]
    return [list(values)] * len(op.bodies)


def _read_block(jaxpr, consts: Sequence[Any] = ()) -> Block:
    avals: list[Any] = []
    ops: list[Op] = []
    literals: dict[int, Any] = {}

    def new(aval) -> int:
        avals.append(aval)
        return len(avals) - 1

    def inline(jaxpr, env) -> list[int]:
        def number(atom) -> int:
            if not isinstance(atom, core.Literal):
                return env[atom]
            literals[n := new(atom.aval)] = atom.val
            return n

        for eqn in jaxpr.eqns:
            inputs = tuple(number(v) for v in eqn.invars)
            if (platforms := eqn.params.get("branches_platforms")) is not None:
                inner, inner_consts = _open(eqn.params["branches"][branch_that_runs(platforms)])
                env.update(zip(eqn.outvars, inline(inner, bind_inputs(inner, inner_consts, inputs[1:]))))
                continue
            bodies = _body_jaxprs(eqn)
            if eqn.primitive.name in _INLINED and bodies:
                inner, inner_consts = _open(bodies[0])
                outputs = inline(inner, bind_inputs(inner, inner_consts, inputs))
                env.update(zip(eqn.outvars, outputs))
                continue
            outputs = tuple(new(v.aval) for v in eqn.outvars)
            env.update(zip(eqn.outvars, outputs))
            ops.append(Op(eqn, inputs, outputs, tuple(_read_block(*_open(body)) for body in bodies)))
        return [number(v) for v in jaxpr.outvars]

    def bind_inputs(jaxpr, consts, inputs) -> dict[Any, int]:
        env = dict(zip(jaxpr.invars, inputs))
        for var, value in zip(jaxpr.constvars, consts):
            literals[n := new(var.aval)] = value
            env[var] = n
        return env

    inputs = tuple(new(v.aval) for v in jaxpr.invars)
    outputs = inline(jaxpr, bind_inputs(jaxpr, consts, inputs))
    return Block(inputs, tuple(outputs), tuple(ops), literals, avals)


def evaluate_block(block: Block, args: Sequence[Any], apply: Callable[[int, Op, list[Any]], list[Any]]) -> list[Any]:
    """Outputs of the block, where `apply(index, op, values)` stands for each of its equations."""
    env = dict(block.literals) | dict(zip(block.inputs, args))
    for index, op in enumerate(block.ops):
        env.update(zip(op.outputs, apply(index, op, [env[i] for i in op.inputs])))
    return [env[i] for i in block.outputs]


def backward_slice(block: Block, value: int) -> tuple[list[int], Callable[..., Any]]:
    """What `value` is computed from: numbers of the block's inputs, and the function from those inputs to it."""
    needed, ops = {value}, []
    for op in reversed(block.ops):
        if needed & set(op.outputs):
            ops.append(op)
            needed |= set(op.inputs)
    inputs = [i for i in block.inputs if i in needed]

    def compute(*args):
        env = dict(block.literals) | dict(zip(inputs, args))
        for op in reversed(ops):
            env.update(zip(op.outputs, op.bind(*(env[i] for i in op.inputs))))
        return env[value]

    return inputs, compute


def slice_ops(block: Block, value: int) -> list[Op]:
    """The equations that `value` is computed by, first to last."""
    needed, ops = {value}, []
    for op in reversed(block.ops):
        if needed & set(op.outputs):
            ops.append(op)
            needed |= set(op.inputs)
    return ops[::-1]

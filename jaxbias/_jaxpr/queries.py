"""What can be told of a traced function without changing it: which value depends on which, what its constants hold."""

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np

from jaxbias._jaxpr import Equation, Program
from jaxbias._jaxpr.in_numpy import DRAWS, LEFT_TO_JAX, VALUE, gather_positions, scatter_positions

LAYOUT = frozenset(
    "convert_element_type reshape transpose squeeze broadcast_in_dim slice rev copy split "  # noqa: SIM905
    "reduce_precision optimization_barrier sharding_constraint layout_constraint mesh_cast reshard "
    "pbroadcast pvary pcast name".split()
)
"""Primitives that move the entries of an array, or change how they are stored, but compute nothing."""


def coarsest_constant(program: Program) -> float:
    """Relative precision of the narrowest NumPy value that is closed over: it may have been rounded to that.

    A scalar has become float64 before it comes here; one that float32 holds exactly, with many digits, was a float32.
    """
    dtypes = {written_in(held, program.dtypes[number]) for number, held in program.constants.items()}
    return max((float(jnp.finfo(d).eps) for d in dtypes if jnp.issubdtype(d, jnp.inexact)), default=0.0)


def written_in(held: Any, dtype: Any) -> Any:
    """The dtype that a constant was rounded to before it came here."""
    if np.ndim(held) or dtype != np.float64:
        return dtype
    value = float(held)
    single = abs(value) < 3e38 and float(np.float32(value)) == value
    return np.dtype(np.float32) if single and math.frexp(value)[0] * 2**16 % 1 and value % 1 else dtype


COMPARING = {**dict.fromkeys(("lt", "le", "gt", "ge", "max", "min"), ((0, 1),)), "clamp": ((1, 0), (1, 2))}
"""Primitives that compare, and the positions of what they compare."""

ORDERING, JOINING = frozenset(("lt", "le", "gt", "ge")), frozenset(("and", "or", "not"))
"""Those whose outcome is a condition, and how one is made of several."""

ROUNDING = frozenset(("floor", "ceil", "round", "sign", "argmax", "argmin"))

OPAQUE = frozenset("pure_callback io_callback pallas_call ffi_call custom_call xla_call tpu_custom_call".split())  # noqa: SIM905
"""Primitives that run what is no program: in which precision is theirs to say."""


def names(program: Program) -> set[str]:
    """Of all primitives, those of bodies included."""
    bodies = (body for equation in program.equations for body in (*equation.bodies, equation.test) if body is not None)
    return {equation.name for equation in program.equations}.union(*map(names, bodies))


def draws(program: Program) -> bool:
    """Does a program draw random numbers? In another dtype it draws others."""
    return not DRAWS.isdisjoint(names(program))


def opaque(program: Program) -> bool:
    """Does a program call what cannot be read?"""
    return not OPAQUE.isdisjoint(names(program))


def without_value(program: Program) -> Counter[str]:
    """Primitives that `in_numpy` knows nothing of, not even that they are JAX's, and how many equations of each."""
    counts: Counter[str] = Counter()
    for equation in program.equations:
        for body in (*equation.bodies, equation.test):
            counts += without_value(body) if body is not None else Counter()
        if not equation.bodies and equation.name not in VALUE.keys() | LEFT_TO_JAX.keys():
            counts[equation.name] += 1
    return counts


def left_open(program: Program, values: Sequence[Any]) -> bool:
    """Does a program do at these values what has no one outcome in JAX, or what its author promised not to do?"""
    return any(asked(program, values) for asked in (reads_outside, writes_twice, breaks_a_promise))


def reads_outside(program: Program, values: Sequence[Any]) -> bool:
    """Does an index lie outside of the array that it reads from? JAX then takes another, or a fill value."""
    strict = {"mode": "FILL_OR_DROP"}
    read = [_places(equation, values, **strict) for equation in program.equations if equation.name == "gather"]
    return not all(np.all(inside) for _, inside in read)


def writes_twice(program: Program, values: Sequence[Any]) -> bool:
    """Is a place of an array set to two numbers at once? JAX leaves open which of them stays.

    Its derivative then sets places to the numbers of the updates, to see which stayed.
    """
    for equation in program.equations:
        if equation.name == "scatter":
            places, inside = _places(equation, values)
            set_to = np.broadcast_to(values[equation.inputs[2]], places.shape)[inside]
            if len(set(zip(places[inside], set_to))) > len(np.unique(places[inside])):
                return True
    return False


def breaks_a_promise(program: Program, values: Sequence[Any]) -> bool:
    """Do indices repeat that are unique by what the call says, or the borders of a clamp cross?

    The derivative of JAX relies on either.
    """
    for equation in program.equations:
        if equation.params.get("unique_indices") and (equation.name == "gather" or equation.name.startswith("scatter")):
            places, inside = _places(equation, values)
            if len(np.unique(places[inside])) < np.sum(inside):
                return True
        if equation.name == "clamp":
            low, _, high = (values[i] for i in equation.inputs)
            if np.any(low > high):
                return True
    return False


def _places(equation: Equation, values: Sequence[Any], **changes: Any) -> tuple[np.ndarray, np.ndarray]:
    """Flat positions that a gather reads or a scatter writes, and which of them exist."""
    params, shape = equation.params | changes, equation.shapes.inputs[0]
    indices, *update = (values[i] for i in equation.inputs[1:])
    if equation.name == "gather":
        return gather_positions(params, shape, indices)
    return scatter_positions(params, shape, indices, np.shape(update[0]))


def lacks_rank(program: Program, values: Sequence[Any]) -> bool:
    """Is a matrix taken apart into Q and R, a column of which depends on those before?

    Its column of Q, or the sign of that, is not determined: it is what an algorithm makes of it.
    """
    for equation in program.equations:
        if equation.name in ("qr", "geqrf"):
            r = np.asarray(values[equation.outputs[equation.name == "qr"]])
            sizes = np.abs(np.diagonal(r, axis1=-2, axis2=-1))
            unit = max(r.shape[-2:]) * np.finfo(np.float64).eps
            if np.any(sizes <= unit * np.max(np.abs(r), axis=(-2, -1), initial=0.0)[..., None]):
                return True
    return False


def depends_on(program: Program, numbers: Sequence[int], without: Sequence[Equation] = ()) -> set[int]:
    """Numbers of the values that are computed from any of the given ones, these included, but by some equations."""
    reached = set(numbers)
    for equation in program.equations:
        if equation not in without and any(i in reached for i in equation.inputs):
            reached.update(equation.outputs)
    return reached


class Decision(NamedTuple):
    """A comparison of what is computed from the inputs, a maximum or minimum of it, several comparisons joined to one
    condition, or a branch that it chooses.

    Attributes:
        operands: numbers of the two values that are compared, or of the one that says which way.
        ways: how many there are to go.
        of_branches: whether an integer among the inputs may choose the way.
        equal: whether the two are asked to be equal, not which is less.
    """

    operands: tuple[int, ...]
    ways: int
    of_branches: bool = False
    equal: bool = False

    def taken(self, values: Sequence[Any]) -> frozenset[int]:
        """Which ways it went, over all entries."""
        first, *other = (values[i] for i in self.operands)
        with np.errstate(invalid="ignore"):
            compared = (first == other[0] if self.equal else first < other[0]) if other else None
        way = np.clip(first, 0, self.ways - 1) if compared is None else compared
        return frozenset(np.unique(np.asarray(way)).astype(int).tolist())


def decisions(program: Program) -> list[Decision]:
    """In the order of the equations. A clamp makes two; what is inside of a loop that stays one equation, none.

    Whether two numbers are equal is none either, as that is not met by chance; of rounded ones it is.
    """
    computed = depends_on(program, program.inputs)
    of_floats = depends_on(program, [i for i in program.inputs if jnp.issubdtype(program.dtypes[i], jnp.inexact)])
    made: list[Decision] = []
    whole: set[int] = set()  # what is computed of rounded numbers alone
    conditions: set[int] = set()
    for equation in program.equations:
        numbers, name = equation.inputs, equation.name
        floats = of_floats.intersection(numbers)
        to_integer = [jnp.issubdtype(program.dtypes[i], jnp.integer) for i in equation.outputs if floats]
        if name in ROUNDING or any(to_integer) or (floats and whole.issuperset(floats)):
            whole.update(equation.outputs)
        if name == "cond" and numbers[0] in computed:
            made.append(Decision(numbers[:1], len(equation.bodies), of_branches=True))
        if name in COMPARING and floats:
            made += [Decision((numbers[i], numbers[j]), 2) for i, j in COMPARING[name]]
            conditions.update(equation.outputs if name in ORDERING else ())
        elif name in ("eq", "ne") and floats and whole.issuperset(floats):
            made.append(Decision(tuple(numbers), 2, equal=True))
            conditions.update(equation.outputs)
        elif (name in JOINING or name in LAYOUT) and conditions.issuperset(numbers):
            conditions.update(equation.outputs)
            made += [Decision(equation.outputs, 2)] if name in ("and", "or") else []
    return made


def borders(program: Program, values: Sequence[Any], made: Sequence[Decision]) -> set[float]:
    """The single constants with which its decisions compare."""
    computed = depends_on(program, program.inputs)
    fixed = {i for decision in made for i in decision.operands if i not in computed}
    ends = [np.unique(values[i]) for i in fixed if np.isrealobj(values[i])]
    return {float(end[0]) for end in ends if end.size == 1 and np.isfinite(end[0])}


def backward_slice(program: Program, numbers: Sequence[int]) -> Program:
    """The part of a program that these values are computed by: its inputs and equations that matter, same numbers."""
    needed, equations = set(numbers), []
    for equation in reversed(program.equations):
        if not needed.isdisjoint(equation.outputs):
            needed.update(equation.inputs)
            equations.append(equation)
    inputs = tuple(i for i in program.inputs if i in needed)
    return replace(program, inputs=inputs, outputs=tuple(numbers), equations=equations[::-1])

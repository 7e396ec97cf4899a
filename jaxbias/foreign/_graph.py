"""A traced model as a graph: which values data reach, what the others are made of, and chains of one use after another.

A *chain* is a way from one value to another on which every value is used once, and each equation acts on every entry by
itself: layout, or +, −, ·, / with what no data reach. So it is z ↦ g ⊙ z + t, entry by entry, and g and t are numbers
that params (and running statistics) alone decide.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import jax
from jaxtyping import Array

from jaxbias import _jaxpr
from jaxbias._jaxpr import Equation, Program
from jaxbias._jaxpr.queries import LAYOUT, backward_slice
from jaxbias.foreign.traced import split_params

ROOTS = frozenset(("sqrt", "rsqrt", "pow", "cbrt"))
CONTACTS = ("dot_general", "conv_general_dilated")


class Step(NamedTuple):
    """An equation of a chain, and the operand that the chain comes in by."""

    equation: Equation
    position: int

    @property
    def moves(self) -> bool:
        return self.equation.name in LAYOUT

    @property
    def other(self) -> int | None:
        """The value that is added or multiplied; None for layout and a change of sign."""
        inputs = self.equation.inputs
        return inputs[1 - self.position] if len(inputs) == 2 and not self.moves else None


class Contact(NamedTuple):
    """A product of data with a weight that only layout lies before: operand `position` of the equation is the leaf."""

    equation: Equation
    position: int
    leaf: int

    @property
    def along(self) -> list[tuple[int, int]]:
        """Axes that the product keeps of the weight: (axis of the operand, axis of the output)."""
        if self.equation.name == "conv_general_dilated":
            numbers = self.equation.params["dimension_numbers"]
            return [(numbers.rhs_spec[0], numbers.out_spec[1])]
        mine, other = self.equation.dot_axes()[self.position], self.equation.dot_axes()[1 - self.position]
        first = len(mine.batch) + (len(other.free) if self.position else 0)
        return [*zip(mine.batch, range(len(mine.batch))), *((axis, first + i) for i, axis in enumerate(mine.free))]


class Body(NamedTuple):
    """The graph of a loop's body.

    Attributes:
        leaves: of each of its leaves, the number in the outer graph.
        held: of each of its other inputs without data, the value in the outer graph.
        sliced: of each of both, whether a scan runs along its first axis.
    """

    graph: "Graph"
    leaves: tuple[int, ...]
    held: tuple[int, ...]
    sliced: tuple[bool, ...]


class Graph:
    """`fn(params, held, *args)` traced; `held` are arrays that are no data either, such as running statistics.

    Attributes:
        paths: of the leaves of params.
        on_data: values that depend on data.
        made_of: of every value, the leaves of params and, after them, of `held` that it depends on.
        rooted: values without data that went through a square root.
        met: of every leaf, the equations in which something made of it meets data, by `id`; None for an output.
    """

    def __init__(self, fn: Callable, params: Any, held: Any, args: tuple[Any, ...]):
        split, data = split_params(params), split_params(args)
        held_leaves, held_tree = jax.tree.flatten(held)
        self.paths, self.leaves, self.held = split.paths, split.leaves, held_leaves

        def run(leaves, held, values):
            return fn(split.rebuild(leaves), held_tree.unflatten(held), *data.rebuild(values))

        self.program, _ = _jaxpr.trace_inlined(run, split.leaves, held_leaves, data.leaves, remat=False)
        self._read()

    @classmethod
    def of_body(cls, outer: "Graph", equation: Equation, body: Program) -> "Body":
        """The body of a loop or a branch as a graph of its own, whose leaves are those of `outer` that come in."""
        values = equation.body_inputs(equation.inputs)
        first, count = equation.carried if equation.name in ("scan", "while") else (len(values), 0)
        leaf = {i: outer.leaf_of(v) for i, v in enumerate(values) if v in outer.program.inputs}
        leaf = {i: number for i, number in leaf.items() if number is not None and not first <= i < first + count}
        free = [i for i, v in enumerate(values) if v not in outer.on_data and not first <= i < first + count]
        held = [i for i in free if i not in leaf]
        data = [i for i in range(len(values)) if i not in free]
        forms = [jax.ShapeDtypeStruct(body.shapes[v], body.dtypes[v]) for v in body.inputs]

        graph = cls.__new__(cls)
        graph.paths = tuple(outer.paths[number] for number in leaf.values())
        graph.leaves, graph.held = [forms[i] for i in leaf], [forms[i] for i in held]
        graph.program = replace(body, inputs=tuple(body.inputs[i] for i in (*leaf, *held, *data)))
        graph._read()
        sliced = [equation.name == "scan" and i >= first + count for i in (*leaf, *held)]
        for i, number in enumerate(leaf.values()):
            if not sliced[i] or outer.met[number] != {id(equation)} or [*leaf.values()].count(number) > 1:
                graph.met[i].add(None)  # it is used elsewhere too, at the least in another turn
        return Body(graph, tuple(leaf.values()), tuple(values[i] for i in held), tuple(sliced))

    def _read(self) -> None:
        program = self.program
        free = len(self.leaves) + len(self.held)
        self.on_data: set[int] = set(program.inputs[free:])
        self.made_of: dict[int, frozenset[int]] = {v: frozenset((i,)) for i, v in enumerate(program.inputs[:free])}
        self.rooted: set[int] = set()
        self.producer: dict[int, Equation] = {}
        self.consumers: dict[int, list[Step | None]] = {}
        self.met: dict[int, set[int | None]] = {i: set() for i in range(free)}
        for equation in program.equations:
            reached = not self.on_data.isdisjoint(equation.inputs)
            rooted = equation.name in ROOTS or not self.rooted.isdisjoint(equation.inputs)
            parts = frozenset().union(*(self.made_of.get(v, frozenset()) for v in equation.inputs))
            for position, value in enumerate(equation.inputs):
                self.consumers.setdefault(value, []).append(Step(equation, position))
                if reached and value not in self.on_data:
                    for i in self.made_of.get(value, ()):
                        self.met[i].add(id(equation))
            for value in equation.outputs:
                self.producer[value] = equation
                self.made_of[value] = parts
                if reached:
                    self.on_data.add(value)
                elif rooted:
                    self.rooted.add(value)
        for value in program.outputs:
            self.consumers.setdefault(value, []).append(None)
            if value not in self.on_data:
                for i in self.made_of.get(value, ()):
                    self.met[i].add(None)

    # --- reading ---

    def only_use(self, value: int) -> Step | None:
        """The one step that uses a value; None where there are several, or it goes out."""
        uses = self.consumers.get(value, [])
        return uses[0] if len(uses) == 1 else None

    def step(self, equation: Equation) -> Step | None:
        """The equation as a step of a chain, None where it is none."""
        positions = [i for i, v in enumerate(equation.inputs) if v in self.on_data]
        if len(positions) != 1 or len(equation.outputs) != 1:
            return None
        same_size = math.prod(equation.shapes.inputs[positions[0]]) == math.prod(equation.shapes.outputs[0])
        affine = equation.name in ("add", "add_any", "sub", "mul", "neg", "div")
        wrong_way = equation.name == "div" and positions[0] == 1
        return (
            Step(equation, positions[0])
            if same_size and (affine or equation.name in LAYOUT) and not wrong_way
            else None
        )

    def contact(self, equation: Equation) -> Contact | None:
        """The equation as a product of data with a leaf as it is, None where it is none."""
        if equation.name not in CONTACTS:
            return None
        for position, value in enumerate(equation.inputs):
            leaf = self.leaf_of(value)
            if leaf is not None and equation.inputs[1 - position] in self.on_data:
                if equation.name == "conv_general_dilated" and position != 1:
                    return None
                contracts = equation.name != "dot_general" or equation.dot_axes()[position].contracted
                return Contact(equation, position, leaf) if contracts else None
        return None

    def leaf_of(self, value: int, repeated: bool = False) -> int | None:
        """The leaf of params that a value is, but for layout that drops no entry, and repeats none unless told so."""
        while value not in self.program.inputs:
            equation = self.producer.get(value)
            if equation is None or equation.name not in LAYOUT or len(equation.outputs) != 1:
                return None
            before, after = (math.prod(shapes[0]) for shapes in equation.shapes)
            if before != after and not (repeated and equation.name == "broadcast_in_dim"):
                return None
            value = equation.inputs[0]
        leaf = self.program.inputs.index(value)
        return leaf if leaf < len(self.leaves) else None

    def leaves_in(self, value: int | None) -> list[int]:
        """Leaves of params (not of `held`) in a value that no data reach."""
        return [i for i in sorted(self.made_of.get(value, ())) if i < len(self.leaves)] if value is not None else []

    # --- evaluating ---

    def without_data(self, values: Sequence[int], leaves: Sequence[Array], held: Sequence[Array]) -> dict[int, Array]:
        """Values that no data reach, at these leaves."""
        part = backward_slice(self.program, values)
        given = dict(zip(self.program.inputs, [*leaves, *held]))
        return dict(zip(values, _jaxpr.run_in_jax(part, [given[v] for v in part.inputs])))


def run_chain(chain: Sequence[Step], others: dict[int, Array], z: Array, moves_only: bool = False) -> Array:
    """The end of a chain that starts at z; with `moves_only` of its layout alone."""
    for equation, position in chain:
        if not (moves_only and equation.name not in LAYOUT):
            values = [z if i == position else others[v] for i, v in enumerate(equation.inputs)]
            (z,) = equation.bind(*values)
        elif z.dtype != equation.dtypes.outputs[0]:
            z = z.astype(equation.dtypes.outputs[0])
    return z

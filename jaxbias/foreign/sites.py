"""Where each leaf of params meets data, read from the jaxpr of the user's own function; what `capture` taps.

Every leaf is followed through the operations that involve params and constants only: mostly layout (cast, reshape,
transpose, squeeze, broadcast, slice, slicing by a scan). The equation where the result meets a value that depends on
the data is a *site*. The walk enters jit, remat, scan, cond, while, shard_map and vmapped bodies. A call with a
derivative rule of its own (custom_jvp, custom_vjp) is a site itself.

What a leaf is at such a place, its role, is read in `uses`; `contact` lists it.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from jaxbias._jaxpr import Equation, Program
from jaxbias.foreign.traced import traced


@dataclass(frozen=True)
class Origin:
    """A value computed from params and constants only."""

    leaves: tuple[int, ...]


WALKED = {"scan", "cond", "remat"}
"""Primitives whose bodies can be evaluated equation by equation without changing what they mean."""

DATA = "data"
"""A value that depends on the data. Constants are None; everything else is an `Origin`."""

Scope = tuple[tuple[int, int], ...]
"""Where a program sits: for each enclosing equation its index, and the index of the body."""


@dataclass(frozen=True, eq=False)
class Site:
    """A contact, and where to find it: operand `position` of equation `index` of the program at `scope`."""

    scope: Scope
    index: int
    position: int
    equation: Equation
    origin: Origin


@dataclass(frozen=True, eq=False)
class Analysis:
    """The traced function: its program, its contacts, what every value of every walked program is made of."""

    program: Program
    paths: tuple[str, ...]
    sites: tuple[Site, ...]
    kinds: dict[Scope, dict[int, Any]]
    programs: dict[Scope, Program]
    out_shape: Any


def analyse(fn: Callable, params: Any, args: tuple[Any, ...], remat: bool = True) -> Analysis:
    """Trace `fn(params, *args)` and find every site; with `remat=False` rematerialised calls are written out.

    Raises:
        TypeError: fn is no function.
    """
    made = traced(fn, params, args, {}, remat)
    kinds = [Origin((i,)) for i in range(len(made.leaves))] + [DATA] * len(made.data)
    walk = _Walk()
    walk.program(made.program, kinds, ())
    return Analysis(made.program, made.paths, tuple(walk.sites), walk.kinds, walk.programs, made.out_shape)


class _Walk:
    """Follows params through programs; collects the contacts and what every value is made of."""

    def __init__(self):
        self.sites: list[Site] = []
        self.kinds: dict[Scope, dict[int, Any]] = {}
        self.programs: dict[Scope, Program] = {}

    def program(self, program: Program, inputs: list[Any], scope: Scope) -> list[Any]:
        """What the program's outputs are made of, given that of its inputs."""
        kinds: dict[int, Any] = dict.fromkeys(program.constants) | dict(zip(program.inputs, inputs))
        self.kinds[scope], self.programs[scope] = kinds, program
        for index, equation in enumerate(program.equations):
            outputs = self.equation(equation, [kinds[i] for i in equation.inputs], scope, index)
            kinds.update(zip(equation.outputs, outputs))
        return [kinds[i] for i in program.outputs]

    def equation(self, equation: Equation, kinds: list[Any], scope: Scope, index: int) -> list[Any]:
        origins = [kind for kind in kinds if isinstance(kind, Origin)]
        if DATA not in kinds:
            return [_derived(origins)] * len(equation.outputs)
        if not origins:
            return [DATA] * len(equation.outputs)
        if equation.bodies:
            return self._enter(equation, kinds, scope, index)
        for position, kind in enumerate(kinds):
            if isinstance(kind, Origin):
                self.sites.append(Site(scope, index, position, equation, kind))
        return [DATA] * len(equation.outputs)

    def _enter(self, equation: Equation, kinds: list[Any], scope: Scope, index: int) -> list[Any]:
        """Walk the bodies. Where they cannot be evaluated piece by piece, the call itself is the contact."""
        before = len(self.sites)
        whole = equation.name not in WALKED
        inputs = equation.body_inputs(kinds)
        offset = len(kinds) - len(inputs)
        carries: list[int] = []  # positions of params that a loop starts from and then overwrites
        if equation.name in ("scan", "while"):
            inputs = self._loop_inputs(equation, inputs, carries)
        out_kinds: list[Any] = [DATA] * len(equation.outputs)
        for number, body in enumerate(equation.bodies):
            outputs = self.program(body, inputs, (*scope, (index, number)))
            for i, kind in enumerate(outputs):
                if not isinstance(kind, Origin):
                    continue
                if equation.name in ("scan", "remat") and self._handed_through(equation, body, i):
                    out_kinds[i] = kind
                else:  # params (not data) leave the body: keep the call in one piece
                    whole = True
        for position in carries:
            self.sites.append(Site(scope, index, position + offset, equation, kinds[position + offset]))
        if not whole:
            return out_kinds
        del self.sites[before:]
        for position, kind in enumerate(kinds):
            if isinstance(kind, Origin):
                self.sites.append(Site(scope, index, position, equation, kind))
        return [DATA] * len(equation.outputs)

    @staticmethod
    def _handed_through(equation: Equation, body: Program, output: int) -> bool:
        """Whether an output of the body is the input that it came in by."""
        if equation.name == "remat":
            return body.outputs[output] in body.inputs
        n_consts, n_carry = equation.carried
        return output < n_carry and body.outputs[output] == body.inputs[n_consts + output]

    def _loop_inputs(self, equation: Equation, kinds: list[Any], carries: list[int]) -> list[Any]:
        """Kinds of a loop's body inputs: what is carried is data as soon as one iteration makes it data."""
        body = equation.bodies[0]
        first, n_carry = equation.carried
        kinds = list(kinds)
        for _ in range(n_carry + 1):
            outputs = _Walk().program(body, kinds, ())
            changed = False
            for i in range(n_carry):
                before, after = kinds[first + i], outputs[i]
                if before in (after, DATA) or body.outputs[i] == body.inputs[first + i]:
                    continue
                if isinstance(before, Origin):
                    carries.append(first + i)
                kinds[first + i], changed = DATA, True
            if not changed:
                break
        return kinds


def _derived(origins: list[Origin]) -> Origin | None:
    """What comes out of an equation without data: of constants a constant, of params something made of them."""
    leaves = tuple(sorted({i for origin in origins for i in origin.leaves}))
    return Origin(leaves) if leaves else None

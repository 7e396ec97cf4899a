"""Where each leaf of params first meets data, read from the jaxpr of the user's own function.

Every leaf is followed through the operations that involve params and constants only: mostly layout (cast, reshape,
transpose, squeeze, broadcast, slice, slicing by a scan). The equation where the result meets a value that depends on
the data is a *contact*. Its primitive says what the leaf is, whatever the leaf's rank or name:

    dot_general, convolution  ->  weight         z = a·w
    add, subtract             ->  bias           z = a + b           ∂L/∂b = δ summed over the broadcast      (14)
    multiply, divide          ->  scale          z = a ⊙ s
    gather by data            ->  embedding      z = e[a]
    anything else             ->  other

The walk enters jit, remat, scan, cond, while, shard_map and vmapped bodies. A call with a derivative rule of its own
(custom_jvp, custom_vjp) is a contact itself, and its inside only tells the role.
"""

from collections.abc import Callable
from dataclasses import dataclass
from itertools import chain
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxbias import _jaxpr
from jaxbias._jaxpr import Equation, Program
from jaxbias._jaxpr.queries import LAYOUT
from jaxbias._trees import path_name

ROLE_OF = {
    "dot_general": "weight",
    "conv_general_dilated": "weight",
    "ragged_dot": "weight",
    "ragged_dot_general": "weight",
    "add": "bias",
    "add_any": "bias",
    "sub": "bias",
    "mul": "scale",
    "div": "scale",
    "gather": "embedding",
    "dynamic_slice": "embedding",
}


@dataclass(frozen=True)
class Contact:
    """An equation at which params meet data.

    Attributes:
        leaves: paths of the params leaves that the operand is made of, usually one.
        role: "weight", "bias", "scale", "embedding" or "other".
        operation: name of the primitive.
        where: the user's line, `file:line:column (function)`.
        shape: shape of the operand.
        layout_only: nothing but layout operations between the leaf and this equation.
    """

    leaves: tuple[str, ...]
    role: str
    operation: str
    where: str
    shape: tuple[int, ...]
    layout_only: bool


@dataclass(frozen=True)
class Origin:
    """A value computed from params and constants only."""

    leaves: tuple[int, ...]
    layout: bool = True
    gathered: bool = False


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
    role: str


@dataclass(frozen=True, eq=False)
class Analysis:
    """The traced function: its program, its contacts, what every value of every walked program is made of."""

    program: Program
    paths: tuple[str, ...]
    sites: tuple[Site, ...]
    kinds: dict[Scope, dict[int, Any]]
    programs: dict[Scope, Program]
    out_shape: Any


class Split(NamedTuple):
    """The array leaves of a params tree, their paths, and the way back.

    Attributes:
        leaves: arrays, in tree order.
        paths: their paths in dots.
        rebuild: `(values) -> tree` with the values at the arrays' places and every other leaf as it was;
            `(values, None) -> tree` with None at every other leaf.
    """

    leaves: list[Any]
    paths: tuple[str, ...]
    rebuild: Callable[..., Any]


def split_params(params: Any) -> Split:
    """Part the arrays of a tree from what cannot be traced.

    An Equinox module holds its activation function, and dropout its rate and its switch, as leaves. So in a tree with a
    leaf that JAX cannot trace, or a bool, only real arrays count; elsewhere Python numbers do too, as in `jax.grad`.
    """
    arrays = (jax.Array, np.ndarray, np.generic, jax.ShapeDtypeStruct)
    with_paths, treedef = jax.tree_util.tree_flatten_with_path(params)
    plain = all(isinstance(leaf, (*arrays, float, int, complex)) for _, leaf in with_paths)
    plain = plain and not any(isinstance(leaf, bool) for _, leaf in with_paths)
    keeps = [plain or isinstance(leaf, arrays) for _, leaf in with_paths]
    paths = tuple(path_name(path) or "params" for (path, _), keep in zip(with_paths, keeps) if keep)
    same = object()

    def rebuild(values, other=same):
        values = iter(values)
        others = (leaf if other is same else other for _, leaf in with_paths)
        return treedef.unflatten([next(values) if keep else leaf for leaf, keep in zip(others, keeps)])

    return Split([leaf for (_, leaf), keep in zip(with_paths, keeps) if keep], paths, rebuild)


def contacts(fn: Callable, params: Any, *args: Any) -> tuple[Contact, ...]:
    """Every equation of `fn(params, *args)` at which a leaf of params meets data.

    Args:
        fn: any traceable function.
        params: a pytree of arrays; leaves that are not arrays are left as they are.
        args: data, pytrees of arrays or of `jax.ShapeDtypeStruct`. Nothing is computed, only traced.

    Raises:
        ValueError: a leaf never meets data; the message names the leaf and the operation at which it stopped.
    """
    analysis = analyse(fn, params, args)
    check_all_met(analysis, "contacts")
    return tuple(_describe(analysis, site) for site in analysis.sites)


def _describe(analysis: Analysis, site: Site) -> Contact:
    leaves = tuple(analysis.paths[i] for i in site.origin.leaves)
    equation, shape = site.equation, site.equation.shapes.inputs[site.position]
    return Contact(leaves, site.role, equation.name, str(equation.source or ""), shape, site.origin.layout)


def analyse(fn: Callable, params: Any, args: tuple[Any, ...]) -> Analysis:
    """Trace `fn(params, *args)` and find every contact.

    Raises:
        TypeError: fn is no function.
    """
    if not callable(fn):
        raise TypeError(
            f"fn must be a function of (params, *args), got a {type(fn).__name__}. Hand the function first."
        )
    leaves, paths, rebuild = split_params(params)
    data, _, rebuild_args = split_params(args)
    program, out_shape = _jaxpr.trace_inlined(lambda ps, xs: fn(rebuild(ps), *rebuild_args(xs)), leaves, data)
    kinds = [Origin((i,)) for i in range(len(leaves))] + [DATA] * len(data)
    walk = _Walk()
    walk.program(program, kinds, ())
    return Analysis(program, paths, tuple(walk.sites), walk.kinds, walk.programs, out_shape)


def check_all_met(analysis: Analysis, function: str) -> None:
    """Raise a ValueError that names the first leaf without a contact, and where it went instead."""
    met = {i for site in analysis.sites for i in site.origin.leaves}
    for i, path in enumerate(analysis.paths):
        if i in met:
            continue
        used = [
            equation
            for equation in analysis.program.equations
            if any(isinstance(k := analysis.kinds[()].get(v), Origin) and i in k.leaves for v in equation.inputs)
        ]
        stop = f"it stops at operation {used[-1].name} at {used[-1].source}" if used else "the output does not use it"
        raise ValueError(
            f"{function}: the params leaf {path} never meets data: {stop}. Leave it out of params, or pass "
            f'unused="other" where the function takes it.'
        )


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
            return [_derived(equation, origins)] * len(equation.outputs)
        if not origins:
            return [DATA] * len(equation.outputs)
        if equation.bodies:
            return self._enter(equation, kinds, scope, index)
        for position, kind in enumerate(kinds):
            if isinstance(kind, Origin):
                role = "embedding" if kind.gathered else _role(equation, position)
                self.sites.append(Site(scope, index, position, equation, kind, role))
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
                    out_kinds[i] = Origin(kind.leaves, layout=False, gathered=kind.gathered)
                else:  # params (not data) leave the body: keep the call in one piece
                    whole = True
        for position in carries:
            self.sites.append(Site(scope, index, position + offset, equation, kinds[position + offset], "other"))
        if not whole:
            return out_kinds
        inside = self.sites[before:]
        del self.sites[before:]
        for position, kind in enumerate(kinds):
            if isinstance(kind, Origin):
                roles = [site.role for site in inside if set(site.origin.leaves) & set(kind.leaves)]
                for role in dict.fromkeys(roles or ["other"]):
                    self.sites.append(Site(scope, index, position, equation, kind, role))
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


def _derived(equation: Equation, origins: list[Origin]) -> Origin | None:
    """What comes out of an equation without data: of constants a constant, of params something made of them."""
    if not origins:
        return None
    leaves = tuple(sorted({i for origin in origins for i in origin.leaves}))
    gathered = any(origin.gathered for origin in origins)
    if equation.name == "gather" and len(equation.inputs) == 2:
        one_row = int(np.prod(equation.shapes.inputs[1][:-1])) == 1  # x[3] takes a slice, x[positions] looks rows up
        return Origin(leaves, len(origins) == 1 and origins[0].layout and one_row, gathered or not one_row)
    if equation.name == "dynamic_slice":
        return Origin(leaves, len(origins) == 1 and origins[0].layout, gathered)
    layout = equation.name in LAYOUT and len(origins) == 1 and origins[0].layout and _stays_float(equation)
    return Origin(leaves, layout, gathered)


def _stays_float(equation: Equation) -> bool:
    values = zip(chain(*equation.shapes), chain(*equation.dtypes))
    return all(jnp.issubdtype(dtype, jnp.floating) for shape, dtype in values if shape)


def _role(equation: Equation, position: int) -> str:
    role = ROLE_OF.get(equation.name, "other")
    if role == "embedding" and position != 0:
        return "other"
    return role

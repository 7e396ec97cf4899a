"""PartitionSpecs for the params of anyone's model, by what each leaf is used for.

Every axis of every array is followed through the traced function: axes that an operation lines up with each other form
one *line*, such as the hidden units of a feed-forward block from the product that makes them, through bias and
activation, to the product that sums over them. A line may be cut over the devices if nothing on its way needs all of
it at once: no norm, softmax or slice, no input and no output. Then, in the manner of Megatron,

    the product that makes the line      is column-parallel   z_k = a W[:, k] + b[k]            no communication
    the product that sums over it        is row-parallel      z = Σ_k a_k W[k, :]  (one sum over devices), then + b

so a bias goes with its line: it is cut with the columns, and whole, added once, after the rows. Tables that data index
are cut by vocabulary, or by feature where that does not divide. All else (norms, routers, the head) is whole.

Experts are params stacked along an axis that a product with data goes through block by block (a batch axis of it) and
that no product with params sums over. With an axis "expert" of the mesh each device has some of the experts whole, or
cut by "model" as above; what the router makes stays whole, so one sum over devices joins what the experts give.

Sources: M. Shoeybi et al., Megatron-LM (2019), section 3; D. Lepikhin et al., GShard (2020), section 3.2; that both are
read from the program is ours.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from jax.sharding import AbstractMesh, Mesh, PartitionSpec

from jaxbias._jaxpr import Equation, Program
from jaxbias.foreign.roles import ROLES
from jaxbias.foreign.sites import Analysis, Origin, analyse
from jaxbias.foreign.traced import split_params
from jaxbias.foreign.uses import uses_of
from jaxbias.params import Tree

AXIS, EXPERTS = "model", "expert"
"""The mesh axes that lines and stacked experts are cut over."""

_ELEMENTWISE = frozenset(
    "abs add add_any and asin asinh atan atan2 atanh cbrt ceil clamp convert_element_type copy cos cosh div eq "  # noqa: SIM905
    "erf erf_inv erfc exp exp2 expm1 floor ge gt integer_pow is_finite le log log1p logistic lt max min mul ne neg "
    "nextafter not or pow reduce_precision rem round rsqrt select_n sign sin sinh sqrt square stop_gradient sub tan "
    "tanh xor optimization_barrier pbroadcast pcast pvary name sharding_constraint layout_constraint mesh_cast".split()
)
_ENTERED = frozenset("custom_jvp_call custom_vjp_call remat cond".split())  # noqa: SIM905
"""Calls whose bodies get their own inputs, one for one."""


def shardings(
    fn: Callable[..., Any],
    params: Tree,
    *args: Any,
    mesh: Mesh | AbstractMesh,
    rules: Literal["megatron"] | Mapping[str, PartitionSpec] = "megatron",
) -> Tree:
    """A `PartitionSpec` for every leaf of params in `fn(params, *args)`, in a tree like params.

    Under the rule "megatron" the axis "model" of the mesh cuts column-parallel products and their biases by outputs,
    row-parallel products by inputs, embeddings by vocabulary (by feature where that does not divide), and leaves norms,
    routers, biases of row-parallel products and everything unclear whole. A line of axes is cut only where every
    size that it takes, such as the number of heads, is a multiple of the axis. A fused product that is sliced (queries,
    keys and values in one) stays whole: slices of a cut axis would be gathered first. An axis "expert" of the mesh cuts
    the params of experts, which are stacked along one of theirs; their router is whole.

    Args:
        fn: the model or its loss, any traceable function, as for `jb.roles`.
        params: pytree of arrays or of `jax.ShapeDtypeStruct`. Leaves that are not arrays become None.
        args: data, arrays or `jax.ShapeDtypeStruct`: nothing is computed.
        mesh: with an axis "model", an axis "expert", or both.
        rules: "megatron", or role → PartitionSpec, as {"weight": P(None, "model")}; roles that are not named stay
            whole. A leaf of two roles, as "embedding+weight", goes by its first that is named.

    Returns:
        a tree for `fit(..., shardings=...)`, `jax.device_put` or `shard_map`.

    Raises:
        TypeError: fn is no function, or a rule is no PartitionSpec.
        ValueError: a mesh without the axis, unknown rules, or a spec that a leaf cannot be cut by.

    Example:
        >>> mesh = jax.sharding.AbstractMesh((2, 4), ("data", "model"))
        >>> network = jb.chain(jb.layers.dense.layer(8), jb.layers.relu, jb.layers.dense.layer(3))
        >>> params = network.init(jax.random.key(0), jnp.ones((5, 6)))
        >>> specs = jb.shardings(lambda p, x: network.forward(p, x)[0], params, jnp.ones((5, 6)), mesh=mesh)
        >>> specs[0].weight, specs[0].bias, specs[2].weight, specs[2].bias
        (P(None, 'model'), P('model',), P('model', None), P())
    """
    if not isinstance(mesh, Mesh | AbstractMesh):
        raise TypeError(f"shardings: mesh must be a jax.sharding.Mesh, got {mesh!r}. Make it with jax.make_mesh.")
    analysis = analyse(fn, params, args)
    split = split_params(params)
    shapes = [analysis.program.shapes[number] for number in analysis.program.inputs[: len(split.paths)]]
    roles = uses_of(analysis.program, analysis.paths).roles()
    if isinstance(rules, str):
        if rules != "megatron":
            raise ValueError(f'shardings: rules must be "megatron" or a mapping from roles, got {rules!r}.')
        parts = {name: mesh.shape[name] for name in (AXIS, EXPERTS) if name in mesh.axis_names}
        if not parts:
            raise ValueError(
                f'shardings: the mesh has the axes {mesh.axis_names}, but the rule "megatron" cuts over "{AXIS}", and '
                f'experts over "{EXPERTS}". Name one so: jax.make_mesh((2, 4), ("data", "{AXIS}")).'
            )
        specs = _by_lines(analysis, shapes, roles, parts)
    else:
        specs = _by_roles(rules, roles)
    for path, spec, shape in zip(split.paths, specs, shapes):
        _check(spec, shape, path, mesh)
    return split.rebuild(specs, None)


def _by_roles(rules: Mapping[str, PartitionSpec], roles: list[str]) -> list[PartitionSpec]:
    for role, spec in rules.items():
        if role not in ROLES:
            raise ValueError(f"shardings: rules has {role!r}, which is no role: {', '.join(ROLES)}.")
        if not isinstance(spec, PartitionSpec):
            raise TypeError(f"shardings: the rule for {role!r} must be a PartitionSpec, got {spec!r}.")
    named = ([rules[role] for role in joined.split("+") if role in rules] for joined in roles)
    return [(*specs, PartitionSpec())[0] for specs in named]


def _check(spec: PartitionSpec, shape: tuple[int, ...], path: str, mesh: Mesh | AbstractMesh) -> None:
    if len(spec) > len(shape):
        raise ValueError(f"shardings: {path} has shape {shape}, which {spec} has too many entries for.")
    for size, entry in zip(shape, spec):
        names = () if entry is None else (entry,) if isinstance(entry, str) else entry
        for name in names:
            if name not in mesh.axis_names:
                raise ValueError(f"shardings: {spec} names {name!r}, but the mesh has the axes {mesh.axis_names}.")
        parts = math.prod(mesh.shape[name] for name in names)
        if size % parts:
            raise ValueError(
                f"shardings: {path} of shape {shape} cannot be cut by {spec}: {size} is no multiple of {parts}."
            )


def _by_lines(
    analysis: Analysis, shapes: list[tuple[int, ...]], roles: list[str], parts: Mapping[str, int]
) -> list[PartitionSpec]:
    """Specs of the leaves; parts: the mesh axes to cut over, and their sizes."""
    lines = _Lines(analysis, with_experts=EXPERTS in parts)
    leaves = [tuple(lines.new(size) for size in shape) for shape in shapes]
    data = [lines.blocked_axes(analysis.program.shapes[i]) for i in analysis.program.inputs[len(leaves) :]]
    for out in lines.walk(analysis.program, [*leaves, *data]):
        lines.block(*out)
    cut: list[dict[int, str]] = [{} for _ in leaves]

    def cut_over(name: str, line: int) -> None:
        owners = [
            (i, axis) for i, axes in enumerate(leaves) for axis, own in enumerate(axes) if lines.root(own) == line
        ]
        divisible = all(size % parts[name] == 0 for size in lines.sizes(line))
        free = all(name not in cut[i].values() and axis not in cut[i] for i, axis in owners)
        if divisible and free and len({i for i, _ in owners}) == len(owners):
            for i, axis in owners:
                cut[i][axis] = name

    if AXIS in parts:
        for i, role in enumerate(roles):  # tables first: where tied to a head, the head goes by them
            if "embedding" in role.split("+") and shapes[i]:
                divisible = [axis for axis, size in enumerate(shapes[i]) if size % parts[AXIS] == 0]
                cut[i] |= dict.fromkeys(divisible[:1], AXIS)
        for line in lines.in_order_of_their_products():
            if not lines.is_blocked(line):
                cut_over(AXIS, line)
    for line in lines.of_experts():
        cut_over(EXPERTS, line)
    return [PartitionSpec(*(axes.get(k) for k in range(len(shape) if axes else 0))) for axes, shape in zip(cut, shapes)]


Axes = tuple[int, ...]
"""For every axis of a value, the line that it belongs to."""


@dataclass
class _Lines:
    """Sets of axes that operations line up, as a union-find; roots carry what is known of a line."""

    analysis: Analysis
    with_experts: bool
    parent: list[int] = field(default_factory=list)
    all_sizes: list[set[int]] = field(default_factory=list)
    blocked: list[bool] = field(default_factory=list)
    made: list[int] = field(default_factory=list)
    """Lines that a product with params makes, in order."""
    summed: list[int] = field(default_factory=list)
    """Lines that a product with params sums over."""
    stacked: list[int] = field(default_factory=list)
    """Lines of params that a product with data goes through block by block; left empty where none is to be cut."""

    def __post_init__(self):
        programs, kinds = self.analysis.programs, self.analysis.kinds
        self.kinds = {id(program): kinds[scope] for scope, program in programs.items()}

    def new(self, size: int) -> int:
        self.parent.append(len(self.parent))
        self.all_sizes.append({size})
        self.blocked.append(False)
        return len(self.parent) - 1

    def fresh(self, shape: tuple[int, ...]) -> Axes:
        return tuple(map(self.new, shape))

    def blocked_axes(self, shape: tuple[int, ...]) -> Axes:
        axes = self.fresh(shape)
        self.block(*axes)
        return axes

    def root(self, line: int) -> int:
        while self.parent[line] != line:
            line = self.parent[line]
        return line

    def join(self, a: int, b: int) -> None:
        a, b = self.root(a), self.root(b)
        if a != b:
            self.parent[b] = a
            self.all_sizes[a] |= self.all_sizes[b]
            self.blocked[a] |= self.blocked[b]

    def block(self, *lines: int) -> None:
        for line in lines:
            self.blocked[self.root(line)] = True

    def is_blocked(self, line: int) -> bool:
        return self.blocked[self.root(line)]

    def sizes(self, line: int) -> set[int]:
        return self.all_sizes[self.root(line)]

    def in_order_of_their_products(self) -> list[int]:
        summed = {self.root(line) for line in self.summed}
        return [line for line in dict.fromkeys(map(self.root, self.made)) if line in summed]

    def is_of_experts(self, line: int) -> bool:
        return self.root(line) in map(self.root, self.stacked)

    def of_experts(self) -> list[int]:
        summed = {self.root(line) for line in self.summed}  # heads, not experts
        return [line for line in dict.fromkeys(map(self.root, self.stacked)) if line not in summed]

    # --- through a program ---

    def walk(self, program: Program, inputs: list[Axes]) -> list[Axes]:
        """Axes of the outputs."""
        values = {i: self.fresh(program.shapes[i]) for i in program.constants} | dict(zip(program.inputs, inputs))
        for equation in program.equations:
            outs = self._equation(equation, [values[i] for i in equation.inputs])
            values.update(zip(equation.outputs, outs))
        return [values[i] for i in program.outputs]

    def _equation(self, equation: Equation, operands: list[Axes]) -> list[Axes]:
        name, shapes = equation.name, equation.shapes
        if name in _ENTERED and equation.bodies:
            return self._bodies(equation, equation.body_inputs(operands))
        if name in ("scan", "while"):
            return self._loop(equation, equation.body_inputs(operands))
        if name in _ELEMENTWISE:
            out = self.fresh(shapes.outputs[0])
            self._line_up(equation, operands, out)
            return [out] if len(equation.outputs) == 1 else operands
        step = getattr(self, "_" + name, None)
        if step is not None:
            return step(equation, *operands)
        if name.startswith("reduce_") or name in ("argmax", "argmin"):
            return [self._reduction(equation, operands[0])]
        for axes in operands:  # of what is not known, nothing may be cut
            self.block(*axes)
        return [self.blocked_axes(shape) for shape in shapes.outputs]

    def _line_up(self, equation: Equation, operands: list[Axes], out: Axes) -> None:
        shapes = equation.shapes
        for k, (line, size) in enumerate(zip(out, shapes.outputs[0])):
            own = [
                (axes[k], position)
                for position, axes in enumerate(operands)
                if len(axes) == len(out) and shapes.inputs[position][k] == size  # else it is repeated along the axis
            ]
            of_experts = any(self.is_of_experts(axis) for axis, _ in own)
            for axis, position in own:
                # What a router makes is no part of the experts' line where it weighs what they give.
                if not of_experts or self.is_of_experts(axis) or self._is_params(equation, position):
                    self.join(line, axis)

    def _bodies(self, equation: Equation, inputs: list[Axes]) -> list[Axes]:
        branches = [self.walk(body, inputs) for body in equation.bodies]
        for outs in branches[1:]:
            for axes, others in zip(branches[0], outs):
                list(map(self.join, axes, others))
        return branches[0]

    def _loop(self, equation: Equation, inputs: list[Axes]) -> list[Axes]:
        first, carried = equation.carried
        stacked = inputs[first + carried :]
        for axes in stacked:
            self.block(*axes[:1])
        outs = self.walk(equation.bodies[0], [*inputs[: first + carried], *(axes[1:] for axes in stacked)])
        for before, after in zip(inputs[first : first + carried], outs[:carried]):
            list(map(self.join, before, after))
        length = equation.shapes.outputs[carried][:1] if len(outs) > carried else ()
        return [*outs[:carried], *((*self.blocked_axes(length), *axes) for axes in outs[carried:])]

    def _is_params(self, equation: Equation, position: int) -> bool:
        kinds = self.kinds.get(id(equation.program), {})
        return isinstance(kinds.get(equation.inputs[position]), Origin)

    # --- operations that line axes up otherwise than one by one; each gives the axes of its outputs ---

    def _dot_general(self, equation: Equation, lhs: Axes, rhs: Axes) -> list[Axes]:
        of_lhs, of_rhs = equation.dot_axes()
        with_params = [self._is_params(equation, position) for position in (0, 1)]
        batch = [
            self._block_by_block(lhs[a], rhs[b], with_params) for a, b in zip(of_lhs.batch, of_rhs.batch, strict=True)
        ]
        contracted = [(lhs[a], rhs[b]) for a, b in zip(of_lhs.contracted, of_rhs.contracted, strict=True)]
        for a, b in contracted:
            if any(with_params) or self.is_of_experts(a) == self.is_of_experts(b):
                self.join(a, b)
            if any(with_params):
                self.summed.append(a)
            else:  # of two activations, as scores of queries and keys: each device needs all of it
                self.block(a, b)
        if any(with_params):
            self.made += [lhs[axis] for axis in of_lhs.free] if with_params[0] else [rhs[axis] for axis in of_rhs.free]
        free = [lhs[axis] for axis in of_lhs.free] + [rhs[axis] for axis in of_rhs.free]
        return [(*batch, *free)]

    def _block_by_block(self, of_lhs: int, of_rhs: int, with_params: list[bool]) -> int:
        """The line of a batch axis. Rows that a router sent to experts are no part of the experts' line."""
        if not self.with_experts or sum(with_params) != 1:
            self.join(of_lhs, of_rhs)
            return of_lhs
        own, sent = (of_lhs, of_rhs) if with_params[0] else (of_rhs, of_lhs)
        self.stacked.append(own)
        if self.is_of_experts(sent) or not self.is_blocked(sent):
            self.join(own, sent)
        return own

    def _conv_general_dilated(self, equation: Equation, lhs: Axes, rhs: Axes) -> list[Axes]:
        spec, groups = equation.params["dimension_numbers"], equation.params["feature_group_count"]
        out = self.fresh(equation.shapes.outputs[0])
        batch, features, *space = spec.lhs_spec
        makes, takes, *window = spec.rhs_spec
        self.join(out[spec.out_spec[0]], lhs[batch])
        self.join(out[spec.out_spec[1]], rhs[makes])
        self.block(
            *(lhs[axis] for axis in space), *(rhs[axis] for axis in window), *(out[k] for k in spec.out_spec[2:])
        )
        if groups == 1 and self._is_params(equation, 1):
            self.join(lhs[features], rhs[takes])
            self.made.append(rhs[makes])
            self.summed.append(rhs[takes])
        else:
            self.block(lhs[features], rhs[makes], rhs[takes])
        return [out]

    def _transpose(self, equation: Equation, axes: Axes) -> list[Axes]:
        return [tuple(axes[k] for k in equation.params["permutation"])]

    def _squeeze(self, equation: Equation, axes: Axes) -> list[Axes]:
        dropped = {k % len(axes) for k in equation.params["dimensions"]}
        return [tuple(axis for k, axis in enumerate(axes) if k not in dropped)]

    def _broadcast_in_dim(self, equation: Equation, axes: Axes, *_: Axes) -> list[Axes]:
        before, after = equation.shapes.inputs[0], equation.shapes.outputs[0]
        out = list(self.fresh(after))
        for axis, k in zip(range(len(before)), equation.params["broadcast_dimensions"]):
            if before[axis] == after[k]:
                out[k] = axes[axis]
        return [tuple(out)]

    def _reshape(self, equation: Equation, axes: Axes, *_: Axes) -> list[Axes]:
        """Split or merged axes belong together by their slowest part, which is cut into whole blocks of the others."""
        before, after = equation.shapes.inputs[0], equation.shapes.outputs[0]
        out = self.fresh(after)
        i = j = 0
        while i < len(before) and j < len(after):
            old, new = [i], [j]
            while (a := math.prod(before[k] for k in old)) != (b := math.prod(after[k] for k in new)):
                if a < b and old[-1] + 1 < len(before):
                    old.append(old[-1] + 1)
                elif new[-1] + 1 < len(after):
                    new.append(new[-1] + 1)
                else:
                    self.block(*axes, *out)
                    return [out]
            slowest = [k for k in old if before[k] > 1][:1], [k for k in new if after[k] > 1][:1]
            for a, b in zip(*slowest):
                self.join(axes[a], out[b])
            others = (*(axes[k] for k in old if k not in slowest[0]), *(out[k] for k in new if k not in slowest[1]))
            if len(old) > 1:  # merged: whoever is faster must be whole
                self.block(*others)
            i, j = old[-1] + 1, new[-1] + 1
        return [out]

    def _reduction(self, equation: Equation, axes: Axes) -> Axes:
        reduced = equation.params["axes"]
        self.block(*(axes[k] for k in reduced))
        return tuple(axis for k, axis in enumerate(axes) if k not in reduced)

    def _kept(self, equation: Equation, axes: Axes) -> list[Axes]:
        """Axes that keep their size are the same; what is taken out of the others needs all of them."""
        outs = []
        for shape in equation.shapes.outputs:
            out = self.fresh(shape)
            for k, (a, b) in enumerate(zip(axes, out)):
                if shape[k] == equation.shapes.inputs[0][k]:
                    self.join(a, b)
                else:
                    self.block(a, b)
            outs.append(out)
        return outs

    def _slice(self, equation: Equation, axes: Axes) -> list[Axes]:
        return self._kept(equation, axes)

    def _split(self, equation: Equation, axes: Axes) -> list[Axes]:
        return self._kept(equation, axes)

    def _dynamic_slice(self, equation: Equation, axes: Axes, *_: Axes) -> list[Axes]:
        return self._kept(equation, axes)

    def _pad(self, equation: Equation, axes: Axes, *_: Axes) -> list[Axes]:
        return self._kept(equation, axes)

    def _concatenate(self, equation: Equation, *operands: Axes) -> list[Axes]:
        outs = [self._kept(equation, axes)[0] for axes in operands]
        for other in outs[1:]:
            list(map(self.join, outs[0], other))
        self.block(outs[0][equation.params["dimension"]])
        return outs[:1]

    def _gather(self, equation: Equation, table: Axes, indices: Axes) -> list[Axes]:
        """Whole slices of a table keep their axes; what data choose from is no line."""
        numbers, sizes = equation.params["dimension_numbers"], equation.params["slice_sizes"]
        out = self.fresh(equation.shapes.outputs[0])
        taken = {*numbers.collapsed_slice_dims, *getattr(numbers, "operand_batching_dims", ())}
        kept = [k for k in range(len(table)) if k not in taken]
        for k, position in zip(kept, numbers.offset_dims):
            if sizes[k] == equation.shapes.inputs[0][k]:
                self.join(table[k], out[position])
            else:
                self.block(table[k], out[position])
        self.block(*(table[k] for k in taken), *indices)
        self.block(*(line for k, line in enumerate(out) if k not in numbers.offset_dims))
        return [out]

    def _iota(self, equation: Equation, *_: Axes) -> list[Axes]:
        return [self.fresh(equation.shapes.outputs[0])]

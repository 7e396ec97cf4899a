"""A `shard_map` written out: the body once per device, the collectives as sums, slices and concatenations.

So a sharded function is a program like any other, and whatever reads, bounds or encloses programs needs to know nothing
of devices.
"""

import itertools
import math
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from jaxbias._jaxpr.program import Equation, Program, WrittenOut

MOST_COPIES = 4000
"""Equations of all devices together up to which a body is written out."""

KEPT = {"pvary", "pcast", "pbroadcast", "preduced", "copy_p"}
"""Collectives that change no value, only what is known of who holds it."""

SUMS = {"psum": "add", "psum_invariant": "add", "pmax": "max", "pmin": "min", "unreduced_psum": "add"}

OTHERS = {"axis_index", "all_gather", "all_gather_invariant", "reduce_scatter", "all_to_all", "ppermute"}


def can_be_written_out(equation: "Equation", body: "Program") -> bool:
    """Whether every collective of the flat body stands outside of its loops and branches, and is known here."""
    devices = math.prod(_axes(equation).values())
    return len(body.equations) * devices <= MOST_COPIES and not any(map(_is_unknown, body.equations))


def _is_unknown(equation: "Equation") -> bool:
    collective = "axis_name" in equation.params or ("axes" in equation.params and equation.name.startswith("p"))
    known = equation.name in KEPT | OTHERS | SUMS.keys() and equation.params.get("axis_index_groups") is None
    inside = any(map(_has_collective, (*equation.bodies, *filter(None, [equation.test]))))
    return (collective and not known) or inside


def _has_collective(program: "Program") -> bool:
    return any(
        "axis_name" in e.params or e.name in SUMS.keys() | OTHERS or any(map(_has_collective, e.bodies))
        for e in program.equations
    )


def _axes(equation: "Equation") -> dict[str, int]:
    """Name → size of the mesh axes over which the body is written for one device."""
    params = equation.params
    manual = params.get("newly_manual_axes", params.get("manual_axes"))
    return {name: size for name, size in params["mesh"].shape.items() if name in manual}


def _names(entry: Any) -> tuple[str, ...]:
    return () if entry is None else (entry,) if isinstance(entry, str) else tuple(entry)


class Shards:
    """Writes one shard_map into a program.

    Args:
        writer: of the program.
        equation: the shard_map.
        body: what each device does, flat.
    """

    def __init__(self, writer: "WrittenOut", equation: "Equation", body: "Program"):
        self.writer, self.equation, self.body = writer, equation, body
        self.axes = _axes(equation)
        self.devices = list(itertools.product(*map(range, self.axes.values())))
        self.form: Callable[[int], tuple[tuple[int, ...], Any]] = lambda i: (writer.out.shapes[i], writer.out.dtypes[i])

    def write(self, inputs: Sequence[int]) -> list[int]:
        """Numbers of the outputs."""
        body, params = self.body, self.equation.params
        numbers: dict[tuple[int, int], int] = {}
        for number, whole, spec in zip(body.inputs, inputs, params["in_specs"]):
            for k in range(len(self.devices)):
                numbers[k, number] = self._shard(whole, spec, k)
        for number, held in body.constants.items():
            constant = self.writer.out.constant(body.shapes[number], body.dtypes[number], held)
            numbers |= {(k, number): constant for k in range(len(self.devices))}
        for equation in body.equations:
            operands = [[numbers[k, i] for i in equation.inputs] for k in range(len(self.devices))]
            outs = self._collective(equation, operands) or [self._copy(equation, values) for values in operands]
            numbers |= {(k, i): out for k, row in enumerate(outs) for i, out in zip(equation.outputs, row)}
        return [
            self._assembled([numbers[k, i] for k in range(len(self.devices))], spec, len(body.shapes[i]))
            for i, spec in zip(body.outputs, params["out_specs"])
        ]

    def _copy(self, equation: "Equation", inputs: Sequence[int]) -> Sequence[int]:
        program = equation.program
        forms = [(program.shapes[i], program.dtypes[i]) for i in equation.outputs]
        return self.writer.append(equation, tuple(inputs), forms, caller=equation.caller or self.equation)

    def _write(self, name: str, inputs: Sequence[int], shape: Sequence[int], by: "Equation", **params: Any) -> int:
        form = tuple(shape), self.form(inputs[0])[1]
        changes = {"name": name, "params": params, "bodies": (), "caller": by.caller or self.equation}
        return self.writer.append(by, tuple(inputs), [form], **changes)[0]

    # --- in and out ---

    def _position(self, k: int, names: Sequence[str]) -> tuple[int, int]:
        """Which of how many parts a device holds along mesh axes, the first one slowest."""
        index, count = 0, 1
        for name in names:
            size = self.axes[name]
            index, count = index * size + self.devices[k][list(self.axes).index(name)], count * size
        return index, count

    def _shard(self, whole: int, spec: Any, k: int) -> int:
        start, limit = [0] * len(self.form(whole)[0]), list(self.form(whole)[0])
        for axis, entry in enumerate(spec):
            index, count = self._position(k, [name for name in _names(entry) if name in self.axes])
            part = limit[axis] // count
            start[axis], limit[axis] = index * part, (index + 1) * part
        return self._slice(whole, start, limit, self.equation)

    def _slice(self, x: int, start: Sequence[int], limit: Sequence[int], by: "Equation") -> int:
        shape = tuple(b - a for a, b in zip(start, limit))
        if shape == tuple(self.form(x)[0]):
            return x
        params = {"start_indices": tuple(start), "limit_indices": tuple(limit), "strides": None}
        return self._write("slice", [x], shape, by, **params)

    def _part(self, x: int, axis: int, index: int, count: int, by: "Equation") -> int:
        start, limit = [0] * len(self.form(x)[0]), list(self.form(x)[0])
        size = limit[axis] // count
        start[axis], limit[axis] = index * size, (index + 1) * size
        return self._slice(x, start, limit, by)

    def _joined(self, parts: Sequence[int], axis: int, by: "Equation") -> int:
        if len(parts) == 1:
            return parts[0]
        shape = list(self.form(parts[0])[0])
        shape[axis] *= len(parts)
        return self._write("concatenate", parts, shape, by, dimension=axis)

    def _assembled(self, parts: Sequence[int], spec: Any, rank: int) -> int:
        entries = [[name for name in _names(entry) if name in self.axes] for entry in (*spec, *[None] * rank)][:rank]

        def at(chosen: dict[str, int], axis: int) -> int:
            if axis == rank:
                coordinates = tuple(chosen.get(name, 0) for name in self.axes)
                return parts[self.devices.index(coordinates)]
            names = entries[axis]
            choices = itertools.product(*(range(self.axes[name]) for name in names))
            return self._joined([at(chosen | dict(zip(names, c)), axis + 1) for c in choices], axis, self.equation)

        return at({}, 0)

    # --- collectives ---

    def _collective(self, equation: "Equation", operands: list[list[int]]) -> list[Sequence[int]] | None:
        """Outputs of every device; None for what is no collective."""
        name, p = equation.name, equation.params
        if name in KEPT:
            return [tuple(values) for values in operands]
        if name in SUMS:
            columns = [self._by_groups(column, p["axes"], self._sum(SUMS[name], equation)) for column in zip(*operands)]
            return list(zip(*columns))
        if name == "axis_index":
            return [(self._index(k, p["axis_name"]),) for k in range(len(self.devices))]
        if name not in OTHERS:
            return None
        run = getattr(self, "_" + name.removesuffix("_invariant"))
        names = p["axis_name"]
        return [(out,) for out in self._by_groups([values[0] for values in operands], names, run(equation))]

    def _index(self, k: int, names: Any) -> int:
        return self.writer.out.constant(
            (), np.dtype(np.int32), np.asarray(self._position(k, _names(names))[0], np.int32)
        )

    def _by_groups(self, column: Sequence[int], names: Any, run: Callable[[list[int]], Sequence[int]]) -> list[int]:
        """`run` on the values of the devices that differ in these axes only, in their order along them."""
        names = _names(names) if not isinstance(names, tuple | list | frozenset) else tuple(names)
        others = [name for name in self.axes if name not in names]
        groups: dict[int, list[int]] = {}
        for k in sorted(range(len(self.devices)), key=lambda k: self._position(k, names)[0]):
            groups.setdefault(self._position(k, others)[0], []).append(k)
        outs = list(column)
        for members in groups.values():
            for k, out in zip(members, run([column[k] for k in members])):
                outs[k] = out
        return outs

    def _sum(self, name: str, by: "Equation") -> Callable[[list[int]], Sequence[int]]:
        def run(values: list[int]) -> Sequence[int]:
            total = values[0]
            for value in values[1:]:
                total = self._write(name, [total, value], self.form(total)[0], by)
            return [total] * len(values)

        return run

    def _all_gather(self, by: "Equation"):
        axis, tiled = by.params["all_gather_dimension"], by.params["tiled"]

        def run(values: list[int]) -> Sequence[int]:
            rows = values if tiled else [self._with_axis(x, axis, by) for x in values]
            return [self._joined(rows, axis, by)] * len(values)

        return run

    def _with_axis(self, x: int, axis: int, by: "Equation") -> int:
        shape = list(self.form(x)[0])
        shape.insert(axis, 1)
        return self._write("reshape", [x], shape, by, new_sizes=tuple(shape), dimensions=None)

    def _without_axis(self, x: int, axis: int, by: "Equation") -> int:
        shape = list(self.form(x)[0])
        del shape[axis]
        return self._write("reshape", [x], shape, by, new_sizes=tuple(shape), dimensions=None)

    def _reduce_scatter(self, by: "Equation"):
        axis, tiled = by.params["scatter_dimension"], by.params["tiled"]

        def run(values: list[int]) -> Sequence[int]:
            total = self._sum("add", by)(values)[0]
            parts = [self._part(total, axis, k, len(values), by) for k in range(len(values))]
            return parts if tiled else [self._without_axis(part, axis, by) for part in parts]

        return run

    def _all_to_all(self, by: "Equation"):
        split, join, tiled = by.params["split_axis"], by.params["concat_axis"], by.params["tiled"]

        def run(values: list[int]) -> Sequence[int]:
            outs = []
            for k in range(len(values)):
                parts = [self._part(x, split, k, len(values), by) for x in values]
                if not tiled:
                    parts = [self._with_axis(self._without_axis(part, split, by), join, by) for part in parts]
                outs.append(self._joined(parts, join, by))
            return outs

        return run

    def _ppermute(self, by: "Equation"):
        def run(values: list[int]) -> Sequence[int]:
            sources = {target: source for source, target in by.params["perm"]}
            shape, dtype = self.form(values[0])
            nothing = None if len(sources) == len(values) else self.writer.out.constant(shape, dtype, np.zeros(shape))
            return [values[sources[k]] if k in sources else nothing for k in range(len(values))]  # type: ignore[misc]

        return run

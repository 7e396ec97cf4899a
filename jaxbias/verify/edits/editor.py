"""What an edit is, and what every kind of edit needs: the values of the program, their names, rewrites of equations."""

import itertools
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from jaxbias import _jaxpr
from jaxbias._jaxpr.queries import backward_slice, depends_on
from jaxbias._jaxpr.rounding import error_bounds
from jaxbias.verify.expressions import Expressions
from jaxbias.verify.loops import Places

if TYPE_CHECKING:
    from jaxbias.verify.checker import Case

ACTIVATIONS = {
    "tanh", "logistic", "exp", "exp2", "log", "log1p", "expm1", "sin", "cos", "tan", "erf", "erfc", "max", "min",
    "abs", "sqrt", "rsqrt", "cbrt", "pow", "integer_pow", "square", "sinh", "cosh", "asinh", "acosh", "atanh", "atan",
    "asin", "acos", "sign", "clamp", "lgamma", "erf_inv",
}  # fmt: skip


@dataclass(eq=False)
class Edit:
    """A rewrite of one equation (in every iteration of its loop), and what it means.

    Attributes:
        tier: 1 for the simplest.
        text: what the rule does, as the rest of a sentence that begins "The rule ...".
        fitted: the rewrite leaves a contribution out; the rule may count it with another constant factor instead.
        repair: kind and text hold for a repair of the rule too, as those of a change that undoes itself do.
    """

    kind: str
    tier: int
    text: str
    fix: str
    rewrites: dict[int, _jaxpr.Rewrite]
    source: Any
    position: int
    fitted: bool = False
    also: tuple[str, ...] = ()
    term: str = ""
    weight: float = 0.0
    repair: bool = False


class Editor:
    """Generates the edits of one reference program.

    Args:
        cases: probes of one size; the values of the first tell values apart.
        seeds: how many of the inputs, the last ones, are seeds.
        leaves: positions of the outputs that the rule has wrong.
        repairing: the program is the rule's, and edits that make it right are sought.
        copies: equations that Python repeated in a loop (see `loops`), to be edited together.
    """

    def __init__(
        self,
        program: _jaxpr.Program,
        cases: Sequence["Case"],
        seeds: int,
        leaves: Sequence[int],
        names: list[str],
        repairing: bool = False,
        copies: Places | None = None,
    ):
        self.program, self.values = program, cases[0].values
        self.active = program  # the program a rewrite runs in: the same equations, perhaps traced for other sizes
        self.equations = program.equations
        self.seeds = program.inputs[len(program.inputs) - seeds :]
        self.linear = depends_on(program, self.seeds)
        self.write = Expressions(program, names, () if repairing else program.outputs[len(cases[0].expected) :])
        wanted = set(backward_slice(program, [program.outputs[i] for i in leaves]).equations)
        self.needed = [eqn in wanted for eqn in self.equations]
        self.uses: dict[int, int] = defaultdict(int)
        for eqn in self.equations:
            for i in eqn.inputs:
                self.uses[i] += 1
        for i in program.outputs:
            self.uses[i] += 1
        self.born = {o: p for p, eqn in enumerate(self.equations) for o in eqn.outputs}
        self.slots: dict[Any, dict[int, int]] = defaultdict(dict)
        self.slot_of: dict[int, Any] = {}
        places = copies or {}
        self.consumers: dict[int, list[tuple[int, int]]] = defaultdict(list)
        self.iteration: list[int] = []
        for position, eqn in enumerate(self.equations):
            group, iteration = places.get(position, (eqn.group, eqn.iteration))
            self.iteration.append(iteration)
            for k, number in enumerate(eqn.inputs):
                self.consumers[number].append((position, k))
            for k, number in enumerate(eqn.outputs):
                extra = eqn.inputs[0] if eqn.name == "loop_index" else 0
                slot = (eqn.name, group, k, extra)
                if eqn.name == "loop_stack" or iteration in self.slots[slot]:
                    slot = (*slot, position)  # nested loops: each equation on its own
                self.slots[slot][iteration] = number
                self.slot_of[number] = slot
        self.repairing = repairing
        self.pins = {} if repairing else self._vanishing(cases)
        self.activation_lines = self._activation_lines()
        self.fresh = self._distinct_values()

    def _activation_lines(self) -> dict[tuple[str, int], list[_jaxpr.Equation]]:
        """Forward equations that are elementwise and not linear, by source line."""
        found: dict[tuple[str, int], list[_jaxpr.Equation]] = defaultdict(list)
        for eqn in self.equations:
            if eqn.source is None or any(i in self.linear for i in eqn.inputs):
                continue
            selects = eqn.name == "select_n" and self._from_same(eqn)
            if eqn.name in ACTIVATIONS or selects:
                found[eqn.source.file, eqn.source.line].append(eqn)
        return found

    def _from_same(self, eqn: _jaxpr.Equation) -> bool:
        """Is the predicate of a select computed from the float that it selects? Then it is a kinked activation."""
        before = self.ancestors(eqn.inputs[0])
        floats = {i for i in self.program.inputs if self.values[i].dtype.kind == "f"} - set(self.seeds)
        return bool(before & floats)

    def _vanishing(self, cases: Sequence["Case"]) -> dict[int, _jaxpr.Rewrite]:
        """Gradients that cancel to zero on every probe, such as that of the maximum which softmax subtracts.

        A person leaves such terms out, so an edit must not let them come to life: they are held at zero.
        """
        bounds = [error_bounds(case.program, case.values, 2.0**-53) for case in cases[:3]]
        pins: dict[int, _jaxpr.Rewrite] = {}
        for position, eqn in enumerate(self.equations):
            if not self.needed[position] or not any(i in self.linear for i in eqn.inputs) or len(eqn.outputs) != 1:
                continue
            out = eqn.outputs[0]
            if out in self.program.outputs or self.program.shapes[out] is None:
                continue
            vanishes = all(
                np.any(case.values[out]) and np.all(np.abs(case.values[out]) <= 1000 * bound[out])
                for case, bound in zip(cases, bounds)
            )
            if vanishes:
                pins[position] = lambda read, inputs, out=out: [np.zeros(self.active.shapes[out])]
        return pins

    def ancestors(self, number: int) -> set[int]:
        seen, stack = set(), [number]
        while stack:
            i = stack.pop()
            if i not in seen:
                seen.add(i)
                if i in self.born:
                    stack += self.equations[self.born[i]].inputs
        return seen

    def _distinct_values(self) -> list[int]:
        """One number for every value that is no constant and different from the earlier ones; floats only."""
        seen: dict[Any, int] = {}
        for number, value in enumerate(self.values):
            if not isinstance(value, np.ndarray | np.generic):
                continue
            array: np.ndarray = np.asarray(value)
            if array.dtype.kind != "f" or (number in self.program.constants and array.ndim == 0):
                continue
            with np.errstate(all="ignore"):
                weights = np.cos(np.arange(array.size)).reshape(array.shape)
                fingerprint = (array.shape, number in self.linear, float(array.sum()), float((weights * array).sum()))
            if np.isfinite(fingerprint[2]):
                seen.setdefault(fingerprint, number)
        return list(seen.values())

    def partner(self, number: int, position: int, shift: int = 0) -> int | None:
        """The value that stands to an equation as `number` does to the equation that leads its slot.

        That may be a value of the same pass of the loop, of the one before or of the next.
        """
        slot = self.slot_of.get(number)
        if slot is None or len(self.slots[slot]) == 1:
            return number if shift == 0 else None
        home, lead = self.iteration[self.born[number]], self.iteration[self.lead(position)]
        if home != lead and not (self.in_loop(position) and abs(home - lead) == 1):
            return None
        iteration = self.iteration[position] + home - lead + shift
        found = self.slots[slot].get(iteration)
        return self._in_its_place(number, iteration - home) if found is None and shift == 0 else found

    def _in_its_place(self, number: int, passes: int) -> int | None:
        """What the consumers of a value take so many passes later, where it is not made: before the first or last pass.

        There a gradient comes from one side only, or from outside of the loop.
        """
        for position, k in self.consumers[number]:
            outputs = self.equations[position].outputs
            copies = self.slots[self.slot_of[outputs[0]]] if outputs else {}
            if len(copies) > 1 and (copy := copies.get(self.iteration[position] + passes)) is not None:
                return self.equations[self.born[copy]].inputs[k]
        return None

    def in_loop(self, position: int) -> bool:
        return len(self.slots[self.slot_of[self.equations[position].outputs[0]]]) > 1

    def everywhere(self, position: int, make: Callable[[int], _jaxpr.Rewrite | None]) -> dict[int, _jaxpr.Rewrite]:
        """A rewrite for the equation in every iteration of its loop."""
        eqn = self.equations[position]
        if not eqn.outputs or len(self.slots[self.slot_of[eqn.outputs[0]]]) == 1:
            rewrite = make(position)
            return {position: rewrite} if rewrite else {}
        rewrites = {}
        for number in self.slots[self.slot_of[eqn.outputs[0]]].values():
            if (rewrite := make(self.born[number])) is not None:
                rewrites[self.born[number]] = rewrite
        return rewrites

    def lead(self, position: int) -> int:
        """The equation that stands for its slot; the others are edited together with it.

        The second pass of a loop, because what the first takes from before the loop is no value of a pass.
        """
        positions = sorted(self.born[n] for n in self.slots[self.slot_of[self.equations[position].outputs[0]]].values())
        return positions[min(1, len(positions) - 1)]

    def leader(self, position: int) -> bool:
        return bool(self.equations[position].outputs) and self.lead(position) == position

    def name(self, number: int) -> str:
        """A formula for a value, or the operation and the line that it comes from."""
        text = self.write(number)
        if text:
            return f"`{text}`"
        if number not in self.born:
            return "an intermediate value"
        eqn = self.equations[self.born[number]]
        return f"the result of `{eqn.name}`{self.about(eqn, ' in the line ')}"

    def exchange(self, wrong: int, right: int, eqn: _jaxpr.Equation) -> str:
        """Words for an equation that takes one value in place of another."""
        line = self.about(eqn, " in the line ")  # said once, at the end
        wrong_name, right_name = (self.name(number).removesuffix(line) for number in (wrong, right))
        if wrong_name == right_name:
            wrong_name = f"another {wrong_name.removeprefix('the ')}"
        return f"uses {wrong_name} in place of {right_name}{self.about(eqn)}"

    def about(self, eqn: _jaxpr.Equation, joined: str = " of ") -> str:
        return f"{joined}`{eqn.source.text}`" if eqn.source is not None and eqn.source.text else ""

    def activations(self, eqn: _jaxpr.Equation) -> list[_jaxpr.Equation]:
        """Elementwise functions of the forward on the line that an equation comes from."""
        return self.activation_lines.get((eqn.source.file, eqn.source.line), []) if eqn.source is not None else []

    def compute(self, position: int, inputs: Sequence[Any], params: Any = None) -> list[Any]:
        return _jaxpr.apply(self.active.equations[position], inputs, params)

    def shape(self, position):
        return self.active.shapes[self.active.equations[position].outputs[0]]

    def factor_name(self, eqn, f):
        return self.name(f) if eqn.name == "mul" else f"1 / {self.name(f)}"

    def float_out(self, eqn) -> bool:
        return all(np.asarray(self.values[o]).dtype.kind == "f" for o in eqn.outputs) and len(eqn.outputs) == 1

    def same_value(self, a, b) -> bool:
        return np.array_equal(self.values[a], self.values[b])

    def upstream(self, position, shape) -> list[int]:
        """Linear values of one shape that come before an equation and lead to it."""
        before = self.ancestors(self.equations[position].outputs[0])
        own = self.equations[position].outputs[0]
        return [
            i for i in self.fresh if i in self.linear and i in before and i != own and self.program.shapes[i] == shape
        ]

    def between(self, u: int, v: int) -> list[_jaxpr.Equation]:
        below = depends_on(self.program, [u])
        return [self.equations[self.born[i]] for i in sorted(self.ancestors(v) & below - {u}) if i in self.born]

    def replace_output(self, position, number, shift=0):
        partner = self.partner(number, position, shift)
        if partner is None or self.born.get(partner, -1) >= position:
            return None
        return lambda read, inputs: [read(partner)]

    def replace_input(self, position, k, number, change=None, shift=0):
        partner = self.partner(number, position, shift)
        if partner is None or self.born.get(partner, -1) >= position:
            return None
        if change is None:
            change = lambda x: x
        return lambda read, inputs: self.compute(
            position, [change(read(partner)) if j == k else x for j, x in enumerate(inputs)]
        )

    def other_iteration(self, position, k, shift):
        own = self.equations[position].inputs[k]
        slot = self.slot_of.get(own)
        if slot is None or len(self.slots[slot]) == 1:
            return None
        iteration = self.iteration[self.born[own]] + shift
        other = self.slots[slot].get(iteration)
        if other is not None and self.born[other] >= position:
            return None
        if other is None:
            zero = np.zeros(self.program.shapes[own])
            return lambda read, inputs: self.compute(position, [zero if j == k else x for j, x in enumerate(inputs)])
        return lambda read, inputs: self.compute(position, [read(other) if j == k else x for j, x in enumerate(inputs)])

    def times(self, position, g, view, divide, change=None):
        partner = self.partner(g, position)
        if partner is None or self.born.get(partner, -1) >= position:
            return None

        def rewrite(read, inputs):
            value = np.asarray(read(partner))
            value = (value if change is None else change(value)).reshape(same_axes(view, self.shape(position)))
            outs = self.compute(position, inputs)
            return [out / value if divide else out * value for out in outs]

        return rewrite

    def plus(self, position, u):
        partner = self.partner(u, position)
        if partner is None or self.born.get(partner, -1) >= position:
            return None
        return lambda read, inputs: [self.compute(position, inputs)[0] - read(partner)]


def views(shape: tuple[int, ...], out: tuple[int, ...]) -> list[tuple[int, ...]]:
    """Shapes under which a value broadcasts against an output: as it is, or with its axes among the output's."""
    if shape == out or shape == ():
        return [shape]
    found = []
    if len(shape) == len(out) and all(a in (1, b) for a, b in zip(shape, out)):
        return [shape]
    if len(shape) < len(out):
        for axes in itertools.combinations(range(len(out)), len(shape)):
            if all(out[a] == n for a, n in zip(axes, shape)):
                found.append(tuple(out[a] if a in axes else 1 for a in range(len(out))))
    return found


def same_axes(view: tuple[int, ...], out: tuple[int, ...]) -> tuple[int, ...]:
    """A broadcasting view for the sizes of another program: axes of size 1 stay, the others follow the output."""
    if len(view) != len(out):
        return view
    return tuple(1 if v == 1 else n for v, n in zip(view, out))


def line_text(eqn: _jaxpr.Equation) -> str:
    return eqn.source.text if eqn.source is not None else ""

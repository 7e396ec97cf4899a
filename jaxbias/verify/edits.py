"""Single edits of the true backward pass: each is a mistake that a person could have made, as a rewrite of equations.

The backward pass is the jaxpr of autodiff, so an edit can leave out a factor or a term, flip a sign, sum over another
axis, take another intermediate, forget a mask, overwrite where it must add. An edit that reproduces what the rule
returns is the diagnosis. Edits come in tiers, the simplest first. What stands in a loop is edited in every iteration.
"""

import itertools
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from jaxbias import _jaxpr
from jaxbias._jaxpr_numpy import scatter_accumulate, scatter_overwrite
from jaxbias.verify.expressions import Expressions

if TYPE_CHECKING:
    from jaxbias.verify.checker import Case

ELEMENTWISE = {
    "mul",
    "div",
    "neg",
    "select_n",
    "add",
    "add_any",
    "sub",
    "integer_pow",
    "square",
    "convert_element_type",
    "copy",
    "one_minus_square",
    "broadcast_in_dim",
    "reshape",
    "squeeze",
}
ACTIVATIONS = {
    "tanh",
    "logistic",
    "exp",
    "exp2",
    "log",
    "log1p",
    "expm1",
    "sin",
    "cos",
    "tan",
    "erf",
    "erfc",
    "max",
    "min",
    "abs",
    "sqrt",
    "rsqrt",
    "cbrt",
    "pow",
    "integer_pow",
    "square",
    "sinh",
    "cosh",
    "asinh",
    "acosh",
    "atanh",
    "atan",
    "asin",
    "acos",
    "sign",
    "clamp",
    "lgamma",
    "erf_inv",
}
ADDING = {
    "add",
    "add_any",
    "sub",
    "concatenate",
    "stack",
    "loop_stack",
    "select_n",
    "scatter-add",
    "dynamic_update_slice",
}
LOOP_PARTS = {"loop_index", "loop_stack"}


@dataclass(eq=False)
class Edit:
    """A rewrite of one equation (in every iteration of its loop), and what it means.

    Attributes:
        tier: 1 for the simplest.
        text: what the rule does, as the rest of a sentence that begins "The rule ...".
        fitted: the rewrite leaves a contribution out; the rule may count it with another constant factor instead.
        repair: kind and text already speak of a repair of the rule.
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
    """

    def __init__(
        self,
        program: _jaxpr.Program,
        cases: Sequence["Case"],
        seeds: int,
        leaves: Sequence[int],
        names: list[str],
        repairing: bool = False,
    ):
        self.program, self.values = program, cases[0].values
        self.active = program  # the program a rewrite runs in: the same equations, perhaps traced for other sizes
        self.equations = program.equations
        self.seeds = program.inputs[len(program.inputs) - seeds :]
        self.linear = _jaxpr.depends_on(program, self.seeds)
        self.write = Expressions(program, names)
        wanted = _jaxpr.needed_for(program, [program.outputs[i] for i in leaves])
        self.needed = [any(o in wanted for o in eqn.outputs) for eqn in self.equations]
        self.uses: dict[int, int] = defaultdict(int)
        for eqn in self.equations:
            for i in eqn.inputs:
                self.uses[i] += 1
        for i in program.outputs:
            self.uses[i] += 1
        self.born = {o: p for p, eqn in enumerate(self.equations) for o in eqn.outputs}
        self.slots: dict[Any, dict[int, int]] = defaultdict(dict)
        self.slot_of: dict[int, Any] = {}
        for position, eqn in enumerate(self.equations):
            for k, number in enumerate(eqn.outputs):
                extra = eqn.inputs[0] if eqn.name == "loop_index" else 0
                slot = (eqn.name, eqn.group, k, extra)
                if eqn.name == "loop_stack" or eqn.iteration in self.slots[slot]:
                    slot = (*slot, position)  # nested loops: each equation on its own
                self.slots[slot][eqn.iteration] = number
                self.slot_of[number] = slot
        self.repairing = repairing
        self.pins = {} if repairing else self._vanishing(cases)
        self.activation_lines = self._activation_lines()
        self.fresh = self._distinct_values()

    # --- what there is ------------------------------------------------------------------------------------------------

    def _activation_lines(self) -> dict[tuple[str, int], _jaxpr.Equation]:
        """Forward equations that are elementwise and not linear, by source line."""
        found = {}
        for eqn in self.equations:
            if eqn.source is None or any(i in self.linear for i in eqn.inputs):
                continue
            selects = eqn.name == "select_n" and self._from_same(eqn)
            if eqn.name in ACTIVATIONS or selects:
                found.setdefault((eqn.source.file, eqn.source.line), eqn)
        return found

    def _from_same(self, eqn: _jaxpr.Equation) -> bool:
        """Is the predicate of a select computed from the float that it selects? Then it is a kinked activation."""
        before = self._ancestors(eqn.inputs[0])
        floats = {i for i in self.program.inputs if self.values[i].dtype.kind == "f"} - set(self.seeds)
        return bool(before & floats)

    def _vanishing(self, cases: Sequence["Case"]) -> dict[int, _jaxpr.Rewrite]:
        """Gradients that cancel to zero on every probe, such as that of the maximum which softmax subtracts.

        A person leaves such terms out, so an edit must not let them come to life: they are held at zero.
        """
        bounds = [_jaxpr.errors(case.program, case.values, 2.0**-53) for case in cases[:3]]
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

    def _ancestors(self, number: int) -> set[int]:
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
            if not isinstance(value, np.ndarray | np.generic) or np.asarray(value).dtype.kind != "f":
                continue
            value = np.asarray(value)
            if number in self.program.constants and value.ndim == 0:
                continue
            with np.errstate(all="ignore"):
                weights = np.cos(np.arange(value.size)).reshape(value.shape)
                print_ = (value.shape, number in self.linear, float(np.sum(value)), float(np.sum(weights * value)))
            if not np.isfinite(print_[2]):
                continue
            seen.setdefault(print_, number)
        return list(seen.values())

    def partner(self, number: int, position: int, shift: int = 0) -> int | None:
        """The value that stands for `number` in the loop iteration of an equation."""
        slot = self.slot_of.get(number)
        if slot is None or len(self.slots[slot]) == 1:
            return number if shift == 0 else None
        return self.slots[slot].get(self.equations[position].iteration + shift)

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

    def leader(self, position: int) -> bool:
        """Is this the first equation of its slot? The others are edited together with it."""
        eqn = self.equations[position]
        return (
            bool(eqn.outputs)
            and min(self.born[n] for n in self.slots[self.slot_of[eqn.outputs[0]]].values()) == position
        )

    def name(self, number: int) -> str:
        """A formula for a value, or the line that it comes from."""
        text = self.write(number)
        if text:
            return f"`{text}`"
        source = self.equations[self.born[number]].source if number in self.born else None
        return f"a value of the line `{source.text}`" if source and source.text else "an intermediate value"

    def about(self, eqn: _jaxpr.Equation) -> str:
        return f" of `{eqn.source.text}`" if eqn.source is not None and eqn.source.text else ""

    def activation(self, eqn: _jaxpr.Equation) -> _jaxpr.Equation | None:
        return self.activation_lines.get((eqn.source.file, eqn.source.line)) if eqn.source is not None else None

    def compute(self, position: int, inputs: Sequence[Any], params: Any = None) -> list[Any]:
        return _jaxpr.apply(self.active, self.active.equations[position], inputs, params)

    # --- the edits ----------------------------------------------------------------------------------------------------

    def edits(self, tier: int) -> Iterator[Edit]:
        """Edits of one tier."""
        for position, eqn in enumerate(self.equations):
            if not self.needed[position] or not self.leader(position):
                continue
            linear = [k for k, i in enumerate(eqn.inputs) if i in self.linear]
            if tier == 1 and linear:
                yield from self.terms(position, eqn, linear)
            if eqn.name in LOOP_PARTS:
                continue
            if tier == 2:
                yield from self.special(position, eqn, linear)
                if linear:
                    yield from self.factors(position, eqn, linear)
                else:
                    yield from self.forward_slips(position, eqn)
            if tier == 3:
                yield from self.shortcuts(position, eqn, linear)
                yield from self.operands(position, eqn, linear)
            if tier == 4:
                yield from self.derived(position, eqn, linear)
                if linear:
                    yield from self.extras(position, eqn)
                if linear and self.repairing and len(eqn.outputs) == 1:
                    yield from self.lacking(position, eqn)

    def terms(self, position, eqn, linear) -> Iterator[Edit]:
        """Leave a contribution out, or count it with another constant."""

        def zero_output(p):
            return lambda read, inputs: [np.zeros_like(out) for out in self.compute(p, inputs)]

        if len(eqn.outputs) == 1:
            yield Edit(
                "missing-term",
                1,
                f"leaves out the term{self.about(eqn)}",
                "add the term",
                self.everywhere(position, zero_output),
                eqn.source,
                position,
                fitted=True,
                term=self.name(eqn.outputs[0]),
            )
        if eqn.name not in ADDING or len(linear) < 2:
            return
        for k in linear:

            def zero_operand(p, k=k):
                return lambda read, inputs: self.compute(
                    p, [np.zeros_like(x) if j == k else x for j, x in enumerate(inputs)]
                )

            maker = self.equations[self.born[eqn.inputs[k]]] if eqn.inputs[k] in self.born else eqn
            yield Edit(
                "missing-term",
                1,
                f"leaves out the term{self.about(maker)}",
                "add the term",
                self.everywhere(position, zero_operand),
                maker.source,
                position,
                fitted=True,
                term=self.name(eqn.inputs[k]),
            )
        loop = self.slots[self.slot_of[eqn.outputs[0]]]
        if len(loop) > 1 and eqn.name in ("add_any", "add"):
            for k in linear:
                yield Edit(
                    "overwritten-not-accumulated",
                    1,
                    "keeps only one iteration's contribution where the iterations of the loop add up",
                    "add the contributions of all iterations",
                    self.everywhere(position, lambda p, k=k: lambda read, inputs: [inputs[k] + 0 * inputs[1 - k]]),
                    eqn.source,
                    position,
                )

    def factors(self, position, eqn, linear) -> Iterator[Edit]:
        """Leave a factor out."""
        if eqn.name in ("mul", "div") and len(linear) == 1 and not (eqn.name == "div" and linear == [1]):
            k = linear[0]
            f = eqn.inputs[1 - k]
            kind, what = self.factor_kind(eqn, f)
            yield Edit(
                kind,
                2,
                f"leaves out the factor {self.factor_name(eqn, f)}{what}",
                "multiply by it" if eqn.name == "mul" else "divide by it",
                self.everywhere(
                    position, lambda p, k=k: lambda read, inputs: [np.broadcast_to(inputs[k], self.shape(p))]
                ),
                eqn.source,
                position,
                term=self.name(f),
            )
            if eqn.name == "mul":
                yield Edit(
                    "wrong-operand",
                    3,
                    f"divides by {self.name(f)} where it must multiply",
                    "multiply instead",
                    self.everywhere(position, lambda p, k=k: lambda read, inputs: [inputs[k] / inputs[1 - k]]),
                    eqn.source,
                    position,
                )
            else:
                yield Edit(
                    "wrong-operand",
                    3,
                    f"multiplies by {self.name(f)} where it must divide",
                    "divide instead",
                    self.everywhere(position, lambda p: lambda read, inputs: [inputs[0] * inputs[1]]),
                    eqn.source,
                    position,
                )
        if eqn.name == "select_n" and len(eqn.inputs) == 3:
            kind, what = self.mask_kind(eqn)
            for k in (1, 2):
                if k in linear:
                    yield Edit(
                        kind,
                        2,
                        f"leaves out the condition {self.name(eqn.inputs[0])}{what}",
                        "keep the gradient only where it holds",
                        self.everywhere(position, lambda p, k=k: lambda read, inputs: [inputs[k]]),
                        eqn.source,
                        position,
                    )
            yield Edit(
                "missing-mask",
                3,
                f"takes the opposite of the condition {self.name(eqn.inputs[0])}",
                "invert the condition",
                self.everywhere(position, lambda p: lambda read, inputs: [np.where(inputs[0], inputs[1], inputs[2])]),
                eqn.source,
                position,
                also=("wrong-operand",),
            )

    def shape(self, position):
        return self.active.shapes[self.active.equations[position].outputs[0]]

    def factor_name(self, eqn, f):
        return self.name(f) if eqn.name == "mul" else f"1 / {self.name(f)}"

    def factor_kind(self, eqn, f) -> tuple[str, str]:
        value = np.asarray(self.values[f])
        if value.size and np.all(value == value.flat[0]):
            return "scale-constant", self.about(eqn)
        if np.all((value == 0) | (value == 1)):
            return self.mask_kind(eqn, f)
        activation = self.activation(eqn)
        if activation is not None and value.shape == self.program.shapes[activation.outputs[0]]:
            return "missing-activation-derivative", f", the derivative that belongs to `{_line(activation)}`"
        return "missing-factor", self.about(eqn)

    def mask_kind(self, eqn, f=None) -> tuple[str, str]:
        predicate = eqn.inputs[0] if f is None else f
        activation = self.activation(eqn)
        floats = {i for i in self.program.inputs if np.asarray(self.values[i]).dtype.kind == "f"} - set(self.seeds)
        moves = [i for i in floats if not np.all((self.values[i] == 0) | (self.values[i] == 1))]
        if activation is not None and self._ancestors(predicate) & set(moves):
            return "missing-activation-derivative", f", the derivative that belongs to `{_line(activation)}`"
        return "missing-mask", self.about(eqn)

    def special(self, position, eqn, linear) -> Iterator[Edit]:
        """Mistakes of particular operations: transposed matrices, other axes, shifted indices, overwriting."""
        name, p = eqn.name, eqn.params
        back = bool(linear)

        def edit(kind, text, fix, make, **more):
            return Edit(kind, 2, text, fix, self.everywhere(position, make), eqn.source, position, **more)

        if name == "dot_general":
            for k in (0, 1):
                shape = self.program.shapes[eqn.inputs[k]]
                if len(shape) >= 2 and shape[-1] == shape[-2]:
                    yield edit(
                        "transpose",
                        f"transposes {self.name(eqn.inputs[k])}{self.about(eqn)}",
                        "transpose it",
                        lambda q, k=k: (
                            lambda read, xs: self.compute(
                                q, [np.swapaxes(x, -1, -2) if j == k else x for j, x in enumerate(xs)]
                            )
                        ),
                    )
        if name == "transpose":
            shape = self.shape(position)
            if shape == self.program.shapes[eqn.inputs[0]]:
                yield edit(
                    "transpose", f"misses a transpose{self.about(eqn)}", "transpose", lambda q: lambda read, xs: [xs[0]]
                )
            else:
                yield edit(
                    "transpose",
                    f"reshapes where it must transpose{self.about(eqn)}",
                    "transpose instead of reshaping",
                    lambda q: lambda read, xs: [xs[0].reshape(self.shape(q))],
                )
        if name in ("reduce_sum", "reduce_max", "reduce_min"):
            yield from self.reductions(position, eqn, back, edit)
        if name == "scatter-add" and back:
            yield edit(
                "index-collision",
                f"overwrites where repeated indices must add up{self.about(eqn)}",
                "use .at[...].add",
                lambda q: lambda read, xs: [scatter_overwrite(self.active.equations[q].params, *xs)],
                also=("overwritten-not-accumulated",),
            )
            for shift in (-1, 1):
                yield edit(
                    "wrong-index",
                    f"is off by one in the indices{self.about(eqn)}",
                    f"shift the indices by {-shift}",
                    lambda q, s=shift: lambda read, xs: self.compute(q, [xs[0], xs[1] + s, *xs[2:]]),
                )
        if name == "scatter" and self.repairing and eqn.inputs[2] in self.linear:
            yield edit(
                "index-collision",
                f"overwrites where repeated indices must add up{self.about(eqn)}",
                "use .at[...].add",
                lambda q: lambda read, xs: [scatter_accumulate(self.active.equations[q].params, *xs)],
                also=("overwritten-not-accumulated",),
                repair=True,
            )
        if name in ("gather", "dynamic_slice"):
            for shift in (-1, 1):
                yield edit(
                    "wrong-index",
                    f"is off by one in the indices{self.about(eqn)}",
                    f"shift the indices by {-shift}",
                    lambda q, s=shift: lambda read, xs: self.compute(q, [xs[0], *(x + s for x in xs[1:])]),
                )
        if name in ("cumsum", "cummax", "cumprod", "cumlogsumexp"):
            yield edit(
                "wrong-index",
                f"accumulates in the wrong direction{self.about(eqn)}",
                "reverse the direction",
                lambda q: lambda read, xs: self.compute(q, xs, {**p, "reverse": not p["reverse"]}),
                also=("wrong-reduction-axis",),
            )
            if name == "cumsum":
                yield edit(
                    "wrong-index",
                    f"leaves the element itself out of the cumulative sum{self.about(eqn)}",
                    "include it",
                    lambda q: lambda read, xs: [self.compute(q, xs)[0] - xs[0]],
                )
                for axis in range(len(self.shape(position))):
                    if axis != p["axis"]:
                        yield edit(
                            "wrong-reduction-axis",
                            f"accumulates over axis {axis}, not {p['axis']}{self.about(eqn)}",
                            f"use axis {p['axis']}",
                            lambda q, a=axis: lambda read, xs: self.compute(q, xs, {**p, "axis": a}),
                        )
        if name == "rev":
            yield edit("wrong-index", f"misses a flip{self.about(eqn)}", "flip", lambda q: lambda read, xs: [xs[0]])
        if name == "pad" and back and any(lo != hi for lo, hi, _ in p["padding_config"]):
            yield edit(
                "wrong-index",
                f"puts the gradient at the wrong end{self.about(eqn)}",
                "swap the two ends",
                lambda q: (
                    lambda read, xs: self.compute(
                        q, xs, {**p, "padding_config": tuple((hi, lo, i) for lo, hi, i in p["padding_config"])}
                    )
                ),
            )
        if name in ("pad", "slice") and back:
            for shift in (-1, 1):
                for axis in range(len(self.shape(position))):
                    yield edit(
                        "wrong-index",
                        f"is off by one along axis {axis}{self.about(eqn)}",
                        f"shift by {-shift}",
                        lambda q, s=shift, a=axis: lambda read, xs: [_shifted(self.compute(q, xs)[0], s, a)],
                    )
        if name == "concatenate" and len(linear) > 1:
            shapes = {self.program.shapes[i] for i in eqn.inputs}
            if len(shapes) == 1:
                yield edit(
                    "swapped-outputs",
                    f"joins the parts in the wrong order{self.about(eqn)}",
                    "exchange them",
                    lambda q: lambda read, xs: self.compute(q, xs[::-1]),
                )
        if name == "broadcast_in_dim" and back:
            yield from self.sums_spread_again(position, eqn, edit)
        if name in ("gather", "sort", "reduce_window_sum", "select_and_scatter_add", "conv_general_dilated"):
            return

    def reductions(self, position, eqn, back, edit) -> Iterator[Edit]:
        p = eqn.params
        shape = self.program.shapes[eqn.inputs[0]]
        out = self.shape(position)
        for axes in itertools.combinations(range(len(shape)), len(p["axes"])):
            rest = tuple(n for a, n in enumerate(shape) if a not in axes)
            if axes != tuple(p["axes"]) and rest == out:
                yield edit(
                    "wrong-reduction-axis",
                    f"reduces over axis {_axes(axes)}, not {_axes(p['axes'])}{self.about(eqn)}",
                    f"use axis={_axes(p['axes'])}",
                    lambda q, a=axes: lambda read, xs: self.compute(q, xs, {**p, "axes": a}),
                )
        if not back:
            return
        count = int(np.prod([shape[a] for a in p["axes"]]))
        if count > 1:
            for k, which in ((-1, "last"), (0, "first")):
                yield edit(
                    "overwritten-not-accumulated",
                    f"keeps only the {which} contribution of a sum over axis {_axes(p['axes'])}{self.about(eqn)}",
                    f"sum over axis {_axes(p['axes'])}",
                    lambda q, k=k: lambda read, xs: [_take(xs[0], p["axes"], k)],
                    also=("only-some-elements",),
                )
            yield edit(
                "wrong-operand",
                f"takes the maximum where it must sum{self.about(eqn)}",
                "sum",
                lambda q: lambda read, xs: [xs[0].max(axis=tuple(p["axes"]))],
            )

    def sums_spread_again(self, position, eqn, edit) -> Iterator[Edit]:
        """A sum that is broadcast back, as in softmax and in normalisations: over another axis, or not summed."""
        chain, number = [], eqn.inputs[0]
        while number in self.born and len(chain) < 7:
            maker = self.equations[self.born[number]]
            linear = [i for i in maker.inputs if i in self.linear]
            if maker.name == "reduce_sum":
                break
            if len(linear) != 1 or maker.name not in ("reshape", "mul", "div", "neg", "broadcast_in_dim", "squeeze"):
                return
            chain.append(maker)
            number = linear[0]
        else:
            return
        full = self.program.shapes[maker.inputs[0]]
        target = self.shape(position)
        if full != target:
            return
        true_axes = tuple(maker.params["axes"])
        summed, spread = np.asarray(self.values[maker.outputs[0]]), np.asarray(self.values[eqn.outputs[0]])
        kept = np.broadcast_to(np.expand_dims(summed, true_axes), target)
        with np.errstate(all="ignore"):
            ratio = spread / kept
        if not np.allclose(ratio, ratio.flat[0] if ratio.size else 1.0, rtol=1e-9):
            return
        scale = float(ratio.flat[0])
        x = maker.inputs[0]
        for count in range(len(full) + 1):
            for axes in itertools.combinations(range(len(full)), count):
                if axes == true_axes:
                    continue
                sizes = np.prod([full[a] for a in true_axes]), np.prod([full[a] for a in axes])
                for factor in {1.0, float(sizes[0] / sizes[1])}:
                    if count == 0:
                        kind, text = "missing-term", f"does not sum over axis {_axes(true_axes)}"
                        also = ("wrong-reduction-axis",)
                    else:
                        kind, also = "wrong-reduction-axis", ()
                        text = f"sums over axis {_axes(axes)}, not {_axes(true_axes)}"
                    yield edit(
                        kind,
                        f"{text}{self.about(eqn)}",
                        f"sum over axis {_axes(true_axes)} with keepdims",
                        lambda q, a=axes, f=factor: (
                            lambda read, xs: [
                                scale * f * read(x).sum(axis=a, keepdims=True) + np.zeros(np.shape(read(x)))
                            ]
                        ),
                        also=also,
                    )

    def forward_slips(self, position, eqn) -> Iterator[Edit]:
        """Mistakes in values that the rule recomputes from the forward."""
        name = eqn.name
        if not self._float_out(eqn):
            return

        def edit(kind, text, fix, make, tier=2, **more):
            return Edit(kind, tier, text, fix, self.everywhere(position, make), eqn.source, position, **more)

        out = self.name(eqn.outputs[0])
        if name in ("add", "sub"):
            for k in (0, 1):
                dropped = self.name(eqn.inputs[k])
                sign = -1.0 if name == "sub" and k == 0 else 1.0
                yield edit(
                    "missing-term",
                    f"leaves {dropped} out of {out}",
                    f"use {out}",
                    lambda q, k=k, s=sign: lambda read, xs: [np.broadcast_to(s * xs[1 - k], self.shape(q))],
                )
                if name == "sub" and k == 0:
                    yield edit(
                        "missing-term",
                        f"leaves {dropped} out of {out}",
                        f"use {out}",
                        lambda q: lambda read, xs: [np.broadcast_to(xs[1], self.shape(q))],
                    )
                yield edit(
                    "double-count",
                    f"counts {dropped} twice in {out}",
                    f"use {out}",
                    lambda q, k=k: lambda read, xs: self.compute(q, [2 * x if j == k else x for j, x in enumerate(xs)]),
                )
            yield edit(
                "sign",
                f"has the wrong sign inside {out}",
                f"use {out}",
                lambda q: lambda read, xs: [xs[0] - xs[1] if name == "add" else xs[0] + xs[1]],
            )
        if name == "one_minus_square":
            x = self.name(eqn.inputs[0])
            for kind, form, f in (
                ("missing-factor", f"1 - {x}", lambda x: 1 - x),
                ("sign", f"1 + {x}²", lambda x: 1 + x * x),
                ("missing-term", f"{x}²", lambda x: x * x),
                ("missing-term", f"-{x}²", lambda x: -x * x),
                ("missing-factor", f"1 + {x}", lambda x: 1 + x),
            ):
                yield edit(
                    kind, f"uses {form} in place of {out}", f"use {out}", lambda q, f=f: lambda read, xs: [f(xs[0])]
                )
        if name in ("mul", "div"):
            for k in (0, 1):
                if name == "div" and k == 0:
                    continue
                value = np.asarray(self.values[eqn.inputs[k]])
                constant = value.size > 0 and bool(np.all(value == value.flat[0]))
                yield edit(
                    "scale-constant" if constant else "missing-factor",
                    f"leaves {self.factor_name(eqn, eqn.inputs[k])} out of {out}",
                    f"use {out}",
                    lambda q, k=k: lambda read, xs: [np.broadcast_to(xs[1 - k], self.shape(q))],
                )
        if name in ACTIVATIONS and name not in ("max", "min", "clamp", "pow") and len(eqn.inputs) == 1:
            yield edit(
                "missing-factor" if name in ("integer_pow", "square", "sqrt", "rsqrt") else "wrong-operand",
                f"uses {self.name(eqn.inputs[0])} in place of {out}",
                f"use {out}",
                lambda q: lambda read, xs: [xs[0]],
                tier=3,
            )
        yield edit(
            "sign",
            f"has the wrong sign of {out}",
            f"use {out}",
            lambda q: lambda read, xs: [-o for o in self.compute(q, xs)],
            tier=2,
        )
        for factor, text in ((2.0, "2"), (0.5, "1/2")):
            yield edit(
                "scale-constant",
                f"has a factor {text} too much in {out}",
                f"use {out}",
                lambda q, f=factor: lambda read, xs: [f * o for o in self.compute(q, xs)],
                tier=3,
            )

    def _float_out(self, eqn) -> bool:
        return all(np.asarray(self.values[o]).dtype.kind == "f" for o in eqn.outputs) and len(eqn.outputs) == 1

    def shortcuts(self, position, eqn, linear) -> Iterator[Edit]:
        """The gradient passes by a part of the backward: the derivative of that part is left out."""
        if not linear or len(eqn.outputs) != 1:
            return
        shape = self.shape(position)
        for u in self._upstream(position, shape):
            path = self._between(u, eqn.outputs[0])
            kind, text = self._skipped(path)
            yield Edit(
                kind,
                3,
                text,
                "multiply by the derivative of that part",
                self.everywhere(position, lambda p, u=u: self._replace_output(p, u)),
                eqn.source,
                position,
                weight=0.01 * len(path),
            )
        for k in linear:
            v = eqn.inputs[k]
            if self.uses[v] < 2 or v not in self.born:
                continue
            for u in self._upstream(self.born[v], self.program.shapes[v]):
                path = self._between(u, v)
                kind, text = self._skipped(path)
                yield Edit(
                    kind,
                    3,
                    text,
                    "multiply by the derivative of that part",
                    self.everywhere(position, lambda p, u=u, k=k: self._replace_input(p, k, u)),
                    eqn.source,
                    position,
                    weight=0.01 * len(path) + 0.005,
                )

    def _upstream(self, position, shape) -> list[int]:
        """Linear values of one shape that come before an equation and lead to it."""
        before = self._ancestors(self.equations[position].outputs[0])
        own = self.equations[position].outputs[0]
        return [
            i for i in self.fresh if i in self.linear and i in before and i != own and self.program.shapes[i] == shape
        ]

    def _between(self, u: int, v: int) -> list[_jaxpr.Equation]:
        below = _jaxpr.depends_on(self.program, [u])
        return [self.equations[self.born[i]] for i in sorted(self._ancestors(v) & below - {u}) if i in self.born]

    def _skipped(self, path: Sequence[_jaxpr.Equation]) -> tuple[str, str]:
        lines = list(dict.fromkeys(eqn.source.text for eqn in path if eqn.source is not None and eqn.source.text))
        where = " and ".join(f"`{text}`" for text in lines[-2:]) or "a part of the forward"
        if all(eqn.name in ELEMENTWISE or not any(i in self.linear for i in eqn.inputs) for eqn in path):
            if any(self.activation(eqn) is not None for eqn in path):
                return "missing-activation-derivative", f"leaves out the derivative that belongs to {where}"
            if any(eqn.name == "select_n" for eqn in path):
                return "missing-mask", f"leaves out the condition of {where}"
        if any(eqn.name == "add_any" for eqn in path) and not any(eqn.name == "dot_general" for eqn in path):
            return "missing-term", f"leaves out terms that belong to {where}"
        return "missing-factor", f"leaves out the derivative of {where}"

    def _replace_output(self, position, number, shift=0):
        partner = self.partner(number, position, shift)
        if partner is None or self.born.get(partner, -1) >= position:
            return None
        return lambda read, inputs: [read(partner)]

    def _replace_input(self, position, k, number, change=None, shift=0):
        partner = self.partner(number, position, shift)
        if partner is None or self.born.get(partner, -1) >= position:
            return None
        if change is None:
            change = lambda x: x
        return lambda read, inputs: self.compute(
            position, [change(read(partner)) if j == k else x for j, x in enumerate(inputs)]
        )

    def operands(self, position, eqn, linear) -> Iterator[Edit]:
        """One operand replaced by another value of the same shape, its transpose, or that of another iteration."""
        for k, own in enumerate(eqn.inputs):
            if np.asarray(self.values[own]).dtype.kind != "f" or (own in self.program.constants):
                continue
            for shift in (-1, 1):
                rewrites = self.everywhere(position, lambda p, k=k, s=shift: self._other_iteration(p, k, s))
                if len(rewrites) > 0:
                    yield Edit(
                        "stale-value",
                        3,
                        f"takes {self.name(own)} of the {'step before' if shift < 0 else 'next step'}{self.about(eqn)}",
                        "take the value of the same step",
                        rewrites,
                        eqn.source,
                        position,
                        also=("wrong-operand",),
                    )
            if own in self.linear and eqn.name not in ("dot_general", "mul"):
                continue
            shape = self.program.shapes[own]
            for g in self.fresh:
                if g == own or (g in self.linear) != (own in self.linear):
                    continue
                other = self.program.shapes[g]
                if self.born.get(g, -1) >= position and self.born.get(self.partner(g, position) or g, -1) >= position:
                    continue
                if other == shape:
                    rewrites = self.everywhere(position, lambda p, k=k, g=g: self._replace_input(p, k, g))
                    if not rewrites or self._same_value(g, own):
                        continue
                    kind, text = self.replaced(eqn, own, g)
                    right = self.name(g if self.repairing else own)
                    yield Edit(kind, 3, text, f"use {right}", rewrites, eqn.source, position, weight=0.02, repair=True)
                if len(shape) == 2 and other == shape[::-1] and shape[0] == shape[1]:
                    rewrites = self.everywhere(position, lambda p, k=k, g=g: self._replace_input(p, k, g, np.transpose))
                    if rewrites:
                        yield Edit(
                            "transpose",
                            4,
                            f"uses the transpose of {self.name(g)} in place of {self.name(own)}",
                            f"use {self.name(own)}",
                            rewrites,
                            eqn.source,
                            position,
                        )

    def _same_value(self, a, b) -> bool:
        return np.array_equal(self.values[a], self.values[b])

    def _other_iteration(self, position, k, shift):
        own = self.equations[position].inputs[k]
        slot = self.slot_of.get(own)
        if slot is None or len(self.slots[slot]) == 1:
            return None
        iteration = self.equations[self.born[own]].iteration + shift
        other = self.slots[slot].get(iteration)
        if other is None or self.born[other] >= position:
            zero = np.zeros(self.program.shapes[own])
            return lambda read, inputs: self.compute(position, [zero if j == k else x for j, x in enumerate(inputs)])
        return lambda read, inputs: self.compute(position, [read(other) if j == k else x for j, x in enumerate(inputs)])

    def replaced(self, eqn, own, g) -> tuple[str, str]:
        """Kind and words for g in place of the own operand: often a factor or a term of it is all that misses."""
        if self.repairing:
            own, g = g, own  # the rule's operand is the wrong one
        mine, other = np.asarray(self.values[own]), np.asarray(self.values[g])
        maker = self.equations[self.born[own]] if own in self.born else None
        text = f"uses {self.name(g)} in place of {self.name(own)}{self.about(eqn)}"
        if own in self.linear:
            if own in _jaxpr.depends_on(self.program, [g]):
                kind, words = self._skipped(self._between(g, own))
                return kind, words
            return "wrong-operand", text
        with np.errstate(all="ignore"):
            ratio, difference = mine / other, mine - other
        for h in self.fresh:
            if h in self.linear or self.program.shapes[h] != mine.shape:
                continue
            value = np.asarray(self.values[h])
            if h not in (own, g) and np.allclose(ratio, value, rtol=1e-9, atol=0):
                return "missing-factor", f"leaves the factor {self.name(h)} out of {self.name(own)}{self.about(eqn)}"
        if maker is not None and maker.name in ("add", "sub") and g in maker.inputs:
            return "missing-term", text
        if maker is not None and maker.name in ("mul", "div") and g in maker.inputs:
            return "missing-factor", text
        if mine.size > 1 and np.ptp(difference) < 1e-12 * (1 + np.abs(difference).max()):
            return "missing-term", text
        return "wrong-operand", text

    def derived(self, position, eqn, linear) -> Iterator[Edit]:
        """A factor replaced by a simple function of another value, or applied once more."""
        if eqn.name in ("mul", "div", "dot_general"):
            for k, own in enumerate(eqn.inputs):
                if own in self.linear or np.asarray(self.values[own]).dtype.kind != "f":
                    continue
                shape = self.program.shapes[own]
                for g in self.fresh:
                    if g in self.linear or self.program.shapes[g] != shape:
                        continue
                    if self.born.get(g, -1) >= position:
                        continue
                    for form, f in DERIVED:
                        rewrites = self.everywhere(position, lambda p, k=k, g=g, f=f: self._replace_input(p, k, g, f))
                        if not rewrites:
                            continue
                        text = form.format(self.name(g).strip("`"))
                        kind = "wrong-operand"
                        with np.errstate(all="ignore"):
                            derived = f(np.asarray(self.values[g]))
                        if np.allclose(derived, -np.asarray(self.values[own]), rtol=1e-9, atol=0):
                            kind = "sign"
                        yield Edit(
                            kind,
                            4,
                            f"uses `{text}` in place of {self.name(own)}{self.about(eqn)}",
                            f"use {self.name(own)}",
                            rewrites,
                            eqn.source,
                            position,
                        )
        if not linear or len(eqn.outputs) != 1 or eqn.name in ("broadcast_in_dim", "reshape", "neg"):
            return
        out = self.shape(position)
        for g in self.fresh:
            if g in self.linear or self.born.get(g, -1) >= position:
                continue
            shape = self.program.shapes[g]
            views = _views(shape, out)
            for view in views:
                for divide in (False, True):
                    text = f"{'divides' if divide else 'multiplies'} by {self.name(g)} once too often{self.about(eqn)}"
                    kind, also = "wrong-operand", ("double-count", "extra-term")
                    if self.repairing and not divide:
                        kind, also = "missing-factor", ("wrong-operand",)
                        text = f"leaves out the factor {self.name(g)}{self.about(eqn)}"
                    elif self.repairing:
                        text = f"multiplies by {self.name(g)} once too often{self.about(eqn)}"
                    elif divide:
                        kind, also = "missing-factor", ("wrong-operand",)
                        text = f"leaves out the factor {self.name(g)}{self.about(eqn)}"
                    yield Edit(
                        kind,
                        4,
                        text,
                        "divide by it" if not divide else "multiply by it",
                        self.everywhere(position, lambda p, g=g, v=view, d=divide: self._times(p, g, v, d)),
                        eqn.source,
                        position,
                        also=also,
                        weight=0.1 * (len(views) > 1),
                        repair=True,
                    )

    def lacking(self, position, eqn) -> Iterator[Edit]:
        """Repairs of a rule: a mask or the derivative of an activation multiplied in."""
        out = self.shape(position)
        for number, value in enumerate(self.values):
            known = isinstance(value, np.ndarray | np.generic) and number not in self.linear
            if not known or self.born.get(number, -1) >= position or self.program.shapes[number] == ():
                continue
            kind = np.asarray(value).dtype.kind
            if kind not in "fb" or (kind == "f" and number not in self.fresh):
                continue
            for view in _views(self.program.shapes[number], out):
                for form, f in MASKS if kind == "b" else SLOPES:
                    text = form.format(self.name(number).strip("`"))
                    rewrites = self.everywhere(
                        position, lambda p, g=number, v=view, f=f: self._times(p, g, v, False, f)
                    )
                    name = "missing-mask" if kind == "b" else "missing-activation-derivative"
                    yield Edit(
                        name,
                        4,
                        f"leaves out the factor `{text}`{self.about(eqn)}",
                        "multiply by it",
                        rewrites,
                        eqn.source,
                        position,
                        repair=True,
                        also=("missing-factor",),
                    )

    def _times(self, position, g, view, divide, change=None):
        partner = self.partner(g, position)
        if partner is None or self.born.get(partner, -1) >= position:
            return None

        def rewrite(read, inputs):
            value = np.asarray(read(partner))
            value = (value if change is None else change(value)).reshape(_same_axes(view, self.shape(position)))
            outs = self.compute(position, inputs)
            return [out / value if divide else out * value for out in outs]

        return rewrite

    def extras(self, position, eqn) -> Iterator[Edit]:
        """A term too many: another linear value of the same shape added, with any constant factor."""
        if len(eqn.outputs) != 1 or self.uses[eqn.outputs[0]] == 0:
            return
        shape = self.shape(position)
        for u in self.fresh:
            if u not in self.linear or self.program.shapes[u] != shape or self.born.get(u, -1) >= position:
                continue
            rewrites = self.everywhere(position, lambda p, u=u: self._plus(p, u))
            if rewrites:
                yield Edit(
                    "extra-term",
                    4,
                    f"adds the term {self.name(u)}{self.about(eqn)}, which does not belong there",
                    "leave it out",
                    rewrites,
                    eqn.source,
                    position,
                    fitted=True,
                    term=self.name(u),
                    weight=0.5,
                )

    def _plus(self, position, u):
        partner = self.partner(u, position)
        if partner is None or self.born.get(partner, -1) >= position:
            return None
        return lambda read, inputs: [self.compute(position, inputs)[0] - read(partner)]


DERIVED: tuple[tuple[str, Any], ...] = (
    ("({})²", np.square),
    ("1/({})", lambda x: 1 / x),
    ("√({})", lambda x: np.sqrt(np.abs(x))),
    ("-({})", np.negative),
    ("1 - {}", lambda x: 1 - x),
    ("1 - ({})²", lambda x: 1 - x * x),
    ("{0} (1 - {0})", lambda x: x * (1 - x)),
    ("1/({})²", lambda x: x**-2.0),
    ("({})³", lambda x: x**3),
    ("cos({})", np.cos),
    ("sin({})", np.sin),
    ("exp({})", np.exp),
    ("1 + ({})²", lambda x: 1 + x * x),
    ("tanh({})", np.tanh),
    ("|{}|", np.abs),
    ("1 + {}", lambda x: 1 + x),
)


MASKS: tuple[tuple[str, Any], ...] = (("{}", np.asarray), ("not {}", np.logical_not))
SLOPES: tuple[tuple[str, Any], ...] = (
    ("1 - ({})²", lambda x: 1 - x * x),
    ("{0} (1 - {0})", lambda x: x * (1 - x)),
    ("{} > 0", lambda x: x > 0),
    ("1 - {}", lambda x: 1 - x),
    ("cos({})", np.cos),
    ("1/(1 + ({})²)", lambda x: 1 / (1 + x * x)),
    ("1/√(1 - ({})²)", lambda x: 1 / np.sqrt(1 - x * x)),
    ("sigmoid({})", lambda x: 1 / (1 + np.exp(-x))),
    ("1 - tanh({})²", lambda x: 1 - np.tanh(x) ** 2),
    ("1 + ({})²", lambda x: 1 + x * x),
    ("sign({})", np.sign),
    ("exp({})", np.exp),
)


def _same_axes(view: tuple[int, ...], out: tuple[int, ...]) -> tuple[int, ...]:
    """A broadcasting view for the sizes of another program: axes of size 1 stay, the others follow the output."""
    if len(view) != len(out):
        return view
    return tuple(1 if v == 1 else n for v, n in zip(view, out))


def _views(shape: tuple[int, ...], out: tuple[int, ...]) -> list[tuple[int, ...]]:
    """Shapes under which a value broadcasts against an output: as it is, or with its axes among the output's."""
    if shape == out or shape == ():
        return [shape]
    found = []
    if len(shape) < len(out):
        for axes in itertools.combinations(range(len(out)), len(shape)):
            if all(out[a] == n for a, n in zip(axes, shape)):
                found.append(tuple(out[a] if a in axes else 1 for a in range(len(out))))
    return found


def _line(eqn: _jaxpr.Equation) -> str:
    return eqn.source.text if eqn.source is not None else ""


def _shifted(x: Any, shift: int, axis: int) -> Any:
    rolled = np.roll(x, shift, axis)
    edge = [slice(None)] * x.ndim
    edge[axis] = slice(0, 1) if shift > 0 else slice(-1, None)
    rolled[tuple(edge)] = 0
    return rolled


def _take(x: Any, axes: Sequence[int], k: int) -> Any:
    for axis in sorted(axes, reverse=True):
        x = np.take(x, k, axis=axis)
    return x


def _axes(axes: Sequence[int]) -> str:
    return str(axes[0]) if len(axes) == 1 else str(tuple(int(a) for a in axes))

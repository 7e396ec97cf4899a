"""A program carried out on `Value`s: follows every leaf of params to where it meets data, into every body."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace

import jax
import jax.numpy as jnp

from jaxbias._jaxpr import Equation, Program
from jaxbias._jaxpr.queries import LAYOUT
from jaxbias.foreign import _axes, _products
from jaxbias.foreign._choices import constant, selection, without_data
from jaxbias.foreign._claims import Claims, claim_spread, claim_weights
from jaxbias.foreign._values import (
    CONSTANT,
    DATA,
    NOISE,
    PARAMS,
    Pick,
    Place,
    Product,
    Thread,
    Use,
    Value,
    data_from,
    join,
    merge,
)

ROLE_OF = {
    "dot_general": "weight",
    "conv_general_dilated": "weight",
    "ragged_dot": "weight",
    "ragged_dot_general": "weight",
    "triangular_solve": "weight",
    "custom_linear_solve": "weight",
    "add": "bias",
    "add_any": "bias",
    "sub": "bias",
    "mul": "scale",
    "div": "scale",
}
"""Role of an operand of params that meets data."""

PUT_BESIDE = frozenset(
    "concatenate select_n dynamic_update_slice scatter pad while scan cond".split()  # noqa: SIM905
)
"""Operations that put params beside data, as one puts a class token, a mask token, a sink, a learned start: "other"."""


NOT_BODIES = frozenset(("reduce", "reduce_window", "pallas_call", "custom_linear_solve"))
"""Equations whose bodies are not called with their own operands."""

MOVES = LAYOUT | frozenset(
    "device_put pad concatenate dynamic_slice dynamic_update_slice scatter stop_gradient tile gather".split()  # noqa: SIM905
)
"""Operations on params and constants that only move entries of params."""

LINEAR = MOVES | frozenset("add add_any sub mul div neg dot_general conv_general_dilated".split())  # noqa: SIM905
"""Operations that a weight made of several leaves, W + A·B, may go through; an activation function is none."""


class Walk:
    """Carries a program out on `Value`s."""

    def __init__(self, leaves: Sequence[jax.ShapeDtypeStruct]):
        self.leaves = leaves
        self.claims = Claims([len(x.shape) for x in leaves])
        self.picks: dict[tuple[int, int, int], Pick] = {}
        self.dispatched: list[tuple[frozenset[int], frozenset[int]]] = []  # (idents, looked up by the data they met)
        self.consumers: dict[frozenset[int], set[int]] = {}
        self.used: Counter[int] = Counter()  # of the program that is walked: how often every value is used

    # --- equations ---

    def run(self, program: Program, inputs: Sequence[Value]) -> list[Value]:
        values = {number: constant(held) for number, held in program.constants.items()}
        values |= zip(program.inputs, inputs)
        used = Counter((*program.outputs, *(i for equation in program.equations for i in equation.inputs)))
        for equation in program.equations:
            self.used = used
            outputs = self.equation(equation, [values[i] for i in equation.inputs])
            values.update(zip(equation.outputs, outputs))
        return [values[i] for i in program.outputs]

    def equation(self, equation: Equation, values: list[Value]) -> list[Value]:
        kind = max((v.kind for v in values), default=CONSTANT)
        count = len(equation.outputs)
        if equation.name.startswith(("random_", "threefry")) and not any(v.threads for v in values):
            return [Value(NOISE if kind > CONSTANT else CONSTANT)] * count
        if kind <= NOISE and values and not equation.bodies:
            return [replace(without_data(equation, values, kind), **_products.marks(equation, values))] * count
        if kind <= NOISE:
            return [Value(kind)] * count
        if equation.bodies and equation.name not in NOT_BODIES:
            return self.call(equation, values)
        if kind == PARAMS:
            return [self.params_alone(equation, values)] * count
        if any(v.kind == PARAMS for v in values):
            return [self.params_and_data(equation, values)] * count
        return [self.data_alone(equation, values)] * count

    # --- data ---

    def data_alone(self, equation: Equation, values: list[Value]) -> Value:
        """Data and constants, and leaves of which data chose rows."""
        name = equation.name
        threads: list[Thread] = []
        for position in range(len(values)):
            threads += self.picked(equation, position, values)
        made = replace(data_from(values, merge(threads)), **selection(equation, values))
        alone = all(self.used[i] == 1 for i, v in zip(equation.inputs, values) if v.products)
        products = _products.after(equation, values, alone)
        if not self.claims.rehearsing:
            products += _products.of_rows(equation, values)
        made = replace(made, **_products.marks(equation, values), products=products)
        if name in ("mul", "dot_general"):
            for value, other in (values, values[::-1]):
                data = value.kind == other.kind == DATA
                if value.selects in ("rows", "mixture") and data and not other.selects:
                    self.dispatched.append((value.idents, other.looked_up))
        for value in values:
            if value.selects == "mixture" and made.selects != "mixture":
                self.consumers.setdefault(value.idents, set()).add(id(equation))
        return made

    def picked(self, equation: Equation, position: int, values: list[Value]) -> list[Thread]:
        """What remains of the leaves in an operand of which data chose rows, after it meets other data."""
        value = values[position]
        if not value.threads:
            return []
        others = [v for i, v in enumerate(values) if i != position and v.kind == DATA]
        name = equation.name
        axes = lambda t: _axes.after(equation, position, t.axes)
        if name in MOVES and name != "concatenate":
            return [replace(t, axes=axes(t)) for t in value.threads]
        if all(v.selects == "mask" or v.leaves & value.leaves for v in others):
            elementwise = equation.shapes.inputs[position] == equation.shapes.outputs[0]
            return [replace(t, layout=False) for t in value.threads] if elementwise else []
        if any(v.threads for v in others):  # two of them: their sum is an embedding still
            _products.matrix_of_rows(equation, position, values)
            return list(value.threads) if name in ("add", "add_any") else []
        kept = []
        for thread in value.threads:
            pick = thread.pick
            if pick is None or any(thread.leaf in v.looked_up for v in others):
                continue
            role, _ = self.role_at(equation, position)
            role = _settled(thread, role)
            if role == "weight" and not _products.contracted(
                equation, position, thread
            ):  # rows are added up, as they are
                continue
            if role == "scale" and _products.is_whole(thread, equation, position, values):
                kept.append(replace(thread, axes=axes(thread), layout=False))
                continue
            if role != "other":
                pick.follows.append((role, Place(equation, position, thread.axes)))
                pick.dispatched |= role == "bias" and any(v.grouped for v in others)
        return kept

    # --- params and data ---

    def params_and_data(self, equation: Equation, values: list[Value]) -> Value:
        name = equation.name
        threads = [t for v in values if v.kind == PARAMS for t in v.threads]
        if name in ("gather", "dynamic_slice") and all(v.kind != PARAMS for v in values[1:]):
            chosen_by = frozenset().union(*(v.idents for v in values[1:] if v.kind == DATA))
            return self.choose(equation, values, [0], chosen_by, "embedding")
        if name == "select_n" and values[0].kind == DATA and all(v.kind != DATA for v in values[1:]):
            return self.choose(equation, values, range(1, len(values)), values[0].idents, "other")
        if name == "dot_general" and len(values) == 2:
            position = int(values[1].kind == PARAMS)
            data = values[1 - position]
            selects = data.selects in ("rows", "mixture")
            if selects and equation.dot_axes()[position].contracted and all(t.layout for t in threads):
                if data.selects == "mixture":
                    self.consumers.setdefault(data.idents, set()).add(id(equation))
                otherwise = "embedding" if data.selects == "rows" else "weight"
                return self.choose(equation, values, [position], data.idents, otherwise)
        products = self.meetings(equation, values)
        kept: list[Thread] = []
        if name in ("add", "add_any", "sub"):  # token + position: what was looked up stays looked up
            kept = [t for v in values if v.kind == DATA for t in v.threads]
        marks = _products.marks(equation, values)
        return replace(data_from(values, merge(kept)), **marks, products=tuple(products))

    def meetings(self, equation: Equation, values: list[Value]) -> list[Product]:
        """Record what leaves are where they meet data, some as picks: what follows may say more of a product."""
        name = equation.name
        adds = name in _products.ADDS and len(values) == 2
        mixes = adds and _products.complementary(*values)
        products = _products.joined(equation, values) if adds else []  # w + g v is a mixture of leaves
        joins = bool(products)
        asked = "scale" if name in _products.MULTIPLIES else "bias" if joins or name == "sub" else ""
        for position, value in enumerate(values):
            if value.kind != PARAMS:
                _products.stands_for_data(equation, position, value)
                continue
            role, known = self.role_at(equation, position)
            if name.startswith("scatter") and all(v.kind != DATA for v in (values[0], values[-1])):
                role, known = "other", False  # data only say where
            for thread in value.threads:
                again = any(v.kind == DATA and thread.leaf in v.made_of for v in values)
                back = adds and _products.comes_back(equation, position, thread, values)
                use = self.use(equation, position, thread, "other" if mixes or back else role, known, again)
                pick = Pick(use)
                self.record(pick if use.role == asked and not thread.claim else use)
                if use.role == asked or (thread.claim and asked == "scale"):
                    made = _products.product(equation, position, replace(thread, pick=pick), values)
                    products.append(replace(made, mixed=joins, whole=made.whole or joins))
        return [] if self.claims.rehearsing else products

    def choose(
        self, equation: Equation, values: list[Value], operands: Sequence[int], by: frozenset[int], otherwise: str
    ) -> Value:
        """Data choose rows of the operands, or which operand is used."""
        threads = []
        for position in operands:
            for t in values[position].threads if values[position].kind == PARAMS else ():
                pick = self.pick(equation, position, t, by, t.claim or otherwise)
                axes = t.axes if equation.name == "cond" else _axes.after(equation, position, t.axes)
                threads.append(replace(t, axes=axes, pick=pick))
        made = data_from(values, merge(threads))
        return replace(made, looked_up=made.looked_up | {t.leaf for t in threads})

    def pick(self, equation: Equation, position: int, t: Thread, by: frozenset[int], otherwise: str) -> Pick:
        """One for each choice in the program: passes of a loop share it."""
        key = (id(equation), position, t.leaf)
        if key not in self.picks:
            use = Use(t.leaf, otherwise, t.level, Place(equation, position, t.axes))
            self.picks[key] = Pick(use, by, _axes.chosen(equation, position, t.axes))
            self.claims.recorded.append(self.picks[key])
        self.picks[key].chosen_by |= by
        return self.picks[key]

    def role_at(self, equation: Equation, position: int) -> tuple[str, bool]:
        """Role of the operand at this position where it meets data, and whether the operation is known."""
        name = equation.name
        if name == "dot_general" and not equation.dot_axes()[position].contracted:
            return "scale", True
        if name in ("triangular_solve", "custom_linear_solve") and position == len(equation.inputs) - 1:
            return "other", False
        if name in ("gather", "dynamic_slice") and position:
            return "other", True
        if name == "conv_general_dilated" and position == 0:  # data are the kernel, the leaf stands where data do
            return "other", True
        if name == "scatter-add" and position != 1:
            return "bias", True
        return ROLE_OF.get(name, "other"), name in ROLE_OF or name in PUT_BESIDE

    def record(self, use: Use | Pick) -> None:
        if not self.claims.rehearsing:
            self.claims.recorded.append(use)

    def use(
        self, equation: Equation, position: int, thread: Thread, role: str, known: bool = True, again: bool = False
    ) -> Use:
        """The use of a leaf in an operand that meets data."""
        role = _settled(thread, role)
        if role == "scale" and thread.transformed and not thread.logarithm and not thread.claim:
            role = "weight"
        if not jnp.issubdtype(self.leaves[thread.leaf].dtype, jnp.inexact):
            role, known = "other", True
        place = Place(equation, position, thread.axes)
        if thread.claim and role == thread.claim and thread.claimed_at is not None:
            place = thread.claimed_at
        known = known or role != "other"
        return Use(thread.leaf, role, thread.level, place, known, thread.logarithm, thread.determinant, again=again)

    # --- params, constants, noise ---

    def params_alone(self, equation: Equation, values: list[Value]) -> Value:
        name = equation.name
        product = name in ("dot_general", "conv_general_dilated", "ragged_dot", "ragged_dot_general")
        one_hot = any(v.selects == "rows" for v in values)
        lookup = one_hot and name == "dot_general" and bool(equation.dot_axes()[0].contracted)
        if (product and not lookup) or name in ("triangular_solve", "custom_linear_solve"):
            resize = "resize" in str(equation.caller.params.get("name")) if equation.caller else False
            contracts = name != "dot_general" or bool(equation.dot_axes()[0].contracted)
            values = values if resize or not contracts else claim_weights(self.claims, equation, values)
            if not contracts:
                values = claim_spread(self.claims, equation, values, "scale")
        elif name in ("add", "add_any", "sub"):
            values = claim_spread(self.claims, equation, values, "bias")
        elif name in ("mul", "div"):
            values = claim_spread(self.claims, equation, values, "scale")
        several = sum(v.kind == PARAMS for v in values) > 1
        puts = name in ("concatenate", "scatter", "dynamic_update_slice")
        moves = lookup or (name in MOVES and (not several or puts))
        threads = []
        for position, value in enumerate(values):
            for t in value.threads:
                lost = _axes.shrinks(equation, position) and not moves and not product
                rows = lookup or (name == "gather" and position == 0 and _looks_up(equation))
                threads.append(
                    replace(
                        t,
                        axes=_axes.after(equation, position, t.axes),
                        layout=t.layout and moves,
                        reduced=t.reduced or lost,
                        linear=t.linear and name in LINEAR,
                        gathered=t.gathered or rows,
                        transformed=t.transformed or lookup or name == "fft",
                        logarithm=t.logarithm or name in ("exp", "exp2"),
                        determinant=t.determinant or name in ("log", "log1p"),
                        firm=t.firm or name not in LINEAR,
                    )
                )
        return replace(Value(PARAMS, merge(threads)), **_products.marks(equation, values))

    # --- calls ---

    def call(self, equation: Equation, values: list[Value]) -> list[Value]:
        if equation.name in ("scan", "while"):
            return self.loop(equation, values)
        inputs = equation.body_inputs(values)
        outputs = [self.run(body, inputs) for body in equation.bodies]
        if equation.name != "cond":
            return outputs[0]
        made = []
        for number in range(len(equation.outputs)):
            branches = [values_of_branch[number] for values_of_branch in outputs]
            kinds = [v.kind for v in branches]
            if values[0].kind == DATA and max(kinds) == PARAMS:
                made.append(self.choose(equation, branches, range(len(branches)), values[0].idents, "other"))
                continue
            if max(kinds) == DATA:
                self.put_beside(equation, number, branches)
            made.append(join(branches) if len(branches) > 1 else branches[0])
        return made

    def put_beside(self, equation: Equation, position: int, values: Sequence[Value]) -> None:
        for value in values:
            for thread in value.threads if value.kind == PARAMS else ():
                self.record(self.use(equation, position, thread, "other"))

    def loop(self, equation: Equation, values: list[Value]) -> list[Value]:
        body, scan = equation.bodies[0], equation.name == "scan"
        first, count = equation.carried
        inputs = equation.body_inputs(values)
        if scan:
            inputs[first + count :] = [_sliced(v) for v in inputs[first + count :]]
        carries = slice(first, first + count)
        started = inputs[carries]
        self.claims.rehearsing += 1
        for _ in range(count + 2):
            outputs = self.run(body, inputs)[:count]
            new = [v if v is out else join((v, out)) for v, out in zip(inputs[carries], outputs)]
            done = all(a.alike(b) for a, b in zip(new, inputs[carries]))
            inputs[carries] = new
            if done:
                break
        self.claims.rehearsing -= 1
        offset = len(values) - len(inputs)
        for i, (start, carry) in enumerate(zip(started, inputs[carries])):
            if carry.kind == DATA:
                self.put_beside(equation, offset + first + i, [start])
        outputs = self.run(body, inputs)
        return outputs[:count] + [_stacked(v) for v in outputs[count:]]

    # --- what it comes to ---

    def resolved(self) -> list[Use]:
        """The uses, those of what data chose by what follows."""
        picks = [use for use in self.claims.recorded if isinstance(use, Pick)]
        acts = lambda pick: not pick.among_rows and any(role in ("weight", "scale") for role, _ in pick.follows)
        acted = [pick.chosen_by for pick in picks if pick.chosen_by and acts(pick)]
        uses: list[Use] = []
        for use in self.claims.recorded:
            if not isinstance(use, Pick):
                uses.append(use)
                continue
            otherwise, chosen = use.otherwise, use.chosen_by
            told = [x for x in use.follows if x[0] != "bias" or not chosen or self.dispatches(use, acted)]
            if otherwise.role == "weight" and len(self.consumers.get(chosen, ())) < 2:
                told = []
            if not jnp.issubdtype(self.leaves[otherwise.leaf].dtype, jnp.inexact):
                told = [("other", otherwise.place)]
            uses += [replace(otherwise, role=role, place=place) for role, place in told] or [otherwise]
        return uses

    def dispatches(self, pick: Pick, acted: list[frozenset[int]]) -> bool:
        """Whether what chose the rows also chooses a weight, or mixes data: it sends data to one of several layers.

        Elsewhere rows that are added to data are an embedding, of a class or a token.
        """
        if pick.dispatched or any(not pick.chosen_by.isdisjoint(idents) for idents in acted):
            return True
        return any(
            not pick.chosen_by.isdisjoint(idents) and pick.otherwise.leaf not in looked_up
            for idents, looked_up in self.dispatched
        )


def _settled(thread: Thread, role: str) -> str:
    """The role of a leaf in a value that meets data: the one it claimed, unless a product says more."""
    if not thread.claim or (not thread.firm and role == "weight"):
        return role
    return thread.claim


def _looks_up(equation: Equation) -> bool:
    """Whether a gather takes several rows: x[3] only takes a slice."""
    rows = equation.shapes.inputs[1][:-1]
    return any(n > 1 for n in rows)


def _sliced(value: Value) -> Value:
    """One iteration's slice of what a scan runs over."""
    return replace(value, threads=tuple(replace(t, axes=None if t.axes is None else t.axes[1:]) for t in value.threads))


def _stacked(value: Value) -> Value:
    threads = (replace(t, axes=None if t.axes is None else (_axes.NOWHERE, *t.axes)) for t in value.threads)
    return replace(value, threads=tuple(threads))

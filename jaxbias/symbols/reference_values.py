"""Every value of a forward, and the gradient of the loss by it: what the lines of a backward pass can be."""

import contextlib
import itertools
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from jaxbias import _jaxpr
from jaxbias._jaxpr.sources import at_line
from jaxbias.symbols.functions import elementwise_functions
from jaxbias.symbols.names import Name, names_of
from jaxbias.symbols.passes import passes

MOST_ENTRIES = 50_000
"""Of one value; larger ones are not compared with."""

LAID_OUT = frozenset(("transpose", "reshape", "squeeze", "expand_dims", "copy", "convert_element_type"))
"""Primitives whose output is what they take: the gradient by it is only a part of that by a value with other uses."""

NAMED, IN_LOOP, UNNAMED = 1.0, 2.5, 3.0
"""Ranks: what the user gave a name to comes before that of another pass of a loop, and before what stands inside of an
expression.
"""

OF_DERIVATIVE, OF_SLOPE = 0.3, 0.4
"""What is added to the rank of a value for a derivative that is worked out from it, and for that of a function."""


@dataclass(frozen=True)
class ReferenceValue:
    """A value that a backward pass may hold.

    Attributes:
        name: "p", or "∂L/∂p" of the gradient by it.
        array: its values on all probes, the probes along the first axis.
        linear: whether it is linear in the cotangent.
        rank: how far-fetched it is; of several that are equal the lowest speaks.
        derivative: whether it is the derivative of an elementwise function, worked out from a forward value.
        of, form: of a derivative, the name of the forward value that it is worked out from, and how: "1 - {}**2".
        through: of the gradient by the operand of an elementwise function, and of nothing else, the function's value.
        line: of the forward that computes it, "file.py:12: code"; empty if unknown.
        through_use: of a part of a gradient, the code of the forward that it comes through; its name is a number.
        inside: of a value that has no name of its own, the code that it is computed in.
        place, iteration: of a value in a loop, what all passes of it have in common, and which pass this is.
    """

    name: str
    array: np.ndarray
    linear: bool
    rank: float | int
    derivative: bool = False
    of: str = ""
    form: str = ""
    through: str = ""
    line: str = ""
    through_use: str = ""
    inside: str = ""
    place: str = ""
    iteration: int = 0

    @property
    def said(self) -> str:
        """What a person would call it."""
        value = f"a value inside `{self.inside}`"
        if self.derivative and self.inside:
            return self.form.format(f"({value})")
        return (gradient_by(value) if self.linear else value) if self.inside else self.name


def gradient_by(name: str) -> str:
    """The gradient of the loss by a value of this name."""
    return f"∂L/∂{name}" if name.isidentifier() or ("." in name and " " not in name) else f"∂L/∂({name})"


def reference_values(
    forward: Callable[[list[Any]], list[Any]],
    primals: Sequence[Any],
    seeds: Sequence[Any],
    probes: Sequence[Sequence[Any]],
    gradients: bool = True,
) -> list[ReferenceValue]:
    """Forward values, gradients by them, and derivatives of the usual elementwise functions, on all probes.

    Args:
        forward: float outputs from a list of primals; traceable.
        primals, seeds: of the shapes and dtypes to trace with.
        probes: primals and seeds, one after the other, of each probe.
        gradients: those by the values too; a forward without reverse mode has none.
    """
    inlined, _ = _jaxpr.trace_inlined(lambda *primals: forward(list(primals)), *primals, unrolled=True)
    made = _jaxpr.float_values(inlined)

    uses = _jaxpr.shared_uses(inlined)

    names = names_of(inlined)
    functions = elementwise_functions(inlined, names)

    def both(primals: list[Any], seeds: list[Any]) -> list[Any]:
        values, cotangents, parts, by_inputs = _jaxpr.values_and_cotangents(inlined, primals, seeds)
        held = dict(zip(inlined.inputs, primals)) | dict(zip(made, values))
        slopes = [_jaxpr.slope(its.equations, operand, held) for operand, its in functions.items()]
        return [*values, *cotangents, *parts, *by_inputs, *slopes]

    if gradients:
        program = _jaxpr.trace(both, list(primals), list(seeds))
        rows = [_jaxpr.run(program, probe) for probe in probes]
    else:
        held = [_jaxpr.evaluate(inlined, list(probe[: len(primals)])) for probe in probes]
        rows = [[its[number] for number in made] for its in held]
    arrays_left = (np.stack([np.asarray(x) for x in column]) for column in zip(*rows))
    named: list[ReferenceValue] = []
    groups = passes(inlined)
    in_loops = {number: (k, t) for k, group in enumerate(groups) for t, number in enumerate(group)}
    makers = {number: equation for equation in inlined.equations for number in equation.outputs}
    taken = Counter(number for equation in inlined.equations for number in equation.inputs)
    inputs = [n for n in inlined.inputs if inlined.dtypes[n].kind in "fc"]
    values, cotangents = dict(zip(made, arrays_left)), dict(zip(made, arrays_left))
    parts, by_inputs = dict(zip(uses, arrays_left)), dict(zip(inputs, arrays_left))
    slopes = dict(zip(functions, arrays_left))
    for number, value in values.items():
        cotangent = cotangents.get(number)
        if value[0].size > MOST_ENTRIES:
            continue
        if (name := names.get(number)) is not None:
            text, rank, within = name.text, _rank(name), ""
        else:
            pieces, operation = makers[number].segments, makers[number].name
            within = pieces[0].text if pieces and number not in inlined.outputs else ""
            text = f"{operation} in `{within}`" if within else operation
            text, rank = "the output" if number in inlined.outputs else text, UNNAMED
            of_last = names.get(groups[in_loops[number][0]][-1]) if number in in_loops else None
            if of_last is not None:  # in another pass of the loop
                text, rank, within = of_last.text, IN_LOOP, ""
        after = names[functions[number].value] if number in functions else None
        new = [ReferenceValue(text, value, False, rank)]
        maker = makers.get(number)
        laid_out = maker is not None and maker.name in LAID_OUT and taken[maker.inputs[0]] > 1
        if cotangent is not None and not (laid_out and (name is None or not name.variable)):
            new.append(ReferenceValue(gradient_by(text), cotangent, True, rank, through=after.text if after else ""))
        if value[0].size > 1 and value.dtype.kind == "f":
            for form, x in _derivatives(value):
                new.append(
                    ReferenceValue(form.format(bracketed(text)), x, False, rank + OF_DERIVATIVE, True, text, form)
                )
        if after is not None and number in slopes:
            new += _slope(after, slopes[number])
        if name is not None:
            line = at_line(name.segment.file, name.segment.line, name.segment.statement)
            new = [replace(v, line=line) for v in new]
        new = [replace(v, inside=within) for v in new] if within else new
        if number in in_loops:
            place, iteration = in_loops[number]
            new = [replace(v, place=f"{place}.{k}", iteration=iteration) for k, v in enumerate(new)]
        named += new
    for number in slopes.keys() & by_inputs.keys():
        after = names[functions[number].value]
        operand = f"∂L/∂the operand of {after.text}"
        named.append(ReferenceValue(operand, by_inputs[number], True, UNNAMED, through=after.text))
        named += _slope(after, slopes[number])
    named += _constants(inlined, names, len(probes))
    named += [*_totals(named), *_stacked(named), *_extremes(inlined, names, values)]
    return [*named, *_parts(inlined, parts)]


def _rank(name: Name) -> float:
    return NAMED + 0.5 * (not name.variable) + len(name.text) / 200


def _slope(function: Name, slope: np.ndarray) -> list[ReferenceValue]:
    usable = slope[0].size > 1 and bool(np.all(np.isfinite(slope)))
    text = f"the slope of {function.text}"
    return [ReferenceValue(text, slope, False, _rank(function) + OF_SLOPE, True)] if usable else []


def _constants(program: _jaxpr.Program, names: Mapping[int, Name], count: int) -> Iterator[ReferenceValue]:
    """What the forward computes of constants alone: numbers, as the root of a size is, and arrays, as smoothed labels
    are.

    Args:
        count: of the probes.
    """
    held: dict[int, Any] = dict(program.constants)
    for equation in program.equations:
        if held.keys() >= set(equation.inputs):
            with contextlib.suppress(Exception):  # what cannot be carried out by itself has no name
                held.update(zip(equation.outputs, _jaxpr.apply(equation, [held[n] for n in equation.inputs])))
    for number in sorted(names.keys() & held.keys() - program.constants.keys()):
        value, name = np.asarray(held[number]), names[number]
        told = value.ndim == 0 or (1 < value.size <= MOST_ENTRIES and np.unique(value).size > 1)
        if value.dtype.kind == "f" and told:
            array = np.broadcast_to(value, (count, *value.shape))
            line = at_line(name.segment.file, name.segment.line, name.segment.statement)
            yield ReferenceValue(name.text, array, False, _rank(name), line=line)


def _totals(named: Sequence[ReferenceValue]) -> Iterator[ReferenceValue]:
    """Gradients by what the forward computes more than once, as in every pass of a loop: those by each are added up."""
    groups: dict[bytes, list[tuple[ReferenceValue, ReferenceValue]]] = {}
    for value, by_it in itertools.pairwise(named):
        varies = np.any(value.array != value.array[:1])
        if not value.linear and not value.derivative and by_it.name == gradient_by(value.name) and varies:
            groups.setdefault(value.array.tobytes(), []).append((value, by_it))
    for pairs in groups.values():
        gradients = [by_it for value, by_it in pairs if value.array.shape == pairs[0][0].array.shape]
        if len(gradients) > 1:
            least = min(gradients, key=lambda gradient: gradient.rank)
            total = np.sum([gradient.array for gradient in gradients], axis=0)
            yield replace(least, array=total, through="", place="", iteration=0)


def _stacked(named: Sequence[ReferenceValue]) -> Iterator[ReferenceValue]:
    """What every pass of a loop gives, one after the other along a new first axis."""
    families: dict[str, list[ReferenceValue]] = {}
    for value in named:
        if value.place and not value.derivative:
            families.setdefault(value.place, []).append(value)
    for family in families.values():
        if len(family) * family[0].array[0].size <= MOST_ENTRIES:
            array = np.stack([value.array for value in sorted(family, key=lambda v: v.iteration)], axis=1)
            name = f"{family[-1].name} of every pass"
            yield ReferenceValue(name, array, family[0].linear, IN_LOOP + 0.2, line=family[-1].line)


def _extremes(
    program: _jaxpr.Program, names: Mapping[int, Name], arrays: Mapping[int, np.ndarray]
) -> Iterator[ReferenceValue]:
    """Where the values are that a maximum or a minimum is."""
    words = {"reduce_max": "max", "reduce_min": "min"}
    for equation in (e for e in program.equations if e.name in words):
        (number,), word = equation.inputs, words[equation.name]
        if number not in arrays or number not in names or arrays[number][0].size > MOST_ENTRIES:
            continue
        x, axes = arrays[number], tuple(equation.params["axes"])
        extreme = getattr(x, word)(axis=tuple(a + 1 for a in axes), keepdims=True)
        code, axis = names[number].text, axes[0] if len(axes) == 1 else axes
        text = f"({code} == {bracketed(code)}.{word}({axis}, keepdims=True))"
        yield ReferenceValue(text, np.asarray(x == extreme, float), False, IN_LOOP)


def _parts(program: _jaxpr.Program, arrays: Mapping[tuple[int, int], np.ndarray]) -> Iterator[ReferenceValue]:
    """Parts of the gradients by values that are used more than once, by their uses."""
    for (position, j), array in arrays.items():
        equation = program.equations[position]
        if equation.segments and array[0].size <= MOST_ENTRIES:
            code, number = equation.segments[0].text, equation.inputs[j]
            yield ReferenceValue(f"{number}", array, True, UNNAMED, through_use=code)


def bracketed(name: str) -> str:
    """A name as a part of an expression."""
    return name if name.isidentifier() else f"({name})"


def _derivatives(value: np.ndarray) -> list[tuple[str, np.ndarray]]:
    """Derivatives of elementwise functions whose output, or input, this value is."""
    with np.errstate(all="ignore"):
        arrays = {
            "1 - {0}**2": 1 - value**2,
            "{0} * (1 - {0})": value * (1 - value),
            "({0} > 0)": np.asarray(value > 0, float),
            "exp({0})": np.exp(value),
            "sign({0})": np.sign(value),
        }
    return [(form, x) for form, x in arrays.items() if np.all(np.isfinite(x)) and np.ptp(x) > 0]

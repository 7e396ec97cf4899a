"""Enclosures decide: reference and rule in ball arithmetic at a probe, and whether their difference excludes 0.

A screen in float64 knows its rounding only to first order, and a bound that outgrew the gradient says nothing. Here
both programs are evaluated on balls (`_jaxpr.in_balls`) at exactly the probe's values, with more and more bits, until
each element is decided:

    proved    the difference excludes 0, and is larger than the arguments' dtype can hold
    equal     it is smaller than that dtype can hold, or, as of a series that is cut off, `FEW_ULPS` of float64

What is left is open: more bits than asked for, a comparison that no precision settles, or time.
"""

import math
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Any

import jax
import numpy as np

from jaxbias import _jaxpr
from jaxbias._jaxpr import balls, in_balls
from jaxbias._jaxpr.queries import LAYOUT, coarsest_constant
from jaxbias._jaxpr.rounding import terms

FEWEST_BITS, MOST_BITS = 128, 8192

FEW_ULPS = 8 * float(np.finfo(float).eps)
"""Of the size of the terms: what a difference may be in any dtype."""

SMALLEST = 1e-70
"""Size of the terms of an element that float64 gives as 0."""

SHARP = 1e-6
"""Of the size of the terms: a tolerance above it lets mistakes through, so what it accepts is not decided."""


@dataclass(frozen=True)
class Difference:
    """rule − reference for one leaf, element by element.

    Attributes:
        proved: it excludes 0, and is more than the arguments' dtype can hold.
        equal: it is nothing, or less than the dtype can hold.
        upper: largest absolute value that it may have.
        actual, expected: the two sides, rounded once to float64.
        low, high: bounds of the element that differs most, as decimal numbers; "0" where none is proved.
        at: index of that element.
        digits: decimal digits to which the equal elements agree, relative to the size of their terms.
        rounded_constants: some elements agree only up to how float constants were rounded.
    """

    proved: np.ndarray
    equal: np.ndarray
    upper: np.ndarray
    actual: np.ndarray
    expected: np.ndarray
    low: str = "0"
    high: str = "0"
    at: tuple[int, ...] = ()
    digits: float = math.inf
    rounded_constants: bool = False

    @property
    def decided(self) -> np.ndarray:
        return np.asarray(self.proved | self.equal)

    @classmethod
    def unknown(cls, shape: tuple[int, ...]) -> "Difference":
        nothing = np.zeros(shape, bool)
        return cls(nothing, nothing, np.full(shape, np.inf), np.full(shape, np.nan), np.full(shape, np.nan))

    @classmethod
    def of(cls, actual: balls.Balls, expected: balls.Balls, size: np.ndarray, eps: float) -> "Difference":
        """Compare balls of one leaf; `size` is that of the terms, eps the precision of the arguments' dtype.

        What is expected counts as a term too: those of float64 are 0 where they cancel there, as 1 − p beside a p of 1.
        """
        eps = max(eps, FEW_ULPS)
        proved, equal, upper = np.zeros(size.shape, bool), np.zeros(size.shape, bool), np.full(size.shape, np.inf)
        most, worst, digits = 0.0, None, math.inf
        scales = np.maximum(size, SMALLEST).ravel().tolist()
        for index, got, want, scale in zip(np.ndindex(size.shape), actual.flat, expected.flat, scales):
            if got is want:
                equal[index], upper[index] = True, 0.0
                continue
            difference = got - want
            modulus = abs(difference)
            if modulus.is_nan():
                continue
            if want.is_finite():
                scale = max(scale, float(abs(want).lower()))
            upper[index], lower = float(modulus.upper()), float(modulus.lower())
            equal[index] = upper[index] <= eps * scale
            proved[index] = not equal[index] and lower > eps * scale
            if equal[index] and upper[index]:
                digits = min(digits, -math.log10(upper[index] / scale))
            if proved[index] and lower > most:
                most, worst = lower, (index, difference)
        low, high, at = "0", "0", ()
        if worst is not None:
            at, real = worst[0], worst[1].real
            low, high = real.lower().str(8, radius=False), real.upper().str(8, radius=False)
        sides = balls.rounded(actual), balls.rounded(expected)
        return cls(proved, equal, upper, *sides, low=low, high=high, at=at, digits=digits)

    def up_to_constants(self, reals: "Difference", size: np.ndarray, coarse: float) -> "Difference":
        """The same, but equal where the reals that constants round to leave 0 inside of a difference that is small.

        What they leave open without being small is not decided, unless the difference is larger than constants explain.
        """
        inside = self.proved & ~reals.proved
        limit = max(SHARP, 4 * coarse)
        excused = inside & (reals.upper <= limit * size)
        unclear = inside & ~excused & (self.upper <= limit * size)
        if not np.any(excused | unclear):
            return self
        proved = self.proved & ~excused & ~unclear
        shown = (self.low, self.high, self.at) if np.any(proved) else ("0", "0", ())
        with np.errstate(all="ignore"):
            lost = np.max(np.where(excused & (size > 0), self.upper / size, 0.0), initial=0.0)
        digits = min(self.digits, -math.log10(lost)) if lost else self.digits
        low, high, at = shown
        return replace(
            self, proved=proved, equal=self.equal | excused, low=low, high=high, at=at, digits=digits,
            rounded_constants=True,
        )  # fmt: skip

    def excused_up_to(self, most: float, size: np.ndarray) -> "Difference":
        """The same, but equal where the difference is at most so large."""
        excused = self.proved & (self.upper <= most)
        if not np.any(excused):
            return self
        with np.errstate(all="ignore"):
            lost = np.max(np.where(excused & (size > 0), self.upper / size, 0.0), initial=0.0)
        digits = min(self.digits, -math.log10(lost)) if lost else self.digits
        return replace(self, proved=self.proved & ~excused, equal=self.equal | excused, digits=digits)


@dataclass(frozen=True)
class Enclosure:
    """What balls say of one probe.

    Attributes:
        leaves: one `Difference` per leaf.
        bits: the precision that decided.
        reason: what left elements open; empty if all are decided.
    """

    leaves: tuple[Difference, ...]
    bits: int
    reason: str = ""


class Balls:
    """Reference and rule of one signature, made ready to be evaluated on balls."""

    def __init__(self, reference: _jaxpr.Program, rule: _jaxpr.Program, absent: Sequence[bool]):
        gradients = replace(reference, outputs=reference.outputs[: len(absent)])
        (self.both, self.shared), self.absent = in_balls.merged(gradients, rule), absent
        self.operations = in_balls.operations(self.both)
        self.coarse = max(coarsest_constant(reference), coarsest_constant(rule))
        self.bits = FEWEST_BITS  # that the last probe took: the next one will hardly do with fewer

    def enclose(
        self,
        inputs: Sequence[Any],
        asked: Sequence[np.ndarray],
        sizes: Sequence[np.ndarray],
        eps: float,
        seconds: float,
        most_bits: int,
        own_sizes: Callable[[], Sequence[np.ndarray]],
    ) -> Enclosure:
        """Decide each element of each leaf at one probe.

        Args:
            asked: elements that are worth more bits.
            sizes: `magnitudes` of the leaves.
            own_sizes: gives those of the rule, whose constants are rounded beside its own terms.
            eps: relative precision of the arguments' dtype.
            seconds: of processor time, in all.
            most_bits: at which precision to give up.
        """
        deadline = time.process_time() + seconds
        leaves, bits, reason = [Difference.unknown(np.shape(size)) for size in sizes], min(self.bits, most_bits), ""
        while bits <= most_bits:
            try:
                leaves, reason = self._differences(inputs, sizes, eps, bits, deadline), ""
            except balls.Open as comparison:
                reason = f"{comparison} that {bits} bits leave open"
            except (balls.NoBall, balls.Late) as missing:
                return Enclosure(tuple(leaves), bits, str(missing))
            if not reason and all(np.all(leaf.decided | ~mask) for leaf, mask in zip(leaves, asked)):
                self.bits = bits
                break
            bits *= 2
        else:
            bits //= 2
            reason = reason or f"a difference that {bits} bits leave open"
        if any(np.any(leaf.proved) for leaf in leaves):
            # where these reals give no answer, the difference at the exact constants stands
            with suppress(balls.NoBall, balls.Late, balls.Open):
                reals = self._differences(inputs, sizes, eps, bits, deadline, constants_as_reals=True)
                larger = map(np.maximum, sizes, own_sizes())
                leaves = [
                    exact.up_to_constants(real, np.fmax(size, np.abs(exact.expected)), self.coarse)
                    for exact, real, size in zip(leaves, reals, larger)
                ]
        return Enclosure(tuple(leaves), bits, reason)

    def apart(self, inputs: Sequence[Any], sizes: Sequence[np.ndarray], seconds: float) -> float:
        """Largest difference that is proved, of the size of the terms; constants are reals that round to them."""
        deadline, bits = time.process_time() + seconds, 2 * self.bits
        while bits <= MOST_BITS:
            try:
                leaves = self._differences(inputs, sizes, 0.0, bits, deadline, constants_as_reals=True)
            except (balls.NoBall, balls.Late, balls.Open):
                return 0.0
            if all(bool(np.all(leaf.equal)) for leaf in leaves):
                return 0.0
            if any(bool(np.any(leaf.proved)) for leaf in leaves):
                larger = [np.fmax(size, np.abs(leaf.expected)) for leaf, size in zip(leaves, sizes)]
                shares = [leaf.upper / np.maximum(size, SMALLEST) for leaf, size in zip(leaves, larger)]
                return max(float(np.max(x[leaf.proved], initial=0.0)) for x, leaf in zip(shares, leaves))
            bits *= 2
        return 0.0

    def _differences(self, inputs, sizes, eps, bits, deadline, constants_as_reals=False) -> list[Difference]:
        with balls.precision(bits):
            outs = in_balls.run(self.both, inputs, constants_as_reals, deadline, self.shared)
            expected, gradients = outs[: len(self.absent)], iter(outs[len(self.absent) :])
            actual = [
                balls.lift(np.zeros(np.shape(size))) if gone else next(gradients)
                for size, gone in zip(sizes, self.absent)
            ]
            return [
                Difference.of(a, e, s, eps) if np.shape(a) == np.shape(e) else Difference.unknown(np.shape(s))
                for a, e, s in zip(actual, expected, sizes)
            ]


def magnitudes(program: _jaxpr.Program, values: Sequence[Any], count: int) -> list[np.ndarray]:
    """Of each of the first outputs, element by element: the size of the terms of its outermost sum.

    A sum of sums is one sum, and a factor outside of it stands before each term. What a term is made of does not count:
    else the size of a long loop's gradient would grow with its condition, as rounding does.
    """
    makers = {number: equation for equation in program.equations for number in equation.outputs}
    known: dict[tuple[int, bool], np.ndarray] = {}

    def size(number: int, in_sum: bool) -> np.ndarray:
        if (number, in_sum) not in known:
            known[number, in_sum] = np.asarray(of(number, in_sum))
        return known[number, in_sum]

    def of(number: int, in_sum: bool) -> Any:
        value, equation = values[number], makers.get(number)
        plain = np.abs(np.asarray(value))
        if equation is None or equation.bodies or len(equation.outputs) > 1:
            return plain
        inputs = [values[i] for i in equation.inputs]
        if any(isinstance(x, jax.Array) for x in inputs):
            return plain
        name = equation.name
        if name in ("add", "add_any", "sub"):
            both = [np.broadcast_to(size(i, True), plain.shape) for i in equation.inputs]
            return np.maximum(both[0] + both[1], plain)
        if len(inputs) == 1 and (name in ("neg", "reduce_sum") or name in LAYOUT):
            moved = _jaxpr.apply(equation, [size(equation.inputs[0], in_sum or name == "reduce_sum")])[0]
            return np.abs(np.asarray(moved))
        if name == "select_n":
            cases = [np.broadcast_to(size(i, in_sum), plain.shape) for i in equation.inputs[1:]]
            return _jaxpr.apply(equation, [inputs[0], *cases])[0]
        if name == "one_minus_square":
            return 1 + np.abs(inputs[0]) ** 2
        if name in ("mul", "div") and not in_sum:
            first = size(equation.inputs[0], False)
            if name == "div":
                return np.maximum(first / np.abs(inputs[1]), plain)
            return np.maximum(first * np.abs(inputs[1]), np.abs(inputs[0]) * size(equation.inputs[1], False))
        return np.asarray(terms(name, equation.params, inputs, value)[0])

    with np.errstate(all="ignore"):
        sizes = [np.broadcast_to(size(number, False), np.shape(values[number])) for number in program.outputs[:count]]
    return [np.where(np.isfinite(x), x, 0.0) for x in sizes]

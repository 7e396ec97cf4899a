"""Terms of a sum: one that is lacking, one too much, one with a wrong factor."""

import itertools
import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import cached_property
from typing import NamedTuple

import numpy as np

from jaxbias.verify.naming.alignment import addends, same
from jaxbias.verify.naming.at_hand import AtHand
from jaxbias.verify.naming.code import axes_code, bracketed, listed
from jaxbias.verify.naming.constants import as_code, close, name_constant, sizes
from jaxbias.verify.naming.difference import Difference, Relation, constant_factor
from jaxbias.verify.naming.variants import kind_of_term

MOST_VALUES = 30
"""From which products are made."""

WRITTEN = 0.5
"""How much likelier a term is that can be written in the rule's own values."""

SIMPLE = (2.0, 0.5, 3.0, 1 / 3, 4.0, 0.25)


def own_terms(d: Difference) -> Iterator[Relation]:
    """One of the terms that the rule adds up here is too much, has a wrong factor, or lacks one."""
    terms = list(addends(d.alignment, d.number, within=d.number))
    lacking = d.wanted - d.given
    for n, sign in terms if len(terms) > 1 else ():
        name, own = d.alignment.text(n), sign * np.broadcast_to(_full(d, n), d.given.shape)
        if own.shape != d.given.shape or not np.any(own) or same(own, d.given):
            continue
        needed = own + lacking
        size = float(np.max(np.abs(own)))
        if np.max(np.abs(needed)) <= 1e-8 * size:
            equal = sum(same(s * _full(d, m), own) for m, s in terms)
            words = f"counts the term {name} twice" if equal > 1 else f"has the term {name} too much"
            kind = "double-count" if equal > 1 else "extra-term"
            yield Relation(kind, words, 1.2)
            continue
        factor = constant_factor(own, needed)
        named = name_constant([factor] * len(own), d.shapes) if factor is not None else None
        lacks_the_cotangent = d.linear and n not in d.alignment.linear
        values = [v for v in d.at_hand(d.given.shape[1:], lacks_the_cotangent) if same(own * v.array, needed)]
        for v in values[:1]:
            words = f"has the term {name} without the factor {v.bracketed}"
            yield Relation(v.kind_of_factor, words, 1.6 + 0.1 * v.cost)
        if named is not None and named.kind == "sign":
            yield Relation("sign", f"has the term {name} with the wrong sign", 1.15)
        elif named is not None and not values:
            yield Relation(named.kind, f"has {named.text} times the term {name} that it must have", 1.35)


def _full(d: Difference, number: int) -> np.ndarray:
    x = d.alignment.column(number)
    return x if x.ndim > 1 else np.broadcast_to(x.reshape(-1, *(1,) * (d.given.ndim - 1)), d.given.shape)


def term(d: Difference) -> Iterator[Relation]:
    """The right value less the given one, as one product or sum of values at hand, the value itself among them."""
    without_code: list[Relation] = []
    for lacks in _terms(d):
        if lacks.codes:
            yield replace(lacks, cost=max(lacks.cost - WRITTEN, 1.8))
            return
        without_code.append(lacks)
    yield from without_code[:1]


def _terms(d: Difference) -> Iterator[Relation]:
    """Of every value, product of two, and sum over axes of these, the quotient says what it has to be multiplied by."""
    lacking = d.wanted - d.given
    shape, size = lacking.shape[1:], float(np.sum(np.abs(lacking) ** 2))
    if size == 0:
        return
    linear = [v for v in d.at_hand(shape, d.linear)[:120] if constant_factor(v.array, d.wanted) is None]
    whole = d.at_hand(shape, False) if d.linear else linear
    itself = _Itself(d.alignment.text(d.number), d.given, 1.5)
    linear = [replace(itself, name=v.name, cost=v.cost) if same(v.array, d.given) else v for v in linear]
    factors, short = whole[:MOST_VALUES], linear[:MOST_VALUES]
    marks = np.array([_mark(v.array) for v in whole])
    axes = [tuple(a) for k in (1, 2) for a in itertools.combinations(range(1, len(shape) + 1), k)]
    total = lambda x, a: np.broadcast_to(x.sum(axis=a, keepdims=True), lacking.shape)

    def inside(values: Sequence[AtHand], short: Sequence[AtHand]) -> Iterator[tuple[float, _Term, np.ndarray]]:
        for v in values:
            yield 1.8 + 0.1 * v.cost, _Term((), (), (v,)), v.array
        for v, a in itertools.product(short, axes):
            if _differs_along(v.array, a):
                yield 2.0 + 0.1 * v.cost, _Term((), a, (v,)), total(v.array, a)
        for f, v, a in itertools.product(factors, short, axes):
            if _differs_along(product := f.array * v.array, a):
                yield 2.2 + 0.1 * (f.cost + v.cost), _Term((), a, (f, v)), total(product, a)

    def terms() -> Iterator[tuple[float, _Term, np.ndarray]]:
        for cost, its, array in itertools.chain(inside(linear, short), inside([], [itself])):
            yield cost, its, array
            quotient = lacking / array
            mark = _mark(quotient)
            alike = [whole[k] for k in np.flatnonzero(np.abs(marks - mark) <= 1e-7 * mark)]
            for f in factors if np.isnan(mark) and not its.axes else alike:  # where a value is zero, it says nothing
                yield cost + 0.2 + 0.1 * f.cost, its._replace(outside=(f,)), f.array * array

    for count, (cost, its, array) in enumerate(terms()):
        if count % 64 == 0 and time.process_time() > d.deadline:
            break
        own = float(np.sum(np.abs(array) ** 2))
        if not 1e-200 < own < np.inf:
            continue
        factor = float(np.real(np.sum(np.conj(array) * lacking))) / own
        if abs(factor * factor * own - size) > 1e-8 * size or not same(factor * array, lacking):
            continue
        times, cost_of_it, written = _coefficient(abs(factor), d)
        sign, plus = ("", "+") if factor > 0 else ("−", "-")
        alone = len(its.inside) == 1 and not (its.axes or its.outside)
        text = f"{times} · {its}" if times else its.inside[0].bracketed if sign and alone else f"{its}"
        codes = tuple(f"{{}} {plus} {code.format(its.code)}" for code in written if its.code)
        yield Relation(kind_of_term(array), f"lacks the term {sign}{text}", cost + cost_of_it, codes=codes)


def _coefficient(factor: float, d: Difference) -> tuple[str, float, tuple[str, ...]]:
    """A positive number in words, how far-fetched it is, and code for {} times it, the likeliest first."""
    if abs(factor - 1) < 1e-8:
        return "", 0.0, ("{}",)
    near = next((f for f in SIMPLE if abs(factor - f) < 1e-8), factor)
    whole = round(1 / factor) if close(1 / factor, round(1 / factor)) else 0
    number = f"{{}} / {whole}" if whole else f"{near:.15g} * {{}}"
    by_size = [f"{{}} / {bracketed(as_code(text), products=True)}" for text, size, _ in sizes(d.sizes) if size == whole]
    far_fetched = 0.1 if by_size else 0.8 * (near not in SIMPLE)
    return f"1/{whole}" if whole else f"{factor:.4g}", far_fetched, (*by_size[:MOST_SIZES], number)


MOST_SIZES = 3
"""That a number may be."""


class _Itself(AtHand):
    """The value that lacks the term: in what is to be written, the expression as it stands."""

    @cached_property
    def code(self) -> str:
        return "{0}"


def _differs_along(x: np.ndarray, axes: tuple[int, ...]) -> bool:
    """Is a sum over these axes another thing than so many times the value?"""
    return bool(np.any(x != x[tuple(slice(1) if a in axes else slice(None) for a in range(x.ndim))]))


def _mark(x: np.ndarray) -> float:
    """A number that no constant factor changes."""
    size = np.abs(x)
    return float(size.sum() / size.max())


COEFFICIENTS = {0.0: "missing-term", 2.0: "double-count", -1.0: "sign"}

MOST_PARTS = 8


def parts(d: Difference) -> Iterator[Relation]:
    """Of what autodiff adds up to the wanted value, one part for each use of a value of the forward: those that are
    left out, counted twice, or have the wrong sign.
    """
    if not d.linear:
        return
    for its in d.alignment.matcher.parts.values():
        shape, own = d.wanted.shape, its[0].array.shape
        if len(its) > MOST_PARTS or [n for n in own if n != 1] != [n for n in shape if n != 1]:
            continue
        arrays = [part.array.reshape(shape) for part in its]
        if not same(np.sum(arrays, axis=0), d.wanted) or not np.all(np.isfinite([*arrays, d.given])):
            continue
        columns = np.stack([x.ravel() for x in arrays], axis=1)
        fitted, *_ = np.linalg.lstsq(columns, d.given.ravel(), rcond=1e-10)
        factors = np.round(np.real(fitted), 6)
        if not same((columns @ factors).reshape(shape), d.given) or not set(factors) <= {1.0, *COEFFICIENTS}:
            continue
        wrong = {f for f in factors if f != 1.0}
        if len(wrong) != 1 or not np.any(factors):
            continue
        (factor,) = wrong
        codes = dict.fromkeys(f"`{part.through_use}`" for part, f in zip(its, factors) if f == factor)
        does = {0.0: "lacks", 2.0: "counts twice", -1.0: "has with the wrong sign"}[factor]
        words, kind = f"{does} what comes through {' and '.join(codes)}", COEFFICIENTS[factor]
        if len({part.through_use for part in its}) == 1 < len(its) - 1 and factor == 0:
            lacking = int(np.sum(factors == 0))
            kind = "overwritten-not-accumulated" if lacking == len(its) - 1 else "wrong-index"
            words = f"{words} in {lacking} of {len(its)} passes of the loop"
        yield Relation(kind, words, 2.7)
        return


class _Term(NamedTuple):
    """outside · Σ[axes](inside); the sum is left out without axes, which count the probes' as 0."""

    outside: tuple[AtHand, ...]
    axes: tuple[int, ...]
    inside: tuple[AtHand, ...]

    def __str__(self) -> str:
        product = lambda values: " · ".join(v.bracketed for v in values) if len(values) > 1 else values[0].name
        if not self.axes:
            return product((*self.outside, *self.inside))
        text = f"Σ[axis {listed(b - 1 for b in self.axes)}]({product(self.inside)})"
        return " · ".join([*(v.bracketed for v in self.outside), text])

    @property
    def code(self) -> str:
        """As Python; empty where a value has no expression."""
        values = (*self.outside, *self.inside)
        if not all(v.code for v in values):
            return ""
        product = lambda values: " * ".join(bracketed(v.code) for v in values)
        inside = product(self.inside) if len(values) > 1 or self.axes else bracketed(self.inside[0].code)
        if self.axes:
            axes = axes_code([a - 1 for a in self.axes])
            inside = f"{bracketed(inside, products=True)}.sum(axis={axes}, keepdims=True)"
        return " * ".join(filter(None, [product(self.outside), inside]))

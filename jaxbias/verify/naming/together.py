"""Which changes of several lines make a gradient right together, where none does alone.

What each change does alone says what two do where the lines go into two terms of a sum, or into two factors of a
product: `g(a, b) = g(a) + g(b) - g` or `g(a) g(b) / g`. By one number of each, those that come to the right gradient
so are as easy to tell as two numbers that add up to a third; they are carried out in the rule afterwards.
"""

import itertools
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from jaxbias.verify.naming.trying import Fit

CLOSE = 1e-9
"""Relative to the largest entry."""

MOST_OF_THREE = 250
"""Changes, the likeliest, of which two go together with a third."""


def together(fits: Sequence[Fit], values: Sequence[Any], now: Any, wanted: Any) -> Iterator[tuple[Fit, ...]]:
    """The fewest changes of different lines, three at most, that give the wanted value; the likeliest first.

    Args:
        values: what it is with each change alone; None where that is not known.
        now: what it is without any.
    """
    if now is None or wanted is None or np.shape(now) != np.shape(wanted) or np.iscomplexobj(wanted):
        return
    size = np.max(np.abs(now), initial=0.0)
    changing = lambda x: (
        np.shape(x) == np.shape(now) and np.all(np.isfinite(x)) and np.max(np.abs(x - now), initial=0.0) > CLOSE * size
    )
    usable = [k for k, x in enumerate(values) if x is not None and changing(x)]
    if not usable or not np.all(np.isfinite(wanted)) or not np.all(np.isfinite(now)):
        return
    its = [fits[k] for k in usable]
    changed, before, after = np.stack([np.ravel(values[k]) for k in usable]), np.ravel(now), np.ravel(wanted)
    yield from _added_up(its, changed - before, after - before)
    there = (before != 0) & (after != 0)
    if np.any(there):
        with np.errstate(all="ignore"):
            sizes = np.log(np.abs(changed[:, there] / before[there]))
        whole = np.flatnonzero(np.all(np.isfinite(sizes), axis=1))
        ratios, wanted = changed[whole][:, there] / before[there], after[there] / before[there]
        rows = {id(its[k]): row for k, row in zip(whole, ratios)}
        for way in _added_up([its[k] for k in whole], sizes[whole], np.log(np.abs(wanted)), False):
            if np.array_equal(np.sign(np.prod([rows[id(fit)] for fit in way], axis=0)), np.sign(wanted)):
                yield way


def _added_up(
    fits: Sequence[Fit], changes: np.ndarray, wanted: np.ndarray, exactly: bool = True
) -> Iterator[tuple[Fit, ...]]:
    """Of different lines, which add up to what is wanted: one, if it is wanted `exactly`, two, or else three."""
    if not len(fits) or not wanted.size:
        return
    size = np.max(np.abs(wanted))
    alone = np.all(np.abs(changes - wanted) <= CLOSE * size, axis=1)
    if exactly and np.any(alone):  # for which there was no time before
        yield from sorted(((fits[k],) for k in np.flatnonzero(alone).tolist()), key=lambda its: its[0].variant.cost)
        return
    along = np.random.default_rng(0).standard_normal(wanted.size)
    numbers, total = changes @ along, float(wanted @ along)
    order = np.argsort(numbers)
    ordered = numbers[order]

    def with_one_more(first: Sequence[int], beside: tuple[int, ...] = ()) -> Iterator[tuple[int, ...]]:
        """Those of the first, each with one of all, that come to what is wanted beside others."""
        its = np.asarray(first, int)
        missing = total - numbers[its] - sum(numbers[k] for k in beside)
        slack = CLOSE * (np.abs(missing) + np.abs(numbers[its]) + abs(total))
        starts, ends = np.searchsorted(ordered, missing - slack), np.searchsorted(ordered, missing + slack)
        for k, start, end in zip(its, starts, ends):
            for j in itertools.islice(order[start:end], 20):
                chosen = (*beside, int(k), int(j))
                if j <= k or len({fits[n].segment for n in chosen}) < len(chosen):
                    continue
                parts = changes[[*chosen]]
                if np.all(np.abs(parts.sum(axis=0) - wanted) <= CLOSE * (size + np.max(np.abs(parts)))):
                    yield chosen

    ways = [*with_one_more(range(len(fits)))]
    if not ways:
        likely = sorted(range(len(fits)), key=lambda k: fits[k].variant.cost)[:MOST_OF_THREE]
        for k in likely:
            ways += with_one_more([j for j in likely if j > k and fits[j].segment != fits[k].segment], (k,))
    ways.sort(key=lambda its: sum(fits[k].variant.cost for k in its))
    yield from (tuple(fits[k] for k in its) for its in ways)

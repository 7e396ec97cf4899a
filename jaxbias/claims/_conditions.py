"""What a claim expects of a measured array, with the tolerance written beside it.

A condition on `samples` (one entry per seed along the first axis) judges their mean and reports it with a 95 %
confidence interval and the standard deviation; every other condition must hold for every entry.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np


class Condition(NamedTuple):
    """A test of a measured value.

    Attributes:
        expected: the condition in words, for the column "expected".
        holds: `measured -> bool`; NaN never holds.
        show: `measured -> str`, for the column "measured".
    """

    expected: str
    holds: Callable[[np.ndarray], bool]
    show: Callable[[np.ndarray], str]


def number(value: Any) -> str:
    """A number with at most eight significant digits."""
    return f"{float(value):.8g}"


def _values(measured: np.ndarray) -> str:
    flat = np.ravel(measured)
    if flat.size <= 4:
        return ", ".join(number(v) for v in flat)
    return f"{number(flat.min())} … {number(flat.max())} ({flat.size} values)"


def near(value: Any, tolerance: float | int) -> Condition:
    """|measured − value| ≤ tolerance for every entry."""
    want = np.asarray(value, np.float64)

    def holds(measured):
        return bool(np.shape(measured) == want.shape or want.ndim == 0) and bool(
            np.all(np.abs(measured - want) <= tolerance)
        )

    def show(measured):
        if np.size(measured) <= 4 or np.shape(measured) != want.shape:
            return _values(measured)
        return f"largest deviation {np.max(np.abs(measured - want)):.1e} ({want.size} values)"

    shown = _values(want) if want.size <= 4 else f"{want.size} values"
    return Condition(f"{shown} ± {tolerance:g}", holds, show)


def exactly(value: Any) -> Condition:
    """measured == value for every entry, bit for bit."""
    want = np.asarray(value)

    def holds(measured):
        return bool(np.shape(measured) == want.shape or want.ndim == 0) and bool(np.all(measured == want))

    return Condition(f"exactly {_values(want)}", holds, _values)


def below(bound: float | int) -> Condition:
    """measured < bound for every entry."""
    return Condition(f"< {bound:g}", lambda measured: bool(np.all(measured < bound)), _values)


def above(bound: float | int) -> Condition:
    """measured > bound for every entry."""
    return Condition(f"> {bound:g}", lambda measured: bool(np.all(measured > bound)), _values)


def at_most(bound: float | int) -> Condition:
    """measured ≤ bound for every entry."""
    return Condition(f"≤ {bound:g}", lambda measured: bool(np.all(measured <= bound)), _values)


def within(low: float | int, high: float | int) -> Condition:
    """low ≤ measured ≤ high for every entry."""
    return Condition(
        f"{low:g} … {high:g}", lambda measured: bool(np.all((measured >= low) & (measured <= high))), _values
    )


def true() -> Condition:
    """Every entry is True."""
    return Condition("yes", lambda measured: bool(np.all(measured)), lambda m: "yes" if np.all(m) else "no")


# --- conditions on the mean over seeds --------------------------------------------------------------------------------


class SampleStatistics(NamedTuple):
    """Mean over seeds, its standard error, and the standard deviation of one seed."""

    mean: float
    error: float
    deviation: float
    seeds: int


def summarize(samples: Any) -> SampleStatistics:
    """Mean, standard error and standard deviation of one number per seed."""
    samples = np.asarray(samples, np.float64)
    deviation = float(np.std(samples, ddof=1))
    return SampleStatistics(float(np.mean(samples)), deviation / np.sqrt(samples.size), deviation, samples.size)


def _show_mean(samples: np.ndarray) -> str:
    s = summarize(samples)
    return f"{s.mean:.5g} ± {1.96 * s.error:.2g} (95 %; sd {s.deviation:.2g}, {s.seeds} seeds)"


def mean_near(value: float | int, tolerance: float | int) -> Condition:
    """The whole 95 % confidence interval of the mean over seeds lies within value ± tolerance."""

    def holds(samples):
        s = summarize(samples)
        return abs(s.mean - value) + 1.96 * s.error <= tolerance

    return Condition(f"mean {number(value)} ± {tolerance:g}", holds, _show_mean)


def mean_above(bound: float | int) -> Condition:
    """The mean over seeds exceeds the bound by more than four standard errors."""

    def holds(samples):
        s = summarize(samples)
        return s.mean - 4 * s.error > bound

    return Condition(f"mean > {bound:g} by 4 standard errors", holds, _show_mean)


def mean_below(bound: float | int) -> Condition:
    """The mean over seeds falls short of the bound by more than four standard errors."""

    def holds(samples):
        s = summarize(samples)
        return s.mean + 4 * s.error < bound

    return Condition(f"mean < {bound:g} by 4 standard errors", holds, _show_mean)


def mean_within(low: float | int, high: float | int) -> Condition:
    """The whole 95 % confidence interval of the mean over seeds lies between low and high."""

    def holds(samples):
        s = summarize(samples)
        return s.mean - 1.96 * s.error >= low and s.mean + 1.96 * s.error <= high

    return Condition(f"mean {low:g} … {high:g}", holds, _show_mean)


def reported() -> Condition:
    """No expectation: the effect is measured and shown; it must only be finite."""
    return Condition("reported, finite", lambda samples: bool(np.all(np.isfinite(samples))), _show_mean)

"""Derivatives from differences of the forward in ball arithmetic: a reference that uses no rule of autodiff at all.

At 512 bits a step of 2⁻¹⁰⁰ loses nothing to cancellation, so (f(x + h) − f(x − h)) / 2h is f' to some sixty digits
where f is smooth; where it is not, the slopes to both sides differ, and nothing is said. Nor where the slopes are not
linear in the direction: a median of three equal values has a slope along each of them, and no derivative.
"""

import math
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from jaxbias import _jaxpr
from jaxbias._jaxpr import balls, in_balls
from jaxbias._trees import is_float
from jaxbias.verify.problem import Runner

if TYPE_CHECKING:
    from jaxbias.verify.checker import Checker
    from jaxbias.verify.probes import Probe

BITS, STEP = 512, -100
"""Precision, and the exponent of two of the step."""

SMOOTH = 1e-12
"""How far apart, for their size, the slopes to both sides may be."""

NOTHING = math.ldexp(1.0, 3 * STEP // 2)
"""What the step cuts off of a slope is less: the square of the step, times a third derivative."""

CURVED, WIDER = math.ldexp(1.0, STEP // 2), 2.0**10
"""How far apart the slopes to both sides may be by curvature, where the slope is 0; and how many times as far they then
are with a step that many times as long, which tells a curve from a kink of that size."""

Ends = tuple[list[balls.Balls], list[balls.Balls]]
"""Every output a step further, and a step back."""

MOST_COLUMNS = 64
"""Entries of one argument that are moved one at a time; of a larger one, as many of them."""


OTHERS = 8
"""Directions beside its own that the slope along a tangent is held against. One in four or so says nothing at a tie of
three values: all three directions then move the same value to the middle."""


def derivatives(
    checker: "Checker", probe: "Probe", where: Sequence[np.ndarray] | None = None, others: int = OTHERS
) -> list[np.ndarray] | None:
    """What each gradient (or tangent) must be, NaN where the forward has no slope or was not moved.

    None where the forward has no enclosure, is complex, or takes too long.

    Args:
        where: a mask for each gradient, of the entries that are asked for; all of them if not given.
        others: of a tangent, how many other directions say whether the slope is linear.
    """
    forward = checker.problem.forward
    if forward is None or any(np.iscomplexobj(x) for x in (*probe.primals, *probe.seeds)):
        return None
    if checker.forward is None:
        reference = checker.reference
        checker.forward = Runner(lambda primals, _: forward(primals), reference.dtypes, reference.native)
    try:
        program = checker.forward.program(probe.primals, [])
        if program is None:
            return None
        with balls.precision(BITS):
            return _Slopes(program, probe, checker.deadline).of(checker, where, others)
    except (balls.NoBall, balls.Late, balls.Open):
        return None


def _same(a: Any, b: Any, size: Any) -> Any:
    """Up to the rounding of slopes to float64."""
    with np.errstate(all="ignore"):
        return np.abs(a - b) <= 1e-9 * size + NOTHING


def _narrow(x: Any) -> np.ndarray:
    """Midpoints; NaN of a ball that may be anything, as what is divided by a singular value of 0 is."""
    x = np.asarray(x)  # NumPy hands back a bare ball for an array of one
    near = lambda ball: float(ball.rad()) <= max(SMOOTH * float(abs(ball).mid()), NOTHING)
    with np.errstate(invalid="ignore"):
        return np.where(balls.map_balls(near, x).astype(bool), balls.rounded(x), np.nan)


class _Slopes:
    def __init__(self, program: _jaxpr.Program, probe: "Probe", deadline: float):
        self.program, self.probe, self.deadline = program, probe, deadline
        self.primals = [balls.lift(x) for x in probe.primals]
        self.seeds = [balls.lift(x) for x in probe.seeds]
        self.step = balls.lift(np.float64(2.0**STEP))[()]
        self.here = self._run(self.primals)
        self.finite = [np.asarray(~np.isinf(balls.rounded(out))) for out in self.here]
        self.rng = np.random.default_rng(0)

    def _run(self, primals: list[Any]) -> list[balls.Balls]:
        return in_balls.run(self.program, primals, deadline=self.deadline)

    def of(self, checker: "Checker", where: Sequence[np.ndarray] | None, others: int) -> list[np.ndarray] | None:
        numbers = checker.problem.leaf_primal
        if numbers is not None:
            masks = where or [np.ones(np.shape(self.probe.primals[k]), bool) for k in numbers]
            return self._if_linear(numbers, [self._gradient(k, mask) for k, mask in zip(numbers, masks)])
        floats = [i for i, x in enumerate(self.probe.primals) if is_float(x)]
        along = lambda direction: self._slopes(lambda step: self._along(floats, direction, step))
        own = along(self.seeds)
        for k in range(others):
            if k and checker.short_of_time(0.3):
                break
            other = [balls.lift(self.rng.standard_normal(np.shape(seed))) for seed in self.seeds]
            sums = zip(own, along(other), along([a + b for a, b in zip(self.seeds, other)]))
            own = [np.where(_same(a + b, both, abs(a) + abs(b)), a, np.nan) for a, b, both in sums]
        return own

    def _along(self, numbers: list[int], direction: list[Any], step: Any) -> Ends:
        moved = [list(self.primals), list(self.primals)]
        for i, tangent in zip(numbers, direction):
            for sign, primals in zip((1, -1), moved):
                primals[i] = primals[i] + tangent * (sign * step)
        up, down = map(self._run, moved)
        return up, down

    def _if_linear(self, numbers: list[int], gradients: list[np.ndarray]) -> list[np.ndarray]:
        """The gradients, if they give the slope along another direction too; NaN else."""
        direction = [self.rng.standard_normal(np.shape(g)) * np.isfinite(g) for g in gradients]
        parts = [np.where(np.isfinite(g), g, 0) * d for g, d in zip(gradients, direction)]
        along = list(map(balls.lift, direction))
        slope = self._slope_of_pairing(lambda step: self._along(numbers, along, step))
        linear = _same(sum(map(np.sum, parts)), slope, sum(np.sum(np.abs(part)) for part in parts))
        return gradients if linear else [np.full(np.shape(g), np.nan) for g in gradients]

    def _paired(self, outs: list[balls.Balls]) -> balls.Balls:
        """Σ seed · out, without entries that are infinite, as the maximum of nothing is."""
        pairs = zip(outs, self.seeds, self.finite)
        total = sum((np.sum(np.asarray(out * seed)[finite]) for out, seed, finite in pairs), start=self.step * 0)
        return np.asarray(total, object)

    def _gradient(self, k: int, mask: np.ndarray) -> np.ndarray:
        x = self.primals[k]
        slopes = np.full(x.size, np.nan)
        places = np.flatnonzero(mask)
        if places.size > MOST_COLUMNS:
            places = places[np.linspace(0, places.size - 1, MOST_COLUMNS).astype(int)]
        for place in places:
            unit = balls.lift((np.arange(x.size) == place).astype(float).reshape(x.shape))
            slopes[place] = self._slope_of_pairing(lambda step, unit=unit: self._along([k], [unit], step))[()]
        return slopes.reshape(x.shape)

    def _slope_of_pairing(self, ends: Callable[[Any], Ends]) -> np.ndarray:
        def paired(step: Any) -> Ends:
            up, down = ends(step)
            return [self._paired(up)], [self._paired(down)]

        return self._slopes(paired, [self._paired(self.here)])[0]

    def _slopes(self, ends: Callable[[Any], Ends], here: list[balls.Balls] | None = None) -> list[np.ndarray]:
        """Of each output, element by element; NaN where the slopes to both sides differ, and not by curvature."""
        here = self.here if here is None else here
        sides, wider = self._sides(ends(self.step), here, self.step), None
        slopes = []
        for i, (slope, apart, size) in enumerate(sides):
            smooth = (apart <= SMOOTH * size) | (apart <= NOTHING)
            if np.any(~smooth & (apart <= CURVED)):
                wider = wider or self._sides(ends(self.step * WIDER), here, self.step * WIDER)
                smooth |= (apart <= CURVED) & (apart <= 2 / WIDER * wider[i][1])
            seen = (slope == 0) | (np.abs(slope) > NOTHING)
            slopes.append(np.where(smooth & seen, slope, np.nan))
        return slopes

    def _sides(self, ends: Ends, here: list[balls.Balls], step: Any) -> list[tuple[np.ndarray, np.ndarray, np.ndarray]]:
        """Of each output its slope, how far the slopes to both sides are apart, and how large they are."""
        told = []
        for up, value, down in zip(ends[0], here, ends[1]):
            right, left = (up - value) / step, (value - down) / step
            told.append((_narrow((right + left) / 2), _narrow(abs(right - left)), _narrow(abs(right))))
        return told

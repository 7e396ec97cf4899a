"""Evaluates reference and rule on a probe, and compares them element by element.

Reference: the jaxpr of autodiff, traced in float64 and evaluated in NumPy in float64, whatever dtypes the forward casts
to on the way; the rule is traced and evaluated the same way, so what is compared is the mathematics. Apart from that
the rule runs as it is, in the dtype of the arguments (`calls`), where rounding, overflow and hidden state count.

    screen       differences in float64, against a first-order bound on the rounding of both programs, propagated
                 equation by equation (`_jaxpr.rounding`). It follows the magnitude of the terms that are added up, so a
                 gradient that cancels to zero is judged by the terms that cancel, and a small regulariser by its size.
    enclosures   ball arithmetic (`enclosures`): always where it is cheap, and wherever the screen convicts or its bound
                 is not sharp. What they decide stands, whatever the screen said.
    measured     for a rule that cannot be read (a callback, a kernel) or keeps to its own dtype: the tolerance is what
                 the reference itself loses in that dtype.

What none of them decides is undecided.
"""

import contextlib
import dataclasses
import functools
import itertools
import operator
import time
from collections import Counter
from collections.abc import Sequence
from typing import Any

import jax.numpy as jnp
import numpy as np

from jaxbias import _jaxpr
from jaxbias._jaxpr.queries import coarsest_constant, draws, left_open, names, opaque, without_value
from jaxbias._jaxpr.rounding import error_bounds
from jaxbias._trees import in_one_line, is_float
from jaxbias.verify.case import SLACK_IN_FLOAT64, Case, comparable
from jaxbias.verify.differences import derivatives
from jaxbias.verify.enclosures import FEWEST_BITS, MOST_BITS, SHARP, Balls, Enclosure, magnitudes
from jaxbias.verify.measured import COARSE, decide_by_estimate, measured
from jaxbias.verify.probes import Probe
from jaxbias.verify.problem import Arrays, Problem, RuleError, Runner, call_rule
from jaxbias.verify.references import TooManyColumns
from jaxbias.verify.truths import Memory, Truth, memory

SLACK_IN_ARGUMENT_DTYPE = 16.0, 2.0
"""The same in the dtype of the arguments, where rounding errors come closer to mistakes."""

SECONDS = 20.0
"""Processor time for a whole check."""

CHEAP = 100_000
"""Products of balls, over all probes of a check, up to which enclosures are always computed: about 0.1 s."""

ELIMINATIONS = frozenset(("lu", "cholesky", "qr", "geqrf", "householder_product", "svd", "eigh", "triangular_solve"))

PER_SECOND = 1_000_000
"""Products of balls in a second of processor time, at the fewest bits."""


class Checker:
    """One check: holds the traced reference and rule, and evaluates them on probes.

    Args:
        seconds: of processor time for the whole check.
    """

    def __init__(
        self,
        problem: Problem,
        rtol: float | int | None = None,
        atol: float | int | None = None,
        seconds: float = SECONDS,
    ):
        self.problem, self.rtol, self.atol = problem, rtol, atol
        self.seconds, self.deadline, self.cheap = seconds, time.process_time() + seconds, CHEAP
        self.balls: dict[Any, Balls] = {}
        self.runners: dict[Any, tuple[Runner, Runner]] = {}
        self.batched: Runner | None = None
        self.by_differences, self.of_the_limit, self.seconds_on_balls = False, False, 0.0
        self.forward: Runner | None = None
        self.iterated: Runner | None = None
        self.exact = True
        self.given_dtypes = [jnp.result_type(x) if is_float(x) else None for x in (*problem.primals, *problem.seeds)]
        floats = [d for d in self.given_dtypes if d is not None]
        self.dtype = max(floats, key=lambda d: jnp.finfo(d).eps)
        self.reference, self.rule = self.traced_in(None)

    def trace_reference(self, probe: Probe) -> str:
        """Trace in float64, or in the given dtypes where the forward insists on them; how, if not by reverse mode.

        Raises:
            ValueError: the forward cannot be differentiated, or looks at the values of its arguments.
        """
        problem = self.problem
        ways = (
            (problem.reference, ""),
            (problem.by_columns, "the forward has no reverse mode: the reference is forward mode, column by column"),
            (problem.by_differences, "the forward has no derivative in JAX: the reference is differences of it"),
        )
        errors = []
        for reference, how in ways:
            if reference is None:
                continue
            if how:
                self.by_differences = reference is problem.by_differences
                self.problem = dataclasses.replace(problem, reference=reference)
                self.runners, self.exact = {}, True
                self.reference, self.rule = self.traced_in(None)
            if (error := self._cannot_trace(probe)) is None:
                break
            if isinstance(error, TooManyColumns):
                raise error
            errors.append(error)
        else:
            raise ValueError(
                f"verify: autodiff cannot differentiate the forward, so there is nothing to compare with: "
                f"{in_one_line(errors[0])}"
            ) from errors[0]
        first = self.reference.program(probe.primals, probe.seeds)
        if first is None:
            raise ValueError("verify: the forward looks at the values of its arguments, so autodiff cannot trace it.")
        self._require_pure(first, probe)
        return how

    def _cannot_trace(self, probe: Probe) -> Exception | None:
        """What the reference raises in float64 and, after that, in the given dtypes.

        A forward that draws random numbers insists on its dtypes: in float64 it would draw others.
        """

        def attempt() -> bool:
            program = self.reference.program(probe.primals, probe.seeds)
            if program is not None and opaque(program):  # what cannot be read may insist on its dtype as well
                _jaxpr.run(program, probe.inputs)
            return program is not None and draws(program)

        try:
            if attempt() and self.exact:
                self.use_given_dtypes()
                attempt()
        except Exception:
            self.use_given_dtypes()
            try:
                attempt()
            except Exception as error:
                return error
        return None

    def _require_pure(self, first: _jaxpr.Program, probe: Probe) -> None:
        """Trace the reference once more.

        Raises:
            ValueError: the second trace computes something else.
        """
        again = self.reference.afresh().program(probe.primals, probe.seeds)
        if again is None or first.fingerprint == again.fingerprint:
            return
        inputs = probe.inputs
        count = len(self.problem.leaves)
        before, after = (_jaxpr.run(program, inputs)[count:] for program in (first, again))
        differs = [k for k, (a, b) in enumerate(zip(before, after)) if not np.array_equal(a, b, equal_nan=True)]
        if differs:
            a, b = np.asarray(before[differs[0]]), np.asarray(after[differs[0]])
            shown = f"output {differs[0]} has shape {a.shape}, then {b.shape}"
            if a.shape == b.shape:
                at = np.unravel_index(int(np.argmax(np.nan_to_num(np.abs(a - b), nan=np.inf))), a.shape)
                index = "".join(f"[{int(i)}]" for i in at)
                shown = f"output{index} is {a[at]:.6g}, then {b[at]:.6g}" if a.size else shown
            raise ValueError(
                f"verify: two calls of the forward with the same arguments differ: {shown}. It has side effects, or "
                f"draws random numbers outside of its arguments; pass state and random keys as arguments."
            )

    def use_given_dtypes(self) -> None:
        self.exact = False
        self.reference, self.rule = self.traced_in(self.given_dtypes)

    def traced_in(self, dtypes: Sequence[Any] | None) -> tuple[Runner, Runner]:
        """Reference and rule, traced in these dtypes of primals and seeds; float64 if None."""
        key = dtypes and tuple(map(str, dtypes))
        if key not in self.runners:
            problem = self.problem
            native = dtypes == self.given_dtypes
            rule = Runner(lambda primals, seeds: call_rule(problem, primals, seeds), dtypes, native)
            self.runners[key] = Runner(problem.reference, dtypes, native), rule
        return self.runners[key]

    def without_value(self) -> Counter[str]:
        """Primitives of reference and rule that `_jaxpr` leaves to JAX unasked, and the most equations of each."""
        programs = [p for pair in self.runners.values() for runner in pair for p in runner.programs.values() if p]
        return functools.reduce(operator.or_, map(without_value, programs), Counter())

    # --- the reference ---

    def truth(
        self,
        program: _jaxpr.Program,
        inputs: Sequence[Any],
        eps: float,
        factors: tuple[float, float],
        *,
        narrow: bool = False,
        rounded: bool = False,
    ) -> Truth:
        """True gradients at one point, and how far from them a right rule may be.

        Args:
            eps: relative precision that every equation rounds to.
            factors: how many times the bound of an element, and of its leaf's largest element, is allowed.
            narrow: an equation traced in a narrower dtype rounds to that one's precision.
            rounded: evaluate with rounding too.
        """
        large = sum(x.nbytes for x in inputs if isinstance(x, np.ndarray)) > Memory.LARGEST
        mark = None if large else program.fingerprint
        key = mark and (mark, _jaxpr.digest_of(inputs), eps, factors, narrow, rounded, self.rtol, self.atol)
        if key and (known := memory.get(key)) is not None:
            return known
        values = _jaxpr.evaluate(program, inputs)
        count = len(self.problem.leaves)
        outs = [np.asarray(values[i]) for i in program.outputs]
        expected = [np.array(out) for out in outs[:count]]
        tolerance = self._tolerance(program, values, expected, eps, factors, narrow)
        approximate = None
        if rounded:
            approximate = [np.asarray(out) for out in _jaxpr.run(program, inputs, rounded=True)][:count]
        truth = Truth(expected, tolerance, approximate, all(np.all(np.isfinite(v)) for v in outs[count:]))
        if key:
            memory.put(key, truth)
        return truth

    def _tolerance(self, program, values, expected, eps, factors, narrow) -> Arrays:
        if self.rtol is not None or self.atol is not None:
            return [(self.atol or 0.0) + (self.rtol or 0.0) * np.abs(e) for e in expected]
        if self.by_differences:
            others = [np.asarray(values[i]) for i in program.outputs[-len(expected) :]]
            return [30 * np.abs(e - o) + 1e-10 * np.max(np.abs(e), initial=0.0) for e, o in zip(expected, others)]
        return self._bounded(program, values, expected, eps, factors, narrow)

    def _bounded(self, program, values, expected, eps, factors, narrow) -> Arrays:
        bounds = error_bounds(program, values, eps, narrow)
        tolerances = []
        for number, e in zip(program.outputs, expected):
            bound = np.broadcast_to(np.abs(bounds[number]), np.shape(e))
            finite = np.isfinite(bound)
            largest = np.max(np.where(finite, bound, 0.0), initial=0.0)
            size = np.max(np.abs(np.where(np.isfinite(e), e, 0.0)), initial=0.0)
            fallback = 1e10 * eps * size + largest
            tolerances.append(factors[0] * np.where(finite, bound, fallback) + factors[1] * largest)
        return tolerances

    def expect(self, probe: Probe) -> tuple[_jaxpr.Program, Truth]:
        """The traced reference, and what it says on a probe."""
        program = self.reference.program(probe.primals, probe.seeds)
        assert program is not None
        eps = 2.0**-53 if self.exact else float(jnp.finfo(self.dtype).eps)
        factors = SLACK_IN_FLOAT64 if self.exact else SLACK_IN_ARGUMENT_DTYPE
        inputs = probe.inputs
        return program, self.truth(program, inputs, eps, factors, narrow=not self.exact)

    # --- the rule ---

    def run_rule(self, probe: Probe) -> Arrays:
        """What the rule gives in float64, None for zeros; falls back to the given dtype where it insists on that.

        Raises:
            RuleError: it does not run at these values, as a solver in it may break down.
        """
        try:
            return self.rule(probe.primals, probe.seeds)
        except (RuleError, RuntimeError) as error:
            refuses = isinstance(error, RuleError) or probe.of_user  # else it is these values that it cannot take
            if refuses and self.exact and self.dtype != np.float64:
                in_float64 = self.reference, self.rule
                self.use_given_dtypes()
                try:
                    return self.run_rule(probe)
                except RuleError:  # it is the sizes, or the values, that it refuses
                    self.exact, (self.reference, self.rule) = True, in_float64
                    raise
            if isinstance(error, RuleError):
                raise
            raise RuleError(f"the rule raised {in_one_line(error)}", "make the rule run") from error

    def case(self, probe: Probe) -> Case | None:
        """Reference and rule on one probe; None outside of the forward's domain.

        There the forward is not finite, or float positions of a drawn probe lead out of the array that they point into,
        or repeated ones set a place to two numbers at once, or a promise of the call is broken (`left_open`), or an
        iteration is far from the limit of which the rule gives the gradient.
        """
        actual = self.run_rule(probe)
        program, truth = self.expect(probe)
        if not truth.finite and probe.name != "as given":
            return None
        expected, tolerance = list(truth.expected), list(truth.tolerance)  # which are kept for other rules
        actual = comparable(actual, expected)
        if self.dtype != np.float64:
            # What forward and rule close over NumPy may have rounded, to float32 at best: an error below one rounding
            # of the value itself is then no mistake of the formula.
            tolerance = [t + 2 * float(np.finfo(np.float32).eps) * np.abs(e) for t, e in zip(tolerance, expected)]
        case = Case(probe, program, expected, actual, tolerance).compare()
        if self.rtol is None and self.atol is None:
            self._decide(case)
        if self.problem.independent:
            self._hold_against_differences(case)
        if probe.name == "as given" or not any(np.any(mask) for mask in case.wrong):
            return case
        return None if case.far or left_open(program, case.values) else case

    # --- who decides ---

    def _decide(self, case: Case) -> None:
        """Ask enclosures where they are cheap, and wherever the screen convicts or is not sharp; else what is measured.

        What is in the end neither proved, nor seen at a sharp tolerance, is undecided.
        """
        rule = self.rule.program(case.probe.primals, case.probe.seeds)
        convicts = lambda: any(np.any(mask) for mask in case.wrong)
        limit = COARSE if self.by_differences else SHARP
        sharp = case.sharp(limit)
        needed = convicts() or not all(np.all(mask) for mask in sharp)
        if rule is not None and not self.by_differences:
            self._enclose(case, rule, needed)
        if not needed and case.enclosure is None:
            return
        decided = [np.zeros(np.shape(e), bool) for e in case.expected]
        if case.enclosure is not None:
            decided = [leaf.decided for leaf in case.enclosure.leaves]
        if any(np.any(wrong & ~known) for wrong, known in zip(case.wrong, decided)) and rule is not None and self.exact:
            self._allow(case, self._tolerance_of_rule(case, rule), decided)
        unread = rule is None or opaque(rule) or opaque(case.program) or not self.exact
        own = max(float(jnp.finfo(jnp.float32).eps), 0 if self.exact else self.eps) if unread else 0.0
        if any(np.any(wrong & ~known) for wrong, known in zip(case.wrong, decided)):
            coarse = max(own, self.coarseness(case.probe, case.program))
            if coarse > 1e-15:
                limit = max(COARSE, 8 * coarse)
                self._allow(case, measured(case, coarse), decided)
                case.measured = coarse
        elif own and not all(map(np.all, decided)):
            limit, case.measured = max(COARSE, 8 * own), own
        sharp = case.sharp(limit)
        case.undecided = [
            np.asarray(~known & ~clear & ~wrong & np.isfinite(e))
            for known, clear, wrong, e in zip(decided, sharp, case.wrong, case.expected)
        ]
        if rule is not None and self.exact and any(map(np.any, case.undecided)) and not self.short_of_time(0.1):
            decide_by_estimate(self, case, rule)

    def apart(self, case: Case) -> float:
        """How far the rule is proved to be from the reference, of the size of the terms, though it counts as equal.

        The rounding of constants is no difference; 0 where none is proved.
        """
        key = self.rule.signature(case.probe.primals, case.probe.seeds), self.exact
        if case.enclosure is None or case.enclosure.reason or key not in self.balls:
            return 0.0
        left = self.deadline - time.process_time()
        return self.balls[key].apart(case.probe.inputs, case.sizes, left / 8)

    def eliminates(self, probe: Probe) -> bool:
        """Whether reference or rule takes matrices apart."""
        programs = [self.reference.program(probe.primals, probe.seeds)]
        with contextlib.suppress(RuleError):  # which is told where the rule is called
            programs.append(self.rule.program(probe.primals, probe.seeds))
        return any(program is not None and not ELIMINATIONS.isdisjoint(names(program)) for program in programs)

    def short_of_time(self, share: float) -> bool:
        """Whether less than this share of the time for the check is left."""
        return self.deadline - time.process_time() < share * self.seconds

    def _hold_against_differences(self, case: Case) -> None:
        """Where the forward has a slope of its own that autodiff of it misses, that slope is what is expected."""
        slopes = derivatives(self, case.probe, others=1) or ()
        missed = [np.isfinite(slope) & (self._off(case, i, slope) | case.wrong[i]) for i, slope in enumerate(slopes)]
        if any(map(np.any, missed)) and self.problem.leaf_primal is None:
            slopes = derivatives(self, case.probe) or ()
        for i, slope in enumerate(slopes):
            e, known = case.expected[i], np.isfinite(slope)
            case.smooth[i] = known
            off = known & self._off(case, i, slope)
            if np.any(off):
                case.expected[i] = np.where(off, slope, e)
                with np.errstate(all="ignore"):
                    near = np.abs(case.actual[i] - slope) <= case.tolerance[i] + 1e-9 * np.max(np.abs(slope[known]))
                case.wrong[i] = np.where(off, ~near, case.wrong[i])
                case.undecided[i] = case.undecided[i] & ~off
                case.undefined[i] = case.undefined[i] & ~off

    @staticmethod
    def _off(case: Case, i: int, slope: np.ndarray) -> np.ndarray:
        """Where autodiff is not the slope."""
        return ~(np.abs(slope - case.expected[i]) <= case.tolerance[i] + 1e-9 * np.abs(slope))

    @property
    def eps(self) -> float:
        """Relative precision of the arguments' coarsest dtype."""
        return float(jnp.finfo(self.dtype).eps)

    def _enclose(self, case: Case, rule: _jaxpr.Program, needed: bool) -> None:
        probe = case.probe
        key = self.rule.signature(probe.primals, probe.seeds), self.exact
        if key not in self.balls:
            self.balls[key] = Balls(case.program, rule, self.rule.absent[key[0]])
        balls = self.balls[key]
        if not needed and balls.operations > self.cheap:
            return
        left = self.deadline - time.process_time()
        if balls.operations > PER_SECOND * left / 4:
            case.reason = f"about {balls.operations:.0e} operations on balls take more than the time for this check"
            return
        self.cheap -= 0 if needed else balls.operations
        # Half precision holds a percent: there the float64 reading of the same program decides.
        eps = min(self.eps, float(jnp.finfo(jnp.float32).eps))
        asked = [np.asarray(np.isfinite(e) & np.isfinite(a)) for e, a in zip(case.expected, case.actual)]
        bits = MOST_BITS if needed else FEWEST_BITS
        began = time.process_time()
        own = lambda: self._sizes_of_rule(case, rule)
        enclosure = balls.enclose(probe.inputs, asked, case.sizes, eps, left / 4, bits, own)
        self.seconds_on_balls += time.process_time() - began
        case.reason = enclosure.reason
        case.decide_by(self._within_the_miss(case, enclosure))

    def _sizes_of_rule(self, case: Case, rule: _jaxpr.Program) -> Arrays:
        sizes = magnitudes(rule, _jaxpr.evaluate(rule, case.probe.inputs), len(rule.outputs))
        own = self.rule.placed(case.probe.primals, case.probe.seeds, sizes)
        none = [s is None or np.shape(s) != np.shape(e) for s, e in zip(own, case.expected)]
        return [np.zeros(np.shape(e)) if is_none else s for is_none, s, e in zip(none, own, case.expected)]

    def _within_the_miss(self, case: Case, enclosure: Enclosure) -> Enclosure:
        """Excuse what is proved different, but by no more than the forward's own iteration misses its limit by.

        A rule of the limit, as one by the implicit function theorem is, cannot agree better with unrolled steps. Far
        from the limit nothing is excused; there a rule that was seen to be one of the limit has nothing to agree with.
        """
        leaves = list(enclosure.leaves)
        few = [bool(np.all(d.upper[d.proved] <= COARSE * np.max(s))) for d, s in zip(leaves, case.sizes) if s.size]
        if not any(np.any(leaf.proved) for leaf in leaves) or self.problem.by_columns is None:
            return enclosure
        if not all(few) and not self.of_the_limit:
            return enclosure
        if self.iterated is None:
            dtypes, native = self.reference.dtypes, self.reference.native
            self.iterated = Runner(self.problem.by_columns, dtypes, native, unrolled=False)
        try:
            program = self.iterated.program(case.probe.primals, case.probe.seeds)
        except Exception:  # no forward mode
            return enclosure
        if program is None or not names(program) & {"scan", "while"}:
            return enclosure
        steps = [_jaxpr.run_longer(program, case.probe.inputs, more) for more in range(3)]
        for i, (leaf, size) in enumerate(zip(leaves, case.sizes)):
            first, second = (np.max(np.abs(b[i] - a[i]), initial=0.0) for a, b in itertools.pairwise(steps))
            rate = min(second / first, 0.99) if first else 0.0  # of a geometric series whose sum is the miss
            most = 10 * first / (1 - rate)
            if not most <= COARSE * np.max(size, initial=0.0):
                case.far = self.of_the_limit
            elif all(few):
                leaves[i] = leaf.excused_up_to(most, size)
                self.of_the_limit |= leaves[i] is not leaf
        return dataclasses.replace(enclosure, leaves=tuple(leaves))

    def _allow(self, case: Case, tolerance: Arrays, decided: list[np.ndarray]) -> None:
        """Judge what enclosures have not decided by a larger tolerance."""
        for i, (more, known) in enumerate(zip(tolerance, decided)):
            with np.errstate(all="ignore"):
                case.tolerance[i] = np.where(known, case.tolerance[i], np.fmax(case.tolerance[i], more))
                inside = np.abs(case.actual[i] - case.expected[i]) <= case.tolerance[i]
            case.wrong[i] = case.wrong[i] & ~(inside & ~known)

    def _tolerance_of_rule(self, case: Case, rule: _jaxpr.Program) -> Arrays:
        """What the rule's own rounding in float64 explains, beside that of the reference."""
        values = _jaxpr.evaluate(rule, case.probe.inputs)
        outs = iter(self._bounded(rule, values, [values[i] for i in rule.outputs], 2.0**-53, SLACK_IN_FLOAT64, False))
        absent = self.rule.absent[self.rule.signature(case.probe.primals, case.probe.seeds)]
        own = [np.zeros(np.shape(e)) if gone else next(outs) for e, gone in zip(case.expected, absent)]
        return [t + o if np.shape(o) == np.shape(t) else t for t, o in zip(case.tolerance, own)]

    def coarseness(self, probe: Probe, program: _jaxpr.Program) -> float:
        """Relative precision of the NumPy arrays that forward and rule close over; they stay in the dtype they have."""
        mine = coarsest_constant(program)
        rule = self.rule.program(probe.primals, probe.seeds)
        return max(mine, coarsest_constant(rule) if rule is not None else 0.0)

"""What the checker says about each planted mistake, and in how many cases it is right.

For every rule of `rules.RULES` and for every derivation handed in, each mutation of `mutations` is applied in turn. A
mutant whose values equal those of the right rule is no mistake and is left out. The table counts by planted mistake:
how often it was detected, whether exactly the wrong gradients were found, and how it was named.
"""

import time
import warnings
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxbias.selfcheck.planted.mutations import ACCEPTED, Mutant, Source, output_mutants, source_mutants
from jaxbias.selfcheck.planted.rules import RULES, Rule
from jaxbias.verify.entrances import vjp
from jaxbias.verify.naming.constants import name_constant
from jaxbias.verify.probes import generic
from jaxbias.verify.problem import Runner
from jaxbias.verify.report import Report


@dataclass
class Outcome:
    """What the checker said about one mutant.

    Attributes:
        localised: exactly the wrong gradients were found; None where a rule gives no comparable gradients.
        named: the kind is an accepted name of the planted mistake.
        misnamed: a confident kind that is no accepted name.
        placed: a line that is called wrong is that of the planted mistake, or the rule is right with what is to be
            written there, and there alone; None where no lines are listed, or the mistake is none of a line.
        on_balls: processor time of its enclosures in seconds; None where none was computed.
    """

    rule: str
    planted: str
    where: str
    detected: bool
    localised: bool | None
    named: bool
    misnamed: bool
    placed: bool | None
    kinds: tuple[str, ...]
    seconds: float
    crashed: str = ""
    on_balls: float | None = None


def _values(rule: Callable[..., Any], args: tuple[Any, ...], cotangent: Any) -> list[Any] | None:
    """Gradients in float64 as NumPy arrays; None where the rule raises."""
    seeds, tree = jax.tree.flatten(cotangent)
    runner = Runner(lambda primals, seeds: list(rule(tuple(primals), tree.unflatten(seeds))))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            outs = runner([np.asarray(x) for x in args], [np.asarray(s) for s in seeds])
            return [None if g is None else np.asarray(g, np.float64) for g in outs]
        except Exception:
            return None


def _points(rule: Rule, count: int = 3) -> list[tuple[tuple[Any, ...], Any]]:
    """Random arguments and cotangents in float64; the last ones with exact zeros among the arguments."""
    points = []
    with jax.enable_x64(True):
        for seed in range(count):
            key = jax.random.key(100 + seed)
            args = [np.asarray(x, np.float64) if x.dtype.kind == "f" else x for x in map(np.asarray, rule.draw(key))]
            rng = np.random.default_rng(seed)
            if seed == count - 1:
                args = [np.where(rng.uniform(size=x.shape) < 0.3, 0, x) if generic(x) else x for x in args]
            arrays = tuple(jnp.asarray(x) for x in args)
            shapes = jax.eval_shape(rule.forward, *arrays)
            cotangent = jax.tree.map(lambda s: jnp.asarray(rng.standard_normal(s.shape)), shapes)  # noqa: B023
            points.append((arrays, cotangent))
    return points


def wrong_gradients(rule: Rule, mutant: Mutant, points: Any) -> set[int] | None:
    """Which gradients the mutant has wrong, by comparison with the right rule; None where there is nothing to compare.

    An empty set means that the mutant is no mistake.
    """
    wrong: set[int] = set()
    for args, cotangent in points[:1]:
        if _values(mutant.rule, args, cotangent) is None and mutant.planted != "wrong-structure":
            return set()  # it does not even run
    for args, cotangent in points:
        right, got = _values(rule.rule, args, cotangent), _values(mutant.rule, args, cotangent)
        if right is None:
            continue
        if got is None or len(got) != len(right):
            return None
        for i, (r, g) in enumerate(zip(right, got)):
            if r is None or not np.all(np.isfinite(r)):
                continue
            if g is None or g.shape != r.shape or not _near(g, r):
                wrong.add(i)
    return wrong


def equivalent(rule: Rule, mutant: Mutant, points: Any) -> set[str]:
    """Kinds that describe the values of a mutant exactly, whatever was planted: factor, sign, exchange, zeros only.

    Whether a rule forgets one of two equal terms or halves their sum, its values do not say.
    """
    kinds: set[str] | None = None
    if not _all_floats(mutant, *points[0]):
        return {"wrong-structure"}
    if wrong_gradients(rule, mutant, points[:-1]) == set():
        return {"edge-point"}  # wrong only where arguments are exactly zero
    for args, cotangent in points:
        right, got = _values(rule.rule, args, cotangent), _values(mutant.rule, args, cotangent)
        if right is None or got is None:
            return set()
        if len(got) != len(right):
            return {"wrong-structure"}
        here: set[str] | None = None
        for i, (r, g) in enumerate(zip(right, got)):
            if r is not None and g is not None and g.shape != r.shape:
                return {"wrong-shape"}
            if r is None or g is None or not np.any(r) or _near(g, r):
                continue
            size = float(np.sum(r * r))
            c = float(np.sum(r * g)) / size
            described = set()
            if np.isfinite(c) and _near(g, c * r):
                named = name_constant([c], [[("x", np.shape(x)) for x in args]])
                described = (
                    {"detached"} if abs(c) < 1e-9 else {"scale-constant", named.kind if named else "scale-constant"}
                )
                described |= {"double-count"} if abs(c - 2) < 1e-9 else set()
            if _near(np.abs(g), np.abs(r)):
                described.add("sign")
            others = [right[j] for j in range(len(right)) if j != i]
            if any(o is not None and o.shape == g.shape and _near(g, o) for o in others):
                described.add("swapped-outputs")
            here = described if here is None else here & described
        if here is not None:
            kinds = here if kinds is None else kinds & here
    return kinds or set()


def _all_floats(mutant: Mutant, args: tuple[Any, ...], cotangent: Any) -> bool:
    """Are all gradients floats? An operand of integers may have made them integers."""
    with jax.enable_x64(True):
        try:
            outs = jax.eval_shape(lambda args, cotangent: mutant.rule(args, cotangent), args, cotangent)
        except Exception:
            return True
    return all(out is None or jnp.issubdtype(out.dtype, jnp.floating) for out in outs)


def _near(a: Any, b: Any) -> bool:
    with np.errstate(invalid="ignore"):
        return bool(np.all(np.abs(a - b) <= 1e-9 * (1e-3 + np.max(np.abs(b), initial=0.0))))


def mutants(rule: Rule, limit: int = 6) -> Iterable[Mutant]:
    """Every mutant of a rule."""
    yield from output_mutants(rule, tuple(rule.draw(jax.random.key(0))))
    yield from source_mutants(rule, limit)


HIDDEN = ("nondeterministic", "stale-value", "dtype-precision", "wrong-structure")
"""Mistakes that do not show in a comparison of values in float64."""


def judge(rule: Rule, mutant: Mutant, points: Any) -> Outcome | None:
    """Run the checker on one mutant; None where the mutant is no mistake."""
    hidden = mutant.planted in HIDDEN
    wrong = None if hidden else wrong_gradients(rule, mutant, points)
    if wrong == set():
        return None
    args = tuple(rule.draw(jax.random.key(0)))
    start = time.perf_counter()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            report = vjp(rule.forward, mutant.rule, args)
    except Exception as error:
        return Outcome(
            rule.name,
            mutant.planted,
            mutant.where,
            False,
            None,
            False,
            False,
            None,
            (),
            0.0,
            f"{type(error).__name__}: {error}",
        )
    seconds = time.perf_counter() - start
    kinds = tuple(dict.fromkeys(d.kind for d in report.diagnoses))
    paths = list(report.leaves)
    floats = [i for i, x in enumerate(args) if jnp.issubdtype(x.dtype, jnp.floating)]
    blamed = {floats[paths.index(p)] for p, leaf in report.leaves.items() if not leaf.ok}
    localised = None if wrong is None else blamed == wrong
    said = {k for d in report.diagnoses for k in (d.kind, *d.also)}
    confident = set(kinds) - {"unexplained"}
    accepted = ACCEPTED[mutant.planted] | (set() if hidden else equivalent(rule, mutant, points))
    named = bool(said & accepted)
    # What is lost in a dtype is no fault of the formula: it is a remark, and the verdict is on the formula.
    noted = mutant.planted in {d.kind for d in report.remarks}
    return Outcome(
        rule.name,
        mutant.planted,
        mutant.where,
        report.verdict == "wrong" or noted,
        None if wrong is None else bool(localised and not report.ok),
        noted or (named and not report.ok),
        bool(confident) and not named,
        _placed(rule, mutant, report, points),
        kinds,
        seconds,
        on_balls=report.certificate.get("seconds"),
    )


def _placed(rule: Rule, mutant: Mutant, report: Report, points: Any) -> bool | None:
    """See `Outcome.placed`."""
    source = mutant.source
    if source is None or not report.lines:
        return None
    blamed = {line.number for line in report.lines if line.status == "wrong" and line.file == source.file}
    if blamed & source.planted:
        return True
    patches = {diagnosis.patch for diagnosis in report.diagnoses if diagnosis.patch}
    return any(_mends(rule, source, number, patch, points) for number in blamed for patch in patches)


def _mends(rule: Rule, source: Source, number: int, patch: str, points: Any) -> bool:
    """Is the rule right with this statement, where nothing else is changed?"""
    try:
        mended = Mutant("", "", source.with_statement(number, patch))
    except SyntaxError:
        return False
    runs = _values(mended.rule, *points[0]) is not None
    return runs and wrong_gradients(rule, mended, points) == set()


def run(
    rules: Iterable[Rule] | None = None, limit: int = 6, pick: Callable[[int], bool] = lambda k: True
) -> list[Outcome]:
    """Outcomes of every mutant of the rules, or of those whose number `pick` accepts.

    Runs under JAX's own configuration (float32, standard promotion), whatever the user's is.
    """
    outcomes, k = [], 0
    with jax.enable_x64(False), jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        for rule in RULES.values() if rules is None else rules:
            points = _points(rule)
            for mutant in mutants(rule, limit):
                k += 1
                if pick(k) and (outcome := judge(rule, mutant, points)) is not None:
                    outcomes.append(outcome)
    return outcomes


@dataclass
class Scores:
    """Shares over all mutants."""

    count: int
    detected: float
    localised: float
    named: float
    misnamed: float
    line: float


def summarise(outcomes: list[Outcome]) -> Scores:
    """Shares of detected, exactly localised, named, confidently misnamed and placed mutants."""
    compared = [o for o in outcomes if o.localised is not None]
    listed = [o for o in outcomes if o.placed is not None]
    share = lambda rows, f: sum(map(f, rows)) / max(len(rows), 1)
    return Scores(
        len(outcomes),
        share(outcomes, lambda o: o.detected),
        share(compared, lambda o: bool(o.localised)),
        share(outcomes, lambda o: o.named),
        share(outcomes, lambda o: o.misnamed),
        share(listed, lambda o: bool(o.placed)),
    )


def table(outcomes: list[Outcome]) -> str:
    """The figures by planted mistake, and over all."""
    columns = ("detected", "localised", "named", "misnamed", "line")
    heads = ("detected", "leaves", *columns[2:])
    lines = [f"{'planted':32}{'mutants':>8}" + "".join(f"{head:>10}" for head in heads)]
    groups = sorted({o.planted for o in outcomes})
    for planted in [*groups, ""]:
        s = summarise([o for o in outcomes if not planted or o.planted == planted])
        shares = "".join(f"{getattr(s, column):10.1%}" for column in columns)
        lines.append(f"{planted or 'all':32}{s.count:8}{shares}")
    on_balls = [o.on_balls for o in outcomes if o.on_balls is not None]
    lines.append(f"enclosures were computed in {len(on_balls)} of {len(outcomes)} checks, in {sum(on_balls):.1f} s")
    return "\n".join(lines)


def good_enough(summary: Scores) -> bool:
    """What is required: detected ≥ 99 %, leaves exactly right ≥ 97 %, named ≥ 85 %, confidently misnamed ≤ 1 %."""
    return summary.detected >= 0.99 and summary.localised >= 0.97 and summary.named >= 0.85 and summary.misnamed <= 0.01

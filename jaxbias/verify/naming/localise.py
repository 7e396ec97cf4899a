"""A rule line by line: what each line is, the first wrong one, and what that must be."""

import contextlib
import itertools
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence, Set
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from jaxbias import _jaxpr
from jaxbias._jaxpr.queries import depends_on
from jaxbias._jaxpr.sources import Segment, at_line, inside
from jaxbias._trees import in_one_line
from jaxbias.symbols.names import Name, targets
from jaxbias.symbols.reference_values import ReferenceValue, gradient_by, reference_values
from jaxbias.verify.case import UNUSUAL, away_from_kinks
from jaxbias.verify.naming.alignment import OF_LEAF, Alignment, same, varies
from jaxbias.verify.naming.at_variable import at_variable
from jaxbias.verify.naming.code import names_in, value_of
from jaxbias.verify.naming.conditions import other_sizes
from jaxbias.verify.naming.constants import Shapes
from jaxbias.verify.naming.difference import Relation
from jaxbias.verify.naming.in_64_bits import in_64_bits
from jaxbias.verify.naming.mending import Mender, statement_with
from jaxbias.verify.naming.overwritten import overwritten
from jaxbias.verify.naming.pieces import numbers_in
from jaxbias.verify.naming.relations import relation
from jaxbias.verify.naming.returned import handed_on, with_returns
from jaxbias.verify.naming.rewrite import with_copies
from jaxbias.verify.naming.slips import Slip, find_slips
from jaxbias.verify.naming.trying import Fit
from jaxbias.verify.naming.whole import of_whole_gradients
from jaxbias.verify.problem import exact_context
from jaxbias.verify.report import Line, LineStatus

if TYPE_CHECKING:
    from jaxbias.verify.checker import Case, Checker

LEAST_TIME = 0.15
"""Of the time for a check, that a listing is worth beginning with: the gradient by every value of the forward is one
piece of work.
"""

MOST_PROBES = 3

MOST_EQUATIONS = 3000
"""Of a rule; a longer one is not listed."""

SHARE = 0.5
"""Of the time that is left for a check, what finding the lines may take."""


@dataclass(frozen=True)
class Located:
    """A slip in the user's code.

    Attributes:
        leaves: positions of the gradients that it makes wrong.
        line: "file.py:12: code".
        wanted: what the value must be, in a name; empty if it has none.
        relation: how it differs from that; None if no words were found.
        code: the piece of the line that is wrong.
        patch: the statement with which the rule is right; empty if none is known.
        evidence: on what that was tried.
        source: line of the forward that the wanted value comes from; empty if unknown.
        whole: path of the gradient that it speaks of as a whole; empty where it speaks of a line.
        at: the piece of code, where it is another one than that which computes the wrong value.
    """

    leaves: frozenset[int]
    line: str
    wanted: str
    relation: Relation | None
    code: str
    patch: str = ""
    evidence: str = ""
    source: str = ""
    whole: str = ""
    at: Segment | None = None

    @property
    def sentence(self) -> str:
        return f"The gradient of {self.whole} {self}." if self.whole else f"`{self.code}` {self}."

    @property
    def kind(self) -> str:
        return self.relation.kind if self.relation is not None else "unexplained"

    @property
    def named(self) -> bool:
        return self.kind != "unexplained"

    def __str__(self) -> str:
        inside = self.whole or (self.relation is not None and self.relation.number is not None)
        must = f"must be {self.wanted}" if self.wanted and not inside else ""
        said = dict.fromkeys(filter(None, [must, self.relation.text if self.relation else ""]))
        return ": ".join(said) or "is wrong"


@dataclass(frozen=True)
class Listing:
    """The lines of a rule and its slips; `reason` says why there are none."""

    lines: tuple[Line, ...] = ()
    slips: tuple[Located, ...] = ()
    reason: str = ""


def list_lines(checker: "Checker", cases: Sequence["Case"], wrong: Sequence[int], rng: np.random.Generator) -> Listing:
    """The rule on a few ordinary probes of the given sizes, line by line, and what of its gradients no line explains.

    Args:
        wrong: positions of the gradients that are wrong.
    """
    alike = away_from_kinks(c for c in cases if c.program is cases[0].program)
    usual = [c for c in alike if c.probe.name not in UNUSUAL]
    shown = any(np.any(mask) for case in usual for mask in case.wrong)
    alike = (usual if shown or not wrong else alike) or [cases[0]]
    alike.sort(key=lambda c: -sum(bool(np.any(mask)) for mask in c.wrong))
    checker, chosen = in_64_bits(checker, alike[:MOST_PROBES])
    program, reason = _program(checker, cases[0])
    if checker.short_of_time(LEAST_TIME):
        return Listing(reason=reason)
    started = time.process_time()
    deadline = started + SHARE * max(checker.deadline - started, 0.0)
    values, in_the_way = _values(checker, chosen)
    listing = Listing(reason=reason)
    if program is not None:
        listing = replace(_listing(checker, program, chosen, values, rng, deadline), reason=in_the_way)
        listing = listing if not in_the_way else replace(listing, lines=())
    named = {i for slip in listing.slips if slip.named for i in slip.leaves}
    left = [i for i in wrong if i not in named]
    whole = _whole(checker, chosen, values, left, rng, deadline)
    return replace(listing, slips=(*listing.slips, *(_at_a_slip(slip, listing.slips) for slip in whole)))


def _at_a_slip(whole: Located, slips: Sequence[Located]) -> Located:
    """With the line that its gradient goes wrong at."""
    places = [slip for slip in slips if slip.leaves & whole.leaves]
    return replace(whole, line=places[0].line) if len(places) == 1 else whole


def _program(checker: "Checker", case: "Case") -> tuple[_jaxpr.Program | None, str]:
    """The rule's program; None, and why, where its lines cannot be told."""
    primals, seeds = case.probe.primals, case.probe.seeds
    program = checker.rule.program(primals, seeds)
    reason = ""
    if checker.problem.forward is None:
        reason = "what is checked here has no backward pass of its own"
    elif program is None:
        reason = "the rule cannot be traced: it looks at values, or uses NumPy"
    elif not checker.exact:
        reason = "the rule runs only in the dtype of the arguments"
    elif checker.short_of_time(LEAST_TIME):
        reason = "no time is left for it"
    elif len(program.equations) > MOST_EQUATIONS:
        reason = f"the rule has more than {MOST_EQUATIONS:,} operations"
    if reason:
        return None, reason
    if (copy := with_copies(checker.problem.rule)) is not None:
        with contextlib.suppress(Exception):  # of code that holds on to what it calls; then it is as it was
            program = checker.rule.of(copy).program(primals, seeds)
    return program, ""


def _names(checker: "Checker") -> list[str]:
    """Of arguments and cotangents."""
    problem = checker.problem
    names = [*problem.primal_names, *problem.seed_names]
    if len(problem.seeds) == 1 and problem.cotangent_name.isidentifier():
        names[-1] = problem.cotangent_name
    return names


def _shapes(checker: "Checker", case: "Case") -> Shapes:
    """Of cotangents, then of arguments, by name."""
    shapes = [(name, np.shape(x)) for name, x in zip(_names(checker), case.probe.inputs)]
    count = len(case.probe.primals)
    return [*shapes[count:], *shapes[:count]]


def _values(checker: "Checker", cases: Sequence["Case"]) -> tuple[list[ReferenceValue], str]:
    """What the values of a rule can be: those of the forward, gradients by them, and what comes in and goes out.

    Where JAX cannot take the forward apart so, what comes in and goes out alone, and why.
    """
    forward, first, ends = checker.problem.forward, cases[0].probe, _ends(checker, cases)
    probes, reason = [case.probe.inputs for case in cases], ""
    if forward is None:
        return ends, ""
    for gradients in (True, False):
        try:
            with exact_context():
                return [*reference_values(forward, first.primals, first.seeds, probes, gradients), *ends], reason
        except Exception as error:  # anything that the user's function does
            reason = reason or f"an operation of the forward is in the way: {in_one_line(error)}"
    return ends, reason


def _ends(checker: "Checker", cases: Sequence["Case"]) -> list[ReferenceValue]:
    """Arguments, cotangents and gradients."""
    column = lambda pick: np.stack([np.asarray(pick(case)) for case in cases])
    ends = [
        ReferenceValue(name, column(lambda case, k=k: case.probe.inputs[k]), k >= len(checker.problem.primals), 0)
        for k, name in enumerate(_names(checker))
    ]
    for i, (path, _, _) in enumerate(checker.problem.leaves):
        ends.append(ReferenceValue(gradient_by(path), column(lambda case, i=i: case.expected[i]), True, OF_LEAF))
    return ends


def _listing(
    checker: "Checker",
    program: _jaxpr.Program,
    cases: Sequence["Case"],
    values: Sequence[ReferenceValue],
    rng: np.random.Generator,
    deadline: float | int,
) -> Listing:
    """Lines and slips of a rule that is traced."""
    paths = [path for path, _, _ in checker.problem.leaves]
    alignment, seen = _alignment(checker, program, cases, values)
    slips: list[tuple[Slip, Located]] = []
    lines_of = {value.name: value.line for value in values if value.line}
    mender = Mender(checker, alignment, rng)
    last = _of_another_shape(alignment, paths)
    above = set().union(*(alignment.above.get(i, set()) for i in mender.off))
    for fit, leaves in mender.turned(_code_of(alignment, above)) if mender.off else ():
        slips.append(_turned(alignment, fit, leaves, mender))
    for slip, words in itertools.chain(seen, _slips(checker, alignment, deadline, mender), last):
        located = _located(alignment, slip, words)
        located = replace(located, source=_source(lines_of, slip, words))
        place = [
            k
            for k, (_, other) in enumerate(slips)
            if other.code and (other.line, other.code) == (located.line, located.code)
        ]
        if place:  # the same code in another pass of a loop
            first, other = slips[place[0]]
            slips[place[0]] = first, replace(other, leaves=other.leaves | located.leaves)
            continue
        if mender.made and not slip.later and mender.mends(slip.leaves):  # by what is written for a slip before it
            slips = _also_mended(slips, slip.leaves)
            continue
        above = set().union(*(alignment.above[i] for i in slip.leaves))
        beside = any(its.number in above for its, other in slips if not other.patch)
        located = _mended(alignment, slip, words, located, mender, beside)
        if located.patch:
            located = _at_variable(alignment, slip.leaves - slip.later, located, mender, mender.made[-1])
        else:
            located = _at_return(alignment, slip, located)
        slips.append((slip, located))
    slips = _at_once(alignment, _together(alignment, slips, mender), mender)
    slips = [(slip, _not_linear(alignment, its)) for slip, its in slips]
    if any(located.named and not located.patch for _, located in slips):  # what has a patch is proved by that
        again = _seen_again(checker, mender, deadline) if mender.others else None
        evidence = _evidence("seen", cases, mender.others)
        slips = [
            (slip, located if located.patch else _proved(located, again, evidence, _located(alignment, slip, None)))
            for slip, located in slips
        ]
    return Listing(_lines(alignment, slips, paths), tuple(located for _, located in slips))


def _turned(alignment: Alignment, fit: Fit, leaves: frozenset[int], mender: Mender) -> tuple[Slip, Located]:
    """A loop that has been turned round."""
    i = min(leaves)
    number, wanted = alignment.leaves[i], alignment.expected[i]
    assert number is not None
    return Slip(number, wanted, alignment.gradient(i), "", leaves, {}), _at_change(leaves, fit, mender)


def _at_change(leaves: frozenset[int], fit: Fit, mender: Mender) -> Located:
    """Where a change has been made."""
    patch = statement_with(fit.segment, fit.code)
    return _with(Located(leaves, "", "", None, ""), fit.segment, fit.relation, patch, _tried(mender, leaves))


def _mended(
    alignment: Alignment,
    slip: Slip,
    words: Relation | None,
    located: Located,
    mender: Mender,
    beside: bool,
) -> Located:
    """With what is to be written, in the first way that makes its gradients right; as it is if none does.

    Args:
        beside: is there another slip that makes them wrong, of which it is not known what is to be written?
    """
    scaled = words is not None and words.kind == "scale-constant"  # `/ mask.sum()` says more than a number
    if scaled and (fitted := _fitted(alignment, slip, located, mender)) is not None:
        if fitted.kind == "wrong-operand" and words is not None and not words.by_change:  # how many times says more
            return replace(located, patch=fitted.patch, evidence=fitted.evidence)
        return fitted
    now = slip.leaves - slip.later
    if words is not None and (made := mender(_segments(alignment, _place(slip, words)), words, now)):
        place, patch = made
        located = replace(located, patch=patch, evidence=_tried(mender, now))
        if place != _segment(alignment, _place(slip, words)):  # it is written in a function that the line calls
            located = replace(located, line=_line(place), code=place.text, at=place)
        return located
    if not scaled and (fitted := _fitted(alignment, slip, located, mender)) is not None:
        return fitted
    if words is not None and words.by_change and not beside:
        located = _located(alignment, slip, words.otherwise)
    return _guessed(alignment, slip, located, mender)


def _at_return(alignment: Alignment, slip: Slip, located: Located) -> Located:
    """Of a gradient that is added up statement by statement, a path that is left out: none of those is wrong, so it is
    where the gradient is returned."""
    entry = next((its for its, number in alignment.entries.items() if number == slip.number), None)
    segment = _segment(alignment, slip.number)
    if located.kind != "missing-term" or entry is None or segment is None or slip.number not in alignment.position:
        return located
    scattered = alignment.program.equations[alignment.position[slip.number]].name == "scatter-add"
    if not scattered and names_in(value_of(segment.statement)[0]).isdisjoint(targets(segment)):
        return located
    return replace(located, line=_line(entry), code=entry.text, at=entry)


def _source(lines: Mapping[str, str], slip: Slip, words: Relation | None) -> str:
    """Line of the forward that the words speak of, or else the wanted value's; empty if unknown.

    Args:
        lines: of the values of the forward, by name.
    """
    said = [name for name in lines if words is not None and not name.isidentifier() and name in words.text]
    names = [words.about if words is not None else "", slip.name, *sorted(said, key=len, reverse=True)]
    return next((lines[name] for name in names if name in lines), "")


def _not_linear(alignment: Alignment, located: Located) -> Located:
    """Said to be so, where another value than the cotangent stands in its place."""
    if located.relation is None or located.kind not in ("wrong-operand", "missing-factor", "sign"):
        return located
    probe, program = alignment.cases[0].probe, alignment.program
    now, twice, turned = (
        _jaxpr.evaluate(program, [*probe.primals, *(factor * np.asarray(seed) for seed in probe.seeds)])
        for factor in (1.0, 2.0, -1.0)
    )
    numbers = [n for i in located.leaves if (n := alignment.leaves[i]) is not None]
    pairs = [(np.asarray(now[n]), np.asarray(its[n]) / k) for n in numbers for its, k in ((twice, 2), (turned, -1))]
    if all(same(other[None], x[None]) for x, other in pairs):
        return located
    return replace(located, relation=replace(located.relation, kind="not-linear-in-cotangent"))


def _fitted(alignment: Alignment, slip: Slip, located: Located, mender: Mender) -> Located | None:
    """With the small change of its line that gives what is wanted there, or with a term where it is returned: there the
    rule has computed all that a gradient may lack."""
    fit = mender.fit(slip, _segments(alignment, slip.number), [*_above(alignment, slip)])
    if fit is None:
        entries = [its for its, number in alignment.entries.items() if number == slip.number]
        fit = mender.fit(slip, entries, (), "missing-term")
    if fit is None:
        return None
    return _with(located, *fit, _tried(mender, slip.leaves))


def _with(located: Located, segment: Segment, words: Relation, patch: str, evidence: str) -> Located:
    """With a patch; what is said already of its value stays, if nothing much simpler can be said."""
    said = located.relation if located.named else None
    if said is not None and not said.by_change:  # else of another change, which did not make it right
        # what is lacking says more than how many times it is, and a number than a size that it happens to be
        more = (said.kind == "scale-constant" and words.kind in LACKING) or (said.kind, words.kind) == BY_CHANCE
        of_a_part = located.code != segment.text and said.kind not in (words.kind, "missing-activation-derivative")
        if said.cost <= words.cost + SIMPLER and not (more or of_a_part) and _line(segment) == located.line:
            return replace(located, patch=patch, evidence=evidence)
    return replace(
        located, line=_line(segment), relation=words, code=segment.text, patch=patch, evidence=evidence, at=segment
    )


LACKING = ("missing-factor", "missing-activation-derivative", "batch-mean-vs-sum")

BY_CHANCE = ("batch-mean-vs-sum", "scale-constant")

SIMPLER = 0.25
"""How much less words must cost to take the place of those that tell what a value is beside the right one."""


def _guessed(alignment: Alignment, slip: Slip, located: Located, mender: Mender) -> Located:
    """With the change of its line, or of one that it depends on, that makes the rule right."""
    own = dict.fromkeys(n for k in (_place(slip, located.relation), slip.number) for n in _segments(alignment, k)[:1])
    lines = _lines_of(alignment, slip, own)
    guess = mender.guess(slip, [*lines])
    if guess is None:
        return located
    segment, words, patch = guess
    words = replace(words, number=None if segment in own else lines.get(segment))
    return _with(located, segment, words, patch, _tried(mender, slip.leaves))


def _lines_of(alignment: Alignment, slip: Slip, own: Iterable[Segment]) -> dict[Segment, int]:
    """Pieces of code that a slip may be a mistake in, each with its value: its own, then those that it depends on."""
    lines = dict.fromkeys((*own, *(line for piece in own for line in numbers_in(piece))), slip.number)
    above = {n for i in slip.leaves for n in alignment.above[i]} & alignment.position.keys() - alignment.constant
    for segment, number in [*_above(alignment, slip).items(), *_assigning(alignment, above).items()]:
        lines.setdefault(segment, number)
    if (segment := _segment(alignment, slip.number)) is not None and slip.number in alignment.last_pass:
        lines |= dict.fromkeys(handed_on(segment), slip.number)
    return lines


def _above(alignment: Alignment, slip: Slip) -> dict[Segment, int]:
    """Pieces of code between right values and a slip, the nearest first; those that give a variable its value before
    others, as of a function that the rule calls."""
    unknown = {n for p in alignment.unknown_above(slip.number) for n in alignment.program.equations[p].outputs}
    lines = _assigning(alignment, unknown - {slip.number})
    for number in sorted(unknown, key=lambda n: -alignment.position[n]):
        if number not in alignment.names and (segment := _segment(alignment, number)) is not None:
            lines.setdefault(segment, number)
    return lines


def _assigning(alignment: Alignment, numbers: Iterable[int]) -> dict[Segment, int]:
    """Pieces of code that assign or return these values, but for what the forward computes under the same name."""
    lines: dict[Segment, int] = {}
    for number in sorted(numbers, key=lambda n: -alignment.position[n]):
        name = alignment.names.get(number)
        given = name is not None and (name.variable or number in alignment.leaves)
        if name is not None and given and not _as_in_the_forward(alignment, number):
            lines.setdefault(name.segment, number)
    return lines


def _doubt(alignment: Alignment, number: int) -> float:
    """How much less it costs to change the line of a value: a multiple of a gradient is likelier to be wrong than what
    is none, and that than a gradient."""
    match, name = alignment.matches.get(number), alignment.names.get(number)
    multiple = match is not None and match.value.linear and not match.exact and name is not None and name.variable
    return 0.3 if multiple else -0.5 if alignment.known(number) else 0.0


def _as_in_the_forward(alignment: Alignment, number: int) -> bool:
    """Does a variable hold what the forward calls the same?"""
    match, name = alignment.matches.get(number), alignment.names[number]
    return match is not None and match.itself and match.value.name == name.text


def _together(alignment: Alignment, slips: list[tuple[Slip, Located]], mender: Mender) -> list[tuple[Slip, Located]]:
    """With the changes of several lines that make a gradient right together, in the place of slips without words."""
    slips = _not_mended_yet(slips, mender)
    unexplained = set().union(*(its.leaves for _, its in slips if not (its.patch or its.named)))
    if not all(its.patch for _, its in slips):
        slips = _gone_through(alignment, slips, mender)
    for i in sorted(unexplained - mender.right):
        open_ones = [(slip, its) for slip, its in slips if i in its.leaves and not its.patch]
        if not open_ones:  # it became right with another gradient
            continue
        own = dict.fromkeys(n for slip, _ in open_ones for n in _segments(alignment, slip.number)[:1])
        lines = _lines_of(alignment, replace(open_ones[0][0], leaves=frozenset([i])), own)
        doubts = {segment: _doubt(alignment, number) for segment, number in lines.items()}
        changes = mender.together(open_ones[0][0], [*lines], i, doubts)
        if not changes:
            continue
        also = {j for _, at in slips if not at.patch for j in at.leaves if j in mender.right or mender.mends([j])}
        leaves = frozenset({i} | also)
        made = [_changed(alignment, open_ones, leaves, fit, mender) for fit in changes]
        left = [(its, replace(at, leaves=at.leaves - leaves) if not at.patch else at) for its, at in slips]
        slips = [*((its, at) for its, at in left if at.leaves), *made]
    return [(slip, _written(alignment, slip, at, mender)) for slip, at in slips]


def _also_mended(slips: Sequence[tuple[Slip, Located]], leaves: Set[int]) -> list[tuple[Slip, Located]]:
    """With these gradients among those that the last patch is for."""
    k = max(k for k, (_, its) in enumerate(slips) if its.patch)
    last = slips[k][0], replace(slips[k][1], leaves=slips[k][1].leaves | leaves)
    return [*slips[:k], last, *slips[k + 1 :]]


def _not_mended_yet(slips: list[tuple[Slip, Located]], mender: Mender) -> list[tuple[Slip, Located]]:
    """Without the slips that what is written for one behind them has mended."""
    for slip, its in [*slips]:
        if not its.patch and mender.made and mender.mends(its.leaves):
            slips = _also_mended([other for other in slips if other[0] is not slip], its.leaves)
    return slips


def _gone_through(
    alignment: Alignment, slips: list[tuple[Slip, Located]], mender: Mender
) -> list[tuple[Slip, Located]]:
    """With the mistakes that are found when the rule is gone through line by line, in the place of slips without a
    patch, if all gradients are right without these mistakes."""
    wrong = {i: n for i, n in enumerate(alignment.leaves) if n is not None and i not in mender.right}
    above = {n for i in wrong for n in alignment.above[i]}
    returned = (its for n in wrong.values() for its in _segments(alignment, n)[:1])
    fixed = {n for n in above & alignment.constant if varies(alignment.column(n)[0])}
    pieces = dict.fromkeys((*_code_of(alignment, above - alignment.constant | fixed), *returned))
    of_functions = {piece.function: piece for piece in pieces if piece.function != "<lambda>"}
    handed = (its for piece in of_functions.values() for its in handed_on(piece))
    mistakes = [
        _changed(alignment, slips, leaves, fit, mender)
        for fit, leaves in mender.through([*dict.fromkeys((*pieces, *handed))], [*wrong])
    ]
    return [*((slip, at) for slip, at in slips if at.patch or not mistakes), *mistakes]


def _at_once(alignment: Alignment, slips: list[tuple[Slip, Located]], mender: Mender) -> list[tuple[Slip, Located]]:
    """With one mistake above several patches in their place, if it is all that is wrong."""
    if len(slips) < 2 or not all(at.patch for _, at in slips) or not mender.off:
        return slips
    above = set.intersection(*(alignment.above.get(i, set()) for i in mender.off))
    pieces = _code_of(alignment, above - alignment.constant)
    fit = mender.at_once(pieces) if pieces else None
    return slips if fit is None else [_changed(alignment, slips, frozenset(mender.off), fit, mender)]


def _code_of(alignment: Alignment, numbers: Set[int]) -> list[Segment]:
    """The rule's own pieces of code that compute these values."""
    positions = sorted({alignment.position[n] for n in numbers & alignment.position.keys()})
    pieces = (piece for p in positions for piece in alignment.program.equations[p].segments)
    return [*dict.fromkeys(piece for piece in pieces if piece not in alignment.of_forward)]


def _changed(
    alignment: Alignment, slips: Sequence[tuple[Slip, Located]], leaves: frozenset[int], fit: Fit, mender: Mender
) -> tuple[Slip, Located]:
    """A change that has been made, with the slip in whose place it comes."""
    its = _at_variable(alignment, leaves, _at_change(leaves, fit, mender), mender, (fit.segment, fit.code))
    return next(slip for slip, _ in slips if slip.leaves & leaves), its


def _written(alignment: Alignment, slip: Slip, located: Located, mender: Mender) -> Located:
    """With the patch that it can have since others that are wrong in the same gradients have theirs."""
    if located.patch or located.relation is None or located.leaves <= mender.right:
        return located
    made = mender(_segments(alignment, _place(slip, located.relation)), located.relation, located.leaves)
    if made is None:
        return _fitted(alignment, slip, located, mender) or located
    return replace(located, patch=made[1], evidence=_tried(mender, located.leaves))


def _at_variable(
    alignment: Alignment, leaves: Set[int], located: Located, mender: Mender, change: tuple[Segment, str]
) -> Located:
    """At the line that assigns the variable which its patch changes, if it is as right with the change there."""
    moved = at_variable(alignment, *change)
    patch = mender.instead(change, moved.segment, moved.code, leaves) if moved is not None else ""
    if moved is None or not patch or located.relation is None:
        return located
    words = replace(located.relation, text=moved.words, number=None)
    return replace(
        located,
        line=_line(moved.segment),
        relation=words,
        code=moved.segment.text,
        patch=patch,
        at=moved.segment,
        wanted="",
    )


def _alignment(
    checker: "Checker", program: _jaxpr.Program, cases: Sequence["Case"], values: Sequence[ReferenceValue]
) -> tuple[Alignment, list[tuple[Slip, Relation]]]:
    """The rule aligned, and the slips that are seen without that."""
    first = cases[0].probe
    leaves = checker.rule.placed(first.primals, first.seeds, list(program.outputs))
    align = lambda program, leaves: Alignment(
        program, leaves, cases, values, _names(checker), len(checker.problem.primals)
    )
    return overwritten(align(*with_returns(program, leaves)), align)


PLAIN = 1.4
"""What words cost beside which nothing simpler is looked for."""


def _slips(
    checker: "Checker", alignment: Alignment, deadline: float | int, mender: Mender
) -> Iterator[tuple[Slip, Relation | None]]:
    paths, shapes = [path for path, _, _ in checker.problem.leaves], _shapes(checker, alignment.cases[0])

    def tell(slip: Slip) -> Relation | None:
        said = relation(alignment, slip.number, slip.given, slip.wanted, shapes, deadline)
        named = said is not None and said.kind != "unexplained"
        if said is not None and named and said.cost <= PLAIN:
            return said
        above = _above(alignment, slip)
        fit = mender.look(slip, _segments(alignment, slip.number), [*above])
        if fit is None or (said is not None and named and said.cost <= fit.relation.cost):
            return said
        return replace(fit.relation, number=above.get(fit.segment), otherwise=said)

    yield from find_slips(alignment, paths, tell, deadline)


def _of_another_shape(alignment: Alignment, paths: Sequence[str]) -> Iterator[tuple[Slip, None]]:
    """Gradients that do not have the shape of their argument, where they are computed."""
    for i, number in enumerate(alignment.leaves):
        wanted = alignment.expected[i]
        if number is not None and i not in alignment.right and alignment.gradient(i).shape != wanted.shape:
            yield Slip(number, wanted, wanted, gradient_by(paths[i]), frozenset([i]), {}), None


Place = str | frozenset[int]
"""A line, or the gradients that are right when it is: in a loop, what goes wrong first depends on the values."""


def _seen_again(checker: "Checker", mender: Mender, deadline: float | int) -> set[tuple[Place, str]]:
    """What goes wrong on the cases of other sizes too, with the kind of mistake."""
    cases = mender.others
    program, _ = _program(checker, cases[0]) if cases else (None, "")
    if program is None:
        return set()
    alignment, seen = _alignment(checker, program, cases, _values(checker, cases)[0])
    again = Mender(checker, alignment, mender.rng)
    located = (
        _located(alignment, *slip) for slip in itertools.chain(seen, _slips(checker, alignment, deadline, again))
    )
    return {(place, its.kind) for its in located if its.named for place in (its.line, its.leaves)}


def _proved(located: Located, again: set[tuple[Place, str]] | None, evidence: str, unnamed: Located) -> Located:
    """With its name only where it has that name at other sizes, if there are any."""
    if not located.named:
        return located
    if again is not None and again.isdisjoint((place, located.kind) for place in (located.line, located.leaves)):
        return replace(unnamed, leaves=located.leaves, source=located.source)
    return replace(located, evidence=evidence)


def _evidence(does: str, cases: Sequence["Case"], others: Sequence["Case"]) -> str:
    return f"{does} on {len(cases)} probes, and on {'2 sizes' if others else 'the given sizes'}"


def _tried(mender: Mender, leaves: Set[int]) -> str:
    """On what the last line that is to be written was carried out; empty if no gradient is right with it yet."""
    more = " and those named before it" if len(mender.made) > 1 else ""
    gradients = "this gradient is" if len(leaves) == 1 else "these gradients are"
    does = f"with this line{more} {gradients} right"
    return _evidence(does, mender.alignment.cases, mender.others) if leaves else ""


def _whole(
    checker: "Checker",
    cases: Sequence["Case"],
    values: Sequence[ReferenceValue],
    wrong: Sequence[int],
    rng: np.random.Generator,
    deadline: float | int,
) -> Iterator[Located]:
    """Wrong gradients that no line explains, as far as they are something simple on two sets of sizes."""
    if not wrong:
        return
    tell = lambda cases, values: dict(
        of_whole_gradients(checker, cases, values, wrong, _shapes(checker, cases[0]), deadline)
    )
    said, names = tell(cases, values), {value.name for value in values}
    others = other_sizes(checker, cases, rng) if said else []
    # A rule that holds a size as a number gives nothing there that could agree or differ.
    others = [case for case in others if all(np.all(np.isfinite(case.actual[i])) for i in wrong)]
    again = tell(others, _values(checker, others)[0]) if others else said
    for i, words in said.items():
        if i in again and words.kind == "batch-mean-vs-sum" and again[i].kind == "scale-constant":
            words = again[i]  # a number that happens to be a size
        if i in again and again[i].kind == words.kind != "unexplained":
            path = checker.problem.leaves[i][0]
            wanted = gradient_by(path) if gradient_by(path) in names else ""
            evidence = _evidence("seen", cases, others)
            yield Located(frozenset([i]), "", wanted, words, "", evidence=evidence, whole=path)


def _segment(alignment: Alignment, number: int) -> Segment | None:
    """The innermost piece of code that computes a value."""
    return next(iter(_segments(alignment, number)), None)


def _segments(alignment: Alignment, number: int) -> tuple[Segment, ...]:
    """Pieces of code that compute a value, the innermost first; of what comes in, that take it first."""
    place = alignment.place(number)
    pieces = alignment.program.equations[place].segments if place < len(alignment.program.equations) else ()
    named = (alignment.names[number].segment,) if number in alignment.names else ()
    return tuple(dict.fromkeys(sorted((*pieces, *named), key=alignment.of_forward.__contains__)))


def _place(slip: Slip, words: Relation | None) -> int:
    return slip.number if words is None or words.number is None else words.number


def _located(alignment: Alignment, slip: Slip, words: Relation | None) -> Located:
    segment = _segment(alignment, _place(slip, words))
    place = _line(segment) if segment is not None else ""
    code = segment.text if segment is not None else ""
    if slip.number not in alignment.position:  # what comes in has no code of its own
        code = alignment.text(slip.number)
    return Located(slip.leaves, place, slip.name, words, code)


def _line(segment: Segment) -> str:
    """Of a lambda the piece: the line holds whatever it stands in."""
    statement = segment.text if segment.function == "<lambda>" else segment.statement
    return at_line(segment.file, segment.line, statement)


def _lines(alignment: Alignment, slips: Sequence[tuple[Slip, Located]], paths: Sequence[str]) -> tuple[Line, ...]:
    """Every value that has a variable, and every gradient that is returned; slips where they stand."""
    shown: dict[int, Name] = {
        n: name for n, name in alignment.names.items() if name.variable and n in alignment.position
    }
    returned = {n: i for i, n in enumerate(alignment.leaves) if n is not None and n in alignment.position}
    for number in returned:
        if number not in shown and (segment := _segment(alignment, number)) is not None:
            shown[number] = Name(segment.text, False, segment)
    mistakes: dict[int, list[Located]] = {}
    elsewhere: list[Line] = []
    for slip, located in slips:
        place = _place(slip, located.relation)
        segment = located.at or _segment(alignment, place)
        holders = [n for n, name in shown.items() if segment is not None and inside(segment, name.segment)]
        if not holders and located.at is not None:
            elsewhere.append(
                Line(located.at.statement, located.at.file, located.at.line, "wrong", f"`{located.code}` {located}")
            )
        elif not holders and segment is not None:
            shown[place] = Name(segment.text, False, segment)
            holders = [place]
        if holders:
            sizes = {
                n: (len(shown[n].segment.text), abs(alignment.position[n] - alignment.place(place))) for n in holders
            }
            mistakes.setdefault(min(holders, key=sizes.__getitem__), []).append(located)
    below = {n for slip, _ in slips for n in depends_on(alignment.program, list(slip.mending))}
    lines: dict[tuple[str, int, str], Line] = {}
    for number in sorted(shown, key=alignment.place):
        name = shown[number]
        text = name.segment.text
        if name.variable and value_of(text)[0] == text:  # `g += x` is a statement already
            text = f"{name.text} = {text}"
        if number in mistakes:
            its = (f"{'' if m.code == name.segment.text else f'`{m.code}` '}{m}" for m in mistakes[number])
            meaning = "; ".join(dict.fromkeys(its))
            status: LineStatus = "wrong"
        else:
            status, meaning = _meaning(alignment, number, paths[returned[number]] if number in returned else "")
            if status == "ok" and number in below:
                status = "given"
        key = name.segment.file, name.segment.line, text
        if key not in lines or status == "wrong":
            lines[key] = Line(text, name.segment.file, name.segment.line, status, meaning)
    return (*lines.values(), *elsewhere)


def _meaning(alignment: Alignment, number: int, path: str) -> tuple[LineStatus, str]:
    match = alignment.matches.get(number)
    if path and number in alignment.leaves and alignment.leaves.index(number) in alignment.right:
        return "ok", gradient_by(path)
    if match is not None and match.exact:
        return "ok", str(match)
    if number in alignment.constant or (
        match is None and not alignment.program.shapes[number] and alignment.known(number)
    ):
        return "ok", "a constant" if number not in alignment.linear else "your own intermediate"
    own = str(match) if match is not None else "your own intermediate"
    return ("own", own)

"""Code that runs several times, as the body of a loop: which values of a program belong to one place in its passes."""

from jaxbias import _jaxpr
from jaxbias._jaxpr.sources import Segment


def passes(program: _jaxpr.Program) -> list[tuple[int, ...]]:
    """Of every value that is computed in each pass of an unrolled loop, its numbers in the order of the passes.

    A piece of code whose equations repeat with a period has run as many times as there are periods. It is told by the
    whole chain of calls that leads to it, so a function called at two places has not run twice.
    """
    places: dict[tuple[Segment, ...], list[int]] = {}
    for position, equation in enumerate(program.equations):
        if equation.segments and equation.name not in ("loop_index", "loop_stack"):
            places.setdefault(equation.segments, []).append(position)
    groups: list[tuple[int, ...]] = []
    for positions in places.values():
        equations = [program.equations[p] for p in positions]
        forms = [(e.name, tuple(e.shapes.outputs), tuple(map(str, e.dtypes.outputs))) for e in equations]
        period = _period(forms)
        if period == len(forms):
            continue
        for of_one_place in (equations[k::period] for k in range(period)):
            groups += zip(*(e.outputs for e in of_one_place))
    return groups


def _period(forms: list[tuple[str, tuple[tuple[int, ...], ...], tuple[str, ...]]]) -> int:
    """The shortest one that divides the length."""
    n = len(forms)
    return next(p for p in range(1, n + 1) if n % p == 0 and all(forms[k] == forms[k % p] for k in range(p, n)))

"""Hand-written backward passes, right and wrong, for tests of what is said about them: which line is wrong, and what.

`right.py` holds right rules in the forms in which people write them. `single.py` holds rules with one mistake each,
`several.py` rules with two or three, each on its own line. The mistakes are those that people make; none was made by
changing a rule by program. All was written before, and without a look at, the code that is judged by it, and each
mistake was seen to change a gradient by more than a thousandth.

Half of these wrong rules, named in `ASIDE` of each of the two modules, were kept aside: whoever improves the code looks
at the other half alone, and the half kept aside says afterwards whether what was improved holds in general. `second`,
`third` and `fourth` hold rules by other authors, as changes of right ones that `changes.py` carries out.

A rule takes the forward function's arguments and the cotangent of its output and returns one gradient per argument:
`rule(args, ct)`. `draw(key)` makes the arguments, in float32 (complex64 where they are complex).
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

FAMILIES = (
    "term",
    "factor",
    "axis",
    "operand",
    "transpose",
    "mask",
    "sign",
    "index",
    "carry",
    "conjugate",
    "activation",
    "constant",
    "detached",
    "reduction",
)
"""One word for what is wrong. A mistake can often be seen in two ways; the family is the way it was made."""


@dataclass(frozen=True)
class Right:
    """A right rule."""

    name: str
    forward: Callable[..., Any]
    rule: Callable[[Any, Any], tuple]
    draw: Callable[[Any], tuple]


class Mistake(NamedTuple):
    """One mistake: any one of `lines` names its place."""

    lines: tuple[str, ...]
    kind: str
    family: str


@dataclass(frozen=True)
class Slip:
    """A rule with one mistake (`single.py`) or with several (`several.py`).

    With one mistake `lines` are the stripped source lines of which any one counts as its place, `kinds` is a phrase
    that says what is wrong, `family` one of `FAMILIES`. With several, each of the three is a tuple with one such entry
    per mistake. `mistakes` gives both in the same form. `right` is the rule without them, where it is known.
    """

    name: str
    forward: Callable[..., Any]
    rule: Callable[[Any, Any], tuple]
    draw: Callable[[Any], tuple]
    lines: tuple
    kinds: str | tuple[str, ...]
    family: str | tuple[str, ...]
    right: Callable[[Any, Any], tuple] | None = None

    @property
    def mistakes(self) -> tuple[Mistake, ...]:
        if isinstance(self.kinds, str):
            return (Mistake(self.lines, self.kinds, self.family),)
        return tuple(Mistake(*each) for each in zip(self.lines, self.kinds, self.family))


def slip(right: Right, rule: Callable[[Any, Any], tuple], lines: tuple, kinds: Any, family: Any) -> Slip:
    """A wrong rule for the forward function of a right one, named after the function that it is."""
    return Slip(rule.__name__, right.forward, rule, right.draw, lines, kinds, family)

"""What a rule is, and the table of them."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from jaxbias import _jaxpr
from jaxbias.symbols import expressions as ex
from jaxbias.symbols.expressions import Expression

Args = Sequence[Expression]
Pulled = Sequence[Expression | None]


@dataclass(frozen=True)
class Rule:
    """Both halves of a primitive; of several outputs, the out and the δ of `pull` are tuples, δ with None in it."""

    read: Callable[[_jaxpr.Equation, Args], Any]
    pull: Callable[[_jaxpr.Equation, Args, Any, Any], Pulled]
    outputs: int = 1


RULES: dict[str, Rule] = {}


def rule_of(name: str, outputs: int) -> Rule | None:
    """The rule of a primitive that has so many outputs; "sort of 2" where it differs from that of the usual number."""
    usual = RULES.get(name)
    return usual if usual is not None and usual.outputs == outputs else RULES.get(f"{name} of {outputs}")


class NoRule(Exception):
    """This use of a primitive has no rule here."""


def shape_of(equation: _jaxpr.Equation) -> tuple[int, ...]:
    return equation.shapes.outputs[0]


def rule(*names: str, outputs: int = 1) -> Callable[[type], type]:
    """Register a class with `read` and `pull` for these primitives, of so many outputs."""

    def register(made: type) -> type:
        for name in names:
            RULES[name] = Rule(made.read, made.pull, outputs)  # type: ignore[attr-defined]
        return made

    return register


def constant(value: Any, like: Expression) -> Expression:
    return ex.number(value, like.dtype)

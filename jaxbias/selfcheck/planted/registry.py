"""What a right rule is, to plant mistakes in, and the list of them."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax


class Rule(NamedTuple):
    """A right rule to plant mistakes in.

    Attributes:
        draw: `key -> args`.
        bodies: functions whose source mistakes are planted in, each with `new function -> rule`; the rule itself where
            there are none.
    """

    name: str
    forward: Callable[..., Any]
    rule: Callable[..., Any]
    draw: Callable[[Any], tuple[Any, ...]]
    bodies: tuple[tuple[Callable[..., Any], Callable[[Any], Callable[..., Any]]], ...] = ()


RULES: dict[str, Rule] = {}


def register(forward: Callable[..., Any], rule: Callable[..., Any], draw: Callable[[Any], tuple[Any, ...]]) -> None:
    """Add a rule under the name of its forward."""
    RULES[forward.__name__] = Rule(forward.__name__, forward, rule, draw)


def normal(key: Any, *shapes: tuple[int, ...]) -> list[Any]:
    """One standard normal array per shape."""
    return [jax.random.normal(k, shape) for k, shape in zip(jax.random.split(key, len(shapes)), shapes)]

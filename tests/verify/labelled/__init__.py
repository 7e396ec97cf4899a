"""Rules of which it is certain whether they are right, by an author who did not know the code that judges them.

A right rule gives the gradient wherever there is one, in exact arithmetic, and a value between the one-sided
derivatives elsewhere, for any arguments of its forward; a wrong one differs on arguments that normal draws reach. The
labels were checked by autodiff and by differences in float64.
"""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

Draw = Callable[[jax.Array], tuple]
Rule = Callable[[Any, Any], tuple]


class Case(NamedTuple):
    """A rule; `why` says what is wrong with it."""

    name: str
    forward: Callable[..., Any]
    rule: Rule
    draw: Draw
    right: bool
    kind: str
    why: str


def normals(*shapes: tuple[int, ...], dtype: Any = jnp.float32) -> Draw:
    """Draws one standard normal array of each shape."""

    def draw(key: jax.Array) -> tuple:
        keys = jax.random.split(key, len(shapes))
        return tuple(jax.random.normal(k, shape, dtype) for k, shape in zip(keys, shapes))

    return draw


def normals64(*shapes: tuple[int, ...]) -> Draw:
    """The same in float64."""

    def draw(key: jax.Array) -> tuple:
        with jax.enable_x64(True):
            return normals(*shapes, dtype=jnp.float64)(key)

    return draw


def group(
    kind: str,
    name: str,
    forward: Callable[..., Any],
    draw: Draw,
    right: Sequence[Rule],
    wrong: Sequence[tuple[Rule, str]],
) -> list[Case]:
    """Right and wrong rules of one forward function."""
    return [
        *(Case(f"{kind}/{name}/right{k}", forward, rule, draw, True, kind, "") for k, rule in enumerate(right, 1)),
        *(
            Case(f"{kind}/{name}/wrong{k}", forward, rule, draw, False, kind, why)
            for k, (rule, why) in enumerate(wrong, 1)
        ),
    ]

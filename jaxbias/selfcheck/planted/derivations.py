"""Hand-derived layers and losses as rules to plant mistakes in: at the outputs, and in the source of their backward."""

import functools
import inspect
import types
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import jax
import jax.numpy as jnp

from jaxbias.derivation import Derivation, Example, LossExample, instance
from jaxbias.selfcheck.planted.registry import Rule


def rules_of(derivations: Iterable[Derivation]) -> list[Rule]:
    """One rule per derivation, for its plainest example. The leaves of params and input are its arguments."""
    return [_rule(derivation.name, derivation.examples[0]) for derivation in derivations]


def _rule(name: str, example: Example | LossExample) -> Rule:
    given = instance(example, jax.random.key(0), jnp.float32)
    tree = jax.tree.structure((given.params, given.x))
    is_loss = isinstance(example, LossExample)

    def forward(*leaves):
        return given.forward(*tree.unflatten(leaves))[0]

    def around(backward: Callable[..., Any]) -> Callable[..., Any]:
        def rule(args, cotangent):
            _, residuals = given.forward(*tree.unflatten(args))
            if is_loss:
                return tuple(cotangent * delta for delta in jax.tree.leaves(backward(residuals)))
            grads, delta_x = backward(residuals, cotangent)
            no_gradient = [None] * jax.tree.structure(given.x).num_leaves  # integers
            return (*jax.tree.leaves(grads), *(no_gradient if delta_x is None else jax.tree.leaves(delta_x)))

        return rule

    def draw(key):
        drawn = instance(example, key, jnp.float32)
        return tuple(jax.tree.leaves((drawn.params, drawn.x)))

    backward = example.loss.backward if is_loss else example.layer.backward
    bodies = [(body, lambda new, build=build: around(build(new))) for body, build in bodies_of(backward)]
    return Rule(name, forward, around(backward), draw, tuple(bodies))


def bodies_of(function: Any) -> Iterator[tuple[Any, Callable[[Any], Any]]]:
    """Functions that a function consists of, itself and those it closes over, each with a way to replace it."""
    if isinstance(function, functools.partial):
        for body, build in bodies_of(function.func):
            yield body, lambda new, build=build: functools.partial(build(new), *function.args, **function.keywords)
        return
    function = inspect.unwrap(function)
    if not inspect.isfunction(function):
        return
    if function.__name__ != "<lambda>":
        yield function, lambda new: new
    for k, cell in enumerate(function.__closure__ or ()):
        if inspect.isfunction(cell.cell_contents) or isinstance(cell.cell_contents, functools.partial):
            for body, build in bodies_of(cell.cell_contents):
                yield body, lambda new, k=k, build=build: _with_cell(function, k, build(new))


def _with_cell(function: Any, k: int, value: Any) -> Any:
    """A copy of a function that closes over another value."""
    cells = tuple(types.CellType(value) if j == k else cell for j, cell in enumerate(function.__closure__))
    copy = types.FunctionType(function.__code__, function.__globals__, function.__name__, function.__defaults__, cells)
    copy.__kwdefaults__ = function.__kwdefaults__
    return copy

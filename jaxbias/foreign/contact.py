"""Where each leaf of params gets its role: the equations at which it meets data, listed for people and for surgery."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from jaxbias.foreign import _axes
from jaxbias.foreign._values import TOKEN, Use
from jaxbias.foreign.sites import analyse as analyse
from jaxbias.foreign.uses import trace_uses


@dataclass(frozen=True)
class Contact:
    """An equation at which params meet data, or, for a leaf that meets constants or other leaves first, those.

    Attributes:
        leaves: paths of the params leaves that have this role in the operand, usually one.
        role: "weight", "bias", "scale", "embedding" or "other".
        operation: name of the primitive.
        where: the user's line, `file:line:column (function)`.
        shape: shape of the operand.
        layout_only: nothing but layout operations between the leaf and this equation.
        contracted: axes of the (first) leaf that a matrix product or convolution sums over; None where the operation is
            no such product, or the axes of the leaf are mixed up on the way.
        free: axes of the (first) leaf that the output runs along, likewise.
    """

    leaves: tuple[str, ...]
    role: str
    operation: str
    where: str
    shape: tuple[int, ...]
    layout_only: bool
    contracted: tuple[int, ...] | None = None
    free: tuple[int, ...] | None = None


def contacts(fn: Callable, params: Any, *args: Any, unused: str = "error", **options: Any) -> tuple[Contact, ...]:
    """Every equation of `fn(params, *args, **options)` at which a leaf of params gets its role.

    Only the uses that count are listed: what meets data as it is, else what is computed from it (see `jb.roles`).

    Args:
        fn: any traceable function.
        params: a pytree of arrays; leaves that are not arrays are left as they are. Of modules and States of Flax
            nnx only what is a `Param` counts.
        args: data, pytrees of arrays or of `jax.ShapeDtypeStruct`. Nothing is computed, only traced.
        unused: "error", or anything else to leave out a leaf that never meets anything.
        options: keyword arguments of fn.

    Raises:
        ValueError: a leaf never meets data; the message names the leaf and the operation at which it stopped.
    """
    uses = trace_uses(fn, params, args, options)
    if unused == "error":
        uses.check_all_met("contacts")
    grouped: dict[tuple[int, int, str], list[Use]] = {}
    kept = {use: None for leaf in range(len(uses.paths)) for use in uses.of(leaf)}
    for use in uses.uses:
        if use in kept:
            role = "other" if use.role == TOKEN else use.role
            group = grouped.setdefault((id(use.place.equation), use.place.position, role), [])
            group.append(use)
    return tuple(_describe(uses.paths, role, group) for (_, _, role), group in grouped.items())


def _describe(paths: tuple[str, ...], role: str, uses: list[Use]) -> Contact:
    equation, position, axes = uses[0].place
    leaves = tuple(dict.fromkeys(paths[use.leaf] for use in uses))
    contracted, free = _axes.contraction(equation, position, axes) or (None, None)
    shape = equation.shapes.inputs[position] if position < len(equation.inputs) else ()
    source = str(equation.source or "")
    return Contact(leaves, role, equation.name, source, shape, uses[0].level == 0, contracted, free)

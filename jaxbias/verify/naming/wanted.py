"""What an operand must be for an operation to give a wanted value: operations turned round."""

from collections.abc import Sequence

import numpy as np

from jaxbias import _jaxpr
from jaxbias.verify.naming.alignment import same

CONDITION = 1e6
"""A matrix that is worse conditioned is not divided by."""


def wanted_operand(
    equation: _jaxpr.Equation, k: int, wanted: np.ndarray, operands: Sequence[np.ndarray]
) -> np.ndarray | None:
    """Operand k for which the equation gives the wanted output, the other operands as they are; None if there is none.

    The first axis of every array is the probe. Where the operand is broadcast and would have to vary along such an
    axis, the array has the shape of the output.
    """
    if equation.inputs.count(equation.inputs[k]) > 1:
        return None
    with np.errstate(all="ignore"):
        operand = _inverse(equation, k, wanted, operands)
    return operand if operand is not None and np.all(np.isfinite(operand)) else None


def _inverse(e: _jaxpr.Equation, k: int, wanted: np.ndarray, operands: Sequence[np.ndarray]) -> np.ndarray | None:
    own = operands[k]
    other = operands[1 - k] if len(operands) == 2 else own
    if e.name in ("mul", "div", "add", "add_any", "sub") and (own.ndim == 1 or other.ndim == 1):
        own, other = _spread(own, wanted.ndim), _spread(other, wanted.ndim)
    match e.name:
        case "mul":
            zero = other == 0
            operand = (
                None if np.any(np.where(zero, wanted, 0)) else np.where(zero, own, wanted / np.where(zero, 1, other))
            )
        case "div":
            operand = wanted * other if k == 0 else other / wanted
        case "add" | "add_any":
            operand = wanted - other
        case "sub":
            operand = wanted + other if k == 0 else other - wanted
        case "neg":
            operand = -wanted
        case "exp":
            operand = np.log(wanted)
        case "log":
            operand = np.exp(wanted)
        case "conj":
            operand = np.conj(wanted)
        case "copy" | "copy_p" | "convert_element_type":
            operand = wanted
        case "reshape" | "squeeze" | "expand_dims":
            operand = wanted.reshape(own.shape)
        case "transpose":
            operand = wanted.transpose((0, *(1 + np.argsort(e.params["permutation"]))))
        case "rev":
            operand = np.flip(wanted, tuple(a + 1 for a in e.params["dimensions"]))
        case "broadcast_in_dim":
            return _undo_broadcast(e.params["broadcast_dimensions"], wanted, own)
        case "dot_general":
            return _undo_product(e, k, wanted, operands)
        case "select_n" if k > 0:
            chosen = np.broadcast_to(_spread(operands[0], wanted.ndim), wanted.shape) == k - 1
            kept = operands[3 - k] if len(operands) == 3 else own
            if len(operands) != 3 or not same(np.where(chosen, 0, kept), np.where(chosen, 0, wanted)):
                return None
            at = np.unravel_index(int(np.argmax(np.abs(np.where(chosen, own, 0)))), own.shape)
            times = wanted[at] / own[at] * own  # of what is left out nothing is known
            operand = np.where(chosen, wanted, times if same(np.where(chosen, times, wanted), wanted) else own)
        case "triangular_solve" if k == 1:
            operand = _undo_solve(e, wanted, operands[0])
        case _:
            return None
    return None if operand is None else _narrowed(operand, operands[k])


def _spread(x: np.ndarray, rank: int) -> np.ndarray:
    """With unit axes behind its own."""
    return x.reshape(x.shape + (1,) * (rank - x.ndim))


def _narrowed(operand: np.ndarray, own: np.ndarray) -> np.ndarray:
    """The operand, which the operation broadcast, where the wanted value is the same along those axes."""
    if own.ndim == 1 and operand.ndim > 1:
        first = operand.reshape(operand.shape[0], -1)[:, :1]
        flat = operand.reshape(operand.shape[0], -1)
        return first[:, 0] if same(np.broadcast_to(first, flat.shape), flat) else operand
    if operand.shape == own.shape:
        return operand
    index = tuple(slice(None) if a == 0 or own.shape[a] > 1 else slice(0, 1) for a in range(own.ndim))
    small = operand[index]
    return small if same(np.broadcast_to(small, operand.shape), operand) else operand


def _undo_broadcast(dimensions: Sequence[int], wanted: np.ndarray, own: np.ndarray) -> np.ndarray | None:
    index: list[slice] = [slice(None)] + [slice(0, 1)] * (wanted.ndim - 1)
    for axis, size in zip(dimensions, own.shape[1:]):
        if size == wanted.shape[axis + 1]:
            index[axis + 1] = slice(None)
    small = wanted[tuple(index)]
    return small.reshape(own.shape) if same(np.broadcast_to(small, wanted.shape), wanted) else wanted


def _undo_solve(e: _jaxpr.Equation, solution: np.ndarray, matrix: np.ndarray) -> np.ndarray:
    """The right-hand side of a triangular system that has this solution."""
    p = e.params
    matrix = np.tril(matrix) if p["lower"] else np.triu(matrix)
    if p["unit_diagonal"]:
        matrix = matrix - matrix * np.eye(matrix.shape[-1]) + np.eye(matrix.shape[-1])
    matrix = np.swapaxes(matrix, -1, -2) if p["transpose_a"] else matrix
    matrix = np.conj(matrix) if p["conjugate_a"] else matrix
    return matrix @ solution if p["left_side"] else solution @ matrix


def _undo_product(e: _jaxpr.Equation, k: int, wanted: np.ndarray, operands: Sequence[np.ndarray]) -> np.ndarray | None:
    """Of a product with one contraction: the unknown operand by least squares, if it is determined and exact."""
    mine, other = e.dot_axes()[k], e.dot_axes()[1 - k]
    shift = lambda axes: [a + 1 for a in axes]
    known = operands[1 - k].transpose([0, *shift(other.batch), *shift(other.contracted), *shift(other.free)])
    batch = known.shape[: 1 + len(other.batch)]
    rows = int(np.prod(known.shape[len(batch) : len(batch) + len(other.contracted)]))
    matrix = known.reshape(*batch, rows, -1)
    if matrix.shape[-1] < rows or matrix.size == 0 or np.max(np.linalg.cond(matrix)) > CONDITION:
        return None
    own = operands[k]
    order = [0, *shift(mine.batch), *shift(mine.free), *shift(mine.contracted)]
    if k == 0:  # the output is batch, free axes of the first, free axes of the second
        out = wanted.reshape(*batch, -1, matrix.shape[-1])
    else:
        out = np.swapaxes(wanted.reshape(*batch, matrix.shape[-1], -1), -1, -2)
    operand = out @ np.linalg.pinv(matrix)
    if not same(operand @ matrix, out):
        return None
    return operand.reshape([own.shape[a] for a in order]).transpose(np.argsort(order))

"""Biases that cannot change the output of anyone's model, alone or together: found from gradients, not by patterns."""

import warnings
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array
from threadpoolctl import threadpool_limits

from jaxbias._numerics import accumulation_dtype
from jaxbias._trees import is_float
from jaxbias.foreign.traced import Split, split_params
from jaxbias.foreign.uses import trace_uses


class Redundant(NamedTuple):
    """Directions of one bias leaf, or of several together, that no output depends on.

    Attributes:
        paths: of the leaves, in the order of their use. Several: only a common move of them changes no output.
        rank: number of entries of these leaves, less the number of redundant directions.
        directions: (number, entries): orthonormal rows, over the entries of the leaves one leaf after another; adding
            any combination of them changes no output.
    """

    paths: tuple[str, ...]
    rank: int
    directions: np.ndarray

    @property
    def whole(self) -> bool:
        """Whether every entry is redundant."""
        return self.rank == 0

    def __repr__(self) -> str:
        number, entries = self.directions.shape
        return f"Redundant({' + '.join(self.paths)}: {number} of {entries} directions change no output)"


def redundant_biases(
    fn: Callable, params: Any, *args: Any, seed: int = 0, tolerance: float | None = None
) -> tuple[Redundant, ...]:
    """Bias leaves that cannot change the output: wholly, along some directions, or only together with other biases.

    Found, not looked up. With B the entries of all biases together, the rows of

        J = [∂⟨v, fn⟩/∂B]   at random cotangents v and random biases, the other params as given

    span the directions that matter; the null space of J are those that do not, whatever the biases are. It splits into
    directions within one leaf (a bias before batch norm (5.3); the key bias of softmax attention without rotary
    positions; the common part before layer norm or softmax) and common ones: a value bias b_v beside an output bias
    moves nothing along (d, −d·W_o). Where part of fn is held constant (`jax.lax.stop_gradient`, as in batch renorm), a
    gradient of 0 proves nothing; so each direction is also gone along, and the outputs must stay.

    A zero weight would make biases redundant that training then wakes. So J is also taken at random weights near the
    given ones, and where it has the larger rank there, only directions that are null for both count: combinations that
    depend on the weights are left out, and a warning says so.

    The cost is two backward passes for each entry of the biases, and a singular value decomposition of that size:
    shrink a wide model first.

    Args:
        fn: `(params, *args) -> output`, for a batch like those in use: one row before batch norm makes all redundant.
        params: in float64 where possible: rounding is told from zero.
        seed: of the random draws.
        tolerance: singular values below tolerance × the largest count as zero, gradients of each leaf scaled to size
            1, and leaves with gradients below tolerance × the largest as redundant; by default the square root of eps.

    Raises:
        ValueError: a gradient is not finite, or fn returns no floats.
    """
    uses = trace_uses(fn, params, args)
    split = split_params(params)
    biases = [i for i in dict.fromkeys(use.leaf for use in uses.uses) if uses.role(i) == "bias"]
    if not biases:
        return ()
    sizes = [split.leaves[i].size for i in biases]
    given, moved, changes, usual = _bias_gradients(fn, split, args, biases, sum(sizes) + 8, seed)
    if not (np.all(np.isfinite(given)) and np.all(np.isfinite(moved))):
        raise ValueError("redundant_biases: a gradient at random biases is not finite. Check fn, params and args.")
    wide = jnp.result_type(*(accumulation_dtype(split.leaves[i].dtype) for i in biases))
    limit = float(jnp.finfo(wide).eps) ** 0.5 if tolerance is None else tolerance
    with threadpool_limits(1, "blas"):  # threads of a decomposition wait for each other where others use the cores too
        groups = _groups(given, moved, changes, sizes, limit, usual)
    paths = [split.paths[i] for i in biases]
    return tuple(
        Redundant(tuple(paths[i] for i in members), rows.shape[1] - len(rows), rows) for members, rows in groups
    )


def _groups(
    given: np.ndarray,
    moved: np.ndarray,
    changes: Callable[[np.ndarray], np.ndarray],
    sizes: Sequence[int],
    limit: float,
    usual: float,
) -> list[tuple[list[int], np.ndarray]]:
    """The redundant directions of J at the weights as given that are so at moved weights too, and leave the outputs."""
    null = _null_space(given, sizes, limit, usual)
    if len(null) > _nullity(moved, sizes, limit, usual):
        null = _null_space(np.concatenate([given, moved]), sizes, limit, usual)
        warnings.warn(
            "redundant_biases: at these weights more directions are redundant than at weights near them, as with a "
            "weight of zeros. Only what is redundant at both is returned, without combinations that depend on weights.",
            stacklevel=3,
        )
    return _within_and_across(_unmoved(null, changes, limit), sizes, limit)


def _bias_gradients(fn: Callable, split: Split, args: tuple[Any, ...], biases: list[int], probes: int, seed: int):
    """J (probes, entries of the biases) at random biases and the weights as given; J at weights moved by 30 %; a
    function of directions (k, entries), what going along each changes, relative to the outputs, (k, outputs at three of
    the random biases); and the size that a gradient has where a bias of usual size makes an output of usual size.
    """
    random = np.random.default_rng(seed)
    # gradients rounded to half precision would hide what depends on what
    widened = lambda x: np.asarray(x, accumulation_dtype(jnp.result_type(x))) if is_float(x) else x
    given = [widened(x) for x in split.leaves]
    data = split_params(args)
    args = data.rebuild([widened(x) for x in data.leaves])
    size = [np.sqrt(np.mean(np.square(x))) + 0.1 if is_float(x) else 0 for x in given]
    moved = [(x + 0.3 * s * random.normal(size=x.shape)).astype(x.dtype) if s else x for x, s in zip(given, size)]
    dtype = np.result_type(*(given[i].dtype for i in biases))
    centre = np.concatenate([given[i].reshape(-1) for i in biases])
    spread = np.concatenate([np.full(given[i].size, size[i]) for i in biases])
    # some biases near the given ones, some far: units that are dead here live there
    factors = np.resize([0.3, 3.0, 10.0], probes)[:, None]
    values = centre + factors * spread * random.normal(size=(probes, centre.size))
    parts = parts_of([given[i].size for i in biases])

    def outputs(flat: Array, weights: list[Array]) -> Array:
        leaves = list(weights)
        for i, part in zip(biases, parts):
            leaves[i] = flat[part].astype(given[i].dtype).reshape(given[i].shape)
        outs = [x for x in jax.tree.leaves(fn(split.rebuild(leaves), *args)) if is_float(x) and jnp.isrealobj(x)]
        if not outs:
            raise ValueError("redundant_biases: fn returns no floats, so no gradient can tell what matters.")
        return jnp.concatenate([x.reshape(-1).astype(dtype) for x in outs])

    count = jax.eval_shape(outputs, centre.astype(dtype), given).size
    cotangents = random.normal(size=(probes, count)).astype(dtype)

    @jax.jit
    def gradients(weights):
        def gradient(probe):
            flat, cotangent = probe
            out, pull_back = jax.vjp(lambda flat: outputs(flat, weights), flat)
            return pull_back(cotangent)[0], jnp.linalg.norm(out)

        return jax.lax.map(gradient, (values.astype(dtype), cotangents))

    @jax.jit
    def along(directions):
        weights = list(map(jnp.asarray, given))
        at = lambda flat: outputs(flat, weights)

        def change(start, direction):  # of the outputs there: far out, where gates are shut, they may be 1e-17
            before = at(start)
            return (at(start + direction) - before) / jnp.maximum(jnp.linalg.norm(before), jnp.finfo(dtype).tiny)

        return jax.lax.map(lambda direction: jax.lax.map(lambda start: change(start, direction), starts), directions)

    starts, far = values[:3].astype(dtype), spread.max()
    (at_given, sizes), (at_moved, _) = gradients(given), gradients(moved)
    size = max(float(sizes.min()), 1e-300)
    changes = lambda rows: np.asarray(along((far * rows).astype(dtype)), np.float64).reshape(len(rows), -1)
    return np.asarray(at_given, np.float64), np.asarray(at_moved, np.float64), changes, size / float(far)


def _unmoved(null: np.ndarray, changes: Callable[[np.ndarray], np.ndarray], tolerance: float) -> np.ndarray:
    """Of the directions that no gradient sees, those along which the outputs stay where they are."""
    if not len(null):
        return null
    combinations, moves = _left_singular(changes(null))
    return combinations[:, int(np.sum(moves > tolerance)) :].T @ null


def _left_singular(rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """All left singular vectors, and the singular values; of a triangle first where the rows are long."""
    if rows.shape[1] > rows.shape[0]:
        rows = np.asarray(np.linalg.qr(rows.T, mode="r")).T
    vectors, values, _ = np.linalg.svd(rows, full_matrices=True)
    return vectors, values


def parts_of(sizes: Sequence[int]) -> list[slice]:
    """Where each leaf's entries stand in all entries."""
    ends = np.cumsum(sizes)
    return [slice(end - size, end) for end, size in zip(ends.tolist(), sizes)]


def _null_space(rows: np.ndarray, sizes: Sequence[int], tolerance: float, usual: float) -> np.ndarray:
    """Orthonormal rows that span the null space of `rows`, with the gradients of each leaf scaled to size 1 first.

    Args:
        usual: size of gradients that count, lest rounding count where all of them are 0.
    """
    triangle, factors = _scaled_triangle(rows, sizes, tolerance, usual)
    _, values, basis = np.linalg.svd(triangle, full_matrices=True)
    null = basis[_rank(values, tolerance) :]
    return np.linalg.qr((null * np.where(factors > 0, factors, 1)).T)[0].T


def _nullity(rows: np.ndarray, sizes: Sequence[int], tolerance: float, usual: float) -> int:
    """How many rows `_null_space` would give."""
    triangle, _ = _scaled_triangle(rows, sizes, tolerance, usual)
    return rows.shape[1] - _rank(np.linalg.svd(triangle, compute_uv=False), tolerance)


def _scaled_triangle(
    rows: np.ndarray, sizes: Sequence[int], tolerance: float, usual: float
) -> tuple[np.ndarray, np.ndarray]:
    """R of a QR decomposition of the rows with each leaf scaled, and by what each entry was."""
    scales = np.array([np.sqrt(np.mean(np.square(rows[:, part]))) for part in parts_of(sizes)])
    live = scales > tolerance * max(scales.max(), usual)
    factors = np.repeat(np.where(live, 1 / np.where(live, scales, 1), 0), sizes)
    return np.asarray(np.linalg.qr(rows * factors, mode="r")), factors


def _rank(values: np.ndarray, tolerance: float) -> int:
    return int(np.sum(values > tolerance * max(values.max(initial=0.0), 1e-300)))


def _within_and_across(null: np.ndarray, sizes: Sequence[int], tolerance: float) -> list[tuple[list[int], np.ndarray]]:
    """(leaves, orthonormal directions): the null space within each leaf, then what only several leaves share."""
    groups = []
    rest = null
    for i, part in enumerate(parts_of(sizes)):
        mostly, cosines, _ = np.linalg.svd(null[:, part], full_matrices=False)
        near = mostly[:, cosines > 0.9].T @ null  # few; among them are those with nothing outside of this leaf
        outside = np.delete(near, np.arange(part.start, part.stop), axis=1)
        combinations, values = _left_singular(outside) if len(near) else (np.zeros((0, 0)), np.zeros(0))
        alone = combinations[:, int(np.sum(values > tolerance)) :].T @ near
        if len(alone):
            groups.append(([i], alone[:, part]))
            rest = rest - rest @ alone.T @ alone
    _, values, basis = np.linalg.svd(rest, full_matrices=False)
    rest = basis[values > 0.5]  # 0 or 1, as what lies within one leaf is part of the null space
    projector = rest.T @ rest
    parts = parts_of(sizes)
    joined = np.array([[np.abs(projector[a, b]).max(initial=0.0) > tolerance for b in parts] for a in parts])
    left = {i for i in range(len(sizes)) if joined[i].any()}
    while left:
        members, reached = set(), {min(left)}
        while reached - members:
            members |= reached
            reached = {j for i in members for j in np.flatnonzero(joined[i]).tolist()}
        left -= members
        columns = np.concatenate([np.arange(parts[i].start, parts[i].stop) for i in sorted(members)])
        _, values, basis = np.linalg.svd(projector[np.ix_(columns, columns)])
        groups.append((sorted(members), basis[values > 0.5]))  # a projector: its singular values are 0 and 1
    return groups

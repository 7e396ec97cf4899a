"""Inputs chosen to expose mistakes: random values in every argument, and designed ones (zeros, ties, repeats, ...).

New values keep what the given ones have in common (sign, zeros of a triangle, symmetry, rows that sum to one, order,
values from a small set), so that a rule which is right on its domain is not asked about points outside of it.
"""

from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxbias._trees import is_float
from jaxbias.verify.problem import Arrays, Problem, widen


@dataclass
class Probe:
    """One input in float64, and what is special about it.

    Attributes:
        kink: it has zeros or ties on purpose, so that the forward may have no slope there.
        of_user: its primals are the user's, or of a function that draws them for the user.
    """

    name: str
    primals: Arrays
    seeds: Arrays
    kink: bool = False
    of_user: bool = False

    @property
    def inputs(self) -> Arrays:
        """Primals, then seeds: the inputs of a traced reference or rule."""
        return [*self.primals, *self.seeds]


def _is_key(x: Any) -> bool:
    return isinstance(x, jax.Array) and jnp.issubdtype(x.dtype, jax.dtypes.extended)


def simplex_axis(x: Any) -> int | None:
    """Axis along which non-negative values sum to one."""
    if x.ndim and x.size > 1 and np.all(x >= 0):
        for axis in reversed(range(x.ndim)):
            if x.shape[axis] > 1 and np.allclose(x.sum(axis=axis), 1, atol=1e-3):
                return axis
    return None


def _permuted(x: Any, rng: np.random.Generator) -> Any:
    for axis in range(x.ndim):
        x = np.take(x, rng.permutation(x.shape[axis]), axis=axis)
    return x


def redraw(x: Any, rng: np.random.Generator, scale: float = 1.0) -> Any:
    """New values of the same kind for one argument leaf; what is not a float is kept."""
    if _is_key(x) or not is_float(x) or x.size == 0:
        return x
    if np.iscomplexobj(x):
        return _redraw_complex(x, rng, scale)
    if not np.all(np.isfinite(x)):
        finite = np.where(np.isfinite(x), x, 1.0)
        return np.where(np.isfinite(x), finite * np.exp(0.3 * rng.standard_normal(x.shape)), x)
    constant = np.all(x == x.flat[0])
    if constant and x.flat[0] == 0:
        return scale * rng.standard_normal(x.shape)
    if constant and x.size == 1 and x.flat[0] not in (1.0, -1.0):
        return x * np.exp(0.3 * rng.uniform(-1, 1, x.shape))
    if constant:
        return x * np.exp(0.5 * rng.standard_normal(x.shape))
    if (axis := simplex_axis(x)) is not None:
        if np.all((x == 0) | (x == 1)):
            return _permuted(x, rng)
        mixed = x * np.exp(0.5 * rng.standard_normal(x.shape))
        return mixed / mixed.sum(axis=axis, keepdims=True)
    if np.all(x == np.round(x)) and len(np.unique(x)) <= max(2, x.size // 2):
        return _permuted(x, rng)
    if x.ndim >= 2 and x.shape[-1] == x.shape[-2] and x.shape[-1] > 1:
        if np.array_equal(x, np.swapaxes(x, -1, -2)):
            d = np.exp(0.3 * rng.standard_normal(x.shape[-1]))
            return x * d[:, None] * d[None, :]
        if np.any(x == 0) and (np.array_equal(x, np.tril(x)) or np.array_equal(x, np.triu(x))):
            return x * np.exp(0.3 * rng.standard_normal(x.shape))
    steps = np.diff(x) if x.ndim == 1 and x.size > 2 else np.zeros(1)
    if np.all(steps > 0) or np.all(steps < 0):
        start = x[0] * np.exp(0.3 * rng.standard_normal())
        return start + np.concatenate([[0.0], np.cumsum(steps * np.exp(0.3 * rng.standard_normal(steps.shape)))])
    if np.mean(x == 0) >= 0.2 or np.all(x >= 0) or np.all(x <= 0):
        return x * np.exp(0.4 * rng.standard_normal(x.shape))
    if x.ndim and x.shape[-1] > 1 and np.allclose(np.sum(x * x, axis=-1), 1, atol=1e-4):
        moved = x + 0.5 * rng.standard_normal(x.shape)
        return moved / np.sqrt(np.sum(moved * moved, axis=-1, keepdims=True))
    return scale * _spread(x) * rng.standard_normal(x.shape)


def _redraw_complex(x: Any, rng: np.random.Generator, scale: float) -> Any:
    """New values in every direction; near the given ones where these are real, and turned where their modulus is 1."""
    normal = rng.standard_normal(x.shape) + 1j * rng.standard_normal(x.shape)
    moduli = np.abs(x)
    if x.ndim >= 2 and x.shape[-1] == x.shape[-2] > 1 and np.array_equal(x, np.conj(np.swapaxes(x, -1, -2))):
        d = np.exp(0.3 * normal[..., 0])
        return x * d[..., :, None] * np.conj(d)[..., None, :]
    if np.allclose(moduli, 1, atol=1e-4):
        return x * np.exp(0.5j * normal.real)
    if np.all(np.isfinite(moduli)) and np.any(x.imag) and np.mean(moduli == 0) < 0.2:
        return scale * _spread(moduli) / np.sqrt(2) * normal
    return x * np.exp(0.3 * normal) + 0.1


def _spread(x: Any) -> float:
    return float(np.sqrt(np.mean(np.abs(x) ** 2)))


def _times(x: Any) -> float:
    """For large values: about 1 each where the square of what is given is lost in float32, as curvature is then."""
    spread = _spread(x)
    return 1 / spread if spread**2 < np.finfo(np.float32).eps else 8.0


def _ordered(x: Any) -> bool:
    """Real values that rise or fall, as knots and times do."""
    return not np.iscomplexobj(x) and bool(
        x.ndim == 1 and x.size > 2 and (np.all(np.diff(x) > 0) or np.all(np.diff(x) < 0))
    )


def generic(x: Any) -> bool:
    """A float array of both signs, whose values nothing restricts."""
    if _is_key(x) or not is_float(x) or np.iscomplexobj(x) or x.size < 2 or not np.all(np.isfinite(x)):
        return False
    square = x.ndim >= 2 and x.shape[-1] == x.shape[-2]
    symmetric = square and np.array_equal(x, np.swapaxes(x, -1, -2))
    return bool(np.any(x > 0) and np.any(x < 0) and np.mean(x == 0) < 0.2 and not _ordered(x) and not symmetric)


def unrestricted(x: Any) -> bool:
    """Whether values of any size may stand in its place: it is `generic`, or complex and of no fixed modulus."""
    if _is_key(x) or not np.iscomplexobj(x):
        return generic(x)
    return bool(x.size and np.all(np.isfinite(x)) and not np.allclose(np.abs(x), 1, atol=1e-4))


def _redraw_integers(x: Any, rng: np.random.Generator) -> Any:
    """Integers and booleans drawn anew from the values present, so with repeats; negative ones, which labels have where
    they are ignored, keep their places."""
    if _is_key(x) or is_float(x) or x.size < 2:
        return x
    if x.dtype != bool and np.any(x < 0) and np.any(x >= 0):
        new = np.array(x)
        new[x >= 0] = _redraw_integers(x[x >= 0], rng)
        return new
    values = np.unique(x)
    if x.dtype == bool:
        return rng.uniform(size=x.shape) < np.clip(np.mean(x), 0.3, 0.7)
    return rng.choice(values[: max(1, (len(values) + 1) // 2)], size=x.shape).astype(x.dtype)


def _with_zeros(x: Any, rng: np.random.Generator) -> Any:
    """New values, some of them zero, and a whole row as padding leaves it; ordered values shifted until one is zero."""
    if generic(x):
        new = redraw(x, rng)
        out = np.where(rng.uniform(size=x.shape) < 0.3, 0.0, new)
        out.flat[rng.integers(x.size)] = 0.0
        if x.ndim >= 2:
            out[rng.integers(x.shape[0])] = 0.0
        return out
    if not _is_key(x) and is_float(x) and _ordered(x) and np.any(x > 0) and np.any(x < 0):
        return x - x[rng.integers(x.size)]
    return x


def _with_ties(x: Any, rng: np.random.Generator) -> Any:
    """Values from a coarse grid, so that many of them are equal; a power of 2, so that products and sums tie too."""
    step = 2.0 ** np.round(np.log2(float(np.std(x)) or 1.0))
    return np.round(x / step) * step


def random_seeds(problem: Problem, rng: np.random.Generator) -> Arrays:
    return [
        rng.standard_normal(np.shape(s)) + (1j * rng.standard_normal(np.shape(s)) if np.iscomplexobj(s) else 0)
        for s in problem.seeds
    ]


def singular_probes(problem: Problem, rng: np.random.Generator) -> list[Probe]:
    """Square matrices of rank n − 1, exactly: one column is zero, so that elimination meets the zero pivot there.

    For functions of linear algebra, whose derivatives divide by pivots. Columns 0, n // 2 and n − 1; all, if few.
    """
    given = [widen(x) for x in problem.primals]
    square = [generic(x) and x.ndim >= 2 and x.shape[-1] == x.shape[-2] > 1 for x in given]
    probes = []
    for n in sorted({x.shape[-1] for x, is_square in zip(given, square) if is_square}):
        for column in range(n) if n <= 4 else (0, n // 2, n - 1):
            primals = [redraw(x, rng) for x in given]
            for k, x in enumerate(primals):
                if square[k] and x.shape[-1] == n:
                    primals[k] = np.where(np.arange(n) == column, 0.0, x)
            name = f"singular, column {column} zero"
            probes.append(Probe(name, primals, random_seeds(problem, rng), kink=True))
    return probes


def drawn_without_structure(probe: Probe) -> Probe:
    """Square matrices of the probe drawn anew, with nothing of what they have in common."""
    rng = np.random.default_rng(0)
    square = [is_float(x) and np.ndim(x) >= 2 and x.shape[-1] == x.shape[-2] for x in probe.primals]
    draw = lambda x: rng.standard_normal(x.shape) + (1j * rng.standard_normal(x.shape) if np.iscomplexobj(x) else 0)
    primals = [draw(x) if new else x for x, new in zip(probe.primals, square)]
    return Probe("square matrices of any kind", primals, probe.seeds)


def without_symmetry(probe: Probe, rng: np.random.Generator) -> tuple[Probe, list[int]] | None:
    """The probe with its symmetric matrices moved to some that are none, and the numbers of these; None without any."""
    symmetric = [
        k
        for k, x in enumerate(probe.primals)
        if is_float(x) and np.ndim(x) >= 2 and x.shape[-1] == x.shape[-2] > 1 and not np.any(x - np.swapaxes(x, -1, -2))
    ]
    if not symmetric:
        return None
    moved = lambda x: x + 0.3 * _spread(np.abs(x)) * rng.standard_normal(x.shape)
    primals = [moved(x) if k in symmetric else x for k, x in enumerate(probe.primals)]
    return Probe("matrices that are not symmetric", primals, probe.seeds), symmetric


def make_probes(problem: Problem, rng: np.random.Generator, key: Any) -> list[Probe]:
    """The given input first, then random and designed ones. Few for large arguments: memory stays O(size of args)."""
    given = [widen(x) for x in problem.primals]
    total = sum(np.size(x) for x in given)
    first = [widen(s) for s in problem.seeds] if problem.given_seeds else random_seeds(problem, rng)
    probes = [Probe("as given", given, first, of_user=True)]

    def add(name, primals, kink=False):
        same = all(a is b for a, b in zip(primals, given))
        if not same:
            probes.append(Probe(name, primals, random_seeds(problem, rng), kink))

    if problem.given_seeds:
        probes.append(Probe("random cotangent", given, random_seeds(problem, rng), of_user=True))
    add("random values", [redraw(x, rng) for x in given])
    if total > 3_000_000:
        return probes
    add("other random values", [redraw(x, rng, 0.7) for x in given])
    add("random and repeated integers", [redraw(_redraw_integers(x, rng), rng) for x in given])
    if not any(not is_float(x) and np.size(x) > 1 for x in given if not _is_key(x)):
        probes.pop() if probes[-1].name == "random and repeated integers" else None
    add("large values", [_times(x) * redraw(x, rng) if unrestricted(x) else x for x in given])
    add("small values", [0.01 * x if unrestricted(x) else x for x in given])
    add("exact zeros", [_with_zeros(x, rng) for x in given], kink=True)
    add("ties", [_with_ties(redraw(x, rng), rng) if generic(x) else x for x in given], kink=True)
    if problem.draw is not None:
        for i, subkey in enumerate(jax.random.split(key, 2)):
            try:
                drawn = [widen(x) for x in problem.draw(subkey)]
            except Exception:
                break
            probes.append(Probe(f"drawn {i + 1}", drawn, [], of_user=True))
    return probes

"""Primitives that are a whole algorithm on balls: convolution, Fourier transform, linear systems, factorisations.

Each takes the parameters of its primitive and arrays of balls, as the entries of `ball_primitives.BALL` do. A
factorisation whose result depends on a comparison (a pivot, an order of eigenvalues) is decided for certain or raises
`Open`.
"""

import math
from collections.abc import Callable, Sequence
from functools import partial
from itertools import pairwise

import jax
import jax.numpy as jnp
import numpy as np

from jaxbias._jaxpr import in_numpy
from jaxbias._jaxpr.balls import (
    Balls,
    NoBall,
    Open,
    compared,
    conjugate,
    is_complex,
    lift,
    map_balls,
    matmul,
    python_flint,
    rounded,
)


def convolution(p, x, kernel):
    """One product for every position in the kernel; batch groups become feature groups of their own."""
    d = p["dimension_numbers"]
    x = x.transpose(d.lhs_spec)  # (n, channels in, *spatial)
    kernel = kernel.transpose(d.rhs_spec)  # (channels out, channels in per group, *spatial)
    config = [(0, 0, 0), (0, 0, 0)]
    config += [(lo, hi, e - 1) for (lo, hi), e in zip(p["padding"], p["lhs_dilation"])]
    x = in_numpy.pad({"padding_config": config}, x, lift(np.float64(0))[()])
    groups, by_batch = p["feature_group_count"], p["batch_group_count"]
    outs = []
    for g in range(groups * by_batch):
        if by_batch > 1:
            part = x[g * (len(x) // by_batch) : (g + 1) * (len(x) // by_batch)]
        else:
            per = x.shape[1] // groups
            part = x[:, g * per : (g + 1) * per]
        per = len(kernel) // (groups * by_batch)
        outs.append(_correlate(part, kernel[g * per : (g + 1) * per], p["window_strides"], p["rhs_dilation"]))
    return np.concatenate(outs, axis=1).transpose(np.argsort(d.out_spec))


def _correlate(x, kernel, strides, dilations):
    lengths = [
        max(0, (n - (k - 1) * f - 1) // s + 1) for n, k, s, f in zip(x.shape[2:], kernel.shape[2:], strides, dilations)
    ]
    n, c, o = len(x), x.shape[1], len(kernel)
    columns = []
    for u in np.ndindex(kernel.shape[2:]):
        window = tuple(slice(v * f, v * f + (m - 1) * s + 1, s) for v, f, s, m in zip(u, dilations, strides, lengths))
        columns.append(np.moveaxis(x[(slice(None), slice(None), *window)], 1, -1).reshape(-1, c))
    patches = np.concatenate(columns, axis=1) if columns else np.empty((n * math.prod(lengths), 0), object)
    weights = np.moveaxis(kernel.reshape(o, c, -1), 0, -1)  # (c, positions, o)
    product = matmul(patches, weights.transpose(1, 0, 2).reshape(-1, o))
    return np.moveaxis(product.reshape(n, *lengths, o), -1, 1)


def fourier(p, x):
    kind, lengths = str(p["fft_type"]).rpartition(".")[2], p["fft_lengths"]
    kind = {"0": "FFT", "1": "IFFT", "2": "RFFT", "3": "IRFFT"}.get(kind, kind)
    axes = range(x.ndim - len(lengths), x.ndim)
    acb = python_flint().acb
    x = map_balls(acb, x)
    inverse = kind in ("IFFT", "IRFFT")
    if kind == "IRFFT":  # the other half is the conjugate of this one
        last, axis = lengths[-1], x.ndim - 1
        for outer in list(axes)[:-1]:
            x = _dft(x, outer, True)
        x = np.take(x, range(last // 2 + 1), axis)
        ends = x[..., :1], x[..., -1:] if last % 2 == 0 else x[..., :0]
        x[..., :1] = map_balls(lambda value: acb(value.real), ends[0])
        if last % 2 == 0:
            x[..., -1:] = map_balls(lambda value: acb(value.real), ends[1])
        mirrored = map_balls(lambda value: value.conjugate(), x[..., 1 : (last + 1) // 2][..., ::-1])
        return map_balls(lambda value: value.real, _dft(np.concatenate([x, mirrored], axis), axis, True))
    for axis in reversed(axes):
        x = _dft(x, axis, inverse)
        if kind == "RFFT" and axis == x.ndim - 1:
            x = np.take(x, range(lengths[-1] // 2 + 1), axis)
    return x


def _dft(x: Balls, axis: int, inverse: bool) -> Balls:
    moved = np.moveaxis(x, axis, -1)
    out = np.empty(moved.shape, object)
    for row in np.ndindex(moved.shape[:-1]):
        out[row] = python_flint().acb.dft(list(moved[row]), inverse)
    return np.moveaxis(out, -1, axis)


def triangular_solve(p, a, b):
    if not p["left_side"]:
        turned = p | {"left_side": True, "transpose_a": not p["transpose_a"], "lower": p["lower"]}
        return np.swapaxes(triangular_solve(turned, a, np.swapaxes(b, -1, -2)), -1, -2)
    if p["transpose_a"]:
        a = np.swapaxes(map_balls(conjugate, a) if p["conjugate_a"] else a, -1, -2)
    lower = p["lower"] is not p["transpose_a"]
    out = np.array(b)
    n = a.shape[-1]
    for i in range(n) if lower else range(n - 1, -1, -1):
        others = range(i) if lower else range(i + 1, n)
        row = out[..., i, :]
        for j in others:
            row = row - a[..., i, j, None] * out[..., j, :]
        out[..., i, :] = row if p["unit_diagonal"] else row / a[..., i, i, None]
    return out


def cholesky(p, a):
    n = a.shape[-1]
    out = np.array(np.broadcast_to(lift(np.zeros(())), a.shape))
    if a.size and is_complex(a.flat[0]):
        out = map_balls(python_flint().acb, out)
    for j in range(n):
        squares = sum((out[..., j, k] * map_balls(conjugate, out[..., j, k]) for k in range(j)), start=out[..., j, j])
        out[..., j, j] = map_balls(lambda value: value.sqrt(), a[..., j, j] - squares)
        for i in range(j + 1, n):
            row = sum((out[..., i, k] * map_balls(conjugate, out[..., j, k]) for k in range(j)), start=out[..., i, j])
            out[..., i, j] = (a[..., i, j] - row) / out[..., j, j]
    return out


def lu(p, a):
    """LU with partial pivoting; the pivot is the first of the largest entries, decided for certain.

    Of complex entries LAPACK compares |real part| + |imaginary part|.
    """
    size = lambda x: abs(x.real) + abs(x.imag) if is_complex(x) else abs(x)
    m, n = a.shape[-2:]
    out = np.array(a)
    pivots = np.zeros((*a.shape[:-2], min(m, n)), np.int32)
    orders = np.broadcast_to(np.arange(m, dtype=np.int32), (*a.shape[:-2], m)).copy()
    for batch in np.ndindex(a.shape[:-2]):
        matrix = out[batch]
        for k in range(min(m, n)):
            sizes = [size(matrix[i, k]) for i in range(k, m)]
            best = 0
            for i in range(1, len(sizes)):
                best = i if compared(sizes[i], sizes[best]) == 1 else best
            pivots[(*batch, k)] = k + best
            matrix[[k, k + best]] = matrix[[k + best, k]]
            orders[batch][[k, k + best]] = orders[batch][[k + best, k]]
            if matrix[k, k] == 0:
                continue
            for i in range(k + 1, m):
                matrix[i, k] = matrix[i, k] / matrix[k, k]
                matrix[i, k + 1 :] = matrix[i, k + 1 :] - matrix[i, k] * matrix[k, k + 1 :]
    return [out, pivots, orders]


def qr(p, a):
    """Q and R by Householder reflections, whose signs are LAPACK's: −sign(Re α)·‖column‖ on the diagonal of R."""
    if p["pivoting"]:
        raise NoBall("no enclosure of qr with pivoting")
    m, n = a.shape[-2:]
    width = m if p["full_matrices"] else min(m, n)
    qs = np.empty((*a.shape[:-2], m, width), object)
    rs = np.empty((*a.shape[:-2], width, n), object)
    for batch in np.ndindex(a.shape[:-2]):
        r, reflections = np.array(a[batch]), []
        for k in range(min(m, n)):
            column = r[k:, k]
            tail = sum((abs(x) ** 2 for x in column[1:]), start=python_flint().arb(0))
            alpha = column[0]
            if compared(tail, lift(np.zeros(()))[()]) == 0 and not (is_complex(alpha) and alpha.imag != 0):
                continue  # LAPACK leaves such a column as it is
            norm = (abs(alpha) ** 2 + tail).sqrt()
            side = compared(alpha.real, python_flint().arb(0))
            beta = norm if side == -1 else -norm
            v = np.concatenate([lift(np.ones(1)), column[1:] / (alpha - beta)])
            tau = (beta - alpha) / beta
            # (I − τ v vᴴ)ᴴ takes the column to β e₁
            r[k:, k:] = r[k:, k:] - np.outer(v, _conjugates(tau * (_conjugates(r[k:, k:]).T @ v)))
            r[k:, k] = lift(np.zeros(m - k))
            r[k, k] = beta
            reflections.append((k, v, tau))
        q = lift(np.eye(m, width))
        for k, v, tau in reversed(reflections):
            q[k:] = q[k:] - np.outer(v, tau * (_conjugates(v) @ q[k:]))
        qs[batch], rs[batch] = q, r[:width]
    return [qs, rs]


def eigh(p, a):
    """Eigenvectors as columns, and eigenvalues in ascending order, of a Hermitian matrix with eigenvalues apart.

    An eigenvector has a free sign, or phase: it is the one that JAX's own result at the midpoints has.
    """
    if p["subset_by_index"] not in (None, (0, a.shape[-1])) or not p["sort_eigenvalues"]:
        raise NoBall("no enclosure of eigh of a subset, or unsorted")
    vectors, values = np.empty(a.shape, object), np.empty(a.shape[:-1], object)
    for batch in np.ndindex(a.shape[:-2]):
        lower = a[batch] if p["lower"] else _conjugates(a[batch]).T
        matrix = _hermitian(lower)
        like = _in_jax(partial(jnp.linalg.eigh, UPLO="L" if p["lower"] else "U"), matrix)[1]
        vectors[batch], values[batch] = _eigenpairs(matrix, like)
    return [vectors, values]


def svd(p, a):
    """Singular values in descending order, U and Vᴴ, of a matrix whose singular values are apart and not zero.

    From the eigenpairs of AᴴA (or AAᴴ, whichever is smaller): A v = s u. The signs are those of JAX's own result.
    """
    m, n = a.shape[-2:]
    if p["subset_by_index"] not in (None, (0, min(m, n))):
        raise NoBall("no enclosure of some singular values only")
    if p["compute_uv"] and p["full_matrices"] and m != n:
        raise NoBall("no enclosure of the null space of an svd")
    values = np.empty((*a.shape[:-2], min(m, n)), object)
    lefts, rights = np.empty((*a.shape[:-1], min(m, n)), object), np.empty((*a.shape[:-2], min(m, n), n), object)
    for batch in np.ndindex(a.shape[:-2]):
        tall = a[batch] if m >= n else _conjugates(a[batch]).T
        u, _, vh = _in_jax(partial(jnp.linalg.svd, full_matrices=False), a[batch])
        like = (vh.conj().T if m >= n else u)[:, ::-1]
        right, squares = _eigenpairs(_hermitian(matmul(_conjugates(tall).T, tall)), like)
        right, s = right[:, ::-1], map_balls(lambda value: value.sqrt(), squares[::-1])
        left = matmul(tall, right) / s
        u, v = (left, right) if m >= n else (right, left)
        values[batch], lefts[batch], rights[batch] = s, u, _conjugates(v).T
    return [values, lefts, rights] if p["compute_uv"] else [values]


def _eigenpairs(matrix: Balls, like: np.ndarray) -> tuple[Balls, Balls]:
    """Unit eigenvectors and eigenvalues, ascending; the phase of each vector is that of the column of `like`."""
    n, flint = len(matrix), python_flint()
    if not n:
        return matrix, matrix[:, :0].ravel()
    try:
        values, right = flint.acb_mat(n, n, list(matrix.flat)).eig(right=True)
    except ValueError as close:  # they are not isolated: equal, or not at this precision
        if (pairs := _exact_eigenpairs(matrix, like)) is not None:
            return pairs
        raise Open("whether two eigenvalues are equal") from close
    ascending = sorted(range(n), key=lambda i: float(values[i].real.mid()))
    values = [values[i].real for i in ascending]
    if any(compared(low, high) != -1 for low, high in pairwise(values)):
        raise Open("the order of eigenvalues")
    vectors = np.array(right.tolist(), object).reshape(n, n)[:, ascending]
    real = not is_complex(matrix.flat[0])
    for i in range(n):
        v = vectors[:, i]
        along = sum(lift(like[:, i].conj()) * v)
        length = (v * _conjugates(v)).sum().real.sqrt()
        v = v * (along.conjugate() / (abs(along) * length))
        vectors[:, i] = map_balls(lambda x: x.real, v) if real else v
    return vectors, np.array(values, object)


def _exact_eigenpairs(matrix: Balls, like: np.ndarray) -> tuple[Balls, Balls] | None:
    """JAX's own vectors, where they are eigenvectors to the last bit, as those of a multiple of I are; else None."""
    vectors = lift(like)
    adjoint = _conjugates(vectors).T
    products = matmul(adjoint, matmul(matrix, vectors))
    values = np.array([entry.real for entry in np.diag(products)], object)
    differences = products - np.diag(values), matmul(adjoint, vectors) - lift(np.eye(len(like)))
    return (vectors, values) if all(x == 0 for d in differences for x in d.flat) else None


def _in_jax(factorise: Callable[..., Sequence[jax.Array]], matrix: Balls) -> list[np.ndarray]:
    with jax.enable_x64(True):
        return list(map(np.asarray, factorise(rounded(matrix))))


def _hermitian(a: Balls) -> Balls:
    """The Hermitian matrix of the lower triangle; of its diagonal LAPACK reads the real part."""
    out = np.array(a)
    for i, j in np.ndindex(a.shape):
        if i < j:
            out[i, j] = conjugate(a[j, i])
        elif i == j and is_complex(a[i, i]):
            out[i, i] = python_flint().acb(a[i, i].real)
    return out


def _conjugates(x: Balls) -> Balls:
    return map_balls(conjugate, x)


CUBIC = {"cholesky": 1, "lu": 1, "triangular_solve": 1, "qr": 4, "eigh": 30, "svd": 30}
"""Primitives whose work is an output's size times the length of the matrix, with about how many times as much of it."""

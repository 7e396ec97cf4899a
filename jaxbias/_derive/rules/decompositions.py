"""Linear systems, triangular factors, determinants: their error signals are solutions of the transposed systems.

Source: M. Giles, An extended collection of matrix derivative results (2008), sections 2.2 and 2.3; S. Särkkä, Bayesian
Filtering and Smoothing (2013), theorem A.1, for the Cholesky factor.
"""

from collections.abc import Sequence

import numpy as np

from jaxbias._derive.rules.rule import NoRule, rule, shape_of
from jaxbias.symbols import expressions as ex
from jaxbias.symbols.expressions import Expression


def _turned(x: Expression) -> Expression:
    """The last two axes exchanged."""
    return ex.transpose(x, (*range(x.ndim - 2), x.ndim - 1, x.ndim - 2))


def _product(a: Expression, b: Expression) -> Expression:
    """a @ b of two matrices, or stacks of as many."""
    lead = tuple(range(a.ndim - 2))
    return ex.contract(a, b, ((a.ndim - 1,), (b.ndim - 2,)), (lead, lead), a.dtype)


def _call(text: str, args: Sequence[Expression], like: Expression) -> Expression:
    return ex.call(text, args, like.shape, like.dtype)


@rule("cholesky")
class _Cholesky:
    read = staticmethod(lambda eq, args: _call("jnp.linalg.cholesky({0}, symmetrize_input=False)", args, args[0]))

    @staticmethod
    def pull(eq, args, out, d):
        """L⁻ᵀ Φ(Lᵀδ) L⁻¹, where Φ keeps the lower triangle and half of the diagonal."""
        m = _product(_turned(out), d)
        n = out.shape[-1]
        phi = _call(f"(jnp.tril({{0}}) - jnp.eye({n}, dtype={{0}}.dtype) * {{0}} / 2)", [m], m)
        if np.dtype(out.dtype).kind == "c":
            raise NoRule
        left = _call("jax.lax.linalg.triangular_solve({0}, {1}, left_side=True, lower=True, transpose_a=True)",
                     [out, phi], out)  # fmt: skip
        return [_call("jax.lax.linalg.triangular_solve({0}, {1}, lower=True)", [out, left], out)]


@rule("triangular_solve")
class _TriangularSolve:
    @staticmethod
    def solve(eq, a: Expression, b: Expression, transpose_a: bool) -> Expression:
        words = ["left_side=True"] * bool(eq.params["left_side"]) + ["lower=True"] * bool(eq.params["lower"])
        words += ["transpose_a=True"] * transpose_a + ["unit_diagonal=True"] * bool(eq.params["unit_diagonal"])
        return _call(f"jax.lax.linalg.triangular_solve({', '.join(['{0}', '{1}', *words])})", [a, b], b)

    @staticmethod
    def read(eq, args):
        if np.dtype(args[0].dtype).kind == "c":
            raise NoRule
        return _TriangularSolve.solve(eq, *args, bool(eq.params["transpose_a"]))

    @staticmethod
    def pull(eq, args, out, d):
        """With d_b the solution for δ of the transposed system, −d_b outᵀ inside of the triangle."""
        a, b = args
        transposed, left = bool(eq.params["transpose_a"]), bool(eq.params["left_side"])
        d_b = _TriangularSolve.solve(eq, a, d, not transposed)
        first, second = (d_b, _turned(out)) if left else (_turned(out), d_b)
        whole = _product(_turned(second), _turned(first)) if transposed else _product(first, second)
        diagonal = "" if not eq.params["unit_diagonal"] else ", -1" if eq.params["lower"] else ", 1"
        kept = "jnp.tril" if eq.params["lower"] else "jnp.triu"
        return [ex.negative(_call(f"{kept}({{0}}{diagonal})", [whole], a)), d_b]


@rule("custom_linear_solve")
class _Solve:
    """`jnp.linalg.solve`, whose right-hand sides are rows here; others are left to JAX."""

    @staticmethod
    def solve(a: Expression, b: Expression) -> Expression:
        if a.ndim == 2 and b.ndim == 1:
            return _call("jnp.linalg.solve({0}, {1})", [a, b], b)
        if a.ndim == b.ndim == 2:
            return _turned(_call("jnp.linalg.solve({0}, {1})", [a, _turned(b)], _turned(b)))
        return _call("jnp.linalg.solve({0}, {1}[..., None])[..., 0]", [a, b], b)

    @staticmethod
    def parts(eq, args) -> tuple[Expression, Expression]:
        counts = eq.params["const_lengths"]
        if counts.matvec != 1 or counts.solve != 2 or len(args) != sum(counts) + 1:
            raise NoRule
        a, b, factors = args[0], args[-1], args[counts.matvec + counts.vecmat]
        usual = a.ndim == 2 if b.ndim <= 2 else a.ndim == b.ndim + 1
        usual = usual or (a.ndim == b.ndim + 1)
        if not usual or factors.shape != a.shape or a.shape[-2:] != b.shape[-1:] * 2:
            raise NoRule
        return a, b

    @staticmethod
    def read(eq, args):
        return _Solve.solve(*_Solve.parts(eq, args))

    @staticmethod
    def pull(eq, args, out, d):
        a, b = _Solve.parts(eq, args)
        d_b = _Solve.solve(_turned(a), d)
        if a.ndim == 2:
            rows = tuple(range(b.ndim - 1))
            outer = ex.contract(d_b, out, (rows, rows), ((), ()), a.dtype)
        else:
            lead = tuple(range(b.ndim - 1))
            outer = ex.contract(d_b, out, ((), ()), (lead, lead), a.dtype)
        return [ex.negative(outer), *[None] * (len(args) - 2), d_b]


def _inverse(a: Expression) -> Expression:
    return _turned(_call("jnp.linalg.inv({0})", [a], a))


def _over_matrix(d: Expression) -> Expression:
    return ex.expand(d, (d.ndim, d.ndim + 1)) if d.ndim else d


@rule("_slogdet_lu", outputs=2)
class _LogDet:
    @staticmethod
    def read(eq, args):
        forms = zip(eq.shapes.outputs, eq.dtypes.outputs)
        return [ex.call(f"jnp.linalg.slogdet({{0}})[{k}]", args, *form) for k, form in enumerate(forms)]

    @staticmethod
    def pull(eq, args, out, d):
        """δ A⁻ᵀ; the sign is constant."""
        return [None if d[1] is None else ex.multiply(_over_matrix(d[1]), _inverse(args[0]))]


@rule("_slogdet_lu of 1")
class _OneOfLogDet:
    """Where only one of the two is used: the sign needs no logarithm."""

    @staticmethod
    def place(eq) -> int:
        return int(any(equation.name == "log" for equation in eq.bodies[0].equations))

    @staticmethod
    def read(eq, args):
        text = f"jnp.linalg.slogdet({{0}})[{_OneOfLogDet.place(eq)}]"
        return ex.call(text, args, shape_of(eq), eq.dtypes.outputs[0])

    @staticmethod
    def pull(eq, args, out, d):
        return [ex.multiply(_over_matrix(d), _inverse(args[0])) if _OneOfLogDet.place(eq) else None]

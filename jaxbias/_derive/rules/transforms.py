"""Complex numbers and Fourier transforms."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from jaxbias._derive.rules.rule import RULES, NoRule, rule, shape_of
from jaxbias.symbols import expressions as ex
from jaxbias.symbols.expressions import Expression


@rule("real")
class _Real:
    read = staticmethod(lambda eq, args: ex.call("{0}.real", args, shape_of(eq), eq.dtypes.outputs[0]))
    pull = staticmethod(lambda eq, args, out, d: [ex.cast(d, args[0].dtype)])


@rule("imag")
class _Imag:
    read = staticmethod(lambda eq, args: ex.call("{0}.imag", args, shape_of(eq), eq.dtypes.outputs[0]))
    pull = staticmethod(lambda eq, args, out, d: [ex.call("-1j * {0}.astype(jnp.complex64)"
        if str(args[0].dtype) == "complex64" else "-1j * {0}", [d], d.shape, args[0].dtype)])  # fmt: skip


@rule("conj")
class _Conj:
    read = staticmethod(lambda eq, args: ex.call("{0}.conj()", args, shape_of(eq), eq.dtypes.outputs[0]))
    pull = staticmethod(lambda eq, args, out, d: [ex.call("{0}.conj()", [d], d.shape, d.dtype)
        if np.dtype(args[0].dtype).kind == "c" else ex.call("{0}.real", [d], d.shape, args[0].dtype)])  # fmt: skip


def _transform(kind: str, x: Expression, lengths: Sequence[int], shape: Sequence[int], dtype: Any) -> Expression:
    """A transform over the last axes."""
    if len(lengths) == 1:
        n = f", n={lengths[0]}" if kind == "irfft" and lengths[0] % 2 else ""
        return ex.call(f"jnp.fft.{kind}({{0}}{n})", [x], shape, dtype)
    axes = ", ".join(str(k) for k in range(-len(lengths), 0))
    sizes = f", s=({', '.join(map(str, lengths))})" if kind == "irfft" else ""
    return ex.call(f"jnp.fft.{kind}n({{0}}{sizes}, axes=({axes}))", [x], shape, dtype)


@rule("fft")
class _Fft:
    @staticmethod
    def kind(eq):
        kind = eq.params["fft_type"]
        return ("fft", "ifft", "rfft", "irfft")[int(kind)] if not isinstance(kind, str) else kind.lower()

    @staticmethod
    def read(eq, args):
        return _transform(_Fft.kind(eq), args[0], eq.params["fft_lengths"], shape_of(eq), eq.dtypes.outputs[0])

    @staticmethod
    def pull(eq, args, out, d):
        (x,), kind, lengths = args, _Fft.kind(eq), eq.params["fft_lengths"]
        if kind in ("fft", "ifft"):  # symmetric matrices
            return [_transform(kind, d, lengths, d.shape, x.dtype)]
        if len(lengths) > 1:
            raise NoRule
        n, half = lengths[0], lengths[0] // 2 + 1
        if kind == "rfft":
            pad = [(0, 0)] * (d.ndim - 1) + [(0, n - half)]
            full = ex.call(f"jnp.pad({{0}}, {tuple(pad)})", [d], (*d.shape[:-1], n), d.dtype)
            return [ex.call("jnp.fft.fft({0}).real", [full], x.shape, x.dtype)]
        middle = f"[1{', 2' * (half - 1 - (n % 2 == 0))}{', 1' if n % 2 == 0 else ''}]"
        weights = ex.call(f"jnp.array({middle})", [], x.shape[-1:], x.dtype)
        spectrum = ex.call("jnp.fft.rfft({0})", [d], x.shape, x.dtype)
        scaled = ex.divide(ex.multiply(weights, spectrum), ex.number(n, d.dtype))
        return [ex.call("{0}.conj()", [scaled], x.shape, x.dtype)]


_plain_abs = RULES["abs"]


@rule("abs")
class _Abs:
    read = staticmethod(lambda eq, args: ex.apply("jnp.abs", args[0], dtype=eq.dtypes.outputs[0]))

    @staticmethod
    def pull(eq, args, out, d):
        x = args[0]
        if np.dtype(x.dtype).kind != "c":
            return _plain_abs.pull(eq, args, out, d)
        return [ex.call("{0} * {1}.conj() / {2}", [d, x, out], x.shape, x.dtype)]

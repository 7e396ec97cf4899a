"""What `jb.derive` writes, against autodiff of the same forward: time of value and gradients, and bytes kept.

A forward is derived once, at small sizes; what was written runs at all of them. Residual bytes are the compiler's: the
outputs of a program that hands the residuals out, less the output of the forward itself.
"""

import functools
from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp

import jaxbias as jb
from benchmarks.case import Case, Setting, run_cases
from benchmarks.record import Record
from benchmarks.timing import compile_apart
from docs.forwards import FORWARDS, Shown

SUITE = "derived"
NAMES = (
    "dense_tanh", "layer_norm", "rms_norm", "batch_norm", "weight_norm", "swiglu", "gelu_mlp", "attention",
    "soft_cross_entropy", "contrastive", "gaussian_likelihood", "rnn", "diagonal_recurrence",
)  # fmt: skip
SIZES = {"tiny": (4, 6, 5), "quick": (256, 256, 64), "full": (1024, 1024, 256)}
TINY = ("swiglu", "soft_cross_entropy")
"""What the tests run, under strict promotion of ranks, which not all of these forwards keep to, nor then their code."""


@functools.cache
def derived(forward: Shown) -> jb.Derived:
    """What is written for it; in float64, so that its numbers have all digits."""
    with jax.enable_x64(True):
        args = tuple(jax.ShapeDtypeStruct(x.shape, jnp.float64) for x in forward.shapes(*SIZES["tiny"]))
        return jb.derive(forward.function, args)


def _arguments(forward: Shown, sizes: Any, dtype: Any) -> tuple[jax.Array, ...]:
    keys = jax.random.split(jax.random.key(3), 8)
    shapes = forward.shapes(sizes["n"], sizes["d"], sizes["h"])
    return tuple(jax.random.normal(key, x.shape, dtype) / x.shape[-1] ** 0.5 for key, x in zip(keys, shapes))


def _build(forward: Shown):
    def build(sizes, dtype):
        args = _arguments(forward, sizes, dtype)
        out = jax.eval_shape(forward.function, *args)
        delta = jax.random.normal(jax.random.key(4), out.shape, dtype)

        def differentiated(function):
            def run(delta, *args):
                value, pull_back = jax.vjp(function, *args)
                return value, pull_back(delta)

            return run

        contenders = {
            "derived": differentiated(derived(forward).function),
            "autodiff": differentiated(forward.function),
        }
        return contenders, (delta, *args)

    return build


def kept_by(forward: Shown):
    """Bytes that the compiler has a program hand out for the backward pass."""

    def kept(sizes, dtype):
        args = _arguments(forward, sizes, dtype)
        out = jax.eval_shape(forward.function, *args)
        functions = {"derived": derived(forward).function, "autodiff": forward.function}
        made = {name: compile_apart(lambda *a, f=f: jax.vjp(f, *a), *args) for name, f in functions.items()}
        return {
            name: program.output_bytes - out.size * out.dtype.itemsize
            for name, program in made.items()
            if program.output_bytes is not None
        }

    return kept


def cases(setting: Setting) -> Iterator[Case]:
    for name in TINY if setting.scale == "tiny" else NAMES:
        forward = FORWARDS[name]
        sizes, small = (dict(zip("ndh", SIZES[scale])) for scale in (setting.scale, "tiny"))
        yield Case(
            SUITE, name.replace("_", " "), sizes, _build(forward), small, "derived", "autodiff",
            residual_bytes=kept_by(forward),
        )  # fmt: skip


def run(setting: Setting) -> Iterator[list[Record]]:
    yield from run_cases(cases(setting), setting)

"""What is kept for the backward pass, by the compiler: bytes that a program hands out besides its value."""

import jax
import jax.numpy as jnp
import pytest

from benchmarks import bench_derived

pytestmark = pytest.mark.usefixtures("as_users_run_it", "by_the_rules_of_jax")
FEWER = 10
"""Forwards of the benchmark of which less is kept than autodiff keeps."""


SIZES = (48, 40, 36)
POINTERS = 96
"""Bytes of the table of a program's outputs, 8 for each, which the compiler counts too."""


def kept(name):
    sizes = dict(zip("ndh", SIZES))
    with jax.enable_x64(False):
        return bench_derived.kept_by(bench_derived.FORWARDS[name])(sizes, jnp.float32)


def test_of_a_dense_layer_what_paper_says():
    """Of a = tanh(x W + b): W, x and a."""
    n, d, h = SIZES
    assert 0 <= kept("dense_tanh")["derived"] - 4 * (d * h + n * d + n * h) <= POINTERS


@pytest.mark.slow
def test_ten_keep_fewer_bytes_than_autodiff():
    every = {name: kept(name) for name in bench_derived.NAMES}
    fewer = {name for name, bytes_of in every.items() if bytes_of["derived"] + POINTERS < bytes_of["autodiff"]}
    assert len(fewer) >= FEWER, every

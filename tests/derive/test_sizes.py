"""Code that holds at other sizes than those it was derived at, and under the rank promotion that its forward takes."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

import jaxbias as jb
from jaxbias._derive import derived, writing
from jaxbias._derive.by_size import Size, renamed

pytestmark = pytest.mark.usefixtures("as_users_run_it", "by_the_rules_of_jax")


def normal(*shapes):
    draw = np.random.default_rng(0)
    return tuple(jnp.asarray(draw.standard_normal(shape), jnp.float32) for shape in shapes)


def heads(x, W):
    n, length, width = x.shape
    q, k, v = jnp.split((x @ W).reshape(n, length, 3, 2, width // 2), 3, axis=2)
    s = jnp.einsum("nlchd,nmchd->nchlm", q, k) / (width // 2) ** 0.5
    s = jnp.where(jnp.arange(length)[:, None] >= jnp.arange(length), s, -1e9)
    return jnp.einsum("nchlm,nmchd->nlchd", jax.nn.softmax(s), v).reshape(n, length, width)


def gates(xs, W, U, h):
    def step(h, x):
        f, g = jnp.split(x @ W + h @ U, 2, axis=-1)
        h = jax.nn.sigmoid(f) * h + jnp.tanh(g)
        return h, h

    return lax.scan(step, h, xs)[1]


def pooled(x, W):
    flat = x.reshape(x.shape[0] * x.shape[1], x.shape[2]) @ W
    return flat.reshape(x.shape[0], x.shape[1], -1)[:, 1:].sum(axis=1) / (x.shape[1] - 1)


def joined(x, y, W):
    z = jnp.concatenate([x, y], axis=-1) @ W
    return z[:, : x.shape[1]] * x


CASES = {
    "heads": (heads, [(2, 3, 4), (4, 12)], [(3, 5, 8), (8, 24)]),
    "gates": (gates, [(5, 2, 3), (3, 8), (4, 8), (2, 4)], [(7, 3, 6), (6, 10), (5, 10), (3, 5)]),
    "pooled": (pooled, [(2, 5, 3), (3, 4)], [(3, 4, 6), (6, 7)]),
    "joined": (joined, [(5, 2), (5, 3), (5, 6)], [(4, 3), (4, 6), (9, 5)]),
}


def wrong_leaves(code, forward, args):
    """Of output and gradients of the code, those that are not the function's."""
    namespace = {}
    exec(code, namespace)
    out, residuals = namespace["forward"](*args)
    expected, pull = jax.vjp(forward, *args)
    delta = jnp.cos(jnp.arange(out.size, dtype=out.dtype)).reshape(out.shape)
    errors = jb.verify.relative_errors(
        actual=(out, *namespace["backward"](residuals, delta)), expected=(expected, *pull(delta))
    )
    return {leaf: error for leaf, error in errors.items() if not error < 1e-4}


@pytest.mark.parametrize("name", CASES)
def test_the_code_holds_at_other_sizes(name):
    forward, here, there = CASES[name]
    written = jb.derive(forward, normal(*here))
    assert written.any_size
    for shapes in (here, there):
        assert not wrong_leaves(written.code, forward, normal(*shapes))
    assert ".shape[" in written.code and any(".shape[" in left + right for left, right in written.steps)


def test_sizes_are_those_of_what_is_at_hand():
    code = jb.derive(pooled, normal((2, 5, 3), (3, 4))).code
    assert "flat = x.reshape(x.shape[0] * x.shape[1], x.shape[-1]) @ W" in code
    assert "x.shape[1] - 1" in code.partition("def backward")[2]


def test_a_size_that_the_function_holds_stays_a_number():
    def of_five(x, W):
        return (x @ W).reshape(x.shape[0], 5, 2).sum(axis=1)

    written = jb.derive(of_five, normal((3, 4), (4, 10)))
    assert written.any_size and ".reshape(x.shape[0], 5, 2)" in written.code
    assert not wrong_leaves(written.code, of_five, normal((7, 6), (6, 10)))

    mask = jnp.arange(12.0, dtype=jnp.float32).reshape(3, 4) > 5
    written = jb.derive(lambda x: jnp.where(mask, x, 0).reshape(4, 3), normal((3, 4)))
    assert not written.any_size and ".reshape(4, 3)" in written.code


def test_a_number_by_chance_is_no_size():
    sizes = [Size("x.shape[0]", (4, 5, 9)), Size("x.shape[-1]", (6, 8, 7))]
    assert renamed(["x.reshape(2, 12)", "x.reshape(4, 10)", "x.reshape(3, 21)"], sizes) is None
    assert renamed(["x[:2] + 0.5", "x[:3] + 0.5", "x[:7] + 0.5"], sizes) == "x[: x.shape[0] - 2] + 0.5"
    assert renamed(["x / 4", "x / 5", "x * 9"], sizes) is None
    assert renamed(["x[1:4]", "x[1:5]", "x[1:9]"], sizes) == "x[1 : x.shape[0]]"
    assert renamed(["x[-1]", "x[3]", "x[3]"], sizes) == "x[3]"
    assert renamed(["3 * x / 24", "3 * x / 40", "3 * x / 63"], sizes) == "3 * x / (x.shape[0] * x.shape[-1])"


def test_a_wrong_name_is_found_out(monkeypatch):
    """Two sizes exchanged: what holds only here has its numbers."""
    args = normal((2, 5, 3), (3, 4))
    exchanged = lambda texts, sizes: (
        renamed(texts, sizes).replace("shape[0]", "shape[k]").replace("shape[1]", "shape[0]").replace("[k]", "[1]")
    )
    monkeypatch.setattr(writing, "renamed", exchanged)
    written = jb.derive(pooled, args)
    assert not written.any_size and "x.reshape(10, 3)" in written.code
    monkeypatch.setattr(derived, "holds_at", lambda *args: True)
    with pytest.raises(ValueError, match="returned shape"):
        jb.derive(pooled, args)


def with_ranks(W, b, gain, x):
    mean = x.mean(axis=-1, keepdims=True)
    return jnp.tanh((x - mean) * gain[None, :]) @ W - 2 * b[None, :]


def test_ranks_are_written_out_where_the_forward_has_them():
    args = normal((3, 4), (4,), (3,), (5, 3))
    code = jb.derive(with_ranks, args).code
    assert "gain[None, :]" in code and "- 2 * b[None, :]" in code
    with jax.numpy_rank_promotion("raise"):
        assert not wrong_leaves(code, with_ranks, args)
        assert jb.derive(with_ranks, args).code == code
    loose = jb.derive(lambda W, b, x: x @ W + b, normal((3, 4), (4,), (5, 3))).code
    assert "x @ W + b" in loose
    with jax.numpy_rank_promotion("raise"), pytest.raises(ValueError, match="could not be broadcast"):
        wrong_leaves(loose, lambda W, b, x: x @ W + b[None, :], normal((3, 4), (4,), (5, 3)))

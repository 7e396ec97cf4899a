"""Right rules that are hard to judge: none of them may be called wrong, in any dtype."""

import os
import time

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxbias import selfcheck, verify
from jaxbias.derivation import instance
from jaxbias.verify import decide
from jaxbias.verify.checker import Checker
from jaxbias.verify.entrances import vjp_problem

pytestmark = pytest.mark.usefixtures("as_users_run_it")
"""Checking the types of every call on a ball takes longer than the check."""

RIGHT = {}
"""name -> (forward, rule, draw): rules that are right, and `draw(rng)` gives their arguments in float64."""


def right(draw, forward):
    def register(rule):
        RIGHT[rule.__name__] = forward, rule, draw
        return rule

    return register


def normal(*shapes):
    return lambda rng: tuple(rng.standard_normal(shape) for shape in shapes)


# --- kinks and ties ---------------------------------------------------------------------------------------------------


@right(lambda rng: (np.where(rng.uniform(size=(5, 4)) < 0.4, 0, rng.standard_normal((5, 4))),), lambda x: jnp.abs(x))
def abs_sign(args, ct):
    return (ct * jnp.sign(args[0]),)


@right(lambda rng: (np.array([0.0, -1.0, 2.0, 0.0]),), lambda x: jnp.maximum(x, 0))
def relu_one_at_zero(args, ct):
    return (jnp.where(args[0] >= 0, ct, 0),)


@right(lambda rng: (rng.integers(-2, 3, (6, 5)).astype(float),), lambda x: jnp.clip(x, -1, 1))
def clip_inside(args, ct):
    return (jnp.where((args[0] > -1) & (args[0] < 1), ct, 0),)


@right(lambda rng: (rng.integers(0, 3, (4, 6)).astype(float),), lambda x: x.max(axis=1))
def max_to_the_first(args, ct):
    return (ct[:, None] * jax.nn.one_hot(args[0].argmax(axis=1), 6, dtype=ct.dtype),)


@right(lambda rng: (rng.integers(0, 3, (4, 6)).astype(float),), lambda x: x.max(axis=1))
def max_shared_among_ties(args, ct):
    tied = (args[0] == args[0].max(axis=1, keepdims=True)).astype(ct.dtype)
    return (ct[:, None] * tied / tied.sum(axis=1, keepdims=True),)


@right(lambda rng: (rng.integers(0, 4, 8).astype(float), rng.standard_normal(8)), lambda x, w: (jnp.sort(x) * w).sum())
def sort_with_ties(args, ct):
    x, w = args
    order = jnp.argsort(x)
    return jnp.zeros_like(x).at[order].set(ct * w), ct * jnp.sort(x)


@right(lambda rng: (rng.standard_normal((3, 4)), rng.standard_normal((3, 4))), lambda x, y: jnp.maximum(x, y))
def maximum_of_two(args, ct):
    x, y = args
    return jnp.where(x >= y, ct, 0), jnp.where(x >= y, 0, ct)


# --- saturation, overflow, cancellation -------------------------------------------------------------------------------


@right(lambda rng: (30 * rng.standard_normal((5, 4)),), lambda x: jnp.tanh(x))
def saturated_tanh(args, ct):
    y = jnp.tanh(args[0])
    return (ct * (1 - y) * (1 + y),)


@right(lambda rng: (40 * rng.standard_normal((5, 4)),), lambda z: jax.nn.log_softmax(z))
def saturated_log_softmax(args, ct):
    return (ct - jax.nn.softmax(args[0]) * ct.sum(axis=-1, keepdims=True),)


@right(lambda rng: (60 * rng.standard_normal(9),), lambda x: jax.nn.softplus(x).sum())
def saturated_softplus(args, ct):
    return (ct * jax.nn.sigmoid(args[0]),)


@right(lambda rng: (100 + 0.01 * rng.standard_normal((6, 8)),), lambda x: (x - x.mean(1, keepdims=True)) ** 2)
def small_variance(args, ct):
    x = args[0]
    d = 2 * ct * (x - x.mean(axis=1, keepdims=True))
    return (d - d.mean(axis=1, keepdims=True),)


def normed(x, bias):
    z = x + bias[None, :]
    z = z - z.mean(axis=0, keepdims=True)
    return z * jax.lax.rsqrt((z * z).mean(axis=0, keepdims=True) + 1e-3)


@right(normal((8, 3), (3,)), normed)
def bias_before_a_norm_is_zero(args, ct):
    x, bias = args
    z = x + bias[None, :]
    z = z - z.mean(axis=0, keepdims=True)
    r = jax.lax.rsqrt((z * z).mean(axis=0, keepdims=True) + 1e-3)
    a = z * r
    dx = r * (ct - ct.mean(axis=0, keepdims=True) - a * (ct * a).mean(axis=0, keepdims=True))
    return dx, jnp.zeros_like(bias)


@right(normal((8, 3), (3,)), normed)
def bias_before_a_norm_is_summed(args, ct):
    dx, _ = bias_before_a_norm_is_zero(args, ct)
    return dx, dx.sum(axis=0)


@right(normal((5, 4), (6, 4), (4,)), lambda q, k, b: jax.nn.softmax(q @ (k + b[None, :]).T))
def key_bias_is_none(args, ct):
    q, k, b = args
    keys = k + b[None, :]
    p = jax.nn.softmax(q @ keys.T)
    ds = p * (ct - (p * ct).sum(axis=-1, keepdims=True))
    return ds @ keys, ds.T @ q, None  # the rows of ds sum to zero


@right(lambda rng: (rng.standard_normal(3000),), lambda x: (x.astype(jnp.float32) ** 2).mean())
def long_mean(args, ct):
    x = args[0]
    return ((ct * 2 / x.size).astype(x.dtype) * x,)


@right(normal((4,)), lambda w: (w**3).sum() + 0.5e-6 * (w**2).sum())
def small_regulariser(args, ct):
    w = args[0]
    return (ct * (3 * w**2 + 1e-6 * w),)


# --- tied, integer, None, nested --------------------------------------------------------------------------------------


@right(normal((4, 3), (3, 3)), lambda x, w: jnp.tanh(jnp.tanh(x @ w) @ w))
def tied_weight(args, ct):
    x, w = args
    a = jnp.tanh(x @ w)
    b = jnp.tanh(a @ w)
    d2 = ct * (1 - b * b)
    d1 = (d2 @ w.T) * (1 - a * a)
    return d1 @ w.T, a.T @ d2 + x.T @ d1


@right(lambda rng: (rng.standard_normal((5, 3)), rng.integers(0, 5, (7,)), None), lambda table, ids, unused: table[ids])
def embedding_with_repeats(args, ct):
    table, ids, _ = args
    return jnp.zeros_like(table).at[ids].add(ct), None, None


@right(lambda rng: (rng.standard_normal((5, 3)), rng.integers(0, 5, (7,))), lambda table, ids: table[ids])
def embedding_one_hot(args, ct):
    table, ids = args
    return jax.nn.one_hot(ids, 5, dtype=ct.dtype).T @ ct, np.zeros(7, jax.dtypes.float0)


@right(
    lambda rng: ({"w": rng.standard_normal((3, 2)), "b": None}, rng.standard_normal((4, 3))),
    lambda params, x: {"out": x @ params["w"], "count": jnp.arange(3)},
)
def nested_with_an_absent_bias(args, ct):
    params, x = args
    return {"w": x.T @ ct["out"], "b": None}, ct["out"] @ params["w"].T


@right(lambda rng: (rng.standard_normal((4, 3)), rng.uniform(size=(4, 3)) < 0.5), lambda x, m: jnp.where(m, x, 0) * 2)
def boolean_mask(args, ct):
    x, mask = args
    return jnp.where(mask, 2 * ct, 0), None


@right(normal((6, 4)), lambda x: jax.lax.stop_gradient(x).mean() * x)
def stopped(args, ct):
    return (args[0].mean() * ct,)


# --- other residuals, more accurate than autodiff ---------------------------------------------------------------------


@right(normal((5, 4)), lambda x: jax.nn.sigmoid(x))
def from_the_output(args, ct):
    y = jax.nn.sigmoid(args[0])
    return (ct * y * (1 - y),)


@right(lambda rng: (np.exp(rng.standard_normal((5, 4))),), lambda x: jnp.sqrt(x))
def root_from_its_value(args, ct):
    return (ct / (2 * jnp.sqrt(args[0])),)


@right(normal((5, 4)), lambda x: jnp.log(jnp.exp(x).sum(axis=1)))
def shifted_logsumexp(args, ct):
    return (ct[:, None] * jax.nn.softmax(args[0], axis=1),)


@right(normal((5, 4)), lambda z: -jnp.log(jnp.exp(z)[:, 0] / jnp.exp(z).sum(axis=1)).mean())
def fused_cross_entropy(args, ct):
    z = args[0]
    y = jax.nn.one_hot(jnp.zeros(5, int), 4, dtype=z.dtype)
    return (ct * (jax.nn.softmax(z) - y) / 5,)


@right(normal((6, 5)), lambda x: (x**2).mean(1) - x.mean(1) ** 2)
def two_pass_variance(args, ct):
    x = args[0]
    return (2 * ct[:, None] * (x - x.mean(axis=1, keepdims=True)) / 5,)


@right(normal((7, 3), (3, 2)), lambda x, w: jax.nn.relu(x @ w))
def accumulated_in_float32(args, ct):
    x, w = args
    wide = jnp.promote_types(x.dtype, jnp.float32)
    d = jnp.where(x.astype(wide) @ w.astype(wide) > 0, ct.astype(wide), 0)
    return (d @ w.astype(wide).T).astype(x.dtype), (x.astype(wide).T @ d).astype(w.dtype)


@right(lambda rng: (1e-3 * rng.standard_normal(6),), lambda x: (1 - jnp.cos(x)) / x)
def series_near_zero(args, ct):
    x = args[0]
    return (ct * (0.5 - x * x / 8 + x**4 / 144),)


DTYPES = jnp.float64, jnp.float32, jnp.bfloat16


def alarm(name, dtype, seed):
    """The report of a right rule that is called wrong, or None."""
    forward, rule, draw = RIGHT[name]
    held = lambda x: jnp.asarray(x, dtype) if np.asarray(x).dtype.kind == "f" else jnp.asarray(x)
    args = jax.tree.map(held, draw(np.random.default_rng(seed)))
    with jax.numpy_dtype_promotion("standard"):
        report = verify.vjp(forward, rule, args, key=jax.random.key(seed), diagnose=False)
    return None if report.ok else f"{name}, {jnp.dtype(dtype).name}, seed {seed}\n{report}"


@pytest.mark.parametrize("name", list(RIGHT)[::2])
def test_right_rules(name):
    assert alarm(name, DTYPES[list(RIGHT).index(name) % 3], 0) is None


@pytest.mark.slow
@pytest.mark.parametrize("dtype", DTYPES)
def test_right_rules_in_every_dtype(dtype):
    assert [found for name in RIGHT if (found := alarm(name, dtype, 1))] == []


# --- the library's own derivations ------------------------------------------------------------------------------------

EXAMPLES = [
    (f"{derivation.name}, {example.label}", example)
    for derivation in (*selfcheck.layer_derivations().values(), *selfcheck.loss_derivations().values())
    for example in derivation.examples
]


def library_alarms(example, dtype, seeds):
    """Reports of one of the library's derivations that call it wrong, one input per seed; it is traced once."""
    first = instance(example, jax.random.key(seeds[0]), dtype)
    forward = lambda params, x: first.forward(params, x)[0]
    rule = lambda args, ct: tuple(first.backward(first.forward(*args)[1], ct))
    flat = vjp_problem(forward, rule, (first.params, first.x), None, ["params", "x"], None, "verify.vjp")
    checker, found = Checker(flat), []
    for seed in seeds:
        drawn = instance(example, jax.random.key(seed), dtype)
        checker.deadline = time.process_time() + checker.seconds  # of each check
        flat.primals = [x if isinstance(x, jax.Array) else np.asarray(x) for x in jax.tree.leaves(drawn[2:4])]
        report = decide.check(flat, key=jax.random.key(seed), diagnose=False, checker=checker)
        if not report.ok:
            found.append(f"{jnp.dtype(dtype).name}, seed {seed}\n{report}")
    return found


@pytest.mark.parametrize("k", range(0, len(EXAMPLES), 29), ids=lambda k: EXAMPLES[k][0])
def test_the_library(k):
    assert library_alarms(EXAMPLES[k][1], DTYPES[k % 3], [k]) == []


@pytest.mark.slow
@pytest.mark.parametrize("part", range(3))
def test_the_whole_library(part):
    """Every other example in one dtype, 5 seeds; with JAXBIAS_SEEDS=50 all in every dtype with 50, for half an hour."""
    seeds = os.environ.get("JAXBIAS_SEEDS")
    alarms = {
        (name, dtype.__name__): library_alarms(example, dtype, range(int(seeds or 5)))
        for k, (name, example) in enumerate(EXAMPLES)
        for dtype in (DTYPES if seeds else DTYPES[k // 3 % 3 :][:1])
        if k % 3 == part and (seeds or k % 2)
    }
    assert {name: found for name, found in alarms.items() if found} == {}

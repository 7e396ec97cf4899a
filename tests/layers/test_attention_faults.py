"""Mistakes planted in the passes of attention, each of which must be caught in the leaves that it reaches."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxbias.derivation import Example, normal
from jaxbias.layers import _attention as core
from jaxbias.layers import _distance, _query_norm, attention
from tests.planted import assert_caught, right_answer

Inputs = attention.Inputs


def everything(key, dtype):
    keys = jax.random.split(key)
    return Inputs(normal(keys[0], (2, 3, 3), dtype), None, None, normal(keys[1], (4, 1, 3), dtype))


EVERYTHING = Example(
    "everything",
    attention.layer(
        4, 4, key_heads=2, rotary="half", rotary_size=2, norm="rms", position="buckets", buckets=4, max_distance=3,
        sink=True, softcap=2.0, append_key=True, dropout=0.3,
    ),
    everything,
)  # fmt: skip
Q, K, V = ({f"0.{name}.weight", f"0.{name}.bias"} for name in ("query", "key", "value"))
Q, K = Q | {"0.query_norm.weight"}, K | {"0.key_norm.weight"}
SCORES = Q | K | {"0.bias_k", "0.buckets", "1.bias", "1.x"}
RIGHT_CORE = {name: getattr(core, name).__wrapped__ for name in ("forward", "backward")}
RIGHT = core._tile_backward, RIGHT_CORE["backward"], _query_norm.rotated, _distance.grads_of_score_bias


def of_tile(change):
    """Patch of the core: `change(tile, delta, d, plan)` gives the tile, δ and D to go on with."""

    def wrong(tile, delta, ell, d, plan):
        tile, delta, d = change(tile, delta, d, plan)
        return RIGHT[0](tile, delta, ell, d, plan)

    return core, "_tile_backward", wrong


def of_core(change):
    """Patch of the core's gradients."""
    return core, "backward", lambda *args: change(RIGHT[1](*args), args[-1])


def without_mask(*fields):
    def wrong(tile, delta, ell, d, plan):
        delta_z, right = RIGHT[0](tile, delta, ell, d, plan)
        no_z, no_mask = RIGHT[0](tile._replace(mask=None), delta, ell, d, plan)
        return (no_z if "q" in fields else delta_z), right._replace(**{name: getattr(no_mask, name) for name in fields})

    return core, "_tile_backward", wrong


def by_minus_theta(*how):
    return RIGHT[2](*how, back=True)


def turned_back(rotation):
    """The right rotation where forward is computed again, and another one for the error signal."""

    def wrong(z, first, pairing, base, size, back=False):
        if not back:
            return RIGHT[2](z, first, pairing, base, size)
        return rotation(z, first, pairing, base, size)

    return wrong


RIGHT_HEADS = attention.heads_backward


def without_values(x, params, delta):
    grads, delta_x = RIGHT_HEADS(x, params, delta)
    return grads, 0 * delta_x if np.array_equal(params.weight, without_values.weight) else delta_x


def by_set(slopes, table, fixed, delta):
    bucket = _distance.bucket_of(_distance.distances(3, 3), 4, 3, True)
    return slopes, jnp.zeros(table.shape).at[bucket].set(delta.T)


FAULTS = {
    "second term of the softmax missing": (of_tile(lambda t, delta, d, plan: (t, delta, 0 * d)), SCORES),
    "D summed over queries": (
        of_tile(lambda t, delta, d, plan: (t, delta, jnp.broadcast_to(d.sum(-1, keepdims=True), d.shape))),
        SCORES,
    ),
    "s missing in δq": (of_core(lambda g, plan: g._replace(q=g.q / plan.scale)), Q | {"1.x"}),
    "s missing in δk": (of_core(lambda g, plan: g._replace(k=g.k / plan.scale)), K | {"1.x"}),
    "s present in ∂L/∂B": (of_core(lambda g, plan: g._replace(bias=g.bias * plan.scale)), {"1.bias"}),
    "slope of the cap forgotten": (
        of_tile(lambda t, delta, d, plan: (t._replace(slope=None), delta, d)),
        Q | K | {"0.bias_k", "1.x"},
    ),
    "1 − cap² for the slope": (
        of_tile(lambda t, delta, d, plan: (t._replace(slope=1 - plan.softcap**2 * (1 - t.slope)), delta, d)),
        Q | K | {"0.bias_k", "1.x"},
    ),
    "δP without M/κ": (without_mask("q", "k"), SCORES),
    "δv from P": (without_mask("v"), V | {"0.bias_v", "1.x"}),
    "sink of the wrong sign": (of_core(lambda g, plan: g._replace(sink=-g.sink)), {"0.sink"}),
    "sink missing": (of_core(lambda g, plan: g._replace(sink=0 * g.sink)), {"0.sink"}),
    "buckets by set": ((attention, "grads_of_score_bias", by_set), {"0.buckets"}),
    "groups averaged": (of_core(lambda g, plan: g._replace(k=g.k / 2, v=g.v / 2)), K | V | {"1.x"}),
    "δ of all features turned back": (
        (
            _query_norm,
            "rotated",
            lambda *args, back=False: RIGHT[2](*args[:-1], None if back else args[-1], back=back),
        ),
        Q | K | {"1.x"},
    ),
    "rotation by +θ": (
        (_query_norm, "rotated", lambda *args, back=False: RIGHT[2](*args)),
        Q | K | {"1.x"},
    ),
    "the last features turned back for the first": (
        (
            _query_norm,
            "rotated",
            turned_back(lambda z, *how: jnp.roll(by_minus_theta(jnp.roll(z, 2, -1), *how), -2, -1)),
        ),
        Q | K | {"1.x"},
    ),
    "turned back from the next position": (
        (_query_norm, "rotated", turned_back(lambda z, first, *how: by_minus_theta(z, first + 1, *how))),
        Q | K | {"1.x"},
    ),
    "row of the appended key added to the last key": (
        of_core(lambda g, plan: g._replace(k=g.k.at[:, :, -1].add(g.appended_key[None] / 2))),
        K | {"1.x"},
    ),
    "one way of δx missing": (
        (attention, "heads_backward", without_values),
        {"1.x"},
    ),
}


def fixed_mask(key, number, shape, plan):
    """In the place of random numbers, which take long to compile."""
    return jnp.asarray((np.arange(np.prod(shape)) % 7 % 3 != 0).reshape(shape))


@pytest.mark.parametrize("name", FAULTS)
def test_planted_faults_are_caught(key, name, monkeypatch):
    (module, function, wrong), leaves = FAULTS[name]
    # not compiled: every fault runs the same operations, each of which is compiled once
    for uncompiled in ("forward", "backward"):
        monkeypatch.setattr(core, uncompiled, RIGHT_CORE[uncompiled])
    monkeypatch.setattr(core, "_dropout_mask", fixed_mask)
    residuals, delta, _ = right_answer(EVERYTHING, key)
    without_values.weight = residuals.params.value.weight
    monkeypatch.setattr(module, function, wrong)
    found = EVERYTHING.layer.backward(residuals, delta)
    assert_caught(EVERYTHING, key, lambda residuals, delta: found, leaves)

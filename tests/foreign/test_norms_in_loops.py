"""Batch norms in loops: those of a scan over layers are folded, layer by layer; others are left alone and say so."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

import jaxbias as jb
from tests.foreign.test_norms import drawn, image, norm

LAYERS, WIDTH = 3, 4


def layer(p, s, x):
    return jnp.tanh(norm(p["n"], s, x @ p["w"] + p["b"][None]))


def conv_layer(p, s, x):
    return jnp.tanh(norm(p["n"], s, image(x, p["w"], groups=2), axis=1))


def scanned(layer):
    return lambda p, s, x: lax.scan(lambda x, ps: (layer(*ps, x), None), x, (p, s))[0]


def in_remat(layer):
    return scanned(jax.checkpoint(layer, prevent_cse=False))


def model(*shape):
    sizes = {"w": (LAYERS, *shape), "b": (LAYERS, WIDTH), "n": dict.fromkeys(("scale", "shift"), (LAYERS, WIDTH))}
    zeros = lambda tree: jax.tree.map(np.zeros, tree, is_leaf=lambda x: isinstance(x, tuple))
    return drawn(zeros(sizes)), drawn(zeros({"mean": (LAYERS, WIDTH), "var": (LAYERS, WIDTH)}), 1)


@pytest.mark.parametrize("over", [scanned, in_remat])
def test_a_scan_over_dense_layers(over, by_the_rules_of_jax):
    params, stats = model(WIDTH, WIDTH)
    x = jax.random.normal(jax.random.key(2), (5, WIDTH))
    fn = over(layer)
    (pair,) = jb.surgery.batch_norms(fn, params, stats, x)
    assert (pair.weight, pair.bias, pair.scale, pair.shift, pair.why) == ("w", "b", "n.scale", "n.shift", "")
    folded, change = jb.surgery.fold_batch_norms(fn, params, stats, x)
    assert 0 <= change < 1e-12
    gain = params["n"]["scale"] / jnp.sqrt(stats["var"] + 1e-3)
    np.testing.assert_allclose(folded["w"], params["w"] * gain[:, None, :], rtol=1e-12)
    np.testing.assert_allclose(folded["b"], (params["b"] - stats["mean"]) * gain + params["n"]["shift"], rtol=1e-11)
    # the same model without its norms
    bare = lambda p, x: lax.scan(lambda x, p: (jnp.tanh(x @ p["w"] + p["b"][None]), None), x, p)[0]
    np.testing.assert_allclose(bare(folded, x), fn(params, stats, x), rtol=1e-10, atol=1e-12)


def test_a_scan_over_grouped_convolutions_keeps_the_shift(by_the_rules_of_jax):
    params, stats = model(WIDTH, WIDTH // 2, 3, 3)
    x = jax.random.normal(jax.random.key(2), (2, WIDTH, 5, 5))
    del params["b"]
    folded, change = jb.surgery.fold_batch_norms(scanned(conv_layer), params, stats, x)
    assert 0 <= change < 1e-12
    gain = params["n"]["scale"] / jnp.sqrt(stats["var"] + 1e-3)
    np.testing.assert_allclose(folded["w"], params["w"] * gain[:, :, None, None, None], rtol=1e-12)
    np.testing.assert_allclose(folded["n"]["scale"], jnp.sqrt(stats["var"] + 1e-3), rtol=1e-12)


def one_weight(p, s, x):
    """Every turn uses the same weight, with a norm of its own."""
    return lax.scan(lambda x, ps: (layer({**ps[0], "w": p["w"][0], "b": p["b"][0]}, ps[1], x), None), x, (
        {"n": p["n"]}, s))[0]  # fmt: skip


def weight_used_after(p, s, x):
    return scanned(layer)(p, s, x) @ p["w"][0]


def in_a_while_loop(p, s, x):
    first = lambda tree: jax.tree.map(lambda x: x[0], tree)
    turn = lambda carry: (carry[0] + 1, layer(first(p), first(s), carry[1]))
    return lax.while_loop(lambda carry: carry[0] < 2, turn, (0, x))[1]


def in_a_branch(p, s, x):
    first = lambda tree: jax.tree.map(lambda x: x[0], tree)
    return lax.cond(x.sum() > 0, lambda p, s, x: layer(p, s, x), lambda p, s, x: x, first(p), first(s), x)


def loop_in_a_loop(p, s, x):
    return lax.scan(lambda x, _: (scanned(layer)(p, s, x), None), x, None, length=2)[0]


LEFT_ALONE = {
    one_weight: "lies before it",
    weight_used_after: "the weight w is used elsewhere too",
    in_a_while_loop: "",
    in_a_branch: "",
    loop_in_a_loop: "used elsewhere too",
}


@pytest.mark.parametrize("fn", LEFT_ALONE, ids=lambda f: f.__name__)
def test_left_alone(fn, by_the_rules_of_jax):
    params, stats = model(WIDTH, WIDTH)
    x = jax.random.normal(jax.random.key(2), (5, WIDTH))
    pairs = jb.surgery.batch_norms(fn, params, stats, x)
    assert pairs and all(pair.why and LEFT_ALONE[fn] in pair.why for pair in pairs), pairs
    folded, change = jb.surgery.fold_batch_norms(fn, params, stats, x)
    assert change == 0 and all(map(np.array_equal, jax.tree.leaves(folded), jax.tree.leaves(params)))


def test_planted_the_gain_of_another_layer(monkeypatch, by_the_rules_of_jax):
    from jaxbias.foreign import norms

    params, stats = model(WIDTH, WIDTH)
    x = jax.random.normal(jax.random.key(2), (5, WIDTH))
    right = norms._fold_in_loop

    def rolled(graph, norm, leaves, held):
        return right(graph, norm, leaves, [jnp.roll(x, 1, axis=0) for x in held])

    monkeypatch.setattr(norms, "_fold_in_loop", rolled)
    assert jb.surgery.fold_batch_norms(scanned(layer), params, stats, x).change > 1e-2

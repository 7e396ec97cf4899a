"""The summary table: the numbers of A0.9, nested networks, frozen totals, bad input."""

import dataclasses

import jax
import jax.numpy as jnp
import pytest

import jaxbias as jb
from jaxbias.layers import dense, relu

X = jax.ShapeDtypeStruct((7, 2), jnp.float32)


def two_layers(key, **static):
    network = jb.chain(dense.layer(2, **static), relu, dense.layer(1, **static))
    return network, network.init(key, X)


def line(text, name):
    (found,) = [row.split() for row in text.splitlines() if row.startswith(f"{name} ")]
    return found


def test_the_numbers_of_the_article(key):
    network, params = two_layers(key)
    summary = jb.summary(params, network, X)
    text = str(summary)
    assert line(text, "name") == ["name", "type", "output", "shape", "parameters", "weights", "biases", "bytes"]
    assert line(text, "0") == ["0", "dense", "(None,", "2)", "6", "4", "2", "24"]
    assert line(text, "1") == ["1", "relu", "(None,", "2)", "0", "0", "0", "0"]
    assert line(text, "2") == ["2", "dense", "(None,", "1)", "3", "2", "1", "12"]
    assert line(text, "total") == ["total", "9", "6", "3", "36"]
    assert line(text, "trainable") == ["trainable", "9", "6", "3", "36"]
    assert line(text, "frozen") == ["frozen", "0", "0", "0", "0"]
    assert summary.total.parameters == 9 and summary.frozen.bytes == 0
    assert dataclasses.asdict(summary)["rows"][2] == {
        "name": "2", "type": "dense", "out_shape": "(None, 1)", "weights": 2, "biases": 1, "bytes": 12
    }  # fmt: skip


def test_without_biases(key):
    network, params = two_layers(key, use_bias=False)
    summary = jb.summary(params, network, X)
    assert [row.weights + row.biases for row in summary.rows] == [4, 0, 2]
    assert summary.total == type(summary.total)(weights=6, biases=0, bytes=24)


def test_frozen_biases_move_to_the_frozen_total(key):
    network, params = two_layers(key)
    for trainable in (jb.freeze(params, "biases"), jax.tree.map(lambda leaf: leaf.ndim == 2, params)):
        summary = jb.summary(params, network, X, trainable)
        assert (summary.trainable.parameters, summary.frozen.parameters) == (6, 3)
        assert (summary.trainable.bytes, summary.frozen.bytes) == (24, 12)
        assert line(str(summary), "frozen") == ["frozen", "3", "0", "3", "12"]


def test_without_a_network_there_is_one_row_per_tree_of_leaves(key):
    _, params = two_layers(key)
    assert [(row.name, row.weights, row.biases) for row in jb.summary(params).rows] == [("0", 4, 2), ("2", 2, 1)]
    bare = {"scale": jnp.ones(3), "head": {"kernel": jnp.ones((3, 2)), "bias": jnp.ones(2)}}
    assert [(row.name, row.weights, row.biases) for row in jb.summary(bare).rows] == [("head", 6, 2), ("", 3, 0)]


def test_nested_networks_narrow_floats_and_shapes_without_arrays(key):
    network = jb.chain(
        jb.residual(dense.layer(2)), jb.parallel(dense.layer(2), jb.chain(dense.layer(2), relu)), dense.layer(3)
    )
    x = jax.ShapeDtypeStruct((2, 5, 2), jnp.bfloat16)
    summary = jb.summary(jax.eval_shape(network.init, key, x), network, x)
    assert [row.name for row in summary.rows] == ["0", "1.0", "1.1.0", "1.1.1", "2"]
    assert summary.rows[-1].out_shape == "(None, 5, 3)"
    assert summary.total.bytes == 2 * (3 * 6 + 9)


def test_a_single_layer(key):
    layer = dense.layer(3)
    (row,) = jb.summary(layer.init(key, X), layer, X).rows
    assert (row.type, row.out_shape, row.weights, row.biases) == ("dense", "(None, 3)", 6, 3)


def test_bad_input(key):
    _, params = two_layers(key)
    with pytest.raises(ValueError, match=r"summary: x came without a network"):
        jb.summary(params, x=X)
    with pytest.raises(ValueError, match=r"summary: trainable must be a tree like params.*jb.freeze"):
        jb.summary(params, trainable=(True, True))


def test_a_network_with_a_state_needs_none_for_its_shapes(key):
    network = jb.chain(jb.layers.dense.layer(4), jb.layers.batch_norm.layer(), jb.layers.dropout.layer(0.5))
    x = jnp.ones((2, 3))
    rows = jb.summary(network.init(key, x), network, x).rows
    assert [(row.type, row.out_shape) for row in rows] == [
        ("dense", "(None, 4)"),
        ("batch_norm", "(None, 4)"),
        ("dropout", "(None, 4)"),
    ]


def test_keyword_arguments_of_anyones_function():
    def fn(params, x, train):
        return x @ params["w"] if train else x @ params["w"] + params["b"][None]

    params = {"w": jnp.ones((3, 2)), "b": jnp.ones(2)}
    roles = [
        jb.summary(fn, params, jax.ShapeDtypeStruct((7, 3), jnp.float64), train=train).rows[0][1]
        for train in (False, True)
    ]
    assert roles == ["bias", "other"]  # a bias that is not used never meets data

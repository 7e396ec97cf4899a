"""Files that are whole or not there, another network's file, and the layouts of PyTorch and Keras (A0.11-A0.14)."""

import re

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxbias as jb
from jaxbias import _files, io, selfcheck
from jaxbias.derivation import instance
from jaxbias.layers import batch_norm, bias_neuron, conv, conv_transpose, dense, layer_norm, relu, reshape, rnn
from jaxbias.layouts import AS_HERE, Layouts

NETWORK = jb.chain(dense.layer(4), relu, dense.layer(2, use_bias=False))
ARTICLE = jb.chain(dense.layer(2), relu, dense.layer(1))
KERAS = [  # A0.11, as get_weights prints them
    [[-1.1044016, 0.9812743], [-0.5948815, 1.4780935]],
    [0.0, 0.3192987],
    [[0.1048971], [2.0368812]],
    [0.2609277],
]


def same(a, b):
    return jax.tree.structure(a) == jax.tree.structure(b) and all(
        x.dtype == y.dtype and (x == y).all() for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b))
    )


@pytest.mark.parametrize("dtype", [jnp.float64, jnp.float32, jnp.float16, jnp.bfloat16])
def test_round_trip(key, tmp_path, dtype):
    params = NETWORK.init(key, jnp.ones((2, 3), dtype))
    io.save(tmp_path / "net.safetensors", params)
    like = jax.eval_shape(NETWORK.init, key, jnp.ones((2, 3), dtype))
    assert same(io.load(tmp_path / "net.safetensors", like), params)
    assert [path.name for path in tmp_path.iterdir()] == ["net.safetensors"]


def test_the_file_is_safetensors_under_dotted_names(key, tmp_path):
    import safetensors.numpy

    params = NETWORK.init(key, jnp.ones((2, 3)))
    io.save(tmp_path / "net.safetensors", params)
    arrays = safetensors.numpy.load_file(tmp_path / "net.safetensors")
    assert set(arrays) == {"0.weight", "0.bias", "2.weight"}
    assert (arrays["0.weight"] == np.asarray(params[0].weight)).all()


def test_a_failed_write_leaves_the_old_file(key, tmp_path, monkeypatch):
    params = NETWORK.init(key, jnp.ones((2, 3)))
    path = tmp_path / "net.safetensors"
    io.save(path, params)
    before = path.read_bytes()

    def full_disk(self, target):
        raise OSError("No space left on device")

    monkeypatch.setattr(_files.Path, "replace", full_disk)
    with pytest.raises(OSError, match="No space left"):
        io.save(path, jax.tree.map(lambda leaf: leaf + 1, params))
    assert path.read_bytes() == before and list(tmp_path.iterdir()) == [path]


def test_what_cannot_be_written_or_read(key, tmp_path):
    params = NETWORK.init(key, jnp.ones((2, 3)))
    with pytest.raises(ValueError, match=r"io.save: cannot write .*none/net.*Name a file in a directory that exists"):
        io.save(tmp_path / "none" / "net.safetensors", params)
    with pytest.raises(FileNotFoundError, match=r"io.load: there is no file .*other.safetensors"):
        io.load(tmp_path / "other.safetensors", params)


@pytest.mark.parametrize("damage", [lambda b: b[: len(b) // 2], lambda b: b"not safetensors", lambda b: b""])
def test_a_damaged_file_is_named(key, tmp_path, damage):
    params = NETWORK.init(key, jnp.ones((2, 3)))
    path = tmp_path / "net.safetensors"
    io.save(path, params)
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(ValueError, match=r"io.load: .*net.safetensors is damaged or not a safetensors file"):
        io.load(path, params)


@pytest.mark.parametrize(
    ("other", "dtype", "match"),
    [
        (
            jb.chain(dense.layer(4), relu, dense.layer(2)),
            jnp.float64,
            r"it has no 2.bias; it has 0.bias, 0.weight",
        ),
        (jb.chain(dense.layer(4)), jnp.float64, r"another network: params has no 2.weight"),
        (
            jb.chain(dense.layer(4), relu, dense.layer(3, use_bias=False)),
            jnp.float64,
            r"2.weight has shape \(4, 2\) there and \(4, 3\) in params",
        ),
        (NETWORK, jnp.float32, r"0.weight has dtype float64 there and float32 in params"),
    ],
)
def test_the_file_of_another_network(key, tmp_path, other, dtype, match):
    io.save(tmp_path / "net.safetensors", NETWORK.init(key, jnp.ones((2, 3))))
    with pytest.raises(ValueError, match=match):
        io.load(tmp_path / "net.safetensors", jax.eval_shape(other.init, key, jnp.ones((2, 3), dtype)))


def predict(params):
    x = jnp.array([[2.0, 3.0]], params[0].weight.dtype)
    return ARTICLE.forward(params, x)[0][0, 0]


@pytest.mark.parametrize(("dtype", "value", "atol"), [(jnp.float64, 13.9408822, 5e-8), (jnp.float32, 13.940883, 2e-6)])
def test_keras_layout_gives_the_prediction_of_the_article(key, dtype, value, atol):
    like = ARTICLE.init(key, jnp.ones((1, 2), dtype))
    params = io.from_keras(like, KERAS)
    np.testing.assert_allclose(predict(params), value, rtol=0, atol=atol)
    assert all((a == np.asarray(b, a.dtype)).all() for a, b in zip(io.to_keras(params), KERAS))


def test_pytorch_layout_is_the_transposed_one(key):
    like = ARTICLE.init(key, jnp.ones((1, 2)))
    state = {name: np.array(array) for name, array in zip(["0.weight", "0.bias", "2.weight", "2.bias"], KERAS)}
    misread = io.from_pytorch(ARTICLE, like, {**state, "2.weight": state["2.weight"].T})
    np.testing.assert_allclose(predict(misread), 7.597099, atol=5e-7)  # A0.14: the labels the article swapped
    right = io.from_pytorch(ARTICLE, like, {name: array.T for name, array in state.items()})
    np.testing.assert_allclose(predict(right), 13.9408822, atol=5e-8)


def test_pytorch_round_trip_of_convolutions(key):
    network = jb.chain(conv.layer(6, (3, 2), groups=2), relu, reshape.layer(), dense.layer(5), layer_norm.layer())
    params = network.init(key, jnp.ones((2, 4, 5, 4)))
    state = io.to_pytorch(network, params)
    assert state["0.weight"].shape == (6, 2, 3, 2) and state["3.weight"].shape[0] == 5
    assert state["0.weight"][4, 1, 2, 0] == params[0].weight[2, 0, 1, 4]  # OIHW against HWIO
    assert state["4.weight"].shape == (5,)
    statistics = {"4.running_mean": np.zeros(5), "4.num_batches_tracked": np.zeros((), np.int64)}
    assert same(io.from_pytorch(network, params, {**state, **statistics}), params)


def test_pytorch_names_what_does_not_fit(key):
    like = ARTICLE.init(key, jnp.ones((1, 2)))
    state = io.to_pytorch(ARTICLE, like)
    with pytest.raises(ValueError, match=r"io.from_pytorch: .* it has no 0.weight, .*; it has fc1.weight"):
        io.from_pytorch(ARTICLE, like, {"fc1.weight": state["0.weight"]})
    odd = ARTICLE.parts[0]._replace(name="attention", layouts=Layouts())
    with pytest.raises(ValueError, match=r"io.to_pytorch: the PyTorch layout of a attention layer \(0.weight\)"):
        io.to_pytorch(jb.chain(odd), like[:1])


def learning(key):
    """Name → layouts of every layer that learns something."""
    examples = [derivation.examples[0] for derivation in selfcheck.layer_derivations().values()]
    return {
        example.layer.name: example.layer.layouts
        for example in examples
        if jax.tree.leaves(instance(example, key, jnp.float32).params)
    }


def test_the_page_names_the_layouts_that_the_layers_have(key):
    layouts = learning(key)
    assert all(each.pytorch is not None for each in layouts.values()), "a layer's file says what PyTorch has"
    rows = re.findall(r"^    (\w+) +\S", io.__doc__, flags=re.MULTILINE)
    assert set(rows) - {"layer", "others", "input"} == {
        name for name, each in layouts.items() if each.pytorch is not AS_HERE
    }
    keras = re.search(r"Keras keeps (.*?)\. Running", io.__doc__, flags=re.DOTALL)
    assert keras and layouts.keys() & set(re.findall(r"\w+", keras[1])) == {
        name for name, each in layouts.items() if each.keras is not None
    }


def test_keras_with_a_network_has_keras_order_and_names_what_does_not_fit(key):
    network = jb.chain(rnn.layer(3), bias_neuron.layer(2), layer_norm.layer())
    x = jnp.ones((2, 4, 5))
    params = jax.tree.map(
        lambda leaf: leaf + jnp.arange(leaf.size, dtype=leaf.dtype).reshape(leaf.shape), network.init(key, x)
    )
    weights = io.to_keras(params, network)
    assert [array.shape for array in weights] == [(5, 3), (3, 3), (3,), (3, 2), (2,), (2,), (2,)]
    assert (weights[1] == params[0].hidden.weight).all() and (weights[4] == params[1].weight[-1]).all()
    assert same(io.from_keras(jax.eval_shape(network.init, key, x), weights, network), params)
    with pytest.raises(ValueError, match=r"io.from_keras: the network has arrays of shapes \[\(5, 3\).*got \[\(3, 3\)"):
        io.from_keras(params, weights[1:], network)


def test_an_unknown_layout_of_keras_is_refused(key):
    network = jb.chain(dense.layer(3), conv_transpose.layer(2, 3, groups=1), conv_transpose.layer(2, 3, groups=2))
    params = network.init(key, jnp.ones((2, 4, 4, 3)))
    message = "the Keras layout of a conv_transpose layer \\(2.weight\\) is not known"
    with pytest.raises(ValueError, match=f"io.to_keras: {message}"):
        io.to_keras(params, network)
    with pytest.raises(ValueError, match=f"io.from_keras: {message}"):
        io.from_keras(params, jax.tree.leaves(params), network)


SQUARE = jb.chain(dense.layer(3), relu, dense.layer(3))


def foreign_file(path, arrays, metadata):
    import safetensors.numpy

    safetensors.numpy.save_file({name: np.ascontiguousarray(a) for name, a in arrays.items()}, path, metadata)


def test_a_file_of_another_program_is_not_read_by_shapes(key, tmp_path):
    x, path = jnp.ones((2, 3)), tmp_path / "foreign.safetensors"
    params = SQUARE.init(key, x)
    for metadata, writer in (({"format": "pt"}, "PyTorch"), (None, "another program"), ({"format": "np"}, "another")):
        foreign_file(path, io.to_pytorch(SQUARE, params), metadata)
        with pytest.raises(ValueError, match=rf"io.load: .* was written by {writer}.* source=\"jaxbias\" if"):
            io.load(path, params)
        assert same(io.load(path, params, network=SQUARE, source="pytorch"), params)
    with pytest.raises(ValueError, match="was written by another program"):
        io.load(path, params, network=SQUARE)
    with pytest.raises(ValueError, match=r'source="pytorch" needs the layers'):
        io.load(path, params, source="pytorch")
    with pytest.raises(ValueError, match=r'source must be "jaxbias" or "pytorch", got \'keras\''):
        io.load(path, params, source="keras")
    foreign_file(path, io.to_pytorch(SQUARE, params), {"format": "pt"})
    assert same(io.load(path, params, network=SQUARE), params)  # the file says who wrote it, the network how
    foreign_file(path, jb.named_parameters(params), None)
    assert same(io.load(path, params, source="jaxbias"), params)


def test_a_file_of_ours_is_read_as_it_is_whatever_the_network(key, tmp_path):
    params = SQUARE.init(key, jnp.ones((2, 3)))
    io.save(tmp_path / "ours.safetensors", params)
    assert same(io.load(tmp_path / "ours.safetensors", params, network=SQUARE), params)


def test_equinox_modules_are_saved_and_read(tmp_path):
    mlp = eqx.nn.MLP(3, 2, 4, 1, key=jax.random.key(0))
    io.save(tmp_path / "mlp.safetensors", mlp)
    other = eqx.nn.MLP(3, 2, 4, 1, key=jax.random.key(1))
    loaded = io.load(tmp_path / "mlp.safetensors", other)
    assert bool((loaded(jnp.ones(3)) == mlp(jnp.ones(3))).all()) and loaded.activation is mlp.activation
    with pytest.raises(ValueError, match=r"layers.1.weight has shape \(2, 4\) there and \(5, 4\) in params"):
        io.load(tmp_path / "mlp.safetensors", eqx.nn.MLP(3, 5, 4, 1, key=jax.random.key(1)))


def test_running_statistics_go_to_pytorch_and_back(key):
    network = jb.chain(dense.layer(3), batch_norm.layer(), jb.residual(jb.chain(dense.layer(3), batch_norm.layer())))
    x = jnp.ones((2, 3))
    params, state = network.init(key, x), network.state.init(key, x)
    moved = jax.tree.map(lambda leaf: leaf + jnp.arange(1, leaf.size + 1, dtype=leaf.dtype), state)
    written = io.to_pytorch(network, params, moved)
    assert written["1.running_mean"].tolist() == [1, 2, 3] and written["2.1.running_var"].tolist() == [2, 3, 4]
    assert written["1.num_batches_tracked"] == 0 and "1.running_mean" not in io.to_pytorch(network, params)
    read, statistics = io.from_pytorch(network, params, written, state)
    assert same(read, params) and same(statistics, moved)
    assert same(io.from_pytorch(network, params, written), params)  # without a state they are left out
    without = {name: a for name, a in written.items() if "running" not in name}
    assert same(io.from_pytorch(network, params, without, state)[1], state)

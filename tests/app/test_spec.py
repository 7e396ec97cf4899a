import jax
import jax.numpy as jnp
import pytest

from jaxbias.app import spec
from jaxbias.params import init_state, out_shape


def shape_of(text, x_shape, key, dtype=float, **options):
    network = spec.parse(text, **options)
    x = jnp.zeros(x_shape, dtype)
    params = jax.eval_shape(network.init, key, x)
    return out_shape(network, params, x, init_state(network, key, x)).shape, params


def test_dense(key):
    shape, params = shape_of("dense:128,relu,dense:10", (5, 64), key)
    assert shape == (5, 10)
    assert [leaf.shape for leaf in jax.tree.leaves(params)] == [(64, 128), (128,), (128, 10), (10,)]


def test_conv_keeps_its_size_unless_told(key):
    text = "conv:16x3x3,relu,max_pool:2,conv:4x3x2:padding=VALID:stride=2,flatten, dense:10"
    shape, params = shape_of(text, (2, 8, 8, 1), key)
    assert shape == (2, 10)
    assert params[0].weight.shape == (3, 3, 1, 16) and params[3].weight.shape == (3, 2, 16, 4)
    assert params[5].weight.shape == (1 * 2 * 4, 10)


def test_a_gated_unit_keeps_its_width_unless_told(key):
    shape, params = shape_of("swiglu:128,geglu:8x10,glu:4:gate=identity", (5, 64), key)
    assert shape == (5, 10)
    assert params[0].gate.weight.shape == (64, 128) and params[0].down.weight.shape == (128, 64)


def test_pieces_kernels_and_windows_are_sizes(key):
    shape, params = shape_of("unfold:2,locally_connected:5x3x2:stride=2,flatten,maxout:6x3", (2, 8, 8, 1), key)
    assert shape == (2, 6) and params[3].weight.shape == (3 * 3 * 5, 3, 6)
    assert params[1].weight.shape == (3, 3, 3, 2, 4, 5) and params[1].bias.shape == (3, 3, 5)


@pytest.mark.parametrize("name", spec.NAMES)
def test_every_name_builds_and_runs(key, name):
    example = spec._BUILDERS[name][0] if name not in spec.ACTIVATIONS else ""
    text = f"{name}:{example}" if example else name
    sequences = spec.form_of_rows(spec.parse(text)) == "sequence"
    dtype = int if name == "embedding" else float
    shape, _ = shape_of(text, (2, 8, 4) if sequences else (2, 8, 8, 4), key, dtype)
    assert shape[0] == 2


def test_skip_connections_nest(key):
    text = "dense:6,residual(layer_norm, dense:12,relu,residual(dense:12), dense:6),dense:10"
    shape, params = shape_of(text, (5, 64), key)
    assert shape == (5, 10) and params[1][3][0].weight.shape == (12, 12)
    _, params = shape_of(text, (5, 64), key, use_bias=False)
    assert not any("bias" in jax.tree_util.keystr(path) for path, _ in jax.tree_util.tree_leaves_with_path(params))


def test_a_transformer_is_its_two_halves(key):
    short = spec.parse("transformer:4x16x128:causal=true:rotary=half")
    long = spec.parse("residual(layer_norm,attention:4x16:causal=true:rotary=half),residual(layer_norm,swiglu:128)")
    x = jax.random.normal(key, (2, 5, 8), jnp.float32)
    params = long.init(key, x)
    same_shapes = jax.tree.map(jnp.shape, short.init(key, x)[0]) == jax.tree.map(jnp.shape, params)
    assert same_shapes and jnp.array_equal(short.forward((params,), x)[0], long.forward(params, x)[0])


def test_an_embedding_has_a_row_for_each_character_of_a_text(key):
    _, params = shape_of("embedding:8", (2, 3), key, int, vocabulary=5)
    assert params[0].weight.shape == (5, 8)
    _, params = shape_of("embedding:7x8", (2, 3), key, int, vocabulary=5)
    assert params[0].weight.shape == (7, 8)
    shape, _ = shape_of("embedding:8,dense:K", (2, 3), key, int, vocabulary=5)
    assert shape == (2, 3, 5)


def test_without_biases(key):
    text = "conv:2x3x3,batch_norm,relu,group_norm:2,max_pool:2,flatten,layer_norm,rms_norm,swiglu:4,dropout:0.1,dense:3"
    _, params = shape_of(text, (2, 8, 8, 1), key, use_bias=False)
    names = [jax.tree_util.keystr(path) for path, _ in jax.tree_util.tree_leaves_with_path(params)]
    assert names and not any("bias" in name for name in names)


BAD = [
    ("dens:3", "unknown layer 'dens' in 'dens:3'. Did you mean dense\\? Known: dense, conv"),
    ("dense:3,qqq", "unknown layer 'qqq' in 'dense:3,qqq'. Known: "),
    ("", "an empty layer in ''"),
    ("dense:3,,relu", "an empty layer"),
    ("dense", "dense takes one size, for example dense:128, got 'dense'"),
    ("dense:1e3", "'1e3' is no size: whole numbers of at least 1"),
    ("dense:0", "cannot build 'dense:0' .*'0' is no size.*It is written like dense:128"),
    ("dense:x", "cannot build 'dense:x'"),
    ("conv:16", "cannot build 'conv:16' .*It is written like conv:16x3x3"),
    ("maxout:16", "cannot build 'maxout:16' .*It is written like maxout:128x2"),
    ("crf", "crf in 'crf' cannot be written as text: it is the loss too, and takes the labels"),
    ("relu:3", "relu takes no size, got 'relu:3'"),
    ("flatten:3", "flatten takes no size, got 'flatten:3'"),
    ("dense:3:colour=red", "cannot build 'dense:3:colour=red' .*colour"),
    ("moe:8", "moe in 'moe:8' cannot be written as text: its experts are layers of their own. Use jb.chain"),
    ("dropout:2", "cannot build 'dropout:2'"),
    ("dense:2,residual(dense:2", "parentheses in 'dense:2,residual\\(dense:2' do not pair"),
    ("dense:2)", "parentheses in 'dense:2\\)' do not pair"),
    ("residual()", "an empty layer in 'residual\\(\\)'"),
    ("transformer:4x16", "cannot build 'transformer:4x16' .*It is written like transformer:4x16x128"),
    ("dense:K", "spec: K in 'K' is the number of different characters, which is known of text alone"),
    ("embedding:8", "cannot build 'embedding:8' .the number of ids is known of text alone: embedding:100x64"),
]


@pytest.mark.parametrize(("text", "match"), BAD)
def test_bad_specs(text, match):
    with pytest.raises(ValueError, match=match):
        spec.parse(text)


@pytest.mark.parametrize(
    ("text", "form"),
    [
        ("dense:4", "flat"), ("relu,conv:2x3x3,flatten,dense:2", "image"), ("max_pool:2,flatten,dense:2", "image"),
        ("lstm:4:output=last,dense:2", "sequence"), ("positions:8,attention:2x2,flatten,dense:2", "sequence"),
        ("gru:4:both_directions=true,flatten", "sequence"),
        ("residual(layer_norm,dense:64),dense:10", "flat"), ("transformer:2x4x8,flatten,dense:10", "sequence"),
    ],
)  # fmt: skip
def test_shapes_tell_which_rows_a_network_takes(text, form):
    assert spec.form_of_rows(spec.parse(text)) == form

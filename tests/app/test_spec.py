import jax
import jax.numpy as jnp
import pytest

from jaxbias.app import spec
from jaxbias.params import init_state, out_shape


def shape_of(text, x_shape, key, **options):
    network = spec.parse(text, **options)
    x = jnp.zeros(x_shape)
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


@pytest.mark.parametrize("name", spec.NAMES)
def test_every_name_builds_and_runs(key, name):
    example = spec._BUILDERS[name][0] if name not in spec.ACTIVATIONS else ""
    text = f"{name}:{example}" if example else name
    sequences = spec.form_of_rows(spec.parse(text)) == "sequence"
    shape, _ = shape_of(text, (2, 8, 4) if sequences else (2, 8, 8, 4), key)
    assert shape[0] == 2


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
    ("dense:0", "cannot build 'dense:0' .*It is written like dense:128"),
    ("dense:x", "cannot build 'dense:x'"),
    ("conv:16", "cannot build 'conv:16' .*It is written like conv:16x3x3"),
    ("relu:3", "relu takes no size, got 'relu:3'"),
    ("flatten:3", "flatten takes no size, got 'flatten:3'"),
    ("dense:3:colour=red", "cannot build 'dense:3:colour=red' .*colour"),
    ("moe:8", "moe in 'moe:8' cannot be written as text: its experts are layers of their own. Use jb.chain"),
    ("dropout:2", "cannot build 'dropout:2'"),
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
    ],
)  # fmt: skip
def test_shapes_tell_which_rows_a_network_takes(text, form):
    assert spec.form_of_rows(spec.parse(text)) == form

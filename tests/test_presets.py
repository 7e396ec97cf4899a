"""`preset(library)` draws what the library draws: a Kolmogorov-Smirnov test of both, for every layer that it takes."""

import equinox as eqx
import flax.linen as nn
import haiku as hk
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.example_libraries import stax
from scipy import stats

from jaxbias import initializers, layers
from jaxbias.initializers._presets import RECURRENT, RULES
from tests.peers import torch_or_skip

pytestmark = pytest.mark.usefixtures("by_the_rules_of_jax")

DENSE, IMAGE, STEPS, PAIR = (2, 24), (1, 5, 5, 8), (1, 3, 8), ((2, 6), (2, 24))
OURS = {  # enough entries for a test, other numbers of inputs and outputs
    "dense": lambda k: layers.dense.layer(600, **k),
    "conv": lambda k: layers.conv.layer(240, 3, **k),
    "conv_transpose": lambda k: layers.conv_transpose.layer(240, 3, **k),
    "bilinear": lambda k: layers.bilinear.layer(300, **k),
    "rnn": lambda k: layers.rnn.layer(240, **k),
    "lstm": lambda k: layers.lstm.layer(240, **k),
    "gru": lambda k: layers.gru.layer(240, **k),
}
INPUTS = {"dense": DENSE, "conv": IMAGE, "conv_transpose": IMAGE, "bilinear": PAIR}


def of_linen(module, x):
    variables = module.init(jax.random.key(1), x)["params"]
    leaves = {jax.tree_util.keystr(path): leaf for path, leaf in jax.tree_util.tree_leaves_with_path(variables)}
    take = lambda word: jnp.concatenate([x.ravel() for name, x in leaves.items() if word(name)])
    hidden = lambda name: "['h" in name
    kernels = [take(lambda n: "kernel" in n and not hidden(n)), take(lambda n: "bias" in n)]
    return (*kernels, take(lambda n: "kernel" in n and hidden(n))) if any(map(hidden, leaves)) else kernels


def of_haiku(make, x):
    params = hk.transform(lambda x: make()(x)).init(jax.random.key(1), x)
    (leaves,) = params.values()
    return leaves["w"], leaves["b"]


def of_haiku_rnn(x):
    core = lambda x: hk.dynamic_unroll(hk.VanillaRNN(240), x[0], jnp.zeros(240))[0]
    params = hk.transform(core).init(jax.random.key(1), x)
    first, second = sorted(params.values(), key=lambda leaves: len(leaves["w"]))  # 8 inputs, 240 units
    return first["w"], jnp.concatenate([first["b"], second["b"]]), second["w"]


def of_stax(layer, x):
    return layer[0](jax.random.key(1), x.shape)[1]


KEY = jax.random.key(1)
JAX_LIBRARIES = {
    ("flax", "dense"): lambda x: of_linen(nn.Dense(600), x),
    ("flax", "conv"): lambda x: of_linen(nn.Conv(240, (3, 3)), x),
    ("flax", "conv_transpose"): lambda x: of_linen(nn.ConvTranspose(240, (3, 3)), x),
    ("flax", "rnn"): lambda x: of_linen(nn.RNN(nn.SimpleCell(240)), x),
    ("flax", "lstm"): lambda x: of_linen(nn.RNN(nn.LSTMCell(240)), x),
    ("flax", "gru"): lambda x: of_linen(nn.RNN(nn.GRUCell(240)), x),
    ("haiku", "dense"): lambda x: of_haiku(lambda: hk.Linear(600), x),
    ("haiku", "conv"): lambda x: of_haiku(lambda: hk.Conv2D(240, 3), x),
    ("haiku", "conv_transpose"): lambda x: of_haiku(lambda: hk.Conv2DTranspose(240, 3), x),
    ("haiku", "rnn"): of_haiku_rnn,
    ("equinox", "dense"): lambda x: (lambda m: (m.weight, m.bias))(eqx.nn.Linear(24, 600, key=KEY)),
    ("equinox", "conv"): lambda x: (lambda m: (m.weight, m.bias))(eqx.nn.Conv2d(8, 240, 3, key=KEY)),
    ("equinox", "conv_transpose"): lambda x: (lambda m: (m.weight, m.bias))(eqx.nn.ConvTranspose2d(8, 240, 3, key=KEY)),
    ("equinox", "lstm"): lambda x: (lambda m: (m.weight_ih, m.bias, m.weight_hh))(eqx.nn.LSTMCell(8, 240, key=KEY)),
    ("stax", "dense"): lambda x: of_stax(stax.Dense(600), x),
    ("stax", "conv"): lambda x: of_stax(stax.Conv(240, (3, 3)), x),
    ("stax", "conv_transpose"): lambda x: of_stax(stax.ConvTranspose(240, (3, 3)), x),
}


def assert_drawn_alike(library, layer, theirs):
    """Weight, bias and hidden weight: constants equal, draws of the same distribution and within the same bounds."""
    shapes = INPUTS.get(layer, STEPS)
    x = tuple(map(jnp.zeros, shapes)) if layer == "bilinear" else jnp.zeros(shapes, jnp.float32)
    params = OURS[layer](initializers.preset(library, layer)).init(jax.random.key(2), x)
    ours = (*params.input, params.hidden.weight) if hasattr(params, "input") else params
    for actual, expected in zip(ours, theirs, strict=True):
        actual, expected = (np.asarray(a, np.float64).ravel() for a in (actual, expected))
        if not expected.any():
            assert not actual.any()
            continue
        assert stats.ks_2samp(actual, expected).pvalue > 1e-3
        assert np.abs(actual).max() <= 1.3 * np.abs(expected).max()


@pytest.mark.parametrize(("library", "layer"), JAX_LIBRARIES)
def test_draws_are_those_of_the_library(library, layer):
    x = None if layer == "bilinear" else jnp.zeros(INPUTS.get(layer, STEPS), jnp.float32)
    assert_drawn_alike(library, layer, JAX_LIBRARIES[library, layer](x))


@pytest.mark.parametrize("layer", [*RULES["pytorch"], *RECURRENT["pytorch"]])
def test_draws_are_those_of_pytorch(layer):
    torch = torch_or_skip()
    torch.manual_seed(1)
    modules = {
        "dense": lambda: torch.nn.Linear(24, 600),
        "conv": lambda: torch.nn.Conv2d(8, 240, 3),
        "conv_transpose": lambda: torch.nn.ConvTranspose2d(8, 240, 3),
        "bilinear": lambda: torch.nn.Bilinear(6, 24, 300),
        "rnn": lambda: torch.nn.RNN(8, 240),
        "lstm": lambda: torch.nn.LSTM(8, 240),
    }
    arrays = {name: p.detach().numpy() for name, p in modules[layer]().named_parameters()}
    theirs = (arrays["weight"], arrays["bias"]) if "weight" in arrays else (
        arrays["weight_ih_l0"], arrays["bias_ih_l0"] + arrays["bias_hh_l0"], arrays["weight_hh_l0"]
    )  # fmt: skip
    assert_drawn_alike("pytorch", layer, theirs)


@pytest.mark.parametrize(("layer", "bound"), [("conv_transpose", 3 * 240**0.5), ("bilinear", 6**0.5)])
def test_bounds_that_are_not_those_of_a_dense_layer(layer, bound):
    """(out/groups · kernel)^−½ and in1^−½: with the fan-in of a dense layer they would be 8½ · 3 and (6 · 24)½."""
    x = tuple(map(jnp.zeros, PAIR)) if layer == "bilinear" else jnp.zeros(IMAGE)
    for values in OURS[layer](initializers.preset("pytorch")).init(jax.random.key(0), x):
        assert 0.95 < bound * float(jnp.abs(values).max()) <= 1


def test_groups_count():
    weight, _ = layers.conv_transpose.layer(240, 3, groups=4, **initializers.preset("pytorch")).init(
        KEY, jnp.zeros(IMAGE)
    )
    assert 0.95 < 3 * 60**0.5 * float(jnp.abs(weight).max()) <= 1


def test_every_other_layer_is_refused():
    for layer, x in (
        (layers.attention.layer(2, 4, **initializers.preset("pytorch")), jnp.zeros((1, 3, 8))),
        (layers.layer_norm.layer(**initializers.preset("flax")), jnp.zeros((2, 3))),
        (layers.rnn.layer(4, **initializers.preset("stax")), jnp.zeros(STEPS)),
    ):
        with pytest.raises(ValueError, match=r"initializers.preset: what \w+ does for .* is not known here"):
            layer.init(KEY, x)
    with pytest.raises(ValueError, match=r'its preset is for dense, .*, or preset\("pytorch", "lstm"\)\.'):
        layers.lstm.layer(4, **initializers.preset("pytorch")).init(KEY, jnp.zeros(STEPS))
    with pytest.raises(ValueError, match=r"is for lstm as pytorch has it, not for this layer or option"):
        layers.lstm.layer(4, coupled=True, **initializers.preset("pytorch", "lstm")).init(KEY, jnp.zeros(STEPS))
    with pytest.raises(ValueError, match=r"what keras does for a layer gru is not known .* presets are for dense"):
        initializers.preset("keras", "gru")


def test_keras_is_glorot_uniform():
    """No Keras here: the bound √(6/(fan_in + fan_out)) of its documented default, and zeros."""
    for layer, bound in (("dense", (6 / 624) ** 0.5), ("conv", (6 / (9 * 248)) ** 0.5), ("conv_transpose", 0.0518476)):
        x = jnp.zeros(INPUTS[layer], jnp.float32)
        weight, bias = OURS[layer](initializers.preset("keras")).init(KEY, x)
        assert stats.kstest(np.asarray(weight, np.float64).ravel(), stats.uniform(-bound, 2 * bound).cdf).pvalue > 1e-3
        assert not bias.any()
    cell = layers.rnn.layer(240, **initializers.preset("keras", "rnn")).init(KEY, jnp.zeros(STEPS, jnp.float32))
    np.testing.assert_allclose(cell.hidden.weight @ cell.hidden.weight.T, np.eye(240), atol=1e-5)
    assert float(jnp.abs(cell.input.weight).max()) <= (6 / 248) ** 0.5 and not cell.input.bias.any()

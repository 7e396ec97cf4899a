"""Wrong calls of the public functions: each gets one line that says what came, what was wanted, and a remedy."""

# These calls are wrong on purpose, and a type checker says so.
# pyright: reportArgumentType=false, reportCallIssue=false, reportAttributeAccessIssue=false

import re
from collections import namedtuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import jaxbias as jb
from jaxbias.layers import (
    activations,
    avg_pool,
    batch_norm,
    bias_neuron,
    bilinear,
    conv,
    conv_transpose,
    dense,
    dropout,
    embedding,
    global_avg_pool,
    group_norm,
    layer_norm,
    max_pool,
    relu,
    reshape,
    rms_norm,
    rnn,
    tanh,
)
from jaxbias.losses import binary_cross_entropy, cross_entropy, half_squared_error, hinge, huber, mean_squared_error
from jaxbias.params import Params, init_state, run_forward
from jaxbias.selfcheck.derivations import layer_derivations

pytestmark = pytest.mark.usefixtures("as_users_run_it")

Foreign = namedtuple("Foreign", "weight bias")

KEY = jax.random.key(0)
NETWORK = jb.chain(dense.layer(4), tanh, dense.layer(2))
STATEFUL = jb.chain(dense.layer(4), batch_norm.layer(), dropout.layer(0.5))


def floats(*shape):
    return np.ones(shape, np.float64)


def labels(*shape):
    return np.zeros(shape, np.int32)


def filled(tree):
    return jax.tree.map(lambda leaf: np.ones(leaf.shape, leaf.dtype), tree)


def fold(**changed):
    """fold_batch_norm of a dense layer with two outputs."""
    vectors = dict.fromkeys(("scale", "shift", "mean", "variance"), floats(2))
    return jb.surgery.fold_batch_norm(floats(3, 2), None, **{**vectors, "epsilon": 1e-3, **changed})


def gauge(redundant, params=None):
    return jb.surgery.fix_gauge(affine, AFFINE if params is None else params, floats(4, 3), redundant=redundant)


def params_of(layer, x):
    """Params of ones, for which nothing is compiled."""
    return filled(jax.eval_shape(layer.init, KEY, x))


def forward(layer, x, **replaced):
    """forward with params of which some leaves of `Params` are replaced; only traced."""
    params = params_of(layer, x)._replace(**replaced)
    return jax.eval_shape(lambda p: run_forward(layer, p, x, state_of(layer, x)), params)


def state_of(layer, x):
    return init_state(layer, KEY, x)


def step(params=None, x=None, targets=None, network=NETWORK, loss=mean_squared_error):
    """One gradient, only traced."""
    x = floats(3, 5) if x is None else x
    params = params_of(network, floats(3, 5)) if params is None else params
    return jax.eval_shape(jb.value_and_grad(network, loss), params, x, floats(3, 2) if targets is None else targets)


def fit(network=NETWORK, loss=mean_squared_error, params=None, **options):
    params = params_of(NETWORK, floats(4, 5)) if params is None else params
    options = {"epochs": 1, "batch_size": 2, "key": KEY, **options}
    return jb.train.fit(network, loss, params, (floats(4, 5), floats(4, 2)), optax.sgd(0.1), **options)


def sweep(network=NETWORK, loss=mean_squared_error):
    data = floats(4, 5), floats(4, 2)
    return jb.train.sweep(network, loss, data, optax.sgd(0.1), keys=jax.random.split(KEY, 2), epochs=1, batch_size=2)


def square_loss(params, example):
    return jnp.sum(params["w"] * example)


def affine(params, x):
    return jnp.tanh(x @ params["w"] + params["b"][None])


AFFINE = {"w": floats(3, 2), "b": floats(2)}
B_REDUNDANT = jb.surgery.Redundant(("b",), 1, floats(1, 2) / 2**0.5)
PARAMS = params_of(NETWORK, floats(3, 5))
DENSE = Params(floats(5, 2), floats(2))
IMAGE = floats(6, 5, 3)
IMAGES = floats(2, 6, 5, 3)

MODULE = (TypeError, "the module jaxbias.layers.{0} is no layer", r"Write {0}\.layer\(")
BIAS = (ValueError, r"bias has shape \(1,\)", r"wants a bias of shape \(4,\)", r"jnp\.broadcast_to\(bias, \(4,\)\)")
SIZE = (ValueError, "must be a whole number of at least 1, got the int {0}")
NOT_WHOLE = (TypeError, "must be a whole number of at least 1, got the {0}")
ONE_IMAGE = (ValueError, r"shape \(.*\)", "image needs a batch axis", r"x\[None\]")
NO_KEY = (TypeError, r"key must be a JAX key such as jax\.random\.key\(0\)", "got {0}")


def of(row, *words):
    """A row of the kinds above with its words filled in."""
    error, *pieces = row
    return error, *(piece.replace("{0}", words[0]) if words else piece for piece in pieces)


def rows(*table):
    return [pytest.param(call, error, pieces, id=name) for name, call, (error, *pieces) in table]


WRONG_CALLS = rows(
    # modules, functions and losses where a layer is wanted
    ("chain of modules", lambda: jb.chain(dense, relu), of(MODULE, "dense")),
    (
        "chain of a module with two sizes",
        lambda: jb.chain(conv),
        (TypeError, r"Write conv\.layer\(channels_out, kernel"),
    ),
    (
        "chain of factories",
        lambda: jb.chain(dense.layer, relu),
        (TypeError, r"dense\.layer.* makes one.*dense\.layer\(fan_out\)"),
    ),
    (
        "chain of an activation's factory",
        lambda: jb.chain(activations.make_gelu),
        (TypeError, r"Call it: make_gelu\(\)"),
    ),
    (
        "chain with jnp.tanh",
        lambda: jb.chain(dense.layer(2), jnp.tanh),
        (TypeError, "tanh is no layer", r"Write jb\.layers\.tanh"),
    ),
    ("chain with jax.nn.relu", lambda: jb.chain(dense.layer(2), jax.nn.relu), (TypeError, r"Write jb\.layers\.relu")),
    (
        "chain with a function",
        lambda: jb.chain(jnp.sin),
        (TypeError, "no backward", r"activations\.elementwise", r"jb\.Layer\(init"),
    ),
    ("chain with a lambda", lambda: jb.chain(lambda x: x), (TypeError, "a lambda is no layer", "elementwise")),
    ("chain of a list", lambda: jb.chain([dense.layer(2), relu]), (TypeError, "a list of 2", r"jb\.chain\(\*layers\)")),
    (
        "chain with a loss",
        lambda: jb.chain(dense.layer(2), cross_entropy),
        (TypeError, "but a loss", r"value_and_grad\(network, cross_entropy\)"),
    ),
    (
        "chain with a size",
        lambda: jb.chain(16),
        (TypeError, "the int 16 is no layer", r"jb\.layers\.dense\.layer\(16\)"),
    ),
    ("chain with params", lambda: jb.chain(DENSE), (TypeError, r"Params\(weight, bias\) is no layer")),
    ("residual of a module", lambda: jb.residual(layer_norm), of(MODULE, "layer_norm")),
    ("residual of a factory", lambda: jb.residual(rms_norm.layer), (TypeError, r"Call it: rms_norm\.layer\(\)")),
    ("parallel of modules", lambda: jb.parallel(dense, conv), of(MODULE, "dense")),
    (
        "parallel with jnp.tanh",
        lambda: jb.parallel(dense.layer(2), jnp.tanh),
        (TypeError, "parallel", r"jb\.layers\.tanh"),
    ),
    ("inference of a module", lambda: jb.inference(dropout), of(MODULE, "dropout")),
    ("inference of params", lambda: jb.inference(PARAMS), (TypeError, "inference: a tuple of 3 is no layer")),
    (
        "as_function of a loss",
        lambda: jb.as_function(huber),
        (TypeError, "jaxbias.losses.huber is no layer, but a loss"),
    ),
    (
        "as_function of a configured loss",
        lambda: jb.as_function(huber.loss()),
        (TypeError, "the loss huber is no layer"),
    ),
    ("as_function of a module", lambda: jb.as_function(bilinear), of(MODULE, "bilinear")),
    ("deltas of a module", lambda: jb.deltas(rnn, huber), of(MODULE, "rnn")),
    ("value_and_grad of a module", lambda: jb.value_and_grad(dense, huber), of(MODULE, "dense")),
    (
        "value_and_grad of a class",
        lambda: jb.value_and_grad(Params, huber),
        (TypeError, "the class Params is no layer"),
    ),
    ("fit of a module", lambda: fit(network=dense), of(MODULE, "dense")),
    (
        "sweep of a factory",
        lambda: sweep(network=dense.layer),
        (TypeError, r"sweep: .*Call it: dense\.layer\(fan_out\)"),
    ),
    (
        "data_dependent of a module",
        lambda: jb.initializers.data_dependent(dense, DENSE, floats(3, 5)),
        of(MODULE, "dense"),
    ),
    (
        "verify.layer of a factory",
        lambda: jb.verify.layer(dense.layer, DENSE, floats(3, 5)),
        (TypeError, r"verify\.layer", "Call it: dense"),
    ),
    (
        "verify.layer of jnp.tanh",
        lambda: jb.verify.layer(jnp.tanh, (), floats(3, 5)),
        (TypeError, r"Write jb\.layers\.tanh"),
    ),
    # what is no loss
    (
        "value_and_grad with a lambda",
        lambda: jb.value_and_grad(NETWORK, lambda out, y: 0.0),
        (TypeError, "a lambda is no loss", r"forward\(out, targets\)", r"losses\.ConfiguredLoss\(forward, backward\)"),
    ),
    (
        "value_and_grad with a forward",
        lambda: jb.value_and_grad(NETWORK, huber.forward),
        (TypeError, r"function huber\.forward is no loss", r"jb\.losses\."),
    ),
    (
        "value_and_grad with a factory",
        lambda: jb.value_and_grad(NETWORK, huber.loss),
        (TypeError, r"Call it: huber\.loss\(\)"),
    ),
    (
        "value_and_grad with a name",
        lambda: jb.value_and_grad(NETWORK, "hinge"),
        (TypeError, "'hinge' is no loss, only its name", r"jb\.losses\.hinge"),
    ),
    (
        "value_and_grad with a layer",
        lambda: jb.value_and_grad(NETWORK, relu),
        (TypeError, "the layer relu is no loss", r"jb\.losses\.cross_entropy"),
    ),
    (
        "deltas with a module of layers",
        lambda: jb.deltas(NETWORK, dense),
        (TypeError, "layers.dense is no loss", "into the network"),
    ),
    ("fit with a lambda", lambda: fit(loss=lambda out, y: 0.0), (TypeError, "fit: a lambda is no loss")),
    ("sweep with None", lambda: sweep(loss=None), (TypeError, "sweep: None is no loss")),
    # params of another kind
    (
        "params of dense as a dict",
        lambda: dense.forward({"weight": 1, "bias": 2}, floats(3, 5)),
        (TypeError, r"must be jb\.Params\(weight, bias\)", "a dict with the keys weight, bias", r"layer\.init"),
    ),
    (
        "params of dense as a list",
        lambda: dense.forward(list(DENSE), floats(3, 5)),
        (TypeError, "got a list of 2", r"jb\.Params\(weight, bias\)"),
    ),
    (
        "params of dense as another NamedTuple",
        lambda: dense.forward(Foreign(*DENSE), floats(3, 5)),
        (TypeError, r"got Foreign\(weight, bias\)"),
    ),
    (
        "params of dense as an array",
        lambda: dense.forward(floats(5, 2), floats(3, 5)),
        (TypeError, r"got a float64 array of shape \(5, 2\)"),
    ),
    (
        "params of conv as those of rnn",
        lambda: conv.forward(params_of(rnn.layer(4), floats(2, 3, 3)), IMAGES),
        (TypeError, r"got RnnParams\(input, hidden\)"),
    ),
    (
        "params of rnn as those of dense",
        lambda: rnn.forward(DENSE, floats(2, 3, 5)),
        (TypeError, r"must be RnnParams\(input, hidden\)", r"got Params\(weight, bias\)"),
    ),
    (
        "hidden weight of another size",
        lambda: rnn.forward(rnn.RnnParams(DENSE, Params(floats(3, 3), None)), floats(2, 3, 5)),
        (ValueError, r"hidden weight must be .* \(2, 2\)", r"got shape \(3, 3\)"),
    ),
    (
        "hidden bias",
        lambda: rnn.forward(rnn.RnnParams(DENSE, Params(floats(2, 2), floats(2))), floats(2, 3, 5)),
        (ValueError, r"rnn\.forward \(hidden\): this layer has no bias", r"jb\.Params\(weight, None\)"),
    ),
    (
        "params of a chain as a dict",
        lambda: step({"0": DENSE}),
        (
            ValueError,
            "tuple with one entry for each of the 3 layers",
            "a dict with the keys 0",
            r"network\.init\(key, x\)",
        ),
    ),
    ("params of a chain as a list", lambda: step(list(PARAMS)), (ValueError, "got a list of 3", r"tuple\(params\)")),
    (
        "params of a chain as a Params",
        lambda: step(DENSE),
        (ValueError, r"got Params\(weight, bias\)", r"network\.init"),
    ),
    ("params of a chain, one short", lambda: step(PARAMS[:2]), (ValueError, "got a tuple of 2", r"network\.init")),
    (
        "params and x exchanged",
        lambda: step(floats(3, 5), PARAMS),
        (ValueError, r"chain\.forward: params must be a tuple", r"got a float64 array of shape \(3, 5\)"),
    ),
    (
        "params of another network",
        lambda: step(params_of(NETWORK, floats(3, 7))),
        (ValueError, "x has 5 features but weight has fan_in=7"),
    ),
    (
        "params of another order",
        lambda: step((PARAMS[0], PARAMS[2], ())),
        (ValueError, r"tanh\.forward: this layer learns nothing", r"wants the empty tuple \(\)", "another layer"),
    ),
    (
        "params of parallel as a list",
        lambda: jb.parallel(relu, tanh).forward([(), ()], floats(2, 3)),
        (ValueError, r"parallel\.forward", r"tuple\(params\)"),
    ),
    (
        "params for a pool",
        lambda: max_pool.forward(DENSE, IMAGES, window=2),
        (ValueError, "learns nothing", r"got Params\(weight, bias\)"),
    ),
    ("params for a reshape", lambda: reshape.forward(DENSE, IMAGES), (ValueError, "learns nothing")),
    (
        "weight and bias exchanged",
        lambda: dense.forward(Params(DENSE.bias, DENSE.weight), floats(3, 5)),
        (
            ValueError,
            r"must have the axes \(fan_in, fan_out\), got shape \(2,\)",
            "exchanged",
            r"Params\(weight, bias\)",
        ),
    ),
    (
        "weight of bilinear of rank 2",
        lambda: bilinear.forward(DENSE, (floats(3, 5), floats(3, 5))),
        (ValueError, r"axes \(fan_in1, fan_in2, fan_out\), got shape \(5, 2\)"),
    ),
    (
        "weight of integers",
        lambda: dense.forward(Params(labels(5, 2), None), floats(3, 5)),
        (TypeError, "weight must be a floating-point array, got int32", r"weight\.astype"),
    ),
    (
        "bias as a number",
        lambda: dense.forward(Params(DENSE.weight, 0.0), floats(3, 5)),
        (TypeError, "bias must be a floating-point array, got float", r"jnp\.asarray\(bias, jnp\.float32\)"),
    ),
    (
        "bias for an embedding",
        lambda: embedding.forward(DENSE, labels(3)),
        (ValueError, r"embedding\.forward: this layer has no bias", r"jb\.Params\(weight, None\)"),
    ),
    (
        "bias beside a bias neuron",
        lambda: bias_neuron.forward(DENSE, floats(3, 4)),
        (ValueError, r"bias_neuron\.forward: this layer has no bias"),
    ),
    # a bias that would be broadcast
    ("bias (1,) of dense", lambda: forward(dense.layer(4), floats(3, 5), bias=floats(1)), BIAS),
    ("bias (1,) of conv", lambda: forward(conv.layer(4, 3), IMAGES, bias=floats(1)), BIAS),
    ("bias (1,) of conv_transpose", lambda: forward(conv_transpose.layer(4, 3), IMAGES, bias=floats(1)), BIAS),
    ("bias (1,) of bilinear", lambda: forward(bilinear.layer(4), (floats(3, 5), floats(3, 2)), bias=floats(1)), BIAS),
    ("bias (1,) of rnn", lambda: forward(rnn.layer(4), floats(2, 3, 5), input=Params(floats(5, 4), floats(1))), BIAS),
    ("bias (1,) of batch_norm", lambda: forward(batch_norm.layer(), floats(3, 4), bias=floats(1)), BIAS),
    ("bias (1,) of layer_norm", lambda: forward(layer_norm.layer(), floats(3, 4), bias=floats(1)), BIAS),
    ("bias (1,) of rms_norm", lambda: forward(rms_norm.layer(use_bias=True), floats(3, 4), bias=floats(1)), BIAS),
    ("bias (1,) of group_norm", lambda: forward(group_norm.layer(2), floats(3, 4), bias=floats(1)), BIAS),
    ("bias (1,) of from_dense", lambda: bias_neuron.from_dense(Params(floats(5, 4), floats(1))), BIAS),
    (
        "bias () of dense",
        lambda: forward(dense.layer(4), floats(3, 5), bias=floats()),
        (ValueError, r"bias has shape \(\)"),
    ),
    (
        "bias (1, 4) of dense",
        lambda: forward(dense.layer(4), floats(3, 5), bias=floats(1, 4)),
        (ValueError, r"bias has shape \(1, 4\)"),
    ),
    (
        "scale (1,) of layer_norm",
        lambda: forward(layer_norm.layer(use_bias=False), floats(3, 4), weight=floats(1)),
        (ValueError, r"x \(3, 4\) and weight \(1,\)"),
    ),
    (
        "bias over one of two axes",
        lambda: forward(layer_norm.layer(axes=2), floats(3, 2, 4), bias=floats(4)),
        (ValueError, r"bias has shape \(4,\)", r"\(2, 4\)"),
    ),
    # sizes and numbers
    ("dense of -1", lambda: dense.layer(-1), of(SIZE, "-1")),
    ("dense of 0", lambda: dense.layer(0), of(SIZE, "0")),
    (
        "dense of 2**70",
        lambda: dense.layer(2**70),
        (ValueError, r"fan_out must be at most 9223372036854775807, .*longest"),
    ),
    ("dense of 2.5", lambda: dense.layer(2.5), (*of(NOT_WHOLE, "float 2.5"), r"// or int\(")),
    ("dense of True", lambda: dense.layer(True), of(NOT_WHOLE, "bool True")),
    ("dense of a str", lambda: dense.layer("16"), of(NOT_WHOLE, "str '16'")),
    ("dense.init of -3", lambda: dense.init(KEY, -3, 2), (ValueError, "whole number of at least 0, got the int -3")),
    ("bias_neuron of 0", lambda: bias_neuron.layer(0), of(SIZE, "0")),
    ("bilinear of None", lambda: bilinear.layer(None), (TypeError, r"bilinear\.layer: fan_out .*, got None")),
    ("rnn of -2", lambda: rnn.layer(-2), (*of(SIZE, "-2"), r"rnn\.layer: units")),
    (
        "rnn with another activation",
        lambda: rnn.layer(2, activation=jnp.tanh),
        (ValueError, "one of tanh, relu, got the function tanh"),
    ),
    ("embedding of 0 ids", lambda: embedding.layer(0, 3), (*of(SIZE, "0"), "vocabulary")),
    ("embedding of 2.0 features", lambda: embedding.layer(5, 2.0), (*of(NOT_WHOLE, "float 2.0"), "features")),
    (
        "embedding with padding id 5 of 5",
        lambda: embedding.layer(5, 2, padding_id=5),
        (ValueError, "padding_id must lie in 0 … 4, got 5"),
    ),
    (
        "embedding with padding id True",
        lambda: embedding.layer(5, 2, padding_id=True),
        (TypeError, "padding_id must be a whole number", "bool True"),
    ),
    ("conv of -4 channels", lambda: conv.layer(-4, 3), (*of(SIZE, "-4"), "channels_out")),
    ("conv with a kernel of 0", lambda: conv.layer(4, 0), (*of(SIZE, "0"), r"conv\.layer: kernel")),
    ("conv with a kernel of 1.5", lambda: conv.layer(4, (3, 1.5)), (*of(NOT_WHOLE, "float 1.5"), "kernel")),
    (
        "conv with stride True",
        lambda: conv.forward(Params(floats(3, 3, 3, 4), None), IMAGES, stride=True),
        (*of(NOT_WHOLE, "bool True"), "stride"),
    ),
    (
        "conv with padding 1.0",
        lambda: conv.forward(Params(floats(3, 3, 3, 4), None), IMAGES, padding=1.0),
        (TypeError, "padding must be one of SAME, VALID, CAUSAL", "got the float 1.0"),
    ),
    ("conv with groups 0", lambda: conv.layer(4, 3, groups=0), (*of(SIZE, "0"), "groups")),
    (
        "conv_transpose with a kernel of -1",
        lambda: conv_transpose.layer(4, -1),
        (*of(SIZE, "-1"), r"conv_transpose\.layer: kernel"),
    ),
    ("max_pool of 0", lambda: max_pool.layer(0), (*of(SIZE, "0"), r"max_pool\.layer: window")),
    ("max_pool with stride 0.5", lambda: max_pool.layer(2, stride=0.5), (*of(NOT_WHOLE, "float 0.5"), "stride")),
    ("avg_pool of a str", lambda: avg_pool.layer("SAME"), (*of(NOT_WHOLE, "str 'SAME'"), "window")),
    ("group_norm of 2.0 groups", lambda: group_norm.layer(2.0), (*of(NOT_WHOLE, "float 2.0"), "groups")),
    ("group_norm of -1 groups", lambda: group_norm.layer(-1), of(SIZE, "-1")),
    ("layer_norm over 0 axes", lambda: layer_norm.layer(axes=0), of(SIZE, "0")),
    (
        "layer_norm with eps as a str",
        lambda: layer_norm.layer(eps="1e-5"),
        (TypeError, "eps must be a number, got the str '1e-5'"),
    ),
    (
        "batch_norm with momentum None",
        lambda: batch_norm.layer(momentum=None),
        (TypeError, "momentum must be a number, got None"),
    ),
    ("dropout at rate 1.5", lambda: dropout.layer(1.5), (ValueError, r"in \[0, 1\]; got 1\.5")),
    ("dropout at rate True", lambda: dropout.layer(True), (TypeError, "rate must be a number, got the bool True")),
    (
        "dropout at a rate in words",
        lambda: dropout.layer("half"),
        (TypeError, "rate must be a number, got the str 'half'"),
    ),
    (
        "leaky_relu with a slope in words",
        lambda: activations.make_leaky_relu("0.1"),
        (TypeError, "slope must be a number"),
    ),
    (
        "softmax over axis 1.0",
        lambda: activations.make_softmax(1.0),
        (TypeError, "make_softmax: axis", "got the float 1.0"),
    ),
    ("huber with a threshold in words", lambda: huber.loss(threshold="1"), (TypeError, "threshold must be a number")),
    (
        "label_smoothing None",
        lambda: cross_entropy.loss(label_smoothing=None),
        (TypeError, "label_smoothing must be a number, got None"),
    ),
    ("reduction as a function", lambda: hinge.loss(reduction=jnp.mean), (ValueError, 'must be "mean" or "sum"')),
    (
        "bias_init as a number",
        lambda: dense.layer(2, bias_init=0.1).init(KEY, floats(3, 5)),
        (TypeError, r"got the float 0\.1", r"initializers\.constant\(v\)"),
    ),
    # keys
    ("init with a seed", lambda: NETWORK.init(0, floats(3, 5)), of(NO_KEY, "the int 0")),
    ("init of one layer with a seed", lambda: dense.layer(2).init(0, floats(3, 5)), of(NO_KEY, "the int 0")),
    ("init with x and key exchanged", lambda: NETWORK.init(floats(3, 5), KEY), of(NO_KEY, "a float64 array")),
    ("dropout with a seed", lambda: dropout.forward((), floats(3, 5), 0), of(NO_KEY, "the int 0")),
    # one image where a batch is wanted
    ("one image into conv", lambda: conv.forward(Params(floats(3, 3, 3, 4), None), IMAGE), ONE_IMAGE),
    ("one image into conv's init", lambda: conv.layer(4, (3, 3)).init(KEY, IMAGE), ONE_IMAGE),
    ("one sequence into conv's init", lambda: conv.layer(4, 3).init(KEY, floats(5, 3)), ONE_IMAGE),
    (
        "one image into conv_transpose",
        lambda: conv_transpose.forward(Params(floats(3, 3, 3, 4), None), IMAGE),
        ONE_IMAGE,
    ),
    ("one image into max_pool", lambda: max_pool.forward((), IMAGE, window=(2, 2)), ONE_IMAGE),
    ("one image into avg_pool", lambda: avg_pool.forward((), IMAGE, window=2, stride=(2, 1)), ONE_IMAGE),
    ("one sequence into max_pool", lambda: max_pool.forward((), floats(5, 3), window=2), ONE_IMAGE),
    ("rows into global_avg_pool", lambda: global_avg_pool.forward((), floats(5, 3)), ONE_IMAGE),
    (
        "one sequence into rnn",
        lambda: forward(rnn.layer(4), floats(5, 3)),
        (ValueError, r"got shape \(5, 3\)", r"batch axis: x\[None\]"),
    ),
    (
        "one row into group_norm",
        lambda: group_norm.forward(Params(floats(4), None), floats(4), groups=2),
        (ValueError, r"\(n, \*positions, channels\), got shape \(4,\)"),
    ),
    ("a scalar into reshape", lambda: reshape.forward((), floats()), (ValueError, "got a scalar", r"x\[None\]")),
    (
        "one array into bilinear",
        lambda: bilinear.forward(Params(floats(5, 3, 4), None), floats(3, 5)),
        (ValueError, r"must be a pair \(x1, x2\)", r"got a float64 array of shape \(3, 5\)"),
    ),
    (
        "integers into dense",
        lambda: dense.forward(DENSE, labels(3, 5)),
        (TypeError, "x must be a floating-point array, got int32", r"x\.astype\(jnp\.float32\)"),
    ),
    (
        "a list into dense",
        lambda: dense.forward(DENSE, [[1.0] * 5]),
        (TypeError, "got list", r"jnp\.asarray\(x, jnp\.float32\)"),
    ),
    (
        "floats into an embedding",
        lambda: embedding.forward(Params(floats(5, 2), None), floats(3)),
        (TypeError, "integer ids, got float64", r"jnp\.asarray\(x, jnp\.int32\)"),
    ),
    # targets of another shape
    (
        "targets (3,) for out (3, 1)",
        lambda: mean_squared_error.forward(floats(3, 1), floats(3)),
        (ValueError, r"out \(3, 1\) and targets \(3,\)", r"targets\[\.\.\., None\]"),
    ),
    (
        "targets of a broadcast",
        lambda: half_squared_error.forward(floats(3, 2), floats(1, 2)),
        (ValueError, r"out \(3, 2\) and targets \(1, 2\)", "pair rows with the wrong targets"),
    ),
    (
        "targets of another width",
        lambda: huber.forward(floats(3, 2), floats(3, 4)),
        (ValueError, r"targets \(3, 4\) must have one shape"),
    ),
    (
        "targets of integers",
        lambda: step(targets=labels(3, 2)),
        (TypeError, "targets must be a floating-point array, got int32"),
    ),
    (
        "one-hot integers",
        lambda: cross_entropy.forward(floats(3, 2), labels(3, 2)),
        (ValueError, "one label per row", r"targets\.astype\(out\.dtype\)"),
    ),
    (
        "labels as floats",
        lambda: cross_entropy.forward(floats(3, 2), floats(3)),
        (ValueError, r"got targets \(3,\) for out \(3, 2\)", r"targets\.astype\(jnp\.int32\)"),
    ),
    (
        "labels beyond the classes",
        lambda: cross_entropy.forward(floats(3, 2), labels(3) + 2),
        (ValueError, r"must lie in \[0, 2\)", "got 2"),
    ),
    (
        "labels of another length",
        lambda: hinge.forward(floats(3, 2), labels(4)),
        (ValueError, r"shape \(3,\) for out \(3, 2\), got targets \(4,\)"),
    ),
    (
        "targets of -1 and 1",
        lambda: binary_cross_entropy.forward(floats(3, 2), -floats(3, 2)),
        (ValueError, r"must lie in \[0, 1\], got -1", r"\(1 \+ targets\) / 2"),
    ),
    (
        "targets as a list",
        lambda: mean_squared_error.forward(floats(3, 2), [[1.0, 2.0]] * 3),
        (TypeError, "targets must be a floating-point array, got list"),
    ),
    ("out as a scalar", lambda: mean_squared_error.forward(floats(), floats()), (ValueError, r"out\[\.\.\., None\]")),
    # state
    (
        "state missing in a step",
        lambda: step(params_of(STATEFUL, floats(3, 5)), network=STATEFUL, targets=floats(3, 4)),
        (ValueError, "keeps a state", r"layer\.state\.init\(key, x\)", r"jb\.inference"),
    ),
    (
        "state of batch_norm missing",
        lambda: batch_norm.forward(Params(floats(4), None), floats(3, 4)),
        (ValueError, r"running statistics.* got None", r"state=layer\.state\.init\(key, x\)"),
    ),
    (
        "state of batch_norm of another kind",
        lambda: batch_norm.forward(Params(floats(4), None), floats(3, 4), (floats(4), floats(4))),
        (TypeError, r"got a tuple of 2", r"layer\.state\.init"),
    ),
    (
        "state of another width",
        lambda: batch_norm.forward(Params(floats(4), None), floats(3, 4), batch_norm.init_state(3)),
        (ValueError, r"running mean \(3,\)", r"\(4,\)", r"layer\.state\.init"),
    ),
    (
        "key of dropout missing",
        lambda: dropout.forward((), floats(3, 4)),
        (ValueError, "the state is missing", r"layer\.state\.init\(key, x\)", r"jb\.inference"),
    ),
    (
        "state of a chain, one short",
        lambda: STATEFUL.forward(params_of(STATEFUL, floats(3, 5)), floats(3, 5), (None, None)),
        (
            ValueError,
            "state must be a tuple with one entry for each of the 3 layers, got a tuple of 2",
            r"network\.state\.init",
        ),
    ),
    (
        "state of a chain as a key",
        lambda: STATEFUL.forward(params_of(STATEFUL, floats(3, 5)), floats(3, 5), KEY),
        (ValueError, r"state must be a tuple", "got a key<fry> array"),
    ),
    # summary, verify, capture
    (
        "summary of network and x",
        lambda: jb.summary(NETWORK, floats(3, 5)),
        (TypeError, "the layer chain came where params belong", r"summary\(params, network, x\)"),
    ),
    (
        "summary of nothing",
        lambda: jb.summary(),
        (TypeError, "params are missing, got nothing", r"summary\(params, network, x\)"),
    ),
    (
        "summary of a function alone",
        lambda: jb.summary(jnp.sin),
        (TypeError, "params are missing, got the function sin", r"summary\(fn, params, \*args\)"),
    ),
    (
        "summary with a module",
        lambda: jb.summary(PARAMS, dense),
        (TypeError, "summary: the module jaxbias.layers.dense is no layer"),
    ),
    (
        "summary with x for the network",
        lambda: jb.summary(PARAMS, floats(3, 5)),
        (TypeError, r"summary: a float64 array of shape \(3, 5\) is no layer"),
    ),
    (
        "summary of a module",
        lambda: jb.summary(dense),
        (TypeError, "params must hold arrays, got the module", r"summary\(params, network, x\)"),
    ),
    (
        "custom_vjp without a reference",
        lambda: jb.verify.custom_vjp(jb.as_function(tanh), (floats(3),)),
        (TypeError, "f, reference and args, got two", "the plain function without its own rule"),
    ),
    (
        "capture of a layer",
        lambda: jb.capture(NETWORK),
        (TypeError, r"function \(params, example\) -> scalar, got the layer chain", "lambda params, example"),
    ),
    (
        "per_example_norms of a loss module",
        lambda: jb.per_example_norms(cross_entropy),
        (TypeError, "got the module jaxbias.losses.cross_entropy", "lambda params, example"),
    ),
    (
        "ggn_diagonal of a network",
        lambda: jb.ggn_diagonal(NETWORK),
        (TypeError, "got the layer chain", r"network\.forward\(params, x\)\[0\]"),
    ),
    (
        "fisher_diagonal of another kind",
        lambda: jb.fisher_diagonal(jnp.sin, "hinge"),
        (ValueError, "kind must be one of cross_entropy, squared_error, got 'hinge'"),
    ),
    (
        "grand_scores of one params",
        lambda: jb.grand_scores(square_loss)({"w": floats(2)}, floats(3, 2)),
        (TypeError, "argument 0 must be a list of params trees, got a dict with the keys w"),
    ),
    (
        "delta_histograms with edges exchanged",
        lambda: jb.delta_histograms(square_loss, 3, 1),
        (ValueError, "highest must be a whole number of at least 4, got the int 1"),
    ),
    # numbers that are none, and answers that nobody would see
    (
        "clipped_grad with NaN for a norm",
        lambda: jb.clipped_grad(square_loss, l2_clip_norm=np.nan),
        (ValueError, "l2_clip_norm must be 0 or larger, got nan"),
    ),
    (
        "assert_vjp with any tolerance",
        lambda: jb.verify.assert_vjp(jnp.sin, lambda args, ct: (ct,), (floats(3),), rtol=np.inf),
        (ValueError, "rtol must be finite and not negative, got inf"),
    ),
    (
        "drop_bias of a weight",
        lambda: jb.surgery.drop_bias(affine, AFFINE, floats(4, 3), bias="w"),
        (ValueError, "w is no bias but weight; the biases are b"),
    ),
    (
        "add_bias of other rows",
        lambda: jb.surgery.add_bias(floats(4, 2), floats(5, 3)),
        (ValueError, r"rows of x \(5, 3\) do not fit a weight of shape \(4, 2\)"),
    ),
    (
        "fold_batch_norm of a number for a variance",
        lambda: fold(variance=-1),
        (TypeError, "fold_batch_norm: variance must be a floating-point array, got int"),
    ),
    (
        "fold_batch_norm of a negative variance",
        lambda: fold(variance=-floats(2)),
        (ValueError, r"variance \+ epsilon must be positive, its smallest entry is -0\.9", "not its logarithm"),
    ),
    (
        "fold_batch_norm of a mean of NaN",
        lambda: fold(mean=np.nan * floats(2)),
        (ValueError, "fold_batch_norm: mean has entries that are not finite", "params of a run that converged"),
    ),
    (
        "fold_batch_norm of text for epsilon",
        lambda: fold(epsilon="1e-3"),
        (TypeError, "fold_batch_norm: epsilon must be a number, got the str"),
    ),
    (
        "fix_gauge of params for the function",
        lambda: jb.surgery.fix_gauge(AFFINE, affine, floats(4, 3), redundant=()),
        (TypeError, r"fn must be a function of \(params, \*args\), got a dict"),
    ),
    (
        "fix_gauge of a Redundant for a tuple of them",
        lambda: gauge(B_REDUNDANT),
        (TypeError, "must be the tuple of Redundant that redundant_biases returned", r"got Redundant\(paths, rank"),
    ),
    (
        "fix_gauge of paths",
        lambda: gauge(["b"]),
        (TypeError, "must be the tuple of Redundant", "got a list of 1", "Leave it out"),
    ),
    (
        "fix_gauge of a leaf of another model",
        lambda: gauge((B_REDUNDANT._replace(paths=("gone",)),)),
        (KeyError, "fix_gauge: params have no leaf 'gone'; the leaves are b, w"),
    ),
    (
        "fix_gauge of directions of another size",
        lambda: gauge((B_REDUNDANT._replace(directions=floats(1, 5)),)),
        (ValueError, r"directions of b have shape \(1, 5\), but these leaves have 2 entries"),
    ),
    (
        "fix_gauge of biases of NaN",
        lambda: gauge((B_REDUNDANT,), {**AFFINE, "b": np.nan * floats(2)}),
        (ValueError, "fix_gauge: b has entries that are not finite"),
    ),
    (
        "roles with a role misspelt",
        lambda: jb.roles(affine, AFFINE, floats(4, 3), unused="bais"),
        (ValueError, 'unused must be "error" or a role', "got 'bais'"),
    ),
    (
        "labels of a number",
        lambda: jb.labels(jb.roles(affine, AFFINE, floats(4, 3)), muon=3),
        (TypeError, "labels: muon must be a role or several, got the int 3"),
    ),
    (
        "lr_by_role without roles",
        lambda: jb.lr_by_role(None, bias=2.0),
        (TypeError, "roles must be a tree of role names as jb.roles returns it, got a leaf of type NoneType"),
    ),
    (
        "lr_by_role with text for a number",
        lambda: jb.lr_by_role(jb.roles(affine, AFFINE, floats(4, 3)), bias="2"),
        (TypeError, "lr_by_role: bias must be a number, got the str '2'"),
    ),
    (
        "freeze of a number",
        lambda: jb.freeze(PARAMS, 3),
        (TypeError, "a word, a list of paths or a predicate, got the"),
    ),
    ("set_weights of nothing", lambda: jb.set_weights(PARAMS, None), (TypeError, "must be a list of arrays, got None")),
    (
        "labels as a list",
        lambda: cross_entropy.forward(floats(3, 2), [0, 1, 0]),
        (TypeError, r"of labels jnp\.asarray\(targets\)", "got a list of 3"),
    ),
    ("a penalty of text", lambda: jb.penalties.l2("0.1"), (TypeError, "strength must be a number, got the str '0.1'")),
    (
        "a penalty that is a number",
        lambda: jb.penalties.add(jb.value_and_grad(NETWORK, mean_squared_error), 0.1),
        (TypeError, r"a penalty is what l2\(1e-4\) or l1\(1e-4\) returns, got the float 0\.1"),
    ),
    (
        "normal of a negative width",
        lambda: jb.initializers.normal(-1.0),
        (ValueError, "at least 0, got -1"),
    ),
    ("normal of NaN", lambda: jb.initializers.normal(np.nan), (ValueError, "std must be at least 0, got nan")),
    ("elu of NaN", lambda: activations.make_elu(np.nan), (ValueError, "alpha must be at least 0, got nan")),
    (
        "use_bias as text",
        lambda: dense.layer(3, use_bias="no").init(KEY, floats(4, 3)),
        (TypeError, "dense: use_bias must be True or False, got the str 'no'"),
    ),
    (
        "an initializer of another shape",
        lambda: dense.layer(2, weight_init=lambda key, shape, dtype: jnp.ones(2, dtype)).init(KEY, floats(4, 3)),
        (ValueError, r"dense: weight_init must return a float64 array of shape \(3, 2\), got a float64 array of shape"),
    ),
    (
        "an initializer of whole numbers",
        lambda: dense.layer(2, bias_init=lambda key, shape, dtype: jnp.ones(shape, int)).init(KEY, floats(4, 3)),
        (ValueError, r"dense: bias_init must return a float64 array of shape \(2,\), got an int64 array"),
    ),
    ("digits of another form", lambda: jb.data.digits(form="row"), (ValueError, "flat, image, sequence, got 'row'")),
    ("a mapped file that is none", lambda: jb.data.mapped("no.npz"), (FileNotFoundError, r"there is no file no\.npz")),
    (
        "save without an array",
        lambda: jb.io.save("params.safetensors", None),
        (ValueError, "io.save: there is no array in params, which is None"),
    ),
    (
        "save of complex numbers",
        lambda: jb.io.save("params.safetensors", {"a": np.ones(3, np.complex64)}),
        (TypeError, r"a is a complex64 array of shape \(3,\), which a safetensors file does not hold"),
    ),
    (
        "save of a key",
        lambda: jb.io.save("params.safetensors", {"k": KEY}),
        (TypeError, r"k is a key<fry> array of shape \(\), which a safetensors file does not hold"),
    ),
    (
        "save of two leaves under one path",
        lambda: jb.io.save("params.safetensors", {"a.b": floats(2), "a": {"b": floats(3)}}),
        (ValueError, "two leaves of params are called a.b"),
    ),
    (
        "from_pytorch of a path",
        lambda: jb.io.from_pytorch(NETWORK, PARAMS, "m.pt"),
        (TypeError, r"io.from_pytorch: state_dict must be a mapping .*module\.state_dict\(\).*, got the str 'm.pt'"),
    ),
    (
        "to_pytorch with arguments exchanged",
        lambda: jb.io.to_pytorch(PARAMS, NETWORK),
        (TypeError, "io.to_pytorch: a tuple of 3 is no layer"),
    ),
)


@pytest.mark.parametrize(("call", "error", "pieces"), WRONG_CALLS)
def test_a_wrong_call_gets_one_clear_line(call, error, pieces):
    with pytest.raises(error) as raised:
        call()
    assert type(raised.value) is error
    message = str(raised.value)
    assert "\n" not in message and 30 < len(message) < 330, message
    for piece in pieces:
        assert re.search(piece, message), f"{piece!r} is not in: {message}"


# --- δ into every backward --------------------------------------------------------------------------------------------

A_SCALAR = "linear_cross_entropy", "crf"  # δ of a loss is one number
DERIVATIONS = [derivation for name, derivation in layer_derivations().items() if name not in A_SCALAR]
LAYERS = {derivation.name: derivation.examples[0] for derivation in DERIVATIONS} | {
    f"{derivation.name}, {example.label}": example
    for derivation in DERIVATIONS
    for example in derivation.examples
    if example.label in ("inference", "given state", "tanh form")
}
"""One example of every layer, and of those with a second backward."""

WRONG_DELTAS = {
    "one axis more": (lambda out: np.zeros((*out.shape, 1), out.dtype), ValueError, "but the output of forward has"),
    "one entry more": (lambda out: np.zeros((*out.shape[:-1], out.shape[-1] + 1), out.dtype), ValueError, "delta has"),
    "one row more": (lambda out: np.zeros((out.shape[0] + 1, *out.shape[1:]), out.dtype), ValueError, "delta has"),
    "a scalar": (lambda out: np.zeros((), out.dtype), ValueError, r"delta has shape \(\)"),
    "one number for each feature": (lambda out: np.zeros(out.shape[-1:], out.dtype), ValueError, "one forward pass"),
    "integers": (lambda out: np.zeros(out.shape, np.int32), TypeError, r"got int32.*delta\.astype\(jnp\.float32\)"),
    "bools": (lambda out: np.zeros(out.shape, bool), TypeError, "delta must be a floating-point array, got bool"),
    "complex": (lambda out: np.zeros(out.shape, np.complex64), TypeError, r"got complex64.*delta\.real"),
    "a list": (lambda out: [[1.0]], TypeError, r"got list.*jnp\.asarray\(delta, jnp\.float32\)"),
    "nothing": (lambda out: None, TypeError, "got NoneType"),
}


def example_input(example, dtype):
    return example.x(KEY, dtype) if callable(example.x) else np.ones(example.x, dtype)


def backward_of(example, dtype, delta_of):
    """Shapes of (grads, delta_x) for `delta_of(out)`, only traced; and those of the params."""
    layer, x = example.layer, example_input(example, dtype)
    params, state = params_of(layer, x), state_of(layer, x)

    def run(params, x):
        out, residuals = run_forward(layer, params, x, state)
        return layer.backward(residuals, delta_of(out))

    return jax.eval_shape(run, params, x), params


@pytest.mark.parametrize("name", LAYERS)
def test_a_wrong_delta_is_refused_by_every_backward(name):
    layer_name = name.partition(",")[0]
    for kind, (delta_of, error, words) in WRONG_DELTAS.items():
        with pytest.raises(error) as raised:
            backward_of(LAYERS[name], np.float32, delta_of)
        message = str(raised.value)
        assert re.search(words, message), (kind, message)
        wrappers = "weight_norm", "spectral_norm", "weight_standardization"
        inside = "dense" if layer_name in wrappers else layer_name  # whose δ it is
        assert re.match(rf"{inside}\.(inference_)?backward: ", message), (kind, message)
        assert "\n" not in message


@pytest.mark.parametrize("name", LAYERS)
def test_a_delta_of_numpy_or_of_another_float_is_taken(name):
    """The gradients have the shapes of what they are gradients of, whatever the floating dtype of δ."""
    for dtype in (jnp.float32, jnp.bfloat16):
        with jax.numpy_dtype_promotion("standard"):
            (grads, delta_x), params = backward_of(
                LAYERS[name], np.float32, lambda out, dtype=dtype: np.ones(out.shape, dtype)
            )
        assert jax.tree.map(jnp.shape, grads) == jax.tree.map(jnp.shape, params)
        x = jax.tree.leaves(example_input(LAYERS[name], np.float32))
        assert [given.shape for given in jax.tree.leaves(delta_x)] in (
            [],
            [x_.shape for x_ in x if x_.dtype.kind == "f"],
        )


@pytest.mark.parametrize("delta", [np.ones(3, np.float32), np.ones((1, 1), np.float32), np.int32(1), [1.0], None])
@pytest.mark.parametrize("name", A_SCALAR)
def test_the_delta_of_a_loss_with_params_is_one_number(name, delta):
    example = layer_derivations()[name].examples[0]
    with pytest.raises((TypeError, ValueError), match=rf"{name}\.backward: delta"):
        backward_of(example, np.float32, lambda out: delta)


def test_a_concatenation_refuses_a_delta_of_another_width():
    network = jb.parallel(relu, tanh, combine="concatenate")
    _, residuals = network.forward(((), ()), jnp.ones((2, 3)))
    with pytest.raises(ValueError, match=r"parallel\.backward: delta has shape \(2, 7\) but .* have 6 features"):
        network.backward(residuals, jnp.ones((2, 7)))


def test_a_module_is_a_layer_for_the_checker_where_it_has_both_passes():
    assert jb.verify.layer(tanh, (), floats(2, 3), diagnose=False).ok

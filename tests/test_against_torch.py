"""The same numbers from PyTorch in float64: outputs and every gradient, to 1e-10.

PyTorch is no dependency, not even of the tests: where it is missing these tests are skipped, and where
JAXBIAS_REQUIRE_TORCH is set (in CI, which installs it) a missing PyTorch is a failure. Each case computes the layer
with PyTorch from params in this library's layout, so that PyTorch's gradients come back in that layout too.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxbias as jb
from jaxbias import layers, losses
from jaxbias.derivation import random_like
from jaxbias.params import init_state, out_shape, run_forward
from tests.peers import torch_or_skip

torch = torch_or_skip()
F = torch.nn.functional

TOLERANCE = 1e-10


def to_torch(tree):
    """Float leaves as float64 tensors that require a gradient."""

    def convert(leaf):
        tensor = torch.from_numpy(np.array(leaf))
        return tensor.requires_grad_(tensor.is_floating_point())

    return jax.tree.map(convert, tree)


def assert_close(actual, expected, what):
    expected = expected.detach().numpy()
    actual = np.asarray(actual)
    assert actual.shape == expected.shape, what
    assert np.all(np.abs(actual - expected) <= TOLERANCE * max(np.max(np.abs(expected), initial=0.0), 1.0)), what


def assert_same_as_torch(key, layer, x, torch_forward):
    """Forward, gradient of every params leaf and of x."""
    params_key, delta_key, state_key = jax.random.split(key, 3)
    params = random_like(params_key, layer.init(key, x))
    state = init_state(layer, state_key, x)
    out, residuals = run_forward(layer, params, x, state)
    delta = random_like(delta_key, out_shape(layer, params, x, state))
    grads, delta_x = layer.backward(residuals, delta)

    torch_params, torch_x = to_torch(params), to_torch(x)
    torch_out = torch_forward(torch_params, torch_x)
    torch_out.backward(torch.from_numpy(np.array(delta)))
    assert_close(out, torch_out, "out")
    differentiable = [tensor for tensor in jax.tree.leaves((torch_params, torch_x)) if tensor.requires_grad]
    for (path, actual), tensor in zip(jax.tree.leaves_with_path((grads, delta_x)), differentiable, strict=True):
        assert_close(actual, tensor.grad, jax.tree_util.keystr(path))


def channels_first(x):
    return x.movedim(-1, 1)


def channels_last(x):
    return x.movedim(1, -1)


def torch_dense(p, x):
    return F.linear(x, p.weight.T, p.bias)


def torch_conv(**configuration):
    def forward(p, x):
        kernel = p.weight.movedim((-1, -2), (0, 1))  # (*spatial, in, out) to (out, in, *spatial)
        function = {3: F.conv1d, 4: F.conv2d, 5: F.conv3d}[x.ndim]
        return channels_last(function(channels_first(x), kernel, p.bias, **configuration))

    return forward


def torch_pool(function, **configuration):
    return lambda p, x: channels_last(function(channels_first(x), **configuration))


def torch_unfold(x, **how):
    """Channels before places there, and all positions in one axis."""
    rows = F.unfold(channels_first(x), **how)
    return rows.unflatten(2, (3, 6)).unflatten(1, (3, 6)).permute(0, 3, 4, 2, 1).flatten(3)


def torch_fold(x, size, **how):
    rows = x.unflatten(3, (6, 3)).permute(0, 4, 3, 1, 2)
    return channels_last(F.fold(rows.flatten(3).flatten(1, 2), size, **how))


def torch_batch_norm(p, x):
    return channels_last(F.batch_norm(channels_first(x), None, None, p.weight, p.bias, training=True))


def torch_conv_transpose(groups=1, **configuration):
    def forward(p, x):
        *length, per_group, channels_out = p.weight.shape
        split = p.weight.reshape(*length, per_group, groups, channels_out // groups)
        kernel = split.movedim((-2, -3, -1), (0, 1, 2)).flatten(0, 1)  # (in, out/groups, *spatial)
        function = {3: F.conv_transpose1d, 4: F.conv_transpose2d}[x.ndim]
        return channels_last(function(channels_first(x), kernel, p.bias, groups=groups, **configuration))

    return forward


def torch_over_time(kind, **options):
    """A recurrent layer of PyTorch on our params: of 3 features, with 4 units, and a state where one is given."""
    module = kind(3, 4, batch_first=True, dtype=torch.float64, **options)

    def of_direction(p, suffix=""):
        bias = p.input.bias
        written = {
            "weight_ih_l0": p.input.weight.T,
            "weight_hh_l0": p.hidden.weight.T,
            "bias_ih_l0": bias,  # PyTorch keeps a second one, mostly redundant
            "bias_hh_l0": torch.zeros_like(bias) if p.hidden.bias is None else p.hidden.bias,
        }
        if getattr(p, "projection", None) is not None:
            written["weight_hr_l0"] = p.projection.weight.T
        return {name + suffix: array for name, array in written.items()}

    def forward(p, x):
        x, *initial = x if isinstance(x, tuple) else (x,)
        weights = of_direction(p[0]) | of_direction(p[1], "_reverse") if type(p) is tuple else of_direction(p)
        state = torch.utils._pytree.tree_map(lambda part: part[None], tuple(initial))
        return torch.func.functional_call(module, weights, (x, *state))[0]

    return forward


def torch_attention(p, x):
    """torch.nn.MultiheadAttention with add_bias_kv, its own q, k and v weights where x and y differ."""
    x, y = x if isinstance(x, tuple) else (x, x)
    (fan_in, heads, size), memory = p.query.weight.shape, p.key.weight.shape[0]
    module = torch.nn.MultiheadAttention(
        heads * size, heads, add_bias_kv=p.bias_k is not None, kdim=memory, vdim=memory, batch_first=True,
        dtype=torch.float64,
    )  # fmt: skip
    matrices = [each.weight.flatten(1).T for each in p[:3]]
    weights = {
        "in_proj_bias": torch.cat([each.bias.flatten() for each in p[:3]]),
        "out_proj.weight": p.out.weight.flatten(0, 1).T,
        "out_proj.bias": p.out.bias,
    }
    if memory == fan_in:
        weights["in_proj_weight"] = torch.cat(matrices)
    else:
        weights |= dict(zip(("q_proj_weight", "k_proj_weight", "v_proj_weight"), matrices))
    if p.bias_k is not None:
        weights |= {"bias_k": p.bias_k.reshape(1, 1, -1), "bias_v": p.bias_v.reshape(1, 1, -1)}
    return torch.func.functional_call(module, weights, (x, y, y), {"need_weights": False})[0]


def torch_grouped_attention(p, x):
    q, k, v = (torch.einsum("nte,ehd->nhtd", x, w.weight) + w.bias[:, None] for w in p[:3])
    o = F.scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=True)
    return torch.einsum("nhte,hef->ntf", o, p.out.weight) + p.out.bias


def torch_glu(p, x):
    up, gate = (F.linear(x, each.weight.T, each.bias) for each in (p.up, p.gate))
    return F.linear(F.glu(torch.cat([up, gate], dim=-1)), p.down.weight.T, p.down.bias)


def torch_standardised(p, x):
    """As published models do it: a batch norm of the weight, with the fan-in as its batch."""
    return F.linear(x, F.batch_norm(p.weight, None, None, p.gain, training=True).T, p.bias)


conv = layers.conv
LAYERS = {
    "attention, appended key": (layers.attention.layer(2, 3, append_key=True), (2, 4, 6), torch_attention),
    "attention across, appended key": (
        layers.attention.layer(2, 3, append_key=True),
        ((2, 4, 6), (2, 5, 4)),
        torch_attention,
    ),
    "attention, grouped, causal": (
        layers.attention.layer(4, 2, key_heads=2, causal=True, block=2),
        (2, 5, 3),
        torch_grouped_attention,
    ),
    "dense": (layers.dense.layer(4), (5, 3), torch_dense),
    "dense without bias": (layers.dense.layer(4, use_bias=False), (2, 5, 3), torch_dense),
    "conv 1-D": (conv.layer(4, 3, padding=1), (2, 7, 3), torch_conv(padding=1)),
    "conv 2-D strided": (
        conv.layer(4, (3, 2), stride=2, padding=((1, 1), (1, 1))),
        (2, 7, 6, 3),
        torch_conv(stride=2, padding=1),
    ),
    "conv 2-D dilated": (conv.layer(4, 3, kernel_dilation=2), (2, 7, 8, 3), torch_conv(dilation=2)),
    "conv 2-D groups": (conv.layer(6, 3, groups=2), (2, 5, 6, 4), torch_conv(groups=2)),
    "conv 2-D depthwise": (conv.layer(6, 3, groups=3, use_bias=False), (2, 5, 6, 3), torch_conv(groups=3)),
    "conv 3-D": (conv.layer(2, 2, stride=2), (2, 4, 5, 4, 3), torch_conv(stride=2)),
    "conv_transpose 1-D": (layers.conv_transpose.layer(4, 3), (2, 5, 3), torch_conv_transpose()),
    "conv_transpose 2-D, all keywords": (
        layers.conv_transpose.layer(4, 3, stride=3, padding=1, output_padding=1, kernel_dilation=2, groups=2),
        (2, 4, 3, 6),
        torch_conv_transpose(stride=3, padding=1, output_padding=1, dilation=2, groups=2),
    ),
    "rnn tanh": (layers.rnn.layer(4), (2, 5, 3), torch_over_time(torch.nn.RNN)),
    "rnn relu, given state": (
        layers.rnn.layer(4, activation="relu"),
        ((2, 5, 3), (2, 4)),
        torch_over_time(torch.nn.RNN, nonlinearity="relu"),
    ),
    "lstm, given state": (
        layers.lstm.layer(4),
        ((2, 5, 3), ((2, 4), (2, 4))),
        torch_over_time(torch.nn.LSTM),
    ),
    "lstm, both directions, second bias": (
        layers.both_directions(layers.lstm.layer(4, hidden_bias=True)),
        (2, 5, 3),
        torch_over_time(torch.nn.LSTM, bidirectional=True),
    ),
    "lstm, projection": (layers.lstm.layer(4, projection=2), (2, 5, 3), torch_over_time(torch.nn.LSTM, proj_size=2)),
    "gru, given state": (
        layers.gru.layer(4, hidden_bias=True),
        ((2, 5, 3), (2, 4)),
        torch_over_time(torch.nn.GRU),
    ),
    "glu": (layers.glu.layer(4, 2), (2, 5, 3), torch_glu),
    "bilinear": (
        layers.bilinear.layer(4),
        ((5, 3), (5, 2)),
        lambda p, x: F.bilinear(*x, p.weight.permute(2, 0, 1), p.bias),
    ),
    "embedding": (
        layers.embedding.layer(4, 3, dtype=jnp.float64),
        jnp.array([[0, 3, 3], [1, 3, 0]]),
        lambda p, x: F.embedding(x.long(), p.weight),
    ),
    "embedding, tied": (
        layers.embedding.tied(layers.tanh, 4, 3, scale=2.0, dtype=jnp.float64),
        jnp.array([[0, 3, 3], [1, 3, 0]]),
        lambda p, x: F.linear(torch.tanh(2 * F.embedding(x.long(), p[0].weight)), p[0].weight, p[0].bias),
    ),
    "max_pool 1-D": (layers.max_pool.layer(2), (2, 7, 3), torch_pool(F.max_pool1d, kernel_size=2)),
    "max_pool overlapping, padded": (
        layers.max_pool.layer(3, stride=2, padding=1),
        (2, 7, 6, 3),
        torch_pool(F.max_pool2d, kernel_size=3, stride=2, padding=1),
    ),
    "max_pool dilated, rounded up": (
        layers.max_pool.layer(2, stride=3, padding=1, dilation=2, ceil_mode=True),
        (2, 8, 7, 3),
        torch_pool(F.max_pool2d, kernel_size=2, stride=3, padding=1, dilation=2, ceil_mode=True),
    ),
    "avg_pool rounded up": (
        layers.avg_pool.layer(3, stride=2, padding=1, ceil_mode=True),
        (2, 8, 6, 3),
        torch_pool(F.avg_pool2d, kernel_size=3, stride=2, padding=1, ceil_mode=True),
    ),
    "avg_pool rounded up, without the padding": (
        layers.avg_pool.layer(3, stride=3, padding=1, ceil_mode=True, count_include_pad=False),
        (2, 8, 6, 3),
        torch_pool(F.avg_pool2d, kernel_size=3, stride=3, padding=1, ceil_mode=True, count_include_pad=False),
    ),
    "avg_pool overlapping, padded": (
        layers.avg_pool.layer(3, stride=2, padding=1),
        (2, 7, 6, 3),
        torch_pool(F.avg_pool2d, kernel_size=3, stride=2, padding=1),
    ),
    "avg_pool without the padding": (
        layers.avg_pool.layer(3, stride=2, padding=1, count_include_pad=False),
        (2, 7, 6, 3),
        torch_pool(F.avg_pool2d, kernel_size=3, stride=2, padding=1, count_include_pad=False),
    ),
    "einsum_dense": (
        layers.einsum_dense.layer("nabd,aodb->noa", {"o": 3}),
        (4, 2, 3, 2),
        lambda p, x: torch.einsum("nabd,aodb->noa", x, p.weight) + p.bias,
    ),
    "pixel_shuffle": (layers.pixel_shuffle.layer(2), (2, 3, 2, 8), torch_pool(F.pixel_shuffle, upscale_factor=2)),
    "pixel_shuffle, inverse": (
        layers.pixel_shuffle.layer(2, inverse=True),
        (2, 4, 2, 3),
        torch_pool(F.pixel_unshuffle, downscale_factor=2),
    ),
    "unfold": (
        layers.unfold.layer((3, 2), stride=(2, 1), padding=1, dilation=(1, 2)),
        (2, 5, 6, 3),
        lambda p, x: torch_unfold(x, kernel_size=(3, 2), stride=(2, 1), padding=1, dilation=(1, 2)),
    ),
    "fold": (
        layers.fold.layer((5, 6), window=(3, 2), stride=(2, 1), padding=1, dilation=(1, 2)),
        (2, 3, 6, 18),
        lambda p, x: torch_fold(x, (5, 6), kernel_size=(3, 2), stride=(2, 1), padding=1, dilation=(1, 2)),
    ),
    "upsample nearest": (
        layers.upsample.layer(size=(7, 2)),
        (2, 3, 4, 2),
        torch_pool(F.interpolate, size=(7, 2), mode="nearest"),
    ),
    "upsample bilinear": (
        layers.upsample.layer(size=(7, 2), method="linear"),
        (2, 3, 4, 2),
        torch_pool(F.interpolate, size=(7, 2), mode="bilinear", align_corners=False),
    ),
    "upsample bilinear, corners aligned": (
        layers.upsample.layer(2, method="linear", align_corners=True),
        (2, 3, 4, 2),
        torch_pool(F.interpolate, scale_factor=2, mode="bilinear", align_corners=True),
    ),
    "global_avg_pool": (layers.global_avg_pool.layer(), (2, 4, 5, 3), lambda p, x: x.mean(dim=(1, 2))),
    "batch_norm": (layers.batch_norm.layer(), (5, 3), torch_batch_norm),
    "batch_norm of images": (layers.batch_norm.layer(), (2, 4, 5, 3), torch_batch_norm),
    "layer_norm": (layers.layer_norm.layer(), (5, 3), lambda p, x: F.layer_norm(x, (3,), p.weight, p.bias)),
    "layer_norm over two axes": (
        layers.layer_norm.layer(axes=2),
        (2, 4, 3),
        lambda p, x: F.layer_norm(x, (4, 3), p.weight, p.bias),
    ),
    "group_norm": (
        layers.group_norm.layer(2),
        (2, 4, 5, 6),
        lambda p, x: channels_last(F.group_norm(channels_first(x), 2, p.weight, p.bias)),
    ),
    "instance norm": (
        layers.group_norm.layer(None),
        (2, 4, 5, 3),
        lambda p, x: channels_last(F.instance_norm(channels_first(x), weight=p.weight, bias=p.bias)),
    ),
    "rms_norm": (layers.rms_norm.layer(eps=1e-5), (5, 3), lambda p, x: F.rms_norm(x, (3,), p.weight, eps=1e-5)),
    "rms_norm over two axes": (
        layers.rms_norm.layer(axes=2, eps=1e-5),
        (2, 4, 3),
        lambda p, x: F.rms_norm(x, (4, 3), p.weight, eps=1e-5),
    ),
    "leaky_relu": (layers.leaky_relu, (5, 3), lambda p, x: F.leaky_relu(x)),
    "gelu, tanh form": (
        layers.activations.make_gelu(approximate=True),
        (5, 3),
        lambda p, x: F.gelu(x, approximate="tanh"),
    ),
    "sigmoid": (layers.sigmoid, (5, 3), lambda p, x: F.sigmoid(x)),
    "tanh": (layers.tanh, (5, 3), lambda p, x: F.tanh(x)),
    "relu": (layers.relu, (5, 3), lambda p, x: F.relu(x)),
    "elu": (layers.elu, (5, 3), lambda p, x: F.elu(x)),
    "softplus": (layers.softplus, (5, 3), lambda p, x: F.softplus(x)),
    "silu": (layers.silu, (5, 3), lambda p, x: F.silu(x)),
    "gelu": (layers.gelu, (5, 3), lambda p, x: F.gelu(x)),
    "selu": (layers.selu, (5, 3), lambda p, x: F.selu(x)),
    "celu": (layers.activations.make_celu(0.5), (5, 3), lambda p, x: F.celu(x, alpha=0.5)),
    "mish": (layers.mish, (5, 3), lambda p, x: F.mish(x)),
    "log_sigmoid": (layers.log_sigmoid, (5, 3), lambda p, x: F.logsigmoid(x)),
    # not F.hardsigmoid, whose derivative is 1/6 in float32 whatever the dtype
    "hard_sigmoid": (layers.hard_sigmoid, (50, 3), lambda p, x: F.relu6(x + 3) / 6),
    "hard_swish": (layers.hard_swish, (50, 3), lambda p, x: F.hardswish(x)),
    "hard_tanh": (layers.hard_tanh, (5, 3), lambda p, x: F.hardtanh(x)),
    "maxout": (
        layers.maxout.layer(4, pieces=3),
        (5, 3),
        lambda p, x: (torch.einsum("ni,ipj->npj", x, p.weight) + p.bias).amax(1),
    ),
    "weight_standardization": (
        layers.weight_standardization.layer(layers.dense.layer(4)),
        (5, 3),
        torch_standardised,
    ),
    "prelu": (layers.prelu.layer(), (5, 3), lambda p, x: F.prelu(x, p.weight)),
    "softmax": (layers.softmax, (5, 3), lambda p, x: F.softmax(x, -1)),
    "log_softmax": (layers.log_softmax, (5, 3), lambda p, x: F.log_softmax(x, -1)),
}


@pytest.mark.parametrize("name", LAYERS)
def test_layer(key, name):
    layer, x, torch_forward = LAYERS[name]
    if isinstance(x, tuple):  # a shape, or a tree of them
        shapes, tree = jax.tree.flatten(x, is_leaf=lambda node: all(isinstance(size, int) for size in node))
        keys = jax.random.split(key, len(shapes))
        x = tree.unflatten([jax.random.normal(k, shape, jnp.float64) for k, shape in zip(keys, shapes)])
    assert_same_as_torch(key, layer, x, torch_forward)


def test_linear_cross_entropy(key):
    """A Linear, and the cross-entropy behind it."""
    layer = layers.linear_cross_entropy.layer(7, label_smoothing=0.1, ignore_label=-1, block_rows=2, chunk=3)
    x = jax.random.normal(key, (5, 3), jnp.float64), jnp.array([0, 6, -1, 3, 2])

    def in_torch(p, x):
        return F.cross_entropy(F.linear(x[0], p.weight.T, p.bias), x[1], label_smoothing=0.1, ignore_index=-1)

    assert_same_as_torch(key, layer, x, in_torch)


LABELS = np.array([0, 2, 1, 1, 2])
WEIGHT = np.array([0.5, 2, 1])
DENSE = np.array([[0.2, 0.5, 0.3], [1, 0, 0], [0, 0.9, 0.1], [0.3, 0.3, 0.4], [0, 0, 1]])
SEQUENCES = np.array([[1, 1, 2], [3, -1, -1], [2, 0, -1]]), np.array([3, 3, 2])


def torch_ctc(out, targets, lengths):
    """The blank last, and labels for more steps than there are left out."""
    log_p, sizes = F.log_softmax(out, -1).transpose(0, 1), (targets >= 0).sum(1)
    costs = F.ctc_loss(log_p, targets.clamp(min=0), lengths, sizes, blank=4, reduction="none", zero_infinity=True)
    return costs.sum()


def torch_negative_binomial(out, y):
    z, s = out.chunk(2, -1)
    counts = torch.distributions.NegativeBinomial(s.exp(), logits=z - s)
    return -(counts.log_prob(y) + torch.lgamma(y + 1)).sum()


LOSSES = {
    "mean_squared_error": (losses.mean_squared_error, DENSE, F.mse_loss),
    "mean_squared_error sum": (
        losses.mean_squared_error.loss(reduction="sum"),
        DENSE,
        lambda out, y: F.mse_loss(out, y, reduction="sum") / 3,
    ),
    "cross_entropy": (losses.cross_entropy, LABELS, F.cross_entropy),
    "cross_entropy dense": (losses.cross_entropy, DENSE, F.cross_entropy),
    "cross_entropy smoothed, ignored": (
        losses.cross_entropy.loss(label_smoothing=0.1, ignore_label=1, reduction="sum"),
        LABELS,
        lambda out, y: F.cross_entropy(out, y, label_smoothing=0.1, ignore_index=1, reduction="sum"),
    ),
    "cross_entropy weighted, smoothed, ignored": (
        losses.cross_entropy.loss(label_smoothing=0.1, ignore_label=1, class_weight=WEIGHT),
        LABELS,
        lambda out, y: F.cross_entropy(out, y, label_smoothing=0.1, ignore_index=1, weight=torch.from_numpy(WEIGHT)),
    ),
    "cross_entropy dense, weighted, smoothed": (
        losses.cross_entropy.loss(label_smoothing=0.1, class_weight=WEIGHT),
        DENSE,
        lambda out, y: F.cross_entropy(out, y, label_smoothing=0.1, weight=torch.from_numpy(WEIGHT)),
    ),
    "cross_entropy of log-probabilities, weighted": (
        losses.cross_entropy.loss(log_probabilities=True, class_weight=WEIGHT),
        LABELS,
        lambda out, y: F.nll_loss(out, y, weight=torch.from_numpy(WEIGHT)),
    ),
    "binary_cross_entropy weighted": (
        losses.binary_cross_entropy.loss(class_weight=np.stack([np.ones(3), WEIGHT]), reduction="sum"),
        DENSE,
        lambda out, y: F.binary_cross_entropy_with_logits(out, y, pos_weight=torch.from_numpy(WEIGHT), reduction="sum"),
    ),
    "binary_cross_entropy": (
        losses.binary_cross_entropy,
        DENSE,
        lambda out, y: F.binary_cross_entropy_with_logits(out, y, reduction="sum") / len(y),
    ),
    "half_squared_error": (
        losses.half_squared_error,
        DENSE,
        lambda out, y: F.mse_loss(out, y, reduction="sum") / (2 * len(y)),
    ),
    "hinge, multi-class": (
        losses.hinge,
        LABELS,
        # Crammer and Singer's form: PyTorch's own multi-class hinge sums over all classes
        lambda out, y: F.relu(1 + (out - 1e9 * F.one_hot(y, 3)).amax(1) - out[torch.arange(5), y]).mean(),
    ),
    "huber": (
        losses.huber.loss(threshold=0.5),
        DENSE,
        lambda out, y: F.huber_loss(out, y, delta=0.5, reduction="sum") / len(y),
    ),
    "kl_divergence": (
        losses.kl_divergence.loss(temperature=2.0),
        DENSE,
        lambda out, y: 4 * F.kl_div(F.log_softmax(out / 2, 1), F.softmax(y / 2, 1), reduction="batchmean"),
    ),
    "kl_divergence reversed": (
        losses.kl_divergence.loss(reverse=True),
        DENSE,
        lambda out, y: F.kl_div(F.log_softmax(y, 1), F.softmax(out, 1), reduction="batchmean"),
    ),
    "poisson_nll": (losses.poisson_nll, DENSE, lambda out, y: F.poisson_nll_loss(out, y, reduction="sum") / len(y)),
    "gaussian_nll": (
        losses.gaussian_nll,
        np.concatenate([DENSE, DENSE], axis=-1),
        lambda out, y: F.gaussian_nll_loss(out[:, :6], y, torch.exp(out[:, 6:]), reduction="sum") / len(y),
        (5, 12),
    ),
    "negative_binomial_nll": (
        losses.negative_binomial_nll.loss(reduction="sum"),
        np.array([[0.0, 3], [1, 7], [12, 2], [0, 0], [5, 1]]),
        torch_negative_binomial,
        (5, 4),
    ),
    "dice, per class": (
        losses.dice.loss(axis=0, smooth=0.1),
        DENSE,
        lambda out, y: (1 - (2 * (out.sigmoid() * y).sum(0) + 0.1) / (out.sigmoid().sum(0) + y.sum(0) + 0.1)).mean(),
    ),
    "ctc": (
        losses.ctc.loss(blank=4, reduction="sum", skip_infeasible=True),
        SEQUENCES,
        lambda out, targets: torch_ctc(out, *targets),
        (3, 5, 5),
    ),
}
"""The loss, targets, the same in PyTorch; then the shape of out where that is not (5, 3)."""


@pytest.mark.parametrize("name", LOSSES)
def test_loss(key, name):
    loss, targets, torch_loss, *shape = LOSSES[name]
    out = jax.random.normal(key, *shape or [(5, 3)], jnp.float64)
    value, residuals = loss.forward(out, jax.tree.map(jnp.asarray, targets))
    torch_out = to_torch(out)
    expected = torch_loss(torch_out, jax.tree.map(torch.from_numpy, targets))
    expected.backward()
    assert_close(value, expected, "loss")
    assert_close(loss.backward(residuals), torch_out.grad, "delta")


@pytest.mark.parametrize("squared", [False, True])
def test_triplet(key, squared):
    out = tuple(jax.random.normal(key, (3, 6, 4), jnp.float64))
    value, residuals = losses.triplet.forward(out, margin=0.7, squared=squared)
    deltas = losses.triplet.backward(residuals)
    distance = (lambda a, b: (a - b).square().sum(-1)) if squared else (lambda a, b: F.pairwise_distance(a, b, eps=0))
    torch_out = to_torch(out)
    expected = F.triplet_margin_with_distance_loss(*torch_out, distance_function=distance, margin=0.7)
    expected.backward()
    assert_close(value, expected, "loss")
    for delta, tensor in zip(deltas, torch_out, strict=True):
        assert_close(delta, tensor.grad, "delta")


def test_running_statistics(key):
    """Three training steps, then inference with what was gathered."""
    layer = layers.batch_norm.layer()
    xs = jax.random.normal(key, (3, 5, 4), jnp.float64) * 2 + 1
    params = random_like(key, layer.init(key, xs[0]))
    state = init_state(layer, key, xs[0])
    module = torch.nn.BatchNorm1d(4, dtype=torch.float64)
    module.load_state_dict(
        {"weight": to_torch(params.weight).detach(), "bias": to_torch(params.bias).detach()}, strict=False
    )
    for x in xs:
        _, residuals = layer.forward(params, x, state)
        state = layer.state.step(state, residuals)
        module(torch.from_numpy(np.array(x)))
    assert_close(state.mean, module.running_mean, "running mean")
    assert_close(state.variance, module.running_var, "running variance")
    out, _ = run_forward(jb.inference(layer), params, xs[0], state)
    assert_close(out, module.eval()(torch.from_numpy(np.array(xs[0]))), "inference")


def torch_channels_last(module):
    return lambda x: channels_last(module(channels_first(x)))


nn, double = torch.nn, {"dtype": torch.float64}


class LlamaMlp(nn.Module):
    """A gated unit as published models write it."""

    def __init__(self):
        super().__init__()
        self.gate_proj, self.up_proj, self.down_proj = nn.Linear(3, 4), nn.Linear(3, 4), nn.Linear(4, 3)
        self.double()

    def forward(self, x):
        return self.down_proj(F.silu(self.gate_proj(x)) * self.up_proj(x))


MODULES = {
    "dense": (layers.dense.layer(4), (5, 3), nn.Linear(3, 4, **double), None),
    "dense without bias": (layers.dense.layer(4, use_bias=False), (5, 3), nn.Linear(3, 4, bias=False, **double), None),
    "bias_neuron": (layers.bias_neuron.layer(4), (5, 3), nn.Linear(3, 4, **double), None),
    "attention": (
        layers.attention.layer(2, 3, append_key=True),
        (2, 4, 6),
        nn.MultiheadAttention(6, 2, add_bias_kv=True, batch_first=True, **double),
        lambda module: lambda x: module(x, x, x)[0],
    ),
    "attention across, without bias": (
        layers.attention.layer(2, 3, use_bias=False),
        ((2, 4, 6), (2, 5, 4)),
        nn.MultiheadAttention(6, 2, bias=False, kdim=4, vdim=4, batch_first=True, **double),
        lambda module: lambda x: module(x[0], x[1], x[1])[0],
    ),
    "conv 1-D": (conv.layer(6, 3, groups=2), (2, 7, 4), nn.Conv1d(4, 6, 3, groups=2, **double), torch_channels_last),
    "conv 2-D": (conv.layer(4, (3, 2)), (2, 7, 6, 3), nn.Conv2d(3, 4, (3, 2), **double), torch_channels_last),
    "conv_transpose 1-D": (
        layers.conv_transpose.layer(4, 3),
        (2, 5, 3),
        nn.ConvTranspose1d(3, 4, 3, **double),
        torch_channels_last,
    ),
    "conv_transpose 2-D groups": (
        layers.conv_transpose.layer(4, (3, 2), stride=2, groups=2),
        (2, 4, 3, 6),
        nn.ConvTranspose2d(6, 4, (3, 2), stride=2, groups=2, **double),
        torch_channels_last,
    ),
    "batch_norm": (layers.batch_norm.layer(), (5, 3), nn.BatchNorm1d(3, **double), None),
    "layer_norm": (layers.layer_norm.layer(), (5, 3), nn.LayerNorm(3, **double), None),
    "group_norm": (layers.group_norm.layer(2), (2, 5, 6), nn.GroupNorm(2, 6, **double), torch_channels_last),
    "glu": (layers.glu.layer(4, gate="silu"), (5, 3), LlamaMlp(), None),
    "weight_norm": (
        layers.weight_norm.layer(layers.dense.layer(4)),
        (5, 3),
        nn.utils.parametrizations.weight_norm(nn.Linear(3, 4, **double)),
        None,
    ),
    "prelu": (layers.prelu.layer(), (5, 3), nn.PReLU(3, **double), None),
    "embedding": (layers.embedding.layer(4, 3, dtype=jnp.float64), None, nn.Embedding(4, 3, **double), None),
    "rnn": (
        layers.rnn.layer(4),
        (2, 5, 3),
        nn.RNN(3, 4, batch_first=True, **double),
        lambda module: lambda x: module(x)[0],
    ),
    "rnn without bias": (
        layers.rnn.layer(4, use_bias=False),
        (2, 5, 3),
        nn.RNN(3, 4, bias=False, batch_first=True, **double),
        lambda module: lambda x: module(x)[0],
    ),
    "lstm in both directions, projected": (
        layers.both_directions(layers.lstm.layer(4, projection=2)),
        (2, 5, 3),
        nn.LSTM(3, 4, proj_size=2, bidirectional=True, batch_first=True, **double),
        lambda module: lambda x: module(x)[0],
    ),
    "gru with both biases": (
        layers.gru.layer(4, hidden_bias=True),
        (2, 5, 3),
        nn.GRU(3, 4, batch_first=True, **double),
        lambda module: lambda x: module(x)[0],
    ),
    "bilinear": (
        layers.bilinear.layer(4),
        ((5, 3), (5, 2)),
        nn.Bilinear(3, 2, 4, **double),
        lambda module: lambda x: module(*x),
    ),
}


@pytest.mark.parametrize("name", MODULES)
def test_a_module_of_pytorch_gives_the_same_outputs_after_import(key, name):
    """Params from its state dict, every entry of it random; and written back into another module of the same kind."""
    layer, shapes, module, call = MODULES[name]
    rng = np.random.default_rng(20261122)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.copy_(torch.from_numpy(rng.standard_normal(tuple(parameter.shape))))
    if shapes is None:
        x = jnp.array([[0, 3, 3], [1, 3, 0]])
    else:
        pair = isinstance(shapes[0], tuple)
        drawn = [jnp.asarray(rng.standard_normal(shape)) for shape in (shapes if pair else (shapes,))]
        x = tuple(drawn) if pair else drawn[0]
    network = jb.chain(layer)
    like = jax.eval_shape(network.init, key, x)
    params = jb.io.from_pytorch(network, like, {f"0.{n}": tensor for n, tensor in module.state_dict().items()})

    torch_x = jax.tree.map(lambda leaf: torch.from_numpy(np.array(leaf)), x)
    torch_out = (call or (lambda module: module))(module)
    expected = torch_out(torch_x).detach()
    state = init_state(network, key, x)
    out, _ = run_forward(network, params, x, state)
    assert_close(out, expected, "out")

    written = jb.io.to_pytorch(network, params)
    module.load_state_dict({n[2:]: torch.from_numpy(a.copy()) for n, a in written.items()}, strict="norm" not in name)
    assert_close(out, torch_out(torch_x), "out of what was written back")
    again = jb.io.from_pytorch(network, like, written)
    assert all((a == b).all() for a, b in zip(jax.tree.leaves(again), jax.tree.leaves(params), strict=True))

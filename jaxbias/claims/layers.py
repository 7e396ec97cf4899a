"""Claims about convolution, recurrence, normalisation and dropout."""

import jax
import jax.numpy as jnp
import numpy as np

import jaxbias as jb
from jaxbias.claims._claim import CONDITIONAL, HOLDS, REFUTED, claim
from jaxbias.claims._conditions import above, at_most, exactly, near
from jaxbias.claims._tools import difference, generator, once, predict, randomized
from jaxbias.layers import batch_norm, conv, dense, dropout, layer_norm, rnn
from jaxbias.params import init_state, run_forward


def convolve_by_loops(x, weight, bias, stride, pad, dilation, groups):
    """Equation 5.1 element by element: channels-last images, kernel (kh, kw, in/groups, out)."""
    n, height, width, _ = x.shape
    kh, kw, per_group, filters = weight.shape
    x = np.pad(x, ((0, 0), (pad, pad), (pad, pad), (0, 0)))
    out_h = (height + 2 * pad - dilation * (kh - 1) - 1) // stride + 1
    out_w = (width + 2 * pad - dilation * (kw - 1) - 1) // stride + 1
    z = np.zeros((n, out_h, out_w, filters))
    for o in range(filters):
        first = o // (filters // groups) * per_group
        for i in range(out_h):
            for j in range(out_w):
                for u in range(kh):
                    for v in range(kw):
                        pixels = x[:, stride * i + dilation * u, stride * j + dilation * v, first : first + per_group]
                        z[:, i, j, o] += pixels @ weight[u, v, :, o]
        z[..., o] += bias[o]
    return z


@claim(
    "A4.1",
    "A convolution has one bias per filter; its gradient sums the error signal over rows and positions.",
    HOLDS,
    {"biases of 4 filters": exactly(4), "∂C/∂b − Σ δ over rows and positions": at_most(1e-13)},
    article="'As essential as the kernel': a statement of taste; before batch norm it is redundant (E6).",
    equation="5.1",
)
def bias_per_filter(key):
    rng = generator(key)
    x, delta = rng.standard_normal((3, 6, 5, 2)), rng.standard_normal((3, 4, 3, 4))
    layer = conv.layer(4, 3)
    params = randomized(rng, layer, x)
    grads = once(lambda p, x, d: layer.backward(layer.forward(p, x)[1], d)[0])(params, x, delta)
    return {
        "biases of 4 filters": params.bias.size,
        "∂C/∂b − Σ δ over rows and positions": difference(grads.bias, delta.sum(axis=(0, 1, 2))),
    }


CONFIGURATIONS = ((1, 0, 1, 1), (2, 1, 1, 1), (1, 2, 2, 1), (2, 1, 2, 2), (1, 1, 1, 4))
"""Stride, padding, dilation, groups."""


@claim(
    "A4.2",
    "A feature map is the activation of Σ input · kernel + bias, a cross-correlation: the kernel is not flipped.",
    HOLDS,
    {"loops − library, by stride, padding, dilation, groups": at_most(1e-13), "flipped kernel − library": above(0.1)},
    article="Calls it a convolution.",
    equation="5.1",
)
def feature_map(key):
    rng = generator(key)
    x = rng.standard_normal((2, 7, 6, 4))
    layers = [
        conv.layer(8, 3, stride=s, padding=((p, p), (p, p)), kernel_dilation=d, groups=g)
        for s, p, d, g in CONFIGURATIONS
    ]
    params = [randomized(rng, layer, x) for layer in layers]
    outs = once(lambda params, x: [predict(layer, p, x) for layer, p in zip(layers, params)])(params, x)
    loops = [
        convolve_by_loops(x, np.asarray(p.weight), np.asarray(p.bias), *configuration)
        for p, configuration in zip(params, CONFIGURATIONS)
    ]
    flipped = convolve_by_loops(x, np.asarray(params[0].weight)[::-1, ::-1], np.asarray(params[0].bias), 1, 0, 1, 1)
    return {
        "loops − library, by stride, padding, dilation, groups": [difference(o, l) for o, l in zip(outs, loops)],
        "flipped kernel − library": difference(outs[0], flipped),
    }


@claim(
    "A3.1",
    "Dense, convolutional and recurrent layers share one rule: the bias gradient sums δ over what shares the bias.",
    HOLDS,
    {
        "dense: ∂C/∂b − Σ δ over rows": at_most(1e-14),
        "conv: ∂C/∂b − Σ δ over rows and positions": at_most(1e-13),
        "recurrent: ∂C/∂b − Σ δ over rows and time steps": at_most(1e-13),
    },
    article="Derives the dense case only.",
    equation="4.5, 5.4",
)
def one_rule(key):
    rng = generator(key)
    errors = []
    for layer, x in (
        (dense.layer(4), rng.standard_normal((5, 3))),
        (conv.layer(4, 2), rng.standard_normal((2, 4, 4, 3))),
    ):
        params = randomized(rng, layer, x)
        delta = rng.standard_normal(jax.eval_shape(lambda p, x, l=layer: l.forward(p, x)[0], params, x).shape)
        grads = once(lambda p, x, d, l=layer: l.backward(l.forward(p, x)[1], d)[0])(params, x, delta)
        errors.append(difference(grads.bias, delta.sum(axis=tuple(range(delta.ndim - 1)))))
    cell, x, given = rnn.layer(4), rng.standard_normal((2, 6, 3)), rng.standard_normal((2, 6, 4))
    params = randomized(rng, cell, x)
    h, grads = once(lambda p, x, d: (cell.forward(p, x)[0], cell.backward(cell.forward(p, x)[1], d)[0]))(
        params, x, given
    )
    total, delta = np.zeros(4), np.zeros((2, 4))
    for t in range(5, -1, -1):  # equation 5.4, from the last step to the first
        delta = (given[:, t] + delta @ np.asarray(params.hidden.weight).T) * (1 - np.asarray(h)[:, t] ** 2)
        total += delta.sum(axis=0)
    return {
        "dense: ∂C/∂b − Σ δ over rows": errors[0],
        "conv: ∂C/∂b − Σ δ over rows and positions": errors[1],
        "recurrent: ∂C/∂b − Σ δ over rows and time steps": difference(grads.input.bias, total),
    }


def before_norm(key, norm):
    """Output change and bias gradient when a bias b, random or constant, is added before a normalisation layer."""
    rng = generator(key)
    x, cotangent = rng.standard_normal((8, 5)), rng.standard_normal((8, 6))
    network = jb.chain(dense.layer(6), norm)
    params = randomized(rng, network, x)
    state = init_state(network, key, x)

    @once
    def run(params, x, cotangent):
        def out(bias):
            return run_forward(network, (params[0]._replace(bias=bias), *params[1:]), x, state)

        result, residuals = out(params[0].bias)
        grads, _ = network.backward(residuals, cotangent)
        return result, out(0 * params[0].bias)[0], out(0 * params[0].bias + 1.7)[0], grads[0].bias

    return [np.asarray(array) for array in run(params, x, cotangent)]


@claim(
    "E6",
    "Directly before batch norm a bias is redundant in training: BN(z + b) = BN(z), and its gradient is 0.",
    REFUTED,
    {"BN(z + b) − BN(z)": at_most(1e-13), "∂C/∂b": at_most(1e-13)},
    article="When using batch norm a bias is essential.",
    equation="5.3",
    source="S. Ioffe and C. Szegedy, Batch Normalization (2015), sec. 3.2",
)
def before_batch_norm(key):
    with_bias, without, _, gradient = before_norm(key, batch_norm.layer())
    return {"BN(z + b) − BN(z)": np.abs(with_bias - without), "∂C/∂b": np.abs(gradient)}


@claim(
    "E7",
    "Layer norm removes only the common part of a bias: LN(z + c1) = LN(z), but LN(z + b) ≠ LN(z) for a general b.",
    REFUTED,
    {
        "LN(z + 1.7) − LN(z)": at_most(1e-13),
        "largest |LN(z + b) − LN(z)|": above(0.1),
        "Σ ∂C/∂b": near(0, 1e-12),
        "smallest |∂C/∂b|": above(1e-4),
    },
    article="LayerNorm handles the bias too.",
    equation="5.3",
    source="J. Ba, J. Kiros and G. Hinton, Layer Normalization (2016)",
)
def before_layer_norm(key):
    with_bias, without, common, gradient = before_norm(key, layer_norm.layer())
    return {
        "LN(z + 1.7) − LN(z)": np.abs(common - without),
        "largest |LN(z + b) − LN(z)|": np.max(np.abs(with_bias - without)),
        "Σ ∂C/∂b": gradient.sum(),
        "smallest |∂C/∂b|": np.min(np.abs(gradient)),
    }


@claim(
    "A1.11",
    "Before batch norm leave the bias out, in a convolution too; of biases on small data nothing general is known.",
    CONDITIONAL,
    {
        "conv before batch norm: change of the output by the bias": at_most(1e-12),
        "conv before batch norm: ∂C/∂b": at_most(1e-12),
        "parameters saved by leaving 4 biases out": exactly(4),
    },
    article="Keep the bias for batch norm and for small data sets (E6, E7).",
    equation="5.3",
)
def convolution_before_batch_norm(key):
    rng = generator(key)
    x, cotangent = rng.standard_normal((3, 5, 5, 2)), rng.standard_normal((3, 3, 3, 4))
    networks = [jb.chain(conv.layer(4, 3, use_bias=on), batch_norm.layer()) for on in (True, False)]
    params = randomized(rng, networks[0], x)
    bare = (params[0]._replace(bias=None), params[1])
    state = init_state(networks[0], key, x)

    @once
    def run(params, bare, x, cotangent):
        out, residuals = run_forward(networks[0], params, x, state)
        return out, run_forward(networks[1], bare, x, state)[0], networks[0].backward(residuals, cotangent)[0][0].bias

    out, without, gradient = run(params, bare, x, cotangent)
    count = [sum(leaf.size for leaf in jax.tree.leaves(tree)) for tree in (params, bare)]
    return {
        "conv before batch norm: change of the output by the bias": difference(out, without),
        "conv before batch norm: ∂C/∂b": np.abs(gradient),
        "parameters saved by leaving 4 biases out": count[0] - count[1],
    }


@claim(
    "A2.7",
    "Dropout silences units in training only; 1/q keeps the mean, and a silenced unit gives its bias no gradient.",
    HOLDS,
    {
        "mean output / input over 20000 masks": near(np.ones(6), 0.03),
        "change at inference": exactly(0.0),
        "bias gradient − Σ of the δ that passed": at_most(1e-14),
        "E|y − (mx/q)w|² − |y − xw|² − (p/q) Σ x²w², over the whole": near(0, 0.02),
    },
    equation="5.5",
)
def dropout_in_training(key):
    rng = generator(key)
    layer = dropout.layer(rate=0.3)
    x = jnp.asarray(rng.uniform(0.5, 2, 6))
    w, target = jnp.asarray(rng.standard_normal(6)), 1.0
    affine = dense.layer(6)
    rows, cotangent = rng.standard_normal((8, 3)), rng.standard_normal((8, 6))
    params = randomized(rng, affine, rows)
    network = jb.chain(affine, layer)

    @once
    def run(keys, params, rows, cotangent):
        masked = jax.vmap(lambda k: layer.forward((), x, k)[0])(keys)
        state = init_state(network, key, rows)
        _, residuals = run_forward(network, (params, ()), rows, state)
        (grads, _), _ = network.backward(residuals, cotangent)
        return masked, grads.bias, residuals[1].mask

    masked, bias_gradient, mask = run(jax.random.split(key, 20_000), params, rows, cotangent)
    cost = np.mean((target - np.asarray(masked) @ np.asarray(w)) ** 2)
    expected = (target - x @ w) ** 2 + 0.3 / 0.7 * np.sum(np.asarray(x * w) ** 2)
    return {
        "mean output / input over 20000 masks": np.mean(masked, axis=0) / np.asarray(x),
        "change at inference": np.asarray(jb.inference(layer).forward((), x)[0] - x),
        "bias gradient − Σ of the δ that passed": difference(bias_gradient, np.sum(cotangent * mask / 0.7, axis=0)),
        "E|y − (mx/q)w|² − |y − xw|² − (p/q) Σ x²w², over the whole": (cost - expected) / expected,
    }


@claim(
    "E21",
    "On a linear model dropout is a weighted L2 penalty, (p/q) Σ x²w²; it acts in training and needs the rescaling.",
    REFUTED,
    {
        "minimiser under 2000 masks − ridge solution, relative": at_most(0.05),
        "mean output without rescaling / input (q = 0.7)": near(0.7, 0.01),
    },
    article="Dropout forces redundant representations.",
    equation="A2.7",
    source="S. Wager, S. Wang and P. Liang, Dropout Training as Adaptive Regularization (2013)",
)
def dropout_is_ridge(key):
    rng = generator(key)
    p, q = 0.3, 0.7
    x = rng.standard_normal((60, 4))
    y = x @ [1.0, -2, 0.5, 3] + 0.3 * rng.standard_normal(60)
    ridge = np.linalg.solve(x.T @ x + p / q * np.diag((x * x).sum(axis=0)), x.T @ y)
    masks = rng.random((2000, *x.shape)) < q
    dropped = (masks * x / q).reshape(-1, 4)
    minimiser = np.linalg.lstsq(dropped, np.tile(y, 2000))[0]
    return {
        "minimiser under 2000 masks − ridge solution, relative": np.abs(minimiser - ridge) / np.abs(ridge).max(),
        "mean output without rescaling / input (q = 0.7)": masks.mean(),
    }

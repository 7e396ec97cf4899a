"""Published facts about biases that are identities: each with its source, and checked to rounding."""

import jax
import jax.numpy as jnp
import numpy as np

import jaxbias as jb
from jaxbias import initializers
from jaxbias.claims import _regression as regression
from jaxbias.claims import article2
from jaxbias.claims._claim import HOLDS, claim
from jaxbias.claims._conditions import above, at_most, exactly, near
from jaxbias.claims._tools import affine, difference, generator, once, predict, randomized
from jaxbias.claims.layers import before_norm
from jaxbias.layers import batch_norm, conv, dense, layer_norm, leaky_relu, relu, rms_norm, tanh
from jaxbias.losses import binary_cross_entropy, cross_entropy, mean_squared_error
from jaxbias.params import run_forward

RELU_NET = jb.chain(dense.layer(5), relu, dense.layer(4), relu, dense.layer(2))


def relu_problem(key):
    """Random params of a 3-5-4-2 ReLU net without a zero bias, and six rows."""
    rng = generator(key)
    x = rng.standard_normal((6, 3))
    return randomized(rng, RELU_NET, x), jnp.asarray(x)


@claim(
    "F1",
    "A bias before batch norm has zero gradient; before layer norm its gradient sums to zero; before RMS norm neither.",
    HOLDS,
    {
        "batch norm: ∂C/∂b": at_most(1e-13),
        "layer norm: Σ ∂C/∂b": near(0, 1e-12),
        "layer norm: largest |∂C/∂b|": above(0.1),
        "RMS norm: |Σ ∂C/∂b|": above(0.1),
    },
    equation="5.3",
    source="S. Ioffe and C. Szegedy (2015); J. Ba et al. (2016); B. Zhang and R. Sennrich, RMSNorm (2019)",
)
def before_norms(key):
    batch, layer, rms = (before_norm(key, norm.layer())[3] for norm in (batch_norm, layer_norm, rms_norm))
    return {
        "batch norm: ∂C/∂b": np.abs(batch),
        "layer norm: Σ ∂C/∂b": layer.sum(),
        "layer norm: largest |∂C/∂b|": np.max(np.abs(layer)),
        "RMS norm: |Σ ∂C/∂b|": np.abs(rms.sum()),
    }


@claim(
    "F2",
    "The gradients of the biases of softmax logits sum to 0: one of them is redundant.",
    HOLDS,
    {"Σ ∂C/∂b": near(0, 1e-15), "largest |∂C/∂b|": above(0.01), "C(b + 3) − C(b)": near(0, 1e-14)},
    equation="4.2",
    source="C. Bishop, PRML (2006), sec. 4.3.4",
)
def softmax_biases(key):
    rng = generator(key)
    x, targets = jnp.asarray(rng.standard_normal((7, 3))), jnp.asarray(rng.integers(0, 4, 7))
    layer = dense.layer(4)
    params = randomized(rng, layer, x)
    gradient = jb.value_and_grad(layer, cross_entropy)
    loss, grads = gradient(params, x, targets)
    shifted, _ = gradient(params._replace(bias=params.bias + 3), x, targets)
    return {
        "Σ ∂C/∂b": np.sum(grads.bias),
        "largest |∂C/∂b|": np.max(np.abs(grads.bias)),
        "C(b + 3) − C(b)": shifted - loss,
    }


@claim(
    "F3",
    "A ReLU net is input gradient times input plus bias gradients times biases: f = ∇ₓf·x + Σ⟨∂f/∂b, b⟩.",
    HOLDS,
    {
        "ReLU: f − (∇ₓf·x + Σ⟨∂f/∂b, b⟩)": at_most(1e-13),
        "the bias part alone": above(0.01),
        "tanh: the same": above(0.01),
    },
    equation="f is homogeneous of degree 1 in (x, b)",
    source="S. Srinivas and F. Fleuret, Full-Gradient Representation (2019), prop. 1",
)
def full_gradient(key):
    params, x = relu_problem(key)
    smooth = jb.chain(*(tanh if part.name == "relu" else part for part in RELU_NET.parts))

    @once
    def run(params, x):
        parts = []
        for network in (RELU_NET, smooth):

            def f(params, row, network=network):
                return predict(network, params, row)[0]

            values, by_params, by_x = jax.vmap(lambda row, f=f: (f(params, row), *jax.grad(f, (0, 1))(params, row)))(x)
            biases = sum(jnp.sum(g.bias * p.bias, axis=-1) for g, p in zip(by_params[::2], params[::2]))
            parts.append((values - jnp.sum(by_x * x, axis=1) - biases, biases))
        return parts

    (error, part), (other, _) = run(params, x)
    return {
        "ReLU: f − (∇ₓf·x + Σ⟨∂f/∂b, b⟩)": np.abs(error),
        "the bias part alone": np.max(np.abs(part)),
        "tanh: the same": np.max(np.abs(other)),
    }


@claim(
    "F4",
    "Bias-free ReLU and leaky ReLU nets are positively homogeneous; bias-free tanh nets are odd; biases break both.",
    HOLDS,
    {
        "no bias: f(cx) − c f(x)": at_most(1e-12),
        "no bias, tanh: f(−x) + f(x)": at_most(1e-15),
        "with biases: largest |f(2x) − 2 f(x)|": above(0.1),
        "with biases, tanh: largest |f(−x) + f(x)|": above(0.1),
    },
    equation="section 6",
    source="S. Mohan et al., Robust and Interpretable Blind Image Denoising via Bias-Free CNNs (2020), eq. 3",
)
def homogeneous(key):
    params, x = relu_problem(key)
    bare = tuple(layer._replace(bias=None) if layer else () for layer in params)
    networks = [
        jb.chain(*(sigma if part.name == "relu" else part for part in RELU_NET.parts))
        for sigma in (relu, leaky_relu, tanh)
    ]

    @once
    def run(params, bare, x):
        scaled = [predict(n, bare, c * x) - c * predict(n, bare, x) for n in networks[:2] for c in (0.0, 0.1, 7.0)]
        odd = predict(networks[2], bare, -x) + predict(networks[2], bare, x)
        broken = predict(networks[0], params, 2 * x) - 2 * predict(networks[0], params, x)
        return scaled, odd, broken, predict(networks[2], params, -x) + predict(networks[2], params, x)

    scaled, odd, broken, not_odd = run(params, bare, x)
    return {
        "no bias: f(cx) − c f(x)": np.abs(np.array(scaled)),
        "no bias, tanh: f(−x) + f(x)": np.abs(odd),
        "with biases: largest |f(2x) − 2 f(x)|": np.max(np.abs(broken)),
        "with biases, tanh: largest |f(−x) + f(x)|": np.max(np.abs(not_odd)),
    }


@claim(
    "F5",
    "In a ReLU net W → αW with bˡ → αˡ bˡ scales the output by αᴸ; biases scaled alike instead change the function.",
    HOLDS,
    {"f(αW, αˡb) − αᴸ f, relative": at_most(1e-13), "f(αW, αb) − αᴸ f, relative": above(0.01)},
    equation="relu(αz) = α relu(z), α > 0",
    source="B. Neyshabur, R. Salakhutdinov and N. Srebro, Path-SGD (2015), sec. 2",
)
def rescaling(key):
    params, x = relu_problem(key)
    alpha, layers = 1.7, params[::2]

    def network(scale_of_bias):
        scaled = [affine(alpha * p.weight, scale_of_bias(l) * p.bias) for l, p in enumerate(layers, start=1)]
        return (scaled[0], (), scaled[1], (), scaled[2])

    f = once(lambda p: predict(RELU_NET, p, x))
    out = alpha**3 * np.asarray(f(params))
    return {
        "f(αW, αˡb) − αᴸ f, relative": difference(f(network(lambda l: alpha**l)), out) / np.abs(out).max(),
        "f(αW, αb) − αᴸ f, relative": difference(f(network(lambda l: alpha)), out) / np.abs(out).max(),
    }


@claim(
    "F6",
    "Gradient flow keeps ‖w_in‖² + b² − ‖w_out‖² of every ReLU unit; a step of size α changes it by order α² only.",
    HOLDS,
    {
        "⟨w_in, ∂w_in⟩ + b ∂b − ⟨w_out, ∂w_out⟩ per unit": near(np.zeros(9), 1e-14),
        "the same without the bias term, largest": above(1e-3),
        "drift over time 1 at α = 1e-3 over that at 5e-4": near(2, 0.1),
    },
    equation="(10), (14) and relu(z) = z relu′(z)",
    source="S. Du, W. Hu and J. Lee, Algorithmic Regularization in Deep Homogeneous Models (2018), thm. 2.1",
)
def conserved(key):
    params, x = relu_problem(key)
    targets = jnp.asarray(generator(jax.random.fold_in(key, 1)).standard_normal((6, 2)))
    gradient = jb.value_and_grad(RELU_NET, mean_squared_error)

    def balance(a, b, with_bias=True):
        """Inner product of each hidden unit's incoming params of a and b, less that of its outgoing ones."""
        differences = []
        for l in (0, 2):
            inner = jnp.sum(a[l].weight * b[l].weight, axis=0) + with_bias * a[l].bias * b[l].bias
            differences.append(inner - jnp.sum(a[l + 2].weight * b[l + 2].weight, axis=1))
        return jnp.concatenate(differences)

    @once
    def run(params):
        _, grads = gradient(params, x, targets)

        def descend(alpha, steps):
            def step(p, _):
                return jax.tree.map(lambda q, g: q - alpha * g, p, gradient(p, x, targets)[1]), None

            small = jax.tree.map(lambda leaf: 0.3 * leaf, params)
            end, _ = jax.lax.scan(step, small, length=steps)
            return jnp.abs(balance(end, end) - balance(small, small)).sum()

        # Under plain gradient descent the invariant moves by α² per step, so by α over a fixed time.
        drifts = descend(1e-3, 1000), descend(5e-4, 2000)
        return balance(params, grads), balance(params, grads, with_bias=False), drifts[0] / drifts[1]

    exact, without, ratio = run(params)
    return {
        "⟨w_in, ∂w_in⟩ + b ∂b − ⟨w_out, ∂w_out⟩ per unit": exact,
        "the same without the bias term, largest": np.max(np.abs(without)),
        "drift over time 1 at α = 1e-3 over that at 5e-4": ratio,
    }


@claim(
    "F7",
    "With prior π = 0.01, b = −log((1 − π)/π) = −4.595 starts a rare class at loss H(π) = 0.056, b = 0 at log 2.",
    HOLDS,
    {
        "bias": near(-4.59511985013459, 1e-12),
        "initial probability": near(0.01, 1e-12),
        "initial loss with it": near(0.0560015343, 1e-10),
        "initial loss with b = 0": near(np.log(2), 1e-12),
    },
    equation="sigmoid(b) = π",
    source="T. Lin et al., Focal Loss for Dense Object Detection (2017), sec. 3.3",
)
def rare_class(key):
    rng = generator(key)
    x = jnp.asarray(rng.standard_normal((1000, 3)))
    targets = jnp.asarray((np.arange(1000) < 10).astype(float))[:, None]
    bias = initializers.log_prior(0.01)(key, (1,), jnp.float64)
    losses = [
        binary_cross_entropy.forward(dense.forward(affine(jnp.zeros((3, 1)), b), x)[0], targets)[0]
        for b in (bias, jnp.zeros(1))
    ]
    return {
        "bias": bias[0],
        "initial probability": 1 / (1 + np.exp(-np.asarray(bias))),
        "initial loss with it": losses[0],
        "initial loss with b = 0": losses[1],
    }


@claim(
    "F8",
    "A head with zero weights and biases log p starts at the entropy H(p) of the class frequencies, not at log K.",
    HOLDS,
    {
        "initial loss − H(p)": near(0, 1e-12),
        "initial loss with b = 0 − log K": near(0, 1e-12),
        "gradient of the biases at log p": near(np.zeros(4), 1e-15),
    },
    equation="softmax(log p) = p",
    source="C. Bishop, PRML (2006), sec. 4.2; A. Karpathy, A Recipe for Training Neural Networks (2019)",
)
def class_frequencies(key):
    counts = np.array([60, 25, 10, 5])
    p = counts / counts.sum()
    targets = jnp.asarray(np.repeat(np.arange(4), counts))
    x = jnp.asarray(generator(key).standard_normal((100, 3)))
    gradient = jb.value_and_grad(dense.layer(4), cross_entropy)
    loss, grads = gradient(affine(jnp.zeros((3, 4)), initializers.log_prior(p)(key, (4,), jnp.float64)), x, targets)
    flat, _ = gradient(affine(jnp.zeros((3, 4)), jnp.zeros(4)), x, targets)
    return {
        "initial loss − H(p)": loss + np.sum(p * np.log(p)),
        "initial loss with b = 0 − log K": flat - np.log(4),
        "gradient of the biases at log p": grads.bias,
    }


@claim(
    "F11",
    "Scaling weights and biases by a batch's statistics starts every unit at mean 0 and variance 1 on that batch.",
    HOLDS,
    {"mean of z, every layer": near(np.zeros(11), 1e-12), "variance of z − 1": near(np.zeros(11), 1e-12)},
    equation="W ← W/s, b ← (b − μ)/s",
    source="T. Salimans and D. Kingma, Weight Normalization (2016), eqs. 5-6",
)
def data_dependent(key):
    rng = generator(key)
    params, _ = relu_problem(key)
    x = jnp.asarray(rng.standard_normal((64, 3)) * [1, 10, 0.1] + 2)
    new = once(lambda params, x: initializers.data_dependent(RELU_NET, params, x))(params, x)
    a, z = np.asarray(x), []
    for layer in new[::2]:
        z.append(a @ np.asarray(layer.weight) + np.asarray(layer.bias))
        a = np.maximum(z[-1], 0)
    z = np.concatenate(z, axis=1)
    return {"mean of z, every layer": z.mean(axis=0), "variance of z − 1": z.var(axis=0) - 1}


@claim(
    "F13",
    "With the bias exempt from the penalty, adding c to all targets adds c to all predictions; penalised, it does not.",
    HOLDS,
    {
        "bias exempt: change of the predictions − c": near(np.zeros(50), 1e-11),
        "penalised: largest difference": above(0.1),
    },
    equation="section 7",
    source="T. Hastie, R. Tibshirani and J. Friedman, The Elements of Statistical Learning (2009), sec. 3.4.1",
)
def equivariance(key):
    del key
    x, y = regression.article_data()

    def change(penalize_bias):
        before, after = (article2.ridge(x, y + c, 1.0, penalize_bias) for c in (0.0, 10.0))
        return (after - before) @ np.stack([x, np.ones_like(x)]) - 10

    return {
        "bias exempt: change of the predictions − c": change(False),
        "penalised: largest difference": np.max(np.abs(change(True))),
    }


@claim(
    "F14",
    "At inference batch norm folds into the layer before it: W′ = W γ/√(v + ε), b′ = (b − μ) γ/√(v + ε) + β.",
    HOLDS,
    {"dense: folded − batch norm": at_most(1e-13), "conv: folded − batch norm": at_most(1e-13)},
    equation="(2)",
    source="B. Jacob et al., Quantization and Training of Neural Networks (2018), eq. 14",
)
def folding(key):
    rng = generator(key)
    errors = []
    for layer, shape in ((dense.layer(4), (6, 3)), (conv.layer(4, 2), (2, 4, 4, 3))):
        x = rng.standard_normal(shape)
        network = jb.inference(jb.chain(layer, batch_norm.layer()))
        params = randomized(rng, network, x)
        mean, variance = jnp.asarray(rng.standard_normal(4)), jnp.asarray(rng.uniform(0.5, 2, 4))

        @once
        def run(params, x, layer=layer, network=network, mean=mean, variance=variance):
            state = (None, batch_norm.Running(mean, variance))
            scale = params[1].weight / jnp.sqrt(variance + 1e-5)
            folded = affine(params[0].weight * scale, (params[0].bias - mean) * scale + params[1].bias)
            return predict(layer, folded, x), run_forward(network, params, x, state)[0]

        errors.append(difference(*run(params, x)))
    return {"dense: folded − batch norm": errors[0], "conv: folded − batch norm": errors[1]}


@claim(
    "F15",
    "A layer that starts at zero adds nothing and passes no error down at first, yet its own weights and bias learn.",
    HOLDS,
    {
        "output at the start": exactly(0.0),
        "error handed down at the start": exactly(0.0),
        "gradient of its weight and bias, largest of each": above(0.01),
        "error handed down after one step, largest": above(1e-4),
    },
    equation="(8), (10), (14)",
    source="L. Zhang, A. Rao and M. Agrawala, ControlNet (2023), eqs. 3-8",
)
def zero_layer(key):
    rng = generator(key)
    x, delta = jnp.asarray(rng.standard_normal((2, 4, 4, 3))), jnp.asarray(rng.standard_normal((2, 4, 4, 2)))
    layer = conv.layer(2, 1, weight_init="zeros")

    @once
    def run(x, delta):
        params = layer.init(key, x)
        out, residuals = layer.forward(params, x)
        grads, delta_x = layer.backward(residuals, delta)
        stepped = jax.tree.map(lambda p, g: p - 0.1 * g, params, grads)
        return out, delta_x, grads, layer.backward(layer.forward(stepped, x)[1], delta)[1]

    out, delta_x, grads, later = run(x, delta)
    return {
        "output at the start": out,
        "error handed down at the start": delta_x,
        "gradient of its weight and bias, largest of each": [np.max(np.abs(leaf)) for leaf in grads],
        "error handed down after one step, largest": np.max(np.abs(later)),
    }


@claim(
    "F16",
    "Per example the squared gradient norm of a dense layer is ‖δ‖²(1 + ‖a‖²): the 1 is the bias's share.",
    HOLDS,
    {"‖∂W‖² + ‖∂b‖² − ‖δ‖²(1 + ‖a‖²), per example": near(np.zeros(6), 1e-12)},
    equation="(10), (14)",
    source="I. Goodfellow, Efficient Per-Example Gradient Computations (2015), sec. 3",
)
def per_example_norm(key):
    rng = generator(key)
    x, delta = rng.standard_normal((6, 3)), rng.standard_normal((6, 4))
    layer = dense.layer(4)
    params = randomized(rng, layer, x)
    grads = once(jax.vmap(lambda row, d: layer.backward(layer.forward(params, row[None])[1], d[None])[0]))(x, delta)
    norms = np.sum(np.square(grads.weight), axis=(1, 2)) + np.sum(np.square(grads.bias), axis=1)
    return {
        "‖∂W‖² + ‖∂b‖² − ‖δ‖²(1 + ‖a‖²), per example": norms - (delta**2).sum(1) * (1 + (x**2).sum(1)),
    }

"""Published facts about biases that hold over random networks or along training."""

import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

import jaxbias as jb
from jaxbias.claims._claim import HOLDS, claim
from jaxbias.claims._conditions import above, at_most, below, exactly, mean_below, near
from jaxbias.claims._tools import generator, once, scan
from jaxbias.layers import batch_norm, dense, tanh
from jaxbias.losses import mean_squared_error
from jaxbias.params import init_state, run_forward


@claim(
    "F9",
    "With zero biases a ReLU net of width n and depth L is dead for an input with probability 1 − (1 − 2⁻ⁿ)ᴸ.",
    HOLDS,
    {
        f"share of dead nets, width {n}, depth {depth}": near(1 - (1 - 2.0**-n) ** depth, 0.012)
        for n, depth in ((2, 2), (2, 10), (3, 5), (4, 10))
    },
    equation="P(all units ≤ 0) = 2⁻ⁿ for symmetric weights",
    source="L. Lu et al., Dying ReLU and Initialization (2019), thm. 3.3",
)
def born_dead(key):
    rng = generator(key)
    shares, nets = {}, 20_000
    for n, depth in ((2, 2), (2, 10), (3, 5), (4, 10)):
        a = np.ones((nets, 1, 1))  # without biases one input stands for its whole ray
        for _ in range(depth):
            a = np.maximum(a @ rng.standard_normal((nets, a.shape[2], n)), 0)
        shares[f"share of dead nets, width {n}, depth {depth}"] = np.mean(np.all(a == 0, axis=2))
    return shares


NODES = np.polynomial.hermite_e.hermegauss(61)
"""Points and weights of Gauss-Hermite quadrature."""


def variance_map(q, weight_variance, bias_variance):
    """σ_w² E[tanh(√q g)²] + σ_b² for standard normal g, by Gauss-Hermite quadrature."""
    nodes, weights = NODES
    return (
        weight_variance * np.sum(weights * np.tanh(math.sqrt(q) * nodes) ** 2) / math.sqrt(2 * math.pi) + bias_variance
    )


@claim(
    "F10",
    "In wide random tanh nets Var z follows q ← σ_w² E[tanh(√q g)²] + σ_b²; at σ_w ≤ 1 only σ_b > 0 keeps it from 0.",
    HOLDS,
    {
        "variance of z over the map's, 8 layers, (σ_w, σ_b) = (1.5, 0.3)": near(np.ones(8), 0.03),
        "the same, (0.9, 0.5)": near(np.ones(8), 0.03),
        "fixed point at σ_w = 0.9, σ_b = 0": below(1e-6),
        "fixed point at σ_w = 0.9, σ_b = 0.5": above(0.3),
    },
    equation="q ← σ_w² ∫ φ(√q g)² Dg + σ_b²",
    source="B. Poole et al., Exponential Expressivity (2016), eq. 3; S. Schoenholz et al. (2017)",
)
def mean_field(key):
    rng = generator(key)
    width, nets = 3000, 40
    ratios = []
    for sigma_w, sigma_b in ((1.5, 0.3), (0.9, 0.5)):
        measured, predicted, q = np.zeros((nets, 8)), [], 1.0
        for net in range(nets):
            z = rng.standard_normal(width)
            z /= np.sqrt(np.mean(z * z))
            for l in range(8):
                # For one input, the sums over a fresh normal matrix are independent normals: no need to draw it.
                rms = np.sqrt(np.mean(np.tanh(z) ** 2))
                z = sigma_w * rms * rng.standard_normal(width) + sigma_b * rng.standard_normal(width)
                measured[net, l] = np.mean(z * z)
        for _ in range(8):
            q = variance_map(q, sigma_w**2, sigma_b**2)
            predicted.append(q)
        ratios.append(measured.mean(axis=0) / predicted)
    fixed = []
    for sigma_b in (0.0, 0.5):
        q = 1.0
        for _ in range(500):
            q = variance_map(q, 0.81, sigma_b**2)
        fixed.append(q)
    return {
        "variance of z over the map's, 8 layers, (σ_w, σ_b) = (1.5, 0.3)": ratios[0],
        "the same, (0.9, 0.5)": ratios[1],
        "fixed point at σ_w = 0.9, σ_b = 0": fixed[0],
        "fixed point at σ_w = 0.9, σ_b = 0.5": fixed[1],
    }


@claim(
    "F12",
    "A redundant bias, kept before batch norm, drifts under Adam, which rescales round-off; under SGD it stays put.",
    HOLDS,
    {
        "largest |b| after 1000 steps of Adam, float32": above(0.01),
        "largest |b| after 1000 steps of SGD, float32": below(1e-5),
        "change of the output by dropping Adam's bias": at_most(1e-4),
    },
    equation="section 7: g/√v is of order 1 for any g ≠ 0",
    source="D. Kingma and J. Ba, Adam (2015), sec. 2.1: the step does not depend on the gradient's scale",
)
def redundant_bias(key):
    rng = generator(key)
    x = jnp.asarray(rng.standard_normal((64, 5)), jnp.float32)
    y = jnp.asarray(np.sin(x.sum(axis=1, keepdims=True)), jnp.float32)
    network = jb.chain(dense.layer(8), batch_norm.layer(), tanh, dense.layer(1))
    gradient = jb.value_and_grad(network, mean_squared_error)
    start = network.init(key, x)
    state = init_state(network, key, x)

    @once
    def run(start):
        trained = []
        for optimizer in (optax.adam(0.01), optax.sgd(0.05)):

            def step(carry, _, optimizer=optimizer):
                params, opt_state = carry
                _, grads = gradient(params, x, y, state)
                updates, opt_state = optimizer.update(grads, opt_state, params)
                return (optax.apply_updates(params, updates), opt_state), None

            (params, _), _ = jax.lax.scan(step, (start, optimizer.init(start)), length=1000)
            trained.append(params)
        bare = (trained[0][0]._replace(bias=jnp.zeros_like(trained[0][0].bias)), *trained[0][1:])
        change = run_forward(network, trained[0], x, state)[0] - run_forward(network, bare, x, state)[0]
        return [p[0].bias for p in trained], change

    (adam, sgd), change = run(start)
    return {
        "largest |b| after 1000 steps of Adam, float32": np.max(np.abs(adam)),
        "largest |b| after 1000 steps of SGD, float32": np.max(np.abs(sgd)),
        "change of the output by dropping Adam's bias": np.max(np.abs(change)),
    }


@claim(
    "F17",
    "A wide net with frozen random weights still fits when only its biases learn.",
    HOLDS,
    {
        "final MSE / Var y, biases only, 100 seeds": mean_below(0.05),
        "change of the frozen weights": exactly(0.0),
    },
    equation="(15)",
    source="E. Williams et al., Expressivity of Neural Networks with Random Weights and Learned Biases (2025)",
    statistical=True,
)
def biases_only(key):
    x = jnp.linspace(-2, 2, 40, dtype=jnp.float32)[:, None]
    y = jnp.sin(2 * x) + 0.5
    network = jb.chain(dense.layer(200, weight_init="he_normal"), tanh, dense.layer(1, weight_init="lecun_normal"))
    gradient = jb.value_and_grad(network, mean_squared_error)

    @jax.jit
    @jax.vmap
    def initial(key):
        params: Any = network.init(key, x)
        return (params[0]._replace(bias=jax.random.normal(key, (200,), jnp.float32)), *params[1:])

    # A program of its own: drawn and compared in one, XLA may draw the weights twice and round them differently.
    @jax.jit
    @jax.vmap
    def run(start):
        optimizer = jb.with_frozen(optax.adam(0.03), jb.freeze(start, "weights"))

        def step(carry, _):
            params, state = carry
            loss, grads = gradient(params, x, y)
            updates, state = optimizer.update(grads, state, params)
            return (optax.apply_updates(params, updates), state), loss

        carry: Any = (start, optimizer.init(start))
        (params, _), losses = scan(step, carry, length=800)
        moved = [jnp.max(jnp.abs(params[l].weight - start[l].weight)) for l in (0, 2)]
        return losses[-1] / jnp.var(y), jnp.stack(moved)

    losses, moved = run(initial(jax.random.split(key, 100)))
    return {"final MSE / Var y, biases only, 100 seeds": losses, "change of the frozen weights": moved}

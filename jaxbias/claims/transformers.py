"""Which biases of a transformer matter: one is null, others are duplicates, and a null bias drifts under Adam.

Every identity is measured at 20 seeds with random non-zero biases; what training makes of it, at 20 seeds too, with and
without a bias from the same weights and on the same rows. The seeds are fixed, as claims share their programs.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

import jaxbias as jb
from jaxbias._trees import path_name
from jaxbias.claims._claim import HOLDS, claim
from jaxbias.claims._conditions import above, at_most, mean_above, mean_below, mean_within, reported
from jaxbias.claims._tools import once, randomized
from jaxbias.claims.experiments import computed_once
from jaxbias.layers import attention, dense, embedding, glu, layer_norm, moe
from jaxbias.losses import cross_entropy
from jaxbias.params import Layer, Params, Tree

SEEDS = 20
TOKENS, STEPS, WIDTH, HEADS = 6, 8, 8, 2
FREQUENCIES = np.array([0.4, 0.25, 0.15, 0.1, 0.06, 0.04])
SHARE = 0.75
"""Of the labels follow the rule; the others are drawn by `FREQUENCIES`, so that no loss reaches 0."""


def transformer(dtype: str = "float32", **options: Any) -> Layer:
    """Embedding, one pre-norm block, norm, head: params are (embedding, (norm, attention), (norm, glu), norm, head)."""
    attend = attention.layer(HEADS, WIDTH // HEADS, causal=True, **options)
    return jb.chain(
        embedding.layer(TOKENS, WIDTH, dtype=dtype),
        jb.residual(jb.chain(layer_norm.layer(), attend)),
        jb.residual(jb.chain(layer_norm.layer(), glu.layer(2 * WIDTH, gate="silu"))),
        layer_norm.layer(),
        dense.layer(TOKENS),
    )


def attention_alone(**options: Any) -> Layer:
    """Embedding, attention, head: what the key bias needs."""
    attend = attention.layer(HEADS, WIDTH // HEADS, causal=True, **options)
    return jb.chain(embedding.layer(TOKENS, WIDTH), attend, dense.layer(TOKENS))


def sequences(key: Any, rows: int) -> tuple[Any, Any]:
    """Tokens by `FREQUENCIES`, and for each the sum of it and the token before it, modulo their number."""
    x_key, y_key, choice = jax.random.split(key, 3)
    log_p = jnp.log(jnp.asarray(FREQUENCIES, jnp.float32))
    x, noise = (jax.random.categorical(k, log_p, shape=(rows, STEPS)).astype(jnp.int32) for k in (x_key, y_key))
    rule = (x + jnp.roll(x, 1, axis=1)) % TOKENS
    return x, jnp.where(jax.random.uniform(choice, rule.shape) < SHARE, rule, noise)


# --- identities -------------------------------------------------------------------------------------------------------


def gradients(network: Layer, f: Callable[..., dict[str, Any]]) -> dict[str, np.ndarray]:
    """`f(params, grads, x)` at random params, one entry for each seed."""
    x, y = sequences(jax.random.key(0), 5)
    objective = jb.value_and_grad(network, cross_entropy)
    drawn = [randomized(np.random.default_rng(seed), network, x) for seed in range(SEEDS)]
    stacked = jax.tree.map(lambda *leaves: jnp.stack(leaves), *drawn)
    program = once(jax.vmap(lambda params: f(params, objective(params, x, y)[1], x)))
    return {name: np.asarray(values) for name, values in program(stacked).items()}


def _largest(x: Any) -> Any:
    return jnp.abs(x).max()


def _into(weight: Any, grad: Any) -> Any:
    """W ∂L/∂b over the heads or units of an affine map: what a constant before it gets through it."""
    return weight.reshape(weight.shape[0], -1) @ grad.reshape(-1)


@computed_once
def identities() -> dict[str, np.ndarray]:
    """What S5 to S7 say of the plain transformer, in one program."""
    network = transformer(position="alibi")

    def measured(params: Tree, grads: Tree, x: Any) -> dict[str, Any]:
        out, heads, of_heads = network.forward(params, x)[0], params[1][1], grads[1][1]

        def change(**parts: Params) -> Any:
            """Of the output, with other parts of the attention."""
            moved = (*params[:1], (params[1][0], heads._replace(**parts)), *params[2:])
            return _largest(network.forward(moved, x)[0] - out)

        values = {
            "bk": _largest(of_heads.key.bias),
            "bq": _largest(of_heads.query.bias),
            "bk moved": change(key=Params(heads.key.weight, heads.key.bias + 3)),
            "bv": _largest(of_heads.value.bias),
            "bv − bo": _largest(of_heads.value.bias - jnp.einsum("hef,f->he", heads.out.weight, of_heads.out.bias)),
            "bv folded": change(
                value=Params(heads.value.weight, jnp.zeros_like(heads.value.bias)),
                out=Params(
                    heads.out.weight, heads.out.bias + jnp.einsum("he,hef->f", heads.value.bias, heads.out.weight)
                ),
            ),
        }
        maps = {
            "attention": (grads[1][0], params[1][1], grads[1][1], ("query", "key", "value")),
            "gated unit": (grads[2][0], params[2][1], grads[2][1], ("gate", "up")),
        }
        for name, (norm, block, of_block, parts) in maps.items():
            through = sum(_into(getattr(block, part).weight, getattr(of_block, part).bias) for part in parts)
            values |= {f"β, {name}": _largest(norm.bias - through), f"size of β, {name}": _largest(norm.bias)}
        through = _into(params[4].weight, grads[4].bias)
        return values | {"β, head": _largest(grads[3].bias - through), "size of β, head": _largest(grads[3].bias)}

    return gradients(network, measured)


@claim(
    "S5",
    "The key bias of softmax attention has gradient 0 and changes no output; with rotary positions it has one.",
    HOLDS,
    {
        "|∂L/∂bk|": at_most(1e-14),
        "output with another bk − output": at_most(1e-11),
        "|∂L/∂bq| beside it": above(1e-4),
        "|∂L/∂bk| with rotary positions": above(1e-4),
    },
    equation="(9.2.8), Σ_j δZ[t,j] = 0",
    source="derivation sheet 9.2",
    statistical=True,
)
def key_bias(key):
    del key
    values = identities()
    rotated = gradients(attention_alone(rotary="half"), lambda params, grads, x: {"bk": _largest(grads[1].key.bias)})
    return {
        "|∂L/∂bk|": values["bk"],
        "output with another bk − output": values["bk moved"],
        "|∂L/∂bq| beside it": values["bq"],
        "|∂L/∂bk| with rotary positions": rotated["bk"],
    }


@claim(
    "S6",
    "The value bias of attention is a duplicate of the output bias: it folds into it, and its gradient follows.",
    HOLDS,
    {
        "∂L/∂bv − Σ Wo ∂L/∂bo": at_most(1e-14),
        "|∂L/∂bv|": above(1e-4),
        "output with bv folded into bo − output": at_most(1e-11),
    },
    equation="(9.2.11)",
    source="derivation sheet 9.2",
    statistical=True,
)
def value_bias(key):
    del key
    values = identities()
    return {
        "∂L/∂bv − Σ Wo ∂L/∂bo": values["bv − bo"],
        "|∂L/∂bv|": values["bv"],
        "output with bv folded into bo − output": values["bv folded"],
    }


BEHIND_NORMS = {"attention": "q, k, v", "gated unit": "gate, up", "head": "the head"}


@claim(
    "S7",
    "The shift β of a norm before affine maps with biases is a duplicate of these: ∂L/∂β = Σ W ∂L/∂b over the maps.",
    HOLDS,
    {f"before the {name}: ∂L/∂β − Σ over {maps}": at_most(1e-14) for name, maps in BEHIND_NORMS.items()}
    | {f"|∂L/∂β| before the {name}": above(1e-4) for name in BEHIND_NORMS},
    equation="(9.2.9), (9.4.5): what δx gets of a constant x",
    source="derivation sheet 9.2, 9.4",
    statistical=True,
)
def norm_shift(key):
    del key
    values = identities()
    differences = {
        f"before the {name}: ∂L/∂β − Σ over {maps}": values[f"β, {name}"] for name, maps in BEHIND_NORMS.items()
    }
    return differences | {f"|∂L/∂β| before the {name}": values[f"size of β, {name}"] for name in BEHIND_NORMS}


@claim(
    "S8",
    "A constant on the router bias of a mixture of experts is null under softmax scores, and matters under sigmoid.",
    HOLDS,
    {
        "softmax: Σ ∂L/∂br": at_most(1e-14),
        "softmax: |∂L/∂br|": above(1e-4),
        "softmax: output with br + 3 − output": at_most(1e-11),
        "sigmoid: |Σ ∂L/∂br|": mean_above(1e-3),
        "sigmoid: |output with br + 3 − output|": above(1e-4),
    },
    equation="(9.5.5), (9.5.7)",
    source="derivation sheet 9.5",
    statistical=True,
)
def router_bias(key):
    del key

    def of(scores: str) -> dict[str, np.ndarray]:
        experts = moe.layer(dense.layer(WIDTH), experts=4, top=2, scores=scores)
        network = jb.chain(embedding.layer(TOKENS, WIDTH), experts, dense.layer(TOKENS))

        def measured(params: Tree, grads: Tree, x: Any) -> dict[str, Any]:
            router = Params(params[1].router.weight, params[1].router.bias + 3)
            moved = (params[0], params[1]._replace(router=router), params[2])
            of_bias = grads[1].router.bias
            change = _largest(network.forward(moved, x)[0] - network.forward(params, x)[0])
            return {"sum": jnp.abs(of_bias.sum()), "size": _largest(of_bias), "change": change}

        return gradients(network, measured)

    softmax, sigmoid = of("softmax"), of("sigmoid")
    return {
        "softmax: Σ ∂L/∂br": softmax["sum"],
        "softmax: |∂L/∂br|": softmax["size"],
        "softmax: output with br + 3 − output": softmax["change"],
        "sigmoid: |Σ ∂L/∂br|": sigmoid["sum"],
        "sigmoid: |output with br + 3 − output|": sigmoid["change"],
    }


# --- training ---------------------------------------------------------------------------------------------------------

CASES = {
    "nothing": (),
    "key bias": ("1.1.key.bias",),
    "value bias": ("1.1.value.bias",),
    "output bias": ("1.1.out.bias",),
    "norms' β": ("1.0.bias", "2.0.bias", "3.bias"),
    "gated unit's biases": ("2.1.gate.bias", "2.1.up.bias", "2.1.down.bias"),
    "head bias": ("4.bias",),
    "every bias": None,
}
"""What is left out → paths of the leaves; None for all biases."""


def is_left_out(path: str, paths: tuple[str, ...] | None) -> bool:
    return path.endswith("bias") if paths is None else path in paths


def train(
    network: Layer, optimizer: optax.GradientTransformation, steps: int, keep: Tree, seed_key: Any, rows: int = 100
) -> tuple[Tree, Any]:
    """Params after `steps` steps from one seed, and their test loss; the gradient of each leaf counts times `keep`."""
    objective = jb.value_and_grad(network, cross_entropy)
    x_test, y_test = sequences(jax.random.key(99), rows)
    init_key, rows_key = jax.random.split(seed_key)
    params = network.init(init_key, x_test)

    def step(carry, step_key):
        params, state = carry
        _, grads = objective(params, *sequences(step_key, 16))
        updates, state = optimizer.update(jax.tree.map(jnp.multiply, grads, keep), state, params)
        return (optax.apply_updates(params, updates), state), None

    (params, _), _ = jax.lax.scan(step, (params, optimizer.init(params)), jax.random.split(rows_key, steps))
    return params, cross_entropy.forward(network.forward(params, x_test)[0], y_test)[0]


def seeds() -> Any:
    return jax.random.split(jax.random.key(5), SEEDS)


@claim(
    "S9",
    "Training replaces any one kind of a small transformer's biases: without it the test loss moves by less than 0.02 "
    "nats, and without the key bias not at all.",
    HOLDS,
    {
        # In float64 rounding, 1e-16 of a step, has grown by training to 1e-12.
        f"test loss without {name} − with": at_most(1e-9) if name == "key bias" else mean_within(-0.02, 0.02)
        for name in list(CASES)[1:-1]
    }
    | {"test loss without every bias − with": reported(), "test loss with all of them": reported()},
    equation="(9.2.8), (9.2.11)",
    source="derivation sheet 9.2, 9.4",
    statistical=True,
)
def left_out(key):
    del key
    network = transformer("float64", position="alibi")
    shapes = jax.eval_shape(network.init, jax.random.key(0), sequences(jax.random.key(0), 1)[0])

    def kept(paths: tuple[str, ...] | None) -> Tree:
        """1 for the leaves that stay, 0 for those that are left out."""
        stays = lambda path: not is_left_out(path_name(path), paths)
        return jax.tree_util.tree_map_with_path(lambda path, leaf: jnp.asarray(stays(path), leaf.dtype), shapes)

    keep = jax.tree.map(lambda *leaves: jnp.stack(leaves), *map(kept, CASES.values()))
    test_loss = lambda keep, seed: train(network, optax.sgd(0.3), 60, keep, seed)[1]
    loss = np.asarray(jax.jit(jax.vmap(jax.vmap(test_loss, (None, 0)), (0, None)))(keep, seeds()))
    changes = {f"test loss without {name} − with": loss[i] - loss[0] for i, name in enumerate(CASES) if i}
    changes["test loss without key bias − with"] = np.abs(changes["test loss without key bias − with"])
    return changes | {"test loss with all of them": loss[0]}


@claim(
    "S10",
    "A key bias that cannot matter drifts under Adam, which divides rounding noise by its own size, and not under SGD.",
    HOLDS,
    {
        "largest |bk| after 150 steps of Adam, float32": mean_above(0.01),
        "after 150 steps of SGD, float32": mean_below(1e-6),
    },
    equation="(9.2.8); m/√v does not depend on the scale of the gradient",
    source="derivation sheet 9.2",
    statistical=True,
)
def drift(key):
    del key
    network = attention_alone(position="alibi")
    params = jax.eval_shape(network.init, jax.random.key(0), sequences(jax.random.key(0), 1)[0])
    keep = jax.tree.map(lambda leaf: jnp.ones((), leaf.dtype), params)

    def largest_key_bias(optimizer: optax.GradientTransformation) -> np.ndarray:
        of_seed = lambda seed: _largest(train(network, optimizer, 150, keep, seed)[0][1].key.bias)
        return np.asarray(once(jax.vmap(of_seed))(seeds()))

    return {
        "largest |bk| after 150 steps of Adam, float32": largest_key_bias(optax.adam(1e-2)),
        "after 150 steps of SGD, float32": largest_key_bias(optax.sgd(0.3)),
    }

"""Norms of per-example gradients of a 784-1024-1024-10 network, over one gradient of the whole batch."""

import itertools
from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp
import optax

import jaxbias as jb
from benchmarks.case import Case, Setting, run_case
from benchmarks.record import Record

SUITE = "per_example"
per_example_norms: Any = getattr(jb, "per_example_norms", None)
WIDTHS = {"tiny": (6, 5, 4, 3), "quick": (784, 1024, 1024, 10), "full": (784, 1024, 1024, 10)}
BATCH = {"tiny": 4, "quick": 256, "full": 256}


def build(sizes: dict[str, Any], dtype: Any):
    """Contenders `(params, (x, y)) -> (n,)`: the norm of each example's whole gradient."""
    widths, n = sizes["widths"], sizes["batch"]
    keys = jax.random.split(jax.random.key(0), 2 * len(widths))
    params = [
        (
            jax.random.normal(keys[2 * i], shape, dtype) / shape[0] ** 0.5,
            jax.random.normal(keys[2 * i + 1], shape[1:], dtype),
        )
        for i, shape in enumerate(itertools.pairwise(widths))
    ]
    x = jax.random.normal(keys[-1], (n, widths[0]), dtype)
    y = jax.random.randint(keys[-2], (n,), 0, widths[-1])

    def forward(params, x):
        *hidden, (weight, bias) = params
        for w, b in hidden:
            x = jax.nn.relu(x @ w + jnp.broadcast_to(b, (*x.shape[:-1], *b.shape)))
        return x @ weight + jnp.broadcast_to(bias, (*x.shape[:-1], *bias.shape))

    def loss(params, example):
        x, y = example
        return optax.softmax_cross_entropy_with_integer_labels(forward(params, x), y)

    def norm(grads):
        return jnp.sqrt(sum(jnp.vdot(g, g) for g in jax.tree.leaves(grads)))

    def by_hand(params, batch):
        """‖a‖² ‖δ‖² + ‖δ‖² of every layer, written out for this network."""
        x, y = batch
        kept = [x]
        for w, b in params[:-1]:
            kept.append(jax.nn.relu(kept[-1] @ w + b[None, :]))
        logits = kept[-1] @ params[-1][0] + params[-1][1][None, :]
        delta = jax.nn.softmax(logits) - jax.nn.one_hot(y, widths[-1], dtype=dtype)
        total = jnp.zeros(n, dtype)
        for (weight, _), a in zip(reversed(params), reversed(kept)):
            total += (jnp.square(a).sum(axis=1) + 1) * jnp.square(delta).sum(axis=1)
            delta = jnp.where(a > 0, delta @ weight.T, 0)
        return jnp.sqrt(total)

    contenders = {
        "one batch gradient": jax.grad(lambda params, batch: jax.vmap(loss, (None, 0))(params, batch).mean()),
        "vmap(grad)": lambda params, batch: jax.vmap(lambda e: norm(jax.grad(loss)(params, e)))(batch),
        "lax.map(grad)": lambda params, batch: jax.lax.map(lambda e: norm(jax.grad(loss)(params, e)), batch),
        "by hand for this network": by_hand,
    }
    if per_example_norms is not None:
        contenders["jaxbias"] = lambda params, batch: per_example_norms(loss)(params, batch).total
    return contenders, (params, (x, y))


def run(setting: Setting) -> Iterator[list[Record]]:
    widths, n = WIDTHS[setting.scale], BATCH[setting.scale]
    case = Case(
        SUITE,
        f"norms, {'-'.join(map(str, widths))}, batch {n}",
        {"widths": widths, "batch": n},
        build,
        {"widths": WIDTHS["tiny"], "batch": 3},
        baseline="one batch gradient",
        reference="vmap(grad)",
        no_reference=("one batch gradient",),
    )
    records = run_case(case, setting)
    if per_example_norms is None:
        records.append(Record(SUITE, case.name, "jaxbias", status="skipped", note="not part of this version"))
    yield records

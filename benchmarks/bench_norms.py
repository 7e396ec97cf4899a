"""Norms of per-example gradients, and sums of clipped ones, over one gradient of the whole batch.

Two networks: 784-1024-1024-10, where the norms come cheapest from activations and error signals alone, and a small CNN
on 16×16×1, where kernel gradients are cheaper to form than to take by the Gram ("ghost") form.
"""

import itertools
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import lax

import jaxbias as jb
from benchmarks.case import Case, Setting, run_case
from benchmarks.peers import WorkerFailed, missing, skipped, torch_in_turns
from benchmarks.record import Record
from benchmarks.timing import compile_apart

SUITE = "per_example"
TINY = {"widths": (6, 5, 4, 3), "batch": 3}
MLP = {"tiny": TINY, "quick": {"widths": (784, 1024, 1024, 10), "batch": 256}}
CNN = {"tiny": {"size": 8, "batch": 3}, "quick": {"size": 16, "batch": 256}}
BASELINE = "one batch gradient"
CLIP = 1.0


def norm(grads: Any) -> jax.Array:
    return jnp.sqrt(sum(jnp.vdot(g, g) for g in jax.tree.leaves(grads)))


def add(z: jax.Array, bias: jax.Array) -> jax.Array:
    return z + jnp.broadcast_to(bias, z.shape)


def square(x: jax.Array) -> jax.Array:
    """Sum of squares of each example."""
    return jnp.sum(jnp.square(x), axis=tuple(range(1, x.ndim)))


# --- the networks -----------------------------------------------------------------------------------------------------


def random_params(shapes, dtype) -> list[Any]:
    random = np.random.default_rng(0)
    return [jnp.asarray(random.normal(size=s) / max(1, np.prod(s[:-1])) ** 0.5, dtype) for s in shapes]


def random_batch(n: int, shape: tuple[int, ...], classes: int, dtype) -> tuple[Any, Any]:
    random = np.random.default_rng(1)
    return jnp.asarray(random.normal(size=(n, *shape)), dtype), jnp.asarray(random.integers(0, classes, n))


def mlp(sizes: dict[str, Any], dtype: Any):
    """(loss of one example, norms by hand, params, batch)."""
    widths = sizes["widths"]

    def loss(params, example):
        x, y = example
        for i in range(0, len(params), 2):
            x = add(x @ params[i], params[i + 1])
            x = jax.nn.relu(x) if i + 2 < len(params) else x
        return optax.softmax_cross_entropy_with_integer_labels(x, y)

    def by_hand(params, batch):
        """‖a‖² ‖δ‖² + ‖δ‖² of every layer, written out for this network."""
        x, y = batch
        kept = [x]
        for i in range(0, len(params) - 2, 2):
            kept.append(jax.nn.relu(add(kept[-1] @ params[i], params[i + 1])))
        logits = add(kept[-1] @ params[-2], params[-1])
        delta = jax.nn.softmax(logits) - jax.nn.one_hot(y, widths[-1], dtype=dtype)
        total = jnp.zeros(len(x), dtype)
        for weight, a in zip(reversed(params[::2]), reversed(kept)):
            total += (square(a) + 1) * square(delta)
            delta = jnp.where(a > 0, delta @ weight.T, 0)
        return jnp.sqrt(total)

    shapes = [shape for m, n in itertools.pairwise(widths) for shape in ((m, n), (n,))]
    params, batch = random_params(shapes, dtype), random_batch(sizes["batch"], widths[:1], widths[-1], dtype)
    return loss, {"by hand for this network": by_hand}, params, batch


def convolve(x: jax.Array, kernel: jax.Array) -> jax.Array:
    return lax.conv_general_dilated(x, kernel, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC"))


def cnn(sizes: dict[str, Any], dtype: Any):
    """conv 3×3×16, pool, conv 3×3×32, pool, dense 10, with the pool as a maximum over reshaped axes."""
    size = sizes["size"]

    def pool(x):
        n, height, width, channels = x.shape
        return x.reshape(n, height // 2, 2, width // 2, 2, channels).max(axis=(2, 4))

    def losses(params, batch, zs=(0, 0, 0)):
        """Losses, and the input of each layer; zs are added to the pre-activations."""
        (x, y), kept = batch, []
        for kernel, bias, shift in zip(params[0:4:2], params[1:4:2], zs):
            kept.append(x)
            x = pool(jax.nn.relu(add(convolve(x, kernel), bias) + shift))
        kept.append(x.reshape(len(x), -1))
        logits = add(kept[-1] @ params[4], params[5]) + zs[2]
        return optax.softmax_cross_entropy_with_integer_labels(logits, y), kept

    def loss(params, example):
        return losses(params, jax.tree.map(lambda leaf: leaf[None], example))[0][0]

    def ghost(params, batch):
        """The Gram form in every layer: Σ over pairs of positions of (a·a′)(δ·δ′)."""
        n = len(batch[0])
        shapes = [(n, size, size, 16), (n, size // 2, size // 2, 32), (n, 10)]
        zeros = [jnp.zeros(shape, dtype) for shape in shapes]

        def total(zs):
            found, kept = losses(params, batch, zs)
            return found.sum(), kept

        deltas, kept = jax.grad(total, has_aux=True)(zeros)
        squares = (square(kept[2]) + 1) * square(deltas[2])
        for a, delta in zip(kept[:2], deltas[:2]):
            patches = lax.conv_general_dilated_patches(
                a, (3, 3), (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC")
            )
            rows, delta = (x.reshape(n, -1, x.shape[-1]) for x in (patches, delta))
            gram = lambda x: jnp.einsum("nti,nsi->nts", x, x)
            squares += jnp.sum(gram(rows) * gram(delta), axis=(1, 2)) + square(delta.sum(axis=1))
        return jnp.sqrt(squares)

    shapes = [(3, 3, 1, 16), (16,), (3, 3, 16, 32), (32,), (2 * size**2, 10), (10,)]
    batch = random_batch(sizes["batch"], (size, size, 1), 10, dtype)
    return loss, {"ghost forms": ghost}, random_params(shapes, dtype), batch


# --- the cases --------------------------------------------------------------------------------------------------------


def batch_gradient(loss: Callable) -> Callable:
    return jax.grad(lambda params, batch: jax.vmap(loss, (None, 0))(params, batch).mean())


def norms_of(network: Callable):
    """`build` of a case whose contenders `(params, batch) -> (n,)` give the norm of each example's whole gradient."""

    def build(sizes, dtype):
        loss, others, params, batch = network(sizes, dtype)
        each = lambda params: lambda example: norm(jax.grad(loss)(params, example))
        contenders = {
            BASELINE: batch_gradient(loss),
            "vmap(grad)": lambda params, batch: jax.vmap(each(params))(batch),
            "lax.map(grad)": lambda params, batch: lax.map(each(params), batch),
            **others,
            "jaxbias": lambda params, batch: jb.per_example_norms(loss)(params, batch).total,
        }
        return contenders, (params, batch)

    return build


def clipped_sum_of(network: Callable):
    """`build` of a case whose contenders `(params, batch) -> grads` give Σ_s min(1, C/‖g_s‖) g_s."""

    def build(sizes, dtype):
        loss, _, params, batch = network(sizes, dtype)

        def formed(params, batch):
            grads = jax.vmap(jax.grad(loss), (None, 0))(params, batch)
            norms = jnp.sqrt(sum(square(g) for g in grads))
            return [jnp.tensordot(jnp.minimum(1, CLIP / norms), g, axes=1) for g in grads]

        contenders = {
            BASELINE: batch_gradient(loss),
            "vmap(grad)": formed,
            "jaxbias": jb.clipped_grad(loss, l2_clip_norm=CLIP, keep_batch_dim=False),
        }
        return contenders, (params, batch)

    return build


def cases(setting: Setting) -> Iterator[Case]:
    whats = (("norms", norms_of), ("clipped sum", clipped_sum_of))
    for what, build in whats[:1] if setting.scale == "quick" else whats:
        for network, scales, name in (
            (mlp, MLP, lambda s: "-".join(map(str, s["widths"]))),
            (cnn, CNN, lambda s: f"small CNN {s['size']}×{s['size']}×1"),
        ):
            sizes = scales.get(setting.scale, scales["quick"])
            yield Case(
                SUITE,
                f"{what}, {name(sizes)}, batch {sizes['batch']}",
                sizes,
                build(network),
                scales["tiny"],
                baseline=BASELINE,
                reference="vmap(grad)",
                no_reference=(BASELINE,),
            )


# --- PyTorch's libraries, in processes of their own -------------------------------------------------------------------

PEERS = {"opacus": "opacus, ghost", "backpack": "backpack"}


def _with_peers(records: list[Record], case: Case, setting: Setting) -> list[Record]:
    """The records with those of Opacus and BackPACK, at their best of 1 and 2 threads, if their norms agree."""
    if not any(r.contender == BASELINE and r.samples for r in records):
        return records
    contenders, (params, batch) = norms_of(mlp)(case.sizes, case.dtype)
    expected = np.asarray(jax.jit(contenders["by hand for this network"])(params, batch))
    baseline = compile_apart(contenders[BASELINE], params, batch).call
    with tempfile.TemporaryDirectory() as folder:
        arrays = str(Path(folder) / "arrays.npz")
        np.savez(arrays, x=batch[0], y=batch[1], **{f"params{i}": p for i, p in enumerate(params)})
        for peer, name in PEERS.items():
            if why := missing(peer, setting):
                records = [*records, skipped(SUITE, case.name, name, why)]
                continue
            job = {"kind": "norms", "peer": peer, "arrays": arrays}
            try:
                answer, fields = torch_in_turns(job, baseline, setting, peer=peer)
            except WorkerFailed as error:
                records = [*records, Record(SUITE, case.name, name, status="failed", note=str(error))]
                continue
            record = Record(SUITE, case.name, name, case.sizes, baseline=BASELINE, **fields)
            record.error = float(np.max(np.abs(np.asarray(answer["norms"]) / expected - 1)))
            if not record.error <= 1e-4:
                record.status, record.note = "wrong", "its norms are others than vmap(grad)'s"
                record.samples, record.times_baseline = [], None
            records = [*records, record]
    return records


def run(setting: Setting) -> Iterator[list[Record]]:
    for case in cases(setting):
        if not setting.asks_for(case.name):
            continue
        records = run_case(case, setting)
        is_mlp = case.name.startswith("norms") and "widths" in case.sizes
        yield _with_peers(records, case, setting) if is_mlp and setting.scale != "tiny" else records

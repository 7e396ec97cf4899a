"""Norms and clipped sums of per-example gradients against `vmap(grad)` and one plain gradient of the batch.

`python -m benchmarks.bench_per_example`: an MLP 784-1024-1024-10 at batch 256 and a small CNN on 16x16x1, where
kernel gradients are cheaper to form than to take by the Gram form. The contenders agree before anything is timed, and
are timed in turn in one process. Each line is JSON: seconds (median, lowest, highest) and the ratio of medians to the
plain gradient.
"""

import argparse
import itertools
import json
import statistics
import time

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

import jaxbias as jb


def cross_entropy(logits, label):
    return jax.nn.logsumexp(logits) - logits[label]


def mlp(widths):
    shapes = [shape for m, n in itertools.pairwise(widths) for shape in ((m, n), (n,))]

    def loss(params, example):
        x, label = example
        for i in range(0, len(params), 2):
            x = x @ params[i] + params[i + 1]
            x = jax.nn.relu(x) if i + 2 < len(params) else x
        return cross_entropy(x, label)

    return loss, shapes, widths[:1]


def cnn():
    """conv 3x3x16, pool, conv 3x3x32, pool, dense 10, with the pool as a maximum over a reshaped axis."""
    shapes = [(3, 3, 1, 16), (16,), (3, 3, 16, 32), (32,), (512, 10), (10,)]

    def pool(x):
        h, w, c = x.shape
        return x.reshape(h // 2, 2, w // 2, 2, c).max(axis=(1, 3))

    def loss(params, example):
        x, label = example
        for kernel, bias in (params[:2], params[2:4]):
            numbers = ("NHWC", "HWIO", "NHWC")
            x = lax.conv_general_dilated(x[None], kernel, (1, 1), "SAME", dimension_numbers=numbers)[0]
            x = pool(jax.nn.relu(x + bias[None, None]))
        return cross_entropy(x.reshape(-1) @ params[4] + params[5], label)

    return loss, shapes, (16, 16, 1)


def norm(gradients):
    return jnp.sqrt(sum(jnp.vdot(g, g) for g in jax.tree.leaves(gradients)))


def contenders(loss):
    def clip(params, batch):
        gradients = jax.vmap(jax.grad(loss), (None, 0))(params, batch)
        norms = jnp.sqrt(sum(jnp.sum(jnp.square(g), axis=tuple(range(1, g.ndim))) for g in gradients))
        return [jnp.tensordot(jnp.minimum(1, 1 / norms), g, axes=1) for g in gradients]

    return {
        "plain gradient": jax.grad(lambda p, b: jax.vmap(loss, (None, 0))(p, b).sum()),
        "norms, vmap(grad)": lambda p, b: jax.vmap(lambda e: norm(jax.grad(loss)(p, e)))(b),
        "norms, jaxbias": lambda p, b: jb.per_example_norms(loss)(p, b).total,
        "clipped sum, vmap(grad)": clip,
        "clipped sum, jaxbias": jb.clipped_grad(loss, l2_clip_norm=1.0),
    }


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--batch", type=int, default=256)
    parser.add_argument("--widths", type=int, nargs="+", default=[784, 1024, 1024, 10])
    parser.add_argument("--repeats", type=int, default=15)
    arguments = parser.parse_args()
    for name, (loss, shapes, x_shape) in {"mlp": mlp(tuple(arguments.widths)), "cnn": cnn()}.items():
        rng = np.random.default_rng(0)
        params = [jnp.asarray(rng.normal(size=s) / max(1, np.prod(s[:-1])) ** 0.5, jnp.float32) for s in shapes]
        x = jnp.asarray(rng.normal(size=(arguments.batch, *x_shape)), jnp.float32)
        batch = x, jnp.asarray(rng.integers(0, 10, arguments.batch))
        compiled = {k: jax.jit(f).lower(params, batch).compile() for k, f in contenders(loss).items()}
        results = {k: jax.block_until_ready(f(params, batch)) for k, f in compiled.items()}
        for what in ("norms", "clipped sum"):  # both sides agree, or no time is reported
            ours, theirs = (jax.tree.leaves(results[f"{what}, {by}"]) for by in ("jaxbias", "vmap(grad)"))
            for a, b in zip(ours, theirs, strict=True):
                np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-4 * float(jnp.abs(b).max()))
        times = {k: [] for k in compiled}
        for _ in range(arguments.repeats):
            for k, f in compiled.items():
                began = time.perf_counter()
                jax.block_until_ready(f(params, batch))
                times[k].append(time.perf_counter() - began)
        plain = statistics.median(times["plain gradient"])
        for k, taken in times.items():
            median = statistics.median(taken)
            record = {"case": name, "batch": arguments.batch, "contender": k, "seconds": median, "lowest": min(taken)}
            record |= {"highest": max(taken), "over_plain_gradient": round(median / plain, 3)}
            if (memory := compiled[k].memory_analysis()) is not None:
                record |= {"temp_mib": round(memory.temp_size_in_bytes / 2**20, 1)}
            record |= {"device": jax.devices()[0].device_kind, "jax": jax.__version__}
            print(json.dumps(record), flush=True)


if __name__ == "__main__":
    main()

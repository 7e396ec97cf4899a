"""Which loop form of `train.fit` is the fastest, and does "auto" choose it: `python -m benchmarks.bench_fit_loop`.

Three nets on random data of the digits' shape, "scan" against "steps" for each way to the gradient, interleaved in one
process. Compiling is left out: the time is that of the epochs between the first and the last call of `progress`.
Each line is JSON with seconds per step (median and range over the repeats) and how far "auto" is from the best.
"""

import argparse
import json
import statistics
import time

import jax
import numpy as np
import optax

import jaxbias as jb
from jaxbias import spec

NETS = {
    "two_units": ("dense:2,relu,dense:10", (64,)),
    "dense": ("dense:128,relu,dense:10", (64,)),
    "conv": ("conv:16x3x3,relu,max_pool:2,conv:32x3x3,relu,max_pool:2,flatten,dense:10", (8, 8, 1)),
}


def seconds_per_step(network, params, data, how, loop, epochs):
    """Time from the end of the first call of the compiled program to the end of the last, and the last loss."""
    seen = []
    fitted = jb.train.fit(
        network, jb.losses.cross_entropy, params, data, optax.adam(1e-3), epochs=epochs, batch_size=64,
        key=jax.random.key(1), how=how, loop=loop, progress=lambda p: seen.append((time.perf_counter(), p.epoch)),
    )  # fmt: skip
    (began, first), (ended, last) = seen[0], seen[-1]
    return (ended - began) / ((last - first) * (len(data[0]) // 64)), float(fitted.history["loss"][-1])


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=1437)
    parser.add_argument("--epochs", type=int, default=10)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--nets", nargs="+", choices=NETS, default=list(NETS))
    parser.add_argument("--how", nargs="+", choices=("delta", "autodiff"), default=["delta", "autodiff"])
    arguments = parser.parse_args()
    generator = np.random.default_rng(0)
    for name in arguments.nets:
        text, shape = NETS[name]
        network = spec.parse(text)
        x = generator.normal(size=(arguments.rows, *shape)).astype(np.float32)
        data = x, generator.integers(0, 10, arguments.rows).astype(np.int32)
        params = network.init(jax.random.key(0), x[:1])
        for how in arguments.how:
            times, losses = {"scan": [], "steps": []}, {}
            for _ in range(arguments.repeats):
                for loop, found in times.items():
                    taken, losses[loop] = seconds_per_step(network, params, data, how, loop, arguments.epochs)
                    found.append(taken)
            # Both loops must have trained the same net before either time means anything.
            np.testing.assert_allclose(losses["scan"], losses["steps"], rtol=1e-3)
            median = {loop: statistics.median(found) for loop, found in times.items()}
            chosen = jb.train.choose_loop(network, how)
            result = {
                "case": name,
                "how": how,
                "seconds_per_step": median,
                "range": {loop: [min(found), max(found)] for loop, found in times.items()},
                "auto": chosen,
                "auto_over_best": median[chosen] / min(median.values()),
                "rows": arguments.rows,
                "dtype": "float32",
                "device": jax.devices()[0].device_kind,
                "jax": jax.__version__,
            }
            print(json.dumps(result), flush=True)


if __name__ == "__main__":
    main()

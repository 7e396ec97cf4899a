"""One of the processes that `test_processes.py` starts: `two_processes.py INDEX PROCESSES PORT DIRECTORY WORDS`.

With "kill last" or "kill first" that process ends itself after two epochs, as `kill -9` would; with "wait" all stand
still there. The data are whole on every device, or "own rows" of each process, "mapped" files of all, or the batches of
a "loader" of own rows, "short" of one in the second process. With "absent" the second process never calls fit; with
"others" it does with params, rows and epochs of its own. With "sweep" they do not call it at all.
"""

import hashlib
import os
import signal
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P

index, processes, port, directory = int(sys.argv[1]), int(sys.argv[2]), sys.argv[3], Path(sys.argv[4])
if processes > 1:
    jax.config.update("jax_cpu_collectives_implementation", "gloo")
    jax.distributed.initialize(f"127.0.0.1:{port}", processes, index, initialization_timeout=300)

import jaxbias as jb  # noqa: E402
from jaxbias.train._step import row_order  # noqa: E402

mesh = jax.make_mesh((2, 2), ("data", "model"), axis_types=(AxisType.Auto,) * 2)
network = jb.chain(jb.layers.dense.layer(8), jb.layers.tanh, jb.layers.dense.layer(4))
x, y = (
    np.asarray(jax.random.normal(jax.random.key(0), (24, 6))),
    np.asarray(jax.random.normal(jax.random.key(1), (24, 4))),
)
params = network.init(jax.random.key(2), jnp.asarray(x))
specs = jb.shardings(lambda p, x: network.forward(p, x)[0], params, x, mesh=mesh)

if "sweep" in sys.argv:
    result = jb.train.sweep(
        network, jb.losses.mean_squared_error, (x, y), optax.sgd, keys=jax.random.split(jax.random.key(5), 3),
        hyper={"learning_rate": (0.1, 0.03, 0.01)}, epochs=1, batch_size=8, chunk=4, keep_params=True, mesh=mesh,
        directory=directory,
    )  # fmt: skip
    digest = hashlib.sha256(b"".join(leaf.tobytes() for leaf in jax.tree.leaves((result.params, result.results))))
    print(digest.hexdigest()[:16], result.resumed, float(result.results["loss"].sum()), flush=True)
    sys.exit()


def ends_itself(progress):
    victim = {"kill last": processes - 1, "kill first": 0}.get(sys.argv[-1])
    if index == victim and progress.epoch >= 2:
        os.kill(os.getpid(), signal.SIGKILL)
    if "wait" in sys.argv and progress.epoch >= 2:
        print("waits", flush=True)
        sys.stdin.read()


if "own rows" in sys.argv:  # each process has read its part of the rows
    rows = NamedSharding(mesh, P("data"))
    half = slice(None) if processes == 1 else slice(12 * index, 12 * index + 12)
    data = tuple(jax.make_array_from_process_local_data(rows, a[half]) for a in (x, y))
elif "mapped" in sys.argv:
    directory.mkdir(exist_ok=True)
    names = [directory / f"{name}-{index}.npy" for name in "xy"]
    for name, array in zip(names, (x, y)):
        np.save(name, array)
    data = tuple(np.load(name, mmap_mode="r") for name in names)
elif "loader" in sys.argv:

    class Loader:
        """The rows that fit draws, of each batch those of this process."""

        def __init__(self):
            self.epoch = 0

        def __len__(self):
            return 3

        def set_epoch(self, epoch):
            self.epoch = epoch

        def __iter__(self):
            order = np.asarray(row_order(jax.random.key(3), self.epoch, 24, 8))
            for rows in order[: 2 if "short" in sys.argv and index == 1 else 3]:
                own = rows if processes == 1 else rows[4 * index : 4 * index + 4]
                yield x[own], y[own]

    data = Loader()
else:
    data = x, y
if "others" in sys.argv and index == 1:
    params, data = network.init(jax.random.key(4), jnp.asarray(x)), (x[::-1], y)
if "absent" in sys.argv and index == 1:
    print("here, and not coming", flush=True)
    sys.stdin.read()
fitted = jb.train.fit(
    network, jb.losses.mean_squared_error, params, data, optax.adam(1e-2), batch_size=8,
    epochs=5 if "others" in sys.argv and index == 1 else 4,
    key=jax.random.key(3), mesh=mesh, shardings=specs, progress=ends_itself, validation=(x[:8], y[:8]),
    checkpoint=jb.train.Checkpoint(directory, every=1), wait_s=2 if "absent" in sys.argv else 120,
)  # fmt: skip

from jax.experimental import multihost_utils  # noqa: E402

leaves = [np.asarray(multihost_utils.process_allgather(leaf, tiled=True)) for leaf in jax.tree.leaves(fitted.params)]
digest = hashlib.sha256(b"".join(leaf.tobytes() for leaf in leaves)).hexdigest()[:16]
print(digest, fitted.resumed, float(fitted.history["validation_loss"][-1]), flush=True)

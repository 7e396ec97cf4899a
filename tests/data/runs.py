"""Runs whose files a later version must read, on numbers that every machine computes alike.

`python tests/data/runs.py FOLDER`, with the code of version 0.1 first on PYTHONPATH, made the files of `0.1/` beside
this one, once for each release of JAX, since a run goes on only with the JAX that began it. `test_files_of_0_1.py`
repeats these runs with the code of today, which must go on where they stopped.
"""

import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax

import jaxbias as jb
from jaxbias import train

X = jnp.asarray(np.arange(24, dtype=np.float32).reshape(8, 3) % 7 / 8)
TARGETS = jnp.asarray(np.arange(16, dtype=np.float32).reshape(8, 2) % 5 / 4)
NETWORK = jb.chain(jb.layers.dense.layer(4), jb.layers.relu, jb.layers.dense.layer(2))
OPTIMIZER = optax.sgd(0.125, momentum=0.5)


def params():
    """Params without a random draw: multiples of 1/8, no bias zero."""
    shapes = jax.eval_shape(NETWORK.init, jax.random.key(0), X)
    return jax.tree.map(lambda s: jnp.asarray((np.arange(s.size).reshape(s.shape) % 5 + 1) / 8, s.dtype), shapes)


def fit(directory, epochs, optimizer=OPTIMIZER):
    """A run with checkpoints in `directory`."""
    return train.fit(
        NETWORK, jb.losses.mean_squared_error, params(), (X, TARGETS), optimizer, epochs=epochs, batch_size=4,
        key=jax.random.key(1), checkpoint=directory and train.Checkpoint(directory, keep=1),
    )  # fmt: skip


def sweep(directory, progress=None):
    """Two networks, with and without biases, in chunks of one member."""
    return train.sweep(
        NETWORK, jb.losses.mean_squared_error, (X, TARGETS), OPTIMIZER, keys=jax.random.split(jax.random.key(2), 1),
        inits={"eighths": lambda key, x: params()}, epochs=2, batch_size=4, keep_params=True, together=1, chunk=1,
        directory=directory, progress=progress,
    )  # fmt: skip


def main(folder: Path) -> None:
    for option, value in {
        "enable_x64": True,
        "numpy_rank_promotion": "raise",
        "numpy_dtype_promotion": "strict",
    }.items():
        jax.config.update(f"jax_{option}", value)  # as tests/conftest.py has it: they change the traced program
    here = folder / f"jax-{jax.__version__}"
    here.mkdir(parents=True)
    fit(here / "fit", 2)
    sweep(here / "sweep")
    max((here / "sweep").glob("members-*.npz")).unlink()  # killed before the last member
    jb.io.save(folder / "params.safetensors", params())


if __name__ == "__main__":
    main(Path(sys.argv[1]))

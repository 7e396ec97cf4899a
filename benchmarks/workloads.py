"""The training jobs, four of the articles and a language model: data, network, schedule, and the order of the rows."""

from pathlib import Path
from typing import Any, NamedTuple

import numpy as np


class Workload(NamedTuple):
    """One training job.

    Attributes:
        name: "lin", "xor", "digits_dense", "digits_conv" or "text".
        loss: "mse" or "cross_entropy".
        optimizer: "sgd" or "adam".
        learning_rate: of the optimizer; Adam with b1 0.9, b2 0.999, epsilon 1e-8.
        batch: rows per step.
        epochs: passes over the data.
        description: for tables.
        accuracy: on the test rows, whose first time is noted; None where the loss is no classification.
    """

    name: str
    loss: str
    optimizer: str
    learning_rate: float
    batch: int
    epochs: int
    description: str
    accuracy: float | None = None


WORKLOADS = {
    w.name: w
    for w in (
        Workload("lin", "mse", "sgd", 0.1, 50, 1000, "y = 3x + 2, 50 points, full batch, SGD"),
        Workload("xor", "mse", "adam", 1e-3, 32, 300, "2-2-1 with ReLU, 256 points, batch 32, Adam"),
        Workload(
            "digits_dense", "cross_entropy", "adam", 1e-3, 64, 20, "digits, dense 64-128-10, batch 64, Adam", 0.95
        ),
        Workload(
            "digits_conv", "cross_entropy", "adam", 1e-3, 64, 20, "digits, convolutions 16-32, batch 64, Adam", 0.95
        ),
        Workload(
            "text",
            "cross_entropy",
            "adam",
            1e-3,
            16,
            2,
            "characters, 2 pre-norm blocks of 4 heads × 16 and 64-256-64, context 64, batch 16, Adam",
        ),
    )
}


CONTEXT = 64
"""Characters in a row of "text"."""


def data(workload: Workload) -> dict[str, np.ndarray]:
    """x, y for training and x_test, y_test; float32 and int32."""
    random = np.random.default_rng(0)
    if workload.name == "lin":
        x = np.linspace(-1, 1, 50, dtype=np.float32)[:, None]
        return {"x": x, "y": 3 * x + 2, "x_test": x, "y_test": 3 * x + 2}
    if workload.name == "xor":
        x = random.uniform(-1, 1, (320, 2)).astype(np.float32)
        y = (x[:, :1] * x[:, 1:] > 0).astype(np.float32)
        return {"x": x[:256], "y": y[:256], "x_test": x[256:], "y_test": y[256:]}
    if workload.name == "text":
        return text()
    from sklearn.datasets import load_digits

    digits: Any = load_digits()
    shape = (8, 8, 1) if workload.name == "digits_conv" else (64,)
    x = (digits.data / 16).astype(np.float32).reshape(-1, *shape)
    y = digits.target.astype(np.int32)
    rows = random.permutation(len(x))
    train, test = rows[:1437], rows[1437:]
    return {"x": x[train], "y": y[train], "x_test": x[test], "y_test": y[test]}


def text(context: int = CONTEXT, characters: int = 40_000) -> dict[str, np.ndarray]:
    """Characters of the standard library, as ids, and the next of each."""
    from jaxbias.data import text

    data = text(context=context, characters=characters)
    arrays = {"x": data.x_train, "y": data.y_train, "x_test": data.x_test, "y_test": data.y_test}
    return {name: np.asarray(array, np.int32) for name, array in arrays.items()}


def language_model(
    context: int = CONTEXT, heads: int = 4, head_size: int = 16, depth: int = 2, classes: int = 128
) -> Any:
    """The network of "text": ids below `classes`, which has room for any alphabet of the standard library."""
    from jaxbias import chain, residual
    from jaxbias.layers import attention, dense, embedding, gelu_tanh, layer_norm, positions

    width = heads * head_size

    def block():
        mix = residual(chain(layer_norm.layer(), attention.layer(heads, head_size, causal=True)))
        return mix, residual(chain(layer_norm.layer(), dense.layer(4 * width), gelu_tanh, dense.layer(width)))

    blocks = [part for _ in range(depth) for part in block()]
    return chain(
        embedding.layer(classes, width), positions.layer(context), *blocks, layer_norm.layer(), dense.layer(classes)
    )


def network(name: str) -> Any:
    """The workload's network from this library."""
    if name == "text":
        return language_model()
    from jaxbias import chain
    from jaxbias.layers import conv, dense, max_pool, relu, reshape

    if name == "lin":
        return chain(dense.layer(1))
    if name == "xor":
        return chain(dense.layer(2), relu, dense.layer(1))
    if name == "digits_dense":
        return chain(dense.layer(128), relu, dense.layer(10))
    convolve = lambda channels: conv.layer(channels, 3, padding="SAME")
    pool = max_pool.layer(2)
    return chain(convolve(16), relu, pool, convolve(32), relu, pool, reshape.layer(), dense.layer(10))


def fit_key():
    """The key that `jb.train.fit` is given: it sets the order of the rows."""
    import jax

    return jax.random.key(11)


def write(workload: Workload, path: Path) -> None:
    """Data, initial params (weight and bias of each layer that has some) and row order, for every contender to read."""
    import jax

    arrays = data(workload)
    params = network(workload.name).init(jax.random.key(5), arrays["x"][: workload.batch])
    arrays |= named(params)
    orders = [epoch_order(fit_key(), e, len(arrays["x"]), workload.batch) for e in range(workload.epochs)]
    arrays["order"] = np.concatenate(orders)
    np.savez(path, allow_pickle=False, **arrays)


def named(params: Any) -> dict[str, np.ndarray]:
    """weight0, bias0, weight1, … in the order of the layers; what has no bias has none here."""
    import jax

    from jaxbias import Params

    arrays = {}
    for i, part in enumerate(jax.tree.leaves(params, is_leaf=lambda part: isinstance(part, Params))):
        arrays[f"weight{i}"] = np.asarray(part.weight)
        if part.bias is not None:
            # no bias starts at zero, so that a contender that drops one is found out
            arrays[f"bias{i}"] = np.full(part.bias.shape, 0.01, np.float32)
    return arrays


def filled(like: Any, arrays: Any) -> Any:
    """`like` with the params that `named` wrote."""
    import jax

    from benchmarks.contenders.trainer import params_from
    from jaxbias import Params

    pairs = iter(params_from(arrays))
    return jax.tree.map(lambda part: Params(*next(pairs)), like, is_leaf=lambda part: isinstance(part, Params))


def steps_after_accuracy(workload: Workload, path: Path) -> int | None:
    """Steps of the schedule after the epoch that first reaches the workload's accuracy; None where none does.

    One number for all contenders that start from the same params and see the same rows in the same order.
    """
    import jax
    import optax

    from jaxbias import losses, train

    if workload.accuracy is None:
        return None
    arrays = dict(np.load(path))
    net = network(workload.name)
    params = filled(jax.eval_shape(net.init, jax.random.key(0), arrays["x"][:1]), arrays)
    fit = train.fit(
        net, losses.cross_entropy, params, (arrays["x"], arrays["y"]), optax.adam(workload.learning_rate),
        epochs=workload.epochs, batch_size=workload.batch, key=fit_key(),
        validation=(arrays["x_test"], arrays["y_test"]), metrics={"accuracy": train.accuracy},
    )  # fmt: skip
    reached = np.flatnonzero(fit.history["validation_accuracy"] >= workload.accuracy)
    steps = len(arrays["order"]) // workload.epochs
    return (workload.epochs - 1 - int(reached[0])) * steps if reached.size else None


def epoch_order(key: Any, epoch: Any, rows: int, batch: int) -> Any:
    """(steps, batch) rows of one epoch, as `jb.train.fit` with this key draws them."""
    import jax

    order = jax.random.permutation(jax.random.fold_in(key, epoch), rows)
    return order[: rows // batch * batch].reshape(-1, batch)

"""NumPy by hand, and scikit-learn."""

import numpy as np

from benchmarks.contenders.trainer import Trainer, stretched


def numpy_by_hand(job):
    """The dense workloads in NumPy, with the formulas (BP1)-(BP4)."""
    workload = job["workload"]

    def make(arrays):
        params = [np.array(arrays[f"{what}{i}"]) for i in range(_affine(arrays)) for what in ("weight", "bias")]
        moments = [(np.zeros_like(p), np.zeros_like(p)) for p in params]
        x, y, order = arrays["x"], arrays["y"], arrays["order"]
        count = [0]

        def forward(x):
            kept = [x]
            for i in range(0, len(params), 2):
                z = kept[-1] @ params[i] + params[i + 1]
                kept.append(z if i == len(params) - 2 else np.maximum(z, 0))
            return kept

        def gradient(x, y):
            *kept, out = forward(x)
            if workload["loss"] == "mse":
                value, delta = np.square(out - y).mean(), 2 * (out - y) / out.size
            else:
                shifted = out - out.max(axis=1, keepdims=True)
                e = np.exp(shifted)
                total = e.sum(axis=1, keepdims=True)
                rows = np.arange(len(y))
                value = (np.log(total[:, 0]) - shifted[rows, y]).mean()
                delta = e / total
                delta[rows, y] -= 1
                delta /= len(y)
            grads = []
            for i in range(len(params) - 2, -1, -2):
                a = kept[i // 2]
                grads = [a.T @ delta, delta.sum(axis=0), *grads]
                if i:
                    delta = (delta @ params[i].T) * (a > 0)
            return value, grads

        def step(rows):
            value, grads = gradient(x[rows], y[rows])
            rate = workload["learning_rate"]
            count[0] += 1
            if workload["optimizer"] == "sgd":
                for p, g in zip(params, grads):
                    p -= rate * g
                return value
            first, second = 1 - 0.9 ** count[0], 1 - 0.999 ** count[0]
            for p, g, (m, v) in zip(params, grads, moments):
                m += 0.1 * (g - m)
                v += 0.001 * (g * g - v)
                p -= (rate / first) * m / (np.sqrt(v / second) + 1e-8)
            return value

        return Trainer(
            lambda: step(order[0]),
            lambda: [step(rows) for rows in order[1:]],
            stretched(lambda: [step(rows) for rows in order], len(order)),
            lambda x: forward(x)[-1],
        )

    return make


def _affine(arrays) -> int:
    return sum(name.startswith("weight") for name in arrays)


def sklearn(job):
    """scikit-learn's MLPClassifier: its own initial weights and order; only its score is compared."""
    from sklearn.neural_network import MLPClassifier

    workload = job["workload"]

    def make(arrays):
        x, y = arrays["x"].astype(np.float32), arrays["y"]
        make_model = lambda: MLPClassifier(
            (128,), batch_size=workload["batch"], learning_rate_init=workload["learning_rate"], alpha=0,
            max_iter=workload["epochs"], n_iter_no_change=10**6, random_state=0,
        )  # fmt: skip
        state = {"model": make_model()}
        steps = -(-len(x) // workload["batch"]) * workload["epochs"]

        def train():
            import warnings

            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # that it has not converged after the epochs asked for
                state["model"] = make_model().fit(x, y)

        def rest():
            return None

        def first():
            train()
            return 0.0

        return Trainer(first, rest, stretched(train, steps), lambda x: state["model"].predict_proba(x))

    return make

"""Rules with saturation whose verdict is certain."""

import jax
import jax.numpy as jnp
import numpy as np

from tests.verify.labelled import group, normals

CASES = []


# ---- log-softmax over axis 0, temperature 0.5
def lsm(x):
    return jax.nn.log_softmax(x / 0.5, axis=0)


def lsm_r1(args, ct):
    (x,) = args
    p = jax.nn.softmax(x / 0.5, axis=0)
    return ((ct - p * ct.sum(0, keepdims=True)) / 0.5,)


def lsm_r2(args, ct):
    (x,) = args
    p = jnp.exp(lsm(x))
    return (2 * (ct - jnp.einsum("ij,kj->ij", p, ct)),)


def lsm_w1(args, ct):
    (x,) = args
    p = jax.nn.softmax(x / 0.5, axis=0)
    return (ct - p * ct.sum(0, keepdims=True),)


def lsm_w2(args, ct):
    (x,) = args
    p = jax.nn.softmax(x / 0.5, axis=1)
    return ((ct - p * ct.sum(1, keepdims=True)) / 0.5,)


def lsm_w3(args, ct):
    (x,) = args
    p = jax.nn.softmax(x, axis=0)
    return ((ct - p * ct.sum(0, keepdims=True)) / 0.5,)


def lsm_w4(args, ct):
    (x,) = args
    p = jax.nn.softmax(x / 0.5, axis=0)
    return (p * (ct - (p * ct).sum(0, keepdims=True)) / 0.5,)


CASES += group(
    "saturation",
    "log_softmax",
    lsm,
    normals((4, 3)),
    [lsm_r1, lsm_r2],
    [
        (lsm_w1, "temperature forgotten"),
        (lsm_w2, "other axis"),
        (lsm_w3, "temperature missing in p"),
        (lsm_w4, "derivative of softmax, not of its logarithm"),
    ],
)

# ---- logistic loss, mean over the batch, labels closed over
Y = np.array([1, -1, -1, 1, 1, -1], np.float32)


def logistic(w, X):
    return jnp.mean(jax.nn.softplus(-jnp.asarray(Y, w.dtype) * (X @ w)))


def logistic_r1(args, ct):
    w, X = args
    y = jnp.asarray(Y, w.dtype)
    d = -y * jax.nn.sigmoid(-y * (X @ w)) * ct / 6
    return X.T @ d, jnp.outer(d, w)


def logistic_r2(args, ct):
    w, X = args
    p = jax.nn.sigmoid(X @ w)
    d = (p - (jnp.asarray(Y, w.dtype) + 1) / 2) * ct / 6
    return jnp.einsum("ni,n->i", X, d), d[:, None] * w


def logistic_w1(args, ct):
    gw, gX = logistic_r1(args, ct)
    return gw * 6, gX * 6


def logistic_w2(args, ct):
    w, X = args
    y = jnp.asarray(Y, w.dtype)
    d = -y * jax.nn.sigmoid(y * (X @ w)) * ct / 6
    return X.T @ d, jnp.outer(d, w)


def logistic_w3(args, ct):
    w, X = args
    p = jax.nn.sigmoid(X @ w)
    d = (p - jnp.asarray(Y, w.dtype)) * ct / 6
    return X.T @ d, jnp.outer(d, w)


def logistic_w4(args, ct):
    gw, gX = logistic_r1(args, ct)
    return gw, gX.at[-1].set(0)


CASES += group(
    "saturation",
    "logistic_loss",
    logistic,
    normals((3,), (6, 3)),
    [logistic_r1, logistic_r2],
    [
        (logistic_w1, "mean forgotten"),
        (logistic_w2, "sign inside the sigmoid"),
        (logistic_w3, "labels -1, 1 used as 0, 1"),
        (logistic_w4, "last row zero"),
    ],
)

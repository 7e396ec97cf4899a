"""Network blocks; dL_d* is the gradient of the loss with respect to *."""

import jax
import jax.numpy as jnp
import numpy as np

from tests.verify.slips.changes import wrong_rules

CLASSES = np.array([2, 0, 1, 1, 2, 0])


def relu(x):
    return jnp.maximum(x, 0.0)


class Gaussians:
    """Standard normal arguments of the given shapes."""

    def __init__(self, *shapes, scale=1.0):
        self.shapes = shapes
        self.scale = scale

    def __call__(self, key):
        keys = jax.random.split(key, len(self.shapes))
        return tuple(self.scale * jax.random.normal(k, s) for k, s in zip(keys, self.shapes))


def classifier(x, W1, b1, W2, b2, W3):
    h1 = relu(x @ W1 + b1)
    h2 = relu(h1 @ W2 + b2)
    logits = h2 @ W3
    logp = jax.nn.log_softmax(logits)
    return -logp[jnp.arange(len(CLASSES)), CLASSES].mean()


def right_classifier_backprop(args, dL):
    x, W1, b1, W2, b2, W3 = args
    n = x.shape[0]

    pre1 = x @ W1 + b1
    h1 = relu(pre1)
    pre2 = h1 @ W2 + b2
    h2 = relu(pre2)
    probs = jax.nn.softmax(h2 @ W3)

    dL_dlogits = probs.at[jnp.arange(n), CLASSES].add(-1.0)
    dL_dlogits = dL * dL_dlogits / n
    dL_dW3 = h2.T @ dL_dlogits
    dL_dh2 = dL_dlogits @ W3.T

    dL_dpre2 = dL_dh2 * (pre2 > 0)
    dL_dW2 = h1.T @ dL_dpre2
    dL_db2 = dL_dpre2.sum(axis=0)
    dL_dh1 = dL_dpre2 @ W2.T

    dL_dpre1 = dL_dh1 * (pre1 > 0)
    dL_dW1 = x.T @ dL_dpre1
    dL_db1 = dL_dpre1.sum(axis=0)
    dL_dx = dL_dpre1 @ W1.T
    return dL_dx, dL_dW1, dL_db1, dL_dW2, dL_db2, dL_dW3


def tied_autoencoder(x, W, b, c):
    code = jax.nn.sigmoid(x @ W + b)
    recon = code @ W.T + c
    return 0.5 * jnp.sum((recon - x) ** 2, axis=1)


def right_tied_autoencoder_backprop(args, dL):
    x, W, b, c = args
    code = jax.nn.sigmoid(x @ W + b)
    recon = code @ W.T + c

    dL_drecon = dL[:, None] * (recon - x)
    dL_dc = jnp.sum(dL_drecon, axis=0)
    dL_dcode = dL_drecon @ W

    dL_dpre = dL_dcode * code * (1 - code)
    dL_db = jnp.sum(dL_dpre, axis=0)
    # W is used by the encoder and by the decoder
    dL_dW = x.T @ dL_dpre + dL_drecon.T @ code
    dL_dx = dL_dpre @ W.T - dL_drecon
    return dL_dx, dL_dW, dL_db, dL_dc


def swiglu(x, gate_w, up_w, down_w):
    return (jax.nn.silu(x @ gate_w) * (x @ up_w)) @ down_w


def right_swiglu_backprop(args, dL_dy):
    x, gate_w, up_w, down_w = args
    g = x @ gate_w
    u = x @ up_w
    sig = jax.nn.sigmoid(g)
    silu = g * sig
    mid = silu * u

    dL_ddown = mid.T @ dL_dy
    dL_dmid = dL_dy @ down_w.T

    dL_du = dL_dmid * silu
    dL_dsilu = dL_dmid * u
    dL_dg = dL_dsilu * sig * (1 + g * (1 - sig))

    dL_dgate = x.T @ dL_dg
    dL_dup = x.T @ dL_du
    dL_dx = dL_dg @ gate_w.T + dL_du @ up_w.T
    return dL_dx, dL_dgate, dL_dup, dL_ddown


def tower(x, Ws, alpha):
    for W, a in zip(Ws, alpha):
        x = x + a * jnp.tanh(x @ W)
    return x


def right_tower_backprop(args, dL_dx):
    x, Ws, alpha = args
    depth = Ws.shape[0]
    inputs = []
    acts = []
    for l in range(depth):
        inputs.append(x)
        acts.append(jnp.tanh(x @ Ws[l]))
        x = x + alpha[l] * acts[l]

    dL_dWs = jnp.zeros_like(Ws)
    dL_dalpha = jnp.zeros_like(alpha)
    for l in reversed(range(depth)):
        dL_dalpha = dL_dalpha.at[l].set(jnp.sum(dL_dx * acts[l]))
        dL_dpre = alpha[l] * dL_dx * (1 - acts[l] ** 2)
        dL_dWs = dL_dWs.at[l].set(inputs[l].T @ dL_dpre)
        dL_dx = dL_dx + dL_dpre @ Ws[l].T
    return dL_dx, dL_dWs, dL_dalpha


def bn_relu_dense(x, gain, shift, W):
    mean, var = x.mean(0), x.var(0)
    z = (x - mean) / jnp.sqrt(var + 1e-3) * gain + shift
    return relu(z) @ W


def right_bn_relu_dense_backprop(args, dL_dy):
    x, gain, shift, W = args
    std = jnp.sqrt(x.var(0) + 1e-3)
    xn = (x - x.mean(0)) / std
    z = xn * gain + shift
    a = relu(z)

    dL_dW = a.T @ dL_dy
    dL_da = dL_dy @ W.T
    dL_dz = dL_da * (z > 0)
    dL_dgain = (dL_dz * xn).sum(0)
    dL_dshift = dL_dz.sum(0)

    dL_dxn = dL_dz * gain
    centred = dL_dxn - dL_dxn.mean(0)
    dL_dx = (centred - xn * (dL_dxn * xn).mean(0)) / std
    return dL_dx, dL_dgain, dL_dshift, dL_dW


SEVERAL = [
    *wrong_rules(
        classifier,
        right_classifier_backprop,
        Gaussians((6, 4), (4, 7), (7,), (7, 6), (6,), (6, 3)),
        """
classifier_backprop
- dL_dpre2 = dL_dh2 * (pre2 > 0)
+ dL_dpre2 = dL_dh2 * (pre2 < 0)
- dL_db1 = dL_dpre1.sum(axis=0)
+ dL_db1 = dL_dpre1.mean(axis=0)
mask: relu mask the wrong way round
@ dL_dpre2 = dL_dh2 * (pre2 < 0)
reduction: bias gradient averaged instead of summed over the batch
@ dL_db1 = dL_dpre1.mean(axis=0)
    """,
    ),
    *wrong_rules(
        tied_autoencoder,
        right_tied_autoencoder_backprop,
        Gaussians((5, 4), (4, 3), (3,), (4,)),
        """
tied_autoencoder_backprop
- dL_dpre = dL_dcode * code * (1 - code)
+ dL_dpre = dL_dcode * (1 - code**2)
- dL_dW = x.T @ dL_dpre + dL_drecon.T @ code
+ dL_dW = x.T @ dL_dpre
- dL_dx = dL_dpre @ W.T - dL_drecon
+ dL_dx = dL_dpre @ W.T + dL_drecon
activation: slope of tanh used where the activation is a sigmoid
@ dL_dpre = dL_dcode * (1 - code**2)
term: the decoder's use of the tied weight is left out
@ dL_dW = x.T @ dL_dpre
sign: x enters the residual with a minus
@ dL_dx = dL_dpre @ W.T + dL_drecon
    """,
    ),
    *wrong_rules(
        swiglu,
        right_swiglu_backprop,
        Gaussians((4, 3), (3, 5), (3, 5), (5, 3)),
        """
swiglu_backprop
- dL_du = dL_dmid * silu
+ dL_du = dL_dmid * sig
- dL_dg = dL_dsilu * sig * (1 + g * (1 - sig))
+ dL_dg = dL_dsilu * sig * (1 + silu * (1 - sig))
operand: other factor of the product is silu(g), not sigmoid(g)
@ dL_du = dL_dmid * sig
activation: slope of SiLU contains the pre-activation g, not silu(g)
@ dL_dg = dL_dsilu * sig * (1 + silu * (1 - sig))
    """,
    ),
    *wrong_rules(
        tower,
        right_tower_backprop,
        Gaussians((4, 3), (3, 3, 3), (3,), scale=0.8),
        """
tower_backprop
- dL_dWs = dL_dWs.at[l].set(inputs[l].T @ dL_dpre)
+ dL_dWs = dL_dWs.at[l].set(inputs[l - 1].T @ dL_dpre)
- dL_dx = dL_dx + dL_dpre @ Ws[l].T
+ dL_dx = dL_dx + dL_dpre @ Ws[l]
index: input of the layer before taken (l - 1 for l)
@ dL_dWs = dL_dWs.at[l].set(inputs[l - 1].T @ dL_dpre)
transpose: weight not transposed in the way back
@ dL_dx = dL_dx + dL_dpre @ Ws[l]
    """,
    ),
    *wrong_rules(
        bn_relu_dense,
        right_bn_relu_dense_backprop,
        Gaussians((6, 4), (4,), (4,), (4, 3)),
        """
bn_relu_dense_backprop
- dL_dz = dL_da * (z > 0)
+ dL_dz = dL_da * (xn > 0)
- dL_dxn = dL_dz * gain
+ dL_dxn = dL_dz
mask: relu acts on the scaled and shifted z, mask taken from xn
@ dL_dz = dL_da * (xn > 0)
factor: gain forgotten in the chain
@ dL_dxn = dL_dz
    """,
    ),
]

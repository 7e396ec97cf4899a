"""Convolutions and pooling the long way round (loops over taps, im2col)."""

import jax
import jax.numpy as jnp
import numpy as np

from tests.verify.slips.changes import wrong_rules


def conv1d(x, w, b):
    # x (L, Cin), w (K, Cin, Cout): valid correlation
    n_out = x.shape[0] - w.shape[0] + 1
    out = jnp.zeros((n_out, w.shape[2])) + b
    for k in range(w.shape[0]):
        out = out + x[k : k + n_out] @ w[k]
    return out


def right_conv1d_grad(args, grad_out):
    x, w, b = args
    n_out = grad_out.shape[0]
    grad_x = jnp.zeros_like(x)
    grad_w = jnp.zeros_like(w)
    for k in range(w.shape[0]):
        patch = x[k : k + n_out]
        grad_w = grad_w.at[k].set(patch.T @ grad_out)
        grad_x = grad_x.at[k : k + n_out].add(grad_out @ w[k].T)
    grad_b = grad_out.sum(axis=0)
    return grad_x, grad_w, grad_b


def im2col(img, k):
    h, w = img.shape[0] - k + 1, img.shape[1] - k + 1
    return jnp.stack([img[i : i + h, j : j + w] for i in range(k) for j in range(k)], axis=-1).reshape(h * w, k * k)


def conv2d(img, ker):
    k = ker.shape[0]
    h, w = img.shape[0] - k + 1, img.shape[1] - k + 1
    return jax.nn.relu(im2col(img, k) @ ker.reshape(-1)).reshape(h, w)


def right_conv2d_grad(args, grad_out):
    img, ker = args
    k = ker.shape[0]
    h, w = grad_out.shape
    cols = im2col(img, k)
    pre = cols @ ker.reshape(-1)
    grad_pre = grad_out.reshape(-1) * (pre > 0)
    grad_ker = (cols.T @ grad_pre).reshape(k, k)
    grad_cols = jnp.outer(grad_pre, ker.reshape(-1)).reshape(h, w, k, k)
    grad_img = jnp.zeros_like(img)
    for i in range(k):
        for j in range(k):
            grad_img = grad_img.at[i : i + h, j : j + w].add(grad_cols[:, :, i, j])
    return grad_img, grad_ker


def avg_pool_linear(x, w):
    p = x.reshape(3, 2, 3, 2).mean(axis=(1, 3))
    return p @ w


def right_avg_pool_linear_grad(args, grad_out):
    x, w = args
    pooled = x.reshape(3, 2, 3, 2).mean(axis=(1, 3))
    grad_w = pooled.T @ grad_out
    grad_pooled = grad_out @ w.T
    grad_x = jnp.repeat(jnp.repeat(grad_pooled, 2, axis=0), 2, axis=1)
    grad_x = grad_x / 4.0
    return grad_x, grad_w


def max_pool(x, w):
    y = x * w
    return y.reshape(4, 3).max(axis=1)


def right_max_pool_grad(args, grad_out):
    x, w = args
    blocks = (x * w).reshape(4, 3)
    winner = blocks.argmax(axis=1)
    grad_blocks = jnp.zeros((4, 3)).at[jnp.arange(4), winner].add(grad_out)
    grad_y = grad_blocks.reshape(-1)
    grad_x = grad_y * w
    grad_w = grad_y * x
    return grad_x, grad_w


def depthwise_causal(x, w):
    # x (T, C), w (K, C); y_t = sum_k w_k * x_{t-k}
    y = w[0] * x
    for k in range(1, w.shape[0]):
        y = y.at[k:].add(w[k] * x[:-k])
    return y


def right_depthwise_causal_grad(args, grad_out):
    x, w = args
    grad_x = w[0] * grad_out
    grad_w = [jnp.sum(grad_out * x, axis=0)]
    for k in range(1, w.shape[0]):
        grad_x = grad_x.at[:-k].add(w[k] * grad_out[k:])
        grad_w.append(jnp.sum(grad_out[k:] * x[:-k], axis=0))
    return grad_x, jnp.stack(grad_w)


def strided_lax(x, w):
    return jax.lax.conv_general_dilated(x, w, (2,), "VALID", dimension_numbers=("NWC", "WIO", "NWC"))


def right_strided_lax_grad(args, grad_out):
    x, w = args
    n_out = grad_out.shape[1]
    grad_x, grad_w = jnp.zeros_like(x), jnp.zeros_like(w)
    for k in range(w.shape[0]):
        where = 2 * np.arange(n_out) + k
        grad_w = grad_w.at[k].set(jnp.einsum("nti,nto->io", x[:, where], grad_out))
        grad_x = grad_x.at[:, where].add(jnp.einsum("nto,io->nti", grad_out, w[k]))
    return grad_x, grad_w


def two(s1, s2):
    def draw(key):
        k1, k2 = jax.random.split(key)
        return jax.random.normal(k1, s1), jax.random.normal(k2, s2)

    return draw


def draw_conv1d(key):
    k1, k2 = jax.random.split(key)
    return (*two((7, 2), (3, 2, 3))(k1), jax.random.normal(k2, (3,)))


SINGLE = [
    *wrong_rules(
        conv1d,
        right_conv1d_grad,
        draw_conv1d,
        """
conv1d_grad
- grad_x = grad_x.at[k : k + n_out].add(grad_out @ w[k].T)
+ grad_x = grad_x.at[k : k + n_out].set(grad_out @ w[k].T)
carry: overlapping windows overwrite each other, should add
    """,
    ),
    *wrong_rules(
        conv2d,
        right_conv2d_grad,
        two((6, 5), (3, 3)),
        """
conv2d_grad
- grad_pre = grad_out.reshape(-1) * (pre > 0)
+ grad_pre = grad_out.reshape(-1)
mask: relu mask missing
    """,
    ),
    *wrong_rules(
        avg_pool_linear,
        right_avg_pool_linear_grad,
        two((6, 6), (3, 2)),
        """
avg_pool_linear_grad
- grad_x = grad_x / 4.0
+ grad_x = grad_x / 2.0
constant: windows of 2 x 2 hold four values
    """,
    ),
    *wrong_rules(
        max_pool,
        right_max_pool_grad,
        two((12,), (12,)),
        """
max_pool_grad
- grad_w = grad_y * x
+ grad_w = jnp.repeat(grad_out, 3) * x
mask: gradient of w not restricted to the maximum of each window
    """,
    ),
    *wrong_rules(
        depthwise_causal,
        right_depthwise_causal_grad,
        two((6, 3), (3, 3)),
        """
depthwise_causal_grad
- grad_x = grad_x.at[:-k].add(w[k] * grad_out[k:])
+ grad_x = grad_x.at[k:].add(w[k] * grad_out[:-k])
index: shift goes the same way as in the forward, should go back in time
    """,
    ),
    *wrong_rules(
        strided_lax,
        right_strided_lax_grad,
        two((2, 9, 2), (3, 2, 3)),
        """
strided_lax_grad
- where = 2 * np.arange(n_out) + k
+ where = np.arange(n_out) + k
index: stride of two forgotten in the positions read
    """,
    ),
]

"""What leaves are used for where data choose: rows of a leaf, or by a leaf; each kind on three functions or more."""

import jax
import jax.numpy as jnp
import pytest
from jax import lax

from tests.foreign.cases import IDS, INDEX, ROW, B, W, X, check, entering, shapes

pytestmark = pytest.mark.usefixtures("by_the_rules_of_jax")  # these functions are written as people write them

CASES = []
case = entering(CASES)


# --- rows chosen by data, then used -----------------------------------------------------------------------------------

CHOSEN = "chosen by data, then used"


@case(CHOSEN, shapes(w=(7, *W), b=(7, *B)), [ROW, INDEX], w="weight", b="bias")
def expert(p, x, i):
    return x @ p["w"][i] + p["b"][i]


@case(CHOSEN, shapes(router=(3, 7), w=(7, *W), b=(7, *B)), [X], router="weight", w="weight", b="bias")
def one_hot_dispatch(p, x):
    gates = jax.nn.softmax(x @ p["router"])
    chosen = jax.nn.one_hot(jnp.argmax(gates, axis=-1), 7)
    out = jnp.einsum("nk,nd,kde->ne", chosen, x, p["w"]) + jnp.einsum("nk,ke->ne", chosen, p["b"])
    return out * jnp.max(gates, axis=-1, keepdims=True)


@case(CHOSEN, shapes(router=(3, 7), w=(7, *W), b=(7, *B)), [ROW], router="weight", w="weight", b="bias")
def routed_rows(p, x):
    best, index = lax.top_k(jax.nn.softmax(x @ p["router"]), 2)
    w, b = jnp.take(p["w"], index, axis=0), jnp.take(p["b"], index, axis=0)
    return jnp.einsum("k,ke->e", best, jnp.einsum("d,kde->ke", x, w) + b)


@case(CHOSEN, shapes(gamma=(7, 3), beta=(7, 3)), [ROW, INDEX], gamma="scale", beta="bias")
def conditional_norm(p, x, label):
    return p["gamma"][label] * (x - x.mean()) + p["beta"][label]


@case(CHOSEN, shapes(w0=W, w1=W, b0=B, b1=B), [X, INDEX], w0="weight", w1="weight", b0="bias", b1="bias")
def switched(p, x, i):
    w, b = lax.switch(i, [lambda: (p["w0"], p["b0"]), lambda: (p["w1"], p["b1"])])
    return x @ w + b


@case(CHOSEN, shapes(table=(7, 3), kinds=(2, 3), w=W, b=B), [IDS, IDS], table="embedding", kinds="embedding",
      w="weight", b="bias")  # fmt: skip
def nothing_follows(p, ids, kinds):
    return (p["table"][ids] * jnp.sqrt(3.0) + p["kinds"][kinds]) @ p["w"] + p["b"]


@case(CHOSEN, shapes(users=(7, 3), items=(9, 3), b=(7,)), [IDS, IDS], users="embedding", items="embedding",
      b="embedding")  # fmt: skip
def factorised(p, users, items):
    return jnp.sum(p["users"][users] * p["items"][items], axis=-1) + p["b"][users]


@case(CHOSEN, shapes(w=(3, 7), start=(7,), transitions=(7, 7)), [X, IDS], w="weight", start="bias",
      transitions="bias")  # fmt: skip
def conditional_random_field(p, x, tags):
    scores = x @ p["w"]
    step = lambda a, s: (jax.nn.logsumexp(a[:, None] + p["transitions"], axis=0) + s, None)
    alpha, _ = lax.scan(step, p["start"] + scores[0], scores[1:])
    path = p["start"][tags[0]] + p["transitions"][tags[:-1], tags[1:]].sum() + scores[jnp.arange(5), tags].sum()
    return jax.nn.logsumexp(alpha) - path


@case(CHOSEN, shapes(position=(9, 4), w=W), [X, IDS], position="bias", w="weight")
def positions_of_both_kinds(p, x, places):
    return x @ p["w"] + p["position"][:5], x @ p["w"] + p["position"][places]


@case(CHOSEN, shapes(b=(7,), w=(3, 7)), [X, IDS], b="bias", w="weight")
def logit_of_a_label(p, x, labels):
    logits = x @ p["w"] + p["b"]
    return jax.nn.logsumexp(logits, axis=1) - p["b"][labels]


@case(CHOSEN, shapes(table=(7, 4), w=W), [X, IDS], table="embedding", w="weight")
def a_class_beside_data(p, x, ids):
    return x @ p["w"] + p["table"][ids]


@case(CHOSEN, shapes(table=(7, 3), w=(3, 3), g=(3,), u=(3, 7)), [IDS], table="embedding", w="weight", g="scale",
      u="weight")  # fmt: skip
def padded_residual(p, ids):
    h = p["table"][ids] * (ids > 0)[:, None]
    h = h + jnp.tanh(h @ p["w"]) * p["g"]
    return h @ p["u"]


@case(CHOSEN, shapes(w=(7, 4), u=(4, 4), b=B), [IDS], w="embedding", u="weight", b="bias")
def characters_one_hot(p, ids):
    step = lambda h, x: (jnp.tanh(x @ p["w"] + h @ p["u"] + p["b"]), None)
    return lax.scan(step, jnp.zeros(4), jax.nn.one_hot(ids, 7))[0]


# --- what only chooses ------------------------------------------------------------------------------------------------

CHOOSES = "what only chooses"
CODES = shapes(encode=(3, 4), codes=(7, 4), decode=(4, 3))
OF_CODES = {"encode": "weight", "codes": "embedding", "decode": "weight"}


def straight_through(x, q):
    return x + lax.stop_gradient(q - x)


@case(CHOOSES, CODES, [X], **OF_CODES)
def vector_quantizer(p, x):
    z = x @ p["encode"]
    distances = (z**2).sum(1, keepdims=True) - 2 * z @ p["codes"].T + (p["codes"] ** 2).sum(1)
    q = p["codes"][jnp.argmin(distances, axis=1)]
    loss = jnp.mean((q - lax.stop_gradient(z)) ** 2) + 0.25 * jnp.mean((lax.stop_gradient(q) - z) ** 2)
    return straight_through(z, q) @ p["decode"], loss


@case(CHOOSES, CODES, [X], **OF_CODES)
def codes_that_follow_averages(p, x):  # no gradient reaches the codes: they are moved by other means
    z = x @ p["encode"]
    nearest = jnp.argmin(jnp.sum((z[:, None] - p["codes"]) ** 2, axis=-1), axis=1)
    q = lax.stop_gradient(p["codes"])[nearest]
    return straight_through(z, q) @ p["decode"], jnp.mean((q - z) ** 2)


@case(CHOOSES, shapes(encode=(3, 4), first=(7, 4), second=(7, 4), decode=(4, 3)), [X], encode="weight",
      first="embedding", second="embedding", decode="weight")  # fmt: skip
def residual_quantizer(p, x):
    z = x @ p["encode"]
    rest, total = z, jnp.zeros_like(z)
    for name in ("first", "second"):
        cosines = rest @ (p[name] / jnp.linalg.norm(p[name], axis=1, keepdims=True)).T
        q = jax.nn.one_hot(jnp.argmax(cosines, axis=1), 7) @ p[name]
        rest, total = rest - lax.stop_gradient(q), total + q
    return straight_through(z, total) @ p["decode"], jnp.mean((total - lax.stop_gradient(z)) ** 2)


@case(CHOOSES, CODES, [X], **OF_CODES)
def codes_in_a_loop(p, x):
    def step(_, z):
        q = p["codes"][jnp.argmin(jnp.sum((z - p["codes"]) ** 2, axis=-1))]
        return None, straight_through(z, q)

    return lax.scan(step, None, x @ p["encode"])[1] @ p["decode"]


@case(CHOOSES, shapes(centres=(7, 3), w=(3, 7)), [X, IDS], centres="embedding", w="weight")
def centre_loss(p, x, labels):  # by a loss only
    centred = jnp.mean((x - p["centres"][labels]) ** 2)
    return centred + jnp.mean(jax.nn.logsumexp(x @ p["w"], axis=1))


@case(CHOOSES, shapes(router=(3, 7), w=(7, *W)), [ROW], router="weight", w="weight")
def a_choice_beside_a_penalty(p, x):
    return x @ p["w"][jnp.argmax(x @ p["router"])], jnp.sum(x) + jnp.sum(p["router"] ** 2)


@pytest.mark.parametrize(("fn", "params", "args", "expected"), CASES)
def test_role(fn, params, args, expected):
    check(fn, params, args, expected)

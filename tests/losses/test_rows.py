"""What the losses share: weights of rows and classes, reductions, the cotangent of backward; and who refuses it."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import jaxbias as jb
from jaxbias import losses
from jaxbias.derivation import normal
from jaxbias.layers import dense
from jaxbias.losses import binary_cross_entropy, cross_entropy, hinge, huber, mean_squared_error
from tests.planted import assert_caught

LOGITS = jnp.log(jnp.array([[1.0, 3.0], [4.0, 1.0], [1.0, 1.0]]))  # p = (1/4, 3/4), (4/5, 1/5), (1/2, 1/2)
LABELS = jnp.array([0, 1, 1])
COSTS = np.log([4, 5, 2])


def example_of(module, label):
    return next(example for example in module.DERIVATIONS[0].examples if example.label == label)


SQUARES = jnp.array([[1.0, 2.0], [3.0, 4.0]]), jnp.array([[0.0, 4.0], [3.0, 1.0]])  # 5 and 9 per row
YES_NO = jnp.array([[0.0, np.log(3)]]), jnp.array([[1.0, 0.0]])  # σ = 1/2, 3/4
MARGINS = jnp.array([[0.5, 0.5]]), jnp.array([[1.0, -1.0]])
CASES = {
    "labels": (cross_entropy, (LOGITS, LABELS), {"class_weight": [3, 1]}, 1.0),
    "labels, rows": (cross_entropy, (LOGITS, LABELS), {"class_weight": [3, 1], "row_weight": [1, 2, 0]}, 1.0),
    "dense": (cross_entropy, (LOGITS[:2], jnp.array([[1.0, 0], [0.5, 0.5]])), {"class_weight": [3, 1]}, 1.0),
    # not normalised, which nothing may undo
    "log p": (cross_entropy, (jnp.array([[-1.0, -2], [-3, -4], [-5, -6]]), LABELS), {"log_probabilities": True}, 1.0),
    "rows": (mean_squared_error, SQUARES, {"row_weight": [3, 1]}, 1.0),
    "none": (mean_squared_error, SQUARES, {"row_weight": [3, 1], "reduction": "none"}, jnp.array([2.0, -1.0])),
    "cotangent": (mean_squared_error, SQUARES, {"reduction": "sum"}, -2.0),
    "yes and no": (binary_cross_entropy, YES_NO, {"class_weight": (5, 3)}, 1.0),
    "minus and plus": (hinge, MARGINS, {"class_weight": (5, 3)}, 1.0),
    # of two rows one is satisfied, and counts with its weight in the denominator
    "multi-class": (hinge, (jnp.array([[0.0, 0], [0, 3]]), jnp.array([0, 1])), {"class_weight": (3, 1)}, 1.0),
}
BY_HAND = {
    # PyTorch's weighted mean: the labels of the rows weigh 3, 1, 1
    "labels": (COSTS @ [3, 1, 1] / 5, np.array([[-9 / 4, 9 / 4], [4 / 5, -4 / 5], [1 / 2, -1 / 2]]) / 5),
    "labels, rows": (COSTS @ [3, 2, 0] / 5, np.array([[-9 / 4, 9 / 4], [8 / 5, -8 / 5], [0, 0]]) / 5),
    # t = (3, 0) and (1.5, 0.5): p Σ t − t, over two rows
    "dense": ((3 * np.log(4) + 1.5 * np.log(5 / 4) + 0.5 * np.log(5)) / 2, [[-9 / 8, 9 / 8], [0.05, -0.05]]),
    "log p": (11 / 3, np.array([[-1, 0], [0, -1], [0, -1]]) / 3),
    "rows": ((3 * 2.5 + 4.5) / 4, [[0.75, -1.5], [0, 0.75]]),
    "none": ([7.5, 4.5], [[6, -12], [0, -3]]),
    "cotangent": (7, [[-2, 4], [0, -6]]),
    "yes and no": (3 * np.log(2) + 5 * np.log(4), [[-3 / 2, 15 / 4]]),
    "minus and plus": (3 * 0.5 + 5 * 1.5, [[-3, 5]]),
    "multi-class": (3 / 4, [[-3 / 4, 3 / 4], [0, 0]]),
}


@functools.cache
def by_library():
    """All cases from one program."""

    def run(outs):
        found = {}
        for name, (module, (_, targets), options, delta) in CASES.items():
            value, residuals = module.forward(outs[name], targets, **options)
            found[name] = value, module.backward(residuals, delta)
        return found

    return jax.jit(run)({name: case[1][0] for name, case in CASES.items()})


@pytest.mark.parametrize("name", CASES)
def test_numbers_by_hand(name):
    value, delta = by_library()[name]
    np.testing.assert_allclose(value, BY_HAND[name][0], rtol=1e-14)
    np.testing.assert_allclose(delta, BY_HAND[name][1], rtol=1e-13, atol=1e-16)


@pytest.mark.parametrize("module", [cross_entropy, huber])
def test_a_row_of_weight_zero_may_hold_nan_and_weights_that_add_up_to_zero_cost_nothing(key, module):
    out = normal(key, (3, 2), jnp.float64).at[1].set(jnp.nan)
    targets = LABELS if module is cross_entropy else jnp.zeros((3, 2))

    @jax.jit
    def run(weight):
        value, residuals = module.forward(out, targets, row_weight=weight)
        return value, module.backward(residuals)

    for weight, finite in (([1, 0, 2], True), ([0, 0, 0], True), ([0, 1, 0], False)):
        value, delta = run(jnp.array(weight, jnp.float64))
        assert jnp.isfinite(value) == finite and np.isfinite(np.asarray(delta)).all() == finite
    assert run(jnp.zeros(3))[0] == 0


WRONG = {
    "divided by the rows": (
        "labels, class weights, smoothing, row weights",
        lambda r, d: cross_entropy.backward(r, d) * (r.class_weight[r.targets] * cross_entropy.ROW_WEIGHT).sum() / 5,
    ),
    "class weights forgotten": (
        "dense targets, class weights, row weights, none",
        lambda r, d: cross_entropy.backward(r._replace(class_weight=jnp.ones(4)), d),
    ),
    "the cotangent of the row forgotten": (
        "dense targets, class weights, row weights, none",
        lambda r, d: cross_entropy.backward(r, jnp.ones_like(d)),
    ),
    "one cotangent for all rows": (
        "log-probabilities, class weights, ignored rows, none",
        lambda r, d: cross_entropy.backward(r, jnp.full_like(d, d.mean())),
    ),
    "the softmax of log-probabilities": (
        "log-probabilities, class weights, ignored rows, none",
        lambda r, d: (
            cross_entropy.backward(r, d) + jax.nn.softmax(r.logits) * r.class_weight[r.targets][:, None] * d[:, None]
        ),
    ),
}


@pytest.mark.parametrize("fault", WRONG)
def test_planted_faults_are_caught(key, fault):
    label, wrong = WRONG[fault]
    assert_caught(example_of(cross_entropy, label), key, lambda r, d: ((), wrong(r, d)), {"1"})


def test_planted_faults_of_binary_class_weights_are_caught(key):
    example = example_of(binary_cross_entropy, "class weights, sum")
    exchanged = lambda r, d: ((), binary_cross_entropy.backward(r._replace(class_weight=r.class_weight[::-1]), d))
    assert_caught(example, key, exchanged, {"1"})
    of_yes_alone = lambda r, d: ((), d * (jax.nn.sigmoid(r.out) - r.class_weight[1] * r.targets))
    assert_caught(example, key, of_yes_alone, {"1"})


@pytest.mark.parametrize(
    ("call", "error", "match"),
    [
        (
            lambda: cross_entropy.forward(LOGITS, LABELS, class_weight=[1, 2, 3]),
            ValueError,
            r"cross_entropy.forward: class_weight must hold one number per class, shape \(2,\), got shape \(3,\)",
        ),
        (
            lambda: cross_entropy.forward(LOGITS, LABELS, class_weight=[1, -2]),
            ValueError,
            r"class_weight must be finite and not negative, got -2",
        ),
        (
            lambda: binary_cross_entropy.forward(LOGITS, LOGITS * 0, class_weight=2.0),
            ValueError,
            r"binary_cross_entropy.forward: class_weight .* shape \(2,\) or \(2, 2\), got shape \(\)",
        ),
        (
            lambda: huber.forward(LOGITS, LOGITS, row_weight=jnp.ones((3, 1))),
            ValueError,
            r"huber.forward: row_weight must hold one number per row, shape \(3,\), got shape \(3, 1\)",
        ),
        (
            lambda: huber.forward(LOGITS, LOGITS, row_weight="balanced"),
            TypeError,
            r"row_weight must hold real numbers, got the str 'balanced'",
        ),
        (
            lambda: hinge.backward(hinge.forward(LOGITS, LABELS, reduction="none")[1]),
            ValueError,
            r'hinge.backward: with reduction="none" delta must hold the cotangent of each row, shape \(3,\), got one',
        ),
        (
            lambda: huber.backward(huber.forward(LOGITS, LOGITS)[1], jnp.ones(3)),
            ValueError,
            r"huber.backward: delta is the cotangent of the loss, one number, got a float64 array of shape \(3,\)",
        ),
        (lambda: losses.with_row_weight(dense), TypeError, "dense takes no row_weight"),
        (
            lambda: losses.with_row_weight(huber).forward(LOGITS, LOGITS),
            TypeError,
            r"with_row_weight of huber: targets must be a pair \(targets, row_weight\), got a float64 array",
        ),
    ],
)
def test_bad_input(as_users_run_it, call, error, match):
    with pytest.raises(error, match=match):
        call()


def test_what_takes_an_objective_refuses_a_loss_per_row(key):
    network, x, y = dense.layer(2), jnp.ones((3, 4)), LABELS
    params, none = network.init(key, x), cross_entropy.loss(reduction="none")
    words = r'the loss must be one number, got shape \(3,\), as reduction="none" gives'
    for how in ("delta", "autodiff"):
        with pytest.raises(ValueError, match="value_and_grad: " + words):
            jb.value_and_grad(network, none, how)(params, x, y)
    with pytest.raises(ValueError, match="deltas: " + words):
        jb.deltas(network, none)(params, x, y)
    with pytest.raises(ValueError, match=words):
        jb.train.fit(network, none, params, (x, y), optax.sgd(0.1), epochs=1, batch_size=3, key=key)


def test_row_weights_reach_value_and_grad_with_the_targets(key):
    network, x, weight = dense.layer(2), normal(key, (3, 4), jnp.float64), jnp.array([1.0, 0, 2])
    params = network.init(key, x)
    weighted = losses.with_row_weight(cross_entropy.loss(class_weight=[3, 1]))
    value, grads = jb.value_and_grad(network, weighted)(params, x, (LABELS, weight))
    expected, expected_grads = jb.value_and_grad(network, weighted, "autodiff")(params, x, (LABELS, weight))
    np.testing.assert_allclose(value, expected, rtol=1e-15)
    np.testing.assert_allclose(grads.weight, expected_grads.weight, rtol=1e-12)

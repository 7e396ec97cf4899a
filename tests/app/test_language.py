"""The language model of the command line: what is measured, what is refused, what is drawn and compared."""

import math
from collections import Counter

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxbias.app import bias_comparison, cli, language, spec
from jaxbias.app import task as tasks
from tests.app.test_task import cache as cache
from tests.app.test_task import run_program

CLASSES = 26  # of the letters in the fixture, the blank, the comma and what stands for all others
NETWORK = "embedding:8,transformer:2x4x8:causal=true,dense:{}"
WORDS = "one two buckle my shoe, three four knock at the door, five six pick up sticks. "


@pytest.fixture
def rhymes(tmp_path):
    """Files of which one is held out."""
    order = np.random.default_rng(0)
    for i in range(6):
        (tmp_path / f"{i}.txt").write_text("".join(order.choice(WORDS.split()) + " " for _ in range(150)))
    return str(tmp_path)


def prepared(path, network=None, **words):
    return tasks.prepare("text", network, options={"from": path, "context": 16}, epochs=1, **words)


def by_counting(train, test, classes, largest):
    """The same n-grams, from the formula, one character at a time."""
    bits = []
    for place, x in enumerate(test):
        p = 1 / classes
        for length in range(min(largest, place + 1)):
            history = tuple(test[place - length : place])
            after = Counter(
                train[i] for i in range(length, len(train)) if tuple(train[i - length : i]) == history
            )  # what follows h
            if total := sum(after.values()):
                p = (after[x] + len(after) * p) / (total + len(after))
        bits.append(-math.log2(p))
    return np.mean(bits)


def test_n_grams_are_those_of_the_formula():
    generator = np.random.default_rng(1)
    train, test = generator.integers(0, 3, 40), generator.integers(0, 4, 15)  # class 3 is new
    reached = language.n_gram_bits(train, test, 5, 3)
    assert reached == pytest.approx([by_counting(train.tolist(), test.tolist(), 5, n) for n in (1, 2, 3)], rel=1e-12)


def test_n_grams_learn_what_repeats():
    train, test = np.tile([0, 1, 2, 1], 50), np.tile([0, 1, 2, 1], 10)
    one, two, three = language.n_gram_bits(train, test, 3, 3)
    assert one == pytest.approx(1.5, abs=0.05) and 0.4 < two < 0.65 and three < 0.2  # after 1 comes 0 or 2


def test_bits_of_a_uniform_guess_and_of_a_sure_one():
    out, targets = jnp.zeros((2, 3, 8)), jnp.array([[0, 1, 2], [3, 4, 5]])
    assert float(language.bits(out, targets)) == pytest.approx(3)
    assert float(language.bits(out.at[0, 0, 0].set(math.log(7)), targets)) == pytest.approx((5 * 3 + 1) / 6)


LOOK_AHEAD = ["embedding:8,transformer:2x4x8,dense:{}", "embedding:8,gru:4:both_directions=true,dense:{}"]


@pytest.mark.parametrize("network", LOOK_AHEAD)
def test_a_network_that_reads_the_answer_is_refused(rhymes, network, as_users_run_it):
    with pytest.raises(ValueError, match=r"sees the characters that it is to predict: .* causal=true"):
        prepared(rhymes, network.format(CLASSES))


@pytest.mark.parametrize("network", [NETWORK, "embedding:8,lstm:4,dropout:0.5,dense:{}", "embedding:8,ssm:2,dense:{}"])
def test_what_looks_back_is_taken(rhymes, network, as_users_run_it):
    task = prepared(rhymes, network.format(CLASSES))
    assert task.data.per_step and task.words["loss"] == "cross_entropy" and set(task.metrics) == {"accuracy", "bits"}


BAD = [
    (
        {"network": "embedding:8,dense:7"},
        r"needs \(16, 26\) for the 26 classes at each of 16 steps. End it with dense:26",
    ),
    ({"network": "dense:26"}, r"'dense:26' does not fit rows of shape \(16,\): .*floating"),
    ({"loss": "hinge"}, "hinge is for classification, but text is a class for each step: cross_entropy, focal"),
]


@pytest.mark.parametrize(("words", "match"), BAD, ids=str)
def test_bad_words(rhymes, words, match, as_users_run_it):
    with pytest.raises(ValueError, match=match):
        prepared(rhymes, **words)


def test_options_are_for_their_data(rhymes):
    with pytest.raises(ValueError, match="text takes no --target: that is for tables"):
        tasks.read("text", {"target": "y"})
    with pytest.raises(ValueError, match=f"--context is for text: jaxbias summary text --from '?{rhymes}/0.txt"):
        tasks.read(f"{rhymes}/0.txt", {"context": 3}, command="summary")


def test_a_sample_follows_the_network(rhymes, as_users_run_it):
    """A model without attention whose output is sure of the next letter of the alphabet draws the alphabet."""
    data = prepared(rhymes, NETWORK.format(CLASSES)).data
    classes = CLASSES
    network = spec.parse(f"embedding:{classes}x{classes},dense:{classes}")
    embedding, dense = network.init(jax.random.key(0), data.x_test[:1])
    following = jnp.roll(jnp.eye(classes, dtype=jnp.float32), 1, axis=1)  # c → c + 1
    params = embedding._replace(weight=jnp.eye(classes, dtype=jnp.float32)), dense._replace(weight=100 * following)
    before, drawn = language.sample(network, params, (None, None), data, 2 * classes, seed=0)
    assert before == "".join(data.labels[i] for i in data.x_test[0])
    number = data.labels.index(before[-1])
    assert drawn == "".join(data.labels[(number + 1 + i) % classes] for i in range(2 * classes))


# --- biases -----------------------------------------------------------------------------------------------------------


def test_kinds_of_biases(key, as_users_run_it):
    network = spec.parse("embedding:9x8,transformer:2x4x8,residual(lstm:8),dense:4,relu,dense:3")
    kinds = bias_comparison.kinds(network, network.init(key, jnp.zeros((1, 3), jnp.int32)))
    parts = ["layer_norm", *(f"attention {part}" for part in ("query", "key", "value", "out")), "glu gate", "glu up"]
    assert list(kinds) == [*parts, "glu down", "lstm input", "dense"]
    assert kinds["layer_norm"] == ["1.0.0.bias", "1.1.0.bias"] and kinds["attention key"] == ["1.0.1.key.bias"]
    assert kinds["dense"] == ["3.bias", "5.bias"]


def test_what_is_left_out_stays_and_the_rest_moves(rhymes, as_users_run_it):
    task = prepared(rhymes, NETWORK.format(CLASSES), optimizer="sgd", learning_rate=0.1)
    names, optimizer = bias_comparison.without(task)
    assert names[0] == bias_comparison.ALL and names[-1] == bias_comparison.NONE and "attention value" in names
    ones = jax.tree.map(jnp.ones_like, task.params)
    for name in (bias_comparison.ALL, "glu up", bias_comparison.NONE):
        chosen = optimizer(jnp.asarray(names.index(name), jnp.float32))
        updates, _ = chosen.update(ones, chosen.init(task.params), task.params)
        still = {path for path, leaf in bias_comparison.named_parameters(updates).items() if not leaf.any()}
        everything = bias_comparison.kinds(task.network, task.params)
        everything[bias_comparison.NONE] = [path for paths in everything.values() for path in paths]
        assert still == set(everything.get(name, [])), name


# --- the program ------------------------------------------------------------------------------------------------------


SMALL = f"embedding:4,residual(attention:1x4:causal=true),dense:{CLASSES}"


def test_a_process_trains_and_samples(rhymes):
    done = run_program(
        "train", "text", "--from", rhymes, "--context", "16", "--network", SMALL, "--epochs", "1", "--sample", "30",
        "--no-cache",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    first, _, header, *rest = done.stdout.splitlines()
    assert first.startswith("1 epoch: loss ") and "bits per held-out character (" in first and "-grams: " in first
    assert "(always ' ': " in first and header.startswith("30 characters drawn after '")
    assert len("\n".join(rest)) == 30
    assert "16 characters, 26 different ones" in done.stderr and "held out: " in done.stderr


@pytest.mark.slow
def test_biases_are_compared_seed_by_seed(rhymes, capsys, cache, as_users_run_it):
    words = ["train", "text", "--from", rhymes, "--context", "16", "--network", SMALL, "--epochs", "1"]
    assert cli.main([*words, "--compare-biases", "2"]) == 0
    cells = [line.split("│") for line in capsys.readouterr().out.splitlines() if line.startswith("│")]
    rows = {row[1].strip(): row[3].strip() for row in cells}
    assert rows["attention key"] in ("+0.0000 ± 0.0000", "-0.0000 ± 0.0000")  # a null direction of softmax
    assert rows["dense"] not in (rows["attention key"], "") and rows["(all biases)"] == ""


def test_a_sample_is_of_text_and_a_comparison_of_biases(blobs, rhymes, capsys, cache, as_users_run_it):
    assert cli.main(["train", blobs, "--sample", "5"]) == 2
    assert "sample: blobs.npz is no text" in capsys.readouterr().err
    network = f"embedding:4,dense:{CLASSES}"
    words = ["train", "text", "--from", rhymes, "--context", "16", "--network", network, "--no-bias"]
    assert cli.main([*words, "--compare-biases", "2"]) == 2
    assert "has no bias. Leave --no-bias out" in capsys.readouterr().err

import inspect
import json
import os
import re
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import safetensors

import jaxbias as jb
from jaxbias import data, losses
from jaxbias.app import choices, cli, spec
from jaxbias.app import task as tasks
from jaxbias.compilation_cache import CacheUse


@pytest.fixture(autouse=True)
def cache(monkeypatch):
    monkeypatch.setattr("jaxbias.compilation_cache.enable", lambda directory: CacheUse(None))


def write(path, header, rows):
    path.write_text("\n".join([header, *(",".join(map(str, row)) for row in rows)]))
    return str(path)


@pytest.fixture
def plants(tmp_path):
    """Three kinds that two features tell apart."""
    noise = np.random.default_rng(0).normal(size=(90, 2))
    rows = [(100 * (x + 5 * (i % 3)), y, ["fern", "moss", "rose"][i % 3]) for i, (x, y) in enumerate(noise)]
    return write(tmp_path / "plants.csv", "height,age,kind", rows)


@pytest.fixture
def houses(tmp_path):
    """Whole-number prices near a linear function of two features in other units."""
    x = np.random.default_rng(0).normal(size=(200, 2))
    rows = [(1e3 * a, b, int(250000 + 60000 * a - 30000 * b)) for a, b in x]
    return write(tmp_path / "houses.csv", "area,age,price", rows)


def trained(task):
    return {name: float(values[-1]) for name, values in tasks.run(task).history.items() if values.ndim == 1}


# --- defaults ---------------------------------------------------------------------------------------------------------


def test_text_labels_are_learned_by_the_defaults(plants):
    task = tasks.prepare(plants)
    assert task.loss.name == "cross_entropy" and task.params[2].weight.shape == (128, 3)
    assert (task.epochs, task.batch_size) == (200, 36)  # 72 rows: 2 steps per epoch, 400 in all
    latest = trained(task)
    assert latest["validation_accuracy"] > 0.9
    said = tasks.measured(task, latest)
    frequent = np.bincount(task.data.y_train).argmax()
    alone = np.mean(task.data.y_test == frequent)
    assert (
        f"test accuracy {latest['validation_accuracy']:.4f} (always {task.data.labels[frequent]}: {alone:.4f})" in said
    )


def test_whole_numbers_are_values_and_errors_come_in_their_unit(houses):
    task = tasks.prepare(houses, epochs=60)
    assert task.loss.name == "mean_squared_error" and task.params[2].weight.shape == (128, 1)
    fitted = tasks.run(task)
    latest = {name: float(values[-1]) for name, values in fitted.history.items() if values.ndim == 1}
    out, _ = task.network.forward(fitted.params, jnp.asarray(task.data.x_test))
    prices = data.load(houses)  # as they stand in the file
    predicted = np.asarray(out) * task.data.y_scaling.std + task.data.y_scaling.mean
    error = np.sqrt(np.mean((predicted - prices.y_test) ** 2))
    r2 = 1 - error**2 / prices.y_test.var()
    alone = np.sqrt(np.mean((prices.y_test - prices.y_train.mean()) ** 2))
    assert r2 > 0.9
    match = r"test RMSE of price (\S+) \(always the mean: (\S+)\), R² (\S+)"
    said = [float(number) for number in re.search(match, tasks.measured(task, latest)).groups()]
    assert np.allclose(said, [error, alone, r2], rtol=1e-3)


@pytest.mark.parametrize(
    ("rows", "batch_size", "left_over"),
    [(1, 1, 0), (63, 63, 0), (64, 64, 0), (65, 32, 1), (72, 36, 0), (120, 60, 0), (1023, 63, 15), (1437, 64, 29)],
)
def test_the_batch_fits_the_rows(rows, batch_size, left_over):
    assert tasks.default_batch_size(rows) == batch_size and rows % batch_size == left_over


def test_the_digits_keep_their_defaults():
    task = tasks.prepare("digits")
    assert (task.epochs, task.batch_size, task.words["network"]) == (20, 64, "dense:128,relu,dense:10")


def test_images_are_flattened_by_the_default_network(tmp_path):
    np.savez(tmp_path / "a.npz", x=np.ones((20, 4, 4, 3)), y=np.arange(20) % 2)
    task = tasks.prepare(str(tmp_path / "a.npz"))
    assert task.words["network"] == "flatten,dense:128,relu,dense:2" and task.data.x_scaling is None


def test_what_was_taken_for_granted_is_said(plants, houses):
    first, *rest = tasks.describe(tasks.prepare(plants))
    assert first == "plants.csv: 72 rows to train, 18 held out, 2 features, 3 classes: fern, moss, rose"
    assert '  classification, since the target, column 3 ("kind"), holds text' in rest
    assert "  features standardised by the training rows" in rest
    first, *rest = tasks.describe(tasks.prepare(houses))
    assert first == "houses.csv: 160 rows to train, 40 held out, 2 features, target price"
    assert re.search(r"regression, since .* holds \d+ different whole numbers with gaps", rest[0])


# --- questions --------------------------------------------------------------------------------------------------------


def test_a_question_comes_with_its_commands(tmp_path):
    rows = [(i, "NA" if i == 4 else i * i, -1 if i % 2 else 1) for i in range(20)]
    path = write(tmp_path / "my file.csv", "a,b,y", rows)
    with pytest.raises(ValueError) as asked:
        tasks.prepare(path, options={"target": ["y"], "task": None, "drop": None})
    start = f"jaxbias train '{path}' --target y"
    assert str(asked.value).endswith(f"{start} --missing drop or {start} --missing mean")
    with pytest.raises(ValueError) as asked:
        tasks.prepare(path, options={"missing": "drop", "header": True}, command="summary")
    start = f"jaxbias summary '{path}' --missing drop --header"
    assert str(asked.value).endswith(f"{start} --task classification or {start} --task regression")
    assert tasks.prepare(path, options={"missing": "drop", "task": "classification"}).data.labels == ("-1", "1")


def test_files_options_are_not_for_the_digits():
    with pytest.raises(ValueError, match="digits take no --target"):
        tasks.prepare("digits", options={"target": ["y"]})


# --- losses, optimizers, schedules ------------------------------------------------------------------------------------


def test_every_loss_is_for_a_task_or_said_why_not():
    known = {name for name in losses.__all__ if inspect.ismodule(getattr(losses, name))}
    assert (
        known == choices.LOSSES.keys() | choices.NOT_OFFERED.keys() and not choices.LOSSES.keys() & choices.NOT_OFFERED
    )


@pytest.mark.parametrize("name", choices.LOSSES)
def test_every_loss_fits_its_data(name, plants, houses, tmp_path):
    two = write(tmp_path / "two.csv", "a,y", [(i % 2 + i / 100, "ny"[i % 2]) for i in range(40)])
    for path in [plants, two] if choices.LOSSES[name] == "classification" else [houses]:
        task = tasks.prepare(path, loss=name)
        assert task.loss.name == name
        out, _ = task.network.forward(task.params, jnp.asarray(task.data.x_train))
        value, residuals = task.loss.forward(out, jnp.asarray(task.targets[0]))
        assert value > 0 and task.loss.backward(residuals).shape == out.shape
        measured = {
            f"validation_{key}": float(metric(out, jnp.asarray(task.targets[0])))
            for key, metric in task.metrics.items()
        }
        assert "test " in tasks.measured(task, {"loss": 0.0, "validation_loss": 0.0, **measured})


def test_two_classes_by_one_output(tmp_path):
    path = write(tmp_path / "two.csv", "a,y", [(i % 2 + i / 100, "ny"[i % 2]) for i in range(40)])
    task = tasks.prepare(path, loss="binary_cross_entropy")
    assert task.words["network"].endswith("dense:1") and task.targets[0].shape == (32, 1)
    out = jnp.array([[-1.0], [2.0], [0.5]])
    assert float(tasks._accuracy(out, jnp.array([[0.0], [1.0], [0.0]]))) == pytest.approx(2 / 3)


def test_options_of_a_loss(houses):
    loss = tasks.prepare(houses, loss="huber:threshold=0.5").loss
    assert float(loss.forward(jnp.array([[3.0]]), jnp.array([[0.0]]))[0]) == 0.5 * (3 - 0.25)


def test_a_likelihood_takes_a_mean_and_a_variance_of_each_value(houses):
    task = tasks.prepare(houses, loss="gaussian_nll:beta=0.5")
    outputs = 2 * task.targets[0].shape[1]
    assert task.words["network"].endswith(f"dense:{outputs}")
    with pytest.raises(ValueError, match=rf"needs \({outputs},\) for the {outputs} values per row of gaussian_nll"):
        tasks.prepare(houses, "dense:1", loss="gaussian_nll")


def test_every_schedule_fills_its_steps_in():
    assert {"cosine", "warmup_cosine", "exponential", "linear", "polynomial", "cosine_onecycle"} <= set(
        choices.schedules()
    )
    for name in choices.schedules():
        schedule = choices.schedule_by_name(name, 0.1, 200)
        with jax.numpy_dtype_promotion("standard"):
            rates = np.array([schedule(step) for step in range(0, 201, 5)])
        assert rates.max() == pytest.approx(0.1, rel=1e-3), name
        assert rates[-1] <= (0.1 if name == "warmup_constant" else 0.0011), name
    assert choices.schedule_by_name("warmup_cosine:warmup_steps=100", 0.1, 200)(50) == pytest.approx(0.05)


def test_the_schedule_ends_with_the_run(plants):
    task = tasks.prepare(plants, schedule="linear", optimizer="sgd", epochs=3)  # 6 steps
    state, sizes = task.optimizer.init(task.params), []
    with jax.numpy_dtype_promotion("standard"):
        for _ in range(7):
            updates, state = task.optimizer.update(task.params, state, task.params)
            sizes.append(float(updates[0].weight[0, 0] / task.params[0].weight[0, 0]))
    assert np.allclose(sizes, -1e-3 * (1 - np.arange(7) / 6), rtol=1e-5)


def test_optimizers_take_options(plants):
    params = {"weight": jnp.ones(3)}
    optimizer = choices.optimizer_by_name("adamw:weight_decay=0.5", 0.1, params)
    expected = optax.adamw(0.1, weight_decay=0.5)
    with jax.numpy_dtype_promotion("standard"):
        steps = [o.update(params, o.init(params), params)[0]["weight"] for o in (optimizer, expected)]
    assert np.array_equal(*steps)


def test_every_optimizer_that_is_offered_steps_or_says_why_not():
    params = {"weight": jnp.ones((2, 3), jnp.float32), "bias": jnp.ones(3, jnp.float32)}
    refused = []
    for name in choices.optimizers():
        try:
            choices.optimizer_by_name(name, 0.1, params)
        except ValueError as error:
            refused.append((name, str(error)))
    assert [name for name, _ in refused] == ["lbfgs"] and "lbfgs cannot be used here" in refused[0][1]


BAD = [
    ({"optimizer": "adm"}, "optax has no optimizer 'adm'. Did you mean adam"),
    ({"optimizer": "adamw:decay=1"}, "adamw cannot be used here: .*'decay'.*Its options: b1, b2, .*weight_decay"),
    ({"optimizer": "adamw:0.1"}, "'0.1' in 'adamw:0.1' must be option=value"),
    ({"optimizer": "sm3", "schedule": "cosine"}, "sm3 cannot be used here: it takes no schedule"),
    ({"schedule": "cosin"}, "optax has no schedule 'cosin'. Did you mean cosine"),
    ({"schedule": "cosine:steps=3"}, "cosine cannot be built .*Its options: init_value, decay_steps"),
    (
        {"schedule": "cosine:decay_steps=many"},
        "decay_steps of cosine must be a number, got 'many'. Its options: init_value",
    ),
    (
        {"schedule": "cosine:alpha=nan"},
        "cosine:alpha=nan gives the rates nan, nan, nan at the start.*a rate is at least 0",
    ),
    ({"schedule": "exponential:decay_rate=-1"}, "exponential:decay_rate=-1 gives the rates 0.*, nan"),
    ({"loss": "hubert"}, "no loss 'hubert'. Did you mean huber"),
    ({"loss": "huber"}, "huber is for regression, but plants.csv is classification: cross_entropy, "),
    ({"loss": "hinge:margin=2"}, "hinge cannot be built"),
    ({"loss": "poisson_nll"}, "poisson_nll is for Python: its output is a log rate, .*Here: cross_entropy, "),
    ({"loss": "cross_entropy:label_smoothing=2.0"}, "cross_entropy cannot be built .*label_smoothing"),
    ({"network": "dense:2"}, r"plants.csv needs \(3,\) for the 3 classes. End it with dense:3"),
    ({"batch_size": 73}, "batch_size=73 is larger than the data, which has 72 rows"),
    ({"batch_size": 0}, "batch_size must be at least 1"),
    ({"epochs": 0}, "epochs must be at least 1"),
    ({"learning_rate": 0.0}, "must be a positive number"),
]


@pytest.mark.parametrize(("words", "match"), BAD, ids=lambda value: str(value)[:40])
def test_bad_words(plants, words, match):
    with pytest.raises(ValueError, match=match):
        tasks.prepare(plants, **words)


# --- the program ------------------------------------------------------------------------------------------------------


def test_saved_params_say_how_to_read_predictions(plants, tmp_path, capsys):
    saved = tmp_path / "params.safetensors"
    assert cli.main(["train", plants, "--epochs", "2", "--save", str(saved)]) == 0
    with safetensors.safe_open(saved, "numpy") as file:
        metadata = dict(file.metadata())
    assert json.loads(metadata["labels"]) == ["fern", "moss", "rose"] and metadata["format"] == "jaxbias"
    assert json.loads(metadata["features"]) == ["height", "age"] and len(json.loads(metadata["x_std"])) == 2
    network = spec.parse(json.loads(metadata["network"]))
    like = jax.eval_shape(network.init, jax.random.key(0), jnp.zeros((1, 2), jnp.float32))
    assert jb.io.load(saved, like)[2].weight.shape == (128, 3)


def test_summary_has_the_defaults_of_train(plants, capsys):
    assert cli.main(["summary", plants]) == 0
    said = capsys.readouterr().out
    assert cli.main(["summary", plants, "--network", "dense:128,relu,dense:3"]) == 0
    assert capsys.readouterr().out == said
    assert cli.main(["summary", plants, "--target", "age", "--drop", "kind"]) == 0
    total = [line.split()[1] for line in capsys.readouterr().out.splitlines() if line.startswith("total")]
    assert total == [str(1 * 128 + 128 + 128 + 1)]


def run_program(*arguments):
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path), "JAX_PLATFORMS": "cpu"}
    command = [sys.executable, "-m", "jaxbias", *arguments]
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120)


def test_a_process_trains_on_an_odd_file(tmp_path):
    lines = [f"{i};{'Öl' if i % 3 else 'Gas'};{i},5;{'ja' if i > 20 else 'nein'}" for i in range(40)]
    (tmp_path / "odd.csv").write_text("sep=;\nNr;Art;Größe;gut\n" + "\n".join(lines) + "\n;;;\n", encoding="cp1252")
    done = run_program("train", str(tmp_path / "odd.csv"), "--drop", "Nr", "--epochs", "2", "--schedule", "cosine",
                       "--optimizer", "adamw:weight_decay=0.01", "--no-cache")  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert re.match(r"2 epochs: loss .* test accuracy .* \(always ja: 0\.\d+\)\n", done.stdout)
    assert "odd.csv: 32 rows to train, 8 held out, 3 features, 2 classes: ja, nein" in done.stderr


def test_a_process_answers_a_question_in_one_line(tmp_path):
    path = write(tmp_path / "a.csv", "a,y", [(i, -1 if i % 2 else 1) for i in range(20)])
    done = run_program("train", path)
    assert done.returncode == 2 and done.stdout == ""
    command = f"jaxbias train {path} --task"
    assert done.stderr == (
        f'jaxbias: data: {path}: the target, column 2 ("y"), holds 2 different whole numbers (-1, 1) in 20 rows: are '
        f"they classes or values? {command} classification or {command} regression\n"
    )

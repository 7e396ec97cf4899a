"""The models of docs/models.md whose packages the tests install: every leaf has the role that its names say."""

import importlib.metadata

import pytest

import jaxbias as jb
from docs import models
from docs.models import MODELS, PAGE, UNSEEN, ratios, row

INSTALLED = {"flax", "dm-haiku", "equinox", "jax"}
ALL = MODELS | UNSEEN
LONG = ("ResNet18 (haiku)", "MobileNetV1")
MISSED = ("VectorQuantizer",)  # the page says what
NAMES = [name for name, (package, _) in ALL.items() if package in INSTALLED and name not in (*LONG, *MISSED)]


@pytest.mark.usefixtures("by_the_rules_of_jax")
@pytest.mark.parametrize("name", NAMES)
def test_every_leaf_has_the_role_that_its_name_says(name):
    package, version, _, leaves, right, misses = row(name, *ALL[name])
    assert version == importlib.metadata.version(package)
    assert (leaves, misses) == (right, "-")


def test_a_wrong_name_is_a_miss(monkeypatch):
    package, make = MODELS["GRUCell"]
    cells = row("GRUCell", package, lambda: make()._replace(roles=(("weight_hh$", "bias"), *make().roles)))
    assert cells[3:5] == ("4", "3") and cells[5] == "weight_hh: weight for bias"


def test_the_page_shows_every_model_that_the_tests_try():
    text = PAGE.read_text(encoding="utf-8")
    assert not [name for name in NAMES if f"| {name} |" not in text]


def test_models_that_are_named_alone_get_new_rows(tmp_path, monkeypatch):
    page = tmp_path / "models.md"
    page.write_text(PAGE.read_text(encoding="utf-8"), encoding="utf-8")
    new = "| equinox | 9.9 | GRUCell | 4 | 4 | - | 0.50 | 0.25 |"
    monkeypatch.setattr(models, "PAGE", page)
    monkeypatch.setattr(models, "table", lambda named: [models.COLUMNS, *(new for _ in named)])
    models.renew(["GRUCell"])
    before, after = (path.read_text(encoding="utf-8").splitlines() for path in (PAGE, page))
    assert [line for line in after if line not in before] == [new] and len(before) == len(after)
    with pytest.raises(KeyError):
        models.renew(["GRU"])


@pytest.mark.usefixtures("by_the_rules_of_jax")
def test_memory_and_time_are_of_sums_that_agree(monkeypatch):
    model = ALL["WeightNorm, PReLU"][1]()
    memory, time = ratios(model)
    assert (memory == "=" or float(memory) <= 1.1) and float(time) > 0
    wrong = jb.clipped_grad
    monkeypatch.setattr(jb, "clipped_grad", lambda *args, **options: wrong(*args, **{**options, "l2_clip_norm": 2.0}))
    with pytest.raises(RuntimeError, match="the clipped sums differ"):
        ratios(model)

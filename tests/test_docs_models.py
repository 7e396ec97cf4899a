"""The models of docs/models.md whose packages the tests install: every leaf has the role that its names say."""

import importlib.metadata

import pytest

from docs.models import MODELS, PAGE, row

INSTALLED = {"flax", "dm-haiku", "equinox", "jax"}
NAMES = [name for name, (package, _) in MODELS.items() if package in INSTALLED and "ResNet" not in name]


@pytest.mark.usefixtures("by_the_rules_of_jax")
@pytest.mark.parametrize("name", NAMES)
def test_every_leaf_has_the_role_that_its_name_says(name):
    package, version, _, leaves, right, misses = row(name, *MODELS[name])
    assert version == importlib.metadata.version(package)
    assert (leaves, misses) == (right, "-")


def test_a_wrong_name_is_a_miss(monkeypatch):
    package, make = MODELS["GRUCell"]
    cells = row("GRUCell", package, lambda: make()._replace(roles=(("weight_hh$", "bias"), *make().roles)))
    assert cells[3:5] == ("4", "3") and cells[5] == "weight_hh: weight for bias"


def test_the_page_shows_every_model_that_the_tests_try():
    text = PAGE.read_text(encoding="utf-8")
    assert not [name for name in NAMES if f"| {name} |" not in text]

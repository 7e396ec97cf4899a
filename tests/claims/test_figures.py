import subprocess
import sys
import xml.etree.ElementTree as ElementTree

import pytest

from jaxbias import claims
from jaxbias.claims import diagrams, gallery

QUICK = [name for name in gallery.FIGURES if name not in ("learning-curves", "decision-boundaries")]


@pytest.mark.parametrize("name", QUICK)
def test_a_figure_is_one_vector_file_that_does_not_change(name, tmp_path):
    gallery.save(name, tmp_path / "figure.svg")
    text = (tmp_path / "figure.svg").read_text()
    assert ElementTree.fromstring(text).tag.endswith("svg")
    if name in ("flow", "regression"):
        assert gallery.svg(gallery.FIGURES[name]) == text


@pytest.mark.slow
@pytest.mark.parametrize("name", ["learning-curves", "decision-boundaries"])
def test_a_figure_that_trains(name, tmp_path):
    gallery.save(name, tmp_path / "figure.svg")
    assert ElementTree.parse(tmp_path / "figure.svg").getroot().tag.endswith("svg")


def test_every_figure_stands_under_a_claim():
    assert {name for names in gallery.UNDER.values() for name in names} == set(gallery.FIGURES)
    assert set(gallery.UNDER) <= set(claims.REGISTRY)


def test_only_the_named_figures_are_written(tmp_path):
    assert gallery.write_all(tmp_path / "new", ("neuron",)) == [tmp_path / "new" / "neuron.svg"]


def test_a_directory_that_cannot_be_made_is_refused(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(ValueError, match=r"--figures: directory .* cannot be written"):
        gallery.write_all(tmp_path / "file")


def test_importing_the_claims_imports_no_plotting_library():
    code = "import jaxbias.claims.gallery, sys; sys.exit('matplotlib' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_numbers_on_the_cycle_are_rounded_with_a_true_minus():
    assert diagrams._signed(-1.005001) == "−1.01" and diagrams._signed(0.5, 1) == "0.5"

import re
import subprocess
import sys
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import jax
import numpy as np
import pytest

from jaxbias import claims
from jaxbias.claims import diagrams, figures, gallery

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


DOCS = Path(__file__).parents[2] / "docs"
SEEN = {"blue": figures.BLUE, "orange": figures.ORANGE, "violet": figures.VIOLET, "grey": figures.FAINT}
"""Words for colours in legends → the colours that are seen."""


def written(svg):
    """The texts of a figure; its letters are outlines, each text stands beside them as a comment."""
    return re.findall(r"<!-- (.*?) -->", svg)


def colours(svg):
    return {colour.lower() for colour in re.findall(r"#[0-9a-fA-F]{6}\b", svg)}


def numbers(svg):
    return [float(text.replace("−", "-")) for text in written(svg) if re.fullmatch(r"−?\d+\.\d+", text)]


def test_the_picture_of_the_readme_is_what_the_code_draws():
    shown, drawn = (DOCS / "flow.svg").read_text(), gallery.svg(diagrams.flow)
    assert written(shown) == written(drawn) and len(written(drawn)) > 40
    assert colours(shown) == colours(drawn)


def test_the_picture_of_the_readme_says_what_its_units_do():
    (title,) = (text for text in written(gallery.svg(diagrams.flow)) if text.startswith("Forward"))
    assert "hidden $a^1 = \\tanh z^1$" in title and "output $a^2 = z^2$: a linear unit" in title
    network, (first, _, last), x, _ = diagrams.flow_problem()
    hidden = np.tanh(np.asarray(x) @ np.asarray(first.weight) + np.asarray(first.bias))
    out = (hidden @ np.asarray(last.weight) + np.asarray(last.bias)).item()
    assert out == pytest.approx(network.forward((first, (), last), x)[0].item()) and abs(out) > 1
    assert round(out, 2) in numbers((DOCS / "flow.svg").read_text())


@pytest.mark.parametrize("name", ["flow", "node-link"])
def test_legends_name_the_colours_that_are_seen(name):
    svg = gallery.svg(gallery.FIGURES[name])
    legends = " ".join(text for text in written(svg) if "orange:" in text)
    named = set(re.findall(r"\b(blue|orange|violet|grey|red|green|purple|black)\b", legends))
    assert named == set(SEEN) and {SEEN[word].lower() for word in named} <= colours(svg)


@pytest.mark.parametrize("name", QUICK)
def test_no_red_beside_orange(name):
    assert not {figures.VERMILLION.lower(), figures.ORANGE.lower()} <= colours(gallery.svg(gallery.FIGURES[name]))


def test_a_figure_measures_what_its_claim_measures(monkeypatch):
    """In float32 this difference is 1e-7; drawn under the experiments' settings it is the claim's, bit for bit."""
    claim = claims.REGISTRY["A0.1"]

    def drawn():
        figure, axes = diagrams._canvas(3, 3, (0, 1), (0, 1))
        values = claim.experiment(jax.random.key(0))
        axes.text(0, 0, repr(float(values["gradient difference"])))
        return figure

    with jax.enable_x64(False):
        (shown,) = written(gallery.svg(drawn))
    assert float(shown) == float(claims.run_claim(claim).values["gradient difference"]) < 1e-14


def test_figures_print_what_their_claims_measure():
    measured = {number: claims.run_claim(claims.REGISTRY[number]).values for number in ("A4.6", "A4.7")}
    texts = " ".join(written(gallery.svg(figures.regression)))
    for number, line in (("A4.6", "without bias (MSE: {:.2f})"), ("A4.7", "with bias (MSE: {:.2f})")):
        assert line.format(float(measured[number]["MSE"])) in texts
    assert f"$b = {float(measured['A4.7']['intercept']):.2f}$" in texts


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

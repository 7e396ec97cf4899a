import html
import re
from html.parser import HTMLParser

import jax
import numpy as np
import pytest

from jaxbias import _files, claims, compilation_cache, selfcheck
from jaxbias._trees import path_name
from jaxbias.app import cli, report
from jaxbias.app.report._formulas import Typesetter
from jaxbias.app.report._page import leaf_formulas
from jaxbias.app.report._pictures import bars, curves, themed, tiles
from jaxbias.app.report._sources import linked
from jaxbias.claims import gallery
from jaxbias.derivation import instance
from jaxbias.selfcheck import Check, LeafCheck
from jaxbias.selfcheck.derivations import _leaf_name

DERIVATIONS = [*selfcheck.layer_derivations().values(), *selfcheck.loss_derivations().values()]


class Balanced(HTMLParser):
    """Every element is closed by itself, in order; collects tables and what the page asks for from elsewhere."""

    VOID = ("meta", "img", "br", "use", "rect", "line", "polyline", "path")

    def __init__(self):
        super().__init__()
        self.open, self.count, self.addresses, self.links = [], {}, [], []

    def handle_starttag(self, tag, attrs):
        self.count[tag] = self.count.get(tag, 0) + 1
        links = self.links if tag == "a" else self.addresses
        links += [value for name, value in attrs if name in ("src", "href")]
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.count[tag] = self.count.get(tag, 0) + 1
        self.addresses += [value for name, value in attrs if name in ("src", "href")]

    def handle_endtag(self, tag):
        if tag not in self.VOID:
            assert self.open.pop() == tag


@pytest.fixture(scope="module")
def small():
    """One real derivation and one real, barely trained network."""
    checks = [selfcheck.check_derivation(selfcheck.layer_derivations()["dense"])]
    return report.collect(epochs=2, names=("dense",), checks=checks, seeds=2)


def test_the_page_is_whole_and_needs_nothing_else(small):
    parser = Balanced()
    text = report.page(small, cache="compilation cache: off", seconds=1.0)
    parser.feed(text)
    assert parser.open == [] and parser.count["table"] == 4
    assert all(address.startswith(("data:", "#")) for address in parser.addresses)
    assert parser.links == ["http://neuralnetworksanddeeplearning.com/chap2.html"]
    assert "<script" not in text and "url(" not in text
    for words in ("dense", "float64", "bfloat16", "Test accuracy", "Biases", "Machine and versions", "jaxlib"):
        assert words in text
    used = set(re.findall(r'href="#(g\d+)"', text))
    assert used and used == set(re.findall(r'<path id="(g\d+)"', text))


def test_the_figures_on_the_page_are_those_of_the_run(small):
    text = report.page(small)
    (run,) = small.runs
    assert f"{run.accuracy:.4f}" in text and run.accuracy == run.fitted.history["validation_accuracy"][-1]
    worst = small.checks[0].worst()["weight"]["bfloat16"]
    assert f"{worst.error:.1e}" in text
    assert run.summary.total.weights == 64 * 128 + 128 * 10 and run.summary.total.biases == 138
    assert "9,472" in text and "138" in text


def test_failures_are_shown(small):
    """Two epochs are too few for the wanted accuracy; one leaf is NaN, one derivation raised."""
    leaves = (
        LeafCheck("dense", "matrix", "bias", "float64", float("nan"), 1e-15),
        *(LeafCheck("dense", "matrix", "bias", dtype, 0.0, 1e-15) for dtype in ("float32", "bfloat16")),
        *(LeafCheck("dense", "broken", "", d, float("nan"), 1e-15, "ValueError: <no>") for d in selfcheck.DTYPES),
    )
    (run,) = small.runs
    run = run._replace(accuracy=0.5, fitted=run.fitted._replace(diverged=2))
    broken = small._replace(checks=[Check(small.checks[0].derivation, leaves, 0.0)], runs=[run])
    text = report.page(broken)
    assert not broken.ok
    assert "Wrong: dense." in text and "nan ✗" in text and "ValueError: &lt;no&gt;" in text
    assert "Below the wanted accuracy: dense." in text and "the loss is not finite from epoch 2 on" in text
    assert "Every derivation agrees" not in text


@pytest.mark.parametrize("derivation", DERIVATIONS, ids=lambda derivation: derivation.name)
def test_every_formula_can_be_typeset(derivation):
    typesetter = Typesetter()
    for tex in derivation.formulas:
        assert '<use href="#g' in typesetter.svg(tex)


@pytest.mark.parametrize("derivation", DERIVATIONS, ids=lambda derivation: derivation.name)
def test_every_gradient_stands_level_with_its_own_formula(derivation):
    made = [instance(example, jax.random.key(0), "float32") for example in derivation.examples]
    paths = jax.tree_util.tree_leaves_with_path([(each.params, each.x) for each in made])
    leaves = dict.fromkeys(_leaf_name(path_name(path[1:])) for path, leaf in paths if leaf.dtype == "float32")
    shared, own = leaf_formulas(derivation, list(leaves))
    assert all(own.values()), own
    assert shared and not any(tex.startswith(r"\partial L") for tex in shared)
    assert {*shared, *(tex for formulas in own.values() for tex in formulas)} == set(derivation.formulas)


def test_a_row_holds_the_formula_and_the_errors_of_one_gradient(small):
    text = report.page(small)
    typesetter = Typesetter()
    worst = small.checks[0].worst()
    for tex, leaf in (
        (r"\partial L/\partial W = x^\top \delta", "weight"),
        (r"\partial L/\partial b = \delta^\top \mathbf{1}", "bias"),
    ):
        label = re.search('aria-label="[^"]*"', typesetter.svg(tex)).group()
        (row,) = (row for row in text.split("<tr>") if label in row)
        assert f'<span class="leaf">{leaf}</span>' in row and f"{worst[leaf]['bfloat16'].error:.1e}" in row
        assert row.count("<svg") == 1


def test_every_work_that_is_cited_has_an_address():
    cited = {derivation.source for derivation in DERIVATIONS} | {each.source for each in claims.REGISTRY.values()}
    for source in cited:
        linked_years = re.findall(r"\(\d{4}\)</a>", linked(source))
        assert len(linked_years) == len(re.findall(r"\(\d{4}\)", source)), source
        assert re.sub(r"</?a[^>]*>", "", linked(source)) == html.escape(source)


def test_what_is_said_of_biases_follows_from_the_interval():
    effect = lambda *differences: report.BiasEffect(np.array(differences), 0.97, 0.96, 20, 1.0)
    none = effect(0.01, -0.01, 0.02, -0.015)
    assert none.sentence().startswith("No measurable difference here: +0.13 percentage points")
    low, high = none.interval  # by hand: mean 0.00125, sd 0.0165202, t(3) = 3.182446
    assert (low, high) == pytest.approx((-0.0250371, 0.0275371), abs=1e-6)
    assert effect(0.01, 0.011, 0.012).sentence().startswith("Biases help here: +1.10 percentage points")
    assert effect(-0.01, -0.011, -0.012).sentence().startswith("Biases hurt here: −1.10 percentage points")


def test_the_sweep_compares_networks_of_one_seed(small):
    assert small.biases.differences.shape == (2,)
    mean = small.biases.with_biases - small.biases.without
    assert float(np.mean(small.biases.differences)) == pytest.approx(mean)
    assert small.biases.sentence().replace("&", "&amp;") in report.page(small)


def test_compiling_stands_apart_from_training(small):
    text = report.page(small)
    (run,) = small.runs
    assert ">Compiling</th>" in text and ">Training</th>" in text and ">Time</th>" not in text
    assert f"{run.fitted.compile_s:.1f} s</td>" in text


def test_figures_take_the_colours_of_the_page():
    svg = themed(gallery.svg(gallery.FIGURES["neuron"]), "neuron", alt="a neuron")
    assert "#ffffff" not in svg.lower() and "#222222" not in svg and "var(--page)" in svg and "var(--ink)" in svg
    ids = set(re.findall(r'id="([^"]*)"', svg))
    assert ids and all(each.startswith("neuron-") for each in ids)
    assert set(re.findall(r'href="#([^"]*)"', svg)) | set(re.findall(r"url\(#([^)]*)\)", svg)) <= ids


def test_glyphs_are_stored_once():
    typesetter = Typesetter()
    typesetter.svg("z + z")
    size = len(typesetter.definitions())
    typesetter.svg("z + z + z")
    assert len(typesetter.definitions()) == size
    with pytest.raises(ValueError, match="nosuchcommand"):
        typesetter.svg(r"\nosuchcommand")


def test_a_curve_runs_through_its_points():
    svg = curves([("a", np.array([1.0, 0.5, np.nan, 0.0]), "dense")], title="t", low=0.0, high=1.0, log=False)
    (points,) = re.findall(r'points="([^"]*)"', svg)
    xs, ys = zip(*(map(float, point.split(",")) for point in points.split()))
    assert len(xs) == 3 and list(xs) == sorted(xs)
    assert ys[1] - ys[0] == pytest.approx(ys[2] - ys[1], abs=0.2)  # equal steps down, the NaN is left out


def test_bars_and_tiles_are_symmetric_about_zero():
    svg = bars(np.array([1.0, -0.5]), title="t")
    heights = [float(h) for h in re.findall(r'class="(?:up|down)"[^>]*height="([\d.]+)"', svg)]
    assert heights[0] == pytest.approx(2 * heights[1]) and 'class="down"' in svg
    assert "−2.00 · nothing 0 · red +2.00" in tiles(np.array([[[-2.0, 1.0]]]), 1, alt="t", pixel=4)


def test_a_page_is_written_whole_or_not_at_all(tmp_path, monkeypatch):
    target = tmp_path / "report.html"
    target.write_text("old")

    def fail(*_):
        raise OSError("disk full")

    monkeypatch.setattr("pathlib.Path.replace", fail)
    with pytest.raises(OSError, match="disk full"):
        _files.write(target, "new")
    assert [path.name for path in tmp_path.iterdir()] == ["report.html"] and target.read_text() == "old"


def test_the_command_writes_the_page_and_reports_shortfalls(small, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(report, "collect", lambda **_: small)
    monkeypatch.setattr(compilation_cache, "enable", lambda directory: compilation_cache.CacheUse(directory, 10, 9))
    assert cli.main(["report", "--out", str(tmp_path / "page.html"), "--cache-dir", str(tmp_path)]) == int(not small.ok)
    assert (tmp_path / "page.html").read_text().startswith("<!doctype html>")
    out = capsys.readouterr().out
    assert "9 of 10 programs came ready from" in out and "page.html written in" in out


def test_cache_directory_can_be_named(monkeypatch, tmp_path):
    monkeypatch.delenv("JAXBIAS_CACHE_DIR", raising=False)
    monkeypatch.delenv("JAX_COMPILATION_CACHE_DIR", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr("sys.platform", "linux")
    assert compilation_cache.default_directory() == tmp_path / "jaxbias"
    monkeypatch.setenv("JAX_COMPILATION_CACHE_DIR", str(tmp_path / "a"))
    monkeypatch.setenv("JAXBIAS_CACHE_DIR", str(tmp_path / "b"))
    assert compilation_cache.default_directory() == tmp_path / "b"
    assert compilation_cache.enable(None).sentence() == "compilation cache: off"

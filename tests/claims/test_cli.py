import json

import pytest

from jaxbias import claims
from jaxbias.app import cli, report
from jaxbias.compilation_cache import CacheUse


@pytest.fixture(autouse=True)
def no_cache(monkeypatch):
    monkeypatch.setattr("jaxbias.compilation_cache.enable", lambda directory: CacheUse(None))


def test_the_table_shows_what_was_measured(capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    assert cli.main(["claims", "A4.7", "E12"]) == 0
    out = capsys.readouterr().out
    assert "2.8840332" in out and "2 of 2 statements shown" in out
    (verdicts,) = (line for line in out.splitlines() if "the article: refuted" in line)
    assert verdicts.rstrip().endswith("what holds: shown")
    assert "https://melaneykakkar.com/weight-and-bias/\n" in out


def test_a_summary_comes_first_and_fits_80_columns(capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    chosen = claims.select(["A0.13", "A4.3", "A4.7", "E1", "E2", "F2"])
    monkeypatch.setattr(claims, "select", lambda numbers=(): chosen)
    assert cli.main(["claims"]) == 0
    out = capsys.readouterr().out
    assert all(len(line) <= 80 or "http" in line for line in out.splitlines()) and out.count("\n") < 24
    rows = {line.split(":")[0]: line.split() for line in out.splitlines()}
    assert rows["Article 0"][-4:] == ["1", "of", "1", "1"]
    (errata,) = (line for line in out.splitlines() if line.startswith("Errata"))
    assert errata.split() == [*["Errata", "of", "these", "articles", "2", "of", "2", "2"]]
    assert "13.940882" not in out and "jaxbias claims --all" in out
    assert cli.main(["claims", "--all"]) == 0
    assert "13.940882" in capsys.readouterr().out


def test_json_and_figures(tmp_path, capsys):
    assert cli.main(["claims", "a4.6", "A4.8", "--json", "--figures", str(tmp_path / "figures")]) == 0
    records = json.loads(capsys.readouterr().out)
    assert [each["number"] for each in records] == ["A4.6", "A4.8"]
    assert [path.name for path in (tmp_path / "figures").iterdir()] == ["regression.svg"]


def test_a_failed_check_gives_status_1(capsys, monkeypatch):
    wrong = claims.Claim("A4.6", "Planted.", claims.HOLDS, lambda key: {"x": 2.0}, {"x": claims.near(1.0, 0.5)})
    monkeypatch.setitem(claims.REGISTRY, "A4.6", wrong)
    assert cli.main(["claims", "A4.6"]) == 1
    out = capsys.readouterr().out
    assert "FAILED: A4.6" in out and "the article: undecided" in out and "what holds: FAILED" in out and "2 ✗" in out


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (["A9.9"], "there is no claim 'A9.9'"),
        (["A4.6", "--figures", "/proc/none"], "directory /proc/none cannot be written"),
    ],
)
def test_bad_input_is_one_line_and_status_2(arguments, text, capsys):
    assert cli.main(["claims", *arguments]) == 2
    error = capsys.readouterr().err
    assert text in error and error.startswith("jaxbias: ") and error.count("\n") == 1


def test_the_section_of_the_report(monkeypatch):
    results = claims.run(["A4.8", "E12"])
    page = report.claims_section(results)
    assert page.count("<h3>") == 2 and page.count('<figure class="drawing"><svg') == 1
    assert "2 of 2 of what holds are shown" in page
    assert 'The article: <span class="bad">refuted</span></p><p>The weight is the importance of its input.' in page
    assert 'What holds: <span class="good">shown</span></p><p>A weight tells the importance' in page
    assert '<a href="https://melaneykakkar.com/weight-and-bias/">Understanding Weight and Bias' in page
    assert report.claims_section([]) == ""

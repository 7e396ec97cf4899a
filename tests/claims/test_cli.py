import json

import pytest

from jaxbias import claims
from jaxbias.app import cli
from jaxbias.compilation_cache import CacheUse


@pytest.fixture(autouse=True)
def no_cache(monkeypatch):
    monkeypatch.setattr("jaxbias.compilation_cache.enable", lambda directory: CacheUse(None))


def test_the_table_shows_what_was_measured(capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "200")
    assert cli.main(["claims", "A4.7", "E12"]) == 0
    out = capsys.readouterr().out
    assert "2.8840332" in out and "refuted" in out and "2 of 2 claims checked as stated" in out


def test_json_and_figures(tmp_path, capsys):
    assert cli.main(["claims", "a4.6", "A4.8", "--json", "--figures", str(tmp_path / "figures")]) == 0
    records = json.loads(capsys.readouterr().out)
    assert [each["number"] for each in records] == ["A4.6", "A4.8"]
    assert [path.name for path in (tmp_path / "figures").iterdir()] == ["regression.svg"]


def test_a_failed_check_gives_status_1(capsys, monkeypatch):
    wrong = claims.Claim("A4.6", "Planted.", claims.HOLDS, lambda key: {"x": 2.0}, {"x": claims.near(1.0, 0.5)})
    monkeypatch.setitem(claims.REGISTRY, "A4.6", wrong)
    assert cli.main(["claims", "A4.6"]) == 1
    assert "failed: A4.6" in capsys.readouterr().out


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
    page = claims.section(results)
    assert page.count("<h3>") == 2 and page.count("data:image/svg+xml;base64,") == 1
    assert "2 of 2 checks pass" in page and "The source says: The weight is the importance" in page
    assert claims.section([]) == ""

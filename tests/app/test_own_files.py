"""`jaxbias train FILE` as its users start it: odd files, each option for data, and what is answered with a question."""

import gzip
import re
import sys

import pytest

BRIEFLY = ("--epochs", "2", "--no-cache")
NUMBERS = [(i, i * i % 7 / 2, 3 * i + 1) for i in range(40)]


def _lines(rows, header="", delimiter=","):
    return "\n".join(([header] if header else []) + [delimiter.join(map(str, row)) for row in rows])


def _kinds(header="a,b,kind"):
    return _lines([(a, b, "fern" if a % 2 else "moss") for a, b, _ in NUMBERS], header)


def _labels(values):
    return _lines([(a, b, values[a % len(values)]) for a, b, _ in NUMBERS], "a,b,y")


WITH_GAPS = _lines([(a, "" if a in (3, 9) else b, y / 2) for a, b, y in NUMBERS], "a,b,y")

# (name, content of the file, words, what its two streams say)
TAKEN = {
    "text labels": ("rows.csv", _kinds(), (), "classification, since the target, column 3 (\"kind\"), holds text"),
    "no header": ("rows.csv", _kinds(header=""), (), "features, 2 classes: fern, moss"),
    "header named": ("rows.csv", _lines(NUMBERS, "1,2,3"), ("--header", "--task", "regression"), "32 rows to train"),
    "tabs": ("rows.tsv", _lines(NUMBERS, "a\tb\ty", "\t"), ("--task", "regression"), "test RMSE of y"),
    "semicolons": ("rows.csv", _lines(NUMBERS, "a;b;y", ";"), ("--task", "regression"), "test RMSE of y"),
    "bars": ("rows.csv", _lines(NUMBERS, "a|b|y", "|"), ("--delimiter", "|", "--task", "regression"), "RMSE of y"),
    "compressed": ("rows.csv.gz", _kinds(), (), "2 classes: fern, moss"),
    "target by name": ("rows.csv", _lines(NUMBERS, "a,b,y"), ("--target", "b", "--task", "regression"), "RMSE of b"),
    "target by number": (
        "rows.csv", _kinds(), ("--target", "1", "--drop", "kind", "--task", "regression"), "RMSE of a"
    ),
    "two targets": ("rows.csv", _lines(NUMBERS, "a,b,y"), ("--target", "b", "--target", "y"), "regression"),
    "rows with gaps left out": ("rows.csv", WITH_GAPS, ("--missing", "drop"), "30 rows to train, 8 held out"),
    "gaps filled": ("rows.csv", WITH_GAPS, ("--missing", "mean"), "32 rows to train"),
    "as they are": ("rows.csv", _kinds(), ("--no-scale", "--drop", "b"), "1 features"),
    "another loss": ("rows.csv", WITH_GAPS, ("--missing", "mean", "--loss", "huber:threshold=0.5"), "2 epochs: loss"),
    "optimizer and schedule": (
        "rows.csv", _kinds(), ("--optimizer", "adamw:weight_decay=0.01", "--schedule", "warmup_cosine"), "test accuracy"
    ),
    "minus and plus one": ("rows.csv", _labels([-1, 1]), ("--task", "classification"), "2 classes: -1, 1"),
    "huge labels": ("rows.csv", _labels([10**9, 7]), ("--task", "classification"), "2 classes: 7, 1000000000"),
}  # fmt: skip

REFUSED = {
    "gaps": ("rows.csv", WITH_GAPS, (), r'line 5.*column 2 \("b"\).*--missing drop or .*--missing mean'),
    "minus and plus one": ("rows.csv", _labels([-1, 1]), (), "classes or values.*--task classification or"),
    "huge labels": ("rows.csv", _labels([10**9, 7]), (), "classes or values.*--task classification or"),
    "one class": ("rows.csv", _labels(["fern"]), (), "fern"),
    "no such column": ("rows.csv", _kinds(), ("--target", "kin"), "no column 'kin'.*'?kind"),
    "no such task": ("rows.csv", _kinds(), ("--task", "ranking"), "task must be classification or regression"),
    "no such remedy": ("rows.csv", WITH_GAPS, ("--missing", "zero"), "missing must be drop or mean, got 'zero'"),
    "a seed too large": ("rows.csv", _kinds(), ("--seed", str(2**32)), "less than or equal to 4294967295"),
    "a loss of another task": ("rows.csv", _kinds(), ("--loss", "huber"), "huber is for regression"),
    "no such loss": ("rows.csv", _kinds(), ("--loss", "cross_entrop"), "Did you mean cross_entropy"),
    "no such optimizer": ("rows.csv", _kinds(), ("--optimizer", "adm"), "no optimizer 'adm'. Did you mean adam"),
    "no such schedule": ("rows.csv", _kinds(), ("--schedule", "cosin"), "no schedule 'cosin'. Did you mean cosine"),
    "a network of another width": ("rows.csv", _kinds(), ("--network", "dense:5"), "End it with dense:2"),
    "an empty file": ("rows.csv", "", (), "holds no rows"),
    "no table": ("rows.csv", "\x00\x01\x02" * 50, (), "rows.csv is not text. Give a .csv"),
}


def _written(path, content):
    path.write_bytes(gzip.compress(content.encode()) if path.suffix == ".gz" else content.encode())


@pytest.mark.slow
@pytest.mark.parametrize("case", TAKEN)
def test_a_file_is_trained_on(case, start, tmp_path):
    name, content, words, said = TAKEN[case]
    _written(tmp_path / name, content)
    process = start(sys.executable, "-m", "jaxbias", "train", name, *words, *BRIEFLY)
    out, err = process.communicate(timeout=180)
    assert process.returncode == 0 and re.match("2 epochs: loss ", out), err
    assert said in out + err


@pytest.mark.slow
@pytest.mark.parametrize("case", REFUSED)
def test_a_file_is_refused_in_one_line(case, start, tmp_path):
    name, content, words, match = REFUSED[case]
    _written(tmp_path / name, content)
    process = start(sys.executable, "-m", "jaxbias", "train", name, *words)
    out, err = process.communicate(timeout=180)
    assert process.returncode == 2 and out == ""
    assert re.fullmatch("jaxbias: .+\n", err) and re.search(match, err), err


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="a terminal of a test is a Unix matter")
def test_progress_keeps_to_the_terminal(terminal, blobs):
    """Bar, count and time stay whole on every line that is drawn; the note has what is left."""
    status, said = terminal(sys.executable, "-m", "jaxbias", "train", blobs, "--epochs", "40", "--no-cache", columns=80)
    drawn = [line for line in re.split(r"[\r\n]+", re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", said)) if "━" in line]
    assert status == 0 and drawn and all(len(line) <= 80 for line in drawn)
    assert all(re.search(r"━{8,} +\d+/40 \d+:\d\d:\d\d", line) for line in drawn)
    assert "40/40" in drawn[-1] and "accuracy" in drawn[-1]

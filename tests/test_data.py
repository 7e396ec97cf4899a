import csv
import doctest
import gzip
import io
import re

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jaxbias import data
from jaxbias.data import _load, _table, _text


def test_digits_are_fixed_scaled_and_split_without_overlap():
    flat, images, sequences = (data.digits(form=form) for form in ("flat", "image", "sequence"))
    assert flat.x_train.shape == (1437, 64) and flat.x_test.shape == (360, 64) and flat.classes == 10
    assert images.x_train.shape == (1437, 8, 8, 1) and np.array_equal(images.x_train.reshape(-1, 64), flat.x_train)
    assert sequences.x_test.shape == (360, 8, 8) and np.array_equal(sequences.x_test.reshape(-1, 64), flat.x_test)
    assert flat.x_train.dtype == np.float32 and flat.y_train.dtype == np.int32
    assert flat.x_train.min() == 0 and flat.x_train.max() == 1
    assert set(flat.y_test) == set(range(10))
    rows = {row.tobytes() for row in flat.x_train}
    assert sum(row.tobytes() in rows for row in flat.x_test) == 0
    # The split is part of every published figure: these rows stand where they stood.
    assert flat.y_test[:10].tolist() == data.digits().y_test[:10].tolist() == FIRST_TEST_LABELS


FIRST_TEST_LABELS = [7, 9, 4, 7, 0, 2, 6, 1, 3, 1]


def test_the_example_runs():
    assert doctest.testmod(_load).failed == 0 and doctest.testmod(_text).failed == 0


def in_order(rows):
    """x and y of all rows, sorted by the first feature."""
    x, y = np.concatenate([rows.x_train, rows.x_test]), np.concatenate([rows.y_train, rows.y_test])
    order = np.argsort(x[:, 0])
    return x[order], y[order]


# --- tables: one content, many files ----------------------------------------------------------------------------------

PLAIN = "a,b,kind\n1,0.5,0\n2,1.5,1\n3,-2.5,0\n4,1000.25,1\n5,0,0\n6,0.125,1\n"
GERMAN = "a;b;kind\n1;0,5;0\n2;1,5;1\n3;-2,5;0\n4;1.000,25;1\n5;0;0\n6;0,125;1\n"
ROWS = PLAIN.partition("\n")[2]
SAME = {
    "plain": PLAIN,
    "without names": ROWS,
    "windows": PLAIN.replace("\n", "\r\n"),
    "old mac": PLAIN.replace("\n", "\r"),
    "byte order mark": "\ufeff" + PLAIN,
    "no newline at the end": PLAIN.rstrip(),
    "blank lines": PLAIN.replace("\n", "\n\n"),
    "blanks": PLAIN.replace(",", " ,  "),
    "semicolons": PLAIN.replace(",", ";"),
    "bars": PLAIN.replace(",", "|"),
    "tabs": PLAIN.replace(",", "\t"),
    "columns by blanks": PLAIN.replace(",", "  "),
    "german": GERMAN,
    "german, by tabs": GERMAN.replace(";", "\t"),
    "german, without thousands": GERMAN.replace("1.000", "1000"),
    "sep line": "sep=;\n" + GERMAN,
    "title above": "Export of 2026, by me\n" + GERMAN,
    "rows of delimiters at the end": GERMAN + ";;\n;;\n",
    "delimiter after each row": PLAIN.replace("\n", ",\n"),
    "an empty column": re.sub(",", ",,", PLAIN),
    "quoted": re.sub(r"[^,\n]+", r'"\g<0>"', PLAIN),
    "quoted names over two lines": PLAIN.replace("a,b", '"a\n(cm)","b, or c"'),
    "pandas' row numbers": "\n".join(f"{i - 1 if i else ''},{line}" for i, line in enumerate(PLAIN.splitlines())),
    "names with a number": PLAIN.replace("a,b", "1,b"),
    "comment sign": "# " + PLAIN,
    "other writings": PLAIN.replace("1000.25", "1.00025E+3").replace("-2.5", "-2.50").replace("5,0,", "5,-0.0,"),
}
BYTES = {name: text.encode() for name, text in SAME.items()} | {
    "gzip": gzip.compress(PLAIN.encode()),
    "utf-16": GERMAN.replace("b", "größe").encode("utf-16"),
    "windows-1252": GERMAN.replace("b", "größe").encode("cp1252"),
}


@pytest.mark.parametrize("name", BYTES)
def test_tables(tmp_path, name):
    path = tmp_path / ("rows.csv.gz" if name == "gzip" else "rows.csv")
    path.write_bytes(BYTES[name])
    rows = data.load(path)
    x, y = in_order(rows)
    assert x.tolist() == [[1, 0.5], [2, 1.5], [3, -2.5], [4, 1000.25], [5, 0], [6, 0.125]]
    assert y.tolist() == [0, 1, 0, 1, 0, 1] and rows.labels == ("0", "1") and rows.task == "classification"
    assert rows.x_train.dtype == np.float32 and rows.y_train.dtype == np.int32 and len(rows.x_test) == 1
    assert (rows.features[1] == "2") == (name == "without names")


NOTED = [
    ("title above", "line 1 left out: it has 1 cells, the rows have 3"),
    ("german", "numbers have decimal commas"),
    ("windows-1252", "read as cp1252"),
    ("names with a number", r"line 1 taken for names \(1, b, kind\): column 2 is text there"),
    ("pandas' row numbers", "column 1 left out, since it only counts the rows"),
    ("an empty column", "column 2 left out, since it is empty"),
]


@pytest.mark.parametrize(("name", "note"), NOTED)
def test_what_is_taken_for_granted_is_said(tmp_path, name, note):
    (tmp_path / "a.csv").write_bytes(BYTES[name])
    assert [text for text in data.load(tmp_path / "a.csv").notes if re.match(note, text)]
    (tmp_path / "b.csv").write_text(PLAIN)
    assert not [text for text in data.load(tmp_path / "b.csv").notes if re.match(note, text)]


def test_a_first_line_of_text_that_recurs_below_is_a_row(tmp_path):
    (tmp_path / "a.csv").write_text(
        "\n".join(f"{'uv'[i % 2]},{'xyz'[i % 3]},{'no' if i % 2 else 'yes'}" for i in range(12))
    )
    rows = data.load(tmp_path / "a.csv")
    assert len(rows.x_train) + len(rows.x_test) == 12 and rows.features[:2] == ("1=u", "1=v")


def test_a_number_with_an_underscore_is_a_name(tmp_path):
    (tmp_path / "a.csv").write_text("a,y\n" + "\n".join(f"{i},{'1_1' if i % 2 else '1_2'}" for i in range(12)))
    assert data.load(tmp_path / "a.csv").labels == ("1_1", "1_2")


def test_cells_are_quoted_after_a_blank(tmp_path):
    (tmp_path / "a.csv").write_text("a, y\n" + "\n".join(f'{i}, "{"u, v" if i % 2 else "w"}"' for i in range(12)))
    assert data.load(tmp_path / "a.csv").labels == ("u, v", "w")


def test_the_blank_of_a_time_is_no_delimiter(tmp_path):
    lines = [f"2026-01-01 10:{i:02d},{i},{i % 2}" for i in range(12)]
    (tmp_path / "a.csv").write_text("\n".join([*lines, "2026-01-01 11:00,1"]))
    with pytest.raises(ValueError, match=r"line 13: 2 cells, wanted 3 as in the first row .the delimiter is ','"):
        data.load(tmp_path / "a.csv")


def test_the_fast_reader_and_the_careful_one_agree(tmp_path, monkeypatch):
    (tmp_path / "a.csv").write_text(PLAIN)
    fast = data.load(tmp_path / "a.csv")
    monkeypatch.setattr(_table, "_all_numbers", lambda lines, layout: None)
    careful = data.load(tmp_path / "a.csv")
    assert all(np.array_equal(a, b) for a, b in zip(fast, careful))


def test_columns_are_typed_and_checked_beyond_the_first_chunk(tmp_path, monkeypatch):
    monkeypatch.setattr(_table, "_CHUNK_ROWS", 7)
    lines = [f"{i},{'uv'[i % 2]},{'' if i == 40 else i % 3}" for i in range(50)]
    (tmp_path / "a.csv").write_text("\n".join(lines))
    with pytest.raises(data.Question, match=r"line 41, column 3: the cell is empty"):
        data.load(tmp_path / "a.csv")
    x, y = in_order(data.load(tmp_path / "a.csv", missing="drop"))
    assert x[:, 0].tolist() == [i for i in range(50) if i != 40] and x[:, 1].tolist() == [1 - i % 2 for i in x[:, 0]]
    assert y.tolist() == [i % 3 for i in x[:, 0]]
    (tmp_path / "a.csv").write_text("\n".join(lines).replace("45,v,0", "45,v,zero"))
    with pytest.raises(data.Question, match=r"line 46, column 3: 'zero' is not a number"):
        data.load(tmp_path / "a.csv")


NUMBERS = st.floats(allow_nan=False, allow_infinity=False, width=32)
LABELS = st.text(st.characters(codec="utf-8", exclude_categories=("Cc", "Cs")), min_size=1).filter(
    lambda text: text == text.strip() and not _table.is_missing(text) and not _table.is_number(text)
)


@settings(max_examples=60, deadline=None, database=None)
@given(
    numbers=st.lists(st.tuples(NUMBERS, NUMBERS), min_size=5, max_size=9),
    labels=st.lists(LABELS, min_size=2, max_size=2, unique=True),
    delimiter=st.sampled_from(",;\t|"),
    newline=st.sampled_from(["\n", "\r\n"]),
    quoting=st.sampled_from([csv.QUOTE_MINIMAL, csv.QUOTE_ALL]),
)
def test_whatever_is_written_is_read(tmp_path_factory, numbers, labels, delimiter, newline, quoting):
    text = io.StringIO()
    writer = csv.writer(text, delimiter=delimiter, lineterminator=newline, quoting=quoting)
    writer.writerow(["no", "u", "v", "kind"])
    writer.writerows([i, *map(repr, pair), labels[i % 2]] for i, pair in enumerate(numbers))
    path = tmp_path_factory.mktemp("written") / "a.csv"
    path.write_text(text.getvalue(), encoding="utf-8", newline="")
    rows = data.load(path, delimiter=delimiter, task="classification")
    x, y = in_order(rows)
    assert np.array_equal(x[:, 1:], np.array(numbers, np.float32))
    assert [rows.labels[k] for k in y] == [labels[i % 2] for i in range(len(numbers))]


# --- classes or values ------------------------------------------------------------------------------------------------


def column(*values, times=1):
    return np.array(values * times)


CLEAR = [
    # targets, classes (None for values), labels
    (column(0, 1, 2, times=4), 3, ("0", "1", "2")),
    (column(1, 2, 3, times=4), 3, ("1", "2", "3")),
    (column(0.0, 1.0, times=5), 2, ("0", "1")),
    (column("b", "a", times=5), 2, ("a", "b")),
    (column(b"b", b"a", times=5), 2, ("a", "b")),
    (column(True, False, times=5), 2, ("False", "True")),
    (np.arange(40) % 20, 20, tuple(map(str, range(20)))),
    (column(0.5, 1.0, times=5), None, ()),
    (np.arange(442) % 214 * 3 + 25, None, ()),
    (column(7, 1000000000, 12, 15, 900, 13, 40, 41, 42), None, ()),
    (np.eye(3)[np.arange(12) % 3], 3, ("0", "1", "2")),
    (np.ones((12, 2)) * np.arange(12)[:, None], None, ()),
    ((np.arange(12) % 3)[:, None], 3, ("0", "1", "2")),
]


@pytest.mark.parametrize(("y", "classes", "labels"), CLEAR)
def test_clear_targets(tmp_path, y, classes, labels):
    x = np.arange(len(y))[:, None]
    np.savez(tmp_path / "a.npz", x=x, y=y)
    rows = data.load(tmp_path / "a.npz")
    assert rows.classes == classes and rows.labels == labels
    read = in_order(rows)[1]
    if classes is None:
        assert read.dtype == np.float32 and np.array_equal(read, y.reshape(len(y), -1).astype(np.float32))
    elif y.ndim == 2 and y.shape[1] > 1:
        assert np.array_equal(np.eye(classes)[read], y)
    else:
        texts = [value.decode() if isinstance(value, bytes) else str(value) for value in y.ravel().tolist()]
        assert [rows.labels[k] for k in read] == [text.removesuffix(".0") for text in texts]
    assert f"{rows.task}, since" in rows.notes[0]


UNCLEAR = [
    (column(-1, 1, times=6), r"y holds 2 different whole numbers \(-1, 1\) in 12 rows: are they classes or values\?"),
    (column(-1, 0, 1, times=6), "3 different whole numbers"),
    (column(3, 4, 5, 6, times=6), r"4 different whole numbers \(3, 4, 5, … 6\)"),
    (column(0, 1000000000, times=6), r"2 different whole numbers \(0, 1000000000\)"),
    (np.arange(100) % 25, "25 different whole numbers"),
    (np.arange(10), "10 different whole numbers"),
]


@pytest.mark.parametrize(("y", "match"), UNCLEAR)
def test_unclear_targets_are_asked_about(tmp_path, y, match):
    np.savez(tmp_path / "a.npz", x=np.arange(len(y))[:, None], y=y)
    with pytest.raises(data.Question, match=match) as asked:
        data.load(tmp_path / "a.npz")
    assert "load(..., task='classification') or load(..., task='regression')" in str(asked.value)
    assert asked.value.answers == [{"task": "classification"}, {"task": "regression"}]
    as_classes = data.load(tmp_path / "a.npz", task="classification")
    assert [int(as_classes.labels[k]) for k in in_order(as_classes)[1]] == y.tolist()
    as_values = data.load(tmp_path / "a.npz", task="regression")
    assert as_values.classes is None and in_order(as_values)[1].ravel().tolist() == y.tolist()
    assert as_values.notes[0] == "regression, as asked for"


TABLE = "id,city,size,sold,price\n" + "\n".join(
    f"{i},{['Rome', 'Oslo', 'Bern'][i % 3]},{i * 10},{'yes' if i % 4 else 'no'},{i * 1.5 + 1}" for i in range(20)
)


def test_the_target_is_named_or_numbered(tmp_path):
    (tmp_path / "a.csv").write_text(TABLE)
    rows = data.load(tmp_path / "a.csv")
    assert rows.targets == ("price",) and rows.task == "regression" and rows.y_train.shape == (16, 1)
    assert rows.features == ("id", "city=Bern", "city=Oslo", "city=Rome", "size", "sold=no", "sold=yes")
    x, _ = in_order(rows)
    assert x[:4, 1:4].tolist() == [[0, 0, 1], [0, 1, 0], [1, 0, 0], [0, 0, 1]]
    for target in "sold", 4, "4", -2, ["sold"]:
        rows = data.load(tmp_path / "a.csv", target=target, drop=["id"])
        assert rows.targets == ("sold",) and rows.labels == ("no", "yes") and rows.features[0] == "city=Bern"
    rows = data.load(tmp_path / "a.csv", target=["price", 3])
    assert rows.targets == ("size", "price") and rows.y_train.shape == (16, 2) and rows.task == "regression"


def test_one_hot_columns_are_classes(tmp_path):
    (tmp_path / "a.csv").write_text("x,cat,dog\n" + "\n".join(f"{i},{i % 2},{1 - i % 2}" for i in range(10)))
    rows = data.load(tmp_path / "a.csv", target=["cat", "dog"])
    assert rows.labels == ("cat", "dog") and in_order(rows)[1].tolist() == [1 - i % 2 for i in range(10)]


def test_labels_that_are_mostly_numbers(tmp_path):
    (tmp_path / "a.csv").write_text("x,grade\n" + "\n".join(f"{i},{['1', '2', '3a'][i % 3]}" for i in range(12)))
    with pytest.raises(data.Question, match=r"line 4, column 2 \(\"grade\"\): '3a' is not a number.*labels\?.*task="):
        data.load(tmp_path / "a.csv")
    assert data.load(tmp_path / "a.csv", task="classification").labels == ("1", "2", "3a")
    (tmp_path / "b.csv").write_text("x,grade\n" + "\n".join(f"{i},{['9', '10', '10.0'][i % 3]}" for i in range(12)))
    assert data.load(tmp_path / "b.csv", task="classification").labels == ("9", "10")


# --- missing values ---------------------------------------------------------------------------------------------------

WITH_GAPS = "a,b,y\n" + "\n".join(f"{i},{'NA' if i in (3, 5) else i * i},{'?' if i == 7 else i / 8}" for i in range(12))


def test_missing_values_are_asked_about(tmp_path):
    (tmp_path / "a.csv").write_text(WITH_GAPS)
    match = r"line 5, column 2 \(\"b\"\): the cell holds 'NA'. 3 of 12 rows have such a gap"
    with pytest.raises(data.Question, match=match) as asked:
        data.load(tmp_path / "a.csv")
    assert asked.value.answers == [{"missing": "drop"}, {"missing": "mean"}]


@pytest.mark.parametrize("cell", ["", " ", "NA", "n/a", "NaN", "?", "null", "inf", "-Infinity", "1e999"])
def test_what_is_missing(tmp_path, cell):
    (tmp_path / "a.csv").write_text("a,y\n" + "\n".join(f"{cell if i == 3 else i},{i / 8}" for i in range(12)))
    with pytest.raises(data.Question, match="line 5, column 1"):
        data.load(tmp_path / "a.csv")
    rows = data.load(tmp_path / "a.csv", missing="drop")
    assert (
        len(rows.x_train) + len(rows.x_test) == 11 and "1 of 12 rows left out, since values are missing" in rows.notes
    )


def test_missing_values_become_the_mean_of_the_training_rows(tmp_path):
    (tmp_path / "a.csv").write_text(WITH_GAPS)
    rows = data.load(tmp_path / "a.csv", missing="mean")
    x, y = in_order(rows)
    assert x[:, 0].tolist() == [i for i in range(12) if i != 7] and y.ravel().tolist() == [i / 8 for i in x[:, 0]]
    known = [b for a, b in rows.x_train if a not in (3, 5)]
    assert x[3, 1] == x[5, 1] == np.float32(np.mean(known))
    assert set(x[:, 0]) - {a for a, _ in rows.x_train}, "a mean over all rows would pass else"
    assert "missing values in 2 rows replaced by the mean of the training rows" in rows.notes


def test_missing_text_becomes_the_shares_of_the_training_rows(tmp_path):
    (tmp_path / "a.csv").write_text(
        "a,c,y\n" + "\n".join(f"{i},{'' if i == 2 else 'uv'[i % 2]},{i / 8}" for i in range(12))
    )
    rows = data.load(tmp_path / "a.csv", missing="mean")
    shares = np.mean([row[1:] for row in rows.x_train if row[0] != 2], axis=0)
    assert np.allclose(in_order(rows)[0][2, 1:], shares, rtol=1e-6) and 0 < shares[0] < 1


def test_missing_values_of_arrays(tmp_path):
    x, y = np.arange(40.0).reshape(20, 2), np.arange(20) / 8
    x[4, 1] = np.nan
    np.savez(tmp_path / "a.npz", x=x, y=y, x_test=np.full((2, 2), np.inf), y_test=np.ones(2))
    with pytest.raises(data.Question, match=r"x\[4, 1\] is missing or not finite. 3 of 22 rows"):
        data.load(tmp_path / "a.npz")
    rows = data.load(tmp_path / "a.npz", missing="mean")
    mean = np.nanmean(x, axis=0).astype(np.float32)
    assert rows.x_train[4].tolist() == [8, mean[1]] and rows.x_test.tolist() == [mean.tolist()] * 2
    with pytest.raises(ValueError, match="no row is left"):
        data.load(tmp_path / "a.npz", missing="drop")


# --- scale ------------------------------------------------------------------------------------------------------------


def test_scaling_is_by_the_training_rows(tmp_path):
    lines = [f"{i},{1e6 + i * i},0.1,{'uv'[i % 2]},{1000 + i / 8}" for i in range(20)]
    (tmp_path / "a.csv").write_text("a,b,c,d,y\n" + "\n".join(lines))
    plain, rows = data.load(tmp_path / "a.csv"), data.load(tmp_path / "a.csv", scale=True)
    assert plain.x_scaling is None and plain.y_scaling is None
    assert np.abs(rows.x_train[:, :2].mean(axis=0)).max() < 1e-6 and np.allclose(rows.x_train[:, :2].std(axis=0), 1)
    assert np.abs(rows.x_test[:, :2].mean(axis=0)).max() > 0.01
    assert not rows.x_train[:, 2].any() and not rows.x_test[:, 2].any()  # constant
    assert np.array_equal(rows.x_train[:, 3:], plain.x_train[:, 3:])  # of text: 0 and 1
    for name in "x_train", "x_test", "y_train", "y_test":
        mean, std = getattr(rows, name[0] + "_scaling")
        error = np.abs(getattr(rows, name) * std + mean - getattr(plain, name))
        assert (error <= np.finfo(np.float32).eps * (np.abs(getattr(plain, name)) + 2 * std)).all()
    assert "features and targets standardised by the training rows; 1 features are constant" in rows.notes
    (tmp_path / "b.csv").write_text(PLAIN)
    classes = data.load(tmp_path / "b.csv", scale=True)
    assert classes.y_scaling is None and classes.y_train.dtype == np.int32


def test_images_are_scaled_pixel_by_pixel(tmp_path):
    images = np.random.default_rng(0).integers(0, 256, size=(20, 4, 4, 3)).astype(np.uint8)
    images[:, 0, 0] = 7
    np.savez(tmp_path / "a.npz", x=images, y=np.arange(20) % 2)
    rows = data.load(tmp_path / "a.npz", scale=True)
    assert rows.x_train.shape == (16, 4, 4, 3) and not rows.x_train[:, 0, 0].any()
    assert np.allclose(rows.x_train[:, 1:].std(axis=0), 1, atol=1e-5)


# --- arrays -----------------------------------------------------------------------------------------------------------


def test_npz_with_and_without_test_rows(tmp_path):
    x, y = np.random.default_rng(0).normal(size=(20, 3)), np.arange(20) % 4
    np.savez(tmp_path / "a.npz", x=x, y=y)
    found = data.load(tmp_path / "a.npz")
    assert found.x_train.shape == (16, 3) and found.x_test.shape == (4, 3) and found.classes == 4
    together = np.concatenate([found.x_train, found.x_test])
    assert np.array_equal(np.sort(together[:, 0]), np.sort(x[:, 0].astype(np.float32)))
    for row, label in zip(together, np.concatenate([found.y_train, found.y_test])):  # rows kept their labels
        assert y[np.flatnonzero(x[:, 0].astype(np.float32) == row[0])[0]] == label
    np.savez(tmp_path / "b.npz", x=x[:15], y=y[:15] + 0.5, x_test=x[15:], y_test=y[15:] + 0.5)
    found = data.load(tmp_path / "b.npz")
    assert found.classes is None and found.y_test.shape == (5, 1) and found.y_test.dtype == np.float32
    assert np.array_equal(found.x_train, x[:15].astype(np.float32))


# --- refused ----------------------------------------------------------------------------------------------------------

ROW = "1,2,0\n2,3,1\n" * 5
NAMES = "\n".join(f"{i},name{i},{i % 2}" for i in range(50))
BAD_TABLES = [
    # text, options, exception, message
    ("", {}, ValueError, "holds no rows"),
    ("a,b\n", {}, ValueError, "holds no rows"),
    ("1\n2\n", {}, ValueError, "has 1 column, wanted features and"),
    ("1,2\n3,4,5\n", {}, ValueError, "line 2: 3 cells, wanted 2"),
    (ROW + "1,2\n" + ROW, {}, ValueError, "line 11: 2 cells, wanted 3 as in the first row"),
    ("1,2\n", {}, ValueError, "has 1 rows, too few to hold out 20%"),
    ("1;2;0\n" * 5 + "1,5;2.25;1\n" * 5, {}, data.Question, r"line 6, column 2: '2.25' is not a number"),
    ("1,2\n3,4\nx,5\n", {}, data.Question, r"line 3, column 1: 'x' is not a number.*load\(..., drop=\[1\]\)"),
    ("a,a,y\n" + ROW, {"target": "a"}, ValueError, r"has 2 columns 'a'. Name one by its number: \[1, 2\]"),
    ("a,b,y\n" + ROW, {"target": "c"}, ValueError, "has no column 'c'. Its 3 columns: a, b, y"),
    ("a,b,y\n" + ROW, {"target": 4}, ValueError, "has no column 4"),
    ("a,b,y\n" + ROW, {"target": 0}, ValueError, "has no column 0"),
    ("a,b,y\n" + ROW, {"drop": ["a", "b"]}, ValueError, r'what is not left out is column 3 \("y"\)'),
    ("a,b,y\n" + ROW, {"drop": ["y"], "target": "y"}, ValueError, "what is not left out is column 1"),
    ("a,b,y\n" + ROW, {"task": "guess"}, ValueError, "task must be classification or regression, got 'guess'"),
    ("a,b,y\n" + ROW, {"missing": "zero"}, ValueError, "missing must be drop or mean, got 'zero'"),
    ("a,b,y\n" + ROW, {"delimiter": ", "}, ValueError, "delimiter must be one character"),
    ("a,b,y\n" + ROW, {"test_share": 1.0}, ValueError, "test_share must lie between 0 and 1"),
    ("1,2,a\n" * 10, {}, data.Question, "holds a in every row.*Which column is the target"),
    ("1,2,5\n" * 10, {"task": "regression"}, data.Question, "holds 5.0 in every row"),
    (NAMES, {}, data.Question, r"column 2 holds 50 different texts, such as 'name0', too many.*drop=\[2\]"),
    ("a;0,5\nb;2,5\nc;3,5\nd;4,5\ne;5,5\n", {}, data.Question, "column 1 holds 5 different texts, such as 'a'"),
    (
        NAMES,
        {"target": 2},
        data.Question,
        r"50 different texts, such as 'name0', in 50 rows.*task='classification'.*target='COLUMN'",
    ),
    (NAMES, {"target": 2, "task": "regression"}, ValueError, r"line 1, column 2: the target 'name0' is not a number"),
    (NAMES, {"target": [2, 3]}, ValueError, r"line 1, column 2: the target 'name0' is not a number"),
    (ROW, {"target": [2, 3], "task": "classification"}, ValueError, "has 2 values per row. Classes are one column"),
    ("1,2,0\n" * 5 + "1e300,2,1\n" * 5, {}, ValueError, r"holds 1e\+300, too large for float32"),
    ("1,2\0,0\n" * 5, {}, ValueError, "is not text. Give a .csv"),
]


@pytest.mark.parametrize(("text", "options", "exception", "match"), BAD_TABLES)
def test_bad_tables(tmp_path, text, options, exception, match):
    (tmp_path / "a.csv").write_text(text)
    with pytest.raises(ValueError, match=match) as refused:
        data.load(tmp_path / "a.csv", **options)
    assert type(refused.value) is exception and "\n" not in str(refused.value)


BAD_NPZ = [
    ({"a": np.ones((3, 2))}, "must hold the arrays x and y, it holds a"),
    ({"x": np.ones((3, 2)), "y": np.ones(4)}, r"3 rows of x but 4 of y \(shapes"),
    ({"x": np.ones(3), "y": np.ones(3)}, r"x has shape \(3,\), wanted \(rows, features\)"),
    ({"x": np.ones((0, 3)), "y": np.ones(0)}, "with at least one row"),
    ({"x": np.array([["a"]]), "y": np.ones(1)}, "x must hold real numbers, got dtype <U1"),
    ({"x": np.ones((3, 2)), "y": np.ones(3) * 1j}, "y must hold real numbers or text, got dtype complex128"),
    ({"x": np.ones((3, 2)), "y": np.array([["a"] * 2] * 3)}, "text must be one label per row"),
    ({"x": np.ones((3, 2)), "y": np.array([1, "a", None])}, r"Save text with np.array\(labels, dtype=str\)"),
    ({"x": np.full((3, 2), np.inf), "y": np.ones(3)}, r"x\[0, 0\] is missing or not finite. 3 of 3 rows"),
    ({"x": np.ones((9, 2)), "y": np.ones(9)}, "y holds 1.0 in every row"),
    ({"x": np.ones((3, 2)), "y": np.ones(3), "x_test": np.ones((1, 2))}, "must hold both of x_test and y_test"),
    (
        {"x": np.ones((3, 2)), "y": np.ones(3), "x_test": np.ones((1, 4)), "y_test": np.ones(1)},
        r"x has rows of shape \(2,\) but x_test \(4,\)",
    ),
    (
        {"x": np.ones((3, 2)), "y": np.array(["a"] * 3), "x_test": np.ones((1, 2)), "y_test": np.ones(1)},
        "y has rows of .* but y_test .*<U1 and float64",
    ),
]


@pytest.mark.parametrize(("arrays", "match"), BAD_NPZ)
def test_bad_npz_arrays(tmp_path, arrays, match):
    np.savez(tmp_path / "a.npz", **arrays)
    with pytest.raises(ValueError, match=match):
        data.load(tmp_path / "a.npz")


def test_a_file_that_is_no_npz(tmp_path):
    np.savez(tmp_path / "whole.npz", x=np.ones((20, 2)), y=np.arange(20) % 2)
    whole = (tmp_path / "whole.npz").read_bytes()
    (tmp_path / "cut.npz").write_bytes(whole[: len(whole) // 2])
    (tmp_path / "empty.npz").write_bytes(b"")
    (tmp_path / "text.npz").write_text("a,b\n1,2\n")
    (tmp_path / "damaged.npz").write_bytes(whole.replace(b"\x3f" * 1, b"\x41"))
    np.save(tmp_path / "one.npy", np.ones((20, 2)))
    (tmp_path / "one.npz").write_bytes((tmp_path / "one.npy").read_bytes())
    for name in ("cut", "empty", "text", "damaged", "one"):
        with pytest.raises(ValueError, match=f"{name}.npz cannot be read as .npz"):
            data.load(tmp_path / f"{name}.npz")


def test_files_that_are_not_there_or_not_ours(tmp_path):
    with pytest.raises(ValueError, match=r"there is no file .*a\.npz\. Give digits, text, or the path"):
        data.load(tmp_path / "a.npz")
    (tmp_path / "a.xlsx").touch()
    with pytest.raises(ValueError, match=r"has suffix '\.xlsx', wanted \.npz, or a table: \.csv"):
        data.load(tmp_path / "a.xlsx")
    (tmp_path / "b.npz").write_text("not a zip")
    with pytest.raises(ValueError, match=r"b\.npz cannot be read as \.npz"):
        data.load(tmp_path / "b.npz")
    (tmp_path / "c.csv.gz").write_bytes(gzip.compress(PLAIN.encode() * 100)[:-20])
    with pytest.raises(ValueError, match=r"c\.csv\.gz cannot be read as text"):
        data.load(tmp_path / "c.csv.gz")
    (tmp_path / "d.csv").write_bytes(bytes(range(1, 256)) * 3)
    with pytest.raises(ValueError, match=r"d\.csv is not text"):
        data.load(tmp_path / "d.csv")
    np.savez(tmp_path / "e.npz", x=np.ones((3, 2)), y=np.ones(3))
    with pytest.raises(ValueError, match="has no columns to name"):
        data.load(tmp_path / "e.npz", target="y")


# --- text -------------------------------------------------------------------------------------------------------------


@pytest.fixture
def folder(tmp_path):
    """Twelve files, two of them in a folder, and what is no text."""
    (tmp_path / "more").mkdir()
    for i in range(12):
        name = f"more/{i}.py" if i < 2 else f"{i}.py"
        (tmp_path / name).write_text(f"{chr(97 + i)}" * (100 if i == 5 else 400), encoding="utf-8")
    (tmp_path / "picture.png").write_bytes(b"\x89PNG\xff\xfe")
    (tmp_path / ".hidden").write_text("secret " * 500, encoding="utf-8")
    return tmp_path


def as_text(rows, x):
    return "".join(rows.labels[i] for i in x.reshape(-1))


def test_rows_of_text_are_the_text_and_the_next_characters(tmp_path):
    path = tmp_path / "a.txt"
    path.write_text("abcdefgh" * 50 + "z", encoding="utf-8")
    rows = data.text(path, context=7, test_share=0.25)
    assert rows.per_step and rows.task == "classification" and rows.classes == 9
    assert (rows.x_train.dtype, rows.y_train.dtype) == (np.int32, np.int32)
    assert as_text(rows, rows.x_train) == ("abcdefgh" * 50)[: rows.x_train.size]
    assert as_text(rows, rows.y_train) == ("abcdefgh" * 50)[1 : rows.y_train.size + 1]
    assert rows.labels == (*"abcdefgh", "\ufffd")
    assert as_text(rows, rows.y_test).endswith("h") or as_text(rows, rows.y_test).endswith("\ufffd")  # z is rare
    assert rows.notes[0] == "held out: the end of the text"


def test_whole_files_are_held_out_and_of_long_ones_the_beginning_counts(folder):
    rows = data.text(folder, context=5, characters=2000, test_share=0.25)
    train, test = set(as_text(rows, rows.y_train)), set(as_text(rows, rows.x_test))
    assert not train & (test - {"\ufffd"})
    assert len(test) == 1 and rows.x_test.size == pytest.approx(500, abs=5)  # of 3 files no character is trained on
    counts = [as_text(rows, rows.x_train).count(letter) for letter in sorted(train)]
    assert len(counts) == 9 and max(counts) - min(c for c in counts if c > 100) <= 5 and sum(counts) <= 1500
    assert "left out: picture.png, no UTF-8 text" in rows.notes and not set("secrt ") & (train - set("abcdefghijkl"))
    again, other = (data.text(folder, context=5, test_share=0.25, seed=seed) for seed in (0, 1))
    assert again.notes[0] == rows.notes[0] != other.notes[0]


def test_the_standard_library_is_text():
    rows = data.text(context=50, characters=20000)
    assert rows.x_train.size == 17950 and "import" in as_text(rows, rows.x_train)
    assert len(re.findall(r"\w+\.py", rows.notes[0])) >= 5


BAD_TEXT = [
    ({"path": "nowhere"}, "there is no file or directory nowhere"),
    ({"context": 0}, "context must be a whole number, at least 1, got 0"),
    ({"characters": -1}, "characters must be a whole number, at least 1, got -1"),
    ({"test_share": 1.0}, "test_share must lie between 0 and 1, got 1.0"),
    (
        {"context": 400, "characters": 2000},
        "gives 1800 characters to train on and 200 held out, too few for a row of 400",
    ),
]


@pytest.mark.parametrize(("options", "match"), BAD_TEXT, ids=str)
def test_bad_text(folder, options, match):
    with pytest.raises(ValueError, match=match):
        data.text(**({"path": folder} | options))


def test_a_folder_without_text_is_none(tmp_path):
    with pytest.raises(ValueError, match=r"holds no text\. Name a file"):
        data.text(tmp_path)
    (tmp_path / "a.bin").write_bytes(b"\xff\xfe\xfa")
    with pytest.raises(ValueError, match="holds no text in UTF-8"):
        data.text(tmp_path)

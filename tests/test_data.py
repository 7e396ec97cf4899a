import numpy as np
import pytest

from jaxbias import data


def test_digits_are_fixed_scaled_and_split_without_overlap():
    flat, images = data.digits(), data.digits(images=True)
    assert flat.x_train.shape == (1437, 64) and flat.x_test.shape == (360, 64) and flat.classes == 10
    assert images.x_train.shape == (1437, 8, 8, 1) and np.array_equal(images.x_train.reshape(-1, 64), flat.x_train)
    assert flat.x_train.dtype == np.float32 and flat.y_train.dtype == np.int32
    assert flat.x_train.min() == 0 and flat.x_train.max() == 1
    assert set(flat.y_test) == set(range(10))
    rows = {row.tobytes() for row in flat.x_train}
    assert sum(row.tobytes() in rows for row in flat.x_test) == 0
    # The split is part of every published figure: these rows stand where they stood.
    assert flat.y_test[:10].tolist() == data.digits().y_test[:10].tolist() == FIRST_TEST_LABELS


FIRST_TEST_LABELS = [7, 9, 4, 7, 0, 2, 6, 1, 3, 1]


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


@pytest.mark.parametrize("header", ["", "height,width,kind\n", "\ufeffheight,width,kind\n"])
def test_csv(tmp_path, header):
    (tmp_path / "a.csv").write_text(header + "1,2,0\n3,4,1\n\n5,6,2\n7,8.5,1\n9,1e1,0\n", encoding="utf-8")
    found = data.load(tmp_path / "a.csv")
    assert found.x_train.shape == (4, 2) and found.x_test.shape == (1, 2) and found.classes == 3
    assert sorted(np.concatenate([found.x_train, found.x_test])[:, 1]) == [2, 4, 6, 8.5, 10]


BAD_CSV = [
    ("", "holds no rows"),
    ("a,b\n", "holds no rows"),
    ("1\n2\n", "has 1 column, wanted features and"),
    ("1,2\n3,4,5\n", "line 2: 3 cells, wanted 2"),
    ("1,2\n3,x\n", "line 2, column 2: 'x' is not a number"),
    ("1,2\nnan,4\n", "x holds 1 values that are NaN or infinite, the first in row 1"),
    ("1,2\n", "has 1 rows, too few to hold out 20%"),
]


@pytest.mark.parametrize(("text", "match"), BAD_CSV)
def test_bad_csv(tmp_path, text, match):
    (tmp_path / "a.csv").write_text(text)
    with pytest.raises(ValueError, match=match):
        data.load(tmp_path / "a.csv")


BAD_NPZ = [
    ({"a": np.ones((3, 2))}, "must hold the arrays x and y, it holds a"),
    ({"x": np.ones((3, 2)), "y": np.ones(4)}, r"3 rows of x but 4 of y \(shapes"),
    ({"x": np.ones(3), "y": np.ones(3)}, r"x has shape \(3,\), wanted \(rows, features\)"),
    ({"x": np.ones((0, 3)), "y": np.ones(0)}, "with at least one row"),
    ({"x": np.array([["a"]]), "y": np.ones(1)}, "x must hold real numbers, got dtype <U1"),
    ({"x": np.full((3, 2), np.inf), "y": np.ones(3)}, "x holds 6 values that are NaN or infinite"),
    ({"x": np.ones((3, 2)), "y": np.ones(3), "x_test": np.ones((1, 2))}, "must hold both of x_test and y_test"),
    (
        {"x": np.ones((3, 2)), "y": np.ones(3), "x_test": np.ones((1, 4)), "y_test": np.ones(1)},
        r"x has rows of shape \(2,\) but x_test \(4,\)",
    ),
]


@pytest.mark.parametrize(("arrays", "match"), BAD_NPZ)
def test_bad_npz(tmp_path, arrays, match):
    np.savez(tmp_path / "a.npz", **arrays)
    with pytest.raises(ValueError, match=match):
        data.load(tmp_path / "a.npz")


def test_files_that_are_not_there_or_not_ours(tmp_path):
    with pytest.raises(ValueError, match=r"there is no file .*a\.npz\. Give digits, or the path"):
        data.load(tmp_path / "a.npz")
    (tmp_path / "a.txt").touch()
    with pytest.raises(ValueError, match=r"has suffix '\.txt', wanted \.npz or \.csv"):
        data.load(tmp_path / "a.txt")
    (tmp_path / "b.npz").write_text("not a zip")
    with pytest.raises(ValueError, match=r"b\.npz cannot be read as \.npz"):
        data.load(tmp_path / "b.npz")

"""Arrays of an uncompressed .npz, mapped where they lie in it."""

import numpy as np
import pytest

import jaxbias as jb


def test_arrays_of_an_npz_are_mapped_and_equal_what_was_saved(tmp_path):
    generator = np.random.default_rng(0)
    saved = {
        "x": generator.normal(size=(5, 3, 2)).astype(np.float32),
        "y": generator.integers(0, 9, 5),
        "columns": np.asfortranarray(generator.normal(size=(4, 3))),
        "one": np.array(2.5),
        "a name that is longer": generator.normal(size=7) > 0,
    }
    np.savez(tmp_path / "rows.npz", **saved)  # pyright: ignore[reportArgumentType]
    arrays = jb.data.mapped(tmp_path / "rows.npz")
    assert arrays.keys() == saved.keys()
    for name, wanted in saved.items():
        assert isinstance(arrays[name], np.memmap) and arrays[name].dtype == wanted.dtype
        np.testing.assert_array_equal(arrays[name], wanted)
    with pytest.raises(ValueError, match="read-only"):
        arrays["x"][0] = 0


def test_what_cannot_be_mapped_is_refused(tmp_path):
    np.savez_compressed(tmp_path / "small.npz", x=np.ones(3))
    np.savez(tmp_path / "objects.npz", x=np.array([None, 1], dtype=object))
    (tmp_path / "text.npz").write_text("x")
    for name, message in (("small", "compressed"), ("objects", "Python objects"), ("text", "no .npz file")):
        with pytest.raises(ValueError, match=message):
            jb.data.mapped(tmp_path / f"{name}.npz")

"""Arrays of a file that stay in it: read row by row when they are needed."""

import zipfile
from pathlib import Path

import numpy as np

_LOCAL_HEADER, _NAME_LENGTH_AT = 30, 26


def mapped(path: str | Path) -> dict[str, np.ndarray]:
    """The arrays of an `.npz` file by name, mapped into memory, for `jb.train.fit` on data larger than memory.

    Only for reading. `np.savez` writes such files; of a single `.npy`, `np.load(path, mmap_mode="r")` does the same.

    Args:
        path: of an `.npz` file that is not compressed.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: another kind of file, a compressed one, arrays of objects.

    Example:
        >>> import os, tempfile
        >>> import numpy as np
        >>> path = os.path.join(tempfile.mkdtemp(), "rows.npz")
        >>> np.savez(path, x=np.ones((4, 3)), y=np.arange(4))
        >>> arrays = mapped(path)
        >>> arrays["x"].shape, arrays["y"][2].item()
        ((4, 3), 2)
    """
    if not Path(path).is_file():
        raise FileNotFoundError(f"data: there is no file {path}. Write one with np.savez(path, x=x, y=y).")
    try:
        with zipfile.ZipFile(path) as file, open(path, "rb") as raw:
            return {Path(entry.filename).stem: _array(Path(path), raw, entry) for entry in file.infolist()}
    except zipfile.BadZipFile:
        raise ValueError(f"data: {path} is no .npz file. Write one with np.savez(path, x=x, y=y).") from None


def _array(path: Path, raw, entry: zipfile.ZipInfo) -> np.ndarray:
    if entry.compress_type != zipfile.ZIP_STORED:
        raise ValueError(f"data: {path} is compressed, so {entry.filename} cannot be mapped. Write it with np.savez.")
    raw.seek(entry.header_offset + _NAME_LENGTH_AT)  # the central directory may give other lengths than the entry
    lengths = raw.read(_LOCAL_HEADER - _NAME_LENGTH_AT)
    raw.seek(int.from_bytes(lengths[:2], "little") + int.from_bytes(lengths[2:], "little"), 1)
    version = np.lib.format.read_magic(raw)
    read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
    shape, fortran, dtype = read(raw)
    if dtype.hasobject:
        raise ValueError(f"data: {path}: {entry.filename} holds Python objects, which cannot be mapped.")
    return np.memmap(path, dtype, "r", raw.tell(), shape, "F" if fortran else "C")

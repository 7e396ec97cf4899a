"""Text as characters: rows of a fixed length, and for each of their characters the next one as its class."""

import sysconfig
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from jaxbias.data._rows import Data, shortened

RARE = 5
"""A character that the training text has less often is no class of its own."""
REPLACEMENT = "\ufffd"
"""What stands for every rare one."""


def text(
    path: str | Path | None = None,
    *,
    context: int = 64,
    characters: int = 1_000_000,
    test_share: float = 0.1,
    seed: int = 0,
) -> Data:
    """Rows of `context` characters, x[n, t], and the character after each, y[n, t]: what a language model learns.

    Whole files are held out, so that nothing of a held-out file is trained on; of a single file it is the end. Where
    there is more text than asked for, every file gives its beginning. The files of a split stand one after another, and
    so do its rows: `x_train.reshape(-1)` is the text again. Characters are numbered in the order of `Data.labels`, the
    last of which stands for all that are rare in the training text.

        >>> import pathlib, tempfile
        >>> path = pathlib.Path(tempfile.mkdtemp()) / "rhyme.txt"
        >>> _ = path.write_text("one two, buckle my shoe. " * 40)
        >>> rhyme = text(path, context=8)
        >>> rhyme.x_train.shape, rhyme.y_train.shape, rhyme.x_test.shape, rhyme.classes
        ((112, 8), (112, 8), (12, 8), 18)
        >>> "".join(rhyme.labels[i] for i in rhyme.x_train[0]), "".join(rhyme.labels[i] for i in rhyme.y_train[0])
        ('one two,', 'ne two, ')

    Args:
        path: of a text file, or of a directory, whose files are read as far as they are UTF-8; None for the top-level
            modules of Python's standard library, which differ from release to release.
        context: characters per row.
        characters: at most so many, training and held-out ones together.
        test_share: share of the files, and of the characters, held out.
        seed: of the order of the files.

    Raises:
        ValueError: no such path, no text in it, or too little of it for a row on both sides; a context, a number of
            characters or a share that is none.
    """
    for name, value in ("context", context), ("characters", characters):
        if isinstance(value, bool) or not isinstance(value, int) or value < 1:
            raise ValueError(f"data.text: {name} must be a whole number, at least 1, got {value!r}.")
    if not 0 < test_share < 1:
        raise ValueError(f"data.text: test_share must lie between 0 and 1, got {test_share}.")
    files, left_out = _files(path)
    total = min(characters, sum(map(len, files.values())))
    training, held_out, held_names = _split(files, total, test_share, seed)
    if min(len(training), len(held_out)) <= context:
        raise ValueError(
            f"data.text: {path or 'the standard library'} gives {len(training)} characters to train on and "
            f"{len(held_out)} held out, too few for a row of {context} and the next one. Take a longer text, or a "
            f"smaller context."
        )
    labels = _alphabet(training)
    x_train, y_train = _rows(training, labels, context)
    x_test, y_test = _rows(held_out, labels, context)
    rare = sum(character not in labels[:-1] for character in held_out)
    notes = [f"held out: {shortened(held_names, 5)}"] if held_names else ["held out: the end of the text"]
    notes += [f"left out: {shortened(left_out, 5)}, no UTF-8 text"] if left_out else []
    notes += [f"{rare} held-out characters are rare in the training text and count as one class"] if rare else []
    return Data("text", x_train, y_train, x_test, y_test, len(labels), labels, notes=tuple(notes))


def _files(path: str | Path | None) -> tuple[dict[str, str], list[str]]:
    """{name: text} of what can be read, and the names of the rest."""
    if path is None:
        folder = Path(sysconfig.get_paths()["stdlib"])
        candidates = sorted(folder.glob("*.py"))
    else:
        folder = Path(path)
        if not folder.exists():
            raise ValueError(f"data.text: there is no file or directory {folder}.")
        candidates = [folder] if folder.is_file() else sorted(_visible(folder))
    files, left_out = {}, []
    for file in candidates:
        name = file.relative_to(folder).as_posix() if file != folder else file.name
        try:
            files[name] = file.read_text(encoding="utf-8")
        except UnicodeDecodeError:
            left_out.append(name)
    if not any(files.values()):
        raise ValueError(
            f"data.text: {folder} holds no text{' in UTF-8' if left_out else ''}. Name a file or directory."
        )
    return files, left_out


def _visible(folder: Path) -> Iterator[Path]:
    for file in folder.rglob("*"):
        if file.is_file() and not any(part.startswith(".") for part in file.relative_to(folder).parts):
            yield file


def _split(files: dict[str, str], total: int, share: float, seed: int) -> tuple[str, str, list[str]]:
    """Text to train on, text held out, and the files that the latter is from; none where one file is cut in two."""
    for_test = round(total * share)
    if len(files) == 1:
        (whole,) = files.values()
        return whole[: total - for_test], whole[total - for_test : total], []
    names = list(files)
    order = [names[i] for i in np.random.RandomState(seed).permutation(len(names))]
    held_names = sorted(order[: min(max(1, round(len(order) * share)), len(order) - 1)])
    training = [text for name, text in files.items() if name not in held_names]
    return (
        _beginnings(training, total - for_test),
        _beginnings([files[name] for name in held_names], for_test),
        held_names,
    )


def _beginnings(texts: list[str], wanted: int) -> str:
    """Of all texts together `wanted` characters, or all there are: each cut to the same length unless it is shorter."""
    limit, left = 0, wanted
    for count, length in zip(range(len(texts), 0, -1), sorted(map(len, texts))):
        limit = -(-left // count)
        if length >= limit:
            break
        left -= length
    return "".join(text[:limit] for text in texts)[:wanted]


def _alphabet(training: str) -> tuple[str, ...]:
    counts = Counter(training)
    return (*sorted(c for c, count in counts.items() if count >= RARE and c != REPLACEMENT), REPLACEMENT)


def _rows(characters: str, labels: tuple[str, ...], context: int) -> tuple[np.ndarray, np.ndarray]:
    number = {label: i for i, label in enumerate(labels)}
    stream = np.array([number.get(character, len(labels) - 1) for character in characters], np.int32)
    count = (len(stream) - 1) // context
    return stream[: count * context].reshape(count, context), stream[1 : count * context + 1].reshape(count, context)

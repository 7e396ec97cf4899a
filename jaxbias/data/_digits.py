"""scikit-learn's embedded 8×8 digits."""

import numpy as np

from jaxbias.data._rows import Data, Form

DIGITS_TEST_ROWS = 360
_DIGIT_SHAPES: dict[Form, tuple[int, ...]] = {"flat": (64,), "image": (8, 8, 1), "sequence": (8, 8)}


def digits(*, form: Form = "flat") -> Data:
    """1437 training and 360 test rows of the 8×8 digits (UCI, 1998), in a fixed random split, scaled to [0, 1].

    Args:
        form: "flat" for rows of shape (64,), "image" for (8, 8, 1), "sequence" for (8, 8): the lines of the image from
            top to bottom, each with 8 features.

    Raises:
        ValueError: another form.
        ModuleNotFoundError: scikit-learn, which holds the data, is not installed.
    """
    if form not in _DIGIT_SHAPES:
        raise ValueError(f"data.digits: form must be {', '.join(_DIGIT_SHAPES)}, got {form!r}.")
    try:
        from sklearn.datasets import load_digits
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            "data.digits: the digits come with scikit-learn, which is not installed. Install jaxbias[cli]."
        ) from error
    x, y = load_digits(return_X_y=True)
    # RandomState, not default_rng: numpy promises that its stream never changes.
    order = np.random.RandomState(0).permutation(len(x))
    x = (x[order] / 16).astype(np.float32).reshape(-1, *_DIGIT_SHAPES[form])
    y = y[order].astype(np.int32)
    train, test = slice(-DIGITS_TEST_ROWS), slice(-DIGITS_TEST_ROWS, None)
    return Data("digits", x[train], y[train], x[test], y[test], 10, tuple("0123456789"))

"""Data sets: scikit-learn's embedded 8×8 digits, text as characters, and the user's own tables and arrays."""

from ._digits import digits as digits
from ._load import load as load
from ._mapped import mapped as mapped
from ._rows import Data as Data
from ._rows import Form as Form
from ._rows import Question as Question
from ._rows import Scaling as Scaling
from ._rows import shortened as shortened
from ._text import text as text

__all__ = ["Data", "Form", "Question", "Scaling", "digits", "load", "mapped", "shortened", "text"]

"""Check a gradient derivation against autodiff; knows no layer of this library."""

from ._errors import leaf_errors as leaf_errors
from ._errors import relative_errors as relative_errors

"""The backward pass of any function, written out.

reading   a traced forward as steps on expressions
rules     each primitive: its expression, and the error signals of its operands
backward  error signals from the outputs back to the arguments
derived   the code of both, checked
"""

from jaxbias._derive.derived import Derived, NotDerived, derive
from jaxbias._jaxpr.sources import hide_folder_of

__all__ = ["Derived", "NotDerived", "derive"]

hide_folder_of(__file__)

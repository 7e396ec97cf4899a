"""The backward pass of any function, written out.

reading   a traced forward as steps on expressions
sizes     which numbers of a trace are sizes of arguments
rules     each primitive: its expression, and the error signals of its operands; `elementwise`, `layout`, `reductions`
fused     library functions that a trace has taken apart
backward  error signals from the outputs back to the arguments
writing   the text of both, and the names of what has none
checking  both run, and judged
derived   the door: `derive`, and what it gives
"""

from jaxbias._derive.checking import NotDerived
from jaxbias._derive.derived import Derived, derive
from jaxbias._jaxpr.sources import hide_folder_of

__all__ = ["Derived", "NotDerived", "derive"]

hide_folder_of(__file__)

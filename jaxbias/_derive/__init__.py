"""The backward pass of any function, written out.

derived     the door: `derive`, and what it gives
reading     a traced forward as steps on expressions; `values` numbers them, `scope` is what has been read of a function
sizes       which numbers of a trace are sizes of arguments; `by_size` which of what is written are
rules       each primitive: its expression, and the error signals of its operands
fused       library functions that a trace has taken apart
control     loops and choices: both halves, with a body that is derived as a function is
backward    error signals from the outputs back to the arguments
closed      error signals put into each other, where that is shorter; `products` simplifies them
pairs       a forward and its backward, and the names of what has none
statements  assignments, loops, choices: how they are written
writing     the module, and both side by side
checking    both run, and judged
"""

from jaxbias._derive.checking import NotDerived
from jaxbias._derive.derived import Derived, derive
from jaxbias._jaxpr.sources import hide_folder_of

__all__ = ["Derived", "NotDerived", "derive"]

hide_folder_of(__file__)

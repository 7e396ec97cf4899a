"""What values of a program are called: by the user's own code, and by mathematics.

names             the name that the user's code gives each value of a program
expressions       values as expressions over arrays; `queries` asks them, `python` and `latex` write them (`sums`: both)
reference_values  every forward value and the gradient of the loss by it, evaluated on probes and named
"""

from jaxbias._jaxpr.sources import hide_folder_of

hide_folder_of(__file__)

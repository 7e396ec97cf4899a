"""The only room that touches jaxpr internals, which move between JAX releases.

program     what a traced function is here, and how it is read: start there
closed_over NumPy arrays that a function closes over, in the precision that is set now
loop_carries loops whose carry begins in a dtype that is written out
sources     the user's lines: of an equation, of an exception
evaluation  programs carried out: in NumPy, or under JAX
in_numpy    the value of each primitive in NumPy
in_balls    programs carried out on balls, to any number of digits; the value of each primitive in `ball_primitives`
rounding    how far rounding moves each value of a program
queries     what depends on what, and other questions that change nothing
"""

from .evaluation import Rewrite as Rewrite
from .evaluation import apply as apply
from .evaluation import evaluate as evaluate
from .evaluation import evaluate_with_offsets as evaluate_with_offsets
from .evaluation import float_values as float_values
from .evaluation import let_loops_take as let_loops_take
from .evaluation import loops_end_within as loops_end_within
from .evaluation import rerun as rerun
from .evaluation import run as run
from .evaluation import run_by as run_by
from .evaluation import run_in_jax as run_in_jax
from .evaluation import run_longer as run_longer
from .evaluation import shared_uses as shared_uses
from .evaluation import slope as slope
from .evaluation import values_and_cotangents as values_and_cotangents
from .evaluation import with_draws_held as with_draws_held
from .evaluation import without_custom_rules as without_custom_rules
from .program import Equation as Equation
from .program import Program as Program
from .program import digest_of as digest_of
from .program import read as read
from .program import trace as trace
from .program import trace_inlined as trace_inlined

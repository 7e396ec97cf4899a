"""The only room that touches jaxpr internals, which move between JAX releases."""

from .program import LAYOUT as LAYOUT
from .program import WALKED as WALKED
from .program import Block as Block
from .program import Equation as Equation
from .program import Op as Op
from .program import Program as Program
from .program import Rewrite as Rewrite
from .program import apply as apply
from .program import backward_slice as backward_slice
from .program import body_inputs as body_inputs
from .program import digest_of as digest_of
from .program import evaluate as evaluate
from .program import evaluate_block as evaluate_block
from .program import evaluate_with_offsets as evaluate_with_offsets
from .program import numbered as numbered
from .program import rerun as rerun
from .program import run as run
from .program import scan_counts as scan_counts
from .program import slice_ops as slice_ops
from .program import trace as trace
from .program import trace_block as trace_block

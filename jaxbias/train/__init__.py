"""Training: `fit` runs any optax optimizer on the hand-derived gradients, as one compiled program."""

from ._checkpoint import Checkpoint as Checkpoint
from ._fit import Fit as Fit
from ._fit import Progress as Progress
from ._fit import accuracy as accuracy
from ._fit import choose_loop as choose_loop
from ._fit import fit as fit
from ._sweep import SweepProgress as SweepProgress
from ._sweep import sweep as sweep
from ._sweep_table import Sweep as Sweep

"""Training: `fit` runs any optax optimizer on the hand-derived gradients, as one compiled program."""

from ._checkpoint import Checkpoint
from ._fit import Fit, Progress, accuracy, choose_loop, fit
from ._sweep import SweepProgress, sweep
from ._sweep_table import Sweep

__all__ = [
    "Checkpoint",
    "Fit",
    "Progress",
    "Sweep",
    "SweepProgress",
    "accuracy",
    "choose_loop",
    "fit",
    "sweep",
]

"""What the error signal tells: per-example gradients and curvature from (a, δ) at each contact, for anyone's loss."""

from .clip import Aux as Aux
from .clip import ClippedGrad as ClippedGrad
from .clip import clipped_grad as clipped_grad
from .norms import PerExampleNorms as PerExampleNorms
from .norms import grand_scores as grand_scores
from .norms import per_example_norms as per_example_norms

"""What the error signal tells: per-example gradients and curvature from (a, δ) at each contact, for anyone's loss."""

from .clip import Aux as Aux
from .clip import ClippedGrad as ClippedGrad
from .clip import clipped_grad as clipped_grad
from .curvature import Capture as Capture
from .curvature import capture as capture
from .curvature import delta_histograms as delta_histograms
from .curvature import fisher_diagonal as fisher_diagonal
from .curvature import ggn_diagonal as ggn_diagonal
from .curvature import gradient_dots as gradient_dots
from .curvature import kfac_factors as kfac_factors
from .curvature import noise_scale as noise_scale
from .curvature import second_moments as second_moments
from .norms import PerExampleNorms as PerExampleNorms
from .norms import grand_scores as grand_scores
from .norms import per_example_norms as per_example_norms

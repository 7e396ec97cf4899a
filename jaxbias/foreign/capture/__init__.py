"""What the error signal tells: per-example gradients and curvature from (a, δ) at each contact, for anyone's loss."""

from jaxbias.foreign.capture.clip import Aux as Aux
from jaxbias.foreign.capture.clip import ClippedGrad as ClippedGrad
from jaxbias.foreign.capture.clip import clipped_grad as clipped_grad
from jaxbias.foreign.capture.curvature import Capture as Capture
from jaxbias.foreign.capture.curvature import capture as capture
from jaxbias.foreign.capture.curvature import delta_histograms as delta_histograms
from jaxbias.foreign.capture.curvature import fisher_diagonal as fisher_diagonal
from jaxbias.foreign.capture.curvature import ggn_diagonal as ggn_diagonal
from jaxbias.foreign.capture.curvature import gradient_dots as gradient_dots
from jaxbias.foreign.capture.curvature import kfac_factors as kfac_factors
from jaxbias.foreign.capture.curvature import noise_scale as noise_scale
from jaxbias.foreign.capture.curvature import second_moments as second_moments
from jaxbias.foreign.capture.norms import PerExampleNorms as PerExampleNorms
from jaxbias.foreign.capture.norms import grand_scores as grand_scores
from jaxbias.foreign.capture.norms import per_example_norms as per_example_norms

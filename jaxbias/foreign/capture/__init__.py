"""What the error signal tells: per-example gradients and curvature from (a, δ) at each contact, for anyone's loss."""

from jaxbias.foreign.capture.clip import Aux, ClippedGrad, clipped_grad
from jaxbias.foreign.capture.curvature import (
    KroneckerFactors,
    LikeParams,
    fisher_diagonal,
    ggn_diagonal,
    kfac_factors,
    second_moments,
)
from jaxbias.foreign.capture.histograms import DeltaHistogram, delta_histograms
from jaxbias.foreign.capture.influence import gradient_dots
from jaxbias.foreign.capture.norms import PerExampleNorms, grand_scores, per_example_norms
from jaxbias.foreign.capture.one_pass import Capture, NoiseScale, capture, noise_scale

__all__ = [
    "Aux",
    "Capture",
    "ClippedGrad",
    "DeltaHistogram",
    "KroneckerFactors",
    "LikeParams",
    "NoiseScale",
    "PerExampleNorms",
    "capture",
    "clipped_grad",
    "delta_histograms",
    "fisher_diagonal",
    "ggn_diagonal",
    "gradient_dots",
    "grand_scores",
    "kfac_factors",
    "noise_scale",
    "per_example_norms",
    "second_moments",
]

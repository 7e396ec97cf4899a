"""What the error signal tells: per-example gradients and curvature from (a, δ) at each contact, for anyone's loss."""

from jaxbias.foreign.capture.clip import Aux, ClippedGrad, clipped_grad
from jaxbias.foreign.capture.curvature import (
    Capture,
    DeltaHistogram,
    KroneckerFactors,
    LikeParams,
    NoiseScale,
    capture,
    delta_histograms,
    fisher_diagonal,
    ggn_diagonal,
    gradient_dots,
    kfac_factors,
    noise_scale,
    second_moments,
)
from jaxbias.foreign.capture.norms import PerExampleNorms, grand_scores, per_example_norms

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

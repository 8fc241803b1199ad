"""Latency of a file on a device that is not there, from operators and the coefficients of a profile.

``estimate_latency`` predicts, ``compare`` decides between two variants of a network, ``fit`` finds
coefficients from measured runs. Method and accuracy: docs/estimate.md.
"""

from edgekit.measure.estimate.features import OpFeatures, features
from edgekit.measure.estimate.interval import Comparison, compare
from edgekit.measure.estimate.model import Estimate, OpCost, estimate_latency, significant

__all__ = [
    "Comparison",
    "Estimate",
    "OpCost",
    "OpFeatures",
    "compare",
    "estimate_latency",
    "features",
    "significant",
]

"""How much of a measured mean error is taken out of a bias: what stands out from its own uncertainty."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from edgekit.types import Array


def correction(errors: Sequence[Array]) -> Array:
    """What to add to each output channel, (C,), from its mean error in each sample, (samples, C).

    The mean over n samples is itself off by its standard error s: added as it is, it would put s^2 of noise
    into every output. It is shrunk by 1 - s^2 / mean^2, or to zero where that is negative (the positive-part
    estimator of James & Stein 1961, for each channel). Behind a pooling, where a sample has one value of each
    channel, that decides whether a correction helps. One sample tells nothing of its error: no correction.
    """
    found = np.asarray(errors, np.float64)
    n = len(found)
    mean = found.mean(0)
    if n < 2:
        return np.zeros_like(mean)
    doubt = found.var(0, ddof=1) / n
    share = 1 - doubt / np.maximum(mean**2, np.finfo(np.float64).tiny)
    return np.asarray(mean * np.maximum(share, 0.0))

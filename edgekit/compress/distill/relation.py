"""Relational distillation: how the samples of a batch lie to each other, not where each one lies.

None of these losses needs an adapter: student and teacher may differ in width.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch


def distance_loss(student: torch.Tensor, teacher: torch.Tensor) -> torch.Tensor:
    """Huber loss between pairwise Euclidean distances, each divided by its mean over the batch.

    RKD-D of Park et al. 2019, "Relational Knowledge Distillation" (arXiv:1904.05068), eq. 4 to 6.
    ``student`` is (n, d), ``teacher`` (n, D); n >= 2.
    """
    import torch.nn.functional as F

    return F.smooth_l1_loss(_distances(student), _distances(teacher))


def angle_loss(student: torch.Tensor, teacher: torch.Tensor) -> torch.Tensor:
    """Huber loss between the cosines of the angles that all triples of a batch form.

    RKD-A of Park et al. 2019 (arXiv:1904.05068), eq. 7 and 8. (n, d) and (n, D); n >= 3, O(n^3) values.
    """
    import torch.nn.functional as F

    return F.smooth_l1_loss(_angles(student), _angles(teacher))


def similarity_loss(student: torch.Tensor, teacher: torch.Tensor) -> torch.Tensor:
    """Mean squared difference of the row-normalised (n, n) matrices of inner products of a batch.

    Tung & Mori 2019, "Similarity-Preserving Knowledge Distillation" (arXiv:1907.09682), eq. 1 to 4.
    Inputs are features (n, ...) of any shape.
    """
    return (_gram(student) - _gram(teacher)).square().mean()


def _distances(x: torch.Tensor) -> torch.Tensor:
    import torch

    squared = (x[:, None] - x[None]).square().sum(2)
    off = ~torch.eye(len(x), dtype=torch.bool, device=x.device)
    # The root's slope is infinite at 0, where equal samples would make the gradient NaN.
    pairs = squared[off].clamp_min(1e-12).sqrt()
    return pairs / pairs.mean().clamp_min(1e-12)


def _angles(x: torch.Tensor) -> torch.Tensor:
    import torch.nn.functional as F

    sides = F.normalize(x[None] - x[:, None], dim=2, eps=1e-6)  # sides[i, j] from sample i to sample j
    return sides @ sides.transpose(1, 2)


def _gram(x: torch.Tensor) -> torch.Tensor:
    import torch.nn.functional as F

    flat = x.flatten(1)
    return F.normalize(flat @ flat.T, dim=1)

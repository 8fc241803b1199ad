"""Response distillation: losses that pull a student's outputs towards its teacher's."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch


def classification_loss(
    student: torch.Tensor,
    teacher: torch.Tensor | None,
    labels: torch.Tensor | None,
    *,
    temperature: float,
    alpha: float,
) -> torch.Tensor:
    """alpha * T^2 * KL(teacher / T || student / T) + (1 - alpha) * cross-entropy with the labels.

    Hinton, Vinyals, Dean 2015 (arXiv:1503.02531); T^2 keeps the soft part's gradients at the size of
    the hard part's. ``student`` and ``teacher`` are logits (n, C), ``labels`` int64 (n,). Without
    labels the first term stands alone, without teacher the second; one of the two must be there.
    """
    import torch.nn.functional as F

    if teacher is None and labels is None:
        raise ValueError("a classification loss needs a teacher or labels")
    hard = F.cross_entropy(student, labels) if labels is not None else None
    if teacher is None:
        assert hard is not None
        return hard
    soft = temperature**2 * F.kl_div(
        F.log_softmax(student / temperature, 1),
        F.log_softmax(teacher / temperature, 1),
        reduction="batchmean",
        log_target=True,
    )
    return soft if hard is None else alpha * soft + (1 - alpha) * hard


def response_loss(student: Sequence[torch.Tensor], teacher: Sequence[torch.Tensor]) -> torch.Tensor:
    """Mean squared error to the teacher's outputs, each divided by that output's mean square.

    The division lets outputs of different size (boxes in pixels, scores in 0..1) count alike; a value
    of 0.01 means an error of 1 % of the signal's power, 20 dB.
    """
    import torch

    parts = [
        (ours.float() - theirs.float()).square().mean() / theirs.float().square().mean().clamp_min(1e-12)
        for ours, theirs in zip(student, teacher, strict=True)
    ]
    return torch.stack(parts).mean()

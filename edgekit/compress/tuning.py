"""What fine-tuning is asked to do, and what it tells afterwards."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from edgekit.compress.distill import KINDS, Distillation
from edgekit.compress.samples import AUGMENTS, Augment
from edgekit.errors import UserError

if TYPE_CHECKING:
    from torch import nn


@dataclass(frozen=True, kw_only=True)
class Settings:
    """How to fine-tune. JSON data; enters the step's cache key as it is.

    ``lr`` is the peak of a cosine schedule that ends at 0 after ``epochs``. ``patience`` epochs
    without a better validation result end the run early. ``alpha`` is the weight of the teacher
    against the labels, ``temperature`` that of the softened answers.

    SGD at 0.01 (momentum 0.9) is the default because on a pruned CIFAR ResNet-20 (ratios 0.3 and 0.5,
    two seeds, 4000 samples, 3 epochs) it ended 0.7 to 1.6 points above AdamW at 0.001 each time.

    ``kinds``, ``weight`` and ``layers`` are those of :class:`edgekit.compress.distill.Distillation`.
    ``augment`` mirrors images at random, or mirrors and shifts them. ``precision`` "bfloat16" runs the
    forward pass in bfloat16 where torch's autocast does (weights stay float32): on CPUs with AMX or
    AVX-512 BF16 twice as fast. ``bn_l1`` is the weight of the L1 norm of batch norm's scales in the loss
    (Liu et al. 2017, "Network Slimming", arXiv:1708.06519, eq. 1). ``keep_zeros`` keeps weights that are
    zero at the start at zero. ``freeze_bn`` is the share of the epochs after which batch norm's
    statistics stay as they are; 1 never freezes them.
    """

    epochs: int = 20
    lr: float = 0.01
    batch_size: int = 64
    patience: int = 6
    seed: int = 0
    temperature: float = 4.0
    alpha: float = 0.7
    optimizer: Literal["adamw", "sgd"] = "sgd"
    weight_decay: float = 1e-4
    kinds: tuple[str, ...] = ("response",)
    weight: float = 1.0
    layers: tuple[str, ...] = ()
    augment: Augment = "none"
    precision: Literal["float32", "bfloat16"] = "float32"
    bn_l1: float = 0.0
    keep_zeros: bool = False
    freeze_bn: float = 1.0

    def __post_init__(self) -> None:
        for name, ok in (
            ("epochs", self.epochs >= 1),
            ("lr", self.lr > 0 and math.isfinite(self.lr)),
            ("batch_size", self.batch_size >= 2),
            ("patience", self.patience >= 1),
            ("temperature", self.temperature > 0),
            ("alpha", 0 <= self.alpha <= 1),
            ("optimizer", self.optimizer in ("adamw", "sgd")),
            ("weight_decay", self.weight_decay >= 0),
            ("kinds", len(self.kinds) > 0 and set(self.kinds) <= set(KINDS)),
            ("weight", self.weight >= 0),
            ("augment", self.augment in AUGMENTS),
            ("precision", self.precision in ("float32", "bfloat16")),
            ("bn_l1", self.bn_l1 >= 0),
            ("freeze_bn", 0 <= self.freeze_bn <= 1),
        ):
            if not ok:
                raise UserError(f"finetune.{name} cannot be {getattr(self, name)}", hint="see edgekit plan")

    @property
    def distillation(self) -> Distillation:
        """The part that is about the teacher."""
        return Distillation(
            kinds=tuple(self.kinds),
            weight=self.weight,
            layers=tuple(self.layers),
            temperature=self.temperature,
            alpha=self.alpha,
        )


@dataclass(frozen=True, kw_only=True)
class EpochRecord:
    """One epoch: mean training loss; loss and top-1 (percent, None without labels) on validation."""

    epoch: int
    train_loss: float | None
    val_loss: float
    val_accuracy: float | None


@dataclass(frozen=True, kw_only=True)
class FineTuned:
    """The best model seen, in eval mode. ``best_epoch`` 0 is the model as it came in."""

    module: nn.Module
    history: tuple[EpochRecord, ...]
    best_epoch: int
    stopped_early: bool
    train_n: int
    val_n: int
    matched: tuple[str, ...] = ()
    """Layers whose features were compared, as "student_layer:teacher_layer"."""

"""What a plan is made from, beyond profile and model: facts of the data and the user's wishes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from edgekit.types import Precision

PREFERRED, AUTO, ALL = "preferred", "auto", "all"
"""The first target of the profile that works; all targets, of which the best is kept; all targets."""


CALIBRATED: tuple[Precision, ...] = ("int8", "int16x8")
"""Precisions that need calibration data."""

HELD_BACK_FROM = 5
"""Fewest calibration samples of which some are held back: every fifth is."""


@dataclass(frozen=True, kw_only=True)
class DataFacts:
    """How many samples there are for each role, and whether they carry labels."""

    calib: int = 0
    eval: int = 0
    eval_labelled: bool = False
    train: int = 0
    train_labelled: bool = False

    @property
    def any(self) -> bool:
        """Whether there are real samples at all."""
        return self.calib > 0 or self.eval > 0 or self.train > 0

    @property
    def held_back(self) -> bool:
        """Whether calibration is large enough to keep samples unseen for the gates (every fifth)."""
        return self.calib >= HELD_BACK_FROM


@dataclass(frozen=True, kw_only=True)
class Request:
    """What the user asked for beyond model, profile and data."""

    target: str = PREFERRED
    """RUNTIME or RUNTIME/DELEGATE, or one of the names above."""
    max_drop: float | None = None
    max_size_bytes: int | None = None
    latency_ms: float | None = None
    """Most milliseconds for one inference on the device, as measured or estimated."""
    speedup: float | None = None
    """How many times faster than the float32 original: latency on a device, instructions on an emulator."""
    device: str | None = None
    time_budget_minutes: float | None = None
    """How long the searches of a build may take together; None for as long as they need."""
    keep_nchw: bool = False
    teacher: str | None = None
    """A model to learn from in place of the original, as MODEL is named."""
    student: str | None = None
    """A model to ship in place of the original, which it is taught by and compared with."""
    settings: Mapping[str, Any] = field(default_factory=dict)

"""Accuracy on labelled data, agreement with the original, and how sure both figures are."""

from __future__ import annotations

from dataclasses import dataclass
from math import sqrt
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from edgekit.types import Array

_Z95 = 1.959963984540054


@dataclass(frozen=True, kw_only=True)
class Accuracy:
    """Top-1 in percent with its 95 % interval."""

    top1: float
    ci95: tuple[float, float]
    n: int


def top1(logits: Array, labels: Array) -> Accuracy:
    """Share of samples whose arg max is the label. ``logits`` (n, C), ``labels`` (n,)."""
    hits = int((logits.argmax(axis=1) == labels).sum())
    low, high = wilson(hits, len(labels))
    return Accuracy(top1=100 * hits / len(labels), ci95=(100 * low, 100 * high), n=len(labels))


def agreement(reference: Array, got: Array) -> float:
    """Percent of samples on which two models choose the same class. Both (n, C)."""
    return float(100 * (reference.argmax(axis=1) == got.argmax(axis=1)).mean())


def wilson(hits: int, n: int) -> tuple[float, float]:
    """95 % score interval of a proportion (Wilson 1927), which also holds near 0 and 1."""
    p = hits / n
    centre = p + _Z95**2 / (2 * n)
    spread = _Z95 * sqrt(p * (1 - p) / n + _Z95**2 / (4 * n * n))
    scale = 1 + _Z95**2 / n
    return max(0.0, (centre - spread) / scale), min(1.0, (centre + spread) / scale)


def drop_interval(before: Array, after: Array, labels: Array) -> tuple[float, float]:
    """95 % interval of the drop in percentage points, on the same samples (paired).

    Normal approximation for matched pairs (Agresti, Categorical Data Analysis, 3rd ed., eq. 11.1): only
    samples on which exactly one of the two is right carry information.
    """
    was, now = before.argmax(axis=1) == labels, after.argmax(axis=1) == labels
    lost, won, n = int((was & ~now).sum()), int((~was & now).sum()), len(labels)
    difference = (lost - won) / n
    variance = (lost + won - (lost - won) ** 2 / n) / n**2
    half = _Z95 * sqrt(max(variance, 0.0))
    return 100 * (difference - half), 100 * (difference + half)


def is_classifier(outputs: list[np.ndarray]) -> bool:
    """Whether arg max over the only output means a class."""
    return len(outputs) == 1 and outputs[0].ndim == 2 and outputs[0].shape[1] > 1

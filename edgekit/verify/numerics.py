"""How far one stage's values are from another's."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import inf
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from edgekit.types import Array, Session


@dataclass(frozen=True, kw_only=True)
class Closeness:
    """Distance of ``got`` from ``reference`` over all samples and outputs.

    ``sqnr_db`` = 10 log10(sum r^2 / sum (r - g)^2), None when the two are equal (it is then infinite),
    the reference is all zero or ``got`` is not finite. ``max_rel`` = max |r - g| / max |r|, the
    worst output's. NaN in ``got`` is an infinite distance.
    """

    sqnr_db: float | None
    cosine: float | None
    max_abs: float
    max_rel: float
    n: int


def closeness(reference: Sequence[Array], got: Sequence[Array]) -> Closeness:
    """Compare outputs (one array per model output, samples along the first axis)."""
    signal = noise = dot = norm_g = 0.0
    max_abs = max_rel = 0.0
    for r, g in zip(reference, got, strict=True):
        a, b = np.asarray(r, dtype=np.float64).ravel(), np.asarray(g, dtype=np.float64).ravel()
        signal += float(a @ a)
        noise += float(((a - b) ** 2).sum())
        dot, norm_g = dot + float(a @ b), norm_g + float(b @ b)
        distance = float(np.abs(a - b).max(initial=0.0))
        distance = distance if np.isfinite(distance) else inf
        top = float(np.abs(a).max(initial=0.0))
        max_abs = max(max_abs, distance)
        max_rel = max(max_rel, distance / top if top > 0 else (0.0 if distance == 0 else inf))
    return Closeness(
        sqnr_db=float(10 * np.log10(signal / noise)) if signal > 0 and 0 < noise < inf else None,
        cosine=dot / float(np.sqrt(signal * norm_g)) if signal > 0 and 0 < norm_g < inf else None,
        max_abs=max_abs,
        max_rel=max_rel,
        n=len(reference[0]),
    )


def unit_sqnr(
    reference: Session, got: Session, names: Mapping[str, str], samples: Sequence[Sequence[Array]]
) -> dict[str, float | None]:
    """SQNR in dB of each unit's output, accumulated over samples. None where both are equal.

    ``names`` maps a unit of ``got`` to the unit of ``reference`` that it came from. Errors of earlier
    units are included: the figure says how good the values are that the next unit sees.
    """
    signal = dict.fromkeys(names, 0.0)
    noise = dict.fromkeys(names, 0.0)
    for sample in samples:
        want = reference.taps(sample, list(names.values()))
        have = got.taps(sample, list(names))
        for mine, theirs in names.items():
            r, g = want[theirs].astype(np.float64), have[mine].astype(np.float64)
            signal[mine] += float((r**2).sum())
            noise[mine] += float(((r - g) ** 2).sum())
    return {
        n: float(10 * np.log10(signal[n] / noise[n])) if signal[n] > 0 and noise[n] > 0 else None
        for n in names
    }

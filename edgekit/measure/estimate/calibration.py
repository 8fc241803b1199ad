"""From timed runs on a device to the coefficients of its profile."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from edgekit.errors import UserError
from edgekit.measure.estimate.features import OpFeatures, features
from edgekit.measure.estimate.fit import Fit, Problem, fit, leave_out
from edgekit.measure.estimate.interval import conformal_quantile

if TYPE_CHECKING:
    from edgekit.profiles.schema import DeviceProfile

DESIGN = np.asarray(
    [
        [-1, 0, 0, 0, 0],  # dense float32
        [0, -1, 0, 0, 0],  # dense int8
        [-1, 0, 0, 0, -1],  # depthwise float32: the dense rate times the depthwise share
        [0, -1, 0, 0, -1],  # depthwise int8
        [0, 0, -1, 0, 0],  # bytes
        [0, 0, 0, 1, 0],  # operators
    ],
    dtype=np.float64,
)
"""How the terms of a run are made of the logs of :data:`edgekit.measure.estimate.model.COEFFICIENTS`."""

_SD = np.asarray([0.3, 0.3, 0.3, 1.0, 0.3])
"""Of the prior, in logs: rates and bandwidth of a data sheet are right within a third, the cost of an
operator is hardly known."""
_FEWEST_GROUPS = 2


@dataclass(frozen=True, kw_only=True)
class Point:
    """One model at one thread count: its operators and the median of its timed runs in ms."""

    model: str
    threads: int
    ms: float
    spread: float
    """(p90 - median) / median of the runs."""
    ops: tuple[OpFeatures, ...]


@dataclass(frozen=True, kw_only=True)
class Calibrated:
    """Coefficients in the units of a profile, and how well they do.

    ``leave_one_out`` has log(measured / predicted) of each point from a fit without its model, ``error``
    the mean of |predicted / measured - 1| over them.
    """

    fp32: float
    int8: float
    copy_gb_s: float
    op_us: float
    depthwise: float
    covariance: tuple[tuple[float, ...], ...]
    n_points: int
    leave_one_out: tuple[float, ...]
    error: float
    interval_log: float | None
    seen: Mapping[str, bool]
    """By coefficient, whether any run says something about it; the others are what they were."""


def measured_features(
    units: Sequence[Mapping[str, Any]], coverage: Sequence[Mapping[str, Any]], profile: DeviceProfile
) -> tuple[OpFeatures, ...]:
    """Operators of a calibration model, with the tile of the profile's coefficients."""
    assert profile.estimate is not None
    return tuple(features(units, coverage, profile.estimate.tile))


def calibrate(points: Sequence[Point], profile: DeviceProfile) -> Calibrated:
    """Fit the coefficients of ``profile`` (its own are the prior) to ``points``.

    Raises UserError for a profile without coefficients or clock, and for points of fewer than two models.
    """
    model = profile.estimate
    clocks = [c.ghz for c in profile.cores if c.ghz is not None]
    if model is None or not clocks:
        raise UserError(
            f"the profile {profile.id} has no {'clock' if model else 'estimate section'} to start from",
            hint='state cores.ghz and data-sheet figures under [estimate], with calibration = "spec"',
        )
    names = [p.model for p in points]
    if len(set(names)) < _FEWEST_GROUPS:
        raise UserError("a calibration needs runs of two models at least")
    prior = [
        model.macs_per_cycle.fp32 * model.efficiency,
        model.macs_per_cycle.int8 * model.efficiency,
        model.copy_gb_s,
        model.op_us,
        model.depthwise or 1.0,
    ]
    problem = Problem(
        terms=np.asarray([_terms(p, max(clocks)) for p in points]),
        ms=np.asarray([p.ms for p in points]),
        design=DESIGN,
        prior=np.log(prior),
        sd=_SD,
    )
    found: Fit = fit(problem)
    residuals = leave_out(problem, names)
    values = np.exp(found.theta)
    used = (problem.terms.sum(axis=0) > 0) @ np.abs(DESIGN) > 0
    return Calibrated(
        fp32=float(values[0]),
        int8=float(values[1]),
        copy_gb_s=float(values[2]),
        op_us=float(values[3]),
        depthwise=float(values[4]),
        covariance=tuple(tuple(float(v) for v in row) for row in found.covariance),
        n_points=len(points),
        leave_one_out=tuple(float(r) for r in residuals),
        error=float(np.mean(np.abs(np.expm1(-residuals)))),
        interval_log=conformal_quantile(residuals.tolist()),
        seen=dict(zip(("fp32", "int8", "copy", "op", "depthwise"), used.tolist(), strict=True)),
    )


def _terms(point: Point, ghz: float) -> list[float]:
    """Amounts of one run, so that terms times coefficients are milliseconds (see :data:`DESIGN`)."""
    terms = [0.0] * len(DESIGN)
    for op in point.ops:
        at = (2 if op.kind == "depthwise" else 0) + int(op.integer)
        threads = point.threads if op.delegated else 1
        terms[at] += 1e3 * op.macs / (threads * ghz * 1e9)
        terms[4] += 1e3 * op.bytes / 1e9
        terms[5] += 0.0 if op.fused else 1e-3
    if not math.isfinite(sum(terms)):
        raise ValueError(f"{point.model} has no finite cost")
    return terms

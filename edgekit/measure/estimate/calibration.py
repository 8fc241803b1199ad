"""From timed runs on a device to the coefficients of its profile."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from edgekit.errors import UserError
from edgekit.measure.estimate.features import OpFeatures
from edgekit.measure.estimate.fit import Fit, Problem, fit, leave_out
from edgekit.measure.estimate.interval import conformal_quantile
from edgekit.measure.estimate.model import COEFFICIENTS

if TYPE_CHECKING:
    from edgekit.profiles.schema import DeviceProfile
    from edgekit.profiles.schema import Estimate as Coefficients

DESIGN = np.asarray(
    [
        [-1, 0, 0, 0, 0, 0],  # dense float32
        [0, -1, 0, 0, 0, 0],  # dense int8
        [-1, 0, 0, 0, -1, 0],  # depthwise float32: the dense rate times the depthwise share
        [0, -1, 0, 0, 0, -1],  # depthwise int8
        [0, 0, -1, 0, 0, 0],  # bytes
        [0, 0, 0, 1, 0, 0],  # operators
    ],
    dtype=np.float64,
)
"""How the terms of a run are made of the logs of :data:`edgekit.measure.estimate.model.COEFFICIENTS`."""

_SD = np.asarray([0.3, 0.3, 0.3, 1.0, 0.5, 0.5])
"""Of the prior, in logs: rates and bandwidth of a data sheet are right within a third, the cost of an
operator is hardly known, and depthwise kernels reach anything from a quarter of the dense rate to all."""
_FEWEST_GROUPS = 2


@dataclass(frozen=True, kw_only=True)
class Point:
    """One model at one thread count: its operators and the median of its timed runs in ms."""

    model: str
    threads: int
    ms: float
    spread: float
    """(largest - smallest) / median of the medians of separate starts."""
    ops: tuple[OpFeatures, ...]
    network: bool = False
    """A network of the user's, not a generated model that is one kernel."""


@dataclass(frozen=True, kw_only=True)
class Calibrated:
    """Coefficients in the units of a profile, and how well they do.

    ``leave_one_out`` has log(measured / predicted) of each point from a fit without its model. ``error`` is
    the median of |predicted / measured - 1| over them: a generated model that alone tells of a coefficient
    is predicted from the prior when it is left out. ``network_error`` is the mean over networks and
    ``network_sigma`` the root mean square of their logs, None without any; ``interval_log`` is their
    conformal quantile, None for fewer than ten runs of networks.
    """

    fp32: float
    int8: float
    copy_gb_s: float
    op_us: float
    depthwise_fp32: float
    depthwise_int8: float
    covariance: tuple[tuple[float, ...], ...]
    n_points: int
    leave_one_out: tuple[float, ...]
    error: float
    network_error: float | None
    network_sigma: float | None
    interval_log: float | None
    seen: Mapping[str, bool]
    """By coefficient, whether any run says something about it; the others are what they were."""


def starting_point(profile: DeviceProfile) -> Coefficients:
    """The coefficients that a fit starts from. Raises UserError for a profile without them or a clock."""
    if profile.estimate is None or all(c.ghz is None for c in profile.cores):
        what = "clock" if profile.estimate else "estimate section"
        raise UserError(
            f"the profile {profile.id} has no {what} to start from",
            hint='state cores.ghz and data-sheet figures under [estimate], with calibration = "spec"',
        )
    return profile.estimate


def calibrate(points: Sequence[Point], profile: DeviceProfile) -> Calibrated:
    """Fit the coefficients of ``profile`` (its own are the prior) to ``points``.

    Raises UserError for a profile without coefficients or clock, and for points of fewer than two models.
    """
    model = starting_point(profile)
    clock = max(c.ghz for c in profile.cores if c.ghz is not None)
    names = [p.model for p in points]
    if len(set(names)) < _FEWEST_GROUPS:
        raise UserError("a calibration needs runs of two models at least")
    prior = [
        model.macs_per_cycle.fp32 * model.efficiency,
        model.macs_per_cycle.int8 * model.efficiency,
        model.copy_gb_s,
        model.op_us,
        model.depthwise.fp32,
        model.depthwise.int8,
    ]
    problem = Problem(
        terms=np.asarray([_terms(p, clock) for p in points]),
        ms=np.asarray([p.ms for p in points]),
        design=DESIGN,
        prior=np.log(prior),
        sd=_SD,
    )
    found: Fit = fit(problem)
    residuals = leave_out(problem, names)
    off, networks = np.abs(np.expm1(-residuals)), np.asarray([p.network for p in points])
    values = np.exp(found.theta)
    used = (problem.terms.sum(axis=0) > 0) @ np.abs(DESIGN) > 0
    return Calibrated(
        fp32=float(values[0]),
        int8=float(values[1]),
        copy_gb_s=float(values[2]),
        op_us=float(values[3]),
        depthwise_fp32=float(values[4]),
        depthwise_int8=float(values[5]),
        covariance=tuple(tuple(float(v) for v in row) for row in found.covariance),
        n_points=len(points),
        leave_one_out=tuple(float(r) for r in residuals),
        error=float(np.median(off)),
        network_error=float(off[networks].mean()) if networks.any() else None,
        network_sigma=float(np.sqrt(np.mean(residuals[networks] ** 2))) if networks.any() else None,
        interval_log=conformal_quantile(residuals[networks].tolist()),
        seen=dict(zip(COEFFICIENTS, used.tolist(), strict=True)),
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

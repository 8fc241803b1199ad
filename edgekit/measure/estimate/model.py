"""The additive model of latency, over the coefficients of a profile."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from edgekit.measure.estimate.features import OpFeatures, features
from edgekit.measure.estimate.interval import FACTOR_90, half_width

if TYPE_CHECKING:
    from edgekit.profiles.schema import DeviceProfile, Target
    from edgekit.profiles.schema import Estimate as Coefficients

COEFFICIENTS = ("fp32", "int8", "copy", "op", "depthwise fp32", "depthwise int8")
"""Order of the covariance in a profile."""

_SHOWN = 8


@dataclass(frozen=True, kw_only=True)
class OpCost:
    """Milliseconds of one operator by what they are spent on."""

    name: str
    op: str
    kind: str
    compute_ms: float
    memory_ms: float
    overhead_ms: float

    @property
    def ms(self) -> float:
        return self.compute_ms + self.memory_ms + self.overhead_ms


@dataclass(frozen=True, kw_only=True)
class Estimate:
    """Predicted milliseconds per inference (the median) with a 90 % interval, and what they hold for.

    ``sigma`` is the standard deviation of log(measured / predicted), ``shares`` the parts of compute,
    memory and overhead (they sum to 1), ``gradient`` the derivative of log latency by the log of each of
    :data:`COEFFICIENTS`. ``assumes`` says under which conditions the figure holds, ``warnings`` what lies
    outside of what the coefficients were checked on.
    """

    ms: float
    runtime: str
    calibration: Literal["spec", "public", "measured"]
    interval: tuple[float, float]
    sigma: float
    threads: int
    profile: str
    n_points: int
    validated_on: str
    shares: Mapping[str, float]
    gradient: tuple[float, ...]
    covariance: tuple[tuple[float, ...], ...]
    macs: float
    bytes: int
    known: bool
    assumes: tuple[str, ...]
    warnings: tuple[str, ...]
    ops: tuple[OpCost, ...]

    @property
    def basis(self) -> str:
        """Where the coefficients come from, in words: "spec", "public points" or "measured n=5"."""
        if self.calibration == "measured":
            return f"measured n={self.n_points}"
        return "public points" if self.calibration == "public" else "spec"

    @property
    def shown(self) -> tuple[float, tuple[float, float]]:
        """Median and interval as they may be printed: two significant digits, three with measured points."""
        digits = 3 if self.calibration == "measured" else 2
        low, high = (significant(v, digits) for v in self.interval)
        return significant(self.ms, digits), (low, high)


def significant(value: float, digits: int) -> float:
    """``value`` rounded to that many significant digits."""
    if value == 0 or not math.isfinite(value):
        return value
    return round(value, digits - 1 - math.floor(math.log10(abs(value))))


def estimate_latency(
    profile: DeviceProfile,
    target: Target,
    units: Sequence[Mapping[str, Any]],
    *,
    coverage: Sequence[Mapping[str, Any]] = (),
    threads: int | None = None,
) -> Estimate | None:
    """The additive model of :class:`edgekit.profiles.schema.Estimate` over the units of a file:

    t = MACs / (threads * GHz * macs_per_cycle * efficiency) + bytes / copy_gb_s + ops * op_us
        + scores * post_process_ns

    with the terms of :func:`edgekit.measure.estimate.features.features`, whose rows ``units`` and
    ``coverage`` are. Operators that the delegate does not take are counted at one thread. ``threads``
    defaults to the profile's and is never more than its cores.

    None where the profile has no coefficients, no clock, or where they do not describe the target.
    Raises ValueError for ``threads`` below 1.
    """
    coefficients = profile.estimate
    clocks = [c.ghz for c in profile.cores if c.ghz is not None]
    if coefficients is None or not clocks:
        return None
    if f"{target.runtime}/{target.delegate}" not in coefficients.targets:
        return None
    wanted = profile.constraints.threads if threads is None else threads
    if wanted < 1:
        raise ValueError(f"threads must be at least 1, got {wanted}")
    used = min(wanted, sum(c.count for c in profile.cores))
    rows = features(units, coverage, coefficients.tile)
    costs = [_cost(row, coefficients, max(clocks), used) for row in rows]
    parts = {
        "compute": sum(c.compute_ms for c in costs),
        "memory": sum(c.memory_ms for c in costs),
        "overhead": sum(c.overhead_ms for c in costs),
    }
    total = sum(parts.values())
    warnings, known = _warnings(rows, coefficients)
    if target.runtime != coefficients.targets[0].partition("/")[0]:
        known = False
        warnings.append(f"the coefficients describe {coefficients.runtime}, not {target.runtime}")
    if len({c.microarchitecture for c in profile.cores}) > 1:
        known = False
        warnings.append("the device has cores of several kinds: all threads are taken to run on the fastest")
    if used < wanted:
        warnings.append(f"{wanted} threads were asked for, the device has {used} cores")
    gradient = _gradient(rows, costs, total)
    integer = any(row.integer and row.macs for row in rows)
    sigma = half_width(coefficients, gradient, known=known, integer=integer) / FACTOR_90
    spread = math.exp(FACTOR_90 * sigma)
    return Estimate(
        ms=total,
        runtime=coefficients.runtime,
        calibration=coefficients.calibration,
        interval=(total / spread, total * spread),
        sigma=sigma,
        threads=used,
        profile=profile.id,
        n_points=coefficients.n_points,
        validated_on=coefficients.validated_on,
        shares={k: v / total if total else 0.0 for k, v in parts.items()},
        gradient=gradient,
        covariance=coefficients.covariance,
        macs=sum(row.macs for row in rows),
        bytes=sum(row.bytes for row in rows),
        known=known,
        assumes=_assumptions(coefficients, max(clocks), used),
        warnings=tuple(warnings),
        ops=tuple(costs),
    )


def _cost(row: OpFeatures, c: Coefficients, ghz: float, threads: int) -> OpCost:
    per_cycle = (c.macs_per_cycle.int8 if row.integer else c.macs_per_cycle.fp32) * c.efficiency
    if row.kind == "depthwise":
        per_cycle *= c.depthwise.int8 if row.integer else c.depthwise.fp32
    rate = (threads if row.delegated else 1) * ghz * 1e9 * per_cycle
    scores = row.scores * (c.post_process_ns or 0.0) * 1e-6
    return OpCost(
        name=row.name,
        op=row.op,
        kind=row.kind,
        compute_ms=1e3 * row.macs / rate + scores,
        memory_ms=1e3 * row.bytes / (c.copy_gb_s * 1e9),
        overhead_ms=0.0 if row.fused else 1e-3 * c.op_us,
    )


def _gradient(rows: Sequence[OpFeatures], costs: Sequence[OpCost], total: float) -> tuple[float, ...]:
    """d log t / d log coefficient: minus a rate's share of the time, plus the share of the overhead."""
    shares = dict.fromkeys(COEFFICIENTS, 0.0)
    for row, cost in zip(rows, costs, strict=True):
        precision = "int8" if row.integer else "fp32"
        if row.macs:
            shares[precision] -= cost.compute_ms
        if row.kind == "depthwise":
            shares[f"depthwise {precision}"] -= cost.compute_ms
        shares["copy"] -= cost.memory_ms
        shares["op"] += cost.overhead_ms
    return tuple(shares[name] / total if total else 0.0 for name in COEFFICIENTS)


def _warnings(rows: Sequence[OpFeatures], c: Coefficients) -> tuple[list[str], bool]:
    """What lies outside the validated range, and whether nothing does that widens the interval."""
    outside: list[str] = []
    unseen = sorted({row.op or "?" for row in rows if row.kind == "other" and not row.scores})
    if unseen:
        outside.append(f"operators of kinds that were not checked: {_listed(unseen)}")
    left = sorted({row.op or "?" for row in rows if not row.delegated and not row.scores})
    if left:
        outside.append(
            f"the delegate does not take {_listed(left)}: kernels there are slower than predicted, by how "
            "much is unknown"
        )
    if any(row.scores for row in rows) and c.post_process_ns is None:
        outside.append("the cost of detection post-processing is unknown here and left out")
    if any(not row.checked and row.macs for row in rows):
        outside.append("precisions other than float32 and int8 were not checked")
    if any(not row.complete for row in rows):
        outside.append("the backend does not tell what every operator reads: some bytes are left out")
    macs, moved = sum(row.macs for row in rows), sum(row.bytes for row in rows)
    for what, value, limits in (("MACs", macs, c.macs_range), ("bytes moved", moved, c.bytes_range)):
        if limits is None:
            if c.calibration != "measured":
                outside.append(f"no range of {what} is known in which predictions were checked")
        elif not limits[0] <= value <= limits[1]:
            side = "less" if value < limits[0] else "more"
            bound = limits[0] if value < limits[0] else limits[1]
            outside.append(f"{value:.2g} {what} is {side} than any network that was checked ({bound:.2g})")
    notes = list(outside)
    off = [row for row in rows if row.off_tile and row.macs]
    if off:
        notes.append(
            f"{len(off)} operators have output channels off the kernels' tile (float32 {c.tile.fp32}, int8 "
            f"{c.tile.int8}): their arithmetic is rounded up, slower kernels may run"
        )
    return notes, not outside


def _assumptions(c: Coefficients, ghz: float, threads: int) -> tuple[str, ...]:
    if c.conditions:
        return (c.conditions,)
    cores = f"{threads} core{'s' if threads > 1 else ''}"
    return (f"{cores} at {ghz:g} GHz without throttling", c.runtime)


def _listed(names: Sequence[str]) -> str:
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return ", ".join(names[:_SHOWN]) + more

"""Latency of a file on a device that is not there, from the coefficients of its profile."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from edgekit.profiles.schema import DeviceProfile, Target

_BYTES_OF = {"int8": 1, "int16": 2, "int16x8": 2, "fp16": 2}
_INTEGER = frozenset({"int8"})
_XNNPACK = "xnnpack"


@dataclass(frozen=True, kw_only=True)
class Estimate:
    """Milliseconds per inference and what they hold for."""

    ms: float
    runtime: str
    calibration: str


def estimate_latency(
    profile: DeviceProfile, target: Target, units: Sequence[Mapping[str, Any]]
) -> Estimate | None:
    """The additive model of :class:`edgekit.profiles.schema.Estimate` over the units of a file:

    t = MACs / (threads * GHz * macs_per_cycle * efficiency) + bytes / copy_gb_s + ops * op_us

    with the bytes of each unit's weights and output. ``units`` are rows with "macs", "weight_bytes",
    "output_shape" and "precision". None where the profile has no coefficients, no clock, or where they do
    not describe the target: they were fitted for XNNPACK on the CPU.
    """
    model = profile.estimate
    clocks = [c.ghz for c in profile.cores if c.ghz is not None]
    if model is None or not clocks or target.delegate != _XNNPACK:
        return None
    threads = min(profile.constraints.threads, sum(c.count for c in profile.cores))
    per_cycle = {True: model.macs_per_cycle.int8, False: model.macs_per_cycle.fp32}
    seconds = 0.0
    for unit in units:
        integer = unit["precision"] in _INTEGER
        rate = threads * max(clocks) * 1e9 * per_cycle[integer] * model.efficiency
        moved = int(unit["weight_bytes"]) + math.prod(unit["output_shape"]) * _BYTES_OF.get(
            unit["precision"], 4
        )
        seconds += int(unit["macs"]) / rate + moved / (model.copy_gb_s * 1e9) + model.op_us * 1e-6
    return Estimate(ms=1e3 * seconds, runtime=model.runtime, calibration=model.calibration)

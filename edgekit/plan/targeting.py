"""A latency, a speed-up or a size that was asked for: what tells it, and whether pruning may meet it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Literal

from edgekit.errors import UserError
from edgekit.plan.request import DataFacts, Request
from edgekit.types import Gate, ModelSpec, PlanStep, Rejected

if TYPE_CHECKING:
    from edgekit.profiles.schema import DeviceProfile

Basis = Literal["device", "instructions", "estimate", "size"]

_SAMPLES = 256
"""Training samples on which the sensitivity of groups is measured."""
_NAME = "pruning until the target is met"
_HINT = "connect the device (--device), or choose a profile with coefficients (`edgekit profiles show`)"


def wanted(request: Request) -> bool:
    """Whether a cost or a size was asked for."""
    return _costed(request) or request.max_size_bytes is not None


def _costed(request: Request) -> bool:
    return request.latency_ms is not None or request.speedup is not None


def basis_of(request: Request, profile: DeviceProfile) -> Basis:
    """What the cost is measured by: the device at hand, else counted instructions, else the estimate; the
    size of the file where that alone was asked for.

    Instructions are no milliseconds: they serve for a speed-up only. Raises UserError where nothing does.
    """
    if not _costed(request):
        return "size"
    if request.device is not None and not request.device.startswith("emulator"):
        return "device"
    if request.latency_ms is None and profile.emulator is not None:
        return "instructions"
    if profile.estimate is not None:
        return "estimate"
    what = "a latency" if request.latency_ms is not None else "a speed-up"
    raise UserError(
        f"{what} for {profile.id} cannot be told here: its profile has no coefficients of an estimate"
        + ("" if request.device is None else ", and an emulator has no milliseconds"),
        hint=_HINT,
    )


def plan_target(
    model: ModelSpec,
    data: DataFacts,
    request: Request,
    settings: Mapping[str, Any],
    profile: DeviceProfile,
    rejected: list[Rejected],
    warnings: list[str],
) -> PlanStep | None:
    """The search for ratios; None where none is wanted or none is possible, then with a warning. Raises
    UserError."""
    if not wanted(request):
        return None
    basis = basis_of(request, profile)
    goal = _goal(request)
    if settings["prune.ratio"] is not None or settings["prune.ratios"]:
        rejected.append(Rejected(alternative=_NAME, reason="the ratios of pruning were set"))
        return None
    if not model.trainable or data.train == 0 or request.student is not None:
        why = (
            "the source of this model is fixed"
            if not model.trainable
            else "there is no training data (--train) to recover the accuracy"
            if data.train == 0
            else "a student was given"
        )
        better = "faster" if _costed(request) else "smaller"
        reason = f"{why}: only the precision can make it {better}"
        rejected.append(Rejected(alternative=_NAME, reason=reason))
        if _costed(request):  # int8 alone is often small enough
            warnings.append(f"{goal} was asked for, and pruning cannot bring it: {reason}")
        return None
    words = {
        "device": f"latency measured on {request.device}",
        "instructions": "instructions counted on the emulated core",
        "estimate": "latency estimated from the profile's coefficients",
        "size": "its size",
    }[basis]
    return PlanStep(
        name="target",
        config={
            "basis": basis,
            "latency_ms": request.latency_ms,
            "speedup": request.speedup,
            "max_size_bytes": request.max_size_bytes,
            "samples": _SAMPLES,
            "evaluations": settings["search.evaluations"],
            "round_to": profile.constraints.channel_multiple,
        },
        reason=f"{goal} was asked for: groups are narrowed by sensitivity until the file costs no more, "
        f"by {words}",
    )


def _goal(request: Request) -> str:
    """What was asked for, in words."""
    parts = []
    if request.latency_ms is not None:
        parts.append(f"{request.latency_ms:g} ms")
    if request.speedup is not None:
        parts.append(f"{request.speedup:g} times faster")
    if request.max_size_bytes is not None:
        parts.append(f"at most {request.max_size_bytes / 1e6:g} MB")
    return " and ".join(parts)


def target_gates(request: Request, profile: DeviceProfile) -> tuple[Gate, ...]:
    """The limits of cost that were asked for."""
    if not _costed(request):
        return ()
    basis = basis_of(request, profile)
    gates = []
    if request.latency_ms is not None:
        gates.append(
            Gate(
                name="latency",
                limit=request.latency_ms,
                comparison="<=",
                unit="ms",
                reason=f"--latency; {'measured' if basis == 'device' else 'estimated, not measured'}",
            )
        )
    if request.speedup is not None:
        gates.append(
            Gate(
                name="speedup",
                limit=request.speedup,
                comparison=">=",
                unit="times",
                reason=f"--speedup over the float32 original, by {_by(basis)}",
            )
        )
    return tuple(gates)


def _by(basis: Basis) -> str:
    return {"device": "measured latency", "instructions": "instructions"}.get(basis, "estimated latency")

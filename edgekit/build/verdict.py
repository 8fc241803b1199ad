"""Whether the chosen precision pays on this device, against float32 of the same network."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from edgekit.build.measuring import on_the_device
from edgekit.measure.estimate import compare, estimate_latency
from edgekit.types import to_json

if TYPE_CHECKING:
    from edgekit.backends import Backend
    from edgekit.build.reporting import Made
    from edgekit.profiles.schema import Target
    from edgekit.types import Artifact

_FASTER, _SLOWER = 1.1, 1 / 1.1
"""A measured ratio between these is no difference worth a decision."""


def verdict_of(made: Made, backend: Backend, target: Target) -> dict[str, Any] | None:
    """The report's "verdict": {"precision", "pays": "yes" | "no" | "measure", "basis", "ratio", "reason"}.

    By measured latency where both files ran on the device (not on a host of another kind); else by the
    profile's estimate of both; else by instructions, which alone never say that something is faster, only
    that it needs more of them. None for a float32 file, and where there is nothing to tell it by.
    ``ratio``: cost in float32 over cost of the file.
    """
    precision = made.final.precision
    if precision == "float32":
        return None
    loss = _loss(made)
    here = on_the_device(made.measurements, made.inputs.profile, target)
    measured = _ratio(made, "latency") if here else None
    if measured is not None:
        pays = "yes" if measured > _FASTER else "no" if measured < _SLOWER else "measure"
        how = f"{measured:.2f} times as fast as float32, measured"
        return _told(precision, pays, "measured latency", measured, f"{how}; {loss}")
    counted = _ratio(made, "instructions")
    before, after = (_estimate(made, backend, target, f) for f in (made.float_file, made.final))
    if before is not None and after is not None:
        found = compare(before, after)
        pays = {"faster": "yes", "slower": "no", "measure": "measure"}[found.verdict]
        extra = "" if counted is None else f"; float32 needs {counted:.2f} times its instructions, emulated"
        return _told(precision, pays, "estimated latency", found.ratio, f"{found.reason}{extra}; {loss}")
    if counted is None:
        return None
    pays = "no" if counted < _SLOWER else "measure"
    words = f"float32 needs {counted:.2f} times its instructions, and instructions are no milliseconds"
    return _told(precision, pays, "instructions per inference", counted, f"{words}; {loss}")


def _told(precision: str, pays: str, basis: str, ratio: float, reason: str) -> dict[str, Any]:
    words = {
        "yes": f"{precision} pays here",
        "no": f"{precision} does not pay here: it is no faster",
        "measure": f"whether {precision} pays here has to be measured on the device",
    }
    return {
        "precision": precision,
        "pays": pays,
        "basis": basis,
        "ratio": ratio,
        "reason": f"{words[pays]}: {reason}" if pays != "no" else f"{words[pays]}; {reason}",
    }


def _loss(made: Made) -> str:
    ratio = made.float_file.bytes / made.final.bytes
    size = f"{ratio:.2f} times smaller" if ratio >= 1 else f"{1 / ratio:.2f} times larger"
    accuracy: Mapping[str, Any] | None = made.scores["accuracy"]
    if accuracy is None:
        return size
    drop = accuracy["drop"]
    return f"{size}, {abs(drop):.2f} points {'gained' if drop < 0 else 'lost'}"


def _ratio(made: Made, metric: str) -> float | None:
    """Float32 over the file; None where the measured float32 file is that of an unpruned original."""
    if made.compressed.changed:
        return None
    found = {m.subject: m.median for m in made.measurements if m.metric == metric}
    before, after = found.get("baseline"), found.get("final")
    return before / after if before is not None and after else None


def _estimate(made: Made, backend: Backend, target: Target, file: Artifact) -> Any:
    units = [to_json(u) for u in backend.units(file)]
    covered = [to_json(c) for c in backend.coverage(file, target)]
    return estimate_latency(made.inputs.profile, target, units, coverage=covered)

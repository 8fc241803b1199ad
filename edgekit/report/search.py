"""The search for a recipe that holds the gates, for page and terminal."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from markupsafe import Markup

from edgekit.report import formats
from edgekit.report.charts import Mark, scatter

_BASES = {
    "device": "latency measured on the device",
    "instructions": "instructions on the emulated core",
    "estimate": "latency estimated from the profile's coefficients",
    "size": "the size of the file",
}

_RUNGS = {
    "calibration": "every calibration method",
    "equalization": "equalised channels",
    "mixed": "layers in float32",
    "qat": "quantisation-aware training",
    "wider": "a wider precision",
}

_LOSSES = (("drop", "accuracy lost", "points"), ("sqnr_db", "output SQNR", "dB"))
"""What a point's quality is drawn by: the first of these that every point has."""


def search_view(report: Mapping[str, Any]) -> dict[str, Any] | None:
    """Texts of the table and the chart; None when there was no search."""
    search = report.get("search")
    if not search:
        return None
    points = search["points"]
    estimated = all(p["cost"] is not None for p in points)
    scale = formats.scale_for([p["bytes"] for p in points], "B")
    return {
        "reason": search["reason"],
        "evaluations": search["evaluations"],
        "seconds": search["seconds"],
        "rows": [
            {
                "note": p["note"],
                "precision": p["precision"],
                "kept": len(p["kept"]),
                "size": scale.text(p["bytes"]),
                "cost": formats.with_unit(p["cost"], p["cost_unit"] or "ms") if estimated else None,
                "drop": formats.with_unit(p["drop"], "points"),
                "agreement": formats.percent(p["agreement"]),
                "sqnr": formats.decibel(p["sqnr_db"]),
                "verdict": "holds" if p["passed"] else "breaks a gate",
                "chosen": p["chosen"],
            }
            for p in points
        ],
        "rungs": _rungs(points, estimated=estimated),
        "estimated": estimated,
        "chart": _chart(points, estimated=estimated),
        "ranking": search["ranking"],
    }


def _rungs(points: Sequence[Mapping[str, Any]], *, estimated: bool) -> list[dict[str, Any]]:
    """Each rung with what it took, and what its best file gains over int8 as planned and costs beside it."""
    start = points[0]
    cost = "cost" if estimated else "bytes"
    rows = []
    for rung in dict.fromkeys(p["rung"] for p in points[1:]):
        own = [p for p in points if p["rung"] == rung]
        best = min(own, key=lambda p: (not p["passed"], p[cost] if p["passed"] else _loss(p)))
        rows.append(
            {
                "name": _RUNGS.get(rung, rung),
                "files": len(own),
                "seconds": sum(p["seconds"] for p in own),
                "cost": best[cost] / start[cost] if start[cost] else None,
                "points": _gained(start["drop"], best["drop"], "points"),
                "decibel": _gained(best["sqnr_db"], start["sqnr_db"], "dB"),
                "holds": best["passed"],
            }
        )
    return rows


def _loss(point: Mapping[str, Any]) -> float:
    for key, sign in (("drop", 1), ("agreement", -1), ("sqnr_db", -1)):
        if point[key] is not None:
            return sign * float(point[key])
    return 0.0


def _gained(larger: float | None, smaller: float | None, unit: str) -> str:
    if larger is None or smaller is None:
        return formats.NOT_MEASURED
    return formats.minus(f"{larger - smaller:+.2f} {unit}")


def search_line(report: Mapping[str, Any]) -> str | None:
    """One sentence for a terminal; None when there was no search."""
    search = report.get("search")
    if not search:
        return None
    return f"{search['reason']} ({search['evaluations']} files measured, {search['seconds']:.0f} s)"


def target_view(report: Mapping[str, Any]) -> dict[str, Any] | None:
    """Texts of the search for a latency or a speed-up; None when there was none."""
    found = report.get("target_search")
    if not found:
        return None
    unit = found["unit"]
    return {
        "reason": found["reason"],
        "reached": found["reached"],
        "limit": formats.with_unit(found["limit"], unit),
        "basis": _BASES[found["basis"]],
        "tried": [
            {
                "groups": t["groups"],
                "cost": formats.with_unit(t["cost"], unit),
                "verdict": "within the limit" if t["cost"] <= found["limit"] else "above it",
            }
            for t in found["tried"]
        ],
        "ratios": [{"name": n, "ratio": r} for n, r in found["ratios"].items()],
    }


def target_line(report: Mapping[str, Any]) -> str | None:
    """One sentence for a terminal; None when no cost was asked for."""
    view = target_view(report)
    if view is None:
        return None
    return f"{view['reason']} (limit {view['limit']}, {view['basis']}; {len(view['tried'])} files tried)"


def _chart(points: Sequence[Mapping[str, Any]], *, estimated: bool) -> dict[str, Any] | None:
    """Cost to the right, quality upwards. None where a point has no quality to draw."""
    named = next((x for x in _LOSSES if all(p[x[0]] is not None for p in points)), None)
    if named is None or len(points) < 2:
        return None
    key, words, unit = named
    costs = [float(p["cost"]) if estimated else float(p["bytes"]) for p in points]
    # Upwards is better for both: fewer points lost, more decibels.
    heights = [-float(p[key]) if key == "drop" else float(p[key]) for p in points]
    marks = [
        Mark(
            x=x,
            y=y,
            kind="chosen" if p["chosen"] else "holds" if p["passed"] else "breaks",
            title=f"{p['note']}: {formats.with_unit(p[key], unit)}",
        )
        for p, x, y in zip(points, costs, heights, strict=True)
    ]
    across = "estimated latency" if estimated else "file size"
    label = f"Every file that was measured: {across} to the right, {words} upwards (better is higher)"
    drawn: Markup = scatter(marks, label=label)
    return {"svg": drawn, "label": label}

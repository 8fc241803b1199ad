"""The view of what float32 and the built file cost by kind of operator, on the device and on this host."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from edgekit.report import formats

_SHOWN = 12


def operators_view(report: Mapping[str, Any]) -> dict[str, Any] | None:
    """A table for each place where both files were profiled, and what could not be; None without any."""
    found = report.get("by_operator")
    if not found:
        return None
    return {
        "places": [_place(p) for p in found["places"]],
        "missing": found["missing"],
    }


def operator_lines(report: Mapping[str, Any]) -> list[tuple[str, str]]:
    """(label, sentence) of each place, for a terminal."""
    found = report.get("by_operator") or {"places": []}
    return [("By operator", f"{_title(p)}: {p['reason']}") for p in found["places"]]


def _title(place: Mapping[str, Any]) -> str:
    return str(place["where"]) if place["device"] else f"{place['where']}, which is not the device"


def _place(place: Mapping[str, Any]) -> dict[str, Any]:
    rows = place["rows"]
    counted = place["unit"] == "instructions"
    scale = formats.scale_for([max((max(r["before"], r["after"]) for r in rows), default=0)], "")
    whole = formats.scale_for([place["before"], place["after"]], "")

    def figure(value: float) -> str:
        return scale.number(value, 0 if scale.factor == 1 else 2) if counted else f"{value:.0f}"

    return {
        "title": _title(place),
        "reason": place["reason"],
        "unit": (f"instructions, {scale.unit}" if scale.unit else "instructions") if counted else "us",
        "before": whole.text(place["before"]) if counted else f"{place['before']:.3f} ms",
        "after": whole.text(place["after"]) if counted else f"{place['after']:.3f} ms",
        "counted": counted,
        "rows": [
            {
                "kind": r["kind"],
                "ops": f"{r['before_ops']} / {r['after_ops']}",
                "before": figure(r["before"]),
                "after": figure(r["after"]),
                "change": ("+" if r["after"] > r["before"] else "") + figure(r["after"] - r["before"]),
            }
            for r in rows[:_SHOWN]
        ],
        "left_out": max(0, len(rows) - _SHOWN),
    }

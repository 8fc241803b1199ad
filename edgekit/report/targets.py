"""The table of targets for the page."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from edgekit.report import formats

_STATUS = {"ok": "gates hold", "gate_failed": "a gate failed"}
_BASES = {
    "measured latency": "They were compared by their latency, measured over the same link.",
    "instructions per inference": "They were compared by their instructions per inference, counted in the "
    "same emulation; instructions are not milliseconds.",
    "estimated latency": "They were compared by the latency that the profile's coefficients predict.",
    "order": "They could not be measured or estimated alike: the profile's order decided.",
}


def target_table(report: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Rows of texts, one per target; "" and the sign for "not measured" where there is nothing."""
    return [
        {
            **_figures(row),
            "target": row["target"],
            "chosen": row["chosen"],
            "precision": row["precision"] or "",
            "status": ("chosen, " if row["chosen"] else "") + _STATUS.get(row["status"], row["status"]),
            "instructions": _count(row["instructions"]),
            "latency": formats.with_unit(row["latency_ms"], "ms"),
            "reason": row["reason"],
        }
        for row in report.get("targets", ())
    ]


def companion_table(report: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Rows of texts for the further files of the bundle."""
    return [{**_figures(row), "precision": row["precision"]} for row in report.get("companions", ())]


def comparison_text(report: Mapping[str, Any]) -> str:
    """What the built targets were compared by; "" when only one was built."""
    built = [row for row in report.get("targets", ()) if row["status"] in _STATUS]
    return _BASES.get(built[0]["cost_basis"], "") if len(built) > 1 else ""


def _count(value: float | None) -> str:
    return formats.NOT_MEASURED if value is None else formats.scale_for([value], "").text(value)


def _figures(row: Mapping[str, Any]) -> dict[str, str]:
    accuracy = row["accuracy"] or {}
    size = (
        formats.NOT_MEASURED
        if row["bytes"] is None
        else formats.scale_for([row["bytes"]], "B").text(row["bytes"])
    )
    return {
        "size": size,
        "accuracy": formats.percent(accuracy.get("final")),
        "drop": formats.with_unit(accuracy.get("drop"), "points"),
        "sqnr": formats.decibel(row["sqnr_db"]),
    }


def target_lines(report: Mapping[str, Any]) -> list[tuple[str, str]]:
    """(label, text) per target for a terminal; nothing when one was built and none failed."""
    rows = [r for r in report.get("targets", ()) if r["status"] != "not built"]
    if len(rows) < 2:
        return []
    return [("Target", _line(row)) for row in rows]


def _line(row: Mapping[str, Any]) -> str:
    figures = _figures(row)
    parts = [f"{row['target']} {row['precision'] or ''}".strip(), figures["size"]]
    if row["accuracy"]:
        parts.append(f"drop {figures['drop']}")
    elif row["sqnr_db"] is not None:
        parts.append(f"output SQNR {figures['sqnr']}")
    if row["instructions"] is not None:
        parts.append(formats.with_unit(row["instructions"], "instructions"))
    if row["latency_ms"] is not None:
        parts.append(formats.with_unit(row["latency_ms"], "ms"))
    status = "chosen" if row["chosen"] else _STATUS.get(row["status"], row["status"])
    text = ", ".join(p for p in parts if p != formats.NOT_MEASURED)
    return f"{text}: {status}" + (f" ({row['reason']})" if row["reason"] else "")

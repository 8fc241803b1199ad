"""int8, fp16 and float32 side by side, for page and terminal."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from edgekit.report import formats


def precisions_view(report: Mapping[str, Any]) -> dict[str, Any] | None:
    """Texts of the table; None where nothing was compared."""
    found = report.get("precisions")
    if not found:
        return None
    rows = found["rows"]
    scale = formats.scale_for([r["bytes"] for r in rows], "B")
    return {
        "reason": found["reason"],
        "rows": [
            {
                "precision": r["precision"],
                "chosen": r["chosen"],
                "best": r["precision"] == found["best"],
                "size": scale.text(r["bytes"]),
                "latency": formats.NOT_MEASURED
                if r["ms"] is None
                else formats.with_unit(float(f"{r['ms']:.2g}"), "ms"),
                "speed": r["speed"] if r["ratio"] is None else f"{r['speed']} ({r['ratio']:.2f}x)",
                "drop": formats.with_unit(r["drop"], "points"),
                "agreement": formats.percent(r["agreement"]),
                "sqnr": formats.decibel(r["sqnr_db"]),
                "gates": {True: "hold", False: "broken", None: formats.NOT_MEASURED}[r["holds"]],
                "note": r["note"],
            }
            for r in rows
        ],
    }


def precisions_line(report: Mapping[str, Any]) -> str | None:
    """One sentence for a terminal; None where nothing was compared."""
    found = report.get("precisions")
    return None if not found else str(found["reason"])

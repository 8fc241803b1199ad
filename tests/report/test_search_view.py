"""What page and terminal say of a search: each rung with what it took, gained and costs."""

from __future__ import annotations

from typing import Any

from edgekit.report.precisions import precisions_line, precisions_view
from edgekit.report.search import search_view


def point(
    rung: str, *, cost: float, drop: float, passed: bool = False, seconds: float = 1.0
) -> dict[str, Any]:
    return {
        "rung": rung, "note": rung, "form": "original", "precision": "int8",
        "calibration": "auto", "kept": [], "bytes": 1000, "cost": cost, "cost_unit": "ms", "drop": drop,
        "agreement": None, "sqnr_db": 20 - drop, "passed": passed, "chosen": passed, "seconds": seconds,
    }  # fmt: skip


def test_each_rung_says_what_it_took_gained_and_costs() -> None:
    points = [
        point("int8", cost=4.0, drop=5.0),
        point("mixed", cost=6.0, drop=3.0, seconds=2.0),
        point("mixed", cost=8.0, drop=2.0, seconds=2.0),
        point("qat", cost=4.0, drop=0.5, passed=True, seconds=90.0),
    ]
    report = {"search": {"reason": "r", "evaluations": 4, "seconds": 95.0, "points": points, "ranking": []}}
    view = search_view(report)
    assert view is not None
    mixed, trained = view["rungs"]
    assert (mixed["files"], mixed["seconds"], mixed["cost"], mixed["holds"]) == (2, 4.0, 2.0, False)
    assert mixed["points"] == "+3.00 points" and mixed["decibel"] == "+3.00 dB"
    assert trained["name"] == "quantisation-aware training"
    assert (trained["cost"], trained["points"], trained["holds"]) == (1.0, "+4.50 points", True)


def test_precisions_that_were_not_compared_are_not_shown() -> None:
    assert precisions_view({}) is None and precisions_view({"precisions": None}) is None
    assert precisions_line({}) is None


def test_a_figure_that_is_unknown_is_no_zero() -> None:
    row = {
        "precision": "int8", "chosen": True, "bytes": 1000, "ms": None, "ratio": None, "speed": "unknown",
        "drop": None, "agreement": None, "sqnr_db": None, "holds": None, "note": "",
    }  # fmt: skip
    view = precisions_view({"precisions": {"rows": [row], "best": None, "reason": "r"}})
    assert view is not None
    (shown,) = view["rows"]
    assert {shown[k] for k in ("latency", "drop", "agreement", "sqnr", "gates")} == {"not measured"}
    assert shown["speed"] == "unknown" and not shown["best"]

"""float32 against the built file by operator: what a page and a terminal show of it."""

from __future__ import annotations

import copy
from typing import Any

import pytest

from edgekit.report.digest import report_digest
from edgekit.report.render import render_html
from edgekit.report.summary import summary_lines
from edgekit.report.validate import validate_report


def place(where: str, unit: str, *, device: bool, slower: float) -> dict[str, Any]:
    rows = [
        {"kind": "hard swish", "before": 5.0, "after": 5.0 + slower, "before_ops": 19, "after_ops": 19},
        {"kind": "convolution", "before": 400.0, "after": 100.0, "before_ops": 42, "after_ops": 40},
        *(
            {"kind": f"kind {i}", "before": 1.0, "after": 1.0, "before_ops": 1, "after_ops": 1}
            for i in range(12)
        ),
    ]
    scale = 1e4 if unit == "instructions" else 1.0
    return {
        "where": where,
        "device": device,
        "unit": unit,
        "before": 0.5 if unit == "us" else 7e6,
        "after": 1.5 if unit == "us" else 6e6,
        "ratio": 3.0 if unit == "us" else 6 / 7,
        "rows": [{**r, "before": r["before"] * scale, "after": r["after"] * scale} for r in rows],
        "reason": f"int8 on {where} because of <b>hard swish</b>",
    }


@pytest.fixture
def explained(report: dict[str, Any]) -> dict[str, Any]:
    made = copy.deepcopy(report)
    made["by_operator"] = {
        "places": [
            place("emulated cortex-a72", "instructions", device=True, slower=-2.0),
            place("this host (x86_64)", "us", device=False, slower=700.0),
        ],
        "missing": ["no profile by operator on far: cable"],
    }
    return made


def test_the_page_shows_both_places_and_what_is_missing(explained: dict[str, Any]) -> None:
    validate_report({**explained, "digest": "0" * 64})
    page = render_html(explained)
    section = page[page.index('id="operators"') :]
    assert "emulated cortex-a72" in section and "this host (x86_64), which is not the device" in section
    assert "&lt;b&gt;hard swish" in section and "<b>hard swish" not in page
    assert "+700" in section and "42 / 40" in section and "2 kinds that differ less" in section
    assert "no profile by operator on far: cable" in section
    assert 'href="#operators"' in page


def test_a_report_without_profiles_has_no_section(report: dict[str, Any]) -> None:
    assert 'id="operators"' not in render_html(report)
    assert 'id="operators"' not in render_html({**report, "by_operator": None})


def test_the_terminal_says_which_place_is_not_the_device(explained: dict[str, Any]) -> None:
    lines = [text for label, text in summary_lines(explained) if label == "By operator"]
    assert len(lines) == 2
    assert lines[0].startswith("emulated cortex-a72: int8")
    assert lines[1].startswith("this host (x86_64), which is not the device: ")


def test_counts_enter_the_digest_and_times_do_not(explained: dict[str, Any]) -> None:
    before = report_digest(explained)
    explained["by_operator"]["places"][1]["rows"][0]["after"] += 1
    explained["by_operator"]["missing"] = []
    assert report_digest(explained) == before
    explained["by_operator"]["places"][0]["rows"][0]["after"] += 1000
    assert report_digest(explained) != before

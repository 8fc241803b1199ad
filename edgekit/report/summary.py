"""The report in a few lines of text, for a terminal."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from edgekit.report.headline import cards, gate_text, precision_of, status_of
from edgekit.report.operators import operator_lines
from edgekit.report.precisions import precisions_line
from edgekit.report.search import search_line, target_line
from edgekit.report.targets import target_lines


def summary_lines(report: Mapping[str, Any]) -> list[tuple[str, str]]:
    """(label, text) pairs in reading order: status, model, figures before -> after, gates, warnings."""
    status = status_of(report)
    lines = [("Status", f"{status.word}: {status.text}")]
    if status.hint:
        lines.append(("Next", status.hint))
    how = ", ".join(str(x) for x in (report["target"], report["plan"]["delegate"], precision_of(report)) if x)
    lines.append(("Model", f"{report['model']['name']} -> {report['profile']} ({how})"))
    conversion = report.get("conversion") or {"exporter": "", "notes": []}
    if any(not note.startswith(conversion["exporter"]) for note in conversion["notes"]):
        lines.append(("Exporter", f"{conversion['exporter']} ({'; '.join(conversion['notes'])})"))
    for card in cards(report):
        text = f"{card.was} -> {card.value}" if card.was else card.value
        extra = [x for x in (card.change, *card.notes) if x]
        lines.append((card.label, f"{text}  ({'; '.join(extra)})" if extra else text))
    if verdict := report.get("verdict"):
        lines.append(("Verdict", verdict["reason"]))
    if sentence := precisions_line(report):
        lines.append(("Precisions", sentence))
    lines += operator_lines(report)
    for gate in report["gates"]:
        mark = {True: "passed", False: "FAILED", None: "NOT MEASURED"}[gate["passed"]]
        lines.append(("Gate", f"{mark}: {gate_text(gate)}"))
    if sentence := target_line(report):
        lines.append(("Narrowed", sentence))
    if sentence := search_line(report):
        lines.append(("Search", sentence))
    lines += target_lines(report)
    lines += [("Warning", w) for w in report["warnings"]]
    return lines

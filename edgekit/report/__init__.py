"""report.json for programs and report.html for people, both from one dict.

The dict's shape is ``schema.json`` (JSON Schema 2020-12, version 1). A figure that was not measured
is None, never 0.
"""

from __future__ import annotations

from edgekit.report.digest import report_digest
from edgekit.report.render import render_html, write_report
from edgekit.report.summary import summary_lines
from edgekit.report.validate import load_report, validate_report

__all__ = ["load_report", "render_html", "report_digest", "summary_lines", "validate_report", "write_report"]

"""Writes report.json and the self-contained report.html.

The page loads nothing: style and charts are inline and its Content-Security-Policy forbids scripts and
requests. Every text of a report is data: Jinja escapes it, and characters that would hide or reorder
text are shown by their code.
"""

from __future__ import annotations

import functools
import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgekit.report import formats
from edgekit.report.charts import before_after
from edgekit.report.digest import report_digest
from edgekit.report.headline import cards, gate_text, precision_of, status_of
from edgekit.report.layers import layers_view
from edgekit.report.measurements import measurements_view, pairs, plain
from edgekit.report.operators import operators_view
from edgekit.report.precisions import precisions_view
from edgekit.report.search import search_view, target_view
from edgekit.report.targets import companion_table, comparison_text, target_table
from edgekit.report.validate import validate_report
from edgekit.store import write_atomic

if TYPE_CHECKING:
    from jinja2 import Environment

# Controls, bidirectional overrides (they can make a name read as another one) and lone surrogates.
_UNPRINTABLE = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\u200e\u200f\u202a-\u202e\u2066-\u2069\ufeff\ud800-\udfff]"
)


def write_report(report: Mapping[str, Any], out: Path) -> dict[str, Any]:
    """Write ``out``/report.json, then ``out``/report.html, each whole or not at all.

    Sets ``digest``; returns the report as written. Raises StepFailed when the report does not fit the
    schema (nothing is written then) and StoreError when the disk is full.
    """
    finished = {**report, "digest": report_digest(report)}
    validate_report(finished)
    page = render_html(finished)
    write_atomic(out / "report.json", json.dumps(finished, indent=1, allow_nan=False) + "\n")
    write_atomic(out / "report.html", page)
    return finished


def render_html(report: Mapping[str, Any]) -> str:
    """The page of a report that fits the schema."""
    report = _visible(report)
    return (
        _environment()
        .get_template("report.html")
        .render(
            report=report,
            status=status_of(report),
            cards=cards(report),
            precision=precision_of(report),
            layers=layers_view(report["units"]) if report["units"] else None,
            operators=operators_view(report),
            measured=measurements_view(report["measurements"]),
            environment=pairs(report["environment"]),
            provenance=_provenance(report),
            target_table=target_table(report),
            companion_table=companion_table(report),
            comparison=comparison_text(report),
            search=search_view(report),
            aimed=target_view(report),
            precisions=precisions_view(report),
        )
    )


@functools.cache
def _environment() -> Environment:
    from jinja2 import Environment, PackageLoader, StrictUndefined

    env = Environment(
        loader=PackageLoader("edgekit.report", "templates"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    env.filters.update(
        percent=formats.percent,
        db=formats.decibel,
        secs=formats.seconds,
        sig=formats.significant,
        words=formats.words,
        with_unit=formats.with_unit,
        plain=plain,
        pairs=pairs,
        settings=lambda config: [
            f"{k}={v if isinstance(v, str) else json.dumps(v)}" for k, v in config.items()
        ],
        size=lambda n: formats.scale_for([n], "B").text(n),
        megabytes=lambda n: formats.NOT_MEASURED if n is None else f"{n / 1e6:,.0f}",
        kb=lambda n: f"{n / 1e3:,.1f}",
    )
    env.globals.update(gate_text=gate_text, pair_bars=before_after, not_measured=formats.NOT_MEASURED)
    return env


def _visible(value: Any) -> Any:
    """The same data with each hidden character of its texts and keys replaced by its code."""
    if isinstance(value, str):
        return _UNPRINTABLE.sub(lambda m: f"\\u{ord(m.group()):04x}", value)
    if isinstance(value, Mapping):
        return {_visible(k): _visible(v) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [_visible(v) for v in value]
    return value


def _provenance(report: Mapping[str, Any]) -> list[tuple[str, str]]:
    model, found = report["model"], []
    found.append(("model", f"{model['name']} from {model['source']}"))
    found.append(("model sha256", plain(model["sha256"])))
    for role, data in report["data"].items():
        text = "none given" if data is None else f"{data['n']:,} samples from {data['source']}"
        found.append((f"{role} data", text))
        if data and data["sha256"]:
            found.append((f"{role} data sha256", data["sha256"]))
    if conversion := report.get("conversion"):
        found.append(("exporter", conversion["exporter"]))
        found += [("exporter", note) for note in conversion["notes"]]
    found.append(("plan digest", plain(report["plan"].get("digest"))))
    found.append(("report digest", report["digest"]))
    found.append(("seed", plain(report["seed"])))
    found.append(("command", " ".join(report["command"])))
    found.append(("edgekit", report["edgekit_version"]))
    found.append(("written", plain(report["created_at"])))
    return found

"""The shape of report.json: checking a dict before it is written and a file before it is believed."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from edgekit.errors import StepFailed, UserError
from edgekit.jsoncheck import first_problem, load_schema

SCHEMA_VERSION = 1


def report_schema() -> dict[str, Any]:
    """The JSON Schema of report.json. Treat it as read-only."""
    return load_schema("edgekit.report", "schema.json")


def validate_report(report: Mapping[str, Any]) -> None:
    """Raise StepFailed when a report that edgekit made does not fit its own schema."""
    place = next(_non_finite(report, "$"), None)
    problem = f"{place}: the number is not finite" if place else first_problem(report, report_schema())
    if problem:
        raise StepFailed(
            f"the report does not fit its schema at {problem}",
            hint="this is a bug of edgekit: please report it with the line above",
        )


def load_report(path: Path) -> dict[str, Any]:
    """Read a report.json, or the one in the folder ``path``.

    Raises UserError when there is none, it is not JSON, or it does not fit the schema of this version.
    """
    file = path / "report.json" if path.is_dir() else path
    try:
        report = json.loads(file.read_text(encoding="utf-8"))
    except OSError as exc:
        raise UserError(
            f"{file} cannot be read: {exc.strerror}", hint="name a report.json or its folder"
        ) from exc
    except ValueError as exc:
        raise UserError(
            f"{file} is not a report: it is not JSON ({exc})", hint="build again to renew it"
        ) from exc
    version = report.get("schema_version") if isinstance(report, dict) else None
    if version != SCHEMA_VERSION:
        raise UserError(
            f"{file} has schema_version {version!r}; this edgekit reads {SCHEMA_VERSION}",
            hint="read it with the edgekit that wrote it, or build again",
        )
    if problem := first_problem(report, report_schema()):
        raise UserError(f"{file} is not a valid report at {problem}", hint="build again to renew it")
    return dict(report)


def _non_finite(value: Any, place: str) -> Iterator[str]:
    """JSON paths of NaN and infinities, which JSON cannot hold."""
    if isinstance(value, float) and not math.isfinite(value):
        yield place
    elif isinstance(value, Mapping):
        for key, item in value.items():
            yield from _non_finite(item, f"{place}.{key}")
    elif isinstance(value, (list, tuple)):
        for i, item in enumerate(value):
            yield from _non_finite(item, f"{place}[{i}]")

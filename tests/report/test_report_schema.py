"""report.json: what fits the schema, what does not, and reading it back."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from jsonschema import Draft202012Validator

from edgekit.errors import StepFailed, UserError
from edgekit.report import load_report, validate_report, write_report
from edgekit.report.validate import report_schema

Change = Callable[[dict[str, Any]], object]


def test_schema_is_itself_valid() -> None:
    Draft202012Validator.check_schema(report_schema())


def test_schema_has_every_field_of_the_contract() -> None:
    contract = "status profile target model data plan stages accuracy agreement numerics size macs params"
    contract += " units coverage measurements gates warnings schema_version"
    assert set(contract.split()) <= set(report_schema()["required"])


@pytest.mark.parametrize("which", ["report", "gate_failed", "failed"])
def test_good_reports_fit(which: str, request: pytest.FixtureRequest) -> None:
    validate_report(request.getfixturevalue(which))


@pytest.mark.parametrize(
    ("change", "place"),
    [
        (lambda r: r.pop("size"), r"\$: 'size' is a required property"),
        (lambda r: r.update(speed=3), r"\$: Additional properties .*'speed'"),
        (lambda r: r.update(status="fine"), r"\$\.status"),
        (lambda r: r.update(schema_version=2), r"\$\.schema_version"),
        (lambda r: r["units"][3].update(macs="many"), r"\$\.units\[3\]\.macs"),
        (lambda r: r["units"][3].pop("sqnr_db"), r"\$\.units\[3\]: 'sqnr_db'"),
        (lambda r: r["accuracy"].update(ci95=[1.0]), r"\$\.accuracy\.ci95"),
        (lambda r: r["measurements"][0].update(source="guess"), r"\$\.measurements\[0\]\.source"),
        (lambda r: r["stages"][1]["artifact"].update(sha256="abc"), r"\$\.stages\[1\]\.artifact\.sha256"),
        (lambda r: r["size"].update(final_bytes=-1), r"\$\.size\.final_bytes"),
        (lambda r: r["numerics"][0].update(sqnr_db=float("inf")), r"\$\.numerics\[0\]\.sqnr_db.*not finite"),
    ],
)
def test_bad_reports_are_refused_with_the_place(report: dict[str, Any], change: Change, place: str) -> None:
    change(report)
    with pytest.raises(StepFailed, match=place):
        validate_report(report)


def test_nothing_is_written_for_a_report_that_does_not_fit(report: dict[str, Any], tmp_path: Path) -> None:
    report["gates"][0]["limit"] = None
    with pytest.raises(StepFailed):
        write_report(report, tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_written_report_reads_back(report: dict[str, Any], tmp_path: Path) -> None:
    written = write_report(report, tmp_path)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["report.html", "report.json"]
    assert load_report(tmp_path) == load_report(tmp_path / "report.json") == written


def test_lone_surrogates_of_a_file_name_can_be_written(report: dict[str, Any], tmp_path: Path) -> None:
    report["model"]["name"] = "caf\udce9"
    write_report(report, tmp_path)
    assert load_report(tmp_path)["model"]["name"] == "caf\udce9"
    assert r"caf\udce9" in (tmp_path / "report.html").read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        (None, "cannot be read"),
        ("{", "not JSON"),
        ("[]", "schema_version None"),
        ('{"schema_version": 7}', "schema_version 7"),
        ('{"schema_version": 1}', "required property"),
    ],
)
def test_reading_something_else_is_a_user_error(tmp_path: Path, text: str | None, sentence: str) -> None:
    if text is not None:
        (tmp_path / "report.json").write_text(text)
    with pytest.raises(UserError, match=sentence) as caught:
        load_report(tmp_path)
    assert caught.value.hint


def test_report_json_is_plain_json(report: dict[str, Any], tmp_path: Path) -> None:
    write_report(report, tmp_path)

    def refuse(constant: str) -> None:
        raise AssertionError(f"{constant} is not JSON")

    json.loads((tmp_path / "report.json").read_text(), parse_constant=refuse)

"""The digest: blind to clocks and folders, sharp for everything else."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest

from edgekit.report import report_digest

Change = Callable[[dict[str, Any]], object]


def emulated(report: dict[str, Any], metric: str) -> dict[str, Any]:
    return next(m for m in report["measurements"] if m["metric"] == metric and m["source"] == "emulator")


def test_clocks_folders_and_caches_do_not_count(report: dict[str, Any]) -> None:
    other = copy.deepcopy(report)
    other["digest"] = "f" * 64
    other["created_at"] = None
    other["command"] = ["edgekit", "build", "--out", "elsewhere"]
    other["environment"] = {"python": "3.13"}
    other["model"]["source"] = "../elsewhere/entry.py:cifar_resnet20"
    other["data"]["calib"]["source"] = "../elsewhere/entry.py:cifar10_train"
    other["bundle"]["path"] = "elsewhere/bundle"
    for stage in other["stages"]:
        stage.update(seconds=stage["seconds"] + 1, peak_rss_bytes=None, cached=True)
        if stage["artifact"]:
            stage["artifact"]["path"] = "elsewhere"
    for m in other["measurements"]:
        if m["source"] == "host":
            m.update(
                median=m["median"] * 2, p90=None, ci95=None, n=9, samples=[1.0], device={"name": "other"}
            )
        else:
            m["device"] = {**m["device"], "sysroot": "elsewhere"}
    emulated(other, "peak_memory")["median"] += 4096
    emulated(other, "l1d_misses")["median"] += 17
    emulated(other, "instructions")["detail"]["path"] = "elsewhere"
    assert report_digest(other) == report_digest(report)


def test_keys_in_another_order_and_last_bits_of_floats_do_not_count(report: dict[str, Any]) -> None:
    other = dict(reversed(list(report.items())))
    other["accuracy"] = {**report["accuracy"], "final": report["accuracy"]["final"] * (1 + 1e-12)}
    assert report_digest(other) == report_digest(report)


@pytest.mark.parametrize(
    "change",
    [
        lambda r: r.update(seed=1),
        lambda r: r.update(status="gate_failed"),
        lambda r: r["model"].update(sha256="0" * 64),
        lambda r: r["data"]["eval"].update(sha256="0" * 64),
        lambda r: r["stages"][3]["artifact"].update(sha256="0" * 64),
        lambda r: r["accuracy"].update(final=90.77),
        lambda r: r["units"][4].update(sqnr_db=1.0),
        lambda r: r["gates"][0].update(measured=0.3),
        lambda r: r["plan"]["rejected"].pop(),
        lambda r: r["warnings"].append("more"),
        lambda r: emulated(r, "instructions").update(median=1.0),
        lambda r: emulated(r, "output_difference").update(median=1.0),
        lambda r: r["measurements"].pop(),
    ],
)
def test_everything_else_counts(report: dict[str, Any], change: Change) -> None:
    other = copy.deepcopy(report)
    change(other)
    assert report_digest(other) != report_digest(report)


def test_a_gate_on_time_does_not_count_its_figure(report: dict[str, Any]) -> None:
    gate = {
        "name": "latency",
        "limit": 5.0,
        "comparison": "<=",
        "unit": "ms",
        "measured": 4.0,
        "passed": True,
    }
    report["gates"].append(gate)
    other = copy.deepcopy(report)
    other["gates"][-1].update(measured=4.1)
    assert report_digest(other) == report_digest(report)


def test_the_clock_of_a_target_does_not_count_and_its_count_does(several: dict[str, Any]) -> None:
    before = report_digest(several)
    several["targets"][1]["latency_ms"] = 3.25
    assert report_digest(several) == before
    several["targets"][0]["cost"] += 1
    assert report_digest(several) != before
    timed = {**several, "targets": [{**row, "cost_basis": "measured latency"} for row in several["targets"]]}
    before = report_digest(timed)
    timed["targets"][0]["cost"] = 9.0
    assert report_digest(timed) == before

"""Which of several finished targets is taken, and what the report says of the others."""

from __future__ import annotations

import platform
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from edgekit.build.choice import choose
from edgekit.build.comparison import Failed, target_rows
from edgekit.profiles.loader import load_profile
from edgekit.types import Gate, Measurement, MeasurementSource, Rejected

UNIT = {"macs": 10**6, "weight_bytes": 1000, "output_shape": (1, 8), "precision": "int8"}


def candidate(
    target: str,
    *,
    instructions: float | None = None,
    latency: float | None = None,
    fails: str | None = None,
    profile: str = "pi4",
    source: MeasurementSource = "device",
    units: int = 1,
) -> Any:
    """As much of a Candidate as choosing looks at."""
    loaded = load_profile(profile)
    found = [
        Measurement(metric=m, unit="", source=source, median=v, subject="final")
        for m, v in (("instructions", instructions), ("latency", latency))
        if v is not None
    ]
    gate = Gate(
        name=fails or "accuracy_drop",
        limit=1.0,
        comparison="<=",
        unit="points",
        measured=2.0 if fails else 0.5,
    )
    plan = SimpleNamespace(
        target=target,
        scheme=SimpleNamespace(precision="int8"),
        rejected=(Rejected(alternative="target onnx/cpu", reason="an operator is missing"),),
    )
    made = SimpleNamespace(
        scheme=plan.scheme,
        inputs=SimpleNamespace(profile=loaded),
        measurements=found,
        verified={"units": [UNIT] * units},
        final=SimpleNamespace(bytes=1000),
        scores={"accuracy": None, "agreement": None},
        samples_from="eval",
        original=[np.ones((2, 3))],
        outputs=[np.ones((2, 3)) * 1.01],
    )
    runtime, delegate = target.split("/")
    return SimpleNamespace(
        plan=plan,
        made=made,
        target=next((t for t in loaded.targets if (t.runtime, t.delegate) == (runtime, delegate)), None),
        failed_gates=(gate,) if fails else (),
        status="gate_failed" if fails else "ok",
    )


def test_the_fewest_instructions_win() -> None:
    found = choose(
        [candidate("tflite/xnnpack", instructions=9e6), candidate("executorch/xnnpack", instructions=7e6)]
    )
    assert (found.index, found.basis) == (1, "instructions per inference")
    assert found.reason == "fewest instructions per inference among 2 targets"
    assert found.costs == {"tflite/xnnpack": 9e6, "executorch/xnnpack": 7e6}


def test_a_clock_beats_a_count() -> None:
    several = [
        candidate("tflite/xnnpack", instructions=1e6, latency=3.0),
        candidate("executorch/xnnpack", instructions=2e6, latency=2.0),
    ]
    assert choose(several).index == 1
    assert choose(several).basis == "measured latency"


def test_the_host_is_not_the_device() -> None:
    """Milliseconds of an x86 host do not rank files for an Arm board; those of its own kind do."""
    several = [
        candidate("tflite/xnnpack", latency=3.0, source="host", units=1),
        candidate("executorch/xnnpack", latency=2.0, source="host", units=3),
    ]
    assert (choose(several).index, choose(several).basis) == (0, "estimated latency")
    own = f"generic_{platform.machine()}"
    if own != "generic_x86_64":
        pytest.skip(f"no profile of {platform.machine()} hosts")
    several = [
        candidate("tflite/xnnpack", latency=3.0, source="host", profile=own),
        candidate("executorch/xnnpack", latency=2.0, source="host", profile=own),
    ]
    assert (choose(several).index, choose(several).basis) == (1, "measured latency")


def test_a_broken_gate_loses_whatever_the_speed() -> None:
    found = choose(
        [
            candidate("tflite/xnnpack", instructions=9e6),
            candidate("executorch/xnnpack", instructions=1e6, fails="accuracy_drop"),
        ]
    )
    assert found.index == 0
    assert found.reason == "the only target that passes its gates"


def test_when_none_passes_the_cheapest_is_kept_and_it_is_said() -> None:
    found = choose(
        [
            candidate("tflite/xnnpack", instructions=9e6, fails="accuracy_drop"),
            candidate("executorch/xnnpack", instructions=1e6, fails="accuracy_drop"),
        ]
    )
    assert found.index == 1 and found.reason.endswith("no target passes its gates")


def test_without_counts_the_estimate_decides() -> None:
    found = choose([candidate("tflite/xnnpack", units=3), candidate("executorch/xnnpack", units=1)])
    assert (found.index, found.basis, found.unit) == (1, "estimated latency", "ms")


def test_figures_that_not_all_have_compare_nothing() -> None:
    """A count of one target says nothing about another that could not be counted or estimated."""
    found = choose([candidate("tflite/xnnpack", instructions=9e6), candidate("torchscript/qnnpack")])
    assert (found.index, found.basis) == (0, "order")
    assert "profile's order" in found.reason


def test_nothing_to_choose_from_is_a_bug() -> None:
    with pytest.raises(ValueError, match="nothing"):
        choose([])


def test_the_table_has_every_target_once_the_chosen_first() -> None:
    built = [
        candidate("tflite/xnnpack", instructions=9e6),
        candidate("executorch/xnnpack", instructions=7e6),
        candidate("onnx/cpu", instructions=1e6, fails="agreement"),
    ]
    broken = SimpleNamespace(target="torchscript/qnnpack", scheme=SimpleNamespace(precision="int8"))
    rows = target_rows(built, [Failed(plan=broken, error="it broke")], choose(built))
    assert [(r["target"], r["status"], r["chosen"]) for r in rows] == [
        ("executorch/xnnpack", "ok", True),
        ("tflite/xnnpack", "ok", False),
        ("onnx/cpu", "gate_failed", False),
        ("torchscript/qnnpack", "failed", False),
    ]
    assert rows[2]["reason"] == "fails agreement" and rows[3]["reason"] == "it broke"
    assert rows[0]["sqnr_db"] == pytest.approx(40.0)
    assert rows[3]["bytes"] is None and rows[3]["instructions"] is None


def test_a_refused_target_has_its_reason() -> None:
    built = [candidate("tflite/xnnpack", instructions=9e6)]
    rows = target_rows(built, [], choose(built))
    assert (rows[1]["target"], rows[1]["status"]) == ("onnx/cpu", "not built")
    assert rows[1]["reason"] == "an operator is missing"

"""int8, fp16 and float32 side by side: what each costs and loses on a device, and which is best there."""

from __future__ import annotations

import html
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from edgekit.build.precisions import compare_precisions
from edgekit.errors import StepFailed
from edgekit.measure.estimate import Estimate
from edgekit.profiles.loader import load_profile
from edgekit.types import Gate, Scheme

ORIGINAL = [np.eye(4, dtype=np.float32)]
NOISE = {"float32": 0.0, "fp16": 1e-3, "int8": 0.1}
BYTES = {"float32": 4000, "fp16": 2000, "int8": 1000}


def estimate(ms: float) -> Estimate:
    return Estimate(
        ms=ms, runtime="r", calibration="public", interval=(ms, ms), sigma=0.1, threads=1, profile="p",
        n_points=0, validated_on="", shares={}, gradient=(), covariance=(), macs=1.0, bytes=1, known=True,
        assumes=(), warnings=(), ops=(),
    )  # fmt: skip


def file(precision: str) -> Any:
    return SimpleNamespace(precision=precision, bytes=BYTES[precision], sha256=precision)


def outputs(precision: str) -> list[Any]:
    return [ORIGINAL[0] + np.float32(NOISE[precision])]


class Lowering:
    """Makes fp16 files; has no labels, so that SQNR alone tells them apart."""

    samples_from = "eval"

    def __init__(self, error: Exception | None = None) -> None:
        self.error = error
        self.made: list[Scheme] = []

    def scores(self, original: Any, got: Any) -> dict[str, Any]:
        return {"accuracy": None, "agreement": None}

    def companion(self, float_file: Any, scheme: Scheme, label: str) -> tuple[Any, list[Any]]:
        self.made.append(scheme)
        if self.error is not None:
            raise self.error
        return file("fp16"), outputs("fp16")


def compared(
    profile: str = "pi4",
    *,
    final: str = "int8",
    ms: dict[str, float] | None = None,
    least_db: float = 0.0,
    lowering: Any = None,
    runtime: str = "tflite",
    overrides: dict[str, Any] | None = None,
) -> Any:
    device = load_profile(profile)
    target = next(t for t in device.targets if t.runtime == runtime)
    gate = Gate(name="output_sqnr", limit=least_db, comparison=">=", unit="dB")
    made: Any = SimpleNamespace(
        samples_from="eval",
        plan=SimpleNamespace(gates=(gate,), scheme=Scheme(precision="int8", trained=((0, 1, 0, 1),))),
        inputs=SimpleNamespace(profile=device),
        float_file=file("float32"),
        float_outputs=outputs("float32"),
        final=file(final),
        outputs=outputs(final),
        original=ORIGINAL,
        scheme=Scheme(precision=final, overrides=overrides or {}),
    )
    known = {"float32": 10.0, "fp16": 10.0, "int8": 4.0} if ms is None else ms
    costs: Any = SimpleNamespace(
        estimate=lambda f: estimate(known[f.precision]) if f.precision in known else None
    )
    planned = (file("int8"), outputs("int8"))
    return compare_precisions(made, planned, lowering or Lowering(), target, costs)


def by_precision(found: Any) -> dict[str, Any]:
    return {r["precision"]: r for r in found["rows"]}


def test_each_has_size_cost_and_loss() -> None:
    found = compared()
    rows = by_precision(found)
    assert [*rows] == ["float32", "int8", "fp16"]
    assert rows["int8"]["speed"] == "faster" and rows["int8"]["ratio"] == 2.5
    assert rows["int8"]["sqnr_db"] < rows["fp16"]["sqnr_db"] < rows["float32"]["sqnr_db"]
    assert rows["int8"]["chosen"] and not rows["fp16"]["chosen"]
    assert found["best"] == "int8" and "best for this device by these figures: int8" in found["reason"]
    assert "--set" not in found["reason"]


def test_cores_without_fp16_arithmetic_gain_nothing_from_it() -> None:
    pi4, pi5 = (by_precision(compared(name))["fp16"] for name in ("pi4", "pi5"))
    assert pi4["speed"] == pi5["speed"] == "same" and pi4["ms"] == 10.0 and pi4["bytes"] == 2000
    assert "no fp16 arithmetic" in pi4["note"]
    assert "FORCE_FP16" in pi5["note"], "the cores could, and the runtime does so on demand only"


def test_int8_that_is_slower_loses_to_fp16() -> None:
    found = compared(ms={"float32": 10.0, "fp16": 10.0, "int8": 30.0})
    assert by_precision(found)["int8"]["speed"] == "slower"
    assert found["best"] == "fp16" and "(--set quantize.precision=fp16)" in found["reason"]


def test_a_precision_that_breaks_a_gate_is_not_the_best() -> None:
    found = compared(least_db=30.0)
    rows = by_precision(found)
    assert rows["int8"]["holds"] is False and rows["fp16"]["holds"] is True
    assert found["best"] == "fp16" and "breaks a gate" in found["reason"]
    assert compared(least_db=1e4)["best"] is None


def test_the_int8_file_that_a_search_left_is_compared_all_the_same() -> None:
    lowering = Lowering()
    rows = by_precision(compared(final="fp16", lowering=lowering))
    assert rows["fp16"]["chosen"] and rows["int8"]["bytes"] == 1000
    assert lowering.made == [], "the fp16 file is there already"


def test_the_fp16_file_has_no_wishes_of_int8() -> None:
    lowering = Lowering()
    compared(lowering=lowering)
    (scheme,) = lowering.made
    assert scheme.precision == "fp16" and scheme.trained == () and scheme.overrides == {}


def test_mixed_precision_is_said() -> None:
    rows = by_precision(compared(overrides={"a": "float32", "b": "float32"}))
    assert "2 operators in float32" in rows["int8"]["note"]


def test_without_an_estimate_speed_is_unknown_and_size_decides() -> None:
    found = compared(ms={})
    assert by_precision(found)["int8"]["speed"] == "unknown" and "no estimate" in found["reason"]
    assert found["best"] == "int8"


@pytest.mark.parametrize(
    ("runtime", "lowering", "words"),
    [
        ("executorch", None, "no fp16 for executorch/xnnpack on this device"),
        ("tflite", Lowering(StepFailed("too large")), "no fp16 file could be made: too large"),
    ],
)
def test_where_there_is_no_fp16_file_the_reason_says_why(runtime: str, lowering: Any, words: str) -> None:
    found = compared(runtime=runtime, lowering=lowering)
    assert "fp16" not in by_precision(found) and words in found["reason"]


def test_random_samples_say_nothing() -> None:
    made: Any = SimpleNamespace(samples_from="random")
    nothing: Any = None
    assert compare_precisions(made, (nothing, []), nothing, nothing, nothing) is None


def test_a_build_has_the_table_in_report_and_page(tiny_build: Any) -> None:
    found = tiny_build.built.report["precisions"]
    rows = by_precision(found)
    assert {*rows} == {"float32", "int8", "fp16"}
    assert rows["int8"]["bytes"] < rows["fp16"]["bytes"] < rows["float32"]["bytes"]
    assert rows["fp16"]["sqnr_db"] > rows["int8"]["sqnr_db"]
    assert rows["fp16"]["ms"] == rows["float32"]["ms"] and "no fp16 arithmetic" in rows["fp16"]["note"]
    page = html.unescape((tiny_build.built.folder / "report.html").read_text())
    assert 'id="precisions"' in page and found["reason"] in page


def test_a_gpu_has_no_int8_and_the_reason_says_so() -> None:
    device = load_profile("android_gpu")
    target = device.targets[0]
    made: Any = SimpleNamespace(
        samples_from="eval",
        plan=SimpleNamespace(gates=(), scheme=Scheme(precision="fp16")),
        inputs=SimpleNamespace(profile=device),
        float_file=file("float32"),
        float_outputs=outputs("float32"),
        final=file("fp16"),
        outputs=outputs("fp16"),
        original=ORIGINAL,
        scheme=Scheme(precision="fp16"),
    )
    costs: Any = SimpleNamespace(estimate=lambda f: None)
    lowering: Any = Lowering()
    found = compare_precisions(made, (file("fp16"), outputs("fp16")), lowering, target, costs)
    assert found is not None and [*by_precision(found)] == ["float32", "fp16"]
    assert "no int8 for tflite/gpu" in found["reason"] and found["best"] == "fp16"
    assert by_precision(found)["fp16"]["holds"] is None, "there is no gate of accuracy"

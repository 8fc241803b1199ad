"""A report as a build of cifar_resnet20 for the Raspberry Pi 4 gives it: plausible figures, full shape."""

from __future__ import annotations

import hashlib
from typing import Any

import pytest


def sha(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def unit(name: str, op: str, macs: int, size: int, sqnr: float | None, instructions: int) -> dict[str, Any]:
    precision = "float32" if op == "SOFTMAX" else "int8"
    return {
        "name": name,
        "op": op,
        "precision": precision,
        "sqnr_db": sqnr,
        "macs": macs,
        "bytes": size,
        "instructions": instructions,
    }


def resnet20_units() -> list[dict[str, Any]]:
    """31 operators: stem, nine blocks of two convolutions and an addition, mean, classifier."""
    units = [unit("conv1", "CONV_2D", 442_368, 592, 41.2, 1_020_000)]
    sqnr = 40.0
    for stage, (width, pixels) in enumerate(((16, 1024), (32, 256), (64, 64)), start=1):
        for block in range(3):
            for conv in (1, 2):
                narrow = conv == 1 and block == 0 and stage > 1
                inner = width // 2 if narrow else width
                macs, size = pixels * width * inner * 9, width * inner * 9 + 8 * width
                sqnr -= 0.45 if (stage, block, conv) != (3, 1, 2) else 5.3
                name = f"layer{stage}.{block}.conv{conv}"
                units.append(unit(name, "CONV_2D", macs, size, round(sqnr, 2), int(macs * 0.62) + 9_000))
            sqnr += 0.1
            add = unit(f"layer{stage}.{block}.add", "ADD", 0, 0, round(sqnr, 2), width * pixels * 2)
            units.append(add)
    units.append(unit("avgpool", "MEAN", 0, 0, 34.4, 9_100))
    units.append(unit("linear", "FULLY_CONNECTED", 640, 680, 30.6, 4_300))
    units.append(unit("softmax", "SOFTMAX", 0, 0, None, 700))
    return units


def gate(
    name: str, comparison: str, limit: float, unit_name: str, measured: float | None, why: str
) -> dict[str, Any]:
    passed = None if measured is None else measured <= limit if comparison == "<=" else measured >= limit
    return {
        "name": name,
        "comparison": comparison,
        "limit": limit,
        "unit": unit_name,
        "measured": measured,
        "passed": passed,
        "reason": why,
    }


def measurement(
    metric: str, unit_name: str, source: str, subject: str, median: float | None, **more: Any
) -> dict[str, Any]:
    a72 = {
        "name": "qemu-aarch64 7.2",
        "cpu": "cortex-a72",
        "arch": "aarch64",
        "persona": "Raspberry Pi 4 Model B",
    }
    host = {"name": "local", "cpu": "x86-64, 2 cores", "arch": "x86_64"}
    return {
        "metric": metric,
        "unit": unit_name,
        "source": source,
        "median": median,
        "samples": [],
        "warmup": 2,
        "p90": None,
        "ci95": None,
        "n": 5,
        "subject": subject,
        "threads": 1,
        "device": a72 if source == "emulator" else host,
        "detail": {},
        **more,
    }


def resnet20_measurements(units: list[dict[str, Any]]) -> list[dict[str, Any]]:
    ops = [{"name": u["name"], "op": u["op"], "instructions": u["instructions"]} for u in units]
    final_classes = {
        "simd_int": 17_100_000,
        "simd_load": 5_400_000,
        "integer": 2_410_000,
        "branch": 1_120_000,
        "load": 640_000,
        "store": 351_000,
        "simd_fp": 12_400,
    }
    base_classes = {
        "simd_fp": 21_300_000,
        "simd_load": 6_100_000,
        "integer": 2_900_000,
        "branch": 1_340_000,
        "load": 402_000,
        "store": 377_000,
        "simd_int": 4_100,
    }
    final, base = float(sum(final_classes.values())), float(sum(base_classes.values()))
    modelled = {"modelled": True, "ways": 2, "kib": 32}
    return [
        measurement(
            "instructions", "instructions", "emulator", "baseline", base, detail={"classes": base_classes}
        ),
        measurement(
            "instructions",
            "instructions",
            "emulator",
            "final",
            final,
            detail={"classes": final_classes, "ops": ops},
        ),
        measurement("l1d_misses", "misses", "emulator", "baseline", 913_224.0, detail=modelled),
        measurement("l1d_misses", "misses", "emulator", "final", 241_883.0, detail=modelled),
        measurement(
            "l2_misses", "misses", "emulator", "baseline", 18_112.0, detail={"modelled": True, "kib": 1024}
        ),
        measurement(
            "l2_misses", "misses", "emulator", "final", 5_204.0, detail={"modelled": True, "kib": 1024}
        ),
        measurement("peak_memory", "bytes", "emulator", "baseline", 28_311_552.0, n=1),
        measurement("peak_memory", "bytes", "emulator", "final", 24_903_680.0, n=1),
        measurement("latency", "ms", "emulator", "final", None, n=0),
        measurement(
            "output_difference",
            "steps",
            "emulator",
            "final",
            0.0,
            detail={"bit_identical": True, "samples": 8},
        ),
        measurement(
            "latency", "ms", "host", "baseline", 0.4981, p90=0.5312, ci95=[0.4902, 0.5075], n=50, warmup=10
        ),
        measurement(
            "latency", "ms", "host", "final", 0.1863, p90=0.1951, ci95=[0.1832, 0.1899], n=50, warmup=10
        ),
    ]


def stage(
    name: str, seconds: float, rss: int | None, cached: bool, artifact: tuple[str, str, int] | None
) -> dict[str, Any]:
    made = None
    if artifact:
        kind, precision, size = artifact
        made = {
            "path": f"{name}.{kind}",
            "format": kind,
            "precision": precision,
            "bytes": size,
            "sha256": sha(name),
        }
    return {"name": name, "seconds": seconds, "peak_rss_bytes": rss, "cached": cached, "artifact": made}


def numerics(
    name: str, reference: str, figures: tuple[float | None, float | None, float, float], worst: str
) -> dict[str, Any]:
    sqnr, cosine, max_abs, max_rel = figures
    return {
        "stage": name,
        "reference": reference,
        "sqnr_db": sqnr,
        "cosine": cosine,
        "max_abs": max_abs,
        "max_rel": max_rel,
        "n": 64,
        "worst_layer": worst,
    }


def resnet20_report() -> dict[str, Any]:
    units = resnet20_units()
    gates = [
        gate("accuracy_drop", "<=", 0.6, "points", 0.2, "--max-drop 0.6"),
        gate("agreement", ">=", 98.0, "%", 98.82, "the files should decide alike even where labels are few"),
        gate("output_sqnr", ">=", 20.0, "dB", 30.51, "below this, INT8 outputs are not to be trusted"),
        gate("int8_share", ">=", 95.0, "%", 100.0, "int8 was asked for: the file must be int8"),
        gate("emulator_output_difference", "<=", 0.0, "steps", 0.0, "int8 is exact on every CPU"),
    ]
    planned = [{k: v for k, v in g.items() if k not in ("measured", "passed")} for g in gates]
    return {
        "schema_version": 1,
        "edgekit_version": "0.1.0",
        "created_at": "2026-11-22T18:04:11Z",
        "command": [
            "edgekit",
            "build",
            "entry.py:cifar_resnet20",
            "--profile",
            "pi4",
            "--input-shape",
            "1,3,32,32",
        ],
        "seed": 0,
        "digest": sha("not yet"),
        "status": "ok",
        "error": None,
        "profile": "pi4",
        "profile_title": "Raspberry Pi 4 Model B",
        "target": "tflite",
        "model": {
            "name": "cifar_resnet20",
            "source": "entry.py:cifar_resnet20",
            "sha256": sha("model"),
            "params": 269_722,
            "macs": 40_551_040,
            "task": "classification",
            "trainable": True,
            "inputs": [{"name": "x", "shape": [1, 3, 32, 32], "dtype": "float32", "layout": "NCHW"}],
            "outputs": [{"name": "logits", "shape": [1, 10], "dtype": "float32", "layout": None}],
        },
        "data": {
            "calib": {"source": "entry.py:cifar10_train", "sha256": sha("calib"), "n": 256, "labelled": True},
            "eval": {"source": "entry.py:cifar10_test", "sha256": sha("eval"), "n": 509, "labelled": True},
            "train": None,
        },
        "plan": {
            "profile": "pi4",
            "target": "tflite",
            "backend": "tflite",
            "delegate": "xnnpack",
            "reason": "The profile prefers it, and Cortex-A72 has fast int8 kernels there.",
            "digest": sha("plan"),
            "scheme": {"precision": "int8", "calibration": "auto", "per_channel": True, "io": "float"},
            "steps": [
                {"name": "export", "config": {"opset": 18}, "reason": "ONNX is the way from torch to TFLite"},
                {
                    "name": "convert",
                    "config": {"keep_nchw": False},
                    "reason": "NHWC avoids transposes around each convolution on XNNPACK",
                },
                {
                    "name": "quantize",
                    "config": {"precision": "int8", "per_channel": True, "calibration": ["minmax", "mse"]},
                    "reason": "the profile's first precision; calibration data is there",
                },
                {
                    "name": "verify",
                    "config": {"samples": 509},
                    "reason": "labelled evaluation data: accuracy gate",
                },
                {"name": "measure", "config": {"link": "emulator"}, "reason": "no device was named"},
            ],
            "rejected": [
                {
                    "alternative": "structured pruning",
                    "reason": "needs --train: without fine-tuning it costs accuracy",
                },
                {
                    "alternative": "float16",
                    "reason": "Cortex-A72 has no fp16 arithmetic: half the size, no speed",
                },
                {
                    "alternative": "dynamic range",
                    "reason": "static INT8 is faster, and calibration data is there",
                },
                {"alternative": "GPU delegate", "reason": "not on VideoCore VI"},
            ],
            "gates": planned,
            "warnings": [],
        },
        "stages": [
            stage("load", 1.92, 512_000_000, False, None),
            stage("export", 3.41, 702_000_000, False, ("onnx", "float32", 1_102_331)),
            stage("convert", 9.12, 1_083_000_000, False, ("tflite", "float32", 1_091_468)),
            stage("quantize", 4.87, 741_000_000, False, ("tflite", "int8", 305_656)),
            stage("verify", 2.18, 688_000_000, False, None),
            stage("measure", 5.03, 210_000_000, True, None),
        ],
        "accuracy": {
            "metric": "top-1",
            "baseline": 91.16,
            "final": 90.96,
            "drop": 0.2,
            "n": 509,
            "ci95": [88.15, 93.16],
            "drop_ci95": [-0.59, 0.98],
        },
        "agreement": {"top1": 98.82, "n": 509},
        "numerics": [
            numerics("onnx", "torch", (134.2, 1.0, 2.1e-6, 1.4e-7), "layer3.2.conv2"),
            numerics("tflite_float32", "torch", (128.7, 1.0, 3.3e-6, 2.4e-7), "layer3.2.conv2"),
            numerics("tflite_int8", "torch", (30.51, 0.99955, 0.6112, 0.0421), "layer3.1.conv2"),
            numerics("tflite_int8_emulated", "tflite_int8", (None, 1.0, 0.0, 0.0), ""),
        ],
        "size": {"baseline_bytes": 1_091_468, "final_bytes": 305_656, "ratio": 1_091_468 / 305_656},
        "macs": {"baseline": 40_551_040, "final": 40_551_040},
        "params": {"baseline": 269_722, "final": 269_722},
        "units": units,
        "coverage": {
            "delegate": "xnnpack",
            "ops": 31,
            "accelerated": 30,
            "int8_ops": 30,
            "int8_share": 100.0,
            "transposes": 0,
            "not_accelerated": [
                {"index": 30, "op": "SOFTMAX", "reason": "float32 by request: the last layer"}
            ],
        },
        "calibration": {
            "chosen": "minmax",
            "n": 224,
            "reason": "It has the higher SQNR on 32 held-back samples, and no lower agreement.",
            "candidates": [
                {"name": "minmax", "sqnr_db": 30.51, "agreement": 100.0},
                {"name": "mse", "sqnr_db": 29.87, "agreement": 100.0},
            ],
        },
        "pruning": None,
        "measurements": resnet20_measurements(units),
        "gates": gates,
        "bundle": {
            "path": "bundle",
            "files": [
                {"path": "model.tflite", "bytes": 305_656, "sha256": sha("quantize")},
                {"path": "manifest.json", "bytes": 4_811, "sha256": sha("manifest")},
                {"path": "run.py", "bytes": 12_204, "sha256": sha("run")},
            ],
        },
        "environment": {
            "python": "3.11.2",
            "platform": "Linux 6.1 x86_64",
            "cores": 2,
            "packages": {"torch": "2.13.0", "onnx2tf": "1.28.8", "ai-edge-litert": "2.3.0"},
            "tools": {"qemu-aarch64": "7.2.15"},
        },
        "warnings": ["the evaluation set has 509 samples: a drop below 1.2 points is within its noise"],
    }


def pruned_report() -> dict[str, Any]:
    """The built-in demo: pruned, fine-tuned, one gate broken."""
    report = resnet20_report()
    report["model"] = {**report["model"], "name": "digits_net"}
    report["macs"] = {"baseline": 40_551_040, "final": 20_100_352}
    report["params"] = {"baseline": 269_722, "final": 133_210}
    history = [{"epoch": e, "loss": 1.4 / (e + 1), "accuracy": 97.9 - 6.0 / (e + 1)} for e in range(8)]
    report["pruning"] = {
        "ratio": 0.3,
        "groups": [{"name": f"layer{i}", "before": 16 * 2**i, "after": 8 * 2**i} for i in range(3)],
        "finetune": {"epochs": 8, "best_epoch": 6, "history": history},
    }
    report["gates"][0] = gate("accuracy_drop", "<=", 0.6, "points", 1.4, "--max-drop 0.6")
    report["accuracy"] = {**report["accuracy"], "final": 89.76, "drop": 1.4}
    report["status"] = "gate_failed"
    return report


def failed_report() -> dict[str, Any]:
    """A build that died in conversion: almost nothing is known."""
    report = resnet20_report()
    nothing = {"baseline": None, "final": None}
    report.update(
        status="failed",
        error={
            "stage": "convert",
            "type": "ConversionError",
            "message": "onnx2tf does not know the operator GridSample at grid/GridSample_3",
            "hint": "replace the operator, or choose another target",
        },
        stages=report["stages"][:2],
        accuracy=None,
        agreement=None,
        numerics=[],
        size={"baseline_bytes": None, "final_bytes": None, "ratio": None},
        macs=nothing,
        params=nothing,
        units=[],
        coverage=None,
        calibration=None,
        measurements=[],
        gates=[{**g, "measured": None, "passed": None} for g in report["gates"]],
        bundle=None,
        warnings=[],
    )
    return report


def target_row(target: str, status: str, **figures: Any) -> dict[str, Any]:
    names = ("bytes", "accuracy", "agreement", "sqnr_db", "instructions", "latency_ms", "cost", "cost_basis")
    row = {"target": target, "precision": "int8", "status": status, "chosen": False, "reason": ""}
    return {**row, **dict.fromkeys(names), **figures}


def with_targets(report: dict[str, Any]) -> dict[str, Any]:
    """The report of a build of several targets, with a further file in the bundle."""
    basis = "instructions per inference"
    common = {"accuracy": report["accuracy"], "agreement": report["agreement"], "cost_basis": basis}
    report["targets"] = [
        target_row(
            "tflite/xnnpack",
            "ok",
            chosen=True,
            reason="fewest instructions per inference among 2 targets",
            bytes=305_120,
            sqnr_db=30.1,
            instructions=31_000_000,
            cost=31_000_000,
            **common,
        ),
        target_row(
            "executorch/xnnpack", "gate_failed", reason="fails accuracy_drop", bytes=315_000, **common
        ),
        target_row("torchscript/qnnpack", "failed", reason="the converter stopped"),
        target_row("onnx/cpu", "not built", precision=None, reason="aten.fft_fft at net.odd: has no kernel"),
    ]
    report["companions"] = [
        {
            "precision": "fp16",
            "bytes": 560_000,
            "sha256": sha("fp16"),
            "accuracy": report["accuracy"],
            "agreement": report["agreement"],
            "sqnr_db": 61.0,
        }
    ]
    return report


@pytest.fixture
def several() -> dict[str, Any]:
    return with_targets(resnet20_report())


@pytest.fixture
def report() -> dict[str, Any]:
    return resnet20_report()


@pytest.fixture
def gate_failed() -> dict[str, Any]:
    return pruned_report()


@pytest.fixture
def failed() -> dict[str, Any]:
    return failed_report()

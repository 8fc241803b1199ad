"""The steps of a plan, each with its reason."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from edgekit.plan.request import CALIBRATED, Request
from edgekit.types import PlanStep, Precision, Scheme

if TYPE_CHECKING:
    from edgekit.profiles.schema import DeviceProfile, Target

PARITY_LIMIT = 1e-3
"""Largest relative difference between a float stage and its source."""

_CONVERSIONS = {
    "tflite": "torch to ONNX to float32 TFLite, each compared with its source on real inputs",
    "executorch": "torch.export to a float32 .pte, compared with its source on real inputs",
    "onnx": "torch to ONNX, compared with its source on real inputs",
    "torchscript": "torch to float32 TorchScript, compared with its source on real inputs",
}


def plan_steps(
    compress: Sequence[PlanStep],
    search: PlanStep | None,
    target: Target,
    scheme: Scheme,
    companions: Sequence[Scheme],
    settings: Mapping[str, Any],
    profile: DeviceProfile,
    request: Request,
) -> tuple[PlanStep, ...]:
    """``compress`` and then what makes the files."""
    steps = list(compress)
    steps.append(
        PlanStep(
            name="convert",
            config={"keep_nchw": scheme.keep_nchw, "parity_limit": PARITY_LIMIT},
            reason=_CONVERSIONS[target.runtime],
        )
    )
    if scheme.precision in CALIBRATED:
        steps.append(
            PlanStep(
                name="quantize",
                config={
                    "precision": scheme.precision,
                    "calibration": scheme.calibration,
                    "per_channel": scheme.per_channel,
                    "io": scheme.io,
                    "samples": settings["calib.samples"],
                    **_unusual(settings),
                },
                reason=_why(scheme.precision),
            )
        )
    elif scheme.precision != "float32":
        steps.append(
            PlanStep(name="quantize", config={"precision": scheme.precision}, reason=_why(scheme.precision))
        )
    if search is not None:
        steps.append(search)
    for other in companions:
        steps.append(
            PlanStep(
                name="companion",
                config={"precision": other.precision},
                reason="in the same bundle: the device measures both files and keeps the faster one that "
                "computes the golden samples",
            )
        )
    steps.append(
        PlanStep(name="verify", config={}, reason="every stage against the original on the same inputs")
    )
    device = request.device or ("emulator" if profile.emulator is not None else None)
    if device is not None:
        steps.append(
            PlanStep(name="measure", config={"device": device}, reason=_measure_reason(device, profile))
        )
    steps.append(PlanStep(name="bundle", config={}, reason="model, manifest, golden samples and run.py"))
    return tuple(steps)


def _unusual(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Wishes that only few builds have."""
    found: dict[str, Any] = {}
    if settings["quantize.form"] != "original":
        found["form"] = settings["quantize.form"]
    if settings["quantize.keep"]:
        found["keep"] = list(settings["quantize.keep"])
    return found


def _why(precision: Precision) -> str:
    return {
        "int8": "static int8, activations calibrated: the fastest kernels of the target",
        "int16x8": "int8 weights, calibrated int16 activations: nearly exact, but few kernels are fast",
        "fp16": "half the size, nearly exact, needs no data",
        "dynamic": "int8 weights, float activations: a quarter of the size, needs no data",
    }[precision]


def _measure_reason(device: str, profile: DeviceProfile) -> str:
    if device == "emulator" and profile.emulator is not None:
        return f"instructions per inference on an emulated {profile.emulator.cpu}, outputs against the host's"
    return f"run the file on {device}"

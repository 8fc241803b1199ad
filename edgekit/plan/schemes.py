"""The precision of a target."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Literal

from edgekit.errors import UserError
from edgekit.plan.request import CALIBRATED, DataFacts, Request
from edgekit.types import Precision, Rejected, Scheme

if TYPE_CHECKING:
    from edgekit.profiles.schema import DeviceProfile, Target


_ON_CORES = frozenset({"xnnpack", "cpu", "qnnpack"})

_NO_INT8 = {
    "gpu": "the GPU delegate computes in float: int8 weights would be dequantised when the model is loaded, "
    "which costs accuracy and start-up time and gains no speed",
    "tensorrt": "this GPU has no int8 arithmetic",
}


def plan_scheme(
    profile: DeviceProfile,
    target: Target,
    data: DataFacts,
    request: Request,
    settings: Mapping[str, Any],
    rejected: list[Rejected],
    warnings: list[str],
) -> Scheme:
    wanted: Precision | None = settings["quantize.precision"]
    has_data = data.calib > 0 or data.train > 0
    if wanted in CALIBRATED and not has_data:
        raise UserError(
            f"{wanted} needs calibration data", hint="give --calib, or --set quantize.precision=dynamic"
        )
    if wanted is None:
        wanted = _planned_precision(profile, target, rejected, has_data=has_data)
    else:
        rejected.append(
            Rejected(
                alternative="a precision chosen by the planner", reason=f"quantize.precision={wanted} was set"
            )
        )
    if wanted in CALIBRATED and data.calib == 1:
        raise UserError(
            f"{wanted} needs at least 2 calibration samples, and there is 1",
            hint="give more with --calib, or --set quantize.precision=dynamic",
        )
    if not data.any:
        warnings.append(
            f"no data was given: the file is {wanted} and its accuracy is not verified on real inputs; "
            "give --calib and --eval for int8 with gates"
        )
    _check_form(wanted, settings)
    return Scheme(
        precision=wanted,
        calibration=settings["quantize.calibration"],
        per_channel=settings["quantize.per_channel"],
        io=_io(target, wanted, settings),
        keep_nchw=request.keep_nchw,
        delegate=target.delegate,
        delegate_version=target.version if target.delegate == "tensorrt" else "",
        overrides=_kept(wanted, settings),
        float_ops=_float_ops(target, wanted, settings, rejected),
    )


def _float_ops(
    target: Target, wanted: Precision, settings: Mapping[str, Any], rejected: list[Rejected]
) -> tuple[str, ...]:
    """Operators by type that stay in float32: those that were set, else the target's."""
    chosen: tuple[str, ...] | None = settings["quantize.float_ops"]
    if wanted != "int8":
        if chosen:
            raise UserError(
                f"quantize.float_ops was set, but the file is {wanted}",
                hint="leave it away, or --set quantize.precision=int8",
            )
        return ()
    if chosen is not None:
        return chosen
    if target.float_ops:
        rejected.append(
            Rejected(
                alternative=f"{', '.join(target.float_ops)} in int8, where the model has such operators",
                reason="the profile says that they are faster in float32 on this target; "
                "--set quantize.float_ops=none quantises them",
            )
        )
    return target.float_ops


def _kept(wanted: Precision, settings: Mapping[str, Any]) -> dict[str, Precision]:
    """Units that were asked to stay in float32."""
    keep: tuple[str, ...] = settings["quantize.keep"]
    if keep and wanted not in ("int8", "int16x8", "dynamic"):
        raise UserError(
            f"quantize.keep was set, but the file is {wanted} throughout",
            hint="leave it away, or --set quantize.precision=int8",
        )
    return dict.fromkeys(keep, "float32")


def _check_form(wanted: Precision, settings: Mapping[str, Any]) -> None:
    """Raise UserError where equalised channels were asked for and cannot be had, or would change nothing."""
    form = settings["quantize.form"]
    if form == "original":
        return
    if wanted not in CALIBRATED:
        raise UserError(
            f"quantize.form={form} was set, but the file is {wanted}, which gains nothing by it",
            hint="leave it away, or give --calib and --set quantize.precision=int8",
        )
    if settings["qat.epochs"] > 0:
        raise UserError(
            f"quantize.form={form} and qat.epochs exclude each other: trained ranges belong to the channels "
            "that training has seen",
            hint="leave one of them away",
        )


def _io(target: Target, precision: Precision, settings: Mapping[str, Any]) -> Literal["float", "int8"]:
    """Type of inputs and outputs: what was set, else float; int8 where a float operator splits the graph."""
    chosen: Literal["float", "int8"] | None = settings["quantize.io"]
    if chosen is not None:
        return chosen
    return "int8" if precision == "int8" and target.delegate == "nnapi" else "float"


def _planned_precision(
    profile: DeviceProfile, target: Target, rejected: list[Rejected], *, has_data: bool
) -> Precision:
    fp16_arithmetic = "fp16" in profile.isa
    if "int8" not in target.precisions and target.delegate in _NO_INT8:
        rejected.append(Rejected(alternative="static int8", reason=_NO_INT8[target.delegate]))
    if has_data and "int8" in target.precisions:
        if "fp16" in target.precisions and target.delegate != "tensorrt":
            on_cores = not fp16_arithmetic and profile.cores and target.delegate in _ON_CORES
            gain = ", and these cores have no fp16 arithmetic" if on_cores else ""
            rejected.append(Rejected(alternative="fp16", reason=f"twice the size of int8{gain}"))
        if "dynamic" in target.precisions:
            rejected.append(
                Rejected(
                    alternative="dynamic range",
                    reason="calibration data is there; activations in float cost conversions at every layer",
                )
            )
        return "int8"
    if "int8" in target.precisions:
        rejected.append(Rejected(alternative="static int8", reason="there is no calibration data (--calib)"))
    without_data: list[Precision] = [p for p in ("fp16", "dynamic") if p in target.precisions]
    if not fp16_arithmetic and "dynamic" in without_data and target.delegate == "xnnpack":
        without_data.sort(key=lambda p: p != "dynamic")
        if "fp16" in without_data:
            rejected.append(
                Rejected(
                    alternative="fp16",
                    reason="these cores have no fp16 arithmetic: half the size, but no faster than float32",
                )
            )
    return without_data[0] if without_data else "float32"

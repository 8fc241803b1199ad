"""Pure planning: from a profile, facts of the model and the data and the user's wishes to a Plan.

Nothing here reads a file, loads a framework or depends on this machine; equal inputs give equal plans.
Everything that was not chosen is in ``Plan.rejected`` with its reason.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from edgekit.backends import RUNTIMES, Backend, get_backend
from edgekit.errors import Unsupported, UserError
from edgekit.settings import resolved
from edgekit.types import Gate, ModelSpec, Plan, PlanStep, Precision, Rejected, Scheme

if TYPE_CHECKING:
    from edgekit.profiles.schema import DeviceProfile, Target

DEFAULT_MAX_DROP = 1.0
"""Percentage points of accuracy that may be lost when the user names no limit."""

DEFAULT_PRUNE_RATIO = 0.3
"""Share of channels removed per layer: about half of the MACs go, since they fall with its square."""

PARITY_LIMIT = 1e-3
"""Largest relative difference between a float stage and its source."""


@dataclass(frozen=True, kw_only=True)
class DataFacts:
    """How many samples there are for each role, and whether they carry labels."""

    calib: int = 0
    eval: int = 0
    eval_labelled: bool = False
    train: int = 0
    train_labelled: bool = False


@dataclass(frozen=True, kw_only=True)
class Request:
    """What the user asked for beyond model, profile and data."""

    target: str = "auto"
    max_drop: float | None = None
    max_size_bytes: int | None = None
    device: str | None = None
    keep_nchw: bool = False
    settings: Mapping[str, Any] = field(default_factory=dict)


def make_plan(profile: DeviceProfile, model: ModelSpec, data: DataFacts, request: Request) -> Plan:
    """Choose target, precision, compression and gates.

    Raises Unsupported (with every reason) when no target of the profile can be built, UserError when the
    request contradicts the model or the data.
    """
    settings = resolved(request.settings)
    rejected: list[Rejected] = []
    warnings: list[str] = []
    target, backend, scheme = _choose_target(profile, data, request, settings, rejected, warnings)
    prune = _pruning(model, data, settings, profile, rejected)
    steps = _steps(prune, scheme, settings, profile, request)
    gates = _gates(model, data, request, settings, scheme, pruned=prune is not None)
    warnings.extend(target.warnings)
    return Plan(
        profile=profile.id,
        target=f"{target.runtime}/{target.delegate}",
        backend=backend.name,
        delegate=target.delegate,
        scheme=scheme,
        steps=steps,
        gates=gates,
        rejected=tuple(rejected),
        warnings=tuple(warnings),
    )


def _choose_target(
    profile: DeviceProfile,
    data: DataFacts,
    request: Request,
    settings: Mapping[str, Any],
    rejected: list[Rejected],
    warnings: list[str],
) -> tuple[Target, Backend, Scheme]:
    candidates = list(profile.targets)
    if request.target != "auto":
        candidates = [t for t in candidates if request.target in (t.runtime, f"{t.runtime}/{t.delegate}")]
        if not candidates:
            offered = ", ".join(f"{t.runtime}/{t.delegate}" for t in profile.targets)
            raise Unsupported(
                f"profile {profile.id} has no target {request.target!r}", hint=f"it has: {offered}"
            )
    chosen: tuple[Target, Backend, Scheme] | None = None
    for target in candidates:
        name = f"{target.runtime}/{target.delegate}"
        if chosen is not None:
            rejected.append(Rejected(alternative=f"target {name}", reason=_after(target, chosen[0])))
            continue
        if target.runtime not in RUNTIMES:
            rejected.append(
                Rejected(
                    alternative=f"target {name}",
                    reason=f"this version of edgekit has no {target.runtime} backend",
                )
            )
            continue
        backend = get_backend(target.runtime)
        notes: list[Rejected] = []
        worries: list[str] = []
        scheme = _choose_scheme(profile, target, data, request, settings, notes, worries)
        support = backend.supports(profile, target, scheme)
        if not support.ok:
            rejected.append(Rejected(alternative=f"target {name}", reason="; ".join(support.reasons)))
            continue
        chosen = (target, backend, scheme)
        rejected.extend(notes)
        warnings.extend(worries)
    if chosen is None:
        reasons = "; ".join(f"{r.alternative}: {r.reason}" for r in rejected)
        raise Unsupported(
            f"edgekit cannot build for profile {profile.id}: {reasons}",
            hint="choose another profile (`edgekit profiles list`) or another --target",
        )
    return chosen


def _after(target: Target, chosen: Target) -> str:
    if target.runtime not in RUNTIMES:
        return f"this version of edgekit has no {target.runtime} backend"
    return f"the profile prefers {chosen.runtime}/{chosen.delegate}"


def _choose_scheme(
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
    if wanted == "int8" and not has_data:
        raise UserError(
            "int8 needs calibration data", hint="give --calib, or --set quantize.precision=dynamic"
        )
    if wanted is None:
        wanted = _planned_precision(profile, target, rejected, has_data=has_data)
    else:
        rejected.append(
            Rejected(
                alternative="a precision chosen by the planner", reason=f"quantize.precision={wanted} was set"
            )
        )
    if wanted == "int8" and data.calib == 1:
        raise UserError(
            "int8 needs at least 2 calibration samples, and there is 1",
            hint="give more with --calib, or --set quantize.precision=dynamic",
        )
    if not _has_samples(data):
        warnings.append(
            f"no data was given: the file is {wanted} and its accuracy is not verified on real inputs; "
            "give --calib and --eval for int8 with gates"
        )
    return Scheme(
        precision=wanted,
        calibration=settings["quantize.calibration"],
        per_channel=settings["quantize.per_channel"],
        io=settings["quantize.io"],
        keep_nchw=request.keep_nchw,
    )


def _planned_precision(
    profile: DeviceProfile, target: Target, rejected: list[Rejected], *, has_data: bool
) -> Precision:
    fp16_arithmetic = "fp16" in profile.isa
    if has_data and "int8" in target.precisions:
        if "fp16" in target.precisions:
            gain = "" if fp16_arithmetic else ", and these cores have no fp16 arithmetic"
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


def _pruning(
    model: ModelSpec,
    data: DataFacts,
    settings: Mapping[str, Any],
    profile: DeviceProfile,
    rejected: list[Rejected],
) -> PlanStep | None:
    ratio: float | None = settings["prune.ratio"]
    if ratio is not None and ratio > 0:
        if not model.trainable:
            raise UserError(
                "prune.ratio was set, but this model cannot be pruned: its source is fixed",
                hint="give the model as file.py:callable or package.module:callable",
            )
        if data.train == 0:
            raise UserError(
                "prune.ratio was set, but there is no training data to recover the accuracy",
                hint="give --train",
            )
    if ratio == 0:
        rejected.append(Rejected(alternative="structured pruning", reason="prune.ratio=0 was set"))
        return None
    if not model.trainable:
        rejected.append(
            Rejected(
                alternative="structured pruning",
                reason="an exported graph (.onnx, .pt2, TorchScript) cannot be changed and trained in torch",
            )
        )
        return None
    if data.train == 0:
        rejected.append(
            Rejected(
                alternative="structured pruning",
                reason="without training data (--train) the lost accuracy cannot be recovered",
            )
        )
        return None
    chosen = DEFAULT_PRUNE_RATIO if ratio is None else ratio
    rejected.append(
        Rejected(
            alternative="unstructured pruning",
            reason="zeros inside dense kernels save neither time nor memory",
        )
    )
    return PlanStep(
        name="prune",
        config={
            "ratio": chosen,
            "round_to": profile.constraints.channel_multiple,
            "ignore": list(settings["prune.ignore"]),
        },
        reason=(
            f"training data is there; {100 * chosen:g} % of the channels go, widths in multiples of "
            f"{profile.constraints.channel_multiple} as the kernels of {profile.id} compute them"
        ),
    )


def _steps(
    prune: PlanStep | None,
    scheme: Scheme,
    settings: Mapping[str, Any],
    profile: DeviceProfile,
    request: Request,
) -> tuple[PlanStep, ...]:
    steps = []
    if prune is not None:
        steps.append(prune)
        tuning = {
            k.partition(".")[2]: v for k, v in settings.items() if k.startswith(("finetune.", "distill."))
        }
        steps.append(
            PlanStep(
                name="finetune", config=tuning, reason="recover accuracy, taught by the original's outputs"
            )
        )
    steps.append(
        PlanStep(
            name="convert",
            config={"keep_nchw": scheme.keep_nchw, "parity_limit": PARITY_LIMIT},
            reason="torch to ONNX to float32 TFLite, each compared with its source on real inputs",
        )
    )
    if scheme.precision == "int8":
        steps.append(
            PlanStep(
                name="quantize",
                config={
                    "precision": "int8",
                    "calibration": scheme.calibration,
                    "per_channel": scheme.per_channel,
                    "io": scheme.io,
                    "samples": settings["calib.samples"],
                },
                reason="static int8, activations calibrated: the fastest kernels of the target",
            )
        )
    elif scheme.precision != "float32":
        steps.append(
            PlanStep(name="quantize", config={"precision": scheme.precision}, reason=_why(scheme.precision))
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


def _why(precision: Precision) -> str:
    return {
        "fp16": "half the size, nearly exact, needs no data",
        "dynamic": "int8 weights, float activations: a quarter of the size, needs no data",
    }[precision]


def _measure_reason(device: str, profile: DeviceProfile) -> str:
    if device == "emulator" and profile.emulator is not None:
        return f"instructions per inference on an emulated {profile.emulator.cpu}, outputs against the host's"
    return f"run the file on {device}"


def _gates(
    model: ModelSpec,
    data: DataFacts,
    request: Request,
    settings: Mapping[str, Any],
    scheme: Scheme,
    *,
    pruned: bool,
) -> tuple[Gate, ...]:
    gates = []
    labelled = data.eval > 0 and data.eval_labelled and model.task == "classification"
    if request.max_drop is not None and not labelled:
        raise UserError(
            "--max-drop needs labelled evaluation data of a classifier",
            hint="give --eval with (x, y) samples",
        )
    if labelled:
        gates.append(
            Gate(
                name="accuracy_drop",
                limit=DEFAULT_MAX_DROP if request.max_drop is None else request.max_drop,
                comparison="<=",
                unit="points",
                reason="top-1 of the original minus top-1 of the file, on the evaluation data",
            )
        )
    elif _has_samples(data):
        if model.task == "classification":
            gates.append(
                Gate(
                    name="agreement",
                    limit=settings["gate.min_agreement"],
                    comparison=">=",
                    unit="%",
                    reason="same top-1 as the original, on samples that calibration has not seen",
                )
            )
        if not pruned:
            gates.append(
                Gate(
                    name="output_sqnr",
                    limit=settings["gate.min_sqnr"],
                    comparison=">=",
                    unit="dB",
                    reason="outputs against the original's, on samples that calibration has not seen",
                )
            )
    if scheme.precision == "int8":
        gates.append(
            Gate(
                name="int8_share",
                limit=90.0,
                comparison=">=",
                unit="%",
                reason="share of the file's arithmetic operators that compute in int8",
            )
        )
    if request.max_size_bytes is not None:
        gates.append(
            Gate(
                name="file_size",
                limit=request.max_size_bytes,
                comparison="<=",
                unit="bytes",
                reason="--max-size",
            )
        )
    return tuple(gates)


def _has_samples(data: DataFacts) -> bool:
    return data.calib > 0 or data.eval > 0 or data.train > 0


def explain(plan: Plan) -> Sequence[tuple[str, str]]:
    """The plan as (heading, sentence) rows for a person."""
    rows = [("target", f"{plan.target}, {plan.scheme.precision}")]
    rows += [(f"step {i}: {s.name}", s.reason) for i, s in enumerate(plan.steps, 1)]
    rows += [(f"gate {g.name}", f"{g.comparison} {g.limit:g} {g.unit} ({g.reason})") for g in plan.gates]
    rows += [(f"not: {r.alternative}", r.reason) for r in plan.rejected]
    rows += [("warning", w) for w in plan.warnings]
    return rows

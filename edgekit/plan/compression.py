"""Which steps change the torch model, in which order, and why the others are left out."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from edgekit.errors import UserError
from edgekit.plan.pruning import plan_pruning
from edgekit.plan.request import DataFacts, Request
from edgekit.plan.targeting import wanted
from edgekit.settings import SETTINGS
from edgekit.types import ModelSpec, PlanStep, Rejected, Scheme

if TYPE_CHECKING:
    from edgekit.profiles.schema import DeviceProfile

SYMMETRIC = ("tensorrt",)
"""Delegates whose activations have no zero point."""

_WEIGHT_MAX = {"openvino": 64}
"""Largest int8 weight of a delegate's files where it is not 127."""

_ALWAYS = (
    "finetune.epochs",
    "finetune.lr",
    "finetune.batch_size",
    "finetune.patience",
    "finetune.optimizer",
    "distill.temperature",
    "distill.alpha",
)


def plan_compression(
    model: ModelSpec,
    data: DataFacts,
    request: Request,
    settings: Mapping[str, Any],
    profile: DeviceProfile,
    rejected: list[Rejected],
    *,
    scheme: Scheme,
) -> tuple[PlanStep, ...]:
    """Steps in the order in which they run; ``scheme`` is that of the first target.

    Raises UserError for wishes that contradict model or data.
    """
    if request.student is not None and data.train == 0:
        raise UserError(
            "a student was given, but there is no training data to teach it with", hint="give --train"
        )
    if request.teacher is not None and data.train == 0:
        raise UserError(
            "a teacher was given, but there is no training data to teach with", hint="give --train"
        )
    steps = _depth(model, data, request, settings)
    prune = plan_pruning(model, data, request, settings, profile, rejected)
    if prune is not None:
        if settings["prune.bn_l1"] > 0:
            steps.append(_shrink(settings))
        if settings["prune.steps"] > 1:
            prune = replace(prune, config={**prune.config, "finetune": _tuning(settings, sparse=False)})
        steps.append(prune)
    steps += _low_rank(model, request, settings, profile)
    steps += _sparse(model, request, settings)
    if (steps or request.student is not None) and data.train > 0:
        taught = "the original's outputs" if request.teacher is None else f"{request.teacher}"
        steps.append(
            PlanStep(
                name="finetune",
                config=_tuning(settings, sparse=settings["sparsity.amount"] is not None),
                reason="train the student, taught by " + taught
                if request.student is not None
                else "recover accuracy, taught by " + taught,
            )
        )
    elif request.teacher is not None and settings["qat.epochs"] == 0:
        raise UserError(
            "a teacher was given, but nothing is trained in this build",
            hint="give --student, or let the model be pruned",
        )
    steps += _quantisation_aware(model, data, request, settings, scheme, rejected)
    return tuple(steps)


def _quantisation_aware(
    model: ModelSpec,
    data: DataFacts,
    request: Request,
    settings: Mapping[str, Any],
    scheme: Scheme,
    rejected: list[Rejected],
) -> list[PlanStep]:
    if settings["qat.epochs"] == 0:
        if data.train > 0 and scheme.precision == "int8" and (model.trainable or request.student is not None):
            reason = "costs training: only a search that needs it does it, or --set qat.epochs=N"
            rejected.append(Rejected(alternative="quantisation-aware training", reason=reason))
        return []
    _trainable(model, request, "qat.epochs")
    if data.train == 0 or data.calib == 0:
        raise UserError(
            "qat.epochs was set, but quantisation-aware training needs training and calibration data",
            hint="give --train and --calib",
        )
    if scheme.precision != "int8":
        raise UserError(
            f"qat.epochs was set, but the file is {scheme.precision}, not int8",
            hint="leave qat.epochs away, or set quantize.precision=int8",
        )
    return [
        PlanStep(
            name="qat",
            config=qat_config(settings, scheme, epochs=settings["qat.epochs"]),
            reason="asked for: training while int8 is played; weights and activation ranges go into the file",
        )
    ]


def qat_config(settings: Mapping[str, Any], scheme: Scheme, *, epochs: int) -> dict[str, Any]:
    """Configuration of quantisation-aware training for a file of ``scheme``."""
    config = _tuning(settings, sparse=settings["sparsity.amount"] is not None)
    for key in ("kinds", "weight", "layers", "precision"):  # outputs teach, in float32
        config.pop(key, None)
    return {
        **config,
        "epochs": epochs,
        "lr": settings["qat.lr"],
        "freeze_bn": settings["qat.freeze_bn"],
        "per_channel": settings["quantize.per_channel"],
        "symmetric": scheme.delegate in SYMMETRIC,
        "weight_max": _WEIGHT_MAX.get(scheme.delegate, 127),
    }


def _trainable(model: ModelSpec, request: Request, key: str) -> None:
    if not model.trainable and request.student is None:
        raise UserError(
            f"{key} was set, but this model cannot be changed: its source is fixed",
            hint="give the model as file.py:callable or package.module:callable",
        )


def _depth(
    model: ModelSpec, data: DataFacts, request: Request, settings: Mapping[str, Any]
) -> list[PlanStep]:
    blocks, remove = settings["depth.blocks"], list(settings["depth.remove"])
    if blocks == 0 and not remove:
        return []
    _trainable(model, request, "depth.blocks" if blocks else "depth.remove")
    if wanted(request) and settings["prune.ratio"] is None and not settings["prune.ratios"]:
        raise UserError(
            "depth.* and a search for a latency, a speed-up or a size exclude each other: it narrows the "
            "whole model",
            hint="say with prune.ratio how much narrower it gets: the limit is then only checked",
        )
    if blocks and data.train == 0 and data.calib == 0:
        raise UserError(
            "depth.blocks was set, but there are no samples to measure blocks on", hint="give --train"
        )
    count = blocks if isinstance(blocks, int) else sum(n for _, n in blocks)
    said = list(remove) + ([f"{count} blocks by measurement"] if count else [])
    return [
        PlanStep(
            name="depth",
            config={
                "blocks": blocks if isinstance(blocks, int) else dict(blocks),
                "remove": remove,
                "ignore": list(settings["depth.ignore"]),
            },
            reason=f"asked for: {', '.join(said)} left out; fewer layers take less time",
        )
    ]


def _low_rank(
    model: ModelSpec, request: Request, settings: Mapping[str, Any], profile: DeviceProfile
) -> list[PlanStep]:
    energy, budget = settings["lowrank.energy"], settings["lowrank.budget"]
    if energy is None and budget is None:
        return []
    if energy is not None and budget is not None:
        raise UserError("lowrank.energy and lowrank.budget exclude each other", hint="leave one of them away")
    _trainable(model, request, "lowrank.energy" if budget is None else "lowrank.budget")
    asked = (
        f"{100 * energy:g} % of the weights' energy" if budget is None else f"{100 * budget:g} % of the MACs"
    )
    return [
        PlanStep(
            name="lowrank",
            config={
                "energy": energy,
                "budget": budget,
                "method": settings["lowrank.method"],
                "round_to": profile.constraints.channel_multiple,
                "ignore": list(settings["lowrank.ignore"]),
            },
            reason=f"asked for: layers as products of thin ones, down to {asked}, where that saves MACs",
        )
    ]


def _sparse(model: ModelSpec, request: Request, settings: Mapping[str, Any]) -> list[PlanStep]:
    amount = settings["sparsity.amount"]
    if amount is None:
        return []
    _trainable(model, request, "sparsity.amount")
    return [
        PlanStep(
            name="sparsify",
            config={
                "amount": amount,
                "method": settings["sparsity.method"],
                "ignore": list(settings["sparsity.ignore"]),
            },
            reason=f"asked for: {100 * amount:g} % of the weights become zero, for a smaller compressed "
            "file; dense kernels take the same time",
        )
    ]


def _shrink(settings: Mapping[str, Any]) -> PlanStep:
    config = _tuning(settings, sparse=False)
    return PlanStep(
        name="shrink",
        config={**config, "epochs": settings["prune.bn_epochs"], "bn_l1": settings["prune.bn_l1"]},
        reason="asked for: training that pushes batch norm's scales of idle channels to zero before pruning",
    )


def _tuning(settings: Mapping[str, Any], *, sparse: bool) -> dict[str, Any]:
    """The settings of fine-tuning: the usual ones, and of the others those that differ from the default."""
    found = {}
    for key, value in settings.items():
        if key in _ALWAYS or (key.startswith(("finetune.", "distill.")) and value != SETTINGS[key].default):
            found[key.partition(".")[2]] = list(value) if isinstance(value, tuple) else value
    return found | ({"keep_zeros": True} if sparse else {})

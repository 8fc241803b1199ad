"""Whether to prune, and how much."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from edgekit.errors import UserError
from edgekit.plan.request import DataFacts, Request
from edgekit.plan.targeting import wanted
from edgekit.settings import SETTINGS
from edgekit.types import ModelSpec, PlanStep, Rejected

if TYPE_CHECKING:
    from edgekit.profiles.schema import DeviceProfile

DEFAULT_PRUNE_RATIO = 0.3
"""Share of channels removed per layer: about half of the MACs go, since they fall with its square."""


_DETAILS = ("importance", "scope", "ratios", "protect", "steps", "step_epochs")
"""Settings that enter the step's configuration where they differ from their defaults."""


def plan_pruning(
    model: ModelSpec,
    data: DataFacts,
    request: Request,
    settings: Mapping[str, Any],
    profile: DeviceProfile,
    rejected: list[Rejected],
) -> PlanStep | None:
    """The step, or None with the reason among ``rejected``. Raises UserError for what cannot be done."""
    ratio: float | None = settings["prune.ratio"]
    trainable = model.trainable or request.student is not None
    if ratio is not None and ratio > 0:
        if not trainable:
            raise UserError(
                "prune.ratio was set, but this model cannot be pruned: its source is fixed",
                hint="give the model as file.py:callable or package.module:callable",
            )
        if data.train == 0:
            raise UserError(
                "prune.ratio was set, but there is no training data to recover the accuracy",
                hint="give --train",
            )
    if ratio == 0 and not settings["prune.ratios"]:
        rejected.append(Rejected(alternative="structured pruning", reason="prune.ratio=0 was set"))
        return None
    if request.student is not None and ratio is None:
        rejected.append(
            Rejected(alternative="structured pruning", reason="a student was given: it is the smaller model")
        )
        return None
    if not trainable:
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
    if ratio is None and wanted(request) and not settings["prune.ratios"]:
        chosen = 0.0  # of each group as the search finds
    if settings["sparsity.amount"] is None:
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
            **_details(settings),
        },
        reason=(
            f"training data is there; {_share(chosen, settings)} go{_how(settings)}, widths in "
            f"multiples of {profile.constraints.channel_multiple} as the kernels of {profile.id} compute them"
        ),
    )


def _share(ratio: float, settings: Mapping[str, Any]) -> str:
    if ratio:
        return f"{100 * ratio:g} % of the channels"
    given = (
        "the ratio that was set for it"
        if settings["prune.ratios"]
        else "as many channels as the search finds"
    )
    return f"of each group {given}"


def _details(settings: Mapping[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name in _DETAILS:
        key = f"prune.{name}"
        if settings[key] != SETTINGS[key].default:
            found[name] = list(settings[key]) if isinstance(settings[key], tuple) else settings[key]
    if "ratios" in found:
        found["ratios"] = dict(found["ratios"])
    return found


def _how(settings: Mapping[str, Any]) -> str:
    """What differs from the usual way, for the step's reason."""
    words = []
    if settings["prune.importance"] != SETTINGS["prune.importance"].default:
        words.append(f"by {settings['prune.importance']} importance")
    if settings["prune.scope"] != SETTINGS["prune.scope"].default:
        words.append(f"ranked over {'all' if settings['prune.scope'] == 'global' else 'like'} groups")
    if settings["prune.steps"] > 1:
        words.append(f"in {settings['prune.steps']} steps with fine-tuning between")
    if settings["prune.ratios"]:
        words.append(f"other ratios for {len(settings['prune.ratios'])} groups")
    return " " + ", ".join(words) if words else ""

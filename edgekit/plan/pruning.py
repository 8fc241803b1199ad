"""Whether to prune, and how much."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from edgekit.errors import UserError
from edgekit.plan.request import DataFacts
from edgekit.types import ModelSpec, PlanStep, Rejected

if TYPE_CHECKING:
    from edgekit.profiles.schema import DeviceProfile

DEFAULT_PRUNE_RATIO = 0.3
"""Share of channels removed per layer: about half of the MACs go, since they fall with its square."""


def plan_pruning(
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

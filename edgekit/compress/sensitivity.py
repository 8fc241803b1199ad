"""How the accuracy falls when one group of coupled layers is pruned and all others are left whole.

Li et al. 2017, "Pruning Filters for Efficient ConvNets" (arXiv:1608.08710), section 3.2, with groups of the
dependency graph for single layers. A search for a size or a latency takes its ratios per group from here.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from edgekit.compress.protection import PROTECTED
from edgekit.compress.prune import prunable_groups, prune
from edgekit.errors import Unsupported, UserError
from edgekit.types import Emit, Event, ignore_events

if TYPE_CHECKING:
    import torch
    from torch import nn

    from edgekit.sources.arrays import Data
    from edgekit.types import Task

RATIOS = (0.25, 0.5, 0.75)


@dataclass(frozen=True, kw_only=True)
class Point:
    """One group pruned alone: the ratio asked for, channels kept, the metric, and what the model costs."""

    ratio: float
    channels: int
    metric: float
    params: int
    macs: int | None


@dataclass(frozen=True, kw_only=True)
class Curve:
    """What pruning one group does. ``points`` rise in ratio; ``reason`` says why there are none.

    ``whole`` is the metric of the unpruned model, which belongs to ratio 0.
    """

    root: str
    layers: tuple[str, ...]
    channels: int
    whole: float
    points: tuple[Point, ...] = ()
    reason: str = ""

    def ratio_for(self, loss: float) -> float:
        """The greatest ratio at which, and below which, the metric lost at most ``loss``; 0 for none."""
        best = 0.0
        for point in self.points:
            if self.whole - point.metric > loss:
                break
            best = point.ratio
        return best


def sensitivity(
    module: nn.Module,
    example_inputs: Sequence[torch.Tensor],
    evaluate: Callable[[nn.Module], float],
    ratios: Sequence[float] = RATIOS,
    *,
    round_to: int = 8,
    importance: str = "l2",
    ignore: Sequence[str] = (),
    protect: Sequence[str] = PROTECTED,
    probe: Data | None = None,
    task: Task = "generic",
    seed: int = 0,
    emit: Emit = ignore_events,
) -> list[Curve]:
    """The curve of every prunable group of ``module``, in the model's order.

    ``evaluate`` gives the metric of a module in eval mode, greater is better: top-1 in percent, or SQNR
    in dB against the unpruned outputs where there are no labels. It is called once for the whole model
    and once for each width that differs: ratios that round to the same width share a point's metric.

    Raises UserError for ratios outside (0, 0.95], and what :func:`edgekit.compress.prune.prune` raises.
    """
    if not ratios or any(not 0 < r <= 0.95 for r in ratios):
        raise UserError(f"ratios {list(ratios)} are not within (0, 0.95]", hint="0.25, 0.5, 0.75")
    whole = evaluate(module)
    groups = prunable_groups(module, example_inputs, ignore=ignore, protect=protect)
    common: Mapping[str, Any] = {
        "round_to": round_to,
        "importance": importance,
        "ignore": ignore,
        "protect": protect,
        "probe": probe,
        "task": task,
        "seed": seed,
    }
    curves = []
    for number, (root, layers) in enumerate(groups, 1):
        points: list[Point] = []
        width, reason = 0, ""
        for ratio in sorted(ratios):
            try:
                pruned = prune(module, example_inputs, ratio=0, ratios={root: ratio}, **common)
            except Unsupported as exc:
                reason = str(exc)
                continue
            group = next(g for g in pruned.coupled if g.root == root)
            width = group.before
            if points and points[-1].channels == group.after:
                metric = points[-1].metric
            else:
                metric = evaluate(pruned.module)
            points.append(
                Point(
                    ratio=ratio,
                    channels=group.after,
                    metric=metric,
                    params=pruned.params_after,
                    macs=pruned.macs_after,
                )
            )
        curves.append(
            Curve(
                root=root,
                layers=layers,
                channels=width,
                whole=whole,
                points=tuple(points),
                reason="" if points else reason,
            )
        )
        data = {"done": number, "total": len(groups)}
        emit(Event(kind="progress", step="sensitivity", message=root, data=data))
    return curves

"""How much each channel of a group of coupled layers matters.

Each scorer takes a group of torch-pruning's dependency graph and gives one score per channel of the
group's root layer, greater is more important; a score is the mean over the coupled layers. Scores are
divided by their mean within the group, except Taylor's, which are comparable between groups as they are.

- ``l1``, ``l2``: norms of the weight slices (Li et al. 2017, arXiv:1608.08710; group form: Fang et al.
  2023, arXiv:2301.12900, eq. 5)
- ``random``: seeded, the control that every other one has to beat
- ``bn``: batch norm's scales (Liu et al. 2017, "Network Slimming", arXiv:1708.06519)
- ``taylor``: first-order estimate of the change of the loss, sum of abs(w * dL/dw) over a slice, averaged
  over batches (Molchanov et al. 2019, arXiv:1906.10771, eq. 8, with abs for the square)
- ``activation``: mean abs(value) that the channel passes to the layers that read it (Molchanov et al. 2017,
  arXiv:1611.06440, section 2.2, mean activation)
- ``fpgm``: sum of distances to the other filters; those near the geometric median go (He et al. 2019,
  arXiv:1811.00250, eq. 6)
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from edgekit.errors import StepFailed, UserError

if TYPE_CHECKING:
    import torch
    from torch import nn

    from edgekit.sources.arrays import Data
    from edgekit.types import Task

IMPORTANCES = ("l1", "l2", "random", "bn", "taylor", "activation", "fpgm")
NEED_DATA = ("taylor", "activation")
"""Importances that look at samples."""

PROBE_SAMPLES, PROBE_BATCH = 512, 32
"""Samples that Taylor and activation importance look at. Molchanov et al. 2019 rank after as many."""

Scorer = Callable[[Any], "torch.Tensor | None"]


@dataclass(frozen=True, kw_only=True)
class Evidence:
    """What samples tell about a model: by parameter name the mean abs(gradient), by layer name the mean
    abs(input) of each input channel."""

    gradients: Mapping[str, torch.Tensor] = field(default_factory=dict)
    activity: Mapping[str, torch.Tensor] = field(default_factory=dict)


def gather(
    importance: str,
    module: nn.Module,
    probe: Data | None,
    *,
    task: Task = "generic",
    seed: int = 0,
) -> Evidence:
    """Run up to ``PROBE_SAMPLES`` samples of ``probe`` through ``module`` (a copy, in eval mode).

    Taylor's loss is the cross-entropy with the labels; with the model's own decisions where there are
    no labels, and half the mean square of the outputs where they are no classes. Raises UserError
    without samples.
    """
    import torch

    if importance not in IMPORTANCES:
        raise UserError(
            f"prune.importance {importance!r} is not known", hint=f"one of {', '.join(IMPORTANCES)}"
        )
    if importance not in NEED_DATA:
        return Evidence()
    if probe is None:
        raise UserError(
            f"prune.importance={importance} looks at samples, but there is no training data",
            hint="give --train, or choose l1, l2, bn or fpgm",
        )
    order = torch.randperm(len(probe), generator=torch.Generator().manual_seed(seed))[:PROBE_SAMPLES]
    batches = [
        (
            [torch.from_numpy(x[rows.numpy()]) for x in probe.inputs],
            None if probe.labels is None else torch.from_numpy(probe.labels[rows.numpy()]),
        )
        for rows in torch.split(order, PROBE_BATCH)
    ]
    if importance == "taylor":
        return Evidence(gradients=_gradients(module, batches, task))
    return Evidence(activity=_activity(module, batches))


def _gradients(module: nn.Module, batches: Sequence[Any], task: Task) -> dict[str, torch.Tensor]:
    import torch
    import torch.nn.functional as F

    from edgekit.sources.inspection import flatten_outputs

    parameters = {n: p for n, p in module.named_parameters() if p.is_floating_point()}
    found = {n: torch.zeros_like(p) for n, p in parameters.items()}
    for inputs, labels in batches:
        with torch.enable_grad():
            outputs = [t for _, t in flatten_outputs(module(*inputs))]
            if task == "classification":
                loss = F.cross_entropy(outputs[0], outputs[0].argmax(1) if labels is None else labels)
            else:
                loss = torch.stack([t.float().square().mean() / 2 for t in outputs]).sum()
            slopes = torch.autograd.grad(loss, list(parameters.values()), allow_unused=True)
        for name, slope in zip(parameters, slopes, strict=True):
            if slope is not None:
                found[name] += slope.abs() / len(batches)
    if not all(bool(torch.isfinite(g).all()) for g in found.values()):
        raise StepFailed(
            "the gradients of the model are not finite on the training data",
            hint="choose another importance (--set prune.importance=l2)",
        )
    return found


def _activity(module: nn.Module, batches: Sequence[Any]) -> dict[str, torch.Tensor]:
    """Mean abs(input) per input channel of every convolution and linear layer."""
    import torch
    from torch import nn

    sums: dict[str, torch.Tensor] = {}
    calls: dict[str, int] = {}

    def hook(name: str) -> Any:
        def look(layer: nn.Module, inputs: tuple[torch.Tensor, ...]) -> None:
            x = inputs[0].detach().abs()
            axis = x.ndim - 1 if isinstance(layer, nn.Linear) else x.ndim - _rank(layer) - 1
            mean = x.mean([d for d in range(x.ndim) if d != axis])
            sums[name] = sums.get(name, torch.zeros_like(mean)) + mean
            calls[name] = calls.get(name, 0) + 1

        return look

    layers = [
        (n, m) for n, m in module.named_modules() if isinstance(m, (nn.Linear, nn.modules.conv._ConvNd))
    ]
    handles = [m.register_forward_pre_hook(hook(n)) for n, m in layers]
    try:
        with torch.no_grad():
            for inputs, _ in batches:
                module(*inputs)
    finally:
        for handle in handles:
            handle.remove()
    return {name: total / calls[name] for name, total in sums.items()}


def _rank(layer: Any) -> int:
    """Number of spatial axes of a convolution."""
    return len(layer.kernel_size)


def make_scorer(importance: str, evidence: Evidence, names: Mapping[Any, str], *, seed: int = 0) -> Scorer:
    """The scorer for groups of one model; ``names`` gives the name of each of its modules.

    For ``taylor`` the model's parameters must hold ``evidence.gradients`` as their gradients.
    """
    import torch_pruning as tp

    library = tp.importance
    if importance in ("l1", "l2"):
        return _scorer(library.GroupMagnitudeImportance(p=1 if importance == "l1" else 2))
    if importance == "bn":
        return _scorer(library.BNScaleImportance())
    if importance == "taylor":
        return _scorer(library.GroupTaylorImportance(normalizer=None))
    if importance == "random":
        return lambda group: _random(group, names, seed)
    reduce = library.GroupMagnitudeImportance()
    if importance == "fpgm":
        return lambda group: _over(group, reduce, lambda dep, indices: _medians(dep, indices))
    return lambda group: _over(group, reduce, lambda dep, indices: _passed(dep, indices, evidence, names))


def _scorer(library: Any) -> Scorer:
    def score(group: Any) -> torch.Tensor | None:
        found: torch.Tensor | None = library(group)
        return found

    return score


def _random(group: Any, names: Mapping[Any, str], seed: int) -> torch.Tensor:
    import torch

    name = names[group[0].dep.target.module]
    own = torch.Generator().manual_seed(seed * 1_000_003 + zlib.crc32(name.encode()))
    return torch.rand(len(group[0].idxs), generator=own)


def _over(
    group: Any, library: Any, local: Callable[[Any, list[int]], torch.Tensor | None]
) -> torch.Tensor | None:
    """Mean over the coupled layers of what ``local`` says of each, by the root's channels."""
    import torch

    scores, roots = [], []
    for i, (dep, indices) in enumerate(group):
        found = local(dep, indices)
        if found is not None:
            scores.append(found)
            roots.append(group[i].root_idxs)
    if not scores:
        return None
    with torch.no_grad():
        reduced: torch.Tensor = library._normalize(library._reduce(scores, roots), "mean")
    return reduced


def _medians(dep: Any, indices: list[int]) -> torch.Tensor | None:
    import torch
    import torch_pruning as tp

    layer = dep.target.module
    if dep.handler not in (tp.prune_conv_out_channels, tp.prune_linear_out_channels):
        return None
    weight = layer.weight.detach()
    filters = (weight.transpose(0, 1) if getattr(layer, "transposed", False) else weight)[indices].flatten(1)
    return torch.cdist(filters, filters).sum(1)


def _passed(
    dep: Any, indices: list[int], evidence: Evidence, names: Mapping[Any, str]
) -> torch.Tensor | None:
    import torch_pruning as tp

    if dep.handler not in (tp.prune_conv_in_channels, tp.prune_linear_in_channels):
        return None
    activity = evidence.activity.get(names.get(dep.target.module, ""))
    return None if activity is None else activity[indices]

"""One pass of structured pruning over a model: choose channels, remove them, prove the result."""

from __future__ import annotations

import copy
import math
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from edgekit.compress.allocation import Ranked, allocate
from edgekit.compress.channels import channel_groups, mask_inputs
from edgekit.compress.importance import Evidence, Scorer, make_scorer
from edgekit.compress.protection import protected_layers
from edgekit.errors import StepFailed

if TYPE_CHECKING:
    import torch
    from torch import nn

_SAME = 1e-3
"""Largest difference, relative to the largest output, between masked and pruned (float32 rounding)."""


@dataclass(frozen=True, kw_only=True)
class Rule:
    """Which channels go: see :func:`edgekit.compress.prune.prune`.

    ``originals`` are the channels of groups, by root, before earlier passes.
    """

    ratio: float
    round_to: int
    importance: str = "l2"
    scope: str = "layer"
    ratios: Mapping[str, float] = field(default_factory=dict)
    protect: Sequence[str] = ()
    originals: Mapping[str, int] = field(default_factory=dict)
    seed: int = 0


@dataclass(frozen=True, kw_only=True)
class CoupledGroup:
    """Layers whose channels go together, by the layer that is their root, and its output channels."""

    root: str
    layers: tuple[str, ...]
    before: int
    after: int


class Refused(Exception):
    """A group that must be left whole; the attempt is then begun anew without it."""

    def __init__(self, layer: str, reason: str) -> None:
        super().__init__(f"{layer}: {reason}")
        self.layer, self.reason = layer, reason


@dataclass
class Choice:
    """Channels to remove from one group, by the layer that is its root."""

    layer: nn.Module
    name: str
    indices: list[int]


@dataclass
class Attempt:
    """One pass over a fresh copy of the model, with ``excluded`` layers left whole."""

    original: nn.Module
    inputs: Sequence[torch.Tensor]
    excluded: Mapping[str, str]
    rule: Rule
    evidence: Evidence
    coupled: list[CoupledGroup] = field(default_factory=list)
    kept: dict[str, str] = field(default_factory=dict)
    removed: list[tuple[str, list[int]]] = field(default_factory=list)

    def __post_init__(self) -> None:
        import torch
        import torch_pruning as tp

        try:
            self.module = copy.deepcopy(self.original).eval()
        except Exception as exc:
            raise StepFailed(f"the model cannot be copied for pruning: {line_of(exc)}") from exc
        self.frozen = [name for name, p in self.module.named_parameters() if not p.requires_grad]
        for parameter in self.module.parameters():
            if parameter.is_floating_point():
                parameter.requires_grad_(True)  # the graph is read from autograd
        try:
            with warnings.catch_warnings(action="ignore"), torch.enable_grad():
                self.graph = tp.DependencyGraph().build_dependency(
                    self.module, example_inputs=tuple(self.inputs), verbose=False
                )
        except Exception as exc:
            raise StepFailed(
                f"the model's dependency graph cannot be traced for pruning: {line_of(exc)}",
                hint="build without pruning (--set prune.ratio=0)",
            ) from exc
        self.names = {m: name for name, m in self.module.named_modules()}
        self.expected = [tuple(t.shape) for t in self._outputs(self.module)]

    def run(self) -> None:
        """Choose and remove. Raises Refused for a group that must be left whole."""
        import torch

        with torch.no_grad(), warnings.catch_warnings(action="ignore"):
            for choice in self._choices():
                self._remove(choice)
                self.removed.append((choice.name, choice.indices))
        for name, parameter in self.module.named_parameters():
            parameter.requires_grad_(name not in self.frozen and parameter.is_floating_point())
            parameter.grad = None
        self.module.eval()

    def groups(self) -> list[Any]:
        """The groups of coupled layers that may be pruned; the others are in ``kept`` with the reason."""
        import torch_pruning as tp

        roots = [tp.ops.TORCH_CONV, tp.ops.TORCH_LINEAR]
        for head in self._heads():
            self.kept.setdefault(self.names[head], "gives an output of the model")
        for name, reason in protected_layers(self.original, self.rule.protect).items():
            self.kept.setdefault(name, reason)
        whole = {*self.excluded, *self.kept}
        ignored = [m for m, name in self.names.items() if name in whole]
        ignored = [part for m in ignored for part in m.modules()]
        try:
            return list(self.graph.get_all_groups(ignored_layers=ignored, root_module_types=roots))
        except Exception as exc:
            raise StepFailed(f"coupled layers cannot be found for pruning: {line_of(exc)}") from exc

    def members(self, group: Any) -> tuple[str, ...]:
        """The layers whose output channels are the group's; not those that only read them."""
        names = [
            self.names[dep.target.module]
            for dep, _ in group
            if dep.target.module in self.names and self.graph.is_out_channel_pruning_fn(dep.handler)
        ]
        return tuple(dict.fromkeys(names))

    def _choices(self) -> list[Choice]:
        import torch

        rule = self.rule
        for name, parameter in self.module.named_parameters():
            if name in self.evidence.gradients:
                parameter.grad = self.evidence.gradients[name].clone()
        scorer = make_scorer(rule.importance, self.evidence, self.names, seed=rule.seed)
        found: list[tuple[nn.Module, int, Ranked, tuple[str, ...]]] = []
        for group in self.groups():
            layer = group[0].dep.target.module
            name = self.names[layer]
            parts = max((channel_groups(dep.target.module) for dep, _ in group), default=1)
            channels = self.graph.get_out_channels(layer)
            multiple = math.lcm(rule.round_to, parts)
            ranked = Ranked(
                name=name,
                original=rule.originals.get(name, channels),
                multiple=multiple,
                scores=self._scores(scorer, group, name, channels),
                kind=tuple(f"{type(d.target.module).__name__}.{d.handler.__name__}" for d, _ in group),
            )
            found.append((layer, parts, ranked, self.members(group)))
        owners = {member: ranked.name for _, _, ranked, members in found for member in members}
        ratios = {owners[n]: r for n, r in rule.ratios.items() if n in owners}
        keeps = allocate([ranked for _, _, ranked, _ in found], rule.ratio, rule.scope, ratios)
        choices = []
        for layer, parts, ranked, members in found:
            channels, keep = len(ranked.scores), keeps[ranked.name]
            self.coupled.append(
                CoupledGroup(
                    root=ranked.name, layers=members, before=ranked.original, after=min(keep, channels)
                )
            )
            if keep >= channels:
                self.kept[ranked.name] = (
                    f"{channels} channels in multiples of {ranked.multiple} leave nothing to remove"
                )
                continue
            # Grouped convolutions and group norm lose the same positions in each of their groups.
            size = channels // parts
            mean = ranked.scores.detach().cpu().view(parts, size).mean(0)
            weakest = torch.argsort(mean, stable=True)[: (channels - keep) // parts]
            indices = sorted(int(i) + g * size for g in range(parts) for i in weakest)
            choices.append(Choice(layer, ranked.name, indices))
        return choices

    def _scores(self, scorer: Scorer, group: Any, name: str, channels: int) -> torch.Tensor:
        try:
            scores = scorer(group)
        except IndexError as exc:
            reason = "the layers coupled with it have another number of channels (padding, slicing?)"
            raise Refused(name, reason) from exc
        except Exception as exc:
            raise Refused(name, f"its channels cannot be scored ({line_of(exc)})") from exc
        if scores is None or len(scores) != channels:
            raise Refused(name, f"its channels have no {self.rule.importance} score")
        return scores

    def _remove(self, choice: Choice) -> None:
        """Prune one group and prove that the result is the masked original."""
        pruner = self.graph.get_pruner_of_module(choice.layer)
        try:
            group = self.graph.get_pruning_group(choice.layer, pruner.prune_out_channels, choice.indices)
            if not self.graph.check_pruning_group(group):
                raise Refused(choice.name, "a layer that is coupled with it would lose all its channels")
            masked, exact = self._masked(choice, group)
            wanted = self._outputs(masked)
            group.prune()
            found = self._outputs(self.module)
        except Refused:
            raise
        except Exception as exc:
            raise Refused(
                choice.name, f"the model does not run without its channels ({line_of(exc)})"
            ) from exc
        if [tuple(t.shape) for t in found] != self.expected:
            raise Refused(choice.name, "removing its channels changes the shape of an output")
        for ours, theirs in zip(found, wanted, strict=True):
            scale = max(float(theirs.abs().max()), 1e-6)
            if exact and float((ours - theirs).abs().max()) > _SAME * scale:
                raise Refused(
                    choice.name, "its channels are used in a way that the dependency graph does not see"
                )

    def _masked(self, choice: Choice, group: Any) -> tuple[nn.Module, bool]:
        """A copy of the model whose consumers ignore the channels, and whether equality must hold.

        Normalisation over channels (layer norm, group norm) sees other statistics when channels go:
        there equality cannot hold, and only shapes are compared.
        """
        from torch import nn

        masked = copy.deepcopy(self.module)
        twins = dict(masked.named_modules())
        exact = True
        for dep, indices in group:
            target = dep.target.module
            if isinstance(target, (nn.LayerNorm, nn.GroupNorm)):
                exact = False
            if not isinstance(target, nn.Module) or target not in self.names:
                continue
            if not self.graph.is_in_channel_pruning_fn(dep.handler):
                continue
            twin = twins[self.names[target]]
            if self.graph.is_out_channel_pruning_fn(dep.handler):
                continue  # passes channels through: batch norm, depthwise convolution, activation
            if not isinstance(twin, (nn.Linear, nn.modules.conv._ConvNd)):
                raise Refused(choice.name, f"it feeds {self.names[target]}, a {type(twin).__name__}")
            mask_inputs(twin, indices)
        return masked, exact

    def _heads(self) -> list[nn.Module]:
        """Layers whose result reaches a model output without passing another one."""
        import torch_pruning as tp
        from torch import nn

        types = (nn.Linear, nn.modules.conv._ConvNd)
        queue = [n for n in self.graph.module2node.values() if n.type == tp.ops.OPTYPE.OUTPUT]
        # A layer that itself is the last operation has no output node behind it.
        queue += [n for n in self.graph.module2node.values() if not n.outputs]
        heads: list[nn.Module] = []
        seen = set()
        while queue:
            node = queue.pop()
            if node in seen:
                continue
            seen.add(node)
            if isinstance(node.module, types):
                heads.append(node.module)
            else:
                queue += node.inputs
        return heads

    def _outputs(self, module: nn.Module) -> list[torch.Tensor]:
        import torch

        from edgekit.sources.inspection import flatten_outputs

        with torch.no_grad():
            return [
                tensor.float() for _, tensor in flatten_outputs(module(*(t.clone() for t in self.inputs)))
            ]


def line_of(exc: BaseException) -> str:
    """The type and first line of an exception."""
    lines = [line.strip() for line in str(exc).splitlines() if line.strip()]
    return f"{type(exc).__name__}: {lines[0][:200]}" if lines else type(exc).__name__

"""Structured pruning: remove whole channels, in coupled groups, by group magnitude.

Groups of layers whose channels must go together come from torch-pruning's dependency graph (Fang et
al. 2023, "DepGraph", arXiv:2301.12900); a channel's importance is the mean of the squared L2 norms of
its slices over the group, normalised within the group (GroupMagnitudeImportance, p = 2).

Selection is done here, not by that library's pruners: they round channel counts down only (16
channels at ratio 0.3 and multiples of 8 would lose half), and keep state in shared default arguments.

Nothing is believed about the graph. After each group the pruned model is compared with a copy of the
unpruned one in which the consumers' weights for the removed channels are zero: both must compute the
same. A group for which they do not (channels padded, shuffled, reshaped or counted in ways that the
graph does not see) is left whole, and the reason is reported.
"""

from __future__ import annotations

import contextlib
import copy
import math
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from difflib import get_close_matches
from typing import TYPE_CHECKING, Any

from edgekit.compress.channels import (
    LayerChannels,
    channel_groups,
    channel_table,
    channels_to_keep,
    mask_inputs,
)
from edgekit.compress.history import describe_changes
from edgekit.errors import StepFailed, Unsupported, UserError
from edgekit.types import Emit, Event, ignore_events

if TYPE_CHECKING:
    import torch
    from torch import nn

MAX_RATIO = 0.95
_SAME = 1e-3
"""Largest difference, relative to the largest output, between masked and pruned (float32 rounding)."""


@dataclass(frozen=True, kw_only=True)
class Pruned:
    """A pruned model, in eval mode, and how to make it again.

    ``history`` is JSON data for :func:`edgekit.compress.history.apply_history`. ``kept`` names the
    root layers of groups that were left whole and says why. ``macs`` are for one example input.
    """

    module: nn.Module
    history: dict[str, Any]
    groups: tuple[LayerChannels, ...]
    kept: Mapping[str, str]
    params_before: int
    params_after: int
    macs_before: int | None
    macs_after: int | None


def prune(
    module: nn.Module,
    example_inputs: Sequence[torch.Tensor],
    *,
    ratio: float,
    round_to: int = 8,
    ignore: Sequence[str] = (),
    emit: Emit = ignore_events,
) -> Pruned:
    """Remove about ``ratio`` of the channels of every prunable group of a copy of ``module``.

    ``ratio`` is a share of channels, not of parameters or MACs: 0.5 leaves about a quarter of the MACs
    of a plain convolution. A group keeps the multiple of ``round_to`` that is nearest to
    (1 - ratio) * channels (the greater one of two), and at least ``round_to``. Layers that give the
    model's outputs are never pruned; ``ignore`` names further layers, or modules with all in them.

    Raises UserError for a ratio outside (0, 0.95] or an unknown name in ``ignore``, StepFailed when the
    model cannot be traced, Unsupported when no group can be pruned; with layer and reason.
    """
    import torch

    from edgekit.sources.macs import count_macs

    if not 0 < ratio <= MAX_RATIO:
        raise UserError(f"prune.ratio {ratio} is outside (0, {MAX_RATIO}]", hint="0.3 to 0.5 is usual")
    if round_to < 1:
        raise UserError(f"prune.round_to {round_to} is less than 1", hint="8 suits most int8 kernels")
    kept = _named_by_user(module, ignore)
    with torch.random.fork_rng(devices=[]), _one_thread():
        while True:
            attempt = _Attempt(module, example_inputs, kept)
            try:
                attempt.run(ratio, round_to)
                break
            except _Refused as refusal:
                kept[refusal.layer] = refusal.reason
                message = f"{refusal.layer} is not pruned: {refusal.reason}"
                emit(Event(kind="warning", step="prune", message=message))
    kept |= attempt.kept
    if not attempt.removed:
        reasons = "; ".join(f"{layer}: {reason}" for layer, reason in list(kept.items())[:5])
        raise Unsupported(
            f"no layer of the model can be pruned ({reasons or 'it has no convolution or linear layer'})",
            hint="build without pruning (--set prune.ratio=0), or lower prune.round_to",
        )
    pruned = attempt.module
    return Pruned(
        module=pruned,
        history=describe_changes(module, pruned, attempt.removed),
        groups=tuple(channel_table(module, pruned)),
        kept=kept,
        params_before=sum(p.numel() for p in module.parameters()),
        params_after=sum(p.numel() for p in pruned.parameters()),
        macs_before=count_macs(copy.deepcopy(module).eval(), example_inputs),
        macs_after=count_macs(pruned, example_inputs),
    )


@contextlib.contextmanager
def _one_thread() -> Iterator[None]:
    """Many passes of one sample: on a busy machine the threads of each would wait for each other."""
    import torch

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


class _Refused(Exception):
    """A group that must be left whole; the attempt is then begun anew without it."""

    def __init__(self, layer: str, reason: str) -> None:
        super().__init__(f"{layer}: {reason}")
        self.layer, self.reason = layer, reason


@dataclass
class _Choice:
    """Channels to remove from one group, by the layer that is its root."""

    layer: nn.Module
    name: str
    indices: list[int]


@dataclass
class _Attempt:
    """One pass over a fresh copy of the model, with ``excluded`` layers left whole."""

    original: nn.Module
    inputs: Sequence[torch.Tensor]
    excluded: Mapping[str, str]
    kept: dict[str, str] = field(default_factory=dict)
    removed: list[tuple[str, list[int]]] = field(default_factory=list)

    def __post_init__(self) -> None:
        import torch
        import torch_pruning as tp

        try:
            self.module = copy.deepcopy(self.original).eval()
        except Exception as exc:
            raise StepFailed(f"the model cannot be copied for pruning: {_line(exc)}") from exc
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
                f"the model's dependency graph cannot be traced for pruning: {_line(exc)}",
                hint="build without pruning (--set prune.ratio=0)",
            ) from exc
        self.names = {m: name for name, m in self.module.named_modules()}
        self.expected = [tuple(t.shape) for t in self._outputs(self.module)]

    def run(self, ratio: float, round_to: int) -> None:
        import torch

        with torch.no_grad(), warnings.catch_warnings(action="ignore"):
            for choice in list(self._choices(ratio, round_to)):
                self._remove(choice)
                self.removed.append((choice.name, choice.indices))
        for name, parameter in self.module.named_parameters():
            parameter.requires_grad_(name not in self.frozen and parameter.is_floating_point())
            parameter.grad = None
        self.module.eval()

    def _choices(self, ratio: float, round_to: int) -> Iterator[_Choice]:
        import torch
        import torch_pruning as tp

        importance = tp.importance.GroupMagnitudeImportance(p=2)
        roots = [tp.ops.TORCH_CONV, tp.ops.TORCH_LINEAR]
        for head in self._heads():
            self.kept.setdefault(self.names[head], "gives an output of the model")
        whole = {*self.excluded, *self.kept}
        ignored = [m for m, name in self.names.items() if name in whole]
        ignored = [part for m in ignored for part in m.modules()]
        try:
            groups = list(self.graph.get_all_groups(ignored_layers=ignored, root_module_types=roots))
        except Exception as exc:
            raise StepFailed(f"coupled layers cannot be found for pruning: {_line(exc)}") from exc
        for group in groups:
            layer = group[0].dep.target.module
            name = self.names[layer]
            channels = self.graph.get_out_channels(layer)
            parts = max((channel_groups(dep.target.module) for dep, _ in group), default=1)
            multiple = math.lcm(round_to, parts)
            keep = channels_to_keep(channels, ratio, multiple)
            if keep >= channels:
                self.kept[name] = f"{channels} channels in multiples of {multiple} leave nothing to remove"
                continue
            try:
                scores = importance(group)
            except IndexError as exc:
                reason = "the layers coupled with it have another number of channels (padding, slicing?)"
                raise _Refused(name, reason) from exc
            except Exception as exc:
                raise _Refused(name, f"its channels cannot be scored ({_line(exc)})") from exc
            if scores is None or len(scores) != channels:
                raise _Refused(name, "its channels have no importance score")
            # Grouped convolutions and group norm lose the same positions in each of their groups.
            size = channels // parts
            mean = scores.cpu().view(parts, size).mean(0)
            weakest = torch.argsort(mean, stable=True)[: (channels - keep) // parts]
            indices = sorted(int(i) + g * size for g in range(parts) for i in weakest)
            yield _Choice(layer, name, indices)

    def _remove(self, choice: _Choice) -> None:
        """Prune one group and prove that the result is the masked original."""
        pruner = self.graph.get_pruner_of_module(choice.layer)
        try:
            group = self.graph.get_pruning_group(choice.layer, pruner.prune_out_channels, choice.indices)
            if not self.graph.check_pruning_group(group):
                raise _Refused(choice.name, "a layer that is coupled with it would lose all its channels")
            masked, exact = self._masked(choice, group)
            wanted = self._outputs(masked)
            group.prune()
            found = self._outputs(self.module)
        except _Refused:
            raise
        except Exception as exc:
            raise _Refused(
                choice.name, f"the model does not run without its channels ({_line(exc)})"
            ) from exc
        if [tuple(t.shape) for t in found] != self.expected:
            raise _Refused(choice.name, "removing its channels changes the shape of an output")
        for ours, theirs in zip(found, wanted, strict=True):
            scale = max(float(theirs.abs().max()), 1e-6)
            if exact and float((ours - theirs).abs().max()) > _SAME * scale:
                raise _Refused(
                    choice.name, "its channels are used in a way that the dependency graph does not see"
                )

    def _masked(self, choice: _Choice, group: Any) -> tuple[nn.Module, bool]:
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
                raise _Refused(choice.name, f"it feeds {self.names[target]}, a {type(twin).__name__}")
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


def _named_by_user(module: nn.Module, ignore: Sequence[str]) -> dict[str, str]:
    names = [name for name, _ in module.named_modules() if name]
    for name in ignore:
        if name not in names:
            near = get_close_matches(name, names, n=3) or names[:5]
            raise UserError(f"prune.ignore: the model has no layer {name!r}", hint=f"near: {', '.join(near)}")
    return dict.fromkeys(ignore, "named in prune.ignore")


def _line(exc: BaseException) -> str:
    lines = [line.strip() for line in str(exc).splitlines() if line.strip()]
    return f"{type(exc).__name__}: {lines[0][:200]}" if lines else type(exc).__name__

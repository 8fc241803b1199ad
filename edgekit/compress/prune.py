"""Structured pruning: remove whole channels, in coupled groups, by a chosen importance.

Groups of layers whose channels must go together come from torch-pruning's dependency graph (Fang et
al. 2023, "DepGraph", arXiv:2301.12900); importances are those of :mod:`edgekit.compress.importance`,
scopes those of :mod:`edgekit.compress.allocation`.

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
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from difflib import get_close_matches
from typing import TYPE_CHECKING

from edgekit.compress.allocation import MAX_RATIO, SCOPES, cubic
from edgekit.compress.channels import LayerChannels, channel_table
from edgekit.compress.history import describe_changes
from edgekit.compress.importance import Evidence, gather
from edgekit.compress.protection import PROTECTED, named_by_user
from edgekit.compress.surgery import Attempt, CoupledGroup, Refused, Rule
from edgekit.errors import Unsupported, UserError
from edgekit.types import Emit, Event, Task, ignore_events

if TYPE_CHECKING:
    import torch
    from torch import nn

    from edgekit.sources.arrays import Data

__all__ = ["MAX_RATIO", "CoupledGroup", "LayerChannels", "Pruned", "prunable_groups", "prune"]

Recover = Callable[["nn.Module", int], "nn.Module"]
"""Fine-tunes a model between the steps of a schedule; gets the step's number, from 1."""


@dataclass(frozen=True, kw_only=True)
class Pruned:
    """A pruned model, in eval mode, and how to make it again.

    ``history`` is JSON data for :func:`edgekit.compress.history.apply_history`. ``groups`` are all
    layers whose width changed, ``coupled`` the groups that they belong to, with every member. ``kept``
    names the root layers of groups that were left whole and says why. ``macs`` are for one example
    input. ``schedule`` holds the ratio of each step.
    """

    module: nn.Module
    history: dict[str, object]
    groups: tuple[LayerChannels, ...]
    kept: Mapping[str, str]
    params_before: int
    params_after: int
    macs_before: int | None
    macs_after: int | None
    coupled: tuple[CoupledGroup, ...] = ()
    schedule: tuple[float, ...] = ()


def prune(
    module: nn.Module,
    example_inputs: Sequence[torch.Tensor],
    *,
    ratio: float,
    round_to: int = 8,
    ignore: Sequence[str] = (),
    protect: Sequence[str] = PROTECTED,
    importance: str = "l2",
    scope: str = "layer",
    ratios: Mapping[str, float] | None = None,
    probe: Data | None = None,
    task: Task = "generic",
    steps: int = 1,
    recover: Recover | None = None,
    seed: int = 0,
    emit: Emit = ignore_events,
) -> Pruned:
    """Remove about ``ratio`` of the channels of the prunable groups of a copy of ``module``.

    ``ratio`` is a share of channels, not of parameters or MACs: 0.5 leaves about a quarter of the MACs
    of a plain convolution. A group keeps a multiple of ``round_to``, the nearest one to what was asked
    (the greater one of two), and at least ``round_to``. How groups share the loss is their ``scope``.
    ``ratios`` gives groups their own ratio, by the name of any layer in the group; 0 leaves one whole.
    Layers that give the model's outputs are never pruned; ``protect`` names further rules, ``ignore``
    layers, or modules with all in them.

    ``importance`` "taylor" and "activation" read ``probe``. With ``steps`` > 1 the ratio grows by the
    cubic schedule of Zhu & Gupta 2017, and ``recover`` fine-tunes after each step but the last. Steps
    that rounding would leave without effect are left out.

    Raises UserError for a ratio outside (0, 0.95] or an unknown name, StepFailed when the model cannot
    be traced, Unsupported when no group can be pruned; with layer and reason.
    """
    import torch

    from edgekit.sources.macs import count_macs

    own = dict(ratios or {})
    _check(module, ratio, own, round_to, scope, steps)
    rule = Rule(
        ratio=ratio,
        round_to=round_to,
        importance=importance,
        scope=scope,
        ratios=own,
        protect=tuple(protect),
        seed=seed,
    )
    kept = named_by_user(module, ignore)
    original = copy.deepcopy(module).eval()
    current = original
    originals: dict[str, int] = {}
    coupled: dict[str, CoupledGroup] = {}
    done: list[float] = []
    left: dict[str, list[int]] = {}
    reasons: dict[str, str] = {}
    with torch.random.fork_rng(devices=[]):
        for step in range(1, steps + 1):
            target = replace(
                rule,
                ratio=cubic(step, steps, ratio),
                ratios={n: cubic(step, steps, r) for n, r in own.items()},
                originals=originals,
            )
            evidence = gather(importance, copy.deepcopy(current).eval(), probe, task=task, seed=seed)
            with _one_thread():
                attempt = _prune_once(current, example_inputs, target, kept, evidence, emit)
            for group in attempt.coupled:
                coupled[group.root] = replace(group, before=originals.get(group.root, group.before))
                originals.setdefault(group.root, group.before)
            reasons = attempt.kept
            if not attempt.removed:
                continue
            done.append(target.ratio)
            for name, indices in attempt.removed:
                before = left.setdefault(name, list(range(originals[name])))
                left[name] = [c for i, c in enumerate(before) if i not in set(indices)]
            current = attempt.module
            if recover is not None and step < steps:
                current = recover(current, step)
    removed = [(n, sorted(set(range(originals[n])) - set(rest))) for n, rest in left.items()]
    kept |= {name: reason for name, reason in reasons.items() if name not in left}
    if not removed:
        text = "; ".join(f"{layer}: {reason}" for layer, reason in list(kept.items())[:5])
        raise Unsupported(
            f"no layer of the model can be pruned ({text or 'it has no convolution or linear layer'})",
            hint="build without pruning (--set prune.ratio=0), or lower prune.round_to",
        )
    return Pruned(
        module=current,
        history=describe_changes(module, current, removed),
        groups=tuple(channel_table(module, current)),
        kept=kept,
        params_before=sum(p.numel() for p in module.parameters()),
        params_after=sum(p.numel() for p in current.parameters()),
        macs_before=count_macs(original, example_inputs),
        macs_after=count_macs(current, example_inputs),
        coupled=tuple(coupled[n] for n, _ in module.named_modules() if n in coupled),
        schedule=tuple(done),
    )


def prunable_groups(
    module: nn.Module,
    example_inputs: Sequence[torch.Tensor],
    *,
    ignore: Sequence[str] = (),
    protect: Sequence[str] = PROTECTED,
) -> list[tuple[str, tuple[str, ...]]]:
    """Root and members of each group that the dependency graph would let be pruned.

    Whether a group survives the proof of :func:`prune` is only known when it is pruned.
    """
    rule = Rule(ratio=0.5, round_to=1, protect=tuple(protect))
    with _one_thread():
        attempt = Attempt(module, example_inputs, named_by_user(module, ignore), rule, Evidence())
        order = {name: i for i, name in enumerate(attempt.names.values())}
        found = [(attempt.names[g[0].dep.target.module], attempt.members(g)) for g in attempt.groups()]
        return sorted(found, key=lambda pair: order[pair[0]])


def _prune_once(
    module: nn.Module,
    inputs: Sequence[torch.Tensor],
    rule: Rule,
    kept: dict[str, str],
    evidence: Evidence,
    emit: Emit,
) -> Attempt:
    """One pass; groups that must be left whole are added to ``kept``."""
    while True:
        attempt = Attempt(module, inputs, kept, rule, evidence)
        try:
            attempt.run()
        except Refused as refusal:
            kept[refusal.layer] = refusal.reason
            message = f"{refusal.layer} is not pruned: {refusal.reason}"
            emit(Event(kind="warning", step="prune", message=message))
        else:
            return attempt


def _check(
    module: nn.Module, ratio: float, ratios: Mapping[str, float], round_to: int, scope: str, steps: int
) -> None:
    if not (0 < ratio <= MAX_RATIO or (ratio == 0 and ratios)):
        raise UserError(f"prune.ratio {ratio} is outside (0, {MAX_RATIO}]", hint="0.3 to 0.5 is usual")
    names = [name for name, _ in module.named_modules() if name]
    for name, own in ratios.items():
        if name not in names:
            near = get_close_matches(name, names, n=3) or names[:5]
            raise UserError(f"prune.ratios: the model has no layer {name!r}", hint=f"near: {', '.join(near)}")
        if not 0 <= own <= MAX_RATIO:
            raise UserError(
                f"prune.ratios: {own} for {name} is outside [0, {MAX_RATIO}]", hint="0 leaves it whole"
            )
    if round_to < 1:
        raise UserError(f"prune.round_to {round_to} is less than 1", hint="8 suits most int8 kernels")
    if scope not in SCOPES:
        raise UserError(f"prune.scope {scope!r} is not known", hint=f"one of {', '.join(SCOPES)}")
    if steps < 1:
        raise UserError(f"prune.steps {steps} is less than 1", hint="1 prunes at once")


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

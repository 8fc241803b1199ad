"""How many channels each group keeps, from one ratio for all of them or one for each."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from edgekit.compress.channels import channels_to_keep

if TYPE_CHECKING:
    import torch

SCOPES = ("layer", "global", "isomorphic")
MAX_RATIO = 0.95


@dataclass(frozen=True, kw_only=True)
class Ranked:
    """A group before it is pruned.

    ``original`` is its number of channels before any pruning, ``scores`` (channels,) what is left of
    them; ``kind`` is equal for groups of the same operators in the same order.
    """

    name: str
    original: int
    multiple: int
    scores: torch.Tensor
    kind: tuple[str, ...]


def allocate(
    groups: Sequence[Ranked], ratio: float, scope: str, ratios: Mapping[str, float]
) -> dict[str, int]:
    """Channels that each group keeps, a multiple of its ``multiple`` wherever it loses any.

    "layer": every group loses ``ratio`` of its original channels. "global": the weakest of all groups'
    channels go, until ``ratio`` of all original ones have gone; no group loses more than 95 %.
    "isomorphic": the same within each set of groups of one kind (Fang et al. 2024, "Isomorphic Pruning
    for Vision Models", arXiv:2407.04616, section 3.2). Groups in ``ratios`` follow their own ratio.
    """
    own = {g.name: _rounded(g, channels_to_keep(g.original, ratios[g.name], g.multiple))
           for g in groups if g.name in ratios}  # fmt: skip
    rest = [g for g in groups if g.name not in ratios]
    if scope == "layer":
        return own | {g.name: _rounded(g, channels_to_keep(g.original, ratio, g.multiple)) for g in rest}
    sets: dict[tuple[str, ...], list[Ranked]] = {}
    for group in rest:
        sets.setdefault(group.kind if scope == "isomorphic" else (), []).append(group)
    for members in sets.values():
        own |= _weakest_go(members, ratio)
    return own


def _weakest_go(groups: Sequence[Ranked], ratio: float) -> dict[str, int]:
    """Rank the channels of all groups together."""
    import torch

    originals = sum(g.original for g in groups)
    remove = round(ratio * originals) - sum(g.original - len(g.scores) for g in groups)
    if remove <= 0:
        return {g.name: len(g.scores) for g in groups}
    owner = torch.cat([torch.full((len(g.scores),), i) for i, g in enumerate(groups)])
    order = torch.argsort(torch.cat([g.scores.detach().cpu().float() for g in groups]), stable=True)
    lost = torch.bincount(owner[order[:remove]], minlength=len(groups))
    kept = {}
    for group, gone in zip(groups, lost.tolist(), strict=True):
        left = 1 - (len(group.scores) - gone) / group.original
        kept[group.name] = _rounded(
            group, channels_to_keep(group.original, min(left, MAX_RATIO), group.multiple)
        )
    return kept


def _rounded(group: Ranked, keep: int) -> int:
    return min(keep, len(group.scores))


def cubic(step: int, steps: int, final: float) -> float:
    """The ratio after ``step`` of ``steps``: fast at first, slow towards ``final``.

    Zhu & Gupta 2017, "To prune, or not to prune" (arXiv:1710.01878), eq. 1, from ratio 0.
    """
    done: float = final * (1 - (1 - step / steps) ** 3)
    return done

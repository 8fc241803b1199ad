"""Channels of layers: how many to keep, how they are grouped, masked and counted."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import nn


@dataclass(frozen=True, kw_only=True)
class LayerChannels:
    """Output channels of one convolution or linear layer."""

    layer: str
    before: int
    after: int


def channels_to_keep(channels: int, ratio: float, multiple: int) -> int:
    """The multiple nearest to (1 - ratio) * channels, ties to the greater, at least one multiple."""
    target = (1 - ratio) * channels / multiple
    return max(1, math.floor(target + 0.5)) * multiple


def mask_inputs(layer: Any, indices: Sequence[int]) -> None:
    """Zero the weights by which ``layer`` uses the input channels ``indices``."""
    weight = layer.weight.data
    if not hasattr(layer, "groups"):
        weight[:, indices] = 0
    elif layer.transposed:
        weight[indices] = 0
    else:
        per_group_in, per_group_out = weight.shape[1], weight.shape[0] // layer.groups
        for index in indices:
            g, position = divmod(index, per_group_in)
            weight[g * per_group_out : (g + 1) * per_group_out, position] = 0


def channel_groups(layer: Any) -> int:
    """In how many equal parts a layer treats its channels; 1 for a depthwise convolution."""
    from torch import nn

    if isinstance(layer, nn.GroupNorm):
        return layer.num_groups
    if isinstance(layer, nn.modules.conv._ConvNd) and layer.groups not in (1, layer.out_channels):
        return layer.groups
    return 1


def channel_table(before: nn.Module, after: nn.Module) -> Iterator[LayerChannels]:
    """The convolution and linear layers whose number of output channels differs, in model order."""
    from torch import nn

    new = dict(after.named_modules())
    for name, layer in before.named_modules():
        if isinstance(layer, (nn.Linear, nn.modules.conv._ConvNd)):
            key = "out_features" if isinstance(layer, nn.Linear) else "out_channels"
            old, now = getattr(layer, key), getattr(new[name], key)
            if old != now:
                yield LayerChannels(layer=name, before=old, after=now)

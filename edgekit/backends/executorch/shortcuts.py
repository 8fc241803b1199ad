"""Strided slices and channel paddings of image tensors as 1x1 convolutions that select pixels and channels.

XNNPACK has no strided slice and pads quantised tensors in float, so a ResNet's "option A" shortcut
(x[:, :, ::2, ::2] with zeros for the new channels) divides the delegate twice at every stage and moves the
tensor through float each time. As a convolution with weights 0 and 1 it stays inside and gives the same
values, in int8 too: the weight scale is 1/127, and 1 is its 127th step.
"""

from __future__ import annotations

from typing import Any

import torch

from edgekit.backends.executorch.program import op_name

SELECTION = "selection_"
"""Beginning of the names of the weights."""

_aten = torch.ops.aten


def replace_shortcuts(graph: Any) -> None:
    """Rewrite a graph module in place."""
    for node in list(graph.graph.nodes):
        if node.op != "call_function" or node.target is not _aten.slice.Tensor:
            continue
        found = _strides(node)
        if found is None:
            continue
        last, given, strides = found
        pad = _channel_padding(last)
        front, back = (0, 0) if pad is None else (int(pad.args[1][4]), int(pad.args[1][5]))
        channels = int(given.meta["val"].shape[1])
        _put_convolution(graph, pad or last, given, channels, (front, back), strides)
    graph.graph.eliminate_dead_code()


def _strides(node: Any) -> tuple[Any, Any, tuple[int, int]] | None:
    """The last of one or two strided slices over the image axes, what they slice, and their strides."""
    given = node.args[0]
    value = given.meta.get("val") if isinstance(given, torch.fx.Node) else None
    if value is None or value.dim() != 4 or value.dtype != torch.float32:
        return None
    if _axis(given) is not None and len(given.users) == 1:
        return None  # handled with the slice before
    first = _axis(node)
    if first is None:
        return None
    users = list(node.users)
    second = _axis(users[0]) if len(users) == 1 else None
    if second is not None and second[0] != first[0]:
        steps = dict([first, second])
        return users[0], given, (steps[2], steps[3])
    return node, given, (first[1] if first[0] == 2 else 1, first[1] if first[0] == 3 else 1)


def _axis(node: Any) -> tuple[int, int] | None:
    """Image axis and step of a slice that takes every step-th row or column from the first to the end."""
    if node.op != "call_function" or node.target is not _aten.slice.Tensor or len(node.args) < 5:
        return None
    given, axis, start, end, step = node.args[:5]
    value = given.meta.get("val")
    if value is None or value.dim() != 4 or axis % 4 not in (2, 3) or step < 2 or start not in (0, None):
        return None
    return (axis % 4, int(step)) if end is None or end >= value.shape[axis] else None


def _channel_padding(node: Any) -> Any:
    """The zero padding of channels that alone reads a node, None where there is none."""
    users = list(node.users)
    if len(users) != 1 or op_name(users[0]) not in ("pad", "constant_pad_nd"):
        return None
    pad = users[0]
    amounts = pad.args[1]
    values = [a for a in pad.args[2:] if not isinstance(a, str)]
    modes = [a for a in pad.args[2:] if isinstance(a, str)]
    if len(amounts) != 6 or any(amounts[:4]) or min(amounts) < 0 or any(values):
        return None
    return pad if all(m == "constant" for m in modes) else None


def _put_convolution(
    graph: Any, node: Any, given: Any, channels: int, padding: tuple[int, int], strides: tuple[int, int]
) -> None:
    """Put a convolution of ``given`` in place of ``node``: depthwise, or dense where channels are added."""
    dense = any(padding)
    if dense:
        weight = torch.zeros(channels + sum(padding), channels, 1, 1)
        weight[padding[0] : padding[0] + channels, :, 0, 0] = torch.eye(channels)
    else:
        weight = torch.ones(channels, 1, 1, 1)
    name = f"{SELECTION}{node.name}"
    graph.register_buffer(name, weight)
    with graph.graph.inserting_before(node):
        constant = graph.graph.get_attr(name)
        groups = 1 if dense else channels
        made = graph.graph.call_function(
            _aten.conv2d.default, (given, constant, None, list(strides), [0, 0], [1, 1], groups)
        )
    made.meta = dict(node.meta)
    node.replace_all_uses_with(made)
    graph.graph.erase_node(node)

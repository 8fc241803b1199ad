"""Cross-layer equalisation: channels between two layers brought to like ranges, in the float model.

Nagel et al. 2019, "Data-free quantization through weight equalization and bias correction", section 4.1:
for a positively homogeneous f, W2 f(W1 x) = (W2 S) f(S^-1 W1 x). An activation is stored with one scale for
all its channels; dividing loud channels leaves more of its levels to the quiet ones. Every backend gains,
since the model itself is changed and computes what it did.

Unlike the paper, which has one scale per weight tensor, the factors follow the ranges that the activations
have on calibration data: weights have a scale per output channel. Where the reader is depthwise its weights
are rescaled row by row and lose nothing: channels get equal ranges. Otherwise half the way (in decibels) is
gone, as weights lose what activations gain (Xiao et al. 2023, "SmoothQuant", alpha = 0.5).
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from edgekit.errors import Unsupported

if TYPE_CHECKING:
    import torch

_LARGEST = 64.0
"""Factors end here: a channel that is nearly silent carries nothing worth more resolution."""

_REASON = 200
"""Characters of torch's first line that a refusal quotes."""

_CONVS = ("conv1d", "conv2d")
_NORMS = ("batch_norm", "_native_batch_norm_legit_no_training")
_HOMOGENEOUS = (
    "relu",
    "relu_",
    "leaky_relu",
    "leaky_relu_",
    "dropout",
    "max_pool2d",
    "avg_pool2d",
    "adaptive_avg_pool2d",
)
"""Operators with f(s x) = s f(x) for s > 0, channel by channel."""


@dataclass(frozen=True, kw_only=True)
class Pair:
    """Two layers by the names of their tensors in the state dict.

    ``scaled`` are the tensors whose channels (first axis) are divided, ``reader`` the weight that is
    multiplied in return: rows where it is ``depthwise``, else input channels (second axis). ``node`` is the
    name of the activation that lies between, in the exported graph.
    """

    scaled: tuple[str, ...]
    reader: str
    depthwise: bool
    node: str


@dataclass(frozen=True, kw_only=True)
class Equalized:
    """The changed copy of the model, and the pairs that were equalised."""

    module: torch.nn.Module
    pairs: tuple[Pair, ...]


def equalize(module: torch.nn.Module, samples: Sequence[Sequence[torch.Tensor]]) -> Equalized:
    """A copy of ``module`` (in eval mode) with equalised pairs.

    ``samples``: inputs of calibration, each a list of (1, ...) tensors. Raises Unsupported where there is no
    pair, or where torch.export does not take the model.
    """
    import torch

    try:
        graph: Any = torch.export.export(module, tuple(samples[0])).module(check_guards=False)
    except Exception as exc:  # torch.export raises whatever the model meets
        first = next((line.strip() for line in str(exc).splitlines() if line.strip()), type(exc).__name__)
        raise Unsupported(f"torch.export does not take the model: {first[:_REASON]}") from exc
    made = copy.deepcopy(module)
    tensors = dict(made.named_parameters())
    pairs = [p for p in _pairs(graph) if tensors.keys() >= {*p.scaled, p.reader}]  # no buffers, no constants
    if not pairs:
        raise Unsupported("no two layers with weights of their own have only ReLUs and pooling between them")
    ranges = _channel_ranges(graph, {p.node for p in pairs}, samples)
    with torch.no_grad():
        for pair in pairs:
            top = ranges[pair.node]
            if not float(top.max()) > 0:
                continue
            share = (top / top.max()).clamp(min=1 / _LARGEST)
            factor = share if pair.depthwise else share.sqrt()
            for name in pair.scaled:
                tensors[name].div_(_along(factor, tensors[name], axis=0))
            reader = tensors[pair.reader]
            reader.mul_(_along(factor, reader, axis=0 if pair.depthwise else 1))
    return Equalized(module=made, pairs=tuple(pairs))


def _along(factor: torch.Tensor, tensor: torch.Tensor, *, axis: int) -> torch.Tensor:
    shape = [1] * tensor.dim()
    shape[axis] = -1
    return factor.to(tensor.dtype).reshape(shape)


def _op(node: Any) -> str:
    """ "conv2d" of aten.conv2d.default; "" for what is no operator."""
    return str(node.target).split(".")[1] if node.op == "call_function" and "." in str(node.target) else ""


def _parameter(node: Any) -> str | None:
    """Name of a parameter that one operator alone reads, else None."""
    return str(node.target) if getattr(node, "op", "") == "get_attr" and len(node.users) == 1 else None


def _pairs(graph: Any) -> list[Pair]:
    names = [n.target for n in graph.graph.nodes if n.op == "get_attr"]
    found = []
    for node in graph.graph.nodes:
        if _op(node) not in (*_CONVS, "linear"):
            continue
        reader = _parameter(node.args[1])
        before = node.args[0]
        seen = before
        while getattr(before, "op", "") == "call_function" and len(before.users) == 1:
            if _op(before) not in _HOMOGENEOUS:
                break
            before = before.args[0]
        scaled = _written_by(before)
        if reader is None or scaled is None or len(getattr(before, "users", ())) != 1:
            continue
        if any(names.count(name) != 1 for name in (*scaled, reader)):
            continue
        if _op(node) == "linear" and seen.meta["val"].dim() != 2:
            continue  # it reads the last axis, and channels are the second
        channels = int(before.meta["val"].shape[1])
        weight = node.args[1].meta["val"] if "val" in node.args[1].meta else graph.get_parameter(reader)
        depthwise = _op(node) in _CONVS and weight.shape[0] == channels and weight.shape[1] == 1
        if not depthwise and (weight.shape[1] != channels or seen.meta["val"].shape[1] != channels):
            continue  # grouped, or flattened with its image
        found.append(Pair(scaled=scaled, reader=reader, depthwise=depthwise, node=seen.name))
    return found


def _written_by(node: Any) -> tuple[str, ...] | None:
    """Parameters that scale the channels of ``node``: of a convolution or a linear layer, or of the batch
    norm behind one. None where something else made it."""
    if getattr(node, "op", "") != "call_function":
        return None
    if _op(node) in _NORMS:
        tensors: Sequence[Any] = node.args[1:3]
    elif _op(node) in _CONVS or (_op(node) == "linear" and node.meta["val"].dim() == 2):
        tensors = [a for a in node.args[1:3] if a is not None]
    else:
        return None
    names = [_parameter(t) for t in tensors if t is not None]
    return tuple(str(n) for n in names) if names and all(names) and len(tensors) == len(names) else None


def _channel_ranges(
    graph: Any, wanted: set[str], samples: Sequence[Sequence[torch.Tensor]]
) -> dict[str, torch.Tensor]:
    """Largest magnitude of each channel (second axis) of the wanted nodes over the samples."""
    import torch

    found: dict[str, torch.Tensor] = {}

    class Watch(torch.fx.Interpreter):
        def run_node(self, n: torch.fx.Node) -> Any:
            value = super().run_node(n)
            if n.name in wanted:
                top = value.detach().abs().transpose(0, 1).flatten(1).amax(1)
                found[n.name] = torch.maximum(found[n.name], top) if n.name in found else top
            return value

    with torch.no_grad():
        for sample in samples:
            Watch(graph).run(*sample)
    return found

"""Unstructured pruning: single weights become zero, shapes stay.

Over torch.nn.utils.prune (Han et al. 2015, arXiv:1506.02626: weights of least magnitude go); masks are
made permanent. Dense kernels multiply zeros like other numbers: no time is saved, and the file keeps its
size until it is compressed (zip, an app store, an over-the-air update). XNNPACK has sparse kernels for one
pattern of float CNNs (Elsen et al. 2020, "Fast Sparse ConvNets", arXiv:1911.09723): see
:func:`sparse_kernel_obstacles`.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from edgekit.compress.protection import named_by_user
from edgekit.errors import Unsupported, UserError

if TYPE_CHECKING:
    import torch
    from torch import nn

METHODS = ("l1", "global-l1", "random")
SPARSE_KERNELS_FROM = 2 / 3
"""Share of zeros from which XNNPACK takes its sparse kernels (its delegate's documentation)."""


@dataclass(frozen=True, kw_only=True)
class LayerZeros:
    """Zeros among the weights of one layer."""

    layer: str
    zeros: int
    weights: int


@dataclass(frozen=True, kw_only=True)
class Sparse:
    """A sparse model, in eval mode, of the same shapes. ``kept`` are layers that were not touched."""

    module: nn.Module
    layers: tuple[LayerZeros, ...]
    kept: Mapping[str, str]

    @property
    def share(self) -> float:
        """Zeros over all weights of the pruned layers."""
        return sum(r.zeros for r in self.layers) / sum(r.weights for r in self.layers)


def sparsify(
    module: nn.Module, *, amount: float, method: str = "l1", ignore: Sequence[str] = (), seed: int = 0
) -> Sparse:
    """Set ``amount`` in (0, 1) of the weights of convolution and linear layers of a copy to zero.

    "l1" takes the smallest of each layer, "global-l1" the smallest of all, "random" any (seeded). Raises
    UserError for an amount or a method that there is not, Unsupported for a model without such layers.
    """
    import torch
    from torch import nn
    from torch.nn.utils import prune as library

    prune: Any = library  # its functions are not typed

    if not 0 < amount < 1:
        raise UserError(f"sparsity.amount {amount} is outside (0, 1)", hint="0.5 to 0.9 is usual")
    if method not in METHODS:
        raise UserError(f"sparsity.method {method!r} is not known", hint=f"one of {', '.join(METHODS)}")
    kept = named_by_user(module, ignore, "sparsity.ignore")
    result = copy.deepcopy(module).eval()
    layers: dict[str, Any] = {}
    seen: set[int] = set()
    for name, layer in result.named_modules():
        if not isinstance(layer, (nn.Linear, nn.modules.conv._ConvNd)):
            continue
        inside = next((k for k in kept if name == k or name.startswith(k + ".")), None)
        if inside is not None:
            kept[name] = kept[inside]
        elif id(layer.weight) in seen:
            kept[name] = "its weight is shared with another layer"
        else:
            seen.add(id(layer.weight))
            layers[name] = layer
    if not layers:
        raise Unsupported(
            "the model has no convolution or linear layer to make sparse", hint="leave sparsity.amount away"
        )
    targets = [(layer, "weight") for layer in layers.values()]
    frozen = {name: layer.weight.requires_grad for name, layer in layers.items()}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        if method == "global-l1":
            prune.global_unstructured(targets, pruning_method=prune.L1Unstructured, amount=amount)
        for layer, name in targets:
            if method == "l1":
                prune.l1_unstructured(layer, name, amount=amount)
            elif method == "random":
                prune.random_unstructured(layer, name, amount=amount)
            prune.remove(layer, name)
    for name, layer in layers.items():
        layer.weight.requires_grad_(frozen[name])
    return Sparse(module=result, layers=tuple(_zeros(layers)), kept=kept)


def _zeros(layers: Mapping[str, Any]) -> list[LayerZeros]:
    return [
        LayerZeros(layer=n, zeros=int((m.weight == 0).sum()), weights=m.weight.numel())
        for n, m in layers.items()
    ]


def sparse_kernel_obstacles(
    module: nn.Module, example_inputs: Sequence[torch.Tensor], *, runtime: str, delegate: str, precision: str
) -> list[str]:
    """Why XNNPACK's sparse kernels do not serve this model; empty when they do.

    Conditions of XNNPACK's TFLite delegate ("Sparse inference"): float32 or float16 weights; a CNN that
    begins with a 3x3 convolution of stride 2 over 3 channels and goes on with 1x1 convolutions, depthwise
    3x3 (stride 1 or 2) and 5x5, pooling over all positions and elementwise operators; 1x1 convolutions
    of which at least two thirds of the weights are zero.
    """
    from torch import nn

    reasons = []
    if (runtime, delegate) != ("tflite", "xnnpack"):
        reasons.append(f"{runtime}/{delegate} has no sparse kernels")
    if precision not in ("float32", "fp16"):
        reasons.append(f"the sparse kernels compute in float, not in {precision}")
    convs = [(n, m) for n, m in module.named_modules() if isinstance(m, nn.modules.conv._ConvNd)]
    if not convs:
        return [*reasons, "there is no convolution"]
    name, first = convs[0]
    shape = (tuple(first.kernel_size), tuple(first.stride), first.in_channels)
    if shape != ((3, 3), (2, 2), 3):
        reasons.append(f"the first convolution {name} is not 3x3 with stride 2 over 3 channels")
    dense = []
    for name, conv in convs[1:]:
        if tuple(conv.kernel_size) == (1, 1):
            if float((conv.weight == 0).float().mean()) < SPARSE_KERNELS_FROM:
                dense.append(name)
        elif conv.groups != conv.in_channels or tuple(conv.kernel_size) not in ((3, 3), (5, 5)):
            reasons.append(f"{name} is neither 1x1 nor a depthwise 3x3 or 5x5 convolution")
            break
    if dense:
        reasons.append(f"{len(dense)} 1x1 convolutions have fewer than two thirds of zeros ({dense[0]})")
    return reasons

"""The factors of one layer: their ranks, costs, weights, and the layers that hold them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch
    from torch import nn

Sizes = tuple[tuple[int, ...], tuple[int, ...]]
"""Shapes of the input and the output that a layer was called with."""


@dataclass(frozen=True, kw_only=True)
class Factor:
    """One factorised layer: ranks (one, or two for tucker2: of the inputs, of the outputs), the energy
    that they keep, MACs of one call before and after, and parameters of the weights."""

    layer: str
    kind: str
    ranks: tuple[int, ...]
    energy: float
    macs_before: int
    macs: int
    params_before: int
    params: int


def factor_layer(
    name: str, layer: Any, sizes: Sizes, energy: float, method: str, round_to: int
) -> Factor | str:
    """The cheapest factorisation of ``layer`` that keeps ``energy``, or the reason for leaving it whole."""
    from torch import nn

    if isinstance(layer, nn.Linear) or tuple(layer.kernel_size) == (1, 1):
        kinds: Sequence[str] = ("svd",)
    else:
        kinds = ("tucker2", "spatial") if method == "auto" else (method,)
    whole = whole_macs(layer, sizes)
    best: Factor | None = None
    for kind in kinds:
        ranks, kept = _ranks(layer.weight.detach(), kind, energy, round_to)
        macs = _macs(layer, kind, ranks, sizes)
        if best is None or macs < best.macs:
            best = Factor(
                layer=name,
                kind=kind,
                ranks=ranks,
                energy=kept,
                macs_before=whole,
                macs=macs,
                params_before=layer.weight.numel(),
                params=sum(math.prod(s) for s in _shapes(layer.weight.shape, kind, ranks)),
            )
    assert best is not None
    if best.macs >= whole:
        text = ", ".join(map(str, best.ranks))
        return (
            f"rank {text} keeps {100 * best.energy:.1f} % of the energy but costs {best.macs} MACs, "
            f"the whole layer {whole}"
        )
    return best


def whole_macs(layer: Any, sizes: Sizes) -> int:
    """MACs of one call of a linear layer or an ungrouped convolution."""
    weight, (_, output) = layer.weight, sizes
    if weight.ndim == 2:
        return math.prod(output[:-1]) * int(weight.numel())
    return output[0] * math.prod(output[2:]) * int(weight.numel())


def _macs(layer: Any, kind: str, ranks: Sequence[int], sizes: Sizes) -> int:
    given, output = sizes
    out, into = (int(n) for n in layer.weight.shape[:2])
    if layer.weight.ndim == 2:
        return math.prod(output[:-1]) * ranks[0] * (out + into)
    here, there = output[0] * math.prod(output[2:]), given[0] * math.prod(given[2:])
    high, wide = (int(n) for n in layer.kernel_size)
    if kind == "svd":
        return ranks[0] * (here * into + here * out)  # the first of the two has the stride
    if kind == "tucker2":
        return there * into * ranks[0] + here * ranks[1] * (high * wide * ranks[0] + out)
    between = output[0] * output[2] * given[3]  # the first layer has moved down already, not yet right
    return ranks[0] * (between * high * into + here * wide * out)


def _ranks(weight: torch.Tensor, kind: str, energy: float, round_to: int) -> tuple[tuple[int, ...], float]:
    """Ranks for the energy, rounded up, and the energy that they keep."""
    import torch

    matrices = (
        [_matrix(weight, kind)]
        if kind != "tucker2"
        else [weight.transpose(0, 1).flatten(1), weight.flatten(1)]
    )
    ranks, kept = [], 1.0
    for matrix in matrices:
        values = torch.linalg.svdvals(matrix.double()).square()
        shares = values.cumsum(0) / values.sum().clamp_min(1e-300)
        rank = min(int((shares < energy - 1e-12).sum()) + 1, len(values))
        rank = min(math.ceil(rank / round_to) * round_to, len(values))
        ranks.append(rank)
        kept = min(kept, float(shares[rank - 1]))
    return tuple(ranks), kept


def _matrix(weight: torch.Tensor, kind: str) -> torch.Tensor:
    if kind == "spatial":  # (in, kh) by (out, kw)
        return weight.permute(1, 2, 0, 3).flatten(2).flatten(0, 1)
    return weight.flatten(1)  # (out, in)


def _shapes(shape: Sequence[int], kind: str, ranks: Sequence[int]) -> list[tuple[int, ...]]:
    """Weight shapes of the layers that take the place of one."""
    out, into = shape[:2]
    if len(shape) == 2:
        return [(ranks[0], into), (out, ranks[0])]
    high, wide = shape[2:]
    if kind == "svd":
        return [(ranks[0], into, 1, 1), (out, ranks[0], 1, 1)]
    if kind == "tucker2":
        return [(ranks[0], into, 1, 1), (ranks[1], ranks[0], high, wide), (out, ranks[1], 1, 1)]
    return [(ranks[0], into, high, 1), (out, ranks[0], 1, wide)]


def reconstruct(factor: Factor, layer: Any) -> tuple[list[torch.Tensor], torch.Tensor]:
    """The weights of the new layers, and the weight of the old shape that they stand for."""
    import torch

    weight = layer.weight.detach().double()
    if factor.kind == "tucker2":
        left = torch.linalg.svd(weight.transpose(0, 1).flatten(1), full_matrices=False)[0][
            :, : factor.ranks[0]
        ]
        right = torch.linalg.svd(weight.flatten(1), full_matrices=False)[0][:, : factor.ranks[1]]
        core = torch.einsum("oihw,ia,ob->bahw", weight, left, right)
        whole = torch.einsum("bahw,ia,ob->oihw", core, left, right)
        parts = [left.T[:, :, None, None], core, right[:, :, None, None]]
    else:
        rank = factor.ranks[0]
        u, s, v = torch.linalg.svd(_matrix(weight, factor.kind), full_matrices=False)
        u, v = u[:, :rank] * s[:rank].sqrt(), v[:rank] * s[:rank].sqrt()[:, None]
        if factor.kind == "spatial":
            out, into, high, wide = weight.shape
            first = u.view(into, high, rank).permute(2, 0, 1)[..., None]
            second = v.view(rank, out, wide).permute(1, 0, 2)[:, :, None]
            whole = (u @ v).view(into, high, out, wide).permute(2, 0, 1, 3)
            parts = [first, second]
        else:
            tail = (1,) * (weight.ndim - 2)
            parts = [v.view(*v.shape, *tail), u.view(*u.shape, *tail)]
            whole = (u @ v).view(weight.shape)
    kind = layer.weight.dtype
    return [p.to(kind).contiguous() for p in parts], whole.to(kind)


def empty_factors(layer: Any, kind: str, ranks: Sequence[int]) -> nn.Sequential:
    """Layers of the factors' shapes with zero weights; the last one has the old layer's bias."""
    import torch
    from torch import nn

    shapes = _shapes(tuple(layer.weight.shape), kind, ranks)
    made: list[Any] = []
    if layer.weight.ndim == 2:
        made = [nn.Linear(s[1], s[0], bias=False) for s in shapes]
    else:
        geometry = _geometry(layer, kind)
        for shape, (stride, padding, dilation) in zip(shapes, geometry, strict=True):
            rank, into, high, wide = shape
            made.append(
                nn.Conv2d(
                    into,
                    rank,
                    (high, wide),
                    stride=stride,
                    padding=padding,
                    dilation=dilation,
                    bias=False,
                )
            )
    if layer.bias is not None:
        made[-1].bias = nn.Parameter(layer.bias.detach().clone(), requires_grad=layer.bias.requires_grad)
    for part in made:
        part.weight = nn.Parameter(
            torch.zeros(part.weight.shape, dtype=layer.weight.dtype), requires_grad=layer.weight.requires_grad
        )
    return nn.Sequential(*made)


def _geometry(layer: Any, kind: str) -> list[tuple[Any, Any, Any]]:
    """Stride, padding and dilation of each of the new convolutions."""
    stride, padding, dilation = layer.stride, layer.padding, layer.dilation
    plain = ((1, 1), (0, 0), (1, 1))
    if kind == "svd":
        return [(stride, padding, dilation), plain]
    if kind == "tucker2":
        return [plain, (stride, padding, dilation), plain]
    return [
        ((stride[0], 1), (padding[0], 0), (dilation[0], 1)),
        ((1, stride[1]), (0, padding[1]), (1, dilation[1])),
    ]

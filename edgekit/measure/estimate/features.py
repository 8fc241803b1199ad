"""What an operator costs, from the units of a file: arithmetic, bytes moved, dispatch."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    from edgekit.profiles.schema import Tile

Kind = Literal["dense", "depthwise", "light", "other"]
"""light: elementwise, pooling and movement of values, whose cost is bytes; other: anything unknown."""

_BYTES_OF = {"int8": 1, "uint8": 1, "int16": 2, "int16x8": 2}
"""Of an activation. fp16 files are computed in float32 on a CPU: XNNPACK unpacks the weights on load."""
_INTEGER = frozenset({"int8", "uint8"})
_CHECKED = frozenset({"int8", "float32"})
_POST_PROCESS = "CUSTOM:TFLite_Detection_PostProcess"

_LIGHT = """
    add sub mul div maximum minimum neg abs square sqrt rsqrt exp relu relu6 hardtanh clamp prelu leakyrelu
    elu gelu hardswish hardsigmoid logistic sigmoid tanh softmax silu
    avgpool2d averagepool2d averagepool maxpool2d maxpool globalaveragepool adaptiveavgpool2d mean reducemean
    mean.dim meandim reshape view flatten squeeze unsqueeze expanddims transpose permute concatenation concat
    cat pad padv2 split slice stridedslice resizebilinear resizenearestneighbor upsamplebilinear2d
    upsamplenearest2d batchnorm batchnormalization clip dropout clone contiguous to tocopy
"""
_LIGHT_OPS = frozenset(_LIGHT.split())

_ABSORBED = "relu relu6 relun1to1 hardtanh clamp clip batchnorm batchnormalization dropout"
_FUSED = frozenset(_ABSORBED.split())
"""Operators that runtimes compute inside the convolution or product whose output they read."""


@dataclass(frozen=True, kw_only=True)
class OpFeatures:
    """One operator of one inference.

    ``macs`` are with output channels rounded up to the kernel's tile; ``bytes`` are those of activations
    read and written and of stored weights; ``scores`` are anchors times classes of a detection
    post-processing, else 0; reading them is part of that cost. ``fused`` operators cost nothing of their own.
    """

    name: str
    op: str
    kind: Kind
    integer: bool
    macs: float
    bytes: int
    scores: int = 0
    delegated: bool = True
    fused: bool = False
    off_tile: bool = False
    checked: bool = True
    """Whether it is of a precision that coefficients were ever checked on: float32 or int8."""
    complete: bool = True
    """Whether the backend told what the operator reads."""


def features(
    units: Sequence[Mapping[str, Any]], coverage: Sequence[Mapping[str, Any]], tile: Tile
) -> list[OpFeatures]:
    """Features of all units: rows with the fields of :class:`edgekit.types.Unit` ("name", "op", "index",
    "input_shapes", "channels" and "groups" may be missing); ``coverage`` rows have the fields of
    :class:`edgekit.types.OpCoverage`. Operators that are not covered count as delegated."""
    refused = {c["index"] for c in coverage if not c["accelerated"]}
    return list(_features(units, refused, tile))


def _features(units: Sequence[Mapping[str, Any]], refused: set[int], tile: Tile) -> Iterator[OpFeatures]:
    weighted: tuple[int, ...] | None = None
    for unit in units:
        op, macs, shape = str(unit.get("op", "")), int(unit["macs"]), tuple(unit["output_shape"])
        precision = str(unit["precision"])
        plain = op.lower().replace("_", "")
        fused = plain in _FUSED and weighted is not None and weighted == shape
        integer = precision in _INTEGER
        width, channels = (tile.int8 if integer else tile.fp32), unit.get("channels")
        rounded = math.ceil(channels / width) * width / channels if macs and channels else 1.0
        width_of = _BYTES_OF.get(precision, 4)
        inputs = tuple(tuple(s) for s in unit.get("input_shapes", ()))
        weights = int(unit["weight_bytes"]) * (2 if precision == "fp16" else 1)
        scores = max((math.prod(s) for s in inputs), default=0) if op == _POST_PROCESS else 0
        yield OpFeatures(
            name=str(unit.get("name", "")),
            op=op,
            kind=_kind(plain, macs, unit),
            integer=integer,
            macs=macs * rounded,
            bytes=0
            if fused or scores
            else weights + width_of * (math.prod(shape) + sum(math.prod(s) for s in inputs)),
            scores=scores,
            delegated=unit.get("index", -1) not in refused,
            fused=fused,
            off_tile=rounded > 1.0,
            checked=precision in _CHECKED,
            complete=bool(inputs),
        )
        weighted = shape if macs or (fused and weighted == shape) else None


def _kind(plain: str, macs: int, unit: Mapping[str, Any]) -> Kind:
    """By the operator's cost and name. TFLite names depthwise convolutions, others say it by their groups."""
    if macs and plain not in ("batchmatmul", "matmul", "bmm"):
        inputs = tuple(unit.get("input_shapes") or ())
        shape: tuple[int, ...] = tuple(inputs[0]) if inputs else ()
        by_groups = plain.startswith("conv") and len(shape) > 1 and 1 < (unit.get("groups") or 1) == shape[1]
        named = plain.startswith("depthwise")
        return "depthwise" if named or (by_groups and not str(unit["op"]).isupper()) else "dense"
    return "light" if plain in _LIGHT_OPS else "other"

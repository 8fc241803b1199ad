"""What onnx2tf 1.28.8 and litert-torch 0.10.0 do not convert, or convert wrongly; as data.

Measured with a model of one operator each; tests/backends/tflite/test_preflight.py repeats some. Operators
that become no ONNX operator at all are not listed: :mod:`edgekit.backends.onnx_preflight` finds those.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from edgekit.backends.torch_graph import TorchOp

REPLACE = "replace the operation in the model by supported ones"


def _always(op: TorchOp, node: Any = None) -> bool:
    return True


def _never(op: TorchOp, node: Any) -> bool:
    return False


def _magnitudes(op: TorchOp, node: Any) -> bool:
    """A spectrum along the last axis whose phase nobody reads: the only complex numbers that it takes."""
    users = [str(user.target) for user in node.users]
    return "rfft.default" in op.op and set(users) == {"aten.abs.default"} and _argument(op, 2, -1) == -1


def _last_axis(op: TorchOp, node: Any) -> bool:
    """Along another axis, or as a sort, it becomes STABLEHLO_SORT, for which LiteRT has no kernel."""
    axis = _argument(op, 2, -1)
    return "topk" in op.op and axis in (-1, len(op.shapes[0]) - 1)


@dataclass(frozen=True, kw_only=True)
class Limit:
    """Torch operators (overloads left out, "aten." too) and the ONNX operator that they become.

    ``reason`` is onnx2tf's or TFLite's; ``applies`` tells the calls that are affected, ``other`` those that
    litert-torch takes, given the call and its node in the exported graph. For nodes of an ONNX file only
    ``onnx`` and, where there is one, ``attribute`` count (name and value).
    """

    torch: tuple[str, ...]
    reason: str
    hint: str = REPLACE
    applies: Callable[[TorchOp], bool] = _always
    other: Callable[[TorchOp, Any], bool] = _always
    onnx: str = ""
    attribute: tuple[str, bytes] | None = None


def _kernel(onnx: str, *torch: str) -> Limit:
    return Limit(torch=torch, onnx=onnx, reason=f"it becomes {onnx}, for which TFLite has no kernel")


def _argument(op: TorchOp, place: int, default: Any) -> Any:
    return op.args[place] if len(op.args) > place else default


def _dilated(place: int) -> Callable[[TorchOp], bool]:
    return lambda op: any(int(d) != 1 for d in _argument(op, place, ()) or ())


def _images(op: TorchOp) -> bool:
    """Rank 3 to 5: what onnx2tf stores channels-last, and then counts axes wrongly."""
    return bool(op.shapes) and len(op.shapes[0]) > 2


def _integers(op: TorchOp) -> bool:
    return bool(op.dtypes) and "int" in op.dtypes[0]


_AXES = "onnx2tf counts its axes as if the tensor were channels-first"

LIMITS = (
    _kernel("Acos", "acos", "arccos"),
    _kernel("Acosh", "acosh", "arccosh"),
    _kernel("Asin", "asin", "arcsin"),
    _kernel("Asinh", "asinh", "arcsinh"),
    _kernel("Atan", "atan", "arctan", "atan2", "arctan2"),
    _kernel("Atanh", "atanh", "arctanh"),
    _kernel("Cosh", "cosh"),
    Limit(
        torch=("det", "linalg_det"),
        onnx="Det",
        other=_never,
        reason="it becomes MatrixDeterminant, for which TFLite has no kernel",
    ),
    _kernel("Erf", "erf", "special_erf"),
    Limit(
        torch=("erfc", "special_erfc"), other=_never, reason="it becomes Erf, for which TFLite has no kernel"
    ),
    _kernel("Sinh", "sinh"),
    _kernel("Tan", "tan"),
    Limit(
        torch=("col2im",),
        onnx="Col2Im",
        other=_never,
        reason="onnx2tf fails to convert it",
        hint="add the overlapping parts with a transposed convolution whose weights are zeros and ones",
    ),
    Limit(
        torch=("lstm",),
        onnx="LSTM",
        reason="onnx2tf fails to give an LSTM its initial state",
        hint="use a GRU, which it converts",
    ),
    Limit(
        torch=("topk", "sort"),
        onnx="TopK",
        other=_last_axis,
        reason="onnx2tf fails to read how many values TopK takes",
        hint="use topk along the last axis, or return all values and choose after inference",
    ),
    Limit(
        torch=("upsample_bicubic2d",),
        onnx="Resize",
        attribute=("mode", b"cubic"),
        reason="it becomes ResizeBicubic, for which TFLite has no kernel",
        hint="resize bilinearly (mode='bilinear') or to the nearest value",
    ),
    Limit(
        torch=("_upsample_bilinear2d_aa", "_upsample_bicubic2d_aa"),
        other=_never,
        reason="it becomes ScaleAndTranslate, for which TFLite has no kernel",
        hint="resize without antialias",
    ),
    Limit(torch=("upsample_trilinear3d",), reason="onnx2tf resizes images only, not volumes"),
    Limit(
        torch=("max_pool2d_with_indices", "max_unpool2d"),
        other=_never,
        reason="it becomes MaxPoolWithArgmax, for which TFLite has no kernel",
        hint="pool without return_indices, and resize instead of unpooling",
    ),
    Limit(
        torch=("max_pool2d",),
        applies=_dilated(4),
        reason="with a dilation it becomes Dilation2D, for which TFLite has no kernel",
        hint="pool with dilation=1",
    ),
    Limit(
        torch=("conv_transpose2d",),
        other=_never,
        applies=_dilated(7),
        reason="TFLite's TRANSPOSE_CONV has no dilation",
        hint="use dilation=1",
    ),
    Limit(
        torch=("grid_sampler", "grid_sampler_2d"),
        applies=lambda op: bool(_argument(op, 2, 0)) or bool(_argument(op, 3, 0)),
        onnx="GridSample",
        attribute=("padding_mode", b"border"),
        reason="onnx2tf samples bilinearly with zeros around the image only",
        hint="use mode='bilinear' and padding_mode='zeros'",
    ),
    Limit(
        torch=("pad",),
        applies=lambda op: _argument(op, 2, "constant") == "circular",
        onnx="Pad",
        attribute=("mode", b"wrap"),
        reason="TFLite has no circular padding",
        hint="concatenate the edges with torch.cat",
    ),
    Limit(torch=("cumsum", "logcumsumexp"), applies=_images, reason=_AXES),
    Limit(torch=("tril", "triu"), applies=_images, reason=_AXES),
    Limit(torch=("flip",), applies=_images, reason="onnx2tf does not slice backwards"),
    Limit(torch=("repeat_interleave",), applies=_images, reason=_AXES, hint="use repeat, or interpolate"),
    Limit(
        torch=("bucketize", "searchsorted", "bincount"), other=_never, reason="onnx2tf fails to convert it"
    ),
    Limit(
        torch=("embedding_bag",),
        other=_never,
        reason="it becomes a Loop, which onnx2tf cannot convert",
        hint="use Embedding",
    ),
    Limit(
        torch=("scatter_add", "index_add", "scatter_reduce"),
        other=_never,
        reason="onnx2tf scatters without adding only",
    ),
    Limit(
        torch=tuple(f"bitwise_{n}" for n in ("and", "or", "xor", "not")),
        applies=_integers,
        reason="onnx2tf has no bitwise operators",
    ),
    Limit(
        other=_magnitudes,
        torch=("stft", *(f"fft_{n}{d}" for n in ("fft", "ifft", "rfft", "irfft") for d in ("", "2", "n"))),
        onnx="DFT",
        reason="it becomes DFT, for which onnx2tf has no conversion",
        hint="compute the transform before or after inference, or as a product with a constant matrix",
    ),
)

_BY_TORCH: dict[str, Limit] = {name: limit for limit in LIMITS for name in limit.torch}
_BY_ONNX: dict[str, Limit] = {limit.onnx: limit for limit in LIMITS if limit.onnx}


def of_onnx2tf(op: TorchOp) -> Limit | None:
    """Why onnx2tf does not take an operator of a torch graph, or None."""
    namespace, name, *_ = (*op.op.split("."), "")
    limit = _BY_TORCH.get(name) if namespace == "aten" else None
    return limit if limit is not None and limit.applies(op) else None


def of_node(node: Any) -> Limit | None:
    """Why onnx2tf does not take a node of an ONNX graph that it has a converter for, or None."""
    limit = _BY_ONNX.get(node.op_type)
    if limit is None or limit.attribute is None:
        return limit
    return limit if any((a.name, a.s) == limit.attribute for a in node.attribute) else None

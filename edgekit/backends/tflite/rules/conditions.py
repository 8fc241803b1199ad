"""Conditions that rules are made of. Each returns None, or a clause for "takes OP only ..."."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from math import isfinite, prod

from edgekit.backends.tflite.rules.model import Condition
from edgekit.backends.tflite.rules.view import QUANTIZED, View

ACTIVATIONS = {0: "none", 1: "RELU", 2: "RELU_N1_TO_1", 3: "RELU6", 4: "TANH", 5: "SIGN_BIT"}
"""The schema's ActivationFunctionType."""

BOUNDED = frozenset({"none", "RELU", "RELU_N1_TO_1", "RELU6"})
"""Activations that clamp to a range."""


def unless(clause: str, holds: Callable[[View], bool]) -> Condition:
    """The clause, where ``holds`` does not."""

    def condition(view: View) -> str | None:
        return None if holds(view) else clause

    return condition


def static(position: int, what: str) -> Condition:
    """The operand, where it is there, is a constant."""

    def condition(view: View) -> str | None:
        tensor = view.operand(position)
        return None if tensor is None or view.is_static(tensor) else f"with constant {what}"

    return condition


def given(position: int, what: str) -> Condition:
    """The operand is there."""
    return unless(f"with {what}", lambda v: v.operand(position) is not None)


def rank(position: int, *allowed: int) -> Condition:
    """The operand has one of these numbers of dimensions."""
    text = " or ".join(map(str, allowed))

    def condition(view: View) -> str | None:
        tensor = view.operand(position)
        ok = tensor is None or len(tensor.shape) in allowed
        return None if ok else f"on operands of {text} dimensions"

    return condition


def at_most_rank(limit: int) -> Condition:
    """No operand and no result has more dimensions."""
    return unless(
        f"up to {limit} dimensions", lambda v: all(len(t.shape) <= limit for t in (*v.present, *v.outputs))
    )


def ranks_up_to(limit: int, *positions: int) -> Condition:
    """These operands have no more dimensions."""

    def holds(view: View) -> bool:
        tensors = [view.operand(p) for p in positions]
        return all(t is None or len(t.shape) <= limit for t in tensors)

    return unless(f"up to {limit} dimensions", holds)


def inputs(low: int, high: int) -> Condition:
    """The number of operands."""
    count = str(low) if low == high else f"{low} to {high}"
    return unless(f"with {count} operands", lambda v: low <= len(v.operands) <= high)


def outputs(low: int, high: int) -> Condition:
    """The number of results."""
    count = str(low) if low == high else f"{low} to {high}"
    return unless(f"with {count} results", lambda v: low <= len(v.op.outputs) <= high)


def runtime_inputs(*allowed: int) -> Condition:
    """The number of operands that are not constant."""
    text = " or ".join(map(str, allowed))
    return unless(f"with {text} operands that are not constant", lambda v: len(v.runtime) in allowed)


def dtype(position: int, *allowed: str) -> Condition:
    """The stored type of an operand."""
    text = " or ".join(allowed)

    def condition(view: View) -> str | None:
        tensor = view.operand(position)
        if tensor is None or tensor.dtype in allowed:
            return None
        return f"with {text} operand {position}, not {tensor.dtype}"

    return condition


def runtime_dtypes(allowed: frozenset[str], extra: dict[str, frozenset[str]] | None = None) -> Condition:
    """Types of everything that is not constant; ``extra`` are further ones of single operators."""

    def condition(view: View) -> str | None:
        types = allowed | (extra or {}).get(view.op.op, frozenset())
        for tensor in (*view.runtime, *view.outputs):
            if tensor.dtype not in types and not tensor.constant:
                return f"on {', '.join(sorted(allowed))}, not on {tensor.dtype}"
        return None

    return condition


def same_types(*positions: int) -> Condition:
    """The operands are stored as the result is."""

    def holds(view: View) -> bool:
        tensors = [view.operand(p) for p in positions]
        return all(t is None or t.dtype == view.outputs[0].dtype for t in tensors)

    return unless("with operands and result of one type", holds)


def per_tensor_activations(view: View) -> str | None:
    """Quantised values that are no constants have one scale."""
    wrong = [t for t in (*view.runtime, *view.outputs) if t.dtype in QUANTIZED and len(t.scale) != 1]
    return "on activations with one scale each" if wrong else None


def filter_axis(position: int, axis: int) -> Condition:
    """Weights with a scale per channel have them along this axis."""

    def holds(view: View) -> bool:
        weights = view.operand(position)
        return weights is None or len(weights.scale) <= 1 or weights.axis == axis

    return unless(f"with a weight scale per channel along axis {axis}", holds)


def one_weight_scale(position: int) -> Condition:
    """Quantised weights have one scale for the whole tensor."""

    def holds(view: View) -> bool:
        weights = view.operand(position)
        return weights is None or len(weights.scale) <= 1

    return unless("with one weight scale per tensor, not one per channel", holds)


def activation(allowed: Iterable[str] = BOUNDED) -> Condition:
    """The fused activation."""
    names = frozenset(allowed)

    def condition(view: View) -> str | None:
        found = ACTIVATIONS.get(int(view.option("fusedActivationFunction")), "unknown")
        return None if found in names else f"without the fused activation {found}"

    return condition


def equals(option: str, value: object, clause: str) -> Condition:
    """An attribute has one value."""
    return unless(clause, lambda v: bool(v.option(option) == value))


def positive(*options: str) -> Condition:
    """Attributes that count something are above zero."""
    return unless(
        f"with positive {', '.join(options)}", lambda v: all(int(v.option(o, 1)) > 0 for o in options)
    )


def scale_ratio(low: float, high: float, *positions: int) -> Condition:
    """Scale of quantised operands over that of the result: within [low, high)."""

    def holds(view: View) -> bool:
        out = view.outputs[0]
        for tensor in (view.operand(p) for p in positions):
            if tensor is None or tensor.dtype not in QUANTIZED or tensor.dtype != out.dtype:
                continue
            if not (tensor.scale and out.scale and low <= tensor.scale[0] / out.scale[0] < high):
                return False
        return True

    return unless(f"with operand scales of {low:.3g} to {high:g} times the result's", holds)


def product_ratio(low: float, high: float) -> Condition:
    """Product of two quantised operands' scales over the scale of the result: within [low, high)."""

    def holds(view: View) -> bool:
        a, b, out = view.operand(0), view.operand(1), view.outputs[0]
        if a is None or b is None or not {a.dtype, b.dtype} == {out.dtype} <= QUANTIZED:
            return True
        scales = bool(a.scale and b.scale and out.scale)
        return scales and low <= a.scale[0] * b.scale[0] / out.scale[0] < high

    return unless(f"with scales whose product is {low:.3g} to {high:g} times the result's", holds)


def same_quantization(view: View) -> str | None:
    """Operand 0 and the result share scale and zero point."""
    source, out = view.operand(0), view.outputs[0]
    if source is None or out.dtype not in QUANTIZED:
        return None
    same = source.scale == out.scale and source.zero_point == out.zero_point
    return None if same else "with one scale and zero point before and after"


def symmetric_second(view: View) -> str | None:
    """Operand 1 of an int8 product has zero point 0."""
    second = view.operand(1)
    if view.precision != "int8" or second is None:
        return None
    return None if second.zero_point == (0,) else "in int8 with zero point 0 of the second operand"


def pool_window(view: View) -> str | None:
    """Strides do not exceed the window, and a 1x1 window does not stride."""
    strides = (int(view.option("strideH")), int(view.option("strideW")))
    window = (int(view.option("filterHeight")), int(view.option("filterWidth")))
    if any(s > f for s, f in zip(strides, window, strict=True)):
        return "with strides up to the size of the window"
    return None


def strided_slice_plain(view: View) -> str | None:
    """No mask that changes the number of dimensions."""
    masks = [m for m in ("ellipsisMask", "newAxisMask", "shrinkAxisMask") if view.option(m)]
    return f"without {', '.join(masks)}" if masks else None


def unit_strides(view: View) -> str | None:
    """Steps of a STRIDED_SLICE are one."""
    steps = view.values(3)
    return None if steps is not None and bool((steps == 1).all()) else "with steps of 1"


def forward_strides(view: View) -> str | None:
    """Steps of a STRIDED_SLICE are positive."""
    steps = view.values(3)
    return None if steps is None or bool((steps > 0).all()) else "with positive steps"


def positive_sizes(position: int) -> Condition:
    """Constant sizes are above zero: -1 ("all that is left") is not."""

    def holds(view: View) -> bool:
        sizes = view.values(position)
        return sizes is None or bool((sizes > 0).all())

    return unless("with sizes that are spelled out", holds)


def no_negative_padding(view: View) -> str | None:
    """Padding adds, it does not cut."""
    amounts = view.values(1)
    return None if amounts is None or bool((amounts >= 0).all()) else "with amounts of at least zero"


def usable_alpha(view: View) -> str | None:
    """Slope of a LEAKY_RELU: not zero, and representable between the two scales when quantised."""
    alpha = float(view.option("alpha", 0.0))
    if alpha == 0 or not isfinite(alpha):
        return "with a slope other than zero"
    source, out = view.operand(0), view.outputs[0]
    if source is None or out.dtype not in QUANTIZED or not (source.scale and out.scale):
        return None
    upper = source.scale[0] / out.scale[0]
    lower = upper * alpha
    if not 1 / 256 <= upper <= 128 or not 1 / 256 <= abs(lower) <= 128:
        return "with scales that its slope can be written in"
    return None


def bias_per_channel(view: View) -> str | None:
    """The bias of a FULLY_CONNECTED has one value per output."""
    weights, bias = view.operand(1), view.operand(2)
    if weights is None or bias is None or not view.is_static(bias):
        return None
    return None if prod(bias.shape) == weights.shape[0] else "with a bias value for each output"


def static_shapes(view: View) -> str | None:
    """Every dimension is known before the model runs."""
    return "with static shapes" if any(t.dynamic for t in (*view.present, *view.outputs)) else None


def not_empty(view: View) -> str | None:
    """No dimension is zero."""
    return "on tensors with elements" if any(0 in t.shape for t in (*view.present, *view.outputs)) else None

"""int8 by ONNX Runtime's static quantiser (QDQ), with edgekit's placement and ranges."""

from __future__ import annotations

import contextlib
import logging
import warnings
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from edgekit.backends.calibration import Observed, Ranges
from edgekit.backends.onnx.graph import Graph, sort_nodes, unit_ops
from edgekit.backends.onnx.placement import RULES, Placement, Rules, place
from edgekit.errors import DataError, StepFailed, Unsupported

if TYPE_CHECKING:
    from edgekit.types import Scheme

DEFAULT_DELEGATE = "cpu"
FULL_WEIGHTS = 127
"""Largest int8 weight of a symmetric scheme; ONNX Runtime's "reduced range" ends at 64."""


def rules_of(scheme: Scheme) -> Rules:
    """The delegate's rules. Raises Unsupported for a delegate that this backend does not know."""
    delegate = scheme.delegate or DEFAULT_DELEGATE
    if delegate not in RULES:
        raise Unsupported(
            f"the ONNX backend has no int8 rules for delegate {delegate!r}",
            hint=f"it has: {', '.join(RULES)}",
        )
    return RULES[delegate]


def wants_float_weights(scheme: Scheme) -> bool:
    """Whether the delegate's version reads no weights that are stored in int8."""
    if scheme.delegate != "tensorrt":
        return False
    from edgekit.backends.onnx.tensorrt.lines import line_of

    return not line_of(scheme.delegate_version).int8_constants


def placed(graph: Graph, scheme: Scheme) -> Placement:
    """Placement of one scheme. Raises Unsupported for overrides that name no unit or no ONNX precision."""
    known = {op.name for op in unit_ops(graph)}
    for unit, precision in scheme.overrides.items():
        if unit not in known:
            raise Unsupported(f"the model has no unit {unit!r}", hint="`edgekit inspect` lists the units")
        if precision not in ("float32", "int8"):
            raise Unsupported(
                f"unit {unit!r} cannot be {precision} in an int8 ONNX file", hint="use float32 or int8"
            )
    keep = frozenset(unit for unit, precision in scheme.overrides.items() if precision == "float32")
    placement = place(graph, rules_of(scheme), keep, per_channel=scheme.per_channel)
    if not placement.weighted:
        raise Unsupported(
            "no operator of the model can be computed in int8: it has no convolution or matrix product with "
            "constant weights",
            hint="choose another precision with --set quantize.precision=...",
        )
    return placement


def joined(observed: Mapping[str, Observed], placement: Placement) -> dict[str, Observed]:
    """What was seen, with each group of tensors that need one range seen as one tensor.

    Histograms of a group are put on the bins of the widest member.
    """
    found = dict(observed)
    for group in _united(placement):
        seen = [found[t] for t in group if t in found]
        if len(seen) > 1:
            both = _sum(seen)
            found.update({t: both for t in group if t in found})
    return found


def _united(placement: Placement) -> list[tuple[str, ...]]:
    """Groups that share a tensor, united; members that are not stored are left out."""
    united: list[set[str]] = []
    for group in placement.groups:
        members = {t for t in group if t in placement.activations}
        for other in [u for u in united if u & members]:
            members |= other
            united.remove(other)
        united.append(members)
    return [tuple(sorted(u)) for u in united if len(u) > 1]


def _sum(seen: list[Observed]) -> Observed:
    lo, hi = min(o.edges[0] for o in seen), max(o.edges[1] for o in seen)
    bins = len(seen[0].counts)
    counts = np.zeros(bins, dtype=np.int64)
    for o in seen:
        centres = o.edges[0] + (np.arange(bins) + 0.5) * (o.edges[1] - o.edges[0]) / bins
        place_in = np.clip((centres - lo) * bins / max(hi - lo, 1e-30), 0, bins - 1).astype(np.int64)
        np.add.at(counts, place_in, o.counts)
    # One range has to serve all of them: the average extremes of the widest.
    wide = (min(o.average[0] for o in seen), max(o.average[1] for o in seen))
    return Observed(min(o.lo for o in seen), max(o.hi for o in seen), (lo, hi), counts, wide, 1)


def quantized(
    graph: Graph, placement: Placement, ranges: Ranges, rules: Rules, *, float_weights: bool = False
) -> Any:
    """The ModelProto with Q/DQ pairs. ``ranges`` has (min, max) of every placed activation. With
    ``float_weights`` weights stay float32 and get a pair too, as TensorRT wants it before version 10.

    Biases of "cpu" become int32 at input scale * weight scale; ONNX Runtime's quantiser widens a weight
    scale where such a bias would not fit. Raises DataError for ranges that are not finite.
    """
    import onnx
    from onnxruntime.quantization import CalibrationMethod, QuantType
    from onnxruntime.quantization.calibrate import TensorsData
    from onnxruntime.quantization.qdq_quantizer import QDQQuantizer

    missing = [t for t in placement.activations if t not in ranges and t not in graph.constants]
    if missing:
        raise StepFailed(f"calibration has seen nothing of {', '.join(missing[:3])}")
    stored = {t: _as_arrays(t, ranges[t]) for t in placement.activations if t in ranges}
    proto = onnx.ModelProto()
    proto.CopyFrom(graph.proto)
    with quiet():
        quantizer = QDQQuantizer(
            model=proto,
            per_channel=True,
            reduce_range=rules.weight_max < FULL_WEIGHTS,
            weight_qType=QuantType.QInt8,
            activation_qType=QuantType.QUInt8 if rules.unsigned else QuantType.QInt8,
            tensors_range=TensorsData(CalibrationMethod.MinMax, stored),
            nodes_to_quantize=[],
            nodes_to_exclude=[],
            op_types_to_quantize=[],  # edgekit marks the tensors itself
            extra_options={
                "ActivationSymmetric": not rules.unsigned,
                "WeightSymmetric": True,
                "QuantizeBias": rules.quantized_bias,
                "AddQDQPairToWeight": float_weights,
            },
        )
        _mark(quantizer, placement, rules)
        made = quantizer.quantize_model()
    sort_nodes(made, [op.name for op in graph.ops])
    del made.graph.value_info[:]
    made.producer_name, made.producer_version = "edgekit", ""
    onnx.checker.check_model(made)
    return made


def _mark(quantizer: Any, placement: Placement, rules: Rules) -> None:
    for w in placement.weighted:
        if w.axis is None:
            quantizer.quantize_weight_tensor(w.weights)
        else:
            quantizer.quantize_weight_tensor_per_channel(w.weights, w.axis)
        if w.bias is not None and rules.quantized_bias:
            quantizer.quantize_bias_tensor(w.op.name, w.bias, w.input, w.weights)
    for tensor in placement.activations:
        quantizer.quantize_activation_tensor(tensor)
    for tensor, (source, reader) in placement.shared.items():
        quantizer.quantize_output_same_as_input(tensor, source, reader)


def _as_arrays(name: str, limits: tuple[float, float]) -> tuple[Any, Any]:
    low, high = limits
    if not (np.isfinite(low) and np.isfinite(high)) or low > high:
        raise DataError(f"calibration gave the impossible range [{low}, {high}] for {name!r}")
    return np.array(low, dtype=np.float32), np.array(high, dtype=np.float32)


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """The quantiser advises preparation that has been done, through the root logger."""
    level = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)
            yield
    finally:
        logging.disable(level)

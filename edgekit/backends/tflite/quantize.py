"""Precisions of a float .tflite, written by ai-edge-quantizer from our own calibration."""

from __future__ import annotations

import contextlib
import io
import logging
import re
import warnings
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from edgekit.backends.calibration import Ranges
from edgekit.backends.tflite.flatbuffer import (
    Graph,
    Op,
    Tensor,
    parse_model,
    read_graph,
    unit_names,
    write_model,
)
from edgekit.errors import DataError, StepFailed, Unsupported
from edgekit.types import Precision, Scheme

STATIC_BITS: Mapping[Precision, int] = {"int8": 8, "int16x8": 16}
"""Bits of the activations, of precisions whose activations have calibrated ranges."""

HUGE = 1e9
"""Beyond this a value is no measurement but stands for infinity."""

_SHARED_WEIGHT_SCALE = {"nnapi": ("FULLY_CONNECTED",)}
"""Operators whose weights need one scale, by delegate: NNAPI's FULLY_CONNECTED has no scale per channel."""


def static_precisions(scheme: Scheme) -> set[Precision]:
    """Precisions of a scheme that need calibrated ranges, of the file and of single units."""
    return {scheme.precision, *scheme.overrides.values()} & set(STATIC_BITS)


def shares_weight_scale(op: str, scheme: Scheme) -> bool:
    """Whether an operator's weights have one scale whatever the scheme says of channels."""
    return op in _SHARED_WEIGHT_SCALE.get(scheme.delegate, ())


def quantize_file(source: Path, scheme: Scheme, ranges: Ranges | None) -> bytes:
    """Bytes of ``source`` (float32 .tflite) written as ``scheme`` says.

    ``ranges`` maps tensor names to (min, max) and is needed where activations are stored as integers.
    Raises Unsupported when the quantiser has no rule for what is asked, DataError for degenerate ranges.
    """
    from ai_edge_quantizer import quantizer

    integers = static_precisions(scheme)
    if integers:
        if not ranges:
            raise DataError(f"{', '.join(sorted(integers))} needs calibration data", hint="give --calib")
        _check_ranges(ranges)
    with _quiet():
        worker = quantizer.Quantizer(str(source))
        _add_rule(worker, ".*", scheme.precision, scheme)
        graph = read_graph(source)
        if integers and ranges:
            for op in beyond_integers(graph, ranges):
                _add_rule(worker, _scope(graph, op), "float32", scheme)
        by_unit = {name: graph.ops[index] for index, name in unit_names(graph).items()}
        for unit, op in by_unit.items():
            if scheme.exception(unit, op.op) is not None and unit not in scheme.overrides:
                _add_rule(worker, _scope(graph, op), "float32", scheme)
        for unit, precision in scheme.overrides.items():
            if unit not in by_unit:
                raise Unsupported(f"the model has no unit {unit!r}", hint="`edgekit inspect` lists the units")
            _add_rule(worker, _scope(graph, by_unit[unit]), precision, scheme)
        if integers and scheme.io == "float":
            _keep_edges_in_float(worker)
        try:
            result = worker.quantize(
                _qsv(ranges) if ranges and integers else None,
                enable_progress_bar=False,
                enable_progress_report=False,
            )
        except (ValueError, RuntimeError, KeyError) as exc:
            raise StepFailed(f"ai-edge-quantizer refused the model: {str(exc).splitlines()[0]}") from exc
    return mended(bytes(result.quantized_model))


def beyond_integers(graph: Graph, ranges: Ranges) -> list[Op]:
    """Operators that read or write values so large that no scale fits them and others: they stay in float.

    An attention mask of -3.4e38 is the usual case; LiteRT aborts the process on a file with such a scale.
    """
    huge = {
        t.index
        for t in graph.tensors
        if max(map(abs, ranges.get(t.name, (0.0, 0.0)))) > HUGE or (t.constant and _largest(t) > HUGE)
    }
    return [op for op in graph.ops if huge & {*op.inputs, *op.outputs}]


def _largest(tensor: Tensor) -> float:
    values = tensor.values() if tensor.dtype == "float32" else None
    return float(np.abs(values).max()) if values is not None and values.size else 0.0


def mended(data: bytes) -> bytes:
    """The file of ai-edge-quantizer 0.10 with what it gets wrong put right; ``data`` itself if nothing is.

    Where a tensor is an output of the model and also read by a later operator, that operator reads the
    dequantised copy while it writes integers, and computes nonsense: it gets the tensor that was
    dequantised. An int16 ADD or SUB keeps the float file's mark "scales are powers of two", which runtimes
    before LiteRT 2 believe and refuse the file for: it is taken off.
    """
    from ai_edge_litert import schema_py_generated as schema

    model = parse_model(data, "the quantised file")
    codes = [max(c.builtinCode, c.deprecatedBuiltinCode) for c in model.operatorCodes]
    kinds = schema.BuiltinOperator
    integers = (schema.TensorType.INT8, schema.TensorType.INT16)
    changed = False
    for graph in model.subgraphs:
        sources = {
            int(op.outputs[0]): int(op.inputs[0])
            for op in graph.operators
            if codes[op.opcodeIndex] == kinds.DEQUANTIZE and graph.tensors[op.inputs[0]].type in integers
        }
        for op in graph.operators:
            code, types = codes[op.opcodeIndex], {graph.tensors[t].type for t in op.outputs}
            if code not in (kinds.QUANTIZE, kinds.DEQUANTIZE) and types <= set(integers):
                for k, tensor in enumerate(op.inputs):
                    if int(tensor) in sources:
                        op.inputs[k] = sources[int(tensor)]
                        changed = True
            if code in (kinds.ADD, kinds.SUB) and types == {schema.TensorType.INT16}:
                changed |= bool(op.builtinOptions.potScaleInt16)
                op.builtinOptions.potScaleInt16 = False
    return write_model(model) if changed else data


def _scope(graph: Graph, op: Op) -> str:
    """Regular expression of one operator: ai-edge-quantizer knows it by its outputs, "name;name;"."""
    return f"^{re.escape(''.join(graph.tensors[t].name + ';' for t in op.outputs))}$"


def _keep_edges_in_float(worker: Any) -> None:
    from ai_edge_quantizer import qtyping
    from ai_edge_quantizer.algorithm_manager import AlgorithmName

    for edge in (qtyping.TFLOperationName.INPUT, qtyping.TFLOperationName.OUTPUT):
        worker.update_quantization_recipe(".*", edge, None, algorithm_key=AlgorithmName.NO_QUANTIZE)


def _add_rule(worker: Any, regex: str, precision: Precision, scheme: Scheme) -> None:
    """What the operators that match ``regex`` are written in. Later rules win."""
    from ai_edge_quantizer import qtyping
    from ai_edge_quantizer.algorithm_manager import AlgorithmName

    every = qtyping.TFLOperationName.ALL_SUPPORTED
    one, per_channel = qtyping.QuantGranularity.TENSORWISE, qtyping.QuantGranularity.CHANNELWISE
    grain = per_channel if scheme.per_channel else one
    if precision in STATIC_BITS:
        shared = [qtyping.TFLOperationName[op] for op in _SHARED_WEIGHT_SCALE.get(scheme.delegate, ())]
        for ops, weights in ((every, grain), *((op, one) for op in shared)):
            worker.add_static_config(
                regex,
                ops,
                activation_num_bits=STATIC_BITS[precision],
                weight_num_bits=8,
                weight_granularity=weights,
            )
    elif precision == "dynamic":
        worker.add_dynamic_config(regex, every, num_bits=8, granularity=grain)
    elif precision == "fp16":
        worker.update_quantization_recipe(
            regex,
            every,
            qtyping.OpQuantizationConfig(
                weight_tensor_config=qtyping.TensorQuantizationConfig(
                    num_bits=16, dtype=qtyping.TensorDataType.FLOAT
                ),
                compute_precision=qtyping.ComputePrecision.FLOAT,
                explicit_dequantize=True,
            ),
            algorithm_key=AlgorithmName.FLOAT_CASTING,
        )
    else:
        worker.update_quantization_recipe(regex, every, None, algorithm_key=AlgorithmName.NO_QUANTIZE)


def _qsv(ranges: Ranges) -> dict[str, dict[str, Any]]:
    """ai-edge-quantizer's calibration result: min and max arrays by tensor name."""
    return {
        name: {"min": np.array([[lo]], dtype=np.float32), "max": np.array([[hi]], dtype=np.float32)}
        for name, (lo, hi) in ranges.items()
    }


def _check_ranges(ranges: Mapping[str, tuple[float, float]]) -> None:
    for name, (lo, hi) in ranges.items():
        if not (np.isfinite(lo) and np.isfinite(hi)) or lo > hi:
            raise DataError(f"calibration gave the impossible range [{lo}, {hi}] for {name!r}")


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """The quantiser prints a summary and warns of what it does itself; edgekit writes its own report."""
    level = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with contextlib.redirect_stdout(io.StringIO()), warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)
            yield
    finally:
        logging.disable(level)

"""The exported tiny model, its int8 file, and .tflite files written by hand."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgekit.backends.tflite.flatbuffer import read_graph, write_model
from edgekit.backends.tflite.session import make_interpreter
from edgekit.types import Artifact, Scheme, ignore_events

NUMBERS = {"float32": 0, "float16": 1, "int32": 2, "uint8": 3, "int64": 4, "bool": 6, "int16": 7, "int8": 9}


@pytest.fixture(scope="session")
def tiny(export_tiny: Callable[[str], Any]) -> Any:
    """The tiny model's float32 file; see tests/conftest.py."""
    return export_tiny("tflite")


@pytest.fixture(scope="session")
def quantized(tiny: Any) -> Callable[..., Artifact]:
    """The tiny model in any scheme, calibrated on 20 samples of which 4 are held back."""

    def make(*, artifact: Artifact | None = None, refit: bool = False, **scheme: Any) -> Artifact:
        return tiny.backend.quantize(
            artifact or tiny.artifact,
            tiny.samples[:20],
            Scheme(**scheme),
            refit=refit,
            store=tiny.store,
            emit=ignore_events,
        )

    return make


@pytest.fixture(scope="session")
def int8_file(quantized: Callable[..., Artifact]) -> Artifact:
    return quantized(precision="int8", calibration="minmax")


@pytest.fixture(scope="session")
def delegated() -> Callable[[Path], list[tuple[int, ...]]]:
    """Operators of each partition that LiteRT gives to XNNPACK.

    LiteRT lists a node DELEGATE for every partition; what lies between its inputs and outputs is its own.
    """

    def ask(path: Path) -> list[tuple[int, ...]]:
        graph = read_graph(path)
        makers = {tensor: op for op in graph.ops for tensor in op.outputs}
        found = []
        for node in make_interpreter(path)._get_ops_details():
            if node["op_name"] != "DELEGATE":
                continue
            edge, todo = {int(i) for i in node["inputs"]}, [int(o) for o in node["outputs"]]
            ops: set[int] = set()
            while todo:
                tensor = todo.pop()
                op = makers.get(tensor)
                if op is not None and tensor not in edge and op.index not in ops:
                    ops.add(op.index)
                    todo += op.inputs
            found.append(tuple(sorted(ops)))
        return sorted(found)

    return ask


@pytest.fixture
def handmade(tmp_path: Path) -> Callable[..., Path]:
    """Write a .tflite file: ``tensors`` by name, then (op, inputs, outputs, options) in order.

    A tensor is {"shape", "dtype", "scale", "zero_point", "axis", "signature", "data"}; one with data is a
    constant. Options are (class name, {attribute: value}) of the schema, or None. An input named "" is left
    out.
    """

    def make(
        tensors: Mapping[str, Mapping[str, Any]],
        ops: Sequence[tuple[str, Sequence[str], Sequence[str], tuple[str, Mapping[str, Any]] | None]],
        inputs: Sequence[str],
        outputs: Sequence[str],
        name: str = "handmade.tflite",
    ) -> Path:
        path = tmp_path / name
        path.write_bytes(write_model(_model(tensors, ops, inputs, outputs)))
        return path

    return make


def _model(
    tensors: Mapping[str, Mapping[str, Any]],
    ops: Sequence[Any],
    inputs: Sequence[str],
    outputs: Sequence[str],
) -> Any:
    from ai_edge_litert import schema_py_generated as schema

    order = {name: i for i, name in enumerate(tensors)}
    model, graph = schema.ModelT(), schema.SubGraphT()
    model.version, model.description = 3, b"written by a test"
    model.buffers, graph.tensors, graph.operators = [schema.BufferT()], [], []
    for name, facts in tensors.items():
        tensor = schema.TensorT()
        tensor.name, tensor.shape = name.encode(), np.array(facts["shape"], dtype=np.int32)
        tensor.type, tensor.buffer = NUMBERS[facts.get("dtype", "float32")], 0
        if "data" in facts:
            buffer = schema.BufferT()
            data = np.ascontiguousarray(facts["data"], dtype=facts.get("dtype", "float32"))
            buffer.data = np.frombuffer(data.tobytes(), dtype=np.uint8)
            tensor.buffer = len(model.buffers)
            model.buffers.append(buffer)
        if "scale" in facts:
            scale = np.atleast_1d(np.asarray(facts["scale"], dtype=np.float32))
            tensor.quantization = schema.QuantizationParametersT()
            tensor.quantization.scale = scale
            tensor.quantization.zeroPoint = np.full(len(scale), facts.get("zero_point", 0), dtype=np.int64)
            tensor.quantization.quantizedDimension = facts.get("axis", 0)
        if "signature" in facts:
            tensor.shapeSignature = np.array(facts["signature"], dtype=np.int32)
        graph.tensors.append(tensor)
    codes: list[str] = []
    model.operatorCodes = []
    for op, takes, gives, options in ops:
        if op not in codes:
            code = schema.OperatorCodeT()
            code.builtinCode = getattr(schema.BuiltinOperator, op)
            code.deprecatedBuiltinCode = min(code.builtinCode, 127)
            code.version = 1
            codes.append(op)
            model.operatorCodes.append(code)
        made = schema.OperatorT()
        made.opcodeIndex = codes.index(op)
        made.inputs = np.array([order[t] if t else -1 for t in takes], dtype=np.int32)
        made.outputs = np.array([order[t] for t in gives], dtype=np.int32)
        if options is not None:
            kind, values = options
            made.builtinOptionsType = getattr(schema.BuiltinOptions, kind)
            made.builtinOptions = getattr(schema, f"{kind}T")()
            for key, value in values.items():
                setattr(made.builtinOptions, key, value)
        graph.operators.append(made)
    graph.inputs = np.array([order[t] for t in inputs], dtype=np.int32)
    graph.outputs = np.array([order[t] for t in outputs], dtype=np.int32)
    model.subgraphs = [graph]
    signature = schema.SignatureDefT()
    signature.signatureKey, signature.subgraphIndex = b"serving_default", 0
    signature.inputs, signature.outputs = [], []
    for side, names in ((signature.inputs, inputs), (signature.outputs, outputs)):
        for tensor_name in names:
            entry = schema.TensorMapT()
            entry.name, entry.tensorIndex = tensor_name.encode(), order[tensor_name]
            side.append(entry)
    model.signatureDefs = [signature]
    return model

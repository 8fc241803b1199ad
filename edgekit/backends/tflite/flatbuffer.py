"""Reading a .tflite file: operators, tensors, quantisation parameters, units and their MACs.

The flatbuffer classes are those that ship with ai-edge-litert; the schema is
tensorflow/compiler/mlir/lite/schema/schema.fbs.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache
from math import prod
from pathlib import Path
from typing import Any

import numpy as np

from edgekit.errors import StepFailed
from edgekit.types import TensorSpec, Unit

_DTYPES = {
    0: "float32",
    1: "float16",
    2: "int32",
    3: "uint8",
    4: "int64",
    5: "string",
    6: "bool",
    7: "int16",
    9: "int8",
}
_DTYPES |= {8: "complex64", 10: "float64", 15: "uint32", 16: "uint16", 17: "int4"}

PLUMBING = frozenset({"QUANTIZE", "DEQUANTIZE"})
"""Operators that only change how a value is stored; they belong to no layer of the user's model."""

SHAPE_ONLY = frozenset({"RESHAPE", "SQUEEZE", "EXPAND_DIMS", "SHAPE", "PACK", "UNPACK", "SPLIT", "SPLIT_V"})
"""Operators without arithmetic, left out of the share of int8 operators."""


@dataclass(frozen=True)
class Tensor:
    """A tensor of the main subgraph. ``scale`` has one entry per channel of ``axis``, or one, or none.

    ``dynamic``: a dimension is known at run time only. ``data`` are the raw bytes of a constant.
    """

    index: int
    name: str
    shape: tuple[int, ...]
    dtype: str
    scale: tuple[float, ...]
    zero_point: tuple[int, ...]
    constant: bool
    bytes: int
    axis: int = 0
    dynamic: bool = False
    data: Any = field(default=None, repr=False, compare=False)

    def values(self) -> np.ndarray[Any, Any] | None:
        """The numbers of a constant, None for any other tensor."""
        if self.data is None or not self.constant:
            return None
        return np.frombuffer(bytes(self.data), dtype=np.dtype(self.dtype)).reshape(self.shape)


@dataclass(frozen=True)
class Op:
    """An operator of the main subgraph, in execution order. ``options`` are its builtin attributes.

    ``inputs`` are the tensors that it reads; ``operands`` the same by position, -1 for one left out.
    """

    index: int
    op: str
    version: int
    inputs: tuple[int, ...]
    outputs: tuple[int, ...]
    options: Mapping[str, Any] = field(default_factory=dict)
    operands: tuple[int, ...] = ()


@dataclass(frozen=True)
class Graph:
    """The main subgraph of a file."""

    tensors: tuple[Tensor, ...]
    ops: tuple[Op, ...]
    inputs: tuple[int, ...]
    outputs: tuple[int, ...]
    subgraphs: int

    def consumers(self, tensor: int) -> list[Op]:
        """Operators that read a tensor."""
        return [op for op in self.ops if tensor in op.inputs]

    def count(self, op: str) -> int:
        """How many operators of a type the graph has."""
        return sum(o.op == op for o in self.ops)


@cache
def _op_names() -> dict[int, str]:
    from ai_edge_litert import schema_py_generated as schema

    return {v: k for k, v in vars(schema.BuiltinOperator).items() if isinstance(v, int)}


def read_model(path: Path) -> Any:
    """The mutable object form (``ModelT``) of a file, with every buffer inline.

    ai-edge-quantizer stores constants behind the flatbuffer, by offset and size; they are brought back
    in, so that what :func:`write_model` makes also loads in runtimes older than that feature. Raises
    StepFailed when the file is not TFLite.
    """
    return parse_model(path.read_bytes(), path.name)


def parse_model(data: bytes, name: str) -> Any:
    """:func:`read_model` of bytes in memory; ``name`` is for messages."""
    from ai_edge_litert import schema_py_generated as schema

    if data[4:8] != b"TFL3":
        raise StepFailed(f"{name} is not a TFLite file")
    try:
        model = schema.ModelT.InitFromObj(schema.Model.GetRootAs(bytearray(data), 0))
    except (struct.error, IndexError, TypeError, ValueError) as exc:  # offsets that lead out of the file
        raise StepFailed(f"{name} is damaged: {exc}") from exc
    for buffer in model.buffers:
        if buffer.offset > 1:
            buffer.data = np.frombuffer(data, np.uint8, count=buffer.size, offset=buffer.offset)
            buffer.offset = buffer.size = 0
    return model


def write_model(model: Any) -> bytes:
    """Bytes of a ``ModelT``, constants inline and aligned to 16 bytes as the schema asks."""
    import flatbuffers
    from ai_edge_litert import schema_py_generated as schema

    class AlignedBuffer(schema.BufferT):  # type: ignore[misc]
        """The generated ``Pack`` ignores force_align and leaves constants at odd addresses."""

        def Pack(self, builder: Any) -> Any:
            data = None
            if self.data is not None:
                raw = np.asarray(self.data, dtype=np.uint8).tobytes()
                builder.StartVector(1, len(raw), 16)
                builder.head -= len(raw)
                builder.Bytes[builder.head : builder.head + len(raw)] = raw
                data = builder.EndVector()
            schema.BufferStart(builder)
            if data is not None:
                schema.BufferAddData(builder, data)
            return schema.BufferEnd(builder)

    plain = model.buffers
    model.buffers = []
    for buffer in plain:
        aligned = AlignedBuffer()
        aligned.data = buffer.data
        model.buffers.append(aligned)
    try:
        builder = flatbuffers.Builder(1024)
        builder.Finish(model.Pack(builder), b"TFL3")
    finally:
        model.buffers = plain
    return bytes(builder.Output())


def read_graph(path: Path) -> Graph:
    """The main subgraph of a .tflite file."""
    model = read_model(path)
    sub = model.subgraphs[0]
    tensors = tuple(_tensor(i, t, model.buffers) for i, t in enumerate(sub.tensors))
    codes = [_op_names()[max(c.builtinCode, c.deprecatedBuiltinCode)] for c in model.operatorCodes]
    ops = []
    for i, op in enumerate(sub.operators):
        code = model.operatorCodes[op.opcodeIndex]
        name = codes[op.opcodeIndex]
        if name == "CUSTOM" and code.customCode:
            name = f"CUSTOM:{code.customCode.decode()}"
        options = vars(op.builtinOptions) if op.builtinOptions is not None else {}
        operands = tuple(int(t) for t in op.inputs)
        inputs, outputs = tuple(t for t in operands if t >= 0), tuple(int(t) for t in op.outputs)
        ops.append(Op(i, name, int(code.version), inputs, outputs, options, operands))
    return Graph(
        tensors, tuple(ops), tuple(map(int, sub.inputs)), tuple(map(int, sub.outputs)), len(model.subgraphs)
    )


def _tensor(index: int, t: Any, buffers: Any) -> Tensor:
    q = t.quantization
    scale = () if q is None or q.scale is None else tuple(float(s) for s in q.scale)
    zero = () if q is None or q.zeroPoint is None else tuple(int(z) for z in q.zeroPoint)
    data = buffers[t.buffer].data
    shape = () if t.shape is None else tuple(int(d) for d in t.shape)
    dtype = _DTYPES.get(t.type, f"type{t.type}")
    size = 0 if data is None else len(data)
    axis = 0 if q is None else int(q.quantizedDimension)
    dynamic = t.shapeSignature is not None and any(int(d) < 0 for d in t.shapeSignature)
    return Tensor(index, t.name.decode(), shape, dtype, scale, zero, size > 0, size, axis, dynamic, data)


def macs(graph: Graph, op: Op) -> int:
    """Multiply-accumulates of one operator for one inference; 0 for operators without products of weights."""
    out = prod(graph.tensors[op.outputs[0]].shape)
    if op.op in ("CONV_2D", "DEPTHWISE_CONV_2D"):
        weights = graph.tensors[op.inputs[1]].shape  # OHWI; depthwise 1HWO
        per_output = prod(weights[1:]) if op.op == "CONV_2D" else weights[1] * weights[2]
        return out * per_output
    if op.op == "TRANSPOSE_CONV":
        weights = graph.tensors[op.inputs[1]].shape  # OHWI
        return prod(graph.tensors[op.inputs[2]].shape) * weights[0] * weights[1] * weights[2]
    if op.op == "CONV_3D":
        return out * prod(graph.tensors[op.inputs[1]].shape[:4])
    if op.op in ("FULLY_CONNECTED", "BATCH_MATMUL"):
        lhs = graph.tensors[op.inputs[0]].shape
        depth = graph.tensors[op.inputs[1]].shape[-1] if op.op == "FULLY_CONNECTED" else lhs[-1]
        return out * depth
    return 0


def op_precision(graph: Graph, op: Op) -> str:
    """In what an operator computes; "dynamic" is int8 weights with float activations."""
    out = graph.tensors[op.outputs[0]].dtype
    if out in ("int8", "int16", "uint8"):
        return out
    sources = [graph.tensors[t] for t in op.inputs]
    if any(t.constant and t.dtype in ("int8", "int4") for t in sources):
        return "dynamic"
    producers = {t: o for o in graph.ops for t in o.outputs}
    for t in sources:
        maker = producers.get(t.index)
        if (
            maker is not None
            and maker.op == "DEQUANTIZE"
            and graph.tensors[maker.inputs[0]].dtype == "float16"
        ):
            return "fp16"
    return out


def units(graph: Graph) -> list[Unit]:
    """Everything that computes, in execution order: one unit per operator except QUANTIZE / DEQUANTIZE."""
    found = []
    names = unit_names(graph)
    for op in graph.ops:
        if op.index not in names:
            continue
        out = graph.tensors[op.outputs[0]]
        weights = sum(_stored_bytes(graph, t) for t in op.inputs)
        found.append(
            Unit(
                name=names[op.index],
                op=op.op,
                index=op.index,
                macs=macs(graph, op),
                weight_bytes=weights,
                output_shape=out.shape,
                precision=op_precision(graph, op),
                input_shapes=tuple(graph.tensors[t].shape for t in op.inputs if not _held(graph, t)),
                channels=out.shape[-1] if op.op in _WEIGHTED and out.shape else None,
                groups=_groups(graph, op),
            )
        )
    return found


_WEIGHTED = frozenset({"CONV_2D", "DEPTHWISE_CONV_2D", "TRANSPOSE_CONV", "CONV_3D", "FULLY_CONNECTED"})


def _groups(graph: Graph, op: Op) -> int:
    """Groups of a convolution: channels that come in over channels that one filter reads."""
    if op.op == "DEPTHWISE_CONV_2D":
        return graph.tensors[op.inputs[0]].shape[-1]
    if op.op == "CONV_2D":
        return max(1, graph.tensors[op.inputs[0]].shape[-1] // graph.tensors[op.inputs[1]].shape[-1])
    return 1


def _held(graph: Graph, tensor: int) -> bool:
    """Whether the file holds a tensor's values, be it behind the DEQUANTIZE of fp16 weights."""
    return graph.tensors[tensor].constant or _stored_bytes(graph, tensor) > 0


def _stored_bytes(graph: Graph, tensor: int) -> int:
    """Bytes of a constant input, looking through the DEQUANTIZE of fp16 weights."""
    t = graph.tensors[tensor]
    if t.constant:
        return t.bytes
    maker = next((o for o in graph.ops if tensor in o.outputs and o.op == "DEQUANTIZE"), None)
    return graph.tensors[maker.inputs[0]].bytes if maker is not None else 0


def short_name(tensor: str) -> str:
    """Readable part of a fused tensor name: "model/tf.nn.relu/Relu;model/..." becomes "relu/Relu"."""
    head = tensor.split(";")[0]
    parts = [p for p in head.split("/") if p]
    if len(parts) > 1 and parts[0].startswith(("model", "functional")):
        parts = parts[1:]
    return (
        "/".join(p.removeprefix("tf.").removeprefix("compat.v1.").removeprefix("nn.") for p in parts)
        or tensor
    )


def unit_names(graph: Graph) -> dict[int, str]:
    """Name of every unit by the index of its operator; a short name that is taken gets "#2", "#3"."""
    names: dict[int, str] = {}
    taken: set[str] = set()
    for op in graph.ops:
        if op.op in PLUMBING:
            continue
        name = short = short_name(graph.tensors[op.outputs[0]].name)
        number = 1
        while name in taken:
            number += 1
            name = f"{short}#{number}"
        taken.add(name)
        names[op.index] = name
    return names


def int8_share(graph: Graph) -> tuple[float, list[Op]]:
    """Share of arithmetic operators that compute in int8, and those that do not."""
    counted = [o for o in graph.ops if o.op not in PLUMBING | SHAPE_ONLY]
    left = [o for o in counted if op_precision(graph, o) != "int8"]
    return (1 - len(left) / len(counted) if counted else 0.0), left


def tensor_specs(
    graph: Graph, indices: tuple[int, ...], layouts: tuple[str | None, ...]
) -> tuple[TensorSpec, ...]:
    """Signature entries of inputs or outputs, with quantisation parameters for integer tensors."""
    specs = []
    for i, layout in zip(indices, layouts, strict=True):
        t = graph.tensors[i]
        specs.append(
            TensorSpec(
                name=t.name,
                shape=t.shape,
                dtype=t.dtype,
                layout=layout,
                scale=t.scale[0] if t.scale else None,
                zero_point=t.zero_point[0] if t.scale and t.zero_point else None,
            )
        )
    return tuple(specs)


def constant(model: Any, tensor: int) -> np.ndarray[Any, Any]:
    """Values of a constant tensor of a ``ModelT``."""
    t = model.subgraphs[0].tensors[tensor]
    raw = np.frombuffer(bytes(model.buffers[t.buffer].data), dtype=np.dtype(_DTYPES[t.type]))
    return raw.reshape(tuple(int(d) for d in t.shape))

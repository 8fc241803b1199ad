"""Reading an ONNX file: its operators in order, their tensors, and what each computes in."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from edgekit.errors import UserError
from edgekit.types import Artifact, TensorSpec, Unit

if TYPE_CHECKING:
    from edgekit.types import Array

QUANTIZE, DEQUANTIZE = "QuantizeLinear", "DequantizeLinear"
_FLOATS = frozenset({"float32", "float16", "float64"})
_INT8 = frozenset({"int8", "uint8"})

_ACTIVATIONS = "Relu Clip HardSwish HardSigmoid Sigmoid Tanh Elu LeakyRelu PRelu Gelu Mish Softplus Swish"
ACTIVATIONS = frozenset(_ACTIVATIONS.split())
"""Elementwise functions of one tensor."""

WEIGHTED = frozenset({"Conv", "ConvTranspose", "Gemm", "MatMul"})
"""Operators with products of weights."""

_MOVES = """
    Reshape Transpose Squeeze Unsqueeze Flatten Slice Split Gather Expand Tile Identity Shape Concat Pad
    DepthToSpace SpaceToDepth Cast Constant ConstantOfShape Range Where GatherND GatherElements Size
    EyeLike NonZero Not And Or Equal Less Greater LessOrEqual GreaterOrEqual
"""
MOVES = frozenset(_MOVES.split())
"""Operators that move, choose or compare values without arithmetic: precision means nothing for them."""


@dataclass(frozen=True)
class Op:
    """One operator. ``name`` is unique in the graph; ``node`` the ONNX NodeProto."""

    index: int
    name: str
    op: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    node: Any

    def attribute(self, name: str, default: Any = None) -> Any:
        """An attribute's value as Python data, ``default`` when the operator has none of that name."""
        import onnx

        for a in self.node.attribute:
            if a.name == name:
                value = onnx.helper.get_attribute_value(a)
                return value.decode() if isinstance(value, bytes) else value
        return default


@dataclass(frozen=True)
class Graph:
    """A model's main graph. ``shapes`` and ``dtypes`` are those that shape inference finds."""

    proto: Any
    ops: tuple[Op, ...]
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    constants: dict[str, Any]
    shapes: dict[str, tuple[int, ...]]
    dtypes: dict[str, str]

    @cached_property
    def producers(self) -> dict[str, Op]:
        """The operator that writes a tensor."""
        return {t: op for op in self.ops for t in op.outputs if t}

    @cached_property
    def consumers(self) -> dict[str, list[Op]]:
        """The operators that read a tensor, in order, each once."""
        found: dict[str, list[Op]] = {}
        for op in self.ops:
            for t in dict.fromkeys(op.inputs):
                found.setdefault(t, []).append(op)
        return found

    def constant(self, name: str) -> Array | None:
        """Value of an initializer, None for any other tensor."""
        import onnx

        held = self.constants.get(name)
        return None if held is None else np.asarray(onnx.numpy_helper.to_array(held))

    def is_float(self, name: str) -> bool:
        return self.dtypes.get(name) in _FLOATS

    def data_inputs(self, op: Op) -> list[str]:
        """Float inputs of an operator that are computed from the model's inputs."""
        return [t for t in op.inputs if t and t not in self.constants and self.is_float(t)]

    def only_reader(self, tensor: str) -> Op | None:
        """The one operator that reads a tensor; None when there are several or it is an output."""
        readers = self.consumers.get(tensor, [])
        return readers[0] if len(readers) == 1 and tensor not in self.outputs else None

    @cached_property
    def opset(self) -> int:
        """Version of the standard operator set."""
        return next((i.version for i in self.proto.opset_import if i.domain in ("", "ai.onnx")), 0)


def load(path: Path) -> Any:
    """The checked ModelProto of a file. Raises UserError for a damaged one or one of another format."""
    import onnx

    try:
        proto = onnx.load(str(path))
        onnx.checker.check_model(proto)
    except OSError:
        raise
    except Exception as exc:  # the protobuf parser and the checker raise classes of their own
        first = next((line for line in str(exc).splitlines() if line.strip()), type(exc).__name__)
        raise UserError(
            f"{path.name} is no valid ONNX file: {first.strip()[:200]}", hint="copy or build the file again"
        ) from exc
    return proto


def read_graph(path: Path) -> Graph:
    """Read a file; see :func:`load` for what it raises."""
    return graph_of(load(path))


def graph_of(proto: Any) -> Graph:
    """The graph of a ModelProto."""
    import onnx

    inferred = onnx.shape_inference.infer_shapes(proto)
    graph = inferred.graph
    constants = {i.name: i for i in graph.initializer}
    shapes: dict[str, tuple[int, ...]] = {}
    dtypes: dict[str, str] = {}
    for value in (*graph.input, *graph.output, *graph.value_info):
        tensor = value.type.tensor_type
        shapes[value.name] = tuple(d.dim_value if d.HasField("dim_value") else -1 for d in tensor.shape.dim)
        dtypes[value.name] = _dtype(tensor.elem_type)
    for name, held in constants.items():
        shapes[name], dtypes[name] = tuple(held.dims), _dtype(held.data_type)
    return Graph(
        proto=proto,
        ops=tuple(_ops(proto.graph.node)),
        inputs=tuple(i.name for i in graph.input if i.name not in constants),
        outputs=tuple(o.name for o in graph.output),
        constants=constants,
        shapes=shapes,
        dtypes=dtypes,
    )


def _ops(nodes: Any) -> Iterator[Op]:
    taken: set[str] = set()
    for index, node in enumerate(nodes):
        name = node.name or node.output[0]
        while name in taken:
            name += f"_{index}"
        taken.add(name)
        yield Op(index, name, node.op_type, tuple(node.input), tuple(node.output), node)


def _dtype(elem_type: int) -> str:
    import onnx

    try:
        return str(onnx.helper.tensor_dtype_to_np_dtype(elem_type))
    except (KeyError, ValueError):  # 0, undefined: shape inference found nothing
        return "unknown"


def is_own(graph: Graph, op: Op, place: int) -> bool:
    """Whether an input is a constant of this operator alone, or absent where it may be."""
    if len(op.inputs) <= place or not op.inputs[place]:
        return place > 1
    name = op.inputs[place]
    return name in graph.constants and graph.consumers.get(name) == [op]


def clip_limit(graph: Graph, op: Op) -> float | None:
    """Upper limit of a Clip whose lower limit is zero; None for anything else."""
    if op.op != "Clip" or len(op.inputs) < 3:
        return None
    low, high = graph.constant(op.inputs[1]), graph.constant(op.inputs[2])
    return float(high) if low is not None and high is not None and float(low) == 0.0 else None


# -- units


def is_conversion(graph: Graph, op: Op) -> bool:
    """Whether an operator only changes the precision of what it reads."""
    if op.op in (QUANTIZE, DEQUANTIZE, "DynamicQuantizeLinear"):
        return True
    if op.op != "Cast":
        return False
    both = {graph.dtypes.get(op.inputs[0], "unknown"), graph.dtypes.get(op.outputs[0], "unknown")}
    return both == {"float32", "float16"}


def unit_ops(graph: Graph) -> list[Op]:
    """Operators that are units, in execution order: all but constants and conversions of precision."""
    return [op for op in graph.ops if op.op != "Constant" and not is_conversion(graph, op)]


def units(artifact: Artifact) -> list[Unit]:
    """Units of a file; of one with dynamic quantisation, those that its writer noted down."""
    noted = artifact.meta.get("units")
    if noted is not None:
        plain = ({k: v for k, v in row.items() if k != "tensor"} for row in noted)
        return [
            Unit(
                **{
                    **row,
                    "output_shape": tuple(row["output_shape"]),
                    "input_shapes": tuple(tuple(shape) for shape in row.get("input_shapes", ())),
                }
            )
            for row in plain
        ]
    graph = read_graph(artifact.path)
    return [unit_of(graph, op) for op in unit_ops(graph)]


def unit_of(graph: Graph, op: Op) -> Unit:
    return Unit(
        name=op.name,
        op=op.op,
        index=op.index,
        macs=macs(graph, op),
        weight_bytes=weight_bytes(graph, op),
        output_shape=graph.shapes.get(op.outputs[0], ()),
        precision=op_precision(graph, op),
        input_shapes=tuple(
            graph.shapes.get(t, ())
            for t in op.inputs
            if t and behind_conversions(graph, t) not in graph.constants
        ),
        channels=_channels(graph, op),
        groups=int(op.attribute("group", 1)) if op.op in ("Conv", "ConvTranspose") else 1,
    )


def _channels(graph: Graph, op: Op) -> int | None:
    """Output channels: the second axis of a convolution, the last of a product with weights."""
    shape = graph.shapes.get(op.outputs[0], ())
    if op.op in ("Conv", "ConvTranspose"):
        return shape[1] if len(shape) > 1 else None
    return shape[-1] if op.op in WEIGHTED and shape else None


def behind_conversions(graph: Graph, tensor: str) -> str:
    """The tensor that a chain of conversions of precision started from."""
    producer = graph.producers.get(tensor)
    while producer is not None and is_conversion(graph, producer):
        tensor = producer.inputs[0]
        producer = graph.producers.get(tensor)
    return tensor


def weight_bytes(graph: Graph, op: Op) -> int:
    """Bytes of the constants that an operator reads, as the file stores them."""
    held = (behind_conversions(graph, t) for t in op.inputs if t)
    sizes = ((graph.shapes[t], graph.dtypes[t]) for t in held if t in graph.constants)
    return sum(math.prod(s) * np.dtype(d).itemsize for s, d in sizes if d not in ("int64", "bool"))


def macs(graph: Graph, op: Op) -> int:
    """Multiply-accumulates of convolutions, matrix products and recurrent cells; 0 for the rest."""
    shape = graph.shapes.get
    if op.op in ("Conv", "ConvTranspose"):
        weights, io = shape(op.inputs[1], ()), op.outputs[0] if op.op == "Conv" else op.inputs[0]
        return math.prod(shape(io, ())) * math.prod(weights[1:])
    if op.op in ("Gemm", "MatMul", "FusedMatMul"):
        a = shape(op.inputs[0], ())
        inner = a[-2] if op.op == "Gemm" and op.attribute("transA", 0) and len(a) > 1 else (a or (0,))[-1]
        return math.prod(shape(op.outputs[0], ())) * inner
    if op.op in ("LSTM", "GRU", "RNN"):
        steps, batch = (*shape(op.inputs[0], ()), 0, 0)[:2]
        return steps * batch * sum(math.prod(shape(t, ())) for t in op.inputs[1:3])
    return 0


def op_precision(graph: Graph, op: Op) -> str:
    """What an operator computes in: "int8", "dynamic", "fp16" or "float32".

    int8: every value that it takes from the model's inputs is dequantised just before it, and its constant
    weights, if it is a product, are stored or rounded to int8 too; or it is what
    runtimes fold into an operator that computes in int8: the activation function behind that, in front of
    a QuantizeLinear, or the sum of its result and a dequantised tensor.
    """
    if op.op in ("MatMulInteger", "ConvInteger", "DynamicQuantizeLSTM"):
        return "dynamic"
    data = [t for t in graph.data_inputs(op) if behind_conversions(graph, t) not in graph.constants]
    producers = [graph.producers.get(t) for t in data]
    stored = bool(data) and all(p is not None and p.op == DEQUANTIZE for p in producers)
    if stored and not _has_float_weights(graph, op):
        return "int8"
    if _is_folded_activation(graph, op, producers) or _is_folded_sum(graph, op, producers):
        return "int8"
    if any(graph.dtypes.get(t) in _INT8 for t in op.inputs):
        return "int8"
    return "fp16" if any(graph.dtypes.get(t) == "float16" for t in (*data, *op.outputs)) else "float32"


def _has_float_weights(graph: Graph, op: Op) -> bool:
    return op.op in WEIGHTED and any(t in graph.constants and graph.is_float(t) for t in op.inputs[:2])


def _is_folded_activation(graph: Graph, op: Op, producers: list[Op | None]) -> bool:
    before = producers[0] if producers else None
    if op.op not in ACTIVATIONS or before is None or before.op in MOVES | ACTIVATIONS:
        return False
    after = graph.consumers.get(op.outputs[0], [])
    folds = graph.only_reader(op.inputs[0]) is op and bool(after) and all(a.op == QUANTIZE for a in after)
    return folds and op_precision(graph, before) == "int8"


def _is_folded_sum(graph: Graph, op: Op, producers: list[Op | None]) -> bool:
    if op.op != "Add" or len(producers) != 2 or None in producers:
        return False
    direct = [p for p in producers if p is not None and p.op != DEQUANTIZE]
    return (
        len(direct) == 1
        and direct[0].op in WEIGHTED
        and graph.only_reader(direct[0].outputs[0]) is op
        and op_precision(graph, direct[0]) == "int8"
    )


def int8_share(graph: Graph, found: list[Unit]) -> tuple[float, list[Unit]]:
    """Share of arithmetic units that compute in int8 (or int8 by dynamic quantisation), and the others.

    Arithmetic is what reads values that depend on the model's inputs and does more than move them.
    """
    values = {op.index: bool(graph.data_inputs(op)) for op in graph.ops}
    counted = [u for u in found if u.op not in MOVES and (values[u.index] or u.precision in _INTEGER)]
    left = [u for u in counted if u.precision not in _INTEGER]
    return (1 - len(left) / len(counted) if counted else 0.0), left


_INTEGER = frozenset({"int8", "dynamic"})
_DELEGATE = "edgekit.delegate"


def note_delegate(proto: Any, delegate: str) -> None:
    """Write into the file's metadata which delegate it is for: a file alone tells how to run it."""
    for held in [p for p in proto.metadata_props if p.key == _DELEGATE]:
        proto.metadata_props.remove(held)
    if delegate:
        proto.metadata_props.add(key=_DELEGATE, value=delegate)


def noted_delegate(proto: Any) -> str:
    """What :func:`note_delegate` wrote, "" where there is nothing."""
    return next((str(p.value) for p in proto.metadata_props if p.key == _DELEGATE), "")


def delegate_of(artifact: Artifact) -> str:
    """The delegate that a file is for, "" if it is for none in particular."""
    return str(artifact.meta.get("delegate", ""))


def sort_nodes(proto: Any, names: list[str]) -> None:
    """Put nodes into the order of ``names``, each other node in front of the first that needs it."""
    import onnx

    nodes = list(proto.graph.node)
    writers = {t: i for i, node in enumerate(nodes) for t in node.output}
    by_name = {node.name: i for i, node in enumerate(nodes) if node.name}
    order: dict[int, None] = {}
    starts = [by_name[name] for name in names if name in by_name]
    for start in (*starts, *range(len(nodes))):  # at the end what only outputs need
        pending = [(start, False)]
        while pending:
            i, ready = pending.pop()
            if i in order:
                continue
            if ready:
                order[i] = None
                continue
            pending.append((i, True))
            before = [writers[t] for t in nodes[i].input if t in writers]
            pending += [(k, False) for k in reversed(before) if k not in order]
    kept = [onnx.NodeProto.FromString(nodes[i].SerializeToString()) for i in order]
    del proto.graph.node[:]
    proto.graph.node.extend(kept)


def tensor_specs(graph: Graph, names: tuple[str, ...]) -> tuple[TensorSpec, ...]:
    """Specifications of inputs or outputs. Raises UserError where a shape is not fixed."""
    specs = []
    for name in names:
        shape = graph.shapes.get(name, ())
        if any(d < 1 for d in shape):
            raise UserError(
                f"tensor {name!r} of the file has the shape {shape}, which is not fixed",
                hint="export the model with static shapes",
            )
        layout = "NCHW" if len(shape) == 4 else None
        specs.append(TensorSpec(name=name, shape=shape, dtype=graph.dtypes[name], layout=layout))
    return tuple(specs)

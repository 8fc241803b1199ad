"""Where a converted file first computes something else than the ONNX file that it came from."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from edgekit.backends.tflite.flatbuffer import read_graph, unit_names
from edgekit.backends.tflite.session import TFLiteSession, to_channels_first
from edgekit.types import Artifact

if TYPE_CHECKING:
    from edgekit.store import Store
    from edgekit.types import Array

_ANCHORS = {"Conv", "ConvTranspose", "Gemm", "MatMul"}
_ANCHOR_OPS = {"CONV_2D", "DEPTHWISE_CONV_2D", "TRANSPOSE_CONV", "FULLY_CONNECTED", "BATCH_MATMUL", "CONV_3D"}


@dataclass(frozen=True)
class Divergence:
    """The first pair of layers that differ; ``error`` is max |difference| / max |value|."""

    onnx_node: str
    unit: str
    error: float


def describe(artifact: Artifact, sample: Sequence[Array], *, tolerance: float, store: Store) -> str | None:
    """Words for the first layer that differs from the ONNX file that ``artifact`` came from.

    None when there is none, the file came another way, or it has other layers than the ONNX file.
    """
    sha = artifact.meta.get("onnx_sha256")
    if sha is None:
        return None
    found = first_divergence(store.get(str(sha)), artifact, sample, tolerance=tolerance)
    return f"{found.unit} (ONNX {found.onnx_node}, {found.error:.2g})" if found is not None else None


def first_divergence(
    onnx_path: Path, artifact: Artifact, sample: Sequence[Array], *, tolerance: float
) -> Divergence | None:
    """Compare layer by layer on one real sample.

    Layers with weights come in the same order in both files; a TFLite operator may have taken up the
    activation behind it, so each is compared with the ONNX node's own output and those that follow it up
    to the next layer. None when every layer agrees, or the files have different layers.
    """
    import onnx

    proto = onnx.load(str(onnx_path))
    nodes = list(proto.graph.node)
    values = _onnx_values(proto, sample)
    anchors = [i for i, n in enumerate(nodes) if n.op_type in _ANCHORS]
    graph = read_graph(artifact.path)
    ops = [o for o in graph.ops if o.op in _ANCHOR_OPS]
    if len(anchors) != len(ops):
        return None
    session = TFLiteSession(artifact, keep_all=True)
    by_op = unit_names(graph)
    names = [by_op[o.index] for o in ops]
    taps = session.taps(sample, names)
    for position, (start, unit) in enumerate(zip(anchors, names, strict=True)):
        end = anchors[position + 1] if position + 1 < len(anchors) else len(nodes)
        candidates = [values[o] for n in nodes[start:end] for o in n.output if o in values]
        error = min((_error(c, taps[unit]) for c in candidates), default=np.inf)
        if error > tolerance:
            return Divergence(nodes[start].name or nodes[start].output[0], unit, float(error))
    return None


def _error(reference: Array, got: Array) -> float:
    if reference.size != got.size:
        return float("inf")
    forms = [
        f for f in (got, to_channels_first(got)) if f.shape == reference.shape or f.ndim != reference.ndim
    ]
    top = max(float(np.abs(reference).max(initial=0.0)), 1e-12)
    errors = [float(np.abs(f.reshape(reference.shape) - reference).max(initial=0.0)) / top for f in forms]
    return min(errors, default=float("inf"))


def _onnx_values(proto: Any, sample: Sequence[Array]) -> dict[str, Array]:
    import onnxruntime

    known = {v.name: v for v in proto.graph.value_info}
    outputs = {o.name for o in proto.graph.output}
    for node in proto.graph.node:
        for name in node.output:
            if name in known and name not in outputs:
                proto.graph.output.append(known[name])
                outputs.add(name)
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = onnxruntime.InferenceSession(
        proto.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )
    names = [o.name for o in session.get_outputs()]
    inputs = [i.name for i in session.get_inputs()]
    return dict(zip(names, session.run(names, dict(zip(inputs, sample, strict=True))), strict=True))

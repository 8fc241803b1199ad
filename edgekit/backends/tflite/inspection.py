"""Everything that can be read from a .tflite file without running it."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from edgekit.backends.tflite import flatbuffer, rules
from edgekit.types import Artifact, to_json


def inspect_file(artifact: Artifact, *, delegate: str = "xnnpack") -> dict[str, Any]:
    """JSON data: signature, totals, and per unit its precision, cost and whether the delegate takes it."""
    graph = flatbuffer.read_graph(artifact.path)
    units = flatbuffer.units(graph)
    share, _ = flatbuffer.int8_share(graph)
    refused = {
        op.index: rules.refuse(delegate, op.op, flatbuffer.op_precision(graph, op)) for op in graph.ops
    }
    return {
        "path": artifact.path.name,
        "bytes": artifact.bytes,
        "sha256": artifact.sha256,
        "inputs": to_json(artifact.inputs),
        "outputs": to_json(artifact.outputs),
        "subgraphs": graph.subgraphs,
        "ops": len(graph.ops),
        "int8_share": 100 * share,
        "transposes": graph.count("TRANSPOSE"),
        "macs": sum(u.macs for u in units),
        "delegate": delegate,
        "accelerated": sum(r is None for r in refused.values()),
        "units": [to_json(asdict(u)) | {"refused": refused[u.index]} for u in units],
    }

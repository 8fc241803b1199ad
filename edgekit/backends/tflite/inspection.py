"""Everything that can be read from a .tflite file without running it."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from edgekit.backends.tflite import flatbuffer, rules
from edgekit.types import Artifact, to_json


def inspect_file(artifact: Artifact, *, delegate: str = "xnnpack") -> dict[str, Any]:
    """JSON data: signature, totals, and per unit its precision, cost and which delegate takes it.

    ``delegates`` of a unit has, for each delegate, None where it takes the unit and else the reason;
    ``refused`` is that of ``delegate`` alone, and ``accelerated`` how many operators that one takes.
    ``partitions`` has the first and last operator of every partition, by delegate.
    """
    graph = flatbuffer.read_graph(artifact.path)
    units = flatbuffer.units(graph)
    share, _ = flatbuffer.int8_share(graph)
    placed = {name: rules.place(graph, known) for name, known in rules.DELEGATES.items()}
    refused = placed[delegate].refused
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
        "delegates": {
            name: {
                "accelerated": sum(r is None for r in found.refused.values()),
                "partitions": len(found.partitions),
                "rules": rules.DELEGATES[name].source,
            }
            for name, found in placed.items()
        },
        "partitions": {name: found.ranges for name, found in placed.items()},
        "units": [
            to_json(asdict(u))
            | {
                "refused": refused[u.index],
                "delegates": {name: found.refused[u.index] for name, found in placed.items()},
            }
            for u in units
        ],
    }

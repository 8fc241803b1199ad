"""Whether a file is what its scheme says, read from the file itself."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import TYPE_CHECKING

from edgekit.backends.tflite import flatbuffer
from edgekit.backends.tflite.flatbuffer import PLUMBING, SHAPE_ONLY, Graph, Op
from edgekit.backends.tflite.quantize import shares_weight_scale, static_precisions

if TYPE_CHECKING:
    from edgekit.types import Artifact, Scheme

_WEIGHTED = frozenset({"CONV_2D", "DEPTHWISE_CONV_2D", "TRANSPOSE_CONV", "FULLY_CONNECTED"})
"""Operators with weights as operand 1, and a scale per output channel where that is asked for."""

COMPUTES_IN = {"int8": "int8", "int16x8": "int16", "fp16": "fp16", "dynamic": "dynamic", "float32": "float32"}
"""What :func:`flatbuffer.op_precision` says of an operator, by the precision that it was written in."""


def check(artifact: Artifact, scheme: Scheme) -> tuple[Mapping[str, float], list[str]]:
    """Facts of the file, and what in it is not as ``scheme`` says.

    Facts: counts of operators, TRANSPOSE and PAD; the share (in percent) of arithmetic operators in int8 and
    in int16; the share of weighted operators whose weights are float16 or have one scale per channel.
    """
    graph = flatbuffer.read_graph(artifact.path)
    arithmetic = [o for o in graph.ops if o.op not in PLUMBING | SHAPE_ONLY]
    weighted = [o for o in graph.ops if o.op in _WEIGHTED and len(o.inputs) > 1]
    computes = Counter(flatbuffer.op_precision(graph, o) for o in arithmetic)
    facts = {
        "ops": float(len(graph.ops)),
        "transposes": float(graph.count("TRANSPOSE")),
        "pads": float(graph.count("PAD") + graph.count("PADV2")),
        "int8_share": _percent(computes["int8"], len(arithmetic)),
        "int16_share": _percent(computes["int16"], len(arithmetic)),
        "fp16_weights": _percent(
            sum(flatbuffer.op_precision(graph, o) == "fp16" for o in weighted), len(weighted)
        ),
        "per_channel_weights": _percent(
            sum(len(graph.tensors[o.inputs[1]].scale) > 1 for o in weighted), len(weighted)
        ),
    }
    complaints = [*_precisions(graph, scheme), *_weight_scales(graph, weighted, scheme)]
    complaints += _edges(artifact, scheme)
    if facts["transposes"]:
        complaints.append(
            f"the file has {graph.count('TRANSPOSE')} TRANSPOSE operators, each a copy of its input"
        )
    return facts, complaints


def _percent(part: int, whole: int) -> float:
    return 100 * part / whole if whole else 0.0


def _precisions(graph: Graph, scheme: Scheme) -> list[str]:
    """Operators that do not compute in what they should, by what they should."""
    wrong: dict[str, list[Op]] = {}
    for index, name in flatbuffer.unit_names(graph).items():
        op = graph.ops[index]
        exception = scheme.exception(name, op.op)
        precision, asked = exception or scheme.precision, exception is not None
        if op.op in SHAPE_ONLY or (precision in ("fp16", "dynamic") and op.op not in _WEIGHTED):
            continue
        if precision == "float32" and not asked:
            continue
        want = COMPUTES_IN[precision]
        if flatbuffer.op_precision(graph, op) != want:
            wrong.setdefault(want, []).append(op)
    return [
        f"{len(ops)} operators do not compute in {want}: {', '.join(sorted({o.op for o in ops}))}"
        for want, ops in wrong.items()
    ]


def _weight_scales(graph: Graph, weighted: list[Op], scheme: Scheme) -> list[str]:
    """int8 weights whose scales are not by channel, or by channel, against the scheme."""
    found = []
    for op in weighted:
        weights = graph.tensors[op.inputs[1]]
        if not weights.constant or weights.dtype != "int8" or weights.shape[weights.axis] == 1:
            continue
        several = len(weights.scale) > 1
        if several != (scheme.per_channel and not shares_weight_scale(op.op, scheme)):
            found.append(op)
    if not found:
        return []
    names = ", ".join(sorted({o.op for o in found}))
    grain = "one scale per channel" if scheme.per_channel else "a single scale"
    return [f"the weights of {len(found)} operators do not have {grain}: {names}"]


def _edges(artifact: Artifact, scheme: Scheme) -> list[str]:
    """Inputs and outputs that are not stored as the scheme says."""
    if not static_precisions(scheme):
        return []
    floats = [t.name for t in (*artifact.inputs, *artifact.outputs) if t.dtype == "float32"]
    integers = [
        t.name for t in (*artifact.inputs, *artifact.outputs) if t.dtype in ("int8", "int16", "uint8")
    ]
    wrong = integers if scheme.io == "float" else floats
    return [f"{', '.join(wrong)} should be stored as {scheme.io}"] if wrong else []

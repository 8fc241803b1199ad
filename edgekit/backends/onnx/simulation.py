"""Int8 files that only rank layers: ranges are chosen once, and biases stay as they are."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from edgekit.backends import calibration, trained_ranges
from edgekit.backends.calibration_methods import methods_of
from edgekit.backends.onnx import int8, quantize
from edgekit.backends.onnx.graph import read_graph
from edgekit.backends.onnx.session import Reader
from edgekit.errors import Unsupported

if TYPE_CHECKING:
    from edgekit.types import Array, Artifact, Precision, Scheme


def simulator(
    artifact: Artifact,
    samples: Sequence[Sequence[Array]],
    heard: Sequence[Sequence[Array]],
    scheme: Scheme,
) -> Callable[[frozenset[str]], list[Array]]:
    """See :class:`edgekit.backends.base.Simulating`. Files run in ONNX Runtime, whatever the delegate."""
    rules = quantize.rules_of(scheme)
    found = read_graph(artifact.path)
    placement = quantize.placed(found, scheme)
    forms: list[int8.Form] = [(found, {})]
    if not scheme.trained:
        forms = int8.shifted(artifact, found, placement, rules, samples, forms)
    graph = forms[0][0]
    # With some layers in float other tensors are stored than with none.
    ends = (t for op in graph.ops for t in (*graph.data_inputs(op), *op.outputs) if graph.is_float(t))
    read = Reader(artifact, [t for t in dict.fromkeys(ends) if t not in graph.outputs], graph)
    (observed,) = calibration.observe(read, [samples])
    if scheme.trained:
        observed = trained_ranges.given(observed, trained_ranges.find(observed, scheme.trained))
    name = "minmax" if scheme.trained else "mse"
    method = methods_of(name, symmetric=not rules.unsigned)[name]

    def outputs(kept: frozenset[str]) -> list[Array]:
        overrides: dict[str, Precision] = dict.fromkeys(sorted(kept), "float32")
        overrides |= scheme.overrides
        try:
            placement = quantize.placed(graph, replace(scheme, overrides=overrides))
        except Unsupported:  # nothing is left to be quantised
            proto = graph.proto
        else:
            ranges = method(quantize.joined(observed, placement))
            proto = quantize.quantized(graph, placement, ranges, rules)
        return int8.outputs_of(proto, artifact, heard)

    return outputs

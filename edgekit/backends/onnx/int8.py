"""Static int8: placement, calibration by the method that measures best, bias correction."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from edgekit.backends import calibration, calibration_choice
from edgekit.backends.onnx import bias, equalize, quantize
from edgekit.backends.onnx.graph import Graph, graph_of
from edgekit.backends.onnx.session import OnnxSession, Reader
from edgekit.types import Artifact, Emit

if TYPE_CHECKING:
    from edgekit.types import Array, Scheme

_BIAS_SAMPLES = 32
"""Calibration samples whose means correct biases: a mean needs fewer than an extreme."""


def quantize_int8(
    artifact: Artifact,
    found: Graph,
    samples: Sequence[Sequence[Array]],
    scheme: Scheme,
    *,
    store: Callable[[Any, Mapping[str, Any]], Artifact],
    refit: bool,
    emit: Emit,
) -> Artifact:
    """The artifact in int8 for ``scheme.delegate``; ``store`` makes an artifact of a ModelProto and meta.

    Raises Unsupported for what the delegate or the scheme cannot have, DataError for too few samples.
    """
    rules, placement = quantize.rules_of(scheme), quantize.placed(found, scheme)
    float_weights = quantize.wants_float_weights(scheme)
    fit = calibration_choice.split(samples)[0] if samples else []
    pairs = [p for p in equalize.pairs(found) if not {*p.passed, p.reader.name} & set(scheme.overrides)]
    factors = equalize.factors(pairs, Reader(artifact, [p.tensor for p in pairs]), fit) if pairs else {}
    found = graph_of(equalize.equalized(found, pairs, factors))
    noted = {name: factors[p.tensor].tolist() for p in pairs if p.tensor in factors for name in p.passed}
    wanted = dict.fromkeys([*placement.activations, *(w.input for w in placement.weighted)])
    read = Reader(artifact, [t for t in wanted if t not in found.constants], found)
    seen = fit[:_BIAS_SAMPLES]

    def mse(observed: Mapping[str, calibration.Observed]) -> calibration.Ranges:
        joined = quantize.joined(observed, placement)
        return calibration.mse_ranges(joined, symmetric=not rules.unsigned)

    def minmax(observed: Mapping[str, calibration.Observed]) -> calibration.Ranges:
        return calibration.minmax_ranges(quantize.joined(observed, placement))

    def write(ranges: calibration.Ranges) -> Artifact:
        deltas = bias.corrections(found, placement, ranges, rules, read, seen)
        source = graph_of(bias.corrected(found, deltas))
        proto = quantize.quantized(source, placement, ranges, rules, float_weights=float_weights)
        return store(proto, {"corrected_biases": len(deltas), "channel_factors": noted})

    methods: dict[str, calibration_choice.Method] = {"minmax": minmax, "mse": mse}
    if scheme.calibration != "auto":
        methods = {scheme.calibration: methods[scheme.calibration]}
    return calibration_choice.quantize_best(
        artifact,
        samples,
        methods,
        read=read,
        write=write,
        run=_outputs,
        refit=refit,
        emit=emit,
    )


def _outputs(artifact: Artifact, samples: Iterable[Sequence[Array]]) -> list[Array]:
    """Outputs of all samples in ONNX Runtime, whatever the delegate: candidates differ by their ranges."""
    session = OnnxSession(artifact)
    rows = [session.run(s) for s in samples]
    return [np.concatenate(column) for column in zip(*rows, strict=True)]

"""Static int8: placement, calibration by the method that measures best, bias correction."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from edgekit.backends import calibration, calibration_choice
from edgekit.backends.calibration_methods import Method, methods_of
from edgekit.backends.onnx import bias, equalize, quantize
from edgekit.backends.onnx.graph import Graph, graph_of
from edgekit.backends.onnx.placement import Placement
from edgekit.backends.onnx.session import OnnxSession, Reader
from edgekit.types import Artifact, Emit

if TYPE_CHECKING:
    from edgekit.types import Array, Scheme

_BIAS_SAMPLES = 32
"""Calibration samples whose means correct biases and whose channels are equalised: means and histograms
need fewer than extremes."""


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

    Where the model has pairs that can be equalised, files with and without are made and the one with the
    higher SQNR on held-back samples is taken. Raises Unsupported for what the delegate or the scheme cannot
    have, DataError for too few samples.
    """
    placement = quantize.placed(found, scheme)
    fit = calibration_choice.split(samples)[0] if samples else []
    pairs = [p for p in equalize.pairs(found) if not {*p.passed, p.reader.name} & set(scheme.overrides)]
    forms: list[tuple[Graph, dict[str, Any]]] = [(found, {})]
    if scheme.trained:  # training has shaped channels and biases for the file as it is
        pairs = []
    if pairs and len(samples) >= calibration_choice.MIN_SAMPLES:
        levels = 255 if quantize.rules_of(scheme).unsigned else 127
        read = Reader(artifact, [p.tensor for p in pairs])
        factors = equalize.factors(pairs, read, fit[:_BIAS_SAMPLES], levels=levels)
        rounded = {t: [float(f"{v:.5g}") for v in values] for t, values in factors.items()}
        units = {name: p.tensor for p in pairs if p.tensor in factors for name in p.passed}
        noted = {"channel_factors": rounded, "equalized_units": units}
        forms.append((graph_of(equalize.equalized(found, pairs, factors)), noted))
    made = []
    for form, meta in forms:
        work = _Form(artifact, form, placement, scheme, fit[:_BIAS_SAMPLES], store, meta)
        made.append(work.quantized(samples, refit=refit, emit=emit))
    return max(made, key=_held_back_sqnr)


@dataclass(frozen=True)
class _Form:
    """A float graph that computes what the artifact does, on the way to int8."""

    artifact: Artifact
    graph: Graph
    placement: Placement
    scheme: Scheme
    seen: Sequence[Sequence[Array]]
    store: Callable[[Any, Mapping[str, Any]], Artifact]
    meta: Mapping[str, Any]

    def quantized(self, samples: Sequence[Sequence[Array]], *, refit: bool, emit: Emit) -> Artifact:
        rules, placement = quantize.rules_of(self.scheme), self.placement
        wanted = dict.fromkeys([*placement.activations, *(w.input for w in placement.weighted)])
        read = Reader(self.artifact, [t for t in wanted if t not in self.graph.constants], self.graph)

        def joining(method: Method) -> Method:
            return lambda observed: method(quantize.joined(observed, placement))

        def write(ranges: calibration.Ranges) -> Artifact:
            deltas = {}
            if not self.scheme.trained:
                deltas = bias.corrections(self.graph, placement, ranges, rules, read, self.seen)
            source = graph_of(bias.corrected(self.graph, deltas))
            float_weights = quantize.wants_float_weights(self.scheme)
            proto = quantize.quantized(source, placement, ranges, rules, float_weights=float_weights)
            return self.store(proto, {"corrected_biases": len(deltas), **self.meta})

        methods = methods_of(self.scheme.calibration, symmetric=not rules.unsigned)
        return calibration_choice.quantize_best(
            self.artifact,
            samples,
            {name: joining(method) for name, method in methods.items()},
            read=read,
            write=write,
            run=_outputs,
            refit=refit,
            emit=emit,
            trained=self.scheme.trained,
        )


def _held_back_sqnr(artifact: Artifact) -> float:
    told = artifact.meta["calibration"]
    return float(next(c["sqnr_db"] for c in told["candidates"] if c["name"] == told["chosen"]))


def _outputs(artifact: Artifact, samples: Iterable[Sequence[Array]]) -> list[Array]:
    """Outputs of all samples in ONNX Runtime, whatever the delegate: candidates differ by their ranges."""
    session = OnnxSession(artifact)
    rows = [session.run(s) for s in samples]
    return [np.concatenate(column) for column in zip(*rows, strict=True)]

"""Static int8: placement, calibration by the method that measures best, bias correction."""

from __future__ import annotations

import hashlib
from collections import OrderedDict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from edgekit.backends import calibration, calibration_choice
from edgekit.backends.calibration_methods import Method, methods_of
from edgekit.backends.onnx import bias, equalize, quantize, shift
from edgekit.backends.onnx.graph import Graph, graph_of
from edgekit.backends.onnx.placement import Placement, Rules
from edgekit.backends.onnx.session import Reader, encode, open_session, run
from edgekit.types import Artifact, Emit, ignore_events

if TYPE_CHECKING:
    from edgekit.types import Array, Scheme

_BIAS_SAMPLES = 32
"""Calibration samples whose means correct biases and whose channels are equalised: means and histograms
need fewer than extremes."""

_GLANCE_SAMPLES = 16
"""Held-back samples on which forms are compared."""

_SYMMETRIC_LEVELS = 255

Form = tuple[Graph, dict[str, Any]]
"""A graph that computes what the artifact does, and notes on it for the file's meta."""


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

    Where the model has pairs that can be equalised, the form is taken that has the higher SQNR with ranges of
    a few samples on others. Where activations have no zero point, what a Clip limits to one side of zero is
    moved around it first (see shift.py). Raises Unsupported for what the delegate or the scheme cannot have,
    DataError for too few samples.
    """
    placement = quantize.placed(found, scheme)
    fit, held = calibration_choice.split(samples) if samples else ([], [])
    seen = fit[:_BIAS_SAMPLES]
    forms: list[Form] = [(found, {})]
    # Training has shaped channels, biases and ranges for the file as it is.
    if not scheme.trained and len(samples) >= calibration_choice.MIN_SAMPLES:
        forms += _equalized(artifact, found, scheme, seen)
        forms = shifted(artifact, found, placement, quantize.rules_of(scheme), seen, forms)
    works = [_Form(artifact, form, placement, scheme, seen, store, meta) for form, meta in forms]
    chosen = works[0] if len(works) == 1 else max(works, key=lambda work: work.glance(held[:_GLANCE_SAMPLES]))
    return chosen.quantized(samples, refit=refit, emit=emit)


def _equalized(
    artifact: Artifact, found: Graph, scheme: Scheme, seen: Sequence[Sequence[Array]]
) -> list[Form]:
    """The graph with equalised channels, where there are any that no override keeps."""
    pairs = [p for p in equalize.pairs(found) if not {*p.passed, p.reader.name} & set(scheme.overrides)]
    if not pairs:
        return []
    levels = 255 if quantize.rules_of(scheme).unsigned else 127
    factors = equalize.factors(pairs, Reader(artifact, [p.tensor for p in pairs]), seen, levels=levels)
    rounded = {t: [float(f"{v:.5g}") for v in values] for t, values in factors.items()}
    units = {name: p.tensor for p in pairs if p.tensor in factors for name in p.passed}
    noted = {"channel_factors": rounded, "equalized_units": units}
    return [(graph_of(equalize.equalized(found, pairs, factors)), noted)]


def shifted(
    artifact: Artifact,
    found: Graph,
    placement: Placement,
    rules: Rules,
    seen: Sequence[Sequence[Array]],
    forms: list[Form],
) -> list[Form]:
    """The forms of ``found`` with values around zero where that gives them more levels."""
    places = [] if rules.unsigned else [p for p in shift.shifts(found) if p.tensor in placement.activations]
    if not places:
        return forms
    observed = calibration.observe(Reader(artifact, [p.tensor for p in places]), [seen])[0]
    offsets = {t: calibration.mse_range(o, levels=_SYMMETRIC_LEVELS)[1] / 2 for t, o in observed.items()}
    units = {op.name: offsets[p.tensor] for p in places for op in (p.writer, p.clip) if p.tensor in offsets}
    return [
        (graph_of(shift.shifted(form, shift.shifts(form), offsets)), {**meta, "shifted_units": units})
        for form, meta in forms
    ]


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

    def glance(self, held: Sequence[Sequence[Array]]) -> float:
        """SQNR in dB on ``held`` with least-error ranges of the samples seen, biases left as they are."""
        rules = quantize.rules_of(self.scheme)
        (observed,) = _Memory(self)(self._read, [self.seen], ignore_events)
        method = methods_of("mse", symmetric=not rules.unsigned)["mse"]
        ranges = method(quantize.joined(observed, self.placement))
        made = quantize.quantized(self.graph, self.placement, ranges, rules)
        reference = _outputs(self.artifact, held)
        return calibration_choice.compare(reference, outputs_of(made, self.artifact, held))[0]

    @property
    def _read(self) -> Reader:
        placed = quantize.placed(self.graph, replace(self.scheme, overrides={}))
        both = (self.placement, placed)  # what the file without overrides needs serves all others
        wanted = dict.fromkeys(t for p in both for t in (*p.activations, *(w.input for w in p.weighted)))
        return Reader(self.artifact, [t for t in wanted if t not in self.graph.constants], self.graph)

    def quantized(self, samples: Sequence[Sequence[Array]], *, refit: bool, emit: Emit) -> Artifact:
        rules, placement = quantize.rules_of(self.scheme), self.placement
        read = self._read

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
            observe=_Memory(self),
            inputs=[t.name for t in self.artifact.inputs] if rules.unsigned else (),
        )


_SEEN: OrderedDict[str, list[dict[str, calibration.Observed]]] = OrderedDict()
_REMEMBERED = 8
"""Models and sample sets whose calibration is remembered, a few hundred kilobytes each."""


@dataclass(frozen=True)
class _Memory:
    """calibration.observe with a memory: files of a search differ by scheme, and float values do not."""

    work: _Form

    def __call__(
        self, read: calibration.Read, groups: Sequence[Sequence[Sequence[Array]]], emit: Emit
    ) -> list[dict[str, calibration.Observed]]:
        assert isinstance(read, Reader)
        told = hashlib.sha256(self.work.graph.proto.SerializeToString(deterministic=True))
        told.update(repr(sorted(read.tensors)).encode())
        for array in (x for samples in groups for sample in samples for x in sample):
            told.update(np.ascontiguousarray(array).data)
        told.update(repr([len(samples) for samples in groups]).encode())
        key = told.hexdigest()
        if key not in _SEEN:
            _SEEN[key] = calibration.observe(read, groups, emit)
        _SEEN.move_to_end(key)
        while len(_SEEN) > _REMEMBERED:
            _SEEN.popitem(last=False)
        return [dict(part) for part in _SEEN[key]]


def _outputs(artifact: Artifact, samples: Iterable[Sequence[Array]]) -> list[Array]:
    """Outputs of all samples in ONNX Runtime, whatever the delegate: candidates differ by their ranges."""
    return outputs_of(artifact.path, artifact, samples)


def outputs_of(model: Any, artifact: Artifact, samples: Iterable[Sequence[Array]]) -> list[Array]:
    """Outputs of a model (a path or a ModelProto) that has the artifact's inputs and outputs."""
    opened = open_session(model if isinstance(model, Path) else bytes(model.SerializeToString()))
    names = [t.name for t in artifact.outputs]
    rows = [
        run(opened, artifact, [encode(x, t) for x, t in zip(s, artifact.inputs, strict=True)], names)
        for s in samples
    ]
    return [np.concatenate(column) for column in zip(*rows, strict=True)]

"""Quantising with the calibration that measures best.

Both candidates (true min/max, MSE-optimal clipping) are written and compared with the float file on
calibration samples that were held back from calibration. The better one is then fitted to all samples,
unless the held-back ones are needed again as samples that calibration has not seen.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from math import sqrt
from typing import TYPE_CHECKING, Any

import numpy as np

from edgekit.backends.tflite import calibrate, condition, flatbuffer
from edgekit.backends.tflite.quantize import quantize_file
from edgekit.backends.tflite.session import TFLiteSession
from edgekit.errors import DataError
from edgekit.types import Artifact, Emit, Event, Scheme

if TYPE_CHECKING:
    from edgekit.backends.base import Backend
    from edgekit.store import Store
    from edgekit.types import Array

HOLD_BACK = 0.2
"""Share of the calibration samples on which candidates are compared."""

MIN_SAMPLES = 2

METHODS: Mapping[str, Callable[[dict[str, calibrate.Observed]], calibrate.Ranges]] = {
    "minmax": calibrate.minmax_ranges,
    "mse": calibrate.mse_ranges,
}


def quantize(
    backend: Backend,
    artifact: Artifact,
    samples: Sequence[Sequence[Array]],
    scheme: Scheme,
    *,
    refit: bool,
    store: Store,
    emit: Emit,
) -> Artifact:
    """The artifact in ``scheme``; ``meta["calibration"]`` of the result tells what was tried and chosen."""
    if scheme.precision == "float32":
        return artifact
    if scheme.precision != "int8":
        data = quantize_file(artifact.path, scheme, None)
        return _stored(backend, artifact, data, scheme, store, {})
    if len(samples) < MIN_SAMPLES:
        raise DataError(
            f"int8 needs at least {MIN_SAMPLES} calibration samples, got {len(samples)}",
            hint="give more with --calib",
        )
    fit, held = split(samples)
    groups = [fit, held] if fit is not held else [fit]
    observed = calibrate.observe(artifact, groups, emit)
    outputs = [t.name for t in artifact.outputs]
    reference = _outputs(artifact, held)
    tried: list[tuple[float, float, str, Artifact]] = []
    rows: list[dict[str, Any]] = []
    for name in list(METHODS) if scheme.calibration == "auto" else [scheme.calibration]:
        candidate = _with_ranges(backend, artifact, _ranges(name, observed[0], outputs), scheme, store)
        sqnr, agreement = compare(reference, _outputs(candidate, held))
        rows.append({"name": name, "sqnr_db": sqnr, "agreement": agreement})
        tried.append((agreement if agreement is not None else 0.0, sqnr, name, candidate))
        emit(
            Event(
                kind="info",
                step="quantize",
                message=f"calibration {name}: SQNR {sqnr:.1f} dB on held-back samples",
            )
        )
    _, _, name, best = choose(tried, len(held))
    if refit and len(groups) > 1:
        best = _with_ranges(
            backend, artifact, _ranges(name, calibrate.merge(observed), outputs), scheme, store
        )
    calibration = {
        "chosen": name,
        "samples": len(samples) if refit else len(fit),
        "held_back": len(held),
        "refit": refit and len(groups) > 1,
        "candidates": rows,
    }
    return replace(best, meta={**best.meta, "calibration": calibration})


def _ranges(method: str, observed: dict[str, calibrate.Observed], outputs: Sequence[str]) -> calibrate.Ranges:
    """Ranges by one method. The file's outputs keep their true range: a clipped logit ties with its rival."""
    ranges = METHODS[method](observed)
    return ranges | {name: (observed[name].lo, observed[name].hi) for name in outputs if name in observed}


def _with_ranges(
    backend: Backend, artifact: Artifact, ranges: calibrate.Ranges, scheme: Scheme, store: Store
) -> Artifact:
    data, dead = condition.protect_dead_channels(artifact.path, ranges)
    with store.scratch() as scratch:
        source = scratch / "conditioned.tflite"
        source.write_bytes(data)
        quantized = quantize_file(source, scheme, ranges)
    meta = {"dead_channels": [{"op": d.op_index, "channels": list(d.channels)} for d in dead]}
    return _stored(backend, artifact, quantized, scheme, store, meta)


def split(samples: Sequence[Sequence[Array]]) -> tuple[list[Sequence[Array]], list[Sequence[Array]]]:
    """Every fifth sample is held back; all of them serve for both when there are fewer than five."""
    step = round(1 / HOLD_BACK)
    if len(samples) < step:
        every = list(samples)
        return every, every
    return [s for i, s in enumerate(samples) if i % step != step - 1], list(samples[step - 1 :: step])


def choose(
    tried: Sequence[tuple[float, float, str, Artifact]], held: int
) -> tuple[float, float, str, Artifact]:
    """The candidate with the highest SQNR, unless its agreement is clearly behind.

    SQNR moves with every value; agreement counts a few samples that lie near a border. It decides only
    when a candidate loses more than two standard deviations of a binomial at the best agreement, and at
    least two samples.
    """
    top = max(t[0] for t in tried) / 100
    margin = max(2 * sqrt(top * (1 - top) / held), 2.5 / held)
    return max((t for t in tried if t[0] / 100 >= top - margin), key=lambda t: t[1])


def compare(reference: Sequence[Array], got: Sequence[Array]) -> tuple[float, float | None]:
    """SQNR in dB over all outputs, and the agreement of the arg max in percent where outputs are (n, C)."""
    signal = sum(float((r.astype(np.float64) ** 2).sum()) for r in reference)
    noise = sum(float(((r.astype(np.float64) - g) ** 2).sum()) for r, g in zip(reference, got, strict=True))
    sqnr = float(10 * np.log10(max(signal, 1e-30) / max(noise, 1e-30)))
    first, other = reference[0], got[0]
    agreement = None
    if len(reference) == 1 and first.ndim == 2 and first.shape[1] > 1:
        agreement = float(100 * (first.argmax(1) == other.argmax(1)).mean())
    return sqnr, agreement


def _outputs(artifact: Artifact, samples: Sequence[Sequence[Array]]) -> list[Array]:
    session = TFLiteSession(artifact)
    rows = [session.run(s) for s in samples]
    return [np.concatenate(column) for column in zip(*rows, strict=True)]


def _stored(
    backend: Backend, parent: Artifact, data: bytes, scheme: Scheme, store: Store, meta: dict[str, Any]
) -> Artifact:
    with store.scratch() as scratch:
        raw = scratch / "quantized.tflite"
        raw.write_bytes(data)
        plain = flatbuffer.write_model(flatbuffer.read_model(raw))
    sha = store.put_bytes(plain)
    path = store.get(sha)
    graph = flatbuffer.read_graph(path)
    from edgekit.backends.tflite.session import make_interpreter

    interpreter = make_interpreter(path)
    runner = interpreter.get_signature_runner(next(iter(interpreter.get_signature_list())))
    ins, outs = runner.get_input_details(), runner.get_output_details()
    inputs = tuple(int(ins[n]["index"]) for n in parent.meta["input_names"])
    outputs = tuple(int(outs[n]["index"]) for n in parent.meta["output_names"])
    return Artifact(
        sha256=sha,
        format="tflite",
        precision=scheme.precision,
        path=path,
        bytes=len(plain),
        inputs=flatbuffer.tensor_specs(graph, inputs, tuple(t.layout for t in parent.inputs)),
        outputs=flatbuffer.tensor_specs(graph, outputs, tuple(t.layout for t in parent.outputs)),
        parent=parent.sha256,
        producer="ai-edge-quantizer",
        tools=backend.tools(),
        meta={**parent.meta, **meta},
    )

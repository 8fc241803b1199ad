"""A .tflite file in any scheme, calibrated with the method that measures best."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np

from edgekit.backends import calibration
from edgekit.backends.calibration_choice import Samples, quantize_best
from edgekit.backends.calibration_methods import Method, methods_of
from edgekit.backends.tflite import bias, calibrate, condition, flatbuffer
from edgekit.backends.tflite.quantize import STATIC_BITS, quantize_file, static_precisions
from edgekit.backends.tflite.session import TFLiteSession
from edgekit.errors import Unsupported
from edgekit.types import Artifact, Emit, Scheme

if TYPE_CHECKING:
    from edgekit.backends.base import Backend
    from edgekit.store import Store
    from edgekit.types import Array


def quantize(
    backend: Backend,
    artifact: Artifact,
    samples: Samples,
    scheme: Scheme,
    *,
    refit: bool,
    store: Store,
    emit: Emit,
) -> Artifact:
    """The artifact in ``scheme``; ``meta["calibration"]`` of the result tells what was tried and chosen."""
    if scheme.precision == "float32" and not scheme.overrides:
        return artifact
    precisions = static_precisions(scheme)
    if not precisions:
        data = quantize_file(artifact.path, scheme, None)
        return _stored(backend, artifact, data, scheme, store, {})
    read = calibrate.reader(artifact)

    def correct(made: Artifact, ranges: calibration.Ranges, seen: Samples) -> Artifact:
        data, count = bias.corrected(made.path, artifact.path, read, seen)
        meta = {"dead_channels": made.meta["dead_channels"], "corrected_biases": count}
        return _stored(backend, artifact, data, scheme, store, meta)

    return quantize_best(
        artifact,
        samples,
        methods(scheme, [t.name for t in artifact.outputs]),
        read=read,
        write=lambda ranges: _with_ranges(backend, artifact, ranges, scheme, store),
        run=_outputs,
        refit=refit,
        emit=emit,
        trained=scheme.trained if scheme.precision == "int8" else (),
        inputs=[t.name for t in artifact.inputs] if precisions == {"int8"} else (),
        correct=correct if "int8" in precisions else None,
    )


def methods(scheme: Scheme, outputs: Sequence[str]) -> dict[str, Method]:
    """Ways to get ranges for a scheme.

    With 8 bits ``outputs`` keep their true range: a clipped logit ties with its rival. 16 bits have levels to
    spare: there clipping gains nothing, "auto" means the true extremes, and these get room (see ``ROOM``).
    """
    if min(STATIC_BITS[p] for p in static_precisions(scheme)) > 8:
        wide: dict[str, Method] = {"minmax": _roomy_ranges, "mse": partial(_mse_ranges, levels=1 << 16)}
        name = "minmax" if scheme.calibration in ("auto", "all") else scheme.calibration
        if name not in wide:
            raise Unsupported(
                f"calibration by {name} clips, which 16-bit activations gain nothing from",
                hint="use quantize.calibration=auto",
            )
        return {name: wide[name]}
    return {name: _with_true_outputs(m, outputs) for name, m in methods_of(scheme.calibration).items()}


ROOM = 2.0
"""How far 16-bit ranges reach beyond what calibration saw. New inputs do exceed its extremes, and one bit of
16 costs nothing: cifar_resnet20, 48 calibration samples: 27.6 dB on others without room, 38.2 with."""


def _roomy_ranges(observed: Mapping[str, calibration.Observed]) -> calibration.Ranges:
    return {name: (ROOM * o.lo, ROOM * o.hi) for name, o in observed.items()}


def _mse_ranges(observed: Mapping[str, calibration.Observed], *, levels: int) -> calibration.Ranges:
    return {name: calibration.mse_range(o, levels=levels) for name, o in observed.items()}


def _with_true_outputs(method: Method, outputs: Sequence[str]) -> Method:
    def ranges(observed: Mapping[str, calibration.Observed]) -> calibration.Ranges:
        true = {name: (observed[name].lo, observed[name].hi) for name in outputs if name in observed}
        return method(observed) | true

    return ranges


def _with_ranges(
    backend: Backend, artifact: Artifact, ranges: calibration.Ranges, scheme: Scheme, store: Store
) -> Artifact:
    with store.scratch() as scratch:
        source = scratch / "conditioned.tflite"
        bounded, ranges = condition.bound_padding(artifact.path, ranges)
        source.write_bytes(bounded)
        data, dead = condition.protect_dead_channels(source, ranges)
        source.write_bytes(data)
        quantized = quantize_file(source, scheme, ranges)
    protected = [{"op": d.op_index, "channels": list(d.channels)} for d in dead]
    meta = {"dead_channels": protected, "corrected_biases": 0}
    return _stored(backend, artifact, quantized, scheme, store, meta)


def _outputs(artifact: Artifact, samples: Samples) -> list[Array]:
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

"""The TFLite backend: float by onnx2tf or litert-torch, precisions by ai-edge-quantizer, run by LiteRT."""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgekit.backends import onnx_export, runner_io
from edgekit.backends.tflite import (
    calibration_choice,
    checking,
    divergence,
    exporters,
    flatbuffer,
    preflight,
    rules,
    running,
)
from edgekit.backends.tflite import signature as signatures
from edgekit.backends.tflite.session import TFLiteSession
from edgekit.errors import Unsupported
from edgekit.types import (
    Artifact,
    DeviceCommand,
    Emit,
    ModelSpec,
    OpCoverage,
    Precision,
    Problem,
    RunProtocol,
    Scheme,
    Support,
    TensorSpec,
    Unit,
)

if TYPE_CHECKING:
    from edgekit.backends.torch_graph import TorchGraph
    from edgekit.profiles.schema import DeviceProfile, Target
    from edgekit.store import Store
    from edgekit.types import Array

_TOOLS = (
    "onnx",
    "onnxsim",
    "onnxscript",
    "onnx2tf",
    "tensorflow",
    "ai-edge-litert",
    "ai-edge-quantizer",
    "torch",
)
_TOLERANCES: Mapping[Precision, tuple[float, float]] = {
    "float32": (1e-4, 1e-3),
    "fp16": (1e-4, 1e-3),
    "dynamic": (0.1, 0.1),
    "int16x8": (0.0, 0.0),
    "int8": (0.0, 0.0),
}
"""Integer kernels agree bit for bit on x86 and Arm; dynamic range rounds each input by its own range."""
_OPERATOR_EVENTS = (2, 8)
"""LiteRT's profile event types of operators outside and inside a delegate; others enclose them."""

_AWAY_FROM_THE_CPU = ("gpu", "nnapi")
"""Delegates where an operator that is refused runs on another processor than the rest."""

open_file = signatures.open_file


class TFLiteBackend:
    """See :class:`edgekit.backends.base.Backend`."""

    name = "tflite"
    delegates = tuple(rules.DELEGATES)

    def supports(self, profile: DeviceProfile, target: Target, scheme: Scheme) -> Support:
        reasons = runner_io.common_refusals("TFLite", self.delegates, profile, target, scheme)
        if target.delegate in _AWAY_FROM_THE_CPU and scheme.precision in target.precisions:
            computes_in = checking.COMPUTES_IN[scheme.precision]
            refusal = rules.DELEGATES[target.delegate].refusal_of("CONV_2D", computes_in)
            reasons += [refusal] if refusal is not None else []
        known = rules.DELEGATES[target.delegate].rules if target.delegate in self.delegates else {}
        for op in scheme.float_ops:
            if op not in known:
                near = difflib.get_close_matches(op.upper(), known, n=1)
                hint = f"; did you mean {near[0]}?" if near else ""
                reasons.append(f"{target.delegate} has no operator {op!r} to keep in float32{hint}")
        if scheme.io == "int8" and scheme.precision != "int8":
            reasons.append("int8 inputs and outputs need int8 precision")
        return Support(ok=not reasons, reasons=tuple(reasons))

    def preflight(
        self, source: Any, spec: ModelSpec, graph: TorchGraph | None, *, scheme: Scheme
    ) -> list[Problem]:
        return preflight.problems(source, spec, graph)

    def tools(self) -> Mapping[str, str]:
        extra = ("litert-torch",) if exporters.has_litert_torch() else ()
        return onnx_export.tool_versions(*_TOOLS, *extra)

    def export(
        self,
        source: Any,
        spec: ModelSpec,
        samples: Sequence[Sequence[Array]],
        *,
        store: Store,
        scheme: Scheme,
        emit: Emit,
    ) -> Artifact:
        return exporters.export(
            source, spec, samples, scheme=scheme, store=store, emit=emit, tools=self.tools()
        )

    def quantize(
        self,
        artifact: Artifact,
        samples: Sequence[Sequence[Array]],
        scheme: Scheme,
        *,
        refit: bool,
        store: Store,
        emit: Emit,
    ) -> Artifact:
        return calibration_choice.quantize(
            self, artifact, samples, scheme, refit=refit, store=store, emit=emit
        )

    def units(self, artifact: Artifact) -> list[Unit]:
        return flatbuffer.units(flatbuffer.read_graph(artifact.path))

    def session(self, artifact: Artifact, *, keep_all: bool = False) -> TFLiteSession:
        return TFLiteSession(artifact, keep_all=keep_all)

    def coverage(self, artifact: Artifact, target: Target) -> list[OpCoverage]:
        graph = flatbuffer.read_graph(artifact.path)
        refused = rules.place(graph, rules.DELEGATES[target.delegate]).refused
        return [
            OpCoverage(
                index=op.index,
                op=op.op,
                accelerated=refused[op.index] is None,
                reason=refused[op.index] or "",
            )
            for op in graph.ops
        ]

    def check(self, artifact: Artifact, scheme: Scheme) -> tuple[Mapping[str, float], list[str]]:
        return checking.check(artifact, scheme)

    def tolerance(self, precision: Precision) -> tuple[float, float]:
        return _TOLERANCES[precision]

    def open_file(self, path: Path) -> Artifact:
        return open_file(path)

    def divergence(
        self, artifact: Artifact, sample: Sequence[Array], *, tolerance: float, store: Store
    ) -> str | None:
        return divergence.describe(artifact, sample, tolerance=tolerance, store=store)

    def companions(self, target: Target, scheme: Scheme) -> tuple[Scheme, ...]:
        return ()

    def bundle_files(
        self, artifacts: Sequence[Artifact], profile: DeviceProfile, target: Target
    ) -> Mapping[str, bytes]:
        return {}

    def runtime_files(self, arch: str, store: Store) -> Mapping[str, Path]:
        return running.runtime_files(arch, store)

    def device_python(self, arch: str, delegate: str) -> tuple[str, ...]:
        return running.packages(arch) if running.why_python(arch) else ()

    def device_command(
        self,
        artifact: Artifact,
        inputs: Sequence[Array],
        *,
        arch: str,
        protocol: RunProtocol,
        per_op: bool,
        store: Store,
        scratch: Path,
    ) -> DeviceCommand:
        fallback = running.why_python(arch)
        if fallback and per_op:
            running.refuse_profile(fallback)
        files: dict[str, Path] = dict(self.runtime_files(arch, store))
        files["model.tflite"] = artifact.path
        files |= runner_io.write_inputs(inputs, scratch)
        runner = running.PYTHON_RUNNER if fallback else running.RUNNER
        argv = [runner, *runner_io.options(protocol, per_op=per_op)]
        graph = flatbuffer.read_graph(artifact.path)
        for i in _places(artifact.inputs, graph, graph.inputs):
            argv += ["-i", f"in{i}.bin"]
        for i in _places(artifact.outputs, graph, graph.outputs):
            argv += ["-o", f"out{i}.bin"]
        outputs = runner_io.output_names(artifact.outputs)
        return DeviceCommand(
            argv=(*argv, "model.tflite"),
            files=files,
            outputs=outputs,
            python=running.packages(arch) if fallback else (),
            fallback=fallback,
        )

    def parse(self, stdout: str, outputs: Mapping[str, bytes] | None = None) -> Mapping[str, Any]:
        report = runner_io.last_report(stdout, "LiteRT")
        return {**report, "ops": _operators(report.get("events", ()))}

    def read_outputs(self, artifact: Artifact, files: Sequence[bytes]) -> list[Array]:
        return runner_io.read_outputs(artifact.outputs, files, "LiteRT")


def _operators(events: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Operators of one inference from LiteRT's profile: those of delegates by the delegate's own names."""
    return [{"name": str(e["tag"]), "us": float(e["us"])} for e in events if e["type"] in _OPERATOR_EVENTS]


def _places(specs: Sequence[TensorSpec], graph: flatbuffer.Graph, indices: Sequence[int]) -> list[int]:
    """For each input or output of the file's graph, in the graph's order, its place among ``specs``.

    LiteRT's C API counts inputs and outputs in that order, whatever the order of the signature.
    """
    left = dict(enumerate(specs))
    places = []
    for index in indices:
        name = graph.tensors[index].name
        place = next((k for k, spec in left.items() if spec.name == name), None)
        if place is None:
            raise Unsupported(f"tensor {name!r} of the file is not in its signature")
        del left[place]
        places.append(place)
    return places

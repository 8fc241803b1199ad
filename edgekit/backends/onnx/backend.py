"""The ONNX backend: float by torch.onnx, int8 by ONNX Runtime's QDQ quantiser, run by ONNX Runtime or
OpenVINO here and by TensorRT on a Jetson."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from edgekit.backends import onnx_export, runner_io
from edgekit.backends.onnx import coverage, dynamic, fp16, graph, int8, openvino, prepare, refusals, running
from edgekit.backends.onnx.session import OnnxSession, Reader
from edgekit.backends.onnx_preflight import unsupported_by_onnx
from edgekit.backends.torch_graph import tensors
from edgekit.errors import ConversionError, StepFailed, Unsupported
from edgekit.types import (
    Artifact,
    DeviceCommand,
    Emit,
    Event,
    ModelSpec,
    OpCoverage,
    Precision,
    Problem,
    RunProtocol,
    Scheme,
    Session,
    Support,
    Unit,
)

if TYPE_CHECKING:
    from edgekit.backends.torch_graph import TorchGraph
    from edgekit.profiles.schema import DeviceProfile, Target
    from edgekit.store import Store
    from edgekit.types import Array

_TOOLS = ("onnx", "onnxsim", "onnxscript", "onnxruntime", "torch")
_RANGE_SAMPLES = 4
"""Samples on which export looks for values that fp16 cannot hold."""

_TOLERANCES: Mapping[str, tuple[float, float]] = {
    "float32": (1e-5, 1e-5),
    "dynamic": (1e-3, 1e-3),
    "fp16": (1e-2, 1e-2),
    "int8": (0.02, 0.0),
}
"""Integer kernels give the same sums everywhere, but each release of ONNX Runtime fuses other operators and
rounds between them: 1.19 and 1.32 differ by 0.9 % of the largest value on the demo's file.
Dynamic quantisation rounds activations whose float values differ so by up to one step; in fp16 arm64
computes in half precision where x86 converts to float32 and back."""


class OnnxBackend:
    """See :class:`edgekit.backends.base.Backend`."""

    name = "onnx"
    delegates = ("cpu", "openvino", "tensorrt")

    def supports(self, profile: DeviceProfile, target: Target, scheme: Scheme) -> Support:
        reasons = runner_io.common_refusals("ONNX", self.delegates, profile, target, scheme)
        if scheme.precision not in _TOLERANCES:
            reasons.append(f"the ONNX backend writes {', '.join(_TOLERANCES)}, not {scheme.precision}")
        if scheme.io == "int8":
            reasons.append("ONNX files keep float inputs and outputs")
        return Support(ok=not reasons, reasons=tuple(reasons))

    def preflight(
        self, source: Any, spec: ModelSpec, graph: TorchGraph | None, *, scheme: Scheme
    ) -> list[Problem]:
        if scheme.delegate == "openvino":
            openvino.require()
        if graph is None:
            return refusals.in_file(source, scheme)
        return [*unsupported_by_onnx(graph), *refusals.in_torch(graph, scheme)]

    def tools(self) -> Mapping[str, str]:
        return onnx_export.tool_versions(*_TOOLS) | openvino.version()

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
        with store.scratch() as scratch:
            made = _to_onnx(source, spec, samples, scratch, _max_opset(scheme))
            proto = prepare.prepare(graph.load(made.path))
            graph.note_delegate(proto, scheme.delegate)
            sha = store.put_bytes(_serialized(proto))
        if not proto.graph.node:
            raise ConversionError(
                "the model computes nothing: its file has no operators", hint="check what forward returns"
            )
        found = graph.graph_of(proto)
        path = store.get(sha)
        artifact = Artifact(
            sha256=sha,
            format="onnx",
            precision="float32",
            path=path,
            bytes=path.stat().st_size,
            inputs=graph.tensor_specs(found, found.inputs),
            outputs=graph.tensor_specs(found, found.outputs),
            producer=made.exporter,
            tools=self.tools(),
            meta={
                "onnx_sha256": sha,
                "exporter": made.exporter,
                "exporter_notes": list(made.notes),
                "delegate": scheme.delegate,
            },
        )
        refusals.check_loads(artifact, scheme)
        if len(artifact.outputs) != len(spec.outputs):
            raise ConversionError(
                f"the exported file has {len(artifact.outputs)} outputs, the model {len(spec.outputs)}"
            )
        return replace(
            artifact, meta={**artifact.meta, "beyond_fp16": _beyond_fp16(artifact, found, samples)}
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
        if scheme.precision == "float32":
            return artifact
        found = graph.read_graph(artifact.path)
        if scheme.precision == "fp16":
            proto, kept = fp16.half(found, scheme, list(artifact.meta.get("beyond_fp16", ())))
            for unit in kept:
                emit(
                    Event(kind="info", step="quantize", message=f"{unit} stays float32: beyond fp16's range")
                )
            return self._stored(artifact, proto, scheme, store, {"kept_float32": kept})
        if scheme.precision == "dynamic":
            with store.scratch() as scratch:
                proto, rows = dynamic.dynamic(found, scheme, artifact.path, scratch)
            return self._stored(artifact, proto, scheme, store, {"units": rows})
        if scheme.precision != "int8":
            raise Unsupported(f"the ONNX backend cannot write {scheme.precision}")

        def stored(proto: Any, meta: Mapping[str, Any]) -> Artifact:
            return self._stored(artifact, proto, scheme, store, meta)

        return int8.quantize_int8(artifact, found, samples, scheme, store=stored, refit=refit, emit=emit)

    def simulator(
        self,
        artifact: Artifact,
        samples: Sequence[Sequence[Array]],
        heard: Sequence[Sequence[Array]],
        scheme: Scheme,
    ) -> Callable[[frozenset[str]], list[Array]]:
        from edgekit.backends.onnx import simulation

        return simulation.simulator(artifact, samples, heard, scheme)

    def _stored(
        self, parent: Artifact, proto: Any, scheme: Scheme, store: Store, meta: Mapping[str, Any]
    ) -> Artifact:
        graph.note_delegate(proto, scheme.delegate)
        data = _serialized(proto)
        sha = store.put_bytes(data)
        found = graph.graph_of(proto)
        return Artifact(
            sha256=sha,
            format="onnx",
            precision=scheme.precision,
            path=store.get(sha),
            bytes=len(data),
            inputs=graph.tensor_specs(found, found.inputs),
            outputs=graph.tensor_specs(found, found.outputs),
            parent=parent.sha256,
            producer="onnxruntime",
            tools=self.tools(),
            meta={**parent.meta, **meta, "delegate": scheme.delegate},
        )

    def units(self, artifact: Artifact) -> list[Unit]:
        return graph.units(artifact)

    def session(self, artifact: Artifact, *, keep_all: bool = False) -> Session:
        if graph.delegate_of(artifact) == "openvino":
            return openvino.OpenVinoSession(artifact, keep_all=keep_all)
        return OnnxSession(artifact, keep_all=keep_all)

    def coverage(self, artifact: Artifact, target: Target) -> list[OpCoverage]:
        if target.delegate == "tensorrt":
            from edgekit.backends.onnx.tensorrt import rules

            return rules.coverage(artifact.path, target.version)
        return coverage.coverage(artifact, target.delegate)

    def check(self, artifact: Artifact, scheme: Scheme) -> tuple[Mapping[str, float], list[str]]:
        found = graph.read_graph(artifact.path)
        share, left = graph.int8_share(found, graph.units(artifact))
        transposes = sum(op.op == "Transpose" for op in found.ops)
        facts = {
            "ops": float(len(found.ops)),
            "transposes": float(transposes),
            "qdq": float(sum(op.op in (graph.QUANTIZE, graph.DEQUANTIZE) for op in found.ops)),
            "int8_share": 100 * share,
        }
        complaints = []
        if scheme.precision == "int8" and left:
            kept = sorted({u.op for u in left})
            complaints.append(f"{len(left)} operators do not compute in int8: {', '.join(kept)}")
        if scheme.precision == "fp16" and not fp16.is_half(found.proto):
            complaints.append("most operators of the file do not compute in fp16")
        if scheme.delegate == "tensorrt" and scheme.precision == "int8":
            from edgekit.backends.onnx.tensorrt import rules

            complaints += [str(v) for v in rules.violations(artifact.path, scheme.delegate_version)]
        return facts, complaints

    def open_file(self, path: Path) -> Artifact:
        from edgekit.store import digest_file

        found = graph.read_graph(path)
        ops = {op.op for op in found.ops}
        precision: Precision = "float32"
        if graph.DEQUANTIZE in ops:
            precision = "int8"
        elif ops & {"MatMulInteger", "ConvInteger", "DynamicQuantizeLSTM"}:
            precision = "dynamic"
        elif fp16.is_half(found.proto):
            precision = "fp16"
        artifact = Artifact(
            sha256=digest_file(path),
            format="onnx",
            precision=precision,
            path=path,
            bytes=path.stat().st_size,
            inputs=graph.tensor_specs(found, found.inputs),
            outputs=graph.tensor_specs(found, found.outputs),
            meta={"delegate": graph.noted_delegate(found.proto)},
        )
        try:
            self.session(artifact)
        except StepFailed as exc:
            raise Unsupported(str(exc), hint="convert it to operators that ONNX Runtime has") from exc
        return artifact

    def tolerance(self, precision: Precision) -> tuple[float, float]:
        return _TOLERANCES[precision]

    def divergence(
        self, artifact: Artifact, sample: Sequence[Array], *, tolerance: float, store: Store
    ) -> str | None:
        return None  # the file is torch's own export: there is no second one to compare layer by layer

    def companions(self, target: Target, scheme: Scheme) -> tuple[Scheme, ...]:
        if target.delegate != "tensorrt":
            return ()
        from edgekit.backends.onnx.tensorrt import bundle

        return bundle.companions(target, scheme)

    def bundle_files(
        self, artifacts: Sequence[Artifact], profile: DeviceProfile, target: Target
    ) -> Mapping[str, bytes]:
        if target.delegate != "tensorrt":
            return {}
        from edgekit.backends.onnx.tensorrt import bundle

        return bundle.bundle_files(artifacts, profile, target)

    def runtime_files(self, arch: str, store: Store) -> Mapping[str, Path]:
        return running.runtime_files()

    def device_python(self, arch: str, delegate: str) -> tuple[str, ...]:
        return running.requirements(delegate)

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
        files = self.runtime_files(arch, store)
        return running.device_command(
            artifact, inputs, files, protocol=protocol, per_op=per_op, scratch=scratch
        )

    def parse(self, stdout: str, outputs: Mapping[str, bytes] | None = None) -> Mapping[str, Any]:
        return runner_io.last_report(stdout, "ONNX")

    def read_outputs(self, artifact: Artifact, files: Sequence[bytes]) -> list[Array]:
        return runner_io.read_outputs(artifact.outputs, files, "ONNX")


def _to_onnx(
    source: Any, spec: ModelSpec, samples: Sequence[Sequence[Array]], scratch: Path, max_opset: int
) -> onnx_export.OnnxFile:
    path = scratch / "model.onnx"
    if isinstance(source, Path):
        shapes = tuple(t.shape for t in spec.inputs)
        return onnx_export.import_onnx(source, shapes, path, max_opset=max_opset)
    return onnx_export.export_onnx(source, tensors(samples[0]), path, max_opset=max_opset)


def _max_opset(scheme: Scheme) -> int:
    """The newest opset that the delegate reads, at most that of edgekit's own exports."""
    if scheme.delegate != "tensorrt":
        return onnx_export.OPSET
    from edgekit.backends.onnx.tensorrt.lines import line_of

    return min(onnx_export.OPSET, line_of(scheme.delegate_version).max_opset)


def _serialized(proto: Any) -> bytes:
    return bytes(proto.SerializeToString(deterministic=True))


def _beyond_fp16(artifact: Artifact, found: graph.Graph, samples: Sequence[Sequence[Array]]) -> list[str]:
    read = Reader(artifact, fp16.float_tensors(found))
    extremes: dict[str, tuple[float, float]] = {}
    for sample in samples[:_RANGE_SAMPLES]:
        for name, value in read(sample):
            finite = value[np.isfinite(value)]
            if finite.size:
                low, high = extremes.get(name, (0.0, 0.0))
                extremes[name] = (min(low, float(finite.min())), max(high, float(finite.max())))
    return fp16.beyond_range(found, extremes)

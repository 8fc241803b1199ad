"""The TFLite backend: float by onnx2tf, precisions by ai-edge-quantizer, run by LiteRT with XNNPACK."""

from __future__ import annotations

import contextlib
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from edgekit.backends import onnx_export
from edgekit.backends.tflite import calibration_choice, convert, flatbuffer, rules
from edgekit.backends.tflite.session import TFLiteSession
from edgekit.errors import (
    ConversionError,
    DeviceError,
    EdgekitError,
    StepFailed,
    Unsupported,
    UserError,
)
from edgekit.types import (
    Artifact,
    DeviceCommand,
    Emit,
    ModelSpec,
    OpCoverage,
    RunProtocol,
    Scheme,
    Support,
    TensorSpec,
    Unit,
)

if TYPE_CHECKING:
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
_ANOTHER_FILE = "copy or build the file again"
_SEVERAL_FLOAT_DTYPES = {"float32"}


class TFLiteBackend:
    """See :class:`edgekit.backends.base.Backend`."""

    name = "tflite"

    def supports(self, profile: DeviceProfile, target: Target, scheme: Scheme) -> Support:
        reasons = []
        if target.delegate not in rules.DELEGATES:
            reasons.append(
                f"the TFLite backend knows the rules of {', '.join(rules.DELEGATES)}; "
                f"delegate {target.delegate!r} is not supported yet"
            )
        if scheme.precision not in target.precisions:
            reasons.append(
                f"{profile.id} lists {', '.join(target.precisions)} for {target.runtime}/{target.delegate}, "
                f"not {scheme.precision}"
            )
        if scheme.io == "int8" and scheme.precision != "int8":
            reasons.append("int8 inputs and outputs need int8 precision")
        return Support(ok=not reasons, reasons=tuple(reasons))

    def tools(self) -> Mapping[str, str]:
        return onnx_export.tool_versions(*_TOOLS)

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
        for tensor in spec.inputs:
            if tensor.dtype not in _SEVERAL_FLOAT_DTYPES:
                raise Unsupported(
                    f"input {tensor.name!r} is {tensor.dtype}; the TFLite backend takes float32 inputs"
                )
        with store.scratch() as scratch:
            onnx_file = _to_onnx(source, spec, samples, scratch)
            keep = onnx_file.inputs if scheme.keep_nchw else ()
            made = convert.convert(onnx_file.path, scratch, keep_inputs=keep)
            sha, log = store.put_file(made.path), store.put_bytes(made.log.encode())
            onnx_sha = store.put_file(onnx_file.path)
            artifact = _describe(store.get(sha), sha, onnx_file, made.inputs, spec, scheme)
        artifact = replace(
            artifact,
            tools=self.tools(),
            meta={
                **artifact.meta,
                "onnx_sha256": onnx_sha,
                "log_sha256": log,
                "exporter": onnx_file.exporter,
                "exporter_notes": list(onnx_file.notes),
            },
        )
        return _with_output_layouts(artifact, store.get(onnx_sha), onnx_file, samples)

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
        found = []
        for op in graph.ops:
            reason = rules.refuse(target.delegate, op.op, flatbuffer.op_precision(graph, op))
            found.append(
                OpCoverage(index=op.index, op=op.op, accelerated=reason is None, reason=reason or "")
            )
        return found

    def check(self, artifact: Artifact, scheme: Scheme) -> tuple[Mapping[str, float], list[str]]:
        graph = flatbuffer.read_graph(artifact.path)
        share, left = flatbuffer.int8_share(graph)
        facts = {
            "ops": float(len(graph.ops)),
            "transposes": float(graph.count("TRANSPOSE")),
            "pads": float(graph.count("PAD") + graph.count("PADV2")),
            "int8_share": 100 * share,
        }
        complaints = []
        if scheme.precision == "int8" and left:
            kept = sorted({o.op for o in left})
            complaints.append(f"{len(left)} operators do not compute in int8: {', '.join(kept)}")
        if facts["transposes"]:
            complaints.append(
                f"the file has {graph.count('TRANSPOSE')} TRANSPOSE operators, each a copy of its input"
            )
        return facts, complaints

    def runtime_files(self, arch: str, store: Store) -> Mapping[str, Path]:
        from edgekit.native.build import litert_runtime

        return litert_runtime(arch, store)

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
        files: dict[str, Path] = dict(self.runtime_files(arch, store))
        files["model.tflite"] = artifact.path
        argv = [
            "litert_run",
            "-w",
            str(protocol.warmup),
            "-n",
            str(protocol.runs),
            "-t",
            str(protocol.threads),
        ]
        if per_op:
            argv.append("-p")
        for i, value in enumerate(inputs):
            path = scratch / f"in{i}.bin"
            path.write_bytes(np.ascontiguousarray(value).tobytes())
            files[path.name] = path
        graph = flatbuffer.read_graph(artifact.path)
        for i in _places(artifact.inputs, graph, graph.inputs):
            argv += ["-i", f"in{i}.bin"]
        for i in _places(artifact.outputs, graph, graph.outputs):
            argv += ["-o", f"out{i}.bin"]
        outputs = tuple(f"out{i}.bin" for i in range(len(artifact.outputs)))
        return DeviceCommand(argv=(*argv, "model.tflite"), files=files, outputs=outputs)

    def parse(self, stdout: str) -> Mapping[str, Any]:
        for line in reversed(stdout.splitlines()):
            report: Any = None
            if line.startswith("{"):
                with contextlib.suppress(json.JSONDecodeError):
                    report = json.loads(line)
            if isinstance(report, dict) and "runs_ms" in report:
                return report
        raise DeviceError("the LiteRT runner printed no report", hint=f"it printed: {stdout[-200:]!r}")

    def read_outputs(self, artifact: Artifact, files: Sequence[bytes]) -> list[Array]:
        outputs = []
        for i, (raw, spec) in enumerate(zip(files, artifact.outputs, strict=True)):
            size = math.prod(spec.shape) * np.dtype(spec.dtype).itemsize
            if len(raw) != size:
                raise DeviceError(f"output {i} of the LiteRT runner has {len(raw)} bytes instead of {size}")
            outputs.append(np.frombuffer(raw, dtype=spec.dtype).reshape(spec.shape))
        return outputs


def open_file(path: Path) -> Artifact:
    """An artifact for a .tflite file of any origin: for `inspect`, `verify` and `bench`.

    Layouts are unknown, so its session takes and returns arrays as the file stores them. Raises UserError
    for a file that is not TFLite or damaged, Unsupported for one without a signature.
    """
    try:
        return _open(path)
    except (EdgekitError, OSError) as exc:
        if isinstance(exc, StepFailed):
            raise UserError(str(exc), hint=_ANOTHER_FILE) from exc
        raise
    except Exception as exc:  # a damaged file may break its reader anywhere
        raise UserError(f"{path.name} is damaged: {exc}", hint=_ANOTHER_FILE) from exc


def _open(path: Path) -> Artifact:
    from edgekit.backends.tflite.session import make_interpreter
    from edgekit.store import digest_file

    graph = flatbuffer.read_graph(path)
    flatbuffer.units(graph)
    interpreter = make_interpreter(path)
    signatures = interpreter.get_signature_list()
    if not signatures:
        raise Unsupported(f"{path.name} has no signature", hint="convert it again with a signature")
    runner = interpreter.get_signature_runner(next(iter(signatures)))
    ins, outs = runner.get_input_details(), runner.get_output_details()
    share, _ = flatbuffer.int8_share(graph)
    none: tuple[str | None, ...] = (None,)
    return Artifact(
        sha256=digest_file(path),
        format="tflite",
        precision="int8" if share > 0.5 else "float32",
        path=path,
        bytes=path.stat().st_size,
        inputs=flatbuffer.tensor_specs(graph, tuple(d["index"] for d in ins.values()), none * len(ins)),
        outputs=flatbuffer.tensor_specs(graph, tuple(d["index"] for d in outs.values()), none * len(outs)),
        meta={"input_names": list(ins), "output_names": list(outs)},
    )


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


def _to_onnx(
    source: Any, spec: ModelSpec, samples: Sequence[Sequence[Array]], scratch: Path
) -> onnx_export.OnnxFile:
    path = scratch / "model.onnx"
    if isinstance(source, Path):
        return onnx_export.import_onnx(source, tuple(t.shape for t in spec.inputs), path)
    import torch

    return onnx_export.export_onnx(source, tuple(torch.from_numpy(np.array(x)) for x in samples[0]), path)


def _describe(
    path: Path,
    sha: str,
    onnx_file: onnx_export.OnnxFile,
    names: tuple[str, ...],
    spec: ModelSpec,
    scheme: Scheme,
) -> Artifact:
    """Artifact of a converted file: signature names in the source's order and input layouts."""
    from edgekit.backends.tflite.session import make_interpreter

    graph = flatbuffer.read_graph(path)
    if not graph.ops:
        raise ConversionError(
            "the model computes nothing: its file has no operators", hint="check what forward returns"
        )
    interpreter = make_interpreter(path)
    runner = interpreter.get_signature_runner(next(iter(interpreter.get_signature_list())))
    ins, outs = runner.get_input_details(), runner.get_output_details()
    ordered = _match_inputs(onnx_file.inputs, names, list(ins))
    inputs = []
    for source, name in zip(spec.inputs, ordered, strict=True):
        stored = tuple(int(d) for d in ins[name]["shape"])
        layout = convert.input_layout(source.shape, stored, kept=scheme.keep_nchw)
        inputs.append(TensorSpec(name=str(ins[name]["name"]), shape=stored, dtype="float32", layout=layout))
    out_names = sorted(outs, key=lambda n: int(n.rsplit("_", 1)[-1]) if n.rsplit("_", 1)[-1].isdigit() else 0)
    if len(out_names) != len(spec.outputs):
        raise ConversionError(
            f"the converted file has {len(out_names)} outputs, the model {len(spec.outputs)}"
        )
    out_index = tuple(outs[n]["index"] for n in out_names)
    return Artifact(
        sha256=sha,
        format="tflite",
        precision="float32",
        path=path,
        bytes=path.stat().st_size,
        inputs=tuple(inputs),
        outputs=flatbuffer.tensor_specs(graph, out_index, (None,) * len(out_index)),
        producer="onnx2tf",
        meta={"input_names": ordered, "output_names": out_names, "onnx_inputs": list(onnx_file.inputs)},
    )


def _match_inputs(
    onnx_names: tuple[str, ...], keras_names: tuple[str, ...], signature: list[str]
) -> list[str]:
    """Signature names in the order of the ONNX inputs; Keras replaces characters that it cannot hold."""

    def plain(name: str) -> str:
        return "".join(c if c.isalnum() else "_" for c in name).lower()

    by_plain = {plain(n): n for n in signature}
    found = [by_plain.get(plain(n)) for n in onnx_names]
    if None in found:
        found = [by_plain.get(plain(n)) for n in keras_names]
    if None in found:
        raise ConversionError(f"cannot match the inputs {list(onnx_names)} with the file's {signature}")
    return [str(n) for n in found]


def _with_output_layouts(
    artifact: Artifact, onnx_path: Path, onnx_file: onnx_export.OnnxFile, samples: Sequence[Sequence[Array]]
) -> Artifact:
    """Find the layout of each output by its values on a real sample."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    reference = onnxruntime.InferenceSession(str(onnx_path), options, providers=["CPUExecutionProvider"])
    expected = reference.run(None, dict(zip(onnx_file.inputs, samples[0], strict=True)))
    got = TFLiteSession(artifact).run(samples[0])
    outputs = tuple(
        replace(spec, layout=convert.output_layout(np.asarray(e), g))
        for spec, e, g in zip(artifact.outputs, expected, got, strict=True)
    )
    return replace(artifact, outputs=outputs)

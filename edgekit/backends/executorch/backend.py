"""The ExecuTorch backend: torch.export, PT2E, XNNPACK; run by ExecuTorch's C++ runtime."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from edgekit.backends import runner_io
from edgekit.backends.executorch import describe, preflight, pte, report
from edgekit.backends.executorch.session import ExecuTorchSession, intermediate, known_kernels
from edgekit.backends.executorch.toolchain import require_executorch
from edgekit.backends.onnx_export import tool_versions
from edgekit.errors import ConversionError, Unsupported
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
    import torch

    from edgekit.backends.torch_graph import TorchGraph
    from edgekit.profiles.schema import DeviceProfile, Target
    from edgekit.store import Store
    from edgekit.types import Array

_TOOLS = ("executorch", "torchao", "torch")
_PRECISIONS = ("float32", "dynamic", "int8")
_TOLERANCES: Mapping[str, tuple[float, float]] = {
    # int8: operators without int8 kernels (sigmoid, softmax) compute in float and may round to a neighbour.
    "float32": (1e-5, 1e-4),
    "dynamic": (1e-2, 1e-2),
    "int8": (0.0, 0.0),
}
_PROFILE = "profile.etdp"


class ExecuTorchBackend:
    """See :class:`edgekit.backends.base.Backend`."""

    name = "executorch"
    delegates = ("xnnpack",)

    def supports(self, profile: DeviceProfile, target: Target, scheme: Scheme) -> Support:
        reasons = runner_io.common_refusals("ExecuTorch", self.delegates, profile, target, scheme)
        if scheme.precision not in _PRECISIONS:
            reasons.append(f"ExecuTorch with XNNPACK has {', '.join(_PRECISIONS)}, not {scheme.precision}")
        if scheme.io == "int8":
            reasons.append("the ExecuTorch backend writes files with float inputs and outputs")
        return Support(ok=not reasons, reasons=tuple(reasons))

    def preflight(
        self, source: Any, spec: ModelSpec, graph: TorchGraph | None, *, scheme: Scheme
    ) -> list[Problem]:
        return preflight.problems(source, graph)

    def tools(self) -> Mapping[str, str]:
        return tool_versions(*_TOOLS)

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
        if isinstance(source, Path):
            raise Unsupported(preflight.ONNX_REASON, hint=preflight.ONNX_HINT)
        from edgekit.backends.executorch.program import capture

        program = capture(source, samples[0])
        artifact = _written(program, program, store)
        inputs, outputs = _signature(program, spec)
        return replace(
            artifact,
            inputs=inputs,
            outputs=outputs,
            producer="executorch",
            tools=self.tools(),
            meta={**artifact.meta, "exporter": "torch.export", "exporter_notes": []},
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
        wanted = _wanted(scheme, [u.name for u in self.units(artifact)])
        if wanted is None:
            return artifact
        precision, keep = wanted
        require_executorch()  # first of all imports: quietly
        from edgekit.backends.executorch import calibration
        from edgekit.backends.executorch.program import load, reexport

        program = load(intermediate(artifact, "program_sha256"))
        meta: dict[str, Any] = {}
        if precision == "int8":
            made = calibration.quantize_static(
                program,
                samples,
                keep=keep,
                per_channel=scheme.per_channel,
                method=scheme.calibration,
                refit=refit,
                trained=scheme.trained,
                emit=emit,
            )
            graph, meta["calibration"] = made.graph, made.calibration
        else:
            graph = calibration.quantize_dynamic(program, keep=keep)
        first = [np.zeros(t.shape, t.dtype) for t in artifact.inputs]
        written = _written(reexport(graph, samples[0] if samples else first), program, store)
        return replace(
            artifact,
            sha256=written.sha256,
            path=written.path,
            bytes=written.bytes,
            precision=scheme.precision,
            parent=artifact.sha256,
            producer="torchao",
            tools=self.tools(),
            meta={**artifact.meta, **written.meta, **meta},
        )

    def simulator(
        self,
        artifact: Artifact,
        samples: Sequence[Sequence[Array]],
        heard: Sequence[Sequence[Array]],
        scheme: Scheme,
    ) -> Callable[[frozenset[str]], list[Array]]:
        wanted = _wanted(scheme, [u.name for u in self.units(artifact)])
        require_executorch()  # first of all imports: quietly
        from edgekit.backends.executorch import simulation
        from edgekit.backends.executorch.program import load

        return simulation.simulator(
            load(intermediate(artifact, "program_sha256")),
            samples,
            heard,
            keep=wanted[1] if wanted is not None else (),
            per_channel=scheme.per_channel,
            trained=scheme.trained,
        )

    def units(self, artifact: Artifact) -> list[Unit]:
        return describe.read_units(_data(artifact))

    def session(self, artifact: Artifact, *, keep_all: bool = False) -> ExecuTorchSession:
        return ExecuTorchSession(artifact, keep_all=keep_all)

    def coverage(self, artifact: Artifact, target: Target) -> list[OpCoverage]:
        return describe.read_coverage(_data(artifact))

    def check(self, artifact: Artifact, scheme: Scheme) -> tuple[Mapping[str, float], list[str]]:
        data = _data(artifact)
        counted = [u for u in data["units"] if u["arithmetic"]]
        left = [u for u in counted if u["precision"] != "int8"]
        outside = sorted({u["op"] for u in data["units"] if not u["accelerated"]})
        facts = {
            "ops": float(len(data["units"])),
            "transposes": float(sum(u["op"] in ("permute", "transpose", "t") for u in data["units"])),
            "int8_share": 100 * (1 - len(left) / len(counted)) if counted else 0.0,
            "partitions": float(data["partitions"]),
            "portable_ops": float(len(outside)),
        }
        complaints = []
        if scheme.precision == "int8" and left:
            kinds = sorted({u["op"] for u in left})
            complaints.append(f"{len(left)} operators do not compute in int8: {', '.join(kinds)}")
        if data["partitions"] > 1:
            why = f", which {', '.join(outside)} divide" if outside else ""
            complaints.append(f"the delegate gets {data['partitions']} partitions{why}")
        return facts, complaints

    def open_file(self, path: Path) -> Artifact:
        return pte.open_file(path)

    def tolerance(self, precision: Precision) -> tuple[float, float]:
        return _TOLERANCES.get(precision, (1e-2, 1e-2))

    def divergence(
        self, artifact: Artifact, sample: Sequence[Array], *, tolerance: float, store: Store
    ) -> str | None:
        from edgekit.backends.executorch.divergence import first_divergence

        return first_divergence(artifact, sample, tolerance=tolerance)

    def companions(self, target: Target, scheme: Scheme) -> tuple[Scheme, ...]:
        return ()

    def bundle_files(
        self, artifacts: Sequence[Artifact], profile: DeviceProfile, target: Target
    ) -> Mapping[str, bytes]:
        return {}

    def runtime_files(self, arch: str, store: Store) -> Mapping[str, Path]:
        from edgekit.native.executorch_runtime import executorch_runtime

        return executorch_runtime(arch, store)

    def device_python(self, arch: str, delegate: str) -> tuple[str, ...]:
        return ()

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
        files["model.pte"] = artifact.path
        pushed, outputs = runner_io.write_inputs(inputs, scratch), runner_io.output_names(artifact.outputs)
        files |= pushed
        argv = ["et_run", *runner_io.options(protocol, per_op=per_op)]
        argv += runner_io.in_and_out(pushed, outputs)
        if per_op:
            argv += ["-e", _PROFILE]
            outputs = (*outputs, _PROFILE)
        return DeviceCommand(argv=(*argv, "model.pte"), files=files, outputs=outputs)

    def parse(self, stdout: str, outputs: Mapping[str, bytes] | None = None) -> Mapping[str, Any]:
        found = runner_io.last_report(stdout, "ExecuTorch")
        profile = (outputs or {}).get(_PROFILE)
        return found if profile is None else {**found, "ops": report.parse_profile(profile)}

    def read_outputs(self, artifact: Artifact, files: Sequence[bytes]) -> list[Array]:
        return runner_io.read_outputs(artifact.outputs, files, "ExecuTorch")


def _data(artifact: Artifact) -> dict[str, Any]:
    """What :func:`describe.describe` wrote, or what the file itself tells when it was made elsewhere."""
    if "units_sha256" not in artifact.meta:
        return pte.described(artifact.path)
    data: dict[str, Any] = json.loads(intermediate(artifact, "units_sha256").read_bytes())
    return data


def _written(
    program: torch.export.ExportedProgram, original: torch.export.ExportedProgram, store: Store
) -> Artifact:
    """Lower ``program`` into the store; ``original`` is the float program whose units it has."""
    from edgekit.backends.executorch.lowering import lower
    from edgekit.backends.executorch.program import save

    saved = save(program)  # before lowering, which changes what it is given
    lowered = lower(program)
    missing = [k for k in lowered.kernels if k not in known_kernels()]
    if missing:
        raise Unsupported(
            f"the ExecuTorch runtime has no kernel for {', '.join(missing)}",
            hint="replace these operators, or compute them before or after inference",
        )
    described = describe.describe(original, lowered)
    sha = store.put_bytes(lowered.data)
    return Artifact(
        sha256=sha,
        format="pte",
        precision="float32",
        path=store.get(sha),
        bytes=len(lowered.data),
        meta={"program_sha256": store.put_bytes(saved), "units_sha256": store.put_bytes(described)},
    )


def _signature(
    program: torch.export.ExportedProgram, spec: ModelSpec
) -> tuple[tuple[TensorSpec, ...], tuple[TensorSpec, ...]]:
    """Inputs and outputs as the program has them, with names and layouts of the source."""
    nodes = {n.name: n for n in program.graph.nodes}
    ins = [nodes[str(n)].meta["val"] for n in program.graph_signature.user_inputs]
    names = [n for n in program.graph_signature.user_outputs if isinstance(n, str)]
    outs = [nodes[n].meta["val"] for n in names]
    if len(ins) != len(spec.inputs) or len(outs) != len(spec.outputs):
        raise ConversionError(
            f"the exported model has {len(ins)} inputs and {len(outs)} outputs, "
            f"the model {len(spec.inputs)} and {len(spec.outputs)}"
        )
    return (
        tuple(_tensor(v, s) for v, s in zip(ins, spec.inputs, strict=True)),
        tuple(_tensor(v, s) for v, s in zip(outs, spec.outputs, strict=True)),
    )


def _tensor(value: Any, source: TensorSpec) -> TensorSpec:
    return TensorSpec(
        name=source.name,
        shape=tuple(int(d) for d in value.shape),
        dtype=str(value.dtype).removeprefix("torch."),
        layout=source.layout,
    )


def _wanted(scheme: Scheme, units: Sequence[str]) -> tuple[str, list[str]] | None:
    """The precision of quantised units and the names of those that stay in float; None: all stay.

    An override names a unit, a node, or a module with all that is in it. Raises Unsupported for two
    precisions besides float32 in one file, and for names that the model does not have.
    """
    precision = dict.fromkeys(units, str(scheme.precision))
    for name, wanted in scheme.overrides.items():
        meant = [
            u for u in units if name in (u, u.rpartition("/")[2]) or u.startswith((f"{name}.", f"{name}/"))
        ]
        if not meant:
            raise Unsupported(f"the model has no unit {name!r}", hint=f"it has: {', '.join(units[:8])}, ...")
        precision.update(dict.fromkeys(meant, str(wanted)))
    kinds = set(precision.values()) - {"float32"}
    if not kinds:
        return None
    if len(kinds) > 1 or not kinds <= {"int8", "dynamic"}:
        raise Unsupported(
            f"the ExecuTorch backend cannot mix {', '.join(sorted(kinds))} in one file",
            hint="use int8 or dynamic, with float32 for some units",
        )
    return kinds.pop(), [u for u in units if precision[u] == "float32"]

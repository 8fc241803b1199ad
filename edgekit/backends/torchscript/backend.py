"""The TorchScript backend: traced files, int8 by torch's FX quantiser, run by torch with QNNPACK."""

from __future__ import annotations

import importlib.metadata
import platform
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

import edgekit.native
from edgekit.backends import runner_io
from edgekit.backends.torchscript import archive, filegraph, preflight, units, writing
from edgekit.backends.torchscript.quantize import ENGINE, qnnpack
from edgekit.backends.torchscript.session import TorchScriptSession, zeros
from edgekit.errors import EdgekitError, UserError
from edgekit.store import digest_file
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

_RUNNER = "python_run.py"
_REQUIREMENTS: Mapping[str, tuple[str, ...]] = {"aarch64": ("torch>=2.8,<2.10", "numpy")}
"""On arm64: torch 2.10 ends in SIGILL on cores without LSE atomics, and later wheels need CUDA libraries."""
_ELSEWHERE = ("torch>=2.8", "numpy")
_TOLERANCES: Mapping[Precision, tuple[float, float]] = {
    "float32": (1e-4, 1e-3),
    "dynamic": (0.1, 0.1),
    "int8": (0.02, 0.0),
}
"""int8: torch rounds inputs half-way between two levels otherwise on Arm (see backends/ties.py), and a step
of an input may move outputs by a few. The kernels themselves agreed bit for bit where they were compared."""
_TRANSPOSES = frozenset({"permute", "transpose", "t"})


class TorchScriptBackend:
    """See :class:`edgekit.backends.base.Backend`."""

    name = "torchscript"
    delegates = ("qnnpack",)

    def supports(self, profile: DeviceProfile, target: Target, scheme: Scheme) -> Support:
        reasons = runner_io.common_refusals("TorchScript", self.delegates, profile, target, scheme)
        if scheme.io == "int8":
            reasons.append("TorchScript files take and give float32; they have no int8 inputs and outputs")
        return Support(ok=not reasons, reasons=tuple(reasons))

    def preflight(
        self, source: Any, spec: ModelSpec, graph: TorchGraph | None, *, scheme: Scheme
    ) -> list[Problem]:
        found = preflight.problems(source, spec, graph, scheme)
        if scheme.precision != "float32" and not _has_engine():
            reason = f"this host's torch has no engine {ENGINE}, so the file could not be checked here"
            hint = "use a torch that has it: the wheels for x86-64 Linux do"
            found.append(Problem(op=ENGINE, where="", reason=reason, hint=hint))
        return found

    def tools(self) -> Mapping[str, str]:
        return {
            "torch": importlib.metadata.version("torch"),
            "numpy": np.__version__,
            "python": platform.python_version(),
        }

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
            raise UserError(str(preflight.problems(source, spec, None, scheme)[0]))
        return writing.export(source, spec, samples, store=store, tools=self.tools())

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
        return writing.quantized(
            artifact, samples, scheme, refit=refit, store=store, emit=emit, tools=self.tools()
        )

    def units(self, artifact: Artifact) -> list[Unit]:
        return list(_described(artifact).units)

    def session(self, artifact: Artifact, *, keep_all: bool = False) -> TorchScriptSession:
        return TorchScriptSession(artifact)

    def coverage(self, artifact: Artifact, target: Target) -> list[OpCoverage]:
        return [
            OpCoverage(index=u.index, op=u.op, accelerated=not reason, reason=reason)
            for u in self.units(artifact)
            for reason in [_reason(u)]
        ]

    def check(self, artifact: Artifact, scheme: Scheme) -> tuple[Mapping[str, float], list[str]]:
        found = _described(artifact).units
        graph = _graph(artifact)
        left = [u for u in found if u.precision != "int8"]
        facts = {
            "ops": float(len(graph.ops)),
            "transposes": float(sum(op.name in _TRANSPOSES for op in graph.ops)),
            "int8_share": 100.0 * (len(found) - len(left)) / max(len(found), 1),
            "dynamic_ops": float(sum(u.precision == "dynamic" for u in found)),
            "conversions": float(sum("quantize" in op.name for op in graph.ops)),
        }
        complaints = []
        if scheme.precision == "int8" and left:
            kinds = ", ".join(sorted({u.op for u in left}))
            complaints.append(f"{len(left)} operators do not compute in int8: {kinds}")
        if scheme.precision == "dynamic" and not facts["dynamic_ops"]:
            complaints.append("no operator has int8 weights")
        return facts, complaints

    def open_file(self, path: Path) -> Artifact:
        signature = archive.signature_of(path)
        try:
            inputs, outputs = (
                tuple(TensorSpec(**{**t, "shape": tuple(t["shape"])}) for t in signature[key])
                for key in ("inputs", "outputs")
            )
            precision: Precision = signature["precision"]
        except (KeyError, TypeError, ValueError) as exc:
            raise UserError(f"{path.name} has a damaged signature: {exc}") from exc
        artifact = Artifact(
            sha256=digest_file(path),
            format="torchscript",
            precision=precision,
            path=path,
            bytes=path.stat().st_size,
            inputs=inputs,
            outputs=outputs,
        )
        try:
            _described(artifact)
        except EdgekitError:
            raise
        except Exception as exc:  # a damaged file may break its reader anywhere
            raise UserError(f"{path.name} is damaged: {exc}", hint="copy or build the file again") from exc
        return artifact

    def tolerance(self, precision: Precision) -> tuple[float, float]:
        return _TOLERANCES.get(precision, (0.0, 0.0))

    def divergence(
        self, artifact: Artifact, sample: Sequence[Array], *, tolerance: float, store: Store
    ) -> str | None:
        """None: a traced file is compared with its module when it is written."""
        return None

    def companions(self, target: Target, scheme: Scheme) -> tuple[Scheme, ...]:
        return ()

    def bundle_files(
        self, artifacts: Sequence[Artifact], profile: DeviceProfile, target: Target
    ) -> Mapping[str, bytes]:
        wanted = _REQUIREMENTS.get(profile.os.abi, _ELSEWHERE)
        return {
            "requirements.txt": "".join(f"{line}\n" for line in wanted).encode(),
            _RUNNER: _runner().read_bytes(),
        }

    def runtime_files(self, arch: str, store: Store) -> Mapping[str, Path]:
        return {_RUNNER: _runner()}

    def device_python(self, arch: str, delegate: str) -> tuple[str, ...]:
        return _REQUIREMENTS.get(arch, _ELSEWHERE)

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
        pushed, outputs = runner_io.write_inputs(inputs, scratch), runner_io.output_names(artifact.outputs)
        files = {**self.runtime_files(arch, store), "model.pt": artifact.path, **pushed}
        argv = [_RUNNER, *runner_io.options(protocol, per_op=per_op)]
        argv += runner_io.in_and_out(pushed, outputs)
        return DeviceCommand(
            argv=(*argv, "model.pt"),
            files=files,
            python=self.device_python(arch, "qnnpack"),
            outputs=outputs,
        )

    def parse(self, stdout: str, outputs: Mapping[str, bytes] | None = None) -> Mapping[str, Any]:
        return runner_io.last_report(stdout, "torch")

    def read_outputs(self, artifact: Artifact, files: Sequence[bytes]) -> list[Array]:
        return runner_io.read_outputs(artifact.outputs, files, "torch")


def _runner() -> Path:
    return Path(edgekit.native.__file__).with_name(_RUNNER)


def _has_engine() -> bool:
    import torch

    return ENGINE in torch.backends.quantized.supported_engines


def _graph(artifact: Artifact) -> filegraph.FileGraph:
    with qnnpack():
        return filegraph.read(archive.load(artifact.path))


def _described(artifact: Artifact) -> units.Described:
    names = archive.signature_of(artifact.path).get("units", ())
    with qnnpack():
        return units.describe(_graph(artifact), zeros(artifact.inputs), names)


def _reason(unit: Unit) -> str:
    """Why QNNPACK does not take a unit; "" where it does."""
    if unit.precision == "float32":
        return f"{unit.op} computes in float32, QNNPACK's kernels are int8"
    return ""

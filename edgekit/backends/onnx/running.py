"""Running a file on a device: what to push, the command, and what comes back."""

from __future__ import annotations

import contextlib
import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from edgekit.backends.onnx.graph import delegate_of
from edgekit.errors import DeviceError
from edgekit.types import Artifact, DeviceCommand, RunProtocol

if TYPE_CHECKING:
    from edgekit.types import Array

_RUNNER = "python_run.py"
_OPENVINO_RUNNER = "openvino_run.py"


def runtime_files() -> dict[str, Path]:
    """The runner, and the one for OpenVINO, which is an addition to it."""
    import edgekit.native

    return {
        _RUNNER: Path(edgekit.native.__file__).with_name(_RUNNER),
        _OPENVINO_RUNNER: Path(__file__).with_name(_OPENVINO_RUNNER),
    }


def device_command(
    artifact: Artifact,
    inputs: Sequence[Array],
    runtime: Mapping[str, Path],
    *,
    protocol: RunProtocol,
    per_op: bool,
    scratch: Path,
) -> DeviceCommand:
    """One measurement of a file by the device's Python: OpenVINO's where the file is for it."""
    on_openvino = delegate_of(artifact) == "openvino"
    files = {**runtime, "model.onnx": artifact.path}
    argv = [_OPENVINO_RUNNER if on_openvino else _RUNNER]
    argv += ["-w", str(protocol.warmup), "-n", str(protocol.runs), "-t", str(protocol.threads)]
    if per_op:
        argv.append("-p")
    for i, value in enumerate(inputs):
        path = scratch / f"in{i}.bin"
        path.write_bytes(np.ascontiguousarray(value).tobytes())
        files[path.name] = path
        argv += ["-i", path.name]
    outputs = tuple(f"out{i}.bin" for i in range(len(artifact.outputs)))
    for name in outputs:
        argv += ["-o", name]
    return DeviceCommand(
        argv=(*argv, "model.onnx"),
        files=files,
        outputs=outputs,
        python=("openvino" if on_openvino else "onnxruntime", "numpy"),
    )


def parse(stdout: str) -> Mapping[str, Any]:
    """The runner's report, the last line that is one. Raises DeviceError when there is none."""
    for line in reversed(stdout.splitlines()):
        report: Any = None
        if line.startswith("{"):
            with contextlib.suppress(json.JSONDecodeError):
                report = json.loads(line)
        if isinstance(report, dict) and "runs_ms" in report:
            return report
    raise DeviceError("the ONNX runner printed no report", hint=f"it printed: {stdout[-200:]!r}")


def read_outputs(artifact: Artifact, files: Sequence[bytes]) -> list[Array]:
    """Output arrays from the files that the runner wrote. Raises DeviceError for a wrong size."""
    outputs = []
    for i, (raw, spec) in enumerate(zip(files, artifact.outputs, strict=True)):
        size = math.prod(spec.shape) * np.dtype(spec.dtype).itemsize
        if len(raw) != size:
            raise DeviceError(f"output {i} of the ONNX runner has {len(raw)} bytes instead of {size}")
        outputs.append(np.frombuffer(raw, dtype=spec.dtype).reshape(spec.shape))
    return outputs

"""Running a file on a device: what to push, and the command."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from edgekit.backends import runner_io
from edgekit.backends.onnx.graph import delegate_of
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


def requirements(delegate: str) -> tuple[str, ...]:
    """Packages that the runner needs. Files for TensorRT run in ONNX Runtime wherever there is no engine."""
    return ("openvino" if delegate == "openvino" else "onnxruntime", "numpy")


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
    delegate = delegate_of(artifact)
    pushed, outputs = runner_io.write_inputs(inputs, scratch), runner_io.output_names(artifact.outputs)
    files = {**runtime, "model.onnx": artifact.path, **pushed}
    runner = _OPENVINO_RUNNER if delegate == "openvino" else _RUNNER
    argv = [runner, *runner_io.options(protocol, per_op=per_op)]
    argv += runner_io.in_and_out(pushed, outputs)
    return DeviceCommand(
        argv=(*argv, "model.onnx"),
        files=files,
        outputs=outputs,
        python=requirements(delegate),
    )

"""Running an .onnx file on the host with OpenVINO's CPU plugin. OpenVINO is an optional dependency."""

from __future__ import annotations

import importlib.util
from collections.abc import Sequence
from importlib.metadata import version as installed_version
from typing import TYPE_CHECKING, Any

import numpy as np

from edgekit.backends.onnx.graph import load
from edgekit.backends.onnx.session import THREADS, Taps, encode
from edgekit.errors import MissingDependency, StepFailed
from edgekit.types import Artifact

if TYPE_CHECKING:
    from edgekit.types import Array


def require() -> None:
    """Raise MissingDependency when OpenVINO is not installed."""
    if importlib.util.find_spec("openvino") is None:
        raise MissingDependency(
            "OpenVINO, which runs this target's files, is not installed",
            hint="pip install 'edgekit[openvino]'",
        )


def version() -> dict[str, str]:
    """Version of OpenVINO by name, nothing where it is not installed."""
    if importlib.util.find_spec("openvino") is None:
        return {}
    return {"openvino": installed_version("openvino")}


def compiled(artifact: Artifact) -> Any:
    """The file compiled for the CPU: one stream on one thread, float parts in float32."""
    require()
    import openvino

    core = openvino.Core()
    config = {
        "PERFORMANCE_HINT": "LATENCY",
        "NUM_STREAMS": "1",
        "INFERENCE_NUM_THREADS": THREADS,
        "INFERENCE_PRECISION_HINT": "f32",
    }
    try:
        return core.compile_model(core.read_model(str(artifact.path)), "CPU", config)
    except Exception as exc:  # RuntimeError and classes of its frontends
        raise StepFailed(f"OpenVINO cannot load the file: {_reason(exc)}") from exc


class OpenVinoSession:
    """A loaded artifact. Arrays are those of the source model; taps come from ONNX Runtime, operator by
    operator, since OpenVINO fuses what lies between."""

    def __init__(self, artifact: Artifact, *, keep_all: bool = False) -> None:
        self.artifact = artifact
        self._request = compiled(artifact).create_infer_request()
        self._taps = Taps(load(artifact.path), artifact) if keep_all else None

    def encode(self, inputs: Sequence[Array]) -> list[Array]:
        """The inputs as contiguous arrays of the file's types."""
        return [encode(x, spec) for x, spec in zip(inputs, self.artifact.inputs, strict=True)]

    def run_raw(self, inputs: Sequence[Array]) -> list[Array]:
        """One inference on the file's own arrays."""
        feed = {spec.name: x for spec, x in zip(self.artifact.inputs, inputs, strict=True)}
        try:
            found = self._request.infer(feed, share_inputs=False)
        except Exception as exc:
            raise StepFailed(f"OpenVINO failed to run the file: {_reason(exc)}") from exc
        return [np.array(found[spec.name], dtype=spec.dtype) for spec in self.artifact.outputs]

    def run(self, inputs: Sequence[Array]) -> list[Array]:
        """One inference."""
        return self.run_raw(self.encode(inputs))

    def taps(self, inputs: Sequence[Array], units: Sequence[str]) -> dict[str, Array]:
        """Real values of the named units' outputs. Needs ``keep_all``."""
        if self._taps is None:
            raise ValueError("taps need a session with keep_all=True")
        return self._taps.read(self.encode(inputs), units)


def _reason(exc: BaseException) -> str:
    lines = [line.strip() for line in str(exc).splitlines() if line.strip()]
    return (lines[-1] if lines else type(exc).__name__)[:300]

"""Backends by runtime name. A new runtime is one folder and one line here."""

from __future__ import annotations

from edgekit.backends.base import Backend
from edgekit.errors import Unsupported

RUNTIME_OF = {"tflite": "tflite", "pte": "executorch", "onnx": "onnx", "torchscript": "torchscript"}
"""Which runtime runs an artifact, by ``Artifact.format``."""

SUFFIX_OF = {"tflite": ".tflite", "pte": ".pte", "onnx": ".onnx", "torchscript": ".pt"}
"""How the name of a model file ends, by ``Artifact.format``."""

RUNTIMES = ("tflite", "onnx", "torchscript", "executorch")


def get_backend(runtime: str) -> Backend:
    """The backend of a runtime. Raises Unsupported when this version of edgekit has none."""
    if runtime == "tflite":
        from edgekit.backends.tflite.backend import TFLiteBackend

        return TFLiteBackend()
    if runtime == "executorch":
        from edgekit.backends.executorch.backend import ExecuTorchBackend

        return ExecuTorchBackend()
    if runtime == "onnx":
        from edgekit.backends.onnx.backend import OnnxBackend

        return OnnxBackend()
    if runtime == "torchscript":
        from edgekit.backends.torchscript.backend import TorchScriptBackend

        return TorchScriptBackend()
    raise Unsupported(
        f"this version of edgekit has no backend for {runtime!r}", hint=f"it has: {', '.join(RUNTIMES)}"
    )


__all__ = ["RUNTIMES", "RUNTIME_OF", "SUFFIX_OF", "Backend", "get_backend"]

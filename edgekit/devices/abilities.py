"""What a machine can run, from its facts and its Python packages."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

PACKAGES = ("ai-edge-litert", "tflite-runtime", "onnxruntime", "torch", "executorch", "tensorrt", "numpy")
"""Python packages that run model files, and numpy, which a bundle's run.py needs."""

_RUNNER_ARCH = ("aarch64", "x86_64")
_FILES = {
    "ai-edge-litert": "tflite",
    "tflite-runtime": "tflite",
    "onnxruntime": "onnx",
    "torch": "torchscript",
    "executorch": "executorch",
}


def abilities(facts: Mapping[str, Any], packages: Mapping[str, str] | None) -> list[str]:
    """Ways to run model files there, the ones that need nothing installed first.

    edgekit brings its own runners for LiteRT and ExecuTorch to 64-bit Arm; other files need a package of the
    machine's Python.
    """
    found = []
    if facts.get("arch") in _RUNNER_ARCH:
        found += ["tflite (edgekit's runner)", "executorch (edgekit's runner)"]
    for package, runtime in _FILES.items():
        version = (packages or {}).get(package)
        if version:
            found.append(f"{runtime} ({package} {version})")
    programs = [str(p) for p in facts.get("programs") or ()]
    if any(p.endswith("/trtexec") for p in programs):
        found.append("onnx/tensorrt (trtexec)")
    return found

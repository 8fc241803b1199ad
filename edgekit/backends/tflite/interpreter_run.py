#!/usr/bin/env python3
"""Run a .tflite file with the Interpreter of ai-edge-litert or tflite-runtime: the command line, report and
exit codes of python_run.py, which has to lie beside this file, but for -p: the Interpreter gives no times by
operator. A run includes copying the inputs in. Needs Python 3.9 or newer and numpy; nothing of edgekit."""

from __future__ import annotations

import importlib
import importlib.metadata
from collections.abc import Sequence
from typing import Any

import numpy as np
import python_run  # type: ignore[import-not-found]  # the file beside this one, on the device

INTERPRETERS = {
    "ai-edge-litert": "ai_edge_litert.interpreter",
    "tflite-runtime": "tflite_runtime.interpreter",
}


class TFLiteModel:
    """What python_run.OnnxModel is for ONNX Runtime."""

    def __init__(self, arguments: Any) -> None:
        if arguments.profile:
            raise python_run.Refused(python_run.EXIT_USAGE, "the Interpreter gives no times by operator (-p)")
        self._module, self.runtime = _installed()
        self._arguments = arguments
        self._values: Sequence[np.ndarray[Any, Any]] = ()

    def load(self) -> list[Any]:
        self._interpreter = self._module.Interpreter(
            model_path=str(self._arguments.model), num_threads=self._arguments.threads
        )
        self._interpreter.allocate_tensors()
        # In the order of the file's graph, which is that of litert_run.c too.
        self._inputs = self._interpreter.get_input_details()
        return [(np.dtype(d["dtype"]).name, tuple(int(n) for n in d["shape"])) for d in self._inputs]

    def prepare(self, inputs: Sequence[np.ndarray[Any, Any]]) -> None:
        self._values = inputs

    def run(self) -> None:
        for detail, value in zip(self._inputs, self._values):  # noqa: B905 (Python 3.9 has no strict)
            self._interpreter.set_tensor(detail["index"], value)
        self._interpreter.invoke()

    def arrays(self, outputs: Any) -> list[np.ndarray[Any, Any]]:
        details = self._interpreter.get_output_details()
        return [np.asarray(self._interpreter.get_tensor(d["index"])) for d in details]


def _installed() -> tuple[Any, str]:
    """The module with the Interpreter, and what it is of: "tflite-runtime 2.14.0"."""
    for distribution, module in INTERPRETERS.items():
        try:
            version = importlib.metadata.version(distribution)
        except importlib.metadata.PackageNotFoundError:
            continue
        return importlib.import_module(module), f"{distribution} {version}"
    raise ImportError(f"neither {' nor '.join(INTERPRETERS)} is installed")


if __name__ == "__main__":
    python_run.KINDS[".tflite"] = TFLiteModel
    python_run.main()

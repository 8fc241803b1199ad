#!/usr/bin/env python3
"""Run a .onnx file with OpenVINO on the CPU: the command line, report and exit codes of python_run.py, which
has to lie beside this file. Needs Python 3.9 or newer, numpy and openvino; nothing of edgekit."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import python_run  # type: ignore[import-not-found]  # the file beside this one, on the device


class OpenVinoModel:
    """What python_run.OnnxModel is for ONNX Runtime."""

    def __init__(self, arguments: Any) -> None:
        import openvino

        self.runtime = f"openvino {openvino.__version__.split('-')[0]}"
        self._openvino = openvino
        self._arguments = arguments
        self._values: dict[str, Any] = {}

    def load(self) -> list[Any]:
        core = self._openvino.Core()
        model = core.read_model(str(self._arguments.model))
        config = {
            "PERFORMANCE_HINT": "LATENCY",
            "NUM_STREAMS": "1",
            "INFERENCE_NUM_THREADS": self._arguments.threads,
            "INFERENCE_PRECISION_HINT": "f32",
            "PERF_COUNT": bool(self._arguments.profile),
        }
        self._request = core.compile_model(model, "CPU", config).create_infer_request()
        self._names = [value.get_any_name() for value in model.inputs]
        return [(value.element_type.to_dtype().name, tuple(value.shape)) for value in model.inputs]

    def prepare(self, inputs: Sequence[np.ndarray[Any, Any]]) -> None:
        self._values = dict(zip(self._names, inputs))  # noqa: B905 (Python 3.9 has no strict)

    def run(self) -> Any:
        return self._request.infer(self._values)

    def arrays(self, outputs: Any) -> list[np.ndarray[Any, Any]]:
        return [np.array(outputs[i]) for i in range(len(outputs))]

    def profiled(self, run: Callable[[], Any]) -> Any:
        return run()

    def ops(self, runs: int) -> list[dict[str, Any]]:
        """Operators of the last inference that took time, as OpenVINO names them after fusing."""
        return [
            {
                "name": f"{op.node_type} {op.node_name}",
                "op": op.node_type,
                "us": op.real_time.total_seconds() * 1e6,
            }
            for op in self._request.get_profiling_info()
            if op.real_time.total_seconds() > 0
        ]


if __name__ == "__main__":
    python_run.KINDS[".onnx"] = OpenVinoModel
    python_run.main()

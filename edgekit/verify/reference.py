"""Outputs of the source model itself: what every later stage is compared with."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    import torch

    from edgekit.types import Array

_BATCH = 32


def run_module(module: torch.nn.Module, inputs: Sequence[Array]) -> list[Array]:
    """Outputs (float32, samples first) of a torch module in eval mode on (n, ...) inputs.

    Batched where that gives the same shapes as sample by sample; a model that is fixed to batch 1 is run
    one sample at a time.
    """
    import torch

    def call(start: int, stop: int) -> list[Array]:
        rows = [torch.from_numpy(np.ascontiguousarray(x[start:stop])) for x in inputs]
        with torch.inference_mode():
            return [np.asarray(y.float().numpy(), dtype=np.float32) for y in flatten(module(*rows))]

    n = len(inputs[0])
    first = call(0, 1)
    batch = _BATCH if n > 1 and _batches(call, first) else 1
    parts = [call(i, min(i + batch, n)) for i in range(0, n, batch)]
    return [np.concatenate(column) for column in zip(*parts, strict=True)]


def _batches(call: Any, first: list[Array]) -> bool:
    try:
        two = call(0, 2)
    except (RuntimeError, ValueError, AssertionError, TypeError):
        return False
    return len(two) == len(first) and all(
        b.shape == (2, *a.shape[1:])
        and np.allclose(b[:1], a, rtol=1e-4, atol=1e-5 * (np.abs(a).max() + 1e-6))
        for a, b in zip(first, two, strict=True)
    )


def flatten(outputs: Any) -> list[torch.Tensor]:
    """Tensors of a model's return value: a tensor, a sequence or a mapping, nested."""
    if isinstance(outputs, dict):
        return [t for v in outputs.values() for t in flatten(v)]
    if isinstance(outputs, (list, tuple)):
        return [t for v in outputs for t in flatten(v)]
    return [outputs]


def run_onnx(path: Path, inputs: Sequence[Array]) -> list[Array]:
    """Outputs of an ONNX file under ONNX Runtime, sample by sample (its batch is 1)."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    names = [i.name for i in session.get_inputs()]
    rows = [
        session.run(None, {name: x[i : i + 1] for name, x in zip(names, inputs, strict=True)})
        for i in range(len(inputs[0]))
    ]
    return [np.concatenate([np.asarray(r) for r in column]) for column in zip(*rows, strict=True)]


def run_session(session: Any, inputs: Sequence[Array]) -> list[Array]:
    """Outputs of a backend's session over (n, ...) inputs, in source layout."""
    rows = [session.run([x[i : i + 1] for x in inputs]) for i in range(len(inputs[0]))]
    return [np.concatenate(column) for column in zip(*rows, strict=True)]

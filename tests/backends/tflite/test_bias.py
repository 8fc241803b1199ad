"""Corrected biases: an int8 layer's outputs have the mean that they have in float, whatever the layer."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgekit.backends.calibration import minmax_ranges
from edgekit.backends.tflite import bias, calibrate
from edgekit.backends.tflite.backend import TFLiteBackend
from edgekit.backends.tflite.flatbuffer import read_graph
from edgekit.backends.tflite.quantize import quantize_file
from edgekit.store import Store
from edgekit.types import Artifact, ModelSpec, Scheme, TensorSpec, ignore_events

SHAPE = (1, 8, 11, 10)


def _layers() -> dict[str, Callable[[], Any]]:
    from torch import nn

    return {
        "strided": lambda: nn.Conv2d(8, 6, 3, stride=2, padding=1),
        "valid": lambda: nn.Conv2d(8, 6, (3, 2)),
        "dilated": lambda: nn.Conv2d(8, 6, 3, dilation=2, padding=2),
        "grouped": lambda: nn.Conv2d(8, 6, 3, groups=2),
        "depthwise": lambda: nn.Conv2d(8, 8, 3, padding=1, groups=8),
        "depthwise, two each": lambda: nn.Conv2d(8, 16, 3, groups=8),
        "linear": lambda: nn.Sequential(nn.Flatten(), nn.Linear(880, 6)),
    }


def _exported(layer: Any) -> tuple[Artifact, list[list[Any]]]:
    """The float file and samples; one weight is large, so that one scale for all rounds the rest coarsely."""
    import torch

    backend = TFLiteBackend()
    rng = np.random.default_rng(0)
    samples = [[rng.random(SHAPE).astype(np.float32)] for _ in range(12)]
    with torch.no_grad():
        for seed, weight in enumerate(layer.parameters()):
            weight.copy_(torch.randn(weight.shape, generator=torch.Generator().manual_seed(seed)))
            if weight.dim() > 1:
                weight.flatten()[0] = 40.0
        outputs = layer(torch.from_numpy(samples[0][0]))
    spec = ModelSpec(
        name="layer",
        source="layer",
        sha256="0" * 64,
        inputs=(TensorSpec(name="x", shape=SHAPE, dtype="float32", layout="NCHW"),),
        outputs=(TensorSpec(name="y", shape=tuple(outputs.shape), dtype="float32"),),
    )
    scheme = Scheme(delegate="xnnpack")
    made = backend.export(layer.eval(), spec, samples, store=Store(), scheme=scheme, emit=ignore_events)
    return made, samples


def _mean(file: Artifact, data: bytes, samples: list[list[Any]]) -> Any:
    """Mean of each output channel that the bytes of a file give, which have the signature of ``file``."""
    store = Store()
    session = TFLiteBackend().session(replace(file, path=store.get(store.put_bytes(data))))
    outputs = np.stack([session.run(s)[0] for s in samples]).astype(np.float64)
    return outputs.mean((0, 1, *range(3, outputs.ndim)))


@pytest.mark.parametrize("name", _layers())
def test_every_kind_of_layer_gets_the_mean_that_it_has_in_float(name: str, tmp_path: Path) -> None:
    floats, samples = _exported(_layers()[name]())
    ranges = minmax_ranges(calibrate.observe(floats, [samples])[0])
    scheme = Scheme(precision="int8", delegate="xnnpack", per_channel=False)
    plain = tmp_path / "int8.tflite"
    plain.write_bytes(quantize_file(floats.path, scheme, ranges))
    mended, count = bias.corrected(plain, floats.path, calibrate.reader(floats), samples)
    want = _mean(floats, floats.path.read_bytes(), samples)
    before = np.abs(_mean(floats, plain.read_bytes(), samples) - want).max()
    after = np.abs(_mean(floats, mended, samples) - want).max()
    assert count == 1
    assert after < before / 2
    assert len(mended) == pytest.approx(plain.stat().st_size, rel=0.05)


def test_a_bias_that_two_layers_read_is_copied(tmp_path: Path) -> None:
    """Layers without a bias get one of zeros, and may share it; one correction cannot suit both."""
    import torch
    from torch import nn

    class Two(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b = (nn.Conv2d(8, 8, 3, padding=1, bias=False) for _ in range(2))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return torch.cat([self.a(x), self.b(x)], 1)

    net = Two()
    floats, samples = _exported(net)
    ranges = minmax_ranges(calibrate.observe(floats, [samples])[0])
    path = tmp_path / "int8.tflite"
    path.write_bytes(
        quantize_file(floats.path, Scheme(precision="int8", delegate="xnnpack", per_channel=False), ranges)
    )
    assert len({op.inputs[2] for op in read_graph(path).ops if op.op == "CONV_2D"}) == 1, "they share it"
    mended, count = bias.corrected(path, floats.path, calibrate.reader(floats), samples)
    want = _mean(floats, floats.path.read_bytes(), samples)
    before = np.abs(_mean(floats, path.read_bytes(), samples) - want)
    after = np.abs(_mean(floats, mended, samples) - want)
    assert count == 2
    assert after[:8].max() < before[:8].max() / 2 and after[8:].max() < before[8:].max() / 2

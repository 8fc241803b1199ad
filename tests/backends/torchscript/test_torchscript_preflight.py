from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from edgekit.backends.torch_graph import trace
from edgekit.backends.torchscript.backend import TorchScriptBackend
from edgekit.types import ModelSpec, Precision, Problem, Scheme, TensorSpec

SPEC = ModelSpec(
    name="net",
    source="net",
    sha256="0" * 64,
    inputs=(TensorSpec(name="x", shape=(1, 4, 8), dtype="float32"),),
    outputs=(),
)


def preflight(source: Any, precision: Precision = "int8") -> list[Problem]:
    graph = None if isinstance(source, Path) else trace(source.eval(), [np.ones((1, 4, 8), np.float32)])
    return TorchScriptBackend().preflight(source, SPEC, graph, scheme=Scheme(precision=precision))


def test_an_onnx_file_is_no_source(tmp_path: Path) -> None:
    (problem,) = preflight(tmp_path / "net.onnx")
    assert problem.where == "net.onnx" and "traced from a torch module" in problem.reason
    assert "tflite" in problem.hint


def test_a_branch_on_values_is_named() -> None:
    class Branches(nn.Module):
        def forward(self, x: Any) -> Any:
            return x * 2 if x.sum() > 0 else x

    (problem,) = preflight(Branches())
    assert problem.op == "control flow" and "torch.where" in problem.hint


def test_complex_numbers_are_a_matter_of_int8_only() -> None:
    class Spectrum(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.linear = nn.Linear(8, 8)

        def forward(self, x: Any) -> Any:
            return torch.fft.rfft(self.linear(x)).abs()

    found = preflight(Spectrum())
    assert {p.op for p in found} == {"aten.fft_rfft.default", "aten.abs.default"}
    assert all("test_torchscript_preflight.py:" in p.reason for p in found)
    assert preflight(Spectrum(), "float32") == preflight(Spectrum(), "dynamic") == []


@pytest.mark.parametrize(
    ("precision", "words"), [("int8", "convolution"), ("dynamic", "linear or recurrent")]
)
def test_nothing_to_quantise_is_told(precision: Precision, words: str) -> None:
    (problem,) = preflight(nn.ReLU(), precision)
    assert words in problem.reason
    assert preflight(nn.ReLU(), "float32") == []

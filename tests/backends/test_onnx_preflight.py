"""Operators that cannot become ONNX are named by module path before any conversion."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from edgekit.backends.onnx_preflight import unsupported_by_onnx
from edgekit.backends.torch_graph import TorchGraph, trace

torch = pytest.importorskip("torch")


def net_with(function: Callable[[Any], Any]) -> Any:
    class Inner(torch.nn.Module):
        def forward(self, x: Any) -> Any:
            return function(x)

    class Net(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.stem = torch.nn.Linear(4, 4)
            self.odd = Inner()

        def forward(self, x: Any) -> Any:
            return self.odd(self.stem(x))

    return trace(Net().eval(), [np.ones((2, 4), dtype=np.float32)])


@pytest.mark.parametrize(
    ("function", "op", "words"),
    [
        (lambda x: torch.special.bessel_j0(x), "aten.special_bessel_j0.default", "prims.bessel_j0.default"),
        (lambda x: torch.linalg.svdvals(x), "aten.linalg_svdvals.default", "no conversion to ONNX"),
        (lambda x: torch.exp(1j * x).real, "aten.exp.default", "complex numbers"),
    ],
)
def test_the_users_own_operator_is_named(function: Callable[[Any], Any], op: str, words: str) -> None:
    (problem,) = unsupported_by_onnx(net_with(function))
    assert problem.op == op and problem.where == "odd"
    assert words in problem.reason and "test_onnx_preflight.py:" in problem.reason
    assert problem.hint


def test_an_operator_is_named_once_per_module() -> None:
    graph = net_with(lambda x: torch.special.bessel_j0(torch.special.bessel_j0(x)))
    assert len(unsupported_by_onnx(graph)) == 1


@pytest.mark.parametrize(
    "function",
    [
        lambda x: torch.nn.functional.gelu(x).softmax(-1),
        lambda x: torch.einsum("ij,kj->ik", x, x),
        lambda x: torch.fft.fft(x).abs(),
        lambda x: x.masked_fill(x > 1, 0).cumsum(0),
    ],
)
def test_what_onnx_has_passes(function: Callable[[Any], Any]) -> None:
    assert unsupported_by_onnx(net_with(function)) == []


def test_without_a_graph_there_is_nothing_to_say() -> None:
    assert unsupported_by_onnx(TorchGraph(error="torch.export refused it")) == []

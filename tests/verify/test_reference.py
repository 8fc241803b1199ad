"""Outputs of the source itself, however it takes its batches."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgekit.verify.reference import flatten, run_module, run_onnx, run_session

torch = pytest.importorskip("torch")
from torch import nn  # noqa: E402

X = np.random.default_rng(0).normal(size=(70, 3, 4)).astype(np.float32)


class Counting(nn.Module):
    """Sums the last axis and remembers the size of each batch."""

    def __init__(self) -> None:
        super().__init__()
        self.batches: list[int] = []

    def forward(self, x: Any) -> Any:
        self.batches.append(len(x))
        return x.sum(-1)


def test_a_module_runs_in_batches() -> None:
    module = Counting()
    (got,) = run_module(module, [X])
    np.testing.assert_allclose(got, X.sum(-1), rtol=1e-5)
    assert sum(module.batches[-3:]) == 70 and max(module.batches) == 32


class OnlyOne(nn.Module):
    """As exported programs are: the batch of the example is part of the program."""

    def forward(self, x: Any) -> Any:
        if len(x) != 1:
            raise RuntimeError("shape '[1, 12]' is invalid for input of size 24")
        return x.view(1, 12) * 2


class Mixing(nn.Module):
    """Runs with any batch, but samples of one batch influence each other."""

    def forward(self, x: Any) -> Any:
        return x - x.mean(0, keepdim=True) + x.mean((1, 2), keepdim=True)


class Collapsing(nn.Module):
    """Forgets the batch: a fixed reshape."""

    def forward(self, x: Any) -> Any:
        return x.reshape(1, -1)


@pytest.mark.parametrize("module", [OnlyOne(), Mixing(), Collapsing()])
def test_what_cannot_be_batched_runs_one_by_one(module: nn.Module) -> None:
    (got,) = run_module(module, [X])
    want = np.concatenate([module(torch.from_numpy(X[i : i + 1])).numpy() for i in range(len(X))])
    np.testing.assert_array_equal(got, want)


def test_a_single_sample() -> None:
    (got,) = run_module(Counting(), [X[:1]])
    assert got.shape == (1, 3)


class Several(nn.Module):
    def forward(self, x: Any, y: Any) -> Any:
        return {"sum": x + y, "pair": (x - y, [x.half()])}


def test_several_inputs_and_nested_outputs() -> None:
    got = run_module(Several(), [X, 2 * X])
    assert [g.dtype for g in got] == [np.float32] * 3
    np.testing.assert_array_equal(got[0], 3 * X)
    np.testing.assert_array_equal(got[1], -X)


def test_flatten_keeps_the_order() -> None:
    tensors = [torch.tensor(i) for i in range(4)]
    nested = {"b": tensors[0], "a": [tensors[1], (tensors[2],)], "c": {"d": tensors[3]}}
    assert [int(t) for t in flatten(nested)] == [0, 1, 2, 3]


def test_gradients_are_off() -> None:
    module = nn.Linear(4, 2)
    run_module(module, [X])
    assert module.weight.grad is None


def test_an_onnx_file_runs_sample_by_sample(tmp_path: Path) -> None:
    from onnx import TensorProto, helper, save

    nodes = [helper.make_node("Sub", ["a", "b"], ["d"]), helper.make_node("Add", ["a", "b"], ["s"])]
    infos = [helper.make_tensor_value_info(n, TensorProto.FLOAT, [1, 3, 4]) for n in "abds"]
    graph = helper.make_graph(nodes, "net", infos[:2], infos[2:])
    save(
        helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9),
        str(tmp_path / "m"),
    )
    got = run_onnx(tmp_path / "m", [X, 2 * X])
    np.testing.assert_array_equal(got[0], -X)
    np.testing.assert_array_equal(got[1], 3 * X)


def test_a_session_runs_sample_by_sample() -> None:
    class Doubling:
        def run(self, inputs: list[np.ndarray]) -> list[np.ndarray]:
            assert len(inputs[0]) == 1
            return [2 * inputs[0], inputs[0].sum(keepdims=True)[0]]

    doubled, sums = run_session(Doubling(), [X])
    np.testing.assert_array_equal(doubled, 2 * X)
    assert sums.shape == (70, 1)

"""What planning finds in a model before any conversion, and that the measured limits are still true."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from edgekit.backends.onnx_export import export_onnx
from edgekit.backends.tflite import convert, exporters, preflight, signature
from edgekit.backends.tflite.session import TFLiteSession
from edgekit.backends.torch_graph import trace
from edgekit.errors import ConversionError, Unsupported
from edgekit.types import ModelSpec, Problem, TensorSpec

IMAGE = np.random.default_rng(0).random((1, 4, 8, 8), dtype=np.float32)


class Layer(nn.Module):
    """A function behind a convolution, at the path "tail"."""

    def __init__(self, function: Callable[[torch.Tensor], Any]) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.stem, self.tail = nn.Conv2d(4, 4, 1), Call(function)

    def forward(self, x: torch.Tensor) -> Any:
        return self.tail(self.stem(x))


class Call(nn.Module):
    def __init__(self, function: Callable[[torch.Tensor], Any]) -> None:
        super().__init__()
        self.function = function

    def forward(self, x: torch.Tensor) -> Any:
        return self.function(x)


def spec_of(sample: Sequence[np.ndarray], outputs: Sequence[np.ndarray] = ()) -> ModelSpec:
    def specs(kind: str, arrays: Sequence[np.ndarray]) -> tuple[TensorSpec, ...]:
        return tuple(
            TensorSpec(name=f"{kind}{i}", shape=a.shape, dtype=a.dtype.name) for i, a in enumerate(arrays)
        )

    return ModelSpec(
        name="net", source="test", sha256="", inputs=specs("x", sample), outputs=specs("y", outputs)
    )


def check(module: nn.Module, *sample: np.ndarray) -> list[Problem]:
    return preflight.problems(module.eval(), spec_of(sample), trace(module.eval(), sample))


def test_an_ordinary_model_has_no_problem() -> None:
    layers = nn.Sequential(
        nn.Conv2d(4, 8, 3, stride=2), nn.BatchNorm2d(8), nn.Hardswish(), nn.AdaptiveAvgPool2d(1), nn.Flatten()
    )
    assert check(layers, IMAGE) == []


@torch.library.custom_op("edgekit_tests::twist", mutates_args=())
def twist(x: torch.Tensor) -> torch.Tensor:
    return 2 * x.flip(-1)


@twist.register_fake
def _(x: torch.Tensor) -> torch.Tensor:
    return torch.empty_like(x)


@pytest.mark.parametrize("extra", [True, False])
def test_an_operator_of_the_users_own_is_named_with_its_place(
    monkeypatch: pytest.MonkeyPatch, extra: bool
) -> None:
    monkeypatch.setattr(preflight, "has_litert_torch", lambda: extra)
    (problem,) = check(Layer(twist), IMAGE)
    assert (problem.op, problem.where) == ("edgekit_tests.twist.default", "tail")
    assert "no operators of edgekit_tests" in problem.reason
    assert "test_preflight.py:" in problem.reason
    assert "operators of torch itself" in problem.hint
    assert "pip install" not in problem.hint, "no exporter helps here"


@pytest.mark.parametrize("extra", [True, False])
def test_what_only_litert_torch_takes_depends_on_the_extra(
    monkeypatch: pytest.MonkeyPatch, extra: bool
) -> None:
    monkeypatch.setattr(preflight, "has_litert_torch", lambda: extra)
    found = check(nn.Sequential(nn.LSTM(6, 8, batch_first=True)), np.zeros((1, 4, 6), np.float32))
    if extra:
        assert found == []
    else:
        (problem,) = found
        assert (problem.op, problem.where) == ("aten.lstm.input", "0")
        assert "initial state" in problem.reason
        assert exporters.EXTRA in problem.hint


@pytest.mark.parametrize(
    ("function", "op", "reason"),
    [
        (lambda x: torch.fft.rfft(x).angle(), "aten.fft_rfft.default", "becomes DFT"),
        (lambda x: torch.fft.rfft2(x).abs(), "aten.fft_rfft2.default", "becomes DFT"),
        (lambda x: x[x > 0], "aten.index.Tensor", "depends on values"),
        (lambda x: x.nonzero(), "aten.nonzero.default", "depends on values"),
        (lambda x: torch.lgamma(x), "aten.lgamma.default", "no conversion to ONNX"),
        (lambda x: x.sort(1)[0], "aten.sort.default", "TopK"),
        (
            lambda x: nn.functional.fold(x.flatten(2)[:, :, :16], (8, 8), 2, stride=2),
            "aten.col2im.default",
            "fails to convert",
        ),
    ],
)
def test_what_no_exporter_takes_is_a_problem(
    monkeypatch: pytest.MonkeyPatch, function: Callable[[torch.Tensor], Any], op: str, reason: str
) -> None:
    monkeypatch.setattr(preflight, "has_litert_torch", lambda: True)
    (problem, *_) = [p for p in check(Layer(function), IMAGE) if p.op == op]
    assert problem.where == "tail"
    assert reason in problem.reason and problem.hint


def test_topk_along_the_last_axis_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(preflight, "has_litert_torch", lambda: True)
    assert check(Layer(lambda x: x.mean((2, 3)).topk(2)[0]), IMAGE) == []
    assert check(Layer(lambda x: x.topk(2, 1)[0]), IMAGE) != []


def test_magnitudes_of_a_spectrum_are_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(preflight, "has_litert_torch", lambda: True)
    assert check(Layer(lambda x: torch.fft.rfft(x).abs()), IMAGE) == []


def test_an_input_that_cannot_be_written_is_a_problem() -> None:
    (problem,) = check(Layer(lambda x: x), IMAGE.astype(np.float64))
    assert problem.op == "input x0" and "float64" in problem.reason


def test_a_module_that_cannot_be_traced_is_left_to_the_exporters() -> None:
    assert check(Layer(lambda x: x if x.sum() > 0 else -x), IMAGE) == []


def save_onnx(path: Path, *ops: tuple[str, dict[str, Any]]) -> Path:
    from onnx import TensorProto, helper, save

    names = ["x", *(f"t{i}" for i in range(len(ops)))]
    nodes = [
        helper.make_node(op, [names[i]], [names[i + 1]], name=f"node{i}", **attributes)
        for i, (op, attributes) in enumerate(ops)
    ]
    graph = helper.make_graph(
        nodes,
        "net",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 4, 8, 8])],
        [helper.make_tensor_value_info(names[-1], TensorProto.FLOAT, ["n", "c", "h", "w"])],
    )
    save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9), str(path))
    return path


def test_nodes_of_an_onnx_file_are_checked(tmp_path: Path) -> None:
    path = save_onnx(
        tmp_path / "net.onnx", ("Relu", {}), ("LpPool", {"kernel_shape": [2, 2]}), ("Tan", {}), ("Abs", {})
    )
    found = preflight.problems(path, spec_of([IMAGE]), None)
    assert [(p.op, p.where) for p in found] == [("LpPool", "node1"), ("Tan", "node2")]
    assert "onnx2tf has no conversion for LpPool" in found[0].reason
    assert "TFLite has no kernel" in found[1].reason
    assert all("torch model" in p.hint for p in found)
    assert preflight.problems(save_onnx(tmp_path / "good.onnx", ("Relu", {})), spec_of([IMAGE]), None) == []


@pytest.mark.slow
@pytest.mark.parametrize(
    "function",
    [
        lambda x: x.cumsum(2),
        lambda x: x.flip(3),
        lambda x: torch.tan(x),
        lambda x: x.topk(2, 1)[0],
        lambda x: nn.functional.interpolate(x, scale_factor=2, mode="bicubic"),
    ],
    ids=["cumsum", "flip", "tan", "topk", "bicubic"],
)
def test_onnx2tf_still_has_this_limit(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, function: Callable[[torch.Tensor], Any]
) -> None:
    """A limit that a later release lifts would refuse models for nothing."""
    module = Layer(function).eval()
    monkeypatch.setattr(preflight, "has_litert_torch", lambda: False)
    assert check(module, IMAGE), "it is in the table"
    with torch.inference_mode():
        want = module(torch.from_numpy(IMAGE)).numpy()
    made_onnx = export_onnx(module, (torch.from_numpy(IMAGE),), tmp_path / "model.onnx")
    try:
        made = convert.convert(made_onnx.path, tmp_path)
    except (Unsupported, ConversionError):
        return
    artifact = signature.describe(made.path, "", made.inputs, spec_of([IMAGE], [want]), [False], "onnx2tf")
    got = TFLiteSession(signature.with_output_layouts(artifact, [want], [IMAGE])).run([IMAGE])
    assert exporters.parity([[want]], [got]) > exporters.LIMIT

"""What onnx2tf would convert wrongly, or into what no delegate takes, is repaired in the ONNX file."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgekit.backends.tflite import checking, convert
from edgekit.backends.tflite.backend import open_file
from edgekit.backends.tflite.flatbuffer import read_graph
from edgekit.backends.tflite.onnx_repair import repair
from edgekit.backends.tflite.quantize import quantize_file
from edgekit.backends.tflite.session import make_interpreter
from edgekit.types import Scheme


def after_group_norm(path: Path, *, channels: int = 8, side: int = 8, up: str = "ConvTranspose") -> Path:
    """GroupNorm as exporters write it (Reshape, InstanceNormalization, Reshape), Relu, then ``up``."""
    onnx = pytest.importorskip("onnx")
    node, tensor = onnx.helper.make_node, onnx.helper.make_tensor
    rng = np.random.default_rng(0)
    numbers = {
        "w": rng.normal(0, 0.3, (channels, 3, 1, 1)).astype(np.float32),
        "u": rng.normal(0, 0.3, (channels, 4, 2, 2)).astype(np.float32),
        "d": rng.normal(0, 0.3, (channels, 1, 1, 1)).astype(np.float32),
        "one": np.ones(2, np.float32),
        "zero": np.zeros(2, np.float32),
        "flat": np.array([1, 2, -1]),
        "back": np.array([1, channels, side, side]),
    }
    last = node("ConvTranspose", ["r", "u"], ["y"], strides=[2, 2], kernel_shape=[2, 2])
    if up == "depthwise":
        last = node("Conv", ["r", "d"], ["y"], group=channels, kernel_shape=[1, 1])
    nodes = [
        node("Conv", ["x", "w"], ["c"]),
        node("Reshape", ["c", "flat"], ["f"]),
        node("InstanceNormalization", ["f", "one", "zero"], ["n"]),
        node("Reshape", ["n", "back"], ["b"]),
        node("Relu", ["b"], ["r"]),
        last,
    ]
    shape = [1, 4, 2 * side, 2 * side] if up != "depthwise" else [1, channels, side, side]
    floats, ints = onnx.TensorProto.FLOAT, onnx.TensorProto.INT64
    kept = [
        tensor(n, ints if v.dtype == np.int64 else floats, v.shape, v.ravel()) for n, v in numbers.items()
    ]
    used = {name for n in nodes for name in n.input}
    value = onnx.helper.make_tensor_value_info
    graph = onnx.helper.make_graph(
        nodes,
        "g",
        [value("x", floats, [1, 3, side, side])],
        [value("y", floats, shape)],
        [k for k in kept if k.name in used],
    )
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 17)], ir_version=8)
    onnx.checker.check_model(model)
    onnx.save(model, path)
    return path


def run_onnx(path: Path, x: np.ndarray) -> np.ndarray:
    import onnxruntime

    return np.asarray(onnxruntime.InferenceSession(str(path)).run(None, {"x": x})[0])


def test_a_pair_of_transposes_changes_nothing(tmp_path: Path) -> None:
    onnx = pytest.importorskip("onnx")
    path = after_group_norm(tmp_path / "m.onnx")
    x = np.random.default_rng(1).normal(size=(1, 3, 8, 8)).astype(np.float32)
    before = run_onnx(path, x)
    assert repair(path) == ["the layout of 1 tensors was stated by Transposes"]
    onnx.checker.check_model(onnx.load(path))
    assert [n.op_type for n in onnx.load(path).graph.node].count("Transpose") == 2
    np.testing.assert_array_equal(run_onnx(path, x), before)


@pytest.mark.parametrize("change", [{"side": 6}, {"channels": 16}])
def test_clear_layouts_are_left_alone(tmp_path: Path, change: dict[str, Any]) -> None:
    path = after_group_norm(tmp_path / "m.onnx", **change)
    before = path.read_bytes()
    assert repair(path) == []
    assert path.read_bytes() == before


@pytest.mark.slow
@pytest.mark.parametrize("up", ["ConvTranspose", "depthwise"])
def test_onnx2tf_then_computes_what_the_model_does(tmp_path: Path, up: str) -> None:
    path = after_group_norm(tmp_path / "m.onnx", up=up)
    assert repair(path) == ["the layout of 1 tensors was stated by Transposes"]
    x = np.random.default_rng(1).normal(size=(1, 3, 8, 8)).astype(np.float32)
    made = convert.convert(path, tmp_path)
    interpreter = make_interpreter(made.path)
    interpreter.set_tensor(interpreter.get_input_details()[0]["index"], x.transpose(0, 2, 3, 1))
    interpreter.invoke()
    got = interpreter.get_tensor(interpreter.get_output_details()[0]["index"]).transpose(0, 3, 1, 2)
    want = run_onnx(path, x)
    assert np.abs(got - want).max() < 1e-4 * np.abs(want).max()


def squeeze_and_excite(path: Path, *, alpha: float = 1 / 6) -> Path:
    """x * hardsigmoid(conv(mean(x)))."""
    onnx = pytest.importorskip("onnx")
    node = onnx.helper.make_node
    rng = np.random.default_rng(0)
    numbers = {
        "w": rng.normal(0, 1.0, (8, 8, 1, 1)).astype(np.float32),
        "b": rng.normal(0, 2.0, 8).astype(np.float32),
    }
    nodes = [
        node("ReduceMean", ["x"], ["m"], axes=[2, 3], keepdims=1),
        node("Conv", ["m", "w", "b"], ["c"], kernel_shape=[1, 1]),
        node("HardSigmoid", ["c"], ["h"], alpha=alpha, beta=0.5),
        node("Mul", ["x", "h"], ["y"]),
    ]
    value, floats = onnx.helper.make_tensor_value_info, onnx.TensorProto.FLOAT
    kept = [onnx.numpy_helper.from_array(v, n) for n, v in numbers.items()]
    io = [value(n, floats, [1, 8, 6, 6]) for n in "xy"]
    graph = onnx.helper.make_graph(nodes, "g", io[:1], io[1:], kept)
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 17)], ir_version=8)
    onnx.save(model, path)
    return path


def test_a_hard_sigmoid_is_spelt_out(tmp_path: Path) -> None:
    onnx = pytest.importorskip("onnx")
    path = squeeze_and_excite(tmp_path / "m.onnx")
    x = np.random.default_rng(1).normal(size=(1, 8, 6, 6)).astype(np.float32)
    before = run_onnx(path, x)
    assert repair(path) == ["1 HardSigmoid operators were written as Clip and Mul"]
    onnx.checker.check_model(onnx.load(path), full_check=True)
    assert "HardSigmoid" not in [n.op_type for n in onnx.load(path).graph.node]
    assert np.abs(run_onnx(path, x) - before).max() < 1e-6


def test_a_hard_sigmoid_of_another_slope_stays(tmp_path: Path) -> None:
    path = squeeze_and_excite(tmp_path / "m.onnx", alpha=0.2)
    assert repair(path) == []


@pytest.mark.slow
def test_every_operator_of_a_hard_sigmoid_is_delegated(
    tmp_path: Path, delegated: Callable[[Path], list[tuple[int, ...]]]
) -> None:
    path = squeeze_and_excite(tmp_path / "m.onnx")
    repair(path)
    made = convert.convert(path, tmp_path)
    ops = [o.op for o in read_graph(made.path).ops]
    assert "RELU_0_TO_1" not in ops
    assert delegated(made.path) == [tuple(range(len(ops)))]
    integers = tmp_path / "int8.tflite"
    names = [t.name for t in read_graph(made.path).tensors if not t.constant]
    integers.write_bytes(
        quantize_file(made.path, Scheme(precision="int8"), dict.fromkeys(names, (-4.0, 4.0)))
    )
    facts, complaints = checking.check(open_file(integers), Scheme(precision="int8"))
    assert facts["int8_share"] == 100.0 and complaints == []

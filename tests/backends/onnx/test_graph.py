from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgekit.backends.onnx import graph as g
from edgekit.backends.onnx.prepare import prepare
from edgekit.errors import UserError

onnx = pytest.importorskip("onnx")


def model(nodes: list[Any], inputs: Any, outputs: Any, constants: dict[str, Any], opset: int = 17) -> Any:
    made = onnx.helper.make_model(
        onnx.helper.make_graph(
            nodes,
            "g",
            [onnx.helper.make_tensor_value_info(n, 1, s) for n, s in inputs],
            [onnx.helper.make_tensor_value_info(n, 1, s) for n, s in outputs],
            [onnx.numpy_helper.from_array(v, k) for k, v in constants.items()],
        ),
        opset_imports=[onnx.helper.make_opsetid("", opset)],
        ir_version=10,
    )
    onnx.checker.check_model(made)
    return made


def weights(*shape: int) -> Any:
    return np.ones(shape, dtype=np.float32)


@pytest.mark.parametrize(
    ("node", "inputs", "output", "constants", "want"),
    [
        (("Conv", {"group": 2}), (1, 4, 5, 5), (1, 6, 3, 3), [weights(6, 2, 3, 3)], 6 * 9 * 2 * 9),
        (("ConvTranspose", {}), (1, 4, 5, 5), (1, 6, 7, 7), [weights(4, 6, 3, 3)], 4 * 25 * 6 * 9),
        (("Gemm", {"transB": 1}), (2, 8), (2, 3), [weights(3, 8)], 2 * 3 * 8),
        (("MatMul", {}), (2, 4, 8), (2, 4, 3), [weights(8, 3)], 2 * 4 * 3 * 8),
        (("Relu", {}), (1, 4), (1, 4), [], 0),
    ],
)
def test_macs_and_weight_bytes(node: Any, inputs: Any, output: Any, constants: Any, want: int) -> None:
    op, attributes = node
    names = [f"w{i}" for i in range(len(constants))]
    made = onnx.helper.make_node(op, ["x", *names], ["y"], **attributes)
    graph = g.graph_of(
        model([made], [("x", inputs)], [("y", output)], dict(zip(names, constants, strict=True)))
    )
    unit = g.unit_of(graph, graph.ops[0])
    assert unit.macs == want
    assert unit.weight_bytes == sum(c.nbytes for c in constants)
    assert unit.output_shape == output and unit.precision == "float32"


def test_macs_of_a_recurrent_cell_are_torchs() -> None:
    w, r = weights(1, 16, 6), weights(1, 16, 4)
    node = onnx.helper.make_node("LSTM", ["x", "w", "r"], ["y"], hidden_size=4)
    made = model([node], [("x", (5, 2, 6))], [("y", (5, 1, 2, 4))], {"w": w, "r": r})
    graph = g.graph_of(made)
    assert g.macs(graph, graph.ops[0]) == 5 * 2 * (16 * 6 + 16 * 4)


def test_units_have_unique_names_even_where_nodes_have_none() -> None:
    nodes = [
        onnx.helper.make_node("Relu", ["x"], ["a"], name="r"),
        onnx.helper.make_node("Neg", ["a"], ["b"]),
    ]
    nodes.append(onnx.helper.make_node("Relu", ["b"], ["y"], name="r"))
    graph = g.graph_of(model(nodes, [("x", (1, 2))], [("y", (1, 2))], {}))
    names = [op.name for op in g.unit_ops(graph)]
    assert len(set(names)) == 3 and "b" in names


@pytest.mark.parametrize("keepdims", [0, 1])
def test_a_mean_over_all_pixels_becomes_a_pooling(keepdims: int) -> None:
    import onnxruntime

    out = (2, 3, 1, 1) if keepdims else (2, 3)
    node = onnx.helper.make_node("ReduceMean", ["x", "axes"], ["y"], keepdims=keepdims)
    axes = {"axes": np.array([-1, 2], dtype=np.int64)}
    before = model([node], [("x", (2, 3, 4, 5))], [("y", out)], axes, opset=20)
    data = before.SerializeToString()
    after = prepare(before)
    kinds = [n.op_type for n in after.graph.node]
    assert kinds == (["GlobalAveragePool"] if keepdims else ["GlobalAveragePool", "Reshape"])
    x = np.random.default_rng(0).standard_normal((2, 3, 4, 5), dtype=np.float32)
    (want,), (got,) = (
        onnxruntime.InferenceSession(b, providers=["CPUExecutionProvider"]).run(None, {"x": x})
        for b in (data, after.SerializeToString())
    )
    assert want.shape == got.shape == out
    np.testing.assert_allclose(got, want, rtol=1e-5, atol=1e-6)


def test_other_means_stay() -> None:
    node = onnx.helper.make_node("ReduceMean", ["x", "axes"], ["y"], keepdims=1)
    axes = {"axes": np.array([1], dtype=np.int64)}
    made = prepare(model([node], [("x", (2, 3, 4, 5))], [("y", (2, 1, 4, 5))], axes, opset=20))
    assert [n.op_type for n in made.graph.node] == ["ReduceMean"]


@pytest.mark.parametrize("data", [b"", b"no model at all", b"\x08\x07\x12\x04abcd"])
def test_a_damaged_file_is_a_user_error(tmp_path: Path, data: bytes) -> None:
    path = tmp_path / "broken.onnx"
    path.write_bytes(data)
    with pytest.raises(UserError, match=r"broken\.onnx"):
        g.read_graph(path)


def test_inputs_without_fixed_shape_are_refused_by_name(tmp_path: Path) -> None:
    from edgekit.backends.onnx.backend import OnnxBackend

    node = onnx.helper.make_node("Relu", ["x"], ["y"])
    onnx.save(model([node], [("x", ("n", 2))], [("y", ("n", 2))], {}), str(tmp_path / "m.onnx"))
    with pytest.raises(UserError, match="'x'"):
        OnnxBackend().open_file(tmp_path / "m.onnx")


def test_sorting_puts_helpers_before_their_readers() -> None:
    nodes = [
        onnx.helper.make_node("Neg", ["a"], ["y"], name="second"),
        onnx.helper.make_node("Abs", ["h"], ["a"], name="first"),
        onnx.helper.make_node("Relu", ["x"], ["h"]),
    ]
    made = onnx.helper.make_model(
        onnx.helper.make_graph(
            nodes,
            "g",
            [onnx.helper.make_tensor_value_info("x", 1, (1,))],
            [onnx.helper.make_tensor_value_info("y", 1, (1,))],
        )
    )
    g.sort_nodes(made, ["first", "second"])
    assert [n.op_type for n in made.graph.node] == ["Relu", "Abs", "Neg"]


def test_the_delegate_is_noted_in_the_file() -> None:
    made = model([onnx.helper.make_node("Relu", ["x"], ["y"])], [("x", (1,))], [("y", (1,))], {})
    assert g.noted_delegate(made) == ""
    g.note_delegate(made, "openvino")
    g.note_delegate(made, "tensorrt")
    assert g.noted_delegate(made) == "tensorrt" and len(made.metadata_props) == 1

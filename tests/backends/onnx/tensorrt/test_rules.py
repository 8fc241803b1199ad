from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgekit.backends.onnx.tensorrt import operators, rules
from edgekit.backends.onnx.tensorrt.lines import DEFAULT_VERSION, LINES, line_of
from edgekit.errors import Unsupported, UserError

onnx = pytest.importorskip("onnx")
X, Y = {"x": (1, 4, 8, 8)}, {"y": (1, 4, 8, 8)}
Net = Callable[..., Any]


def found(model: Any, version: str = "") -> list[tuple[str, str]]:
    """(rule, node) of every violation; the file must be sound ONNX all the same."""
    onnx.checker.check_model(model)
    return [(v.rule, v.node) for v in rules.violations(model, version)]


def conv(qdq: Any, a: str, w: str, *more: str, op: str = "Conv", **attributes: Any) -> Any:
    """The model that ends in this convolution."""
    qdq.node(op, [a, w, *more], "y", name="conv", **{"pads": [1, 1, 1, 1], **attributes})
    return qdq.model(X, Y)


# -- a file by the rules


def test_a_net_by_the_rules(conv_net: Net, tmp_path: Path) -> None:
    model = conv_net()
    onnx.save(model, str(tmp_path / "net.onnx"))
    for line in LINES[2:]:
        assert rules.violations(tmp_path / "net.onnx", line.name) == []
    assert all(c.accelerated for c in rules.coverage(tmp_path / "net.onnx"))
    assert [c.op for c in rules.coverage(model)] == [n.op_type for n in model.graph.node]


def test_float_weights_with_a_pair_for_tensorrt_8(conv_net: Net) -> None:
    assert found(conv_net(), "8.5") == [("int8-weights", "w0_dq"), ("int8-weights", "w1_dq")]
    assert found(conv_net(pair=True), "8.5") == found(conv_net(pair=True), "8.2") == []


def test_float_files_have_nothing_to_break(float_net: Net) -> None:
    for kind in ("float32", "float16"):
        for line in LINES:
            assert found(float_net("x", "y", kind), line.name) == []


def test_a_residual_that_a_convolution_adds_itself_needs_no_pair(conv_net: Net) -> None:
    """One input of the sum of this net is int8, the other one is still inside the convolution's kernel."""
    model = conv_net()
    (add,) = (n for n in model.graph.node if n.op_type == "Add")
    assert [name.endswith("_dq") for name in add.input] == [False, True]
    assert found(model) == []


def test_a_file_that_is_none(tmp_path: Path) -> None:
    (tmp_path / "x.onnx").write_bytes(b"not onnx")
    with pytest.raises(UserError, match=r"x\.onnx is no valid ONNX file"):
        rules.violations(tmp_path / "x.onnx")


def test_every_violation_says_what_to_change(qdq: Any) -> None:
    model = conv(qdq, qdq.activation("x", dtype="uint8", zero=128), qdq.weight("w", (4, 4, 3, 3), axis=1))
    violations = rules.violations(model)
    assert {v.rule for v in violations} == {"signed-int8", "zero-point", "weight-axis"}
    assert all(v.reason and v.change and str(v).startswith(f"{v.rule} at {v.node}: ") for v in violations)
    assert list(rules.RULES).index(violations[0].rule) <= list(rules.RULES).index(violations[-1].rule)


# -- one rule at a time


def test_signed_int8(qdq: Any) -> None:
    model = conv(qdq, qdq.activation("x", dtype="uint8"), qdq.weight("w", (4, 4, 3, 3)))
    assert found(model) == [("signed-int8", "x_q"), ("signed-int8", "x_dq")]


def test_no_zero_point_means_uint8(qdq: Any) -> None:
    scale = qdq.constant("s", 0.1)
    stored = qdq.node("QuantizeLinear", ["x", scale], "x_q")
    a = qdq.node("DequantizeLinear", [stored, scale], "x_dq")
    model = conv(qdq, a, qdq.weight("w", (4, 4, 3, 3)))
    assert found(model) == [("signed-int8", "x_q"), ("signed-int8", "x_dq")]


def test_unsigned_weights(qdq: Any) -> None:
    model = conv(qdq, qdq.activation("x"), qdq.weight("w", (4, 4, 3, 3), dtype="uint8"))
    assert found(model) == [("signed-int8", "w_dq")]


def test_zero_point(qdq: Any) -> None:
    model = conv(qdq, qdq.activation("x", zero=3), qdq.weight("w", (4, 4, 3, 3)))
    assert found(model) == [("zero-point", "x_q"), ("zero-point", "x_dq")]
    assert "the zero point is 3" in rules.violations(model)[0].reason


def test_activation_per_tensor(qdq: Any) -> None:
    model = conv(qdq, qdq.activation("x", np.full(4, 0.1)), qdq.weight("w", (4, 4, 3, 3)))
    assert found(model) == [("activation-per-tensor", "x_q"), ("activation-per-tensor", "x_dq")]


@pytest.mark.parametrize("scale", [0.0, -0.1, float("nan"), float("inf")])
def test_scales_are_positive(qdq: Any, scale: float) -> None:
    model = conv(qdq, qdq.activation("x", scale), qdq.weight("w", (4, 4, 3, 3)))
    assert set(found(model)) >= {("scale", "x_q"), ("scale", "x_dq")}


def test_scales_are_constant(qdq: Any) -> None:
    scale = qdq.node("ReduceMax", ["x"], "scale", keepdims=0)
    zero = qdq.constant("z", 0, "int8")
    stored = qdq.node("QuantizeLinear", ["x", scale, zero], "x_q")
    a = qdq.node("DequantizeLinear", [stored, scale, zero], "x_dq")
    assert found(conv(qdq, a, qdq.weight("w", (4, 4, 3, 3)))) == [("scale", "x_q"), ("scale", "x_dq")]


@pytest.mark.parametrize(
    ("op", "shape", "attributes", "right"),
    [
        ("Conv", (4, 4, 3, 3), {}, 0),
        ("ConvTranspose", (4, 4, 3, 3), {}, 0),
        ("Gemm", (6, 4), {"transB": 1}, 0),
        ("Gemm", (4, 6), {}, 1),
        ("MatMul", (4, 6), {}, 1),
    ],
)
def test_weight_axis(
    op: str, shape: tuple[int, ...], attributes: dict[str, int], right: int, qdq: Any
) -> None:
    spatial = len(shape) > 2
    x: dict[str, tuple[int, ...]] = {"x": (1, 4, 8, 8) if spatial else (1, 4)}
    y: dict[str, tuple[int, ...]] = {"y": (1, 4, 8, 8) if spatial else (1, 6)}
    pads = {"pads": [1, 1, 1, 1]} if spatial else {}
    for axis in (None, 0, 1):
        net = type(qdq)()
        net.node(
            op, [net.activation("x"), net.weight("w", shape, axis)], "y", name="op", **attributes, **pads
        )
        assert found(net.model(x, y)) == ([] if axis in (None, right) else [("weight-axis", "op")])


def test_negative_axes_count_from_the_end(qdq: Any) -> None:
    a, w = qdq.activation("x"), qdq.weight("w", (4, 6), 1)
    for node in qdq.nodes:
        for attribute in node.attribute:
            if attribute.name == "axis":
                attribute.i = -1
    qdq.node("MatMul", [a, w], "y", name="op")
    assert found(qdq.model({"x": (1, 4)}, {"y": (1, 6)})) == []


def test_bias(qdq: Any) -> None:
    a, w = qdq.activation("x"), qdq.weight("w", (4, 4, 3, 3), None)
    bias = qdq.constant("b", [1, 2, 3, 4], "int32")
    scale = qdq.constant("b_scale", 0.0001)
    b = qdq.node("DequantizeLinear", [bias, scale], "b_dq")
    assert found(conv(qdq, a, w, b)) == [("bias", "conv")]
    assert found(conv_again(qdq, a, w, b), "8.5") == [("int8-weights", "w_dq"), ("bias", "conv")]


def conv_again(qdq: Any, *inputs: str) -> Any:
    qdq.nodes.pop()
    return conv(qdq, *inputs)


def test_a_pair_has_one_scale(qdq: Any) -> None:
    model = conv(qdq, qdq.activation("x", 0.1, dq_scale=0.2), qdq.weight("w", (4, 4, 3, 3)))
    assert found(model) == [("pair", "x_dq")]
    assert "its scale is not that of x_q" in rules.violations(model)[0].reason


def test_quantised_results_are_dequantised(qdq: Any) -> None:
    scale, zero = qdq.constant("s", 0.1), qdq.constant("z", 0, "int8")
    stored = qdq.node("QuantizeLinear", ["x", scale, zero], "x_q")
    qdq.node("Transpose", [stored], "y", perm=[0, 1, 3, 2])
    model = qdq.model(X, {})
    model.graph.output.append(onnx.helper.make_tensor_value_info("y", onnx.TensorProto.INT8, X["x"]))
    assert found(model) == [("pair", "x_q")]
    assert "is read by Transpose" in rules.violations(model)[0].reason


def test_int8_inputs_and_outputs_are_no_pairs(qdq: Any) -> None:
    scale, zero = qdq.constant("s", 0.1), qdq.constant("z", 0, "int8")
    qdq.node("DequantizeLinear", ["x", scale, zero], "real")
    qdq.node("QuantizeLinear", ["real", scale, zero], "y")
    assert found(qdq.model(X, Y, dtype=onnx.TensorProto.INT8)) == [("pair", "real"), ("pair", "y")]


def test_weights_and_activation_go_together(qdq: Any) -> None:
    plain = type(qdq)()
    w = plain.constant("w", np.ones((4, 4, 3, 3)))
    model = conv(plain, plain.activation("x"), w)
    assert found(model) == [("both-inputs", "conv")]
    assert "its activation is int8, its weights are not" in rules.violations(model)[0].reason
    model = conv(qdq, "x", qdq.weight("w", (4, 4, 3, 3)))
    assert found(model) == [("both-inputs", "conv")]
    assert "its weights are int8, its activation not" in rules.violations(model)[0].reason


def test_a_pair_reaches_past_operators_that_move_values(qdq: Any) -> None:
    pooled = qdq.node("MaxPool", [qdq.activation("x")], "pooled", kernel_shape=[3, 3], pads=[1, 1, 1, 1])
    assert found(conv(qdq, pooled, qdq.weight("w", (4, 4, 3, 3)))) == []


@pytest.mark.parametrize("op", ["Add", "Concat"])
def test_one_scale(op: str, qdq: Any) -> None:
    for scales, expected in (((0.1, 0.1), []), ((0.1, 0.2), [("one-scale", "op")])):
        net = type(qdq)()
        attributes = {"axis": 1} if op == "Concat" else {}
        parts = [net.activation(name, scale) for name, scale in zip(("x", "x2"), scales, strict=True)]
        net.node(op, parts, "y", name="op", **attributes)
        y = (1, 8, 8, 8) if op == "Concat" else (1, 4, 8, 8)
        assert found(net.model({"x": X["x"], "x2": X["x"]}, {"y": y})) == expected


def test_a_constant_summand_has_a_scale_of_its_own(qdq: Any) -> None:
    qdq.node("Add", [qdq.activation("x", 0.1), qdq.weight("w", (4, 1, 1), None)], "y", name="op")
    assert found(qdq.model(X, Y)) == []


def test_opset(conv_net: Net, qdq: Any) -> None:
    model = conv(qdq, qdq.activation("x"), qdq.weight("w", (4, 4, 3, 3), None))
    model.opset_import[0].version = 12
    assert found(model) == [("opset", "")]
    newer = conv_net()
    newer.opset_import[0].version = 21
    assert found(newer, "10.3") == [("opset", "")]
    assert found(newer, "10.16") == []
    assert "knows opsets up to 20, the file has 21" in rules.violations(newer, "10.3")[0].reason


def test_static_shapes(qdq: Any) -> None:
    qdq.node("Relu", ["x"], "y")
    model = qdq.model({"x": ("batch", 4, 8, 8)}, {"y": ("batch", 4, 8, 8)})
    assert found(model) == [("static-shapes", "x")]
    assert "['?', 4, 8, 8]" in rules.violations(model)[0].reason


def test_types(qdq: Any) -> None:
    half = qdq.node("Cast", ["x"], "wide", to=onnx.TensorProto.DOUBLE)
    real = qdq.node("Add", [half, qdq.constant("c", 1.0, "float64")], "sum")
    qdq.node("Cast", [real], "y", to=onnx.TensorProto.FLOAT)
    assert found(qdq.model(X, Y)) == [("dtype", "c"), ("dtype", "wide")]
    bfloat = type(qdq)()
    back = bfloat.node("Cast", ["x"], "b", to=onnx.TensorProto.BFLOAT16)
    bfloat.node("Cast", [back], "y", to=onnx.TensorProto.FLOAT)
    model = bfloat.model(X, Y)
    assert found(model, "10.3") == []
    assert found(model, "8.5") == [("dtype", "b")]


def test_text(qdq: Any) -> None:
    qdq.node("Identity", ["x"], "y")
    model = qdq.model({"x": (1,)}, {"y": (1,)}, dtype=onnx.TensorProto.STRING)
    assert found(model) == [("dtype", "x"), ("dtype", "y")]


# -- operators


def test_operators_that_are_not_imported(qdq: Any) -> None:
    qdq.node("Det", ["x"], "d", name="det")
    qdq.node("Relu", ["d"], "y", name="relu")
    model = qdq.model({"x": (1, 3, 3)}, {"y": (1,)})
    assert found(model) == [("operator", "det")]
    assert [(c.op, c.accelerated, c.reason) for c in rules.coverage(model)] == [
        ("Det", False, "TensorRT does not import Det"),
        ("Relu", True, ""),
    ]


def test_operators_inside_branches(qdq: Any) -> None:
    value = onnx.helper.make_tensor_value_info("d", 1, (1,))
    branches = {
        name: onnx.helper.make_graph([onnx.helper.make_node(op, ["x"], ["d"])], name, [], [value])
        for name, op in (("then_branch", "Det"), ("else_branch", "Det"))
    }
    qdq.node("If", [qdq.constant("c", True, "bool")], "y", name="if", **branches)
    model = qdq.model({"x": (1, 3, 3)}, {"y": (1,)})
    assert found(model) == [("operator", "if"), ("operator", "if")]
    assert not rules.coverage(model)[0].accelerated


@pytest.mark.parametrize(
    ("op", "version", "reason"),
    [
        ("Conv", "8.2", None),
        ("NonZero", "8.2", "TensorRT imports NonZero from 8.5 on, the device has 8.2"),
        ("NonZero", "8.5", None),
        ("Gelu", "8.5", "from 10.0 on"),
        ("Gelu", "10.3", None),
        ("Attention", "10.3", "from 10.16 on"),
        ("QLinearConv", "10.3", "as Q/DQ pairs around float operators"),
        ("SequenceAt", "11", "does not import"),
    ],
)
def test_operators_by_line(op: str, version: str, reason: str | None) -> None:
    refused = operators.refuse(op, version)
    assert refused is None if reason is None else refused is not None and reason in refused


def test_operators_of_other_domains_need_plugins() -> None:
    refused = operators.refuse("QuantizeLinear", "10.3", "com.microsoft")
    assert refused == "TensorRT has no operator com.microsoft:QuantizeLinear without a plugin"


def test_operators_of_the_table_exist() -> None:
    known = {schema.name for schema in onnx.defs.get_all_schemas() if schema.domain == ""}
    assert set(operators.OPERATORS) - known <= {"Scatter", "Upsample"}, "long gone from ONNX, still imported"
    assert len(operators.OPERATORS) > 130


@pytest.mark.parametrize(
    ("op", "attributes", "outputs", "reason"),
    [
        ("Resize", {"mode": "cubic"}, 1, "by nearest or linear, not by cubic"),
        ("Resize", {"mode": "linear", "antialias": 1}, 1, "does not antialias"),
        ("Resize", {"mode": "linear", "coordinate_transformation_mode": "tf_crop_and_resize"}, 1, "tf_crop"),
        ("Resize", {"mode": "nearest", "nearest_mode": "floor"}, 1, None),
        ("Resize", {"keep_aspect_ratio_policy": "not_larger"}, 1, "only stretches"),
        ("MaxPool", {}, 1, None),
        ("MaxPool", {}, 2, "no Indices"),
        ("MaxPool", {"dilations": [2, 2]}, 1, "without dilation"),
        ("LSTM", {"layout": 1}, 1, "layout 0"),
        ("LSTM", {"input_forget": 1}, 1, "couple"),
        (
            "GRU",
            {"direction": "bidirectional", "activations": ["Sigmoid", "Tanh", "Sigmoid", "Relu"]},
            1,
            "both",
        ),
        ("GRU", {"direction": "bidirectional", "activations": ["Sigmoid", "Tanh"] * 2}, 1, None),
        ("ScatterND", {"reduction": "add"}, 1, "no reduction"),
        ("TopK", {"sorted": 0}, 2, "sorted values only"),
        ("LayerNormalization", {}, 2, "first output"),
        ("Conv", {"group": 4}, 1, None),
    ],
)
def test_attributes(op: str, attributes: dict[str, Any], outputs: int, reason: str | None) -> None:
    refused = operators.refuse_attributes(op, attributes, outputs)
    assert refused is None if reason is None else refused is not None and reason in refused


def test_attributes_are_read_from_the_file(qdq: Any) -> None:
    sizes = qdq.constant("sizes", [1, 4, 16, 16], "int64")
    qdq.node("Resize", ["x", "", "", sizes], "y", name="resize", mode="cubic")
    assert found(qdq.model(X, {"y": (1, 4, 16, 16)})) == [("operator", "resize")]


# -- lines


@pytest.mark.parametrize(
    ("version", "name"),
    [
        ("8.2", "8.2"),
        ("8.4.1", "8.2"),
        ("8.5.2", "8.5"),
        ("8.6", "8.5"),
        ("10.0", "10.3"),
        ("10.3.0", "10.3"),
        ("10.15", "10.3"),
        ("10.16", "10.16"),
        ("11", "11"),
        ("11.4", "11"),
        ("", DEFAULT_VERSION),
    ],
)
def test_the_line_of_a_version(version: str, name: str) -> None:
    assert line_of(version).name == name


@pytest.mark.parametrize("version", ["7.1", "8.0", "9.2", "12", "ten"])
def test_versions_without_a_line(version: str) -> None:
    with pytest.raises(Unsupported, match=f"no trtexec flags for TensorRT {version}"):
        line_of(version)


def test_only_some_precisions_have_engines() -> None:
    for line in LINES:
        for precision in ("dynamic", "int16x8"):
            with pytest.raises(Unsupported, match=f"no {precision} engines"):
                line.flags(precision)  # type: ignore[arg-type]

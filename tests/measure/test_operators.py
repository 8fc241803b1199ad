"""Two profiles of one network, kind by kind."""

from __future__ import annotations

import pytest

from edgekit.measure.operators import amount, compare_kinds, explained, kind_of, main_causes, totals


@pytest.mark.parametrize(
    ("names", "kind"),
    [
        (("Fully Connected (NC, F32) GEMM", "Fully Connected (NC, QS8, QC8W) GEMM"), "fully connected"),
        (("Convolution (NHWC, F32) IGEMM", "Convolution (NHWC, QC8) IGEMM", "CONV_2D"), "convolution"),
        (("Convolution (NHWC, QC8) IGEMM #3", "Convolution (NHWC, QC8) IGEMM #14"), "convolution"),
        (("aten::_convolution", "quantized::conv2d", "quantized::conv2d_relu"), "convolution"),
        (("Conv", "FusedConv", "QLinearConv"), "convolution"),
        (("Gemm", "QGemm", "aten::linear", "quantized::linear_relu"), "fully connected"),
        (("quantized::linear_dynamic", "aten::addmm"), "fully connected"),
        (("MatMul", "QLinearMatMul", "aten::matmul"), "matmul"),
        (("Mul", "QLinearMul", "aten::mul", "quantized::mul"), "multiply"),
        (("Add", "QLinearAdd", "quantized::add_relu"), "add"),
        (("Relu", "aten::relu"), "relu"),
        (("Convolution (NHWC, QC8) DWConv", "DEPTHWISE_CONV_2D"), "depthwise convolution"),
        (("HardSwish (NC)", "HARD_SWISH"), "hard swish"),
        (("Mean (ND) Reduce2", "Mean (ND) Reduce", "MEAN"), "mean"),
        (("Multiply (ND)", "MUL"), "multiply"),
        (("Sigmoid (NC)", "LOGISTIC"), "sigmoid"),
        (("Invalid Unary Op",), "value by table"),
    ],
)
def test_one_operator_has_one_kind_in_every_runtime_and_precision(names: tuple[str, ...], kind: str) -> None:
    assert {kind_of(name) for name in names} == {kind}


def test_a_name_that_is_all_detail_stays() -> None:
    assert kind_of("(NC, F32)") == "(NC, F32)"


def profile(**kinds: tuple[int, float]) -> dict[str, tuple[int, float]]:
    return {k.replace("_", " "): v for k, v in kinds.items()}


def test_costs_of_one_kind_are_added() -> None:
    ops = [
        {"name": "HARD_SWISH", "us": 3.0},
        {"name": "HardSwish (NC)", "us": 4.0},
        {"name": "MUL", "op": None, "us": 1.0},
        {"name": "QLinearConv node_conv2d_3_token_4", "op": "QLinearConv", "us": 2.0},
    ]
    assert totals(ops, "us") == {"hard swish": (2, 7.0), "multiply": (1, 1.0), "convolution": (1, 2.0)}


def test_the_kind_that_makes_a_file_slower_is_named_before_those_that_save_less() -> None:
    before = profile(hard_swish=(19, 5.0), fully_connected=(42, 439.0), add=(6, 3.0), reshape=(2, 0.0))
    after = profile(hard_swish=(19, 783.0), fully_connected=(42, 114.0), add=(6, 2.0), convert=(2, 1.0))
    rows = compare_kinds(before, after)
    assert [r.kind for r in rows] == ["hard swish", "fully connected", "add", "convert"]
    assert rows[-1].before_ops == 0 and rows[-1].after_ops == 2
    causes = [r.kind for r in main_causes(rows)]
    assert causes == ["hard swish", "fully connected"]
    assert explained(rows, "us") == "hard swish +778 us (19), fully connected -325 us (42)"


def test_causes_are_named_until_most_of_either_side_is() -> None:
    before = profile(a=(1, 100.0), b=(1, 100.0), c=(1, 100.0), d=(1, 100.0))
    after = profile(a=(1, 50.0), b=(1, 70.0), c=(1, 95.0), d=(3, 101.0))
    rows = compare_kinds(before, after)
    assert [r.kind for r in main_causes(rows)] == ["a", "b", "d"], (
        "a and b are 80 of 85; d is all that is dearer"
    )
    assert "d +1 us (1 to 3)" in explained(rows, "us")


def test_equal_files_have_no_causes() -> None:
    same = profile(a=(1, 100.0))
    assert main_causes(compare_kinds(same, same)) == [] and explained(compare_kinds(same, same), "us") == ""


def test_instructions_are_told_in_their_magnitude() -> None:
    assert amount(-639_000, "instructions") == "-0.64 M"
    assert amount(55_500, "instructions") == "+55.5 k"

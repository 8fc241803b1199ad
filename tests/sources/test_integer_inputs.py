"""Models that take token ids: how the type is known, what the first run is fed with, and which data fits."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click
import numpy as np
import pytest

from edgekit.cli.options import parse_input, parse_shape
from edgekit.errors import DataError, SourceError
from edgekit.sources import inspection
from edgekit.sources.arrays import make_data, with_dtypes
from edgekit.sources.models import load_model

torch = pytest.importorskip("torch")

TOKENS = """
import torch
from torch import nn
class Tokens(nn.Module):
    def __init__(self):
        super().__init__()
        self.table = nn.Embedding(ROWS, 6)
        self.head = nn.Linear(7, 5)
    def forward(self, ids, gain):
        return self.head(torch.cat([self.table(ids).mean(1), gain], 1))
def make():
    torch.manual_seed(0)
    return Tokens()
"""
SHAPES = ((1, 9), (1, 1))


def entry(tmp_path: Path, rows: int = 50) -> str:
    (tmp_path / "net.py").write_text(TOKENS.replace("ROWS", str(rows)))
    return f"{tmp_path / 'net.py'}:make"


def samples(dtype: Any, n: int = 4) -> Any:
    rng = np.random.default_rng(0)
    ids = rng.integers(0, 50, (n, 9)).astype(dtype)
    return make_data("calib", [ids, rng.random((n, 1))], None, source="test")


def test_the_type_is_said_with_the_shape(tmp_path: Path) -> None:
    loaded = load_model(entry(tmp_path, rows=2), input_shapes=SHAPES, input_dtypes=["int64", None])
    assert [(t.name, t.shape, t.dtype) for t in loaded.spec.inputs] == [
        ("ids", (1, 9), "int64"),
        ("gain", (1, 1), "float32"),
    ]
    ids, gain = loaded.example_inputs
    assert ids.dtype == torch.int64 and gain.dtype == torch.float32
    assert int(ids.min()) >= 0 and int(ids.max()) < inspection.INDEX_LIMIT, "valid in a table of two rows"
    again = load_model(entry(tmp_path, rows=2), input_shapes=SHAPES, input_dtypes=["int64", None])
    assert all(torch.equal(a, b) for a, b in zip(again.example_inputs, loaded.example_inputs, strict=True))


def test_floats_for_a_table_say_what_to_write(tmp_path: Path) -> None:
    with pytest.raises(SourceError) as caught:
        load_model(entry(tmp_path), input_shapes=SHAPES)
    assert "--input-shape 1,16:int64" in str(caught.value.hint)


def test_the_type_comes_from_calibration_data(tmp_path: Path) -> None:
    data = samples(np.int32)
    loaded = load_model(entry(tmp_path), calib=data)
    assert [t.dtype for t in loaded.spec.inputs] == ["int32", "float32"]
    np.testing.assert_array_equal(loaded.example_inputs[0].numpy(), data.inputs[0][:1])


def test_what_is_said_decides_about_the_type_of_the_data(tmp_path: Path) -> None:
    loaded = load_model(entry(tmp_path), input_dtypes=["int64", None], calib=samples(np.int16))
    assert loaded.spec.inputs[0].dtype == "int64"
    data = with_dtypes(samples(np.int16), [t.dtype for t in loaded.spec.inputs])
    assert [a.dtype.name for a in data.inputs] == ["int64", "float32"]
    np.testing.assert_array_equal(data.inputs[0], samples(np.int16).inputs[0])


def test_values_that_a_type_cannot_hold_are_refused() -> None:
    data = make_data("calib", [np.array([[1, 2**40]])], None, source="test")
    with pytest.raises(DataError, match="which int32 cannot hold"):
        with_dtypes(data, ["int32"])
    assert with_dtypes(data, ["int64"]).inputs[0].dtype == np.int64
    assert with_dtypes(data, ["float32"]).inputs[0].dtype == np.int64, "left to be refused with its own words"


def test_a_torch_export_program_brings_its_types(tmp_path: Path) -> None:
    whole = load_model(entry(tmp_path, rows=2), input_shapes=SHAPES, input_dtypes=["int64", None])
    path = tmp_path / "net.pt2"
    torch.export.save(torch.export.export(whole.module, whole.example_inputs), path)
    loaded = load_model(str(path))
    assert [(t.shape, t.dtype) for t in loaded.spec.inputs] == [((1, 9), "int64"), ((1, 1), "float32")]


def test_an_onnx_file_brings_its_types(tmp_path: Path) -> None:
    onnx = pytest.importorskip("onnx")
    from onnx import TensorProto, helper, numpy_helper

    table = numpy_helper.from_array(np.eye(3, dtype=np.float32), "table")
    graph = helper.make_graph(
        [helper.make_node("Gather", ["table", "ids"], ["rows"], axis=0)],
        "net",
        [helper.make_tensor_value_info("ids", TensorProto.INT64, ["batch", 4])],
        [helper.make_tensor_value_info("rows", TensorProto.FLOAT, ["batch", 4, 3])],
        [table],
    )
    onnx.save(
        helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9),
        tmp_path / "m.onnx",
    )
    loaded = load_model(str(tmp_path / "m.onnx"))
    assert [(t.shape, t.dtype) for t in loaded.spec.inputs] == [((1, 4), "int64")]
    ids = loaded.example_inputs[0].numpy()
    assert ids.min() >= 0 and ids.max() < inspection.INDEX_LIMIT


@pytest.mark.parametrize(
    ("text", "want"),
    [
        ("1,16:int64", ((1, 16), "int64")),
        ("1x16:int32", ((1, 16), "int32")),
        ("1,3,224,224", ((1, 3, 224, 224), None)),
        ("1,3:float32", ((1, 3), "float32")),
        ("1", ((1,), None)),
    ],
)
def test_the_command_line_takes_a_type_behind_the_shape(text: str, want: Any) -> None:
    assert parse_input(text) == want
    assert parse_shape(text) == want[0]


@pytest.mark.parametrize(
    "text", ["1,16:int", "1,16:", "1,16:int64:int64", ":int64", "1,0:int64", "1,a:int64"]
)
def test_what_is_no_shape_is_a_bad_parameter(text: str) -> None:
    with pytest.raises(click.BadParameter) as caught:
        parse_input(text)
    assert caught.value.param_hint == "--input-shape"

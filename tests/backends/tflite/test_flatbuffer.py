"""Reading and writing .tflite files: nothing is lost, constants are aligned, every unit has its own name."""

from __future__ import annotations

import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgekit.backends.tflite import flatbuffer
from edgekit.backends.tflite.flatbuffer import Graph, Op, Tensor
from edgekit.backends.tflite.session import make_interpreter
from edgekit.errors import StepFailed

# -- reading and writing


def run_file(path: Path, *inputs: np.ndarray) -> list[np.ndarray]:
    interpreter = make_interpreter(path)
    for detail, value in zip(interpreter.get_input_details(), inputs, strict=True):
        interpreter.set_tensor(detail["index"], value)
    interpreter.invoke()
    return [interpreter.get_tensor(d["index"]) for d in interpreter.get_output_details()]


def offsets_of_constants(path: Path) -> list[int]:
    """Where the bytes of each constant lie in the file, by reading the flatbuffer's own tables."""
    from ai_edge_litert import schema_py_generated as schema

    data = path.read_bytes()
    model = schema.Model.GetRootAs(data, 0)
    found = []
    for i in range(model.BuffersLength()):
        table = model.Buffers(i)
        field = table._tab.Offset(4)
        if field and table.DataLength():
            found.append(table._tab.Vector(field))
    return found


def test_a_file_survives_reading_and_writing(tiny: Any, tmp_path: Path) -> None:
    copy = tmp_path / "copy.tflite"
    copy.write_bytes(flatbuffer.write_model(flatbuffer.read_model(tiny.artifact.path)))
    before, after = flatbuffer.read_graph(tiny.artifact.path), flatbuffer.read_graph(copy)
    assert after.tensors == before.tensors
    assert [(o.op, o.inputs, o.outputs, o.version) for o in after.ops] == [
        (o.op, o.inputs, o.outputs, o.version) for o in before.ops
    ]
    x = tiny.backend.session(tiny.artifact).encode(tiny.samples[0])[0]
    np.testing.assert_array_equal(run_file(copy, x)[0], run_file(tiny.artifact.path, x)[0])
    again = flatbuffer.write_model(flatbuffer.read_model(copy))
    assert again == copy.read_bytes(), "writing what was read changes nothing more"


def test_constants_are_aligned_to_16_bytes(int8_file: Any, handmade: Callable[..., Path]) -> None:
    assert len(offsets_of_constants(int8_file.path)) > 5
    assert {o % 16 for o in offsets_of_constants(int8_file.path)} == {0}
    tensors = {
        "x": {"shape": (1, 5)},
        "a": {"shape": (5,), "data": np.arange(5)},
        "b": {"shape": (1,), "data": [3.0]},
        "c": {"shape": (5,), "data": np.ones(5)},
        **{n: {"shape": (1, 5)} for n in ("y", "z", "w")},
    }
    ops = [
        ("ADD", ["x", "a"], ["y"], None),
        ("MUL", ["y", "b"], ["z"], None),
        ("ADD", ["z", "c"], ["w"], None),
    ]
    path = handmade(tensors, ops, ["x"], ["w"])
    assert {o % 16 for o in offsets_of_constants(path)} == {0}
    x = np.ones((1, 5), np.float32)
    np.testing.assert_allclose(run_file(path, x)[0], (x + np.arange(5)) * 3 + 1)


def test_constants_behind_the_flatbuffer_are_brought_inside(tiny: Any, tmp_path: Path) -> None:
    """ai-edge-quantizer stores constants by offset and size, after the flatbuffer's own bytes."""
    from ai_edge_litert import schema_py_generated as schema

    model = flatbuffer.read_model(tiny.artifact.path)
    target = max(
        range(len(model.buffers)),
        key=lambda i: 0 if model.buffers[i].data is None else len(model.buffers[i].data),
    )
    payload = bytes(np.asarray(model.buffers[target].data, dtype=np.uint8))
    plain = schema.ModelT.InitFromObj(schema.Model.GetRootAs(bytearray(flatbuffer.write_model(model)), 0))
    plain.buffers[target].data = None
    plain.buffers[target].offset, plain.buffers[target].size = 1_000_000, len(payload)
    import flatbuffers

    builder = flatbuffers.Builder(1024)
    builder.Finish(plain.Pack(builder), b"TFL3")
    outside = tmp_path / "outside.tflite"
    outside.write_bytes(bytes(builder.Output()).ljust(1_000_000, b"\0") + payload)
    read = flatbuffer.read_model(outside)
    assert bytes(read.buffers[target].data) == payload
    assert read.buffers[target].offset == 0
    inside = tmp_path / "inside.tflite"
    inside.write_bytes(flatbuffer.write_model(read))
    assert inside.stat().st_size < 100_000
    x = tiny.backend.session(tiny.artifact).encode(tiny.samples[0])[0]
    np.testing.assert_array_equal(run_file(inside, x)[0], run_file(tiny.artifact.path, x)[0])


def test_no_stored_file_has_constants_outside(int8_file: Any) -> None:
    from ai_edge_litert import schema_py_generated as schema

    model = schema.ModelT.InitFromObj(schema.Model.GetRootAs(bytearray(int8_file.path.read_bytes()), 0))
    assert all(b.offset == 0 and b.size == 0 for b in model.buffers)


@pytest.mark.parametrize("data", [b"", b"PK\x03\x04 a zip", struct.pack("<I", 28) + b"XXXX" + bytes(64)])
def test_another_file_is_refused(tmp_path: Path, data: bytes) -> None:
    (tmp_path / "other.tflite").write_bytes(data)
    with pytest.raises(StepFailed, match=r"other\.tflite is not a TFLite file"):
        flatbuffer.read_graph(tmp_path / "other.tflite")


def test_a_broken_file_is_refused(tiny: Any, tmp_path: Path) -> None:
    whole = tiny.artifact.path.read_bytes()
    (tmp_path / "broken.tflite").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(StepFailed, match=r"broken\.tflite"):
        flatbuffer.read_graph(tmp_path / "broken.tflite")


# -- what an operator is and costs


def graph_of(op: str, inputs: list[Tensor], output: Tensor, *more: Op) -> Graph:
    tensors = (*inputs, output)
    made = Op(len(more), op, 1, tuple(t.index for t in inputs), (output.index,))
    return Graph(tensors, (*more, made), (0,), (output.index,), 1)


def tensor(index: int, *shape: int, dtype: str = "float32", constant: bool = False, name: str = "") -> Tensor:
    return Tensor(index, name or f"t{index}", shape, dtype, (), (), constant, 4 if constant else 0)


@pytest.mark.parametrize(
    ("op", "shapes", "out", "expected"),
    [
        # out elements x kernel height x kernel width x input channels
        ("CONV_2D", [(1, 8, 8, 3), (16, 3, 3, 3)], (1, 8, 8, 16), 8 * 8 * 16 * 3 * 3 * 3),
        ("CONV_2D", [(1, 8, 8, 8), (16, 3, 3, 4)], (1, 8, 8, 16), 8 * 8 * 16 * 3 * 3 * 4),  # two groups
        ("DEPTHWISE_CONV_2D", [(1, 8, 8, 4), (1, 3, 5, 4)], (1, 8, 8, 4), 8 * 8 * 4 * 3 * 5),
        ("DEPTHWISE_CONV_2D", [(1, 8, 8, 4), (1, 3, 3, 8)], (1, 8, 8, 8), 8 * 8 * 8 * 3 * 3),
        ("FULLY_CONNECTED", [(1, 20), (10, 20)], (1, 10), 200),
        ("FULLY_CONNECTED", [(7, 20), (10, 20)], (7, 10), 1400),
        ("BATCH_MATMUL", [(2, 3, 4), (2, 4, 5)], (2, 3, 5), 2 * 3 * 4 * 5),
        # every input element meets every kernel element and output channel
        ("TRANSPOSE_CONV", [(4,), (8, 2, 2, 16), (1, 4, 4, 16)], (1, 8, 8, 8), 4 * 4 * 16 * 2 * 2 * 8),
        ("CONV_3D", [(1, 4, 4, 4, 2), (3, 3, 3, 2, 5)], (1, 4, 4, 4, 5), 64 * 5 * 27 * 2),
        ("ADD", [(1, 8, 8, 3), (1, 8, 8, 3)], (1, 8, 8, 3), 0),
    ],
)
def test_multiply_accumulates(
    op: str, shapes: list[tuple[int, ...]], out: tuple[int, ...], expected: int
) -> None:
    inputs = [tensor(i, *s) for i, s in enumerate(shapes)]
    graph = graph_of(op, inputs, tensor(len(shapes), *out))
    assert flatbuffer.macs(graph, graph.ops[0]) == expected


def test_multiply_accumulates_of_a_whole_file_are_those_of_the_torch_module(tiny: Any) -> None:
    assert sum(u.macs for u in tiny.backend.units(tiny.artifact)) == tiny.spec.macs


@pytest.mark.parametrize(
    ("dtypes", "constant", "out", "expected"),
    [
        (["int8", "int8"], True, "int8", "int8"),
        (["float32", "float32"], True, "float32", "float32"),
        (["float32", "int8"], True, "float32", "dynamic"),
        (["float32", "int4"], True, "float32", "dynamic"),
        (["float32", "int8"], False, "float32", "float32"),
        (["float32", "int32"], True, "int64", "int64"),
        (["int16", "int8"], True, "int16", "int16"),
    ],
)
def test_in_what_an_operator_computes(dtypes: list[str], constant: bool, out: str, expected: str) -> None:
    x, w = tensor(0, 1, 4, dtype=dtypes[0]), tensor(1, 4, 4, dtype=dtypes[1], constant=constant)
    graph = graph_of("FULLY_CONNECTED", [x, w], tensor(2, 1, 4, dtype=out))
    assert flatbuffer.op_precision(graph, graph.ops[0]) == expected


def test_weights_stored_as_fp16_make_it_fp16() -> None:
    half = tensor(3, 4, 4, dtype="float16", constant=True)
    opened = Op(0, "DEQUANTIZE", 1, (3,), (1,))
    x, w, y = tensor(0, 1, 4), tensor(1, 4, 4), tensor(2, 1, 4)
    dense = Op(1, "FULLY_CONNECTED", 1, (0, 1), (2,))
    graph = Graph((x, w, y, half), (opened, dense), (0,), (2,), 1)
    assert flatbuffer.op_precision(graph, dense) == "fp16"
    (unit,) = flatbuffer.units(graph)
    assert (unit.op, unit.weight_bytes, unit.index) == ("FULLY_CONNECTED", 4, 1)


def test_the_share_of_int8_leaves_plumbing_and_shapes_out() -> None:
    ops = ["QUANTIZE", "CONV_2D", "RESHAPE", "SOFTMAX", "ADD", "DEQUANTIZE"]
    dtypes = ["int8", "int8", "float32", "float32", "int8", "float32"]
    tensors = tuple(tensor(i, 1, 4, dtype=d) for i, d in enumerate(["float32", *dtypes]))
    made = tuple(Op(i, name, 1, (i,), (i + 1,)) for i, name in enumerate(ops))
    share, left = flatbuffer.int8_share(Graph(tensors, made, (0,), (6,), 1))
    assert share == pytest.approx(2 / 3)
    assert [o.op for o in left] == ["SOFTMAX"]
    assert flatbuffer.int8_share(Graph(tensors, (), (0,), (6,), 1)) == (0.0, [])


# -- names


@pytest.mark.parametrize(
    ("tensor_name", "short"),
    [
        ("model/tf.nn.relu/Relu;model/tf.math.add/Add", "relu/Relu"),
        ("model_1/tf.compat.v1.nn.conv2d/Conv2D", "conv2d/Conv2D"),
        ("functional/conv/BiasAdd", "conv/BiasAdd"),
        ("PartitionedCall:0", "PartitionedCall:0"),
        ("model", "model"),
        ("", ""),
    ],
)
def test_short_names(tensor_name: str, short: str) -> None:
    assert flatbuffer.short_name(tensor_name) == short


def test_every_unit_has_a_name_of_its_own() -> None:
    names = ["x", "model/a/Relu;1", "model/a/Relu;2", "other", "model/a/Relu;3", "a/Relu#2"]
    tensors = tuple(tensor(i, 1, 4, name=n) for i, n in enumerate(names))
    ops = tuple(Op(i, "RELU" if i != 2 else "QUANTIZE", 1, (i,), (i + 1,)) for i in range(5))
    graph = Graph(tensors, ops, (0,), (5,), 1)
    named = flatbuffer.unit_names(graph)
    assert named == {0: "a/Relu", 1: "a/Relu#2", 3: "a/Relu#3", 4: "a/Relu#2#2"}
    assert [u.name for u in flatbuffer.units(graph)] == list(named.values())


def test_units_with_equal_short_names_can_be_tapped_apart(handmade: Callable[..., Path]) -> None:
    from edgekit.backends.tflite.backend import open_file
    from edgekit.backends.tflite.session import TFLiteSession

    tensors = {
        "x": {"shape": (1, 4)},
        "one": {"shape": (1, 4), "data": np.ones((1, 4))},
        "model/add;first": {"shape": (1, 4)},
        "model/add;second": {"shape": (1, 4)},
    }
    ops = [
        ("ADD", ["x", "one"], ["model/add;first"], ("AddOptions", {})),
        ("ADD", ["model/add;first", "one"], ["model/add;second"], ("AddOptions", {})),
    ]
    artifact = open_file(handmade(tensors, ops, ["x"], ["model/add;second"]))
    taps = TFLiteSession(artifact, keep_all=True).taps([np.zeros((1, 4), np.float32)], ["add", "add#2"])
    assert taps["add"].tolist() == [[1, 1, 1, 1]]
    assert taps["add#2"].tolist() == [[2, 2, 2, 2]]

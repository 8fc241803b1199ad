"""A layer that computes something else is named."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgekit.backends.tflite.divergence import first_divergence
from edgekit.backends.tflite.flatbuffer import constant, read_graph, read_model, unit_names, write_model
from edgekit.types import Artifact

LAYERS = ("CONV_2D", "FULLY_CONNECTED")


def layers(artifact: Artifact) -> list[Any]:
    return [o for o in read_graph(artifact.path).ops if o.op in LAYERS]


def tampered(artifact: Artifact, path: Path, position: int, factor: float = 1.05) -> Artifact:
    """The file with the weights of one layer scaled."""
    model, op = read_model(artifact.path), layers(artifact)[position]
    values = constant(model, op.inputs[1]) * np.float32(factor)
    buffer = model.buffers[model.subgraphs[0].tensors[op.inputs[1]].buffer]
    buffer.data = np.frombuffer(values.tobytes(), dtype=np.uint8)
    path.write_bytes(write_model(model))
    return replace(artifact, path=path)


@pytest.fixture
def onnx_path(tiny: Any) -> Path:
    return Path(tiny.store.get(tiny.artifact.meta["onnx_sha256"]))


def test_a_faithful_file_diverges_nowhere(tiny: Any, onnx_path: Path) -> None:
    assert first_divergence(onnx_path, tiny.artifact, tiny.samples[0], tolerance=1e-3) is None


@pytest.mark.parametrize("position", range(4))
def test_the_first_layer_that_differs_is_named(
    tiny: Any, onnx_path: Path, tmp_path: Path, position: int
) -> None:
    import onnx

    file = tampered(tiny.artifact, tmp_path / "tampered.tflite", position)
    found = first_divergence(onnx_path, file, tiny.samples[0], tolerance=1e-3)
    assert found is not None
    graph = read_graph(file.path)
    assert found.unit == unit_names(graph)[layers(file)[position].index]
    nodes = [n for n in onnx.load(str(onnx_path)).graph.node if n.op_type in ("Conv", "Gemm", "MatMul")]
    assert found.onnx_node in (nodes[position].name, nodes[position].output[0])
    assert found.error > 1e-3


def test_a_difference_below_the_tolerance_is_none(tiny: Any, onnx_path: Path, tmp_path: Path) -> None:
    file = tampered(tiny.artifact, tmp_path / "t.tflite", 1, factor=1.0001)
    assert first_divergence(onnx_path, file, tiny.samples[0], tolerance=1e-2) is None


def test_other_layers_cannot_be_compared(tiny: Any, onnx_path: Path, tmp_path: Path) -> None:
    import onnx

    model = onnx.load(str(onnx_path))
    first = next(n for n in model.graph.node if n.op_type == "Conv")
    extra = onnx.NodeProto.FromString(first.SerializeToString())
    extra.name, extra.output[0] = "extra", "unused"
    model.graph.node.append(extra)
    onnx.save(model, str(tmp_path / "longer.onnx"))
    assert first_divergence(tmp_path / "longer.onnx", tiny.artifact, tiny.samples[0], tolerance=1e-3) is None


def test_the_backend_says_it_in_words(tiny: Any, tmp_path: Path) -> None:
    def words(artifact: Artifact) -> str | None:
        found = tiny.backend.divergence(artifact, tiny.samples[0], tolerance=1e-3, store=tiny.store)
        assert found is None or isinstance(found, str)
        return found

    assert words(tiny.artifact) is None
    file = tampered(tiny.artifact, tmp_path / "tampered.tflite", 2)
    unit = unit_names(read_graph(file.path))[layers(file)[2].index]
    said = words(file)
    assert said is not None and said.startswith(f"{unit} (ONNX ")
    assert words(replace(file, meta={})) is None, "a file that came another way has nothing to compare with"


def test_operators_of_a_profile_are_those_that_compute(tiny: Any) -> None:
    events = [
        {"tag": "Invoke", "us": 90, "type": 1},
        {"tag": "CONV_2D", "us": 40, "type": 2},
        {"tag": "Delegate/Fully Connected", "us": 30, "type": 8},
        {"tag": "DELEGATE", "us": 35, "type": 4},
    ]
    report = {"runs_ms": [1.0], "load_ms": 1, "peak_rss_kb": 1, "events": events}
    parsed = tiny.backend.parse(f"noise\n{json.dumps(report)}\n", {})
    assert parsed["ops"] == [
        {"name": "CONV_2D", "us": 40.0},
        {"name": "Delegate/Fully Connected", "us": 30.0},
    ]
    assert parsed["runs_ms"] == [1.0]

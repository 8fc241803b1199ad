"""What operators cost, against counts that were made by others."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

import pytest

from edgekit.measure.estimate import features
from edgekit.profiles.schema import Tile


def row(op: str, **more: Any) -> dict[str, Any]:
    plain = {
        "name": op,
        "op": op,
        "macs": 0,
        "weight_bytes": 0,
        "output_shape": (1, 8),
        "precision": "float32",
    }
    return {**plain, "precision": "float32", **more}


@pytest.mark.parametrize(
    ("op", "kind"),
    [
        ("AVERAGE_POOL_2D", "light"),
        ("RESIZE_BILINEAR", "light"),
        ("HARD_SWISH", "light"),
        ("hardtanh", "light"),
        ("adaptive_avg_pool2d", "light"),
        ("GlobalAveragePool", "light"),
        ("Softmax", "light"),
        ("CUMSUM", "other"),
        ("CUSTOM:Mine", "other"),
    ],
)
def test_kinds_by_name(op: str, kind: str) -> None:
    (found,) = features([row(op)], [], Tile())
    assert found.kind == kind


@pytest.mark.parametrize(
    ("op", "groups", "shape", "kind"),
    [
        ("CONV_2D", 1, (1, 8, 8, 32), "dense"),
        ("DEPTHWISE_CONV_2D", 32, (1, 8, 8, 32), "depthwise"),
        ("CONV_2D", 8, (1, 8, 8, 32), "dense"),
        ("Conv", 32, (1, 32, 8, 8), "depthwise"),
        ("Conv", 4, (1, 32, 8, 8), "dense"),
        ("convolution", 32, (1, 32, 8, 8), "depthwise"),
        ("FULLY_CONNECTED", 1, (1, 32), "dense"),
        ("BATCH_MATMUL", 1, (1, 32, 32), "other"),
    ],
)
def test_kinds_of_products(op: str, groups: int, shape: tuple[int, ...], kind: str) -> None:
    (found,) = features([row(op, macs=10, groups=groups, input_shapes=[list(shape)])], [], Tile())
    assert found.kind == kind


def test_bytes_are_in_the_operators_own_precision() -> None:
    units = [
        row("ADD", precision=p, input_shapes=((1, 8), (1, 8)), weight_bytes=2)
        for p in ("float32", "fp16", "dynamic", "int16", "int8")
    ]
    assert [f.bytes for f in features(units, [], Tile())] == [98, 100, 98, 50, 26]


def test_only_what_follows_a_product_directly_is_fused() -> None:
    conv = row("Conv", macs=10, output_shape=(1, 8, 4, 4))
    relu = row("Relu", output_shape=(1, 8, 4, 4))
    norm = row("BatchNormalization", output_shape=(1, 8, 4, 4))
    add = row("Add", output_shape=(1, 8, 4, 4))
    pooled = row("Relu", output_shape=(1, 8, 2, 2))
    found = features([conv, norm, relu, add, relu, conv, pooled], [], Tile())
    assert [f.fused for f in found] == [False, True, True, False, False, False, False]


@pytest.mark.slow
@pytest.mark.realdata
def test_mobilenet_v2_costs_what_its_graph_says(realdata: Path) -> None:
    """MACs, bytes and operators of a file from edgekit's own exporter, against the published table's."""
    from edgekit.backends.tflite.backend import TFLiteBackend
    from edgekit.sources.models import load_model
    from edgekit.store import Store
    from edgekit.types import Scheme, ignore_events, to_json

    with (realdata / "latency" / "pi4_litert.csv").open(newline="") as file:
        (published,) = (r for r in csv.DictReader(file) if (r["network"], r["precision"]) == ("v2", "fp32"))
    backend, shape = TFLiteBackend(), (1, 3, 224, 224)
    model = load_model(f"{realdata / 'entry.py'}:mobilenet_v2_10_224_tf2_deq", input_shapes=(shape,))
    samples = [[x.numpy() for x in model.example_inputs]]
    artifact = backend.export(
        model.module, model.spec, samples, store=Store(), scheme=Scheme(), emit=ignore_events
    )
    found = features(to_json(backend.units(artifact)), [], Tile())
    assert sum(f.macs for f in found) == pytest.approx(int(published["macs"]), rel=0.01)
    depthwise = sum(f.macs for f in found if f.kind == "depthwise")
    assert depthwise == pytest.approx(int(published["depthwise_macs"]), rel=0.01)
    assert sum(f.bytes for f in found) == pytest.approx(int(published["bytes_moved"]), rel=0.1)
    assert len(found) == pytest.approx(int(published["ops"]), abs=8)
    assert {f.kind for f in found} == {"dense", "depthwise", "light"}

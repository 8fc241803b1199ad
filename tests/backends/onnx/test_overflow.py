"""Products of unsigned and signed bytes, two of which overflow 16 bits on x86 without VNNI.

Weights and activations are all at the top here, so that nearly every pair of products overflows. On a
machine with VNNI, or Arm, these files compute right whatever is done; what is stored is checked apart.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgekit.backends.onnx.graph import DEQUANTIZE
from edgekit.backends.onnx.placement import RULES
from edgekit.bundle import run
from edgekit.bundle.recipes import recipe_of
from edgekit.plan.compression import qat_config
from edgekit.settings import resolved
from edgekit.types import Scheme


@pytest.fixture(scope="module")
def heavy(export_net: Callable[..., Any]) -> Any:
    import torch
    from torch import nn

    net = nn.Sequential(nn.Conv2d(16, 8, 3), nn.ReLU(), nn.Flatten(), nn.Linear(8 * 4 * 4, 3))
    with torch.no_grad():
        for weights in net.parameters():
            weights.copy_(0.9 + 0.1 * torch.rand_like(weights))
    rng = np.random.default_rng(0)
    return export_net(net, [[1 - 0.1 * rng.random((1, 16, 6, 6), dtype=np.float32)] for _ in range(8)])


@pytest.mark.parametrize(
    ("precision", "delegate"),
    [("int8", "cpu"), ("int8", "openvino"), ("int8", "tensorrt"), ("dynamic", "cpu")],
)
def test_sums_of_the_largest_products_are_right(heavy: Any, precision: str, delegate: str) -> None:
    if delegate == "openvino":
        pytest.importorskip("openvino")
    assert heavy.sqnr(heavy.quantized(precision, delegate)) > 30


def test_run_py_computes_them_too(heavy: Any, tmp_path: Path) -> None:
    made = heavy.quantized()
    manifest = {
        "runtime": {"threads": 1},
        "inputs": [{"name": t.name, "shape": list(t.shape), "dtype": t.dtype} for t in made.inputs],
        "outputs": [{"name": t.name, "shape": list(t.shape), "dtype": t.dtype} for t in made.outputs],
    }
    (found,) = run.OnnxRuntime(made.path, manifest).run(heavy.samples[0])
    (want,) = heavy.backend.session(made).run(heavy.samples[0])
    np.testing.assert_array_equal(found, want)


@pytest.mark.parametrize(("delegate", "largest"), [("openvino", 64), ("cpu", 127), ("tensorrt", 127)])
def test_openvinos_weights_have_seven_bits(joins: Any, delegate: str, largest: int) -> None:
    graph = joins.graph(joins.quantized(delegate=delegate))
    stored = [graph.constant(op.inputs[0]) for op in graph.ops if op.op == DEQUANTIZE]
    weights = [w for w in stored if w is not None and w.dtype == np.int8]
    assert len(weights) == 8
    assert max(int(np.abs(w.astype(np.int32)).max()) for w in weights) == largest


@pytest.mark.parametrize("delegate", sorted(RULES))
def test_training_plays_what_the_files_hold(delegate: str) -> None:
    """The planner and the backend each say what a delegate's integers are."""
    config = qat_config(resolved({}), Scheme(precision="int8", delegate=delegate), epochs=1)
    assert config["weight_max"] == RULES[delegate].weight_max
    assert config["symmetric"] is not RULES[delegate].unsigned


@pytest.mark.parametrize(("precision", "avoided"), [("int8", True), ("dynamic", True), ("float32", False)])
def test_the_readmes_program_avoids_overflow_where_there_are_integers(precision: str, avoided: bool) -> None:
    manifest = {
        "models": [{"path": "model.onnx", "precision": precision}],
        "runtime": {"threads": 1},
        "inputs": [{"name": "x"}],
        "outputs": [{"name": "y"}],
        "golden": {"samples": []},
    }
    program = recipe_of("onnx", ("cpu",)).program(manifest)
    compile(program, "README.txt", "exec")
    assert ("session.x64quantprecision" in program) is avoided

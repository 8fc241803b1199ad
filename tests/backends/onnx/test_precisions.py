"""fp16 and dynamic quantisation, and what ONNX Runtime makes of an int8 file."""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from edgekit.types import Scheme

onnx = pytest.importorskip("onnx")


def test_fp16_halves_the_file_and_keeps_float_inputs_and_outputs(joins: Any) -> None:
    made = joins.quantized("fp16", "tensorrt")
    assert made.bytes < 0.75 * joins.artifact.bytes
    assert {t.dtype for t in (*made.inputs, *made.outputs)} == {"float32"}
    units = joins.backend.units(made)
    assert [u.name for u in units] == [u.name for u in joins.backend.units(joins.artifact)]
    assert {u.precision for u in units if u.macs} == {"fp16"}
    onnx.checker.check_model(str(made.path), full_check=True)
    assert 45 < joins.sqnr(made) < 100
    assert joins.backend.check(made, Scheme(precision="fp16"))[1] == []
    assert joins.backend.check(joins.artifact, Scheme(precision="fp16"))[1] != []


def test_values_beyond_half_precision_stay_float32(export_net: Callable[..., Any]) -> None:
    import torch
    from torch import nn

    class Large(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.last = nn.Linear(4, 4), nn.Linear(4, 2)
            with torch.no_grad():  # the values between must be large on both sides of the ReLU
                self.first.weight.copy_(torch.eye(4))
                self.first.bias.zero_()

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.last(torch.relu(self.first(x) * 1e6) * 1e-6)

    rng = np.random.default_rng(0)
    net = export_net(Large(), [[rng.standard_normal((1, 4), dtype=np.float32)] for _ in range(4)])
    made = net.quantized("fp16")
    assert made.meta["kept_float32"], "the product by a million does not fit"
    assert np.isfinite(net.sqnr(made)) and net.sqnr(made) > 40
    precisions = [(u.op, u.precision) for u in net.backend.units(made)]
    products = [precision for op, precision in precisions if op == "Mul"]
    assert products == ["float32", "float32"], "one makes values beyond the range, the other reads them"
    assert {precision for op, precision in precisions if op in ("Gemm", "MatMul")} == {"fp16"}


def test_a_unit_can_be_kept_out_of_fp16(joins: Any) -> None:
    name = next(u.name for u in joins.backend.units(joins.artifact) if u.macs)
    made = joins.quantized("fp16", overrides={name: "float32"})
    assert next(u.precision for u in joins.backend.units(made) if u.name == name) == "float32"


@pytest.fixture(scope="module")
def recurrent(export_net: Callable[..., Any]) -> Any:
    import torch
    from torch import nn

    class Recurrent(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.lstm, self.head = nn.LSTM(12, 16, batch_first=True), nn.Linear(16, 4)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.head(self.lstm(x)[0])

    rng = np.random.default_rng(0)
    return export_net(Recurrent(), [[rng.standard_normal((1, 6, 12), dtype=np.float32)] for _ in range(8)])


def test_dynamic_quantises_recurrent_and_linear_layers(recurrent: Any) -> None:
    made = recurrent.quantized("dynamic")
    before, after = recurrent.backend.units(recurrent.artifact), recurrent.backend.units(made)
    assert [(u.name, u.op) for u in before] == [(u.name, u.op) for u in after]
    quantised = {u.op for u in after if u.precision == "dynamic"}
    assert "LSTM" in quantised and quantised & {"Gemm", "MatMul"}
    assert made.bytes < 0.6 * recurrent.artifact.bytes
    assert recurrent.sqnr(made) > 20
    facts, complaints = recurrent.backend.check(made, Scheme(precision="dynamic"))
    assert facts["int8_share"] > 50 and complaints == []


def test_taps_of_a_dynamic_file_are_those_of_its_units(recurrent: Any) -> None:
    made = recurrent.quantized("dynamic")
    names = [u.name for u in recurrent.backend.units(made)]
    taps = recurrent.backend.session(made, keep_all=True).taps(recurrent.samples[0], names)
    want = recurrent.backend.session(recurrent.artifact, keep_all=True).taps(recurrent.samples[0], names)
    for name in names:
        np.testing.assert_allclose(taps[name], want[name], atol=0.1 * np.abs(want[name]).max())


def test_static_int8_leaves_the_recurrent_layer_in_float_and_says_so(recurrent: Any) -> None:
    made = recurrent.quantized("int8")
    _, complaints = recurrent.backend.check(made, Scheme(precision="int8"))
    assert any("LSTM" in c for c in complaints)


def test_onnx_runtime_is_asked_what_it_computes_in_integers(joins: Any) -> None:
    covered = joins.backend.coverage(joins.quantized(), SimpleNamespace(delegate="cpu"))
    slow = {c.op: c.reason for c in covered if not c.accelerated}
    assert set(slow) == {"HardSwish"} and "float" in slow["HardSwish"]
    assert {c.op for c in covered if c.accelerated} >= {"Conv", "Add", "Concat", "MaxPool", "Gemm", "Relu"}


def test_all_of_a_float_file_runs(joins: Any) -> None:
    covered = joins.backend.coverage(joins.artifact, SimpleNamespace(delegate="cpu"))
    assert covered and all(c.accelerated for c in covered)

"""Values behind a Clip moved around zero: the same function, twice the levels."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from edgekit.backends.onnx import shift
from edgekit.backends.onnx.session import open_session


@pytest.fixture(scope="module")
def clipped(export_net: Callable[..., Any]) -> Any:
    """ReLU6 in front of a layer that pads, of two that do not, of a ReLU, and of a linear layer."""
    import torch
    from torch import nn

    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.stem, self.padded = nn.Conv2d(3, 16, 1), nn.Conv2d(16, 16, 3, padding=1, groups=16)
            self.a, self.b = nn.Conv2d(16, 8, 1), nn.Conv2d(16, 8, 3, stride=2)
            self.head = nn.Linear(8 * 7 * 7, 5)

        def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
            x = nn.functional.relu6(self.stem(x))
            x = nn.functional.relu6(self.padded(x))
            return self.head(nn.functional.relu6(self.a(x)).flatten(1)), self.b(x)

    with torch.random.fork_rng():
        torch.manual_seed(0)
        net = Net()
        with torch.no_grad():
            net.padded.weight.mul_(8.0)
    rng = np.random.default_rng(0)
    samples = [[3 * rng.standard_normal((1, 3, 7, 7), dtype=np.float32)] for _ in range(12)]
    return export_net(net, samples, delegate="tensorrt")


def test_only_what_reads_every_tap_reads_a_moved_tensor(clipped: Any) -> None:
    (found,) = shift.shifts(clipped.graph())
    assert found.limit == 6 and found.writer.attribute("group") == 16
    assert [r.attribute("strides") for r in found.readers] == [[1, 1], [2, 2]]


def test_the_function_stays(clipped: Any) -> None:
    graph = clipped.graph()
    (found,) = shift.shifts(graph)
    made = shift.shifted(graph, [found], {found.tensor: 2.5})
    session = open_session(made.SerializeToString())
    for sample in clipped.samples:
        want = clipped.backend.session(clipped.artifact).run(sample)
        for w, g in zip(want, session.run(None, {graph.inputs[0]: sample[0]}), strict=True):
            np.testing.assert_allclose(g, w, atol=1e-5 * np.abs(w).max())
    assert len(made.graph.node) == len(graph.ops)


def test_a_file_without_zero_points_gains_and_taps_undo_it(
    clipped: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    (found,) = shift.shifts(clipped.graph())
    made = clipped.quantized(delegate="tensorrt")
    names = [found.writer.name, found.clip.name]
    assert set(made.meta["shifted_units"]) == set(names)
    want = clipped.backend.session(clipped.artifact, keep_all=True).taps(clipped.samples[0], names)
    got = clipped.backend.session(made, keep_all=True).taps(clipped.samples[0], names)
    assert want[found.clip.name].min() == 0 and want[found.clip.name].max() > 5
    for name in names:
        np.testing.assert_allclose(got[name], want[name], atol=0.06 * np.abs(want[name]).max())
    from edgekit.backends.onnx.tensorrt import rules

    assert rules.violations(made.path) == []
    monkeypatch.setattr(shift, "shifts", lambda graph: [])
    readers = {op.name for op in found.readers}
    others = [u.name for u in clipped.backend.units(clipped.artifact) if u.name not in readers]
    scheme = {"delegate": "tensorrt", "calibration": "minmax", "overrides": dict.fromkeys(others, "float32")}
    without = clipped.sqnr(clipped.quantized(**scheme))
    monkeypatch.undo()
    assert clipped.sqnr(clipped.quantized(**scheme)) > without + 1


@pytest.mark.parametrize("delegate", ["cpu", "openvino"])
def test_delegates_with_zero_points_need_none(clipped: Any, delegate: str) -> None:
    assert "shifted_units" not in clipped.quantized(delegate=delegate).meta


def test_files_of_one_search_share_a_calibration(clipped: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    from edgekit.backends import calibration
    from edgekit.backends.onnx import int8

    kept = clipped.graph().ops[0].name
    int8._SEEN.clear()
    first = clipped.quantized(delegate="tensorrt", overrides={kept: "float32"})
    calls: list[int] = []
    observe = calibration.observe
    monkeypatch.setattr(calibration, "observe", lambda *args: calls.append(1) or observe(*args))
    again = clipped.quantized(delegate="tensorrt", overrides={kept: "float32"})
    whole = len(calls)
    int8._SEEN.clear()
    anew = clipped.quantized(delegate="tensorrt", overrides={kept: "float32"})
    assert again.sha256 == anew.sha256 == first.sha256
    assert whole < len(calls) - whole

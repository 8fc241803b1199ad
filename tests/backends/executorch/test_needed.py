"""Lowering without the passes that a program does not need: the same file, no pass where none is needed."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
from typing import Any

import numpy as np
import pytest

from edgekit.backends.executorch import lowering, needed
from edgekit.backends.executorch.program import capture


def nets() -> dict[str, Any]:
    """Nets with and without what XNNPACK's passes rewrite."""
    import torch
    from torch import nn

    class Many(nn.Module):
        """Concat, PReLU, bilinear upsampling, pooling with indices, softmax."""

        def __init__(self) -> None:
            super().__init__()
            self.conv, self.slope = nn.Conv2d(3, 4, 3, padding=1), nn.PReLU(4)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            x = self.slope(self.conv(x))
            x = torch.cat([x, x * 2, x + 1, x - 1, x * 3, x + 2], 1)
            x = nn.functional.interpolate(nn.functional.max_pool2d(x, 2), scale_factor=2, mode="bilinear")
            return torch.softmax(x.mean((2, 3)), 1)

    with torch.random.fork_rng():
        torch.manual_seed(0)
        plain = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU6(), nn.Conv2d(4, 2, 1))
        signal = nn.Sequential(nn.Conv1d(3, 4, 3), nn.BatchNorm1d(4), nn.ReLU(), nn.Conv1d(4, 2, 1))
        return {"plain": plain.eval(), "signal": signal.eval(), "many": Many().eval()}


@pytest.fixture(scope="module", params=["plain", "signal", "many"])
def net(request: pytest.FixtureRequest) -> Callable[[], Any]:
    """The net's program, made anew each time: lowering changes what it is given."""
    module = nets()[request.param]
    shape = (1, 3, 8) if request.param == "signal" else (1, 3, 8, 8)
    sample = [np.random.default_rng(0).standard_normal(shape).astype(np.float32)]
    return lambda: capture(module, sample)


def test_the_file_is_that_of_all_passes(net: Callable[[], Any], monkeypatch: pytest.MonkeyPatch) -> None:
    made = lowering.lower(net())
    from executorch.backends.xnnpack.partition.xnnpack_partitioner import XnnpackPartitioner

    monkeypatch.setattr(lowering, "needed_passes", nullcontext)
    monkeypatch.setattr(lowering, "partitioner", XnnpackPartitioner)
    assert lowering.lower(net()) == made


def test_passes_are_left_out_where_a_graph_has_nothing_for_them() -> None:
    from executorch.backends.xnnpack import _passes, xnnpack_preprocess

    known = {p.__name__ for p in _passes.XNNPACKPassManager(None).passes}
    assert set(needed._NEEDS) <= known, "a pass was renamed: it would run without need"
    with needed.needed_passes():
        assert xnnpack_preprocess.XNNPACKPassManager is not _passes.XNNPACKPassManager
    assert xnnpack_preprocess.XNNPACKPassManager is _passes.XNNPACKPassManager
    assert needed._is_needed("DecomposeConcatenate", frozenset({"aten.cat.default"}))
    assert not needed._is_needed("DecomposeConcatenate", frozenset({"aten.add.Tensor"}))
    assert needed._is_needed("ConvertToLinearPass", frozenset())


@pytest.mark.parametrize("takes", [True, False])
def test_operators_that_the_partitioner_refuses_are_filtered_as_before(
    takes: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    import torch
    from executorch.backends.xnnpack.partition.xnnpack_partitioner import XnnpackPartitioner
    from torch import nn

    program = capture(nn.Conv2d(3, 4, 3).eval(), [np.zeros((1, 3, 8, 8), dtype=np.float32)])
    operators = [torch.ops.aten.conv2d.default]
    monkeypatch.setattr(
        XnnpackPartitioner, "ops_to_not_decompose", lambda self, ep: (operators, lambda node: takes)
    )
    kept, check = needed.partitioner().ops_to_not_decompose(program)
    assert kept == operators and (check is None) == takes

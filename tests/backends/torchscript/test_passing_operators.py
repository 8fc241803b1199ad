"""Operators that run on quantised tensors as they are. The kernels are torch's, so they are watched."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn

from edgekit.backends.torchscript.quantize import passing_overloads, qnnpack
from edgekit.backends.torchscript.sharing import PASSING

SCALE = 0.03
ARGUMENTS: dict[str, tuple[Any, ...]] = {
    "reshape": ([1, 48, 8],),
    "slice": (1, 2, 6, 1),
    "select": (1, 3),
    "permute": ([0, 2, 3, 1],),
    "transpose": (1, 2),
    "expand": ([2, 8, 8, 6],),
    "constant_pad_nd": ([0, 1, 0, 1], 0.0),
    "pad": ([0, 1, 0, 1], "constant", None),
    "pixel_shuffle": (2,),
    "max_pool1d": ([2], [2], [0], [1], False),
    "max_pool2d": ([2, 2], [2, 2], [0, 0], [1, 1], False),
    "avg_pool1d": ([2], [2], [0], False, True),
    "avg_pool2d": ([2, 2], [2, 2], [0, 0], False, True, None),
    "adaptive_avg_pool1d": ([1],),
    "adaptive_avg_pool2d": ([1, 1],),
    "mean": ([2, 3], True),
    "relu": (),
    "upsample_nearest2d": ([16, 12], None, None),
    "upsample_bilinear2d": ([16, 12], False, None, None),
}


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize("name", sorted(PASSING))
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_each_gives_its_input_s_scale_and_the_float_values(name: str, layout: torch.memory_format) -> None:
    x = torch.randn(1, 8, 8, 6, generator=torch.Generator().manual_seed(0)).contiguous(memory_format=layout)
    if name.endswith("1d"):
        x = x[0]
    operator = getattr(torch.ops.aten, name)
    with qnnpack():
        quantized = torch.quantize_per_tensor(x, SCALE, 128, torch.quint8)
        got = operator(quantized, *ARGUMENTS[name])
        want = operator(quantized.dequantize(), *ARGUMENTS[name])
    assert got.q_scale() == SCALE and got.q_zero_point() == 128
    assert (got.dequantize() - want).abs().max() <= 0.51 * SCALE
    assert any(str(overload).startswith(f"aten.{name}.") for overload in passing_overloads())


TAILS: dict[str, Callable[[Any], Any]] = {
    "mean": lambda x: x.mean((2, 3)),
    "pooling": lambda x: nn.functional.adaptive_avg_pool2d(x, 1).flatten(1),
    "softmax": lambda x: torch.softmax(x.mean((2, 3)), 1),
    "scaled": lambda x: x.mean((2, 3)) * 3.0 + 0.5,
}


@pytest.mark.parametrize("tail", TAILS)
def test_scores_that_are_averages_have_steps_of_their_own(make: Callable[..., Any], tail: str) -> None:
    """In the scale of what they are averages of, scores of a fully convolutional net tie."""

    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Conv2d(3, 12, 3)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return TAILS[tail](torch.relu(self.layer(x**5)))

    made = make(Net, (1, 3, 16, 16))
    file = made.quantized()
    assert made.sqnr(file) > (28 if tail == "softmax" else 35)
    found = {u.op: u.precision for u in made.backend.units(file)}
    average = "adaptive_avg_pool2d" if tail == "pooling" else "mean"
    assert found[average] == "float32" and found["conv2d"] == "int8"

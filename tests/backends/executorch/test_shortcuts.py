"""Strided slices and channel paddings become convolutions where, and only where, they are the same."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from edgekit.backends.executorch.program import capture, op_name, unit_nodes


def ops(net: Callable[[Any], Any], shape: tuple[int, ...] = (1, 4, 6, 8)) -> list[str]:
    """Operators of the normalised graph, which is checked to compute what the function does."""
    import torch

    class Net(torch.nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return net(x)

    sample = np.arange(np.prod(shape), dtype=np.float32).reshape(shape)
    program = capture(Net(), [sample])
    with torch.no_grad():
        got = program.module(check_guards=False)(torch.from_numpy(sample)).numpy()
    np.testing.assert_array_equal(got, net(torch.from_numpy(sample)).numpy())
    return [op_name(n) for n in unit_nodes(program.graph)]


def pad(x: Any, *amounts: int, value: float = 0.0) -> Any:
    import torch

    return torch.nn.functional.pad(x, amounts, value=value)


@pytest.mark.parametrize(
    "net",
    [
        lambda x: x[:, :, ::2, ::2],
        lambda x: x[:, :, ::2],
        lambda x: x[:, :, :, ::3],
        lambda x: pad(x[:, :, ::2, ::2], 0, 0, 0, 0, 2, 3),
        lambda x: pad(x[:, :, ::2], 0, 0, 0, 0, 0, 1),
    ],
)
def test_they_become_one_convolution(net: Callable[[Any], Any]) -> None:
    assert ops(net) == ["conv2d"]


@pytest.mark.parametrize(
    "net",
    [
        lambda x: x[:, :, 1::2],
        lambda x: x[:, :, :4:2],
        lambda x: x[:, ::2],
        lambda x: x[:, :, 1:3],
    ],
)
def test_other_slices_stay(net: Callable[[Any], Any]) -> None:
    assert "conv2d" not in ops(net)


def test_other_paddings_stay_behind_the_convolution() -> None:
    assert ops(lambda x: pad(x[:, :, ::2], 0, 0, 0, 0, 1, 1, value=1.0)) == ["conv2d", "pad"]
    assert ops(lambda x: pad(x[:, :, ::2], 1, 1, 0, 0, 1, 1)) == ["conv2d", "pad"]


def test_a_slice_with_two_readers_is_made_once() -> None:
    def net(x: Any) -> Any:
        y = x[:, :, ::2]
        return y + y * 2

    assert sorted(ops(net)) == ["add", "conv2d", "mul"]

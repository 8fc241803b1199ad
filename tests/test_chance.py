"""No outcome may depend on which tests ran before: the global generators start anew for each."""

from __future__ import annotations

import random

import numpy as np
import pytest
import torch
from torch import nn


def draw() -> list[float]:
    return [random.random(), np.random.rand(), torch.rand(1).item()]


def expected(n: int) -> list[list[float]]:
    """What ``n`` draws give from fresh generators."""
    own, numpys, torchs = random.Random(0), np.random.RandomState(0), torch.Generator().manual_seed(0)
    return [[own.random(), numpys.rand(), torch.rand(1, generator=torchs).item()] for _ in range(n)]


@pytest.fixture(scope="module")
def inner() -> list[float]:
    return draw()


@pytest.fixture(scope="module")
def outer(request: pytest.FixtureRequest) -> list[list[float]]:
    """Draws, with another fixture set up on the way."""
    first = draw()
    request.getfixturevalue("inner")
    return [first, draw()]


@pytest.mark.parametrize("time", [1, 2])
def test_every_test_starts_with_fresh_generators(time: int) -> None:
    assert [draw(), draw()] == expected(2)


def test_so_does_every_fixture_whoever_asks_for_it(outer: list[list[float]], inner: list[float]) -> None:
    assert inner == expected(1)[0]
    assert outer == expected(2), "a fixture that is set up on the way must not disturb the one that asked"
    assert draw() == expected(1)[0]


@pytest.mark.parametrize("time", [1, 2])
def test_weights_of_a_new_module_are_the_same_every_time(time: int) -> None:
    generator = torch.Generator().manual_seed(0)
    want = (2 * torch.rand(2, 2, generator=generator) - 1) / 2**0.5
    torch.testing.assert_close(nn.Linear(2, 2).weight, want, check_stride=False)

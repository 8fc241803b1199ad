"""The tiny model as .pte files, and small nets of the shapes that the quantiser has rules for."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest

from edgekit.types import Artifact, Scheme, ignore_events


@pytest.fixture(scope="session")
def tiny(export_tiny: Callable[..., Any]) -> Any:
    """The tiny model's float32 file; see tests/conftest.py."""
    return export_tiny("executorch", "xnnpack")


@pytest.fixture(scope="session")
def int8(tiny: Any) -> Artifact:
    return tiny.backend.quantize(
        tiny.artifact,
        tiny.samples[:20],
        Scheme(precision="int8", delegate="xnnpack"),
        refit=True,
        store=tiny.store,
        emit=ignore_events,
    )


@pytest.fixture(scope="session")
def awkward() -> Any:
    """ReLU6, asymmetric padding, a mean without kept dimensions, a sigmoid, a strided slice of channels."""
    import torch
    from torch import nn

    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.pad = nn.ZeroPad2d((0, 1, 0, 1))
            self.first = nn.Conv2d(3, 8, 3, stride=2)
            self.second = nn.Conv2d(8, 8, 3, padding=1, groups=8, bias=False)
            self.norm = nn.BatchNorm2d(8)
            self.head = nn.Linear(4, 5)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            x = nn.functional.relu6(self.first(self.pad(x)))
            x = nn.functional.relu6(self.norm(self.second(x)))
            x = x * torch.sigmoid(x)
            return self.head(x[:, ::2].mean((2, 3)))

    with torch.random.fork_rng():
        torch.manual_seed(0)
        net = Net().eval()
    net.norm.running_var.fill_(0.05)
    return net


@pytest.fixture(scope="session")
def images() -> Sequence[Sequence[Any]]:
    rng = np.random.default_rng(0)
    return [[rng.normal(0, 1, (1, 3, 16, 16)).astype(np.float32)] for _ in range(12)]

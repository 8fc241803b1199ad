"""The MAC counter against formulas worked out by hand."""

from __future__ import annotations

import sys

import pytest

torch = pytest.importorskip("torch")
from torch import nn  # noqa: E402

from edgekit.sources.macs import count_macs  # noqa: E402


class Products(nn.Module):
    def forward(self, a: torch.Tensor) -> torch.Tensor:
        return torch.bmm(a, a) + torch.einsum("bij,bjk->bik", a, a)


class Vectors(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.matrix = nn.Parameter(torch.randn(7, 5))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.matrix @ x + torch.dot(x, x)


CASES = {
    "conv": (nn.Conv2d(3, 8, 3, padding=1), (1, 3, 10, 10), 3 * 8 * 9 * 100),
    "conv, stride and batch": (nn.Conv2d(3, 8, 3, stride=2), (2, 3, 11, 11), 2 * 3 * 8 * 9 * 25),
    "depthwise": (nn.Conv2d(8, 8, 3, padding=1, groups=8), (1, 8, 10, 10), 8 * 9 * 100),
    "conv1d": (nn.Conv1d(3, 8, 3, padding=1), (1, 3, 10), 3 * 8 * 3 * 10),
    "transposed": (nn.ConvTranspose2d(3, 8, 2, stride=2), (1, 3, 10, 10), 3 * 8 * 4 * 100),
    "linear": (nn.Linear(16, 4), (1, 5, 16), 5 * 16 * 4),
    "products": (Products(), (2, 5, 5), 2 * 2 * 125),
    "vectors": (Vectors(), (5,), 7 * 5 + 5),
    "lstm": (nn.LSTM(8, 16, batch_first=True), (1, 10, 8), 10 * 4 * 16 * (8 + 16)),
    "attention": (
        nn.TransformerEncoderLayer(16, 4, 32, batch_first=True),
        (1, 10, 16),
        10 * 16 * 16 * 4 + 2 * 10 * 10 * 16 + 2 * 10 * 16 * 32,
    ),
    "no products": (nn.ReLU(), (1, 4), 0),
}


@pytest.mark.parametrize("case", CASES)
def test_macs(case: str) -> None:
    module, shape, expected = CASES[case]
    assert count_macs(module.eval(), [torch.randn(shape)]) == expected


def test_counting_does_not_import_dynamo() -> None:
    """It costs more than a second, which every cached build would pay."""
    import subprocess

    code = (
        "import sys, torch; from edgekit.sources.macs import count_macs;"
        "count_macs(torch.nn.Linear(2, 2), [torch.ones(1, 2)]); sys.exit('torch._dynamo' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_a_module_that_fails_under_the_counter_gives_no_figure() -> None:
    class Fails(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            raise RuntimeError("no")

    assert count_macs(Fails(), [torch.ones(1)]) is None

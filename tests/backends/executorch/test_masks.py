"""An attention mask must not reach an int8 range, and a broken sample must still be told."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from edgekit.backends import get_backend
from edgekit.backends.executorch.masks import masked_units
from edgekit.backends.executorch.program import capture
from edgekit.errors import DataError
from edgekit.store import Store
from edgekit.types import ModelSpec, Scheme, TensorSpec, ignore_events

SHAPE = (1, 6, 8)
INT8 = Scheme(precision="int8", delegate="xnnpack")
SPEC = ModelSpec(
    name="attention",
    source="test",
    sha256="0",
    inputs=(TensorSpec(name="x", shape=SHAPE, dtype="float32"),),
    outputs=(TensorSpec(name="y", shape=SHAPE, dtype="float32"),),
)


class Attention(nn.Module):
    """One causal head; the mask is added, or filled in."""

    def __init__(self, *, added: bool) -> None:
        super().__init__()
        self.key, self.value, self.out = (nn.Linear(8, 8) for _ in range(3))
        self.added = added
        self.register_buffer("mask", torch.full((6, 6), float("-inf")).triu(1))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        scores = self.key(x) @ x.transpose(1, 2)
        masked = scores + self.mask if self.added else scores.masked_fill(self.mask < 0, float("-inf"))
        return self.out(masked.softmax(-1) @ self.value(x)) + x


@pytest.fixture
def samples() -> list[list[Any]]:
    rng = np.random.default_rng(0)
    return [[rng.standard_normal(SHAPE, dtype=np.float32)] for _ in range(8)]


@pytest.mark.parametrize("added", [True, False])
def test_a_masked_model_is_quantised_around_its_mask(added: bool, samples: list[list[Any]]) -> None:
    module, backend, store = Attention(added=added).eval(), get_backend("executorch"), Store()
    floats = backend.export(module, SPEC, samples, store=store, scheme=Scheme(), emit=ignore_events)
    told: list[str] = []
    made = backend.quantize(
        floats, samples, INT8, refit=True, store=store, emit=lambda event: told.append(event.message)
    )
    precision = {u.name: u.precision for u in backend.units(made)}
    assert [precision[n] for n in precision if "linear" in n] == ["int8"] * 3
    assert precision["add_1" if added else "add"] == "int8", "the sum behind the mask is whole"
    (message,) = (m for m in told if "infinite constant" in m)
    assert ("add, softmax" if added else "masked_fill, softmax") in message
    session, signal, noise = backend.session(made), 0.0, 0.0
    for (x,) in samples:
        want, (got,) = module(torch.from_numpy(x)).detach().numpy(), session.run([x])
        signal, noise = signal + float((want**2).sum()), noise + float(((want - got) ** 2).sum())
    assert 10 * np.log10(signal / noise) > 25


def test_other_infinite_values_are_still_refused(samples: list[list[Any]]) -> None:
    class Overflow(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x * 3e38 * 10 + x

    program = capture(Overflow().eval(), samples[0])
    inputs = tuple(torch.from_numpy(x) for x in samples[0])
    assert masked_units(program.module(check_guards=False), inputs) == []
    from edgekit.backends.executorch.calibration import quantize_static

    with pytest.raises(DataError, match="infinite or NaN"):
        quantize_static(
            program, samples, keep=[], per_channel=True, method="auto", refit=False, emit=ignore_events
        )

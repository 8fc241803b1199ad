"""Whole blocks: found by shape, chosen by what their absence changes, made again from data."""

from __future__ import annotations

import json

import numpy as np
import pytest

torch = pytest.importorskip("torch")
import torch.nn.functional as F  # noqa: E402
from torch import nn  # noqa: E402

from edgekit.compress.depth import apply_depth, removable_blocks, remove_blocks  # noqa: E402
from edgekit.errors import StepFailed, Unsupported, UserError  # noqa: E402
from edgekit.sources.arrays import make_data  # noqa: E402


class Block(nn.Module):
    def __init__(self, size: int, gain: float) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(size, 2 * size, 3, padding=1), nn.ReLU(), nn.Conv2d(2 * size, size, 1)
        )
        with torch.no_grad():
            for p in self.body[2].parameters():
                p.mul_(gain)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return F.relu(x + self.body(x))


class Net(nn.Module):
    """Three blocks, of which the second does least and the third does most."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.ReLU())
        self.blocks = nn.Sequential(Block(8, 1.0), Block(8, 0.01), Block(8, 3.0))
        self.down = nn.Sequential(nn.Conv2d(8, 8, 3, stride=2), nn.ReLU())
        self.plain = nn.Sequential(nn.Conv2d(8, 8, 1), nn.ReLU())
        self.twice = nn.Sequential(nn.Conv2d(8, 8, 1))
        self.act = nn.Sequential(nn.ReLU())
        self.head = nn.Linear(8, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.down(self.blocks(self.stem(x)))
        return self.head(self.act(self.twice(self.twice(self.plain(x)))).mean((2, 3)))


def _net() -> nn.Module:
    torch.manual_seed(0)
    return Net().eval()


X = (torch.randn(1, 3, 8, 8, generator=torch.Generator().manual_seed(1)),)
PROBE = make_data(
    "train", [np.random.default_rng(2).normal(size=(20, 3, 8, 8)).astype(np.float32)], None, source="x"
)


def test_blocks_are_residual_hold_weights_and_are_called_once() -> None:
    found = removable_blocks(_net(), X)
    assert found == ["blocks.0", "blocks.1", "blocks.2"], "not their bodies alone, nor what holds them"


def test_the_block_that_does_least_goes_first_and_data_make_the_model_again() -> None:
    net = _net()
    before = {k: v.clone() for k, v in net.state_dict().items()}
    messages = []
    made = remove_blocks(net, X, blocks=2, probe=PROBE, emit=lambda e: messages.append(e.message))
    assert [r.block for r in made.removed] == ["blocks.1", "blocks.0"]
    first, second = (r.noise for r in made.removed)
    assert first is not None and second is not None and 0 < 10 * first < second
    assert "blocks.1 goes" in str(messages[0]) and len(messages) == 2
    assert made.params_before - made.params_after == sum(r.params for r in made.removed) > 0
    assert made.macs_after is not None and made.macs_before is not None and made.macs_after < made.macs_before
    again = apply_depth(net, json.loads(json.dumps(made.record)))
    again.load_state_dict(made.module.state_dict())
    with torch.no_grad():
        assert torch.equal(again(*X), made.module(*X))
    assert all(torch.equal(v, before[k]) for k, v in net.state_dict().items()), "the original is left alone"


def test_named_blocks_go_and_ignored_ones_stay() -> None:
    made = remove_blocks(_net(), X, remove=["blocks.2"], ignore=["blocks.1"], blocks=1, probe=PROBE)
    assert [(r.block, r.noise is None) for r in made.removed] == [("blocks.2", True), ("blocks.0", False)]
    alone = remove_blocks(_net(), X, remove=["blocks.2"])
    assert [r.block for r in alone.removed] == ["blocks.2"]


def test_numbers_per_part_are_kept() -> None:
    made = remove_blocks(_net(), X, blocks={"blocks.2": 1, "blocks": 1, "down": 0}, probe=PROBE)
    assert [r.block for r in made.removed] == ["blocks.2", "blocks.1"]
    with pytest.raises(Unsupported, match="1 blocks of 'down' were to go, but only 0 can: none"):
        remove_blocks(_net(), X, blocks={"down": 1}, probe=PROBE)


def test_what_cannot_go_is_said() -> None:
    net = _net()
    with pytest.raises(UserError, match=r"depth\.remove: 'blocks\.3' is no block") as caught:
        remove_blocks(net, X, remove=["blocks.3"])
    assert "blocks.2" in str(caught.value.hint)
    with pytest.raises(UserError, match=r"depth\.ignore: 'down'"):
        remove_blocks(net, X, ignore=["down"], blocks=1, probe=PROBE)
    with pytest.raises(UserError, match=r"in depth\.remove and in depth\.ignore"):
        remove_blocks(net, X, remove=["blocks.0"], ignore=["blocks.0"])
    with pytest.raises(Unsupported, match="4 blocks were to go, but only 3 can"):
        remove_blocks(net, X, blocks=4, probe=PROBE)
    with pytest.raises(UserError, match="samples to measure"):
        remove_blocks(net, X, blocks=1)
    with pytest.raises(Unsupported, match="none"):
        remove_blocks(nn.Sequential(nn.Conv2d(3, 4, 1)), X, blocks=1, probe=PROBE)
    with pytest.raises(StepFailed, match="version"):
        apply_depth(net, {"version": 9, "removed": []})
    with pytest.raises(StepFailed, match="does not have"):
        apply_depth(net, {"version": 1, "removed": ["nowhere"]})

"""Which channels each importance keeps, how scopes share the loss, and the schedule."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("torch_pruning")
import torch.nn.functional as F  # noqa: E402
from torch import nn  # noqa: E402

from edgekit.compress.allocation import Ranked, allocate, cubic  # noqa: E402
from edgekit.compress.history import apply_history  # noqa: E402
from edgekit.compress.prune import prunable_groups, prune  # noqa: E402
from edgekit.compress.sensitivity import sensitivity  # noqa: E402
from edgekit.errors import Unsupported, UserError  # noqa: E402
from edgekit.sources.arrays import Data, make_data  # noqa: E402

WEAK = [0, 2, 5, 7]


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, 8, 3, padding=1, bias=False)
        self.norm = nn.BatchNorm2d(8)
        self.second = nn.Conv2d(8, 8, 3, padding=1)
        self.head = nn.Linear(8, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = F.relu(self.norm(self.first(x)))
        return self.head(F.relu(self.second(x)).mean((2, 3)))


class Embedded(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Embedding(10, 16)
        self.mix = nn.Linear(16, 16)
        self.inner = nn.Linear(16, 32)
        self.outer = nn.Linear(32, 16)
        self.head = nn.Linear(16, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.table(x)
        x = x + self.mix(x)
        return self.head((x + self.outer(F.relu(self.inner(x)))).mean(1))


def _net(kind: type[nn.Module] = Net) -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return kind().eval()


X = (torch.randn(1, 3, 6, 6, generator=torch.Generator().manual_seed(1)),)


def _data(labelled: bool = True) -> Data:
    rng = np.random.default_rng(0)
    x = rng.normal(size=(64, 3, 6, 6)).astype(np.float32)
    return make_data("train", [x], rng.integers(0, 4, 64) if labelled else None, source="d")


def _removed(pruned: Any, layer: str = "first") -> list[int]:
    return next(r["channels"] for r in pruned.history["removed"] if r["layer"] == layer)


def _weaken(net: Any, importance: str) -> None:
    """Make the channels WEAK of ``first`` unimportant in the sense of one importance only."""
    with torch.no_grad():
        if importance in ("l1", "l2"):
            net.first.weight[WEAK] *= 0.1
            net.norm.weight[WEAK] *= 0.1
            net.second.weight[:, WEAK] *= 0.1
        elif importance == "bn":
            net.norm.weight[WEAK] = 0.1
            net.first.weight[WEAK] *= 10
        elif importance in ("activation", "taylor"):
            net.norm.bias.fill_(0.5)
            net.norm.bias[WEAK] = -10.0  # never passes the ReLU: no activation, no gradient
            net.first.weight[WEAK] *= 10
        elif importance == "fpgm":
            strong = [i for i in range(8) if i not in WEAK]
            net.first.weight[strong] *= 0.1
            net.first.weight[WEAK] = 0.01  # equal filters lie in the middle of all
            net.norm.weight[strong] = 0.01


@pytest.mark.parametrize("importance", ["l1", "l2", "bn", "taylor", "activation", "fpgm"])
@pytest.mark.parametrize("labelled", [True, False])
def test_each_importance_drops_what_it_holds_for_unimportant(importance: str, labelled: bool) -> None:
    net = _net()
    _weaken(net, importance)
    pruned = prune(
        net, X, ratio=0.5, round_to=4, ignore=["second"], importance=importance, probe=_data(labelled),
        task="classification" if labelled else "generic",
    )  # fmt: skip
    assert _removed(pruned) == WEAK
    assert all(p.grad is None for p in pruned.module.parameters())


def test_random_importance_is_a_matter_of_the_seed_alone() -> None:
    chosen = [
        _removed(prune(_net(), X, ratio=0.5, round_to=4, ignore=["second"], importance="random", seed=seed))
        for seed in (0, 0, 1, 2)
    ]
    assert chosen[0] == chosen[1] and len({tuple(c) for c in chosen}) > 1


def test_importances_that_read_samples_need_them() -> None:
    with pytest.raises(UserError, match="looks at samples"):
        prune(_net(), X, ratio=0.5, importance="taylor")
    with pytest.raises(UserError, match="is not known"):
        prune(_net(), X, ratio=0.5, importance="l3")
    with pytest.raises(Unsupported, match="have no bn score"):
        prune(nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2)), (torch.randn(1, 4),), ratio=0.5,
              round_to=1, importance="bn")  # fmt: skip


def _ranked(name: str, scores: list[float], kind: str = "a", multiple: int = 1, original: int = 0) -> Ranked:
    return Ranked(
        name=name, original=original or len(scores), multiple=multiple, scores=torch.tensor(scores),
        kind=(kind,),
    )  # fmt: skip


def test_scopes_share_the_loss_differently() -> None:
    weak, strong = _ranked("weak", [1.0] * 8), _ranked("strong", [2.0] * 8)
    other = _ranked("other", [0.1] * 4 + [0.2] * 4, "b")
    every = [weak, strong, other]
    assert allocate(every, 0.5, "layer", {}) == {"weak": 4, "strong": 4, "other": 4}
    assert allocate(every, 0.5, "global", {}) == {"weak": 4, "strong": 8, "other": 1}
    assert allocate(every, 0.5, "isomorphic", {}) == {"weak": 1, "strong": 8, "other": 4}
    assert allocate(every, 0.5, "global", {"weak": 0.0}) == {"weak": 8, "strong": 8, "other": 1}
    assert allocate([weak], 0.3, "global", {}) == {"weak": 6}
    rounded = [_ranked("weak", [1.0] * 8, multiple=4), _ranked("strong", [2.0] * 8, multiple=4)]
    assert allocate(rounded, 0.3, "global", {}) == {"weak": 4, "strong": 8}


def test_channels_lost_in_earlier_steps_count() -> None:
    left = [_ranked("a", [1.0] * 4, original=8), _ranked("b", [2.0] * 8)]
    assert allocate(left, 0.25, "global", {}) == {"a": 4, "b": 8}
    assert allocate(left, 0.5, "layer", {}) == {"a": 4, "b": 4}
    assert allocate(left, 0.375, "global", {}) == {"a": 2, "b": 8}


def test_the_schedule_is_cubic() -> None:
    assert [cubic(t, 2, 0.8) for t in (1, 2)] == pytest.approx([0.8 * (1 - 0.125), 0.8])
    assert cubic(1, 4, 0.5) == pytest.approx(0.5 * (1 - 0.75**3))


def test_a_gradual_schedule_recovers_between_and_ends_at_the_ratio() -> None:
    net, seen = _net(), []

    def recover(module: nn.Module, step: int) -> nn.Module:
        seen.append((step, module.first.out_channels))
        with torch.no_grad():
            module.first.weight += 0.01
        return module

    pruned = prune(net, X, ratio=0.75, round_to=1, ignore=["second"], steps=3, recover=recover)
    assert seen == [(1, 4), (2, 2)] and pruned.module.first.out_channels == 2
    assert pruned.schedule == pytest.approx([0.75 * (1 - 8 / 27), 0.75 * (1 - 1 / 27)]), (
        "the last step changes no width"
    )
    assert len(_removed(pruned)) == 6 and sorted(set(_removed(pruned))) == _removed(pruned)
    again = apply_history(net, pruned.history, pruned.module.state_dict())
    assert torch.equal(again(X[0]), pruned.module(X[0]))
    group = next(g for g in pruned.coupled if g.root == "first")
    assert (group.before, group.after) == (8, 2) and "norm" in group.layers


def test_ratios_of_single_groups_by_any_member() -> None:
    pruned = prune(_net(), X, ratio=0.5, round_to=1, ratios={"norm": 0.25})
    assert pruned.module.first.out_channels == 6 and pruned.module.second.out_channels == 4
    alone = prune(_net(), X, ratio=0, round_to=1, ratios={"second": 0.5})
    assert alone.module.first.out_channels == 8 and alone.module.second.out_channels == 4
    with pytest.raises(UserError, match="no layer 'nrom'"):
        prune(_net(), X, ratio=0.5, ratios={"nrom": 0.5})
    with pytest.raises(UserError, match="outside"):
        prune(_net(), X, ratio=0.5, ratios={"norm": 0.99})


def test_rules_protect_the_first_layer_and_embeddings() -> None:
    pruned = prune(_net(), X, ratio=0.5, round_to=1, protect=["first"])
    assert pruned.kept["first"] == "the first layer" and pruned.module.first.out_channels == 8
    net, tokens = _net(Embedded), (torch.zeros(1, 5, dtype=torch.int64),)
    pruned = prune(net, tokens, ratio=0.5, round_to=1)
    assert pruned.module.table.embedding_dim == 16 and pruned.module.inner.out_features == 16
    assert prune(net, tokens, ratio=0.5, round_to=1, protect=[]).module.table.embedding_dim == 8
    with pytest.raises(UserError, match="no rule"):
        prune(_net(), X, ratio=0.5, protect=["last"])


def test_sensitivity_prunes_one_group_at_a_time() -> None:
    net = _net()
    widths: list[tuple[int, int]] = []

    def evaluate(module: Any) -> float:
        widths.append((module.first.out_channels, module.second.out_channels))
        return float(sum(widths[-1]))

    curves = sensitivity(net, X, evaluate, (0.5, 0.25, 0.3), round_to=2)
    assert [c.root for c in curves] == [root for root, _ in prunable_groups(net, X)] == ["first", "second"]
    assert widths[0] == (8, 8) and all(8 in w for w in widths)
    first = curves[0]
    assert [(p.ratio, p.channels, p.metric) for p in first.points] == [
        (0.25, 6, 14),
        (0.3, 6, 14),
        (0.5, 4, 12),
    ]
    assert len(widths) == 5, "equal widths are evaluated once"
    assert first.whole == 16 and first.channels == 8
    assert (first.ratio_for(1), first.ratio_for(2), first.ratio_for(4)) == (0.0, 0.3, 0.5)
    assert first.points[-1].params < sum(p.numel() for p in net.parameters())
    with pytest.raises(UserError, match="not within"):
        sensitivity(net, X, evaluate, (1.5,))


def test_sensitivity_says_why_a_group_has_no_points() -> None:
    curves = sensitivity(_net(), X, lambda m: 1.0, (0.5,), round_to=16)
    assert all(not c.points and "leave nothing to remove" in c.reason for c in curves)

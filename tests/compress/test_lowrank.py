"""Low-rank factors: exact where the rank is, cheaper or refused, and made again from data."""

from __future__ import annotations

import json
from typing import Any

import pytest

torch = pytest.importorskip("torch")
import torch.nn.functional as F  # noqa: E402
from torch import nn  # noqa: E402

from edgekit.compress.lowrank import apply_lowrank, factorise  # noqa: E402
from edgekit.errors import StepFailed, Unsupported, UserError  # noqa: E402


class Mixed(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(16, 24, 3, stride=2, padding=1)
        self.depthwise = nn.Conv2d(24, 24, 3, padding=1, groups=24)
        self.point = nn.Conv2d(24, 32, 1, stride=2, bias=False)
        self.tall = nn.Conv2d(32, 32, (5, 3), padding=(2, 1), dilation=1)
        self.head = nn.Linear(32, 20)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = F.relu(self.depthwise(F.relu(self.conv(x))))
        return self.head(F.relu(self.tall(self.point(x))).mean((2, 3)))


def _make(kind: Any = Mixed) -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return kind().eval()


X = (torch.randn(1, 16, 12, 12, generator=torch.Generator().manual_seed(1)),)


def _low_rank(weight: torch.Tensor, rank: int, view: str) -> torch.Tensor:
    """The weight with exactly that rank in the sense of one method."""
    g = torch.Generator().manual_seed(3)
    out, into = weight.shape[:2]
    if view == "svd":
        return (torch.randn(out, rank, generator=g) @ torch.randn(rank, into, generator=g)).view(weight.shape)
    if view == "spatial":
        high, wide = weight.shape[2:]
        flat = torch.randn(into * high, rank, generator=g) @ torch.randn(rank, out * wide, generator=g)
        return flat.view(into, high, out, wide).permute(2, 0, 1, 3)
    core = torch.randn(rank, rank, *weight.shape[2:], generator=g)
    return torch.einsum(
        "bahw,ia,ob->oihw", core, torch.randn(into, rank, generator=g), torch.randn(out, rank, generator=g)
    )


@pytest.mark.parametrize("method", ["tucker2", "spatial"])
def test_weights_of_a_low_rank_are_found_exactly(method: str) -> None:
    net = _make()
    with torch.no_grad():
        for layer in (net.conv, net.tall):
            layer.weight.copy_(_low_rank(layer.weight, 3, method))
        for layer in (net.point, net.head):
            layer.weight.copy_(_low_rank(layer.weight, 4, "svd"))
    made = factorise(net, X, energy=1 - 1e-6, method=method)
    kinds = {f.layer: (f.kind, f.ranks) for f in made.layers}
    ranks = (3, 3) if method == "tucker2" else (3,)
    assert kinds == {
        "conv": (method, ranks),
        "point": ("svd", (4,)),
        "tall": (method, ranks),
        "head": ("svd", (4,)),
    }
    assert torch.allclose(
        made.module(X[0]), net(X[0]), rtol=1e-3, atol=1e-3 * float(net(X[0]).detach().abs().max())
    )
    assert "nothing to factorise" in made.kept["depthwise"]
    assert made.macs_before is not None and made.macs_after is not None
    saved = sum(f.macs_before - f.macs for f in made.layers)
    assert made.macs_before - made.macs_after == saved > 0, "the cost model counts what torch counts"
    fewer = sum(f.params_before - f.params for f in made.layers)
    assert made.params_before - made.params_after == fewer > 0


def test_layers_that_would_cost_more_stay_whole_with_the_reason() -> None:
    net = _make()
    with pytest.raises(Unsupported, match=r"keeps 100\.0 % of the energy but costs"):
        factorise(net, X, energy=1 - 1e-9)
    with torch.no_grad():
        net.head.weight.copy_(_low_rank(net.head.weight, 2, "svd"))
    made = factorise(net, X, energy=0.999)
    assert [f.layer for f in made.layers] == ["head"] and "the whole layer" in made.kept["conv"]


def test_auto_takes_the_cheaper_way_of_each_convolution() -> None:
    net = _make()
    chosen = {
        m: {f.layer: f for f in factorise(net, X, energy=0.5, method=m).layers}
        for m in ("auto", "tucker2", "spatial")
    }
    for name in ("conv", "tall"):
        assert chosen["auto"][name].macs == min(chosen[m][name].macs for m in ("tucker2", "spatial"))


@pytest.mark.parametrize("budget", [0.3, 0.6])
def test_a_budget_of_macs_is_met_and_used(budget: float) -> None:
    made = factorise(_make(), X, budget=budget)
    assert made.macs_after is not None and made.macs_before is not None
    assert budget - 0.12 < made.macs_after / made.macs_before <= budget
    with pytest.raises(Unsupported, match="at best"):
        factorise(_make(), X, budget=0.01)


def test_energy_is_the_share_of_squared_singular_values() -> None:
    net = nn.Sequential(nn.Linear(4, 4, bias=False), nn.ReLU(), nn.Linear(4, 2))
    with torch.no_grad():
        net[0].weight.copy_(torch.diag(torch.tensor([3.0, 1.0, 0.1, 0.1])))
    x = (torch.ones(1, 4),)
    made = factorise(net, x, energy=0.85, ignore=["2"])
    assert made.layers[0].ranks == (1,) and made.layers[0].energy == pytest.approx(9 / 10.02)
    assert made.kept["2"] == "named in lowrank.ignore"
    weight = made.module[0][1].weight @ made.module[0][0].weight
    assert torch.allclose(weight, torch.diag(torch.tensor([3.0, 0, 0, 0])), atol=1e-6)


def test_ranks_are_rounded_up() -> None:
    made = factorise(_make(), X, energy=0.4, round_to=8)
    assert all(r % 8 == 0 for f in made.layers for r in f.ranks)


def test_the_record_makes_the_structure_again() -> None:
    net = _make()
    made = factorise(net, X, energy=0.5)
    record = json.loads(json.dumps(made.record))
    again = apply_lowrank(_make(), record)
    again.load_state_dict(made.module.state_dict())
    assert torch.equal(again(X[0]), made.module(X[0])) and repr(again) == repr(made.module)
    assert isinstance(net.head, nn.Linear), "the original is not changed"
    with pytest.raises(StepFailed, match="does not have"):
        apply_lowrank(nn.Sequential(nn.Linear(2, 2)), record)
    with pytest.raises(StepFailed, match="version 9"):
        apply_lowrank(net, {**record, "version": 9})


def test_layers_called_twice_are_replaced_everywhere_and_shared_weights_left() -> None:
    class Twice(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a = nn.Linear(16, 16)
            self.b = self.a
            self.c, self.d = nn.Linear(16, 16), nn.Linear(16, 16)
            self.d.weight = self.c.weight

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.d(self.c(self.b(F.relu(self.a(x)))))

    made = factorise(_make(Twice), (torch.randn(1, 16),), energy=0.3)
    assert made.module.a is made.module.b and isinstance(made.module.a, nn.Sequential)
    assert all("shared" in made.kept[n] for n in ("c", "d"))


def test_a_weight_that_is_read_past_its_layer_is_found() -> None:
    class Reads(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a = nn.Linear(16, 16, bias=False)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.a(x) @ self.a.weight

    with pytest.raises(StepFailed, match="does not run with factorised layers"):
        factorise(_make(Reads), (torch.randn(1, 16),), energy=0.3)


@pytest.mark.parametrize(
    "bad",
    [{}, {"energy": 0.5, "budget": 0.5}, {"energy": 1.0}, {"budget": 0.0}, {"energy": 0.5, "method": "cp"}],
)
def test_senseless_requests_are_refused(bad: dict[str, Any]) -> None:
    with pytest.raises(UserError, match="lowrank"):
        factorise(_make(), X, **bad)

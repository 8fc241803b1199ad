"""Unstructured pruning: which weights go, that masks are gone, and what sparse kernels ask for."""

from __future__ import annotations

import pytest

torch = pytest.importorskip("torch")
from torch import nn  # noqa: E402

from edgekit.compress.sparsity import sparse_kernel_obstacles, sparsify  # noqa: E402
from edgekit.errors import Unsupported, UserError  # noqa: E402


def _net() -> nn.Sequential:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        net = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Flatten(), nn.Linear(8, 10))
    with torch.no_grad():
        net[4].weight *= 0.01
    return net.eval()


def test_the_smallest_of_each_layer_or_of_all_go() -> None:
    net = _net()
    layered = sparsify(net, amount=0.5)
    assert [(r.layer, r.zeros, r.weights) for r in layered.layers] == [("0", 108, 216), ("4", 40, 80)]
    assert layered.share == 0.5
    kept = layered.module[0].weight
    border = net[0].weight.detach().abs()[kept == 0].max()
    assert float(border) <= float(net[0].weight.detach().abs()[kept != 0].min())
    everywhere = sparsify(net, amount=80 / 296, method="global-l1")
    assert {r.layer: r.zeros for r in everywhere.layers}["4"] > 70


def test_masks_are_permanent_and_the_original_is_not_touched() -> None:
    net = _net()
    net[0].weight.requires_grad_(False)
    sparse = sparsify(net, amount=0.5).module
    assert sparse.state_dict().keys() == net.state_dict().keys()
    assert not any(m._forward_pre_hooks for m in sparse.modules())
    assert not sparse[0].weight.requires_grad and sparse[4].weight.requires_grad
    assert int((net[0].weight == 0).sum()) == 0


def test_random_is_seeded_and_ignored_layers_stay() -> None:
    first, again, other = (sparsify(_net(), amount=0.5, method="random", seed=s).module for s in (1, 1, 2))
    assert torch.equal(first[0].weight, again[0].weight) and not torch.equal(first[0].weight, other[0].weight)
    kept = sparsify(_net(), amount=0.5, ignore=["4"])
    assert [r.layer for r in kept.layers] == ["0"] and "4" in kept.kept


def test_bad_requests_are_refused() -> None:
    for amount in (0.0, 1.0, float("nan")):
        with pytest.raises(UserError, match=r"sparsity\.amount"):
            sparsify(_net(), amount=amount)
    with pytest.raises(UserError, match=r"sparsity\.method"):
        sparsify(_net(), amount=0.5, method="l0")
    with pytest.raises(Unsupported, match="no convolution or linear"):
        sparsify(nn.Sequential(nn.ReLU()), amount=0.5)


def test_sparse_kernels_serve_one_pattern_only() -> None:
    def obstacles(net: nn.Module, precision: str = "float32", runtime: str = "tflite") -> str:
        x = (torch.zeros(1, 3, 32, 32),)
        found = sparse_kernel_obstacles(net, x, runtime=runtime, delegate="xnnpack", precision=precision)
        return "; ".join(found)

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        net = nn.Sequential(
            nn.Conv2d(3, 8, 3, 2, 1), nn.ReLU(), nn.Conv2d(8, 8, 3, 1, 1, groups=8), nn.Conv2d(8, 16, 1)
        )
    assert "1 1x1 convolutions have fewer than two thirds of zeros" in obstacles(net)
    sparse = sparsify(net, amount=0.8, ignore=["0", "2"]).module
    assert obstacles(sparse) == ""
    assert "float, not in int8" in obstacles(sparse, "int8")
    assert "no sparse kernels" in obstacles(sparse, runtime="onnx")
    assert "neither 1x1" in obstacles(nn.Sequential(nn.Conv2d(3, 8, 3, 2), nn.Conv2d(8, 8, 3)))
    assert "not 3x3 with stride 2" in obstacles(nn.Sequential(nn.Conv2d(3, 8, 3), nn.Conv2d(8, 8, 1)))
    assert obstacles(nn.Sequential(nn.Linear(3, 3))) == "there is no convolution"

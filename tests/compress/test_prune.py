"""Structured pruning: what goes, what stays, why, and that it can be made again from data."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("torch_pruning")
import torch.nn.functional as F  # noqa: E402
from torch import nn  # noqa: E402

from edgekit.compress.channels import channels_to_keep  # noqa: E402
from edgekit.compress.history import apply_history  # noqa: E402
from edgekit.compress.prune import prune  # noqa: E402
from edgekit.errors import StepFailed, Unsupported, UserError  # noqa: E402
from edgekit.types import Event  # noqa: E402


class Plain(nn.Module):
    """Residual, depthwise and concatenated branches, all of which structured pruning must follow."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 16, 3, padding=1)
        self.norm = nn.BatchNorm2d(16)
        self.inner = nn.Conv2d(16, 32, 1)
        self.outer = nn.Conv2d(32, 16, 1)
        self.depthwise = nn.Conv2d(16, 16, 3, padding=1, groups=16)
        self.left = nn.Conv2d(16, 16, 1)
        self.right = nn.Conv2d(16, 16, 3, padding=1)
        self.head = nn.Linear(32, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = F.relu(self.norm(self.stem(x)))
        x = x + self.outer(F.relu(self.inner(x)))
        x = self.depthwise(x)
        x = torch.cat([self.left(x), self.right(x)], 1)
        return self.head(F.relu(x).mean((2, 3)))


class Padded(nn.Module):
    """The option-A shortcut of CIFAR ResNets: channels are added by padding, out of the graph's sight."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 16, 3, padding=1)
        self.inner = nn.Conv2d(16, 32, 3, padding=1)
        self.outer = nn.Conv2d(32, 32, 3, padding=1)
        self.head = nn.Linear(32, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = F.relu(self.stem(x))
        x = F.pad(x, (0, 0, 0, 0, 8, 8)) + self.outer(F.relu(self.inner(x)))
        return self.head(F.relu(x).mean((2, 3)))


class Rolled(nn.Module):
    """Channels change places between two layers: shapes stay right when the wrong ones are removed."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, 16, 1)
        self.second = nn.Conv2d(16, 16, 1)
        self.third = nn.Conv2d(16, 16, 1)
        self.head = nn.Linear(16, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = torch.roll(F.relu(self.first(x)), 5, dims=1)
        return self.head(F.relu(self.third(F.relu(self.second(x)))).mean((2, 3)))


class FixedView(nn.Module):
    """A number of channels written into forward."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, 16, 1)
        self.second = nn.Conv2d(16, 16, 1)
        self.head = nn.Linear(16 * 4, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = F.relu(self.second(F.relu(self.first(x))))
        return self.head(F.adaptive_avg_pool2d(x, 2).view(-1, 16 * 4))


class Grouped(nn.Module):
    """A grouped (not depthwise) convolution: each group must lose as many channels."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, 32, 1)
        self.grouped = nn.Conv2d(32, 32, 3, padding=1, groups=4)
        self.head = nn.Linear(32, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(F.relu(self.grouped(F.relu(self.first(x)))).mean((2, 3)))


class TwoHeads(nn.Module):
    """A detector: two outputs from a shared trunk, as a dict."""

    def __init__(self) -> None:
        super().__init__()
        self.trunk = nn.Conv2d(3, 16, 3, padding=1)
        self.boxes = nn.Conv2d(16, 16, 1)
        self.scores = nn.Conv2d(16, 8, 1)

    def forward(self, x: torch.Tensor) -> dict[str, torch.Tensor]:
        x = F.relu(self.trunk(x))
        return {"boxes": self.boxes(x).flatten(2), "scores": self.scores(x).sigmoid()}


def seeded(kind: type[nn.Module]) -> nn.Module:
    """A network with fixed weights and with batch norm statistics that are not the defaults."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        net = kind()
        net(torch.randn(16, 3, 8, 8))
    return net.eval()


X = (torch.randn(1, 3, 8, 8, generator=torch.Generator().manual_seed(1)),)


def _counts(pruned: object) -> dict[str, tuple[int, int]]:
    return {g.layer: (g.before, g.after) for g in pruned.groups}  # type: ignore[attr-defined]


def test_coupled_layers_shrink_together_and_the_input_is_not_changed() -> None:
    net = seeded(Plain)
    before = {k: t.clone() for k, t in net.state_dict().items()}
    pruned = prune(net, X, ratio=0.5, round_to=8)
    assert _counts(pruned) == {
        "stem": (16, 8), "inner": (32, 16), "outer": (16, 8),
        "depthwise": (16, 8), "left": (16, 8), "right": (16, 8),
    }  # fmt: skip
    assert pruned.module.norm.num_features == pruned.module.depthwise.groups == 8
    assert pruned.kept == {"head": "gives an output of the model"}
    assert pruned.module(X[0]).shape == (1, 4)
    assert all(torch.equal(t, before[k]) for k, t in net.state_dict().items())
    assert pruned.params_after == sum(p.numel() for p in pruned.module.parameters()) < pruned.params_before
    conv = 64 * (3 * 8 * 9 + 8 * 16 + 16 * 8 + 8 * 9 + 8 * 8 + 8 * 8 * 9)
    assert pruned.macs_after == conv + 16 * 4
    assert pruned.macs_before == 64 * (3 * 16 * 9 + 2 * 16 * 32 + 16 * 9 + 16 * 16 + 16 * 16 * 9) + 32 * 4


def test_the_weakest_channels_go() -> None:
    net = seeded(Plain)
    weak = [1, 4, 5, 9, 16, 20, 21, 30]
    with torch.no_grad():
        net.inner.weight[weak] *= 0.01
        net.inner.bias[weak] = 0
        net.outer.weight[:, weak] *= 0.01
    pruned = prune(net, X, ratio=0.25, round_to=8, ignore=["stem", "left", "right"])
    removed = {step["layer"]: step["channels"] for step in pruned.history["removed"]}
    assert removed == {"inner": weak}
    assert torch.allclose(pruned.module(X[0]), net(X[0]), atol=0.02)


def test_the_same_call_gives_the_same_model() -> None:
    first, second = (prune(seeded(Plain), X, ratio=0.5) for _ in range(2))
    assert first.history == second.history
    assert all(
        torch.equal(a, b) for a, b in zip(first.module.parameters(), second.module.parameters(), strict=True)
    )


@pytest.mark.parametrize(
    ("channels", "ratio", "multiple", "keep"),
    [(16, 0.3, 8, 8), (32, 0.3, 8, 24), (64, 0.3, 8, 48), (48, 0.5, 8, 24), (24, 0.5, 8, 16), (8, 0.9, 8, 8),
     (16, 0.25, 8, 16), (10, 0.5, 1, 5), (4, 0.3, 8, 8)],
)  # fmt: skip
def test_rounding_is_to_the_nearest_multiple(channels: int, ratio: float, multiple: int, keep: int) -> None:
    assert channels_to_keep(channels, ratio, multiple) == keep


def test_heads_are_never_pruned() -> None:
    pruned = prune(seeded(TwoHeads), X, ratio=0.5)
    assert _counts(pruned) == {"trunk": (16, 8)}
    assert set(pruned.kept) == {"boxes", "scores"}
    assert {k: tuple(t.shape) for k, t in pruned.module(X[0]).items()} == {
        "boxes": (1, 16, 64),
        "scores": (1, 8, 8, 8),
    }


def test_grouped_convolutions_lose_the_same_number_in_each_group() -> None:
    pruned = prune(seeded(Grouped), X, ratio=0.5)
    assert pruned.module.grouped.groups == 4
    removed = {i // 8 for step in pruned.history["removed"] for i in step["channels"]}
    assert removed == {0, 1, 2, 3}
    assert pruned.module(X[0]).shape == (1, 4)


@pytest.mark.parametrize(
    ("net", "whole", "gone"),
    [
        (Padded, {"stem", "outer"}, {"inner"}),
        (Rolled, {"first"}, {"second", "third"}),
        (FixedView, {"second"}, {"first"}),
    ],
)
def test_groups_that_the_graph_misreads_are_left_whole_with_the_reason(
    net: type[nn.Module], whole: set[str], gone: set[str]
) -> None:
    events: list[Event] = []
    pruned = prune(seeded(net), X, ratio=0.5, emit=events.append)
    assert set(_counts(pruned)) == gone
    assert whole & set(pruned.kept)
    assert {e.kind for e in events} == {"warning"}
    assert any(e.message.startswith(f"{name} is not pruned: ") for e in events for name in whole)
    assert pruned.module(X[0]).shape == (1, 4)


def test_a_model_without_anything_to_prune_is_unsupported() -> None:
    with pytest.raises(Unsupported, match=r"no layer of the model can be pruned .*0: gives an output"):
        prune(nn.Sequential(nn.Linear(4, 4)), (torch.randn(1, 4),), ratio=0.5)
    with pytest.raises(Unsupported, match=r"it has no convolution or linear layer|gives an output"):
        prune(nn.Sequential(nn.BatchNorm2d(3)), X, ratio=0.5)


@pytest.mark.parametrize("ratio", [0.0, -0.1, 0.96, 1.0, float("nan")])
def test_senseless_ratios_are_refused(ratio: float) -> None:
    with pytest.raises(UserError, match=r"prune\.ratio"):
        prune(seeded(Plain), X, ratio=ratio)


def test_ignored_layers_are_checked_and_kept() -> None:
    with pytest.raises(UserError, match="no layer 'inter'") as caught:
        prune(seeded(Plain), X, ratio=0.5, ignore=["inter"])
    assert "inner" in str(caught.value.hint)
    pruned = prune(seeded(Plain), X, ratio=0.5, ignore=["inner"])
    assert "inner" not in _counts(pruned) and pruned.kept["inner"] == "named in prune.ignore"


def test_a_model_that_cannot_be_traced_fails_with_its_message() -> None:
    class Detached(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            raise RuntimeError("no way")

    with pytest.raises(StepFailed, match="no way"):
        prune(Detached(), X, ratio=0.5)


def test_frozen_parameters_stay_frozen_and_threads_are_put_back() -> None:
    net = seeded(Plain)
    net.stem.weight.requires_grad_(False)
    threads = torch.get_num_threads()
    pruned = prune(net, X, ratio=0.5)
    assert not pruned.module.stem.weight.requires_grad and pruned.module.inner.weight.requires_grad
    assert torch.get_num_threads() == threads


@pytest.mark.parametrize("net", [Plain, Grouped, TwoHeads, Padded])
def test_history_and_weights_give_the_same_model_again(net: type[nn.Module], tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    pruned = prune(seeded(net), X, ratio=0.5)
    save_file(pruned.module.state_dict(), tmp_path / "w.safetensors")
    (tmp_path / "h.json").write_text(json.dumps(pruned.history))
    original = net()
    untouched = {k: tuple(t.shape) for k, t in original.state_dict().items()}
    again = apply_history(
        original, json.loads((tmp_path / "h.json").read_text()), load_file(tmp_path / "w.safetensors")
    )
    state = pruned.module.state_dict()
    assert again.state_dict().keys() == state.keys()
    assert all(torch.equal(t, state[k]) for k, t in again.state_dict().items())
    ours, theirs = again(X[0]), pruned.module(X[0])
    if isinstance(ours, dict):
        assert all(torch.equal(ours[k], theirs[k]) for k in ours)
    else:
        assert torch.equal(ours, theirs)
    assert repr(again) == repr(pruned.module)
    assert {k: tuple(t.shape) for k, t in original.state_dict().items()} == untouched


def test_a_history_of_another_model_is_refused() -> None:
    pruned = prune(seeded(Plain), X, ratio=0.5)
    state = pruned.module.state_dict()
    with pytest.raises(StepFailed, match="which the model does not have"):
        apply_history(TwoHeads(), pruned.history, state)
    with pytest.raises(StepFailed, match="do not fit"):
        apply_history(Plain(), pruned.history, Plain().state_dict())
    with pytest.raises(StepFailed, match="version 99"):
        apply_history(Plain(), {**pruned.history, "version": 99}, state)


@pytest.mark.slow
@pytest.mark.realdata
def test_a_published_resnet_is_pruned_and_recovers_in_one_epoch() -> None:
    from edgekit.compress.finetune import Settings, finetune
    from edgekit.sources.data import load_data
    from edgekit.sources.models import load_model

    root = os.environ.get("EDGEKIT_REALDATA")
    if not root:
        pytest.skip("EDGEKIT_REALDATA does not name the folder of real models and data")
    entry = f"{Path(root) / 'entry.py'}"
    test = load_data(f"{entry}:cifar10_test", role="eval")
    train = load_data(f"{entry}:cifar10_train", role="train", limit=500)
    loaded = load_model(f"{entry}:cifar_resnet20", calib=test)
    assert loaded.module is not None

    def accuracy(module: nn.Module) -> float:
        with torch.no_grad():
            right = module(torch.from_numpy(test.inputs[0])).argmax(1).numpy() == test.labels
        return 100.0 * float(right.mean())

    assert round(accuracy(loaded.module), 2) == 91.16
    pruned = prune(loaded.module, loaded.example_inputs, ratio=0.3, round_to=8)
    assert pruned.macs_after is not None and pruned.macs_before is not None
    assert pruned.macs_before / pruned.macs_after > 1.45
    assert all(g.after % 8 == 0 for g in pruned.groups)
    damaged = accuracy(pruned.module)
    tuned = finetune(pruned.module, loaded.module, train, task="classification", settings=Settings(epochs=1))
    assert accuracy(tuned.module) > damaged + 10

from __future__ import annotations

import pytest

torch = pytest.importorskip("torch")
from torch import nn  # noqa: E402

from edgekit.compress.equalize import equalize  # noqa: E402
from edgekit.errors import Unsupported  # noqa: E402


class Net(nn.Module):
    """Plain, normalised and depthwise pairs, a branch, and a head behind pooling."""

    def __init__(self) -> None:
        super().__init__()
        self.a = nn.Conv2d(3, 8, 3, padding=1)
        self.b = nn.Conv2d(8, 8, 3, padding=1, groups=8, bias=False)
        self.norm = nn.BatchNorm2d(8)
        self.c = nn.Conv2d(8, 12, 1)
        self.side = nn.Conv2d(12, 12, 1)
        self.last = nn.Conv2d(12, 6, 1)
        self.head = nn.Linear(6, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = torch.relu(self.a(x))
        x = torch.relu(self.norm(self.b(x)))
        x = self.c(x)
        x = torch.relu(x + self.side(x))
        x = nn.functional.adaptive_avg_pool2d(torch.relu(self.last(x)), 1)
        return self.head(x[:, :, 0, 0])


@pytest.fixture
def net() -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        made = Net()
        made.norm.running_mean.normal_()
        made.norm.running_var.uniform_(0.5, 2.0)
        with torch.no_grad():  # loud and quiet channels
            loudness = torch.logspace(-1.0, 0.6, 8)
            made.a.weight *= loudness.reshape(-1, 1, 1, 1)
            made.a.bias.copy_(0.3 * loudness)
            made.norm.weight *= torch.logspace(1.0, -0.5, 8)
            made.norm.bias.copy_(2 * made.norm.weight)
    return made.eval()


SAMPLES = [[x] for x in torch.randn(6, 1, 3, 8, 8, generator=torch.Generator().manual_seed(1))]


def between(net: nn.Module, layer: str) -> torch.Tensor:
    """Largest value of each channel that ``layer`` reads."""
    seen: list[torch.Tensor] = []
    hook = net.get_submodule(layer).register_forward_pre_hook(lambda m, args: seen.append(args[0]))
    with torch.no_grad():
        for sample in SAMPLES:
            net(*sample)
    hook.remove()
    return torch.cat(seen).abs().amax((0, 2, 3))


def test_the_model_computes_what_it_did(net: nn.Module) -> None:
    made = equalize(net, SAMPLES)
    with torch.no_grad():
        for sample in SAMPLES:
            torch.testing.assert_close(made.module(*sample), net(*sample), rtol=1e-4, atol=1e-5)


def test_pairs_are_found_and_branches_left_alone(net: nn.Module) -> None:
    made = equalize(net, SAMPLES)
    found = {(p.scaled[0], p.reader, p.depthwise) for p in made.pairs}
    assert found == {("a.weight", "b.weight", True), ("norm.weight", "c.weight", False)}
    for name in ("side.weight", "last.weight", "head.weight"):
        torch.testing.assert_close(made.module.get_parameter(name), net.get_parameter(name))


def test_channels_have_like_ranges_afterwards(net: nn.Module) -> None:
    made = equalize(net, SAMPLES)
    before, after = between(net, "b"), between(made.module, "b")
    assert before.max() / before.min() > 20
    assert after.max() / after.min() < 1.01, "in front of a depthwise layer it is free"
    before, after = between(net, "c"), between(made.module, "c")
    assert 1 < after.max() / after.min() < 0.5 * float(before.max() / before.min())


def test_the_original_is_not_touched(net: nn.Module) -> None:
    before = {k: v.clone() for k, v in net.state_dict().items()}
    equalize(net, SAMPLES)
    for name, value in net.state_dict().items():
        torch.testing.assert_close(value, before[name], rtol=0, atol=0)


def test_shared_weights_and_clamps_are_no_pair() -> None:
    class Shared(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b = nn.Conv2d(3, 3, 1), nn.Conv2d(3, 3, 1)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            x = torch.relu(self.a(torch.relu(self.a(x))))
            return self.b(nn.functional.relu6(self.b(x)))

    with pytest.raises(Unsupported, match="no two layers"):
        equalize(Shared().eval(), SAMPLES)


def test_a_model_that_cannot_be_exported_is_left_alone() -> None:
    class Branching(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b = nn.Conv2d(3, 3, 1), nn.Conv2d(3, 3, 1)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.b(torch.relu(self.a(x))) if float(x.sum()) > 0 else x

    with pytest.raises(Unsupported, match=r"torch\.export does not take the model: \S"):
        equalize(Branching().eval(), SAMPLES)


def test_a_linear_layer_over_another_axis_is_no_pair() -> None:
    class Rows(nn.Module):
        """As many columns as channels: widths alone do not tell that the head reads columns."""

        def __init__(self) -> None:
            super().__init__()
            self.a, self.head = nn.Conv2d(3, 8, 1), nn.Linear(8, 4)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.head(torch.relu(self.a(x)))

    with pytest.raises(Unsupported, match="no two layers"):
        equalize(Rows().eval(), SAMPLES)


def test_weights_that_are_no_parameters_are_left_alone() -> None:
    class Frozen(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b, self.c = nn.Conv2d(3, 8, 1), nn.Conv2d(8, 8, 1), nn.Conv2d(8, 4, 1)
            self.register_buffer("fixed", torch.ones(8, 8, 1, 1))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            x = torch.relu(self.b(torch.relu(self.a(x))))
            return self.c(torch.relu(nn.functional.conv2d(x, self.fixed)))

    made = equalize(Frozen().eval(), SAMPLES)
    assert [(p.scaled[0], p.reader) for p in made.pairs] == [("a.weight", "b.weight")]

"""Each rule of the lint fires where int8 suffers, and is silent where it does not."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

torch = pytest.importorskip("torch")
import torch.nn.functional as F  # noqa: E402
from torch import nn  # noqa: E402

from edgekit.backends.torch_graph import place_of  # noqa: E402
from edgekit.verify import lint  # noqa: E402

Made = tuple[Any, list[lint.Finding]]


def find(module: nn.Module, *shape: int) -> Made:
    program = torch.export.export(module.eval(), (torch.zeros(1, *shape),), strict=False)
    graph = program.module(check_guards=False)
    return graph, lint.find(graph.graph, place_of)


def judged(module: nn.Module, samples: torch.Tensor) -> list[lint.Finding]:
    graph, found = find(module, *samples.shape[1:])
    return lint.measured(graph, found, [[x[None]] for x in samples])


class Fn(nn.Module):
    """A function of one tensor, under the name "body"."""

    class Body(nn.Module):
        def __init__(self, function: Callable[[torch.Tensor], torch.Tensor]) -> None:
            super().__init__()
            self.function = function

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.function(x)

    def __init__(self, function: Callable[[torch.Tensor], torch.Tensor]) -> None:
        super().__init__()
        self.body = Fn.Body(function)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        result: torch.Tensor = self.body(x)
        return result


def spread(low: float, high: float, *shape: int) -> torch.Tensor:
    """Two samples whose values reach from ``low`` to ``high`` evenly."""
    n = 2 * torch.Size(shape).numel()
    return torch.linspace(low, high, n).reshape(2, *shape)


@pytest.mark.parametrize(
    ("function", "rule"),
    [
        (F.silu, "silu"),
        (lambda x: x * torch.sigmoid(x), "silu"),
        (F.hardswish, "hard-swish"),
        (lambda x: F.hardsigmoid(x) * x, "hard-swish"),
        (lambda x: F.hardswish(x + 1, inplace=True), "hard-swish"),
    ],
)
def test_activations_are_found_however_they_are_written(function: Any, rule: str) -> None:
    _, found = find(Fn(function), 4, 3, 3)
    assert [(f.rule, f.where, f.matters) for f in found] == [(rule, "body", None)]
    assert found[0].line.startswith("test_lint.py:") and found[0].reason and found[0].hint


@pytest.mark.parametrize(
    "function", [F.relu, F.relu6, torch.sigmoid, F.gelu, lambda x: x * 2, lambda x: x * x]
)
def test_harmless_operators_are_not_found(function: Any) -> None:
    assert find(Fn(function), 4, 3, 3)[1] == []


@pytest.mark.parametrize(("function", "flat"), [(F.silu, -6), (F.hardswish, -3)])
@pytest.mark.parametrize(
    ("low", "high", "matters"),
    [(-40.0, 10.0, True), (-6.0, 6.0, False), (-2.0, 5.0, False), (-4.0, 60.0, True), (0.0, 60.0, False)],
)
def test_an_activation_matters_where_its_range_is_wasted_or_its_negative_side_has_no_levels(
    function: Any, flat: int, low: float, high: float, matters: bool
) -> None:
    (found,) = judged(Fn(function), spread(low, high, 4, 3, 3))
    assert found.matters is matters, found.measured
    assert f"below {flat}" in found.measured


def test_the_input_of_an_in_place_activation_is_read_before_it_is_overwritten() -> None:
    (found,) = judged(Fn(lambda x: F.hardswish(x * 1.0, inplace=True)), spread(-40.0, 10.0, 4, 3, 3))
    assert found.matters and "[-40, 10]" in found.measured


class Gated(nn.Module):
    """Squeeze and excite over 8 channels; ``scale`` multiplies the channels, ``bias`` sets the gate."""

    def __init__(self, scale: list[float], bias: list[float], gate: Any = torch.sigmoid) -> None:
        super().__init__()
        self.expand = nn.Conv2d(8, 8, 1)
        with torch.no_grad():
            self.expand.weight.zero_()
            self.expand.bias.copy_(torch.tensor(bias))
        self.scale = nn.Parameter(torch.tensor(scale).reshape(8, 1, 1))
        self.gate = gate

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = x * self.scale
        return x * self.gate(self.expand(x.mean((2, 3), keepdim=True)))


EVEN, OPEN = [1.0] * 8, [-2.0, -1.5, -1.0, -0.5, 0.0, 0.5, 1.0, 2.0]


@pytest.mark.parametrize(
    ("scale", "bias", "gate", "matters"),
    [
        (EVEN, OPEN, torch.sigmoid, False),
        (EVEN, OPEN, F.hardsigmoid, False),
        ([1.0] + [0.001] * 7, OPEN, torch.sigmoid, True),
        (EVEN, [-5.0, -4.9, -4.8, -4.7, -5.1, -5.2, -5.0, -4.9], torch.sigmoid, True),
        ([1.0] + [0.0] * 7, OPEN, torch.sigmoid, False),
    ],
    ids=["even", "hard", "quiet channels", "gate nearly shut", "dead channels do not count"],
)
def test_a_gate_matters_where_it_leaves_few_levels(scale: Any, bias: Any, gate: Any, matters: bool) -> None:
    (found,) = judged(Gated(scale, bias, gate), spread(-1.0, 1.0, 8, 4, 4))
    assert (found.rule, found.matters) == ("squeeze-excite", matters), found.measured
    assert "levels" in found.measured


def test_a_gate_of_full_size_is_no_squeeze_and_excite() -> None:
    gated = Fn(lambda x: x * torch.sigmoid(x.flip(1)))
    assert find(gated, 8, 4, 4)[1] == []


def test_a_gate_behind_a_view_is_found() -> None:
    gated = Fn(lambda x: x * torch.sigmoid(x.mean((2, 3))).view(1, 8, 1, 1))
    assert [f.rule for f in find(gated, 8, 4, 4)[1]] == ["squeeze-excite"]


@pytest.mark.parametrize(("share", "matters"), [(1.0, False), (0.25, False), (0.02, True), (50.0, True)])
def test_a_residual_matters_where_one_branch_is_drowned(share: float, matters: bool) -> None:
    (found,) = judged(Fn(lambda x: x * 1.0 + share * x.flip(1)), spread(-1.0, 1.0, 8, 4, 4))
    assert (found.rule, found.matters) == ("residual-scale", matters), found.measured


@pytest.mark.parametrize(
    "function", [lambda x: x + 1.0, lambda x: x + torch.ones(8, 1, 1), lambda x: x + x.mean((2, 3), True)]
)
def test_biases_and_broadcasts_are_no_residuals(function: Any) -> None:
    assert find(Fn(function), 8, 4, 4)[1] == []


def padded(value: float) -> nn.Module:
    return Fn(lambda x: F.max_pool2d(F.pad(x, (1, 1, 1, 1), value=value), 3, 2))


def test_padding_with_minus_infinity_before_a_max_pool_needs_no_data() -> None:
    _, found = find(padded(-float("inf")), 4, 6, 6)
    assert [(f.rule, f.matters) for f in found] == [("pad-before-max-pool", True)]
    assert "-inf" in found[0].measured


@pytest.mark.parametrize(
    ("value", "low", "high", "matters"),
    [(0.0, 0.0, 4.0, False), (0.0, -2.0, 4.0, False), (-30.0, 0.0, 4.0, True), (-1.0, -2.0, 4.0, False)],
)
def test_a_padding_constant_matters_where_it_widens_the_range(
    value: float, low: float, high: float, matters: bool
) -> None:
    (found,) = judged(padded(value), spread(low, high, 4, 6, 6))
    assert found.matters is matters, found.measured


@pytest.mark.parametrize(
    "function",
    [
        lambda x: F.max_pool2d(x, 3, 2, padding=1),
        lambda x: F.avg_pool2d(F.pad(x, (1, 1, 1, 1), value=-30.0), 3, 2),
        lambda x: F.max_pool2d(F.pad(x, (1, 1, 1, 1), mode="reflect"), 3, 2),
    ],
    ids=["the pool pads itself", "another pool", "no constant"],
)
def test_other_paddings_are_not_found(function: Any) -> None:
    assert find(Fn(function), 4, 6, 6)[1] == []


def test_findings_are_grouped_worst_first_and_name_all_places() -> None:
    net = nn.Sequential(*(nn.Hardswish() for _ in range(5)), nn.SiLU())
    found = judged(net, spread(-40.0, 3.0, 4, 3, 3))
    groups = lint.grouped(found)
    assert (groups[0].rule, groups[0].matters, len(groups[0].findings)) == ("hard-swish", True, 1)
    harmless = next(g for g in groups if g.rule == "hard-swish" and not g.matters)
    assert len(harmless.findings) == 4 and harmless.places.endswith("and 1 more")
    text = str(groups[0])
    assert text.startswith("hard-swish at 0: ") and groups[0].worst.measured in text and "qat.epochs" in text

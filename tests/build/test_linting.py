"""What of a model suffers in int8 is a warning of its plan, and stands in the cache."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgekit.backends.torch_graph import TorchGraph
from edgekit.build import Request, Sources, plan_build
from edgekit.build.linting import lint
from edgekit.settings import parse_settings
from edgekit.store import Store
from edgekit.types import Event

NET = """
import torch
from torch import nn
from torch.nn import functional as F


class Net(nn.Module):
    def __init__(self, value):
        super().__init__()
        self.conv, self.head, self.value = nn.Conv2d(3, 8, 3, padding=1), nn.Linear(8, 4), value

    def forward(self, x):
        x = F.relu(self.conv(x))
        x = F.max_pool2d(F.pad(x, (1, 1, 1, 1), value=self.value), 3, 2)
        return self.head(x.mean((2, 3)))


def infinite():
    torch.manual_seed(0)
    return Net(-float("inf"))


def zero():
    torch.manual_seed(0)
    return Net(0.0)
"""


@pytest.fixture
def plan(tmp_path: Path) -> Callable[..., tuple[Any, list[Event]]]:
    (tmp_path / "net.py").write_text(NET)
    x = np.random.default_rng(0).normal(size=(8, 3, 8, 8)).astype(np.float32)
    np.savez(tmp_path / "calib.npz", x=x)

    def make(name: str, *settings: str, calib: bool = True) -> tuple[Any, list[Event]]:
        events: list[Event] = []
        sources = Sources(
            model=f"{tmp_path / 'net.py'}:{name}",
            calib=str(tmp_path / "calib.npz") if calib else None,
            input_shapes=None if calib else ((1, 3, 8, 8),),
        )
        request = Request(settings=parse_settings(settings), target="tflite")
        _, plans = plan_build(sources, "pi4", request, store=Store(tmp_path / "store"), emit=events.append)
        return plans[0], events

    return make


def lint_steps(events: list[Event]) -> list[bool]:
    return [e.data["cached"] for e in events if (e.kind, e.step) == ("step_finished", "lint")]


def test_what_matters_is_a_warning_and_is_looked_at_once(plan: Any) -> None:
    first, events = plan("infinite")
    (warning,) = [w for w in first.warnings if w.startswith("pad-before-max-pool")]
    assert "the constant is -inf" in warning and "let the pooling pad by itself" in warning
    assert lint_steps(events) == [False]
    again, events = plan("infinite")
    assert again.warnings == first.warnings and lint_steps(events) == [True]


def test_what_is_harmless_on_the_data_is_no_warning(plan: Any) -> None:
    made, events = plan("zero")
    assert not any("max-pool" in w for w in made.warnings) and lint_steps(events) == [False]


@pytest.mark.parametrize("wish", ["float32", "no data"])
def test_without_int8_nothing_is_looked_for(plan: Any, wish: str) -> None:
    settings = ["quantize.precision=float32"] if wish == "float32" else []
    made, events = plan("infinite", *settings, calib=wish == "float32")
    assert lint_steps(events) == [] and not any("max-pool" in w for w in made.warnings)


def test_a_graph_that_breaks_the_lint_is_a_warning_and_no_error() -> None:
    events: list[Event] = []
    assert lint(TorchGraph(program=object()), (), events.append) == ()
    assert [e.kind for e in events] == ["warning"] and "looked through for int8" in events[0].message

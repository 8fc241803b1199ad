"""Compression steps in a build: planned by settings, cached, rebuilt from data, told in the report."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch")

from edgekit.build.compression import Compressed  # noqa: E402
from edgekit.build.inputs import Inputs, Sources, load_inputs  # noqa: E402
from edgekit.build.runner import Runner  # noqa: E402
from edgekit.errors import UserError  # noqa: E402
from edgekit.plan import Request, make_plan  # noqa: E402
from edgekit.settings import parse_settings  # noqa: E402
from edgekit.store import Store  # noqa: E402
from edgekit.types import Scheme, ignore_events  # noqa: E402

SMALLER = """
import torch
from torch import nn


def small():
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 16, 3, 2, 1), nn.ReLU(), nn.Conv2d(16, 16, 3, 2, 1), nn.ReLU(),
        nn.Flatten(), nn.Linear(256, 3),
    )


def other():
    return nn.Sequential(nn.Flatten(), nn.Linear(768, 4))
"""


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    root = tmp_path_factory.mktemp("compression") / "store"
    root.mkdir()
    return Store(root)


@pytest.fixture(scope="module")
def smaller(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("student") / "smaller.py"
    path.write_text(SMALLER)
    return path


def _compress(
    folder: Path, store: Store, *settings: str, train: bool = True, **request: Any
) -> tuple[Compressed, Runner, Inputs]:
    entry = folder / "model.py"
    asked = Request(settings=parse_settings([*settings, "finetune.epochs=1"]), **request)
    sources = Sources(model=f"{entry}:net", calib=f"{entry}:calib", train=f"{entry}:train" if train else None)
    inputs = load_inputs(sources, "pi4", asked)
    plan = make_plan(inputs.profile, inputs.model.spec, inputs.facts(), asked)
    runner = Runner(store, ignore_events, 0)
    return Compressed(inputs, runner, plan), runner, inputs


def _steps(runner: Runner) -> list[tuple[str, bool]]:
    return [(o.name, o.cached) for o in runner.outcomes]


def test_every_step_runs_in_order_and_a_second_build_reads_them_all(
    tiny_model_dir: Path, store: Store
) -> None:
    settings = (
        "prune.importance=taylor", "prune.scope=global", "prune.steps=2", "prune.ratio=0.6",
        "prune.bn_l1=0.001", "prune.bn_epochs=1",
        "lowrank.energy=0.8", "sparsity.amount=0.5", "distill.kinds=response,hint",
    )  # fmt: skip
    made, runner, inputs = _compress(tiny_model_dir, store, *settings)
    names = ["shrink", "prune", "lowrank", "sparsify", "finetune"]
    assert _steps(runner) == [(n, False) for n in names]
    again, second, _ = _compress(tiny_model_dir, store, *settings)
    assert _steps(second) == [(n, True) for n in names]
    x = inputs.model.example_inputs
    with torch.no_grad():
        assert torch.equal(made.module()(*x), again.module()(*x))
    assert made.sha256 == again.sha256 != inputs.model.spec.sha256
    assert made.changed and made.params is not None and inputs.model.spec.params is not None
    assert made.params < inputs.model.spec.params
    assert sum(p.numel() for p in made.module().parameters()) == made.params
    assert made.lowrank is not None and made.finetuning is not None and made.sparsity is not None
    assert made.finetuning["matched"], "hints were compared"
    weights = [p for p in made.module().parameters() if p.ndim > 1]
    zeros = sum(int((w == 0).sum()) for w in weights) / sum(w.numel() for w in weights)
    assert zeros == pytest.approx(made.sparsity["share"], abs=0.01), "fine-tuning keeps the zeros"


def test_one_step_alone_and_without_training_data(tiny_model_dir: Path, store: Store) -> None:
    made, runner, _ = _compress(tiny_model_dir, store, "lowrank.budget=0.6", train=False)
    assert [n for n, _ in _steps(runner)] == ["lowrank"] and made.pruning is None
    nothing, runner, inputs = _compress(tiny_model_dir, store, train=False)
    assert not _steps(runner) and not nothing.changed and nothing.module() is inputs.model.module


RESIDUAL = """
import torch
from torch import nn


class Block(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(16, 16, 3, padding=1)
        self.act = nn.ReLU()

    def forward(self, x):
        return self.act(x + self.conv(x))


def net():
    torch.manual_seed(0)
    layers = [nn.Conv2d(3, 16, 3, 2, 1), nn.ReLU(), Block(), Block(), Block()]
    return nn.Sequential(*layers, nn.Flatten(), nn.Linear(1024, 3))
"""


def test_blocks_go_before_channels_and_the_rest_is_trained(
    tiny_model_dir: Path, store: Store, tmp_path: Path
) -> None:
    path = tmp_path / "residual.py"
    path.write_text(RESIDUAL)
    entry = tiny_model_dir / "model.py"
    settings = ["depth.remove=3", "depth.blocks=1", "depth.ignore=2", "prune.ratio=0.5", "finetune.epochs=1"]
    asked = Request(settings=parse_settings(settings))
    sources = Sources(model=f"{path}:net", calib=f"{entry}:calib", train=f"{entry}:train")
    inputs = load_inputs(sources, "pi4", asked)
    plan = make_plan(inputs.profile, inputs.model.spec, inputs.facts(), asked)
    for cached in (False, True):
        runner = Runner(store, ignore_events, 0)
        made = Compressed(inputs, runner, plan)
        assert _steps(runner) == [(n, cached) for n in ("depth", "prune", "finetune")]
        assert made.depth is not None and [r["block"] for r in made.depth["removed"]] == ["3", "4"]
        assert sum(p.numel() for p in made.module().parameters()) == made.params
        kinds = [type(m).__name__ for m in made.module().children()]
        assert kinds == ["Conv2d", "ReLU", "Block", "Identity", "Identity", "Flatten", "Linear"]


def test_a_student_takes_the_place_of_the_original(tiny_model_dir: Path, store: Store, smaller: Path) -> None:
    made, runner, inputs = _compress(tiny_model_dir, store, student=f"{smaller}:small")
    assert [n for n, _ in _steps(runner)] == ["finetune"] and made.changed
    assert type(made.module()).__name__ == "Sequential"
    assert inputs.student is not None and made.params == inputs.student.spec.params
    pruned, runner, _ = _compress(tiny_model_dir, store, "prune.ratio=0.5", student=f"{smaller}:small")
    assert [n for n, _ in _steps(runner)] == ["prune", "finetune"]
    assert pruned.params is not None and made.params is not None and pruned.params < made.params
    taught, _, _ = _compress(
        tiny_model_dir, store, student=f"{smaller}:small", teacher=f"{tiny_model_dir / 'model.py'}:net"
    )
    assert taught.sha256 == made.sha256, "the original is the teacher when none is named"


def test_students_and_teachers_must_fit(tiny_model_dir: Path, store: Store, smaller: Path) -> None:
    with pytest.raises(UserError, match="gives outputs of shape"):
        _compress(tiny_model_dir, store, teacher=f"{smaller}:other")
    with pytest.raises(UserError, match="no training data to teach"):
        _compress(tiny_model_dir, store, student=f"{smaller}:small", train=False)
    with pytest.raises(UserError, match="nothing is trained"):
        _compress(tiny_model_dir, store, "prune.ratio=0", teacher=f"{smaller}:small")


@pytest.mark.slow
def test_trained_ranges_go_to_int8_files_only(tiny_model_dir: Path, store: Store) -> None:
    from dataclasses import replace

    settings = ("prune.ratio=0.5", "qat.epochs=1")
    made, runner, inputs = _compress(tiny_model_dir, store, *settings)
    assert _steps(runner) == [("prune", False), ("finetune", False), ("qat", False)]
    again, second, _ = _compress(tiny_model_dir, store, *settings)
    assert _steps(second) == [("prune", True), ("finetune", True), ("qat", True)]
    planned = Scheme(precision="int8", delegate="xnnpack")
    scheme = made.scheme(planned)
    assert scheme.trained and scheme == again.scheme(planned)
    assert all(len(row) == 4 and row[2] <= 0 <= row[3] for row in scheme.trained)
    assert made.scheme(replace(planned, precision="fp16")).trained == ()
    with torch.no_grad():
        x = inputs.model.example_inputs
        assert torch.equal(made.module()(*x), again.module()(*x))

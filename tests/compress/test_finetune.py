"""Distillation losses against formulas worked out by hand, and the fine-tuning loop."""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")
import torch.nn.functional as F  # noqa: E402
from torch import nn  # noqa: E402

from edgekit.compress.distill import classification_loss, response_loss  # noqa: E402
from edgekit.compress.finetune import Settings, finetune  # noqa: E402
from edgekit.errors import StepFailed, UserError  # noqa: E402
from edgekit.sources.arrays import Data, make_data  # noqa: E402
from edgekit.types import Event  # noqa: E402

QUICK = Settings(epochs=4, batch_size=16, lr=0.02)


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Linear(6, 16)
        self.norm = nn.BatchNorm1d(16)
        self.drop = nn.Dropout(0.1)
        self.head = nn.Linear(16, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.drop(F.relu(self.norm(self.body(x)))))


def _net(seed: int) -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return Net().eval()


def _data(n: int = 120, labelled: bool = True) -> Data:
    x = np.random.default_rng(0).normal(size=(n, 6))
    return make_data("train", [x], x[:, :3].argmax(1) if labelled else None, source="d")


def _accuracy(module: nn.Module, data: Data) -> float:
    with torch.no_grad():
        return float((module(torch.from_numpy(data.inputs[0])).argmax(1).numpy() == data.labels).mean())


def test_classification_loss_is_hintons() -> None:
    student, teacher = torch.tensor([[1.0, 0.0, -1.0]]), torch.tensor([[2.0, 0.0, 0.0]])
    labels = torch.tensor([0])
    p, q = (torch.softmax(t / 2.0, 1) for t in (teacher, student))
    soft = 4.0 * float((p * (p / q).log()).sum())
    hard = -float(torch.log_softmax(student, 1)[0, 0])
    common: dict[str, Any] = {"temperature": 2.0, "alpha": 0.25}
    assert float(classification_loss(student, teacher, labels, **common)) == pytest.approx(
        0.25 * soft + 0.75 * hard, rel=1e-4
    )
    assert float(classification_loss(student, teacher, None, **common)) == pytest.approx(soft, rel=1e-4)
    assert float(classification_loss(student, None, labels, **common)) == pytest.approx(hard)
    assert float(classification_loss(teacher, teacher, None, **common)) == pytest.approx(0.0, abs=1e-7)
    with pytest.raises(ValueError, match="teacher or labels"):
        classification_loss(student, None, None, **common)


def test_response_loss_weighs_outputs_by_their_size() -> None:
    large, small = torch.full((2, 4), 100.0), torch.full((2, 4), 0.1)
    assert float(response_loss([large * 1.1, small], [large, small])) == pytest.approx(0.005, rel=1e-3)
    assert float(response_loss([large, small * 1.1], [large, small])) == pytest.approx(0.005, rel=1e-3)


def test_fine_tuning_learns_from_labels_and_teacher_and_changes_neither() -> None:
    data, student, teacher = _data(), _net(1), _net(2)
    states = [copy.deepcopy(m.state_dict()) for m in (student, teacher)]
    rng = torch.get_rng_state()
    tuned = finetune(
        student, None, data, task="classification", settings=Settings(epochs=15, batch_size=16, lr=0.02)
    )
    assert _accuracy(tuned.module, data) > 0.85 > _accuracy(student, data)
    imitated = finetune(student, tuned.module, _data(labelled=False), task="classification", settings=QUICK)
    assert imitated.history[-1].val_accuracy is None
    assert imitated.history[-1].val_loss < 0.5 * imitated.history[0].val_loss
    for module, state in zip((student, teacher), states, strict=True):
        assert all(torch.equal(t, state[k]) for k, t in module.state_dict().items())
    assert torch.equal(torch.get_rng_state(), rng)
    assert not tuned.module.training and tuned.train_n + tuned.val_n == len(data)


def test_a_seed_decides_everything() -> None:
    def run(seed: int) -> Any:
        torch.rand(seed + 3)  # whatever ran before must not matter
        settings = Settings(epochs=3, batch_size=16, lr=0.02, seed=seed)
        return finetune(_net(1), _net(2), _data(), task="classification", settings=settings)

    first, second, other = run(0), run(0), run(1)
    assert first.history == second.history != other.history
    pairs = zip(first.module.state_dict().values(), second.module.state_dict().values(), strict=True)
    assert all(torch.equal(a, b) for a, b in pairs)


def test_the_best_weights_are_kept_and_patience_ends_the_run() -> None:
    data = _data()
    good = finetune(
        _net(1), None, data, task="classification", settings=Settings(epochs=15, batch_size=16, lr=0.02)
    )
    wild = Settings(epochs=30, batch_size=16, lr=30.0, optimizer="sgd", patience=2)
    result = finetune(good.module, good.module, data, task="classification", settings=wild)
    assert result.stopped_early and result.best_epoch + 2 == len(result.history) - 1
    best = max(result.history, key=lambda r: (r.val_accuracy, -r.val_loss))
    assert best.epoch == result.best_epoch
    assert result.history[-1].val_loss > best.val_loss
    assert _accuracy(result.module, data) > 0.8, "the last, bad weights were returned"


def test_an_own_validation_set_is_used_and_training_data_left_whole() -> None:
    data = _data()
    result = finetune(_net(1), None, data, task="classification", settings=QUICK, val=_data(30))
    assert (result.train_n, result.val_n) == (120, 30)


def test_regression_follows_the_teacher() -> None:
    result = finetune(_net(1), _net(2), _data(labelled=False), task="generic", settings=QUICK)
    assert result.history[-1].val_accuracy is None
    assert result.history[result.best_epoch].val_loss < result.history[0].val_loss


def test_progress_is_told() -> None:
    events: list[Event] = []
    finetune(_net(1), None, _data(), task="classification", settings=QUICK, emit=events.append)
    assert {e.kind for e in events} == {"progress"} and {e.step for e in events} == {"finetune"}
    done = [e.data["done"] for e in events]
    assert done == sorted(done) and done[-1] == events[-1].data["total"]
    ends = [e for e in events if e.message]
    assert [e.data["epoch"] for e in ends] == [0, 1, 2, 3, 4]
    assert all(0 <= e.data["accuracy"] <= 100 for e in ends)


def test_a_loss_that_is_not_finite_fails_and_says_what_to_lower() -> None:
    class Explodes(Net):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return super().forward(x) * (float("nan") if self.training else 1.0)

    with pytest.raises(StepFailed, match="loss became nan in epoch 1, batch 1") as caught:
        finetune(Explodes(), None, _data(), task="classification", settings=QUICK)
    assert "finetune.lr=" in str(caught.value.hint)


def test_models_that_cannot_be_trained_say_why() -> None:
    class OneSample(Net):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return super().forward(x.view(1, 6))

    class Auxiliary(Net):
        def forward(self, x: torch.Tensor) -> Any:
            out = super().forward(x)
            return (out, out) if self.training else out

    with pytest.raises(StepFailed, match=r"failed at .*test_finetune.py:\d+ \(in forward\)"):
        finetune(OneSample(), None, _data(), task="classification", settings=QUICK)
    with pytest.raises(StepFailed, match="in training, its teacher"):
        finetune(Auxiliary(), _net(2), _data(), task="classification", settings=QUICK)
    frozen = _net(1).requires_grad_(False)
    with pytest.raises(StepFailed, match="no trainable parameters"):
        finetune(frozen, None, _data(), task="classification", settings=QUICK)


def test_there_must_be_something_to_learn_from() -> None:
    for task, labelled in (("classification", False), ("generic", True)):
        with pytest.raises(UserError, match="neither labels nor a teacher"):
            finetune(_net(1), None, _data(labelled=labelled), task=task, settings=QUICK)  # type: ignore[arg-type]


@pytest.mark.parametrize("field", ["epochs", "lr", "batch_size", "patience", "temperature"])
def test_settings_out_of_range_are_refused(field: str) -> None:
    with pytest.raises(UserError, match=f"finetune.{field}"):
        Settings(**{field: 0})

"""Feature and relation losses against formulas worked out by hand, and that each kind teaches."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")
import torch.nn.functional as F  # noqa: E402
from torch import nn  # noqa: E402

from edgekit.compress.distill import KINDS, features, relation  # noqa: E402
from edgekit.compress.finetune import Settings, finetune  # noqa: E402
from edgekit.errors import StepFailed, UserError  # noqa: E402
from edgekit.sources.arrays import Data, make_data  # noqa: E402


class Net(nn.Module):
    def __init__(self, width: int, classes: int = 3) -> None:
        super().__init__()
        self.stage1 = nn.Sequential(nn.Conv2d(1, width, 3, padding=1), nn.BatchNorm2d(width), nn.ReLU())
        self.stage2 = nn.Sequential(nn.Conv2d(width, 2 * width, 3, 2, 1), nn.ReLU())
        self.head = nn.Linear(2 * width, classes)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.stage2(self.stage1(x)).mean((2, 3)))


def _net(width: int, seed: int) -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return Net(width).eval()


def _data(n: int = 48, labelled: bool = True) -> Data:
    rng = np.random.default_rng(0)
    x = rng.normal(size=(n, 1, 6, 6)).astype(np.float32)
    return make_data("train", [x], rng.integers(0, 3, n) if labelled else None, source="d")


def test_distances_are_relative_and_equal_samples_have_slopes() -> None:
    points = torch.tensor([[0.0, 0.0], [3.0, 4.0], [0.0, 8.0]])
    assert float(relation.distance_loss(points, 10 * points)) == pytest.approx(0.0, abs=1e-9)
    student = torch.tensor([[0.0], [1.0], [3.0]])
    ours = np.array([1, 3, 2]) / 2.0
    theirs = np.array([5, 8, 5]) / 6.0
    gap = np.abs(ours - theirs)
    assert float(relation.distance_loss(student, points)) == pytest.approx(
        float((gap**2 / 2).mean()), rel=1e-5
    )
    same = torch.zeros(3, 2, requires_grad=True)
    relation.distance_loss(same, points).backward()
    assert torch.isfinite(same.grad).all()


def test_angles_do_not_change_with_scale_and_rotation() -> None:
    x = torch.randn(6, 4, generator=torch.Generator().manual_seed(0))
    turn = torch.linalg.qr(torch.randn(4, 4, generator=torch.Generator().manual_seed(1)))[0]
    assert float(relation.angle_loss(x, 3 * x @ turn)) == pytest.approx(0.0, abs=1e-6)
    right = torch.tensor([[0.0, 0.0], [1.0, 0.0], [0.0, 1.0]])
    flat = torch.tensor([[0.0, 0.0], [1.0, 0.0], [2.0, 0.0]])

    # cosines at (i, j, k) in full: right angle, 45 degrees; against 0 and 180 degrees
    def cosines(p: Any) -> Any:
        e = p[None] - p[:, None]
        e = e / np.maximum(np.linalg.norm(e, axis=2, keepdims=True), 1e-6)
        return np.einsum("ijd,ikd->ijk", e, e)

    gap = np.abs(cosines(right.numpy()) - cosines(flat.numpy()))
    huber = np.where(gap < 1, gap**2 / 2, gap - 0.5).mean()
    assert float(relation.angle_loss(flat, right)) == pytest.approx(float(huber), rel=1e-5)


def test_similarity_compares_normalised_rows() -> None:
    a = torch.tensor([[1.0, 0.0], [0.0, 2.0]])
    b = torch.tensor([[1.0, 0.0], [1.0, 0.0]])
    rows = np.eye(2) - np.full((2, 2), 1 / math.sqrt(2))
    assert float(relation.similarity_loss(b, a)) == pytest.approx(float((rows**2).mean()), rel=1e-5)
    assert float(relation.similarity_loss(5 * a.view(2, 1, 2), a)) == pytest.approx(0.0, abs=1e-12)


def test_hints_are_relative_errors() -> None:
    teacher = torch.full((2, 3, 4, 4), 10.0)
    assert float(features.hint_loss(teacher * 1.1, teacher)) == pytest.approx(0.01, rel=1e-3)


def test_stages_are_matched_by_spatial_size_and_layers_by_name() -> None:
    x = [torch.zeros(2, 1, 6, 6)]
    pairs = features.matching_pairs(_net(4, 0), _net(8, 1), x)
    assert pairs == [("stage1", "stage1"), ("stage2", "stage2")]
    assert features.named_pairs(["stage1", "stage2.0:stage2.1"], _net(4, 0), _net(8, 1)) == [
        ("stage1", "stage1"), ("stage2.0", "stage2.1")
    ]  # fmt: skip
    with pytest.raises(UserError, match="the teacher has no layer 'stage3'"):
        features.named_pairs(["stage1:stage3"], _net(4, 0), _net(8, 1))


def test_adapters_match_widths_and_refuse_sizes() -> None:
    def zeros(*shape: int) -> torch.Tensor:
        return torch.zeros(shape)

    pair = ("a", "b")
    assert isinstance(features.adapter_for(zeros(2, 3), zeros(2, 3), pair), nn.Identity)
    for ours, theirs in (
        ((2, 3), (2, 5)),
        ((2, 7, 3), (2, 7, 5)),
        ((2, 3, 7), (2, 5, 7)),
        ((2, 3, 4, 4), (2, 5, 4, 4)),
    ):
        assert features.adapter_for(zeros(*ours), zeros(*theirs), pair)(zeros(*ours)).shape == theirs
    with pytest.raises(StepFailed, match="cannot be compared"):
        features.adapter_for(zeros(2, 3, 4, 4), zeros(2, 3, 8, 8), pair)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("labelled", [True, False])
def test_each_kind_pulls_the_student_to_its_teacher(kind: str, labelled: bool) -> None:
    data, student, teacher = _data(labelled=labelled), _net(4, 1), _net(8, 2)
    settings = Settings(epochs=5, batch_size=16, lr=0.02, kinds=(kind,), alpha=1.0, optimizer="adamw")
    task: Any = "classification" if labelled else "generic"
    before = {k: t.clone() for k, t in teacher.state_dict().items()}
    tuned = finetune(student, teacher, data, task=task, settings=settings, val=data)
    losses = [r.val_loss for r in tuned.history]
    assert losses[tuned.best_epoch] < losses[0]
    expected = () if kind == "response" else ("stage1:stage1", "stage2:stage2")
    assert tuned.matched == expected
    assert all(torch.equal(t, before[k]) for k, t in teacher.state_dict().items())
    assert not any(m._forward_hooks for net in (student, teacher, tuned.module) for m in net.modules())


def test_kinds_add_up_and_their_weight_counts() -> None:
    data, student, teacher = _data(), _net(4, 1), _net(8, 2)

    def start(**kw: Any) -> float:
        settings = Settings(epochs=1, batch_size=16, **kw)
        return (
            finetune(student, teacher, data, task="classification", settings=settings, val=data)
            .history[0]
            .val_loss
        )

    base, both = start(kinds=("response",)), start(kinds=("response", "similarity"))
    double = start(kinds=("response", "similarity"), weight=2.0)
    assert both > base and double - base == pytest.approx(2 * (both - base), rel=1e-4)


def test_feature_kinds_need_layers_that_correspond() -> None:
    flat = nn.Sequential(nn.Flatten(), nn.Linear(36, 3))
    with pytest.raises(UserError, match="no layers of student and teacher correspond"):
        finetune(
            flat, _net(4, 0), _data(), task="classification", settings=Settings(epochs=1, kinds=("hint",))
        )
    settings = Settings(epochs=1, kinds=("hint",), layers=("stage1:stage2",))
    with pytest.raises(StepFailed, match="cannot be compared"):
        finetune(_net(4, 0), _net(8, 1), _data(), task="classification", settings=settings)


def test_a_detector_learns_from_outputs_and_features_without_labels() -> None:
    class Detector(nn.Module):
        def __init__(self, width: int) -> None:
            super().__init__()
            self.trunk = nn.Sequential(nn.Conv2d(1, width, 3, padding=1), nn.ReLU())
            self.boxes, self.scores = nn.Conv2d(width, 4, 1), nn.Conv2d(width, 2, 1)

        def forward(self, x: torch.Tensor) -> dict[str, torch.Tensor]:
            x = self.trunk(x)
            return {"boxes": self.boxes(x).flatten(2), "scores": self.scores(x).sigmoid()}

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        student, teacher = Detector(4).eval(), Detector(8).eval()
    settings = Settings(epochs=8, batch_size=16, lr=0.02, kinds=("response", "hint"), optimizer="adamw")
    tuned = finetune(student, teacher, _data(labelled=False), task="generic", settings=settings)
    assert tuned.matched == ("trunk:trunk",)
    assert tuned.history[tuned.best_epoch].val_loss < 0.7 * tuned.history[0].val_loss


@pytest.mark.parametrize("augment", ["flip", "flip-shift"])
def test_augmented_images_get_the_teachers_answers_to_them(augment: Any) -> None:
    class Left(nn.Module):
        """Answers with the left half of the image, so that a mirrored one has another answer."""

        def __init__(self) -> None:
            super().__init__()
            self.scale = nn.Parameter(torch.ones(1))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x[:, 0, :, :3].flatten(1) * self.scale

    data = _data(labelled=False)
    settings = Settings(epochs=2, batch_size=16, augment=augment)
    history = finetune(Left(), Left(), data, task="generic", settings=settings).history
    assert all(r.train_loss in (None, pytest.approx(0.0, abs=1e-12)) for r in history)
    with pytest.raises(UserError, match="needs one image"):
        flat = make_data("train", [np.zeros((8, 4), np.float32)], None, source="d")
        finetune(nn.Linear(4, 2), nn.Linear(4, 2), flat, task="generic", settings=settings)


def test_bfloat16_gives_float32_weights_in_the_usual_layout() -> None:
    data, teacher = _data(), _net(8, 2)
    settings = Settings(epochs=1, batch_size=16, precision="bfloat16")
    tuned = finetune(_net(4, 1), teacher, data, task="classification", settings=settings, val=data)
    assert all(p.dtype == torch.float32 and p.is_contiguous() for p in tuned.module.parameters())
    exact = finetune(
        _net(4, 1), teacher, data, task="classification", settings=Settings(epochs=1, batch_size=16), val=data
    )
    assert tuned.history[1].val_loss == pytest.approx(exact.history[1].val_loss, rel=0.05)


def test_batch_norm_scales_shrink_and_zeros_stay() -> None:
    data = _data()
    sparse = [
        finetune(
            _net(4, 1), None, data, task="classification", settings=Settings(epochs=4, batch_size=16, bn_l1=w)
        )
        for w in (0.0, 1.0)
    ]
    scales = [float(t.module.stage1[1].weight.detach().abs().sum()) for t in sparse]
    assert scales[1] < 0.8 * scales[0] and sparse[1].best_epoch == 4
    student = _net(4, 1)
    with torch.no_grad():
        student.stage2[0].weight[:, ::2] = 0
    kept = finetune(
        student,
        None,
        data,
        task="classification",
        settings=Settings(epochs=2, batch_size=16, keep_zeros=True),
    )
    weight = kept.module.stage2[0].weight
    assert bool((weight[:, ::2] == 0).all()) and not torch.equal(weight, student.stage2[0].weight)


def test_batch_norm_freezes_late() -> None:
    data = _data()

    def mean(**kw: Any) -> torch.Tensor:
        settings = Settings(epochs=2, batch_size=16, bn_l1=1e-9, **kw)  # keeps the last epoch
        return (
            finetune(_net(4, 1), None, data, task="classification", settings=settings)
            .module.stage1[1]
            .running_mean
        )

    assert torch.equal(mean(freeze_bn=0.0), _net(4, 1).stage1[1].running_mean)
    assert not torch.equal(mean(), mean(freeze_bn=0.5))
    assert F.mse_loss(mean(), mean()) == 0

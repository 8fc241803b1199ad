"""Which compression steps a plan holds, in which order, with which settings, and why not."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from edgekit.errors import UserError
from edgekit.plan import DataFacts, Request, make_plan
from edgekit.profiles import load_profile
from edgekit.settings import parse_settings
from edgekit.types import ModelSpec, Plan, TensorSpec

MODEL = ModelSpec(
    name="net",
    source="m.py:net",
    sha256="0" * 64,
    inputs=(TensorSpec(name="x", shape=(1, 3, 8, 8), dtype="float32"),),
    outputs=(TensorSpec(name="y", shape=(1, 10), dtype="float32"),),
    task="classification",
)
TRAIN = DataFacts(calib=100, train=1000, train_labelled=True)


def _plan(*settings: str, data: DataFacts = TRAIN, model: ModelSpec = MODEL, **request: Any) -> Plan:
    asked = Request(settings=parse_settings(settings), **request)
    return make_plan(load_profile("pi4"), model, data, asked)


def _names(plan: Plan) -> list[str]:
    return [
        s.name
        for s in plan.steps
        if s.name not in ("convert", "quantize", "search", "companion", "verify", "measure", "bundle")
    ]


def test_the_usual_plan_says_nothing_of_settings_that_were_not_touched() -> None:
    plan = _plan()
    assert _names(plan) == ["prune", "finetune"]
    prune, tune = plan.step("prune"), plan.step("finetune")
    assert prune is not None and set(prune.config) == {"ratio", "round_to", "ignore"}
    assert tune is not None and "kinds" not in tune.config and "augment" not in tune.config
    assert any(r.alternative == "unstructured pruning" for r in plan.rejected)


def test_wishes_become_steps_in_their_order() -> None:
    plan = _plan(
        "prune.importance=bn", "prune.bn_l1=1e-4", "prune.steps=3", "prune.ratios=a=0.5",
        "prune.scope=isomorphic",
        "lowrank.energy=0.9", "sparsity.amount=0.7", "distill.kinds=hint", "depth.blocks=2",
    )  # fmt: skip
    assert _names(plan) == ["depth", "shrink", "prune", "lowrank", "sparsify", "finetune"]
    prune, low, tune = plan.step("prune"), plan.step("lowrank"), plan.step("finetune")
    assert prune is not None and low is not None and tune is not None
    assert prune.config["importance"] == "bn" and prune.config["ratios"] == {"a": 0.5}
    assert prune.config["finetune"]["kinds"] == ["hint"] and tune.config["keep_zeros"] is True
    assert low.config["round_to"] == prune.config["round_to"]
    for word in ("bn importance", "like groups", "3 steps", "1 groups"):
        assert word in prune.reason
    assert not any(r.alternative == "unstructured pruning" for r in plan.rejected)


def test_blocks_are_named_or_counted_by_part() -> None:
    step = _plan("depth.blocks=layer1=2,layer2=1", "depth.remove=a").step("depth")
    assert step is not None and step.config["blocks"] == {"layer1": 2, "layer2": 1}
    assert "a, 3 blocks by measurement left out" in step.reason
    limited = _plan("depth.blocks=1", "prune.ratio=0.3", speedup=2.0)
    assert _names(limited) == ["depth", "prune", "finetune"] and any(
        g.name == "speedup" for g in limited.gates
    )
    with pytest.raises(UserError, match="part=number pairs"):
        parse_settings(["depth.blocks=layer1=2,layer2"])


def test_a_student_is_trained_and_pruned_only_on_request() -> None:
    plan = _plan(student="s.py:net")
    assert _names(plan) == ["finetune"] and "train the student" in plan.steps[0].reason
    assert any("a student was given" in r.reason for r in plan.rejected)
    assert _names(_plan("prune.ratio=0.4", student="s.py:net")) == ["prune", "finetune"]
    fixed = ModelSpec(**{**vars(MODEL), "trainable": False})
    assert _names(_plan(model=fixed, student="s.py:net")) == ["finetune"]
    assert "taught by t.py:net" in _plan(teacher="t.py:net").steps[1].reason


FIXED = ModelSpec(**{**vars(MODEL), "trainable": False})


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: _plan("lowrank.energy=0.9", "lowrank.budget=0.5"), "exclude each other"),
        (lambda: _plan("lowrank.energy=0.9", model=FIXED), "cannot be changed"),
        (lambda: _plan("depth.remove=a", model=FIXED), "depth.remove was set, but this model cannot"),
        (lambda: _plan("depth.blocks=1", data=DataFacts()), "no samples to measure blocks on"),
        (lambda: _plan("depth.blocks=1", speedup=2.0), "exclude each other"),
        (lambda: _plan("depth.blocks=1", max_size_bytes=1000), "exclude each other"),
        (lambda: _plan("sparsity.amount=0.9", model=FIXED), "cannot be changed"),
        (lambda: _plan(student="s", data=DataFacts(calib=9)), "no training data to teach"),
        (lambda: _plan(teacher="t", data=DataFacts(calib=9)), "no training data to teach"),
        (lambda: _plan("prune.ratio=0", teacher="t"), "nothing is trained"),
        (lambda: _plan("qat.epochs=1", data=DataFacts(calib=9)), "needs training and calibration"),
        (lambda: _plan("qat.epochs=1", "quantize.precision=fp16"), "the file is fp16"),
        (lambda: _plan("qat.epochs=1", model=FIXED), "cannot be changed"),
    ],
)
def test_wishes_that_cannot_be_are_refused(make: Callable[[], Plan], message: str) -> None:
    with pytest.raises(UserError, match=message):
        make()


def test_quantisation_aware_training_comes_last_and_on_request() -> None:
    asked = _plan("qat.epochs=3", "distill.kinds=hint", "prune.ratio=0")
    assert _names(asked) == ["qat"]
    step = asked.step("qat")
    assert step is not None and step.config["epochs"] == 3 and step.config["symmetric"] is False
    assert "kinds" not in step.config and step.config["freeze_bn"] == 0.5
    assert _names(_plan("qat.epochs=3"))[-1] == "qat"
    usual = _plan()
    assert any(r.alternative == "quantisation-aware training" for r in usual.rejected)

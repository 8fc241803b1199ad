"""Builds with a cost that was asked for."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar

import pytest

from edgekit.build import Request, Sources, build
from edgekit.build.target import Targeted
from edgekit.errors import StepFailed, UserError
from edgekit.plan import DataFacts, make_plan
from edgekit.profiles.loader import load_profile
from edgekit.recipe import load_recipe
from edgekit.store import Store
from edgekit.tune.target import Met
from edgekit.types import ModelSpec, TensorSpec, ignore_events

MODEL = ModelSpec(
    name="net",
    source="model.py:net",
    sha256="0" * 64,
    inputs=(TensorSpec(name="x", shape=(1, 3, 16, 16), dtype="float32", layout="NCHW"),),
    outputs=(TensorSpec(name="y", shape=(1, 3), dtype="float32"),),
    task="classification",
)
DATA = DataFacts(calib=60, eval=150, eval_labelled=True, train=300, train_labelled=True)


@pytest.mark.slow
def test_groups_are_narrowed_until_the_estimate_holds(
    tiny_build: Any, tiny_model_dir: Path, tmp_path: Path
) -> None:
    entry = tiny_model_dir / "model.py"
    sources = Sources(
        model=f"{entry}:net", calib=f"{entry}:calib", eval=f"{entry}:eval", train=f"{entry}:train"
    )
    whole = tiny_build.built.report
    estimate = next(m for m in whole["measurements"] if m["source"] == "estimate")["median"]
    limit = 0.9 * estimate
    request = Request(
        latency_ms=limit, max_drop=100.0, settings={"finetune.epochs": 1, "search.evaluations": 4}
    )
    built = build(sources, "pi4", request, out=tmp_path, store=tiny_build.store)
    report = built.report
    aimed = report["target_search"]
    assert aimed["basis"] == "estimate" and 2 <= len(aimed["tried"]) <= 4
    gate = next(g for g in report["gates"] if g["name"] == "latency")
    assert gate["measured"] == pytest.approx(aimed["cost"], rel=0.05)
    assert gate["passed"] is aimed["reached"]
    assert report["macs"]["final"] < report["macs"]["baseline"]
    recipe = load_recipe(built.folder / "recipe.toml")
    assert dict(recipe.settings["prune.ratios"]) == aimed["ratios"]
    plan = make_plan(load_profile("pi4"), MODEL, DATA, Request(latency_ms=limit, settings=recipe.settings))
    assert plan.step("target") is None, "a recipe does not search again"
    step = plan.step("prune")
    assert step is not None and step.config["ratios"] == aimed["ratios"]


def test_the_plan_says_how_the_cost_is_told() -> None:
    pi4 = load_profile("pi4")
    by_count = make_plan(pi4, MODEL, DATA, Request(speedup=2.0)).step("target")
    by_estimate = make_plan(pi4, MODEL, DATA, Request(latency_ms=3.0)).step("target")
    on_device = make_plan(pi4, MODEL, DATA, Request(latency_ms=3.0, device="ssh:pi@desk")).step("target")
    assert by_count is not None and by_count.config["basis"] == "instructions"
    assert by_estimate is not None and by_estimate.config["basis"] == "estimate"
    assert on_device is not None and on_device.config["basis"] == "device"


def test_without_training_data_only_the_gate_is_left() -> None:
    plan = make_plan(load_profile("pi4"), MODEL, DataFacts(calib=60), Request(speedup=2.0))
    assert plan.step("target") is None and any(g.name == "speedup" for g in plan.gates)
    assert any("no training data" in r.reason for r in plan.rejected)


def test_a_latency_that_nothing_can_tell_is_refused() -> None:
    with pytest.raises(UserError, match="no coefficients") as caught:
        make_plan(load_profile("jetson_orin_nano"), MODEL, DATA, Request(latency_ms=3.0))
    assert "--device" in str(caught.value.hint)


@pytest.mark.filterwarnings("ignore:One of rtol or atol is not valid")
def test_a_pruned_model_that_gives_nan_has_a_metric_that_json_can_hold() -> None:
    import json

    import numpy as np
    import torch

    from edgekit.build.target import _evaluator

    with torch.random.fork_rng():
        torch.manual_seed(0)
        original, broken = torch.nn.Linear(2, 3), torch.nn.Linear(2, 3)
    torch.nn.init.constant_(broken.weight, float("nan"))
    x = [np.ones((4, 2), np.float32)]
    for labels in (None, np.zeros(4, np.int64)):
        value = _evaluator(original, x, labels)(broken)
        assert value < -1e9 and json.dumps(value, allow_nan=False)


@pytest.mark.parametrize(
    ("settings", "left"),
    [
        ({}, []),
        ({"prune.bn_l1": 0.1}, []),
        ({"lowrank.energy": 0.9}, ["lowrank", "finetune"]),
        ({"sparsity.amount": 0.5}, ["sparsify", "finetune"]),
    ],
)
def test_where_nothing_is_narrowed_only_other_changes_are_trained(
    settings: dict[str, Any], left: list[str]
) -> None:
    plan = make_plan(load_profile("pi4"), MODEL, DATA, Request(speedup=2.0, settings=settings))
    changing = ("shrink", "prune", "lowrank", "sparsify", "finetune")
    applied = Targeted(report={"ratios": {}}).applied(plan)
    assert [s.name for s in applied.steps if s.name in changing] == left


class FakeSearch:
    """A search of one target whose whole model costs ``cost``; meets the limit if ``reached``."""

    basis, limit, unit, baseline = "instructions", 5.0, "instructions", 10.0
    cost: ClassVar[dict[str, float]] = {}
    met: ClassVar[Any] = None

    def __init__(self, inputs: Any, runner: Any, plan: Any, step: Any, link: Any) -> None:
        self.plan = plan

    def whole(self) -> float:
        if self.plan.target not in self.cost:
            raise StepFailed("no emulator")
        return self.cost[self.plan.target]

    def run(self, deadline: Any) -> Any:
        return self.met


def searched(monkeypatch: pytest.MonkeyPatch, met: Met, *targets: str, **costs: Any) -> Targeted | None:
    from types import SimpleNamespace

    from edgekit.build import target as module

    monkeypatch.setattr(FakeSearch, "cost", costs.pop("cost", {}))
    monkeypatch.setattr(FakeSearch, "met", met)
    monkeypatch.setattr(module, "_Search", FakeSearch)
    plans = [
        (make_plan(load_profile("pi4"), MODEL, DATA, Request(speedup=2.0, target=t)), None) for t in targets
    ]
    inputs: Any = SimpleNamespace(teacher=costs.pop("teacher", None))
    runner: Any = SimpleNamespace(emit=ignore_events, shown=lambda name: name)
    return module.search_target(inputs, runner, plans)


NARROWED = Met(ratios={"stem": 0.5}, cost=4.0, reached=True, tried=(), reason="1 groups are narrowed")
WHOLE = replace(NARROWED, ratios={}, reason="nothing has to be pruned")
UNMET = replace(NARROWED, reached=False, reason="even the narrowest model of the search costs more")


def test_of_several_targets_the_one_that_costs_least_is_searched(monkeypatch: pytest.MonkeyPatch) -> None:
    cost = {"tflite/xnnpack": 9.0, "executorch/xnnpack": 7.0}
    found = searched(monkeypatch, NARROWED, "tflite", "executorch", "onnx", cost=cost)
    assert found is not None and found.report["target"] == "executorch/xnnpack"
    left_out, why = found.warnings
    assert "onnx/cpu: no emulator" in left_out and "executorch/xnnpack" in why
    plan = make_plan(load_profile("pi4"), MODEL, DATA, Request(speedup=2.0))
    assert set(found.warnings) <= set(found.applied(plan).warnings), "a report has them"
    with pytest.raises(StepFailed, match="told for no target"):
        searched(monkeypatch, NARROWED, "tflite", "executorch")


def test_one_target_is_not_compared(monkeypatch: pytest.MonkeyPatch) -> None:
    found = searched(monkeypatch, NARROWED, "tflite")
    assert found is not None and found.warnings == () and found.report["target"] == "tflite/xnnpack"


def test_a_teacher_that_has_nothing_to_teach_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    found = searched(monkeypatch, WHOLE, "tflite", teacher=object())
    assert found is not None and any("teacher is not used" in w for w in found.warnings)
    for met, teacher in ((NARROWED, object()), (WHOLE, None)):
        found = searched(monkeypatch, met, "tflite", teacher=teacher)
        assert found is not None and found.warnings == ()


def test_what_cannot_be_met_is_a_warning_of_the_build(monkeypatch: pytest.MonkeyPatch) -> None:
    found = searched(monkeypatch, UNMET, "tflite")
    assert found is not None and not found.report["reached"]
    assert "cannot be met by pruning alone" in found.warnings[0]


def test_what_pruning_cannot_bring_is_a_warning_of_the_plan() -> None:
    plan = make_plan(load_profile("pi4"), MODEL, DataFacts(calib=60), Request(speedup=2.0))
    assert any("2 times faster was asked for, and pruning cannot bring it" in w for w in plan.warnings)
    recipe = make_plan(
        load_profile("pi4"), MODEL, DATA, Request(speedup=2.0, settings={"prune.ratios": (("stem", 0.5),)})
    )
    assert not any("cannot bring it" in w for w in recipe.warnings)


@pytest.mark.slow
@pytest.mark.emulator
@pytest.mark.parametrize(("speedup", "reached"), [(1.5, True), (50.0, False)])
def test_a_speedup_on_the_emulators_count_is_met_within_five_percent_or_cannot_be(
    speedup: float, reached: bool, tiny_build: Any, tiny_model_dir: Path, tmp_path: Path, arm64_tools: None
) -> None:
    entry = tiny_model_dir / "model.py"
    sources = Sources(
        model=f"{entry}:net", calib=f"{entry}:calib", eval=f"{entry}:eval", train=f"{entry}:train"
    )
    request = Request(
        speedup=speedup,
        target="tflite",
        max_drop=100.0,
        settings={"finetune.epochs": 1, "search.rungs": ()},
    )
    built = build(sources, "pi4", request, out=tmp_path, store=tiny_build.store)
    aimed = built.report["target_search"]
    gate = next(g for g in built.report["gates"] if g["name"] == "speedup")
    assert aimed["basis"] == "instructions" and aimed["reached"] is reached, aimed
    assert gate["measured"] == pytest.approx(aimed["baseline"] / aimed["cost"], rel=0.02)
    if reached:
        assert built.status == "ok" and gate["measured"] >= speedup
        near = aimed["cost"] >= 0.95 * aimed["limit"]
        assert near or "below the limit: the next wider model costs more" in aimed["reason"]
    else:
        assert built.status == "gate_failed" and not gate["passed"]
        assert "cannot be met" in aimed["reason"]
        assert any("cannot be met" in w for w in built.report["warnings"])


def test_a_size_alone_is_told_by_the_file() -> None:
    pi4 = load_profile("pi4")
    plan = make_plan(pi4, MODEL, DATA, Request(max_size_bytes=50_000))
    step, prune = plan.step("target"), plan.step("prune")
    assert step is not None and step.config["basis"] == "size" and "at most 0.05 MB" in step.reason
    assert prune is not None and prune.config["ratio"] == 0.0
    both = make_plan(pi4, MODEL, DATA, Request(max_size_bytes=50_000, speedup=2.0)).step("target")
    assert both is not None and both.config["basis"] == "instructions"
    assert both.config["max_size_bytes"] == 50_000 and "2 times faster and at most 0.05 MB" in both.reason
    untrained = make_plan(pi4, MODEL, DataFacts(calib=60), Request(max_size_bytes=50_000))
    assert untrained.step("target") is None and untrained.warnings == plan.warnings
    assert any("make it smaller" in r.reason for r in untrained.rejected)


@pytest.mark.slow
def test_groups_are_narrowed_until_the_file_is_small_enough(tiny_model_dir: Path, tmp_path: Path) -> None:
    entry = tiny_model_dir / "model.py"
    sources = Sources(
        model=f"{entry}:net", calib=f"{entry}:calib", eval=f"{entry}:eval", train=f"{entry}:train"
    )
    store = Store(tmp_path / "store")
    store.root.mkdir()

    def run(limit: int) -> Any:
        settings = {"finetune.epochs": 1, "search.rungs": ()}
        request = Request(target="onnx/cpu", max_size_bytes=limit, max_drop=100.0, settings=settings)
        return build(sources, "generic_x86_64", request, out=tmp_path / str(limit), store=store).report

    whole = run(10_000_000)
    assert whole["target_search"]["ratios"] == {} and whole["pruning"] is None
    assert whole["target_search"]["cost"] == whole["size"]["final_bytes"]
    small = run(round(0.8 * whole["size"]["final_bytes"]))
    assert small["status"] == "ok" and small["target_search"]["reached"]
    assert small["size"]["final_bytes"] == pytest.approx(small["target_search"]["cost"], rel=0.01)
    assert small["params"]["final"] < small["params"]["baseline"]

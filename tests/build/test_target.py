"""Builds with a cost that was asked for."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from edgekit.build import Request, Sources, build
from edgekit.errors import UserError
from edgekit.plan import DataFacts, make_plan
from edgekit.profiles.loader import load_profile
from edgekit.recipe import load_recipe
from edgekit.types import ModelSpec, TensorSpec

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
    from edgekit.build.target import Targeted

    plan = make_plan(load_profile("pi4"), MODEL, DATA, Request(speedup=2.0, settings=settings))
    changing = ("shrink", "prune", "lowrank", "sparsify", "finetune")
    applied = Targeted(report={"ratios": {}}).applied(plan)
    assert [s.name for s in applied.steps if s.name in changing] == left

"""What the search of a plan may try, and what it says of the rungs that it lacks."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from edgekit.plan import DataFacts, Request, make_plan
from edgekit.profiles.loader import load_profile
from edgekit.types import ModelSpec, Plan


def planned(model: ModelSpec, data: DataFacts, **settings: Any) -> Plan:
    return make_plan(load_profile("pi4"), model, data, Request(settings=settings))


def test_training_is_a_rung_where_there_is_training_data(
    model: ModelSpec, situations: dict[str, DataFacts]
) -> None:
    plan = planned(model, situations["calib_eval_train"], **{"search.qat_epochs": 7, "qat.lr": 0.5})
    step = plan.step("search")
    assert step is not None
    assert step.config["rungs"] == ["calibration", "equalization", "mixed", "qat", "wider"]
    assert step.config["qat"]["epochs"] == 7 and step.config["qat"]["lr"] == 0.5
    assert "then quantisation-aware training, then a wider precision" in step.reason


def test_a_recipe_trains_exactly_as_the_search_would(
    model: ModelSpec, situations: dict[str, DataFacts]
) -> None:
    data, wishes = situations["calib_eval_train"], {"qat.lr": 0.5, "sparsity.amount": 0.5}
    searched = planned(model, data, **wishes, **{"search.qat_epochs": 7}).step("search")
    repeated = planned(model, data, **wishes, **{"qat.epochs": 7, "search.rungs": ()}).step("qat")
    assert searched is not None and repeated is not None
    assert searched.config["qat"] == repeated.config


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ({}, "no training data was given (--train)"),
        ({"trainable": False}, "the source of this model is fixed"),
    ],
)
def test_where_nothing_can_be_trained_the_plan_and_the_search_know_why(
    model: ModelSpec,
    situations: dict[str, DataFacts],
    change: dict[str, Any],
    why: str,
) -> None:
    plan = planned(replace(model, **change), situations["calib_eval"])
    step = plan.step("search")
    assert step is not None and "qat" not in step.config["rungs"] and "qat" not in step.config
    assert why in step.config["left_out"]["qat"]
    assert any(why in r.reason and "in the search" in r.alternative for r in plan.rejected)


def test_a_search_of_training_alone_needs_training_data(
    model: ModelSpec, situations: dict[str, DataFacts]
) -> None:
    plan = planned(model, situations["calib_eval"], **{"search.rungs": ("qat",)})
    assert plan.step("search") is None
    assert any("--train" in r.reason for r in plan.rejected)


def test_a_model_that_is_trained_for_int8_stays_int8(
    model: ModelSpec, situations: dict[str, DataFacts]
) -> None:
    """No recipe could make an fp16 file of it."""
    plan = planned(model, situations["calib_eval_train"], **{"qat.epochs": 3})
    step = plan.step("search")
    assert step is not None and not {"qat", "wider"} & set(step.config["rungs"])
    assert any("trained for int8" in r.reason for r in plan.rejected)

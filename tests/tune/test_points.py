from __future__ import annotations

import math

from edgekit.tune import Point, Trial, margin_of
from edgekit.tune.points import cheapest, keeping
from edgekit.types import Gate, Scheme

DROP = Gate(name="accuracy_drop", limit=1.0, comparison="<=", unit="points")
SQNR = Gate(name="output_sqnr", limit=15.0, comparison=">=", unit="dB")
SIZE = Gate(name="file_size", limit=1000, comparison="<=", unit="bytes")


def point(size: int, cost: float | None, margin: float = 1.0) -> Point:
    trial = Trial(rung="int8", scheme=Scheme(precision="int8"))
    return Point(trial=trial, bytes=size, values={}, margin=margin, cost=cost)


def test_the_margin_is_that_of_the_tightest_gate() -> None:
    gates = (DROP, SQNR, SIZE)
    assert margin_of(gates, {"accuracy_drop": 0.25, "output_sqnr": 20.0}) == 0.75
    assert margin_of(gates, {"accuracy_drop": 0.25, "output_sqnr": 13.0}) == -2.0
    assert margin_of(gates, {"accuracy_drop": 0.0, "file_size": 1100}) == -10.0
    assert margin_of(gates, {"accuracy_drop": None}) == -math.inf
    assert margin_of((), {}) == math.inf


def test_cost_decides_where_all_points_have_one_else_size() -> None:
    assert cheapest([point(100, 2.0), point(200, 1.0)]).bytes == 200
    assert cheapest([point(100, 2.0), point(200, None)]).bytes == 100
    assert cheapest([point(100, 1.0, 0.1), point(100, 1.0, 0.4)]).margin == 0.4


def test_units_are_kept_beside_those_kept_before() -> None:
    trial = Trial(rung="mixed", scheme=Scheme(precision="int8", overrides={"a": "float32"}))
    assert keeping(trial, "mixed", ["b", "c"], "two").kept == ("a", "b", "c")
    assert trial.kept == ("a",)

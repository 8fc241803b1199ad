"""The ladder on models that exist only as numbers: noise by layer, and limits on it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import pytest

from edgekit.tune import Ladder, Layer, LeftOut, Outcome, Point, Ranked, Trial, climb
from edgekit.types import Scheme

START = Scheme(precision="int8")


class Fake:
    """A model of layers that each add ``noise`` points of loss in int8, and cost one unit more in float32.

    ``gains`` are points that other rungs take off the loss.
    """

    def __init__(self, noise: Sequence[float], limit: float, gains: dict[str, float] | None = None) -> None:
        self.noise, self.limit, self.gains = noise, limit, gains or {}
        self.asked: list[Trial] = []
        self.layers = [Layer(units=(f"layer{i}",), macs=100) for i in range(len(noise))]

    def point(self, trial: Trial) -> Point:
        kept = set(trial.kept)
        loss = sum(n for layer, n in zip(self.layers, self.noise, strict=True) if layer.units[0] not in kept)
        if trial.scheme.calibration == "all":
            loss -= self.gains.get("calibration", 0.0)
        loss -= self.gains.get(trial.form, 0.0)
        cost = 10.0 + len(kept)
        if trial.scheme.precision != "int8":
            loss, cost = 0.0, 10.0 + 2 * len(self.layers)
        return Point(
            trial=trial,
            bytes=int(100 * cost),
            values={"accuracy_drop": loss},
            margin=self.limit - loss,
            cost=cost,
            figures={"drop": loss, "sqnr_db": 30 - loss},
        )

    def evaluate(self, trial: Trial) -> Point | None:
        self.asked.append(trial)
        return self.point(trial)

    def ranking(self, trial: Trial) -> list[Ranked]:
        ranked = [Ranked(layers=(layer,), gain=n) for layer, n in zip(self.layers, self.noise, strict=True)]
        return sorted(ranked, key=lambda r: -r.gain)

    def climb(self, **ladder: Any) -> Outcome:
        start = self.point(Trial(rung="int8", scheme=START, note="as planned"))
        return climb(start, Ladder(**ladder), self.evaluate, self.ranking, clock=lambda: 0.0)


def test_a_file_that_holds_is_not_searched() -> None:
    fake = Fake([0.1] * 4, limit=1.0)
    outcome = fake.climb(wider=("fp16",))
    assert fake.asked == [] and outcome.chosen is outcome.points[0] and "as planned" in outcome.reason


def test_the_cheapest_rung_that_holds_ends_the_climb() -> None:
    fake = Fake([0.5] * 4, limit=1.5, gains={"calibration": 0.6})
    outcome = fake.climb(forms=("equalized",), wider=("fp16",))
    assert [t.rung for t in fake.asked] == ["calibration"]
    assert outcome.chosen.trial.scheme.calibration == "all"


def test_later_rungs_start_from_the_best_before_them() -> None:
    fake = Fake([0.5] * 8, limit=1.0, gains={"calibration": 0.5, "equalized": 0.9})
    outcome = fake.climb(forms=("equalized",))
    mixed = [t for t in fake.asked if t.rung == "mixed"]
    assert mixed and all(t.form == "equalized" and t.scheme.calibration == "all" for t in mixed)
    assert outcome.chosen.passed


@pytest.mark.parametrize("limit", [0.25, 0.6, 1.0, 1.9])
def test_mixed_keeps_as_few_layers_as_hold(limit: float) -> None:
    noise = [n / 64 for n in (3, 64, 6, 25, 1, 19, 1, 38, 2, 1, 1, 5)]  # sums are exact
    fake = Fake(noise, limit=limit)
    outcome = fake.climb(rungs=("mixed",), evaluations=40)
    ordered, left, needed = sorted(noise, reverse=True), sum(noise), 0
    while left > limit:
        left -= ordered[needed]
        needed += 1
    assert outcome.chosen.passed and len(outcome.chosen.trial.kept) == needed
    assert f"{needed} of 12 layers" in outcome.reason


def test_layers_that_turn_out_needless_are_given_back() -> None:
    fake = Fake([1.0, 0.9, 0.8, 0.0, 0.0, 0.0, 0.0, 0.0], limit=1.8)
    fake.ranking = lambda trial: [  # type: ignore[method-assign]
        Ranked(layers=(fake.layers[i],), gain=g)
        for i, g in ((4, 0.9), (5, 0.8), (0, 0.7), (1, 0.6), (2, 0.5), (3, 0.4), (6, 0.3), (7, 0.2))
    ]
    outcome = fake.climb(rungs=("mixed",), evaluations=30)
    assert set(outcome.chosen.trial.kept) == {"layer0"}


@pytest.mark.parametrize("evaluations", [2, 3, 5, 8, 12])
def test_evaluations_are_kept_and_the_answer_is_the_best_seen(evaluations: int) -> None:
    fake = Fake([0.3] * 30, limit=2.0)
    outcome = fake.climb(wider=("fp16",), evaluations=evaluations)
    assert len(outcome.points) == 1 + len(fake.asked) <= evaluations
    passed = [p for p in outcome.points if p.passed]
    assert passed, "the last evaluation is kept for fp16"
    assert outcome.chosen.cost == min(p.cost for p in passed if p.cost is not None)


def test_without_evaluations_left_the_best_is_a_candidate() -> None:
    fake = Fake([0.3] * 30, limit=0.5)
    outcome = fake.climb(rungs=("calibration", "mixed"), evaluations=3)
    assert not outcome.chosen.passed and "candidate" in outcome.reason
    assert outcome.chosen.margin == max(p.margin for p in outcome.points)


def test_nothing_holds_says_so() -> None:
    fake = Fake([3.0, 3.0], limit=0.5)
    outcome = fake.climb(evaluations=20)
    assert "no rung" in outcome.reason and "candidate" in outcome.reason


def test_the_time_budget_is_kept() -> None:
    fake = Fake([0.3] * 30, limit=2.0)
    times = iter([0.0, 1.0, 99.0, 99.0])
    start = fake.point(Trial(rung="int8", scheme=START))
    ladder = Ladder(deadline=50.0, wider=("fp16",))
    outcome = climb(start, ladder, fake.evaluate, fake.ranking, clock=lambda: next(times))
    assert len(fake.asked) == 1 and "time budget" in outcome.reason


def test_a_trial_that_cannot_be_made_is_passed_over() -> None:
    fake = Fake([0.5] * 8, limit=1.0)
    made: Callable[[Trial], Point | None] = fake.evaluate
    start = fake.point(Trial(rung="int8", scheme=START))
    outcome = climb(
        start,
        Ladder(forms=("equalized",), wider=("fp16",)),
        lambda t: None if t.rung in ("calibration", "equalization", "mixed") else made(t),
        fake.ranking,
    )
    assert outcome.chosen.trial.scheme.precision == "fp16" and "costs too much" in outcome.reason


def test_a_chosen_calibration_is_not_changed() -> None:
    fake = Fake([0.5] * 4, limit=0.1, gains={"calibration": 9.0})
    start = fake.point(Trial(rung="int8", scheme=replace(START, calibration="mse")))
    climb(start, Ladder(rungs=("calibration",)), fake.evaluate, fake.ranking)
    assert fake.asked == []


def test_units_that_the_user_keeps_stay_in_float32() -> None:
    fake = Fake([0.5] * 4, limit=1.0, gains={"calibration": 0.1, "equalized": 0.6})
    scheme = replace(START, overrides={"layer0": "float32"})
    start = fake.point(Trial(rung="int8", scheme=scheme, note="as planned"))
    ladder = Ladder(rungs=("calibration", "equalization"), forms=("equalized",))
    outcome = climb(start, ladder, fake.evaluate, fake.ranking, clock=lambda: 0.0)
    assert [p.trial.rung for p in outcome.points] == ["int8", "calibration", "equalization"]
    assert all(p.trial.kept == ("layer0",) for p in outcome.points)
    assert outcome.chosen.trial.form == "equalized" and outcome.chosen.passed


def test_mixed_precision_keeps_them_too() -> None:
    fake = Fake([0.5] * 8, limit=2.5, gains={})
    start = fake.point(Trial(rung="int8", scheme=replace(START, overrides={"layer0": "float32"})))
    outcome = climb(start, Ladder(rungs=("mixed",)), fake.evaluate, fake.ranking, clock=lambda: 0.0)
    assert outcome.chosen.passed and len(outcome.points) > 2
    assert all("layer0" in p.trial.kept for p in outcome.points)


def test_mixed_precision_that_gains_nothing_says_so() -> None:
    fake = Fake([0.0] * 8, limit=-1.0)
    outcome = fake.climb(rungs=("mixed",))
    assert fake.asked == [] and "in float32 gains nothing" in outcome.reason


def test_training_is_the_last_resort_before_wider_precisions() -> None:
    """Mixed precision fails, training mends it: one point, every layer in int8 again."""
    fake = Fake([0.5] * 8, limit=1.0, gains={"trained": 3.5})
    outcome = fake.climb(rungs=("mixed", "qat", "wider"), wider=("fp16",), evaluations=20)
    assert [t.rung for t in fake.asked][-1] == "qat" and "wider" not in {t.rung for t in fake.asked}
    assert outcome.chosen.trial.rung == "qat" and outcome.chosen.trial.kept == ()
    assert "quantisation-aware training holds the gates" in outcome.reason


def test_where_training_does_not_mend_it_fp16_is_next() -> None:
    fake = Fake([0.5] * 8, limit=1.0, gains={"trained": 0.5})
    outcome = fake.climb(rungs=("mixed", "qat", "wider"), wider=("fp16",), evaluations=20)
    assert [t.rung for t in fake.asked][-2:] == ["qat", "wider"]
    assert outcome.chosen.trial.scheme.precision == "fp16"
    assert outcome.chosen.trial.form == "original", "the fp16 file is that of the model as it was"


@pytest.mark.parametrize("evaluations", [1, 2, 3, 4, 6, 9, 12])
def test_training_counts_as_one_evaluation_that_mixed_precision_leaves(evaluations: int) -> None:
    fake = Fake([0.3] * 30, limit=2.0, gains={"trained": 8.0})
    outcome = fake.climb(wider=("fp16", "float32"), evaluations=evaluations)
    assert len(outcome.points) == 1 + len(fake.asked) <= evaluations
    if evaluations >= 4:
        assert outcome.chosen.trial.rung == "qat"
    elif evaluations >= 2:
        assert outcome.chosen.trial.rung == "wider", "what is cheap to make comes before what is trained"


def test_training_that_takes_too_long_is_left_out_with_the_reason() -> None:
    fake = Fake([0.5] * 8, limit=1.0)
    made = fake.evaluate

    def evaluate(trial: Trial) -> Point | None:
        if trial.rung == "qat":
            raise LeftOut("an epoch takes about 40 s, and 12 s are left")
        return made(trial)

    start = fake.point(Trial(rung="int8", scheme=START))
    ladder = Ladder(rungs=("qat", "wider"), wider=("fp16",))
    outcome = climb(start, ladder, evaluate, fake.ranking, clock=lambda: 0.0)
    assert outcome.chosen.trial.scheme.precision == "fp16"
    assert "quantisation-aware training was left out: an epoch takes about 40 s" in outcome.reason


def test_a_rung_that_cannot_be_is_named_only_where_the_climb_misses_it() -> None:
    why = {"qat": "no training data was given (--train)"}
    early = Fake([0.5] * 4, limit=1.5, gains={"calibration": 0.6})
    assert "--train" not in early.climb(left_out=why).reason
    late = Fake([3.0, 3.0], limit=0.5)
    reason = late.climb(rungs=("calibration", "wider"), wider=("fp16",), left_out=why).reason
    assert "training was left out: no training data was given (--train)" in reason

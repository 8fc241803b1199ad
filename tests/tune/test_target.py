from __future__ import annotations

from collections.abc import Mapping

import pytest

from edgekit.tune.target import CLOSE, GroupCurve, Width, meet, path_of


def curve(name: str, losses: list[float], saved: list[int]) -> GroupCurve:
    widths = tuple(
        Width(ratio=(k + 1) / 8, metric=90.0 - loss, size=1000 - s)
        for k, (loss, s) in enumerate(zip(losses, saved, strict=True))
    )
    return GroupCurve(name=name, metric=90.0, size=1000, widths=widths)


def test_the_path_narrows_first_what_loses_least_for_what_it_saves() -> None:
    cheap = curve("cheap", [0.1, 0.2], [100, 200])
    dear = curve("dear", [5.0, 9.0], [100, 200])
    path = path_of([dear, cheap])
    assert path[0] == {}
    assert path[1:3] == [{"cheap": 0.125}, {"cheap": 0.25}] or path[1] == {"cheap": 0.25}
    assert path[-1] == {"cheap": 0.25, "dear": 0.25}


def test_a_step_that_pays_only_together_is_one_step() -> None:
    bent = curve("bent", [4.0, 4.1], [10, 400])
    assert path_of([bent])[1] == {"bent": 0.25}


def test_a_metric_that_rises_again_counts_as_flat() -> None:
    noisy = curve("noisy", [1.0, 0.5, 2.0], [100, 200, 300])
    other = curve("other", [0.9, 1.8], [100, 200])
    path = path_of([noisy, other])
    assert path[1] == {"noisy": 0.25}, "the second width loses no more than the first"


PATH = [{f"g{i}": 0.5 for i in range(k)} for k in range(41)]


@pytest.mark.parametrize("limit", [99.0, 80.0, 61.0, 33.5, 21.0])
def test_the_limit_is_met_with_few_evaluations(limit: float) -> None:
    calls: list[int] = []

    def cost(ratios: Mapping[str, float]) -> float:
        calls.append(len(ratios))
        return 100 * 0.96 ** len(ratios)

    met = meet(PATH, cost, limit, evaluations=9)
    assert met.reached and met.cost <= limit and len(calls) <= 9
    assert met.cost > (1 - CLOSE) * limit, "a denser path than 5 %: the first within the limit is close"
    assert [t.index for t in met.tried] == calls


def test_nothing_is_pruned_where_nothing_has_to_be() -> None:
    met = meet(PATH, lambda r: 100.0 - len(r), 150.0, evaluations=9)
    assert met.reached and met.ratios == {} and len(met.tried) == 1


def test_what_cannot_be_met_says_so() -> None:
    met = meet(PATH, lambda r: 100.0 - len(r), 20.0, evaluations=9)
    assert not met.reached and met.ratios == PATH[-1] and "narrowest" in met.reason


def test_no_model_is_tried_after_time_is_up() -> None:
    met = meet(PATH, lambda r: 100 * 0.96 ** len(r), 61.0, evaluations=9, stop=lambda: True)
    assert met.reached and met.ratios == PATH[-1] and len(met.tried) == 2


def test_a_path_with_wide_steps_says_how_far_below_it_ends() -> None:
    steps = {0: 100.0, 1: 90.0, 2: 60.0, 3: 50.0}
    met = meet(PATH[:4], lambda r: steps[len(r)], 80.0, evaluations=9)
    assert met.reached and met.cost == 60.0
    assert "25 % below the limit: the next wider model costs more" in met.reason
    early = meet(PATH, lambda r: 100 * 0.96 ** len(r), 61.0, evaluations=9, stop=lambda: True)
    assert "no further model was tried" in early.reason
    close = meet(PATH, lambda r: 100 * 0.96 ** len(r), 61.0, evaluations=9)
    assert "below the limit" not in close.reason

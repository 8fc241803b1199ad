"""What a file costs for a gate, by which machine, and when no search can mend it."""

from __future__ import annotations

import platform
from types import SimpleNamespace
from typing import Any

import pytest

from edgekit.build.costs import Costs, GateCosts, check_judge
from edgekit.build.search import BudgetSearch
from edgekit.errors import StepFailed, UserError
from edgekit.plan import Request
from edgekit.profiles.loader import load_profile
from edgekit.tune import Point, Trial
from edgekit.types import Gate, PlanStep, Scheme


class FakeCosts:
    """Files are numbers here: their cost."""

    def __init__(self, *, counts: bool = False, estimates: bool = True) -> None:
        self.counts, self.estimates = counts, estimates
        self.measured_files: list[Any] = []

    def estimate(self, file: Any) -> Any:
        return SimpleNamespace(ms=float(file)) if self.estimates else None

    def measured(self, file: Any) -> float:
        self.measured_files.append(file)
        return 1000.0 * file


LINK: Any = SimpleNamespace(source="device", name="ssh:pi@desk", arch="aarch64")


@pytest.mark.parametrize(
    ("link", "counts", "latency", "speedup", "measured"),
    [
        (None, False, 4.0, 2.0, []),
        (LINK, True, 4.0, 2.0, [8, 4]),
        (LINK, False, 4000.0, 2.0, [4, 8, 4]),
    ],
    ids=["estimate", "emulator", "device"],
)
def test_each_gate_is_judged_as_the_finished_build_judges_it(
    link: Any, counts: bool, latency: float, speedup: float, measured: list[int]
) -> None:
    costs = FakeCosts(counts=counts)
    of: Any = GateCosts(costs, 8, link)  # type: ignore[arg-type]
    assert of.of(4, ["latency", "speedup"]) == {"latency": latency, "speedup": speedup}
    assert costs.measured_files == measured
    assert of.of(2, ["speedup"]) == {"speedup": 4.0}
    assert costs.measured_files[len(measured) :] == ([] if link is None else [2]), "the original was known"


def test_a_gate_that_nothing_tells_has_no_value() -> None:
    of: Any = GateCosts(FakeCosts(estimates=False), 8, None)  # type: ignore[arg-type]
    assert of.of(4, ["latency", "speedup"]) == {"latency": None, "speedup": None}
    with pytest.raises(StepFailed, match="nothing can be measured"):
        nothing: Any = None
        Costs(nothing, nothing, nothing, nothing, None, []).measured(nothing)


def test_this_computer_is_no_judge_of_another_kind(monkeypatch: pytest.MonkeyPatch) -> None:
    pi4 = load_profile("pi4")
    monkeypatch.setattr(platform, "machine", lambda: "x86_64")
    for request in (Request(latency_ms=3.0, device="local"), Request(speedup=2.0, device="local")):
        with pytest.raises(UserError, match=r"this computer \(x86_64\).* on pi4 \(aarch64\)") as caught:
            check_judge(request, pi4)
        assert "--device ssh" in str(caught.value.hint)
    check_judge(Request(device="local"), pi4)  # nothing is judged
    check_judge(Request(latency_ms=3.0, device="ssh:pi@desk"), pi4)
    check_judge(Request(latency_ms=3.0, device="local"), load_profile("generic_x86_64"))
    monkeypatch.setattr(platform, "machine", lambda: "aarch64")
    check_judge(Request(latency_ms=3.0, device="local"), pi4)  # edgekit on the board itself


def test_nor_is_a_machine_at_the_end_of_a_link() -> None:
    pi4, request = load_profile("pi4"), Request(latency_ms=3.0, device="ssh:server")
    server: Any = SimpleNamespace(source="device", name="ssh:server", arch="x86_64")
    with pytest.raises(UserError, match="ssh:server is a machine"):
        check_judge(request, pi4, server)
    check_judge(request, pi4, LINK)
    phone: Any = SimpleNamespace(source="device", name="adb:1", arch="aarch64")
    check_judge(request, load_profile("android_xnnpack"), phone)


def search(*, int8: float, plain: float, limits: dict[str, float]) -> BudgetSearch:
    """A search whose int8 file costs ``int8`` ms and the float file ``plain`` ms."""
    gates = {
        "accuracy_drop": ("<=", "points"),
        "file_size": ("<=", "bytes"),
        "latency": ("<=", "ms"),
        "speedup": (">=", "times"),
    }
    nothing: Any = None
    return BudgetSearch(
        nothing,
        PlanStep(name="search"),
        [
            Gate(name=n, limit=limit, comparison=gates[n][0], unit=gates[n][1])  # type: ignore[arg-type]
            for n, limit in limits.items()
        ],
        [],
        nothing,
        {"original": lambda: plain},  # type: ignore[dict-item,return-value]
        nothing,
        FakeCosts(),  # type: ignore[arg-type]
        nothing,
    )


def start(values: dict[str, float | None], cost: float) -> Point:
    trial = Trial(rung="int8", scheme=Scheme(precision="int8"))
    return Point(trial=trial, bytes=100, values=values, margin=-1.0, cost=cost)


def test_a_file_that_is_too_large_in_int8_starts_no_search() -> None:
    found = search(int8=4.0, plain=9.0, limits={"accuracy_drop": 1.0, "file_size": 50})
    why = found.hopeless(start({"accuracy_drop": 5.0, "file_size": 100.0}, cost=4.0))
    assert why is not None and "file size" in why and "cannot be met" in why


def test_a_latency_that_int8_breaks_is_searched_only_where_float_is_faster() -> None:
    limits = {"accuracy_drop": 1.0, "latency": 3.0}
    values: dict[str, float | None] = {"accuracy_drop": 0.0, "latency": 4.0}
    assert search(int8=4.0, plain=9.0, limits=limits).hopeless(start(values, cost=4.0)) is not None
    assert search(int8=4.0, plain=2.0, limits=limits).hopeless(start(values, cost=4.0)) is None


def test_accuracy_alone_is_searched_for() -> None:
    found = search(int8=4.0, plain=9.0, limits={"accuracy_drop": 1.0, "speedup": 2.0})
    assert found.hopeless(start({"accuracy_drop": 5.0, "speedup": 2.5}, cost=4.0)) is None


def test_a_cost_that_nothing_tells_is_not_called_too_high() -> None:
    found = search(int8=4.0, plain=9.0, limits={"speedup": 2.0})
    why = found.hopeless(start({"speedup": None}, cost=4.0))
    assert why is not None and "nothing tells the speedup" in why


def test_an_estimate_counts_what_the_delegate_leaves(monkeypatch: pytest.MonkeyPatch) -> None:
    from edgekit.build import costs

    seen: list[Any] = []
    monkeypatch.setattr(costs, "estimate_latency", lambda *a, coverage=(): seen.append(coverage))
    backend: Any = SimpleNamespace(units=lambda file: [], coverage=lambda file, target: [{"index": 3}])
    nothing: Any = None
    Costs(backend, nothing, nothing, nothing, None, []).estimate(nothing)
    assert seen == [[{"index": 3}]]


def test_a_build_is_refused_before_anything_is_loaded(monkeypatch: pytest.MonkeyPatch) -> None:
    from edgekit.build import Sources, plan_build

    monkeypatch.setattr(platform, "machine", lambda: "x86_64")
    with pytest.raises(UserError, match="says nothing about --latency on pi4"):
        plan_build(Sources(model="is_not_there.py:net"), "pi4", Request(latency_ms=3.0, device="local"))

"""float32 against the built file, operator by operator: where it is measured, and what is not cached."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from edgekit.bench import Bench
from edgekit.build import explaining
from edgekit.build.runner import Runner
from edgekit.errors import DeviceError, MissingDependency
from edgekit.profiles.loader import load_profile
from edgekit.store import Store
from edgekit.types import Artifact, Measurement

COSTS = {"float32": {"HardSwish (NC)": 5.0, "Convolution (NHWC, F32) IGEMM": 400.0}}
COSTS["int8"] = {"HARD_SWISH": 700.0, "Convolution (NHWC, QC8) IGEMM": 100.0}


class Link:
    """As much of a link as is used; ``source`` decides what it measures."""

    arch = "x86_64"

    def __init__(self, source: str, name: str) -> None:
        self.source, self.name = source, name

    def facts(self) -> dict[str, Any]:
        return {"name": self.name}

    @contextlib.contextmanager
    def exclusive(self) -> Iterator[None]:
        yield


class Measured:
    """Stands in for ``bench``: costs by operator, times 1000 on the emulator; records its calls."""

    def __init__(self, failing: dict[str, Exception] | None = None) -> None:
        self.calls: list[tuple[str, str]] = []
        self.failing = failing or {}

    def __call__(self, backend: Any, artifact: Artifact, inputs: Any, link: Link, **how: Any) -> Bench:
        assert how["per_op"]
        if link.name in self.failing:
            raise self.failing[link.name]
        self.calls.append((link.name, artifact.precision))
        emulated = link.source == "emulator"
        unit, factor = ("instructions", 1000.0) if emulated else ("us", 1.0)
        jitter = 0.0 if emulated else 40.0 * (len(self.calls) == 8)  # one round is an outlier
        ops = [
            {"name": name, "op": None, unit: factor * cost + jitter}
            for name, cost in COSTS[artifact.precision].items()
        ]
        total = sum(o[unit] for o in ops) / (1.0 if emulated else 1000.0)
        metric = "instructions" if emulated else "latency"
        made = Measurement(metric=metric, unit=unit, source=link.source, median=total, detail={"ops": ops})  # type: ignore[arg-type]
        return Bench(measurements=(made,), outputs=())


@pytest.fixture
def explain(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., dict[str, Any]]:
    store = Store(tmp_path)
    monkeypatch.setattr("edgekit.devices.open.open_link", lambda name, profile, store: Link("host", "local"))
    session = SimpleNamespace(encode=lambda sample: sample)
    backend = SimpleNamespace(name="tflite", session=lambda a: session, tools=lambda: {})
    files = {
        name: Artifact(sha256=name * 8, format="tflite", precision=p, path=tmp_path, bytes=1)  # type: ignore[arg-type]
        for name, p in (("float32", "float32"), ("final", "int8"))
    }

    def run(
        link: Link, measured: Measured, delegate: str = "xnnpack", known: tuple[Measurement, ...] = ()
    ) -> dict[str, Any]:
        monkeypatch.setattr(explaining, "bench", measured)
        runner = Runner(store, lambda event: None, 0)
        sample = [np.zeros((1, 2), np.float32)]
        return explaining.explain(
            runner,
            backend,
            link,
            load_profile("pi4"),
            files,
            sample,
            delegate=delegate,  # type: ignore[arg-type]
            measured=explaining.counts_by_operator(known, {**files, "baseline": files["float32"]}),
        )

    return run


def test_the_emulator_comes_first_and_this_host_is_shown_beside_it(explain: Any) -> None:
    found = explain(Link("emulator", "emulator"), Measured())
    device, host = found["places"]
    assert (device["where"], device["device"], device["unit"]) == (
        "emulated cortex-a72",
        True,
        "instructions",
    )
    assert (host["where"], host["device"], host["unit"]) == ("this host (x86_64)", False, "us")
    assert device["before"] == 405_000 and device["after"] == 800_000 and found["missing"] == []
    assert [r["kind"] for r in host["rows"]] == ["hard swish", "convolution"]
    assert host["rows"][0]["after"] == 700.0, "the median of the rounds, not the outlier"
    assert "int8 takes 1.98 times the time of float32: hard swish +695 us" in host["reason"]
    assert "times the instructions" in device["reason"]


def test_counts_come_from_the_cache_and_times_never(explain: Any) -> None:
    explain(Link("emulator", "emulator"), Measured())
    again = Measured()
    explain(Link("emulator", "emulator"), again)
    assert {name for name, _ in again.calls} == {"local"}
    turns = [precision for _, precision in again.calls]
    assert turns[:4] == ["float32", "int8", "float32", "int8"], "files take turns"


@pytest.mark.parametrize("subjects", [{"final"}, {"final", "baseline"}])
def test_what_was_counted_is_not_counted_again(explain: Any, subjects: set[str]) -> None:
    counted: dict[str, Any] = {"metric": "instructions", "unit": "instructions", "source": "emulator"}

    def count(subject: str, precision: str, total: float) -> Measurement:
        ops = [{"name": n, "op": None, "instructions": 1000.0 * c} for n, c in COSTS[precision].items()]
        detail = {"ops": ops} if subject in subjects else {}
        return Measurement(**counted, subject=subject, median=total, detail=detail)  # type: ignore[arg-type]

    measured = Measured()
    known = (count("baseline", "float32", 405_000.0), count("final", "int8", 800_000.0))
    found = explain(Link("emulator", "emulator"), measured, known=known)
    assert found["places"][0]["before"] == 405_000 and found["places"][0]["after"] == 800_000
    again = [p for name, p in measured.calls if name == "emulator"]
    assert again == ([] if "baseline" in subjects else ["float32"])
    assert {p for name, p in measured.calls if name == "local"} == {"float32", "int8"}


@pytest.mark.parametrize(("source", "delegate"), [("host", "xnnpack"), ("emulator", "gpu")])
def test_one_place_where_the_host_is_the_device_or_cannot_run_the_delegate(
    explain: Any, source: str, delegate: str
) -> None:
    found = explain(Link(source, source), Measured(), delegate)
    assert [p["device"] for p in found["places"]] == [True]


@pytest.mark.parametrize("error", [DeviceError("it gives none"), MissingDependency("no compiler")])
def test_what_cannot_be_profiled_is_said(explain: Any, error: Exception) -> None:
    found = explain(Link("emulator", "emulator"), Measured({"local": error}))
    assert len(found["places"]) == 1
    assert found["missing"] == [f"no profile by operator on local: {error}"]

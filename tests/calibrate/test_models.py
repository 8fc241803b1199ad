"""The generated models, as files of a real backend."""

from __future__ import annotations

from pathlib import Path

import pytest

from edgekit.backends import get_backend
from edgekit.calibrate import Job, generated_jobs
from edgekit.calibrate.models import CHAIN
from edgekit.measure.estimate.features import features
from edgekit.profiles.loader import load_profile
from edgekit.profiles.schema import Tile
from edgekit.store import Store
from edgekit.types import Event

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, Job], list[Event]]:
    target = load_profile("pi4").target("onnx")
    assert target is not None
    events: list[Event] = []
    store = Store(tmp_path_factory.mktemp("store"))
    jobs = generated_jobs(get_backend("onnx"), target, store=store, emit=events.append)
    return {job.name: job for job in jobs}, events


def test_each_is_made_once_in_each_precision(made: tuple[dict[str, Job], list[Event]]) -> None:
    jobs, events = made
    dense = {
        f"{kind} {p}" for kind in ("dense 1x1", "dense 3x3", "depthwise 3x3") for p in ("float32", "int8")
    }
    assert set(jobs) == dense | {"large add float32", f"chain of {CHAIN} float32"}
    assert [e for e in events if e.kind == "warning"] == []


@pytest.mark.parametrize(
    ("name", "kinds", "macs"),
    [
        ("dense 1x1 float32", {"dense"}, 256 * 256 * 28 * 28),
        ("dense 3x3 int8", {"dense"}, 64 * 64 * 9 * 40 * 40),
        ("depthwise 3x3 int8", {"depthwise"}, 256 * 9 * 56 * 56),
        ("large add float32", {"light"}, 0),
        (f"chain of {CHAIN} float32", {"light", "dense"}, CHAIN // 2 * 8 * 8 * 16),
    ],
)
def test_each_spends_its_time_on_one_thing(
    name: str, kinds: set[str], macs: int, made: tuple[dict[str, Job], list[Event]]
) -> None:
    job = made[0][name]
    rows = features(job.units, job.coverage, Tile())
    assert {r.kind for r in rows} == kinds
    assert sum(r.macs for r in rows) == macs
    assert all(r.integer == name.endswith("int8") and r.complete for r in rows)
    assert len(rows) == (CHAIN if name.startswith("chain") else 1)
    if name.startswith("large"):
        assert sum(r.bytes for r in rows) == 3 * 64 * 160 * 160 * 4


def test_files_lie_in_the_store_and_take_their_inputs(made: tuple[dict[str, Job], list[Event]]) -> None:
    for job in made[0].values():
        assert Path(job.artifact.path).is_file()
        assert [x.shape for x in job.inputs] == [t.shape for t in job.artifact.inputs]

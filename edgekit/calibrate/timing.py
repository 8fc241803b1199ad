"""Timed runs over a link, kept only where they repeat."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from edgekit.backends import Backend
from edgekit.bench import bench
from edgekit.calibrate.models import Job
from edgekit.devices.base import Link
from edgekit.errors import DeviceError, Unsupported
from edgekit.measure.estimate.calibration import Point
from edgekit.measure.estimate.features import features
from edgekit.types import Emit, Event, RunProtocol, ignore_events

if TYPE_CHECKING:
    from edgekit.profiles.schema import DeviceProfile, Tile
    from edgekit.store import Store

REPEATS = 3
"""Separate starts of the runtime; one start alone says nothing of how well a time repeats."""
FEWEST_RUNS = 20
WARMUP = 3
MAX_SPREAD = 0.05


@dataclass(frozen=True, kw_only=True)
class Rejection:
    """Runs that were not used: (largest - smallest) / median of the repeats' medians was too large."""

    model: str
    threads: int
    spread: float


@dataclass(frozen=True, kw_only=True)
class Timed:
    """What was measured; ``device`` is the link's own account of the machine."""

    points: tuple[Point, ...]
    rejected: tuple[Rejection, ...]
    device: dict[str, Any]


def thread_counts(profile: DeviceProfile, link: Link) -> tuple[int, ...]:
    """1 and as many as the device has cores: the fewer of what the profile says and the link sees."""
    cores = profile.core_count or profile.constraints.threads
    seen = link.facts().get("cores")
    most = min(cores, seen) if isinstance(seen, int) and seen > 0 else cores
    return tuple(sorted({1, most}))


def refuse_emulated(link: Link) -> None:
    """Raise Unsupported for a link to an emulator."""
    if link.source == "emulator":
        raise Unsupported(
            f"{link.name} is emulated: it has instructions, no milliseconds, and there is nothing to fit",
            hint="give --device a link to the device itself",
        )


def time_jobs(
    backend: Backend,
    jobs: Sequence[Job],
    link: Link,
    *,
    tile: Tile,
    threads: Sequence[int],
    store: Store,
    runs: int = FEWEST_RUNS,
    max_spread: float = MAX_SPREAD,
    emit: Emit = ignore_events,
) -> Timed:
    """The median over ``runs`` of each job at each thread count, in :data:`REPEATS` separate starts.

    The time of a job is the median of the starts' medians. Raises Unsupported for a link to an emulator,
    whose times mean nothing, and DeviceError when the runs of fewer than two jobs repeat.
    """
    refuse_emulated(link)
    points: list[Point] = []
    rejected: list[Rejection] = []
    total = len(jobs) * len(threads)
    for job in jobs:
        for count in threads:
            protocol = RunProtocol(warmup=WARMUP, runs=max(runs, FEWEST_RUNS), threads=count)
            medians = [_median(backend, job, link, protocol, store) for _ in range(REPEATS)]
            ms = statistics.median(medians)
            spread = (max(medians) - min(medians)) / ms
            if spread > max_spread:
                rejected.append(Rejection(model=job.name, threads=count, spread=spread))
            else:
                ops = tuple(features(job.units, job.coverage, tile))
                points.append(
                    Point(model=job.name, threads=count, ms=ms, spread=spread, ops=ops, network=job.network)
                )
            done = len(points) + len(rejected)
            emit(Event(kind="progress", step="runs", data={"done": done, "total": total}))
    if len({p.model for p in points}) < 2:
        worst = max((r.spread for r in rejected), default=0.0)
        raise DeviceError(
            f"the times on {link.name} do not repeat: {len(rejected)} of {total} spread by more than "
            f"{100 * max_spread:g} %, the worst by {100 * worst:.0f} %",
            hint="end other programs there, set the governor to performance, let it cool, then try again",
        )
    return Timed(points=tuple(points), rejected=tuple(rejected), device=link.facts())


def _median(backend: Backend, job: Job, link: Link, protocol: RunProtocol, store: Store) -> float:
    done = bench(backend, job.artifact, job.inputs, link, store=store, protocol=protocol)
    median = next(m.median for m in done.measurements if m.metric == "latency")
    if median is None or median <= 0:
        raise DeviceError(f"{link.name} gave no time for {job.name}")
    return median
